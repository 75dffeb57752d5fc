"""Figures of a run's sections: tuning, privacy, single samples, requests."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
)

from unlearn_jax import figures
from unlearn_jax.audit import Estimate
from unlearn_jax.figures.style import (
    DOTTED,
    INK,
    MAX_LINES,
    MUTED,
    Drawing,
    dress,
    legend,
    line_panels,
    line_style,
    name_lines,
    note,
    short,
    small_panels,
)
from unlearn_jax.pipeline.measure.records import RowSearch, RunResult
from unlearn_jax.pipeline.report.blocks import has_interval
from unlearn_jax.pipeline.report.figures.run import Arrays, styles_of


def privacy_plot(result: RunResult) -> Figure:
    """Draw FT AUC, of forgotten samples, against RT AUC, of retained ones, by row."""
    rows = [row for row in result.rows if {"ft_auc", "rt_auc"} <= set(row.metrics)]
    if not rows:
        return note("No row has both AUCs")
    height = max(5.2, 1.0 + 0.2 * len(rows))
    figure = Drawing(figsize=(9.2, height), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "Recognized samples: the forgotten, the retained", grid="both")
    styles = styles_of(result.rows)
    handles = []
    for row in rows:
        style = styles[row.key]
        is_reference = row.kind != "method"
        x = row.metrics["rt_auc"]
        y = row.metrics["ft_auc"]
        look: Any = {
            "color": style.color,
            "marker": style.marker,
            "ms": 9 if is_reference else 6.5,
            "mec": INK if is_reference else style.color,
            "elinewidth": 1.6 if is_reference else 0.9,
            "alpha": 1 if is_reference or len(rows) <= MAX_LINES else 0.75,
            "zorder": 4 if is_reference else 3,
            "ls": "",
        }
        dot = axes.errorbar(
            x.mean,
            y.mean,
            xerr=_distances(x),
            yerr=_distances(y),
            label=short(row.label),
            **look,
        )
        handles.append(dot)
    axes.axhline(50, **DOTTED)
    axes.axvline(50, **DOTTED)
    axes.set_xlabel("RT AUC (%): retained samples against test samples")
    axes.set_ylabel("FT AUC (%): forgotten samples against test samples")
    legend(figure, handles, "outside right upper")
    return figure


def _distances(cell: Estimate) -> list[list[float]] | None:
    """Return the distances of the interval's ends from the mean, never below 0."""
    if not has_interval(cell):
        return None
    return [[max(cell.mean - cell.low, 0)], [max(cell.high - cell.mean, 0)]]


def tuning_plot(result: RunResult) -> Figure:
    """Draw Avg Gap of every trial against a searched hyperparameter, a panel per row.

    The hyperparameter is the first that is searched over a range. The chosen trial is
    ringed, a trial that diverged is a cross at the top, the dashed line is the Avg Gap
    of the original on the same forget sets.
    """
    tuning = result.tuning
    rows = [row for row in result.rows if tuning and row.key in tuning.rows]
    if tuning is None or not rows:
        return note("No hyperparameter was searched for")
    figure, panels = small_panels(len(rows), share="y", height=1.95)
    styles = styles_of(result.rows)
    original = tuning.original.mean
    gaps = [original]
    for search in tuning.rows.values():
        gaps += [t.metrics["avg_gap"].mean for t in search.trials if t.metrics]
    low = min(gaps)
    high = max(gaps)
    is_logarithmic = low > 0 and high > 8 * low
    for axes, row in zip(panels, rows, strict=True):
        search = tuning.rows[row.key]
        dress(axes, short(row.label, 25), grid="both", size=9)
        if is_logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda gap, _: f"{gap:g}"))
        axes.axhline(original, color=MUTED, lw=1, ls=(0, (5, 2)), zorder=1)
        name = first_searched(search.space)
        _draw_trials(axes, search, name, styles[row.key].color)
        axes.set_xlabel(name, fontsize=8)
    if is_logarithmic:
        margin = (high / low) ** 0.12
        panels[0].set_ylim(low / margin, high * margin**1.6)
    else:
        margin = 0.12 * max(high - low, 0.1)
        panels[0].set_ylim(low - margin, high + 1.6 * margin)
    figure.supylabel("Avg Gap (points)", fontsize=10, color=INK)
    return figure


