"""Intervals cover what they should on simulated tables, within binomial tolerances."""

import numpy as np
import pytest
from scipy import stats

from unlearn_jax import audit
from unlearn_jax.contrib.testbeds.tables import (
    TableDesign,
    expected_accuracy,
    expected_auc,
    level_of_accuracy,
    simulate_table,
)
from unlearn_jax.pipeline.config.schema import AuditConfig
from unlearn_jax.pipeline.measure.classes import _mia_nn_gap
from unlearn_jax.pipeline.measure.differences import (
    combine,
    compare,
    equivalence_margin,
    holm,
    more_runs,
)
from unlearn_jax.pipeline.measure.pool import (
    ClassPool,
    ForgottenClasses,
    make_pool,
)
from unlearn_jax.pipeline.measure.rows import estimate, measure_row
from unlearn_jax.pipeline.measure.statistics import Measured, Statistics

NUM_TABLES = 120


def covers(hits, low=0.93, high=0.98):
    """True where a coverage in [low, high] is not excluded at 1e-4 on either side."""
    hits = np.asarray(hits)
    above = stats.binom.sf(hits.sum() - 1, hits.size, high) > 1e-4
    below = stats.binom.cdf(hits.sum(), hits.size, low) > 1e-4
    return bool(above and below)


def measure(rng, design, shifts, level):
    table = simulate_table(rng, design, shifts, [level])
    num_train = design.num_train
    labels = np.zeros(len(table.train), int)
    pool = make_pool(
        AuditConfig(num_bootstrap=100),
        labels,
        table.forget[:, :num_train],
        table.runs,
        None,
        np.zeros((0, len(labels)), bool),
    )
    rows = []
    for row in range(len(shifts)):

        def statistics_of(run, row=row):
            own = Statistics()
            own.mean("accuracy", table.right[row, run], ~pool.train)
            sides = {"forget": pool.forget[run], "test": ~pool.train}
            ranking = audit.Ranking(table.scores[row, run], sides)
            own.roc(ranking, {"auc": ("forget", "test")})
            return own

        measured = pool.measure(statistics_of)
        rows.append(
            {
                key: one._replace(
                    value=100 * one.value, replicates=100 * one.replicates
                )
                for key, one in measured.items()
            }
        )
    return pool, rows


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 20])
def test_means_over_seeds_cover(num_seeds):
    rng = np.random.default_rng(num_seeds)
    estimates = [
        audit.summarize_runs(values) for values in rng.normal(size=(1000, num_seeds))
    ]
    assert covers([one.low <= 0 <= one.high for one in estimates], 0.94, 0.96)


@pytest.mark.parametrize("effect", [0.0, 0.25])
@pytest.mark.parametrize(("originals", "sets"), [(1, 1), (3, 1), (1, 3), (3, 3)])
def test_accuracy_and_auc_of_crossed_runs_cover(originals, sets, effect):
    design = TableDesign(
        originals=originals,
        forget_sets=sets,
        original_std=effect if originals > 1 else 0,
        set_std=effect if sets > 1 else 0,
    )
    level = level_of_accuracy(design, 0.9)
    truth = {
        "accuracy": 100 * expected_accuracy(design, level),
        "auc": 100 * expected_auc(design, 0.3),
    }
    hits = {key: [] for key in truth}
    for number in range(NUM_TABLES):
        rng = np.random.default_rng([originals, sets, number])
        pool, (row,) = measure(rng, design, [0.3], level)
        for key, one in row.items():
            found = estimate(pool, one, "%")
            hits[key].append(found.low <= truth[key] <= found.high)
    for key, own in hits.items():
        assert covers(own), (key, np.mean(own))


def test_paired_differences_find_shifts_that_overlapping_intervals_hide():
    design = TableDesign(original_std=0.1, set_std=0.1)
    found = {"null": [], "shifted": []}
    disjoint = []
    for number in range(60):
        rng = np.random.default_rng(number)
        pool, rows = measure(rng, design, [0.0, 0.0, 0.0, 0.4], 1.0)
        oracle, floor, null, shifted = (row["auc"] for row in rows)
        margin = equivalence_margin(oracle, floor, is_distance=False)
        methods = {"null": null, "shifted": shifted}
        for name, one in compare(pool, methods, oracle, margin).items():
            found[name].append(one.low > 0 or one.high < 0)
            assert one.low <= one.mean <= one.high
            if one.state == "like":
                assert -margin < one.low <= one.high < margin
        ends = estimate(pool, oracle, "%"), estimate(pool, shifted, "%")
        disjoint.append(ends[0].high < ends[1].low)
    assert covers(~np.array(found["null"]))
    assert np.mean(found["shifted"]) > 0.5
    assert np.mean(found["shifted"]) > np.mean(disjoint) + 0.3


