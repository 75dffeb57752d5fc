"""Checks of labels, styles and arrays, which have one entry per row."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import real_array, refuse_nan
from unlearn_jax.figures.style import Kind, RowStyle, row_styles
from unlearn_jax.types import InputError


def check_styles(
    labels: Sequence[str], styles: Sequence[RowStyle] | None
) -> Sequence[RowStyle]:
    """Return a style for each label.

    Args:
      labels: labels of the rows.
      styles: styles of the rows; None if all rows are methods.

    Raises:
      InputError: no rows, a single string instead of a list, or numbers of labels and
        styles that differ.
    """
    if isinstance(labels, str):
        raise InputError(f"labels is the text {labels!r}: pass a list, a label per row")
    if not len(labels):
        raise InputError("labels is empty: pass at least one row")
    if styles is None:
        methods: list[Kind] = ["method"] * len(labels)
        return row_styles(methods)
    check_count("styles", len(styles), len(labels))
    return styles


def check_count(name: str, count: int, num_rows: int) -> None:
    """Raise unless an argument has an entry for each row.

    Args:
      name: name of the argument.
      count: number of its entries.
      num_rows: number of rows of the figure.

    Raises:
      InputError: the counts differ.
    """
    if count != num_rows:
        raise InputError(f"{name} has {count} entries for {num_rows} labels")


def samples(name: str, rows: Sequence[ArrayLike], num_rows: int) -> list[np.ndarray]:
    """Return the numbers of each row as a flat array, with several runs pooled.

    Args:
      name: name of the argument.
      rows: an array of any shape per row, such as ``[R, N]``; infinities are allowed.
      num_rows: number of rows of the figure.

    Raises:
      InputError: not exactly one array per row, no numbers, or NaN.
    """
    check_count(name, len(rows), num_rows)
    flat = [np.ravel(np.asarray(row)) for row in rows]
    for i, row in enumerate(flat):
        flat[i] = real_array(f"{name}[{i}]", row, ndim=(1,))
        refuse_nan(f"{name}[{i}]", flat[i])
    return flat
