"""Influence targets: the linear classifier against scikit-learn and dense algebra, and
what targets are good for.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from support.method_checks import (
    HALF,
    descend,
    gradient,
    linear_problem,
    softmax,
    traced,
)

from unlearn_jax import methods, models
from unlearn_jax.methods import InfluenceTarget
from unlearn_jax.methods.influence_target import (
    fit_head,
    head_gradient,
    influence_targets,
    predicted_logit_change,
    standardize,
)
from unlearn_jax.types import Dataset, InputError, Problem, Variables

OPTIONS = {"num_epochs": 2, "batch_size": 16, "learning_rate": 0.05}
RNG = np.random.default_rng(6)
COUNT, CLASSES = 50, 4
LABELS = np.arange(COUNT) % CLASSES
KNOWN = 3 + 5 * (
    RNG.normal(size=(CLASSES, 6))[LABELS] + 0.6 * RNG.normal(size=(COUNT, 6))
)
KNOWN[:, 2] = 0  # a dead unit
QUERIES = 3 + 5 * RNG.normal(size=(7, 6))
STAY = LABELS != 1


def standard(known, queries):
    """In float64, from the definition."""
    centered = known - known.mean(0)
    return np.column_stack(
        [
            (queries - known.mean(0)) / np.sqrt(np.mean(centered**2)),
            np.ones(len(queries)),
        ]
    )


def objective(weights, phi, labels, ridge):
    """Value, gradient and dense Hessian ``[D C, D C]`` in float64."""
    count, classes = len(phi), weights.shape[1]
    probs = softmax(phi @ weights)
    value = -np.mean(np.log(probs[np.arange(count), labels])) + ridge / 2 * np.sum(
        weights**2
    )
    slope = phi.T @ (probs - np.eye(classes)[labels]) / count + ridge * weights
    hessian = ridge * np.eye(weights.size)
    for x, p in zip(phi, probs, strict=True):
        hessian += np.kron(np.outer(x, x), np.diag(p) - np.outer(p, p)) / count
    return value, slope, hessian


def refit(phi, labels, ridge):
    """The same objective, minimized by scikit-learn: ``[D, C]``, 0 for classes without
    samples.
    """
    fitter = LogisticRegression(
        C=1 / (len(phi) * ridge),
        fit_intercept=False,
        solver="newton-cg",
        tol=1e-8,
        max_iter=1000,
    )
    return fitter.fit(phi, labels).coef_.T


def newton_step(weights, phi, labels, ridge):
    _, slope, hessian = objective(weights, phi, labels, ridge)
    return weights - np.linalg.solve(hessian, slope.ravel()).reshape(weights.shape)


PHI = standard(KNOWN, KNOWN)
FIT = jax.jit(fit_head, static_argnames=("num_steps", "num_cg_steps"))


def shares(mask):
    return jnp.asarray(mask / mask.sum(), jnp.float32)


@pytest.mark.parametrize(
    "ridge", [1e-1, 1e-2, 1e-4]
)  # at 1e-4 separable, with weights of norm 30
def test_fit_matches_scikit_learn(ridge):
    phi, share = jnp.asarray(PHI, jnp.float32), shares(np.ones(COUNT))
    start = jnp.zeros((7, CLASSES))
    got = FIT(
        start,
        phi,
        jnp.asarray(LABELS),
        share,
        ridge=ridge,
        num_steps=20,
        num_cg_steps=100,
    )
    np.testing.assert_allclose(got, refit(PHI, LABELS, ridge), rtol=2e-3, atol=2e-3)
    slope = head_gradient(got, phi, jnp.asarray(LABELS), share, ridge=ridge)
    np.testing.assert_allclose(
        slope,
        objective(np.asarray(got, "f8"), PHI, LABELS, ridge)[1],
        rtol=0,
        atol=1e-6,
    )
    assert np.linalg.norm(slope) < 1e-6


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 999), scale=st.floats(0.0, 30.0), log_ridge=st.floats(-4.0, 0.0)
)
def test_no_step_raises_the_objective_and_any_start_leads_to_the_optimum(
    seed, scale, log_ridge
):
    """Full Newton steps diverge from far away, where the classifier is wrong but sure
    of itself.
    """
    weights, ridge = (
        scale * np.random.default_rng(seed).normal(size=(7, CLASSES)),
        10**log_ridge,
    )
    data = jnp.asarray(PHI, jnp.float32), jnp.asarray(LABELS), shares(np.ones(COUNT))
    values = [objective(weights, PHI, LABELS, ridge)[0]]
    for _ in range(40):
        weights = FIT(
            jnp.asarray(weights, jnp.float32),
            *data,
            ridge=ridge,
            num_steps=1,
            num_cg_steps=100,
        )
        values.append(objective(np.asarray(weights, "f8"), PHI, LABELS, ridge)[0])
    assert np.all(np.diff(values) <= 3e-6 * np.asarray(values[:-1]))
    slope = objective(np.asarray(weights, "f8"), PHI, LABELS, ridge)[1]
    assert (
        np.sum(slope**2) / (2 * ridge) < 1e-6 * values[-1]
    )  # bounds the distance to the optimum: strong convexity


CHANGE = jax.jit(
    predicted_logit_change, static_argnames=("num_classes", "num_removal_steps")
)


def change(stay, num_removal_steps, ridge=1e-2):
    arrays = (
        jnp.asarray(KNOWN, jnp.float32),
        jnp.asarray(LABELS),
        jnp.asarray(stay),
        jnp.asarray(QUERIES, jnp.float32),
    )
    return CHANGE(
        *arrays, num_classes=CLASSES, ridge=ridge, num_removal_steps=num_removal_steps
    )


@pytest.mark.parametrize(
    "stay", [STAY, np.arange(COUNT) % 5 != 2], ids=["class", "random"]
)
def test_one_step_is_newtons_with_the_dense_hessian(stay):
    fitted = refit(PHI, LABELS, 1e-2)
    expected = standard(KNOWN, QUERIES) @ (
        newton_step(fitted, PHI[stay], LABELS[stay], 1e-2) - fitted
    )
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(change(stay, 1), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "stay", [STAY, np.arange(COUNT) % 5 != 2], ids=["class", "random"]
)
def test_many_steps_refit_the_classifier_to_what_stays(stay):
    fitted, left = refit(PHI, LABELS, 1e-2), np.zeros((7, CLASSES))
    for _ in range(100):
        left = newton_step(left, PHI[stay], LABELS[stay], 1e-2)
    assert np.linalg.norm(objective(left, PHI[stay], LABELS[stay], 1e-2)[1]) < 1e-12
    expected = standard(KNOWN, QUERIES) @ (left - fitted)
    np.testing.assert_allclose(change(stay, 20), expected, rtol=1e-3, atol=1e-3)
    assert np.abs(change(stay, 1) - expected).max() > 0.01


def test_removing_nothing_changes_nothing():
    np.testing.assert_allclose(change(np.ones(COUNT, bool), 1), 0, atol=1e-4)


def test_features_are_centered_on_one_scale():
    got = standardize(
        jnp.asarray(KNOWN, jnp.float32), jnp.asarray(QUERIES, jnp.float32)
    )
    np.testing.assert_allclose(got, standard(KNOWN, QUERIES), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(
        standardize(jnp.full((3, 2), 7.0), jnp.full((1, 2), 7.0)), [[0, 0, 1]]
    )


# --- targets
# --------------------------------------------------------------------------------------
# ---------------


def divergence(probs, other):
    """Mean KL over the classes that ``probs`` knows."""
    ratio = np.where(probs > 0, probs / np.maximum(other, 1e-30), 1.0)
    return np.mean(np.sum(probs * np.log(ratio), -1))


TARGETS = jax.jit(influence_targets, static_argnames="mask")


def test_targets_are_nearer_to_retraining_than_renormalizing_is():
    """Softmax regression on digits, penalty 1e-3: retraining is another convex problem,
    scikit-learn solves both.
    """
    images, labels = (array[:700] for array in load_digits(return_X_y=True))
    images, forget = images / 16, np.isin(labels, (3, 5))
    scale = np.mean((images - images.mean(0)) ** 2)
    original, retrained = (
        LogisticRegression(C=1 / (keep.sum() * 1e-3 * scale), max_iter=5000).fit(
            images[keep], labels[keep]
        )
        for keep in (np.ones(700, bool), ~forget)
    )
    params = {
        "w": jnp.asarray(original.coef_.T, jnp.float32),
        "b": jnp.asarray(original.intercept_, jnp.float32),
    }
    model = models.from_functions(
        lambda key: params,
        lambda p, images: images.reshape(len(images), -1) @ p["w"] + p["b"][None],
    )
    train = Dataset(images.reshape(-1, 8, 8, 1).astype("f4"), labels.astype("i4"))
    problem = methods.make_problem(model, Variables(params, {}), train, forget)
    truth = np.zeros((forget.sum(), 10))
    truth[:, retrained.classes_] = retrained.predict_proba(images[forget])
    plain = original.predict_proba(images[forget]) * ~np.isin(np.arange(10), (3, 5))
    plain = plain / plain.sum(-1, keepdims=True)
    targets = jax.jit(influence_targets, static_argnames="num_removal_steps")
    floor, one, many = (
        divergence(truth, q)
        for q in (plain, targets(problem), targets(problem, num_removal_steps=10))
    )
    assert floor > 0.1
    assert one < 0.2 * floor
    assert many < 0.6 * one
    np.testing.assert_allclose(targets(problem, ridge=1e8), plain, rtol=1e-3, atol=1e-5)


def class_problem(forget, tiny, blobs):
    variables = jax.jit(tiny.init)(jax.random.key(1))
    return methods.make_problem(tiny, variables, blobs, forget)


@pytest.mark.parametrize(
    ("gone", "mask", "zero"),
    [
        ((0,), True, [[0], []]),
        ((0, 2), True, [[0, 2], [0, 2]]),
        (None, True, None),
        (None, False, []),
    ],
    ids=["one", "two", "random", "random unmasked"],
)
def test_targets_are_probabilities_of_the_classes_that_stay(
    gone, mask, zero, tiny, blobs
):
    forget = np.isin(blobs.labels, gone) if gone else np.arange(60) % 4 == 1
    got = np.asarray(TARGETS(class_problem(forget, tiny, blobs), mask=mask))
    assert got.shape == (forget.sum(), 3)
    np.testing.assert_allclose(got.sum(-1), 1, rtol=1e-5)
    own, classes = blobs.labels[forget], np.arange(3)
    gone = np.isin(classes, gone or ())
    expected = mask & (gone[None, :] | (classes[None, :] == own[:, None]))
    np.testing.assert_array_equal(got == 0, expected)
    assert (
        np.ptp(got[own == own[0]], axis=0).max() > 0.01 or gone.sum() == 2
    )  # a target of each sample's own


def test_targets_of_two_classes(blobs):
    """One class is forgotten whole, and with it part of the other, which may stay
    itself.
    """
    labels = (blobs.labels > 0).astype("i4")
    model = models.from_functions(
        lambda key: jnp.ones((16, 2)),
        lambda w, images: images.reshape(len(images), -1) @ w,
    )
    forget = (labels == 0) | (np.arange(60) % 3 == 2)
    problem = methods.make_problem(
        model, Variables(jnp.ones((16, 2)), {}), blobs._replace(labels=labels), forget
    )
    np.testing.assert_array_equal(TARGETS(problem), np.eye(2)[np.ones(40, int)])


def test_targets_map_over_problems(tiny, blobs):
    problem = class_problem(blobs.labels == 0, tiny, blobs)
    masks = jnp.asarray(np.arange(3)[:, None] == blobs.labels[None, :])

    def one(mask):
        return influence_targets(
            Problem(tiny, problem.variables, problem.train, mask, 20)
        )

    single = np.stack(
        [
            TARGETS(Problem(tiny, problem.variables, problem.train, mask, 20))
            for mask in masks
        ]
    )
    assert np.abs(single[0] - single[1]).max() > 0.1
    np.testing.assert_allclose(
        jax.jit(lambda m: jax.lax.map(one, m))(masks), single, rtol=1e-3, atol=1e-4
    )


# --- the method
# --------------------------------------------------------------------------------------
# ------------


@pytest.mark.parametrize("retain", [True, False])
def test_trains_on_the_targets_and_the_retained_labels(retain, blobs, key):
    """Full batches, so that NumPy can follow; without ``retain`` no retained sample is
    trained on.
    """
    problem, start = linear_problem(blobs), linear_problem(blobs).variables.params
    targets = np.asarray(TARGETS(problem, ridge=0.02), "f8")
    size = 60 if retain else 30
    numbers = {"ridge": 0.02, "retain_weight": 0.7, "learning_rate": 0.3}
    options = {"num_epochs": 3, "batch_size": size, "retain": retain}
    got = traced(InfluenceTarget, numbers, problem, key, 3 * size, **options)

    def slope(w):
        own = gradient(w, blobs.images[HALF], targets)
        return (
            (own + 0.7 * gradient(w, blobs.images[~HALF], blobs.labels[~HALF])) / 2
            if retain
            else own
        )

    np.testing.assert_allclose(
        got, descend(start, 3 * [slope], 0.3), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ridge": 0.0}, "ridge must be positive"),
        ({"ridge": -1.0}, "ridge must be"),
        ({"retain_weight": float("nan")}, "retain_weight must be"),
        ({"num_fit_steps": 0}, "must be a positive integer"),
        ({"num_removal_steps": 0}, "must be a positive integer"),
        ({"num_cg_steps": 0}, "must be a positive integer"),
    ],
)
def test_values_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        InfluenceTarget(**options)


def test_a_model_without_a_head_is_refused(blobs):
    model = models.from_functions(
        lambda key: jnp.ones(3), lambda w, images: jnp.mean(images, (1, 2)) * w[None]
    )
    problem = methods.make_problem(model, Variables(jnp.ones(3), {}), blobs, HALF)
    with pytest.raises(InputError, match="linear layer"):
        jax.eval_shape(influence_targets, problem)
