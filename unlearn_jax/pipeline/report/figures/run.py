"""Figures of a run: ROC curves, intervals, score and margin distributions, and the adversarial search.

Each function takes ``results`` and ``arrays`` and returns a
:class:`matplotlib.figure.Figure` that belongs to nobody: no pyplot, no backend, no
global style. Show it in a notebook or ``savefig`` it.
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

from unlearn_jax.audit import roc
from unlearn_jax.pipeline.report.figures.style import (
    COLORS,
    INK,
    MAX_LINES,
    MUTED,
    Row,
    RowStyle,
    dress,
    line_panels,
    line_style,
    name_lines,
    note,
    row_styles,
    short,
    small_panels,
)
from unlearn_jax.pipeline.report.tables import (
    Results,
    format_level,
    format_number,
    known,
)
from unlearn_jax.types import Status

Arrays = Mapping[str, np.ndarray]


def roc_plot(results: Results, arrays: Arrays) -> Figure:
    """ROC curves of the membership attack, forget against test, log-log, the runs of a row pooled.

    The axes start at the power of ten below the share of a single test sample. Among
    equal scores a curve is the straight line that random ties would give. The pooled
    area in the legend (or in the panels) can differ from the table's FT AUC, which is a
    mean over runs.

    Args:
      results: of a run.
      arrays: with ``scores/<row>`` and ``forget``; rows without scores are left out.

    Returns:
      The figure.
    """
    rows = [row for row in results["rows"] if f"scores/{row['key']}" in arrays]
    if not rows:
        return note("No scores were stored")
    num_train = arrays["forget"].shape[1]
    num_test = arrays[f"scores/{rows[0]['key']}"].shape[1] - num_train
    floor = 10.0 ** math.floor(math.log10(1 / max(num_test, 10)))
    lines = line_panels(
        rows, "Can the attack still tell forget samples from unseen ones?", height=5.8
    )
    rates = np.geomspace(floor, 1, 300 if lines.together else 120)
    styles, curves, handles = row_styles(results["rows"]), {}, []
    for row in rows:
        members, others = _forget_and_test(
            arrays[f"scores/{row['key']}"], arrays["forget"]
        )
        is_member = np.arange(members.size + others.size) < members.size
        curve = roc(np.concatenate([members, others]), is_member)
        hits = np.maximum(
            np.interp(rates, curve.fpr, curve.tpr), floor / 10
        )  # 0 has no place on the axis
        curves[row["key"]] = hits, f"{100 * curve.auc:.1f}"
    percent = FuncFormatter(lambda rate, _: f"{100 * rate:g} %")
    for axes, shown in lines.panels:
        chance = axes.plot(
            rates, rates, color=MUTED, lw=1, dashes=(2, 2), label="chance  50.0"
        )
        for row in shown:
            hits, area = curves[row["key"]]
            style = line_style(row, styles, together=lines.together)
            handles += axes.plot(
                rates, hits, label=f"{short(row['label'])}  {area}", **style
            )
        handles += chance if lines.together else []
        axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1))
        axes.xaxis.set_major_formatter(percent)
        axes.yaxis.set_major_formatter(percent)
        if not lines.together:
            area = f"AUC {curves[shown[-1]['key']][1]}"
            axes.text(
                0.97,
                0.06,
                area,
                transform=axes.transAxes,
                ha="right",
                fontsize=8.5,
                color=INK,
            )
            axes.minorticks_off()
    what = (
        "false positive rate: test samples called members",
        "true positive rate: forget samples called members",
    )
    name_lines(lines, handles, "pooled AUC (%)", *what)
    return lines.figure


def forest_plot(results: Results, metrics: Sequence[str] = ("ft_auc",)) -> Figure:
    """Means with intervals, the single runs as dots, and the oracle's interval as a band, one panel per metric.

    Args:
      results: of a run.
      metrics: keys of the metrics; the panels share their rows.

    Returns:
      The figure.
    """
    rows, available = (
        results["rows"],
        {metric["key"]: metric for metric in results["metrics"]},
    )
    shown = [available[key] for key in metrics if key in available]
    if not shown or not rows:
        return note("Nothing to compare")
    figure = Figure(
        figsize=(9.2, 1.6 + (0.4 if len(rows) <= 12 else 0.29) * len(rows)),
        layout="constrained",
    )
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for i, (axes, metric) in enumerate(zip(panels, shown, strict=True)):
        title = (
            metric["name"]
            if len(shown) > 1
            else f"{metric['name']} of every row, with its single runs"
        )
        dress(axes, title, grid="x", size=11.5 if len(shown) == 1 else 10)
        draw_forest(axes, rows, metric["key"], row_styles(rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [short(row["label"]) for row in rows])
        axes.tick_params(
            axis="y", length=0, labelsize=10 if len(rows) <= 12 else 9, labelcolor=INK
        )
        axes.set_xlabel(
            metric["unit"] if len(shown) > 1 else f"{metric['name']} ({metric['unit']})"
        )
        axes.spines["left"].set_visible(False)
        if i == 0:
            for row, label in zip(rows, axes.get_yticklabels(), strict=True):
                label.set_fontweight("bold" if row["kind"] == "oracle" else "normal")
        if metric.get("target") == "50":
            axes.axvline(50, color=MUTED, lw=1, ls=(0, (2, 2)), zorder=1)
    interval = f"{format_level(results)} interval"
    keys = [
        Line2D(
            [], [], color=MUTED, marker="o", ms=7, lw=2.4, label=f"mean and {interval}"
        ),
        Line2D([], [], color=MUTED, marker="o", ms=4, lw=0, alpha=0.6, label="one run"),
        Patch(color=INK, alpha=0.1, lw=0, label=f"the oracle's {interval}"),
    ]
    figure.legend(
        handles=keys,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
    )
    return figure


def draw_forest(
    axes: Axes,
    rows: Sequence[Row],
    key: str,
    styles: Mapping[str, RowStyle],
    band: str = "oracle",
) -> None:
    """Draws a metric's means, intervals and runs, a line for each row from the top.

    A row far outside of where most lie is a triangle at the edge, its mean beside it.

    Args:
      axes: to draw in.
      rows: with their metrics; a row without this metric gets an en dash.
      key: of the metric.
      styles: of the rows.
      band: kind of the row whose interval is shaded from top to bottom.
    """
    offsets = np.random.default_rng(0)  # always the same scatter of the dots
    limits = _forest_limits(rows, key)
    for height, row in enumerate(rows):
        cell = row["metrics"].get(key)
        if cell is None:
            axes.text(
                0.5,
                height,
                "–",
                transform=axes.get_yaxis_transform(),
                color=MUTED,
                va="center",
                ha="center",
            )
            continue
        style = styles[row["key"]]
        if limits and not limits[0] <= cell["mean"] <= limits[1]:
            _mark_outside(
                axes, height, cell["mean"], style.color, below=cell["mean"] < limits[0]
            )
            continue
        has_interval = known(cell.get("low")) and known(cell.get("high"))
        if row["kind"] == band and has_interval:
            axes.axvspan(
                cell["low"], cell["high"], color=INK, alpha=0.1, lw=1.5, zorder=0
            )
        values = np.array([value for value in cell.get("values") or [] if known(value)])
        scatter = (
            offsets.uniform(-0.22, 0.22, values.size)
            if values.size > 1
            else np.zeros(values.size)
        )
        alpha = float(np.clip(8 / max(values.size, 1), 0.15, 0.45))
        axes.scatter(
            values,
            height + scatter,
            s=13,
            color=style.color,
            alpha=alpha,
            lw=0,
            zorder=2,
        )
        if has_interval:
            axes.plot(
                [cell["low"], cell["high"]],
                [height, height],
                color=style.color,
                lw=2.4,
                zorder=3,
            )
        axes.plot(
            cell["mean"],
            height,
            style.marker,
            color=style.color,
            ms=7 if len(rows) <= 12 else 6,
            zorder=4,
        )
    if limits:
        axes.set_xlim(*limits)


def _forest_limits(rows: Sequence[Row], key: str) -> tuple[float, float] | None:
    """A range that leaves out the methods that lie so far off that they would squeeze the rest; None for no need."""
    cells = [
        (row["kind"] == "method", row["metrics"][key])
        for row in rows
        if row["metrics"].get(key)
    ]
    ends = [
        [cell[end] for end in ("low", "mean", "high") if known(cell.get(end))]
        for _, cell in cells
    ]
    if not ends:
        return None
    low, high = np.quantile(np.concatenate(ends), [0.25, 0.75])
    near = [
        not method or abs(cell["mean"] - (low + high) / 2) <= 3 * (high - low)
        for method, cell in cells
    ]
    if all(near) or low == high:
        return None
    inside = np.concatenate(
        [row for row, is_near in zip(ends, near, strict=True) if is_near]
    )
    margin = 0.06 * np.ptp(inside) + 1e-9
    return float(inside.min() - margin), float(inside.max() + margin)


def _mark_outside(
    axes: Axes, height: float, mean: float, color: str, *, below: bool
) -> None:
    """A triangle at the edge that a value lies beyond, and the value."""
    place = {"transform": axes.get_yaxis_transform(), "clip_on": False, "zorder": 5}
    axes.plot(
        0.015 if below else 0.985,
        height,
        "<" if below else ">",
        color=color,
        ms=7,
        **place,
    )
    aligned: Any = {"ha": "left" if below else "right", "va": "center"}
    axes.text(
        0.05 if below else 0.95,
        height,
        format_number(mean),
        fontsize=8.5,
        color=INK,
        **aligned,
        **place,
    )


def score_histograms(results: Results, arrays: Arrays) -> Figure:
    """Distributions of the attack's score over forget, retain and test samples, a panel per row, axes shared.

    Args:
      results: of a run.
      arrays: with ``scores/<row>`` and ``forget``.

    Returns:
      The figure. Forget samples are filled in the row's color, test is the solid line,
      retain the dotted one; the outer 0.5 % of all scores on either side are counted in
      the last bins.
    """
    rows = [row for row in results["rows"] if f"scores/{row['key']}" in arrays]
    if not rows:
        return note("No scores were stored")
    num_forget = np.count_nonzero(arrays["forget"])
    num_bins = int(
        np.clip(2 * num_forget ** (1 / 3), 12, 48)
    )  # Rice's rule for the smallest part
    stacks = [arrays[f"scores/{row['key']}"] for row in rows]
    logit = all(stack.min() >= 0 and stack.max() <= 1 for stack in stacks)
    edges = _edges(stacks, num_bins, tail=0.005, logit=logit)
    shape: Any = (
        {"height": 1.9, "columns": 3} if len(rows) <= MAX_LINES else {"height": 1.5}
    )
    figure, panels = small_panels(len(rows), share=True, **shape)
    styles = row_styles(results["rows"])
    handles = []
    for axes, row in zip(panels, rows, strict=True):
        dress(axes, short(row["label"], 36 if len(rows) <= MAX_LINES else 25), size=9)
        forget, retain, test = _shares(
            arrays[f"scores/{row['key']}"], arrays["forget"], edges
        )
        color = styles[row["key"]].color
        alpha = 0.2 if color == INK else 0.45
        handles = [
            axes.stairs(
                forget,
                edges,
                fill=True,
                color=color,
                alpha=alpha,
                label="forget (in the row's color)",
            ),
            axes.stairs(test, edges, color=INK, lw=1.3, label="test (never seen)"),
            axes.stairs(
                retain,
                edges,
                color=MUTED,
                lw=1.3,
                ls=(0, (1.5, 1)),
                label="retain (members)",
            ),
        ]
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    for axes in panels:
        if logit:
            axes.set_xscale("logit")
            axes.xaxis.set_major_locator(
                FixedLocator([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999])
            )
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda score, _: f"{score:g}"))
        axes.set_xlim(edges[0], edges[-1])
    scale = ", logit scale" if logit else ""
    figure.supxlabel(
        f"membership score{scale}: more likely a member to the right",
        fontsize=10,
        color=INK,
    )
    figure.supylabel("share of samples", fontsize=10, color=INK)
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=3,
        frameon=False,
        labelcolor=INK,
        fontsize=10,
    )
    return figure


def confidence_plot(results: Results, arrays: Arrays) -> Figure:
    """Cumulative distributions of the logit margin on forget samples, a line per row, and on test for the oracle.

    Args:
      results: of a run.
      arrays: with ``margin/<row>`` and ``forget``.

    Returns:
      The figure; its range leaves out the outer 0.5 % of all margins on either side.
    """
    rows = [row for row in results["rows"] if f"margin/{row['key']}" in arrays]
    if not rows:
        return note("No margins were stored")
    edges = _edges(
        [arrays[f"margin/{row['key']}"] for row in rows],
        300 if len(rows) <= MAX_LINES else 120,
        tail=0.005,
    )
    lines = line_panels(
        rows, "How sure are the models of the forget samples?", height=4.8
    )
    styles, handles, shares = row_styles(results["rows"]), [], {}
    for row in rows:
        parts = _shares(arrays[f"margin/{row['key']}"], arrays["forget"], edges)
        shares[row["key"]] = np.cumsum(parts, axis=1)
    for axes, shown in lines.panels:
        for row in shown:
            forget, _, test = shares[row["key"]]
            style = line_style(row, styles, together=lines.together)
            handles += axes.plot(edges[1:], forget, label=short(row["label"]), **style)
            if row["kind"] == "oracle" and lines.together:
                name = f"{short(row['label'])}: on test samples"
                handles += axes.plot(
                    edges[1:], test, color=MUTED, lw=5, alpha=0.45, label=name, zorder=1
                )
        axes.axvline(0, color=MUTED, lw=1, ls=(0, (2, 2)), zorder=1)
        axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 100))
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    what = (
        "logit margin of the true class, log p − log(1 − p); at the dotted line p = 1/2"
    )
    name_lines(
        lines,
        handles,
        "on forget samples",
        what,
        "share of samples with a smaller margin",
    )
    return lines.figure


def attack_plot(results: Results, arrays: Arrays) -> Figure:
    """What the adversarial search found: radii, statuses and distances.

    Args:
      results: of a run; without an attack the figure says so.
      arrays: with ``distance`` and ``status``; without them the distances are left out.

    Returns:
      The figure; both histograms have the same logarithmic axis, doublings apart.
    """
    attack = results.get("attack")
    if not attack:
        return note("No adversarial examples were made in this run")
    distance, status = (
        arrays.get(name, np.empty(0)) for name in ("distance", "status")
    )
    found = distance[(status == Status.FOUND) & (distance > 0) & np.isfinite(distance)]
    figure = Figure(figsize=(9.2, 4.8), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.9, 1))
    top = figure.add_subplot(grid[0, 0])
    dress(top, "Radius at which the search stopped")
    limits = _radius_bars(top, attack["radii"])
    top.set_ylabel("samples")
    if found.size:
        powers = np.log2(found.astype(np.float64))
        limits = (
            min(limits[0], np.quantile(powers, 0.005)),
            max(limits[1], powers.max()),
        )
        below = figure.add_subplot(grid[1, 0], sharex=top)
        dress(below, "Distance of the examples found")
        below.hist(np.clip(powers, *limits), bins=48, range=limits, color=COLORS[5])
        below.set_ylabel("samples")
        top.tick_params(labelbottom=False)
        _quantile_lines(below, attack.get("distance_quantiles") or {})
    bottom = figure.axes[-1]
    bottom.xaxis.set_major_formatter(
        FuncFormatter(lambda power, _: f"{2.0**power:.3g}")
    )
    bottom.set_xlabel(
        f"{attack.get('norm', '')} distance from the clean image, pixels in [0, 1]".strip()
    )
    top.set_xlim(*limits)
    _status_bars(figure.add_subplot(grid[:, 1]), attack["status"])
    return figure


def _quantile_lines(axes: Axes, quantiles: Mapping[str, float]) -> None:
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])
    for i, (share, name) in enumerate(
        {"0.05": "5 %", "0.5": "median", "0.95": "95 %"}.items()
    ):
        distance = quantiles.get(share)
        if distance and known(distance):
            axes.axvline(math.log2(distance), color=INK, lw=1, ls=(0, (2, 2)))
            place = math.log2(distance), 0.98 - 0.1 * i
            text = f" {name}: {distance:.2g}"
            axes.text(
                *place,
                text,
                transform=axes.get_xaxis_transform(),
                fontsize=9,
                color=INK,
                va="top",
            )


def _radius_bars(axes: Axes, radii: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Bars at the logarithms of the radii (a radius of 0 stands left of the others), and the range they take."""
    positive = sorted(radius for radius, _ in radii if radius > 0) or [1.0]
    places = [
        math.log2(radius if radius > 0 else positive[0] / 2) for radius, _ in radii
    ]
    counts = [count for _, count in radii]
    bars = axes.bar(places, counts, width=0.8, color=COLORS[0])
    texts = [
        f"{count:,}" + ("" if radius > 0 else "\nat radius 0")
        for radius, count in radii
    ]
    axes.bar_label(bars, texts, fontsize=9, color=INK, padding=2)
    axes.set_ylim(0, 1.22 * max([1, *counts]))
    axes.set_xticks([math.log2(radius) for radius in positive])
    return (
        min([*places, math.log2(positive[0])]) - 0.6,
        max([*places, math.log2(positive[-1])]) + 0.6,
    )


