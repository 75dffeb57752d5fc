"""UNSIR and L2UL, which forget without the forgotten images or without the others."""

import importlib

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
    small_problem,
    softmax,
    traced,
)

from unlearn_jax import methods, models
from unlearn_jax.methods import L2UL, UNSIR
from unlearn_jax.methods.l2ul import forget_importance, targeted_adversarials
from unlearn_jax.methods.unsir import learn_noise
from unlearn_jax.optimizers import SGD
from unlearn_jax.types import Dataset, InputError, Problem, Variables

NOISE = {"num_noise_images": 6, "num_noise_steps": 3, "num_noise_copies": 2}
SMALL = {"num_steps": 3, "forget_batch_size": 4, "batch_size": 5}
RATE = {"learning_rate": 0.05}

# ---- UNSIR


def of_class(blobs, *classes):
    weights = np.random.default_rng(4).normal(size=(16, 3)).astype("f4")
    return methods.make_problem(
        LINEAR,
        Variables(jnp.asarray(weights), {}),
        blobs,
        np.isin(blobs.labels, classes),
    )


def test_noise_is_adam_on_minus_the_loss_plus_the_penalty(blobs, key):
    problem = of_class(blobs, 0, 2)
    learn = jax.jit(
        lambda key, rate, penalty, steps: learn_noise(
            key, problem, 8, num_steps=steps, rate=rate, penalty=penalty
        ),
        static_argnums=3,
    )
    start = learn(jax.random.clone(key), 0.1, 0.05, 0)
    noise = learn(key, 0.1, 0.05, 12)
    np.testing.assert_array_equal(noise.labels, start.labels)
    w, x, target = (
        np.asarray(problem.variables.params, "f8"),
        np.asarray(start.images, "f8").reshape(8, 16),
        noise.labels,
    )
    first, second = np.zeros_like(x), np.zeros_like(x)
    for step in range(1, 13):
        slope = (-(softmax(x @ w) - np.eye(3)[target]) @ w.T + 2 * 0.05 * x) / 8
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        x = x - 0.1 * (first / (1 - 0.9**step)) / (
            np.sqrt(second / (1 - 0.999**step)) + 1e-8
        )
    np.testing.assert_allclose(
        np.reshape(noise.images, (8, 16)), x, rtol=1e-3, atol=1e-4
    )


def cross_entropy_of(problem, data):
    logits = np.asarray(problem.model.apply(problem.variables, data.images), "f8")
    return -np.log(softmax(logits)[np.arange(len(logits)), data.labels])


def test_learned_noise_raises_the_loss_of_its_labels_and_stays_in_the_box_on_demand(
    normed, blobs, key
):
    problem = methods.make_problem(
        normed, jax.jit(normed.init)(jax.random.key(1)), blobs, blobs.labels == 1
    )
    learn = jax.jit(
        lambda key, steps, clip: learn_noise(
            key, problem, 5, num_steps=steps, clip=clip, penalty=1e-3
        ),
        static_argnums=(1, 2),
    )
    for clip in (False, True):
        start, noise = (learn(jax.random.clone(key), steps, clip) for steps in (0, 10))
        assert np.all(noise.labels == 1)
        assert np.all(
            cross_entropy_of(problem, noise) > cross_entropy_of(problem, start)
        )
        assert (np.min(noise.images) >= 0 and np.max(noise.images) <= 1) == clip


def test_noise_has_the_fractions_of_the_forgotten_classes(blobs):
    """Reading a permutation cyclically, each of two classes of 20 gets half of 120."""
    problem, masks = (
        of_class(blobs, 0, 1),
        {pair: np.isin(blobs.labels, pair) for pair in [(0, 1), (0, 2), (1, 2)]},
    )

    @jax.jit
    def labels_of(key, mask):
        chosen = Problem(problem.model, problem.variables, problem.train, mask, 40)
        return learn_noise(key, chosen, 120, num_steps=0).labels

    @settings(max_examples=8, deadline=None)
    @given(seed=st.integers(0, 999), pair=st.sampled_from(sorted(masks)))
    def check(seed, pair):
        labels = np.asarray(labels_of(jax.random.key(seed), masks[pair]))
        np.testing.assert_array_equal(
            np.unique(labels, return_counts=True), [pair, [60, 60]]
        )

    check()


