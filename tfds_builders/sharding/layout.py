"""How sources name their files, class folders, splits and labels."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from tfds_builders.records.schema import LABELS
from tfds_builders.sharding.build import say
from tfds_builders.sharding.manifest import Excluded, Record
from tfds_builders.sharding.sources import Entry, Source, is_system_file

# Folder names that tell the class, as they were met in published sets, lower case.
_CLASS_FOLDERS = {
    "real": "real", "0_real": "real", "nature": "real",
    "fake": "fake", "1_fake": "fake", "ai": "fake",
}  # fmt: skip
_CLASS_PAIRS = (("0_real", "1_fake"), ("real", "fake"), ("nature", "ai"))
_PICTURED = {"nature", "ai"}  # may be what the pictures show
_SPLITS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
_OUTSIDE = "an image that lies in no class folder"
_IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff",
)  # fmt: skip


def label_of_folder(name: str) -> int | None:
    """The label that a class folder stands for, whatever its case; None for any other folder."""
    found = _CLASS_FOLDERS.get(name.lower())
    return None if found is None else LABELS.index(found)


def has_image_suffix(id: str) -> bool:
    """Whether the file is named like an image."""
    return id.lower().endswith(_IMAGE_SUFFIXES)


def split_of(name: str) -> str | None:
    """The split that a folder or a value of a column stands for, whatever its case; None for any other."""
    return _SPLITS.get(name.strip().lower())


def label_of(value: str) -> int | None:
    """The label that a value of a column stands for: the name of a class, in any case, or its number (0 is real)."""
    value = value.strip()
    return int(value) if value in ("0", "1") else label_of_folder(value)


def say_layouts(layouts: Mapping[str, int]) -> None:
    """Tells which layouts were found, and how many files in each."""
    if layouts:
        found = " and ".join(f"{layout} ({count} files)" for layout, count in sorted(layouts.items()))
        say(f"the source is laid out as {found}")


def contradiction(entry: Entry, sentence: str) -> Record:
    """A file whose label is not known because two places say different things: it will be quarantined."""
    return Record(entry._replace(problem=entry.problem or f"contradicting_labels: {sentence}"), -1)


def unlabelled(entry: Entry, rule: str = "outside_layout", detail: str = _OUTSIDE) -> Iterator[Record | Excluded]:
    """What becomes of a file without a label: an image is excluded by `rule`, all else as `not_data`."""
    if is_system_file(entry.id):
        yield Excluded(entry, "system_file", "left in the folder by an operating system")
    elif entry.problem:  # a link that leads nowhere: it may have been an image
        yield Record(entry, -1)
    elif has_image_suffix(entry.id):
        yield Excluded(entry, rule, detail)
    else:  # a README, a list, an archive in a subfolder
        yield Excluded(entry, "not_data", "no image by its name, and in no folder of images")


class Place(NamedTuple):
    """What the folders on a file's path say."""

    label: int  # -1 if they contradict each other
    split: str  # "" where there is none
    category: str


class FolderLayout:
    """Reads `<split>/<category>/<class>/**`, where split and category may be missing, below any wrapping folders.

    What a folder means is decided over the whole source: folders that all images share say nothing; `nature` and `ai`
    are classes only where there is no pair of `real` and `fake`; `train` is a split only where there is another split,
    else it may be what the pictures show.

    Args:
      ids: of every file.
    """

    def __init__(self, ids: Iterable[str]):
        folders = {tuple(id.split("/")[:-1]) for id in ids}
        folders = {folder for folder in folders if not is_system_file("/".join((*folder, "")))}
        names = {name.lower() for folder in folders for name in folder}
        pairs = [pair for pair in _CLASS_PAIRS if names.issuperset(pair)]
        self.has_classes = bool(pairs)  # both, by names that belong together
        is_clear = any(not _PICTURED.issuperset(pair) for pair in pairs)
        class_names = _CLASS_FOLDERS.keys() - _PICTURED if is_clear else _CLASS_FOLDERS
        self._labels = {name: LABELS.index(_CLASS_FOLDERS[name]) for name in class_names}
        classes = {folder: self._classes(folder) for folder in folders}
        above = [folder[: found[-1]] for folder, found in classes.items() if found]
        self._num_wrapping = _length_of_common_beginning(above)
        inside = [folder[self._num_wrapping :] for folder, found in classes.items() if found]
        self.has_splits = len({_first_split(folder) for folder in inside} - {""}) > 1
        kept = [folder for folder in inside if _first_split(folder) or not self.has_splits]
        self.categories = {self._category(folder) for folder in kept}
        self.has_categories = len(self.categories) > 1
        self._places: dict[str, Place | None] = {}

    def place(self, id: str) -> Place | None:
        """What the folders of a file say; None if it lies in no class folder."""
        folder = id.rpartition("/")[0]
        if folder not in self._places:
            self._places[folder] = self._place(tuple(folder.split("/"))[self._num_wrapping :])
        return self._places[folder]

    def __str__(self) -> str:
        return "<split>/" * self.has_splits + "<category>/" * self.has_categories + "<class>/"

    def _place(self, folder: tuple[str, ...]) -> Place | None:
        labels = {self._labels[folder[index].lower()] for index in self._classes(folder)}
        if not labels:
            return None
        return Place(
            labels.pop() if len(labels) == 1 else -1,
            _first_split(folder) if self.has_splits else "",
            self._category(folder) if self.has_categories else "",
        )

    def _classes(self, folder: tuple[str, ...]) -> list[int]:
        """Where class folders are on a path, outermost first."""
        return [index for index, name in enumerate(folder) if name.lower() in self._labels]

    def _category(self, folder: tuple[str, ...]) -> str:
        """The folder directly above the class folder, unless it is a split."""
        index = self._classes(folder)[0]
        is_split = self.has_splits and index > 0 and split_of(folder[index - 1])
        return folder[index - 1] if index > 0 and not is_split else ""


def _first_split(folder: tuple[str, ...]) -> str:
    return next((split for name in folder if (split := split_of(name))), "")


def _length_of_common_beginning(folders: list[tuple[str, ...]]) -> int:
    """How many leading folders all paths share."""
    shortest, longest = min(folders, default=()), max(folders, default=())  # in order of name: the two most unlike
    pairs = zip(shortest, longest, strict=False)
    return next((index for index, (first, last) in enumerate(pairs) if first != last), min(len(shortest), len(longest)))


def place_by_folders(source: Source, group_of: Callable[[str], str] = lambda id: "") -> Iterator[Record | Excluded]:
    """Describes images by the folders that they lie in, and says which layout was found.

    Args:
      source: of the images.
      group_of: the group of an image, from its id.
    """
    layout = FolderLayout(source.ids())
    say(f"the source is laid out as {layout}")
    for entry in source.entries():
        place = layout.place(entry.id)
        if place is None or is_system_file(entry.id):
            yield from unlabelled(entry)
        elif layout.has_splits and not place.split:
            yield Excluded(entry, "outside_splits", "an image that lies in none of the splits' folders")
        elif place.label < 0:
            yield contradiction(entry, "the image lies in class folders of both classes")
        else:
            yield Record(entry, place.label, place.category, group_of(entry.id), split=place.split)
