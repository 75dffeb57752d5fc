"""Shared by the studies: types of what they store, and the legend of their figures."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from unlearn_jax.figures.style import INK
from unlearn_jax.types import PyTree, Variables

Arrays = Mapping[str, np.ndarray]
"""Content of an artifact."""

Artifacts = Mapping[str, Arrays]
"""Content of all artifacts of a study, by name."""


def variables_of(tree: PyTree) -> Variables:
    """Return stored variables, which are read back as dictionaries."""
    return Variables(tree["params"], tree.get("state", {}))


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
      figure: to add to.
      handles: labelled artists, or the panel that has them.
      place: of the legend, such as ``upper left``.
      columns: of the legend.
      size: of the letters.
      title: of the legend.
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