def test_attacks_that_fit_a_machine_have_an_interval_only_if_it_is_refitted():
    design = TableDesign(
        originals=2, forget_sets=1, num_train=40, num_test=20, num_forget=10
    )
    table = simulate_table(np.random.default_rng(0), design)
    for refits in (0, 5):
        pool = make_pool(
            AuditConfig(num_bootstrap=10, refits=refits),
            np.zeros(60, int),
            table.forget[:, :40],
            table.runs,
            None,
            np.zeros((0, 60), bool),
        )
        one = pool.mis(table.scores[0], np.broadcast_to(~table.train, (2, 60)))
        found = estimate(pool, one, "%")
        assert one.value.shape == (2,)
        assert (one.replicates is None) == (refits == 0)
        assert np.isnan(found.low) == (refits == 0)
        if refits:
            assert one.replicates.shape == (5, 2)
    margin = table.scores[0]
    drawn = np.concatenate([rows for _, rows in pool.sample_weights])[2]
    samples = np.repeat(np.arange(60), drawn)
    confidence = 1 / (1 + np.exp(-margin[1, samples]))
    forget = pool.forget[1, samples]
    train = pool.train[samples]
    sides = confidence[train & ~forget], confidence[~train], confidence[forget]
    assert one.replicates[2, 1] == audit.mis(*sides).fraction


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_pairs_that_share_their_shadow_models_cover(shift):
    def right(seed):
        rng = np.random.default_rng(seed)
        phi = rng.normal(size=(2, 5, 40)) + 0.3 * rng.normal(size=(2, 5, 1))
        phi[0] += shift
        return audit.ulira(*phi).accuracy

    truth = np.mean([right([1, number]) for number in range(1500)])
    factors = np.arange(5)[:, None]
    hits = []
    for number in range(200):
        accuracy = right([2, number])
        influences = audit.pair_influences(accuracy)
        assert np.isclose(influences.mean(), accuracy.mean())
        found = audit.summarize(
            accuracy, None, factors, bounds=(0, 1), influences=influences
        )
        hits.append(found.low <= truth <= found.high)
    assert covers(hits)


def test_holm_and_the_number_of_runs_that_decide():
    p_values = [0.01, 0.2, np.nan, 0.02]
    corrected = holm(p_values)
    assert np.allclose([corrected[0], corrected[1], corrected[3]], [0.03, 0.2, 0.04])
    assert np.isnan(corrected[2])
    assert combine({}) is None


def crossed(originals, sets):
    return np.argwhere(np.ones((originals, sets), int))


@pytest.mark.parametrize("num_tests", [1, 12])
@pytest.mark.parametrize("mean", [0.4, 0.7])
def test_further_runs_give_a_power_of_80_percent(mean, num_tests):
    variance = audit.MeanVariance(1 / 9, 0.0, 8.0)
    more = more_runs(mean, variance, crossed(9, 1), None, num_tests=(num_tests, 1))
    powers = []
    for count in (9 + more - 1, 9 + more):
        limit = stats.t.isf(0.025 / num_tests, count - 1)
        powers.append(stats.nct.sf(limit, count - 1, mean * np.sqrt(count)))
    assert powers[0] < 0.8 + 1e-3
    assert powers[1] > 0.8 - 1e-3


def test_further_runs_that_show_equivalence():
    more = more_runs(
        0.1, audit.MeanVariance(1 / 9, 0.0, 8.0), crossed(9, 1), 0.5, num_tests=(4, 4)
    )
    rng = np.random.default_rng(0)
    values = rng.normal(0.1, 1.0, size=(20_000, 9 + more))
    errors = values.std(1, ddof=1) / np.sqrt(9 + more)
    limit = stats.t.isf(0.025 / 4, 9 + more - 1)
    shown = np.abs(values.mean(1)) + limit * errors <= 0.5
    assert abs(shown.mean() - 0.8) < 0.02


def test_crossed_factors_grow_alike():
    mean = 1.2
    alone = audit.MeanVariance(1 / 3, 0.0, 2.0)
    levels = 3 + more_runs(mean, alone, crossed(3, 1), None)
    both = 9 + more_runs(mean, alone, crossed(3, 3), None)
    assert (levels - 1) ** 2 < both <= levels**2


