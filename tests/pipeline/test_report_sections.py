"""Sections of a run's page, on made-up results: tables, warnings and figures."""

import dataclasses
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.made_up import Page, change_row, make, make_attack

from unlearn_jax.audit import Estimate
from unlearn_jax.figures import style
from unlearn_jax.pipeline import publish
from unlearn_jax.pipeline.measure.records import (
    Confusion,
    ConfusionSet,
    Difference,
    ExposedSample,
    Klom,
    KlomDistance,
    Norms,
    Range,
    Requests,
    RequestScore,
    RowSearch,
    RowVulnerability,
    TargetDistance,
    Targets,
    Term,
    Theory,
    Trial,
    Tuning,
    Vulnerability,
)
from unlearn_jax.pipeline.report import reading, sections
from unlearn_jax.pipeline.report import run as report
from unlearn_jax.pipeline.report.blocks import Table, format_cell
from unlearn_jax.pipeline.report.figures import sections as plots
from unlearn_jax.pipeline.report.figures.classes import confusion_plot

ORIGINAL_GAP = 12.4


def estimate(mean, half=0.5):
    return Estimate(mean, 0.25, mean - half, mean + half, 6, 0)


def trial(gap, **options):
    keys = ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "ft_auc")
    if gap is None:
        return Trial(options=options, metrics={}, num_diverged=3)
    metrics = dict.fromkeys(keys, estimate(90.0)) | {"avg_gap": estimate(gap)}
    less = gap - ORIGINAL_GAP
    gain = Difference(
        mean=less,
        low=less - 0.2,
        high=less + 0.2,
        margin=None,
        p_different=0.5,
        p_like=math.nan,
        state="undecided",
        more_runs=None,
    )
    return Trial(options=options, metrics=metrics, gain=gain)


def make_tuning():
    rows = {
        "method0": RowSearch(
            space={
                "decay_every": [0, 1, 5],
                "learning_rate": {"low": 1e-4, "high": 0.1},
            },
            trials=(
                trial(2.0, decay_every=1, learning_rate=0.003),
                trial(None, decay_every=5, learning_rate=0.05),
                trial(9.0, decay_every=0, learning_rate=0.0005),
            ),
            chosen=0,
        ),
        "method1": RowSearch(
            space={"alpha": {"low": 1.0, "high": 100.0}},
            trials=(
                trial(40.0, alpha=3.16),
                trial(12.5, alpha=10.0),
                trial(30.0, alpha=1.0),
            ),
            chosen=1,
        ),
        "method2": RowSearch(
            space={"order": ["a", "b"]}, trials=(trial(None, order="b"),), chosen=None
        ),
    }
    return Tuning(
        originals=(901, 902),
        sets=(902, 903),
        shared=0.0,
        original=estimate(ORIGINAL_GAP),
        rows=rows,
    )


def make_sections():
    """Result and arrays with every section, each with numbers of its own."""
    result, arrays = make()
    rng = np.random.default_rng(2)
    keys = [row.key for row in result.rows]
    for key in keys:
        fractions = rng.choice([0, 0.5, 1], 300, p=[0.8, 0.15, 0.05])
        fractions[::3] = np.nan
        arrays[f"vulnerability/{key}"] = fractions[None]
    exposed = ExposedSample(
        sample=7, label=3, fraction=1.0, low=0.541, high=1.0, num_runs=6
    )
    found = {
        key: RowVulnerability(
            mean=0.1 + i / 100, num_always=40 + i, num_samples=200, most=(exposed,)
        )
        for i, key in enumerate(keys)
    }
    part = KlomDistance(
        mean=Estimate(3.25, math.nan, 3.125, 3.375, 6, 0), median=2.5, p95=7.75
    )
    parts = dict.fromkeys(("forget", "retain", "test"), part)
    requests = tuple(
        RequestScore(
            score=estimate(20.0 - k),
            fr_auc=estimate(70.0),
            ft_auc=estimate(50.0 + k),
            values={},
        )
        for k in range(4)
    )
    terms = {
        name: Term(mean=1e9 * i + 0.123456, std=0.01, values=())
        for i, name in enumerate(sections.TERMS)
    }
    unknown = Term(mean=math.nan, std=math.nan, values=())
    fast = make_attack(arrays, {"kind": "fgsm"})
    fast = dataclasses.replace(fast, status={"found": 75, "not_found": 25})
    asked = [key for key in keys if key != "retrain_again"]
    result = change_row(result, "method1", attack="fast")
    result = dataclasses.replace(
        result,
        vulnerability=Vulnerability(max_fpr=0.05, rows=found),
        klom=Klom(num_models=6, rows=dict.fromkeys(keys[2:], parts)),
        requests=Requests(count=4, size=8, rows=dict.fromkeys(asked, requests)),
        theory=Theory(rows={"method0": terms, "method1": terms | {"slope": unknown}}),
        attacks={**result.attacks, "fast": fast},
        tuning=make_tuning(),
    )
    return result, arrays


