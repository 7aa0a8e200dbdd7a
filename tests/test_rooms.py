"""The direction of the design: builders -> files -> trainers -> MLflow, and cluster/ on top."""

import ast
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("tfds_builders", "trainers", "cluster")
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
EVERY_FILE = MODULES + sorted((ROOT / "tests").rglob("*.py")) + sorted((ROOT / "benchmarks").rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> set[str]:
    """The dotted names that a file imports anywhere in it; of `from a import b` both a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)} has a relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importing(package: str, room: str) -> dict[str, set[str]]:
    """{file of the room: what it imports from the package}, without the files that import nothing from it."""
    found = {}
    for path in MODULES:
        names = {name for name in imports(path) if name == package or name.startswith(f"{package}.")}
        if names and path.is_relative_to(ROOT / room):
            found[name_of(path)] = names
    return found


def test_the_walk_sees_the_rooms():
    rooms = [name_of(path).split("/")[0] for path in MODULES]
    assert all(rooms.count(room) >= 3 for room in ROOMS)
    assert "tfds_builders.records.errors.Refused" in imports(ROOT / "cluster" / "head.py")


def test_builders_know_nothing_of_trainers():
    assert importing("trainers", "tfds_builders") == {}


def test_trainers_know_only_the_format_of_the_builders():
    for path, names in importing("tfds_builders", "trainers").items():
        allowed = ("tfds_builders", "tfds_builders.records")  # the bare package: to find the room's files
        foreign = {name for name in names if name not in allowed and not name.startswith("tfds_builders.records.")}
        assert not foreign, f"{path} imports {foreign}"


def test_the_format_knows_no_other_room():
    for room in ROOMS:
        for path, names in importing(room, "tfds_builders/records").items():
            assert all(name.startswith("tfds_builders.records") for name in names), f"{path} imports {names}"


def test_importing_the_format_loads_nothing_heavy():
    """Writers run by the dozen, and a registered model carries the decoder: TensorFlow is 700 MB a process."""
    modules = [path for path in MODULES if path.is_relative_to(ROOT / "tfds_builders" / "records")]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in modules]
    heavy = ["tensorflow", "keras", "ray", "mlflow", "pandas", "sklearn"]
    program = f"import sys, {', '.join(names)}; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("room", ["tfds_builders", "trainers"])
def test_nobody_imports_cluster(room):
    assert importing("cluster", room) == {}


def test_mlflow_is_behind_one_file():
    """verdict.py is not the trainers': MLflow executes it inside the registered model."""
    users = {path for room in ROOMS for path in importing("mlflow", room)}
    assert users == {"trainers/tracking.py", "trainers/verdict.py"}


def test_only_keras_itself_is_imported():
    for path in EVERY_FILE:
        bad = {name for name in imports(path) if name.startswith(("tensorflow.keras", "tf_keras", "tensorflow.python"))}
        assert not bad, f"{name_of(path)} imports {bad}"
        for node in ast.walk(ast.parse(path.read_text())):
            is_tf_keras = isinstance(node, ast.Attribute) and node.attr == "keras" and isinstance(node.value, ast.Name)
            assert not (is_tf_keras and node.value.id in ("tf", "tensorflow")), f"{name_of(path)}:{node.lineno}"


def test_no_trainer_is_named_like_a_package():
    """Run as scripts, the trainers have their folder first on sys.path: there `ray.py` would hide Ray."""
    packages = {name.split(".")[0] for path in MODULES for name in imports(path)} - set(ROOMS)
    own = {path.stem for path in (ROOT / "trainers").glob("*.py")} | {
        path.name for path in (ROOT / "trainers").iterdir() if (path / "__init__.py").exists()
    }
    assert {"ray", "numpy", "json"} <= packages
    assert not own & packages


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_everything_public_says_what_it_does(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "the module has no docstring"
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_files_stay_small_enough_to_read():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in MODULES}
    assert {name: length for name, length in lengths.items() if length > 350} == {}


# What the packages that trainers/ needs import if it is there.
OPTIONAL = {
    "bottleneck",
    "numexpr",
    "numba",
    "cupy",
    "jax",
    "torch",
    "triton",
    "orjson",
    "ujson",
    "tqdm",
    "regex",
    "cv2",
}


@pytest.mark.parametrize("room", ["trainers", "cluster"])
def test_no_script_hides_a_package(room):
    """A script's folder comes first on the path: trainers/bottleneck.py would be pandas's optional `bottleneck`."""
    installed = {name for name in importlib.metadata.packages_distributions() if not name.startswith("_")}
    names = {path.stem for path in (ROOT / room).glob("*.py")} - {"__init__"}
    known = installed | OPTIONAL | set(sys.stdlib_module_names)
    assert not names & known
