"""Style of all figures: a style for every row, panels, legends and inline SVG.

A row has the same color in every figure: gray for the original, black for the oracle,
Okabe and Ito's color-blind-safe colors for the methods. Figures are drawn without
pyplot, a backend or a global style.
"""

import html
import io
import math
import re
import textwrap
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from unlearn_jax.types import InputError

Kind = Literal["original", "oracle", "second_oracle", "method"]
"""Kind of a row: original or retrained models, a second retraining, or a method."""

INK = "#1b1f24"
MUTED = "#7d8590"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colors without yellow (invisible on white) and black (the oracle)."""
MAX_LINES = 9
"""Maximum number of lines in one panel; more lines would hide each other."""
DOTTED: dict[str, Any] = {"color": MUTED, "lw": 1, "ls": (0, (2, 2)), "zorder": 1}
"""Style of the line at a reference value."""

_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 3)))
_MARKERS = "osD^v"


class Drawing(Figure):
    """Figure that a notebook shows as the value of a cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png", dpi=72, metadata={"Software": None})
        return stream.getvalue()


class RowStyle(NamedTuple):
    """Style of a row: color and dashes of its lines, marker of its mean, its kind."""

    color: str
    dashes: Any
    marker: str
    kind: Kind


def row_styles(kinds: Sequence[Kind]) -> list[RowStyle]:
    """Return a style for each row, to be passed to every figure.

    Args:
      kinds: kinds of the rows: ``"original"`` is gray, ``"oracle"`` (retrained) black,
        ``"second_oracle"`` (a second retraining) dotted black. Rows of kind
        ``"method"`` get six colors in their order, then the same colors with other
        dashes and markers.

    Raises:
      InputError: an unknown kind.

    >>> [style.color for style in row_styles(["original", "method", "oracle"])]
    ['#7d8590', '#0072b2', '#1b1f24']
    """
    fixed = {
        "original": RowStyle(MUTED, _DASHES[0], "o", "original"),
        "oracle": RowStyle(INK, _DASHES[0], "o", "oracle"),
        "second_oracle": RowStyle(INK, _DASHES[2], "s", "second_oracle"),
    }
    styles = []
    count = 0
    for kind in kinds:
        if kind not in get_args(Kind):
            known = ", ".join(get_args(Kind))
            raise InputError(f"unknown kind of row {kind!r}: choose from {known}")
        if kind in fixed:
            styles.append(fixed[kind])
            continue
        # Methods that share a color differ in dashes and marker.
        cycle = count // len(COLORS) % len(_DASHES)
        color = COLORS[count % len(COLORS)]
        styles.append(RowStyle(color, _DASHES[cycle], _MARKERS[cycle], kind))
        count += 1
    return styles


def line_style(style: RowStyle, *, together: bool = True) -> dict[str, Any]:
    """Return the keyword arguments that draw a row's line.

    Args:
      style: style of the row.
      together: whether all rows share a panel. The oracle's thicker line then lies on
        top, and dashes distinguish equal colors. Otherwise a method's line is solid and
        on top.
    """
    if not together and style.kind == "method":
        return {"color": style.color, "ls": "-", "lw": 1.5, "zorder": 5}
    width, order = (2.2, 4) if style.kind == "oracle" else (1.5, 3)
    return {"color": style.color, "ls": style.dashes, "lw": width, "zorder": order}


class Lines(NamedTuple):
    """Figure and axes for one line per row.

    Attributes:
      figure: figure that contains the axes.
      panels: pairs of axes and the positions of the rows to draw in them, in order.
      together: whether all rows share one panel. Otherwise each row has its own panel,
        which also shows the original and the oracle.
      labels: labels of the rows.
      styles: styles of the rows.
    """

    figure: Figure
    panels: list[tuple[Axes, list[int]]]
    together: bool
    labels: Sequence[str]
    styles: Sequence[RowStyle]


def line_panels(
    labels: Sequence[str], styles: Sequence[RowStyle], title: str, height: float
) -> Lines:
    """Return one panel for all rows or, if lines would hide each other, one per row.

    Args:
      labels: labels of the rows.
      styles: styles of the rows.
      title: title of the single panel; panels of single rows have the rows' labels.
      height: height of the single panel in inches.
    """
    rows = range(len(labels))
    references = [row for row in rows if styles[row].kind in ("original", "oracle")]
    others = [row for row in rows if row not in references]
    if len(labels) <= MAX_LINES or not others:
        figure = Drawing(figsize=(9.2, height), layout="constrained")
        axes = figure.add_subplot()
        # The title is wrapped, because the legend takes some of the width.
        dress(axes, textwrap.fill(title, 52), grid="both")
        return Lines(figure, [(axes, list(rows))], True, labels, styles)
    figure, grid = small_panels(len(others), share=True)
    panels = []
    for axes, row in zip(grid, others, strict=True):
        dress(axes, short(labels[row], 25), grid="both", size=9)
        panels.append((axes, [*references, row]))
    return Lines(figure, panels, False, labels, styles)


