"""Figures of a run: ROC curves, intervals, score and margin distributions, and the adversarial search.

Each function takes ``results`` and ``arrays`` and returns a :class:`matplotlib.figure.Figure` that belongs to nobody:
no pyplot, no backend, no global style. Show it in a notebook or ``savefig`` it. A row has the same colour in every
figure: grey before unlearning, black for the oracle, Okabe and Ito's colour-blind-safe colours for the methods.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from unlearn_jax.audit import roc
from unlearn_jax.pipeline.tables import Results, format_level, known
from unlearn_jax.types import Status

Arrays = Mapping[str, np.ndarray]
INK = "#1b1f24"
MUTED = "#7d8590"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colours without yellow (invisible on white) and black (the oracle's)."""

_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)))
_MARKERS = "osD"


class RowStyle(NamedTuple):
    """How a row is drawn in every figure.

    Attributes:
      color: of its lines and dots.
      dashes: its line style; methods that share a colour differ in it.
      marker: of its mean; as ``dashes``.
    """

    color: str
    dashes: Any
    marker: str


def row_styles(rows: Sequence[Mapping[str, Any]]) -> dict[str, RowStyle]:
    """The style of each row by its key; it depends on the order of the rows only."""
    fixed = {
        "original": RowStyle(MUTED, _DASHES[0], "o"),
        "oracle": RowStyle(INK, _DASHES[0], "o"),
        "second_oracle": RowStyle(INK, _DASHES[2], "s"),
    }
    styles, count = {}, 0
    for row in rows:
        if row["kind"] in fixed:
            styles[row["key"]] = fixed[row["kind"]]
        else:
            cycle = count // len(COLORS) % len(_DASHES)
            styles[row["key"]] = RowStyle(COLORS[count % len(COLORS)], _DASHES[cycle], _MARKERS[cycle])
            count += 1
    return styles


def _line(row: Mapping[str, Any], styles: Mapping[str, RowStyle]) -> dict[str, Any]:
    """Keywords for a row's line; the oracle's is thicker and lies on top."""
    style, on_top = styles[row["key"]], row["kind"] == "oracle"
    width, order = (2.2, 4) if on_top else (1.5, 3)
    return {"color": style.color, "ls": style.dashes, "lw": width, "zorder": order}


def roc_plot(results: Results, arrays: Arrays) -> Figure:
    """ROC curves of the membership attack, forget against test, log-log, the runs of a row pooled.

    The axes start at the power of ten below the share of a single test sample. Among equal scores a curve is the
    straight line that random ties would give. The pooled area in the legend can
    differ from the table's FT AUC, which is a mean over runs.

    Args:
      results: of a run.
      arrays: with ``scores/<row>`` and ``forget``; rows without scores are left out.

    Returns:
      The figure.
    """
    rows = [row for row in results["rows"] if f"scores/{row['key']}" in arrays]
    if not rows:
        return _note("No scores were stored")
    num_train = arrays["forget"].shape[1]
    num_test = arrays[f"scores/{rows[0]['key']}"].shape[1] - num_train
    floor = 10.0 ** math.floor(math.log10(1 / max(num_test, 10)))
    rates = np.geomspace(floor, 1, 300)
    styles = row_styles(results["rows"])
    figure = Figure(figsize=(9.2, 5.8), layout="constrained")
    axes = figure.add_subplot()
    _dress(axes, grid="both", title="Can the attack still tell forget samples from unseen ones?")
    chance = axes.plot(rates, rates, color=MUTED, lw=1, dashes=(2, 2), label="chance  50.0")
    lines = []
    for row in rows:
        members, others = _forget_and_test(arrays[f"scores/{row['key']}"], arrays["forget"])
        is_member = np.arange(members.size + others.size) < members.size
        curve = roc(np.concatenate([members, others]), is_member)
        hits = np.maximum(np.interp(rates, curve.fpr, curve.tpr), floor / 10)  # 0 has no place on the axis
        label = f"{_short(row['label'])}  {100 * curve.auc:.1f}"
        lines += axes.plot(rates, hits, label=label, **_line(row, styles))
    axes.set(xscale="log", yscale="log", xlim=(floor, 1), ylim=(floor, 1))
    percent = FuncFormatter(lambda rate, _: f"{100 * rate:g} %")
    axes.xaxis.set_major_formatter(percent)
    axes.yaxis.set_major_formatter(percent)
    axes.set_xlabel("false positive rate: test samples called members")
    axes.set_ylabel("true positive rate: forget samples called members")
    _legend(figure, lines + chance, "pooled AUC (%)")
    return figure


