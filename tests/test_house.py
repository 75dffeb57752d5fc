"""Imports go one way; Flax stays in models; TensorFlow and torch are not needed."""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

import unlearn_jax

ROOT = pathlib.Path(unlearn_jax.__file__).parent
FLOOR = {
    "lazy": 0,
    "types": 0,
    "checks": 1,
    "linalg": 1,
    "extensions": 1,
    "values": 1,
    "branching": 1,
    "reuse": 1,
    "data": 2,
    "onednn": 3,
    "targets": 3,
    "models": 4,
    "dataflow": 4,
    "layers": 5,
    "filters": 5,
    "spectral": 6,
    "losses": 7,
    "attacks": 8,
    "train": 9,
    "optimizers": 10,
    "transforms": 10,
    "objectives": 10,
    "replicas": 10,
    "influence": 10,
    "theory": 10,
    "audit": 11,
    "ensembles": 11,
    "methods": 11,
    "contrib": 12,
    "figures": 12,
    "pipeline": 13,
    "runtime": 14,
    "studies": 14,
    "cli": 15,
    "__main__": 16,
}
PIPELINE = ("config", "store", "stages", "measure", "report")
"""Folders of the pipeline; each imports itself and those before it only."""
FILES = sorted(
    p
    for p in ROOT.rglob("*.py")
    if p != ROOT / "__init__.py" and "experiments" not in p.parts
)


def room(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path):
    """Every module a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    rooms = {
        name.split(".")[1] for name in imported(path) if name.startswith("unlearn_jax.")
    }
    for other in (rooms & set(FLOOR)) - {room(path)}:
        assert FLOOR[other] < FLOOR[room(path)], (
            f"{path} imports {other}, which is not below it"
        )


def submodules(path, package):
    """Names right under ``package`` that a file imports from."""
    prefix = package + "."
    return {
        name.removeprefix(prefix).split(".")[0]
        for name in imported(path)
        if name.startswith(prefix)
    }


@pytest.mark.parametrize("folder", PIPELINE)
def test_pipeline_folders_import_only_those_before_them(folder):
    allowed = set(PIPELINE[: PIPELINE.index(folder) + 1])
    files = sorted((ROOT / "pipeline" / folder).rglob("*.py"))
    assert files
    for path in files:
        wrong = submodules(path, "unlearn_jax.pipeline") - allowed
        assert not wrong, f"{path} imports {wrong}"


def test_contrib_is_imported_by_studies_alone():
    for path in FILES:
        if room(path) not in ("contrib", "studies"):
            assert "contrib" not in submodules(path, "unlearn_jax"), path


def test_studies_are_imported_by_experiments_alone():
    for path in FILES:
        if room(path) != "studies":
            assert "studies" not in submodules(path, "unlearn_jax"), path


def test_every_module_has_a_level():
    assert {room(path) for path in FILES} <= set(FLOOR)


def test_flax_is_imported_by_models_alone_and_tfds_by_data():
    for path in FILES:
        tops = {name.split(".")[0] for name in imported(path)}
        assert "flax" not in tops or room(path) == "models", path
        assert "tensorflow_datasets" not in tops or room(path) == "data", path
        assert not tops & {"tensorflow", "torch", "torchvision"}, path


def test_the_audit_is_arrays_only():
    for path in FILES:
        if room(path) == "audit":
            rooms = {
                name.split(".")[1]
                for name in imported(path)
                if name.startswith("unlearn_jax.")
            }
            if path.name == "_shadow.py":  # evaluates models, for the audit of arrays
                rooms -= {"replicas", "train"}
            assert rooms <= {"audit", "checks", "extensions", "types", "losses"}, path


def test_factorizations_come_from_one_room():
    """As batches of jaxlib's own may wait for one another forever on CPU."""
    own = re.compile(
        r"(?:jnp|jax\.numpy|lax|jsp|scipy)\.linalg\."
        r"(?!norm|expm|solve_sylvester)|jax\.scipy\.linalg"
    )
    for path in FILES:
        if path.name != "linalg.py" and re.search(
            "import jax|from jax", path.read_text()
        ):
            assert own.search(path.read_text()) is None, path


def test_importing_everything_needs_neither_tensorflow_nor_torch():
    modules = [
        ".".join(("unlearn_jax", *p.relative_to(ROOT).with_suffix("").parts))
        for p in FILES
        if p.name != "__main__.py"
    ]
    code = f"""
import importlib, sys

class Refuse:
    def find_spec(self, name, *args):
        assert name not in ("tensorflow", "torch"), name + " is imported"

sys.meta_path.insert(0, Refuse())
for name in {modules!r}:
    importlib.import_module(name.removesuffix(".__init__"))
assert "tensorflow_datasets" not in sys.modules, "slow to import: only loaders need it"
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
