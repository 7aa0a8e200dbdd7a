"""What a fresh clone relies on: pinned versions, make's targets, and a README whose commands exist."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from readme_tree import BEGIN, END, ROOMS, tree

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()
TARGETS = ("demo", "test", "test-long", "lint", "ui", "cluster-up", "cluster-down", "clean")


def pins() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)", line)
        assert match, f"not a plain pin: {line!r}"
        found[canonicalize_name(match[1])] = match[2]
    assert len(found) == len(lines) > 100
    return found


def test_every_requirement_is_pinned_to_a_version_it_admits():
    extras = [name for group in PROJECT["optional-dependencies"].values() for name in group]
    for text in PROJECT["dependencies"] + extras:
        requirement = Requirement(text)
        version = pins()[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text} is pinned to {version}"


def imported(*folders: str) -> set[str]:
    """Top-level modules from elsewhere that the files of these folders import, wherever in a file."""
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    names = set()
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    ours = {path.stem for folder in (*ROOMS, "tests", "benchmarks") for path in (ROOT / folder).glob("*.py")}
    return names - set(sys.stdlib_module_names) - ours - {*ROOMS, "tests", "benchmarks"}


def test_every_package_that_is_imported_is_a_requirement():
    """Those of benchmarks/ are not looked at: Flask and aiohttp are measured against, as what MLflow and Ray bring."""
    packages = importlib.metadata.packages_distributions()
    declared = set(PROJECT["dependencies"])
    for folders, more in ((ROOMS, ()), (("tests",), PROJECT["optional-dependencies"]["dev"])):
        names = {canonicalize_name(Requirement(text).name) for text in declared | set(more)}
        missing = {
            module
            for module in imported(*folders)
            if not names & {canonicalize_name(package) for package in packages[module]}
        }
        assert not missing, f"{folders} import what pyproject.toml does not name"


def test_the_licence_is_the_one_declared():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Apache License\n                           Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text


def make(*arguments: str) -> subprocess.CompletedProcess:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    # Not the settings of a make that runs these tests.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_make_alone_lists_every_target_in_a_line():
    run = make()
    assert run.returncode == 0
    listed = dict(re.findall(r"^  make ([a-z-]+) +(\S.*)$", run.stdout, flags=re.MULTILINE))
    assert set(TARGETS) <= set(listed)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert phony is not None
    assert set(listed) == set(phony[1].split())


def test_an_unsuitable_python_is_refused_in_a_sentence(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "constraints.txt").touch()
    run = make("-C", str(tmp_path), "install", "PYTHON=no-such-python")
    assert run.returncode != 0
    assert "realshard needs Python 3.11, 3.12 or 3.13 with its venv module, found: no-such-python." in run.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_path_with_spaces_is_refused_before_anything_is_installed(tmp_path):
    """Ray could not start its workers from there."""
    folder = tmp_path / "my projects"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    run = make("-C", str(folder), "install")
    assert run.returncode != 0
    assert f"path without spaces, since Ray cannot start its workers from one, received: {folder}." in run.stderr
    assert not (folder / ".venv").exists()


def test_extras_are_installed_when_they_are_asked_for_and_kept_from_then_on(tmp_path):
    def installed(*arguments: str) -> list[str]:
        """The extras of each installation that make would do."""
        return re.findall(r"--editable '\.\[(.*)\]'", make("-n", "-C", str(tmp_path), "install", *arguments).stdout)

    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    assert installed() == ["dev"]
    stamp = tmp_path / ".venv" / ".installed"
    stamp.parent.mkdir()
    stamp.write_text("dev\n")
    assert installed() == []
    assert installed("EXTRAS=dev,gpu") == ["dev,gpu"]
    stamp.write_text("dev,gpu\n")
    assert installed() == installed("EXTRAS=dev,gpu") == []
    os.utime(stamp, (0, 0))  # pyproject.toml has changed since
    assert installed() == ["dev,gpu"]


def test_the_readme_names_only_targets_that_exist():
    listed = set(re.findall(r"^  make ([a-z-]+)", make().stdout, flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", README)) | set(re.findall(r"^make ([a-z-]+)", README, flags=re.M))
    assert {"demo", "test", "ui", "cluster-up", "cluster-down"} <= named
    assert named <= listed


def test_the_tree_in_the_readme_names_every_file():
    """`make format` renews it."""

    def names(lines: str) -> list[str]:
        """Each line up to its words, so with its depth."""
        return [re.match(r" *\S+", line)[0] for line in lines.splitlines() if line]

    written = README.split(BEGIN)[1].split(END)[0]
    assert names(written) == names(tree())
    for line in written.splitlines():
        assert len(line.split(maxsplit=1)) == 2, f"no word about {line}"


def test_a_job_is_sent_the_source_and_no_data(tmp_path):
    """What `ray job submit --working-dir .` packs, by Ray's own packer."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    checkout, package = tmp_path / "realshard", tmp_path / "package.zip"
    data = (
        "data/images/real/a.png",
        "data/datasets/faces/1.1.0/faces-train.tfrecord-00000-of-00001",
        "runs/demo/a.png",
    )
    for name in ("trainers/resnet.py", "cluster/page/page.js", ".venv/bin/python", *data):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).touch()
    shutil.copy(ROOT / ".gitignore", checkout)
    excludes = get_runtime_env_default_excludes()
    create_package(str(checkout), package, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(package) as packed:
        files = {name for name in packed.namelist() if not name.endswith("/")}
    assert files == {".gitignore", "trainers/resnet.py", "cluster/page/page.js"}


def test_the_readme_links_to_files_that_exist():
    links = set(re.findall(r"\]\(([^)#:]+)\)", README))
    assert {"CONTRIBUTING.md", "DECISIONS.md", "cluster/README.md"} <= links
    assert not {link for link in links if not (ROOT / link).exists()}


def test_the_readme_runs_only_modules_that_exist():
    named = set(re.findall(r"python -m ((?:tfds_builders|trainers|cluster)[a-z_.]*)", README))
    assert "trainers.predict" in named
    for module in named:
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
