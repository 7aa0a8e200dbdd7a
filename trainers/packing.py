"""What goes into a registered model besides the .keras file, and what it must agree with. Knows nothing of MLflow."""

import ast
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

import tfds_builders
from tfds_builders.records.pixels import RESIZE, load_pixels
from trainers.decision import Decision

_RECORDS = "tfds_builders.records"
_DECODER = "pixels"  # the module of tfds_builders.records that a registered model needs, with all that it imports
_PACKAGES = ("mlflow", "tensorflow", "keras", "numpy", "pandas", "pillow")
_BATCH_IMAGES = 32
SETTINGS_VERSION = 2  # 1 (not written): the aspect "random_crop" was a resized middle square, as "centre_crop" is


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a verdict needs besides the weights."""

    labels: tuple[str, str]  # names of label 0 and 1
    image_size: int  # pixels
    decision: Decision  # how P(fake) is judged
    aspect: str = RESIZE  # how an image becomes a square, as records.pixels.load_pixels takes it

    def write(self, path: Path) -> Path:
        """Writes them as verdict.py reads them."""
        values = {"labels": list(self.labels), "image_size": int(self.image_size), "aspect": self.aspect}
        values |= {"version": SETTINGS_VERSION} | dataclasses.asdict(self.decision)
        path.write_text(json.dumps(values, indent=2))
        return path


def copy_code(directory: Path) -> tuple[Path, Path]:
    """Writes the code of a registered model into `directory`: its verdict.py, and the decoder as a package.

    The package's name holds a hash of its content. So a model turns bytes into the pixels it was trained on where this
    repository is not installed, where a later version of it is, and beside models that came with other decoders.

    Returns:
      The file and the package's folder.
    """
    records = Path(tfds_builders.__file__).parent / "records"
    sources = {name: (records / f"{name}.py").read_text("utf-8") for name in _with_imports(_DECODER, records)}
    digest = hashlib.sha256(json.dumps(sources, sort_keys=True).encode()).hexdigest()
    package = directory / f"realshard_decoder_{digest[:12]}"
    package.mkdir()
    sources["__init__"] = '"""How this model turns image files into pixels."""\n'
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source.replace(_RECORDS, package.name), "utf-8")
    verdict = directory / "verdict.py"
    verdict.write_text(
        Path(__file__).with_name("verdict.py").read_text("utf-8").replace(_RECORDS, package.name), "utf-8"
    )
    return verdict, package


@contextlib.contextmanager
def importable(package: Path) -> Iterator[None]:
    """Inside, `package` can be imported. Forgotten afterwards, so that loading the model imports what was stored."""
    sys.path.insert(0, str(package.parent))
    try:
        yield
    finally:
        sys.path.remove(str(package.parent))
        for module in [name for name in sys.modules if name.split(".")[0] == package.name]:
            del sys.modules[module]


def _with_imports(module: str, directory: Path) -> set[str]:
    """`module` and every module of its package that it imports, directly or not."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for node in ast.walk(ast.parse((directory / f"{name}.py").read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(f"{_RECORDS}."):
                waiting.append(node.module.removeprefix(f"{_RECORDS}."))
    return found


def pip_requirements(keras_file: Path) -> list[str]:
    """The exact versions, as installed here, of what loading and asking the model needs."""
    with zipfile.ZipFile(keras_file) as file:
        has_hub_layers = b'"keras_hub' in file.read("config.json")
    packages = (*_PACKAGES, "keras-hub") if has_hub_layers else _PACKAGES
    return [f"{package}=={importlib.metadata.version(package)}" for package in packages]


def score_images(keras_file: Path, images: Sequence[bytes], image_size: int, aspect: str = RESIZE) -> np.ndarray:
    """P(fake) of encoded images straight from a .keras file: float64 (n,). The reference for the packed model."""
    import keras

    model = keras.saving.load_model(keras_file, compile=False)
    pixels = np.stack([load_pixels(data, image_size, aspect) for data in images])
    batches = [pixels[start : start + _BATCH_IMAGES] for start in range(0, len(pixels), _BATCH_IMAGES)]
    return np.concatenate([model.predict_on_batch(batch)[:, 0] for batch in batches]).astype(np.float64)