def _status_bars(axes: Axes, status: Mapping[str, int]) -> None:
    dress(axes, "Outcome of the search", grid="x")
    counts = list(status.values())
    total = max(sum(counts), 1)
    bars = axes.barh(range(len(counts)), counts, height=0.62, color=COLORS[0])
    axes.bar_label(
        bars,
        [f"{n:,}  ({100 * n / total:.1f} %)" for n in counts],
        fontsize=9,
        color=INK,
        padding=3,
    )
    axes.set_xlim(0, 1.6 * max([1, *counts]))
    axes.set_yticks(range(len(counts)), [name.replace("_", " ") for name in status])
    axes.invert_yaxis()
    axes.set_xlabel("samples")


def _forget_and_test(
    values: np.ndarray, forget: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The values of all runs on forget samples, and on test samples, flat."""
    num_train = forget.shape[1]
    return values[:, :num_train][forget[: len(values)]], values[:, num_train:].ravel()


def _shares(values: np.ndarray, forget: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """``[3, bins]``: percent of the forget, retain and test samples in each bin, runs pooled, outliers at the ends."""
    num_train = forget.shape[1]
    counts = np.zeros((3, edges.size - 1))
    for run, mask in zip(values, forget, strict=False):
        for i, part in enumerate(
            (run[:num_train][mask], run[:num_train][~mask], run[num_train:])
        ):
            usable = np.clip(part[~np.isnan(part)], edges[0], edges[-1])
            counts[i] += np.histogram(usable, edges)[0]
    return 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _edges(
    stacks: Sequence[np.ndarray], num_bins: int, *, tail: float, logit: bool = False
) -> np.ndarray:
    """Equal bins (of the logit) over all but a share ``tail`` of the finite values on either side."""
    step = max(1, sum(stack.size for stack in stacks) // 500_000)
    sample = np.concatenate([stack.ravel()[::step] for stack in stacks]).astype(
        np.float64
    )
    sample = sample[np.isfinite(sample)]
    if logit:
        sample = np.clip(sample, 1e-4, 1 - 1e-4)
        sample = np.log(sample / (1 - sample))
    low, high = np.quantile(sample, [tail, 1 - tail]) if sample.size else (0.0, 1.0)
    edges = (
        np.linspace(low, high, num_bins + 1)
        if low < high
        else np.linspace(low - 0.5, low + 0.5, num_bins + 1)
    )
    return 1 / (1 + np.exp(-edges)) if logit else edges
