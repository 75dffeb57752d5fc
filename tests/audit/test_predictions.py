"""Distances of predictions equal sums written out, and the attack on a forgotten class
means what it says.
"""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import oracles
from support.refusals import assert_refused

from unlearn_jax.audit.predictions import (
    confusion_rows,
    kl_divergence,
    kodge_mia,
    softmax,
    total_variation,
)


def draw(seed, *shape):
    """Random distributions over the last axis, with zeros among them."""
    rng = np.random.default_rng(seed)
    values = rng.dirichlet(np.full(shape[-1], 0.5), shape[:-1])
    values = np.where(rng.random(shape) < 0.2, 0, values) + 1e-9 * np.eye(shape[-1])[0]
    return values / values.sum(-1, keepdims=True)


def slow_kl(p, q, floor):
    return sum(
        a * math.log(a / max(b, floor)) for a, b in zip(p, q, strict=True) if a > 0
    )


def slow_tv(p, q):
    """The largest difference of the probabilities of any event: over all subsets of the
    classes.
    """
    subsets = (
        [k for k in range(len(p)) if bits >> k & 1] for bits in range(2 ** len(p))
    )
    return max(sum(p[k] - q[k] for k in subset) for subset in subsets)


def test_softmax_matches_the_formula_in_float64():
    logits = np.random.default_rng(0).normal(scale=3, size=(2, 6, 4)).astype(np.float32)
    expected = [[oracles.softmax(z) for z in row] for row in logits]
    assert softmax(jnp.asarray(logits)).dtype == np.float64
    assert np.allclose(softmax(logits), expected, rtol=1e-12)
    small = softmax(np.array([0, -200], np.float32))[1]
    assert math.isclose(small, math.exp(-200), rel_tol=1e-12)  # 0 in float32
    assert softmax([3e38, -3e38]).tolist() == [1, 0]


def test_distances_equal_their_definitions_with_leading_axes():
    p, q = draw(1, 3, 8, 4), draw(2, 8, 4)
    for one, two in ((p, q), (q, p)):
        pairs = (
            [
                list(zip(*np.broadcast_arrays(one[m], two), strict=True))
                for m in range(3)
            ]
            if one is p
            else None
        )
        pairs = pairs or [list(zip(one, two[m], strict=True)) for m in range(3)]
        assert np.allclose(
            total_variation(one, two),
            [[slow_tv(*pair) for pair in row] for row in pairs],
            atol=1e-12,
        )
        for floor in (1e-12, 1e-3):
            expected = [
                [max(slow_kl(*pair, floor), 0) for pair in row] for row in pairs
            ]
            assert np.allclose(
                kl_divergence(one, two, floor=floor), expected, atol=1e-12
            )
    assert total_variation(jnp.asarray(p), jnp.asarray(q)).shape == (3, 8)


def test_kl_divergence_of_an_excluded_class_is_set_by_the_floor():
    p, q = [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]
    assert math.isclose(
        kl_divergence(p, q), 0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-12)
    )
    assert kl_divergence(p, q, floor=1e-6) < kl_divergence(p, q)
    assert kl_divergence(np.eye(3)[0], np.eye(3)[1]) <= -math.log(1e-12) + 1e-9
    assert total_variation(np.eye(3)[0], np.eye(3)[1]) == 1


values = arrays(
    np.float64, (2, 5, 4), elements=st.floats(1e-3, 1) | st.just(0.0) | st.just(1e-15)
)


@settings(deadline=None, max_examples=60)
@given(values.map(lambda x: np.where(x.sum(-1, keepdims=True) > 1e-9, x, 1.0)))
def test_properties_of_the_distances(drawn):
    p, q = drawn / drawn.sum(-1, keepdims=True)
    distance, divergence = total_variation(p, q), kl_divergence(p, q)
    assert ((distance >= 0) & (distance <= 1)).all()
    assert np.array_equal(distance, total_variation(q, p))
    assert (divergence >= 0).all()
    assert (divergence <= -math.log(1e-12)).all()
    assert (total_variation(p, p) == 0).all()
    assert (kl_divergence(p, p) <= 1e-10).all()
    assert (2 * distance**2 <= divergence + 1e-9).all()  # Pinsker
    assert (
        distance
        <= total_variation(p, 0.5 * (p + q)) + total_variation(0.5 * (p + q), q) + 1e-12
    ).all()


def test_confusion_rows_equal_counting():
    rng = np.random.default_rng(3)
    logits, labels = (
        rng.normal(size=(80, 5)).astype(np.float32),
        rng.integers(4, size=80),
    )  # class 4 has no sample
    logits[0] = 1.0  # ties go to the first
    rows = confusion_rows(logits, labels)
    for y in range(5):
        for k in range(5):
            mine = [
                int(np.argmax(z) == k)
                for z, label in zip(logits, labels, strict=True)
                if label == y
            ]
            assert math.isclose(rows[y, k], sum(mine) / max(len(mine), 1)), (y, k)
    assert np.allclose(rows.sum(1), [1, 1, 1, 1, 0])
    assert np.array_equal(
        confusion_rows(jnp.asarray(logits), jnp.asarray(labels)), rows
    )
    assert np.array_equal(
        confusion_rows(10 * np.eye(5)[labels], labels), np.diag([1, 1, 1, 1, 0])
    )


