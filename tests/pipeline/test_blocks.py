"""Blocks of a page in every form: HTML, Markdown, terminal, LaTeX."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing
from support.made_up import Page as Reader

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.report.blocks import (
    Cell,
    Check,
    Column,
    Figure,
    Page,
    Section,
    Table,
    Text,
    format_cell,
    render_html,
    render_latex,
    render_markdown,
    render_terminal,
)

ESTIMATE = Estimate(50.125, 1.0, 49.0, 51.25, 3, 0)
HALF = Estimate(0.25, 0.125, 0.0, 0.5, 3, 0)
NOTHING = Estimate(0.0, 0.0, 0.0, 0.0, 3, 0)
TINY = Estimate(2e-5, 1e-6, 1e-5, 3e-5, 3, 0)


def make_table():
    columns = [
        "row",
        Column("value", "points", help='what "it" is', digits=2),
        Column("words", is_text=True),
    ]
    rows = [
        ["a_b <i>", ESTIMATE, "yes | no"],
        [Cell("oracle", note="the goal"), Cell(None, mark="≈"), ""],
        [Cell("c", link="c/report.html"), np.int64(4000), None],
    ]
    return Table("A | table", columns, rows, "How to * it.", ["", "oracle", "method"])


def make_page():
    drawing = Drawing(figsize=(3, 2))
    drawing.add_subplot().plot([1, 2])
    inner = [Text("one\n\ntwo <b>", "Words"), Text("a  = b", kind="code")]
    blocks = [
        Section(
            "", [make_table(), Figure("A line", drawing, "from 1 to 2")], is_row=True
        ),
        Section("Shown", [*inner, Text("careful", kind="warning")]),
        Section("Hidden", [Table("", ["x"], [["inside"]])], folded=True),
        Check("holds", True, "1 < 2"),
        Check("fails", False),
    ]
    return Page("All is <well>.", blocks, title="T & T", about="a line")


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (None, None, ("–", "")),
        (math.nan, None, ("–", "")),
        (math.inf, 2, ("–", "")),
        ("<b>", None, ("<b>", "")),
        (True, None, ("True", "")),
        (12345, None, ("12,345", "")),
        (np.float64(0.5), 3, ("0.500", "")),
        (0.00012345, None, ("0.000123", "")),
        (12345.6, None, ("12,346", "")),
        (999.4, None, ("999", "")),
        (999.5, None, ("1,000", "")),
        (-0.001, 2, ("0.00", "")),
        (ESTIMATE, None, ("50.12 ± 1.00", "[49.00, 51.25]")),
        (ESTIMATE._replace(std=math.nan), 1, ("50.1", "[49.0, 51.2]")),
        (ESTIMATE._replace(low=math.nan), 1, ("50.1 ± 1.0", "")),
        (ESTIMATE._replace(mean=math.nan, std=math.nan), 1, ("–", "[49.0, 51.2]")),
        (HALF, None, ("0.250 ± 0.125", "[0.000, 0.500]")),
        (HALF, 2, ("0.25 ± 0.12", "[0.00, 0.50]")),
        (NOTHING, None, ("0.00 ± 0.00", "[0.00, 0.00]")),
        (TINY, None, ("2.0e-05 ± 1.0e-06", "[1.0e-05, 3.0e-05]")),
    ],
)
def test_every_cell_is_formatted_by_one_function(value, digits, shown):
    assert format_cell(value, digits) == shown


def test_html_shows_every_block_and_escapes(tmp_path):
    text = render_html(make_page())
    page = Reader(text)
    for words in (
        "T & T",
        "All is <well>.",
        "a line",
        "✗ 1 of 2 checks failed: fails",
        "A | table How to * it.",
        "a_b <i> 50.12 ± 1.00 [49.00, 51.25]",
        "oracle the goal ≈ –",
        "c 4,000 –",
        "Words one two <b>",
        "careful",
        "Hidden",
        "✓ passed holds (1 < 2)",
        "✗ failed fails",
    ):
        assert words in page.words, words
    assert "a  = b" in text, "code keeps its spaces"
    assert not {"i", "script", "link", "img"} & set(page.tags)
    assert ("aria-label", "from 1 to 2") in page.attributes
    assert ("href", "c/report.html") in page.attributes
    assert ("title", 'what "it" is') in page.attributes
    assert [page.tags.count(tag) for tag in ("svg", "table", "details")] == [1, 2, 1]
    kinds = [value for name, value in page.attributes if name == "class"]
    for kind in ("oracle", "method", "row", "warning", "check passed", "check failed"):
        assert kinds.count(kind) == 1


def test_a_page_without_failed_checks_counts_them():
    page = Page("Good.", [Check("one", True), Section("s", [Check("two", True)])])
    assert "✓ 2 checks passed" in Reader(render_html(page)).words
    assert Reader(render_html(Page("Good.", []))).words.endswith("} } Good.")


def test_markdown_shows_every_block_and_escapes():
    lines = render_markdown(make_page()).splitlines()
    text = "\n".join(" ".join(line.split()) for line in lines)
    assert lines[0] == "# T &amp; T"
    for line in (
        "All is &lt;well&gt;.",
        r"**A \| table**",
        r"| row | value (points) | words |",
        r"| a\_b &lt;i&gt; | 50.12 ± 1.00 [49.00, 51.25] | yes \| no |",
        "| **oracle (the goal)** | ≈ – | |",
        "| c | 4,000 | – |",
        r"How to \* it.",
        "from 1 to 2",
        "## Shown",
        "two &lt;b&gt;",
        "holds: passed. 1 &lt; 2",
        "fails: **failed**.",
    ):
        assert line in text.splitlines(), line
    assert "    a  = b" in lines, "code is indented"
    assert lines[lines.index("**Words**") + 1] == ""


def test_terminal_shows_all_but_figures_and_folds():
    text = render_terminal(make_page())
    assert text.startswith("All is <well>.\n\nA | table\n")
    assert text.endswith("ok    holds. 1 < 2\nFAIL  fails.")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "a_b <i> 50.12±1.00 yes | no" in lines
    assert "49.00–51.25" in lines
    assert "(the goal)" in lines
    assert "inside" not in text
    assert "A line" not in text


def test_terminal_tables_are_cut_into_pieces_that_fit():
    columns = ["row", *(f"column {i}" for i in range(9))]
    table = Table("", columns, [["label", *[ESTIMATE] * 9]])
    for width in (200, 100, 60, 10):
        text = render_terminal(table, width)
        lines = text.splitlines()
        assert text.count("50.12±1.00") == 9
        # Even a single column is wider than the narrowest terminal.
        assert max(map(len, lines)) <= max(width, 40)
        assert text.count("label") == text.count("row")


def test_latex_needs_booktabs_and_escapes():
    text = render_latex(make_table())
    assert text.startswith(r"% needs \usepackage{booktabs}")
    squeezed = " ".join(text.split())
    assert (
        r"a\_b \ensuremath{<}i\ensuremath{>} & 50.12 ± 1.00 & yes | no \\" in squeezed
    )
    assert r"& [49.00, 51.25] & \\" in squeezed
    assert r"\midrule oracle (the goal) & – & \\ \midrule c" in squeezed
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1


def test_blocks_without_rows_are_shown():
    empty = Table("Nothing", ["a", "b"], [])
    assert "Nothing" in Reader(render_html(Page("s", [empty]))).words
    assert "| a" in render_markdown(empty)
    assert "Nothing" in render_terminal(empty)
    assert r"\begin{tabular}" in render_latex(empty)
    assert Page("s", []).find(Table) == []


def test_a_table_is_rectangular():
    with pytest.raises(ValueError, match="'t': every row needs 2 cells"):
        Table("t", ["a", "b"], [["one"]])
    with pytest.raises(ValueError, match="'t': every row needs a kind"):
        Table("t", ["a"], [["one"]], kinds=["oracle", "method"])


def test_find_walks_into_sections():
    page = make_page()
    assert [table.title for table in page.find(Table)] == ["A | table", ""]
    assert [check.name for check in page.find(Check)] == ["holds", "fails"]
    assert len(page.find(Figure)) == 1
