"""Blocks of a page, and their rendering: HTML, Markdown, terminal, LaTeX.

A page is a summary and blocks: text, tables, figures, checks, and sections of these.
Every cell of every table, in every form, is written by :func:`format_cell`.
"""

import dataclasses
import functools
import itertools
import math
import re
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
      is_text: True for words, which are aligned left and wrapped.
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
      text: paragraphs, separated by empty lines.
      title: heading.
      kind: ``note`` is smaller, ``warning`` is marked, ``code`` keeps its line breaks.
    """

    text: str
    title: str = ""
    kind: Literal["plain", "note", "warning", "code"] = "plain"


@dataclasses.dataclass(frozen=True)
class Table:
    """Table whose first column has the labels of the rows.

    Attributes:
      title: heading.
      columns: names, or :class:`Column` for a unit, help or digits.
      rows: rows with a cell for each column.
      caption: explanation above the table.
      kinds: empty, or the kind of each row; ``oracle`` is highlighted.

    Raises:
      ValueError: a row of another length, or a number of kinds that is not that of the
        rows.
    """

    title: str
    columns: Sequence[str | Column]
    rows: Sequence[Sequence[Value | Cell]]
    caption: str = ""
    kinds: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check that the table is rectangular."""
        num_columns = len(self.columns)
        if any(len(row) != num_columns for row in self.rows):
            raise ValueError(
                f"table {self.title!r}: every row needs {num_columns} cells"
            )
        if self.kinds and len(self.kinds) != len(self.rows):
            raise ValueError(f"table {self.title!r}: every row needs a kind")

    @property
    def heads(self) -> list[Column]:
        """Columns, all as :class:`Column`."""
        return [
            Column(column) if isinstance(column, str) else column
            for column in self.columns
        ]

    @property
    def body(self) -> list[tuple[str, list[Cell]]]:
        """Rows as pairs of kind and cells."""
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
      figure: Matplotlib figure, drawn without pyplot. Ink of the color
        :data:`unlearn_jax.figures.style.INK` follows the page's color scheme.
      alt: description with the numbers, for readers who cannot see the drawing.
      caption: explanation above the drawing.
    """

    title: str
    figure: "Drawing"
    alt: str
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """Group of blocks.

    Attributes:
      title: heading; empty for none.
      blocks: blocks in order.
      folded: whether the section is hidden until the reader opens it.
      is_row: whether a wide window shows the blocks next to each other.
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
      summary: a few plain sentences, generated from the numbers.
      blocks: blocks in order.
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
      value: value of a cell; None and numbers that are not finite print as a dash.
      digits: decimals. None shows three significant digits of a float. For an estimate,
        it shows two decimals or, below 1, three significant digits of the largest
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
        return _format_estimate(value, digits)
    if isinstance(value, np.generic):
        value = cast(Value, value.item())
    if value is None:
        return MISSING, ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value), ""
    if not math.isfinite(value):
        return MISSING, ""
    if isinstance(value, int):
        return f"{value:,}", ""
    if digits is not None:
        return f"{value:z.{digits}f}", ""
    # from 999.5 on, three digits would be written as a power of ten
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}", ""


def _format_estimate(estimate: Estimate, digits: int | None) -> tuple[str, str]:
    """Return mean and standard deviation, and the interval, as text in equal digits."""
    ends = (estimate.mean, estimate.low, estimate.high)
    largest = max((abs(number) for number in ends if is_known(number)), default=0.0)
    if digits is None:
        digits = 2
        if 0 < largest < 1:
            digits -= math.floor(math.log10(largest))
    is_tiny = 0 < largest < 1e-3 and digits > 2

    def write(number: float) -> str:
        return f"{number:.1e}" if is_tiny else f"{number:z.{digits}f}"

    text = write(estimate.mean) if is_known(estimate.mean) else MISSING
    if is_known(estimate.std):
        text += f" ± {write(estimate.std)}"
    if not has_interval(estimate):
        return text, ""
    return text, f"[{write(estimate.low)}, {write(estimate.high)}]"


def is_known(value: float | None) -> TypeGuard[float]:
    """Return True for a number that can be shown: neither None nor NaN nor infinite."""
    return value is not None and math.isfinite(value)


def has_interval(estimate: Estimate | None) -> TypeGuard[Estimate]:
    """Return True for an estimate with both ends of its interval."""
    return estimate is not None and is_known(estimate.low) and is_known(estimate.high)


