"""Weighted statistics equal statistics of repeated samples; the intervals built from
them cover.
"""

import itertools
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from support import oracles

from unlearn_jax import audit
from unlearn_jax.audit import (
    auc,
    bootstrap,
    interval,
    run_weights,
    sample_weights,
    summarize,
    summarize_runs,
    weighted_auc,
    weighted_mean,
)
from unlearn_jax.types import InputError

SAMPLES = st.lists(
    st.tuples(
        st.sampled_from([-np.inf, -1e30, 0.0, 1.0, 2.0, np.inf]),
        st.sampled_from("+-o"),
        st.integers(0, 3),
    ),
    min_size=2,
    max_size=15,
).filter(lambda rows: {"+", "-"} <= {side for _, side, _ in rows})


@settings(deadline=None, max_examples=150)
@given(SAMPLES)
def test_weighted_auc_equals_repeating_samples(rows):
    scores = np.array([score for score, _, _ in rows])
    positive, negative = (
        np.array([side == mark for _, side, _ in rows]) for mark in "+-"
    )
    counts = np.array([count for _, _, count in rows])
    weights = np.stack([counts, np.ones_like(counts), counts[::-1]])
    expected = [
        oracles.repeated_auc(scores, positive, negative, row) for row in weights
    ]
    assert np.allclose(
        weighted_auc(scores, positive, negative, weights),
        expected,
        rtol=1e-12,
        equal_nan=True,
    )


def test_weighted_auc_is_the_same_in_blocks_in_any_order_and_for_jax_arrays():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 40, 3000).astype(np.float32)
    positive = rng.random(3000) < 0.3
    negative = ~positive & (rng.random(3000) < 0.8)
    weights = sample_weights(rng, 200, positive)  # several blocks of rows
    value = weighted_auc(scores, positive, negative, weights)
    for row in (0, 86, 87, 199):
        kept = np.repeat(np.arange(3000), weights[row])
        kept = kept[(positive | negative)[kept]]
        assert np.isclose(value[row], auc(scores[kept], positive[kept]), rtol=1e-13)
    order = rng.permutation(3000)
    assert np.array_equal(
        weighted_auc(
            scores[order], positive[order], negative[order], weights[:, order]
        ),
        value,
    )
    on_device = [jnp.asarray(x) for x in (scores, positive, negative, weights)]
    assert np.array_equal(weighted_auc(*on_device), value)
    assert np.allclose(
        weighted_auc(scores, positive, negative, weights * 0.25), value, rtol=1e-13
    )
    assert np.allclose(weighted_auc(scores, negative, positive, weights), 1 - value)
    assert not np.isclose(
        weighted_auc(scores, np.roll(positive, 1), ~np.roll(positive, 1), weights),
        value,
    ).all()


def test_weighted_mean_equals_repeating_samples():
    rng = np.random.default_rng(1)
    values = rng.normal(size=90)
    mask = rng.random(90) < 0.5
    values[~mask] = np.nan  # never read
    weights = sample_weights(rng, 30, np.zeros(90, int))
    expected = [np.repeat(values[mask], row[mask]).mean() for row in weights]
    assert np.allclose(weighted_mean(values, mask, weights), expected, rtol=1e-12)
    assert np.isnan(weighted_mean([1.0, 2.0], [True, False], [[0, 5]])).all()


def test_sample_weights_are_multinomial_within_strata():
    strata = np.array([0] * 30 + [1] * 10 + [0] * 20 + [7])
    weights = sample_weights(np.random.default_rng(0), 4000, strata)
    assert weights.shape == (4000, 61)
    for stratum in (0, 1, 7):
        assert (weights[:, strata == stratum].sum(1) == (strata == stratum).sum()).all()
    assert np.allclose(weights.mean(0), 1, atol=0.08)
    assert np.allclose(weights[:, strata == 1].var(0), 0.9, atol=0.12)
    first, second = weights[:, 30], weights[:, 31]
    assert abs(np.cov(first, second)[0, 1] + 0.1) < 0.06
    again = sample_weights(np.random.default_rng(0), 4000, strata)
    assert np.array_equal(again, weights)


