"""The picture of a run that forgets classes: where their test samples go, beside where retrained models send them."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from unlearn_jax.pipeline.report.figures.style import COLORS, INK, MUTED, note, short
from unlearn_jax.pipeline.report.tables import Results

MAX_COLUMNS = 12
"""Classes shown of each forget set: those that get most; what is left is summed up."""


def confusion_plot(results: Results) -> Figure:
    """Shares of the forgotten classes' test samples that each row gives to each class, a panel per forget set.

    Args:
      results: of a run, with its section ``confusion``.

    Returns:
      The figure; the retrained rows stand on top, in bold.
    """
    section = results.get("confusion")
    if not section:
        return note("No whole class was forgotten")
    rows = [row for row in results["rows"] if row["key"] in section["sets"][0]["rows"]]
    rows = sorted(
        rows, key=lambda row: ("oracle" not in row["kind"], row["kind"] == "method")
    )
    columns = 2 if len(section["sets"]) > 1 else 1
    lines = math.ceil(len(section["sets"]) / columns)
    fold = partial(textwrap.fill, width=50, max_lines=3, placeholder=" …")
    titles = [
        fold(one["title"]).replace("$", r"\$") for one in section["sets"]
    ]  # a dollar starts mathematics
    room = 1.1 + 0.17 * max(title.count("\n") for title in titles)
    figure = Figure(
        figsize=(9.6, lines * (room + 0.235 * len(rows))), layout="constrained"
    )
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes in panels[len(section["sets"]) :]:
        axes.set_axis_off()
    for i, (axes, one, title) in enumerate(
        zip(panels, section["sets"], titles, strict=False)
    ):
        _panel(axes, one, rows, labeled=i % columns == 0)
        axes.set_title(title, fontsize=10, color=INK, loc="left")
    return figure


def _panel(
    axes: Any,
    one: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    labeled: bool,
) -> None:
    shares = np.array([one["rows"][row["key"]] for row in rows])
    names, shares = _columns(shares)
    colors = LinearSegmentedColormap.from_list(
        "share", [f"{COLORS[0]}00", f"{COLORS[0]}b0"]
    )
    axes.imshow(shares, cmap=colors, vmin=0, vmax=1, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        if share >= 0.005:
            axes.text(
                j,
                i,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                fontsize=7.5,
                color=INK,
            )
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_yticks(
        range(len(rows)),
        [short(row["label"], 30) for row in rows] if labeled else [""] * len(rows),
    )
    axes.set_facecolor("none")  # the page's own, light or dark
    axes.tick_params(axis="x", color=MUTED, labelcolor=INK)
    axes.tick_params(axis="y", length=0, labelsize=8.5, labelcolor=INK)
    for row, label in zip(rows, axes.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if "oracle" in row["kind"] else "normal")
    axes.set_xlabel("class given to them, share in %", fontsize=8.5, color=INK)
    for side in axes.spines.values():
        side.set_visible(False)


def _columns(shares: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The classes to show and their shares, with a column for the others where there are many."""
    count = shares.shape[1]
    if count <= MAX_COLUMNS:
        return [str(c) for c in range(count)], shares
    shown = np.sort(np.argsort(-shares.max(0), kind="stable")[: MAX_COLUMNS - 1])
    rest = 1 - shares[:, shown].sum(1, keepdims=True)
    return [*(str(c) for c in shown), "other"], np.concatenate(
        [shares[:, shown], rest], 1
    )
