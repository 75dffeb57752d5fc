"""Style of all figures: a look for every row, panels, a legend, inline SVG.

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
"""Models before unlearning, retrained models, a second retraining, or a method."""

INK = "#1b1f24"
MUTED = "#7d8590"
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's colors without yellow (invisible on white) and black (the oracle)."""
MAX_LINES = 9
"""More lines than these hide each other in one panel."""
DOTTED: dict[str, Any] = {"color": MUTED, "lw": 1, "ls": (0, (2, 2)), "zorder": 1}
"""Line at a value of reference."""

_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 3)))
_MARKERS = "osD^v"


class Drawing(Figure):
    """Figure that a notebook shows as the value of a cell, without pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png", dpi=72, metadata={"Software": None})
        return stream.getvalue()


class RowStyle(NamedTuple):
    """Look of a row: color and dashes of its lines, marker of its mean, its kind."""

    color: str
    dashes: Any
    marker: str
    kind: Kind


def row_styles(kinds: Sequence[Kind]) -> list[RowStyle]:
    """Return a look for each row, the same in every figure that is given it.

    Args:
      kinds: of the rows: ``"original"`` is gray, ``"oracle"`` (retrained) black,
        ``"second_oracle"`` (a second retraining) dotted black; rows of kind
        ``"method"`` get six colors in their order, then the same with other dashes and
        markers.

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
    """Return the keywords of a row's line.

    Args:
      style: of the row.
      together: all rows share a panel: the oracle's thicker line lies on top, and
        dashes distinguish equal colors. Otherwise a method's line is solid, on top.
    """
    if not together and style.kind == "method":
        return {"color": style.color, "ls": "-", "lw": 1.5, "zorder": 5}
    width, order = (2.2, 4) if style.kind == "oracle" else (1.5, 3)
    return {"color": style.color, "ls": style.dashes, "lw": width, "zorder": order}


class Lines(NamedTuple):
    """Axes for a line per row.

    Attributes:
      figure: of the axes.
      panels: axes, and the numbers of the rows to draw in them, in order.
      together: all rows share one panel; otherwise each has its own, which also shows
        the original and the oracle.
      labels: of the rows.
      styles: of the rows.
    """

    figure: Figure
    panels: list[tuple[Axes, list[int]]]
    together: bool
    labels: Sequence[str]
    styles: Sequence[RowStyle]


def line_panels(
    labels: Sequence[str], styles: Sequence[RowStyle], title: str, height: float
) -> Lines:
    """Return one panel for all rows or, where lines would hide others, one for each.

    Args:
      labels: of the rows.
      styles: of the rows.
      title: of the single panel; panels of single rows have the rows' labels.
      height: of the single panel in inches.
    """
    rows = range(len(labels))
    references = [row for row in rows if styles[row].kind in ("original", "oracle")]
    others = [row for row in rows if row not in references]
    if len(labels) <= MAX_LINES or not others:
        figure = Drawing(figsize=(9.2, height), layout="constrained")
        axes = figure.add_subplot()
        # The legend takes some of the width.
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
      lines: from :func:`line_panels`.
      handles: for the legend of a single panel; that of many panels names the
        references.
      title: of the single panel's legend.
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
    """Return a legend outside of the panels, without a frame."""
    style: dict[str, Any] = {"frameon": False, "labelcolor": INK, "fontsize": 9.5}
    return figure.legend(handles=handles, loc=loc, **style, **options)


def small_panels(
    count: int, *, share: bool | str = False, height: float = 1.65, columns: int = 4
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its grid of panels.

    Args:
      count: of the panels.
      share: whether both axes are shared, or which one is.
      height: of a panel in inches.
      columns: most panels in a line.
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

    A dollar would start mathematics, a leading underscore hide the label in a legend.
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
    """Label the heights 0, 1, ... from the top with rows, the oracles in bold.

    Args:
      axes: to label.
      labels: of the rows.
      styles: of the rows.
      size: of the letters.
      width: most characters of a label.
    """
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_yticks(range(len(labels)), [short(label, width) for label in labels])
    axes.tick_params(axis="y", length=0, labelsize=size, labelcolor=INK)
    axes.spines["left"].set_visible(False)
    # Panels that share the axis have no labels.
    for style, label in zip(styles, axes.get_yticklabels(), strict=False):
        label.set_fontweight("bold" if style.kind == "oracle" else "normal")


def note(message: str) -> Figure:
    """Return a figure of words: the reason why it is empty."""
    figure = Drawing(figsize=(6, 1))
    figure.text(0.5, 0.5, message, ha="center", va="center", color=INK, fontsize=11)
    return figure


def to_svg(figure: Figure, prefix: str, alt: str) -> str:
    """Return the figure as an SVG element for a page; its ink is the text's color.

    Args:
      figure: to draw.
      prefix: of its ids, another one for each figure of the page.
      alt: description for readers who cannot see it.
    """
    stream = io.StringIO()
    figure.set_facecolor("none")
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": prefix}):
        # savefig would lay it out twice
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' (xmlns(:\w+)?|version)="[^"]*"', "", text, count=3)
    text = text.replace("xlink:href=", "href=").replace(INK, "currentColor")
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\1{prefix}-", text)
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(alt)}"', 1)
