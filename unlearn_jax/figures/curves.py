"""Lines, one for each row: ROC curves, cumulative distributions, curves over steps."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter
from numpy.typing import ArrayLike

from unlearn_jax.audit import roc
from unlearn_jax.audit.inputs import real_array
from unlearn_jax.figures.histograms import bin_edges, fractions
from unlearn_jax.figures.rows import check_count, check_styles, samples
from unlearn_jax.figures.style import (
    DOTTED,
    INK,
    MAX_LINES,
    MUTED,
    RowStyle,
    line_panels,
    line_style,
    name_lines,
    short,
)
from unlearn_jax.types import InputError


def roc_plot(
    labels: Sequence[str],
    members: Sequence[ArrayLike],
    others: Sequence[ArrayLike],
    *,
    styles: Sequence[RowStyle] | None = None,
    scale: Literal["log", "linear"] = "log",
    title: str = "Can the attack still distinguish forget samples from unseen ones?",
    xlabel: str = "false positive rate: test samples called members",
    ylabel: str = "true positive rate: forget samples called members",
) -> Figure:
    """Draw ROC curves of a membership score in one panel, or many curves in one each.

    The axes are log-log by default (Carlini et al., 2022,
    https://arxiv.org/abs/2112.03570), because an attack that is sure of a few samples
    is a leak even at an area of 50%. Logarithmic axes start at the fraction of a
    single sample of ``others``, at most at 10%. Among equal scores, a curve is the
    straight line that random tie-breaking would give.

    Args:
      labels: labels of the R rows.
      members: an array of any shape per row, the scores of its members (or forgotten
        samples), higher = more likely member; runs are pooled.
      others: an array of any shape per row, the scores of samples never seen.
      styles: styles of the rows, from :func:`unlearn_jax.figures.row_styles`; None
        draws all rows as methods.
      scale: scale of both axes.
      title: title of the single panel.
      xlabel: name of the horizontal axis.
      ylabel: name of the vertical axis.

    Returns:
      The figure; its legend, or the corner of each panel, gives the areas in percent.

    Raises:
      InputError: numbers of arrays and labels that differ, no scores, NaN, or an
        unknown scale.

    >>> rng = np.random.default_rng(0)
    >>> members, others = rng.normal(1, 1, (2, 500)), rng.normal(0, 1, (2, 500))
    >>> figure = roc_plot(["RMIA", "LiRA"], members, others)
    >>> [text.get_text() for text in figure.legends[0].get_texts()]
    ['RMIA  74.1', 'LiRA  76.1', 'chance  50.0']
    """
    styles = check_styles(labels, styles)
    inside = samples("members", members, len(labels))
    outside = samples("others", others, len(labels))
    if scale not in ("log", "linear"):
        raise InputError(f"unknown scale {scale!r}: choose log or linear")
    is_log = scale == "log"
    fewest = max(max(row.size for row in outside), 10)
    # the rate of one sample: a curve has no points below it
    floor = 1 / fewest if is_log else 0.0
    lines = line_panels(labels, styles, title, height=5.8)
    num_points = 300 if lines.together else 120
    if is_log:
        rates = np.geomspace(floor, 1, num_points)
    else:
        # 0 occurs twice, for the vertical rise from the corner.
        rates = np.append(0, np.linspace(0, 1, num_points))
    curves = []
    for member_scores, other_scores in zip(inside, outside, strict=True):
        scores = np.concatenate([member_scores, other_scores])
        curve = roc(scores, np.arange(scores.size) < member_scores.size)
        # A logarithmic axis cannot show a rate of 0.
        hits = np.maximum(np.interp(rates, curve.fpr, curve.tpr), floor / 10)
        if not is_log:
            hits[0] = 0
        curves.append((hits, f"{100 * curve.auc:.1f}"))
    handles = []
    percent = FuncFormatter(lambda rate, _: f"{100 * rate:g}%")
    for axes, shown in lines.panels:
        chance = axes.plot(
            rates, rates, color=MUTED, lw=1, dashes=(2, 2), label="chance  50.0"
        )
        for row in shown:
            hits, area = curves[row]
            look = line_style(styles[row], together=lines.together)
            name = f"{short(labels[row])}  {area}"
            handles += axes.plot(rates, hits, label=name, **look)
        axes.set(xscale=scale, yscale=scale, xlim=(floor, 1), ylim=(floor, 1))
        axes.xaxis.set_major_formatter(percent)
        axes.yaxis.set_major_formatter(percent)
        if lines.together:
            handles += chance
        else:
            area = f"AUC {curves[shown[-1]][1]}"
            corner: Any = {"transform": axes.transAxes, "ha": "right", "color": INK}
            axes.text(0.97, 0.06, area, fontsize=8.5, **corner)
            axes.minorticks_off()
    name_lines(lines, handles, "pooled AUC (%)", xlabel, ylabel)
    return lines.figure


def cumulative_plot(
    labels: Sequence[str],
    values: Sequence[ArrayLike],
    *,
    styles: Sequence[RowStyle] | None = None,
    background: Mapping[str, ArrayLike] | None = None,
    line: float | None = None,
    title: str = "",
    legend_title: str = "",
    xlabel: str = "",
    ylabel: str = "fraction of samples with a smaller value",
) -> Figure:
    """Draw cumulative distributions in one panel, or many of them in one each.

    The range of the axis omits the outer 0.5% of all values on either side.

    Args:
      labels: labels of the R rows.
      values: an array of any shape per row, such as logit margins of forget samples;
        runs are pooled, and infinities lie outside the range.
      styles: styles of the rows, from :func:`unlearn_jax.figures.row_styles`; None
        draws all rows as methods.
      background: further values by label, drawn as wide gray lines behind the others
        if all rows share a panel.
      line: reference value, drawn as a dotted line; None for no line.
      title: title of the single panel.
      legend_title: title of the single panel's legend.
      xlabel: name of the horizontal axis, with its unit.
      ylabel: name of the vertical axis, in percent.

    Returns:
      The figure.

    Raises:
      InputError: numbers of arrays and labels that differ, no values, or NaN.

    >>> figure = cumulative_plot(["a", "b"], [[0.0, 1.0, 2.0], [1.0, 1.5]], line=1)
    >>> [label.get_text() for label in figure.legends[0].get_texts()]
    ['a', 'b']
    """
    styles = check_styles(labels, styles)
    rows = samples("values", values, len(labels))
    background = background or {}
    others = samples("background", list(background.values()), len(background))
    edges = bin_edges([*rows, *others], 300 if len(labels) <= MAX_LINES else 120)
    lines = line_panels(labels, styles, title, height=4.8)
    cumulative = [np.cumsum(fractions(row, edges)) for row in rows]
    handles = []
    for axes, shown in lines.panels:
        for row in shown:
            look = line_style(styles[row], together=lines.together)
            name = short(labels[row])
            handles += axes.plot(edges[1:], cumulative[row], label=name, **look)
        if lines.together:
            wide: Any = {"color": MUTED, "lw": 5, "alpha": 0.45, "zorder": 1}
            for name, other in zip(background, others, strict=True):
                heights = np.cumsum(fractions(other, edges))
                handles += axes.plot(edges[1:], heights, label=short(name, 60), **wide)
        if line is not None:
            axes.axvline(line, **DOTTED)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 100))
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    name_lines(lines, handles, legend_title, xlabel, ylabel)
    return lines.figure


def curve_plot(
    labels: Sequence[str],
    places: ArrayLike,
    curves: Sequence[ArrayLike],
    *,
    styles: Sequence[RowStyle] | None = None,
    line: float | None = None,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
) -> Figure:
    """Draw a line per row over common places: losses by epoch, scores by request.

    For up to 20 places, lines have markers, and intervals are vertical lines next to
    each other. For more places, intervals are shaded bands.

    Args:
      labels: labels of the R rows.
      places: ``[T]`` positions on the horizontal axis, finite and ascending, such as
        epochs or radii.
      curves: an array per row, ``[T]`` values or ``[T, 3]`` mean, lower and upper end;
        the line has a gap where values are NaN.
      styles: styles of the rows, from :func:`unlearn_jax.figures.row_styles`; None
        draws all rows as methods.
      line: reference value, drawn as a dotted line; None for no line.
      title: title of the single panel.
      xlabel: name of the horizontal axis, with its unit.
      ylabel: name of the vertical axis, with its unit.

    Returns:
      The figure.

    Raises:
      InputError: arrays that do not fit the labels or the places, or places that do not
        ascend.

    >>> figure = curve_plot(["train", "test"], [1, 2, 3], [[2.3, 1, 0.4], [2.3, 1, 1]])
    >>> [line.get_ydata().tolist() for line in figure.axes[0].lines]
    [[2.3, 1.0, 0.4], [2.3, 1.0, 1.0]]
    """
    styles = check_styles(labels, styles)
    x = real_array("places", places, ndim=(1,))
    if not np.isfinite(x).all() or np.any(np.diff(x) <= 0):
        raise InputError("places must be finite and ascend")
    check_count("curves", len(curves), len(labels))
    rows = []
    for i, curve in enumerate(curves):
        row = real_array(f"curves[{i}]", curve, ndim=(1, 2))
        if row.shape not in ((x.size,), (x.size, 3)):
            raise InputError(
                f"curves[{i}] has shape {row.shape}: pass a value, or mean, lower and"
                f" upper end, for each of {x.size} places"
            )
        rows.append(row)
    lines = line_panels(labels, styles, title, height=4.6)
    is_short = x.size <= 20
    step = float(np.diff(x).min()) if x.size > 1 else 1.0
    handles = []
    for axes, shown in lines.panels:
        for i, row in enumerate(shown):
            look = line_style(styles[row], together=lines.together)
            at = x
            if is_short:
                # Shift the rows, so that their intervals do not cover each other.
                at = x + 0.04 * step * (i - (len(shown) - 1) / 2)
                look |= {"marker": styles[row].marker, "ms": 5}
            curve = rows[row]
            means = curve if curve.ndim == 1 else curve[:, 0]
            handles += axes.plot(at, means, label=short(labels[row]), **look)
            if curve.ndim == 1:
                continue
            color = styles[row].color
            ends = curve[:, 1], curve[:, 2]
            if is_short:
                axes.vlines(at, *ends, color=color, lw=1.2, alpha=0.7, zorder=2)
            else:
                axes.fill_between(at, *ends, color=color, alpha=0.15, lw=0, zorder=2)
        if np.all(x == np.round(x)):
            axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        if line is not None:
            axes.axhline(line, **DOTTED)
    name_lines(lines, handles, "", xlabel, ylabel)
    return lines.figure
