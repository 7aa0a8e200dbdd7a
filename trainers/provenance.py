"""What a run stood on besides code and data: packages, hardware, the Ray job. As tags of its MLflow run."""

import importlib.metadata
import json
import os
import platform

from trainers.strategy import Resources

_PACKAGES = ("tensorflow", "keras", "ray", "mlflow", "numpy", "pyarrow", "scikit-learn", "tensorflow-datasets")


def environment_tags(resources: Resources, ray_job_id: str) -> dict[str, str]:
    """Tags `realshard.*`: python, packages, machine, devices, ray_job_id.

    Args:
      resources: what the workers get.
      ray_job_id: of Ray's runtime context; the submission's id is preferred where there is one.
    """
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    kind = "GPU" if resources.gpus else "CPU"
    return {
        "realshard.python": platform.python_version(),
        "realshard.packages": versions,
        "realshard.machine": f"{platform.system()} {platform.machine()}, {processor()}, {os.cpu_count()} CPUs",
        "realshard.devices": f"{resources.workers} x {resources.devices} {kind}, {resources.cpus} CPUs each",
        "realshard.ray_job_id": _submission_id() or ray_job_id,
    }


def _submission_id() -> str | None:
    """What `ray job submit` calls this job; None where it was started otherwise."""
    told = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")  # the variable's name is its content's
    return told.get("metadata", {}).get("job_submission_id")


def processor() -> str:
    """The processor's name as Linux knows it, else as Python does."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown processor"