@pytest.mark.parametrize("kept", [0, 1 << 30])
def test_blocks_of_sample_weights_are_the_rows_of_one_array(monkeypatch, kept):
    monkeypatch.setattr(bootstrap, "_KEPT", kept)
    strata = np.arange(5000) % 3
    rng = np.random.default_rng(4)
    expected = np.zeros((130, 5000), int)
    for stratum in range(3):
        samples = np.flatnonzero(strata == stratum)
        for row in expected:
            drawn = rng.integers(samples.size, size=samples.size, dtype=np.int32)
            np.add.at(row, samples[drawn], 1)
    own = np.random.default_rng(4)
    weights = audit.SampleWeights(own, 130, strata)
    assert own.bit_generator.state == rng.bit_generator.state
    assert weights.shape == expected.shape
    assert len(weights) > 2
    for number in (2, 0, 1):  # in any order
        rows, block = weights.block(number)
        assert np.array_equal(block, expected[rows])
    assert np.array_equal(np.concatenate([block for _, block in weights]), expected)
    whole = sample_weights(np.random.default_rng(4), 130, strata)
    assert np.array_equal(whole, expected)


def test_large_sample_weights_are_never_in_memory_together():
    tracemalloc.start()
    weights = audit.SampleWeights(np.random.default_rng(0), 1000, np.zeros(10**5, int))
    rows, block = weights.block(len(weights) - 1)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows.stop == 1000
    assert block.sum() == 10**5 * len(block)
    assert peak < 2**23 < 10**8  # bytes, of 10**8 counts


@pytest.mark.parametrize("seed", range(5))
def test_ranking_equals_curves_of_repeated_samples(seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-6, 6, 80) / 2
    steps = np.floor(scores)  # more ties
    part = rng.integers(0, 4, 80)
    masks = {name: part == number for number, name in enumerate("abc")}
    ranking = audit.Ranking(scores, masks, steps=steps)
    weights = rng.integers(0, 3, (6, 80))
    weights[5, masks["b"]] = 0
    curves = ranking.weighted(weights)
    for positive, negative in itertools.permutations("abc", 2):
        sides = masks[positive], masks[negative]
        areas = curves.auc(positive, negative)
        expected = [oracles.repeated_auc(steps, *sides, row) for row in weights]
        assert np.array_equal(np.isnan(areas), np.isnan(expected))
        assert np.allclose(areas, expected, rtol=1e-14, equal_nan=True)
        for max_fpr in (0.0, 0.1, 0.5, 1.0):
            rates = curves.tpr(positive, negative, max_fpr=max_fpr)
            for rate, row in zip(rates, weights, strict=True):
                above = np.repeat(scores[sides[0]], row[sides[0]])
                below = np.repeat(scores[sides[1]], row[sides[1]])
                if not above.size or not below.size:
                    assert np.isnan(rate)
                    continue
                levels = [-np.inf, *np.unique(below)]
                allowed = [
                    np.mean(above > level)
                    for level in levels
                    if np.mean(below > level) <= max_fpr
                ]
                assert rate == max(allowed)


def test_a_ranking_takes_weights_as_a_list():
    curves = audit.Ranking([2, 1], {"a": [True, False], "b": [False, True]})
    assert curves.weighted([[1, 1]]).auc("a", "b") == 1


def test_run_weights_are_products_of_level_counts():
    factors = np.array([[o, f] for o in (1, 10, 100) for f in (5, 6) for _ in range(2)])
    weights = run_weights(np.random.default_rng(0), 3000, factors)
    assert weights.shape == (3000, 12)
    assert np.array_equal(
        weights[:, ::2], weights[:, 1::2]
    )  # repeats of a cell share their weight
    assert (
        weights.sum(1) == 12
    ).all()  # complete design: (3 counts sum to 3) x (2 to 2) x 2 repeats
    assert np.allclose(weights.mean(0), 1, atol=0.12)
    table = weights[:, ::2].reshape(-1, 3, 2)
    assert np.array_equal(
        table[:, 0, 0] * table[:, 1, 1], table[:, 0, 1] * table[:, 1, 0]
    )  # rank one
    only_sets = run_weights(np.random.default_rng(0), 100, [[4, 0], [4, 1], [4, 2]])
    assert (only_sets.sum(1) == 3).all()
    assert only_sets.std() > 0


