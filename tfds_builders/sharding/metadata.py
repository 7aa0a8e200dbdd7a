"""Metadata that lies beside the images: which video is real, which is fake, and which one a fake was made from.

videos = read_videos(source, is_metadata=lambda id: id.endswith("metadata.csv"))
videos["aagfhgtpmv"].label, .original, .problem
"""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

from tfds_builders.records.errors import Refused
from tfds_builders.records.facts import BadImage
from tfds_builders.sharding.build import say
from tfds_builders.sharding.layout import has_image_suffix, label_of, say_layouts, split_of, unlabelled
from tfds_builders.sharding.manifest import Excluded, Record
from tfds_builders.sharding.sources import Entry, Source, is_system_file, read

_NAME_COLUMNS = ("videoname", "filename", "video", "name", "file", "path", "")  # "": a CSV written with its index


class Video(NamedTuple):
    """What the metadata says of one video."""

    label: int  # -1 if there is a problem
    original: str  # name of the real video that a fake was made from, without suffix; "" if there is none
    split: str  # "" if it says none that is known
    problem: str = ""  # "reason: sentence"; "" for most


def parse_csv(data: bytes) -> list[dict[str, str]]:
    """The rows of a CSV file, column names in lower case, "" for what a row lacks at its end.

    Bytes that are not UTF-8 are escaped as in ids.

    Raises:
      ValueError: it is no CSV file.
    """
    text = data.decode("utf-8", "backslashreplace").removeprefix("\ufeff")
    try:
        rows = [row for row in csv.reader(io.StringIO(text)) if row]
    except csv.Error as error:
        raise ValueError(str(error)) from None
    columns = [name.strip().lower() for name in rows[0]] if rows else []
    return [dict(zip(columns, row + [""] * (len(columns) - len(row)), strict=False)) for row in rows[1:]]


def read_videos(source: Source, is_metadata: Callable[[str], bool]) -> dict[str, Video]:
    """The metadata of all files that `is_metadata` accepts by their id, by the video's name without suffix.

    JSON files hold {video: {"label", "original", "split"}}, CSV files one row a video with such columns. A video that
    two of them label differently has the problem `contradicting_labels`; one with another label than real or fake has
    `unknown_label`.

    Raises:
      Refused: no such file, or one that cannot be read as what its name says.
    """
    videos: dict[str, Video] = {}
    files: list[str] = []
    for entry in source.entries():
        if not is_metadata(entry.id) or is_system_file(entry.id):
            continue
        files.append(entry.id)
        for name, row in _rows(entry):
            video, before = _video(row), videos.get(name)
            if before is not None and before.label != video.label:
                sentence = "the metadata calls the video both real and fake"
                video = video._replace(label=-1, problem=f"contradicting_labels: {sentence}")
            elif before is not None:
                video = before
            videos[name] = video
    if not files:
        raise Refused(
            "The metadata that tells real from fake is needed beside the images (metadata.csv, or JSON files); none "
            "was found. Put it into --manual_dir too."
        )
    say(f"labels come from {files[0]}" + f" and {len(files) - 1} more files" * (len(files) > 1))
    return videos


def stem(name: str) -> str:
    """A video's name: that of its file without folders and suffix, `aagfhgtpmv` for `videos/aagfhgtpmv.mp4`."""
    name = PurePosixPath(name.strip().replace("\\", "/")).name
    return name.rpartition(".")[0] if name.lower().endswith((".mp4", ".avi", ".mov")) else name


def label_faces(
    source: Source, videos: Mapping[str, Video], name_of: Callable[[str], str], found: set[str]
) -> Iterator[Record | Excluded]:
    """Describes images that were cut from videos: label from the metadata; the group is the original, or the video.

    Args:
      source: of the images.
      videos: by name.
      name_of: the name of the video that an image (its id) was cut from.
      found: the names of the videos that have an image are added to it.
    """
    layouts: Counter[str] = Counter()
    for entry in source.entries():
        name = name_of(entry.id)
        video = videos.get(name)
        if video is not None and has_image_suffix(entry.id) and not is_system_file(entry.id):
            found.add(name)
            file = entry.id.rpartition("/")[2]
            layouts["<video>.*" if file.startswith(name) else "<video>/<frame>.*"] += 1
            entry = entry._replace(problem=entry.problem or video.problem)
            yield Record(entry, video.label, group=video.original or name, video=name, split=video.split)
        else:
            yield from unlabelled(entry, "not_in_metadata", "an image of a video that the metadata does not name")
    say_layouts(layouts)


def _rows(entry: Entry) -> Iterator[tuple[str, Mapping[str, str]]]:
    """(video name, its columns) of one metadata file."""
    try:
        data = read(entry)
        if entry.id.lower().endswith(".json"):
            for name, row in json.loads(data).items():
                yield stem(name), {key.lower(): str(value or "") for key, value in row.items()}
            return
        for row in parse_csv(data):
            name = next(row[column] for column in _NAME_COLUMNS if column in row)
            yield stem(name), row
    except (BadImage, ValueError, AttributeError, StopIteration) as error:
        raise Refused(
            f"The metadata in {entry.id} cannot be read ({type(error).__name__}: {error}). It must be JSON, video -> "
            "{label, original, split}, or CSV with columns for the video's name and its label. Download it again."
        ) from None


def _video(row: Mapping[str, str]) -> Video:
    text = row.get("label", "")
    label = label_of(text)
    original = stem(row.get("original", ""))
    original = "" if original.lower() in ("nan", "none", "null") else original
    split = split_of(row.get("split", "")) or ""
    if label is None:
        return Video(-1, original, split, f"unknown_label: the metadata's label is {text!r}, neither real nor fake")
    return Video(label, original, split)
