"""Forest plots: means with intervals and single runs, one line per row."""

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from unlearn_jax.audit.inputs import check_level, real_array
from unlearn_jax.figures.rows import check_count, check_styles
from unlearn_jax.figures.style import (
    DOTTED,
    INK,
    MUTED,
    Drawing,
    Kind,
    RowStyle,
    dress,
    legend,
    name_rows,
)
from unlearn_jax.types import InputError


def forest_plot(
    labels: Sequence[str],
    estimates: ArrayLike,
    *,
    styles: Sequence[RowStyle] | None = None,
    runs: Sequence[ArrayLike] | None = None,
    lines: Sequence[float] = (),
    band: Kind = "oracle",
    level: float = 0.95,
    title: str = "",
    xlabel: str = "",
    width: float = 9.2,
    axes: Axes | None = None,
) -> Figure:
    """Draw means with intervals and single runs, one line per row from the top.

    A method far outside the range of the other rows is drawn as a triangle at the edge,
    with its mean as text.

    Args:
      labels: labels of the R rows.
      estimates: ``[R, 3]`` mean, lower and upper end of the interval, in the unit of
        the axis. A row with a NaN mean is drawn as a dash, and a row with NaN ends
        without a bar.
      styles: styles of the rows, from :func:`unlearn_jax.figures.row_styles`; None
        draws all rows as methods.
      runs: an array per row, the values of its single runs, drawn as dots; values that
        are not finite are omitted.
      lines: reference values, such as chance or a margin, drawn as dotted lines.
      band: kind of the row whose interval is shaded from top to bottom.
      level: confidence level of the intervals, in (0, 1), for the legend.
      title: title of the panel.
      xlabel: name of the axis, with its unit.
      width: width of the figure in inches. Below 7, labels are shorter and the legend
        is a single column. The height follows from R.
      axes: panel to draw in; None draws a new figure. The panel's figure keeps its size
        and gets no legend: see :func:`forest_keys`.

    Returns:
      The figure.

    Raises:
      InputError: arrays that do not fit the labels, an interval that ends below its
        start, or a level outside (0, 1).

    >>> from unlearn_jax.figures import row_styles
    >>> estimates = [[62.0, 60.1, 63.8], [50.9, 49.0, 52.7], [50.1, 48.2, 52.0]]
    >>> kinds = ["original", "method", "oracle"]
    >>> figure = forest_plot(
    ...     ["Original", "AMUN", "Retrained"],
    ...     estimates,
    ...     styles=row_styles(kinds),
    ...     lines=[50],
    ...     xlabel="FT AUC (%)",
    ... )
    >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
    ['Original', 'AMUN', 'Retrained']
    """
    styles = check_styles(labels, styles)
    check_level(level)
    cells = real_array("estimates", estimates, ndim=(2,))
    if cells.shape != (len(labels), 3):
        raise InputError(
            f"estimates has shape {cells.shape}: pass mean, lower and upper end for"
            f" each of {len(labels)} labels"
        )
    if np.any(cells[:, 1] > cells[:, 2]):
        row = labels[int(np.argmax(cells[:, 1] > cells[:, 2]))]
        raise InputError(f"the interval of {row!r} ends below its start")
    if runs is None:
        runs = [()] * len(labels)
    check_count("runs", len(runs), len(labels))
    is_long = len(labels) > 12
    alone = axes is None
    if axes is None:
        height = 1.6 + (0.29 if is_long else 0.4) * len(labels)
        figure = Drawing(figsize=(width, height), layout="constrained")
        axes = figure.add_subplot()
        title = textwrap.fill(title, int(6 * width))
    dress(axes, title, grid="x", size=11.5 if alone else 10)
    # A fixed seed, so that the dots are scattered in the same way every time.
    offsets = np.random.default_rng(0)
    limits = _limits(cells, styles)
    for height, (cell, style) in enumerate(zip(cells, styles, strict=True)):
        mean, low, high = map(float, cell)
        if not np.isfinite(mean):
            dash: Any = {"transform": axes.get_yaxis_transform(), "color": MUTED}
            axes.text(0.5, height, "–", va="center", ha="center", **dash)
            continue
        if limits and not limits[0] <= mean <= limits[1]:
            _draw_outside(axes, height, mean, style.color, is_below=mean < limits[0])
            continue
        has_interval = bool(np.isfinite([low, high]).all())
        if style.kind == band and has_interval:
            axes.axvspan(low, high, color=INK, alpha=0.1, lw=1.5, zorder=0)
        values = np.ravel(np.asarray(runs[height], np.float64))
        values = values[np.isfinite(values)]
        scatter = np.zeros(values.size)
        if values.size > 1:
            scatter = offsets.uniform(-0.22, 0.22, values.size)
        alpha = float(np.clip(8 / max(values.size, 1), 0.15, 0.45))
        dots: Any = {"s": 13, "alpha": alpha, "lw": 0, "zorder": 2}
        axes.scatter(values, height + scatter, color=style.color, **dots)
        if has_interval:
            bar: Any = {"color": style.color, "lw": 2.4, "zorder": 3}
            axes.plot([low, high], [height, height], **bar)
        size = 7 if len(labels) <= 12 else 6
        axes.plot(mean, height, style.marker, color=style.color, ms=size, zorder=4)
    for line in lines:
        axes.axvline(line, **DOTTED)
    if limits:
        axes.set_xlim(*limits)
    is_narrow = width < 7
    name_rows(
        axes,
        labels,
        styles,
        size=9 if is_long or is_narrow or not alone else 10,
        width=22 if is_narrow else 34,
    )
    axes.set_xlabel(xlabel)
    figure = axes.figure.get_figure(root=True)
    assert isinstance(figure, Figure)
    if alone:
        has_runs = any(np.size(values) for values in runs)
        has_band = any(style.kind == band for style in styles)
        keys = forest_keys(level, band if has_band else None, has_runs=has_runs)
        legend(figure, keys, "outside lower center", ncols=1 if is_narrow else 3)
    return figure


