"""The report's further sections, on made-up results: what they say, warn of and draw."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_up import Page, make

from unlearn_jax.pipeline.report import run as report
from unlearn_jax.pipeline.report import search as report_search
from unlearn_jax.pipeline.report import sections as report_sections
from unlearn_jax.pipeline.report.figures import sections as plots_sections
from unlearn_jax.pipeline.report.figures import style as figure_style
from unlearn_jax.pipeline.report.sections import TERMS
from unlearn_jax.pipeline.report.tables import format_interval


def estimate(mean, half=0.5):
    return {
        "mean": mean,
        "std": 0.25,
        "low": mean - half,
        "high": mean + half,
        "num_runs": 6,
        "values": [mean] * 6,
    }


def trial(gap, **knobs):
    keys = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "ft_auc", "avg_gap")
    metrics = (
        {}
        if gap is None
        else dict.fromkeys(keys, estimate(90.0)) | {"avg_gap": estimate(gap)}
    )
    return {
        "knobs": knobs,
        "status": "diverged" if gap is None else "ok",
        "metrics": metrics,
    }


def make_tuning():
    rate, steps = {"low": 1e-4, "high": 0.1}, [0, 1, 5]
    trials = [(2.0, 0.003, 1), (None, 0.05, 5), (9.0, 0.0005, 0)]
    return {
        "method0": {
            "space": {"decay_every": steps, "learning_rate": rate},
            "trials": [
                trial(gap, decay_every=every, learning_rate=value)
                for gap, value, every in trials
            ],
            "chosen": 0,
            "nothing": estimate(12.4),
        },
        "method1": {
            "space": {"alpha": {"low": 1.0, "high": 100.0}},
            "trials": [
                trial(40.0, alpha=3.16),
                trial(12.5, alpha=10.0),
                trial(30.0, alpha=1.0),
            ],
            "chosen": 1,
            "nothing": estimate(12.4),
        },
        "method2": {
            "space": {"order": ["a", "b"]},
            "trials": [trial(None, order="b")],
            "chosen": None,
            "nothing": estimate(12.4),
        },
    }


def make_sections():
    """Results and arrays with every section, each with numbers of its own."""
    results, arrays = make()
    rng = np.random.default_rng(2)
    keys = [row["key"] for row in results["rows"]]
    shares = {key: rng.choice([0, 0.5, 1], 300, p=[0.8, 0.15, 0.05]) for key in keys}
    for key in keys:
        shares[key][::3] = np.nan
        arrays[f"vulnerability/{key}"] = shares[key][None]
    most = [
        {"sample": 7, "label": 3, "share": 1.0, "low": 0.541, "high": 1.0, "runs": 6}
    ]
    about = {
        key: {"mean": 0.1 + i / 100, "always": 40 + i, "samples": 200, "most": most}
        for i, key in enumerate(keys)
    }
    results["vulnerability"] = {"max_fpr": 0.05, "rows": about}
    part = {"mean": 3.25, "low": 3.125, "high": 3.375, "median": 2.5, "p95": 7.75}
    results["klom"] = {
        "models": 6,
        "rows": {
            key: dict.fromkeys(("forget", "retain", "test"), part) for key in keys[2:]
        },
    }
    request = [
        {
            "score": estimate(20.0 - k),
            "fr_auc": estimate(70.0),
            "ft_auc": estimate(50.0 + k),
        }
        for k in range(4)
    ]
    results["requests"] = {
        "count": 4,
        "size": 8,
        "rows": {key: request for key in keys if key != "retrain_again"},
    }
    terms = {
        name: {"mean": 1e9 * i + 0.123456, "std": 0.01} for i, name in enumerate(TERMS)
    }
    results["theory"] = {
        "rows": {
            "method0": terms,
            "method1": terms | {"slope": {"mean": float("nan"), "std": None}},
        }
    }
    results["attacks"] = {
        "fast": {**results["attack"], "status": {"found": 75, "not_found": 25}}
    }
    results["config"] |= {
        "attacks": {"fast": {"kind": "fgsm"}},
        "tuning": {"originals": [901], "seeds": [902, 903]},
    }
    results["rows"][4]["knobs"] = {"attack": "fast"}
    results["tuning"] = make_tuning()
    return results, arrays


@pytest.fixture
def made():
    return make_sections()


def words(results, arrays, path):
    report.write_report(results, arrays, path)
    return Page(path.read_text("utf-8"))


def test_a_report_with_every_section_is_one_safe_page(made, tmp_path):
    page = words(*made, tmp_path / "report.html")
    assert page.tags.count("svg") == 7 + 3
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(value for name, value in page.attributes if name == "aria-label")
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    titles = (
        "Requests one by one,Vulnerable samples,KLoM,Theorem 4.1,Tuning,Outcomes of the"
        " adversarial search"
    )
    places = [page.words.index(title + " ") for title in titles.split(",")]
    assert places == sorted(places)


def test_sections_that_results_lack_are_left_out(tmp_path):
    results, arrays = make(num_methods=1)
    results |= dict.fromkeys(
        ("tuning", "requests", "klom", "theory", "vulnerability", "attack")
    ) | {"attacks": {}}
    assert set(report_sections.make_sections(results, arrays).values()) == {None}
    page = words(results, arrays, tmp_path / "report.html")
    assert not any(
        title in page.words
        for title in ("KLoM", "Theorem", "Tuning", "Requests", "Outcomes", "Vulnerable")
    )


def test_tuning_shows_every_trial_and_warns(made, tmp_path):
    results, arrays = made
    page = words(results, arrays, tmp_path / "report.html")
    found = report_search.tuning(results)
    assert sum(len(row["trials"]) for row in found["rows"]) == 7
    for row, search in zip(found["rows"], results["tuning"].values(), strict=True):
        for shown, one in zip(row["trials"], search["trials"], strict=True):
            gap = one["metrics"].get("avg_gap")
            state = "diverged" if gap is None else "chosen" if shown["chosen"] else ""
            cells = (
                "– – – – –"
                if gap is None
                else f"{gap['mean']:.2f} ± 0.25 {format_interval(gap)} 90.00"
            )
            assert f"{report_search.format_knobs(one['knobs'])} {cells}" in page.words
            assert (shown["diverged"], shown["chosen"]) == (
                state == "diverged",
                state == "chosen",
            )
    assert "seeds 901) and other forget sets (seeds 902, 903)" in page.words
    assert "decay_every in {0, 1, 5}; learning_rate 0.0001–0.1" in page.words
    first, second, third = (row["remarks"] for row in found["rows"])
    assert first == []  # between two tried values, clearly below doing nothing
    assert second == [
        "alpha is the highest tried",
        "not distinguishable from doing nothing",
    ]
    assert third == ["every trial diverged"]
    assert "The choice for AMUN without D_R is the lowest or highest" in page.words
    assert (
        "The best trial of AMUN without D_R is not clearly better than doing nothing"
        in page.words
    )
    assert "Every trial of Fine-tune diverged" in page.words
    assert (
        "AMUN decay_every=1, learning_rate=0.003" in page.words
    )  # in the main table, below the name


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([0.001, 0.01, 0.1, 1.0]), min_size=1, max_size=6),
    st.data(),
)
def test_a_remark_exactly_at_the_ends_of_three_values_or_more(values, data):
    chosen = data.draw(st.integers(0, len(values) - 1))
    trials = [trial(1.0, rate=value, order="a") for value in values]
    search = {
        "space": {"order": ["a"], "rate": {"low": 1e-3, "high": 1.0}},
        "trials": trials,
        "chosen": chosen,
    }
    inside = min(values) < values[chosen] < max(values)
    assert bool(report_search.knobs_at_edge(search)) == (
        not inside and len(set(values)) > 2
    )


def test_tuning_plot_draws_every_trial(made):
    figure = plots_sections.tuning_plot(made[0])
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_xlabel() for axes in panels] == ["learning_rate", "alpha", "order"]
    assert [axes.get_xscale() for axes in panels] == ["log", "log", "linear"]
    drawn = [
        [line.get_marker() for line in axes.lines if line.get_marker() in ("o", "x")]
        for axes in panels
    ]
    assert drawn == [["o", "o", "x", "o"], ["o", "o", "o", "o"], ["x"]]
    rings = [
        line for axes in panels for line in axes.lines if line.get_markersize() == 10
    ]
    assert [tuple(map(float, ring.get_xydata()[0])) for ring in rings] == [
        (0.003, 2.0),
        (10.0, 12.5),
    ]
    figure.savefig(io.BytesIO(), format="png", dpi=40)


def test_privacy_plot_has_every_row_where_it_lies(made):
    results, _ = made
    results["rows"][-1]["metrics"] = {}
    axes = plots_sections.privacy_plot(results).axes[0]
    means = [
        (row["metrics"]["rt_auc"]["mean"], row["metrics"]["ft_auc"]["mean"])
        for row in results["rows"][:-1]
    ]
    assert [
        tuple(map(float, box.lines[0].get_xydata()[0])) for box in axes.containers
    ] == means
    tops = [box.lines[2][1].get_segments()[0][:, 1] for box in axes.containers]
    cells = [row["metrics"]["ft_auc"] for row in results["rows"][:-1]]
    np.testing.assert_allclose(tops, [[cell["low"], cell["high"]] for cell in cells])
    assert (
        plots_sections.privacy_plot({**results, "rows": results["rows"][-1:]}).axes
        == []
    )


def test_vulnerable_samples_beside_the_same_ones_of_the_references(made, tmp_path):
    results, arrays = made
    page = words(results, arrays, tmp_path / "report.html")
    for i, row in enumerate(results["rows"]):
        assert f"{row['label']} {10 + i:.1f} % {40 + i} 200" in page.words
    before, after = (
        100 * arrays[f"vulnerability/{key}"][0, 7] for key in ("original", "retrain")
    )
    assert page.words.count(
        f"7 3 100 % [54, 100] 6 {before:.0f} % {after:.0f} %"
    ) == len(results["rows"])
    assert "their means are 10.0 % and 11.0 %" in page.words


def test_the_line_of_vulnerable_samples_is_a_count(made):
    results, arrays = made
    axes = plots_sections.vulnerability_plot(results, arrays).axes[0]
    for line, row in zip(axes.lines, results["rows"], strict=True):
        shares = arrays[f"vulnerability/{row['key']}"][0]
        shares = shares[~np.isnan(shares)]
        places, heights = line.get_data()
        assert line.get_drawstyle() == "steps-pre"
        for level in (0.2, 0.5, 0.7, 1.0):
            height = heights[np.searchsorted(places, 100 * level)]
            assert height == pytest.approx(100 * np.mean(shares >= level))


def test_klom_names_its_floor_and_its_bias(made, tmp_path):
    results, arrays = made
    page = words(results, arrays, tmp_path / "few.html")
    assert "margins of 6 unlearned models" in page.words
    assert "Retrained again is the floor" in page.words
    assert "With 6 models most of each value is bias" in page.words
    assert page.words.count("3.25 [3.12, 3.38] 2.50 7.75 " * 3) == 4
    assert len(report_sections.klom(results)["rows"]) == 4
    results["klom"]["models"] = 100
    assert not report_sections.klom(results)["few"]


def test_requests_are_drawn_and_listed_one_by_one(made, tmp_path):
    results, arrays = made
    found = report_sections.requests(results)
    assert [group["name"].split()[0] for group in found["groups"]] == [
        "Score:",
        "FR",
        "FT",
    ]
    assert [len(group["rows"]) for group in found["groups"]] == [5, 5, 5]
    assert [cell["text"] for cell in found["groups"][0]["rows"][3]["cells"]] == [
        f"{value}.00 ± 0.25" for value in (20, 19, 18, 17)
    ]
    assert (
        "4 requests of 8 samples"
        in words(results, arrays, tmp_path / "report.html").words
    )
    axes = plots_sections.requests_plot(results).axes[0]
    curves = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert [list(line.get_ydata()) for line in curves] == [[20, 19, 18, 17]] * 5
    assert all(
        np.abs(line.get_xdata() - np.arange(1, 5)).max() < 0.4 for line in curves
    )


def test_every_term_of_the_theorem_has_a_line(made, tmp_path):
    results, arrays = made
    found = report_sections.theory(results)
    assert [term["name"] for term in found["terms"]] == [
        name for name, _ in TERMS.values()
    ]
    slope = next(term for term in found["terms"] if term["name"] == "slope")
    assert slope["cells"][1] == {"text": "–", "spread": ""}
    assert found["terms"][0]["cells"][0] == {"text": "0.1235", "spread": "± 0.01"}
    assert found["terms"][1]["cells"][0]["text"] == "1e+09"
    path = tmp_path / "report.html"
    words(results, arrays, path)
    assert "ℓ(f<sub>o</sub>(x<sub>adv</sub>), y)" in path.read_text("utf-8")


def test_attacks_stand_beside_each_other(made):
    results, _ = made
    results["rows"][3]["knobs"] = {
        "attack": ""
    }  # the run's own, as for every row that names none
    own, fast = report_sections.attacks(results)["columns"]
    assert (own["name"], fast["name"], fast["settings"]) == (
        "the run's own",
        "fast",
        "kind=fgsm",
    )
    assert own["used"] == ""
    assert fast["used"] == results["rows"][4]["label"]
    assert fast["counts"] == {"found": ("75", "75.0 %"), "not_found": ("25", "25.0 %")}
    rows = {
        outcome["name"]: outcome["cells"]
        for outcome in report_sections.attacks(results)["outcomes"]
    }
    assert list(rows) == ["found", "already wrong", "not found", "zero gradient"]
    assert rows["already wrong"][1] == ("–", "")
    results["attack"] = None
    assert [
        column["name"] for column in report_sections.attacks(results)["columns"]
    ] == ["fast"]


def test_the_report_names_arrays_without_a_norm(made, tmp_path):
    results, arrays = made
    layer = {"mean": 1.5, "low": 1.0, "high": 2.0}
    norms = {
        "max_norm": None,
        "rows": {"original": {"params/Dense_0/kernel": layer}},
        "unfound": ["params/gate"],
    }
    section = report_sections.norms({**results, "norms": norms})
    assert section["unfound"] == "params/gate"
    path = tmp_path / "report.html"
    report.write_report({**results, "norms": norms}, arrays, path)
    assert "neither measured nor clipped" in path.read_text()
    norms["unfound"] = []
    report.write_report({**results, "norms": norms}, arrays, path)
    assert "neither measured nor clipped" not in path.read_text()


def test_sections_of_many_rows_draw_a_panel_for_each(made):
    results, arrays = make(num_methods=12, num_runs=2)
    keys = [row["key"] for row in results["rows"]]
    arrays |= {f"vulnerability/{key}": np.array([[0.0, 0.5, 1.0]]) for key in keys}
    request = [{"score": estimate(1.0)}] * 2
    results["requests"] = {"count": 2, "rows": {key: request for key in keys}}
    for figure in (
        plots_sections.vulnerability_plot(results, arrays),
        plots_sections.requests_plot(results),
    ):
        assert len([axes for axes in figure.axes if axes.axison]) == 13
        figure.savefig(io.BytesIO(), format="png", dpi=40)
    for empty in (
        plots_sections.vulnerability_plot(results, {}),
        plots_sections.requests_plot({"rows": []}),
        plots_sections.tuning_plot(results),
    ):
        assert (len(empty.axes), len(empty.texts)) == (0, 1)


def test_labels_are_taken_literally():
    assert figure_style.short("a $x$ _b") == r"a \$x\$ _b"
    assert figure_style.short("$" * 50, 10) == r"\$" * 9 + "…"
    assert figure_style.short("_x") == "\u200b_x"
