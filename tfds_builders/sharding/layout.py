"""How sources name their files and class folders."""

from tfds_builders.records.schema import LABELS

# Folder names that tell the class, as they were met in published sets, lower case.
_CLASS_FOLDERS = {
    "real": "real", "0_real": "real", "nature": "real",
    "fake": "fake", "1_fake": "fake", "ai": "fake",
}  # fmt: skip
_SYSTEM_FILES = {".ds_store", "thumbs.db", "desktop.ini"}
_IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp", ".tif", ".tiff",
)  # fmt: skip


def label_of_folder(name: str) -> int | None:
    """The label that a class folder stands for, whatever its case; None for any other folder."""
    found = _CLASS_FOLDERS.get(name.lower())
    return None if found is None else LABELS.index(found)


def class_folder(id: str) -> tuple[list[str], int] | None:
    """The folders above the innermost class folder on the path, and its label; None if there is no class folder."""
    folders = id.split("/")[:-1]  # a dozen times faster than pathlib, and called for every file
    for index in range(len(folders) - 1, -1, -1):
        label = label_of_folder(folders[index])
        if label is not None:
            return folders[:index], label
    return None


def is_system_file(id: str) -> bool:
    """Files that operating systems leave in folders, which nobody means as data."""
    name = id.rpartition("/")[2].lower()
    return name in _SYSTEM_FILES or name.startswith("._") or id.startswith("__MACOSX/") or "/__MACOSX/" in id


def has_image_suffix(id: str) -> bool:
    """Whether the file is named like an image."""
    return id.lower().endswith(_IMAGE_SUFFIXES)