def forest_plot(results: Results, metrics: Sequence[str] = ("ft_auc",)) -> Figure:
    """Means with intervals, the single runs as dots, and the oracle's interval as a band, one panel per metric.

    Args:
      results: of a run.
      metrics: keys of the metrics; the panels share their rows.

    Returns:
      The figure.
    """
    rows, available = results["rows"], {metric["key"]: metric for metric in results["metrics"]}
    shown = [available[key] for key in metrics if key in available]
    if not shown or not rows:
        return _note("Nothing to compare")
    figure = Figure(figsize=(9.2, 1.6 + 0.4 * len(rows)), layout="constrained")
    panels = figure.subplots(1, len(shown), sharey=True, squeeze=False)[0]
    for i, (axes, metric) in enumerate(zip(panels, shown, strict=True)):
        title = metric["name"] if len(shown) > 1 else f"{metric['name']} of every row, with its single runs"
        _dress(axes, title, grid="x", size=11.5 if len(shown) == 1 else 10)
        _forest(axes, rows, metric["key"])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [_short(row["label"]) for row in rows])
        axes.tick_params(axis="y", length=0, labelsize=10, labelcolor=INK)
        axes.set_xlabel(metric["unit"] if len(shown) > 1 else f"{metric['name']} ({metric['unit']})")
        axes.spines["left"].set_visible(False)
        if i == 0:
            for row, label in zip(rows, axes.get_yticklabels(), strict=True):
                label.set_fontweight("bold" if row["kind"] == "oracle" else "normal")
        if metric.get("target") == "50":
            axes.axvline(50, color=MUTED, lw=1, ls=(0, (2, 2)), zorder=1)
    interval = f"{format_level(results)} interval"
    keys = [
        Line2D([], [], color=MUTED, marker="o", ms=7, lw=2.4, label=f"mean and {interval}"),
        Line2D([], [], color=MUTED, marker="o", ms=4, lw=0, alpha=0.6, label="one run"),
        Patch(color=INK, alpha=0.1, lw=0, label=f"the oracle's {interval}"),
    ]
    figure.legend(handles=keys, loc="outside lower center", ncols=3, frameon=False, labelcolor=INK, fontsize=9.5)
    return figure


