"""A run that forgets classes: its numbers against definitions, from the stored logits;
its search; its report.
"""

import dataclasses
import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest
from support.made_up import Page

import unlearn_jax as uj
from unlearn_jax import audit, data, filters
from unlearn_jax.figures.style import INK, to_svg
from unlearn_jax.filters import MPRU, Mask
from unlearn_jax.methods import TRW, FineTune, GradientAscent, Identity, filtered
from unlearn_jax.pipeline import (
    AuditConfig,
    DataConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    Row,
    RunConfig,
    TrainingConfig,
    TuningConfig,
    dry_run,
    run,
    tuning,
)
from unlearn_jax.pipeline.config import resolve as settings
from unlearn_jax.pipeline.measure.results import plan_pool
from unlearn_jax.pipeline.measure.rows import measure_row
from unlearn_jax.pipeline.measure.targets import target_distances
from unlearn_jax.pipeline.report.figures.classes import confusion_plot
from unlearn_jax.pipeline.report.study import study_tables
from unlearn_jax.pipeline.report.verdict import findings
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.plan import make_plan
from unlearn_jax.types import InputError

TINY = RunConfig(
    title="tiny classes",
    model=ModelConfig(name="mlp", widths=[8]),
    training=TrainingConfig(num_epochs=8, batch_size=16, learning_rate=0.1),
    forget=ForgetConfig(kind="class", classes=(1, 3)),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=0),
    tuning=TuningConfig(trials=2),
    audit=AuditConfig(
        num_bootstrap=30,
        targets=True,
        discriminators=(
            audit.Discriminator(features="probabilities"),
            audit.Discriminator(features="logits", gamma="scale"),
        ),
        readings=("neighbor_against_rest", "neighbor_against_forgotten"),
    ),
    rows={
        "trw": Row(
            method=TRW(num_epochs=2),
            search={"learning_rate": {"low": 0.01, "high": 0.1}},
        ),
        "mask": Row(method=filtered(Identity(), Mask())),
    },
)
GONE = (1, 3)


@pytest.fixture(scope="module")
def splits():
    rng = np.random.default_rng(3)
    centers = rng.uniform(0.1, 0.9, (5, 4, 4, 1))
    labels = {"train": np.arange(60) % 5, "test": np.arange(40) % 5}
    images = {
        k: np.clip(centers[v] + rng.normal(0, 0.2, (len(v), 4, 4, 1)), 0, 1)
        for k, v in labels.items()
    }
    return data.load_arrays(
        images["train"].astype("f4"),
        labels["train"],
        images["test"].astype("f4"),
        labels["test"],
    )


