"""Tables, figures and the HTML report, on made-up results with the shapes of a real run."""

import copy
import csv
import io
import re
import sys

import matplotlib
import numpy as np
import pytest
from support.made_up import Page, make, make_rows

from unlearn_jax.pipeline.report import run as report
from unlearn_jax.pipeline.report import tables, verdict
from unlearn_jax.pipeline.report.figures import run as plots
from unlearn_jax.pipeline.report.figures import style as figure_style
from unlearn_jax.types import InputError


@pytest.fixture
def results():
    return make()[0]


@pytest.fixture
def arrays():
    return make()[1]


def cell(results, row, metric):
    return next(r for r in results["rows"] if r["key"] == row)["metrics"][metric]


def drawn(figure):
    """The figure, drawn to bytes: what cannot be drawn fails here."""
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    return figure


def test_csv_is_the_input_digit_for_digit(results):
    results["rows"][0]["label"] = 'a "quoted", label'
    lines = list(csv.DictReader(io.StringIO(tables.csv_table(results))))
    assert len(lines) == len(results["rows"]) * len(results["metrics"])
    for line in lines:
        expected = cell(results, line["row"], line["metric"])
        if expected is None:
            assert line["mean"] == line["low"] == line["num_runs"] == ""
        else:
            for name in ("mean", "std", "low", "high", "num_runs"):
                assert float(line[name]) == expected[name]
    assert lines[0]["label"] == 'a "quoted", label'
    assert {line["unit"] for line in lines if line["metric"] == "avg_gap"} == {"pp"}


def test_every_table_prints_the_numbers(results):
    amun = cell(results, "method0", "ft_auc")
    mean, std, low, high = (
        f"{amun[name]:.2f}" for name in ("mean", "std", "low", "high")
    )
    assert f"{mean}±{std}" in tables.terminal_table(results)
    assert f"{low}–{high}" in tables.terminal_table(results)
    assert rf"${mean} \pm {std}$" in tables.latex_table(results)
    assert f"$[{low}, {high}]$" in tables.latex_table(results)
    assert f"{mean} ± {std} [{low}, {high}]" in tables.markdown_table(results)


def test_every_table_ends_with_the_cost(results):
    results["rows"][3]["cost"] = {"relative": 0.0123}
    shown = ["–", "0.011", "0.022", "0.012", "0.044", "0.055"]
    assert [tables.format_cost(row) for row in results["rows"]] == shown
    lines = tables.terminal_table(results, width=180).splitlines()[1:]
    ends = [
        line.split()[-1]
        for line in lines
        if any(line.startswith(row["label"] + " ") for row in results["rows"])
    ]
    assert ends == shown
    body = tables.latex_table(results).splitlines()[6:]
    ends = [
        line.removesuffix(r" \\").rpartition("& ")[2]
        for line in body
        if "±" in line or r"\pm" in line
    ]
    assert ends == ["--", *shown[1:]]
    body = tables.markdown_table(results).splitlines()[2:-2]
    assert [line.split("|")[-2].strip() for line in body] == shown
    costs = {
        line["row"]: line[tables.COST]
        for line in csv.DictReader(io.StringIO(tables.csv_table(results)))
    }
    assert costs == {
        row["key"]: str((row["cost"] or {}).get("relative", ""))
        for row in results["rows"]
    }


def test_a_diverged_row_stays_in_every_table(results, arrays, tmp_path):
    results["rows"][-1]["metrics"] = {}
    for kind in ("scores", "margin"):
        del arrays[f"{kind}/method2"]
    assert "(diverged)" in tables.terminal_table(results)
    assert "Fine-tune (diverged) & --" in tables.latex_table(results)
    assert "| Fine-tune (diverged) | – |" in tables.markdown_table(results)
    report.write_report(results, arrays, tmp_path / "report.html")
    words = Page((tmp_path / "report.html").read_text("utf-8")).words
    assert "Fine-tune diverged – – –" in words
    assert "Fine-tune has no numbers: not every run ended in finite ones." in words
    assert "A row of en dashes diverged" in words
    for row in results["rows"][3:]:
        row["metrics"] = {}
    assert "AMUN, AMUN without D_R and Fine-tune have no numbers" in verdict.verdict(
        results
    )
    assert tables.markdown_table(results).count("(diverged)") == 3


