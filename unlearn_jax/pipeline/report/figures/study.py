"""The figure of a study: the Avg Gap of every method, a panel per variant."""

import math
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from unlearn_jax.pipeline.report.figures.run import draw_forest
from unlearn_jax.pipeline.report.figures.style import (
    INK,
    MUTED,
    dress,
    note,
    row_styles,
    short,
)
from unlearn_jax.pipeline.report.tables import Results, format_level

_COLUMNS = 3


def study_plot(results: Mapping[str, Results]) -> Figure:
    """Avg Gap of every method, a panel per variant, each on its own scale.

    Args:
      results: of every variant's run, by name.

    Returns:
      The figure; a method that a variant lacks, or that diverged there, has an en dash.
    """
    about = {row["key"]: row for result in results.values() for row in result["rows"]}
    styles = row_styles(list(about.values()))
    if not any(
        row["metrics"].get("avg_gap")
        for result in results.values()
        for row in result["rows"]
    ):
        return note("No row has an Avg Gap")
    columns = min(len(results), _COLUMNS)
    lines = math.ceil(len(results) / columns)
    figure = Figure(
        figsize=(9.2, 1.0 + lines * (0.7 + 0.28 * len(about))), layout="constrained"
    )
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes, (name, result) in zip(panels, results.items(), strict=False):
        found = {row["key"]: row["metrics"] for row in result["rows"]}
        rows = [{**row, "metrics": found.get(key, {})} for key, row in about.items()]
        dress(axes, short(name, 30), grid="x", size=10)
        draw_forest(axes, rows, "avg_gap", styles, band="second_oracle")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_yticks(range(len(rows)), [short(row["label"]) for row in rows])
        axes.tick_params(axis="y", length=0, labelsize=9)
        axes.spines["left"].set_visible(False)
    for axes in panels[len(results) :]:
        axes.set_axis_off()
    figure.supxlabel("Avg Gap (points)", fontsize=10, color=INK)
    interval = f"{format_level(next(iter(results.values())))} interval"
    keys = [
        Line2D(
            [], [], color=MUTED, marker="o", ms=6, lw=2.4, label=f"mean and {interval}"
        ),
        Line2D([], [], color=MUTED, marker="o", ms=4, lw=0, alpha=0.6, label="one run"),
        Patch(
            color=INK,
            alpha=0.1,
            lw=0,
            label="interval of the second retrained model: the seed floor",
        ),
    ]
    figure.legend(
        handles=keys,
        loc="outside upper left",
        ncols=3,
        frameon=False,
        labelcolor=INK,
        fontsize=9,
    )
    return figure