@pytest.fixture(scope="module")
def finished(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classes") / "run"
    results = run(TINY, folder, splits=splits)
    plan = make_plan(TINY, folder.parent / "banks", splits=splits, workdir=folder)
    rows = {
        name: row.replace(**_learning_rate(results.row(name)))
        for name, row in plan.rows.items()
    }
    plan = dataclasses.replace(plan, rows=rows)
    logits = {
        name: stages.row_logits(
            plan, name, plan.runner.make(stages.unlearn(plan, name))
        )
        for name in plan.rows
    }
    return folder, results, plan, logits


def _learning_rate(row):
    return {key: one for key, one in row.options.items() if key == "learning_rate"}


def values(results, row, metric):
    return results.row(row).values[metric]


def retrained(plan, run, side=0):
    return plan.oracles.logits()[side * len(plan.pairs) + plan.pair_of_run[run]]


def test_an_opened_row_has_the_logits_behind_its_filter(finished):
    folder, _, plan, logits = finished
    run = uj.open(folder)
    stored = plan.runner.make(stages.unlearn(plan, "mask")).each("logits")
    np.testing.assert_array_equal(run["mask"].stored["logits"], stored)
    np.testing.assert_array_equal(run["mask"].logits, logits["mask"])
    np.testing.assert_array_equal(run["trw"].logits, logits["trw"])
    assert not np.array_equal(stored, logits["mask"])
    target = run.audit_arrays().target
    np.testing.assert_array_equal(target["mask"], logits["mask"])


def test_accuracies_are_of_the_classes_they_name(finished):
    _, results, plan, logits = finished
    labels, train = plan.pool.labels, np.arange(100) < 60
    for run_, (_, s, _) in enumerate(plan.runs):
        right = np.argmax(logits["trw"][run_], -1) == labels
        own = labels == GONE[s]
        expected = {
            "unlearn_accuracy": right[train & own],
            "retain_accuracy": right[train & ~own],
            "acc_r": right[~train & ~own],
            "acc_f": right[~train & own],
        }
        for key, some in expected.items():
            assert values(results, "trw", key)[run_] == pytest.approx(
                100 * some.mean(), abs=1e-3
            )


def test_distances_are_to_the_runs_own_retrained_model(finished):
    _, results, plan, logits = finished
    test = np.arange(100) >= 60
    for run_, (_, s, _) in enumerate(plan.runs):
        some = test & (plan.pool.labels == GONE[s])
        p, q = (
            audit.softmax(one)[some]
            for one in (retrained(plan, run_), logits["trw"][run_])
        )
        assert values(results, "trw", "tv_forget")[run_] == pytest.approx(
            50 * np.abs(p - q).sum(-1).mean(), abs=1e-3
        )
        kl = (p * (np.log(p) - np.log(q))).sum(-1).mean()
        assert values(results, "trw", "kl_forget")[run_] == pytest.approx(kl, abs=2e-4)
        again = audit.softmax(retrained(plan, run_, 1))[some]
        seed = 50 * np.abs(p - again).sum(-1).mean()
        assert values(results, "retrained", "tv_forget")[run_] == pytest.approx(
            seed, abs=1e-3
        )
        assert values(results, "retrained_again", "tv_forget")[run_] == pytest.approx(
            seed, abs=1e-3
        )


def test_ulira_takes_the_runs_own_models_as_shadows(finished):
    _, results, plan, logits = finished
    margin = lambda one: np.asarray(
        audit.logit_margin(jnp.asarray(one), jnp.asarray(plan.pool.labels))
    )
    for s in (0, 1):
        runs = np.flatnonzero(plan.runs[:, 1] == s)
        forget = np.flatnonzero(plan.pool.labels[:60] == GONE[s])
        sides = [
            [margin(logits["trw"][r])[forget] for r in runs],
            [margin(retrained(plan, r))[forget] for r in runs],
        ]
        expected = audit.ulira(*map(np.stack, sides)).accuracy
        np.testing.assert_allclose(
            np.array(values(results, "trw", "ulira"))[runs], 100 * expected, atol=1e-3
        )
    floor = np.array(values(results, "retrained", "ulira"))
    assert np.abs(floor - 50).mean() < 40
    for row in ("trw", "retrained"):
        accuracy = np.reshape(values(results, row, "ulira"), (3, 2))
        pool = plan_pool(plan)
        models = {"trw": logits["trw"], "retrained": pool.classes.oracles[0]}[row]
        measured = measure_row(pool, models, int(row == "retrained"))[0]["ulira"]
        np.testing.assert_allclose(
            measured.influences.reshape(3, 2),
            audit.pair_influences(accuracy),
            atol=1e-3,
        )


def test_mia_nn_asks_about_the_nearest_class(finished):
    _, results, plan, logits = finished
    test, labels = np.arange(100) >= 60, plan.pool.labels
    for s, section in enumerate(results.confusion.sets):
        runs = np.flatnonzero(plan.runs[:, 1] == s)
        models = np.stack(
            [retrained(plan, r, side)[test] for side in (0, 1) for r in runs]
        )
        machine = TINY.audit.discriminators[0]
        expected = audit.nearest_neighbor(
            models, labels[test], GONE[s], discriminator=machine
        )
        assert section.neighbors == (expected.neighbor,)
        assert section.classes == (GONE[s],)
        mean = expected.fractions[:, expected.neighbor].mean()
        for r in runs:
            called = audit.discriminator_calls(
                logits["trw"][r][test],
                labels[test],
                expected.neighbor,
                GONE[s],
                discriminator=machine,
            )
            assert values(results, "trw", "mia_nn")[r] == pytest.approx(
                100 * called.mean(), abs=1e-3
            )
            assert values(results, "trw", "mia_nn_gap")[r] == pytest.approx(
                100 * abs(called.mean() - mean), abs=1e-3
            )


def test_every_discriminator_and_reading_of_mia_nn_has_a_column(finished):
    _, results, plan, logits = finished
    test, labels = np.arange(100) >= 60, plan.pool.labels
    columns: dict[str, tuple[int, audit.Reading]] = {
        "mia_nn_logits": (1, "neighbor_against_rest"),
        "mia_nn_forgotten": (0, "neighbor_against_forgotten"),
        "mia_nn_logits_forgotten": (1, "neighbor_against_forgotten"),
    }
    for s, section in enumerate(results.confusion.sets):
        runs = np.flatnonzero(plan.runs[:, 1] == s)
        models = np.stack(
            [retrained(plan, r, side)[test] for side in (0, 1) for r in runs]
        )
        unlearned = np.stack([logits["trw"][r][test] for r in runs])
        for key, (position, reading) in columns.items():
            expected = audit.mia_nn(
                models,
                unlearned,
                labels[test],
                GONE[s],
                neighbor=section.neighbors[0],
                reading=reading,
                discriminator=TINY.audit.discriminators[position],
            )
            found = np.array([values(results, "trw", key)[r] for r in runs])
            gaps = np.array([values(results, "trw", f"{key}_gap")[r] for r in runs])
            np.testing.assert_allclose(found, 100 * expected.scores, atol=1e-3)
            np.testing.assert_allclose(gaps, 100 * expected.gap, atol=1e-3)
    assert values(results, "trw", "mia_nn") != values(results, "trw", "mia_nn_logits")


def test_a_filter_changes_outputs_and_nothing_else(finished):
    _folder, results, plan, logits = finished
    raw = plan.runner.make(stages.unlearn(plan, "mask")).each("logits")
    for r, (_, s, _) in enumerate(plan.runs):
        q = np.exp(logits["mask"][r].astype(np.float64))
        expected = np.asarray(
            filters.masked_renormalization(audit.softmax(raw[r]), GONE[s])
        )
        np.testing.assert_allclose(
            q, np.maximum(expected, stages.FLOOR), rtol=1e-4, atol=1e-9
        )
    assert max(values(results, "mask", "acc_f")) == 0
    plain = {"mask": dataclasses.replace(plan.rows["mask"], filter=None)}
    other = stages.unlearn(dataclasses.replace(plan, rows=plain), "mask")
    assert other.key == stages.unlearn(plan, "mask").key, "same models"


def test_confusion_is_where_the_test_samples_went(finished):
    _, results, plan, logits = finished
    for s, section in enumerate(results.confusion.sets):
        runs = np.flatnonzero(plan.runs[:, 1] == s)
        some = (np.arange(100) >= 60) & (plan.pool.labels == GONE[s])
        went = [
            np.bincount(np.argmax(logits["trw"][r][some], -1), minlength=5) / some.sum()
            for r in runs
        ]
        np.testing.assert_allclose(section.rows["trw"], np.mean(went, 0), atol=1e-3)


def test_the_search_forgets_other_classes_and_goes_by_its_own_gap(finished, splits):
    folder, results, _, _ = finished
    own = tuning.tuning_plan(
        make_plan(TINY, folder.parent / "banks", splits=splits, workdir=folder)
    )
    assert own.forget_names == [0, 2] == list(results.tuning.sets)
    assert not (own.forget & np.isin(splits.train.labels, GONE)).any()
    trials = results.tuning.rows["trw"].trials
    assert len(trials) == 2
    assert set(trials[0].metrics) == {
        "unlearn_accuracy",
        "retain_accuracy",
        "acc_r",
        "acc_f",
        "tv_forget",
        "avg_gap",
    }
    gaps = [trial.metrics["avg_gap"].mean for trial in trials]
    assert results.tuning.rows["trw"].chosen == int(np.argmin(gaps))


def test_targets_are_measured_against_retrained_models(finished):
    """Recomputed in NumPy: no tilt, the cosines of the head's weights, their opposite,
    and both reference tilts.
    """
    _, results, plan, _ = finished
    rows, kernels = (
        {row.name: row.values for row in results.targets.rows},
        plan.originals.variables().params,
    )
    betas, found = results.targets.betas, {}
    for r, (o, s, _) in enumerate(plan.runs):
        some = plan.pool.labels[:60] == GONE[s]
        p, again = (
            audit.softmax(retrained(plan, r, side)[:60][some]) for side in (0, 1)
        )
        masked = np.asarray(plan.originals.logits()[o][:60][some], np.float64)
        masked[:, GONE[s]] = -np.inf
        away = lambda logits, p=p: audit.kl_divergence(p, _softmax(logits)).mean()
        head = np.asarray(kernels["Dense_1"]["kernel"][o], np.float64).T
        head = head - head.mean(0)
        cosine = (
            head
            @ head[GONE[s]]
            / np.linalg.norm(head, axis=1)
            / np.linalg.norm(head[GONE[s]])
        )
        kept = np.arange(5) != GONE[s]
        confusion = np.where(kept, np.log(again.mean(0)), 0)
        confusion = np.where(kept, confusion - confusion[kept].mean(), 0)
        ratio = np.where(
            kept,
            np.log(again.mean(0)) - np.log(np.maximum(_softmax(masked).mean(0), 1e-12)),
            0,
        )
        tilts = {
            "no tilt (beta 0)": [0 * cosine],
            "weights": [beta * cosine for beta in betas],
            "weights, sign flipped": [-beta * cosine for beta in betas],
            "retrained confusion": [
                beta * confusion / np.abs(confusion).max() for beta in betas
            ],
            "retrained over renormalized": [ratio],
        }
        for name, some_tilts in tilts.items():
            found.setdefault(name, []).append(
                [away(masked + tilt) for tilt in some_tilts]
            )
    for name, values in found.items():
        np.testing.assert_allclose(
            rows[name], np.mean(values, 0), rtol=2e-3, atol=2e-4, err_msg=name
        )
    assert rows["no tilt (beta 0)"][0] < rows["original model"][0]
    seeds = [
        audit.kl_divergence(
            *(audit.softmax(retrained(plan, r, i)[:60]) for i in (0, 1))
        )
        for r in range(6)
    ]
    seeds = [
        kl[plan.pool.labels[:60] == GONE[s]].mean()
        for kl, (_, s, _) in zip(seeds, plan.runs, strict=True)
    ]
    assert rows["second retrained model"][0] == pytest.approx(np.mean(seeds), rel=2e-3)
    assert target_distances(plan) == results.targets, "the same run, the same numbers"
    assert len(results.targets.coefficients) == 3
    assert np.isfinite(results.targets.coefficients).all()
    fitted = rows["fitted to the other forget sets"]
    assert len(fitted) == 1
    assert rows["second retrained model"][0] < fitted[0] < rows["original model"][0]


def _softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_the_report_shows_classes_and_no_attack_that_was_not_made(finished):
    folder, results, _, _ = finished
    page = (folder / "report.html").read_text()
    page = Page(page).words
    assert "Predictions on forgotten classes" in page
    assert "ROC curves" not in page
    assert "U-LiRA" in page
    assert "Targets KL(retrained" in page
    assert "classes 0, 2" in page
    assert {check.name.partition(":")[0] for check in results.checks} >= {
        "U-LiRA is fair",
        "MIA-NN is fair",
    }
    assert (
        json.loads((folder / "results.json").read_text())["config"]["replicas"][
            "references"
        ]
        == 0
    )
    with np.load(folder / "arrays.npz") as arrays:
        assert not [name for name in arrays if name.startswith("scores/")]


def test_references_add_attacks_within_the_class(splits, tmp_path):
    config = dataclasses.replace(
        TINY,
        forget=ForgetConfig(kind="class", classes=(1, 3), together=True),
        replicas=ReplicasConfig(originals=(0, 1), references=8),
        tuning=TuningConfig(trials=0),
        audit=AuditConfig(
            num_bootstrap=10, signal="softmax_confidence", lira=True, mis=False
        ),
        rows={"mask": TINY.rows["mask"]},
    )
    results = run(config, tmp_path / "run", splits=splits)
    plan = make_plan(
        config, tmp_path / "banks", splits=splits, workdir=tmp_path / "run"
    )
    own = np.isin(plan.pool.labels, GONE)
    train = np.arange(100) < 60
    margin = lambda one: np.asarray(
        audit.logit_margin(jnp.asarray(one), jnp.asarray(plan.pool.labels))
    )
    reference = np.stack([margin(one) for one in plan.references.logits()])
    for r in range(2):
        target = margin(plan.originals.logits()[r])
        scores = audit.lira(
            target, reference, plan.references.member, variance="fixed_centered"
        )
        expected = audit.auc(scores[own], train[own])
        assert values(results, "original", "lira_auc")[r] == pytest.approx(
            100 * expected, abs=1e-3
        )
    metrics = {metric.key for metric in results.metrics}
    assert {"ft_auc", "lira_auc", "mia_nn"} <= metrics
    assert "ulira" not in metrics, "two originals are too few"
    assert results.confusion.sets[0].classes == (1, 3)
    assert max(values(results, "mask", "acc_f")) == 0


def test_lira_is_a_column_of_other_runs_too(splits, tmp_path):
    config = dataclasses.replace(
        TINY,
        forget=ForgetConfig(fraction=0.2, seeds=(1,)),
        replicas=ReplicasConfig(originals=(0,), references=8),
        tuning=TuningConfig(trials=0),
        audit=AuditConfig(num_bootstrap=10, lira=True, mis=False),
        rows={"nothing": Row(method=Identity())},
    )
    results = run(config, tmp_path / "run", splits=splits)
    assert 0 <= values(results, "nothing", "lira_auc")[0] <= 100
    assert values(results, "nothing", "lira_auc") == values(
        results, "original", "lira_auc"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"replicas": ReplicasConfig(originals=(0, 1, 2), references=0, repeats=2)},
            "replicas.repeats=1",
        ),
        (
            {"forget": ForgetConfig(seeds=(1,))},
            "replicas.references=0 leaves no membership attack",
        ),
        (
            {
                "forget": ForgetConfig(seeds=(1,)),
                "replicas": ReplicasConfig(references=4),
            },
            "audit.targets needs forgotten",
        ),
        (
            {
                "forget": ForgetConfig(seeds=(1,)),
                "replicas": ReplicasConfig(references=4),
                "audit": AuditConfig(),
            },
            "row 'mask': an output filter forgets classes",
        ),
        (
            {"tuning": TuningConfig(trials=2, classes=(1,))},
            "classes that the table does not report",
        ),
        (
            {"forget": ForgetConfig(kind="class", classes=(0, 1, 2), together=True)},
            "does not report",
        ),
        (
            {"forget": ForgetConfig(kind="class", classes=(9,))},
            "no training sample has class 9",
        ),
        (
            {"forget": ForgetConfig(kind="class", classes=(1, 1))},
            "repeat a class: 1, 1",
        ),
        ({"tuning": TuningConfig(trials=2, classes=(0, 0))}, "repeat a class: 0, 0"),
        (
            {
                "forget": ForgetConfig(
                    kind="class", classes=(0, 1, 2, 3), together=True
                ),
                "tuning": TuningConfig(),
            },
            r"two classes that are kept: forget fewer, or set audit\.mia_nn=False",
        ),
        (
            {
                "replicas": ReplicasConfig(references=2),
                "audit": AuditConfig(signal="softmax_confidence", lira=True),
            },
            r"audit\.lira needs replicas\.references of at least 4",
        ),
    ],
)
def test_impossible_runs_are_refused_before_anything_is_written(
    change, message, splits, tmp_path
):
    with pytest.raises(InputError, match=message):
        run(dataclasses.replace(TINY, **change), tmp_path / "run", splits=splits)
    assert not list(pathlib.Path(tmp_path).iterdir())