def test_terminal_table_fits_and_says_what_it_shows(results):
    text = tables.terminal_table(results, width=180)
    assert max(map(len, text.splitlines())) <= 180
    assert all(
        text.count(words) == 1
        for words in ("Original", "95 % interval", "(the oracle)")
    )
    labels = [text.index("\n" + row["label"]) for row in results["rows"]]
    assert labels == sorted(labels)
    narrow = tables.terminal_table(results, width=80)
    assert max(map(len, narrow.splitlines()[2:])) <= 80
    assert narrow.count("Original") > 1


def test_a_single_run_has_no_spread():
    results, _ = make(num_methods=1, num_runs=1)
    assert "±" not in tables.terminal_table(results).replace("mean ± std", "")
    assert "over 1 run," in tables.terminal_table(results)
    results["rows"][0]["metrics"]["ft_auc"].update(
        std=float("nan"), low=float("nan"), high=float("nan")
    )
    mean = results["rows"][0]["metrics"]["ft_auc"]["mean"]
    assert f"| {mean:.2f} |" in tables.markdown_table(results, ["ft_auc"])


def test_latex_escapes(results):
    results["rows"][-1]["label"] = r"50% & $x_1$ #{a} ~ ^ \input <b>"
    text = tables.latex_table(results)
    escaped = (
        r"50\% \& \$x\_1\$ \#\{a\} \textasciitilde{} \textasciicircum{}"
        r" \textbackslash{}input"
    )
    assert escaped in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    columns = len(results["metrics"]) + 1
    for line in text.splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == columns
    assert not re.search(r"(?<!\\)%", text.split("\n", 1)[1])


def test_markdown_chooses_metrics_and_escapes(results):
    results["rows"][-1]["label"] = "a|b <script>"
    text = tables.markdown_table(results, ["avg_gap", "ft_auc"])
    header, _, *body = [line for line in text.splitlines() if line.startswith("|")]
    assert header == "|  | Avg Gap (pp) | FT AUC (%) | Cost (x retraining) |"
    assert len(body) == len(results["rows"])
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 5 for line in body)
    assert "<script>" not in text
    with pytest.raises(
        InputError, match="unknown metrics nonsense: choose from unlearn_accuracy"
    ):
        tables.markdown_table(results, ["nonsense"])


def test_the_verdict_follows_the_numbers(results):
    def say(**intervals):
        for key, (low, high) in intervals.items():
            cell(results, key, "ft_auc").update(
                mean=(low + high) / 2, low=low, high=high
            )
        return verdict.verdict(results)

    text = say(
        original=(60, 64),
        retrain=(49, 51),
        method0=(50.5, 52),
        method1=(53, 54),
        method2=(40, 45),
    )
    assert (
        "Original has an FT AUC of 62.00 % [60.00, 64.00], so the attack does recognize"
        in text
    )
    assert (
        "The FT AUC interval of AMUN overlaps that of Retrained: no difference was"
        " found, which is not a" in text
    )
    assert (
        "still recognizable as training data: the forget samples of AMUN without D_R."
        in text
    )
    assert "which gives them away too: those of Fine-tune." in text
    assert "50 % itself lies in no interval of a method." in text
    assert "hardly works here" in say(original=(49, 51))
    assert "points the wrong way" in say(original=(40, 41))
    assert "compare with this row, not with 50 %" in say(retrain=(51, 52))
    assert "No method has an FT AUC interval that overlaps" in say(retrain=(70, 71))
    assert "50 % itself lies in the interval of AMUN." in say(
        retrain=(49, 51), method0=(49, 51)
    )
    assert verdict.verdict(results).startswith("A check was not passed")
    results["checks"] = []
    assert verdict.verdict(results).startswith("30 of 300 training samples")


def test_the_verdict_does_not_call_a_tie_a_win(results):
    for key, low, high in (("method0", 1, 2), ("method1", 1.5, 3), ("method2", 4, 5)):
        cell(results, key, "avg_gap").update(mean=(low + high) / 2, low=low, high=high)
    results["rows"][4]["label"] = "Method, or so"
    text = verdict.verdict(results)
    assert (
        "AMUN has the smallest Avg Gap to retraining, 1.50 percentage points [1.00,"
        " 2.00]" in text
    )
    assert "with an interval that overlaps that of “Method, or so”;" in text


def test_the_verdict_copes_without_oracle_or_auc(results):
    results["rows"] = [
        row for row in make(num_methods=15)[0]["rows"] if row["kind"] == "method"
    ]
    assert "overlaps 50 %: no difference" in verdict.verdict(results)
    assert re.search(
        r": the forget samples of ([^,]*, ){5}[^,]* and \d others\.",
        verdict.verdict(results),
    )
    assert verdict.verdict(
        results | {"rows": [row | {"metrics": {}} for row in results["rows"]]}
    )


