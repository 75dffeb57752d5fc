"""Types of stored arrays and a figure legend, shared by the studies."""

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
"""Arrays of one artifact, by name."""

Artifacts = Mapping[str, Arrays]
"""Arrays of all artifacts of a study, by artifact name."""


def variables_of(tree: PyTree) -> Variables:
    """Return ``Variables`` from a stored tree, which is read back as dictionaries."""
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
