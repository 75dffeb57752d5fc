"""The tilted target and the similarity of classes: the identities that define them, and
published-style numbers.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax.losses.tilted import (
    class_similarity,
    cosine,
    sharpen,
    tilted_loss,
    tilted_target,
)
from unlearn_jax.types import InputError

FORGET = np.array([False, True, False, False, True])
TOY = np.array(
    [[1, 0, 0.5], [0.9, 0.1, 0.4], [-0.2, 1, 0], [0, -1, 0.3]]
)  # a row per class


def by_hand(logits, forget, similarity, beta):
    """Renormalize, weigh, renormalize in float64, for moderate logits."""
    logits, similarity = np.asarray(logits, "f8"), np.asarray(similarity, "f8")
    odds = [0.0 if g else np.exp(z) for z, g in zip(logits, forget, strict=True)]
    tilted = [o * np.exp(beta * s) for o, s in zip(odds, similarity, strict=True)]
    return np.array(tilted) / sum(tilted)


def draw(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype("f4")


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), beta=st.floats(0.0, 20.0), scale=st.floats(0.0, 20.0))
def test_target_is_the_definition_a_distribution_and_zero_on_forgotten_classes(
    seed, beta, scale
):
    logits, similarity = draw(seed, 3, 5, scale=scale), draw(seed + 1, 3, 5)
    got = tilted_target(logits, FORGET, similarity, beta=beta)
    expected = [
        by_hand(z, FORGET, s, beta) for z, s in zip(logits, similarity, strict=True)
    ]
    np.testing.assert_allclose(got, expected, rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(np.sum(got, -1), 1.0, rtol=1e-5)
    assert np.all(np.asarray(got)[:, FORGET] == 0)


def test_shapes_broadcast_and_beta_may_be_traced():
    logits, similarity = draw(0, 2, 4, 5), draw(1, 5)
    masks = np.stack([FORGET, np.roll(FORGET, 1)])[:, None]
    got = jax.jit(
        lambda beta: tilted_target(logits, jnp.asarray(masks), similarity, beta=beta)
    )(3.0)
    assert got.shape == (2, 4, 5)
    np.testing.assert_allclose(
        got[1, 2], by_hand(logits[1, 2], masks[1, 0], similarity, 3.0), rtol=1e-4
    )
    chex.assert_trees_all_close(
        tilted_target(logits[0, 0], FORGET, similarity, beta=3.0), got[0, 0], rtol=1e-5
    )


@pytest.mark.parametrize("height", [100.0, 1e4, -1e4])
def test_saturated_logits(height):
    """Where ``p_f`` rounds to 1 the others' ratio is still that of their logits; the
    ratio form gives 0 / 0.
    """
    logits, similarity = (
        np.array([0, height, 2, 1, height], "f4"),
        np.array([0, 9, 0.1, 0.3, 9], "f4"),
    )
    assert jax.nn.softmax(jnp.asarray(logits))[1] == (0.5 if height > 0 else 0.0)
    got = tilted_target(logits, FORGET, similarity, beta=10.0)
    np.testing.assert_allclose(
        got, by_hand([0, 0, 2, 1, 0], FORGET, similarity, 10.0), rtol=1e-5
    )
    high = tilted_target(
        np.array([1e4, 1e4, 0, -1e4, 0], "f4"), FORGET, similarity, beta=10.0
    )
    np.testing.assert_array_equal(high, [1, 0, 0, 0, 0])
    gradient = jax.grad(tilted_loss)(
        jnp.asarray(logits), logits, FORGET, similarity, beta=10.0
    )
    assert np.all(np.isfinite(gradient))


def test_no_tilt_is_the_target_of_delete():
    logits, similarity = draw(2, 6, 5), draw(3, 6, 5)
    label = np.arange(6) % 5
    masked = np.where(np.arange(5) == label[:, None], -1e10, logits)
    got = tilted_target(logits, np.arange(5) == label[:, None], similarity, beta=0.0)
    np.testing.assert_allclose(got, jax.nn.softmax(jnp.asarray(masked)), rtol=1e-6)


@pytest.mark.parametrize("beta", [1e6, float("inf")])
def test_infinite_tilt_is_a_hard_relabel(beta):
    similarity = np.array([0.3, 9.0, -0.2, 0.8, 5.0], "f4")
    got = jax.jit(
        functools.partial(tilted_target, draw(4, 7, 5, scale=3.0), FORGET, similarity)
    )(beta=beta)
    np.testing.assert_array_equal(got, np.tile(np.eye(5)[3], (7, 1)))
    tied = np.array([0.8, 9.0, -0.2, 0.8, 5.0], "f4")
    got = tilted_target(np.array([1, 0, 9, 0, 0], "f4"), FORGET, tied, beta=beta)
    np.testing.assert_allclose(
        got, by_hand([1, 0, -np.inf, 0, 0], FORGET, tied, 0.0), rtol=1e-6
    )


@pytest.mark.parametrize("beta", [0.0, 7.0, float("inf")])
def test_target_ignores_a_constant_added_to_similarity(beta):
    logits, similarity = draw(5, 4, 5), draw(6, 5)
    flat = tilted_target(logits, FORGET, np.full(5, 0.4, "f4"), beta=beta)
    np.testing.assert_allclose(
        flat, tilted_target(logits, FORGET, similarity, beta=0.0), rtol=1e-5
    )
    shifted = tilted_target(logits, FORGET, similarity + 2.0, beta=beta)
    np.testing.assert_allclose(
        shifted, tilted_target(logits, FORGET, similarity, beta=beta), rtol=1e-4
    )
    wild = np.where(
        FORGET, np.inf, similarity
    )  # a forgotten class's own similarity is never read
    np.testing.assert_array_equal(
        tilted_target(logits, FORGET, wild, beta=beta)[:, ~FORGET].sum(-1).round(5), 1.0
    )


def test_expected_similarity_grows_with_beta_by_its_variance():
    logits, similarity = draw(7, 5), draw(8, 5)
    q = tilted_target(logits, FORGET, similarity, beta=1.5)
    slope = jax.grad(
        lambda beta: jnp.sum(
            tilted_target(logits, FORGET, similarity, beta=beta) * similarity
        )
    )(1.5)
    variance = np.sum(q * similarity**2) - np.sum(q * similarity) ** 2
    assert variance > 0.01
    np.testing.assert_allclose(slope, variance, rtol=1e-4)


def test_target_is_the_information_projection():
    """No distribution with the same expected similarity is closer to the renormalized
    prediction.
    """
    rng = np.random.default_rng(9)
    logits, similarity, stay = draw(10, 8), draw(11, 8), np.arange(8) != 2
    r, q = (
        np.asarray(tilted_target(logits, ~stay, similarity, beta=b), "f8")[stay]
        for b in (0.0, 2.0)
    )
    basis = np.stack([np.ones(7), similarity[stay]])
    null = np.linalg.svd(basis)[2][
        2:
    ]  # directions that keep both the sum and the expected similarity

    def divergence(p):
        return np.sum(p * np.log(p / r))

    gains = []
    for _ in range(50):
        step = rng.normal(size=5) @ null
        moved = q + 0.5 * rng.uniform() * np.min(q) / np.max(np.abs(step)) * step
        np.testing.assert_allclose(
            [moved.sum(), moved @ similarity[stay]],
            [q.sum(), q @ similarity[stay]],
            atol=1e-9,
        )
        gains.append(divergence(moved) - divergence(q))
    assert min(gains) > -1e-7  # the target's own rounding
    assert max(gains) > 1e-5


def test_loss_is_the_divergence_up_to_entropy_and_its_gradient_the_difference():
    logits, teacher, similarity = (draw(seed, 4, 5) for seed in (12, 13, 14))
    q = np.asarray(tilted_target(teacher, FORGET, similarity, beta=2.0), "f8")
    p = np.asarray(jax.nn.softmax(jnp.asarray(logits)), "f8")
    losses = tilted_loss(logits, teacher, FORGET, similarity, beta=2.0)
    kept_q, kept_p = q[:, ~FORGET], p[:, ~FORGET]
    divergence = np.sum(kept_q * np.log(kept_q / kept_p), -1)
    np.testing.assert_allclose(
        losses, divergence - np.sum(kept_q * np.log(kept_q), -1), rtol=1e-5
    )

    def total(logits, teacher):
        return jnp.sum(tilted_loss(logits, teacher, FORGET, similarity, beta=2.0))

    by_logits, by_teacher = jax.grad(total, argnums=(0, 1))(logits, teacher)
    np.testing.assert_allclose(by_logits, p - q, atol=1e-6)
    np.testing.assert_array_equal(by_teacher, 0.0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"center": False}, [0.99386, -0.17541, 0.12851]),
        ({}, [0.97319, -0.60876, -0.32355]),
        ({"num_components": 2}, [0.97842, -0.60944, -0.32385]),
        ({"num_components": 2, "center": False}, [0.99448, -0.18194, 0.12694]),
        ({"num_components": 2, "temperature": 1.0}, [0.67738, 0.13843, 0.18419]),
        ({"num_components": 2, "temperature": 0.1}, [0.9999977, 1.3e-7, 2.2e-6]),
    ],
)
def test_golden_similarities(options, expected):
    got = jax.jit(functools.partial(class_similarity, **options))(
        jnp.asarray(TOY.T, "f4")
    )
    np.testing.assert_allclose(
        got[0, 1:],
        expected,
        rtol=0.03 if options.get("temperature") == 0.1 else 0,
        atol=2e-5,
    )
    diagonal = 0.0 if "temperature" in options else 1.0
    np.testing.assert_allclose(np.diag(got), diagonal, atol=1e-5)


def test_all_components_are_none_and_rotations_do_not_matter():
    kernel, turn = draw(15, 6, 4), np.linalg.qr(draw(16, 6, 6))[0]
    plain = class_similarity(kernel)
    np.testing.assert_allclose(
        class_similarity(kernel, num_components=3), plain, atol=1e-5
    )
    np.testing.assert_allclose(class_similarity(turn @ kernel), plain, atol=1e-5)
    np.testing.assert_allclose(plain, plain.T, atol=1e-6)


def test_sharpened_rows_are_distributions_over_the_other_classes():
    similarity = draw(17, 4, 5)
    excluded = np.stack([FORGET, ~FORGET, np.zeros(5, bool), np.ones(5, bool)])
    got = np.asarray(sharpen(similarity, excluded, temperature=0.3))
    for row, s, mask in zip(got[:3], similarity, excluded, strict=False):
        np.testing.assert_allclose(row, by_hand(s / 0.3, mask, s, 0.0), rtol=1e-5)
    np.testing.assert_array_equal(got[3], 0.0)


def test_cosine_with_a_zero_vector_is_zero():
    np.testing.assert_array_equal(cosine(jnp.zeros(3), jnp.eye(3)), 0.0)
    np.testing.assert_array_equal(class_similarity(jnp.zeros((3, 4))), 0.0)


@pytest.mark.parametrize(("options", "most"), [({}, 3), ({"center": False}, 4)])
def test_too_many_components(options, most):
    for number in (0, most + 1):
        with pytest.raises(
            InputError,
            match=rf"num_components must be in 1\.\.{most} for 4 classes of 6 features",
        ):
            class_similarity(draw(18, 6, 4), num_components=number, **options)


@pytest.mark.parametrize("beta", [-1.0, np.nan])
def test_a_tilt_away_from_similar_classes_is_refused(beta):
    with pytest.raises(InputError, match="beta must be 0 or more, or infinite, got"):
        tilted_target(draw(19, 3, 5), FORGET, draw(20, 5), beta=beta)


@pytest.mark.parametrize("temperature", [0, -0.1, np.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(InputError, match="temperature must be positive and finite"):
        class_similarity(draw(18, 6, 4), temperature=temperature)


def test_tilted_target_asserts_shapes_and_types():
    logits, similarity = draw(19, 3, 5), draw(20, 5)
    with pytest.raises(AssertionError):
        tilted_target(logits, FORGET[:4], similarity, beta=1.0)
    with pytest.raises(AssertionError):
        tilted_target(logits, FORGET.astype(int), similarity, beta=1.0)
    with pytest.raises(AssertionError):
        tilted_loss(logits[0], logits, FORGET, similarity, beta=1.0)
    with pytest.raises(AssertionError):
        class_similarity(similarity)


def test_gradient_of_similarity_is_finite_where_a_vector_is_zero():
    def total(kernel):
        return jnp.sum(class_similarity(kernel))

    # equal features, centered, are zero
    slope = jax.grad(total)(jnp.ones((3, 4)))
    assert np.isfinite(slope).all()


def test_components_of_a_head_in_bfloat16():
    head = jnp.asarray(draw(5, 6, 4), jnp.bfloat16)
    similarity = class_similarity(head, num_components=2)
    single = class_similarity(head.astype(jnp.float32), num_components=2)
    np.testing.assert_allclose(similarity, single, atol=0.02)
