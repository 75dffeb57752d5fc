"""The search of hyperparameters: its trials, its problems, and its choice."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax import data
from unlearn_jax.methods import FineTune, draw_trials
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
from unlearn_jax.pipeline.measure.records import to_plain
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.plan import make_plan
from unlearn_jax.pipeline.store.artifact import Runner
from unlearn_jax.types import InputError

TINY = RunConfig(
    title="tiny search",
    model=ModelConfig(name="mlp", widths=[8]),
    training=TrainingConfig(num_epochs=4, batch_size=16, learning_rate=0.1),
    forget=ForgetConfig(fraction=0.2, seeds=(1,)),
    replicas=ReplicasConfig(originals=(0, 1), references=4),
    attack=AttackConfig(num_radii=6, num_steps=4, batch_size=8),
    tuning=TuningConfig(trials=4, originals=(7,), seeds=(8, 9)),
    audit=AuditConfig(num_bootstrap=10, mis=False),
    rows={
        "finetune": Row(
            method=FineTune(num_epochs=2),
            search={
                "learning_rate": {"low": 1e-3, "high": 1e26},
                "decay_every": [0, 1],
            },
        ),
        "fixed": Row(method=FineTune(num_epochs=1, learning_rate=0.01), search={}),
    },
)


@pytest.fixture(scope="module")
def splits(blobs):
    return data.load_arrays(
        blobs.images, blobs.labels, blobs.images[:30], blobs.labels[:30]
    )


@pytest.fixture(scope="module")
def finished(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned") / "run"
    return folder, run(TINY, folder, splits=splits)


def test_trials_are_a_grid_with_log_spaced_values_and_the_ends_of_every_range():
    trials = draw_trials({"rate": {"low": 1e-4, "high": 1.0}, "decay": [0, 5]}, 10)
    assert sorted({t["rate"] for t in trials}) == [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
    assert [t["decay"] for t in trials if t["rate"] == 1e-2] == [0, 5]
    assert len(trials) == 10
    two = draw_trials(
        {"rate": {"low": 1e-3, "high": 1.0}, "share": {"low": 0.1, "high": 0.9}}, 12
    )
    assert sorted({t["rate"] for t in two}) == [1e-3, 1e-2, 1e-1, 1.0]
    assert sorted({t["share"] for t in two}) == [0.1, 0.3, 0.9]


@settings(max_examples=25, deadline=None)
@given(
    st.floats(1e-8, 1.0),
    st.floats(2.0, 1e4),
    st.integers(1, 40),
    st.lists(st.integers(0, 9), min_size=1, unique=True),
)
def test_trials_lie_in_their_ranges_differ_and_use_the_budget(
    low, factor, count, choices
):
    space = {"a": {"low": low, "high": low * factor}, "b": choices}
    if len(choices) > count:
        with pytest.raises(InputError, match="combinations of choices"):
            draw_trials(space, count)
        return
    trials = draw_trials(space, count)
    assert len({json.dumps(t) for t in trials}) == len(trials) <= count
    assert len(trials) > count - len(choices) or factor < 1.2 ** (
        count / len(choices)
    ), "rounding may merge levels"
    for trial in trials:
        assert 0.99 * low <= trial["a"] <= 1.01 * low * factor
        assert trial["b"] in choices


def test_a_search_without_hyperparameters_or_trials_is_empty():
    assert draw_trials({}, 5) == []
    assert draw_trials({"a": [1]}, 0) == []
    assert draw_trials({"a": [1, 2]}, 50) == [
        {"a": 1},
        {"a": 2},
    ], "no more settings than there are"
    assert draw_trials({"a": {"low": 1.0, "high": 4.0}}, 1) == [{"a": 2.0}]


def test_every_trial_is_kept_and_the_best_is_taken(finished):
    _, results = finished
    search = results.tuning.rows["finetune"]
    assert len(search.trials) == 4
    assert search.space == TINY.rows["finetune"].search
    gaps = [
        trial.metrics["avg_gap"].mean if trial.metrics else np.inf
        for trial in search.trials
    ]
    assert search.chosen == int(np.argmin(gaps))
    assert not all(trial.metrics for trial in search.trials), (
        "a range up to 1e26 must diverge somewhere"
    )
    row = results.row("finetune")
    chosen = search.trials[search.chosen].options
    assert {option: row.options[option] for option in chosen} == chosen
    assert "fixed" not in results.tuning.rows
    assert 0 < results.tuning.original.mean < 100, "on the same problems"


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
    logits = tuning.tune_row(own, "finetune", "tune")
    assert own.runner.costs[-1].cached
    rows = {"finetune": own.rows["finetune"].replace(**trial.options)}
    plain = dataclasses.replace(own, rows=rows)
    runner = Runner(tmp_path, progress=False)
    parts = runner.make(stages.unlearn(plain, "finetune"))
    for searched, direct in zip(logits[position], parts.each("logits"), strict=True):
        np.testing.assert_allclose(searched, direct, atol=1e-4)
        assert np.std(direct) > 0.1


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