def test_a_dry_run_without_references_estimates_by_the_originals(splits, tmp_path):
    assert "originals" in dry_run(TINY, tmp_path / "run", splits=splits)


def test_a_balanced_split_has_equally_many_of_each_class():
    splits = settings.load_data(DataConfig(num_train=1000, num_test=200, balanced=True))
    np.testing.assert_array_equal(np.bincount(splits.train.labels), [100] * 10)
    np.testing.assert_array_equal(np.bincount(splits.test.labels), [20] * 10)
    digits = settings.load_data(DataConfig())
    pool = {
        image.tobytes()
        for image in np.concatenate([digits.train.images, digits.test.images])
    }
    drawn = [
        image.tobytes()
        for image in np.concatenate([splits.train.images, splits.test.images])
    ]
    assert set(drawn) <= pool
    assert len(set(drawn)) > 1190, "no sample is drawn twice"
    again = settings.load_data(
        DataConfig(num_train=1000, num_test=200, balanced=True, seed=1)
    )
    assert not np.array_equal(again.train.labels, splits.train.labels)
    for bad, message in (
        ((1005, 200), "multiples"),
        ((1700, 100), "one class has only"),
        ((0, 10), "multiples"),
    ):
        with pytest.raises(InputError, match=message):
            data.resplit(
                digits, num_train=bad[0], num_test=bad[1], seed=0, balanced=True
            )
    with pytest.raises(InputError, match=r"data\.balanced needs"):
        DataConfig(balanced=True)


