"""Which source code this is: a hash of its files, and the commit they are at where that can be told.

    source_tags()      # of a run or a model version

`ray job submit --working-dir .` copies the files and leaves .git out. Then the commit is that of the checkout which
`make cluster-up` was called in (REALSHARD_CHECKOUT), if its files are still the same; else it is unknown, and said so.
"""

import hashlib
import os
import subprocess
from pathlib import Path

CHECKOUT = "REALSHARD_CHECKOUT"  # environment variable, set by cluster/head.py
UNKNOWN = "unknown"
ROOT = Path(__file__).resolve().parents[1]
_ROOMS = ("tfds_builders", "trainers", "cluster")


def source_tags(root: Path = ROOT) -> dict[str, str]:
    """The hash of the source files under `root`, their commit or "unknown", and, of a commit, whether files differ."""
    own_hash = source_hash(root)
    tags = {"realshard.source_hash": own_hash}
    checkout = os.environ.get(CHECKOUT)
    git = _git_tags(root)
    if not git and checkout and source_hash(Path(checkout)) == own_hash:
        git = _git_tags(Path(checkout))
    return tags | (git or {"realshard.source_commit": UNKNOWN})


def source_hash(root: Path) -> str:
    """SHA-256 over the names and contents of the Python files of the rooms under `root`: 64 hex digits."""
    digest = hashlib.sha256()
    for name in sorted(_python_files(root)):
        digest.update(f"{name} {hashlib.sha256((root / name).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def _python_files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for room in _ROOMS for path in (root / room).rglob("*.py")}


def _git_tags(root: Path) -> dict[str, str]:
    """Empty where `root` is no git repository, or not the one that these files belong to."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

    try:
        tracked = set(git("ls-files", "-z").split("\0"))
        if not _python_files(root) & tracked:  # some repository that merely surrounds an installed copy
            return {}
        # A module that was never added is not in the commit either, be it ignored or not.
        is_dirty = bool(git("status", "--porcelain", "--untracked-files=no") or _python_files(root) - tracked)
        commit = git("rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return {}
    return {
        "realshard.source_commit": commit,
        "realshard.source_dirty": str(is_dirty).lower(),
        "mlflow.source.git.commit": commit,  # the name MLflow's UI knows
    }
