"""The guard, the method, and network targets match softmax regression in NumPy."""

import warnings
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.method_checks import (
    FORGET,
    HALF,
    LINEAR,
    REMOVED,
    RETAIN,
    linear_problem,
    small_problem,
    softmax,
)
from support.problems import unchecked_problem

from unlearn_jax import influence, methods, train
from unlearn_jax.methods import NTKInfluence
from unlearn_jax.methods.influence_target import influence_targets
from unlearn_jax.types import Dataset, InputError, Variables

RIDGE = 0.05
ONE_HOT = np.eye(3)[np.arange(60) % 3]
EVERYWHERE = np.ones(60, bool)


def derivatives(w, blobs, keep):
    """Gradient ``[16, 3]`` and Hessian ``[48, 48]`` of penalized softmax regression."""
    x = np.asarray(blobs.images, "f8").reshape(60, -1)[keep]
    probs = softmax(x @ w)
    bend = probs[:, :, None] * (np.eye(3) - probs[:, None, :])
    hessian = np.einsum("ni,ncd,nj->icjd", x, bend, x).reshape(48, 48) / len(
        x
    ) + RIDGE * np.eye(48)
    return x.T @ (probs - ONE_HOT[keep]) / len(x) + RIDGE * w, hessian


def regression(blobs, keep, steps=20):
    w = np.zeros((16, 3))
    for _ in range(steps):
        gradient, hessian = derivatives(w, blobs, keep)
        w = w - np.linalg.solve(hessian, gradient.ravel()).reshape(16, 3)
    return w


def newton_step(w, blobs, forget, retain):
    _, hessian = derivatives(w, blobs, retain)
    gradient = forget.sum() / retain.sum() * derivatives(w, blobs, forget)[0]
    return np.linalg.solve(hessian, gradient.ravel()).reshape(16, 3)


def problem_at(w, blobs, forget=FORGET, **options):
    return unchecked_problem(
        LINEAR, Variables(jnp.asarray(w, jnp.float32), {}), blobs, forget, **options
    )


# --- the guard

REMOVE = jax.jit(
    influence.remove,
    static_argnums=0,
    static_argnames=("num_forget", "form", "warn"),
)
REGRESSION = influence.outputs_of(LINEAR, {})


def ask(blobs, w, **options):
    data = (jnp.asarray(array) for array in (blobs.images, blobs.labels, FORGET))
    found = REMOVE(
        REGRESSION,
        jnp.asarray(w, jnp.float32),
        *data,
        num_forget=6,
        ridge=RIDGE,
        **options,
    )
    if options.get("warn", True):
        # inside of a compiled program its numbers are not known
        influence.warn_unless_trusted(found.guard)
    return found


def test_trained_regression_is_trusted_without_warning(blobs):
    trained = regression(blobs, EVERYWHERE)
    found = ask(blobs, trained)
    assert found.guard.trusted
    assert found.guard.stationarity < 1e-3
    assert found.guard.linearizability < 1e-4
    np.testing.assert_allclose(
        found.params, newton_step(trained, blobs, FORGET, ~FORGET), rtol=1e-3, atol=1e-5
    )
    chex.assert_trees_all_close(
        ask(blobs, trained, form="dual").params, found.params, rtol=1e-3, atol=1e-5
    )


def test_unfinished_regression_is_not_stationary(blobs):
    w = regression(blobs, EVERYWHERE, steps=1)
    with pytest.warns(UserWarning, match=r"do not trust.*not stationary"):
        found = ask(blobs, w)
    gradient, part = (
        derivatives(w, blobs, EVERYWHERE)[0],
        derivatives(w, blobs, FORGET)[0],
    )
    np.testing.assert_allclose(
        found.guard.gradient, np.linalg.norm(gradient), rtol=1e-4
    )
    expected = np.linalg.norm(gradient) / np.linalg.norm(part) * 60 / 6
    np.testing.assert_allclose(found.guard.stationarity, expected, rtol=1e-3)
    assert not found.guard.trusted
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        ask(blobs, w, warn=False)
    assert not raised


def test_unsolved_system_is_not_trusted(blobs):
    short = influence.CG(num_iters=2)
    with pytest.warns(UserWarning, match=r"the linear system is not solved"):
        found = ask(blobs, regression(blobs, EVERYWHERE), solver=short)
    assert found.guard.residual > 0.01


def test_network_with_little_penalty_is_not_trusted(tiny, blobs):
    """It interpolates, so gradients are near 0; the guard's numbers by autodiff."""
    recipe = train.Recipe(400, 60, train.sgd(0.1, weight_decay=1e-4))
    variables = train.fit(
        jax.random.key(0), tiny, blobs, EVERYWHERE, recipe, epochs_per_call=400
    )[0].variables
    apply, params = influence.outputs_of(tiny, {}), variables.params
    images, labels = jnp.asarray(blobs.images), jnp.asarray(blobs.labels)
    run = partial(influence.remove, apply, num_forget=6, ridge=1e-4, warn=False)
    change, found = jax.jit(run)(params, images, labels, jnp.asarray(FORGET))
    with pytest.warns(
        UserWarning, match=r"do not trust this estimate; the model is not stationary"
    ):
        influence.warn_unless_trusted(found)
    assert not found.trusted

    def loss(outputs):
        return jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(outputs, labels[~FORGET])
        )

    def risk_of(outputs, params):
        losses = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
        return jnp.mean(losses) + 1e-4 / 2 * optax.tree.norm(params, squared=True)

    @jax.jit
    def gradients(params, new):
        expanded = influence.linearize(apply, params)
        risk = lambda p: (
            loss(apply(p, images[~FORGET]))
            + 1e-4 / 2 * optax.tree.norm(p, squared=True)
        )
        network, linear = (
            jax.grad(lambda p, f=f: loss(f(p, images[~FORGET])))(new)
            for f in (apply, expanded)
        )
        return optax.tree.norm(optax.tree.sub(network, linear)) / optax.tree.norm(
            jax.grad(risk)(params)
        )

    wanted = gradients(params, jax.tree.map(jnp.add, params, change))
    np.testing.assert_allclose(found.linearizability, wanted, rtol=1e-3)
    everything = jax.jit(jax.grad(lambda p: risk_of(apply(p, images), p)))(params)
    np.testing.assert_allclose(found.gradient, optax.tree.norm(everything), rtol=1e-3)
    assert found.stationarity > 1


