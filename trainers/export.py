"""A registered model for other programs: TensorFlow's SavedModel, and LiteRT for phones.

    python -m trainers.export models:/realshard-resnet50@champion --to savedmodel litert

Both take uint8 RGB [n, size, size, 3] and give P(fake), float32 [n], as the registered model does: preprocessing and
temperature are inside. `detector.json` beside them says the size, how an image becomes a square, labels and threshold.
They go to the model's run, under exports/, once they give the registered model's scores on images of its test split.
"""

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tfds_builders.records.errors import Refused
from tfds_builders.records.pixels import load_pixels
from trainers.origin import origin_of
from trainers.output import silent_stderr
from trainers.reader import open_reader
from trainers.registry import MAX_DIFFERENCE, Detector, excess_difference, load_detector
from trainers.storage import default_data_dir
from trainers.timing import images_per_second
from trainers.tracking import client_of, read_artifact

EXPORTS = "exports.json"  # of each format, the last one
NUM_IMAGES = 32  # compared, and timed as one batch
_TIMED_SECS = 2.0
_SMALLEST = 1e-7  # of P(fake) and 1 - P(fake), before the logit: as in verdict.py

Scores = Callable[[np.ndarray], np.ndarray]  # uint8 [n, size, size, 3] -> P(fake) [n]


@dataclass(frozen=True)
class Export:
    """One export, checked."""

    format: str
    path: str  # among the run's artifacts
    bytes: int
    images_per_second: float  # on this machine, NUM_IMAGES in a batch
    registered_images_per_second: float  # of the registered model, on the same pixels
    max_difference: float  # of P(fake) from the registered model's, over NUM_IMAGES images


def _with_temperature(network: Any) -> Any:
    """The network of verdict.py as one Keras model: uint8 [n, size, size, 3] -> P(fake) [n], as `score_pixels`."""
    import keras

    pixels = keras.Input((network.image_size, network.image_size, 3), dtype="uint8", name="pixels")
    p_fake = network.model(pixels)
    if network.temperature is not None:
        p_fake = keras.ops.clip(p_fake, _SMALLEST, 1 - _SMALLEST)
        p_fake = keras.ops.sigmoid((keras.ops.log(p_fake) - keras.ops.log(1 - p_fake)) / network.temperature)
    return keras.Model(pixels, keras.ops.squeeze(p_fake, axis=-1))


def _write_savedmodel(model: Any, folder: Path) -> tuple[Path, Scores]:
    import tensorflow as tf

    path = folder / "savedmodel"
    model.export(path, format="tf_saved_model", verbose=False)
    loaded = tf.saved_model.load(path)

    def scores(pixels: np.ndarray) -> np.ndarray:
        (p_fake,) = loaded.signatures["serving_default"](pixels=tf.constant(pixels)).values()
        return p_fake.numpy()

    return path, scores


def _write_litert(model: Any, folder: Path) -> tuple[Path, Scores]:
    import tensorflow as tf

    path = folder / "model.tflite"
    model.export(path, format="litert", verbose=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LiteRT has a package of its own; TensorFlow's copy reads the same files
        interpreter = tf.lite.Interpreter(str(path))
    given, answer = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def scores(pixels: np.ndarray) -> np.ndarray:
        if tuple(interpreter.get_input_details()[0]["shape"]) != pixels.shape:
            interpreter.resize_tensor_input(given, pixels.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(given, pixels)
        interpreter.invoke()
        return interpreter.get_tensor(answer)

    return path, scores


FORMATS = {"savedmodel": _write_savedmodel, "litert": _write_litert}


def export(model_uri: str, formats: Sequence[str], data_dir: str = "") -> list[Export]:
    """Exports a registered model in each of the `formats`, and stores all of them in its run.

    Args:
      model_uri: models:/NAME@ALIAS or models:/NAME/VERSION.
      formats: of FORMATS.
      data_dir: where its dataset is looked for if it is not where the run says; "": the default folder.

    Raises:
      Refused: no such model; its dataset is not there any more; an export does not give its scores. Nothing is stored
        then.
    """
    detector = load_detector(model_uri)
    network, client = detector.network, client_of()
    run_id = client.get_model_version(detector.name, str(detector.version)).run_id
    pixels = _test_pixels(detector, run_id, data_dir)
    of_network = network.p_fake_of(pixels).numpy()
    expected, speed = network.score_pixels(pixels), images_per_second(network.score_pixels, pixels, _TIMED_SECS)
    model = _with_temperature(network)
    folder = f"exports/{detector.name}-v{detector.version}"
    exports = []
    with tempfile.TemporaryDirectory() as temporary:
        for name in formats:
            path, scores = FORMATS[name](model, Path(temporary))
            p_fake = scores(pixels)
            difference = float(np.abs(p_fake - expected).max())
            if not excess_difference(p_fake, of_network, network.temperature) <= 0:  # so put, NaN fails too
                raise Refused(
                    f"an export must give the registered model's P(fake) to {MAX_DIFFERENCE:g}, before a temperature. "
                    f"Received: {model_uri} as {name}, {difference:.2g} off on {len(pixels)} images. "
                    "Nothing was stored; take another format."
                )
            files = [path, *path.rglob("*")]
            size = sum(file.stat().st_size for file in files if file.is_file())
            made = f"{folder}/{path.name}"
            its_speed = images_per_second(scores, pixels, _TIMED_SECS)
            exports.append(Export(name, made, size, its_speed, speed, difference))
        Path(temporary, "detector.json").write_text(json.dumps(network.settings, indent=1))
        made_before = json.loads(read_artifact(run_id, f"{folder}/{EXPORTS}") or "[]")
        told = {one["format"]: one for one in [*made_before, *map(asdict, exports)]}
        Path(temporary, EXPORTS).write_text(json.dumps(list(told.values()), indent=1))
        client.log_artifacts(run_id, temporary, folder)
    return exports


def _test_pixels(detector: Detector, run_id: str, data_dir: str) -> np.ndarray:
    """uint8 [n, size, size, 3]: the first images of the test split that the model was evaluated on."""
    origin = origin_of(run_id, data_dir)
    if origin is None:
        raise Refused(
            f"an export is compared on images of the model's test split. The dataset of {detector.name} version "
            f"{detector.version} is not where the run {run_id} says, nor under --data-dir, or not as it was: say with "
            "--data-dir where it is now, or build it there again."
        )
    records, network = origin.records["test"], detector.network
    images = open_reader(records).images(np.arange(min(len(records), NUM_IMAGES)))
    return np.stack([load_pixels(image, network.image_size, network.aspect) for image in images])


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m trainers.export", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    parser.add_argument("--to", nargs="+", choices=tuple(FORMATS), required=True, metavar="FORMAT", help="%(choices)s")
    parser.add_argument(
        "--data-dir",
        default=default_data_dir(),
        help="where its dataset is, if it is not any more where it was (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    with silent_stderr():
        exports = export(options.model, options.to, options.data_dir)
    for one in exports:
        print(
            f"{one.format:<11} {one.bytes / 1e6:.1f} MB, {one.images_per_second:.0f} images/s (registered model "
            f"{one.registered_images_per_second:.0f}), P(fake) differs by at most {one.max_difference:.1g}: {one.path}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
