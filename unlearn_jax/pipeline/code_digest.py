"""Digest of the code that decides an experiment's numbers."""

import ast
import hashlib
import inspect
import pathlib
import re
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from typing import Any

from unlearn_jax.methods import METHODS
from unlearn_jax.pipeline import presets
from unlearn_jax.pipeline.config.schema import RunConfig
from unlearn_jax.pipeline.published import folder
from unlearn_jax.pipeline.store.fingerprint import held_values
from unlearn_jax.types import UnlearnFn

_MEASURING = ("config", "stages", "measure", "tuning.py")
"""Parts of ``pipeline`` that decide numbers; the others store and show them."""
_NOT_MEASURING = (
    "cli.py",
    "runtime.py",
    "__main__.py",
    "contrib",
    "ensembles",
    "studies",
    "experiments",
    "figures",
    "models/flops.py",
    "pipeline/measure/records.py",
    "targets/hlo.py",
    "targets/roofline.py",
)
"""Parts of the package that decide no numbers, or only those of some experiments."""
_UNUSED_ANNOTATIONS = {
    (ast.arg, "annotation"),
    (ast.AsyncFunctionDef, "returns"),
    (ast.FunctionDef, "returns"),
}
"""Annotations that only type checkers read; those of dataclass fields set types."""
_NAMES_METHODS = r"unlearn_jax\.methods|unlearn_jax import .*\bmethods\b"


def code_digest(name: str, root: pathlib.Path | None = None) -> str:
    """Return a digest of the code that decides an experiment's numbers.

    It covers the library, the parts of the pipeline that plan, train and measure, the
    experiment's own file, the folders of the studies that it imports, and the modules
    of ``contrib`` and ``ensembles`` that these name. Files of methods that the
    experiment does not use are left out. Docstrings, comments, layout, annotations of
    functions and texts of errors do not count.

    Args:
      name: name of the preset or benchmark.
      root: root of a checkout, of which the files of all methods count. None takes this
        package and its experiments.
    """
    package = root / "unlearn_jax" if root else pathlib.Path(__file__).parents[1]
    experiments = root / "experiments" if root else folder().parent
    own_files = _own_files(name, package, experiments)
    unused = set() if root else _unused_methods(name, own_files, package)
    files = [path for path in sorted(package.rglob("*.py")) if _decides(path, package)]
    files = [path for path in files if path not in unused]
    digest = hashlib.sha256()
    for file in [*files, *own_files]:
        place = experiments if file.is_relative_to(experiments) else package
        digest.update(str(file.relative_to(place)).encode())
        digest.update(_file_digest(file, file.stat().st_mtime_ns))
    return digest.hexdigest()[:12]


def _own_files(
    name: str, package: pathlib.Path, experiments: pathlib.Path
) -> list[pathlib.Path]:
    """Return an experiment's script, its studies, and other modules that they name."""
    files = []
    for file in (f"{name}.py", f"benchmarks/{name}.py"):
        script = experiments / file
        if script.is_file():
            files.append(script)
            source = script.read_text(encoding="utf-8")
            studies = re.findall(r"unlearn_jax\.studies\.(\w+)", source)
            studies += re.findall(r"unlearn_jax\.studies import (\w+)", source)
            for study in sorted(set(studies)):
                files += sorted((package / "studies" / study).glob("*.py"))
    source = "".join(file.read_text(encoding="utf-8") for file in files)
    for part in (*sorted((package / "contrib").glob("*")), package / "ensembles"):
        if re.search(rf"\b{part.stem}\b", source):
            files += sorted(part.rglob("*.py")) if part.is_dir() else [part]
    return files


def _decides(path: pathlib.Path, package: pathlib.Path) -> bool:
    """Return whether a file of the package decides numbers of every experiment."""
    place = path.relative_to(package)
    part, *rest = place.parts
    if place.as_posix() in _NOT_MEASURING:
        return False
    return rest[0] in _MEASURING if part == "pipeline" else part not in _NOT_MEASURING


def _unused_methods(
    name: str, own_files: Sequence[pathlib.Path], package: pathlib.Path
) -> set[pathlib.Path]:
    """Return the files of methods and targets that an experiment does not use.

    A run uses the methods of its rows and the methods that their files import. Any
    other experiment that names methods may use all of them.

    Args:
      name: name of the preset or benchmark.
      own_files: files of :func:`_own_files`.
      package: folder of this package.
    """
    targets = package / "pipeline" / "measure" / "targets.py"
    optional = {targets}
    for method in METHODS.values():
        optional |= _files_of(method)
    configs: Collection[RunConfig] = ()
    if name in presets.names():
        configs = presets.load(name).variants.values()
    if not configs:
        sources = "".join(file.read_text(encoding="utf-8") for file in own_files)
        return set() if re.search(_NAMES_METHODS, sources) else optional
    used = set()
    for config in configs:
        if config.audit.targets:
            used.add(targets)
        for row in config.rows.values():
            used |= _files_of(row.method)
    waiting = list(used)
    while waiting:
        source = waiting.pop().read_text(encoding="utf-8")
        for module in re.findall(r"unlearn_jax\.methods\.(\w+) import", source):
            imported = package / "methods" / f"{module}.py"
            if imported not in used:
                used.add(imported)
                waiting.append(imported)
    return optional - used


def _files_of(method: UnlearnFn) -> set[pathlib.Path]:
    """Return the files that define a method and the values in its fields."""
    kinds = {type(item) for item in held_values(method)}
    return {pathlib.Path(inspect.getfile(kind)) for kind in kinds}


@cache
def _file_digest(file: pathlib.Path, changed: int) -> bytes:
    """Return a file's digest, cached until the file changes."""
    del changed
    return source_digest(file.read_text(encoding="utf-8"))


def source_digest(source: str) -> bytes:
    """Return a digest of the parts of a module's syntax that can decide numbers.

    Docstrings, comments, layout, annotations of functions and texts of errors do not
    count.

    Args:
      source: Python code.

    >>> source_digest("x = 1  # one") == source_digest("'Module.'; x = (1)")
    True
    >>> source_digest("raise OSError('no')") == source_digest("raise OSError('-')")
    True
    >>> source_digest("x = 1") == source_digest("x = 2")
    False
    """
    return hashlib.sha256("\n".join(_syntax(ast.parse(source))).encode()).digest()


def _syntax(node: Any) -> Iterator[str]:
    """Yield a tree's fields that are not empty: the same on every Python version."""
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
            if (type(node), name) in _UNUSED_ANNOTATIONS:
                continue
            if isinstance(node, ast.Raise) and isinstance(value, ast.Call):
                # what is raised decides which handler runs; its text decides nothing
                yield name
                yield from _syntax(value.func)
                continue
            if name == "body" and isinstance(value, list):
                value = [line for line in value if not _is_text(line)]
            if isinstance(node, ast.JoinedStr):
                # Python 3.12 ends some of them with an empty string
                value = [part for part in value if not _is_empty(part)]
            if value is not None and value != [] and name not in ("kind", "ctx"):
                yield name
                yield from _syntax(value)
    elif isinstance(node, list):
        for item in node:
            yield from _syntax(item)
        yield "end"
    else:
        yield repr(node)


def _is_empty(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value == ""


def _is_text(node: ast.AST) -> bool:
    """Return True for a statement that is a docstring."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )
