"""Attacks: radii against analytic margins, searches against each other, statuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import attacks, models
from unlearn_jax.losses import cross_entropy
from unlearn_jax.types import InputError, Status

SHAPE = (4, 4, 1)


def linear(variables, images):
    weights, bias = variables
    return images.reshape(len(images), -1) @ weights + bias[None]


@pytest.fixture
def linear_problem():
    """Two classes: the distance to the boundary is known."""
    rng = np.random.default_rng(0)
    weights, bias = rng.normal(size=(16, 2)).astype("f4"), np.array([0.1, -0.1], "f4")
    x = rng.uniform(0.4, 0.6, (40, *SHAPE)).astype("f4")
    y = np.argmax(x.reshape(40, -1) @ weights + bias, -1).astype("i4")
    return (jnp.asarray(weights), jnp.asarray(bias)), jnp.asarray(x), jnp.asarray(y)


@pytest.fixture(scope="module")
def network():
    """A trained-looking network: confident random features."""
    model = models.build("cnn", (8, 8, 1), 5, widths=(8, 8))
    variables = jax.jit(model.init)(jax.random.key(1))
    variables = jax.tree.map(lambda leaf: 2 * leaf, variables)
    x = jnp.asarray(np.random.default_rng(1).uniform(0, 1, (37, 8, 8, 1)), jnp.float32)
    y = jnp.argmax(model.apply(variables, x), -1).astype(jnp.int32)
    return model, variables, x, y


def margin(variables, x, y, order):
    """Distance to the boundary in the norm whose dual has this order."""
    weights, bias = map(np.asarray, variables)
    logits = np.asarray(x).reshape(len(x), -1) @ weights + bias
    gap = logits[np.arange(len(y)), y] - logits[np.arange(len(y)), 1 - y]
    return gap / np.linalg.norm(weights[:, 0] - weights[:, 1], order)


@pytest.mark.parametrize(("norm", "dual"), [(attacks.l2, 2), (attacks.linf, 1)])
@pytest.mark.parametrize("search", ["grid", "doubling", "minimal"])
def test_radius_matches_the_analytic_margin(linear_problem, norm, dual, search):
    variables, x, y = linear_problem
    result = attacks.adversarial_set(
        linear,
        variables,
        x,
        y,
        epsilon_init=1e-3,
        num_radii=12,
        search=search,
        norm=norm,
        batch_size=16,
    )
    exact = margin(variables, x, np.asarray(y), dual)
    np.testing.assert_array_equal(result.status, Status.FOUND)
    # the smallest doubled radius that holds the boundary, and a distance within one
    # step of it
    np.testing.assert_allclose(
        result.epsilon,
        1e-3 * 2 ** np.ceil(np.log2(np.maximum(exact, 1e-3) / 1e-3)),
        rtol=1e-5,
    )
    assert np.all(result.distance >= exact * 0.999)
    assert np.all(result.distance <= exact + 0.1 * np.asarray(result.epsilon) + 1e-6)


@pytest.mark.parametrize("search", ["grid", "doubling"])
def test_gradients_are_those_of_a_straight_line(linear_problem, search):
    """A radius that fails takes every step, the last one those to the boundary."""
    variables, x, y = linear_problem
    y = y.at[3].set(1 - y[3])  # wrong from the start: one gradient in every radius
    result = attacks.adversarial_set(
        linear,
        variables,
        x,
        y,
        epsilon_init=1e-3,
        search=search,
        batch_size=16,
        bounds=(-9.0, 9.0),
    )
    exact = margin(variables, x, np.asarray(y), 2)
    assert np.sum(exact < 0) == 1
    radii = 1e-3 * 2.0 ** np.arange(12)
    num_steps = np.minimum(np.ceil(np.maximum(exact, 0)[:, None] / (0.1 * radii)), 50)
    num_steps[exact[:, None] > radii] = 50
    is_tried = radii <= np.maximum(np.asarray(result.epsilon), 1e-3)[:, None] * 1.001
    expected = np.sum((num_steps + 1) * (is_tried | (search == "grid")), 1)
    np.testing.assert_array_equal(result.num_gradients, expected)


@pytest.mark.parametrize("batch_size", [8, 64])
def test_grid_and_doubling_agree(network, batch_size):
    model, variables, x, y = network
    options = dict(epsilon_init=0.02, num_radii=7, num_steps=12, batch_size=batch_size)
    grid = jax.jit(
        lambda v: attacks.adversarial_set(
            model.apply, v, x, y, search="grid", **options
        )
    )(variables)
    doubling = jax.jit(
        lambda v: attacks.adversarial_set(
            model.apply, v, x, y, search="doubling", **options
        )
    )(variables)
    np.testing.assert_array_equal(grid.epsilon, doubling.epsilon)
    np.testing.assert_array_equal(grid.status, doubling.status)
    np.testing.assert_array_equal(grid.labels, doubling.labels)
    assert np.all(grid.num_gradients >= doubling.num_gradients)
    grid = grid._replace(num_gradients=doubling.num_gradients)
    chex.assert_trees_all_close(grid, doubling, rtol=1e-3, atol=1e-5)
    assert len(np.unique(grid.epsilon)) > 2, "the case must exercise several radii"


@pytest.mark.parametrize("keep", ["first", "last"])
@pytest.mark.parametrize("norm", [attacks.l2, attacks.linf])
def test_result_describes_its_images(network, norm, keep):
    model, variables, x, y = network
    result = attacks.pgd(
        model.apply, variables, x, y, x, epsilon=0.3, num_steps=10, norm=norm, keep=keep
    )
    distance = jax.vmap(norm.measure)(result.images - x)
    np.testing.assert_allclose(result.distance, distance)
    assert np.all(distance <= 0.3)
    assert np.all((result.images >= 0) & (result.images <= 1))
    predicted = np.argmax(model.apply(variables, result.images), -1)
    np.testing.assert_array_equal(result.labels, predicted)
    np.testing.assert_array_equal(result.success, predicted != np.asarray(y))


def test_first_iterate_is_nearer_than_the_last(network):
    model, variables, x, y = network
    first, last = (
        attacks.pgd(
            model.apply, variables, x, y, x, epsilon=2.0, num_steps=10, keep=keep
        )
        for keep in ("first", "last")
    )
    assert np.mean(first.distance) < np.mean(last.distance)
    assert np.sum(first.success) > 0


def test_samples_are_independent_of_their_batch(network):
    model, variables, x, y = network
    whole = attacks.pgd(model.apply, variables, x, y, x, epsilon=0.5, num_steps=10)
    part = attacks.pgd(
        model.apply, variables, x[3:7], y[3:7], x[3:7], epsilon=0.5, num_steps=10
    )
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[3:7], whole), part, rtol=1e-3, atol=1e-5
    )


def test_one_trace_for_all_radii(linear_problem):
    variables, x, y = linear_problem
    traces = []

    def counted(variables, images):
        traces.append(1)
        return linear(variables, images)

    def count(num_radii):
        traces.clear()
        run = jax.jit(
            lambda: attacks.adversarial_set(
                counted, variables, x, y, num_radii=num_radii, search="grid"
            )
        )
        run()
        return len(traces)

    count(2)  # the first reads the shape of the logits, too
    assert count(3) == count(11)


@pytest.mark.parametrize("search", ["grid", "doubling", "minimal"])
def test_each_status_is_reached(search):
    def model(
        scale, images
    ):  # class 0 unless the mean is above a half; scale 0 has no gradient
        mean = jnp.mean(images, (1, 2, 3))
        return jnp.stack([jnp.zeros_like(mean), scale * (mean - 0.5)], -1)

    x = jnp.stack([jnp.full(SHAPE, v) for v in (0.45, 0.7, 0.1)])
    y = jnp.zeros(3, jnp.int32)
    result = attacks.adversarial_set(
        model, 1.0, x, y, epsilon_init=0.1, num_radii=3, search=search
    )
    assert list(result.status) == [Status.FOUND, Status.ALREADY_WRONG, Status.NOT_FOUND]
    chex.assert_trees_all_equal(result.images[1], x[1])
    assert result.epsilon[1] == 0
    assert result.distance[1] == 0
    assert result.labels[2] == 0
    flat = attacks.adversarial_set(
        model, 0.0, x, y, epsilon_init=0.1, num_radii=3, search=search
    )
    assert list(flat.status) == [Status.ZERO_GRADIENT] * 3
    assert attacks.status_counts(result) == {
        "found": 1,
        "already_wrong": 1,
        "not_found": 1,
        "zero_gradient": 0,
        "not_finite": 0,
    }


def test_default_loss_does_not_stall_where_cross_entropy_does():
    def confident(scale, images):
        mean = jnp.mean(images, (1, 2, 3))
        return jnp.stack([scale * (0.5 - mean), jnp.zeros_like(mean)], -1)

    x, y = jnp.full((1, *SHAPE), 0.1), jnp.zeros(1, jnp.int32)
    options = dict(epsilon_init=0.5, num_radii=4)
    stalled = attacks.adversarial_set(
        confident, 400.0, x, y, loss=cross_entropy, **options
    )
    moved = attacks.adversarial_set(confident, 400.0, x, y, **options)
    assert stalled.status[0] == Status.ZERO_GRADIENT
    assert moved.status[0] == Status.FOUND


def test_warm_start_needs_smaller_radii_than_restart(linear_problem):
    variables, x, y = linear_problem
    options = dict(epsilon_init=0.01, num_radii=10, num_steps=3, search="doubling")
    restart = attacks.adversarial_set(linear, variables, x, y, restart=True, **options)
    warm = attacks.adversarial_set(linear, variables, x, y, restart=False, **options)
    assert np.all(warm.epsilon <= restart.epsilon)
    assert np.mean(warm.epsilon) < np.mean(restart.epsilon)


@pytest.mark.parametrize("norm", [attacks.l2, attacks.linf])
def test_random_start_fills_the_ball(norm, key):
    x = jnp.full((200, 3, 1, 1), 0.5)
    start = attacks.random_start(key, x, epsilon=0.3, norm=norm)
    lengths = np.asarray(jax.vmap(norm.measure)(start - x)) / 0.3
    assert np.all(lengths <= 1)
    np.testing.assert_allclose(
        np.mean(lengths**3), 0.5, atol=0.07
    )  # uniform in 3 dimensions


def test_fast_gradient_is_one_full_step(linear_problem):
    variables, x, y = linear_problem
    result = attacks.fast_gradient(
        linear, variables, x, y, epsilon=0.25, norm=attacks.linf
    )
    moved = result.status == Status.FOUND
    assert np.any(moved)
    np.testing.assert_allclose(result.distance, 0.25, rtol=1e-4)


def test_attack_maps_over_models(network):
    model, variables, x, y = network
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf * 0.9]), variables)
    run = lambda v: attacks.adversarial_set(
        model.apply, v, x[:6], y[:6], num_radii=5, num_steps=5
    )
    mapped = jax.jit(jax.vmap(run))(stacked)
    single = run(variables)
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[0], mapped), single, rtol=1e-3, atol=1e-5
    )


def test_unusable_input_is_refused(linear_problem):
    variables, x, y = linear_problem
    with pytest.raises(InputError, match="divide uint8 images by 255"):
        attacks.adversarial_set(linear, variables, (x * 255).astype(jnp.uint8), y)
    with pytest.raises(InputError, match="undo any normalization"):
        attacks.pgd(linear, variables, x * 4, y, x, epsilon=0.1)
    with pytest.raises(InputError, match="images contain NaN"):
        attacks.pgd(linear, variables, x.at[0].set(jnp.nan), y, x, epsilon=0.1)
    with pytest.raises(InputError, match="unknown search"):
        attacks.adversarial_set(linear, variables, x, y, search="binary")
    with pytest.raises(InputError, match="cannot continue"):
        attacks.adversarial_set(linear, variables, x, y, search="grid", restart=False)
    with pytest.raises(InputError, match="must be a positive integer"):
        attacks.adversarial_set(linear, variables, x, y, num_radii=0)