def _draw_outside(
    axes: Axes, height: int, mean: float, color: str, *, is_below: bool
) -> None:
    """Draw a mean outside the axis: a triangle at the edge, with the mean as text.

    Args:
      axes: panel to draw in.
      height: vertical position of the row.
      mean: mean of the row.
      color: color of the triangle.
      is_below: whether the mean lies to the left of the axis, otherwise to the right.
    """
    # x is in fractions of the panel, y in rows.
    place: Any = {"transform": axes.get_yaxis_transform(), "clip_on": False}
    place |= {"zorder": 5}
    text: Any = {"va": "center", "fontsize": 8.5, "color": INK}
    if is_below:
        axes.plot(0.015, height, marker="<", ms=7, color=color, **place)
        axes.text(0.05, height, f"{mean:.2f}", ha="left", **text, **place)
    else:
        axes.plot(0.985, height, marker=">", ms=7, color=color, **place)
        axes.text(0.95, height, f"{mean:.2f}", ha="right", **text, **place)


def forest_keys(
    level: float, band: Kind | None = "oracle", *, has_runs: bool = True
) -> list[Any]:
    """Return the entries of a forest plot's legend.

    Args:
      level: confidence level of the intervals, in (0, 1).
      band: kind of the row whose interval is shaded; None if there is no such row.
      has_runs: whether single runs are drawn.
    """
    mean: Any = {"color": MUTED, "marker": "o", "ms": 7, "lw": 2.4}
    run: Any = {"color": MUTED, "marker": "o", "ms": 4, "lw": 0, "alpha": 0.6}
    keys: list[Any] = [
        Line2D([], [], label=f"mean and {100 * level:g}% interval", **mean)
    ]
    if has_runs:
        keys.append(Line2D([], [], label="one run", **run))
    if band is not None:
        names = {"oracle": "oracle's", "second_oracle": "seed floor's"}
        name = f"the {names.get(band, f'{band}’s')} interval"
        keys.append(Patch(color=INK, alpha=0.1, lw=0, label=name))
    return keys


def _limits(
    cells: np.ndarray, styles: Sequence[RowStyle]
) -> tuple[float, float] | None:
    """Return a range of the axis that excludes methods far from the other rows.

    Such methods would squeeze the others. None if there are no such methods: the axis
    then chooses its range.
    """
    cells = cells[:, [1, 0, 2]]
    finite = cells[np.isfinite(cells)]
    if not finite.size:
        return None
    low, high = np.quantile(finite, [0.25, 0.75])
    distance = np.abs(cells[:, 1] - (low + high) / 2)
    is_method = np.array([style.kind == "method" for style in styles])
    is_far = is_method & (distance > 3 * (high - low))
    if not is_far.any() or low == high:
        return None
    inside = cells[~is_far]
    inside = inside[np.isfinite(inside)]
    if not inside.size:
        return None
    margin = 0.06 * np.ptp(inside) + 1e-9
    return float(inside.min() - margin), float(inside.max() + margin)