def _made(train, test):
    return data.load_arrays(
        *(
            part
            for y in (train, test)
            for part in (np.zeros((len(y), 4, 4, 1), "f4"), np.array(y))
        )
    )


def test_classes_without_test_samples_are_refused_before_anything_is_trained(tmp_path):
    train, config = (
        [0, 1, 2, 3, 4] * 8,
        dataclasses.replace(TINY, tuning=TuningConfig()),
    )
    blind = dataclasses.replace(config, audit=AuditConfig(mia_nn=False))
    with pytest.raises(
        InputError, match="class 0 has no test sample, which MIA-NN needs for every"
    ):
        make_plan(config, tmp_path, splits=_made(train, [1, 2, 3, 4]))
    with pytest.raises(InputError, match="class 3 has no test sample: forget classes"):
        make_plan(blind, tmp_path, splits=_made(train, [0, 1, 2, 4]))
    with pytest.raises(InputError, match="no class that is kept has a test sample"):
        make_plan(
            dataclasses.replace(blind, forget=ForgetConfig(kind="class")),
            tmp_path,
            splits=_made(train, [0, 0]),
        )
    gap = _made([0, 1, 3, 4, 5] * 8, [0, 1, 3, 4, 5])
    tuned = dataclasses.replace(
        blind, forget=ForgetConfig(kind="class", classes=(0, 3)), tuning=TINY.tuning
    )
    assert tuning.tuning_plan(make_plan(tuned, tmp_path, splits=gap)).forget_names == [
        1,
        4,
    ], "none has class 2"


