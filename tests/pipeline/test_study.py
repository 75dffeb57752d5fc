"""Page, tables and figure of a study, on made-up variants."""

import dataclasses
import io
import json
import math

import pytest
from support.made_up import Page, change_difference, change_row, make

from unlearn_jax.pipeline import RunConfig
from unlearn_jax.pipeline import study as study_module
from unlearn_jax.pipeline.measure.records import Metric, Norms, Range, Term, Theory
from unlearn_jax.pipeline.report import study
from unlearn_jax.pipeline.report.blocks import format_cell
from unlearn_jax.pipeline.report.figures.study import study_plot
from unlearn_jax.pipeline.report.tables import study_title
from unlearn_jax.types import ReportError


@pytest.fixture
def variants():
    """Variants with other rows, numbers and checks; a method diverged in the second."""
    first = make(num_methods=3)[0]
    second = make(num_methods=2, num_runs=3)[0]
    second = change_row(second, "method1", metrics={}, values={}, num_diverged=2)
    first = dataclasses.replace(first, title="Hard forget sets: a random tenth")
    title = "Hard forget sets: the hardest"
    second = dataclasses.replace(second, title=title, checks=())
    return {"a random tenth": first, "the hardest | <b>": second}


def test_there_is_a_table_per_metric_with_every_number(variants):
    tables = study.study_tables(variants)
    titles = [table.title for table in tables]
    assert titles[-2:] == ["Avg Gap (pp)", "Cost (x retraining)"]
    assert len(titles) == 7
    first, second = variants.values()
    for table in tables:
        assert [head.name for head in table.heads][1:] == list(variants)
        labels = [cells[0].value for _, cells in table.body]
        assert labels == [row.label for row in first.rows]
    table = next(table for table in tables if table.title == "FT AUC (%)")
    for row, (_, cells) in zip(first.rows, table.body, strict=True):
        other = next((one for one in second.rows if one.key == row.key), None)
        assert cells[1].value == row.metrics["ft_auc"]
        if other is None:
            assert cells[2].value is None
        elif not other.metrics:
            assert cells[2].value == "diverged 2 of 3"
        else:
            assert cells[2].value == other.metrics["ft_auc"]


def test_own_columns_are_compared_last(variants):
    name, result = next(iter(variants.items()))
    own = Metric("mine", "Mine", "%", "50", "A column.")
    numbers = {"mine": result.row("method0").metrics["ft_auc"]}
    result = change_row(result, "method0", metrics=numbers)
    result = dataclasses.replace(result, metrics=(*result.metrics, own))
    titles = [table.title for table in study.study_tables({name: result})]
    assert titles[-3:] == ["Avg Gap (pp)", "Mine (%)", "Cost (x retraining)"]


