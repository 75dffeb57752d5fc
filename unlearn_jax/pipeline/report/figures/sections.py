"""Figures of a run's further sections: tuning, both sides of privacy, single samples, requests one by one.

As in :mod:`unlearn_jax.pipeline.plots`, each function returns a figure that belongs to
nobody.
"""

from collections.abc import Mapping, Sequence
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

from unlearn_jax.pipeline.report.figures.run import Arrays
from unlearn_jax.pipeline.report.figures.style import (
    INK,
    MAX_LINES,
    MUTED,
    dress,
    line_panels,
    line_style,
    name_lines,
    note,
    row_styles,
    short,
    small_panels,
)
from unlearn_jax.pipeline.report.tables import Results, format_level, known


def privacy_plot(results: Results) -> Figure:
    """The attack's FT AUC, of forgotten samples, against its RT AUC, of retained ones; a dot per row.

    Args:
      results: of a run.

    Returns:
      The figure; dotted lines at 50 %, thin lines are the intervals.
    """
    rows = [
        row
        for row in results["rows"]
        if row["metrics"].get("ft_auc") and row["metrics"].get("rt_auc")
    ]
    if not rows:
        return note("No row has both AUCs")
    figure = Figure(
        figsize=(9.2, max(5.2, 1.0 + 0.2 * len(rows))), layout="constrained"
    )
    axes = figure.add_subplot()
    dress(axes, "Who can be recognized: those who left, those who stayed", grid="both")
    styles, crowded = row_styles(results["rows"]), len(rows) > MAX_LINES
    handles = []
    for row in rows:
        style, reference = styles[row["key"]], row["kind"] != "method"
        x, y = row["metrics"]["rt_auc"], row["metrics"]["ft_auc"]
        errors = [_errors(x), _errors(y)]
        handles += [
            axes.errorbar(
                x["mean"],
                y["mean"],
                xerr=errors[0],
                yerr=errors[1],
                color=style.color,
                marker=style.marker,
                ms=9 if reference else 6.5,
                mec=INK if reference else style.color,
                elinewidth=1.6 if reference else 0.9,
                alpha=1 if reference or not crowded else 0.75,
                ls="",
                label=short(row["label"]),
                zorder=4 if reference else 3,
            )
        ]
    for line in (axes.axhline, axes.axvline):
        line(50, color=MUTED, lw=1, ls=(0, (2, 2)), zorder=1)
    axes.set_xlabel("RT AUC (%): retained samples against test samples")
    axes.set_ylabel("FT AUC (%): forgotten samples against test samples")
    figure.legend(
        handles=handles,
        loc="outside right upper",
        frameon=False,
        labelcolor=INK,
        fontsize=9,
    )
    return figure


def _errors(cell: Mapping[str, Any]) -> list[list[float]] | None:
    """Distances of the interval's ends from the mean, as Matplotlib wants them; never below 0."""
    if not (known(cell.get("low")) and known(cell.get("high"))):
        return None
    return [[max(cell["mean"] - cell["low"], 0)], [max(cell["high"] - cell["mean"], 0)]]


def tuning_plot(results: Results) -> Figure:
    """Avg Gap of every trial against the first knob that is searched over a range, a panel per row.

    Args:
      results: of a run.

    Returns:
      The figure; the chosen trial is ringed, a trial that diverged is a cross at the
      top, the dashed line is the Avg Gap of doing nothing on the same forget sets.
    """
    tuned = [
        row for row in results["rows"] if (results.get("tuning") or {}).get(row["key"])
    ]
    if not tuned:
        return note("No knob was searched for")
    figure, panels = small_panels(len(tuned), share="y", height=1.95)
    styles = row_styles(results["rows"])
    searches = [results["tuning"][row["key"]] for row in tuned]
    gaps = [
        t["metrics"]["avg_gap"]["mean"]
        for search in searches
        for t in search["trials"]
        if t["metrics"]
    ]
    nothing = searches[0]["nothing"]["mean"]
    low, high = min([*gaps, nothing]), max([*gaps, nothing])
    logarithmic = low > 0 and high > 8 * low
    for axes, row, search in zip(panels, tuned, searches, strict=True):
        dress(axes, short(row["label"], 25), grid="both", size=9)
        knob = first_knob(search["space"])
        if logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda gap, _: f"{gap:g}"))
        axes.axhline(nothing, color=MUTED, lw=1, ls=(0, (5, 2)), zorder=1)
        _trials(axes, search, knob, styles[row["key"]].color)
        axes.set_xlabel(knob, fontsize=8)
    margin = (high / low) ** 0.12 if logarithmic else 0.12 * max(high - low, 0.1)
    panels[0].set_ylim(
        *(
            (low / margin, high * margin**1.6)
            if logarithmic
            else (low - margin, high + 1.6 * margin)
        )
    )
    figure.supylabel("Avg Gap (points)", fontsize=10, color=INK)
    return figure


