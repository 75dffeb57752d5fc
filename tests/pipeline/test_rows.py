"""Rows of a table from arrays alone, against definitions."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import audit, replicas
from unlearn_jax.pipeline import AuditConfig
from unlearn_jax.pipeline.measure.metrics import CLASSES, SAMPLES
from unlearn_jax.pipeline.measure.pool import ReferenceSignals, make_pool, margins
from unlearn_jax.pipeline.measure.results import make_checks
from unlearn_jax.pipeline.measure.rows import measure_gaps, measure_rows
from unlearn_jax.pipeline.measure.statistics import Measured

NUM_TRAIN = 40
NUM_TEST = 24
NUM_CLASSES = 4
LABELS = np.arange(NUM_TRAIN + NUM_TEST) % NUM_CLASSES
TRAIN = np.arange(NUM_TRAIN + NUM_TEST) < NUM_TRAIN
RUNS = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])


def draw_logits(rng, num_models, scale=1.0):
    shape = (num_models, len(LABELS), NUM_CLASSES)
    logits = rng.normal(size=shape) + 1.5 * np.eye(NUM_CLASSES)[LABELS]
    return list((scale * logits).astype(np.float32))


def draw_models(rng, scale=1.0):
    """Return logits of the rows and the references, and the references' members."""
    names = ("original", "retrained", "retrained_again", "mine")
    rows = {name: draw_logits(rng, len(RUNS), scale) for name in names}
    member = np.zeros((6, len(LABELS)), bool)
    for sample in range(len(LABELS)):
        member[rng.permutation(6)[:3], sample] = True
    logits = draw_logits(rng, 6, scale)
    signal = audit.model_signals("taylor_softmax", logits, LABELS)
    soft = audit.model_signals("soft_margin", logits, LABELS)
    return rows, ReferenceSignals(signal, margins(logits, LABELS), soft), member


def test_metrics_are_those_of_the_definitions():
    rng = np.random.default_rng(0)
    forget = np.zeros((len(RUNS), NUM_TRAIN), bool)
    forget[:2, :8] = True
    forget[2:, 8:16] = True
    rows, references, member = draw_models(rng)
    lost = np.full_like(rows["mine"][0], np.nan)
    rows["lost"] = [lost, rows["mine"][1], lost, lost]
    config = AuditConfig(num_bootstrap=20, mis=False, lira=True)
    pool = make_pool(config, LABELS, forget, RUNS, references, member)
    measured = measure_rows(pool, rows)
    assert [row.key for row in measured.rows] == list(rows)
    kinds = [row.kind for row in measured.rows]
    assert kinds == ["original", "oracle", "second_oracle", "method", "method"]
    keys = [metric.key for metric in measured.metrics]
    assert "mis" not in keys
    assert keys == [m.key for m in SAMPLES.metrics if m.key in keys]
    mine, lost = measured.rows[3:]
    assert lost.is_diverged
    assert (mine.num_diverged, lost.num_diverged) == (0, 3)
    assert f"scores/{lost.key}" not in measured.arrays
    np.testing.assert_array_equal(measured.arrays["forget"], forget)

    def signal(logits):
        return np.asarray(
            audit.taylor_softmax(jnp.asarray(logits), jnp.asarray(LABELS))
        )

    target = np.stack([signal(one) for one in rows["mine"]])
    scores = audit.rmia(target, references.signal, member, gamma=config.gamma)
    softly = audit.model_signals("soft_margin", rows["mine"], LABELS)
    soft_scores = audit.rmia(softly, references.soft, member, gamma=config.gamma)
    for run, mask in enumerate(np.pad(forget, ((0, 0), (0, NUM_TEST)))):
        soft = audit.forget_aucs(soft_scores[run], mask, TRAIN & ~mask, ~TRAIN).ft
        assert mine.values["ft_auc_soft"][run] == pytest.approx(100 * soft, abs=1e-4)
        aucs = audit.forget_aucs(scores[run], mask, TRAIN & ~mask, ~TRAIN)
        assert mine.values["ft_auc"][run] == pytest.approx(100 * aucs.ft, abs=1e-4)
        assert mine.values["fr_auc"][run] == pytest.approx(100 * aucs.fr, abs=1e-4)
        right = rows["mine"][run].argmax(-1) == LABELS
        accuracy = 100 * right[mask].mean()
        assert mine.values["unlearn_accuracy"][run] == pytest.approx(accuracy)
    for key, estimate in mine.metrics.items():
        values = mine.values[key]
        assert estimate.mean == pytest.approx(np.mean(values), abs=1e-4)
        assert estimate.std == pytest.approx(np.std(values, ddof=1), abs=1e-3)
        assert estimate.low <= estimate.mean <= estimate.high
        assert estimate.num_runs == len(RUNS)
    parts = SAMPLES.gaps["avg_gap"]
    oracle = measured.rows[1]
    distances = [
        np.abs(np.array(mine.values[part]) - np.mean(oracle.values[part]))
        for part in parts
    ]
    np.testing.assert_allclose(mine.values["avg_gap"], np.mean(distances, 0), atol=1e-3)


