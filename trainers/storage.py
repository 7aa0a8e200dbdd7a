"""Where a dataset lies: a local folder, or an fsspec URL such as "s3://bucket/datasets/ai_vs_human/1.0.0".

location = locate("~/data")            # Path("/home/me/data")
location = locate("s3://bucket/data")  # the URL as it is
files, root = filesystem(location)
"""

import os
from pathlib import Path

import fsspec

Location = Path | str  # an absolute local path, or a URL without a slash at its end


def default_data_dir() -> str:
    """Where built datasets are looked for if nothing is said: TFDS_DATA_DIR, else TFDS's own folder."""
    return os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"


def is_remote(location: str | Path) -> bool:
    """Whether it is a URL: read through fsspec, in ranges of bytes."""
    return "://" in str(location)


def locate(given: str | Path) -> Location:
    """The absolute path of a local folder, `~` expanded; a URL stays one."""
    return str(given).rstrip("/") if is_remote(given) else Path(given).expanduser().absolute()


def join(location: Location, *names: str) -> Location:
    """A file or folder below it."""
    return "/".join([location, *names]) if isinstance(location, str) else location.joinpath(*names)


def filesystem(location: Location) -> tuple[fsspec.AbstractFileSystem, str]:
    """(its file system, its path there). Paths of files below it are `f"{path}/{name}"`.

    Raises:
      ImportError: the URL's protocol needs a package that is not installed; the message names it.
      ValueError: the protocol is not known.
    """
    if isinstance(location, Path):
        return fsspec.filesystem("file"), str(location)
    return fsspec.core.url_to_fs(location)


def sizes(location: Location, names: list[str]) -> dict[str, int]:
    """Bytes of each of these files below it; -1 for one that is not there."""
    files, root = filesystem(location)
    # One listing instead of a request a file, where listings say sizes (web servers' do not).
    folders = {f"{root}/{name}".rpartition("/")[0] for name in names}
    listed = {entry["name"]: entry.get("size") for folder in folders for entry in files.ls(folder, detail=True)}
    found = {}
    for name in names:
        path = f"{root}/{name}"
        size = listed.get(files._strip_protocol(path))
        try:
            found[name] = files.size(path) if size is None else size
        except FileNotFoundError:
            found[name] = -1
    return found
