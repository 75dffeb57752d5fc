"""Tables, figures and the HTML report, on made-up results with the shapes of a real run."""

import copy
import csv
import html.parser
import io
import re
import sys

import matplotlib
import numpy as np
import pytest

from unlearn_jax.pipeline import plots, report, tables
from unlearn_jax.types import InputError

METRICS = [
    ("unlearn_accuracy", "Unlearn acc", "%", "retrained", 95.0), ("retain_accuracy", "Retain", "%", "retrained", 99.0),
    ("test_accuracy", "Test accuracy", "%", "retrained", 94.0), ("ft_auc", "FT AUC", "%", "50", 50.0),
    ("fr_auc", "FR AUC", "%", "retrained", 62.0), ("rt_auc", "RT AUC", "%", "retrained", 62.0),
    ("ft_tpr", "TPR at 1 % FPR", "%", "1", 1.2), ("mis", "MIS", "%", "retrained", 14.0),
    ("avg_gap", "Avg Gap", "pp", "0", 0.8), ("avg_gap_mis", "Avg Gap (MIS)", "pp", "0", 1.1),
]  # fmt: skip
METHODS = ["AMUN", "AMUN without D_R", "Fine-tune", "Random labels", "Gradient ascent", "L1-sparse", "SalUn"]


def make_rows(num_methods, num_runs, rng):
    """Rows of three kinds and ``num_methods`` methods, the further down the less unlearned."""
    heads = [("original", "Original", "original"), ("retrain", "Retrained", "oracle")]
    heads += [("retrain_again", "Retrained again", "second_oracle")]
    names = [METHODS[i % len(METHODS)] + " again" * (i // len(METHODS)) for i in range(num_methods)]
    heads += [(f"method{i}", name, "method") for i, name in enumerate(names)]
    rows = []
    for position, (key, label, kind) in enumerate(heads):
        leak = {"original": 12.0, "oracle": 0.0, "second_oracle": 0.0}.get(kind, 1.1 * (position - 3) ** 1.2)
        metrics = {}
        for name, *_, centre in METRICS:
            shift = leak * (0.3 if name.endswith("accuracy") else 1.0)
            spread = 0.4 + centre / 200
            values = np.clip(centre + shift + spread * rng.normal(size=num_runs), 0, 100)
            mean, half = values.mean(), 0.3 + 1.5 * spread / np.sqrt(num_runs)
            metrics[name] = {
                "mean": float(mean), "std": float(values.std(ddof=1)) if num_runs > 1 else None,
                "low": float(mean - half), "high": float(min(mean + half, 100)), "num_runs": num_runs,
                "values": values.tolist(),
            }  # fmt: skip
        if kind == "oracle":
            metrics["avg_gap"] = metrics["avg_gap_mis"] = None
        cost = {"gradients": 900 * position, "relative": 0.011 * position, "seconds": 1.5} if position else None
        rows.append({"key": key, "label": label, "kind": kind, "method": key, "knobs": {"epochs": 10}, "cost": cost})
        rows[-1]["metrics"] = metrics
    return rows


def make_arrays(rows, num_runs, num_train, num_test, num_forget, rng):
    """Scores and margins that leak as much as a row's FT AUC says."""
    forget = np.zeros((num_runs, num_train), bool)
    for mask in forget:
        mask[rng.choice(num_train, num_forget, replace=False)] = True
    arrays = {"forget": forget}
    difficulty = rng.gamma(2.0, 2.0, num_train + num_test)
    for row in rows:
        leak = (row["metrics"]["ft_auc"]["mean"] - 50) / 25
        member = np.zeros((num_runs, num_train + num_test))
        member[:, :num_train] = np.where(forget, leak, 0.5)
        noise = rng.normal(size=member.shape)
        arrays[f"scores/{row['key']}"] = (1 / (1 + np.exp(-1.5 * (noise + member)))).astype(np.float32)
        arrays[f"margin/{row['key']}"] = (difficulty - 1 + 2 * member + 0.5 * noise).astype(np.float32)
    radius = rng.choice([0.04, 0.08, 0.16, 0.32, 0.64, 1.28], size=(3, num_forget), p=[0.1, 0.15, 0.3, 0.3, 0.1, 0.05])
    status = rng.choice(4, size=radius.shape, p=[0.93, 0.04, 0.02, 0.01])
    arrays["epsilon"] = np.where(status == 1, 0, radius)
    arrays["distance"] = arrays["epsilon"] * rng.uniform(0.6, 1, radius.shape)
    arrays["status"] = status
    return arrays


def make_attack(arrays):
    found = arrays["status"] == 0
    names = ("found", "already_wrong", "not_found", "zero_gradient")
    return {
        "norm": "l2",
        "status": {name: int((arrays["status"] == i).sum()) for i, name in enumerate(names)},
        "radii": np.stack(np.unique(arrays["epsilon"][found], return_counts=True), 1).tolist(),
        "distance_quantiles": {str(q): float(np.quantile(arrays["distance"][found], q)) for q in (0.05, 0.5, 0.95)},
    }


def make(num_methods=3, num_runs=6, num_train=300, num_test=80, num_forget=30):
    """``(results, arrays)`` of a made-up run."""
    rng = np.random.default_rng(1)
    rows = make_rows(num_methods, num_runs, rng)
    arrays = make_arrays(rows, num_runs, num_train, num_test, num_forget, rng)
    results = {
        "unlearn_jax": "0.1.0", "preset": "digits", "title": "AMUN on digits", "created": "2026-01-01T00:00:00Z",
        "config": {"data": {"name": "digits", "note": "a < b & c"}, "attack": {"epsilon_init": 0.04}},
        "config_hash": "0f" * 32, "command": "unlearn-jax run digits --workdir runs/digits",
        "environment": {"python": "3.11", "jax": "0.10", "devices": "cpu"},
        "data": {"name": "digits", "num_train": num_train, "num_test": num_test, "num_classes": 10,
                 "image_shape": [8, 8, 1], "digest": "ab" * 32},
        "design": {"originals": 1, "forget_sets": num_runs, "repeats": 1, "runs": num_runs,
                   "num_forget": num_forget, "references": 64},
        "metrics": [
            {"key": key, "name": name, "unit": unit, "target": target, "help": f"What {name} is."}
            for key, name, unit, target, _ in METRICS
        ],
        "rows": rows,
        "runs": [{"original": 0, "forget_set": i, "repeat": 0} for i in range(num_runs)],
        "attack": make_attack(arrays),
        "stages": [{"name": "bank", "seconds": 0.1, "compile_seconds": 0.0, "peak_memory_mb": None, "cached": True}],
        "level": 0.95, "num_bootstrap": 1000,
        "notes": ["The references share the architecture of the audited models."],
        "checks": [{"name": f"check {passed}", "passed": passed, "detail": "why"} for passed in (True, False)],
    }  # fmt: skip
    return results, arrays


class Page(html.parser.HTMLParser):
    """Elements, text and attributes of a page; fails where tags are not balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


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
    mean, std, low, high = (f"{amun[name]:.2f}" for name in ("mean", "std", "low", "high"))
    assert f"{mean}±{std}" in tables.terminal_table(results)
    assert f"{low}–{high}" in tables.terminal_table(results)
    assert rf"${mean} \pm {std}$" in tables.latex_table(results)
    assert f"$[{low}, {high}]$" in tables.latex_table(results)
    assert f"{mean} ± {std} [{low}, {high}]" in tables.markdown_table(results)


def test_terminal_table_fits_and_says_what_it_shows(results):
    text = tables.terminal_table(results)
    assert max(map(len, text.splitlines())) <= 160
    assert all(text.count(words) == 1 for words in ("Original", "95 % interval", "(the oracle)"))
    labels = [text.index("\n" + row["label"]) for row in results["rows"]]
    assert labels == sorted(labels)
    narrow = tables.terminal_table(results, width=80)
    assert max(map(len, narrow.splitlines()[2:])) <= 80
    assert narrow.count("Original") > 1


def test_a_single_run_has_no_spread():
    results, _ = make(num_methods=1, num_runs=1)
    assert "±" not in tables.terminal_table(results).replace("mean ± std", "")
    assert "over 1 run," in tables.terminal_table(results)
    results["rows"][0]["metrics"]["ft_auc"].update(std=float("nan"), low=float("nan"), high=float("nan"))
    mean = results["rows"][0]["metrics"]["ft_auc"]["mean"]
    assert f"| {mean:.2f} |" in tables.markdown_table(results, ["ft_auc"])


def test_latex_escapes(results):
    results["rows"][-1]["label"] = r"50% & $x_1$ #{a} ~ ^ \input <b>"
    text = tables.latex_table(results)
    escaped = r"50\% \& \$x\_1\$ \#\{a\} \textasciitilde{} \textasciicircum{} \textbackslash{}input"
    assert escaped in text
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1
    columns = len(results["metrics"])
    for line in text.splitlines():
        if line.endswith(r"\\"):
            assert len(re.findall(r"(?<!\\)&", line)) == columns
    assert not re.search(r"(?<!\\)%", text.split("\n", 1)[1])


def test_markdown_chooses_metrics_and_escapes(results):
    results["rows"][-1]["label"] = "a|b <script>"
    text = tables.markdown_table(results, ["avg_gap", "ft_auc"])
    header, _, *body = [line for line in text.splitlines() if line.startswith("|")]
    assert header == "|  | Avg Gap (pp) | FT AUC (%) |"
    assert len(body) == len(results["rows"])
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 4 for line in body)
    assert "<script>" not in text
    with pytest.raises(InputError, match="unknown metrics nonsense: choose from unlearn_accuracy"):
        tables.markdown_table(results, ["nonsense"])


def test_the_verdict_follows_the_numbers(results):
    def say(**intervals):
        for key, (low, high) in intervals.items():
            cell(results, key, "ft_auc").update(mean=(low + high) / 2, low=low, high=high)
        return report.verdict(results)

    text = say(original=(60, 64), retrain=(49, 51), method0=(50.5, 52), method1=(53, 54), method2=(40, 45))
    assert "Original has an FT AUC of 62.00 % [60.00, 64.00], so the attack does recognise" in text
    assert "The FT AUC interval of AMUN overlaps that of Retrained: no difference was found, which is not a" in text
    assert "still recognisable as training data: the forget samples of AMUN without D_R." in text
    assert "which gives them away too: those of Fine-tune." in text
    assert "50 % itself lies in no interval of a method." in text
    assert "hardly works here" in say(original=(49, 51))
    assert "points the wrong way" in say(original=(40, 41))
    assert "compare with this row, not with 50 %" in say(retrain=(51, 52))
    assert "No method has an FT AUC interval that overlaps" in say(retrain=(70, 71))
    assert "50 % itself lies in the interval of AMUN." in say(retrain=(49, 51), method0=(49, 51))
    assert report.verdict(results).startswith("A check was not passed")
    results["checks"] = []
    assert report.verdict(results).startswith("30 of 300 training samples")


def test_the_verdict_does_not_call_a_tie_a_win(results):
    for key, low, high in (("method0", 1, 2), ("method1", 1.5, 3), ("method2", 4, 5)):
        cell(results, key, "avg_gap").update(mean=(low + high) / 2, low=low, high=high)
    results["rows"][4]["label"] = "Method, or so"
    text = report.verdict(results)
    assert "AMUN has the smallest Avg Gap to retraining, 1.50 percentage points [1.00, 2.00]" in text
    assert "with an interval that overlaps that of “Method, or so”;" in text


def test_the_verdict_copes_without_oracle_or_auc(results):
    results["rows"] = [row for row in make(num_methods=15)[0]["rows"] if row["kind"] == "method"]
    assert "overlaps 50 %: no difference" in report.verdict(results)
    assert re.search(r": the forget samples of ([^,]*, ){5}[^,]* and \d others\.", report.verdict(results))
    assert report.verdict(results | {"rows": [row | {"metrics": {}} for row in results["rows"]]})


FIGURES = [plots.roc_plot, plots.score_histograms, plots.confidence_plot, plots.attack_plot]


@pytest.mark.parametrize(("num_methods", "num_runs"), [(0, 1), (12, 2)])
def test_figures_of_one_run_and_of_many_rows(num_methods, num_runs):
    results, arrays = make(num_methods, num_runs)
    drawn(plots.forest_plot(results, ["ft_auc", "avg_gap", "no such metric"]))
    for draw in FIGURES:
        drawn(draw(results, arrays))


def test_figures_without_their_arrays_say_so(results):
    results["attack"] = None
    for draw in FIGURES:
        figure = drawn(draw(results, {}))
        assert (len(figure.axes), len(figure.texts)) == (0, 1)
    assert not plots.forest_plot(results, ["missing"]).axes


def test_figures_of_hard_values(results, arrays):
    results["rows"][0]["label"] = "_hidden $x_1 \\frac <b> " + "long " * 20
    arrays["scores/original"][:] = 0.5
    arrays["margin/original"][:, ::3], arrays["margin/original"][:, 1::3] = np.inf, -np.inf
    results["attack"]["radii"].insert(0, [0.0, 24])
    arrays["distance"] = np.zeros_like(arrays["distance"])
    results["rows"][2]["metrics"]["ft_auc"].update(low=None, high=None, values=[])
    for draw in FIGURES:
        drawn(draw(results, arrays))
    assert len(plots.roc_plot(results, arrays).legends[0].get_texts()) == len(results["rows"]) + 1
    drawn(plots.forest_plot(results))


def test_the_roc_is_the_audit_s(results, arrays):
    lines = plots.roc_plot(results, arrays).axes[0].lines
    scores, forget = arrays["scores/original"], arrays["forget"]
    members, others = scores[:, :300][forget], scores[:, 300:].ravel()
    line = next(line for line in lines if line.get_label().startswith("Original"))
    auc = (members[:, None] > others).mean() + (members[:, None] == others).mean() / 2
    assert line.get_label() == f"Original  {100 * auc:.1f}"
    for rate, hits in zip(*line.get_data(), strict=True):
        falsely = np.sort(others)[::-1][min(int(rate * others.size), others.size - 1)]  # the next to be accused
        assert (members > falsely).mean() - 1e-9 <= hits <= max((members >= falsely).mean(), 0.001) + 1e-9


def test_histograms_count_every_run(results, arrays):
    axes = plots.score_histograms(results, arrays).axes[0]
    forget, test, retain = (patch.get_data() for patch in axes.patches)
    scores = arrays["scores/original"]
    parts = scores[:, :300][arrays["forget"]], scores[:, 300:], scores[:, :300][~arrays["forget"]]
    for (shares, edges, _), part in zip((forget, test, retain), parts, strict=True):
        np.testing.assert_allclose(shares, 100 * np.histogram(np.clip(part, *edges[[0, -1]]), edges)[0] / part.size)


def test_a_row_keeps_its_colour(results):
    styles = plots.row_styles(make_rows(15, 1, np.random.default_rng(0)))
    assert len({(style.color, str(style.dashes)) for style in styles.values()}) == len(styles)
    for rows in (results["rows"], results["rows"][:4]):
        assert plots.row_styles(rows)["method0"] == styles["method0"]


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
            assert value is None or f"{value['mean']:.2f} ± {value['std']:.2f}" in page.words, metric
    assert not {"script", "link", "iframe", "object", "img", "image"} & set(page.tags)
    assert page.tags.count("svg") == 6
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
    assert page.tags.count("svg") == 5


def test_report_of_a_large_run_stays_small(tmp_path):
    results, arrays = make(num_methods=12, num_runs=3, num_train=20_000, num_test=5_000, num_forget=2_000)
    report.write_report(results, arrays, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_write_tables_in_one_step(results, tmp_path, monkeypatch):
    folder = tmp_path / "new" / "tables"
    report.write_tables(results, folder)
    report.write_tables(results, folder)
    assert sorted(file.name for file in folder.iterdir()) == ["table.csv", "table.md", "table.tex", "table.txt"]
    assert (folder / "table.txt").read_text("utf-8") == tables.terminal_table(results) + "\n"
    before = (folder / "table.txt").read_bytes()
    results["title"] = "another"
    monkeypatch.setattr("os.replace", lambda *_: 1 / 0)  # what happens when the process dies here
    with pytest.raises(ZeroDivisionError):
        report.write_tables(results, folder)
    assert (folder / "table.txt").read_bytes() == before
    assert len(list(folder.iterdir())) == 4