def test_a_filter_is_part_of_what_is_searched_and_survives_divergence(splits, tmp_path):
    config = dataclasses.replace(
        TINY,
        forget=ForgetConfig(kind="class", classes=(1,)),
        replicas=ReplicasConfig(originals=(0, 1), references=0),
        audit=AuditConfig(num_bootstrap=10, mis=False, mia_nn=False),
        rows={
            "kept": Row(
                method=filtered(FineTune(num_epochs=1), Mask()),
                search={"batch_size": [16, 32]},
            ),
            "lost": Row(
                method=filtered(
                    GradientAscent(num_epochs=30, learning_rate=50.0), MPRU()
                ),
                search={},
            ),
        },
    )
    results = run(config, tmp_path / "run", splits=splits)
    trials = results.tuning.rows["kept"].trials
    assert [trial.metrics["acc_f"].mean for trial in trials] == [0, 0]
    assert max(values(results, "kept", "acc_f")) == 0
    assert results.row("lost").metrics == {}
    notes = " ".join(results.notes)
    assert "U-LiRA is left out: it needs 3 originals" in notes
    assert "shadow models" not in notes
    assert "tune: lost" not in dry_run(config, tmp_path / "run", splits=splits), (
        "there is nothing to search"
    )


def test_the_picture_follows_the_page_and_cuts_long_names(finished):
    results = finished[1]
    title = f"class 1 (${'name ' * 80}$)"
    sets = [dataclasses.replace(one, title=title) for one in results.confusion.sets]
    confusion = dataclasses.replace(results.confusion, sets=tuple(sets))
    figure = confusion_plot(dataclasses.replace(results, confusion=confusion))
    svg = to_svg(figure, "long", "long names")
    assert "#ffffff" not in svg, "no panel is white on a dark page"
    axes = figure.axes[0]
    texts = [
        *axes.get_xticklabels(),
        *axes.get_yticklabels(),
        axes.xaxis.label,
        axes._left_title,
    ]
    assert {text.get_color() for text in texts} == {INK}, (
        "which to_svg makes the page's"
    )
    assert axes.get_title(loc="left").count("\n") == 2
    assert axes.get_title(loc="left").endswith("…")