def test_without_a_retrained_row_there_is_no_gap():
    rng = np.random.default_rng(1)
    rows, references, member = draw_models(rng)
    forget = np.zeros((len(RUNS), NUM_TRAIN), bool)
    forget[:, :8] = True
    config = AuditConfig(num_bootstrap=5, mis=False)
    pool = make_pool(config, LABELS, forget, RUNS, references, member)
    measured = measure_rows(pool, {"mine": rows["mine"]})
    (row,) = measured.rows
    assert "ft_auc" in row.metrics
    assert not set(SAMPLES.gaps) & set(row.metrics)


def test_classes_are_compared_with_the_runs_own_retrained_models():
    rng = np.random.default_rng(2)
    rows, _, _ = draw_models(rng)
    removed = RUNS[:, 1]
    forget = LABELS[:NUM_TRAIN] == removed[:, None]
    config = AuditConfig(num_bootstrap=5, mis=False, mia_nn=False)
    oracles = (rows["retrained"], rows["retrained_again"])
    member = np.zeros((0, len(LABELS)), bool)
    pool = make_pool(config, LABELS, forget, RUNS, None, member, oracles=oracles)
    assert pool.table is CLASSES
    assert [one.classes for one in pool.classes.sets] == [(0,), (1,)]
    assert [one.runs for one in pool.classes.sets] == [(0, 1), (2, 3)]
    measured = {row.key: row for row in measure_rows(pool, rows).rows}
    for run, label in enumerate(removed):
        mask = ~TRAIN & (label == LABELS)
        p = audit.softmax(rows["retrained"][run])
        q = audit.softmax(rows["mine"][run])
        distance = 100 * audit.total_variation(p, q)[mask].mean()
        assert measured["mine"].values["tv_forget"][run] == pytest.approx(
            distance, abs=1e-4
        )
        seed = audit.softmax(rows["retrained_again"][run])
        distance = 100 * audit.total_variation(p, seed)[mask].mean()
        for name in ("retrained", "retrained_again"):
            assert measured[name].values["tv_forget"][run] == pytest.approx(
                distance, abs=1e-4
            )
    assert "ulira" not in measured["mine"].metrics, "two models a side are too few"


def test_gaps_where_classes_are_forgotten_have_a_mean_for_each_forget_set():
    rng = np.random.default_rng(3)
    rows, _, _ = draw_models(rng)
    forget = LABELS[:NUM_TRAIN] == RUNS[:, 1:]
    config = AuditConfig(num_bootstrap=3, mis=False, mia_nn=False)
    oracles = (rows["retrained"], rows["retrained_again"])
    member = np.zeros((0, len(LABELS)), bool)
    pool = make_pool(config, LABELS, forget, RUNS, None, member, oracles=oracles)
    ones = np.ones((3, len(RUNS)))
    oracle_values = np.array([0.0, 10.0, 50.0, 70.0])
    row = {key: Measured(0 * oracle_values, 0 * ones) for key in CLASSES.trial}
    oracle = {
        key: Measured(oracle_values, oracle_values * ones) for key in CLASSES.trial
    }
    gaps = measure_gaps(pool, row, oracle)
    np.testing.assert_allclose(gaps["avg_gap"].value, [5, 5, 60, 60])


@pytest.mark.parametrize("comparison", ["product", "quotient"])
def test_runs_are_scored_on_four_devices_as_on_one_and_on_the_host(comparison):
    rows, references, member = draw_models(np.random.default_rng(9))
    config = AuditConfig(num_bootstrap=5, lira=True, comparison=comparison)
    forget = np.zeros((len(RUNS), NUM_TRAIN), bool)
    forget[:, :8] = True
    pool = make_pool(config, LABELS, forget, RUNS, references, member)
    signals = pool.signals(rows["mine"])
    margin = margins(rows["mine"], LABELS)
    found = {None: (*pool.rmia(signals), pool.lira(margin))}
    for devices in (1, 4):
        mapper = replicas.mapper("vmap", num_models=len(RUNS), devices=devices)
        spread = dataclasses.replace(pool, mapper=mapper)
        found[devices] = (*spread.rmia(signals), spread.lira(margin))
    for one, four, host in zip(found[1], found[4], found[None], strict=True):
        assert np.array_equal(one, four)
        np.testing.assert_allclose(four, host, rtol=1e-4, atol=1e-5)


