"""A study's page, tables and figure, on made-up variants."""

import io
import json

import pytest
from support.made_up import Page, make

from unlearn_jax.pipeline import study
from unlearn_jax.pipeline.report.figures import study as plots_study


@pytest.fixture
def variants():
    """Two variants that differ in their rows, numbers and checks; one method diverged in the second."""
    first, second = make(num_methods=3)[0], make(num_methods=2, num_runs=3)[0]
    first["title"], second["title"] = (
        "Hard forget sets: a random tenth",
        "Hard forget sets: the hardest",
    )
    second["rows"][-1]["metrics"] = {}
    second["checks"] = []
    return {"a random tenth": first, "the hardest | <b>": second}


def lines_of(markdown):
    blocks = markdown.strip().split("\n\n")
    return {
        title.strip("*"): table.splitlines()
        for title, table in zip(blocks[::2], blocks[1::2], strict=True)
    }


def test_markdown_has_a_table_per_metric_with_every_number(variants):
    found = lines_of(study.study_markdown(variants))
    assert list(found)[-2:] == ["Avg Gap (pp)", "Cost (x retraining)"]
    assert len(found) == 7
    for title, lines in found.items():
        assert lines[0] == r"| | a random tenth | the hardest \| &lt;b&gt; |"
        rows = [line.replace(r"\|", "").strip("| ").split(" | ") for line in lines[2:]]
        assert [row[0].strip("*").replace("\\", "") for row in rows] == [
            row["label"] for row in variants["a random tenth"]["rows"]
        ]
        assert [row[0] for row in rows if row[0].startswith("**")] == ["**Retrained**"]
        if title == "FT AUC (%)":
            for row, one, other in zip(
                rows, *(v["rows"] + [None] for v in variants.values()), strict=False
            ):
                for text, source in zip(row[1:], (one, other), strict=True):
                    cell = source["metrics"].get("ft_auc") if source else None
                    dash = "–" if source is None else "diverged"
                    spread = cell and f"{cell['mean']:.2f} ± {cell['std']:.2f}"
                    assert text == (
                        f"{spread} [{cell['low']:.2f}, {cell['high']:.2f}]"
                        if cell
                        else dash
                    )


def test_the_page_links_every_variant_and_marks_its_references(variants, tmp_path):
    study.write_study(variants, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "study.html",
        "study.json",
        "study.md",
    ]
    text = (tmp_path / "study.html").read_text("utf-8")
    page = Page(text)
    links = {
        value
        for name, value in page.attributes
        if name == "href" and not value.startswith("#")
    }
    assert links == {
        "a%20random%20tenth/report.html",
        "the%20hardest%20%7C%20%3Cb%3E/report.html",
    }
    assert page.tags.count("table") == 8
    assert page.tags.count("svg") == 1
    assert not {"script", "link", "iframe", "object", "img", "b"} & set(page.tags)
    assert "://" not in text
    assert "<title>Hard forget sets</title>" in text
    kinds = [value for name, value in page.attributes if name == "class"]
    assert [kinds.count(kind) for kind in ("original", "oracle", "second-oracle")] == [
        7,
        7,
        7,
    ]
    assert "✗ failed: check False" in page.words
    assert "✓ passed" in page.words
    metrics = {row["key"]: row["metrics"] for row in variants["a random tenth"]["rows"]}
    assert (
        json.loads((tmp_path / "study.json").read_text())["a random tenth"] == metrics
    )


def test_near_means_near_the_oracle_of_the_same_variant(variants):
    for result, oracle in zip(variants.values(), ((50, 51), (60, 61)), strict=True):
        for row in result["rows"]:
            if row["metrics"]:
                row["metrics"]["ft_auc"].update(low=60.5, high=62)
        result["rows"][1]["metrics"]["ft_auc"].update(low=oracle[0], high=oracle[1])
    table = next(table for table in study._tables(variants) if table["key"] == "ft_auc")
    near = [[cell["near"] for cell in row["cells"]] for row in table["rows"]]
    assert near == [
        [False, True],
        [False, False],
        [False, True],
        [False, True],
        [False, False],
        [False, False],
    ]


def test_titles_share_whole_words(variants):
    assert study._title(variants) == "Hard forget sets"
    first, second = variants.values()
    assert study._title({"a": first}) == first["title"]
    assert study._title({"a": first | {"title": "Half"}, "b": second}) == "Study"
    assert study._title({"a": first | {"title": "Hardly"}, "b": second}) == "Study"


def test_the_figure_has_a_panel_per_variant(variants):
    figure = plots_study.study_plot(variants)
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    labels = [row["label"] for row in variants["a random tenth"]["rows"]]
    assert [axes.get_title("left") for axes in figure.axes] == list(variants)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == labels
    dashes = [
        [text.get_text() for text in axes.texts].count("–") for axes in figure.axes
    ]
    assert dashes == [
        1,
        3,
    ]  # the made-up oracle has no gap; a row that diverged, and one that is not there
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]
    for result in variants.values():
        for row in result["rows"]:
            row["metrics"] = {}
    assert plots_study.study_plot(variants).axes == []