@pytest.fixture
def made():
    return make_sections()


def words(result, arrays, path):
    report.write_report(result, arrays, path)
    return Page(path.read_text("utf-8"))


def tables_of(section):
    """Titles and tables of a section."""
    return [block for block in section.blocks if isinstance(block, Table)]


def column(table, number):
    return [cells[number].value for _, cells in table.body]


def test_a_report_with_every_section_is_one_safe_page(made, tmp_path):
    page = words(*made, tmp_path / "report.html")
    assert page.tags.count("svg") == 7 + 3
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert all(value for name, value in page.attributes if name == "aria-label")
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    titles = [
        "Requests one by one",
        "Vulnerable samples",
        "KLoM",
        "Theorem 4.1",
        "Tuning",
        "Outcomes of the adversarial search",
    ]
    places = [page.words.index(title + " ") for title in titles]
    assert places == sorted(places)


def test_sections_that_results_lack_are_left_out(tmp_path):
    result, arrays = make(num_methods=1)
    result = dataclasses.replace(result, attacks={})
    assert sections.make_sections(result, arrays) == []
    page = words(result, arrays, tmp_path / "report.html")
    absent = ("KLoM", "Theorem", "Tuning", "Requests", "Outcomes", "Vulnerable")
    assert not any(title in page.words for title in absent)


def test_tuning_shows_every_trial_and_warns(made, tmp_path):
    result, arrays = made
    page = words(result, arrays, tmp_path / "report.html")
    for search in result.tuning.rows.values():
        for i, one in enumerate(search.trials):
            options = sections.format_options(one.options)
            gap = one.metrics.get("avg_gap")
            if gap is None:
                assert f"{options} – – – – – diverged 3 of 4" in page.words
                continue
            cells = f"{gap.mean:.2f} ± 0.25 {format_cell(gap, 2)[1]} 90.00"
            state = " chosen" if i == search.chosen else ""
            assert f"{options} {cells} 90.00 90.00 90.00{state}" in page.words
    assert "seeds 901, 902) and other forget sets (seeds 902, 903)" in page.words
    assert "decay_every in {0, 1, 5}; learning_rate 0.0001–0.1" in page.words
    remarks = column(tables_of(sections.tuning_section(result))[0], 5)
    # The first is between two tried values, and clearly below the original.
    assert remarks == [
        "",
        "alpha is the highest tried; not distinguishable from the original",
        "every trial diverged",
    ]
    assert "The choice for AMUN without D_R is the lowest or highest" in page.words
    assert (
        "The best trial of AMUN without D_R is not clearly better than the original"
        in page.words
    )
    assert "Every trial of Fine-tune diverged" in page.words
    # In the table of results, below the name.
    assert "AMUN decay_every=1, learning_rate=0.003" in page.words


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sampled_from([0.001, 0.01, 0.1, 1.0]), min_size=1, max_size=6),
    st.data(),
)
def test_a_remark_exactly_at_the_ends_of_three_values_or_more(values, data):
    chosen = data.draw(st.integers(0, len(values) - 1))
    search = RowSearch(
        space={"order": ["a"], "rate": {"low": 1e-3, "high": 1.0}},
        trials=tuple(trial(1.0, rate=value, order="a") for value in values),
        chosen=chosen,
    )
    is_inside = min(values) < values[chosen] < max(values)
    expected = not is_inside and len(set(values)) > 2
    assert bool(sections.options_at_edge(search)) == expected