def render_html(page: Page) -> str:
    """Return the page as one self-contained HTML file without scripts.

    Drawings are inline SVG that follow the light or dark color scheme.
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
        # tests of the template, as in {% if block is table %}
        is_kind = functools.partial(_is_instance, kind)
        environment.tests[kind.__name__.lower()] = is_kind
    number = itertools.count()

    def draw(block: Figure) -> Markup:
        return Markup(to_svg(block.figure, f"figure{next(number)}", block.alt))

    checks = page.find(Check)
    failed = [check for check in checks if not check.passed]
    template = environment.get_template("page.html.j2")
    text = template.render(
        page=page, checks=checks, failed=failed, draw=draw, format_cell=format_cell
    )
    return text.lstrip()


def _is_instance(kind: type, block: Block) -> bool:
    return isinstance(block, kind)


def render_markdown(block: Page | Block) -> str:
    """Return a page or a block in Markdown; a figure becomes its description."""
    return "\n".join(_markdown(block, level=1))


def _markdown(block: Page | Block, level: int) -> list[str]:
    """Return the lines of a block, followed by an empty line."""
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
        lines += [_markdown_table(block), ""]
        return lines + ([escape_markdown(block.caption), ""] if block.caption else [])
    if isinstance(block, Figure):
        return [*lines, escape_markdown(block.alt), ""]
    if block.kind == "code":
        return [*lines, *textwrap.indent(block.text, "    ").splitlines(), ""]
    for paragraph in block.text.split("\n\n"):
        lines += [escape_markdown(paragraph), ""]
    return lines


def _markdown_table(table: Table) -> str:
    """Return a table in Markdown, with intervals and notes next to their numbers."""
    rows = []
    for kind, cells in table.body:
        texts = []
        for cell, column in zip(cells, table.heads, strict=True):
            value, interval = format_cell(cell.value, column.digits)
            note = escape_markdown(f"({cell.note})") if cell.note else ""
            pieces = [cell.mark, escape_markdown(value), interval, note]
            texts.append(" ".join(filter(None, pieces)))
        if kind == "oracle":
            texts[0] = f"**{texts[0]}**"
        rows.append(texts)
    heads = [escape_markdown(_head(column)) for column in table.heads]
    return _tabulate(rows, heads, table.heads, "pipe")


def _tabulate(
    rows: Sequence[Any], heads: Sequence[str], columns: Sequence[Column], style: str
) -> str:
    """Return a table of text, with words aligned left and numbers aligned right."""
    align = ["right"] * len(columns)
    for i, column in enumerate(columns):
        if i == 0 or column.is_text:
            align[i] = "left"
    # tabulate cannot align the columns of a table without rows
    return tabulate(
        rows, heads, style, colalign=align if rows else None, disable_numparse=True
    )


def render_terminal(block: Page | Block, width: int = 160) -> str:
    """Return a page or a block for a terminal.

    Args:
      block: page or block; figures and folded sections are left out.
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
    return _terminal_table(block, width)


def _terminal_table(table: Table, width: int) -> str:
    """Return a table in the fewest pieces of at most ``width`` columns."""
    num_columns = max(1, len(table.columns) - 1)
    text = ""
    # labels are wrapped more closely before columns are split
    for num_pieces, label_width in itertools.product(
        range(1, num_columns + 1), (28, 18)
    ):
        size = math.ceil(num_columns / num_pieces)
        pieces = []
        for start in range(1, num_columns + 1, size):
            pieces.append(_terminal_piece(table, start, start + size, label_width))
        text = "\n\n".join(pieces)
        if max(len(line) for line in text.splitlines()) <= width:
            break
    return f"{table.title}\n{text}" if table.title else text


def _terminal_blocks(blocks: Sequence[Block], width: int) -> str:
    """Return blocks separated by empty lines, except between checks."""
    text = ""
    for block in blocks:
        rendered = render_terminal(block, width)
        if rendered:
            text += f"{rendered}\n" if isinstance(block, Check) else f"{rendered}\n\n"
    return text.rstrip("\n")


def _terminal_piece(table: Table, start: int, stop: int, label_width: int) -> str:
    """Return the labels and some columns, intervals and notes below the numbers."""
    chosen = [0, *range(start, min(stop, len(table.columns)))]
    columns = [table.heads[i] for i in chosen]
    heads = []
    for column in columns:
        lines = textwrap.wrap(column.name, 24 if column.is_text else 12)
        if column.unit:
            lines.append(f"({column.unit})")
        heads.append("\n".join(lines))
    rows = []
    for _, cells in table.body:
        row = []
        for i, column in zip(chosen, columns, strict=True):
            text, interval = format_cell(cells[i].value, column.digits)
            if i == 0:
                lines = textwrap.wrap(text, label_width)
            elif column.is_text:
                lines = textwrap.wrap(text, 28)
            else:
                lines = [text.replace(" ± ", "±")]
            lines.append(interval.strip("[]").replace(", ", "–"))
            note = cells[i].note
            is_interval = note.startswith("[")
            lines.append(f"({note})" if note and not is_interval else note)
            row.append("\n".join(filter(None, lines)))
        rows.append(row)
    return _tabulate(rows, heads, columns, "simple")


def render_latex(table: Table) -> str:
    """Return a ``tabular`` that needs ``booktabs``, with rules around the oracle."""
    rows: list[Any] = []
    for kind, cells in table.body:
        texts = []
        intervals = []
        for cell, column in zip(cells, table.heads, strict=True):
            text, interval = format_cell(cell.value, column.digits)
            texts.append(text)
            intervals.append(interval)
        if cells[0].note:
            texts[0] += f" ({cells[0].note})"
        if kind == "oracle" and rows and rows[-1] != SEPARATING_LINE:
            rows.append(SEPARATING_LINE)
        rows.append([" ".join(text.split()) for text in texts])
        if any(intervals):
            rows.append(intervals)
        if kind == "oracle":
            rows.append(SEPARATING_LINE)
    if rows and rows[-1] == SEPARATING_LINE:
        rows.pop()
    heads = [_head(column) for column in table.heads]
    align = ["left", *["right"] * (len(heads) - 1)]
    text = tabulate(
        rows,
        heads,
        "latex_booktabs",
        colalign=align if rows else None,
        disable_numparse=True,
    )
    return f"% needs \\usepackage{{booktabs}}\n{text}\n"


def _head(column: Column) -> str:
    return f"{column.name} ({column.unit})" if column.unit else column.name


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows unchanged, on one line."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"[\\|*_`\[\]]", r"\\\g<0>", text)