def confidences(seed, num_retain=540, num_forget=60, num_test=40):
    """True-class probabilities of a confident model, and of one that has forgotten the
    class.
    """
    rng = np.random.default_rng(seed)
    knows = [rng.beta(60, 1, n) for n in (num_retain, num_forget, num_test)]
    forgot = [
        rng.beta(60, 1, num_retain),
        *(rng.beta(1, 200, n) for n in (num_forget, num_test)),
    ]
    return knows, forgot


def test_kodge_mia_is_zero_for_the_original_and_one_for_a_retrained_model():
    knows, forgot = confidences(4)
    assert kodge_mia(*knows).fraction == 0
    assert kodge_mia(*forgot).fraction == 1
    mixed = np.concatenate([knows[2][:30], forgot[2][:10]])
    result = kodge_mia(forgot[0], forgot[1], mixed)
    assert result.fraction == 0.25
    assert result.called_member.tolist() == [True] * 30 + [False] * 10
    assert kodge_mia(*map(jnp.asarray, forgot)).fraction == 1


def test_kodge_mia_keeps_the_proportion_of_the_sides():
    knows, forgot = confidences(5)
    assert kodge_mia(*forgot).num_per_side == (540, 60)
    assert kodge_mia(*forgot, max_samples=None).num_per_side == (540, 60)
    assert kodge_mia(*forgot, max_samples=90).num_per_side == (90, 10)
    assert kodge_mia(forgot[1], forgot[0], forgot[2], max_samples=90).num_per_side == (
        10,
        90,
    )
    assert kodge_mia(*forgot, max_samples=1).num_per_side == (1, 1)
    # a class as large as the rest: which side wins is chance, not 0 any more
    assert kodge_mia(knows[0][:60], knows[1], knows[2]).fraction > 0


def test_kodge_mia_repeats_by_seed_and_follows_its_queries():
    rng = np.random.default_rng(6)
    retain, forget, test = rng.beta(5, 2, 400), rng.beta(2, 3, 100), rng.beta(2, 3, 80)
    few = [
        kodge_mia(retain, forget, test, max_samples=60, seed=seed).called_member
        for seed in (0, 0, 1)
    ]
    assert np.array_equal(few[0], few[1])
    assert not np.array_equal(few[0], few[2])
    order = rng.permutation(80)
    assert np.array_equal(
        kodge_mia(retain, forget, test[order], max_samples=60).called_member,
        few[0][order],
    )


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_kodge_mia_survives_features_that_are_all_equal(value):
    result = kodge_mia(np.full(50, value), np.full(5, value), np.full(7, value))
    assert result.fraction == 0  # nothing to tell them apart by: the larger side wins
    assert kodge_mia(np.ones(50), np.zeros(5), np.zeros(7)).fraction == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: softmax([0.0, np.inf]), "NaN or infinite"),
        (
            lambda: total_variation([1.0, 2.0], [0.5, 0.5]),
            "p has rows that are not distributions",
        ),
        (
            lambda: total_variation([0.5, 0.5], [-0.5, 1.5]),
            "q has rows that are not distributions",
        ),
        (lambda: kl_divergence([0.5, 0.5], [0.3, 0.3, 0.4]), "2 classes and q 3"),
        (
            lambda: kl_divergence(draw(0, 3, 4), draw(0, 5, 4)),
            "one row of q per row of p",
        ),
        (lambda: kl_divergence([0.5, np.nan], [0.5, 0.5]), "p has 1 values"),
        (lambda: kl_divergence([0.5, 0.5], [0.5, 0.5], floor=0), "floor is 0"),
        (lambda: confusion_rows([[1.0, 2.0]], [0, 1]), "1 integers"),
        (lambda: confusion_rows([[1.0, 2.0]], [2]), r"must lie in 0\.\.1"),
        (lambda: confusion_rows([[1.0, np.nan]], [0]), "1 values"),
        (lambda: kodge_mia([], [0.1], [0.2]), "retain_train has shape"),
        (lambda: kodge_mia([0.9], [np.nan], [0.2]), "forget_train has 1"),
        (lambda: kodge_mia([0.9], [0.1], [[0.2]]), "1 axes"),
        (lambda: kodge_mia([0.9], [0.1], [0.2], max_samples=0), "max_samples"),
    ],
)
def test_bad_input_is_one_line(call, message):
    assert_refused(call, message)
