"""Generated readings say what the stored differences allow, and no more."""

import dataclasses
import json
from functools import partial

import pytest
from support.made_up import (
    change_difference,
    change_interval,
    change_row,
    make,
    small_result,
)

from unlearn_jax.pipeline import publish
from unlearn_jax.pipeline.report.blocks import render_markdown
from unlearn_jax.pipeline.report.reading import reading
from unlearn_jax.pipeline.report.run import run_page
from unlearn_jax.pipeline.report.verdict import MAX_NAMED


@pytest.fixture
def result():
    run = make(4)[0]
    run = change_interval(run, "ft_auc", original=(60.0, 64.0), retrain=(48.0, 52.0))
    run = change_row(run, "method2", method="finetune")
    change = change_difference
    run = change(run, "original", "ft_auc", (12.0, 9.0, 15.0), "different")
    run = change(run, "method0", "ft_auc", (0.3, -1.0, 1.5), "like")
    run = change(run, "method1", "ft_auc", (5.2, 3.0, 7.5), "different")
    run = change(run, "method2", "ft_auc", (1.0, -2.0, 4.0), more_runs=12)
    return change(run, "method3", "ft_auc", (-4.0, -6.0, -2.0), "different")


def test_an_original_whose_interval_holds_50_is_not_called_recognizable(result):
    result = change_interval(result, "ft_auc", original=(49.0, 75.0))
    assert reading({"": result})[0] == (
        "The attack tells the original from retrained models, but the original's"
        " interval holds 50: FT AUC 62.0 [49.0, 75.0], retrained models 50.0 [48.0,"
        " 52.0]."
    )


def test_the_reading_of_a_run_has_four_sentences(result):
    gaps = dict.fromkeys(("method0", "method1", "method3"), (2.0, 4.0))
    result = change_interval(result, "avg_gap", **gaps)
    result = change_interval(result, "avg_gap", method0=(0.2, 1.0), method2=(0.5, 1.5))
    one = change_difference
    best = partial(one, reference="best")
    result = best(result, "method2", "avg_gap", (0.4, 0.1, 0.7), "different")
    result = one(result, "method0", "avg_gap", (-0.2, -0.9, 0.5), reference="floor")
    original, verdicts, gap, cost = reading({"": result})
    assert original == (
        "The original is recognizable: FT AUC 62.0 [60.0, 64.0], retrained models 50.0"
        " [48.0, 52.0]."
    )
    assert verdicts == (
        "Forgotten like retraining: AMUN (+0.3 [-1.0, +1.5]); measurably different, the"
        " forget samples still recognizable: AMUN without D_R (+5.2 [+3.0, +7.5]);"
        " measurably different, the forget samples less familiar than data never seen:"
        " Random labels (-4.0 [-6.0, -2.0]); undecided: Fine-tune (+1.0 [-2.0, +4.0];"
        " 12 more runs would decide) (FT AUC less retrained, paired run by run)."
    )
    assert gap.startswith("AMUN has the smallest Avg Gap, 0.6 [0.2, 1.0] points (")
    assert "a paired difference of -0.2 [-0.9, +0.5])" in gap
    assert gap.endswith(
        "; that of Fine-tune is larger by 0.4 [0.1, 0.7], pair by pair."
    )
    assert cost.startswith("Methods cost 0.03 to 0.07 of a retraining's gradients")
    result = best(result, "method2", "avg_gap", (0.4, 0.1, 0.7))
    assert reading({"": result})[2].endswith(
        "larger by 0.4 [0.1, 0.7], not measurably in view of all methods."
    )
    result = best(result, "method2", "avg_gap", (0.4, -0.1, 0.9))
    assert "measurably no smaller than that of Fine-tune" in reading({"": result})[2]