def test_one_forgotten_sample_has_no_interval_without_width():
    rng = np.random.default_rng(5)
    rows, references, member = draw_models(rng)
    forget = np.zeros((1, NUM_TRAIN), bool)
    forget[0, 3] = True
    config = AuditConfig(num_bootstrap=20, mis=False)
    pool = make_pool(config, LABELS, forget, RUNS[:1], references, member)
    measured = measure_rows(pool, {name: own[:1] for name, own in rows.items()})
    for row in measured.rows:
        accuracy = row.metrics["unlearn_accuracy"]
        assert accuracy.mean in (0, 100)
        exact = audit.clopper_pearson(int(accuracy.mean == 100), 1)
        assert accuracy.low == pytest.approx(100 * exact.low)
        auc = row.metrics["ft_auc"]
        assert auc.high - auc.low > 90
        test = row.metrics["test_accuracy"]
        assert test.high - test.low > 10
    gap = measured.rows[1].metrics["avg_gap"]
    assert gap.mean == 0
    assert np.isnan(gap.low), "a distance to itself has no interval"


def test_the_attack_is_fair_where_it_cannot_rank_at_all():
    rows, references, member = draw_models(np.random.default_rng(7))
    forget = np.zeros((1, NUM_TRAIN), bool)
    forget[0, :8] = True
    config = AuditConfig(num_bootstrap=20, mis=False)
    pool = make_pool(config, LABELS, forget, RUNS[:1], references, member)
    flat = np.zeros((len(LABELS), NUM_CLASSES), np.float32)
    seen = (5 * np.eye(NUM_CLASSES)[LABELS] * TRAIN[:, None]).astype(np.float32)
    for retrained, is_fair in ((flat, True), (seen, False)):
        rows = {"original": [seen], "retrained": [retrained]}
        measured = measure_rows(pool, rows).rows
        fair, power = make_checks(pool, measured, {}, is_exchangeable=True)
        assert fair.passed == is_fair
        assert fair.name.startswith("the attack is fair: it cannot separate")
        assert power.passed, "original models are recognized"
        if is_fair:
            auc = measured[1].metrics["ft_auc"]
            width = 50 * (1 - 0.025 ** (1 / 8))
            assert (auc.mean, auc.high) == pytest.approx((50, 50 + width), abs=1e-3)
            assert "50.0 [" in fair.detail


@pytest.mark.parametrize(
    ("scale", "gamma", "ranks"), [(1, 2, 1), (0.01, 2, 0), (0.01, 1, 1)]
)
def test_an_attack_whose_scores_tie_fails_a_check(scale, gamma, ranks):
    """Ratios of uncertain models are all near 1, and none is twice another."""
    rows, references, member = draw_models(np.random.default_rng(9), scale)
    forget = np.zeros((len(RUNS), NUM_TRAIN), bool)
    forget[:, :8] = True
    config = AuditConfig(num_bootstrap=5, mis=False, gamma=gamma)
    pool = make_pool(config, LABELS, forget, RUNS, references, member)
    measured = measure_rows(pool, rows)
    checks = make_checks(pool, measured.rows, measured.arrays, is_exchangeable=True)
    check = checks[-1]
    assert check.name == "the attack's scores tell samples apart"
    assert check.passed == bool(ranks)
    assert ("100% of the scores" in check.detail) == (not ranks)
    assert ("audit.gamma is 2: try a smaller one" in check.detail) == (not ranks)


def test_the_papers_signatures_of_failure_are_checks():
    rows, references, member = draw_models(np.random.default_rng(8))
    forget = np.zeros((len(RUNS), NUM_TRAIN), bool)
    forget[:, :8] = True
    config = AuditConfig(num_bootstrap=5, mis=False)
    pool = make_pool(config, LABELS, forget, RUNS, references, member)
    measured = {row.key: row for row in measure_rows(pool, rows).rows}
    accuracy = measured["original"].metrics["test_accuracy"].mean

    def signatures(auc, lost, is_exchangeable=True, **options):
        estimates = {
            key: measured["mine"].metrics[key]._replace(mean=mean)
            for key, mean in (("ft_auc", auc), ("test_accuracy", accuracy - lost))
        }
        row = dataclasses.replace(
            measured["mine"], metrics=estimates, attack="", options=options
        )
        table = [measured["original"], measured["retrained"], row]
        found = make_checks(pool, table, {}, is_exchangeable=is_exchangeable)
        return [one for one in found if one.name.startswith("adversarial sets")]

    goal = measured["retrained"].metrics["ft_auc"].mean
    for is_exchangeable in (True, False):
        kept = signatures(goal + 9, 4.9, is_exchangeable)
        assert [one.passed for one in kept] == [True, True]
        left, lost = signatures(goal + 11, 5.2, is_exchangeable)
        assert (left.passed, lost.passed) == (False, False)
        assert "mine, 11.0 points of FT AUC above" in left.detail
        assert left.detail.endswith("; above: mine")
        assert "5.2" in lost.detail
    assert signatures(goal + 11, 5.2, replace="original") == [], "a control may fail"