def test_unsir_impairs_with_the_noise_and_repairs_without(blobs, key, monkeypatch):
    """One full-batch step each: 20 noise images twice with 20 retained ones; then
    those, three times over.
    """
    module = importlib.import_module("unlearn_jax.methods.unsir")
    rng = np.random.default_rng(6)
    noise = Dataset(
        rng.normal(size=(20, 4, 4, 1)).astype("f4"), rng.integers(0, 2, 20).astype("i4")
    )
    monkeypatch.setattr(
        module, "learn_noise", lambda *_, **__: jax.tree.map(jnp.asarray, noise)
    )
    problem = of_class(blobs, 0, 1)
    numbers = {"learning_rate": 0.3, "repair_rate": 0.2, "weight_decay": 0.1}
    options = {
        "num_noise_images": 20,
        "num_noise_copies": 2,
        "num_noise_steps": 7,
        "batch_size": 60,
        "optimizer": SGD(),
    }
    got = traced(UNSIR, numbers, problem, key, 7 * 20 + 60 + 60, **options)
    kept = blobs.labels == 2
    images = np.concatenate([noise.images, noise.images, blobs.images[kept]])
    labels = np.concatenate([noise.labels, noise.labels, blobs.labels[kept]])
    impaired = descend(
        problem.variables.params,
        [lambda w: gradient(w, images, labels)],
        0.3,
        weight_decay=0.1,
    )
    repair = [lambda w: gradient(w, blobs.images[kept], blobs.labels[kept])]
    np.testing.assert_allclose(
        got, descend(impaired, repair, 0.2, weight_decay=0.1), rtol=1e-4, atol=1e-5
    )


def test_unsir_with_zero_impair_rate_is_fine_tuning(blobs, key):
    problem, (k_a, k_b) = of_class(blobs, 0), jax.random.split(key)
    bare, info = UNSIR(
        **NOISE,
        learning_rate=1e-30,
        repair_rate=0.3,
        batch_size=40,
        optimizer=SGD(),
        num_epochs=2,
    )(k_a, problem)
    tuned, plain = methods.FineTune(
        num_epochs=2, batch_size=40, learning_rate=0.3, weight_decay=0.0
    )(k_b, problem)
    chex.assert_trees_all_close(
        (bare, info.losses), (tuned, plain.losses), rtol=1e-4, atol=1e-5
    )


def test_unsir_reads_as_many_retained_samples_as_asked(key):
    """Sample ``i`` alone moves row ``i`` of the weights; the noise is black."""
    train = Dataset(
        np.eye(16, dtype="f4").reshape(16, 4, 4, 1), np.arange(16, dtype="i4") % 3
    )
    model = models.from_functions(
        lambda key: jnp.zeros((16, 3)), lambda w, x: x.reshape(len(x), -1) @ w
    )
    problem = methods.make_problem(
        model, Variables(jnp.zeros((16, 3)), {}), train, np.arange(16) % 3 == 1
    )
    black = {
        "num_noise_images": 2,
        "num_noise_copies": 1,
        "num_noise_steps": 60,
        "noise_penalty": 1e6,
        "clip": True,
    }
    variables, info = jax.jit(UNSIR(**black, num_retain=4, batch_size=6))(key, problem)
    moved = np.any(np.asarray(variables.params) != 0, -1)
    assert moved.sum() == 4
    assert not np.any(moved & (train.labels == 1))
    assert info.num_gradients == 60 * 2 + 6 + 6


