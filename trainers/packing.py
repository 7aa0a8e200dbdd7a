"""What goes into a registered model besides the .keras file, and what it must agree with. Knows nothing of MLflow."""

import ast
import importlib.metadata
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import tfds_builders
from tfds_builders.records.pixels import load_pixels

_DECODER = "pixels"  # the module of tfds_builders.records that a registered model needs, with all that it imports
_PACKAGES = ("mlflow", "tensorflow", "keras", "numpy", "pandas", "pillow")
_BATCH_IMAGES = 32


def write_settings(path: Path, *, label_names: Sequence[str], threshold: float, image_size: int) -> Path:
    """Writes what a verdict needs besides the weights: names of label 0 and 1, threshold on P(fake), input size."""
    path.write_text(
        json.dumps(
            {"labels": list(label_names), "threshold": float(threshold), "image_size": int(image_size)}, indent=2
        )
    )
    return path


def copy_decoder(directory: Path) -> Path:
    """Copies the decoder as a small `tfds_builders` package into `directory` and returns the package's folder.

    So the model turns bytes into the pixels it was trained on also where this repository is not installed.
    """
    source = Path(tfds_builders.__file__).parent
    package = directory / "tfds_builders"
    (package / "records").mkdir(parents=True)
    shutil.copyfile(source / "__init__.py", package / "__init__.py")
    for module in {"__init__", *_with_imports(_DECODER, source / "records")}:
        shutil.copyfile(source / "records" / f"{module}.py", package / "records" / f"{module}.py")
    return package


def _with_imports(module: str, directory: Path, prefix: str = "tfds_builders.records.") -> set[str]:
    """`module` and every module of its package that it imports, directly or not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse((directory / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(prefix):
                waiting.append(node.module.removeprefix(prefix))
    return found


def pip_requirements() -> list[str]:
    """The exact versions, as installed here, of what loading and asking the model needs."""
    return [f"{package}=={importlib.metadata.version(package)}" for package in _PACKAGES]


def score_images(keras_file: Path, images: Sequence[bytes], image_size: int) -> np.ndarray:
    """P(fake) of encoded images straight from a .keras file: float64 (n,). The reference for the packed model."""
    import keras

    model = keras.saving.load_model(keras_file, compile=False)
    pixels = np.stack([load_pixels(data, image_size) for data in images])
    batches = [pixels[start : start + _BATCH_IMAGES] for start in range(0, len(pixels), _BATCH_IMAGES)]
    return np.concatenate([model.predict_on_batch(batch)[:, 0] for batch in batches]).astype(np.float64)