def first_searched(space: Mapping[str, object]) -> str:
    """Return the first name with a range; the first of all if each is a choice."""
    ranges = [name for name, values in space.items() if isinstance(values, Mapping)]
    return [*ranges, *space][0]


def _draw_trials(axes: Axes, search: RowSearch, name: str, color: str) -> None:
    values: Any = search.space[name]
    is_range = isinstance(values, Mapping)
    if is_range:
        axes.set_xscale("log")
        axes.set_xlim(values["low"] / 1.3, values["high"] * 1.3)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xticks(range(len(values)), [str(value) for value in values])
    top: Any = {"transform": axes.get_xaxis_transform(), "ms": 6, "zorder": 4}
    for i, trial in enumerate(search.trials):
        value: Any = trial.options[name]
        place = value if is_range else list(values).index(value)
        if not trial.metrics:
            axes.plot(place, 0.94, "x", color=INK, **top)
            continue
        gap = trial.metrics["avg_gap"].mean
        axes.plot(place, gap, "o", color=color, ms=4.5, zorder=3)
        if i == search.chosen:
            axes.plot(place, gap, "o", color="none", mec=INK, mew=1.5, ms=10, zorder=4)


def vulnerability_plot(result: RunResult, arrays: Arrays) -> Figure:
    """Draw the fraction of forgotten samples found in at least a fraction of the runs.

    Logarithmic upwards, down to half a sample.

    Args:
      result: of a run.
      arrays: with ``vulnerability/ROW``, a fraction for each sample, NaN for those
        never forgotten.
    """
    rows = [row for row in result.rows if f"vulnerability/{row.key}" in arrays]
    if not rows:
        return note("Single samples were not examined")
    title = "How many samples does the attack find repeatedly?"
    styles = styles_of(result.rows)
    labels = [row.label for row in rows]
    looks = [styles[row.key] for row in rows]
    lines = line_panels(labels, looks, title, height=4.6)
    handles = []
    floor = 100.0
    for axes, shown in lines.panels:
        for row in [rows[i] for i in shown]:
            values = arrays[f"vulnerability/{row.key}"].ravel()
            values = values[~np.isnan(values)]
            floor = min(floor, 50 / values.size)
            levels = np.array([0, *np.unique(values[values > 0])])
            # At level 0 the samples found in any run at all.
            fractions = [
                100 * np.mean(values >= (level or np.nextafter(0, 1)))
                for level in levels
            ]
            last = fractions[-1] if levels[-1] == 1 else floor
            style = line_style(styles[row.key], together=lines.together)
            style |= {"where": "pre", "label": short(row.label)}
            handles += axes.step([*(100 * levels), 100], [*fractions, last], **style)
        axes.set(yscale="log", xlim=(0, 100))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(PercentFormatter(decimals=0, symbol="%"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}%"))
        axes.minorticks_off()
    for axes, _ in lines.panels:
        axes.set_ylim(floor, 100)
    x = "found in at least this fraction of the runs that forgot it"
    name_lines(lines, handles, "", x, "fraction of the forgotten samples")
    return lines.figure


def requests_plot(result: RunResult) -> Figure:
    """Draw the published score after every request, a line with intervals per row."""
    requests = result.requests
    rows = [row for row in result.rows if requests and row.key in requests.rows]
    if requests is None or not rows:
        return note("All samples were forgotten at once")
    styles = styles_of(result.rows)
    curves = []
    for row in rows:
        scores = [request.score for request in requests.rows[row.key]]
        curves.append([(cell.mean, cell.low, cell.high) for cell in scores])
    count = min(len(curve) for curve in curves)
    return figures.curve_plot(
        [row.label for row in rows],
        range(1, 1 + count),
        curves,
        styles=[styles[row.key] for row in rows],
        line=0,
        title="The score of each request",
        xlabel=f"request (vertical lines: {100 * result.level:g}% intervals)",
        ylabel="FR AUC − FT AUC (points)",
    )
