"""Blocks of a page, and their forms: HTML, Markdown, terminal, LaTeX.

A page is a summary and blocks: text, tables, figures, checks, and sections of these.
Every cell of every table, in every form, is written by :func:`format_cell`.
"""

import dataclasses
import itertools
import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, TypeVar, cast

import jinja2
import numpy as np
from markupsafe import Markup
from tabulate import SEPARATING_LINE, tabulate

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.measure.records import Check

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawing

Value = str | int | float | Estimate | None
MISSING = "–"


@dataclasses.dataclass(frozen=True)
class Cell:
    """Table cell that is more than its value.

    Attributes:
      value: text, a number, an estimate (mean ± std [low, high]) or None (a dash).
      note: small print under the value.
      mark: symbol before the value, explained in the table's caption.
      link: address that the value links to.
    """

    value: Value
    note: str = ""
    mark: str = ""
    link: str = ""


@dataclasses.dataclass(frozen=True)
class Column:
    """Column of a table.

    Attributes:
      name: heading.
      unit: printed under the name.
      help: meaning of the column, shown on hover.
      digits: decimals of its numbers; None chooses them for each cell.
      is_text: True for words, which are aligned left and may wrap.
    """

    name: str
    unit: str = ""
    help: str = ""
    digits: int | None = None
    is_text: bool = False


@dataclasses.dataclass(frozen=True)
class Text:
    """Paragraphs.

    Attributes:
      text: paragraphs are separated by an empty line.
      title: heading.
      kind: ``note`` is smaller, ``warning`` is marked, ``code`` keeps its line ends.
    """

    text: str
    title: str = ""
    kind: Literal["plain", "note", "warning", "code"] = "plain"


