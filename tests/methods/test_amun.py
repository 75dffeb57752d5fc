"""AMUN's fine-tuning set by hand on a linear model: controls, failures, AMUN+SalUn."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small import linear

from unlearn_jax import methods, models, replicas
from unlearn_jax.attacks import PGD, Doubling
from unlearn_jax.methods import AMUN, Saliency, masked
from unlearn_jax.methods.adversarial import adversarial_samples, draw_labels
from unlearn_jax.methods.saliency import saliency_mask
from unlearn_jax.optimizers import SGD
from unlearn_jax.types import AttackResult, Dataset, InputError, Problem, Status
from unlearn_jax.values import replace

CLASSES, SIZE = 5, 6
FORGET = np.isin(np.arange(40), [1, 4, 9, 16, 25, 36])
PLAIN = {
    "batch_size": SIZE,
    "learning_rate": 1.0,
    "optimizer": SGD(momentum=0.0),
    "weight_decay": 0.0,
}
ATTACK = PGD(num_steps=10, search=Doubling(epsilon_init=0.02, num_radii=8))


@pytest.fixture(scope="module")
def problem():
    """Forty images that a linear model labels itself, six to forget, with their D_A."""
    rng = np.random.default_rng(2)
    model = models.from_functions(
        lambda key: jax.random.normal(key, (16, CLASSES)), linear
    )
    variables = model.init(jax.random.key(5))
    images = rng.uniform(0.3, 0.7, (40, 4, 4, 1)).astype("f4")
    data = Dataset(
        images, np.argmax(linear(np.asarray(variables.params), images), -1).astype("i4")
    )
    bare = methods.make_problem(model, variables, data, FORGET)
    result = methods.attack_forget_set(bare, ATTACK)
    assert np.all(result.status == Status.FOUND)
    return methods.make_problem(model, variables, data, FORGET, result)


@pytest.fixture(scope="module")
def clean(problem):
    return (
        np.asarray(problem.train.images)[FORGET],
        np.asarray(problem.train.labels)[FORGET],
    )


def with_failures(problem, failed, epsilon=None):
    """The same problem, some of whose searches failed at the clean image."""
    result, forget = problem.adversarial, methods.forget_set(problem)
    choose = lambda old, new: jnp.where(
        jnp.asarray(failed).reshape(-1, *(1,) * (old.ndim - 1)), new, old
    )
    radius = result.epsilon if epsilon is None else jnp.full(SIZE, epsilon)
    status = choose(result.status, jnp.full(SIZE, Status.NOT_FOUND, jnp.int32))
    return AttackResult(
        choose(result.images, forget.images),
        choose(result.labels, forget.labels),
        choose(result.epsilon, radius),
        choose(result.distance, jnp.zeros(SIZE)),
        status,
        result.num_gradients,
    )


def test_replacements_match_their_definitions(problem, clean, key):
    (x, y), result = clean, problem.adversarial
    found = np.asarray(result.labels)

    def made(kind):
        samples = adversarial_samples(
            jax.random.clone(key), problem, result, replace=kind, redraw="once"
        )
        assert np.all(samples.used)
        assert samples.allowed is None
        return np.asarray(samples.images), np.asarray(samples.labels)

    for kind, images, labels in (
        ("none", result.images, found),
        ("original", x, y),
        ("label", x, found),
        ("random_label", x, None),
        ("adversarial_random_label", result.images, None),
    ):
        got_images, got_labels = made(kind)
        np.testing.assert_array_equal(got_images, images)
        if labels is None:
            assert np.all(
                (got_labels != y)
                & (got_labels != found)
                & (got_labels >= 0)
                & (got_labels < CLASSES)
            )
        else:
            np.testing.assert_array_equal(got_labels, labels)
    images, labels = made("random_point")
    np.testing.assert_array_equal(labels, found)
    radius = np.sqrt(np.sum((np.asarray(result.images) - x) ** 2, (1, 2, 3)))
    assert images.min() > 0, "no point may be clipped here"
    np.testing.assert_allclose(
        np.sqrt(np.sum((images - x) ** 2, (1, 2, 3))), radius, rtol=1e-4
    )
    towards = (
        np.sum((images - x) * (np.asarray(result.images) - x), (1, 2, 3)) / radius**2
    )
    assert np.all(np.abs(towards) < 0.9), "a random direction, not the adversarial one"


def test_random_points_are_clipped_to_the_image_box(problem, key):
    far = problem.adversarial._replace(images=problem.adversarial.images + 1.0)
    samples = adversarial_samples(key, problem, far, replace="random_point")
    assert np.min(samples.images) == 0
    assert np.max(samples.images) == 1


@settings(max_examples=10, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(0, 99),
)
def test_drawn_labels_are_allowed_or_kept(rows, seed):
    allowed, labels = np.array(rows), np.full(len(rows), 7, "i4")
    drawn = np.asarray(
        draw_labels(jax.random.key(seed), jnp.asarray(labels), jnp.asarray(allowed))
    )
    for row, label in zip(allowed, drawn, strict=True):
        assert label == 7 if not row.any() else row[label]


def test_drawn_labels_are_uniform(key):
    allowed = jnp.tile(jnp.array([[True, False, True, True]]), (3000, 1))
    counts = np.bincount(
        np.asarray(draw_labels(key, jnp.zeros(3000, jnp.int32), allowed)), minlength=4
    )
    assert counts[1] == 0
    np.testing.assert_allclose(counts[[0, 2, 3]] / 3000, 1 / 3, atol=0.04)


def step(weights, x, labels, rate=1.0):
    """One gradient step on the mean cross-entropy of a linear softmax model."""
    flat = x.reshape(len(x), -1).astype(np.float64)
    logits = flat @ weights
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    probs /= probs.sum(-1, keepdims=True)
    return weights - rate * flat.T @ (probs - np.eye(CLASSES)[labels]) / len(x)


@pytest.mark.parametrize(
    ("retain", "forget"), [(True, True), (False, True), (True, False), (False, False)]
)
def test_whole_batches_are_plain_gradient_descent(problem, clean, key, retain, forget):
    """One batch per epoch: D_R, D_F and D_A with equal weight per sample."""
    x, y = np.asarray(problem.train.images), np.asarray(problem.train.labels)
    mask = (retain & ~FORGET) | (forget & FORGET)
    images = np.concatenate([x[mask], problem.adversarial.images])
    labels = np.concatenate([y[mask], problem.adversarial.labels])
    weights = np.asarray(problem.variables.params, np.float64)
    for _ in range(3):
        weights = step(weights, images, labels)
    options = PLAIN | {"batch_size": len(images), "num_epochs": 3}
    unlearned, info = AMUN(retain=retain, forget=forget, **options)(key, problem)
    np.testing.assert_allclose(unlearned.params, weights, rtol=1e-4, atol=1e-5)
    assert info.num_gradients == 3 * len(images)


def labels_seen(before, after, x):
    """Labels that a step of rate 1 was taken on, from the product with the images."""
    flat = x.reshape(len(x), -1).astype(np.float64)
    residual = (
        np.linalg.pinv(flat.T)
        @ (np.asarray(before, np.float64) - np.asarray(after))
        * len(x)
    )
    logits = flat @ np.asarray(before, np.float64)
    probs = np.exp(logits - logits.max(-1, keepdims=True))
    target = probs / probs.sum(-1, keepdims=True) - residual
    np.testing.assert_allclose(
        np.sort(target, -1), np.eye(CLASSES)[[-1] * len(x)], atol=0.1
    )
    return np.argmax(target, -1)


@pytest.mark.parametrize("redraw", ["batch", "once"])
def test_labels_are_drawn_for_every_batch_or_once(problem, clean, key, redraw):
    (x, y), path = clean, [problem.variables.params]
    for num_epochs in (1, 2, 3):
        method = AMUN(
            retain=False,
            forget=False,
            replace="random_label",
            redraw=redraw,
            **PLAIN,
            num_epochs=num_epochs,
        )
        path.append(method(jax.random.clone(key), problem)[0].params)
    seen = [labels_seen(before, after, x) for before, after in itertools.pairwise(path)]
    for labels in seen:
        assert np.all(
            (labels != y) & (labels != np.asarray(problem.adversarial.labels))
        )
    assert np.all(seen[0] == seen[1]) == (redraw == "once")
    assert np.all(seen[1] == seen[2]) == (redraw == "once")


def test_policies_for_failed_searches(problem, clean, key):
    (x, y), failed = clean, np.arange(SIZE) % 2 == 0
    result = with_failures(problem, failed)
    logits = linear(np.asarray(problem.variables.params), x)
    second = np.argsort(logits, -1)[:, -2]
    made = {
        policy: adversarial_samples(
            jax.random.clone(key), problem, result, failures=policy, redraw="once"
        )
        for policy in ("drop", "keep", "runner_up", "random_label")
    }
    np.testing.assert_array_equal(made["drop"].used, ~failed)
    for policy, samples in made.items():
        np.testing.assert_array_equal(samples.images, result.images)
        np.testing.assert_array_equal(samples.labels[~failed], result.labels[~failed])
        assert policy == "drop" or np.all(samples.used)
    np.testing.assert_array_equal(made["keep"].labels[failed], y[failed])
    np.testing.assert_array_equal(made["runner_up"].labels[failed], second[failed])
    assert np.all(np.asarray(made["random_label"].labels)[failed] != y[failed])
    redrawn = adversarial_samples(key, problem, result, failures="random_label")
    np.testing.assert_array_equal(
        redrawn.allowed, (np.arange(CLASSES) != y[:, None]) & failed[:, None]
    )


def test_failed_searches_are_targeted_within_their_radius(problem, clean, key):
    (x, y), failed = clean, np.array([True, True, False, True, True, False])
    second = np.argsort(linear(np.asarray(problem.variables.params), x), -1)[:, -2]
    targeted = lambda result: adversarial_samples(
        jax.random.clone(key),
        problem,
        result,
        failures="targeted",
        attack=replace(ATTACK, batch_size=3),
    )
    wide = targeted(with_failures(problem, failed, epsilon=1.0))
    np.testing.assert_array_equal(
        wide.images[~failed], problem.adversarial.images[~failed]
    )
    predicted = np.argmax(
        linear(np.asarray(problem.variables.params), np.asarray(wide.images)), -1
    )
    np.testing.assert_array_equal(wide.labels, predicted)
    np.testing.assert_array_equal(wide.labels[failed], second[failed])
    assert np.all(wide.labels != y)
    tight = targeted(with_failures(problem, failed, epsilon=1e-3))
    np.testing.assert_array_equal(tight.labels[failed], second[failed])
    moved = np.sqrt(np.sum((np.asarray(tight.images) - x) ** 2, (1, 2, 3)))[failed]
    assert np.all((moved > 5e-4) & (moved <= 1e-3 * 1.001))


def test_controls_drop_failed_and_nonfinite_images(problem, key):
    failed = np.arange(SIZE) < 2
    result = with_failures(problem, failed)
    result = result._replace(images=result.images.at[5].set(jnp.nan))
    none = adversarial_samples(jax.random.clone(key), problem, result)
    np.testing.assert_array_equal(none.used, ~failed & (np.arange(SIZE) != 5))
    label = adversarial_samples(key, problem, result, replace="label")
    np.testing.assert_array_equal(label.used, ~failed)


def poison(problem, mask):
    images = np.where(
        mask[:, None, None, None], np.nan, np.asarray(problem.train.images)
    ).astype("f4")
    data = Dataset(images, problem.train.labels)
    # make_problem would refuse them
    return dataclasses.replace(problem, train=data)


OPTIONS = {"num_epochs": 2, "batch_size": 4, "learning_rate": 0.05}
ALONE = OPTIONS | {"retain": False, "forget": False}
CASES = {
    # name: (method, what it must not read)
    "adversarial_random_label": (
        AMUN(replace="adversarial_random_label", **ALONE),
        np.ones(40, bool),
    ),
    "random_point": (AMUN(replace="random_point", **ALONE), ~FORGET),
    "random_label R": (
        AMUN(replace="random_label", failures="random_label", **OPTIONS),
        np.zeros(40, bool),
    ),
    "targeted": (AMUN(failures="targeted", attack=ATTACK, **ALONE), ~FORGET),
    "salun": (
        masked(AMUN(**OPTIONS, retain=False), Saliency(fraction=0.3)),
        ~FORGET,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_replacements_depend_on_the_key_and_the_allowed_images(name, problem, key):
    method, forbidden = jax.jit(CASES[name][0]), CASES[name][1]
    k_a, k_b = jax.random.split(key)
    first, _ = method(jax.random.clone(k_a), problem)
    chex.assert_tree_all_finite(first)
    chex.assert_trees_all_equal(first, method(k_a, poison(problem, forbidden))[0])
    other, _ = method(k_b, problem)
    assert not np.allclose(first.params, other.params, atol=1e-7)


def test_salun_with_every_weight_is_amun(problem, key):
    method = AMUN(**OPTIONS, forget=False, failures="keep")
    whole, info = jax.jit(masked(method, Saliency(fraction=1.0)))(
        jax.random.clone(key), problem
    )
    amun, spent = jax.jit(method)(key, problem)
    chex.assert_trees_all_close(whole, amun, rtol=1e-5, atol=1e-6)
    assert info.num_gradients == spent.num_gradients + SIZE  # the mask's


def test_salun_moves_the_masked_weights_only_unless_decay_leaks(problem, key):
    mask = np.asarray(saliency_mask(problem, fraction=0.25))
    assert mask.sum() == round(0.25 * mask.size)
    before = np.asarray(problem.variables.params)
    method = masked(AMUN(**OPTIONS), Saliency(fraction=0.25))
    held, _ = method(jax.random.clone(key), problem)
    np.testing.assert_array_equal(np.asarray(held.params) != before, mask)
    leaky, _ = replace(method, leak=True, weight_decay=0.1)(key, problem)
    assert np.all(np.asarray(leaky.params) != before)
    assert np.all(np.abs(leaky.params)[~mask] < np.abs(before)[~mask]), (
        "decay alone moves the others"
    )


def test_targeted_needs_the_attack_that_made_the_set(problem, key):
    with pytest.raises(InputError, match="give that attack, such as"):
        AMUN(failures="targeted", **OPTIONS)(jax.random.clone(key), problem)
    with pytest.raises(InputError, match="give that attack, such as"):
        adversarial_samples(
            jax.random.clone(key), problem, problem.adversarial, failures="targeted"
        )
    for attack, asked in (
        (PGD(), problem),
        (None, dataclasses.replace(problem, adversarial=None)),
    ):
        variables, _ = jax.eval_shape(
            AMUN(failures="targeted", attack=attack, **OPTIONS), key, asked
        )
        assert variables.params.shape == (16, CLASSES)


def test_adversarial_images_are_neither_replaced_nor_augmented(problem, key):
    """The last training sample is to be forgotten; an augmentation mixes the whole
    batch it is given.
    """
    forget = np.roll(FORGET, 3)
    assert forget[-1]
    images = np.where(forget[:, None, None, None], np.nan, problem.train.images).astype(
        "f4"
    )
    data = Dataset(images, problem.train.labels)
    hidden = dataclasses.replace(problem, train=data, forget=jnp.asarray(forget))

    def mix(keys, images):
        return 0.5 * images + 0.5 * jnp.mean(images, 0, keepdims=True)

    def refuse(keys, images):
        raise AssertionError("nothing to augment")

    mixed, info = jax.jit(AMUN(forget=False, augment=mix, **OPTIONS))(
        jax.random.clone(key), hidden
    )
    chex.assert_tree_all_finite((mixed, info.losses))
    alone, _ = AMUN(augment=refuse, **ALONE)(jax.random.clone(key), hidden)
    chex.assert_trees_all_equal(alone, AMUN(**ALONE)(key, problem)[0])


@pytest.mark.parametrize("mapper", ["map", "vmap"])
def test_maps_over_forget_sets(problem, key, mapper):
    masks = jnp.stack([jnp.roll(problem.forget, shift) for shift in range(2)])
    method = AMUN(
        failures="targeted",
        replace="random_label",
        attack=replace(ATTACK, num_radii=2),
        **OPTIONS,
    )
    keys = jax.random.split(key, 2)

    def one(item, train):
        key, mask = item
        return method(
            key, Problem(problem.model, problem.variables, train, mask, SIZE)
        )[0]

    with jax.debug_key_reuse(
        mapper != "vmap"
    ):  # the checker takes a mapped fold_in for a use
        mapped = replicas.map_models(
            replicas.mapper(mapper, num_models=2), one, (keys, masks), problem.train
        )
    single = jax.jit(one)((jax.random.clone(keys)[1], masks[1]), problem.train)
    chex.assert_trees_all_close(
        replicas.unstack(mapped, 1), single, rtol=1e-4, atol=1e-5
    )


def test_bad_input_is_refused(problem, key):
    for name in ("failures", "replace", "redraw"):
        with pytest.raises(InputError, match=r"unknown .*'ignore': choose"):
            AMUN(**{name: "ignore"})
    with pytest.raises(InputError, match="fraction"):
        Saliency(fraction=0.0)
    with pytest.raises(InputError, match="fraction must be in"):
        Saliency(fraction=1.5)
    two = models.from_functions(lambda key: jnp.zeros((16, 2)), linear)
    data = Dataset(problem.train.images, problem.train.labels % 2)
    adversarial = problem.adversarial._replace(labels=problem.adversarial.labels % 2)
    small = methods.make_problem(
        two, two.init(jax.random.key(0)), data, FORGET, adversarial
    )
    with pytest.raises(InputError, match="the model has 2 classes, three are needed"):
        AMUN(replace="random_label", **OPTIONS)(key, small)
