"""KLoM equals its definition bin by bin; its summary's intervals have the width they
should.
"""

import itertools
import math
import tracemalloc

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from support.refusals import assert_refused

from unlearn_jax.audit import klom, klom_summary

# Ties, constants, values on bin edges, and values that must be clipped.
MARGINS = st.one_of(
    st.sampled_from([-math.inf, -200.0, -1.0, 0.0, 0.5, 1.0, 100.0, math.inf]),
    st.floats(-3, 3),
)


def ensembles(num_samples):
    return st.tuples(
        *(
            st.integers(2, 8).flatmap(
                lambda m: arrays(float, (m, num_samples), elements=MARGINS)
            ),
        )
        * 2
    )


def one_sample(unlearned, oracle, *, num_bins=20, max_margin=100.0, floor=1e-5):
    """The definition for one sample, in plain Python."""
    sides = [
        [min(max(v, -max_margin), max_margin) for v in side]
        for side in (unlearned, oracle)
    ]
    start, end = min(map(min, sides)), max(map(max, sides))
    if start == end:
        return 0.0
    edges = np.linspace(start, end, num_bins + 1)
    edges[-1] = math.inf  # the last bin is closed
    total = 0.0
    for low, high in itertools.pairwise(edges):
        p, q = (sum(low <= v < high for v in side) / len(side) for side in sides)
        if p > 0:
            total += p * math.log(p / max(q, floor))
    return total


@settings(deadline=None, max_examples=100)
@given(ensembles(3), st.sampled_from([1, 2, 20]), st.sampled_from([1e-5, 0.01]))
def test_equals_the_definition(margins, num_bins, floor):
    unlearned, oracle = margins
    options = {"num_bins": num_bins, "floor": floor}
    got = klom(unlearned, oracle, **options)
    expected = [
        one_sample(u, o, **options) for u, o in zip(unlearned.T, oracle.T, strict=True)
    ]
    assert np.allclose(got, expected, rtol=1e-12, atol=1e-15)
    assert (got >= -num_bins * floor - 1e-15).all()
    assert (got <= -math.log(floor) + 1e-12).all()


def test_models_and_samples_have_no_order_and_jax_arrays_pass():
    rng = np.random.default_rng(0)
    unlearned, oracle = (
        rng.normal(0.5, 1, (30, 12)).astype(np.float32),
        rng.normal(size=(20, 12)).astype(np.float32),
    )
    value = klom(unlearned, oracle)
    samples = rng.permutation(12)
    assert value.shape == (12,)
    assert np.array_equal(
        klom(unlearned[::-1, samples], oracle[rng.permutation(20)][:, samples]),
        value[samples],
    )
    assert np.array_equal(klom(jnp.asarray(unlearned), jnp.asarray(oracle)), value)
    assert not np.allclose(
        klom(oracle, unlearned), value
    )  # the divergence has a direction


def test_klom_is_zero_for_equal_models_and_bounded_by_the_floor():
    rng = np.random.default_rng(1)
    oracle = rng.normal(size=(50, 40))
    assert np.array_equal(klom(oracle[::-1], oracle), np.zeros(40))
    assert np.allclose(klom(oracle / 100 + 60, oracle, floor=1e-3), -math.log(1e-3))
    assert (
        klom(oracle + 60, oracle, floor=1e-3) < -math.log(1e-3)
    ).all()  # spread over bins, each as empty
    shifted = [klom(oracle + shift, oracle).mean() for shift in (0.0, 0.5, 1.0, 2.0)]
    assert shifted == sorted(shifted)
    # the oracles cover the unlearned margins: cheap; the other way round, the empty
    # oracle bins cost
    assert klom(oracle, 5 * oracle).mean() < klom(5 * oracle, oracle).mean()


def test_infinities_and_outliers_are_clipped():
    rng = np.random.default_rng(2)
    unlearned, oracle = rng.normal(size=(2, 20, 3))
    wild = unlearned.copy()
    wild[0, 0], wild[1, 0] = math.inf, -math.inf
    clipped = unlearned.copy()
    clipped[0, 0], clipped[1, 0] = 7, -7
    assert np.array_equal(
        klom(wild, oracle, max_margin=7), klom(clipped, oracle, max_margin=7)
    )
    assert not np.allclose(
        klom(wild, oracle, max_margin=9)[0], klom(clipped, oracle, max_margin=7)[0]
    )


