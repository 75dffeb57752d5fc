"""Figures of a run: intervals, ROC curves, scores, margins, the adversarial search.

Each function takes the results and the arrays of a run and returns a
:class:`matplotlib.figure.Figure`, to show in a notebook or to ``savefig``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from unlearn_jax import figures
from unlearn_jax.figures.intervals import forest_keys
from unlearn_jax.figures.style import (
    COLORS,
    INK,
    Drawing,
    Kind,
    RowStyle,
    dress,
    legend,
    note,
    row_styles,
    short,
)
from unlearn_jax.pipeline.measure.records import RowResult, RunResult
from unlearn_jax.pipeline.report.blocks import is_known
from unlearn_jax.types import Status

Arrays = Mapping[str, np.ndarray]


def styles_of(rows: Sequence[RowResult]) -> dict[str, RowStyle]:
    """Return the style of each row by its key; it depends on the order of the rows."""
    styles = row_styles([row.kind for row in rows])
    return {row.key: style for row, style in zip(rows, styles, strict=True)}


def roc_plot(result: RunResult, arrays: Arrays) -> Figure:
    """Draw log-log ROC curves of the membership attack, forget against test.

    The runs of a row are pooled, so the area in the legend (or in the panels) can
    differ from the table's FT AUC, a mean over runs.

    Args:
      result: of a run.
      arrays: with ``scores/ROW`` and ``forget``; rows without scores are left out.
    """
    parts = _parts(result, arrays, "scores")
    if parts is None:
        return note("No scores were stored")
    return figures.roc_plot(parts.labels, parts.forget, parts.test, styles=parts.styles)


def forest_plot(
    result: RunResult,
    metrics: Sequence[str] = ("ft_auc",),
    *,
    rows: Sequence[RowResult] | None = None,
    band: Kind = "oracle",
    width: float = 9.2,
) -> Figure:
    """Draw means with intervals and single runs, one panel per metric.

    Args:
      result: of a run.
      metrics: keys of the metrics; the panels share their rows.
      rows: to draw; None draws all.
      band: kind of the row whose interval is shaded from top to bottom.
      width: in inches.
    """
    rows = result.rows if rows is None else rows
    available = {metric.key: metric for metric in result.metrics}
    shown = [available[key] for key in metrics if key in available]
    if not shown or not rows:
        return note("Nothing to compare")
    styles = styles_of(result.rows)
    if len(shown) == 1:
        metric = shown[0]
        return draw_forest(
            rows,
            metric.key,
            styles,
            lines=[50] if metric.direction == "50" else (),
            band=band,
            level=result.level,
            title=f"{metric.label} of every row",
            xlabel=f"{metric.label} ({metric.unit})",
            width=width,
        )
    height = 1.6 + (0.29 if len(rows) > 12 else 0.4) * len(rows)
    figure = Drawing(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, shown, strict=True):
        draw_forest(
            rows,
            metric.key,
            styles,
            lines=[50] if metric.direction == "50" else (),
            band=band,
            level=result.level,
            title=metric.label,
            xlabel=metric.unit,
            axes=axes,
        )
    legend(figure, forest_keys(result.level, band), "outside lower center", ncols=3)
    return figure


def draw_forest(
    rows: Sequence[RowResult], key: str, styles: Mapping[str, RowStyle], **options: Any
) -> Figure:
    """Draw a metric of every row by :func:`unlearn_jax.figures.forest_plot`.

    Args:
      rows: with their metrics; a row without this metric gets a dash.
      key: of the metric.
      styles: of the rows, by key.
      **options: of the figure.
    """
    estimates = np.full((len(rows), 3), np.nan)
    for i, row in enumerate(rows):
        cell = row.metrics.get(key)
        if cell is not None:
            estimates[i] = cell.mean, cell.low, cell.high
    runs = []
    for row in rows:
        runs.append([value for value in row.values.get(key, ()) if is_known(value)])
    return figures.forest_plot(
        [row.label for row in rows],
        estimates,
        styles=[styles[row.key] for row in rows],
        runs=runs,
        **options,
    )


def score_histograms(result: RunResult, arrays: Arrays) -> Figure:
    """Draw the attack's scores of forget, retain and test samples, a panel per row.

    Args:
      result: of a run.
      arrays: with ``scores/ROW`` and ``forget``.
    """
    parts = _parts(result, arrays, "scores")
    if parts is None:
        return note("No scores were stored")
    return figures.score_histograms(
        parts.labels, parts.forget, parts.test, parts.retain, styles=parts.styles
    )


def confidence_plot(result: RunResult, arrays: Arrays) -> Figure:
    """Draw cumulative distributions of the logit margin on forget samples, by row.

    The oracle has a second line, on test samples.

    Args:
      result: of a run.
      arrays: with ``margin/ROW`` and ``forget``.
    """
    parts = _parts(result, arrays, "margin")
    if parts is None:
        return note("No margins were stored")
    background = {}
    for label, style, test in zip(parts.labels, parts.styles, parts.test, strict=True):
        if style.kind == "oracle":
            background[f"{short(label)}: on test samples"] = test
    return figures.cumulative_plot(
        parts.labels,
        parts.forget,
        styles=parts.styles,
        background=background,
        line=0,
        title="How confident are the models on the forget samples?",
        legend_title="on forget samples",
        xlabel=(
            "logit margin of the true class, log p − log(1 − p); p = 1/2 at the dotted"
            " line"
        ),
        ylabel="fraction of samples with a smaller margin",
    )


class _Parts(NamedTuple):
    """Numbers of the forget, retain and test samples of each row, runs pooled."""

    labels: list[str]
    styles: list[RowStyle]
    forget: list[np.ndarray]
    retain: list[np.ndarray]
    test: list[np.ndarray]


def _parts(result: RunResult, arrays: Arrays, name: str) -> _Parts | None:
    """Return what is stored as ``NAME/ROW``, by part and without NaN.

    A row without numbers in one of the parts is left out; None without any row.
    """
    styles = styles_of(result.rows)
    parts = _Parts([], [], [], [], [])
    for row in result.rows:
        if f"{name}/{row.key}" not in arrays:
            continue
        stack = arrays[f"{name}/{row.key}"]
        forget = arrays["forget"][: len(stack)]
        stack = stack[: len(forget)]
        train = stack[:, : forget.shape[1]]
        cut = [train[forget], train[~forget], stack[:, forget.shape[1] :].ravel()]
        cut = [part[~np.isnan(part)] for part in cut]
        if not all(part.size for part in cut):
            continue
        parts.labels.append(row.label)
        parts.styles.append(styles[row.key])
        parts.forget.append(cut[0])
        parts.retain.append(cut[1])
        parts.test.append(cut[2])
    return parts if parts.labels else None


def attack_plot(result: RunResult, arrays: Arrays) -> Figure:
    """Draw the radii, distances and outcomes of the run's adversarial search.

    Both histograms have the same logarithmic axis, doublings apart.

    Args:
      result: of a run; without an attack the figure is a note.
      arrays: with ``distance`` and ``status``; without them the distances are left out.
    """
    attack = result.attacks.get("")
    if attack is None:
        return note("No adversarial examples were made in this run")
    distance = arrays.get("distance", np.empty(0))
    is_found = arrays.get("status", np.empty(0)) == Status.FOUND
    distance = distance[is_found & (distance > 0) & np.isfinite(distance)]
    figure = Drawing(figsize=(9.2, 4.8), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.9, 1))
    top = figure.add_subplot(grid[0, 0])
    dress(top, "Radius at which the search stopped")
    positive = [radius for radius in attack.radii if radius > 0] or [1.0]
    # A radius of 0 stands left of the others.
    places = [math.log2(radius or positive[0] / 2) for radius in attack.radii]
    bars = top.bar(places, attack.counts, width=0.8, color=COLORS[0])
    texts = [
        f"{count:,}" if radius else f"{count:,}\nat radius 0"
        for radius, count in zip(attack.radii, attack.counts, strict=True)
    ]
    top.bar_label(bars, texts, fontsize=9, color=INK, padding=2)
    top.set_ylim(0, 1.22 * max([1, *attack.counts]))
    top.set_xticks([math.log2(radius) for radius in positive])
    top.set_ylabel("samples")
    places += [math.log2(positive[0]), math.log2(positive[-1])]
    low = min(places) - 0.6
    high = max(places) + 0.6
    bottom = top
    if distance.size:
        powers = np.log2(distance.astype(np.float64))
        low = min(low, np.quantile(powers, 0.005))
        high = max(high, powers.max())
        bottom = figure.add_subplot(grid[1, 0], sharex=top)
        dress(bottom, "Distance of the examples found")
        powers = np.clip(powers, low, high)
        bottom.hist(powers, bins=48, range=(low, high), color=COLORS[5])
        bottom.set_ylabel("samples")
        top.tick_params(labelbottom=False)
        bottom.set_ylim(0, 1.35 * bottom.get_ylim()[1])
        names = {"0.05": "5%", "0.5": "median", "0.95": "95%"}
        for i, (quantile, name) in enumerate(names.items()):
            value = attack.distance_quantiles.get(quantile)
            if not value or not is_known(value):
                continue
            # a line ends at its label, below the labels of the lines before
            height = 0.98 - 0.12 * i
            line: Any = {"color": INK, "lw": 1, "ls": (0, (2, 2))}
            bottom.axvline(math.log2(value), ymax=height, **line)
            # x in data, y in fractions of the panel
            move: Any = {"transform": bottom.get_xaxis_transform(), "va": "top"}
            text = f" {name}: {value:.2g}"
            bottom.text(math.log2(value), height, text, fontsize=9, color=INK, **move)
    power = FuncFormatter(lambda power, _: f"{2.0**power:.3g}")
    bottom.xaxis.set_major_formatter(power)
    name = f"{attack.norm} distance from the clean image, pixels in [0, 1]"
    bottom.set_xlabel(name.strip())
    top.set_xlim(low, high)
    _status_bars(figure.add_subplot(grid[:, 1]), attack.status)
    return figure


def _status_bars(axes: Axes, status: Mapping[str, int]) -> None:
    dress(axes, "Outcome of the search", grid="x")
    counts = list(status.values())
    total = max(sum(counts), 1)
    bars = axes.barh(range(len(counts)), counts, height=0.62, color=COLORS[0])
    texts = [f"{count:,}  ({100 * count / total:.1f}%)" for count in counts]
    axes.bar_label(bars, texts, fontsize=9, color=INK, padding=3)
    axes.set_xlim(0, 1.6 * max([1, *counts]))
    axes.set_yticks(range(len(counts)), [name.replace("_", " ") for name in status])
    axes.invert_yaxis()
    axes.set_xlabel("samples")