def test_an_attack_without_power_and_no_forgotten_row_are_said(result):
    result = change_difference(result, "original", "ft_auc", (1.0, -2.0, 4.0))
    result = change_difference(result, "method0", "ft_auc", (1.0, -2.0, 4.0))
    original, verdicts, *_ = reading({"": result})
    assert original.startswith("The attack does not tell the original from retrained")
    assert original.endswith("about rows that it does not tell from them either.")
    assert verdicts.startswith("None is shown to be forgotten like retraining; m")
    assert "AMUN (+1.0 [-2.0, +4.0]; more runs would not decide)" in verdicts


def test_labels_with_commas_are_quoted_and_long_lists_counted(result):
    result = change_row(result, "method1", label="AMUN, other model")
    assert "“AMUN, other model” (+5.2" in reading({"": result})[1]
    many = make(12)[0]
    for position in range(12):
        key = f"method{position}"
        many = change_difference(many, key, "ft_auc", (4.0, 3.0, 5.0), "different")
    assert f"and {12 - MAX_NAMED} others" in reading({"": many})[0]


def test_a_study_has_an_item_for_each_variant(result):
    items = reading({"plain": result, "robust": result})
    assert [item.partition(":")[0] for item in items] == ["**plain**", "**robust**"]
    assert items[0].partition(": ")[2] == " ".join(reading({"": result}))


def test_what_a_run_measures_besides_is_read_last():
    run = small_result()
    assert (
        reading({"": run})[-1] == "KLoM on the forget set, in nats: AMUN 97.0"
        " [96.0, 98.0]."
    )
    run = dataclasses.replace(run, klom=None)
    assert "Score after the last request" in reading({"": run})[-1]
    lost = change_row(run, "lost", num_diverged=3)
    lost = dataclasses.replace(lost, requests=None, targets=None)
    assert reading({"": lost})[-1] == (
        "Methods cost 0.50 of a retraining's gradients; diverged: Lost in 3 of 4 runs."
    )


def test_costs_are_in_the_order_of_their_size(result):
    for key, relative in (("method0", 2.5), ("method1", 10.2)):
        cost = dataclasses.replace(result.row(key).cost, relative_gradients=relative)
        result = change_row(result, key, cost=cost)
    rows = [row for row in result.rows if row.key in ("method0", "method1")]
    text = reading({"": dataclasses.replace(result, rows=rows)})[-1]
    assert text == "Methods cost 2.50 to 10.20 of a retraining's gradients."


def test_rows_are_compared_with_their_baselines(result, tmp_path):
    result = change_row(result, "method1", baseline="method0")
    result = change_row(result, "method3", baseline="method2")
    assert len(reading({"": result})) == 4, "no difference is stored"
    to_baseline = partial(change_difference, reference="baseline")
    result = to_baseline(result, "method1", "avg_gap", (-1.5, -2.0, -1.0), "different")
    result = to_baseline(result, "method3", "avg_gap", (0.2, -0.3, 0.7))
    assert reading({"": result})[3] == (
        "Avg Gap less that of the row's baseline, pair by pair, smaller: AMUN without"
        " D_R (-1.5 [-2.0, -1.0]); undecided: Random labels (+0.2 [-0.3, +0.7])."
    )
    (tmp_path / "results.json").write_text(json.dumps(result.to_json()))
    _, published = publish.publish(tmp_path, tmp_path / "published.json")
    (table,) = (one for one in published.tables if "Baseline" in one.columns)
    assert table.columns == ("row", "Baseline", "Avg Gap")
    assert [row[:2] for row in table.rows] == [
        ("AMUN without D_R", "AMUN"),
        ("Random labels", "Fine-tune"),
    ]
    assert str(table.rows[0][2]) == "-1.5 [-2.0, -1.0]"
    like = to_baseline(result, "method3", "avg_gap", (0.0, -0.1, 0.1), "like")
    page = render_markdown(run_page(like, {})).partition("Less the baseline")[2]
    assert r"[-0.10, +0.10\] alike" in page.partition("##")[0]
