"""Digest of the code that decides an experiment's numbers."""

import ast
import hashlib
import pathlib
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from unlearn_jax.pipeline.published import folder

_MEASURING = ("config", "stages", "measure", "tuning.py")
"""Parts of ``pipeline`` that decide numbers; the others store and show them."""
_NOT_MEASURING = (
    "cli.py",
    "__main__.py",
    "contrib",
    "studies",
    "experiments",
    "figures",
)
"""Parts of the package that decide no numbers, or only those of some experiments."""


def code_digest(name: str, root: pathlib.Path | None = None) -> str:
    """Return a digest of the code that decides an experiment's numbers.

    It covers the library, the folders of the pipeline that plan, train and measure,
    the experiment's own file, and, if that file imports a study, the study's folder and
    ``contrib``. Docstrings, comments and layout do not count.

    Args:
      name: of the preset or benchmark.
      root: of a checkout; this package and its experiments if None.
    """
    package = root / "unlearn_jax" if root else pathlib.Path(__file__).parents[1]
    experiments = root / "experiments" if root else folder().parent
    files = [path for path in sorted(package.rglob("*.py")) if _decides(path, package)]
    for file in (f"{name}.py", f"benchmarks/{name}.py"):
        script = experiments / file
        if script.is_file():
            files.append(script)
            source = script.read_text(encoding="utf-8")
            studies = re.findall(r"unlearn_jax\.studies\.(\w+)", source)
            studies += re.findall(r"unlearn_jax\.studies import (\w+)", source)
            for study in sorted(set(studies)):
                files += sorted((package / "studies" / study).glob("*.py"))
            if studies:
                files += sorted((package / "contrib").rglob("*.py"))
    digest = hashlib.sha256()
    for file in files:
        place = experiments if file.is_relative_to(experiments) else package
        digest.update(str(file.relative_to(place)).encode())
        digest.update(_file_digest(file, file.stat().st_mtime_ns))
    return digest.hexdigest()[:12]


def _decides(path: pathlib.Path, package: pathlib.Path) -> bool:
    """Return whether a file of the package decides numbers of every experiment."""
    room, *rest = path.relative_to(package).parts
    if room == "pipeline":
        return rest[0] in _MEASURING
    return room not in _NOT_MEASURING


@cache
def _file_digest(file: pathlib.Path, changed: int) -> bytes:
    """Return a file's digest, computed once per change of the file."""
    del changed
    return source_digest(file.read_text(encoding="utf-8"))


def source_digest(source: str) -> bytes:
    """Return a digest of a module's syntax, without docstrings, comments and layout.

    Args:
      source: Python.

    >>> source_digest("x = 1  # one") == source_digest("'Module.'; x = (1)")
    True
    >>> source_digest("x = 1") == source_digest("x = 2")
    False
    """
    return hashlib.sha256("\n".join(_syntax(ast.parse(source))).encode()).digest()


def _syntax(node: Any) -> Iterator[str]:
    """Yield a tree's fields, empty ones left out: the same on every Python."""
    if isinstance(node, ast.AST):
        yield type(node).__name__
        for name, value in ast.iter_fields(node):
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