FIGURES = [
    plots.roc_plot,
    plots.score_histograms,
    plots.confidence_plot,
    plots.attack_plot,
]


@pytest.mark.parametrize(("num_methods", "num_runs"), [(0, 1), (12, 2)])
def test_figures_of_one_run_and_of_many_rows(num_methods, num_runs):
    results, arrays = make(num_methods, num_runs)
    assert (
        len(
            drawn(
                plots.forest_plot(results, ["ft_auc", "avg_gap", "no such metric"])
            ).axes
        )
        == 2
    )
    for draw in FIGURES:
        assert drawn(draw(results, arrays)).axes


def test_figures_without_their_arrays_say_so(results):
    results["attack"] = None
    for draw in FIGURES:
        figure = drawn(draw(results, {}))
        assert (len(figure.axes), len(figure.texts)) == (0, 1)
    assert not plots.forest_plot(results, ["missing"]).axes


def test_figures_of_hard_values(results, arrays):
    results["rows"][0]["label"] = "_hidden $x_1 \\frac <b> " + "long " * 20
    arrays["scores/original"][:] = 0.5
    arrays["margin/original"][:, ::3], arrays["margin/original"][:, 1::3] = (
        np.inf,
        -np.inf,
    )
    results["attack"]["radii"].insert(0, [0.0, 24])
    arrays["distance"] = np.zeros_like(arrays["distance"])
    results["rows"][2]["metrics"]["ft_auc"].update(low=None, high=None, values=[])
    for draw in FIGURES:
        drawn(draw(results, arrays))
    assert (
        len(plots.roc_plot(results, arrays).legends[0].get_texts())
        == len(results["rows"]) + 1
    )
    drawn(plots.forest_plot(results))


def test_the_roc_is_the_audit_s(results, arrays):
    lines = plots.roc_plot(results, arrays).axes[0].lines
    scores, forget = arrays["scores/original"], arrays["forget"]
    members, others = scores[:, :300][forget], scores[:, 300:].ravel()
    line = next(line for line in lines if line.get_label().startswith("Original"))
    auc = (members[:, None] > others).mean() + (members[:, None] == others).mean() / 2
    assert line.get_label() == f"Original  {100 * auc:.1f}"
    for rate, hits in zip(*line.get_data(), strict=True):
        falsely = np.sort(others)[::-1][
            min(int(rate * others.size), others.size - 1)
        ]  # the next to be accused
        assert (
            (members > falsely).mean() - 1e-9
            <= hits
            <= max((members >= falsely).mean(), 0.001) + 1e-9
        )


def test_many_rows_have_panels_of_their_own():
    results, arrays = make(num_methods=12, num_runs=2)
    for draw in (plots.roc_plot, plots.confidence_plot):
        figure = drawn(draw(results, arrays))
        shown = [axes.get_title("left") for axes in figure.axes if axes.axison]
        assert shown == [
            row["label"]
            for row in results["rows"]
            if row["kind"] not in ("original", "oracle")
        ]
        names = [text.get_text() for text in figure.legends[0].get_texts()]
        assert names[:2] == ["Original", "Retrained"]
    beside, own = figure.axes[3].lines[:2], figure.axes[3].lines[2]
    assert own.get_color() == figure_style.row_styles(results["rows"])["method2"].color
    assert max(line.get_zorder() for line in beside) < own.get_zorder()
    np.testing.assert_array_equal(
        beside[1].get_ydata(), figure.axes[0].lines[1].get_ydata()
    )


def test_a_row_far_outside_does_not_squeeze_the_others(results):
    def limits():
        return drawn(plots.forest_plot(results)).axes[0].get_xlim()

    before = limits()
    far = cell(results, "method2", "ft_auc")
    far.update(mean=2.0, low=1.5, high=2.5, values=[2.0] * 6)
    figure = drawn(plots.forest_plot(results))
    assert "2.00" in [text.get_text() for text in figure.axes[0].texts]
    assert figure.axes[0].get_xlim()[0] > 10
    far.update(mean=70.0, low=69.0, high=71.0, values=[70.0] * 6)
    assert limits()[1] >= 71 > before[0]
    cell(results, "original", "ft_auc").update(
        mean=2.0, low=1.5, high=2.5
    )  # a reference is never left out
    assert limits()[0] < 1.5


