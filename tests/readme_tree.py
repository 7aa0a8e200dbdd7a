"""The README's tree: a line a file, from the first line of each module's docstring. `make format` renews it.

python tests/readme_tree.py
"""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("tfds_builders", "trainers", "cluster")
BEGIN, END = "<!-- tree -->\n```\n", "```\n<!-- end of tree -->"
_WIDTH = 28
# What has no docstring, and what needs no line for each of its files.
_BEFORE = {
    "Makefile": "the commands; `make` alone lists them",
    "pyproject.toml": "dependencies, and the settings of ruff, mypy and pytest",
    "constraints.txt": "the version of every package",
    ".ci/run": "what a change must pass",
    ".ci/debian-packages": "what the long tests need besides Python packages",
    "CONTRIBUTING.md": "tests, style, how to add a dataset or a model",
    "DECISIONS.md": "what was decided, and the measurement behind it",
    "CHANGELOG.md": "what has changed",
}
_AFTER = {
    "tests/": "named after the module they test; conftest.py has what they share",
    "benchmarks/": "the measurements behind docs/benchmarks.md and DECISIONS.md",
}


def _line(depth: int, name: str, text: str) -> str:
    return f"{'  ' * depth + name:<{_WIDTH}} {text}"


def _summary(module: Path) -> str:
    lines = (ast.get_docstring(ast.parse(module.read_text())) or "").splitlines()
    return lines[0] if lines else ""


def _folder(folder: Path, depth: int) -> Iterator[str]:
    yield _line(depth, f"{folder.name}/", _summary(folder / "__init__.py"))
    if list(folder.glob("*_dataset_builder.py")):
        return  # a dataset: the folder that `tfds new` makes
    for below in sorted(path.parent for path in folder.glob("*/__init__.py")):
        yield from _folder(below, depth + 1)
    for module in sorted(folder.glob("*.py")):
        if module.name != "__init__.py":
            yield _line(depth + 1, module.name, _summary(module))


def tree() -> str:
    """The lines between the marks."""
    lines = [_line(0, name, text) for name, text in _BEFORE.items()]
    for room in ROOMS:
        lines += _folder(ROOT / room, 0)
    lines += [_line(0, name, text) for name, text in _AFTER.items()]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def with_tree(readme: str) -> str:
    """The README's text with the tree renewed."""
    before, rest = readme.split(BEGIN)
    return before + BEGIN + tree() + END + rest.split(END)[1]


if __name__ == "__main__":
    file = ROOT / "README.md"
    file.write_text(with_tree(file.read_text()))
