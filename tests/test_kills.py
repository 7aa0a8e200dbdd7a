"""Builds that are killed, in every way, end with the same bytes as one that was left alone."""

import contextlib
import hashlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from processes import descendants

from tfds_builders.ai_vs_human.ai_vs_human_dataset_builder import Builder

pytestmark = pytest.mark.long

_VERSION = str(Builder.VERSION)
_NUM_IMAGES = 6000
_SHARDS_PER_SPLIT = 8
_NUM_SHARDS = 3 * _SHARDS_PER_SPLIT
_LIMIT_SECS = 240  # for anything waited for

_BUILD = """
import sys
import tensorflow_datasets as tfds
from tfds_builders.ai_vs_human.ai_vs_human_dataset_builder import Builder
builder = Builder(data_dir=sys.argv[2])
config = tfds.download.DownloadConfig(manual_dir=sys.argv[1], num_shards=int(sys.argv[3]))
builder.download_and_prepare(download_config=config)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """6,000 JPEG of some 30 KB, linked to 200 files: enough work that a build lasts seconds."""
    root = tmp_path_factory.mktemp("source")
    generator = np.random.default_rng(0)
    originals = root.parent / "originals"
    originals.mkdir()
    for number in range(200):
        pixels = generator.integers(0, 256, (160, 160, 3), np.uint8)
        Image.fromarray(pixels).save(originals / f"{number}.jpg", quality=90)
    for number in range(_NUM_IMAGES):
        folder = root / ("car", "cat")[number % 2] / ("0_real", "1_fake")[number // 2 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        os.link(originals / f"{number % 200}.jpg", folder / f"{number:05d}.jpg")
    return root


def _start(source: Path, data_dir: Path, log: Path) -> subprocess.Popen:
    environment = os.environ | {"REALSHARD_VALIDATION": "decode"}
    with open(log, "ab") as output:
        return subprocess.Popen(
            [sys.executable, "-c", _BUILD, str(source), str(data_dir), str(_SHARDS_PER_SPLIT)],
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
        )


def _digests(data_dir: Path) -> dict[str, str]:
    folder = data_dir / "ai_vs_human" / _VERSION
    return {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory) -> dict[str, str]:
    data_dir = tmp_path_factory.mktemp("undisturbed")
    process = _start(source, data_dir, data_dir / "log")
    assert process.wait(_LIMIT_SECS) == 0, (data_dir / "log").read_text()
    digests = _digests(data_dir)
    assert sum(".tfrecord-" in name for name in digests) == _NUM_SHARDS
    return digests


def _journal(data_dir: Path) -> tuple[int, int]:
    """Finished and open shards of the build in `data_dir`."""
    done = len(list(data_dir.glob(f"ai_vs_human/.{_VERSION}.*.staging/*.done")))
    opened = len(list(data_dir.glob(f"ai_vs_human/.{_VERSION}.*.staging/.*.tfrecord-*.tmp")))
    return done, opened


def _wait_for_victims(
    find: Callable[[], list[psutil.Process]], process: subprocess.Popen, log: Path
) -> list[psutil.Process]:
    deadline = time.monotonic() + _LIMIT_SECS
    while not (victims := find()):
        assert process.poll() is None, f"the build ended before the kill: {log.read_text()[-2000:]}"
        assert time.monotonic() < deadline, log.read_text()[-2000:]
        time.sleep(0.002)
    return victims


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _driver(driver: psutil.Process) -> list[psutil.Process]:
    """The driver alone. Its writers notice after a moment, and may still be at work when the next build starts."""
    return [driver]


def _session(driver: psutil.Process) -> list[psutil.Process]:
    """Driver, raylet, control store and workers, all at once."""
    return [*driver.children(recursive=True), driver]


def _worker(driver: psutil.Process) -> list[psutil.Process]:
    """One Ray worker that is writing, if there is one; the build goes on by itself."""
    return descendants(driver, "_write_named")[:1]


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_twenty_kills_leave_the_bytes_as_they_are(seed, source, undisturbed, tmp_path):
    """Four builds of 24 shards, five kills each; every kill lands with a finished and an open shard in the journal."""
    log = tmp_path / "log"
    dice = random.Random(seed)
    kills = [_driver, _driver, _session, _session, _worker]
    dice.shuffle(kills)
    process = _start(source, tmp_path, log)
    seen, family = 0, []
    for kill in kills:
        wanted = dice.randint(seen + 1, seen + 3)
        driver = psutil.Process(process.pid)

        def find(kill=kill, wanted=wanted, driver=driver) -> list[psutil.Process]:
            done, opened = _journal(tmp_path)
            return kill(driver) if done >= wanted and opened else []

        victims = _wait_for_victims(find, process, log)
        family += driver.children(recursive=True)
        _kill(victims)
        seen, _ = _journal(tmp_path)
        assert 0 < seen < _NUM_SHARDS
        if kill is _worker:
            assert psutil.wait_procs(victims, 60)[1] == []
        else:
            process.wait(60)
            process = _start(source, tmp_path, log)
    assert process.wait(_LIMIT_SECS) == 0, log.read_text()[-3000:]
    _kill(family)  # Ray's agents outlive their driver for a while
    assert _digests(tmp_path) == undisturbed
    assert "going on with an unfinished build" in log.read_text()
    left = [path.name for path in (tmp_path / "ai_vs_human").iterdir() if path.is_dir()]
    assert left == [_VERSION]


@pytest.mark.parametrize("num_cpus", [1, 2, 5])
def test_any_number_of_workers_writes_the_same_bytes(num_cpus, source, undisturbed, tmp_path):
    code = f"import ray; ray.init('local', num_cpus={num_cpus}, include_dashboard=False)\n" + _BUILD
    command = [sys.executable, "-c", code, str(source), str(tmp_path), str(_SHARDS_PER_SPLIT)]
    subprocess.run(command, check=True, timeout=_LIMIT_SECS, env=os.environ | {"REALSHARD_VALIDATION": "decode"})
    assert _digests(tmp_path) == undisturbed


def test_a_full_disk_is_one_sentence_and_the_build_goes_on_with_more_room(source, undisturbed, tmp_path):
    script = f"""
set -e
mount -t tmpfs -o size=60m tmpfs {tmp_path}
run() {{ "{sys.executable}" -c "$BUILD" "{source}" "{tmp_path}" {_SHARDS_PER_SPLIT}; }}
if run 2> /dev/shm/$$.log; then echo "the first build did not fail"; exit 3; fi
tail -n 1 /dev/shm/$$.log; rm /dev/shm/$$.log
ls -A "{tmp_path}"/ai_vs_human/.{_VERSION}.*.staging | grep -c done
mount -o remount,size=2g "{tmp_path}"
run
cd "{tmp_path}/ai_vs_human/{_VERSION}" && md5sum *
"""
    # A mount namespace of its own: the small disk is seen by this build alone and goes away with it.
    result = subprocess.run(
        ["unshare", "--map-root-user", "--mount", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=_LIMIT_SECS,
        env=os.environ | {"REALSHARD_VALIDATION": "decode", "BUILD": _BUILD},
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
    assert "is full. Make room and run the same command again" in result.stdout
    digests = dict(reversed(line.split()) for line in result.stdout.splitlines() if len(line.split()[0]) == 32)
    assert digests == undisturbed