def test_tuning_plot_draws_every_trial(made):
    figure = plots.tuning_plot(made[0])
    panels = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_xlabel() for axes in panels] == ["learning_rate", "alpha", "order"]
    assert [axes.get_xscale() for axes in panels] == ["log", "log", "linear"]
    markers = [[line.get_marker() for line in axes.lines] for axes in panels]
    drawn = [[marker for marker in own if marker in ("o", "x")] for own in markers]
    assert drawn == [["o", "o", "x", "o"], ["o", "o", "o", "o"], ["x"]]
    lines = [line for axes in panels for line in axes.lines]
    rings = [line for line in lines if line.get_markersize() == 10]
    places = [tuple(map(float, ring.get_xydata()[0])) for ring in rings]
    assert places == [(0.003, 2.0), (10.0, 12.5)]
    figure.savefig(io.BytesIO(), format="png", dpi=40)


def test_privacy_plot_has_every_row_where_it_lies(made):
    result = change_row(made[0], "method2", metrics={})
    axes = plots.privacy_plot(result).axes[0]
    rows = result.rows[:-1]
    means = [(r.metrics["rt_auc"].mean, r.metrics["ft_auc"].mean) for r in rows]
    dots = [box.lines[0].get_xydata()[0] for box in axes.containers]
    assert [tuple(map(float, dot)) for dot in dots] == means
    ends = [box.lines[2][1].get_segments()[0][:, 1] for box in axes.containers]
    cells = [row.metrics["ft_auc"] for row in rows]
    np.testing.assert_allclose(ends, [[cell.low, cell.high] for cell in cells])
    lost = dataclasses.replace(result, rows=result.rows[-1:])
    assert plots.privacy_plot(lost).axes == []


def test_vulnerable_samples_are_compared_with_the_references(made, tmp_path):
    result, arrays = made
    page = words(result, arrays, tmp_path / "report.html")
    for i, row in enumerate(result.rows):
        assert f"{row.label} {10 + i:.1f}% {40 + i} 200" in page.words
    before = 100 * arrays["vulnerability/original"][0, 7]
    after = 100 * arrays["vulnerability/retrain"][0, 7]
    line = f"7 3 100% [54, 100] 6 {before:.0f}% {after:.0f}%"
    assert page.words.count(line) == len(result.rows)
    assert "their means are 10.0% and 11.0%" in page.words


def test_the_line_of_vulnerable_samples_is_a_count(made):
    result, arrays = made
    axes = plots.vulnerability_plot(result, arrays).axes[0]
    for line, row in zip(axes.lines, result.rows, strict=True):
        fractions = arrays[f"vulnerability/{row.key}"][0]
        fractions = fractions[~np.isnan(fractions)]
        places, heights = line.get_data()
        assert line.get_drawstyle() == "steps-pre"
        for level in (0.2, 0.5, 0.7, 1.0):
            height = heights[np.searchsorted(places, 100 * level)]
            assert height == pytest.approx(100 * np.mean(fractions >= level))


def test_klom_names_its_floor_and_its_bias(made, tmp_path):
    result, arrays = made
    page = words(result, arrays, tmp_path / "few.html")
    assert "margins of 6 unlearned models" in page.words
    assert "Retrained again is the floor" in page.words
    assert "With 6 models most of each value is bias" in page.words
    assert page.words.count("3.25 [3.12, 3.38] 2.50 7.75 " * 3) == 4
    (table,) = tables_of(sections.klom_section(result))
    assert len(table.rows) == 4
    many = dataclasses.replace(result.klom, num_models=100)
    section = sections.klom_section(dataclasses.replace(result, klom=many))
    assert not any(getattr(b, "kind", "") == "warning" for b in section.blocks)


