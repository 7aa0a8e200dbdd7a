"""Which code made a model: the files' hash always, the commit where it is that of these files."""

import shutil
import subprocess
from pathlib import Path

import pytest

from trainers import source_code
from trainers.source_code import source_tags

MODULES = ("trainers/a.py", "cluster/page/b.py", "tfds_builders/c.py")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    run = subprocess.run(["git", "-C", folder, *identity, *arguments], capture_output=True, text=True, check=True)
    return run.stdout.strip()


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A repository of three modules, all committed."""
    folder = tmp_path / "checkout"
    for module in MODULES:
        (folder / module).parent.mkdir(parents=True)
        (folder / module).write_text(module)
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


@pytest.fixture
def copy(checkout, monkeypatch) -> Path:
    """What `ray job submit --working-dir` makes of it, on a head of that checkout."""
    monkeypatch.setenv(source_code.CHECKOUT, str(checkout))
    return shutil.copytree(checkout, checkout.parent / "copy", ignore=shutil.ignore_patterns(".git"))


def dirty(folder: Path) -> str:
    return source_tags(folder)["realshard.source_dirty"]


def test_a_checkout_names_its_commit_and_whether_it_is_clean(checkout):
    tags = source_tags(checkout)
    assert tags["realshard.source_commit"] == tags["mlflow.source.git.commit"] == git(checkout, "rev-parse", "HEAD")
    assert dirty(checkout) == "false"
    (checkout / "notes.txt").write_text("not code")
    assert dirty(checkout) == "false"
    (checkout / MODULES[0]).write_text("changed")
    assert dirty(checkout) == "true"
    assert source_tags(checkout)["realshard.source_hash"] != tags["realshard.source_hash"]


@pytest.mark.parametrize("is_ignored", [False, True])
def test_a_module_that_was_never_added_makes_a_checkout_dirty(checkout, is_ignored):
    if is_ignored:
        (checkout / ".git" / "info" / "exclude").write_text("new.py\n")
    (checkout / "trainers" / "new.py").write_text("")
    assert dirty(checkout) == "true"


def test_a_copy_is_at_the_commit_of_the_checkout_it_equals(checkout, copy):
    assert source_tags(copy) == source_tags(checkout)


def test_of_a_copy_that_differs_the_commit_is_said_to_be_unknown(checkout, copy):
    (checkout / MODULES[0]).write_text("changed after it was copied")
    tags = source_tags(copy)
    assert tags["realshard.source_commit"] == "unknown"
    assert "mlflow.source.git.commit" not in tags
    assert len(tags["realshard.source_hash"]) == 64


def test_a_copy_in_somebody_elses_repository_names_no_commit(copy, monkeypatch):
    monkeypatch.delenv(source_code.CHECKOUT)
    git(copy.parent, "init", "--quiet")
    assert source_tags(copy)["realshard.source_commit"] == "unknown"


def test_this_repository_is_known(repository):
    if not (repository / ".git").exists():
        pytest.skip("not a git checkout")
    assert source_tags()["realshard.source_commit"] == git(repository, "rev-parse", "HEAD")