def test_interval_is_the_percentile_interval_and_holds_the_estimate():
    replicates = np.arange(1001) / 1000
    assert np.allclose(interval(replicates, 0.5), (0.025, 0.975))
    assert np.allclose(interval(replicates, 0.5, level=0.9), (0.05, 0.95))
    assert interval(replicates, -3.0).low == -3
    assert interval([0.5, 0.5], 0.5) == (-np.inf, np.inf)  # no information
    assert interval([0.5, 0.5], 0.5, bounds=(0, 1)) == (0, 1)
    assert interval(replicates, 7.0).high == 7
    without = interval([np.nan, np.nan], 0.5)
    assert np.isnan(without.low)
    assert np.isnan(without.high)
    assert interval([*replicates, np.nan], 0.5) == interval(replicates, 0.5)
    assert f"{interval(replicates, 0.5):.2f}" == "[0.03, 0.97]"
    estimate = summarize([0.5], [[np.nan], [np.nan]])
    assert (estimate.num_dropped, np.isnan(estimate.low)) == (2, True)


def test_twenty_of_twenty_right_has_a_width():
    ones = np.ones(20)
    weights = sample_weights(np.random.default_rng(0), 1000, np.ones(20, bool))
    replicates = weighted_mean(ones, np.ones(20, bool), weights)
    assert interval(replicates, 1.0, level=0.95).low < 0.999
    exact = audit.clopper_pearson(20, 20)
    assert interval(replicates, 1.0, num_samples=20) == exact
    estimate = summarize([1.0], replicates[:, None], bounds=(0, 1), num_samples=20)
    assert (estimate.low, estimate.high) == exact
    none = summarize([0.0], [[0.0], [0.0]], bounds=(0, 100), num_samples=1)
    assert (none.low, none.high) == (0, pytest.approx(97.5))
    unknown = summarize([3.0, 3.0], None, [[0], [1]])
    assert np.isnan(unknown.low), "seeds that agree tell nothing"


def test_samples_that_agree_have_a_width_inside_the_bounds():
    tied = summarize([50.0], np.full((9, 1), 50.0), bounds=(0, 100), num_samples=90)
    other = 1 - 0.025 ** (1 / 90)
    ends = 50 - 50 * other, 50 + 50 * other
    assert (tied.low, tied.high) == pytest.approx(ends)
    assert interval([0.5, 0.5], 0.5, num_samples=90, bounds=(0, 1)) == pytest.approx(
        tuple(end / 100 for end in ends)
    )
    unbounded = summarize([2.0], [[2.0], [2.0]], bounds=(0, np.inf), num_samples=90)
    assert np.isnan(unbounded.low)


def test_a_mean_at_a_bound_has_a_width_whatever_rounding_left_of_its_variance():
    variance = audit.MeanVariance(total=1e-12, samples=0.0, df=3.0)
    ends = audit.mean_interval(100.0, variance, bounds=(0, 100), num_samples=20)
    assert tuple(ends) == pytest.approx((83.2, 100), abs=0.1)


def test_seeds_alone_have_students_interval():
    values = np.random.default_rng(0).normal(size=5)
    low, high = stats.t.interval(0.95, 4, values.mean(), stats.sem(values))
    estimate = summarize_runs(values)
    assert np.allclose((estimate.low, estimate.high), (low, high))
    assert np.isnan(summarize_runs([1.0]).low)
    clipped = summarize_runs([0.1, 3.0], bounds=(0, np.inf))
    assert clipped.low == 0