def test_requests_are_drawn_and_listed_one_by_one(made, tmp_path):
    result, arrays = made
    tables = tables_of(sections.requests_section(result))
    assert [table.title.split()[0] for table in tables] == ["Score:", "FR", "FT"]
    assert [len(table.rows) for table in tables] == [5, 5, 5]
    cells = [format_cell(cell, 2)[0] for cell in tables[0].rows[3][1:]]
    assert cells == [f"{value}.00 ± 0.25" for value in (20, 19, 18, 17)]
    page = words(result, arrays, tmp_path / "report.html")
    assert "4 requests of 8 samples" in page.words
    axes = plots.requests_plot(result).axes[0]
    curves = [line for line in axes.lines if len(line.get_xdata()) == 4]
    assert [list(line.get_ydata()) for line in curves] == [[20, 19, 18, 17]] * 5
    for line in curves:
        assert np.abs(line.get_xdata() - np.arange(1, 5)).max() < 0.4


def test_every_term_of_the_theorem_has_a_line(made, tmp_path):
    result, arrays = made
    (table,) = tables_of(sections.theory_section(result))
    assert column(table, 0) == [name for name, _ in sections.TERMS.values()]
    lines = {cells[0].value: cells[1:] for _, cells in table.body}
    assert (lines["slope"][1].value, lines["slope"][1].note) == (None, "")
    assert (lines["samples"][0].value, lines["samples"][0].note) == ("0.1235", "± 0.01")
    assert lines["δ"][0].value == "1e+09"
    path = tmp_path / "report.html"
    words(result, arrays, path)
    assert "ℓ(fₒ(x̃), y)" in path.read_text("utf-8")


def test_attacks_are_compared_side_by_side(made):
    result, _ = made
    # The run's own attack, as for every row that names none.
    result = change_row(result, "method0", attack="")
    (table,) = tables_of(sections.attacks_section(result))
    _, own, fast, _ = table.heads
    assert own.name == "the run's own"
    assert own.unit == ""
    assert fast.name == "fast"
    assert fast.unit == "kind=fgsm; used by AMUN without D_R"
    outcomes = ["found", "already wrong", "not found", "zero gradient"]
    assert column(table, 0) == [*outcomes, "median distance", "gradients"]
    counts = [(cells[2].value, cells[2].note) for _, cells in table.body][:4]
    assert counts == [(75, "75.0%"), (None, ""), (25, "25.0%"), (None, "")]
    alone = dataclasses.replace(result, attacks={"fast": result.attacks["fast"]})
    (table,) = tables_of(sections.attacks_section(alone))
    assert [head.name for head in table.heads[1:-1]] == ["fast"]


def test_norms_mark_layers_above_the_bound_and_arrays_without_a_norm(made, tmp_path):
    result, arrays = made
    layer = "params/Dense_0/kernel"
    norms = Norms(
        max_norm=1.9,
        rows={
            "original": {layer: Range(mean=1.5, low=1.0, high=2.0)},
            "retrain": {layer: Range(mean=1.5, low=1.0, high=1.9)},
        },
        unfound=("params/gate",),
    )
    bounded = dataclasses.replace(result, norms=norms)
    (table,) = tables_of(sections.norms_section(bounded))
    assert table.columns[1] == "Dense_0/kernel"
    marks = [(cells[1].mark, cells[1].note) for _, cells in table.body]
    assert marks == [("▲", "1.000 to 2.000"), ("", "1.000 to 1.900")]
    path = tmp_path / "report.html"
    page = words(bounded, arrays, path)
    assert "neither measured nor clipped: params/gate" in page.words
    norms = dataclasses.replace(norms, unfound=(), max_norm=None)
    page = words(dataclasses.replace(result, norms=norms), arrays, path)
    assert "neither measured nor clipped" not in page.words
    assert "No bound was set" in page.words