def test_unknown_forms_are_refused(blobs):
    with pytest.raises(InputError, match="unknown form"):
        ask(blobs, np.zeros((16, 3)), form="trial")


# --- the method


@pytest.mark.parametrize("weights", ["all", "head"])
def test_method_takes_numpys_step_and_reads_no_removed_sample(weights, blobs, key):
    """From any weights: the retained Hessian, the forget set's gradient."""
    w = np.random.default_rng(4).normal(size=(16, 3)).astype("f4")
    images = np.where(REMOVED[:, None, None, None], np.nan, blobs.images).astype("f4")
    problem = problem_at(w, Dataset(images, blobs.labels), removed=REMOVED)
    run = jax.jit(
        lambda key, ridge, alpha: NTKInfluence(
            ridge=ridge, alpha=alpha, weights=weights, warn=False
        )(key, problem)
    )
    got, info = run(key, RIDGE, 0.5)
    expected = w + 0.5 * newton_step(w, blobs, FORGET, RETAIN)
    np.testing.assert_allclose(got.params, expected, rtol=1e-3, atol=1e-3)
    assert info.losses.shape == (0,)
    assert info.num_gradients == (
        0 if weights == "head" else 2 * 100 * RETAIN.sum() + 6
    )


def test_both_forms_come_near_retraining(blobs, key):
    trained, retrained = regression(blobs, EVERYWHERE), regression(blobs, ~FORGET)
    key, other = jax.random.split(key)
    problem = problem_at(trained, blobs)
    run = jax.jit(
        lambda key, alpha: NTKInfluence(ridge=RIDGE, alpha=alpha)(key, problem)[0]
    )
    primal = run(jax.random.clone(key), 1.0)
    options = {
        "ridge": RIDGE,
        "form": "dual",
        "solver": "dense",
        "weights": "head",
        "batch_size": 32,
    }
    dual, info = jax.jit(NTKInfluence(**options))(other, problem)
    np.testing.assert_allclose(dual.params, primal.params, rtol=1e-2, atol=1e-4)
    off = np.linalg.norm(np.asarray(primal.params) - retrained) / np.linalg.norm(
        trained - retrained
    )
    assert off < 1 / 20
    assert info.num_gradients == 0
    np.testing.assert_array_equal(run(key, 0.0).params, np.asarray(trained, "f4"))


@pytest.mark.parametrize("weights", ["all", "head"])
def test_runs_on_a_convolutional_network(weights, normed, blobs, key):
    problem = small_problem(normed, blobs)
    method = jax.jit(NTKInfluence(weights=weights, num_cg_steps=3, warn=False))
    got, _ = method(key, problem)
    chex.assert_tree_all_finite(got)
    chex.assert_trees_all_equal(got.state, problem.variables.state)
    moved = jax.tree.map(
        lambda new, old: bool(jnp.any(new != old)), got.params, problem.variables.params
    )
    assert sum(jax.tree.leaves(moved)) == (
        1 if weights == "head" else len(jax.tree.leaves(moved))
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": 0.0}, "must be positive"),
        ({"ridge": -1.0}, "ridge must be"),
        ({"alpha": float("inf")}, "alpha must be"),
        ({"tol": 0.0}, "must be positive"),
        ({"num_cg_steps": 0}, "must be a positive integer"),
        ({"weights": "body"}, "unknown weights"),
        ({"form": "both"}, "unknown form"),
        ({"solver": "lu"}, "unknown solver"),
    ],
)
def test_bad_hyperparameters_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        NTKInfluence(**options)


# --- targets of the whole network


def test_network_targets_of_a_regression_are_its_newton_step(blobs):
    """A regression is its own expansion; removed samples are never read."""
    images = np.where(REMOVED[:, None, None, None], np.nan, blobs.images).astype("f4")
    weights, forget = linear_problem(blobs).variables.params, HALF & ~REMOVED
    problem = problem_at(
        weights, Dataset(images, blobs.labels), forget, removed=REMOVED
    )
    options = {"linearized": "network", "mask": False, "ridge": RIDGE, "batch_size": 60}
    got = jax.jit(partial(influence_targets, **options))(problem)
    fitted = regression(blobs, ~REMOVED)
    gradient, hessian = derivatives(fitted, blobs, ~HALF & ~REMOVED)
    step = -np.linalg.solve(hessian, gradient.ravel()).reshape(16, 3)
    rows = np.asarray(blobs.images, "f8").reshape(60, -1)[forget]
    np.testing.assert_allclose(
        got, softmax(rows @ (weights + step)), rtol=1e-3, atol=1e-4
    )
    assert np.abs(got - softmax(rows @ np.asarray(weights))).max() > 0.01


def test_unknown_linearized_is_refused():
    with pytest.raises(InputError, match="unknown linearized"):
        methods.InfluenceTarget(linearized="body")
