"""What the tests share: a home of their own, one local Ray, two logical CPU devices."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tfds_builders.records.ray_address import LOOPBACK_ENVIRONMENT

_isolation = pytest.StashKey[str]()

# A caller's settings that would change what the tests see.
_FOREIGN_PREFIXES = ("REALSHARD_", "MLFLOW_", "RAY_", "TFDS_", "KERAS_")

_LONG_SECS = 1800  # the limit of a long test, with the fixtures that it is the first to use
# Of the files with long tests those that take minutes, in the order of their durations; the others follow. They are
# begun in this order with --no-loadscope-reorder.
_LONGEST_FIRST = (
    "test_recovery.py",
    "test_families.py",
    "test_replicas.py",
    "test_machines_lost.py",
    "test_family_jobs.py",
    "test_kills.py",
    "test_search.py",
    "test_cluster.py",
    "test_serve_abuse.py",
    "test_demo.py",
    "test_restart.py",
    "test_mlflow_server.py",
)

# A busy machine is no failure: examples have no time limit. In CI the same ones are drawn every time.
settings.register_profile(
    "realshard", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("realshard")


def pytest_configure(config: pytest.Config) -> None:
    """Before anything is imported: nothing is read from or written to the caller's home directory."""
    root = tempfile.mkdtemp(prefix="realshard-tests-")
    config.stash[_isolation] = root
    for name in list(os.environ):
        if name.startswith(_FOREIGN_PREFIXES) or name == "TF_USE_LEGACY_KERAS":
            del os.environ[name]
    os.environ.update(
        HOME=root,
        XDG_CACHE_HOME=f"{root}/.cache",
        MPLCONFIGDIR=f"{root}/.matplotlib",
        MPLBACKEND="agg",
        REALSHARD_HOME=f"{root}/realshard",
        MLFLOW_DISABLE_TELEMETRY="true",
        TF_CPP_MIN_LOG_LEVEL="3",
        CUDA_VISIBLE_DEVICES="",  # "-1" hides GPUs from TensorFlow, but is one of them for Ray
        # Git refuses a checkout of another user, as in many containers; what the caller allowed is hidden with HOME.
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0="safe.directory",
        GIT_CONFIG_VALUE_0="*",
        **LOOPBACK_ENVIRONMENT,
    )


def pytest_unconfigure(config: pytest.Config) -> None:
    """Removes the tests' home directory."""
    shutil.rmtree(config.stash[_isolation], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests may take long; the longest files begin first, since one begun last leaves the other core idle."""
    for item in items:
        if item.get_closest_marker("long"):
            item.add_marker(pytest.mark.timeout(_LONG_SECS))
    order = {name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Two logical CPU devices, if a test asks for them: possible only before TensorFlow runs its first operation."""
    if session.config.option.collectonly:
        return
    if any("two_devices" in getattr(item, "fixturenames", ()) for item in session.items):
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        tf.config.list_logical_devices()  # from here on they are what they are: a job in this process may want one


@pytest.fixture(scope="session")
def two_devices() -> list[str]:
    """The names of two logical CPU devices of this process, ["CPU:0", "CPU:1"], for MirroredStrategy."""
    import tensorflow as tf

    names = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("CPU")]
    assert names == ["CPU:0", "CPU:1"]
    return names


@pytest.fixture(scope="session")
def ray_session():
    """One local Ray of 4 CPUs for the whole session; starting it takes seconds, so tests share it."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,  # logical: more workers than cores is fine for small data
        object_store_memory=200 * 1024 * 1024,  # bytes
        include_dashboard=False,
        log_to_driver=True,
        logging_level="warning",
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def realshard_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty REALSHARD_HOME for this test alone: its own MLflow database, jobs and models."""
    path = tmp_path / "home"
    path.mkdir()
    monkeypatch.setenv("REALSHARD_HOME", str(path))
    return path


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return Path(__file__).resolve().parents[1]