@dataclasses.dataclass(frozen=True)
class Table:
    """Table, its first column the labels of the rows.

    Attributes:
      title: heading.
      columns: names, or :class:`Column` where there is more to tell.
      rows: as many cells each as the table has columns.
      caption: explanation, above the table.
      kinds: empty, or a word for each row: ``oracle`` highlights a row.

    Raises:
      ValueError: a row of another length.
    """

    title: str
    columns: Sequence[str | Column]
    rows: Sequence[Sequence[Value | Cell]]
    caption: str = ""
    kinds: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check that the table is rectangular."""
        if any(len(row) != len(self.columns) for row in self.rows):
            count = len(self.columns)
            raise ValueError(f"table {self.title!r}: every row needs {count} cells")
        if self.kinds and len(self.kinds) != len(self.rows):
            raise ValueError(f"table {self.title!r}: every row needs a kind")

    @property
    def heads(self) -> list[Column]:
        """Columns, each a :class:`Column`."""
        return [Column(c) if isinstance(c, str) else c for c in self.columns]

    @property
    def body(self) -> list[tuple[str, list[Cell]]]:
        """Rows as pairs of their kind and their cells."""
        kinds = self.kinds or [""] * len(self.rows)
        pairs = []
        for kind, row in zip(kinds, self.rows, strict=True):
            cells = [cell if isinstance(cell, Cell) else Cell(cell) for cell in row]
            pairs.append((kind, cells))
        return pairs


@dataclasses.dataclass(frozen=True)
class Figure:
    """Drawing with a description.

    Attributes:
      title: heading.
      figure: drawn without pyplot; ink in
        :data:`unlearn_jax.figures.style.INK` follows the page's colors.
      alt: description with its numbers, for readers who cannot see it.
      caption: explanation, above the drawing.
    """

    title: str
    figure: "Drawing"
    alt: str
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """Group of blocks.

    Attributes:
      title: heading; may be empty.
      blocks: in order.
      folded: hidden until the reader opens it.
      is_row: blocks stand next to each other where the window is wide.
    """

    title: str
    blocks: "Sequence[Block]"
    folded: bool = False
    is_row: bool = False


Block = Text | Table | Figure | Check | Section
AnyBlock = TypeVar("AnyBlock", Text, Table, Figure, Check, Section)


@dataclasses.dataclass(frozen=True)
class Page:
    """Page of a run, a study or an experiment.

    Attributes:
      summary: a few plain sentences, made from the numbers.
      blocks: in order.
      title: heading.
      about: one line under the heading: data, size, date.
    """

    summary: str
    blocks: Sequence[Block]
    title: str = ""
    about: str = ""

    def find(self, kind: type[AnyBlock]) -> list[AnyBlock]:
        """Return all blocks of a kind, also those in sections, in order."""
        return [block for block in _walk(self.blocks) if isinstance(block, kind)]


def _walk(blocks: Sequence[Block]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Section):
            yield from _walk(block.blocks)


def format_cell(value: Value, digits: int | None = None) -> tuple[str, str]:
    """Return a value as text, and its interval.

    Args:
      value: of a cell; None and numbers that are not finite print as a dash.
      digits: decimals; None shows three significant digits of a float, and of an
        estimate two decimals or, below 1, three significant digits of its largest
        number.

    >>> format_cell(3), format_cell(None), format_cell(0.00012345), format_cell("yes")
    (('3', ''), ('–', ''), ('0.000123', ''), ('yes', ''))
    >>> format_cell(Estimate(50.1234, 1.0, 49.0, 51.256, 3, 0))
    ('50.12 ± 1.00', '[49.00, 51.26]')
    >>> format_cell(Estimate(2.7e-6, 6.5e-7, 2.1e-6, 3.4e-6, 3, 0))
    ('2.7e-06 ± 6.5e-07', '[2.1e-06, 3.4e-06]')
    >>> format_cell(-0.001, digits=2), format_cell(1234.5), format_cell(4000)
    (('0.00', ''), ('1,234', ''), ('4,000', ''))
    """
    if isinstance(value, Estimate):
        numbers = [value.mean, value.low, value.high]
        sizes = [abs(number) for number in numbers if is_known(number)]
        largest = max(sizes, default=0.0)
        if digits is None:
            digits = 2
            if 0 < largest < 1:
                digits -= math.floor(math.log10(largest))
        tiny = 0 < largest < 1e-3 and digits > 2
        write = "{:.1e}".format if tiny else _fixed(digits)
        text = write(value.mean) if is_known(value.mean) else MISSING
        if is_known(value.std):
            text += f" ± {write(value.std)}"
        if not (is_known(value.low) and is_known(value.high)):
            return text, ""
        return text, f"[{write(value.low)}, {write(value.high)}]"
    if isinstance(value, np.generic):
        value = cast(Value, value.item())
    if not isinstance(value, int | float) or isinstance(value, bool):
        return MISSING if value is None else str(value), ""
    if not math.isfinite(value):
        return MISSING, ""
    if isinstance(value, int):
        return f"{value:,}", ""
    if digits is not None:
        return _fixed(digits)(value), ""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}", ""


def is_known(value: float | None) -> TypeGuard[float]:
    """Return True for a number that can be shown: neither None nor NaN nor infinite."""
    return value is not None and math.isfinite(value)


def has_interval(estimate: Estimate | None) -> TypeGuard[Estimate]:
    """Return True for an estimate with both ends of its interval."""
    return estimate is not None and is_known(estimate.low) and is_known(estimate.high)


def _fixed(digits: int) -> Any:
    """Return a writer of numbers with ``digits`` decimals and without a negative 0."""

    def write(value: float) -> str:
        text = f"{value:.{digits}f}"
        return text.removeprefix("-") if float(text) == 0 else text

    return write


def render_html(page: Page) -> str:
    """Return the page as one self-contained HTML file, without a script or a request.

    Drawings are inline SVG that follows the light or dark color scheme.
    """
    from unlearn_jax.figures.style import to_svg

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("unlearn_jax", "pipeline/report/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for kind in (Text, Table, Figure, Check, Section):
        environment.tests[kind.__name__.lower()] = lambda b, k=kind: isinstance(b, k)
    count = itertools.count()

    def draw(block: Figure) -> Markup:
        return Markup(to_svg(block.figure, f"figure{next(count)}", block.alt))

    template = environment.get_template("page.html.j2")
    checks = page.find(Check)
    failed = [check for check in checks if not check.passed]
    text = template.render(
        page=page, checks=checks, failed=failed, draw=draw, format_cell=format_cell
    )
    return text.lstrip()


def render_markdown(block: Page | Block) -> str:
    """Return a page or a block in Markdown, text escaped, a figure as its alt text."""
    return "\n".join(_markdown(block, level=1))


def _markdown(block: Page | Block, level: int) -> list[str]:
    """Return the lines of a block, the last of them empty."""
    if isinstance(block, Page):
        lines = [f"# {escape_markdown(block.title)}", ""] if block.title else []
        lines += [escape_markdown(block.summary), ""]
        for inner in block.blocks:
            lines += _markdown(inner, level + 1)
        return lines
    if isinstance(block, Check):
        state = "passed" if block.passed else "**failed**"
        detail = escape_markdown(block.detail)
        return [f"{escape_markdown(block.name)}: {state}. {detail}".rstrip(), ""]
    title = escape_markdown(block.title)
    if isinstance(block, Section):
        lines = [f"{'#' * level} {title}", ""] if title else []
        for inner in block.blocks:
            lines += _markdown(inner, level + 1)
        return lines
    lines = [f"**{title}**", ""] if title else []
    if isinstance(block, Table):
        rows = []
        for kind, cells in block.body:
            texts = _on_one_line(block, cells)
            if kind == "oracle":
                texts[0] = f"**{texts[0]}**"
            rows.append(texts)
        heads = [escape_markdown(_head(column)) for column in block.heads]
        align = ["left" if column.is_text else "right" for column in block.heads[1:]]
        # A table without rows has its heads as a row, for tabulate needs one.
        table = tabulate(
            rows,
            heads,
            "pipe",
            colalign=["left", *align] if rows else None,
            disable_numparse=True,
        )
        lines += [table, ""]
        return lines + ([escape_markdown(block.caption), ""] if block.caption else [])
    if isinstance(block, Figure):
        return [*lines, escape_markdown(block.alt), ""]
    if block.kind == "code":
        return [*lines, *textwrap.indent(block.text, "    ").splitlines(), ""]
    for paragraph in block.text.split("\n\n"):
        lines += [escape_markdown(paragraph), ""]
    return lines


def render_terminal(block: Page | Block, width: int = 160) -> str:
    """Return a page or a block for a terminal.

    Args:
      block: figures and folded sections are left out.
      width: columns of the terminal; a wider table is split into pieces.
    """
    if isinstance(block, Page):
        return f"{block.summary}\n\n{_terminal_blocks(block.blocks, width)}"
    if isinstance(block, Check):
        state = "ok  " if block.passed else "FAIL"
        return f"{state}  {block.name}. {block.detail}".rstrip()
    if isinstance(block, Text):
        return "\n".join(filter(None, [block.title, block.text]))
    if isinstance(block, Section):
        if block.folded:
            return ""
        inner = _terminal_blocks(block.blocks, width)
        return f"{block.title}\n\n{inner}" if block.title else inner
    if isinstance(block, Figure):
        return ""
    count = max(1, len(block.columns) - 1)
    pieces: list[str] = []
    # Labels are wrapped more closely before columns are split.
    for num_pieces, label_width in itertools.product(range(1, count + 1), (28, 18)):
        size = math.ceil(count / num_pieces)
        pieces = [
            _terminal_piece(block, start, start + size, label_width)
            for start in range(1, count + 1, size)
        ]
        lines = "\n".join(pieces).splitlines()
        if max(map(len, lines)) <= width:
            break
    title = [f"{block.title}"] if block.title else []
    return "\n".join([*title, "\n\n".join(pieces)])


def _terminal_blocks(blocks: Sequence[Block], width: int) -> str:
    """Return blocks with an empty line between them, but none between checks."""
    text = ""
    for block in blocks:
        shown = render_terminal(block, width)
        if shown:
            text += f"{shown}\n" if isinstance(block, Check) else f"{shown}\n\n"
    return text.rstrip("\n")


def _terminal_piece(table: Table, start: int, stop: int, label_width: int) -> str:
    """Return the labels and some columns, an interval below its number."""
    chosen = [0, *range(start, min(stop, len(table.columns)))]
    columns = [table.heads[i] for i in chosen]
    heads = [
        "\n".join([*textwrap.wrap(c.name, 24 if c.is_text else 12), *_unit(c)])
        for c in columns
    ]
    rows = []
    for _, cells in table.body:
        row = []
        for i, column in zip(chosen, columns, strict=True):
            text, interval = format_cell(cells[i].value, column.digits)
            is_words = column.is_text or i == 0
            wrap = label_width if i == 0 else 28
            lines = (
                textwrap.wrap(text, wrap) if is_words else [text.replace(" ± ", "±")]
            )
            low_high = interval.strip("[]").replace(", ", "–")
            note = cells[i].note
            note = f"({note})" if note and not note.startswith("[") else note
            row.append("\n".join(filter(None, [*lines, low_high, note])))
        rows.append(row)
    align = ["left" if c.is_text else "right" for c in columns[1:]]
    return tabulate(
        rows,
        heads,
        "simple",
        colalign=["left", *align] if rows else None,
        disable_numparse=True,
    )


def render_latex(table: Table) -> str:
    """Return a ``tabular`` that needs ``booktabs``; the oracle stands between rules."""
    rows: list[Any] = []
    for kind, cells in table.body:
        pairs = [
            format_cell(cell.value, column.digits)
            for cell, column in zip(cells, table.heads, strict=True)
        ]
        texts = [text for text, _ in pairs]
        if cells[0].note:
            texts[0] += f" ({cells[0].note})"
        intervals = [interval for _, interval in pairs]
        if kind == "oracle" and rows and rows[-1] != SEPARATING_LINE:
            rows.append(SEPARATING_LINE)
        rows.append([" ".join(text.split()) for text in texts])
        if any(intervals):
            rows.append(intervals)
        if kind == "oracle":
            rows.append(SEPARATING_LINE)
    if rows and rows[-1] == SEPARATING_LINE:
        rows.pop()
    align = ["left", *("right" for _ in table.columns[1:])]
    lines = tabulate(
        rows,
        [_head(column) for column in table.heads],
        "latex_booktabs",
        colalign=align if rows else None,
        disable_numparse=True,
    )
    return r"% needs \usepackage{booktabs}" + f"\n{lines}\n"


def _unit(column: Column) -> list[str]:
    return [f"({column.unit})"] if column.unit else []


def _head(column: Column) -> str:
    return " ".join([column.name, *_unit(column)])


def _on_one_line(table: Table, cells: Sequence[Cell]) -> list[str]:
    """Return the cells of a row with their intervals and notes, in Markdown."""
    texts = []
    for cell, column in zip(cells, table.heads, strict=True):
        text, interval = format_cell(cell.value, column.digits)
        note = f"({cell.note})" if cell.note else ""
        words = [cell.mark, escape_markdown(text), interval, escape_markdown(note)]
        texts.append(" ".join(filter(None, words)))
    return texts


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join("\\" + letter if letter in "\\|*_`[]" else letter for letter in text)