def name_lines(
    lines: Lines, handles: Sequence[Any], title: str, x: str, y: str
) -> None:
    """Write the legend and the names of the axes.

    Args:
      lines: result of :func:`line_panels`.
      handles: handles of the legend of a single panel; the legend of many panels names
        the references instead.
      title: title of the single panel's legend.
      x: name of the horizontal axis.
      y: name of the vertical axis.
    """
    if lines.together:
        axes = lines.panels[0][0]
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        box = legend(lines.figure, handles, loc="outside right upper")
        box.set_title(title)
        box.get_title().set(color=INK, fontsize=9.5, fontweight="bold")
        return
    lines.figure.supxlabel(x, fontsize=10, color=INK)
    lines.figure.supylabel(y, fontsize=10, color=INK)
    references = lines.panels[0][1][:-1]
    keys = []
    for row in references:
        look = line_style(lines.styles[row])
        keys.append(Line2D([], [], **look, label=short(lines.labels[row])))
    name = "the panel's row, in its color"
    keys.append(Line2D([], [], color=COLORS[0], lw=1.5, label=name))
    legend(lines.figure, keys, ncols=4)


def legend(
    figure: Figure,
    handles: Sequence[Any],
    loc: Any = "outside upper left",
    **options: Any,
) -> Any:
    """Add a legend outside the panels, without a frame, and return it."""
    style: dict[str, Any] = {"frameon": False, "labelcolor": INK, "fontsize": 9.5}
    return figure.legend(handles=handles, loc=loc, **style, **options)


def small_panels(
    count: int, *, share: bool | str = False, height: float = 1.65, columns: int = 4
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its grid of panels.

    Args:
      count: number of panels.
      share: True if the panels share both axes, ``"x"`` or ``"y"`` for one of them.
      height: height of a panel in inches.
      columns: maximum number of panels side by side.
    """
    columns = min(count, columns)
    lines = math.ceil(count / columns)
    figure = Drawing(figsize=(9.2, 1.0 + height * lines), layout="constrained")
    share_x = share in (True, "x")
    panels = figure.subplots(
        lines, columns, sharex=share_x, sharey=share in (True, "y"), squeeze=False
    ).ravel()
    for axes in panels[count:]:
        axes.set_axis_off()
    for i, axes in enumerate(panels[:count]):
        axes.tick_params(labelbottom=not share_x or i + columns >= count)
    return figure, list(panels[:count])


def short(label: str, width: int = 40) -> str:
    """Return a label on one line that matplotlib takes literally.

    A dollar sign would start a formula, and a leading underscore would hide the label
    in a legend.
    """
    label = " ".join(label.split())
    label = label if len(label) <= width else label[: width - 1].rstrip() + "…"
    label = label.replace("$", r"\$")
    return "\u200b" + label if label.startswith("_") else label


def dress(axes: Axes, title: str, *, grid: Any = "y", size: float = 11.5) -> None:
    """Set the look of a panel: a title to the left, two spines, a faint grid."""
    is_small = size <= 9
    axes.set_title(
        title,
        loc="left",
        fontsize=size,
        fontweight="bold",
        color=INK,
        pad=4 if is_small else 8,
    )
    axes.set_facecolor("none")
    axes.set_axisbelow(True)
    axes.grid(visible=True, axis=grid, color=MUTED, alpha=0.22, lw=0.8)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)
    size = 8 if is_small else 9.5
    axes.tick_params(which="both", color=MUTED, labelcolor=INK, labelsize=size)
    axes.xaxis.label.set(color=INK, fontsize=10)
    axes.yaxis.label.set(color=INK, fontsize=10)


def name_rows(
    axes: Axes,
    labels: Sequence[str],
    styles: Sequence[RowStyle],
    size: float = 9,
    width: int = 34,
) -> None:
    """Label the heights 0, 1, ... from the top with the rows, oracles in bold.

    Args:
      axes: panel to label.
      labels: labels of the rows.
      styles: styles of the rows.
      size: font size of the labels.
      width: maximum number of characters of a label.
    """
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_yticks(range(len(labels)), [short(label, width) for label in labels])
    axes.tick_params(axis="y", length=0, labelsize=size, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    # Panels that share the axis have no labels of their own.
    for style, label in zip(styles, axes.get_yticklabels(), strict=False):
        label.set_fontweight("bold" if style.kind == "oracle" else "normal")


def note(message: str) -> Figure:
    """Return a figure that shows only a message, such as the reason for no data."""
    figure = Drawing(figsize=(6, 1))
    figure.text(0.5, 0.5, message, ha="center", va="center", color=INK, fontsize=11)
    return figure


def to_svg(figure: Figure, prefix: str, alt: str) -> str:
    """Return the figure as an SVG element for a page, with lines in the text's color.

    Args:
      figure: figure to draw.
      prefix: prefix of the element's ids, different for each figure of a page.
      alt: description for readers who cannot see the figure.
    """
    stream = io.StringIO()
    figure.set_facecolor("none")
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": prefix}):
        # savefig would compute the layout twice.
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", text, count=3)
    text = text.replace("xlink:href=", "href=").replace(INK, "currentColor")
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{prefix}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)
