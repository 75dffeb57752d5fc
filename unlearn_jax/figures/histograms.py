"""Histograms of membership scores: forget, retain and test samples, by row."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter
from numpy.typing import ArrayLike

from unlearn_jax.figures.rows import check_styles, samples
from unlearn_jax.figures.style import (
    INK,
    MAX_LINES,
    MUTED,
    RowStyle,
    dress,
    legend,
    short,
    small_panels,
)


def score_histograms(
    labels: Sequence[str],
    forget: Sequence[ArrayLike],
    test: Sequence[ArrayLike],
    retain: Sequence[ArrayLike] | None = None,
    *,
    styles: Sequence[RowStyle] | None = None,
    xlabel: str = "membership score",
) -> Figure:
    """Draw the scores of forget, test and retain samples, a panel per row.

    Forget samples are shaded in the row's color; the solid line shows test samples, and
    the dotted line retain samples. The panels share their bins, whose number follows
    Rice's rule for the forget samples. The outer 0.5% of all scores on either side are
    counted in the first and last bins. If all scores lie in [0, 1], the axis has a
    logit scale.

    Args:
      labels: labels of the R rows.
      forget: an array of any shape per row, the scores of its forgotten samples, higher
        = more likely member; runs are pooled. In an audit without unlearning, the
        scores of members.
      test: an array of any shape per row, the scores of samples never seen.
      retain: an array of any shape per row, the scores of the other training samples;
        None omits them.
      styles: styles of the rows, from :func:`unlearn_jax.figures.row_styles`; None
        draws all rows as methods.
      xlabel: name of the score.

    Returns:
      The figure, with a panel per row; heights are percentages of the forget, test or
      retain samples.

    Raises:
      InputError: numbers of arrays and labels that differ, no scores, or NaN.

    >>> rng = np.random.default_rng(0)
    >>> members, others = rng.normal(1, 1, (2, 500)), rng.normal(0, 1, (2, 500))
    >>> figure = score_histograms(["Original", "AMUN"], members, others)
    >>> [axes.get_title("left") for axes in figure.axes]
    ['Original', 'AMUN']
    """
    styles = check_styles(labels, styles)
    parts = {
        "forget (in the row's color)": samples("forget", forget, len(labels)),
        "test (never seen)": samples("test", test, len(labels)),
    }
    if retain is not None:
        parts["retain (members)"] = samples("retain", retain, len(labels))
    every = [row for rows in parts.values() for row in rows]
    # Rice's rule for the forget samples, the smallest part.
    num_forget = max(row.size for row in next(iter(parts.values())))
    num_bins = int(np.clip(2 * num_forget ** (1 / 3), 12, 48))
    is_logit = all(row.min() >= 0 and row.max() <= 1 for row in every)
    edges = bin_edges(every, num_bins, is_logit=is_logit)
    is_long = len(labels) > MAX_LINES
    figure, panels = small_panels(
        len(labels),
        share=True,
        height=1.5 if is_long else 1.9,
        columns=4 if is_long else 3,
    )
    handles = []
    for i, (axes, label, style) in enumerate(zip(panels, labels, styles, strict=True)):
        dress(axes, short(label, 25 if is_long else 36), size=9)
        alpha = 0.2 if style.color == INK else 0.45
        looks: list[dict[str, Any]] = [
            {"color": style.color, "fill": True, "alpha": alpha},
            {"color": INK, "lw": 1.3},
            {"color": MUTED, "lw": 1.3, "ls": (0, (1.5, 1))},
        ]
        # Those of the last panel remain; they are the same in all panels.
        handles = []
        for (name, rows), look in zip(parts.items(), looks, strict=False):
            heights = fractions(rows[i], edges)
            handles.append(axes.stairs(heights, edges, label=name, **look))
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
        if is_logit:
            ticks = [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999]
            axes.set_xscale("logit")
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda score, _: f"{score:g}"))
        axes.set_xlim(edges[0], edges[-1])
    scale = ", logit scale" if is_logit else ""
    name = f"{xlabel}{scale}: more likely a member to the right"
    figure.supxlabel(name, fontsize=10, color=INK)
    figure.supylabel("fraction of samples", fontsize=10, color=INK)
    legend(figure, handles, ncols=3)
    return figure


def fractions(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return the percentage of the values in each bin.

    Values outside the edges are counted in the first or the last bin.

    Args:
      values: ``[N]`` numbers without NaN.
      edges: ``[bins + 1]`` edges, ascending.
    """
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return 100 * counts / max(values.size, 1)


def bin_edges(
    rows: Sequence[np.ndarray], num_bins: int, *, is_logit: bool = False
) -> np.ndarray:
    """Return the edges of equal bins, without the outer 0.5% of the finite values.

    Args:
      rows: arrays of ``[N]`` numbers.
      num_bins: number of bins, at least 1.
      is_logit: whether the numbers are in [0, 1], and the bins equal in
        log p - log(1 - p).
    """
    step = max(1, sum(row.size for row in rows) // 500_000)
    values = np.concatenate([row[::step] for row in rows])
    values = values[np.isfinite(values)].astype(np.float64)
    if is_logit:
        values = np.clip(values, 1e-4, 1 - 1e-4)
        values = np.log(values / (1 - values))
    low, high = np.quantile(values, [0.005, 0.995]) if values.size else (0.0, 1.0)
    if low >= high:
        low -= 0.5
        high = low + 1
    edges = np.linspace(low, high, num_bins + 1)
    return 1 / (1 + np.exp(-edges)) if is_logit else edges
