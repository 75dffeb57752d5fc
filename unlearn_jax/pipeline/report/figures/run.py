"""Figures of a run: intervals, ROC curves, scores, margins, the adversarial search.

Each function takes the results and the arrays of a run and returns a
:class:`matplotlib.figure.Figure`, to show in a notebook or to ``savefig``.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from unlearn_jax.audit import Estimate, roc
from unlearn_jax.pipeline.measure.records import RowResult, RunResult
from unlearn_jax.pipeline.report.blocks import format_cell, has_interval, is_known
from unlearn_jax.pipeline.report.figures.style import (
    COLORS,
    DOTTED,
    INK,
    MAX_LINES,
    MUTED,
    RowStyle,
    dress,
    legend,
    line_panels,
    line_style,
    name_lines,
    name_rows,
    note,
    row_styles,
    short,
    small_panels,
)
from unlearn_jax.types import Status

Arrays = Mapping[str, np.ndarray]


def roc_plot(result: RunResult, arrays: Arrays) -> Figure:
    """Draw log-log ROC curves of the membership attack, forget against test.

    The runs of a row are pooled, so the area in the legend (or in the panels) can
    differ from the table's FT AUC, a mean over runs. The axes start at the power of ten
    below the fraction of a single test sample. Among equal scores a curve is the
    straight line that random ties would give.

    Args:
      result: of a run.
      arrays: with ``scores/ROW`` and ``forget``; rows without scores are left out.
    """
    rows = [row for row in result.rows if f"scores/{row.key}" in arrays]
    if not rows:
        return note("No scores were stored")
    forget = arrays["forget"]
    num_train = forget.shape[1]
    num_test = arrays[f"scores/{rows[0].key}"].shape[1] - num_train
    floor = 10.0 ** math.floor(math.log10(1 / max(num_test, 10)))
    title = "Can the attack still distinguish forget samples from unseen ones?"
    lines = line_panels(rows, title, height=5.8)
    rates = np.geomspace(floor, 1, 300 if lines.together else 120)
    styles = row_styles(result.rows)
    curves = {}
    handles = []
    for row in rows:
        scores = arrays[f"scores/{row.key}"]
        members = scores[:, :num_train][forget[: len(scores)]]
        others = scores[:, num_train:].ravel()
        is_member = np.arange(members.size + others.size) < members.size
        curve = roc(np.concatenate([members, others]), is_member)
        # A rate of 0 has no place on a logarithmic axis.
        hits = np.maximum(np.interp(rates, curve.fpr, curve.tpr), floor / 10)
        curves[row.key] = hits, f"{100 * curve.auc:.1f}"
    percent = FuncFormatter(lambda rate, _: f"{100 * rate:g} %")
    for axes, shown in lines.panels:
        chance = axes.plot(
            rates, rates, color=MUTED, lw=1, dashes=(2, 2), label="chance  50.0"
        )
        for row in shown:
            hits, area = curves[row.key]
            style = line_style(row, styles, together=lines.together)
            handles += axes.plot(
                rates, hits, label=f"{short(row.label)}  {area}", **style
            )
        axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1))
        axes.xaxis.set_major_formatter(percent)
        axes.yaxis.set_major_formatter(percent)
        if lines.together:
            handles += chance
        else:
            area = f"AUC {curves[shown[-1].key][1]}"
            corner: Any = {"transform": axes.transAxes, "ha": "right", "color": INK}
            axes.text(0.97, 0.06, area, fontsize=8.5, **corner)
            axes.minorticks_off()
    x = "false positive rate: test samples called members"
    y = "true positive rate: forget samples called members"
    name_lines(lines, handles, "pooled AUC (%)", x, y)
    return lines.figure


def forest_plot(
    result: RunResult,
    metrics: Sequence[str] = ("ft_auc",),
    *,
    rows: Sequence[RowResult] | None = None,
    band: str = "oracle",
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
    is_long = len(rows) > 12
    height = 1.6 + (0.29 if is_long else 0.4) * len(rows)
    figure = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, shown, strict=True):
        title = metric.label if len(shown) > 1 else f"{metric.label} of every row"
        dress(axes, title, grid="x", size=11.5 if len(shown) == 1 else 10)
        draw_forest(axes, rows, metric.key, row_styles(result.rows), band)
        name_rows(axes, rows, size=9 if is_long else 10)
        name = metric.unit if len(shown) > 1 else f"{metric.label} ({metric.unit})"
        axes.set_xlabel(name)
        if metric.direction == "50":
            axes.axvline(50, **DOTTED)
    legend(figure, forest_keys(result.level, band), "outside lower center", ncols=3)
    return figure


def forest_keys(level: float, band: str = "oracle") -> list[Any]:
    """Return the legend of a forest plot whose intervals have that level."""
    interval = f"{100 * level:g} % interval"
    name = {"oracle": "oracle's", "second_oracle": "seed floor's"}[band]
    mean: Any = {"color": MUTED, "marker": "o", "ms": 7, "lw": 2.4}
    run: Any = {"color": MUTED, "marker": "o", "ms": 4, "lw": 0, "alpha": 0.6}
    return [
        Line2D([], [], label=f"mean and {interval}", **mean),
        Line2D([], [], label="one run", **run),
        Patch(color=INK, alpha=0.1, lw=0, label=f"the {name} interval"),
    ]


def draw_forest(
    axes: Axes,
    rows: Sequence[RowResult],
    key: str,
    styles: Mapping[str, RowStyle],
    band: str = "oracle",
) -> None:
    """Draw a metric's means, intervals and runs, a line for each row from the top.

    A row far outside of the others is a triangle at the edge, with its mean as text.

    Args:
      axes: to draw in.
      rows: with their metrics; a row without this metric gets a dash.
      key: of the metric.
      styles: of the rows.
      band: kind of the row whose interval is shaded from top to bottom.
    """
    # The same scatter of the dots every time.
    offsets = np.random.default_rng(0)
    limits = _forest_limits(rows, key)
    # x in fractions of the panel, y in rows
    edge: Any = {"transform": axes.get_yaxis_transform()}
    for height, row in enumerate(rows):
        cell = row.metrics.get(key)
        if cell is None:
            axes.text(0.5, height, "–", color=MUTED, va="center", ha="center", **edge)
            continue
        style = styles[row.key]
        if limits and not limits[0] <= cell.mean <= limits[1]:
            is_below = cell.mean < limits[0]
            outside = edge | {"clip_on": False, "zorder": 5}
            marker: Any = {"marker": "<" if is_below else ">", "ms": 7}
            place = 0.015 if is_below else 0.985
            axes.plot(place, height, color=style.color, **marker, **outside)
            align: Any = {"ha": "left" if is_below else "right", "va": "center"}
            text = format_cell(cell.mean, 2)[0]
            place = 0.05 if is_below else 0.95
            align |= {"fontsize": 8.5, "color": INK}
            axes.text(place, height, text, **align, **outside)
            continue
        if row.kind == band and has_interval(cell):
            axes.axvspan(cell.low, cell.high, color=INK, alpha=0.1, lw=1.5, zorder=0)
        values = np.array([v for v in row.values.get(key, ()) if is_known(v)])
        scatter = np.zeros(values.size)
        if values.size > 1:
            scatter = offsets.uniform(-0.22, 0.22, values.size)
        alpha = float(np.clip(8 / max(values.size, 1), 0.15, 0.45))
        dots: Any = {"s": 13, "alpha": alpha, "lw": 0, "zorder": 2}
        axes.scatter(values, height + scatter, color=style.color, **dots)
        if has_interval(cell):
            ends = [cell.low, cell.high]
            axes.plot(ends, [height, height], color=style.color, lw=2.4, zorder=3)
        size = 7 if len(rows) <= 12 else 6
        axes.plot(cell.mean, height, style.marker, color=style.color, ms=size, zorder=4)
    if limits:
        axes.set_xlim(*limits)


def _forest_limits(rows: Sequence[RowResult], key: str) -> tuple[float, float] | None:
    """Return a range without methods so far off that they would squeeze the others.

    None if there are no such methods: the axis then chooses its range.
    """
    cells = [(row.kind, row.metrics[key]) for row in rows if key in row.metrics]
    ends = [np.array([c.low, c.mean, c.high])[_finite(c)] for _, c in cells]
    if not ends:
        return None
    low, high = np.quantile(np.concatenate(ends), [0.25, 0.75])
    center = (low + high) / 2
    is_near = [
        kind != "method" or abs(cell.mean - center) <= 3 * (high - low)
        for kind, cell in cells
    ]
    if all(is_near) or low == high:
        return None
    inside = np.concatenate([e for e, near in zip(ends, is_near, strict=True) if near])
    margin = 0.06 * np.ptp(inside) + 1e-9
    return float(inside.min() - margin), float(inside.max() + margin)


def _finite(cell: Estimate) -> np.ndarray:
    return np.isfinite([cell.low, cell.mean, cell.high])


def score_histograms(result: RunResult, arrays: Arrays) -> Figure:
    """Draw the attack's scores of forget, retain and test samples, a panel per row.

    Forget samples are shaded in the row's color, test is the solid line, retain the
    dotted one; the outer 0.5 % of all scores on either side are counted in the last
    bins.

    Args:
      result: of a run.
      arrays: with ``scores/ROW`` and ``forget``.
    """
    rows = [row for row in result.rows if f"scores/{row.key}" in arrays]
    if not rows:
        return note("No scores were stored")
    # Rice's rule for the smallest part.
    num_forget = np.count_nonzero(arrays["forget"])
    num_bins = int(np.clip(2 * num_forget ** (1 / 3), 12, 48))
    stacks = [arrays[f"scores/{row.key}"] for row in rows]
    is_logit = all(stack.min() >= 0 and stack.max() <= 1 for stack in stacks)
    edges = _edges(stacks, num_bins, is_logit=is_logit)
    is_long = len(rows) > MAX_LINES
    figure, panels = small_panels(
        len(rows),
        share=True,
        height=1.5 if is_long else 1.9,
        columns=4 if is_long else 3,
    )
    styles = row_styles(result.rows)
    handles = []
    for axes, row, stack in zip(panels, rows, stacks, strict=True):
        dress(axes, short(row.label, 25 if is_long else 36), size=9)
        forget, retain, test = _fractions(stack, arrays["forget"], edges)
        color = styles[row.key].color
        shade: Any = {"fill": True, "alpha": 0.2 if color == INK else 0.45}
        dots: Any = {"color": MUTED, "lw": 1.3, "ls": (0, (1.5, 1))}
        name = "forget (in the row's color)"
        handles = [
            axes.stairs(forget, edges, color=color, label=name, **shade),
            axes.stairs(test, edges, color=INK, lw=1.3, label="test (never seen)"),
            axes.stairs(retain, edges, label="retain (members)", **dots),
        ]
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
        if is_logit:
            ticks = [0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999]
            axes.set_xscale("logit")
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda score, _: f"{score:g}"))
        axes.set_xlim(edges[0], edges[-1])
    scale = ", logit scale" if is_logit else ""
    name = f"membership score{scale}: more likely a member to the right"
    figure.supxlabel(name, fontsize=10, color=INK)
    figure.supylabel("fraction of samples", fontsize=10, color=INK)
    legend(figure, handles, ncols=3)
    return figure


def confidence_plot(result: RunResult, arrays: Arrays) -> Figure:
    """Draw cumulative distributions of the logit margin on forget samples, by row.

    The oracle has a second line, on test samples. The range leaves out the outer 0.5 %
    of all margins on either side.

    Args:
      result: of a run.
      arrays: with ``margin/ROW`` and ``forget``.
    """
    rows = [row for row in result.rows if f"margin/{row.key}" in arrays]
    if not rows:
        return note("No margins were stored")
    stacks = [arrays[f"margin/{row.key}"] for row in rows]
    edges = _edges(stacks, 300 if len(rows) <= MAX_LINES else 120)
    title = "How confident are the models on the forget samples?"
    lines = line_panels(rows, title, height=4.8)
    styles = row_styles(result.rows)
    handles = []
    cumulative = {}
    for row, stack in zip(rows, stacks, strict=True):
        parts = _fractions(stack, arrays["forget"], edges)
        cumulative[row.key] = np.cumsum(parts, axis=1)
    for axes, shown in lines.panels:
        for row in shown:
            forget, _, test = cumulative[row.key]
            style = line_style(row, styles, together=lines.together)
            handles += axes.plot(edges[1:], forget, label=short(row.label), **style)
            if row.kind == "oracle" and lines.together:
                wide: Any = {"color": MUTED, "lw": 5, "alpha": 0.45, "zorder": 1}
                name = f"{short(row.label)}: on test samples"
                handles += axes.plot(edges[1:], test, label=name, **wide)
        axes.axvline(0, **DOTTED)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 100))
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    x = "logit margin of the true class, log p − log(1 − p); p = 1/2 at the dotted line"
    y = "fraction of samples with a smaller margin"
    name_lines(lines, handles, "on forget samples", x, y)
    return lines.figure


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
    figure = Figure(figsize=(9.2, 4.8), layout="constrained")
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
        names = {"0.05": "5 %", "0.5": "median", "0.95": "95 %"}
        for i, (quantile, name) in enumerate(names.items()):
            value = attack.distance_quantiles.get(quantile)
            if not value or not is_known(value):
                continue
            bottom.axvline(math.log2(value), color=INK, lw=1, ls=(0, (2, 2)))
            # x in data, y in fractions of the panel
            move: Any = {"transform": bottom.get_xaxis_transform(), "va": "top"}
            text = f" {name}: {value:.2g}"
            height = 0.98 - 0.1 * i
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
    texts = [f"{count:,}  ({100 * count / total:.1f} %)" for count in counts]
    axes.bar_label(bars, texts, fontsize=9, color=INK, padding=3)
    axes.set_xlim(0, 1.6 * max([1, *counts]))
    axes.set_yticks(range(len(counts)), [name.replace("_", " ") for name in status])
    axes.invert_yaxis()
    axes.set_xlabel("samples")


def _fractions(values: np.ndarray, forget: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return percent of the forget, retain and test samples in each bin, ``[3, bins]``.

    Runs are pooled, outliers counted in the bins at the ends.
    """
    num_train = forget.shape[1]
    counts = np.zeros((3, edges.size - 1))
    for run, mask in zip(values, forget, strict=False):
        train = run[:num_train]
        for i, part in enumerate((train[mask], train[~mask], run[num_train:])):
            usable = np.clip(part[~np.isnan(part)], edges[0], edges[-1])
            counts[i] += np.histogram(usable, edges)[0]
    return 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _edges(
    stacks: Sequence[np.ndarray], num_bins: int, *, is_logit: bool = False
) -> np.ndarray:
    """Return equal bins (of the logit) without the outer 0.5 % of the finite values."""
    step = max(1, sum(stack.size for stack in stacks) // 500_000)
    sample = np.concatenate([stack.ravel()[::step] for stack in stacks])
    sample = sample[np.isfinite(sample)].astype(np.float64)
    if is_logit:
        sample = np.clip(sample, 1e-4, 1 - 1e-4)
        sample = np.log(sample / (1 - sample))
    low, high = np.quantile(sample, [0.005, 0.995]) if sample.size else (0.0, 1.0)
    if low >= high:
        low -= 0.5
        high = low + 1
    edges = np.linspace(low, high, num_bins + 1)
    return 1 / (1 + np.exp(-edges)) if is_logit else edges