def test_histograms_count_every_run(results, arrays):
    axes = plots.score_histograms(results, arrays).axes[0]
    forget, test, retain = (patch.get_data() for patch in axes.patches)
    scores = arrays["scores/original"]
    parts = (
        scores[:, :300][arrays["forget"]],
        scores[:, 300:],
        scores[:, :300][~arrays["forget"]],
    )
    for (shares, edges, _), part in zip((forget, test, retain), parts, strict=True):
        np.testing.assert_allclose(
            shares,
            100 * np.histogram(np.clip(part, *edges[[0, -1]]), edges)[0] / part.size,
        )


def test_a_row_keeps_its_color(results):
    styles = figure_style.row_styles(make_rows(15, 1, np.random.default_rng(0)))
    assert len({(style.color, str(style.dashes)) for style in styles.values()}) == len(
        styles
    )
    for rows in (results["rows"], results["rows"][:4]):
        assert figure_style.row_styles(rows)["method0"] == styles["method0"]


def test_report_is_one_safe_page(results, arrays, tmp_path):
    results["rows"][-1]["label"] = "<script>alert(1)</script>"
    results["title"] = "A & B </title><script>"
    results["metrics"][3]["help"] = '50 % is best" onmouseover="alert(1)'
    results["rows"][-1]["knobs"] = {"note": "</code><img src=x>"}
    path = tmp_path / "folder" / "report.html"
    report.write_report(results, arrays, path)
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    text = path.read_text("utf-8")
    page = Page(text)
    for row in results["rows"]:
        assert row["label"] in page.words
        for metric, value in row["metrics"].items():
            assert (
                value is None
                or f"{value['mean']:.2f} ± {value['std']:.2f}" in page.words
            ), metric
    assert not {"script", "link", "iframe", "object", "img", "image"} & set(page.tags)
    assert page.tags.count("svg") == 7
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for name, value in page.attributes:
        assert not name.startswith("on")
        if name in ("src", "href", "xlink:href"):
            assert value in {f"#{target}" for target in ids}
    assert not re.search(r"https?://|@import|url\((?!#figure)", text)
    assert "a < b & c" in page.words
    assert results["command"] in page.words
    assert all(value for name, value in page.attributes if name == "aria-label")


def test_report_is_repeatable_and_leaves_no_state(tmp_path):
    results, arrays = make(num_methods=0, num_runs=2)
    before, modules = matplotlib.rcParams.copy(), set(sys.modules)
    frozen = copy.deepcopy(results)
    report.write_report(results, arrays, tmp_path / "a.html")
    report.write_report(results, arrays, str(tmp_path / "b.html"))
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert matplotlib.rcParams.copy() == before
    assert "matplotlib.pyplot" not in set(sys.modules) - modules
    assert results == frozen


def test_report_of_the_least(tmp_path):
    results, arrays = make(num_methods=1, num_runs=1)
    del arrays["epsilon"], arrays["distance"], arrays["status"]
    results.update(attack=None, stages=[], notes=[], checks=[])
    results["rows"][-1]["cost"] = {"seconds": 1.0, "relative": None}
    path = tmp_path / "report.html"
    report.write_report(results, arrays, path)
    page = Page(path.read_text("utf-8"))
    assert "With a single run" in page.words
    assert "nan" not in page.words.lower().split()
    assert page.tags.count("svg") == 6


def test_report_of_a_large_run_stays_small(tmp_path):
    results, arrays = make(
        num_methods=12, num_runs=3, num_train=20_000, num_test=5_000, num_forget=2_000
    )
    report.write_report(results, arrays, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_write_tables_in_one_step(results, tmp_path, monkeypatch):
    folder = tmp_path / "new" / "tables"
    report.write_tables(results, folder)
    report.write_tables(results, folder)
    assert sorted(file.name for file in folder.iterdir()) == [
        "table.csv",
        "table.md",
        "table.tex",
        "table.txt",
    ]
    assert (folder / "table.txt").read_text("utf-8") == tables.terminal_table(
        results
    ) + "\n"
    before = (folder / "table.txt").read_bytes()
    results["title"] = "another"
    monkeypatch.setattr(
        "os.replace", lambda *_: 1 / 0
    )  # what happens when the process dies here
    with pytest.raises(ZeroDivisionError):
        report.write_tables(results, folder)
    assert (folder / "table.txt").read_bytes() == before
    assert len(list(folder.iterdir())) == 4