@pytest.mark.parametrize(
    "variance", [(1.0, 0.9, 8.0), (1.0, 1.0, np.inf), (1e6, 0.0, 8.0)]
)
def test_runs_that_would_not_decide(variance):
    assert more_runs(0.1, audit.MeanVariance(*variance), crossed(9, 1), None) is None


def test_a_row_that_only_the_correction_leaves_open_needs_more_than_one_run():
    rng = np.random.default_rng(3)
    pool, (row,) = measure(rng, TableDesign(originals=9, forget_sets=1), [0.0], 1.0)
    noise = rng.normal(size=(12, 9))
    noise -= noise.mean(1, keepdims=True)
    noise /= noise.std(1, ddof=1, keepdims=True)
    still = np.zeros_like(row["auc"].replicates)
    rows = {}
    for number, one in enumerate(noise):
        rows[f"row{number}"] = Measured(one + (0.9 if number == 0 else 0.1), still)
    reference = Measured(np.zeros(9), still)
    first = compare(pool, rows, reference, None)["row0"]
    assert first.state == "undecided"
    assert first.low > 0
    alone = compare(pool, {"row0": rows["row0"]}, reference, None)["row0"]
    assert alone.state == "different"
    assert first.more_runs == more_runs(
        0.9, audit.MeanVariance(1 / 9, 0.0, 8.0), pool.factors, None, num_tests=(12, 1)
    )
    assert first.more_runs > 5


def test_differences_of_equal_rows_are_left_out():
    design = TableDesign(originals=2, forget_sets=2)
    pool, (row,) = measure(np.random.default_rng(0), design, [0.0], 1.0)
    assert compare(pool, {"same": row["auc"]}, row["auc"], 1.0) == {}
    bare = Measured(row["auc"].value + 1, None)
    assert compare(pool, {"bare": bare}, row["auc"], 1.0) == {}


def test_attacks_on_forgotten_classes_cover_with_refitted_machines():
    labels = np.tile(np.arange(4), 45)
    train = np.arange(len(labels)) < 120
    forget = (labels == 3)[None]
    shifts = np.array([1.0, 1.0, 0.5])[:, None] * forget * (1 + train)

    def measure(seed, refits):
        rng = np.random.default_rng(seed)
        logits = rng.normal(size=(3, len(labels), 4)) + 2 * np.eye(4)[labels]
        logits[..., 3] -= shifts
        logits[..., 0] += shifts
        config = AuditConfig(
            seed=seed, num_bootstrap=max(refits, 1), refits=refits, ulira=False
        )
        pool = make_pool(
            config,
            labels,
            forget[:, train],
            np.zeros((1, 2), int),
            None,
            np.zeros((0, len(labels)), bool),
            ([logits[0]], [logits[1]]),
        )
        return pool, measure_row(pool, [logits[2]])[0]

    drawn = [measure(1000 + number, 0)[1] for number in range(40)]
    found = [measure(number, 12) for number in range(14)]
    for key, unit in (("mia_kodge", "%"), ("mia_nn", "%"), ("mia_nn_gap", "points")):
        truth = np.mean([one[key].value for one in drawn])
        estimates = [estimate(pool, one[key], unit) for pool, one in found]
        assert all(one.low < one.high for one in estimates)
        hits = [one.low <= truth <= one.high for one in estimates]
        # 49 to 95% of them where the machines are held fixed
        assert sum(hits) >= 12, key


def test_the_gap_to_retrained_models_counts_their_noise():
    rng = np.random.default_rng(0)
    variances = []
    for _ in range(300):
        expected = rng.normal(size=(1, 3)) / np.sqrt(2)
        one = ForgottenClasses(
            classes=(3,), runs=(0, 1, 2), neighbors=(0,), expected={"mia_nn": expected}
        )
        pool = ClassPool(peers=np.zeros((3, 0), bool), oracles=((), ()), sets=(one,))
        score = Measured(9 + rng.normal(size=3), None)
        gap = _mia_nn_gap(pool, score, "mia_nn")
        assert np.allclose(gap.value, score.value - expected.mean())
        factors = np.arange(3)[:, None]
        variances.append(audit.mean_variance(gap.influences, factors=factors).total)
    assert np.isclose(np.mean(variances), (1 + 1 / 2) / 3, rtol=0.15)