def test_targets_mark_distances_below_no_tilt(made):
    rows = (
        TargetDistance(name="no tilt", values=(0.5,), low=(0.4,), high=(0.6,)),
        TargetDistance(name="tilt", values=(0.4, 0.6), low=(0.3, 0.5), high=(0.5, 0.7)),
    )
    result = dataclasses.replace(made[0], targets=Targets(betas=(1.0, 2.0), rows=rows))
    (table,) = tables_of(sections.targets_section(result))
    assert [head.name for head in table.heads] == ["Target", "β 1", "β 2"]
    cells = [cells[1:] for _, cells in table.body]
    assert [[cell.value for cell in row] for row in cells] == [
        ["0.500", ""],
        ["0.400", "0.600"],
    ]
    assert [cell.mark for cell in cells[1]] == ["↓", ""]
    assert cells[1][0].note == "0.300 to 0.500"


def test_targets_are_compared_with_no_tilt_in_pairs(made):
    rows = (
        TargetDistance(name="no tilt (beta 0)", values=(0.5,), low=(0.4,), high=(0.6,)),
        TargetDistance(
            name="weights",
            values=(0.4, 0.6),
            low=(0.3, 0.5),
            high=(0.5, 0.7),
            less=(-0.1, 0.1),
            less_low=(-0.2, -0.05),
            less_high=(-0.01, 0.25),
        ),
    )
    targets = Targets(betas=(1.0, 2.0), rows=rows)
    result = dataclasses.replace(made[0], targets=targets)
    _, table = tables_of(sections.targets_section(result))
    ((_, (name, *cells)),) = table.body
    assert name.value == "weights"
    assert [cell.value for cell in cells] == ["-0.100", "+0.100"]
    assert [cell.mark for cell in cells] == ["↓", ""]
    assert cells[1].note == "[-0.050, +0.250]"
    sentence = reading._targets_sentence(targets)
    assert "-0.10 [-0.20, -0.01] at β 1 and +0.10 [-0.05, +0.25] at β 2" in sentence
    _, less = publish._targets_tables(targets)
    assert [str(cell) for cell in less.rows[0]] == [
        "Weights",
        "-0.10 [-0.20, -0.01]",
        "0.10 [-0.05, 0.25]",
    ]


def test_the_page_of_a_class_run_draws_its_predictions(made, tmp_path):
    result, arrays = made
    rates = {row.key: (0.1, 0.9) for row in result.rows}
    one = ConfusionSet(title="class 0 ($x)", classes=(0,), neighbors=(1,), rows=rates)
    two = dataclasses.replace(one, title="class 1")
    result = dataclasses.replace(result, confusion=Confusion(sets=(one, two)))
    page = words(result, arrays, tmp_path / "report.html")
    assert "Predictions on forgotten classes" in page.words
    assert "ROC curves" not in page.words
    figure = confusion_plot(result)
    figure.savefig(io.BytesIO(), format="png", dpi=40)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels[:3] == ["Retrained", "Retrained again", "Original"]
    assert not confusion_plot(made[0]).axes


def test_sections_of_many_rows_draw_a_panel_for_each():
    result, arrays = make(num_methods=12, num_runs=2)
    keys = [row.key for row in result.rows]
    arrays |= {f"vulnerability/{key}": np.array([[0.0, 0.5, 1.0]]) for key in keys}
    one = RequestScore(
        score=estimate(1.0), fr_auc=estimate(1.0), ft_auc=estimate(1.0), values={}
    )
    requests = Requests(count=2, size=1, rows=dict.fromkeys(keys, (one, one)))
    many = dataclasses.replace(result, requests=requests)
    for figure in (plots.vulnerability_plot(many, arrays), plots.requests_plot(many)):
        assert len([axes for axes in figure.axes if axes.axison]) == 13
        figure.savefig(io.BytesIO(), format="png", dpi=40)
    for empty in (
        plots.vulnerability_plot(result, {}),
        plots.requests_plot(result),
        plots.tuning_plot(result),
    ):
        assert (len(empty.axes), len(empty.texts)) == (0, 1)


def test_labels_are_taken_literally():
    assert style.short("a $x$ _b") == r"a \$x\$ _b"
    assert style.short("$" * 50, 10) == r"\$" * 9 + "…"
    assert style.short("_x") == "\u200b_x"
