"""Verdicts on image and video files.

    python -m trainers.predict --model models:/realshard-resnet50@champion photo.jpg more-photos/ clip.mp4

prints a line a file: file, label, P(fake), model; "fake?" or "real?" where the model is unsure. JPEG, PNG, WebP, BMP,
GIF and TIFF of any size; folders are walked. The P(fake) of a video is the mean of its frames'. A file that cannot be
read gets a line with the reason, the others are scored, and the exit code is 1 at the end.
"""

import argparse
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tfds_builders.records.errors import Refused
from tfds_builders.records.frames import take_frames
from trainers.output import silent_stderr
from trainers.registry import Detector, Verdict, load_detector

DEFAULT_MODEL = "models:/realshard-resnet50@champion"
# What is taken from a folder; a file named on the command line may be called anything.
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm")
NUM_FRAMES = 16  # of a video, at regular intervals
_BATCH_IMAGES = 32


@dataclasses.dataclass(frozen=True)
class Answer:
    """What became of one file: a verdict, or an error with neither label nor P(fake)."""

    file: str
    label: str | None
    p_fake: float | None
    error: str | None
    unsure: bool = False  # P(fake) is near the threshold, see trainers/decision.py
    frames: int | None = None  # of a video: so many were scored


def find_files(paths: Sequence[Path]) -> list[Path]:
    """`paths`, with each folder replaced by the images and videos in it and below, by name; says what is left out."""
    files = []
    for path in paths:
        if path.is_dir():
            known = SUFFIXES + VIDEO_SUFFIXES
            every = sorted(found for found in path.rglob("*") if found.is_file())
            below = [found for found in every if found.suffix.lower() in known]
            files += below or [path]  # a folder without images is answered as one unreadable file
            others = [str(found) for found in every if found.suffix.lower() not in known and found.name[0] != "."]
            if others:
                print(
                    f"{len(others)} files in {path} are passed over, since they are not called images or videos: "
                    f"{', '.join(others[:3])}{', ...' if len(others) > 3 else ''}. Name a file to have it judged.",
                    file=sys.stderr,
                )
        else:
            files.append(path)
    return files


def predict_files(detector: Detector, files: Sequence[Path], num_frames: int = NUM_FRAMES) -> Iterator[Answer]:
    """The answers, in the order of `files`: images batch by batch, of which at most 32 are in memory, and videos one by
    one, by `num_frames` of their frames."""
    for is_video, some in itertools.groupby(files, lambda file: file.suffix.lower() in VIDEO_SUFFIXES):
        if is_video:
            yield from (_predict_video(detector, file, num_frames) for file in some)
        else:
            yield from _predict_images(detector, list(some))


def _predict_video(detector: Detector, file: Path, num_frames: int) -> Answer:
    data, error = _read(file)
    frames: list[bytes] = []
    if error is None:
        frames, error = take_frames(data, num_frames, file.name)
    verdict, num_scored = judge_frames(detector, frames, error)
    return Answer(str(file), verdict.label, verdict.p_fake, verdict.error, verdict.is_unsure, num_scored)


def judge_frames(detector: Detector, frames: Sequence[bytes], error: str | None) -> tuple[Verdict, int | None]:
    """The verdict on a video and the number of frames that it rests on: their mean P(fake), judged by the model's own
    threshold; of a video that is damaged somewhere, of those before the damage.

    Args:
      frames: image files, some or all of the video's.
      error: what is wrong with the video; counts if there is no frame.
    """
    scores = [verdict.p_fake for verdict in detector.predict(frames) if verdict.p_fake is not None] if frames else []
    network = detector.network
    if not scores:
        return Verdict(None, None, network.threshold, error or "the video has no frame that can be read"), None
    label, p_fake, threshold, is_unsure, _ = network.verdict(sum(scores) / len(scores))
    return Verdict(label, p_fake, threshold, None, is_unsure), len(scores)


def _predict_images(detector: Detector, files: Sequence[Path]) -> Iterator[Answer]:
    for start in range(0, len(files), _BATCH_IMAGES):
        contents = [(file, *_read(file)) for file in files[start : start + _BATCH_IMAGES]]
        verdicts = iter(detector.predict([data for _, data, error in contents if error is None]))
        for file, _, error in contents:
            verdict = Verdict(None, None, 0.0, error) if error else next(verdicts)
            yield Answer(str(file), verdict.label, verdict.p_fake, verdict.error, verdict.is_unsure)


def _read(file: Path) -> tuple[bytes, str | None]:
    if file.is_dir():
        return b"", f"the folder holds no images ({', '.join(SUFFIXES)})"
    try:
        return file.read_bytes(), None
    except OSError as error:
        return b"", (error.strerror or type(error).__name__).lower()


def _print_table(answers: Iterable[Answer], detector: Detector, width: int) -> bool:
    """Prints the answers as they come. True if every file has a verdict."""
    model = f"{detector.name} v{detector.version}"
    print(f"{'file':<{width}}  {'label':<5}  {'P(fake)':>7}  model")
    complete = True
    for answer in answers:
        if answer.error is None:
            label = f"{answer.label}{'?' if answer.unsure else ''}"
            print(f"{_printable(answer.file):<{width}}  {label:<5}  {answer.p_fake:7.4f}  {model}", flush=True)
        else:
            complete = False
            print(f"{_printable(answer.file):<{width}}  {'-':<5}  {'-':>7}  unreadable: {answer.error}", flush=True)
    return complete


def _printable(file: str) -> str:
    """The name with \\xNN for bytes that are no UTF-8, which cannot be printed."""
    return os.fsencode(file).decode("utf-8", "backslashreplace")


def _print_json(answers: Iterable[Answer], detector: Detector) -> bool:
    """Prints one JSON object a line and file. True if every file has a verdict."""
    complete = True
    for answer in answers:
        model = {"model": detector.name, "version": detector.version}
        print(json.dumps(dataclasses.asdict(answer) | model), flush=True)
        complete &= answer.error is None
    return complete


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m trainers.predict", description="Says of image and video files whether they are real or fake."
    )
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="an image or video, or a folder")
    parser.add_argument(
        "--frames", type=int, default=NUM_FRAMES, help="frames of a video that are scored (default: %(default)s)"
    )
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a registered model (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of a table")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code: 0, or 1 if a file has no verdict."""
    options: Any = _parser().parse_args(arguments)
    if options.frames < 1:
        raise Refused(f"--frames must be at least 1. Received: {options.frames}. Take {NUM_FRAMES}.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silent_stderr():
        detector = load_detector(options.model)
    files = find_files(options.images)
    answers = predict_files(detector, files, options.frames)
    if options.json:
        return 0 if _print_json(answers, detector) else 1
    width = max(len(_printable(str(file))) for file in files)
    return 0 if _print_table(answers, detector, width) else 1


if __name__ == "__main__":
    sys.exit(main())
