"""Types of stored arrays, cells of tables and a figure legend of all studies."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from unlearn_jax.audit import Estimate, summarize_runs
from unlearn_jax.figures.style import INK
from unlearn_jax.types import InputError, PyTree, Variables

PERCENT = (0.0, 100.0)
"""Bounds of a percentage."""

Arrays = Mapping[str, np.ndarray]
"""Arrays of one artifact, by name."""

Artifacts = Mapping[str, Arrays]
"""Arrays of all artifacts of a study, by artifact name."""


def variables_of(tree: PyTree) -> Variables:
    """Return ``Variables`` from a stored tree, which is read back as dictionaries."""
    return Variables(tree["params"], tree.get("state", {}))


def check_distinct(**lists: Sequence[Any]) -> None:
    """Raise on lists that are empty or name something twice, such as a seed.

    Args:
      **lists: lists by name.

    Raises:
      InputError: such a list; the message names it.
    """
    for name, given in lists.items():
        if not given or len(set(given)) < len(given):
            raise InputError(
                f"{name} must have at least one value, all different, got"
                f" {tuple(given)}"
            )


def check_seeds(seeds: Sequence[int]) -> None:
    """Raise unless there are two seeds or more, all different.

    Raises:
      InputError: other seeds.
    """
    if len(set(seeds)) < 2 or len(set(seeds)) < len(seeds):
        raise InputError(
            f"seeds are {seeds}: give at least two, all different, because intervals"
            " need them"
        )


def check_rising(**lists: Sequence[float]) -> None:
    """Raise unless lists hold fractions between 0 and 1 that ascend.

    Args:
      **lists: lists by name.

    Raises:
      InputError: another list, or an empty one; the message names it.
    """
    for name, given in lists.items():
        is_rising = all(
            before < after for before, after in pairwise((0.0, *given, 1.0))
        )
        if not given or not is_rising:
            raise InputError(
                f"{name} must ascend and lie between 0 and 1, at least one value, got"
                f" {tuple(given)}"
            )


def summarize_finite(
    values: np.ndarray,
    summarize: Callable[..., Estimate] = summarize_runs,
    **options: Any,
) -> Estimate | str:
    """Return the summary of runs, or the number of those that diverged.

    Args:
      values: values of all runs.
      summarize: function of finite values.
      **options: its other arguments, such as ``bounds``.
    """
    num_diverged = int((~np.isfinite(values)).sum())
    if num_diverged:
        return f"diverged {num_diverged} of {np.size(values)}"
    return summarize(values, **options)


def summarize_cut(values: np.ndarray, *, bounds: tuple[float, float]) -> Estimate:
    """Return the summary of runs, with an interval that is cut off at bounds.

    Estimates of a value may be outside its bounds themselves, as those of a divergence
    are; the interval then reaches their mean.

    Args:
      values: finite values of all runs.
      bounds: smallest and largest value that is possible.
    """
    estimate = summarize_runs(values)
    return estimate._replace(
        low=max(estimate.low, min(estimate.mean, bounds[0])),
        high=min(estimate.high, max(estimate.mean, bounds[1])),
    )


def summarize_distance(values: np.ndarray) -> Estimate | str:
    """Return the summary of a distance, with an interval that is cut off at 0."""
    return summarize_finite(values, summarize_cut, bounds=(0.0, math.inf))


def is_above_zero(values: np.ndarray) -> bool:
    """Return whether the interval of the mean over runs is above 0."""
    return bool(np.isfinite(values).all() and summarize_runs(values).low > 0)


def in_words(estimate: Estimate, form: str) -> str:
    """Return a mean with its interval in brackets, or alone if it has none.

    Args:
      estimate: mean and interval.
      form: format of the numbers, such as ``.1f``.
    """
    if np.isnan(estimate.low):
        return f"{estimate.mean:{form}}"
    return f"{estimate.mean:{form}} [{estimate.low:{form}}, {estimate.high:{form}}]"


def legend(
    figure: Figure,
    handles: Sequence[Artist] | Axes,
    *,
    place: str = "upper left",
    columns: int = 3,
    size: float = 9.0,
    title: str = "",
) -> Legend:
    """Add a legend outside the panels of a figure.

    Args:
      figure: figure that receives the legend.
      handles: labeled artists, or the panel that contains them.
      place: position of the legend, such as ``upper left``.
      columns: number of columns of the legend.
      size: font size of the labels.
      title: title of the legend.
    """
    if isinstance(handles, Axes):
        handles = handles.get_legend_handles_labels()[0]
    made = figure.legend(
        handles=handles,
        loc=cast(Any, f"outside {place}"),
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        fontsize=size,
    )
    if title:
        made.set_title(title)
        made.get_title().set(color=INK, fontsize=9.5)
    return made
