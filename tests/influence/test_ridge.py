"""Exact removal from kernel ridge regression matches NumPy's refitting to 1e-10."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax.influence import ridge
from unlearn_jax.types import InputError

pytestmark = pytest.mark.usefixtures("double")

RNG = np.random.default_rng(0)
POINTS, NEW = RNG.normal(size=(14, 5)), RNG.normal(size=(6, 5))
KERNEL = POINTS @ POINTS.T  # rank 5 of 14: only the ridge makes it invertible
CROSS = NEW @ POINTS.T
TARGETS = RNG.normal(size=(14, 3))
WEIGHTS = np.array([0, 2, 1, 1, 3, 0.5, 1, 1, 2, 0, 1, 1, 4, 1.0])
INDEX = np.array([1, 4, 0, 7, 12])
LAMBDA = 0.3


def refit(kept, weights=None, points=NEW):
    """Predictions of weighted ridge regression, from the primal normal equations."""
    weights = np.ones(14) if weights is None else weights
    x, y, w = POINTS[kept], TARGETS[kept], weights[kept]
    return points @ np.linalg.solve(
        x.T @ (w[:, None] * x) + LAMBDA * np.eye(5), x.T @ (w[:, None] * y)
    )


FIT = jax.jit(ridge.fit)
DOWNDATE = jax.jit(ridge.downdate)
BACK = jax.jit(ridge.outputs_restoring_each)


def fitted(weights=None):
    return FIT(
        KERNEL,
        TARGETS,
        ridge=LAMBDA,
        weights=np.ones(14) if weights is None else weights,
    )


def without(removed):
    return np.setdiff1d(np.arange(14), removed)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_fit_and_removal_equal_refitting(weights):
    model = fitted(weights)
    np.testing.assert_allclose(
        ridge.predict(CROSS, model.coefficients),
        refit(np.arange(14), weights),
        atol=1e-10,
    )
    for removed in ([3], [1, 4, 0], [12, 2, 5, 9, 7, 0, 1]):
        left = DOWNDATE(
            model, np.array([*removed, *without(removed)]), np.arange(14) < len(removed)
        )
        np.testing.assert_allclose(
            ridge.predict(CROSS, left), refit(without(removed), weights), atol=1e-10
        )
        np.testing.assert_allclose(left[np.array(removed)], 0, atol=1e-10)


@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["plain", "weighted"])
def test_leave_one_out_equals_refitting_without_each(weights):
    found = jax.jit(ridge.leave_one_out)(fitted(weights), KERNEL, TARGETS)
    for i in range(14):
        np.testing.assert_allclose(
            found[i], refit(without([i]), weights, points=POINTS[i]), atol=1e-10
        )


def test_many_subsets_of_different_sizes_by_vmap():
    model = fitted(WEIGHTS)
    masks = RNG.random((8, 5)) < 0.5
    masks[0], masks[1] = False, True
    many = jax.jit(jax.vmap(lambda removed: ridge.downdate(model, INDEX, removed)))(
        masks
    )
    state = ridge.candidates(model, CROSS, INDEX)
    outputs = jax.jit(jax.vmap(ridge.outputs_without, (None, 0)))(state, masks)
    for mask, coefficients, found in zip(masks, many, outputs, strict=True):
        expected = refit(without(INDEX[mask]), WEIGHTS)
        np.testing.assert_allclose(CROSS @ coefficients, expected, atol=1e-10)
        np.testing.assert_allclose(found, expected, atol=1e-10)


def test_successive_removals_equal_refitting():
    state = ridge.candidates(fitted(WEIGHTS), CROSS, INDEX)
    removed = []
    step = jax.jit(ridge.remove_one)
    ahead = jax.jit(ridge.outputs_removing_each)
    for position in (3, 0, 4, 1):
        for i, found in enumerate(ahead(state)):
            np.testing.assert_allclose(
                found, refit(without([*removed, INDEX[i]]), WEIGHTS), atol=1e-10
            )
        state = step(state, position)
        removed.append(INDEX[position])
        np.testing.assert_allclose(
            state.outputs, refit(without(removed), WEIGHTS), atol=1e-10
        )
        assert not np.any(state.inverse[position])
        again = step(state, position)
        assert all(np.array_equal(a, b) for a, b in zip(state, again, strict=True)), (
            "removed twice"
        )


@settings(max_examples=8, deadline=None)
@given(st.lists(st.booleans(), min_size=5, max_size=5))
def test_restoring_each_equals_refitting(chosen):
    with jax.enable_x64(True):
        mask = np.array(chosen)
        state = ridge.candidates(fitted(WEIGHTS), CROSS, INDEX)
        found = BACK(state, mask)
        for i in range(5):
            smaller = mask & (np.arange(5) != i)
            np.testing.assert_allclose(
                found[i], refit(without(INDEX[smaller]), WEIGHTS), atol=1e-10
            )


def test_removal_maps_over_seeds_and_works_in_float32():
    """Features depend on the key alone; removal errs by float32's rounding."""
    keys = jax.random.split(jax.random.key(1), 3)
    with jax.enable_x64(False):
        inputs = jnp.asarray(np.abs(POINTS), jnp.float32)
        make = jax.jit(
            jax.vmap(
                lambda key, points: ridge.random_relu_features(key, points, 7),
                (0, None),
            )
        )
        features, half = make(jax.random.clone(keys), inputs), make(keys, inputs[:6])
        assert features.dtype == jnp.float32
        np.testing.assert_allclose(features[:, :6], half, rtol=1e-6)
        assert np.abs(np.asarray(features[0] - features[1])).max() > 0.1

        def outputs(phi):
            model = ridge.fit(
                phi @ phi.T, jnp.asarray(TARGETS, jnp.float32), ridge=LAMBDA
            )
            return phi @ (phi.T @ ridge.downdate(model, INDEX))

        found = jax.jit(jax.vmap(outputs))(features)
    for phi, one in zip(np.asarray(features, np.float64), found, strict=True):
        kept = without(INDEX)
        theta = np.linalg.solve(
            phi[kept].T @ phi[kept] + LAMBDA * np.eye(7), phi[kept].T @ TARGETS[kept]
        )
        np.testing.assert_allclose(one, phi @ theta, atol=1e-4)


