"""Figure of a run that forgets classes: the classes given to their test samples."""

import math
import textwrap
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from unlearn_jax.figures.style import COLORS, INK, MUTED, Drawing, note, short
from unlearn_jax.pipeline.measure.records import RunResult

MAX_COLUMNS = 12
"""Classes shown of each forget set: those given most often; the rest is one column."""


def confusion_plot(result: RunResult) -> Figure:
    """Draw the classes that each row gives to test samples of the forgotten classes.

    A panel per forget set, in percent; the retrained rows stand on top, in bold.
    """
    if result.confusion is None:
        return note("No whole class was forgotten")
    sets = result.confusion.sets
    rows = [row for row in result.rows if row.key in sets[0].rows]
    rows.sort(key=lambda row: ("oracle" not in row.kind, row.kind == "method"))
    columns = 2 if len(sets) > 1 else 1
    lines = math.ceil(len(sets) / columns)
    titles = []
    for one in sets:
        title = textwrap.fill(one.title, width=50, max_lines=3, placeholder=" …")
        # A dollar starts mathematics.
        titles.append(title.replace("$", r"\$"))
    head = 1.1 + 0.17 * max(title.count("\n") for title in titles)
    height = lines * (head + 0.235 * len(rows))
    figure = Drawing(figsize=(9.6, height), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[len(sets) :]:
        axes.set_axis_off()
    ends = [f"{COLORS[0]}00", f"{COLORS[0]}b0"]
    colors = LinearSegmentedColormap.from_list("fraction", ends)
    centered: Any = {"ha": "center", "va": "center", "fontsize": 7.5, "color": INK}
    for i, (axes, one, title) in enumerate(zip(panels, sets, titles, strict=False)):
        rates = np.array([one.rows[row.key] for row in rows])
        names, rates = _columns(rates)
        axes.imshow(rates, cmap=colors, vmin=0, vmax=1, aspect="auto")
        for (y, x), rate in np.ndenumerate(rates):
            if rate >= 0.005:
                axes.text(x, y, f"{100 * rate:.0f}", **centered)
        is_left = i % columns == 0
        labels = [short(row.label, 30) if is_left else "" for row in rows]
        axes.set_xticks(range(len(names)), names, fontsize=8)
        axes.set_yticks(range(len(rows)), labels)
        # The page's own color, light or dark.
        axes.set_facecolor("none")
        axes.tick_params(axis="x", color=MUTED, labelcolor=INK)
        axes.tick_params(axis="y", length=0, labelsize=8.5, labelcolor=INK)
        for row, label in zip(rows, axes.get_yticklabels(), strict=True):
            label.set_fontweight("bold" if "oracle" in row.kind else "normal")
        axes.set_xlabel("predicted class, in percent", fontsize=8.5, color=INK)
        axes.set_title(title, fontsize=10, color=INK, loc="left")
        for side in axes.spines.values():
            side.set_visible(False)
    return figure


def _columns(rates: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the classes to show and their rates, the others summed where many."""
    count = rates.shape[1]
    if count <= MAX_COLUMNS:
        return [str(label) for label in range(count)], rates
    order = np.argsort(-rates.max(0), kind="stable")
    shown = np.sort(order[: MAX_COLUMNS - 1])
    rest = 1 - rates[:, shown].sum(1, keepdims=True)
    names = [*(str(label) for label in shown), "other"]
    return names, np.concatenate([rates[:, shown], rest], 1)