def _forest(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    styles = row_styles(rows)
    offsets = np.random.default_rng(0)  # always the same scatter of the dots
    for height, row in enumerate(rows):
        cell = row["metrics"].get(key)
        if cell is None:
            axes.text(0.5, height, "–", transform=axes.get_yaxis_transform(), color=MUTED, va="center", ha="center")
            continue
        style = styles[row["key"]]
        has_interval = known(cell.get("low")) and known(cell.get("high"))
        if row["kind"] == "oracle" and has_interval:
            axes.axvspan(cell["low"], cell["high"], color=INK, alpha=0.1, lw=1.5, zorder=0)
        values = np.array([value for value in cell.get("values") or [] if known(value)])
        scatter = offsets.uniform(-0.22, 0.22, values.size) if values.size > 1 else np.zeros(values.size)
        alpha = float(np.clip(8 / max(values.size, 1), 0.15, 0.45))
        axes.scatter(values, height + scatter, s=13, color=style.color, alpha=alpha, lw=0, zorder=2)
        if has_interval:
            axes.plot([cell["low"], cell["high"]], [height, height], color=style.color, lw=2.4, zorder=3)
        axes.plot(cell["mean"], height, style.marker, color=style.color, ms=7, zorder=4)


def score_histograms(results: Results, arrays: Arrays) -> Figure:
    """Distributions of the attack's score over forget, retain and test samples, a panel per row, axes shared.

    Args:
      results: of a run.
      arrays: with ``scores/<row>`` and ``forget``.

    Returns:
      The figure. Forget samples are filled in the row's colour, test is the solid line, retain the dotted one;
      the outer 0.5 % of all scores on either side are counted in the last bins.
    """
    rows = [row for row in results["rows"] if f"scores/{row['key']}" in arrays]
    if not rows:
        return _note("No scores were stored")
    num_forget = np.count_nonzero(arrays["forget"])
    num_bins = int(np.clip(2 * num_forget ** (1 / 3), 12, 48))  # Rice's rule for the smallest part
    stacks = [arrays[f"scores/{row['key']}"] for row in rows]
    logit = all(stack.min() >= 0 and stack.max() <= 1 for stack in stacks)
    edges = _edges(stacks, num_bins, tail=0.005, logit=logit)
    columns = min(len(rows), 3)
    lines = math.ceil(len(rows) / columns)
    figure = Figure(figsize=(9.2, 1.1 + 1.9 * lines), layout="constrained")
    panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
    styles = row_styles(results["rows"])
    handles = []
    for axes, row in zip(panels, rows, strict=False):
        _dress(axes, _short(row["label"]), size=10)
        forget, retain, test = _shares(arrays[f"scores/{row['key']}"], arrays["forget"], edges)
        color = styles[row["key"]].color
        alpha = 0.2 if color == INK else 0.45
        handles = [
            axes.stairs(forget, edges, fill=True, color=color, alpha=alpha, label="forget (in the row's colour)"),
            axes.stairs(test, edges, color=INK, lw=1.3, label="test (never seen)"),
            axes.stairs(retain, edges, color=MUTED, lw=1.3, ls=(0, (1.5, 1)), label="retain (members)"),
        ]
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    for axes in panels[len(rows) :]:
        axes.set_axis_off()
    for i, axes in enumerate(panels[: len(rows)]):
        axes.tick_params(labelbottom=i + columns >= len(rows))
        if logit:
            axes.set_xscale("logit")
            axes.xaxis.set_major_locator(FixedLocator([0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda score, _: f"{score:g}"))
        axes.set_xlim(edges[0], edges[-1])
    scale = ", logit scale" if logit else ""
    figure.supxlabel(f"membership score{scale}: more likely a member to the right", fontsize=10, color=INK)
    figure.supylabel("share of samples", fontsize=10, color=INK)
    figure.legend(handles=handles, loc="outside upper left", ncols=3, frameon=False, labelcolor=INK, fontsize=10)
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
        return _note("No margins were stored")
    edges = _edges([arrays[f"margin/{row['key']}"] for row in rows], 300, tail=0.005)
    figure = Figure(figsize=(9.2, 4.8), layout="constrained")
    axes = figure.add_subplot()
    _dress(axes, grid="both", title="How sure are the models of the forget samples?")
    styles = row_styles(results["rows"])
    handles = []
    for row in rows:
        shares = _shares(arrays[f"margin/{row['key']}"], arrays["forget"], edges)
        forget, _, test = np.cumsum(shares, axis=1)
        handles += axes.plot(edges[1:], forget, label=_short(row["label"]), **_line(row, styles))
        if row["kind"] == "oracle":
            name = f"{_short(row['label'])}: on test samples"
            handles += axes.plot(edges[1:], test, color=MUTED, lw=5, alpha=0.45, label=name, zorder=1)
    axes.axvline(0, color=MUTED, lw=1, ls=(0, (2, 2)), zorder=1)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 100))
    axes.yaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
    axes.set_xlabel("logit margin of the true class, log p − log(1 − p); at the dotted line p = 1/2")
    axes.set_ylabel("share of samples with a smaller margin")
    _legend(figure, handles, "on forget samples")
    return figure


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
        return _note("No adversarial examples were made in this run")
    distance, status = (arrays.get(name, np.empty(0)) for name in ("distance", "status"))
    found = distance[(status == Status.FOUND) & (distance > 0) & np.isfinite(distance)]
    figure = Figure(figsize=(9.2, 4.8), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.9, 1))
    top = figure.add_subplot(grid[0, 0])
    _dress(top, "Radius at which the search stopped")
    limits = _radius_bars(top, attack["radii"])
    top.set_ylabel("samples")
    if found.size:
        powers = np.log2(found.astype(np.float64))
        limits = min(limits[0], np.quantile(powers, 0.005)), max(limits[1], powers.max())
        below = figure.add_subplot(grid[1, 0], sharex=top)
        _dress(below, "Distance of the examples found")
        below.hist(np.clip(powers, *limits), bins=48, range=limits, color=COLORS[5])
        below.set_ylabel("samples")
        top.tick_params(labelbottom=False)
        _quantile_lines(below, attack.get("distance_quantiles") or {})
    bottom = figure.axes[-1]
    bottom.xaxis.set_major_formatter(FuncFormatter(lambda power, _: f"{2.0**power:.3g}"))
    bottom.set_xlabel(f"{attack.get('norm', '')} distance from the clean image, pixels in [0, 1]".strip())
    top.set_xlim(*limits)
    _status_bars(figure.add_subplot(grid[:, 1]), attack["status"])
    return figure


def _quantile_lines(axes: Axes, quantiles: Mapping[str, float]) -> None:
    axes.set_ylim(0, 1.35 * axes.get_ylim()[1])
    for i, (share, name) in enumerate({"0.05": "5 %", "0.5": "median", "0.95": "95 %"}.items()):
        distance = quantiles.get(share)
        if distance and known(distance):
            axes.axvline(math.log2(distance), color=INK, lw=1, ls=(0, (2, 2)))
            place = math.log2(distance), 0.98 - 0.1 * i
            text = f" {name}: {distance:.2g}"
            axes.text(*place, text, transform=axes.get_xaxis_transform(), fontsize=9, color=INK, va="top")