def test_bad_input_is_one_line():
    model = fitted()
    state = ridge.candidates(model, CROSS, INDEX)
    for call, message in (
        (
            lambda: ridge.fit(KERNEL[:3], TARGETS, ridge=1.0),
            r"pass \[N, N\] and \[N, C\]",
        ),
        (
            lambda: ridge.fit(KERNEL, TARGETS[:3], ridge=1.0),
            r"pass \[N, N\] and \[N, C\]",
        ),
        (lambda: ridge.fit(KERNEL, TARGETS, ridge=0.0), "ridge must be positive"),
        (lambda: ridge.fit(KERNEL, TARGETS, ridge=np.nan), "ridge must be positive"),
        (
            lambda: ridge.fit(KERNEL, TARGETS, ridge=1.0, weights=-WEIGHTS),
            "weights must be finite and not negative",
        ),
        (
            lambda: ridge.fit(KERNEL, TARGETS, ridge=1.0, weights=WEIGHTS[:2]),
            r"weights must have shape \[14\]",
        ),
        (lambda: ridge.downdate(model, np.array([1, 14])), r"positions in 0\.\.13"),
        (lambda: ridge.downdate(model, np.array([1, 1])), r"different positions"),
        (lambda: ridge.downdate(model, np.array([1.0])), r"pass \[F\] integers"),
        (lambda: ridge.downdate(model, INDEX, np.ones(5)), "boolean mask"),
        (lambda: ridge.candidates(model, KERNEL[:, :3], INDEX), "points by samples"),
        (lambda: ridge.outputs_without(state, np.ones(4, bool)), "boolean mask"),
        (lambda: ridge.outputs_restoring_each(state, np.ones(4, bool)), "boolean mask"),
        (
            lambda: ridge.random_relu_features(jax.random.key(0), POINTS, 0),
            "num_features must be a positive integer",
        ),
        (lambda: ridge.remove_one(state, len(INDEX)), "position: labels must lie in"),
        (lambda: ridge.remove_one(state, -1), "position: labels must lie in"),
        (
            lambda: ridge.random_relu_features(
                jax.random.key(0), np.ones((2, 3), np.uint8), 4
            ),
            "pass floats",
        ),
        (lambda: ridge.leave_one_out(model, KERNEL, TARGETS[:2]), "what was fitted"),
    ):
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [int, jnp.bfloat16, jnp.float16])
def test_a_kernel_of_low_precision_is_fitted_in_a_higher_one(dtype):
    kernel = np.array([[2, 1], [1, 2]])
    options = {"ridge": 1.0, "weights": np.array([0.5, 1.0])}
    low = ridge.fit(jnp.asarray(kernel, dtype), jnp.eye(2), **options)
    exact = ridge.fit(kernel.astype(np.float32), jnp.eye(2), **options)
    np.testing.assert_allclose(low.coefficients, exact.coefficients, rtol=1e-6)
