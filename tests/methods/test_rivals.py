"""Baselines of TRW's paper, reconstructed: SCAR and UAM, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.method_checks import HALF, descend, gradient, linear_problem, traced

from unlearn_jax import methods, models
from unlearn_jax.methods import SCAR, UAM
from unlearn_jax.methods.scar import class_distributions, powered
from unlearn_jax.optimizers import SGD
from unlearn_jax.types import InputError, Variables

FULL = {"batch_size": 30, "learning_rate": 0.3}


# ---- UAM


def test_uam_descends_where_the_forget_loss_has_risen(blobs, key):
    problem = linear_problem(blobs)
    options = {"num_epochs": 3, "weight_decay": 0.1, **FULL}
    got = traced(UAM, {"rho": 0.7}, problem, key, 3 * 60, **options)
    images = blobs.images
    labels = blobs.labels

    def slope(w):
        ascent = gradient(w, images[HALF], labels[HALF])
        raised = w + 0.7 * ascent / np.linalg.norm(ascent)
        return gradient(raised, images[~HALF], labels[~HALF])

    expected = descend(problem.variables.params, [slope] * 3, 0.3, weight_decay=0.1)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_uam_with_no_radius_is_fine_tuning(blobs, key):
    problem = linear_problem(blobs)
    key_a, key_b = jax.random.split(key)
    got, _ = UAM(rho=0.0, num_epochs=2, **FULL)(key_a, problem)
    plain, _ = methods.FineTune(num_epochs=2, **FULL)(key_b, problem)
    np.testing.assert_allclose(got.params, plain.params, rtol=1e-4, atol=1e-6)


# ---- SCAR

GONE = 0
NETWORK = models.from_functions(
    lambda key: (jnp.ones((16, 5)), jnp.ones((5, 3))),
    lambda w, images: jax.nn.relu(images.reshape(len(images), -1) @ w[0] + 0.3) @ w[1],
)


def network_problem(blobs):
    rng = np.random.default_rng(21)
    weights = (
        jnp.asarray(rng.normal(size=(16, 5)), jnp.float32),
        jnp.asarray(rng.normal(size=(5, 3)), jnp.float32),
    )
    return methods.make_problem(
        NETWORK, Variables(weights, {}), blobs, blobs.labels == GONE
    )


def features_of(weights, images):
    flat = np.asarray(images, "f8").reshape(len(images), -1)
    return np.maximum(flat @ np.asarray(weights[0], "f8") + 0.3, 0)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def shrunk(covariance, diagonal, others):
    """The formula of the released code."""
    identity = np.eye(len(covariance))
    off = covariance * (1 - identity)
    first = np.diagonal(covariance).mean()
    second = off.sum() / (off != 0).sum()
    return covariance + diagonal * identity * first + others * (1 - identity) * second


def distributions(weights, images, labels, diagonal=3.0, others=3.0):
    result = {}
    for label in np.unique(labels):
        samples = np.sqrt(features_of(weights, images[labels == label]))
        covariance = np.cov(samples.T)
        covariance = shrunk(shrunk(covariance, diagonal, others), diagonal, others)
        deviation = np.sqrt(np.diagonal(covariance))
        inverse = np.linalg.pinv(covariance / np.outer(deviation, deviation))
        result[int(label)] = (unit(samples.mean(0)), inverse)
    return result


def distance(features, mean, inverse):
    moved = unit(np.sqrt(features)) - mean
    return np.array([one @ inverse @ one for one in moved])


def test_classes_are_shrunk_correlations_of_powered_features(blobs):
    problem = network_problem(blobs)
    weights = problem.variables.params
    retained = blobs.labels != GONE
    found = class_distributions(problem, shrink_diagonal=2.0, shrink_others=0.5)
    expected = distributions(
        weights, blobs.images[retained], blobs.labels[retained], 2.0, 0.5
    )
    features = features_of(weights, blobs.images)
    distances = found.distances(jnp.asarray(features, jnp.float32), 0.5)
    for label, (mean, inverse) in expected.items():
        np.testing.assert_allclose(found.means[label], mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            distances[:, label], distance(features, mean, inverse), rtol=2e-3, atol=1e-4
        )


def test_scar_moves_features_and_distills_the_original(blobs, key):
    """One full-batch step of gradient descent, its gradient by finite differences."""
    problem = network_problem(blobs)
    method = SCAR(
        forget_weight=0.8,
        distill_weight=0.6,
        temperature=1.7,
        learning_rate=0.05,
        num_epochs=1,
        num_repeats=1,
        batch_size=40,
        optimizer=SGD(momentum=0.0),
    )
    got, info = method(key, problem)
    assert info.num_gradients == 80
    is_forget = blobs.labels == GONE
    original = [np.asarray(leaf, "f8") for leaf in problem.variables.params]
    known = distributions(original, blobs.images[~is_forget], blobs.labels[~is_forget])
    forget_images = blobs.images[is_forget]
    start = features_of(original, forget_images)
    every = {label: distance(start, *one) for label, one in known.items()}
    target = np.where(every[1] <= every[2], 1, 2)
    assert len(set(target)) == 2
    teacher = features_of(original, blobs.images[~is_forget]) @ original[1]
    counted = teacher.argmax(1) != GONE
    assert 0 < counted.sum() < len(counted)
    masked = teacher.copy()
    masked[:, GONE] = teacher[counted].min()
    odds = np.exp(masked / 1.7)
    wanted = odds / odds.sum(1, keepdims=True)

    def loss(weights):
        moved = features_of(weights, forget_images)
        apart = np.where(target == 1, *(distance(moved, *known[k]) for k in (1, 2)))
        logits = features_of(weights, blobs.images[~is_forget]) @ weights[1]
        log_probs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        kept = np.sum(wanted * (np.log(wanted) - log_probs), 1)[counted].mean()
        return 0.8 * apart.mean() + 0.6 * kept

    for leaf, (place, before) in zip(got.params, enumerate(original), strict=True):
        slope = np.zeros_like(before)
        for entry in np.ndindex(before.shape):
            values = []
            for step in (1e-6, -1e-6):
                moved = [one.copy() for one in original]
                moved[place][entry] += step
                values.append(loss(moved))
            slope[entry] = (values[0] - values[1]) / 2e-6
        np.testing.assert_allclose(
            (before - np.asarray(leaf, "f8")) / 0.05, slope, rtol=5e-3, atol=2e-4
        )


def test_powered_features_have_no_slope_at_zero():
    slope = jax.grad(lambda x: jnp.sum(powered(x, 0.5)))(jnp.array([0.0, 4.0, -4.0]))
    np.testing.assert_allclose(slope, [0.0, 0.25, 0.25])


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (UAM, {"rho": -0.1}, "rho must be"),
        (UAM, {"forget_batch_size": 0}, "forget_batch_size must be a pos"),
        (SCAR, {"power": 0.0}, "power must be positive"),
        (SCAR, {"power": 2.0}, "power must be"),
        (SCAR, {"temperature": 0.0}, "temperature must be positive"),
        (SCAR, {"distill_weight": -1.0}, "distill_weight must be"),
        (SCAR, {"num_repeats": 0}, "num_repeats must be a pos"),
    ],
)
def test_impossible_hyperparameters_are_refused(method, options, message):
    with pytest.raises(InputError, match=message):
        method(**options)