def test_differences_are_those_of_the_runs():
    rng = np.random.default_rng(6)
    rows, references, member = draw_models(rng)
    rows["other"] = draw_logits(rng, len(RUNS))
    forget = np.zeros((len(RUNS), NUM_TRAIN), bool)
    forget[:2, :8] = True
    forget[2:, 8:16] = True
    config = AuditConfig(num_bootstrap=40, mis=False)
    pool = make_pool(config, LABELS, forget, RUNS, references, member)
    baselines = {"mine": "other", "other": "left out by the user"}
    measured = {row.key: row for row in measure_rows(pool, rows, baselines).rows}
    values = {key: np.array(row.values["ft_auc"]) for key, row in measured.items()}
    assert "baseline" not in measured["other"].differences["ft_auc"]
    to_baseline = measured["mine"].differences["ft_auc"]["baseline"]
    mean = np.mean(values["mine"] - values["other"])
    assert to_baseline.mean == pytest.approx(mean, abs=1e-3)
    assert to_baseline.low < mean < to_baseline.high
    for key, other in (("mine", "other"), ("other", "mine")):
        own = measured[key].differences["ft_auc"]
        names = {"oracle": "retrained", "floor": "retrained_again", "best": other}
        for reference, name in names.items():
            mean = np.mean(values[key] - values[name])
            assert own[reference].mean == pytest.approx(mean, abs=1e-3)
            assert own[reference].low < own[reference].mean < own[reference].high
        spread = np.std(values["retrained_again"] - values["retrained"], ddof=1)
        assert own["oracle"].margin == pytest.approx(spread, abs=1e-3)
        assert measured[key].verdict.state == own["oracle"].state
    assert measured["original"].verdict is None
    assert set(measured["original"].differences["ft_auc"]) == {"oracle"}


def test_a_constant_in_the_logits_moves_taylors_column_and_not_the_soft_one():
    rng = np.random.default_rng(3)
    forget = np.zeros((len(RUNS), NUM_TRAIN), bool)
    forget[:, :12] = True
    rows, references, member = draw_models(rng)
    constant = rng.normal(0, 3, (len(LABELS), 1)).astype(np.float32)
    rows["moved"] = [logits + constant for logits in rows["mine"]]
    config = AuditConfig(num_bootstrap=5, mis=False)
    pool = make_pool(config, LABELS, forget, RUNS, references, member)
    measured = {row.key: row.values for row in measure_rows(pool, rows).rows}
    for key in ("ft_auc_soft", "test_accuracy"):
        assert measured["moved"][key] == pytest.approx(measured["mine"][key], abs=0.5)
    gaps = np.subtract(measured["moved"]["ft_auc"], measured["mine"]["ft_auc"])
    assert np.abs(gaps).max() > 2
    without = references._replace(soft=None)
    pool = make_pool(config, LABELS, forget, RUNS, without, member)
    keys = {metric.key for metric in measure_rows(pool, rows).metrics}
    assert "ft_auc" in keys
    assert "ft_auc_soft" not in keys


def test_scores_of_a_quotient_rank_the_samples_themselves():
    rng = np.random.default_rng(4)
    forget = np.zeros((len(RUNS), NUM_TRAIN), bool)
    forget[:, :12] = True
    rows, references, member = draw_models(rng)
    rows["mine"] = [4 * logits - 6 for logits in rows["mine"]]
    config = AuditConfig(num_bootstrap=5, mis=False, comparison="quotient")
    pool = make_pool(config, LABELS, forget, RUNS, references, member)
    mine = next(row for row in measure_rows(pool, rows).rows if row.key == "mine")
    target = audit.model_signals("taylor_softmax", rows["mine"], LABELS)
    ratio = audit.rmia_ratio(target, references.signal, member)
    assert (ratio < 0).any()
    scores = audit.dominated_fraction(ratio, comparison="quotient")
    mask = np.pad(forget[0], (0, NUM_TEST))
    for run in range(len(RUNS)):
        aucs = audit.forget_aucs(scores[run], mask, TRAIN & ~mask, ~TRAIN)
        assert mine.values["ft_auc"][run] == pytest.approx(100 * aucs.ft, abs=1e-4)