def test_a_constant_added_to_all_runs_moves_their_interval_along():
    expected = np.array(summarize_runs([1.0, 2.0, 4.0])[:4])
    shifted = np.array(summarize_runs([1e9 + 1, 1e9 + 2, 1e9 + 4])[:4])
    assert np.allclose(shifted - [1e9, 0, 1e9, 1e9], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.37, 12.5, 1e6])
def test_a_factor_without_an_effect_keeps_the_degrees_of_freedom_of_the_other(shift):
    factors = [(original, one) for original in range(3) for one in range(10)]
    values = shift + np.repeat([0.896, 0.88, 0.909], 10)
    draws = np.random.default_rng(0).normal(values[::10], 0.01, (50, 3))
    replicates = np.repeat(draws, 10, axis=1)
    variance = audit.mean_variance(values, replicates, factors, num_samples=300)
    assert 2 <= variance.df <= 2.5


def test_crossed_runs_have_the_variance_of_the_two_way_model():
    values = np.random.default_rng(3).normal(size=(3, 4))
    variance = audit.mean_variance(
        values.ravel(), factors=np.indices((3, 4)).reshape(2, -1).T
    )
    center = values.mean()
    rows = values.mean(1) - center
    columns = values.mean(0) - center
    residual = values - center - rows[:, None] - columns
    squares = [
        4 * (rows**2).sum() / 2,
        3 * (columns**2).sum() / 3,
        (residual**2).sum() / 6,
    ]
    inner = min(squares)
    expected = (squares[0] + squares[1] - inner) / 12
    assert np.isclose(variance.total, expected)
    spread = [(squares[0] / 12) ** 1.5 / 2, (squares[1] / 12) ** 1.5 / 3]
    if squares[2] > inner or min(squares[:2]) == inner:
        del spread[int(np.argmin(squares[:2]))]
    df = expected**1.5 / sum(spread)
    assert np.isclose(variance.df, df)
    repeats = np.repeat(values, 2, axis=0).reshape(3, 2, 4).ravel()
    factors = np.indices((3, 2, 4))[[0, 2]].reshape(2, -1).T
    assert np.isclose(audit.mean_variance(repeats, factors=factors).total, expected)
    nested = [[i // 4, i] for i in range(12)]
    by_seed = audit.mean_variance(values.ravel(), factors=nested)
    assert np.isclose(by_seed.total, rows.var(ddof=1) / 3)
    assert by_seed.df == 2


@pytest.mark.parametrize("runs", [(3, 3, 1), (9, 1, 1, 1), (5, 1)])
def test_levels_with_unequal_numbers_of_runs_cover(runs):
    rng = np.random.default_rng(0)
    level = np.repeat(np.arange(len(runs)), runs)
    variances = []
    hits = []
    for _ in range(1000):
        values = rng.normal(size=len(runs))[level] + 0.3 * rng.normal(size=len(level))
        variances.append(audit.mean_variance(values, factors=level[:, None]))
        ends = audit.mean_interval(values.mean(), variances[-1])
        hits.append(ends.low <= 0 <= ends.high)
    fractions = np.array(runs) / len(level)
    truth = (fractions**2).sum() + 0.3**2 / len(level)
    assert np.mean([one.total for one in variances]) == pytest.approx(truth, rel=0.1)
    assert 0.93 <= np.mean(hits) <= 0.98


@pytest.mark.parametrize("shape", [(3, 1), (3, 10), (7, 3), (20, 6)])
def test_levels_with_equal_numbers_of_runs_have_the_mean_square_to_the_bit(shape):
    count, num_repeats = shape
    num_runs = count * num_repeats
    values = np.random.default_rng(0).normal(size=num_runs)
    level = np.repeat(np.arange(count), num_repeats)
    sums = (np.eye(num_runs) - 1 / num_runs) @ np.eye(count)[level]
    form = count / (count - 1) / num_runs**2 * sums @ sums.T
    deviations = values - values.mean()
    variance = audit.mean_variance(values, factors=level[:, None])
    assert variance.total == deviations @ form @ deviations


def test_samples_that_all_runs_share_are_counted_once():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=(4000, 1))
    own = 0.5 * rng.normal(size=(4000, 3))
    values = np.array([0.1, 0.2, 0.9])
    factors = [[0], [1], [2]]
    variance = audit.mean_variance(values, shared + own, factors)
    assert np.isclose(variance.samples, 1.0, atol=0.1)
    between = values.var(ddof=1) / 3
    excess = max(between - 0.25 / 3, 0)
    assert np.isclose(variance.total, 1.0 + 0.25 / 3 + excess, atol=0.1)
    fixed = audit.mean_variance(values, shared + own)
    assert np.isclose(fixed.total, 1.0 + 0.25 / 3, atol=0.1)
    few = audit.mean_variance(values, shared + own, num_samples=5)
    assert np.isclose(few.total, 1.25 * fixed.total)
    assert few.df == 4


def test_summarize_drops_replicates_without_a_value():
    values = [0.2, 0.4, 0.9]
    replicates = np.random.default_rng(0).normal(size=(50, 3))
    replicates[7, 1] = np.nan
    estimate = summarize(values, replicates)
    whole = summarize(values, np.delete(replicates, 7, axis=0))
    assert estimate == whole._replace(num_dropped=1)
    assert np.isclose(estimate.std, np.std(values, ddof=1))


def _simulated_estimate(rng, num_originals, num_sets, shift=0.0):
    """FT AUC of every (original, forget set) over one pool; at shift 0 the scores are
    exchangeable.
    """
    num_train, num_test, num_forget = 160, 80, 40
    test = np.arange(num_train + num_test) >= num_train
    hardness = rng.normal(size=test.size)  # shared by all runs: this correlates them
    forget = np.zeros((num_sets, test.size), bool)
    for row in forget:
        row[rng.choice(num_train, num_forget, replace=False)] = True
    weights = sample_weights(rng, 200, test)
    factors, points, replicates = [], [], []
    for original in range(num_originals):
        scores = hardness + 0.5 * rng.normal(size=test.size)
        for index, mask in enumerate(forget):
            run = scores + 0.5 * rng.normal(size=test.size) + shift * mask
            pool = mask | test
            factors.append((original, index))
            points.append(auc(run[pool], mask[pool]))
            replicates.append(weighted_auc(run, mask, test, weights))
    return summarize(
        points,
        np.stack(replicates, axis=1),
        factors,
        bounds=(0, 1),
        num_samples=num_forget,
    )


@pytest.mark.parametrize(("num_originals", "num_sets"), [(1, 1), (2, 3), (3, 3)])
def test_interval_covers_half_on_exchangeable_scores(num_originals, num_sets):
    rng = np.random.default_rng(num_originals * 10 + num_sets)
    estimates = [_simulated_estimate(rng, num_originals, num_sets) for _ in range(200)]
    covered = np.mean([e.low <= 0.5 <= e.high for e in estimates])
    assert covered >= 0.9
    spread = np.std([e.mean for e in estimates])
    width = np.mean([e.high - e.low for e in estimates])
    assert 0.85 < width / (3.92 * spread) < 1.7  # neither too short nor uselessly long
    assert all(e.num_dropped == 0 for e in estimates)


def test_interval_excludes_half_when_forget_samples_stand_out():
    rng = np.random.default_rng(0)
    assert _simulated_estimate(rng, 2, 2, shift=1.5).low > 0.5


def test_treating_runs_as_independent_would_be_too_short():
    rng = np.random.default_rng(4)
    estimates = [_simulated_estimate(rng, 3, 3) for _ in range(60)]
    naive = np.mean([2 * 1.96 * e.std / np.sqrt(e.num_runs) for e in estimates])
    assert naive < 3.92 * np.std([e.mean for e in estimates])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: sample_weights(r, 0, [0, 1]), "num_replicates must be"),
        (lambda r: sample_weights(r, 5, [0.5, 1.0]), "integer per sample"),
        (lambda r: sample_weights(r, 5, [[0, 1]]), "integer per sample"),
        (lambda r: run_weights(r, 0, [[0, 1]]), "num_replicates must be"),
        (lambda r: run_weights(r, 5, [0, 1]), r"\[R, 2\] integers"),
        (
            lambda r: weighted_auc(
                [1, 2], [True, True], [False, True], np.ones((1, 2))
            ),
            "overlap",
        ),
        (
            lambda r: weighted_auc(
                [1, 2], [True, False], [False, False], np.ones((1, 2))
            ),
            "negative is empty",
        ),
        (
            lambda r: weighted_auc(
                [1, 2], [False, False], [False, True], np.ones((1, 2))
            ),
            "positive is empty",
        ),
        (
            lambda r: weighted_auc(
                [np.nan, 2], [True, False], [False, True], np.ones((1, 2))
            ),
            "1 NaN",
        ),
        (
            lambda r: weighted_auc([1, 2], [True, False], [False, True], np.ones(2)),
            r"\[B, 2\]",
        ),
        (
            lambda r: weighted_auc(
                [1, 2], [True, False], [False, True], -np.ones((1, 2))
            ),
            "negative or NaN",
        ),
        (
            lambda r: weighted_auc([1, 2], [True, False], [False, True], [[1, np.nan]]),
            "negative or NaN",
        ),
        (
            lambda r: weighted_auc([1, 2], [1, 0], [False, True], np.ones((1, 2))),
            "boolean",
        ),
        (lambda r: weighted_mean([1, 2], [False, False], np.ones((1, 2))), "empty"),
        (
            lambda r: weighted_mean([1, np.inf], [True, True], np.ones((1, 2))),
            "NaN or infinite",
        ),
        (lambda r: sample_weights(r, 2.5, [0, 1]), "num_replicates must be"),
        (lambda r: interval([0.5], np.nan), "estimate is NaN"),
        (lambda r: interval([0.5], 0.5, level=0.0), "between 0 and 1"),
        (lambda r: interval([], 0.5), "at least one"),
        (lambda r: interval([2.0], 2.0, bounds=(0, 1)), "2 is not within the bounds"),
        (lambda r: interval([1.5], 2.0, bounds=(0, 1)), "2 is not within the bounds"),
        (lambda r: interval([0.5], 0.5, bounds=(1, 0)), "not within the bounds"),
        (lambda r: summarize([0.5, np.nan], np.ones((3, 2))), "NaN or infinite"),
        (lambda r: summarize([0.5, 0.5], np.ones((3, 3))), r"\[B, 2\]"),
        (lambda r: summarize([0.5, 0.5], None, np.ones((2, 1))), "integers"),
        (lambda r: summarize([0.5, 0.5], None, [[0], [1], [2]]), "one row per value"),
    ],
)
def test_bad_input_is_one_line(call, message):
    with pytest.raises(InputError, match=message):
        call(np.random.default_rng(0))


