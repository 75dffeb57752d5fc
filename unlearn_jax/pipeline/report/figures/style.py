"""The look that all figures share: a style for every row, the dress of a panel, panels for many lines, inline SVG.

A row has the same color in every figure: gray before unlearning, black for the oracle,
Okabe and Ito's color-blind-safe colors for the methods.
"""

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

Row = Mapping[str, Any]
INK = "#1b1f24"
MUTED = "#7d8590"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colors without yellow (invisible on white) and black (the oracle's)."""
MAX_LINES = 9
"""More lines than these hide each other in one panel."""

_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 3)))
_MARKERS = "osD^v"


class RowStyle(NamedTuple):
    """How a row is drawn in every figure.

    Attributes:
      color: of its lines and dots.
      dashes: its line style; methods that share a color differ in it.
      marker: of its mean; as ``dashes``.
    """

    color: str
    dashes: Any
    marker: str


def row_styles(rows: Sequence[Row]) -> dict[str, RowStyle]:
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
            styles[row["key"]] = RowStyle(
                COLORS[count % len(COLORS)], _DASHES[cycle], _MARKERS[cycle]
            )
            count += 1
    return styles


def line_style(
    row: Row, styles: Mapping[str, RowStyle], *, together: bool = True
) -> dict[str, Any]:
    """Keywords for a row's line.

    Args:
      row: whose line it is.
      styles: of all rows.
      together: with all other rows, where the oracle's thicker line lies on top and
        dashes tell equal colors apart; otherwise a method's line is solid, and lies on
        top.
    """
    style = styles[row["key"]]
    width, order = (2.2, 4) if row["kind"] == "oracle" else (1.5, 3)
    if not together and row["kind"] == "method":
        return {"color": style.color, "ls": "-", "lw": width, "zorder": 5}
    return {"color": style.color, "ls": style.dashes, "lw": width, "zorder": order}


class Lines(NamedTuple):
    """Axes for a line per row.

    Attributes:
      figure: that holds them.
      panels: axes, and the rows to draw in them, in order.
      together: all rows share one panel; otherwise each has its own, with the original
        and the oracle beside it.
    """

    figure: Figure
    panels: list[tuple[Axes, list[Row]]]
    together: bool


def line_panels(rows: Sequence[Row], title: str, height: float) -> Lines:
    """One panel for all rows, or, where their lines would hide each other, one for each.

    Args:
      rows: to draw.
      title: of the single panel; panels of their own have the rows' names.
      height: of the single panel in inches.
    """
    if len(rows) <= MAX_LINES:
        figure = Figure(figsize=(9.2, height), layout="constrained")
        axes = figure.add_subplot()
        dress(axes, title, grid="both")
        return Lines(figure, [(axes, list(rows))], together=True)
    beside = [row for row in rows if row["kind"] in ("original", "oracle")]
    own = [row for row in rows if row["kind"] not in ("original", "oracle")]
    figure, grid = small_panels(len(own), share=True)
    for axes, row in zip(grid, own, strict=True):
        dress(axes, short(row["label"], 25), grid="both", size=9)
    return Lines(
        figure,
        [(axes, [*beside, row]) for axes, row in zip(grid, own, strict=True)],
        together=False,
    )


def name_lines(
    lines: Lines, handles: Sequence[Any], title: str, x: str, y: str
) -> None:
    """Writes the legend and the names of the axes.

    Args:
      lines: from :func:`line_panels`.
      handles: for the legend of a single panel; the legend of many names the lines
        beside the row's own.
      title: of the single panel's legend.
      x: what the horizontal axis shows.
      y: what the vertical axis shows.
    """
    if lines.together:
        axes = lines.panels[0][0]
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        legend = lines.figure.legend(
            handles=handles,
            loc="outside right upper",
            frameon=False,
            labelcolor=INK,
            fontsize=9.5,
        )
        legend.set_title(title)
        legend.get_title().set(color=INK, fontsize=9.5, fontweight="bold")
        return
    lines.figure.supxlabel(x, fontsize=10, color=INK)
    lines.figure.supylabel(y, fontsize=10, color=INK)
    beside = lines.panels[0][1][:-1]
    styles = row_styles(beside)
    keys = [
        Line2D([], [], **line_style(row, styles), label=short(row["label"]))
        for row in beside
    ]
    keys.append(
        Line2D([], [], color=COLORS[0], lw=1.5, label="the panel's row, in its color")
    )
    lines.figure.legend(
        handles=keys,
        loc="outside upper left",
        ncols=4,
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
    )


def small_panels(
    count: int, *, share: bool | str = False, height: float = 1.65, columns: int = 4
) -> tuple[Figure, list[Axes]]:
    """A grid of panels.

    Args:
      count: of the panels.
      share: whether both axes are shared, or which one is.
      height: of a panel in inches.
      columns: most panels in a line.
    """
    columns = min(count, columns)
    lines = math.ceil(count / columns)
    figure = Figure(figsize=(9.2, 1.0 + height * lines), layout="constrained")
    share_x, share_y = share is True or share == "x", share is True or share == "y"
    panels = figure.subplots(
        lines, columns, sharex=share_x, sharey=share_y, squeeze=False
    ).ravel()
    for axes in panels[count:]:
        axes.set_axis_off()
    for i, axes in enumerate(panels[:count]):
        axes.tick_params(labelbottom=not share_x or i + columns >= count)
    return figure, list(panels[:count])


def short(label: str, width: int = 40) -> str:
    """A label on one line that matplotlib takes literally (a dollar starts mathematics, an underscore hides)."""
    label = " ".join(label.split())
    label = label if len(label) <= width else label[: width - 1].rstrip() + "…"
    label = label.replace("$", r"\$")
    return "\u200b" + label if label.startswith("_") else label


def dress(axes: Axes, title: str, *, grid: str = "y", size: float = 11.5) -> None:
    """The look of every panel: a title to the left, two spines, a faint grid behind the data."""
    axes.set_title(
        title,
        loc="left",
        fontsize=size,
        fontweight="bold",
        color=INK,
        pad=8 if size > 9 else 4,
    )
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis=grid, color=MUTED, alpha=0.22, lw=0.8)  # pyright: ignore[reportArgumentType]
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
    axes.tick_params(
        which="both", color=MUTED, labelcolor=INK, labelsize=9.5 if size > 9 else 8
    )
    axes.xaxis.label.set(color=INK, fontsize=10)
    axes.yaxis.label.set(color=INK, fontsize=10)


def note(message: str) -> Figure:
    """A figure that only says why it is empty."""
    figure = Figure(figsize=(6, 1))
    figure.text(0.5, 0.5, message, ha="center", va="center", color=INK, fontsize=11)
    return figure


def to_svg(figure: Figure, prefix: str, alt: str) -> str:
    """The figure as an SVG element for a page: its ids unique, its ink the color of the text around it.

    Args:
      figure: to draw.
      prefix: of its ids, another one for each figure of the page.
      alt: what it shows, for those who do not see it.
    """
    stream = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": prefix}):
        figure.savefig(stream, format="svg", facecolor="none", metadata={"Date": None})
    text = stream.getvalue()
    text = re.sub(
        r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL
    )
    text = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", text, count=3)
    text = text.replace("xlink:href=", "href=").replace(INK, "currentColor")
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{prefix}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)
