"""The challenge entries: what they change first, and how fast each part learns."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import methods, models, replicas
from unlearn_jax.methods.convolution_transpose import (
    ConvolutionTranspose,
    transpose_kernels,
)
from unlearn_jax.methods.masked_small_gradients import (
    MaskedSmallGradients,
    rise_and_fall,
)
from unlearn_jax.types import InputError, Problem

TENTH, REMOVED = np.arange(60) % 10 == 3, np.arange(60) % 10 == 4
OPTIONS = {"num_epochs": 2, "batch_size": 16, "learning_rate": 0.05}
# Fine-tuning changes nothing: what is left is what came before it.
STILL = {"learning_rate": 1e-30}


@pytest.fixture(scope="module")
def convolutional(normed):
    return jax.tree.map(np.asarray, jax.jit(normed.init)(jax.random.key(4)))


def linear_model(outputs):
    return models.from_functions(
        lambda key: jax.random.normal(key, (16, outputs)),
        lambda weights, images: images.reshape(len(images), -1) @ weights,
    )


def linear_problem(blobs, outputs=3):
    """Ten samples to forget, ten to retain, forty removed: full batches, no chance."""
    model = linear_model(outputs)
    place = np.arange(60)
    variables = jax.jit(model.init)(jax.random.key(2))
    return methods.make_problem(
        model, variables, blobs, place < 10, removed=place >= 20
    )


def each_gradient(weights, images, labels):
    x = images.reshape(len(images), -1).astype(float)
    exps = np.exp(x @ weights - (x @ weights).max(1, keepdims=True))
    return (
        x[:, :, None]
        * (exps / exps.sum(1, keepdims=True) - np.eye(weights.shape[1])[labels])[
            :, None, :
        ]
    )


def slow_finetune(weights, images, labels, rates, factor=1.0):
    """Full-batch SGD with momentum and decay, one step per rate."""
    weights, velocity = np.asarray(weights, float), 0.0
    for rate in rates:
        gradient = (
            factor * each_gradient(weights, images, labels).mean(0) + 5e-4 * weights
        )
        velocity = 0.9 * velocity + gradient
        weights = weights - rate * velocity
    return weights


@pytest.mark.parametrize(
    ("method", "cost"),
    [
        # 48 retained samples: 3 batches of 16 in 2 epochs.
        (ConvolutionTranspose(**OPTIONS), 2 * 3 * 16),
        # One batch of all 6 forget samples more, and one against it.
        (MaskedSmallGradients(**OPTIONS), 2 * 3 * 16 + 2 * 6),
    ],
)
def test_gradients_are_counted(method, cost, normed, convolutional, blobs, key):
    problem = methods.make_problem(normed, convolutional, blobs, TENTH, removed=REMOVED)
    _, info = jax.jit(method)(key, problem)
    assert info.losses.shape == (2,)
    assert info.num_gradients == cost


@pytest.mark.slow
def test_challenge_methods_map_over_problems_with_traced_fields(blobs, key):
    problem, keys = linear_problem(blobs), jax.random.split(key, 2)
    masks, rates = (
        jnp.stack([problem.forget, jnp.roll(problem.forget, 5)]),
        jnp.array([0.2, 0.6]),
    )

    def one(item, train):
        key, mask, rate = item
        moved = Problem(
            problem.model, problem.variables, train, mask, problem.num_forget
        )
        options = {"init_rate": rate, "gradient_scale": rate / 2, "learning_rate": rate}
        k_first, k_second = jax.random.split(key)
        masked = MaskedSmallGradients(
            **options, kernels="all", num_epochs=2, batch_size=25
        )
        return (
            masked(k_first, moved)[0],
            ConvolutionTranspose(learning_rate=rate, batch_size=25)(k_second, moved)[0],
        )

    by_map, by_vmap = (
        replicas.mapper(form, num_models=2, devices=1) for form in ("map", "vmap")
    )
    items = (jax.random.clone(keys), masks, rates)
    mapped = replicas.map_models(by_map, one, items, problem.train)
    with jax.debug_key_reuse(
        False
    ):  # the check mistakes any vmapped scan over keys for a reuse
        vmapped = replicas.map_models(by_vmap, one, items, problem.train)
    chex.assert_trees_all_close(mapped, vmapped, rtol=1e-4, atol=1e-5)
    # static options give the same
    static = {"init_rate": 0.6, "gradient_scale": 0.3, "learning_rate": 0.6}
    moved = Problem(
        problem.model, problem.variables, problem.train, masks[1], problem.num_forget
    )
    method = jax.jit(
        MaskedSmallGradients(**static, kernels="all", num_epochs=2, batch_size=25)
    )
    single, _ = method(jax.random.split(keys[1])[0], moved)
    chex.assert_trees_all_close(
        replicas.unstack(mapped[0], 1), single, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (ConvolutionTranspose, {"learning_rate": 0.0}, "must be positive"),
        (MaskedSmallGradients, {"init_rate": 1.1}, r"init_rate must be in \[0, 1\]"),
        (
            MaskedSmallGradients,
            {"gradient_scale": -0.1},
            "gradient_scale must be finite and not",
        ),
        (MaskedSmallGradients, {"kernels": "dense"}, "unknown kernels"),
        (MaskedSmallGradients, {"batch_stats": "off"}, "unknown batch_stats"),
    ],
)
def test_bad_values_are_refused(factory, options, message):
    with pytest.raises(InputError, match=message):
        factory(**options)


# --- CT


def test_kernels_are_transposed_and_nothing_else():
    rng = np.random.default_rng(0)
    shapes = {
        "square": (3, 3, 2, 4),
        "one": (1, 1, 2, 4),
        "wide": (3, 5, 2, 4),
        "dense": (6, 6),
        "bias": (4,),
    }
    params = {
        name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()
    }
    got = transpose_kernels(params)
    for a, b in np.ndindex(3, 3):
        np.testing.assert_array_equal(got["square"][a, b], params["square"][b, a])
    assert not np.array_equal(got["square"], params["square"])
    for name in ("one", "wide", "dense", "bias"):
        np.testing.assert_array_equal(got[name], params[name])
    chex.assert_trees_all_equal(transpose_kernels(got), params)


def test_transpose_in_one_epoch_is_finetuning_from_the_transposed_model(
    normed, convolutional, blobs, key
):
    options = {**OPTIONS, "num_epochs": 1}
    problem = methods.make_problem(normed, convolutional, blobs, TENTH)
    start = convolutional._replace(params=transpose_kernels(convolutional.params))
    turned = methods.make_problem(normed, start, blobs, TENTH)
    got, _ = jax.jit(ConvolutionTranspose(**options))(jax.random.clone(key), problem)
    expected, _ = jax.jit(methods.FineTune(**options))(key, turned)
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)


def test_transpose_follows_a_cosine(blobs, key):
    problem = linear_problem(blobs)
    got, _ = jax.jit(
        ConvolutionTranspose(num_epochs=3, batch_size=10, learning_rate=0.4)
    )(key, problem)
    rates = 0.4 * np.array([1, 0.75, 0.25])
    expected = slow_finetune(
        problem.variables.params, blobs.images[10:20], blobs.labels[10:20], rates
    )
    np.testing.assert_allclose(got.params, expected, rtol=1e-4, atol=1e-5)


# --- MSG


@pytest.mark.parametrize(
    ("num_epochs", "factors"),
    [
        (1, [1]),
        (2, [1, 0.5]),
        (3, [0.5, 1, 0.5]),
        (5, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3]),
        (10, [0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]),
    ],
)
def test_the_rate_rises_and_falls(num_epochs, factors):
    rate = rise_and_fall(num_epochs, 4)
    np.testing.assert_allclose(
        rate(jnp.arange(4 * num_epochs)), np.repeat(factors, 4), rtol=1e-6
    )


def test_masked_redraws_the_entries_where_gradients_cancel_and_slows_the_others(
    blobs, key
):
    """With equal sets and full batches, only the redrawn values are random."""
    problem = linear_problem(blobs)
    weights, rate, images, labels = (
        np.asarray(problem.variables.params),
        0.4,
        blobs.images,
        blobs.labels,
    )
    difference = sum(
        sign * each_gradient(weights, images[part], labels[part]).mean(0)
        for sign, part in ((1, slice(10, 20)), (-1, slice(0, 10)))
    )
    smallest = np.zeros(48, bool)
    smallest[np.argsort(np.abs(difference), axis=None)[: round(rate * 48)]] = True
    smallest = smallest.reshape(16, 3)
    method = jax.jit(
        lambda key, learning_rate: (
            MaskedSmallGradients(
                init_rate=rate,
                kernels="all",
                num_epochs=3,
                batch_size=10,
                learning_rate=learning_rate,
            )(key, problem)[0].params
        )
    )
    start = np.asarray(method(jax.random.clone(key), **STILL))
    np.testing.assert_array_equal(np.abs(start - weights) > 1e-20, smallest)
    expected = slow_finetune(
        start,
        images[10:20],
        labels[10:20],
        0.5 * np.array([0.5, 1, 0.5]),
        np.where(smallest, 1, 0.1),
    )
    np.testing.assert_allclose(method(key, 0.5), expected, rtol=1e-4, atol=1e-5)


def test_masked_chooses_entries_on_images_without_augmentation(blobs, key):
    """The redrawn model does not depend on the augmentation; fine-tuning does."""
    problem, options = (
        linear_problem(blobs),
        {
            "kernels": "all",
            "num_epochs": 1,
            "batch_size": 10,
        },
    )

    def run(rate, augment="none"):
        method = MaskedSmallGradients(learning_rate=rate, augment=augment, **options)
        return jax.jit(method)(jax.random.clone(key), problem)[0].params

    mirrored = lambda keys, images: images[:, ::-1, ::-1]
    np.testing.assert_array_equal(run(1e-30, mirrored), run(1e-30))
    assert not np.allclose(run(0.5, mirrored), run(0.5), atol=1e-4)


def test_masked_redraws_its_fraction_of_each_kernel_and_leaves_other_leaves(
    normed, convolutional, blobs, key
):
    problem = methods.make_problem(normed, convolutional, blobs, TENTH)
    options = {**STILL, "num_epochs": 1, "batch_stats": "freeze"}

    @jax.jit
    def redraw(key, rate, scale):
        method = MaskedSmallGradients(init_rate=rate, gradient_scale=scale, **options)
        return method(key, problem)[0]

    for k, rate in zip(jax.random.split(key, 4), (0.0, 0.3, 0.75, 1.0), strict=True):
        got = redraw(k, rate, 0.1)
        for new, old in zip(
            *map(jax.tree.leaves, (got.params, convolutional.params)), strict=True
        ):
            assert np.sum(np.abs(new - old) > 1e-20) == (
                round(rate * old.size) if old.ndim == 4 else 0
            )


def test_masked_draws_kaiming_values(blobs, key):
    """Of one matrix [16, 200], all redrawn: the deviation is sqrt(2 / fan_out)."""
    problem = linear_problem(blobs, outputs=200)
    method = MaskedSmallGradients(
        init_rate=1.0, kernels="all", num_epochs=1, batch_size=10, **STILL
    )
    drawn = np.asarray(jax.jit(method)(key, problem)[0].params)
    assert drawn.std() == pytest.approx(
        np.sqrt(2 / 200), rel=6 / np.sqrt(2 * drawn.size)
    )
    assert abs(drawn.mean()) < 6 * np.sqrt(2 / 200 / drawn.size)
    assert not np.any(drawn == np.asarray(problem.variables.params))


def test_masked_without_redraw_and_at_full_rate_is_finetuning(
    normed, convolutional, blobs, key
):
    options = {**OPTIONS, "num_epochs": 1}
    problem = methods.make_problem(normed, convolutional, blobs, TENTH, removed=REMOVED)
    method = MaskedSmallGradients(
        init_rate=0.0, gradient_scale=1.0, **options, batch_stats="freeze"
    )
    got, info = jax.jit(method)(jax.random.clone(key), problem)
    expected, finetuned = jax.jit(methods.FineTune(**options, batch_stats="freeze"))(
        jax.random.split(key, 3)[2], problem
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(info.losses, finetuned.losses, rtol=1e-5)