@pytest.mark.parametrize("max_fpr", [0.0, 0.01, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("decimals", [1, 6])
def test_weighted_tpr_equals_the_curve_of_repeated_samples(max_fpr, decimals):
    rng = np.random.default_rng(4)
    scores = np.round(rng.normal(size=60), decimals)  # one decimal: many ties
    positive = rng.random(60) < 0.4
    negative = ~positive & (rng.random(60) < 0.8)
    weights = rng.integers(0, 4, (20, 60))
    got = audit.weighted_tpr(scores, positive, negative, weights, max_fpr=max_fpr)
    for weight, value in zip(weights, got, strict=True):
        repeated = np.repeat(np.arange(60), weight * (positive | negative))
        curve = audit.roc(scores[repeated], positive[repeated])
        assert value == pytest.approx(curve.tpr_at_fpr(max_fpr))


def test_weighted_tpr_without_weight_is_nan_and_refuses_bad_rates():
    masks = np.array([True, False]), np.array([False, True])
    assert np.isnan(
        audit.weighted_tpr([1.0, 0.0], *masks, np.array([[0, 1], [1, 0]]), max_fpr=0.1)
    ).all()
    with pytest.raises(InputError, match="max_fpr"):
        audit.weighted_tpr([1.0, 0.0], *masks, np.ones((1, 2)), max_fpr=2)
