"""The search of hyperparameters: its trials, its problems, and its choice."""

import dataclasses
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax import data
from unlearn_jax.methods import SPACES, SSD, FineTune, NegGradPlus, draw_levels
from unlearn_jax.methods.identity import Identity
from unlearn_jax.pipeline import (
    AttackConfig,
    AuditConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    Row,
    RunConfig,
    TrainingConfig,
    TuningConfig,
    run,
    tuning,
)
from unlearn_jax.pipeline.config import rows
from unlearn_jax.pipeline.config.resolve import method_name
from unlearn_jax.pipeline.estimate import dry_run
from unlearn_jax.pipeline.measure.records import to_plain
from unlearn_jax.pipeline.report.blocks import render_markdown
from unlearn_jax.pipeline.report.sections import tuning_section
from unlearn_jax.pipeline.report.tables import terminal_text
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.plan import make_plan
from unlearn_jax.pipeline.store.artifact import Runner
from unlearn_jax.pipeline.study import with_bank
from unlearn_jax.types import InputError
from unlearn_jax.values import Real, value

RATES = {"low": 1e-3, "high": 1e26}
TINY = RunConfig(
    title="tiny search",
    model=ModelConfig(name="mlp", widths=[8]),
    training=TrainingConfig(num_epochs=4, batch_size=16, learning_rate=0.1),
    forget=ForgetConfig(fraction=0.2, seeds=(1,)),
    replicas=ReplicasConfig(originals=(0, 1), references=4),
    attack=AttackConfig(num_radii=6, num_steps=4, batch_size=8),
    tuning=TuningConfig(trials=4, originals=(7, 8), seeds=(9,)),
    audit=AuditConfig(num_bootstrap=10, mis=False),
    rows={
        "finetune": Row(
            method=FineTune(num_epochs=2),
            search={"learning_rate": RATES, "decay_every": [0, 1]},
        ),
        "fixed": Row(method=FineTune(num_epochs=1, learning_rate=0.01), search={}),
    },
)


LIMITS = {"low": 0.1, "high": 10.0}


@value
class Mine:
    """Method of a user: nothing that is registered."""

    scale: Real = 0.5

    def __call__(self, key, problem):
        return Identity()(key, problem)


@pytest.fixture(scope="module")
def splits(blobs):
    return data.load_arrays(
        blobs.images, blobs.labels, blobs.images[:30], blobs.labels[:30]
    )