def test_the_verdict_of_classes_takes_every_headline_metric(finished):
    results = finished[1]
    for row in results.rows:
        if row.verdict is None:
            continue
        assert row.kind == "method"
        states = {
            key: row.differences[key]["oracle"].state
            for key in ("tv_forget", "ulira")
            if "oracle" in row.differences.get(key, {})
        }
        expected = "undecided"
        if "different" in states.values():
            expected = "different"
        elif set(states.values()) == {"like"}:
            expected = "like"
        assert row.verdict.state == expected
    assert any(row.verdict for row in results.rows)
    text = " ".join(findings(results))
    assert "TV forget less that of the retrained models, run by run" in text


def test_a_study_compares_what_the_attacks_on_classes_say(finished):
    results = finished[1]
    tables = study_tables({"one": results, "two": results})
    titles = [table.title.partition(" (")[0] for table in tables]
    assert {"ACC_r", "ACC_f", "TV forget", "U-LiRA", "MIA-NN", "MIA-NN gap"} <= set(
        titles
    )


def test_a_study_may_have_a_variant_without_a_metric_of_another(finished):
    """A single original has no U-LiRA."""
    results = finished[1]
    rows = []
    for row in results.rows:
        metrics = {key: one for key, one in row.metrics.items() if key != "ulira"}
        left = {key: one for key, one in row.differences.items() if key != "ulira"}
        rows.append(
            dataclasses.replace(row, metrics=metrics, differences=left, verdict=None)
        )
    metrics = tuple(one for one in results.metrics if one.key != "ulira")
    fewer = dataclasses.replace(results, rows=tuple(rows), metrics=metrics)
    tables = {table.title: table for table in study_tables({"a": fewer, "b": results})}
    for row in tables["U-LiRA (%)"].rows:
        assert row[1].value is None
    assert any(row[2].value is not None for row in tables["U-LiRA (%)"].rows)
