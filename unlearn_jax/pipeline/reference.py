"""API reference: HTML pages of every public module, made from docstrings by pdoc."""

import builtins
import os
import pathlib
import re
from typing import Any

import chex

from unlearn_jax.types import InputError

_BORDER = re.compile(r" *=+( +=+)+ *")


def render_reference(to: str | os.PathLike[str]) -> pathlib.Path:
    """Render the API reference.

    Args:
      to: folder to write to.

    Returns:
      The first page.

    Raises:
      InputError: pdoc is not installed.
    """
    try:
        from pdoc import docstrings, pdoc, render
    except ImportError as error:
        raise InputError("docs needs pdoc: pip install '.[docs]'") from error
    folder = pathlib.Path(os.path.expanduser(to))
    convert = docstrings.convert
    names: Any = builtins
    # optax.OptState names chex's ArrayTree as a string, in a module that does not
    # define it.
    names.ArrayTree = chex.ArrayTree
    docstrings.convert = lambda text, *rest: convert(readable(text), *rest)
    try:
        render.configure(docformat="google", math=True, show_source=False)
        pdoc("unlearn_jax", output_directory=folder)
    finally:
        docstrings.convert = convert
        del names.ArrayTree
    return folder / "index.html"


def readable(docstring: str) -> str:
    r"""Return a docstring whose tables and shortened references pdoc understands.

    A table between lines of ``===`` becomes a block of code. The tilde that shortens a
    reference is removed.

    Args:
      docstring: docstring without its indentation.

    >>> print(readable("==  ==\n1   2\n==  ==\n:func:`~a.b`"))
    ```text
    1   2
    ```
    :func:`a.b`
    """
    lines = docstring.replace(":`~", ":`").split("\n")
    borders = [i for i, line in enumerate(lines) if _BORDER.fullmatch(line)]
    tables = _tables(lines, borders)
    out = []
    for i, line in enumerate(lines):
        inside = [table for table in tables if table[0] <= i <= table[1]]
        if not inside:
            out.append(re.sub("::$", ":", line))
            continue
        first, last = inside[0]
        margin = re.match(" *", lines[first])
        indent = margin[0] if margin else ""
        if i == first:
            out.append(f"{indent}```text")
        elif i == last:
            out.append(f"{indent}```")
        elif i not in borders:
            out.append(re.sub("``(.+?)``", r"\1    ", line))
    return "\n".join(out)


def _tables(lines: list[str], borders: list[int]) -> list[tuple[int, int]]:
    """Return the first and last line of each table; an empty line ends a table."""
    tables = []
    start = None
    for i in borders:
        if start is None:
            start = i
        elif i + 1 == len(lines) or not lines[i + 1].strip() or len(borders) == 2:
            tables.append((start, i))
            start = None
    return tables
