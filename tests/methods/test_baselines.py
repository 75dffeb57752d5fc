"""Baselines without a teacher: GA, NegGrad+, random labels, BS and l1-sparse."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.method_checks import (
    HALF,
    LINEAR,
    descend,
    gradient,
    linear_problem,
    softmax,
    traced,
)

from unlearn_jax import methods
from unlearn_jax.methods.boundary_shrink import BoundaryShrink, neighbor_labels
from unlearn_jax.methods.gradient_ascent import GradientAscent
from unlearn_jax.methods.l1_sparse import L1Sparse
from unlearn_jax.methods.neggrad_plus import NegGradPlus
from unlearn_jax.methods.random_label import RandomLabel, random_labels
from unlearn_jax.types import Dataset, InputError, Variables

FULL = {"num_epochs": 3, "batch_size": 30}


def halves(blobs):
    return (blobs.images[HALF], blobs.labels[HALF]), (
        blobs.images[~HALF],
        blobs.labels[~HALF],
    )


@pytest.mark.parametrize("retain", [False, True])
def test_gradient_ascent_climbs(retain, blobs, key):
    problem, (forget, kept) = linear_problem(blobs), halves(blobs)
    got = traced(
        GradientAscent,
        {"learning_rate": 0.3},
        problem,
        key,
        180 if retain else 90,
        **FULL,
        retain=retain,
    )
    epoch = [lambda w: gradient(w, *kept), lambda w: -gradient(w, *forget)][
        0 if retain else 1 :
    ]
    np.testing.assert_allclose(
        got, descend(problem.variables.params, 3 * epoch, 0.3), rtol=1e-4, atol=1e-5
    )


def test_neggrad_plus_weighs_both_sets(blobs, key):
    problem, (forget, kept) = linear_problem(blobs), halves(blobs)
    k_a, k_b, k_c = jax.random.split(key, 3)
    got = traced(
        NegGradPlus, {"alpha": 0.8, "learning_rate": 0.3}, problem, k_a, 180, **FULL
    )
    steps = 3 * [lambda w: 0.8 * gradient(w, *kept) - 0.2 * gradient(w, *forget)]
    np.testing.assert_allclose(
        got, descend(problem.variables.params, steps, 0.3), rtol=1e-4, atol=1e-5
    )
    # with all the weight on D_R it is fine-tuning
    edge, _ = NegGradPlus(**FULL, alpha=1.0)(k_b, problem)
    plain, _ = methods.FineTune(**FULL)(k_c, problem)
    chex.assert_trees_all_close(edge, plain, rtol=1e-4, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 99),
    num_classes=st.integers(2, 5),
    kind=st.sampled_from(["wrong", "any"]),
)
def test_random_labels_are_uniform_over_their_classes(seed, num_classes, kind):
    truth = jnp.arange(2000) % num_classes
    drawn = np.asarray(
        random_labels(jax.random.key(seed), truth, num_classes, kind=kind)
    )
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (truth, drawn), 1)
    classes = num_classes - (kind == "wrong")
    expected = (
        2000 / num_classes / classes * (1 - np.eye(num_classes) * (kind == "wrong"))
    )
    assert np.all(np.abs(counts - expected) <= 6 * np.sqrt(expected))
    assert drawn.dtype == truth.dtype


BASIS = Dataset(
    np.eye(16, dtype="f4").reshape(16, 4, 4, 1), np.arange(16, dtype="i4") % 3
)
"""Sample ``i`` moves row ``i`` of the weights alone: the row shows its labels."""


def row_gradients(labels, rows):
    return lambda w: gradient(w, BASIS.images[rows], labels[rows])


def test_random_label_trains_on_its_labels(key):
    truth, first = BASIS.labels, np.arange(16) < 8
    problem = methods.make_problem(
        LINEAR, Variables(jnp.zeros((16, 3)), {}), BASIS, first
    )
    options, (k_a, k_b, k_c) = (
        {"num_epochs": 3, "batch_size": 16},
        jax.random.split(key, 3),
    )
    once = traced(
        RandomLabel, {"learning_rate": 0.3}, problem, k_a, 48, **options, redraw="once"
    )
    drawn = once.argmax(-1)
    assert np.all(drawn[first] != truth[first])
    np.testing.assert_array_equal(drawn[~first], truth[~first])
    expected = descend(
        np.zeros((16, 3)), 3 * [row_gradients(drawn, np.arange(16))], 0.3
    )
    np.testing.assert_allclose(once, expected, rtol=1e-4, atol=1e-6)
    redrawn = traced(RandomLabel, {"learning_rate": 0.3}, problem, k_b, 48, **options)
    np.testing.assert_allclose(redrawn[~first], expected[~first], rtol=1e-4, atol=1e-6)
    assert (
        np.sum(
            np.ptp(redrawn[first], axis=-1) < np.ptp(expected[first], axis=-1) - 1e-3
        )
        > 2
    )  # labels mixed
    ordered = traced(
        RandomLabel,
        {"learning_rate": 0.3},
        problem,
        k_c,
        16,
        num_epochs=1,
        batch_size=8,
        order="forget_first",
    )
    labels = np.where(first, ordered.argmax(-1), truth)
    steps = [row_gradients(labels, first), row_gradients(labels, ~first)]
    np.testing.assert_allclose(
        ordered, descend(np.zeros((16, 3)), steps, 0.3), rtol=1e-4, atol=1e-6
    )


def slow_labels(w, images, labels, bound, discretize=False):
    """One by one: the class of ``clip(x + bound * sign(W (p - e_y)))``."""
    drawn = []
    for image, label in zip(np.asarray(images, "f8"), labels, strict=True):
        x = image.ravel()
        slope = w @ (softmax(x @ w) - np.eye(3)[label])
        x = np.clip(x + bound * np.sign(slope), 0, 1)
        x = np.round(x * 255) / 255 if discretize else x
        drawn.append(np.argmax(x @ w))
    return np.array(drawn)


@pytest.mark.parametrize("discretize", [False, True])
def test_neighbor_labels(discretize, blobs):
    problem, (forget, _) = linear_problem(blobs), halves(blobs)
    label = jax.jit(
        lambda bound: neighbor_labels(
            problem, problem.variables, bound=bound, discretize=discretize
        )
    )
    w = np.asarray(problem.variables.params, "f8")
    near, wide = label(0.1), label(0.5)
    np.testing.assert_array_equal(near, slow_labels(w, *forget, 0.1, discretize))
    np.testing.assert_array_equal(wide, slow_labels(w, *forget, 0.5, discretize))
    assert np.any(near != wide)
    np.testing.assert_array_equal(
        label(0.0), np.argmax(forget[0].reshape(30, -1) @ w, -1)
    )


def test_confident_samples_have_neighbors_too(blobs):
    """Cross-entropy of a margin of hundreds has no gradient in float32; labels do."""
    problem, (forget, _) = linear_problem(blobs), halves(blobs)
    sure = Variables(300 * problem.variables.params, {})
    labels = neighbor_labels(problem, sure, bound=0.5)
    w = np.asarray(problem.variables.params, "f8")
    np.testing.assert_array_equal(labels, slow_labels(w, *forget, 0.5))


@pytest.mark.parametrize(("relabel", "retain"), [("original", False), ("epoch", True)])
def test_boundary_shrink_trains_on_its_labels(relabel, retain, blobs, key):
    problem, (forget, kept) = linear_problem(blobs), halves(blobs)
    options, cost = (
        {"relabel": relabel, "retain": retain, **FULL},
        (3 * (30 + 60) if retain else 3 * 30 + 30),
    )
    got = traced(
        BoundaryShrink,
        {"learning_rate": 2.0, "bound": 0.2},
        problem,
        key,
        cost,
        **options,
    )
    original, labels = np.asarray(problem.variables.params, "f8"), []

    def shrink(w):
        labels.append(slow_labels(w if relabel == "epoch" else original, *forget, 0.2))
        return gradient(w, forget[0], labels[-1])

    epoch = [lambda w: gradient(w, *kept), shrink] if retain else [shrink]
    np.testing.assert_allclose(
        got, descend(original, 3 * epoch, 2.0, weight_decay=0.0), rtol=1e-3, atol=1e-4
    )
    assert np.any(labels[0] != labels[-1]) == (relabel == "epoch")


@pytest.mark.parametrize("schedule", ["linear", "amun_code"])
def test_l1_sparse_descends_on_the_penalized_loss(schedule, blobs, key):
    problem, kept = linear_problem(blobs), halves(blobs)[1]
    got = traced(
        L1Sparse,
        {"gamma": 0.02, "learning_rate": 0.3},
        problem,
        key,
        90,
        **FULL,
        schedule=schedule,
    )

    def loss(w, weight):
        logits = kept[0].reshape(30, -1) @ w
        entropy = -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(30), kept[1]])
        return entropy + weight * jnp.sum(jnp.abs(w))

    weights = {
        "linear": [0.02, 0.02 * 2 / 3, 0.02 / 3],
        "amun_code": [0.02, 0.04, 0.04 * 4 / 3],
    }[schedule]
    steps = [
        lambda w, c=c: np.asarray(jax.grad(loss)(jnp.asarray(w, "f4"), c))
        for c in weights
    ]
    np.testing.assert_allclose(
        got, descend(problem.variables.params, steps, 0.3), rtol=1e-4, atol=1e-5
    )


def test_l1_sparse_without_penalty_is_fine_tuning(blobs, key):
    problem, options = linear_problem(blobs), {"num_epochs": 2, "batch_size": 8}
    plain = methods.FineTune(**options)(jax.random.clone(key), problem)
    chex.assert_trees_all_equal(L1Sparse(**options, gamma=0.0)(key, problem), plain)


def test_bad_values_are_refused():
    for factory, options, message in [
        (RandomLabel, {"labels": "true"}, "unknown labels"),
        (RandomLabel, {"redraw": "never"}, "unknown redraw"),
        (RandomLabel, {"order": "retain_first"}, "unknown order"),
        (BoundaryShrink, {"relabel": "never"}, "unknown relabel"),
        (BoundaryShrink, {"bound": 2.0}, r"bound must be in \[0, 1\]"),
        (L1Sparse, {"schedule": "cosine"}, "unknown schedule"),
        (L1Sparse, {"gamma": -1.0}, "gamma must be"),
        (NegGradPlus, {"alpha": 1.5}, "alpha must be"),
        (GradientAscent, {"learning_rate": 0.0}, "must be positive"),
    ]:
        with pytest.raises(InputError, match=message):
            factory(**options)
