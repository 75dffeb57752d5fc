"""Figures from arrays, in the style of the report.

Each function takes labels and arrays, one of each per row, and returns a
:class:`matplotlib.figure.Figure`. A notebook shows it as the value of a cell;
``figure.savefig("roc.pdf")`` writes it to a file. The report uses the same functions.

:func:`row_styles` chooses the colors; without it, all rows are drawn as methods::

    names = ["original", "AMUN", "retrained"]
    styles = uj.figures.row_styles(["original", "method", "oracle"])
    uj.figures.roc_plot(names, scores[:, forget], scores[:, test], styles=styles)
"""

from unlearn_jax.figures.curves import cumulative_plot, curve_plot, roc_plot
from unlearn_jax.figures.histograms import score_histograms
from unlearn_jax.figures.intervals import forest_plot
from unlearn_jax.figures.style import RowStyle, row_styles

__all__ = [
    "RowStyle",
    "cumulative_plot",
    "curve_plot",
    "forest_plot",
    "roc_plot",
    "row_styles",
    "score_histograms",
]
