"""Figure of a study: the Avg Gap of every row, a panel per variant."""

import dataclasses
import math
from collections.abc import Mapping

from matplotlib.figure import Figure

from unlearn_jax.figures.intervals import forest_keys
from unlearn_jax.figures.style import INK, Drawing, legend, note, short
from unlearn_jax.pipeline.measure.records import RunResult
from unlearn_jax.pipeline.report.figures.run import draw_forest, styles_of


def study_plot(results: Mapping[str, RunResult]) -> Figure:
    """Draw the Avg Gap of every row, a panel per variant, each on its own scale.

    Args:
      results: of every variant's run, by name.

    Returns:
      The figure; a row that a variant lacks, or that diverged there, has a dash.
    """
    rows = [row for result in results.values() for row in result.rows]
    if not any("avg_gap" in row.metrics for row in rows):
        return note("No row has an Avg Gap")
    every = {row.key: row for row in rows}
    styles = styles_of(list(every.values()))
    columns = min(len(results), 3)
    lines = math.ceil(len(results) / columns)
    height = 1.0 + lines * (0.7 + 0.28 * len(every))
    figure = Drawing(figsize=(9.2, height), layout="constrained")
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).ravel()
    for axes, (name, result) in zip(panels, results.items(), strict=False):
        by_key = {row.key: row for row in result.rows}
        rows = [
            by_key.get(key) or dataclasses.replace(row, metrics={}, values={})
            for key, row in every.items()
        ]
        draw_forest(
            rows,
            "avg_gap",
            styles,
            band="second_oracle",
            level=result.level,
            title=short(name, 30),
            axes=axes,
        )
    for axes in panels[len(results) :]:
        axes.set_axis_off()
    figure.supxlabel("Avg Gap (points)", fontsize=10, color=INK)
    level = next(iter(results.values())).level
    legend(figure, forest_keys(level, "second_oracle"), ncols=3)
    return figure
