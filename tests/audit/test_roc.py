"""The curve and its area equal counting; ties are one step; intervals cover."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import oracles
from support.refusals import assert_refused

from unlearn_jax.audit import auc, auc_interval, clopper_pearson, roc

SCORE = st.sampled_from([-np.inf, -1e300, -1.0, 0.0, 1.0, 1e-300, 1e300, np.inf])
CASES = st.lists(st.tuples(SCORE, st.booleans()), min_size=2, max_size=30).filter(
    lambda pairs: len({member for _, member in pairs}) == 2
)


@settings(deadline=None, max_examples=150)
@given(CASES)
def test_curve_equals_counting(pairs):
    scores, is_member = np.array([s for s, _ in pairs]), np.array([m for _, m in pairs])
    curve = roc(scores, is_member)
    assert np.isclose(curve.auc, oracles.mann_whitney(scores, is_member), rtol=1e-12)
    assert curve.thresholds[0] == np.inf
    assert (curve.fpr[0], curve.tpr[0]) == (0, 0)
    for fpr, tpr, threshold in list(
        zip(curve.fpr, curve.tpr, curve.thresholds, strict=True)
    )[1:]:
        assert (fpr, tpr) == oracles.rates(scores, is_member, threshold)
    assert len(curve.fpr) == 1 + len(set(scores.tolist()))
    finite = np.isfinite(scores).all()
    assert not finite or np.isclose(
        curve.balanced_accuracy, oracles.balanced_accuracy(scores, is_member)
    )


@settings(deadline=None, max_examples=80)
@given(CASES, st.floats(0, 1))
def test_tpr_at_fpr_is_the_best_allowed_step(pairs, max_fpr):
    scores, is_member = np.array([s for s, _ in pairs]), np.array([m for _, m in pairs])
    rates = [oracles.rates(scores, is_member, t) for t in scores]
    best = max([tpr for fpr, tpr in rates if fpr <= max_fpr], default=0.0)
    assert roc(scores, is_member).tpr_at_fpr(max_fpr) == best


def test_auc_ignores_order_and_flips_with_sign_and_labels():
    rng = np.random.default_rng(0)
    scores, is_member = rng.integers(0, 9, 80).astype(np.float32), rng.random(80) < 0.4
    area = auc(scores, is_member)
    order = rng.permutation(80)
    assert auc(scores[order], is_member[order]) == area
    assert np.isclose(auc(scores, ~is_member), 1 - area)
    assert np.isclose(auc(-scores, is_member), 1 - area)
    assert auc(jnp.asarray(scores), jnp.asarray(is_member)) == area
    assert auc(np.where(is_member, 1.0, 0.0), is_member) == 1.0
    assert auc(np.zeros(80), is_member) == 0.5


def test_tied_scores_share_a_threshold():
    curve = roc(np.zeros(10), np.arange(10) < 5)
    assert curve.fpr.tolist() == [0, 1]
    assert curve.tpr_at_fpr(0.99) == 0
    assert curve.balanced_accuracy == 0.5


def test_large_counts_stay_exact():
    n = 200_000
    is_member = np.arange(2 * n) % 2 == 0
    assert auc(np.arange(2 * n), is_member) == (n - 1) / 2 / n


def test_interval_contains_half_on_exchangeable_scores_and_one_when_separated():
    rng = np.random.default_rng(1)
    is_member = np.arange(400) < 200
    low, high = auc_interval(rng.normal(size=400), is_member)
    assert low < 0.5 < high
    assert 0.08 < high - low < 0.15  # sqrt((m + n + 1) / (12 m n)) = 0.029, times 3.92
    assert auc_interval(
        np.where(is_member, 2.0, 1.0), is_member, num_replicates=50
    ) == clopper_pearson(200, 200)
    assert auc_interval(rng.normal(size=400) + is_member, is_member).low > 0.5


def test_interval_repeats_with_its_seed():
    scores, is_member = np.random.default_rng(2).normal(size=60), np.arange(60) < 30
    first = auc_interval(scores, is_member, num_replicates=100)
    assert auc_interval(scores, is_member, num_replicates=100) == first
    assert auc_interval(scores, is_member, num_replicates=100, seed=1) != first


@pytest.mark.parametrize(
    ("count", "total"), [(0, 1), (0, 20), (3, 20), (20, 20), (7, 500)]
)
def test_clopper_pearson_inverts_the_binomial_tails(count, total):
    low, high = clopper_pearson(count, total, level=0.9)
    if count:
        assert np.isclose(oracles.binomial_tail(count, total, low), 0.05, rtol=1e-6)
    else:
        assert low == 0
    if count < total:
        assert np.isclose(
            1 - oracles.binomial_tail(count + 1, total, high), 0.05, rtol=1e-6
        )
    else:
        assert high == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: roc([1.0, 2.0], [True, True]), "one class"),
        (lambda: auc([1.0, 2.0], [False, False]), "one class"),
        (lambda: roc([1.0, np.nan], [True, False]), "1 NaN"),
        (lambda: roc([1.0, 2.0], [1, 0]), "boolean"),
        (lambda: roc([1.0, 2.0, 3.0], [True, False]), "shape"),
        (lambda: roc([[1.0, 2.0]], [[True, False]]), "1 axes"),
        (lambda: roc([], np.zeros(0, bool)), "at least one"),
        (lambda: roc([1.0, 2.0], [True, False]).tpr_at_fpr(1.5), "rate in"),
        (lambda: auc_interval([1.0, 2.0], [True, False], level=95), "between 0 and 1"),
        (
            lambda: auc_interval([1.0, 2.0], [True, False], num_replicates=1),
            "a variance takes at least 2",
        ),
        (lambda: clopper_pearson(3, 2), "not a rate"),
        (lambda: clopper_pearson(0, 0), "not a rate"),
        (lambda: clopper_pearson(1, 2, level=1.0), "between 0 and 1"),
    ],
)
def test_bad_input_is_one_line(call, message):
    assert_refused(call, message)