def test_bias_matches_the_table_of_the_docstring():
    rng = np.random.default_rng(3)
    for models, mean, p95 in ((20, 3.1, 5.0), (100, 0.35, 0.68)):
        value = klom(rng.normal(size=(models, 4000)), rng.normal(size=(models, 4000)))
        assert abs(value.mean() / mean - 1) < 0.05
        assert abs(np.quantile(value, 0.95) / p95 - 1) < 0.06


def test_summary_of_a_mask():
    rng = np.random.default_rng(4)
    values, mask = rng.gamma(2, size=900), rng.random(900) < 0.5
    summary = klom_summary(values, mask)
    kept = sorted(values[mask])
    assert summary == klom_summary(values[mask])
    assert math.isclose(summary.mean, sum(kept) / len(kept))
    assert summary.num_samples == len(kept)
    position = 0.95 * (len(kept) - 1)
    below = int(position)
    assert math.isclose(
        summary.p95, kept[below] + (position - below) * (kept[below + 1] - kept[below])
    )
    assert math.isclose(summary.median, np.median(kept))
    for point, (low, high) in zip(summary[:3], summary[3:6], strict=True):
        assert low < point < high
    width = summary.mean_interval.high - summary.mean_interval.low
    assert abs(width / (3.92 * np.std(kept) / math.sqrt(len(kept))) - 1) < 0.1
    narrow = klom_summary(values, mask, level=0.5).p95_interval
    assert (
        summary.p95_interval.low < narrow.low < narrow.high < summary.p95_interval.high
    )


def test_intervals_of_quantiles_are_order_statistics():
    values = np.random.default_rng(5).permutation(np.arange(1.0, 101.0) / 10)
    summary = klom_summary(values)
    # P(Bin(100, 1/2) <= 39) = 0.0176 and P(Bin(100, 0.95) >= 99) = 0.037
    assert summary.median_interval == (4.0, 6.1)
    assert summary.p95_interval == (9.0, 10.0)
    few = klom_summary(values[:20]).p95_interval
    assert few.high == 11.52, "no sample of 20 is surely above the 95th percentile"
    laws = stats.binom.cdf([40 - 1, 60], 100, 0.5)
    assert laws[0] <= 0.025 < 0.975 <= laws[1]


def test_a_summary_takes_memory_linear_in_the_samples():
    values = np.random.default_rng(0).exponential(size=4000)
    tracemalloc.start()
    klom_summary(values)
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()


def test_samples_that_agree_have_finite_intervals():
    summary = klom_summary(np.full(50, 2.0))
    other = 1 - 0.025 ** (1 / 50)
    assert summary.mean_interval == pytest.approx((2 - 2 * other, 2 + 9.52 * other))
    assert summary.median_interval == (2.0, 2.0)
    assert summary.p95_interval == (2.0, 11.52)
    single = klom_summary([3.0])
    assert single.mean_interval == pytest.approx((3 - 0.975 * 3, 3 + 0.975 * 8.52))
    assert single.median_interval == (0.0, 11.52)


ONES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: klom(np.ones(3), ONES), "2 axes"),
        (lambda: klom(ONES, ONES[:1]), "reference has 1 model"),
        (lambda: klom(ONES, ONES[:, :2]), "3 and 2 samples"),
        (lambda: klom(ONES * np.nan, ONES), "target has 6 NaN"),
        (lambda: klom(ONES, ONES, num_bins=0), "num_bins must be"),
        (lambda: klom(ONES, ONES, max_margin=math.inf), "max_margin must be"),
        (lambda: klom(ONES, ONES, floor=0.0), "floor is 0.0"),
        (lambda: klom_summary(ONES), "1 axes"),
        (lambda: klom_summary([1.0, math.inf]), "values has 1"),
        (lambda: klom_summary([1.0], [False]), "mask is empty"),
        (lambda: klom_summary([1.0], [1]), "boolean"),
        (lambda: klom_summary([1.0], level=1.0), "between 0 and 1"),
        (lambda: klom_summary([1.0], bounds=(1.0, 1.0)), "bounds are"),
    ],
)
def test_bad_input_is_one_line(call, message):
    assert_refused(call, message)
