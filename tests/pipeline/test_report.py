"""Tables, figures and the page of a run, on made-up results."""

import copy
import csv
import dataclasses
import io
import math
import re
import sys

import matplotlib
import numpy as np
import pytest
from support.made_up import (
    Page,
    change_difference,
    change_interval,
    change_metric,
    change_row,
    make,
    make_rows,
)

from unlearn_jax.pipeline.measure.records import COST
from unlearn_jax.pipeline.report import run as report
from unlearn_jax.pipeline.report import tables
from unlearn_jax.pipeline.report.blocks import (
    Check,
    Figure,
    Table,
    render_latex,
    render_markdown,
)
from unlearn_jax.pipeline.report.figures import run as plots
from unlearn_jax.pipeline.report.verdict import findings, margins_sentence, verdict
from unlearn_jax.types import InputError


@pytest.fixture
def result():
    return make()[0]


@pytest.fixture
def arrays():
    return make()[1]


def drawn(figure):
    """The figure, drawn to bytes: a figure that cannot be drawn fails here."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def markdown(result, metrics=None):
    return render_markdown(tables.results_table(result, metrics))


def latex(result):
    return render_latex(tables.results_table(result))


def squeezed(text):
    return re.sub(" +", " ", text)


def without_arrays(arrays, row):
    return {name: value for name, value in arrays.items() if f"/{row}" not in name}


def test_csv_is_the_input_digit_for_digit(result):
    result = change_row(result, "original", label='a "quoted", label')
    lines = list(csv.DictReader(io.StringIO(tables.csv_table(result))))
    assert len(lines) == len(result.rows) * len(result.metrics)
    for line in lines:
        expected = result.row(line["row"]).metrics.get(line["metric"])
        if expected is None:
            assert line["mean"] == line["low"] == line["num_runs"] == ""
        else:
            for name in ("mean", "std", "low", "high", "num_runs"):
                assert float(line[name]) == getattr(expected, name)
    assert lines[0]["label"] == 'a "quoted", label'
    assert {line["unit"] for line in lines if line["metric"] == "avg_gap"} == {"pp"}


def test_every_table_prints_the_numbers(result):
    amun = result.row("method0").metrics["ft_auc"]
    mean, std, low, high = (f"{number:.2f}" for number in amun[:4])
    assert f"{mean}±{std}" in tables.terminal_text(result)
    assert f"{low}–{high}" in tables.terminal_text(result)
    assert f"{mean} ± {std}" in latex(result)
    assert f"[{low}, {high}]" in latex(result)
    assert f"{mean} ± {std} [{low}, {high}]" in markdown(result)


def test_a_table_without_the_interval_of_an_attack_says_why(result):
    assert "Without an interval" not in markdown(result)
    for row in result.rows:
        for key in ("mis", "avg_gap_mis"):
            if key in row.metrics:
                result = change_metric(
                    result, row.key, key, low=math.nan, high=math.nan
                )
    words = "Without an interval: MIS and Avg Gap (MIS); the machine is fitted once"
    assert words in markdown(result)
    assert "audit.refits" in tables.missing_sentence(result, ["mis"])
    assert tables.missing_sentence(result, ["ft_auc"]) == ""
    assert words in Page(report.render_html(report.run_page(result, {}))).words


def test_every_table_ends_with_the_cost(result):
    cost = dataclasses.replace(result.rows[3].cost, relative_gradients=0.0123)
    result = change_row(result, "method0", cost=cost)
    shown = ["–", "0.011", "0.022", "0.012", "0.044", "0.055"]
    assert [tables.format_cost(row) or "–" for row in result.rows] == shown
    lines = tables.terminal_text(result, width=180).splitlines()[1:]
    labels = tuple(f"{row.label} " for row in result.rows)
    ends = [line.split()[-1] for line in lines if line.startswith(labels)]
    assert ends == shown
    ends = [
        line.removesuffix(r" \\").rpartition("& ")[2].strip()
        for line in latex(result).splitlines()
        if "±" in line
    ]
    assert ends == shown
    body = [line for line in markdown(result).splitlines() if line.startswith("|")][2:]
    assert [line.split("|")[-2].strip() for line in body] == shown
    lines = csv.DictReader(io.StringIO(tables.csv_table(result)))
    costs = {line["row"]: line[COST] for line in lines}
    assert costs == {
        row.key: str(row.cost.relative_gradients) if row.cost else ""
        for row in result.rows
    }


def test_a_diverged_row_stays_in_every_table(result, arrays, tmp_path):
    lost = {"metrics": {}, "values": {}, "num_diverged": 2}
    result = change_row(result, "method2", **lost)
    arrays = without_arrays(arrays, "method2")
    count = f"2 of {result.design.runs}"
    assert f"diverged {count}" in tables.terminal_text(result)
    assert f"Fine-tune & diverged {count}" in squeezed(latex(result))
    assert f"| Fine-tune | diverged {count} |" in squeezed(markdown(result))
    lines = csv.DictReader(io.StringIO(tables.csv_table(result)))
    counts = {line["row"]: line["num_diverged"] for line in lines}
    assert counts["method2"] == "2"
    assert counts["method1"] == "0"
    report.write_report(result, arrays, tmp_path / "report.html")
    words = Page((tmp_path / "report.html").read_text("utf-8")).words
    assert f"Fine-tune diverged {count} diverged {count}" in words
    assert f"Diverged, a result like any other: Fine-tune in {count} runs." in words
    assert "Where a row diverged" in words
    table = report.run_page(result, arrays).blocks[0].blocks[0]
    labels = [cells[0].value for _, cells in table.body]
    assert labels == [row.label for row in result.rows]
    assert "methods the" not in table.caption, "none is left out"
    for key in ("method0", "method1"):
        result = change_row(result, key, **lost)
    assert f"AMUN in {count} runs, AMUN without D_R in {count} runs and" in " ".join(
        findings(result)
    )
    assert verdict(result) == (
        "No method has an interval of FT AUC, so nothing can be concluded."
    )


def test_terminal_table_fits_and_names_its_numbers(result):
    text = tables.terminal_text(result, width=180)
    assert max(map(len, text.splitlines())) <= 180
    assert text.count("Original") == text.count("95% interval") == 1
    labels = [text.index("\n" + row.label) for row in result.rows]
    assert labels == sorted(labels)
    narrow = tables.terminal_text(result, width=80)
    assert max(map(len, narrow.splitlines()[2:])) <= 80
    assert narrow.count("Original") > 1


def test_a_single_run_has_no_spread():
    result, _ = make(num_methods=1, num_runs=1)
    assert "±" not in tables.terminal_text(result)
    first = tables.terminal_text(result).splitlines()[0]
    assert first.endswith(": a single run, and below each number its 95% interval")
    unknown = {"std": math.nan, "low": math.nan, "high": math.nan}
    result = change_metric(result, "original", "ft_auc", **unknown)
    mean = result.row("original").metrics["ft_auc"].mean
    assert f"| {mean:.2f} |" in squeezed(markdown(result, ["ft_auc"]))


def test_latex_escapes(result):
    label = r"50% & $x_1$ #{a} ~ ^ \input <b>"
    text = latex(change_row(result, "method2", label=label))
    escaped = (
        r"50\% \& \$x\_1\$ \#\{a\} \textasciitilde{} \^{} \textbackslash{}input"
        r" \ensuremath{<}b\ensuremath{>}"
    )
    assert escaped in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    assert text.count(r"\midrule") == 3, "below the heads, around the oracle"
    for line in text.splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == len(result.metrics) + 1
    assert not re.search(r"(?<!\\)%", text.split("\n", 1)[1])


def test_markdown_chooses_metrics_and_escapes(result):
    result = change_row(result, "method2", label="a|b <script>")
    text = markdown(result, ["avg_gap", "ft_auc"])
    lines = [line for line in text.splitlines() if line.startswith("|")]
    header, _, *body = lines
    names = "| | Avg Gap (pp) | FT AUC (%) | Cost (x retraining) |"
    assert squeezed(header) == names
    assert len(body) == len(result.rows)
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in body)
    assert "<script>" not in text
    with pytest.raises(InputError, match="no metric 'nonsense'"):
        markdown(result, ["nonsense"])


def test_the_findings_follow_the_numbers(result):
    def text(**intervals):
        return " ".join(findings(change_interval(result, "ft_auc", **intervals)))

    result = change_interval(
        result,
        "ft_auc",
        original=(60, 64),
        retrain=(49, 51),
        method0=(50.5, 52),
        method1=(53, 54),
        method2=(40, 45),
    )
    result = with_verdicts(result)
    words = text()
    assert (
        "Original has an FT AUC of 62.00% [60.00, 64.00], so the attack does recognize"
        in words
    )
    assert (
        "FT AUC less that of the retrained models, run by run, like it within the"
        " margin: AMUN +1.25 [-0.50, +1.75]; measurably different: AMUN without D_R"
        " +3.50 [+3.00, +4.00] and Fine-tune -7.50 [-9.00, -6.00]; undecided: Random"
        " labels +1.00 [-3.00, +5.00] (40 more runs would decide)." in words
    )
    means = margins_sentence(result)
    assert "inside FT AUC ± 2.00 points, the spread over runs between two" in means
    assert words.startswith("30 of 300 training samples")
    weak = text(original=(49, 51))
    assert "so the original is not shown to be recognizable" in weak
    assert "proves little" not in weak, "it tells other rows apart"
    assert "points the wrong way" in text(original=(40, 41))
    assert "compare with this row, not with 50%" in text(retrain=(51, 52))


def with_verdicts(result):
    states = {
        "method0": ("like", (1.25, -0.5, 1.75)),
        "method1": ("different", (3.5, 3.0, 4.0)),
        "method2": ("different", (-7.5, -9.0, -6.0)),
    }
    for key, (state, ends) in states.items():
        result = change_difference(result, key, "ft_auc", ends, state)
    row = dataclasses.replace(result.rows[-1], key="method3", label="Random labels")
    result = dataclasses.replace(result, rows=(*result.rows, row))
    return change_difference(result, "method3", "ft_auc", (1, -3, 5), more_runs=40)


def test_the_verdict_is_a_sentence_on_every_method(result):
    result = with_verdicts(change_interval(result, "ft_auc", original=(60, 64)))
    text = verdict(result)
    assert text.startswith(
        "Forgotten like retraining: AMUN. Measurably different, the forget samples"
        " still recognizable: AMUN without D_R. Measurably different, the forget"
        " samples less familiar than data never seen, which gives them away: Fine-tune."
        " Undecided: Random labels (40 more runs would decide). Smallest"
    )
    assert "shown to be recognizable" not in text
    weak = change_interval(result, "ft_auc", original=(49, 51))
    assert "not shown to be recognizable: its interval holds 50%." in verdict(weak)
    assert "proves little" not in verdict(weak), "it tells other rows apart"
    for key in ("method1", "method2"):
        weak = change_difference(weak, key, "ft_auc", (1, -3, 5))
    assert "so this proves little" in verdict(weak)
    assert "hardly works here" in " ".join(findings(weak))


def test_the_first_screen_and_the_terminal_have_five_columns(result, arrays):
    result = with_verdicts(result)
    table = report.run_page(result, arrays).find(Table)[0]
    heads = [column.name for column in table.heads]
    assert heads[1:] == ["Verdict", "Δ FT AUC", "Δ Test accuracy", "Avg Gap", "Cost"]
    cells = {cells[0].value: cells[1:] for _, cells in table.body}
    assert cells["AMUN"][0].value == "forgotten"
    assert cells["AMUN"][1].value == "+1.2"
    assert cells["AMUN"][1].note == "[-0.5, +1.8]"
    assert cells["Random labels"][0].note == "+40 runs"
    assert cells["Retrained"][0].value == "the goal"
    lines = tables.terminal_verdict(result).splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = [line for line in lines if line.startswith("Fine-tune ")]
    assert line.split()[1:3] == ["different", "-7.5"]


def test_the_findings_do_not_call_a_tie_a_win(result):
    intervals = {"method0": (1, 2), "method1": (1.5, 3), "method2": (4, 5)}
    result = change_interval(result, "avg_gap", **intervals)
    result = change_row(result, "method1", label="Method, or so")
    text = " ".join(findings(result))
    assert (
        "AMUN has the smallest Avg Gap to retraining, 1.50 percentage points [1.00,"
        " 2.00]" in text
    )
    for key, state in (("method1", "undecided"), ("method2", "different")):
        result = change_difference(
            result, key, "avg_gap", (1, 0, 2), state, reference="best"
        )
    text = " ".join(findings(result))
    assert "Not measurably farther, pair by pair: “Method, or so”." in text


def test_the_findings_cope_without_oracle_or_auc():
    result, _ = make(num_methods=15)
    methods = tuple(row for row in result.rows if row.kind == "method")
    result = dataclasses.replace(result, rows=methods)
    assert "Undecided without retrained models, FT AUC at 50%:" in verdict(result)
    assert re.search(
        r"FT AUC above 50%: ([^,]*, ){5}[^,]* and \d others\.", verdict(result)
    )
    lost = [dataclasses.replace(row, metrics={}) for row in methods]
    result = dataclasses.replace(result, rows=tuple(lost))
    assert findings(result)
    assert verdict(result)


FIGURES = [
    plots.roc_plot,
    plots.score_histograms,
    plots.confidence_plot,
    plots.attack_plot,
]


@pytest.mark.parametrize(("num_methods", "num_runs"), [(0, 1), (12, 2)])
def test_figures_of_one_run_and_of_many_rows(num_methods, num_runs):
    result, arrays = make(num_methods, num_runs)
    forest = plots.forest_plot(result, ["ft_auc", "avg_gap", "no such metric"])
    assert len(drawn(forest).axes) == 2
    for draw in FIGURES:
        assert drawn(draw(result, arrays)).axes


def test_figures_without_their_arrays_are_notes(result):
    result = dataclasses.replace(result, attacks={})
    for draw in FIGURES:
        figure = drawn(draw(result, {}))
        assert (len(figure.axes), len(figure.texts)) == (0, 1)
    assert not plots.forest_plot(result, ["missing"]).axes


def test_figures_of_hard_values(result, arrays):
    label = "_hidden $x_1 \\frac <b> " + "long " * 20
    result = change_row(result, "original", label=label)
    arrays["scores/original"][:] = 0.5
    arrays["margin/original"][:, ::3] = np.inf
    arrays["margin/original"][:, 1::3] = -np.inf
    attack = result.attacks[""]
    attack = dataclasses.replace(
        attack, radii=(0.0, *attack.radii), counts=(24, *attack.counts)
    )
    result = dataclasses.replace(result, attacks={"": attack})
    arrays["distance"] = np.zeros_like(arrays["distance"])
    unknown = {"low": math.nan, "high": math.nan}
    result = change_metric(result, "retrain_again", "ft_auc", **unknown)
    result = change_row(result, "retrain_again", values={})
    for draw in FIGURES:
        drawn(draw(result, arrays))
    legend = plots.roc_plot(result, arrays).legends[0]
    assert len(legend.get_texts()) == len(result.rows) + 1
    drawn(plots.forest_plot(result))


def test_the_roc_is_the_audits(result, arrays):
    lines = plots.roc_plot(result, arrays).axes[0].lines
    scores = arrays["scores/original"]
    members = scores[:, :300][arrays["forget"]]
    others = scores[:, 300:].ravel()
    line = next(line for line in lines if line.get_label().startswith("Original"))
    auc = (members[:, None] > others).mean() + (members[:, None] == others).mean() / 2
    assert line.get_label() == f"Original  {100 * auc:.1f}"
    for rate, hits in zip(*line.get_data(), strict=True):
        # The score of the next test sample to be called a member.
        position = min(int(rate * others.size), others.size - 1)
        threshold = np.sort(others)[::-1][position]
        assert (members > threshold).mean() - 1e-9 <= hits
        assert hits <= max((members >= threshold).mean(), 0.001) + 1e-9


def test_many_rows_have_panels_of_their_own():
    result, arrays = make(num_methods=12, num_runs=2)
    for draw in (plots.roc_plot, plots.confidence_plot):
        figure = drawn(draw(result, arrays))
        shown = [axes.get_title("left") for axes in figure.axes if axes.axison]
        assert shown == [
            row.label for row in result.rows if row.kind not in ("original", "oracle")
        ]
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names[:2] == ["Original", "Retrained"]
    references = figure.axes[3].lines[:2]
    own = figure.axes[3].lines[2]
    assert own.get_color() == plots.styles_of(result.rows)["method2"].color
    assert max(line.get_zorder() for line in references) < own.get_zorder()
    np.testing.assert_array_equal(
        references[1].get_ydata(), figure.axes[0].lines[1].get_ydata()
    )


def test_a_row_far_outside_does_not_squeeze_the_others(result):
    def limits(result):
        return drawn(plots.forest_plot(result)).axes[0].get_xlim()

    def moved(result, key, low, high):
        mean = (low + high) / 2
        numbers = {"mean": mean, "low": low, "high": high}
        values = {"ft_auc": (mean,) * 6}
        result = change_row(result, key, values=values)
        return change_metric(result, key, "ft_auc", **numbers)

    before = limits(result)
    far = moved(result, "method2", 1.5, 2.5)
    figure = drawn(plots.forest_plot(far))
    assert "2.00" in [text.get_text() for text in figure.axes[0].texts]
    assert figure.axes[0].get_xlim()[0] > 10
    near = moved(result, "method2", 69.0, 71.0)
    assert limits(near)[1] >= 71 > before[0]
    # A reference is never left out.
    assert limits(moved(near, "original", 1.5, 2.5))[0] < 1.5


def test_histograms_count_every_run(result, arrays):
    axes = plots.score_histograms(result, arrays).axes[0]
    forget, test, retain = (patch.get_data() for patch in axes.patches)
    scores = arrays["scores/original"]
    parts = (
        scores[:, :300][arrays["forget"]],
        scores[:, 300:],
        scores[:, :300][~arrays["forget"]],
    )
    for (rates, edges, _), part in zip((forget, test, retain), parts, strict=True):
        inside = np.clip(part, *edges[[0, -1]])
        counts = np.histogram(inside, edges)[0]
        np.testing.assert_allclose(rates, 100 * counts / part.size)


def test_a_row_keeps_its_color(result):
    styles = plots.styles_of(make_rows(15, 1, np.random.default_rng(0)))
    looks = {(one.color, str(one.dashes)) for one in styles.values()}
    assert len(looks) == len(styles)
    for rows in (result.rows, result.rows[:4]):
        assert plots.styles_of(rows)["method0"] == styles["method0"]


def test_report_is_one_safe_page(result, arrays, tmp_path):
    metric = dataclasses.replace(
        result.metrics[3], description='50% is best" onmouseover="alert(1)'
    )
    metrics = (*result.metrics[:3], metric, *result.metrics[4:])
    title = "A & B </title><script>"
    result = dataclasses.replace(result, title=title, metrics=metrics)
    result = change_row(
        result,
        "method2",
        label="<script>alert(1)</script>",
        options={"note": "</code><img src=x>"},
    )
    path = tmp_path / "folder" / "report.html"
    report.write_report(result, arrays, path)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    text = path.read_text("utf-8")
    page = Page(text)
    for row in result.rows:
        assert row.label in page.words
        for name, value in row.metrics.items():
            assert f"{value.mean:.2f} ± {value.std:.2f}" in page.words, name
    assert not {"script", "link", "iframe", "object", "img", "image"} & set(page.tags)
    assert page.tags.count("svg") == 7
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value in {f"#{target}" for target in ids}
    assert not re.search(r"https?://|@import|url\((?!#figure)", text)
    assert text.startswith("<!DOCTYPE html>")
    assert "a < b & c" in page.words
    assert result.command in page.words
    assert all(value for name, value in page.attributes if name == "aria-label")
    assert "✗ 1 of 2 checks failed: check False" in page.words


def test_the_first_screen_has_the_references_and_the_best_methods():
    result, arrays = make(num_methods=12, num_runs=2)
    page = report.run_page(result, arrays)
    first = page.blocks[0]
    table = next(block for block in first.blocks if isinstance(block, Table))
    figure = next(block for block in first.blocks if isinstance(block, Figure))
    assert len(first.blocks) == 2
    gaps = {
        row.label: row.metrics["avg_gap"].mean
        for row in result.rows
        if row.kind == "method"
    }
    best = sorted(gaps, key=gaps.get)[: report.MAX_METHODS]
    labels = [cells[0].value for _, cells in table.body]
    assert labels[:3] == ["Original", "Retrained", "Retrained again"]
    assert labels[3:] == [row.label for row in result.rows if row.label in best]
    states = [cells[1].value for _, cells in table.body]
    assert states[:3] == ["", "the goal", "seed floor"]
    assert "Of 12 methods the 8 with the smallest Avg Gap" in table.caption
    amun = result.row("method0").metrics["ft_auc"]
    assert f"AMUN {amun.mean:.2f} [{amun.low:.2f}, {amun.high:.2f}]" in figure.alt
    assert [check.passed for check in page.find(Check)] == [True, False]


def test_report_is_repeatable_and_leaves_no_state(tmp_path):
    result, arrays = make(num_methods=0, num_runs=2)
    before = matplotlib.rcParams.copy()
    modules = set(sys.modules)
    frozen = copy.deepcopy(result.to_json())
    report.write_report(result, arrays, tmp_path / "a.html")
    report.write_report(result, arrays, str(tmp_path / "b.html"))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert matplotlib.rcParams.copy() == before
    assert "matplotlib.pyplot" not in set(sys.modules) - modules
    assert result.to_json() == frozen


def test_report_of_the_least(tmp_path):
    result, arrays = make(num_methods=1, num_runs=1)
    for name in ("epsilon", "distance", "status"):
        del arrays[name]
    result = change_row(result, "method0", cost=None)
    result = dataclasses.replace(result, attacks={}, stages=(), notes=(), checks=())
    path = tmp_path / "report.html"
    report.write_report(result, arrays, path)
    page = Page(path.read_text("utf-8"))
    assert "intervals of a single run" in page.words
    assert "nan" not in page.words.lower().split()
    assert page.tags.count("svg") == 6


def test_report_of_a_large_run_stays_small(tmp_path):
    result, arrays = make(
        num_methods=12, num_runs=3, num_train=20_000, num_test=5_000, num_forget=2_000
    )
    report.write_report(result, arrays, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_write_tables_in_one_step(result, tmp_path, monkeypatch):
    folder = tmp_path / "new" / "tables"
    tables.write_tables(result, folder)
    tables.write_tables(result, folder)
    names = ["table.csv", "table.md", "table.tex", "table.txt"]
    assert sorted(file.name for file in folder.iterdir()) == names
    text = (folder / "table.txt").read_text("utf-8")
    assert text == tables.terminal_text(result) + "\n"
    # The process dies here.
    monkeypatch.setattr("os.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tables.write_tables(dataclasses.replace(result, title="another"), folder)
    assert (folder / "table.txt").read_text("utf-8") == text
    assert len(list(folder.iterdir())) == 4
