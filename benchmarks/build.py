"""How fast a dataset is built: this engine against stock TFDS and against a plain copy, on the same files, in one run.

    python benchmarks/build.py                               # 60,000 JPEG of 25 KB, 8,000 PNG of 140 KB: 10 minutes
    python benchmarks/build.py --jpeg 10000 --png 0          # a quick look

Each side runs in a process of its own, start-up left out for both: TFDS's clock runs from listing the files to the last
shard, ours from listing to the manifest (the same span, with validation, content hashes, fingerprint and manifest).
Sides alternate round by round and medians are reported. The last line is JSON; `ratio` is images/s over stock TFDS's.
"""

import argparse
import io
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

NUM_SHARDS = 4  # that other benchmarks read
_SAMPLE_SECS = 0.5  # each look takes some 20 ms of a core


def make_corpus(root: Path, kind: str, count: int) -> int:
    """Writes `count` different files of one kind in ai_vs_human's layout; returns their bytes."""
    random = np.random.default_rng(0)
    # Smooth noise of several scales compresses like a photograph: about 25 KB as JPEG, 140 KB as PNG at 256x256.
    canvas = np.zeros((1200, 1200, 3), np.float32)
    for side, weight in ((30, 60), (300, 40), (1200, 9)):
        noise = random.integers(0, 256, (side, side, 3), np.uint8)
        canvas += weight * (
            np.asarray(Image.fromarray(noise).resize((1200, 1200), Image.Resampling.BICUBIC)) / 128.0 - 1
        )
    picture = Image.fromarray(np.clip(canvas + 128, 0, 255).astype(np.uint8))
    originals = []
    for _ in range(200):
        left, top = random.integers(0, 1200 - 256, 2)
        file = io.BytesIO()
        crop = picture.crop((left, top, left + 256, top + 256))
        crop.save(file, "JPEG", quality=92) if kind == "jpg" else crop.save(file, "PNG")
        originals.append(file.getvalue())
    total = 0
    for number in range(count):
        folder = root / ("car", "cat", "bus", "dog")[number % 4] / ("0_real", "1_fake")[number // 4 % 2]
        if number < 8:
            folder.mkdir(parents=True)
        data = _numbered(originals[number % len(originals)], kind, number)
        (folder / f"{number // 8:07d}.{kind}").write_bytes(data)
        total += len(data)
    return total


def _numbered(data: bytes, kind: str, number: int) -> bytes:
    """The same image with its number in a comment, so that every file is another."""
    text = struct.pack(">Q", number)
    if kind == "jpg":
        return data[:2] + b"\xff\xfe" + struct.pack(">H", 2 + len(text)) + text + data[2:]
    import zlib

    chunk = b"tEXt" + b"n\0" + str(number).encode()
    return data[:33] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def build_dataset(work: Path, kind: str, count: int) -> None:
    """Makes `count` files in work/manual and builds them, in a process of its own, in work/data."""
    make_corpus(work / "manual", kind, count)
    command = [sys.executable, __file__, "--side", "ours", str(work / "manual"), str(work / "data"), str(NUM_SHARDS)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def build_once(side: str, manual_dir: Path, data_dir: Path, num_shards: int) -> None:
    """Runs in a process of its own: builds and prints seconds as JSON."""
    import tensorflow_datasets as tfds

    from tfds_builders.ai_vs_human.ai_vs_human_dataset_builder import Builder
    from tfds_builders.sharding.builder import shared_features

    builder_class = Builder
    if side == "stock":

        class StockBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
            """A plain builder over the same files, as `tfds new` would have one write it."""

            name = "ai_vs_human"
            VERSION = tfds.core.Version("1.0.0")
            MANUAL_DOWNLOAD_INSTRUCTIONS = "files"

            def _info(self):
                return tfds.core.DatasetInfo(builder=self, features=shared_features())

            def _split_generators(self, dl_manager):
                return {"train": self._generate_examples(dl_manager.manual_dir)}

            def _generate_examples(self, path):
                for file in path.glob("*/*/*"):
                    category, label = file.parts[-3], int(file.parts[-2][0])
                    id = "/".join(file.parts[-3:])
                    yield id, {"image": file, "label": label, "id": id, "category": category, "group": "", "video": ""}

        builder_class = StockBuilder
    else:
        from tfds_builders.records.ray_address import prepare_ray_address

        address = prepare_ray_address()
        import ray

        ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        ray.get([ray.remote(num_cpus=1)(_import_writer).remote() for _ in range(int(ray.cluster_resources()["CPU"]))])
    builder = builder_class(data_dir=str(data_dir))
    config = tfds.download.DownloadConfig(manual_dir=str(manual_dir), num_shards=num_shards)
    start = time.perf_counter()
    builder.download_and_prepare(download_config=config)
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def _import_writer() -> None:
    """What a Ray worker does before its first task, as TFDS's imports come before its clock."""
    import tfds_builders.sharding.writer  # noqa: F401


class PeakMemory:
    """Samples the proportional memory of a process and its descendants, Ray's own processes apart, until closed."""

    def __init__(self, pid: int):
        self.peak_bytes = 0
        self._pid, self._stop = pid, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        import psutil

        while not self._stop.wait(_SAMPLE_SECS):
            total = 0
            try:
                process = psutil.Process(self._pid)
                for one in [process, *process.children(recursive=True)]:
                    # The driver and the tasks; gcs_server, raylet, agents and idle workers are Ray's own.
                    if one.pid == self._pid or "write_shard" in _title(one) or "scan_chunk" in _title(one):
                        total += one.memory_full_info().pss
            except psutil.Error:
                continue
            self.peak_bytes = max(self.peak_bytes, total)

    def close(self) -> int:
        self._stop.set()
        self._thread.join()
        return self.peak_bytes


def _title(process) -> str:
    title = " ".join(process.cmdline())
    return title if not title.startswith("ray::_write_named") else "write_shard"


def run_side(side: str, manual_dir: Path, work: Path, validation: str, num_shards: int) -> tuple[float, int]:
    """Seconds and peak memory in bytes of one build in a fresh process."""
    data_dir = work / "data"
    shutil.rmtree(data_dir, ignore_errors=True)
    if side in ("copy", "copy to disk"):
        start = time.perf_counter()
        subprocess.run(["cp", "-r", str(manual_dir), str(data_dir)], check=True)
        if side == "copy to disk":  # plain `cp` leaves the writing to the kernel, for later
            subprocess.run(["sync", "--file-system", str(data_dir)], check=True)
        return time.perf_counter() - start, 0
    command = [sys.executable, __file__, "--side", side, str(manual_dir), str(data_dir), str(num_shards)]
    environment = os.environ | {"REALSHARD_VALIDATION": validation, "TF_CPP_MIN_LOG_LEVEL": "3"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout
    lines = []
    memory = PeakMemory(process.pid)
    for line in process.stdout:
        if line.startswith("{"):
            lines.append(json.loads(line))
    peak = memory.close()
    if process.wait():
        raise SystemExit(f"the {side} build failed: {' '.join(command)}")
    return lines[-1]["seconds"], peak


def main() -> None:
    """Makes the corpora, runs every side and prints the table."""
    if sys.argv[1:2] == ["--side"]:
        build_once(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jpeg", type=int, default=60_000, help="number of JPEG files of about 25 KB")
    parser.add_argument("--png", type=int, default=8_000, help="number of PNG files of about 140 KB")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is run; medians are reported")
    parser.add_argument("--num-shards", type=int, default=16, help="per split")
    parser.add_argument("--work", type=Path, help="where to make the corpora (default: a temporary folder)")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(dir=options.work) as folder:
        for kind, count in (("jpg", options.jpeg), ("png", options.png)):
            if not count:
                continue
            work = Path(folder) / kind
            manual_dir = work / "manual"
            num_bytes = make_corpus(manual_dir, kind, count)
            sides = {
                "stock TFDS": ("stock", ""), "ours, header": ("ours", "header"), "ours, checksum": ("ours", "checksum"),
                "cp -r": ("copy", ""), "cp -r, sync": ("copy to disk", ""),
            }  # fmt: skip
            runs: dict[str, list[tuple[float, int]]] = {name: [] for name in sides}
            for _ in range(options.rounds):
                for name, (side, validation) in sides.items():
                    runs[name].append(run_side(side, manual_dir, work, validation, options.num_shards))
            print(f"\n{count:,} {kind} files, {num_bytes / 1e6:,.0f} MB, medians of {options.rounds} rounds")
            print(f"{'':16}{'images/s':>10}{'MB/s':>8}{'peak MB':>9}{'ratio':>7}")
            stock = statistics.median(seconds for seconds, _ in runs["stock TFDS"])
            for name, measured in runs.items():
                seconds = statistics.median(seconds for seconds, _ in measured)
                peak = max(peak for _, peak in measured)
                results[f"{kind} {name}"] = stock / seconds
                print(
                    f"{name:16}{count / seconds:10,.0f}{num_bytes / 1e6 / seconds:8,.0f}{peak / 1e6:9,.0f}"
                    f"{stock / seconds:7.2f}"
                )
            shutil.rmtree(work)
    print(json.dumps({"ratio": round(results.get("jpg ours, header", 0.0), 2), **results}))


if __name__ == "__main__":
    main()