def test_mask_of_unsir_is_that_of_the_original(normed, blobs, key):
    """Impair and repair move the same parameters, and the mask is paid for once."""
    problem = small_problem(normed, blobs)
    saliency = methods.Saliency(fraction=0.3)
    method = UNSIR(**NOISE, **RATE, num_retain=20, batch_size=16)
    run = jax.jit(methods.masked(method, saliency))
    variables, info = run(jax.random.clone(key), problem)
    mask = methods.saliency_mask(problem, fraction=0.3, batch_size=16)
    chex.assert_trees_all_equal(
        jax.tree.map(
            lambda new, old: new != old, variables.params, problem.variables.params
        ),
        mask,
    )
    _, plain = jax.jit(method)(key, problem)
    assert info.num_gradients == plain.num_gradients + problem.num_forget


# ---- L2UL


def importance_oracle(w, images, batches, per):
    total = np.zeros_like(w)
    for batch in batches:
        x = images[batch]
        logits = x @ w
        if per == "sample":
            total += sum(
                np.abs(2 * np.outer(a, b)) for a, b in zip(x, logits, strict=True)
            )
        else:
            units = logits / np.linalg.norm(logits, axis=1, keepdims=True)
            total += np.abs(x.T @ units) / len(x)
    return (total - total.min()) / (total.max() - total.min())


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_importance_matches_its_definition(per, blobs):
    problem = linear_problem(blobs)
    got = jax.jit(lambda problem: forget_importance(problem, per=per, batch_size=8))(
        problem
    )
    images = np.asarray(blobs.images, "f8").reshape(60, 16)[HALF]
    batches = [np.arange(start, min(start + 8, 30)) for start in range(0, 30, 8)]
    expected = importance_oracle(
        np.asarray(problem.variables.params, "f8"), images, batches, per
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_importance_of_a_model_without_output_is_zero(per, blobs):
    problem = methods.make_problem(
        of_class(blobs, 0).model, Variables(jnp.zeros((16, 3)), {}), blobs, HALF
    )
    np.testing.assert_array_equal(forget_importance(problem, per=per), 0)


def test_targeted_examples_match_a_slow_loop(blobs, key):
    problem = linear_problem(blobs)
    make = jax.jit(
        lambda key, epsilon, step_size, num_steps, size: targeted_adversarials(
            key,
            problem,
            2,
            epsilon=epsilon,
            step_size=step_size,
            num_steps=num_steps,
            batch_size=size,
        ),
        static_argnums=(3, 4),
    )
    start, made = (make(jax.random.clone(key), 0.4, 0.15, steps, 7) for steps in (0, 5))
    np.testing.assert_array_equal(start.labels, made.labels)
    w, clean = (
        np.asarray(problem.variables.params, "f8"),
        np.tile(blobs.images[HALF].reshape(30, 16), (2, 1)).astype("f8"),
    )
    assert np.all(made.labels != np.tile(blobs.labels[HALF], 2))
    x = np.asarray(start.images, "f8").reshape(60, 16)
    assert np.all(np.linalg.norm(x - clean, axis=1) <= 0.4)
    for _ in range(5):
        slope = (np.eye(3)[made.labels] - softmax(x @ w)) @ w.T
        delta = x + 0.15 * slope / np.linalg.norm(slope, axis=1, keepdims=True) - clean
        delta *= np.minimum(1, 0.4 / np.linalg.norm(delta, axis=1, keepdims=True))
        x = np.clip(clean + delta, 0, 1)
    np.testing.assert_allclose(
        np.reshape(made.images, (60, 16)), x, rtol=1e-4, atol=1e-4
    )


def test_targets_are_wrong_or_any_and_the_examples_within_their_ball_and_the_box(blobs):
    problem, clean = linear_problem(blobs), blobs.images[HALF]

    @jax.jit
    def make(key, epsilon):
        keys = jax.random.split(key)
        options = {"epsilon": epsilon, "num_steps": 2, "batch_size": 30}
        return [
            targeted_adversarials(k, problem, 1, targets=t, **options)
            for k, t in zip(keys, ("wrong", "any"), strict=True)
        ]

    @settings(max_examples=8, deadline=None)
    @given(seed=st.integers(0, 999), epsilon=st.floats(0.01, 5.0))
    def check(seed, epsilon):
        for made, any_label in zip(
            make(jax.random.key(seed), epsilon), (False, True), strict=True
        ):
            distance = np.sqrt(
                np.sum((np.asarray(made.images) - clean) ** 2, (1, 2, 3))
            )
            assert np.all(distance <= epsilon * (1 + 1e-5))
            assert np.min(made.images) >= 0
            assert np.max(made.images) <= 1
            assert np.any(made.labels == blobs.labels[HALF]) == any_label

    check()


def test_l2ul_costs_the_same_compiled_or_not_without_regularization(blobs, key):
    problem = linear_problem(blobs)
    method = L2UL(regularization=0.0, num_steps=1, num_epochs=1)
    _, info = method(jax.random.clone(key), problem)
    assert info.num_gradients == methods.unlearn(key, method, problem)[1].num_gradients


PAIR = models.from_functions(
    lambda key: jnp.zeros((16, 2)),
    lambda w, images: images.reshape(len(images), -1) @ w,
)  # two classes: the wrong one is known


def test_l2ul_matches_its_regularized_steps(blobs, key):
    """Examples within a ball of 1e-6 are their images; full batches, of 30 forget
    samples and 60 examples.
    """
    data = Dataset(blobs.images, (blobs.labels > 0).astype("i4"))
    weights = np.random.default_rng(4).normal(size=(16, 2)).astype("f4")
    problem = methods.make_problem(
        PAIR, Variables(jnp.asarray(weights), {}), data, HALF
    )
    images, x = data.images[HALF], np.asarray(data.images, "f8").reshape(60, 16)[HALF]
    label = np.eye(2)[data.labels[HALF]]
    omega = importance_oracle(weights.astype("f8"), x, [np.arange(30)], "sample")
    options = {
        "epsilon": 1e-6,
        "num_steps": 2,
        "num_adversarial": 2,
        "forget_batch_size": 30,
        "num_epochs": 3,
        "stop": "never",
    }
    numbers = {"regularization": 0.4, "learning_rate": 0.3, "weight_decay": 0.1}
    for weight in (None, 0.7):
        more = {} if weight is None else {"adversarial_weight": weight}
        got = traced(
            L2UL,
            {**numbers, **more},
            problem,
            jax.random.clone(key),
            3 * 90 + 30 + 2 * 30 * 2,
            **options,
        )
        leave, keep = (1 / 3, 2 / 3) if weight is None else (1.0, weight)

        def slope(w, leave=leave, keep=keep):
            terms = keep * gradient(w, images, 1 - label) - leave * gradient(
                w, images, label
            )
            return terms + 0.4 * (1 - omega) * (w - weights)

        expected = descend(weights, 3 * [slope], 0.3, weight_decay=0.1)
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_l2ul_without_examples_and_hold_is_gradient_ascent(blobs, key):
    problem, (k_a, k_b) = linear_problem(blobs), jax.random.split(key)
    training = {"num_epochs": 3, "learning_rate": 0.1, "weight_decay": 0.0}
    bare, info = L2UL(
        **training, adversarial_weight=0, regularization=0, num_steps=0, stop="never"
    )(k_a, problem)
    ascent, plain = methods.GradientAscent(**training, batch_size=30)(k_b, problem)
    chex.assert_trees_all_close(
        (bare, info.losses), (ascent, plain.losses), rtol=1e-4, atol=1e-5
    )


def ascent_until_forgotten(problem, images, labels, rate, every):
    """Gradient ascent with momentum until no label is right at a multiple of ``every``
    steps: weights and steps.
    """
    w, velocity = np.asarray(problem.variables.params, "f8"), 0.0
    for step in range(1, 26):
        velocity = 0.9 * velocity - gradient(w, images, labels)
        w = w - rate * velocity
        if step % every == 0 and np.all(
            np.argmax(images.reshape(-1, 16) @ w, -1) != labels
        ):
            return w, step
    raise AssertionError("the class was not forgotten")


@pytest.mark.parametrize("stop", ["epoch", "step"])
def test_l2ul_stops_once_no_forget_sample_is_right(stop, blobs, key):
    """Without examples and hold, five steps per epoch.

    No sample of class 1 was right: one step (epoch) is made.
    """
    options = {
        "adversarial_weight": 0,
        "regularization": 0,
        "num_steps": 0,
        "batch_size": 4,
        "num_epochs": 5,
    }
    run = jax.jit(
        L2UL(
            **options,
            stop=stop,
            learning_rate=0.2,
            weight_decay=0,
            forget_batch_size=20,
        )
    )
    made = []
    for number in (0, 1):
        problem, chosen = of_class(blobs, number), blobs.labels == number
        every = {"step": 1, "epoch": 5}[stop]
        w, steps = ascent_until_forgotten(
            problem, blobs.images[chosen], blobs.labels[chosen], 0.2, every
        )
        variables, info = run(jax.random.clone(key), problem)
        np.testing.assert_allclose(variables.params, w, rtol=1e-4, atol=1e-4)
        assert info.num_gradients == steps * 24 + 20  # importances of 20 samples
        np.testing.assert_array_equal(
            np.asarray(info.losses) != 0, np.arange(5) * 5 < steps
        )
        made.append(steps)
    assert made == {"step": [12, 1], "epoch": [15, 5]}[stop]


def test_the_mode_of_the_examples_matters_to_batch_statistics_alone(normed, blobs, key):
    problem = small_problem(normed, blobs)
    options = {**SMALL, **RATE, "num_epochs": 1, "regularization": 0, "stop": "never"}
    ends = {}
    for mode in ("train", "evaluate"):
        for stats in ("update", "freeze"):
            run = jax.jit(L2UL(**options, adversarial_mode=mode, batch_stats=stats))
            ends[mode, stats] = jax.tree.leaves(run(jax.random.clone(key), problem)[0])
    chex.assert_trees_all_close(
        ends["train", "freeze"], ends["evaluate", "freeze"], rtol=1e-5, atol=1e-6
    )
    assert not np.allclose(
        ends["train", "update"][0], ends["evaluate", "update"][0], rtol=0, atol=1e-5
    )


def test_l2ul_forgets_a_class_of_a_network(normed, blobs, key):
    """Accuracy on the class falls to zero, or the run would not have stopped."""
    problem = methods.make_problem(
        normed, jax.jit(normed.init)(jax.random.key(1)), blobs, blobs.labels == 1
    )
    variables, info = jax.jit(
        L2UL(num_epochs=30, num_steps=5, learning_rate=0.05, epsilon=0.5)
    )(key, problem)
    labels = np.argmax(normed.apply(variables, blobs.images[blobs.labels == 1]), -1)
    assert np.all(labels != 1)
    attack = 5 * 20
    assert attack + 20 < info.num_gradients < 30 * 40 + 20 + attack


def test_values_out_of_range_are_refused():
    for factory, options, message in [
        (UNSIR, {"num_noise_images": 0}, "must be a positive integer"),
        (UNSIR, {"num_noise_steps": -1}, "0 or more"),
        (UNSIR, {"noise_penalty": -1.0}, "noise_penalty must be"),
        (UNSIR, {"repair_rate": 0.0}, "must be positive"),
        (L2UL, {"epsilon": 0.0}, "must be positive"),
        (L2UL, {"num_adversarial": 0}, "must be a positive integer"),
        (L2UL, {"adversarial_weight": -1.0}, "adversarial_weight must be"),
        (L2UL, {"targets": "right"}, "unknown targets"),
        (L2UL, {"importance": "weight"}, "unknown importance"),
        (L2UL, {"adversarial_mode": "off"}, "unknown adversarial_mode"),
        (L2UL, {"stop": "now"}, "unknown stop"),
    ]:
        with pytest.raises(InputError, match=message):
            factory(**options)