def test_markdown_escapes_names_and_marks_the_oracle(variants, tmp_path):
    study.write_study(variants, tmp_path)
    text = (tmp_path / "study.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert r"the hardest \| &lt;b&gt; |" in lines[0]
    bold = [line for line in lines if "**" in line]
    assert all(line.startswith("| **Retrained**") for line in bold)
    assert len(bold) == 7
    amun = variants["a random tenth"].row("method0").metrics["ft_auc"]
    spread, interval = format_cell(amun, 2)
    assert f"{spread} {interval}" in text


def test_a_summary_counts_the_variants(variants):
    assert study.study_page(variants).summary.startswith("A study of 2 variants, each")
    first = dict([next(iter(variants.items()))])
    summary = study.study_page(first).summary
    assert summary.startswith("A study of one variant, with a report of its own.")
    assert "their" not in summary
    (name, result), *_ = first.items()
    quoted = change_row(result, "method0", label="AMUN, again")
    assert "“AMUN, again”, " in study.study_page({name: quoted}).summary


def test_the_page_links_every_variant_and_marks_its_references(variants, tmp_path):
    study.write_study(variants, tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["study.html", "study.json", "study.md"]
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
    for kind in ("original", "oracle", "second-oracle"):
        assert kinds.count(kind) == 7
    assert "✗ failed: check False" in page.words
    assert "✓ passed" in page.words
    assert "a random tenth: AMUN," in page.words, "the smallest gap"
    stored = json.loads((tmp_path / "study.json").read_text())["a random tenth"]
    for row in variants["a random tenth"].rows:
        for key, cell in row.metrics.items():
            assert stored[row.key]["metrics"][key] == cell._asdict()


def test_near_means_near_the_oracle_of_the_same_variant(variants):
    name = list(variants)[1]
    for key, state in (("method0", "like"), ("method1", "undecided")):
        variants[name] = change_difference(
            variants[name], key, "ft_auc", (0.5, -0.1, 1.1), state
        )
    tables = study.study_tables(variants)
    verdicts = next(table for table in tables if table.title == "Verdict")
    shown = [(cells[2].value, cells[2].note) for _, cells in verdicts.body]
    assert ("forgotten", "+0.50 [-0.10, +1.10]") in shown
    assert ("undecided", "+0.50 [-0.10, +1.10]") in shown
    table = next(table for table in tables if table.title == "FT AUC (%)")
    marks = [[cell.mark for cell in cells[1:]] for _, cells in table.body]
    assert sum(mark != "" for row in marks for mark in row) == 1
    assert ["", "≈"] in marks


def test_radius_transfer_and_norms_are_compared_where_measured(variants):
    first, second = variants.values()
    terms = {
        "delta": Term(mean=0.5, std=0.125, values=()),
        "transfer": Term(mean=0.25, std=math.nan, values=()),
    }
    layers = {
        "a": Range(mean=1.0, low=0.5, high=1.5),
        "b": Range(mean=2.0, low=1.5, high=2.5),
    }
    norms = Norms(max_norm=None, rows={"original": layers}, unfound=())
    first = dataclasses.replace(first, theory=Theory(rows={"method0": terms}))
    second = dataclasses.replace(second, norms=norms)
    tables = {t.title: t for t in study.study_tables({"one": first, "two": second})}
    assert tables[study.TERMS["delta"]].rows == [["AMUN", "0.50 ± 0.12", None]]
    assert tables[study.TERMS["transfer"]].rows == [["AMUN", "0.25", None]]
    assert tables[study.NORM].rows[0] == ["Original", None, 2.5]


def test_titles_share_whole_words(variants):
    def title(*titles):
        results = [dataclasses.replace(first, title=one) for one in titles]
        return study_title(dict(enumerate(results)))

    first = variants["a random tenth"]
    assert study_title(variants) == "Hard forget sets"
    assert title(first.title) == first.title
    assert title(first.title, "Half") == "digits"
    assert title(first.title, "Hardly") == "digits"
    other = dataclasses.replace(first, title="Half", preset="")
    assert study_title({"first": first, "other": other}) == "Study"


def test_the_figure_has_a_panel_per_variant(variants):
    figure = study_plot(variants)
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    labels = [row.label for row in variants["a random tenth"].rows]
    assert [axes.get_title("left") for axes in figure.axes] == list(variants)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == labels
    dashes = []
    for axes in figure.axes:
        dashes.append([text.get_text() for text in axes.texts].count("–"))
    # The made-up oracle has no gap; one row diverged, and one is missing.
    assert dashes == [1, 3]
    assert figure.axes[0].get_ylim()[0] > figure.axes[0].get_ylim()[1]
    lost = {}
    for name, result in variants.items():
        rows = [dataclasses.replace(row, metrics={}) for row in result.rows]
        lost[name] = dataclasses.replace(result, rows=tuple(rows))
    assert study_plot(lost).axes == []


def test_a_variant_without_a_report_does_not_stop_the_others(
    variants, tmp_path, monkeypatch
):
    left = dict(zip("ab", variants.values(), strict=True))
    configs = dict.fromkeys(left, RunConfig(rows={}))

    written = []

    def run(config, folder, events, **_):
        written.append(events)
        if folder.name == "a":
            raise ReportError("report.html cannot be written", left["a"])
        return left["b"]

    monkeypatch.setattr(study_module, "run", run)
    with pytest.raises(ReportError, match="cannot be written") as caught:
        study_module.run_study(configs, tmp_path, events="events")
    assert written == ["events/a", "events/b"]
    assert caught.value.result == left
    assert set(json.loads((tmp_path / "study.json").read_text())) == {"a", "b"}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(study, "render_html", fail)
    with pytest.raises(ReportError, match=r"study's report .* No space left"):
        study_module.run_study(configs, tmp_path, events="events")
    assert (tmp_path / "study.md").is_file()