def _radius_bars(axes: Axes, radii: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Bars at the logarithms of the radii (a radius of 0 stands left of the others), and the range they take."""
    positive = sorted(radius for radius, _ in radii if radius > 0) or [1.0]
    places = [math.log2(radius if radius > 0 else positive[0] / 2) for radius, _ in radii]
    counts = [count for _, count in radii]
    bars = axes.bar(places, counts, width=0.8, color=COLORS[0])
    texts = [f"{count:,}" + ("" if radius > 0 else "\nat radius 0") for radius, count in radii]
    axes.bar_label(bars, texts, fontsize=9, color=INK, padding=2)
    axes.set_ylim(0, 1.22 * max([1, *counts]))
    axes.set_xticks([math.log2(radius) for radius in positive])
    return min([*places, math.log2(positive[0])]) - 0.6, max([*places, math.log2(positive[-1])]) + 0.6


def _status_bars(axes: Axes, status: Mapping[str, int]) -> None:
    _dress(axes, "Outcome of the search", grid="x")
    counts = list(status.values())
    total = max(sum(counts), 1)
    bars = axes.barh(range(len(counts)), counts, height=0.62, color=COLORS[0])
    axes.bar_label(bars, [f"{n:,}  ({100 * n / total:.1f} %)" for n in counts], fontsize=9, color=INK, padding=3)
    axes.set_xlim(0, 1.6 * max([1, *counts]))
    axes.set_yticks(range(len(counts)), [name.replace("_", " ") for name in status])
    axes.invert_yaxis()
    axes.set_xlabel("samples")


def _forget_and_test(values: np.ndarray, forget: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values of all runs on forget samples, and on test samples, flat."""
    num_train = forget.shape[1]
    return values[:, :num_train][forget[: len(values)]], values[:, num_train:].ravel()


def _shares(values: np.ndarray, forget: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """``[3, bins]``: percent of the forget, retain and test samples in each bin, runs pooled, outliers at the ends."""
    num_train = forget.shape[1]
    counts = np.zeros((3, edges.size - 1))
    for run, mask in zip(values, forget, strict=False):
        for i, part in enumerate((run[:num_train][mask], run[:num_train][~mask], run[num_train:])):
            usable = np.clip(part[~np.isnan(part)], edges[0], edges[-1])
            counts[i] += np.histogram(usable, edges)[0]
    return 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _edges(stacks: Sequence[np.ndarray], num_bins: int, *, tail: float, logit: bool = False) -> np.ndarray:
    """Equal bins (of the logit) over all but a share ``tail`` of the finite values on either side."""
    step = max(1, sum(stack.size for stack in stacks) // 500_000)
    sample = np.concatenate([stack.ravel()[::step] for stack in stacks]).astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if logit:
        sample = np.clip(sample, 1e-4, 1 - 1e-4)
        sample = np.log(sample / (1 - sample))
    low, high = np.quantile(sample, [tail, 1 - tail]) if sample.size else (0.0, 1.0)
    edges = np.linspace(low, high, num_bins + 1) if low < high else np.linspace(low - 0.5, low + 0.5, num_bins + 1)
    return 1 / (1 + np.exp(-edges)) if logit else edges


def _short(label: str, width: int = 40) -> str:
    """A label on one line that matplotlib takes literally (a dollar starts mathematics, an underscore hides)."""
    label = " ".join(label.split()).replace("$", r"\$")
    label = label if len(label) <= width else label[: width - 1].rstrip() + "…"
    return "\u200b" + label if label.startswith("_") else label


def _dress(axes: Axes, title: str, *, grid: str = "y", size: float = 11.5) -> None:
    """The look of every panel: a title to the left, two spines, a faint grid behind the data."""
    axes.set_title(title, loc="left", fontsize=size, fontweight="bold", color=INK, pad=8)
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis=grid, color=MUTED, alpha=0.22, lw=0.8)  # pyright: ignore[reportArgumentType]
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
    axes.tick_params(which="both", color=MUTED, labelcolor=INK, labelsize=9.5)
    axes.xaxis.label.set(color=INK, fontsize=10)
    axes.yaxis.label.set(color=INK, fontsize=10)


def _legend(figure: Figure, handles: Sequence[Any], title: str) -> None:
    legend = figure.legend(handles=handles, loc="outside right upper", frameon=False, labelcolor=INK, fontsize=9.5)
    legend.set_title(title)
    legend.get_title().set(color=INK, fontsize=9.5, fontweight="bold")


def _note(message: str) -> Figure:
    """A figure that only says why it is empty."""
    figure = Figure(figsize=(6, 1))
    figure.text(0.5, 0.5, message, ha="center", va="center", color=INK, fontsize=11)
    return figure