def first_knob(space: Mapping[str, Any]) -> str:
    """The first knob searched over a range; the first of all where each is a choice."""
    return next(
        (name for name, values in space.items() if isinstance(values, Mapping)),
        next(iter(space)),
    )


def _trials(axes: Axes, search: Mapping[str, Any], knob: str, color: str) -> None:
    values = search["space"][knob]
    if isinstance(values, Mapping):
        axes.set_xscale("log")
        axes.set_xlim(values["low"] / 1.3, values["high"] * 1.3)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_xticks(range(len(values)), [str(value) for value in values])
    for position, trial in enumerate(search["trials"]):
        value = trial["knobs"][knob]
        place = value if isinstance(values, Mapping) else list(values).index(value)
        if not trial["metrics"]:
            axes.plot(
                place,
                0.94,
                "x",
                color=INK,
                ms=6,
                transform=axes.get_xaxis_transform(),
                zorder=4,
            )
            continue
        gap, chosen = trial["metrics"]["avg_gap"]["mean"], position == search["chosen"]
        axes.plot(place, gap, "o", color=color, ms=4.5, zorder=3)
        if chosen:
            axes.plot(place, gap, "o", color="none", mec=INK, mew=1.5, ms=10, zorder=4)


def vulnerability_plot(results: Results, arrays: Arrays) -> Figure:
    """Share of the forgotten samples that are found in at least a given share of the runs that forgot them.

    Args:
      results: of a run.
      arrays: with ``vulnerability/<row>``, a share for each sample, NaN for those never
        forgotten.

    Returns:
      The figure; logarithmic upwards, down to half a sample.
    """
    rows = [row for row in results["rows"] if f"vulnerability/{row['key']}" in arrays]
    if not rows:
        return note("No single samples were looked at")
    lines = line_panels(
        rows, "How many samples does the attack find again and again?", height=4.6
    )
    styles, handles, floor = row_styles(results["rows"]), [], 100.0
    for axes, shown in lines.panels:
        for row in shown:
            shares = arrays[f"vulnerability/{row['key']}"].ravel()
            shares = shares[~np.isnan(shares)]
            floor = min(floor, 50 / shares.size)
            at_least = np.array([0, *np.unique(shares[shares > 0])])
            found = [
                100 * np.mean(shares >= (share or np.nextafter(0, 1)))
                for share in at_least
            ]
            places, heights = (
                [*(100 * at_least), 100],
                [
                    *found,
                    found[-1] if at_least[-1] == 1 else floor,
                ],
            )
            style = line_style(row, styles, together=lines.together)
            handles += axes.step(
                places, heights, where="pre", label=short(row["label"]), **style
            )
        axes.set(yscale="log", xlim=(0, 100))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=" %"))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g} %"))
        axes.minorticks_off()
    for axes, _ in lines.panels:
        axes.set_ylim(floor, 100)
    name_lines(
        lines,
        handles,
        "",
        "found in at least this share of the runs that forgot it",
        "share of the forgotten samples",
    )
    return lines.figure


def requests_plot(results: Results) -> Figure:
    """The published score after every request, a line with intervals per row.

    Args:
      results: of a run.
    """
    scores = (results.get("requests") or {}).get("rows") or {}
    rows = [row for row in results["rows"] if row["key"] in scores]
    if not rows:
        return note("All samples were forgotten at once")
    lines = line_panels(rows, "The score of each request", height=4.6)
    styles, handles = row_styles(results["rows"]), []
    for axes, shown in lines.panels:
        for i, row in enumerate(shown):
            cells = [request["score"] for request in scores[row["key"]]]
            places = (
                1 + np.arange(len(cells)) + 0.04 * (i - (len(shown) - 1) / 2)
            )  # beside each other
            means = [cell["mean"] for cell in cells]
            style = line_style(row, styles, together=lines.together)
            marker = styles[row["key"]].marker
            handles += axes.plot(
                places, means, marker=marker, ms=5, label=short(row["label"]), **style
            )
            _whiskers(axes, places, cells, style["color"])
        axes.axhline(0, color=MUTED, lw=1, ls=(0, (2, 2)), zorder=1)
        axes.set_xticks(range(1, 1 + results["requests"]["count"]))
    interval = f"lines are {format_level(results)} intervals"
    name_lines(lines, handles, "", f"request ({interval})", "FR AUC − FT AUC (points)")
    return lines.figure


def _whiskers(
    axes: Axes, places: np.ndarray, cells: Sequence[Mapping[str, Any]], color: str
) -> None:
    for place, cell in zip(places, cells, strict=True):
        if known(cell.get("low")) and known(cell.get("high")):
            axes.plot(
                [place, place],
                [cell["low"], cell["high"]],
                color=color,
                lw=1.2,
                alpha=0.7,
                zorder=2,
            )