@pytest.fixture(scope="module")
def finished(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "run"
    return folder, run(TINY, folder, splits=splits)


def test_values_to_try_start_at_the_published_one_and_hold_both_ends():
    limits = {"low": 1e-4, "high": 1.0}
    rates = draw_levels({"rate": {**limits, "published": 1e-3}}, 5)["rate"]
    assert rates == [1e-3, 1e-4, 1e-2, 1e-1, 1.0]
    assert draw_levels({"rate": {**limits, "published": 4e-2}}, 5)["rate"] == [
        4e-2,
        1e-4,
        7.37e-4,
        5.43e-3,
        1.0,
    ], "log-spaced on both sides"
    assert draw_levels({"rate": {**limits, "published": 1e-3}}, 2)["rate"] == [
        1e-3,
        1.0,
    ], "of two, the other is the further end"
    assert draw_levels({"rate": {**limits, "published": 3.0}}, 3)["rate"] == [
        3.0,
        1e-4,
        1.0,
    ], "outside of the range it is one more"
    assert draw_levels({"rate": limits, "decay": [1, 0]}, 2) == {
        "rate": [1e-2, 1.0],
        "decay": [1, 0],
    }, "without a published value, the middle; choices as listed"


@settings(max_examples=25, deadline=None)
@given(
    st.floats(1e-8, 1.0),
    st.floats(2.0, 1e4),
    st.floats(0.0, 1.0),
    st.integers(1, 40),
    st.lists(st.integers(0, 9), min_size=1, unique=True),
)
def test_values_to_try_lie_in_their_range_differ_and_use_the_budget(
    low, factor, place, count, choices
):
    published = low * factor**place
    limits = {"low": low, "high": low * factor, "published": published}
    space = {"a": limits, "b": choices}
    if len(choices) > count:
        with pytest.raises(InputError, match="choices: allow as many"):
            draw_levels(space, count)
        return
    drawn = draw_levels(space, count)
    assert drawn["b"] == choices
    levels = drawn["a"]
    assert levels[0] == published
    assert levels[1:] == sorted(set(levels[1:]) - {published})
    is_dense = factor < 1.2**count
    assert len(levels) == count or is_dense, "rounding may merge levels"
    assert all(0.99 * low <= level <= 1.01 * low * factor for level in levels)


# From the papers and released codes, independently of the spaces.
PUBLISHED = {
    "amun": {"learning_rate": 0.01, "decay_every": 1},
    "amun_salun": {"learning_rate": 0.01, "fraction": 0.5, "decay_every": 1},
    "bad_teacher": {"learning_rate": 1e-4},
    "boundary_expand": {"learning_rate": 1e-5},
    "boundary_shrink": {"learning_rate": 1e-5},
    "delete": {"learning_rate": 1e-4},
    "finetune": {"learning_rate": 0.01, "decay_every": 0},
    "fisher": {"alpha": 1e-6},
    "gradient_ascent": {"learning_rate": 1e-4},
    "l1_sparse": {"learning_rate": 0.01, "gamma": 5e-4},
    "l2ul": {"learning_rate": 1e-3},
    "neggrad_plus": {"learning_rate": 0.01, "alpha": 0.95},
    "salun": {"learning_rate": 0.013, "fraction": 0.5},
    "scrub": {"learning_rate": 5e-4, "alpha": 1e-3},
    "ssd": {"alpha": 10.0, "importance": "batch"},
    "svd_projection": {"alpha_retain": 100.0, "alpha_forget": 3.0},
    "unsir": {"learning_rate": 0.02, "repair_rate": 0.01},
}


@pytest.mark.parametrize("count", [5, 8, 12])
def test_every_search_starts_at_the_published_setting(count):
    for name, published in PUBLISHED.items():
        levels = draw_levels(SPACES[name], count)
        assert {option: tried[0] for option, tried in levels.items()} == published
    assert draw_levels(SPACES["trw"], count)["beta"][0] == 10.0
    for rows_of in (rows.for_classes(), rows.with_retain(), rows.without_retain()):
        for row in rows_of.values():
            name = method_name(row.method)
            levels = draw_levels(row.search or {}, count)
            for option, tried in levels.items():
                if option in PUBLISHED.get(name, {}):
                    assert tried[0] == PUBLISHED[name][option], (name, option)


def test_a_method_with_two_hyperparameters_has_as_many_rates_as_one_with_one(
    splits, tmp_path
):
    tuned = dataclasses.replace(
        TINY,
        tuning=dataclasses.replace(TINY.tuning, trials=6),
        rows={
            "one": Row(method=FineTune(), search={"learning_rate": RATES}),
            "two": Row(method=NegGradPlus()),
        },
    )
    plan = make_plan(tuned, tmp_path, splits=splits)
    one = tuning.draw_rounds(plan, "one")
    two = tuning.draw_rounds(plan, "two")
    assert len(one["learning_rate"]) == len(two["learning_rate"]) == 6
    assert len(two["alpha"]) == 6 + 1, "the published alpha is that of all rates"
    assert one["learning_rate"][0] == FineTune().learning_rate, "the row's own"


def test_every_trial_is_kept_and_the_best_is_taken(finished):
    _, results = finished
    search = results.tuning.rows["finetune"]
    assert len(search.trials) == 4 + 1
    assert search.space["learning_rate"] == {**RATES, "published": 0.01}
    assert search.trials[0].options == {"learning_rate": 0.01, "decay_every": 0}
    assert [trial.options["decay_every"] for trial in search.trials] == [0] * 4 + [1]
    first = min(
        (trial for trial in search.trials[:4] if trial.metrics),
        key=lambda trial: trial.metrics["avg_gap"].mean,
    )
    rate = first.options["learning_rate"]
    assert search.trials[4].options["learning_rate"] == rate, "at the best rate"
    gaps = [
        trial.metrics["avg_gap"].mean if trial.metrics else np.inf
        for trial in search.trials
    ]
    assert search.chosen == int(np.argmin(gaps))
    lost = [trial for trial in search.trials if not trial.metrics]
    assert lost, "a range up to 1e26 must diverge somewhere"
    assert all(1 <= trial.num_diverged <= 2 for trial in lost)
    assert not any(trial.num_diverged for trial in search.trials if trial.metrics)
    row = results.row("finetune")
    chosen = search.trials[search.chosen].options
    assert {option: row.options[option] for option in chosen} == chosen
    assert "fixed" not in results.tuning.rows
    original = results.tuning.original.mean
    assert 0 < original < 100, "on the same problems"
    moved = [trial for trial in search.trials if trial.gain is not None]
    assert moved
    for trial in moved:
        less = trial.metrics["avg_gap"].mean - original
        assert trial.gain.mean == pytest.approx(less, abs=1e-3)
        assert trial.gain.low < trial.gain.mean < trial.gain.high
    for trial in search.trials:
        if trial.metrics and trial.gain is None:
            assert trial.metrics["avg_gap"].mean == original, "nothing moved"


def test_a_trial_is_the_method_with_its_hyperparameters(finished, splits, tmp_path):
    """The searched program, traced, gives what the plain one gives."""
    folder, results = finished
    own = tuning.tuning_plan(
        make_plan(TINY, folder.parent / "banks", splits=splits, workdir=folder)
    )
    position, trial = next(
        (i, t)
        for i, t in enumerate(results.tuning.rows["finetune"].trials)
        if t.metrics
    )
    found = results.tuning.rows["finetune"].trials
    drawn = [dict(one.options) for one in found[:4]]
    logits = tuning.Search(own).logits("finetune", drawn)
    assert own.runner.costs[-1].cached
    rows = {"finetune": own.rows["finetune"].replace(**trial.options)}
    plain = dataclasses.replace(own, rows=rows)
    runner = Runner(tmp_path, progress=False)
    parts = runner.make(stages.unlearn(plain, "finetune"))
    for searched, direct in zip(logits[position], parts.each("logits"), strict=True):
        np.testing.assert_allclose(searched, direct, atol=1e-4)
        assert np.std(direct) > 0.1


def test_refits_of_the_audit_are_none_of_the_searchs(splits, tmp_path):
    """Their number may be above that of the search's replicates."""
    audit = dataclasses.replace(TINY.audit, num_bootstrap=500, refits=200)
    config = dataclasses.replace(TINY, audit=audit)
    own = tuning.tuning_plan(make_plan(config, tmp_path, splits=splits))
    assert own.audit.refits == 0


def test_columns_of_the_audit_are_none_of_the_searchs(splits, tmp_path):
    """One that fails for a model must not end the search."""
    audit = dataclasses.replace(TINY.audit, columns=("some_package:COLUMN",))
    plan = make_plan(TINY, tmp_path, splits=splits)
    assert (
        tuning.tuning_plan(dataclasses.replace(plan, audit=audit)).audit.columns == ()
    )


def test_the_search_uses_nothing_that_is_reported(finished, splits):
    folder, _ = finished
    plan = make_plan(TINY, folder.parent / "banks", splits=splits, workdir=folder)
    own = tuning.tuning_plan(plan)
    assert own.originals.artifact.key != plan.originals.artifact.key
    assert not (own.forget & plan.forget.any(0)).any(), (
        "no sample of a reported forget set"
    )
    assert not set(own.forget_names) & set(plan.forget_names)
    assert own.references.artifact.key == plan.references.artifact.key, (
        "the references are shared"
    )
    assert own.model is plan.model
    assert own.splits is plan.splits


def test_sets_that_cannot_avoid_the_reported_ones_are_stated(
    splits, tmp_path, finished
):
    assert any("0% of the samples of those sets" in note for note in finished[1].notes)
    most = dataclasses.replace(TINY, forget=ForgetConfig(fraction=0.9, seeds=(1,)))
    plan = make_plan(most, tmp_path, splits=splits)
    own = tuning.tuning_plan(plan)
    twice = [(mask & plan.forget[0]).sum() / mask.sum() for mask in own.forget]
    assert tuning.shared_samples(plan, own) == pytest.approx(np.mean(twice))
    assert min(twice) > 0.8


def test_a_second_run_computes_no_trial_again(finished, splits):
    folder, first = finished
    # without its results the run is not finished, and looks for every artifact
    (folder / "results.json").rename(folder / "first.json")
    second = run(TINY, folder, splits=splits)
    computed = [stage.name for stage in second.stages if not stage.cached]
    assert all("audit" in name for name in computed), computed
    assert to_plain(second.tuning) == to_plain(first.tuning)
    for row in second.rows:
        assert row.metrics == first.row(row.key).metrics


def test_without_trials_nothing_is_tuned(splits, tmp_path):
    plan = make_plan(
        dataclasses.replace(TINY, tuning=TuningConfig()), tmp_path, splits=splits
    )
    assert tuning.tuning_plan(plan) is None


def test_a_row_beside_searched_ones_says_that_it_was_not(finished, splits, tmp_path):
    _, results = finished
    unsearched = [row.key for row in results.rows if results.is_unsearched(row)]
    assert unsearched == ["fixed"]
    table = terminal_text(results, width=300)
    assert table.count("(not searched)") == 1
    words = render_markdown(tuning_section(results))
    assert "Not searched: fixed" in words
    text = dry_run(TINY, tmp_path / "run", splits=splits)
    assert "each on 2 runs: finetune 5." in text
    assert "Not searched: fixed." in text
    plain = dataclasses.replace(TINY, tuning=TuningConfig())
    assert "Not searched" not in dry_run(plain, tmp_path / "run", splits=splits)


def test_a_dry_run_of_a_finished_search_has_nothing_to_do(finished, splits):
    workdir, _ = finished

    def to_do(config):
        text = dry_run(config, workdir, splits=splits)
        counts = re.findall(r"^\S+ +\d+ +\d+ +(\d+) ", text, re.MULTILINE)
        return [int(count) for count in counts]

    assert set(to_do(TINY)) == {0}
    assert set(to_do(with_bank(TINY, workdir))) == {0}, "the same folder of models"
    other = dataclasses.replace(
        TINY, tuning=dataclasses.replace(TINY.tuning, seeds=(70, 71))
    )
    assert sum(to_do(other)) > 0


def test_an_outside_method_without_a_space_is_named_as_not_searched(splits, tmp_path):
    mine = {**TINY.rows, "mine": Row(method=Mine())}
    plan = make_plan(dataclasses.replace(TINY, rows=mine), tmp_path, splits=splits)
    assert tuning.unsearched_rows(plan) == ["fixed", "mine"]
    searched = {**TINY.rows, "mine": Row(method=Mine(), search={"scale": LIMITS})}
    plan = make_plan(dataclasses.replace(TINY, rows=searched), tmp_path, splits=splits)
    assert tuning.draw_rounds(plan, "mine")["scale"] == [0.5, 0.1, 2.24, 10.0]


def test_the_soft_margin_stands_beside_taylors_form_for_methods_without_gradients(
    splits, tmp_path
):
    def has_column(method, **audit):
        config = dataclasses.replace(
            TINY, audit=AuditConfig(**audit), rows={"row": Row(method=method)}
        )
        return make_plan(config, tmp_path, splits=splits).has_soft_margin

    assert has_column(SSD())
    assert has_column(Mine())
    assert not has_column(FineTune())
    assert not has_column(SSD(), signal="soft_margin")
    assert not has_column(SSD(), soft_margin="never")
    assert has_column(FineTune(), soft_margin="always")


def test_one_original_is_not_enough_to_tune_on():
    with pytest.raises(InputError, match=r"tuning\.originals must name two seeds"):
        TuningConfig(trials=2, originals=(7,))
    with pytest.raises(InputError, match=r"tuning\.originals must name two seeds"):
        TuningConfig(trials=2, originals=(7, 7))
    assert TuningConfig(originals=(7,)).trials == 0
