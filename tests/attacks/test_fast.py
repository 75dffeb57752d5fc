"""The line search, capped failures and the targeted retry."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small import linear

from unlearn_jax import attacks
from unlearn_jax.types import AttackResult, InputError, Status

SHAPE = (4, 4, 1)
RNG = np.random.default_rng(3)
WEIGHTS = RNG.normal(size=(16, 3)).astype("f4")
CURVED = (
    RNG.normal(0, 3, size=(16, 4)).astype("f4"),
    RNG.normal(0, 2, size=(4, 3)).astype("f4"),
)


def curved(pair, images):
    """Regions with bent borders: a straight line may leave one and come back."""
    return jnp.sin(images.reshape(len(images), -1) @ pair[0]) @ pair[1]


def band(scale, images):
    """Class 1 in a thin band of the mean and again far away, class 0 elsewhere."""
    mean = jnp.mean(images, (1, 2, 3))
    inside = jnp.abs(mean - 0.45) < 0.025
    return jnp.stack(
        [jnp.zeros_like(mean), scale * jnp.where(inside | (mean > 0.6), 1.0, -1.0)], -1
    )


@pytest.fixture(scope="module")
def samples():
    x = RNG.uniform(0.4, 0.6, (23, *SHAPE)).astype("f4")
    return jnp.asarray(x), jnp.asarray(np.argmax(linear(WEIGHTS, x), -1).astype("i4"))


@pytest.mark.parametrize(("norm", "order"), [(attacks.linf, 1), (attacks.l2, 2)])
def test_line_search_counts_steps_to_the_boundary(samples, norm, order, key):
    """On two classes of a linear model: the margin over the step, rounded up."""
    x, two = samples[0], WEIGHTS[:, :2]
    logits = np.asarray(linear(two, x))
    y = np.argmax(logits, -1)
    exact = np.abs(logits[:, 0] - logits[:, 1]) / np.linalg.norm(
        two[:, 0] - two[:, 1], order
    )
    eps = float(exact.max()) / 9.7
    result = attacks.fast_adversarial_set(
        key,
        linear,
        jnp.asarray(two),
        x,
        jnp.asarray(y),
        epsilon_init=eps,
        num_steps=12,
        norm=norm,
        batch_size=10,
    )
    np.testing.assert_array_equal(result.status, Status.FOUND)
    np.testing.assert_allclose(result.epsilon, eps * np.ceil(exact / eps), rtol=1e-5)
    np.testing.assert_allclose(result.distance, result.epsilon, rtol=1e-4)
    assert np.all(result.distance <= result.epsilon)
    np.testing.assert_array_equal(result.labels, 1 - y)


def test_line_search_is_independent_of_batches_and_farther_than_pgd(samples, key):
    x = samples[0]
    variables = tuple(map(jnp.asarray, CURVED))
    y = jnp.argmax(curved(variables, x), -1).astype(jnp.int32).at[4].add(1) % 3
    run = lambda size, steps: attacks.fast_adversarial_set(
        jax.random.clone(key),
        curved,
        variables,
        x,
        y,
        norm=attacks.l2,
        num_steps=steps,
        batch_size=size,
    )
    result, other = run(23, 20), run(5, 20)
    chex.assert_trees_all_close(result, other, rtol=1e-4, atol=1e-6)
    predicted = np.argmax(curved(variables, result.images), -1)
    np.testing.assert_array_equal(result.labels, predicted)
    np.testing.assert_array_equal(result.success, predicted != np.asarray(y))
    np.testing.assert_allclose(
        result.distance, np.sqrt(np.sum((result.images - x) ** 2, (1, 2, 3))), rtol=1e-5
    )
    assert np.all(result.distance <= result.epsilon)
    assert result.status[4] == Status.ALREADY_WRONG
    assert result.epsilon[4] == 0
    pgd = attacks.adversarial_set(
        curved, variables, x, y, epsilon_init=0.01, num_radii=9
    )
    both = np.asarray(result.success & pgd.success)
    assert both.mean() > 0.8
    assert np.mean(result.distance[both]) > np.mean(pgd.distance[both])
    short = run(23, 1)
    assert np.sum(short.status == Status.NOT_FOUND) > 0
    assert np.all(short.distance <= 2 * 0.04 * 1.0001), (
        "one step, from a restart one step away"
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float64])
def test_images_of_any_width_are_attacked_in_float32(samples, dtype, key):
    """Without warnings of lost bits, and never in 16 bits."""
    x = np.asarray(samples[0]).astype(dtype)
    y = np.argmax(linear(WEIGHTS, x.astype("f4")), -1)
    for attack in (
        lambda images: attacks.fast_adversarial_set(
            jax.random.clone(key), linear, WEIGHTS, images, y
        ),
        lambda images: attacks.autoattack_small(
            jax.random.clone(key),
            linear,
            WEIGHTS,
            images,
            y,
            epsilon=0.05,
            num_targets=0,
        ),
    ):
        result = attack(x)
        assert result.epsilon.dtype == result.distance.dtype == jnp.float32
        chex.assert_trees_all_equal(result, attack(x.astype("f4")))


def test_line_search_restarts_where_the_gradient_is_zero(key):
    def bowl(scale, images):  # the gradient at the center is 0; class 1 away from it
        square = jnp.mean((images - 0.5) ** 2, (1, 2, 3))
        return jnp.stack([jnp.zeros_like(square), scale * (square - 0.01)], -1)

    x, y = jnp.full((3, *SHAPE), 0.5), jnp.zeros(3, jnp.int32)
    run = lambda k, **options: attacks.fast_adversarial_set(
        k, bowl, 1.0, x, y, **options
    )
    key_flat, key_restart = jax.random.split(key)
    flat = run(key_flat, num_restarts=0)
    assert list(flat.status) == [Status.ZERO_GRADIENT] * 3
    chex.assert_trees_all_equal(flat.images, x)
    restarted = run(key_restart, num_restarts=1)
    assert list(restarted.status) == [Status.FOUND] * 3
    assert len(np.unique(restarted.images[:, 0, 0, 0])) > 1, (
        "every sample restarts at a point of its own"
    )
    # the root mean square must pass 0.1: two steps of 0.04 and what the restart
    # brings
    assert np.all(restarted.epsilon >= 0.1)
    assert np.all(restarted.epsilon <= 0.2)


def result_at(distances, epsilon=1.0):
    """Return a result on images of mean 0.1 with pixels raised by ``distances``."""
    x = jnp.full((len(distances), *SHAPE), 0.1)
    raised = jnp.asarray(distances, jnp.float32)
    count = len(distances)
    result = AttackResult(
        images=x + raised.reshape(-1, 1, 1, 1),
        labels=jnp.ones(count, jnp.int32),
        epsilon=jnp.full(count, epsilon),
        distance=raised,
        status=jnp.full(count, Status.FOUND, jnp.int32),
        num_gradients=jnp.ones(count, jnp.int32),
    )
    return x, jnp.zeros(count, jnp.int32), result


def threshold(border, images):
    """Class 1 above a mean."""
    mean = jnp.mean(images, (1, 2, 3))
    return jnp.stack([jnp.zeros_like(mean), mean - border], -1)


def test_cap_is_a_quantile_of_the_distances():
    distances = np.array([0.5, 0.2, 0.8, 0.3, 0.6, 0.4])
    x, y, result = result_at(distances)
    capped = attacks.cap_failures(
        threshold, 0.85, x, y, result, fraction=0.34
    )  # round(2.04) of 6: 0.8 and 0.6
    failing = np.array([False, False, True, False, True, False])
    np.testing.assert_array_equal(capped.status == Status.NOT_FOUND, failing)
    np.testing.assert_allclose(capped.epsilon, 0.55, rtol=1e-6)
    np.testing.assert_allclose(
        capped.distance, np.where(failing, 0.55, distances), rtol=1e-6
    )
    np.testing.assert_allclose(
        capped.images[:, 0, 0, 0], 0.1 + np.where(failing, 0.55, distances), rtol=1e-6
    )
    np.testing.assert_array_equal(capped.labels, np.where(failing, 0, 1))
    chex.assert_trees_all_equal(
        attacks.cap_failures(threshold, 0.85, x, y, result, fraction=0), result
    )
    traced = jax.jit(
        lambda s: attacks.cap_failures(threshold, 0.85, x, y, result, fraction=s)
    )(0.34)
    chex.assert_trees_all_close(traced, capped, rtol=1e-6)
    everything = attacks.cap_failures(threshold, 0.85, x, y, result, fraction=1)
    assert np.all(everything.status == Status.NOT_FOUND)
    np.testing.assert_allclose(
        everything.epsilon, 0.1, rtol=1e-6
    )  # half of the smallest distance


def test_misclassified_capped_points_move_toward_the_image():
    x, y, result = result_at(
        [0.53, 0.17]
    )  # the cap is 0.35: a mean of 0.45, in the band; half of it is not
    halved = attacks.cap_failures(band, 1.0, x, y, result, fraction=0.5)
    np.testing.assert_allclose(halved.epsilon, 0.35, rtol=1e-6)
    np.testing.assert_allclose(halved.images[0, 0, 0, 0], 0.1 + 0.35 / 2, rtol=1e-6)
    np.testing.assert_allclose(halved.distance, [0.35 / 2, 0.17], rtol=1e-6)
    assert halved.labels[0] == 0
    assert halved.status[0] == Status.NOT_FOUND


def test_capped_point_is_the_clean_image_if_the_segment_is_misclassified():
    def point(scale, images):  # class 0 at the very image alone
        far = jnp.max(jnp.abs(images - 0.1), (1, 2, 3)) > 0
        return jnp.stack([jnp.zeros(len(images)), jnp.where(far, scale, -scale)], -1)

    x, y, result = result_at([0.5, 0.3])
    capped = attacks.cap_failures(point, 1.0, x, y, result, fraction=0.5)
    assert list(capped.status) == [Status.NOT_FOUND, Status.FOUND]
    np.testing.assert_array_equal(capped.images[0], x[0])
    assert capped.distance[0] == 0
    assert capped.labels[0] == 0


def test_cap_counts_old_failures_first_and_skips_misclassified_samples():
    x, y, result = result_at([0.5, 0.2, 0.0, 0.4])
    status = jnp.array(
        [Status.FOUND, Status.ZERO_GRADIENT, Status.ALREADY_WRONG, Status.FOUND],
        jnp.int32,
    )
    result = result._replace(status=status)
    one = attacks.cap_failures(threshold, 0.45, x, y, result, fraction=0.25)
    chex.assert_trees_all_equal(one, result)
    two = attacks.cap_failures(threshold, 0.56, x, y, result, fraction=0.5)
    assert list(two.status) == [
        Status.NOT_FOUND,
        Status.ZERO_GRADIENT,
        Status.ALREADY_WRONG,
        Status.FOUND,
    ]
    np.testing.assert_allclose(two.distance, [0.45, 0.2, 0.0, 0.4], rtol=1e-6)
    everything = attacks.cap_failures(threshold, 0.45, x, y, result, fraction=1.0)
    assert list(everything.success) == [False, False, True, False]


@pytest.fixture(scope="module")
def searched():
    """Seventeen samples of a curved model, and the compiled cap of their attack."""
    x = jnp.asarray(
        np.random.default_rng(5).uniform(0.3, 0.7, (17, *SHAPE)), jnp.float32
    )
    y = jnp.argmax(curved(CURVED, x), -1).astype(jnp.int32)
    result = attacks.adversarial_set(
        curved, CURVED, x, y, epsilon_init=0.01, num_radii=10, num_steps=10
    )
    assert np.all(result.success)
    cap = jax.jit(
        lambda fraction: attacks.cap_failures(
            curved, CURVED, x, y, result, fraction=fraction, batch_size=8
        )
    )
    return x, y, cap


@settings(max_examples=20, deadline=None)
@given(st.floats(0, 1, width=32))
def test_cap_fails_exactly_the_fraction_and_labels_are_predictions(searched, fraction):
    x, y, cap = searched
    capped = cap(fraction)
    assert np.sum(~np.asarray(capped.success)) == np.round(
        np.float32(fraction) * np.float32(17)
    )
    np.testing.assert_array_equal(
        capped.labels, np.argmax(curved(CURVED, capped.images), -1)
    )
    np.testing.assert_array_equal(
        capped.success, np.asarray(capped.labels) != np.asarray(y)
    )
    assert np.all(capped.distance <= capped.epsilon)
    np.testing.assert_allclose(
        capped.distance,
        np.sqrt(np.sum((np.asarray(capped.images) - x) ** 2, (1, 2, 3))),
        rtol=1e-4,
        atol=1e-6,
    )


def test_only_failed_samples_are_attacked_towards_their_second_class(samples):
    x, y = samples
    failed = np.arange(23) % 3 == 0
    status = jnp.where(jnp.asarray(failed), Status.NOT_FOUND, Status.FOUND).astype(
        jnp.int32
    )
    spent = jnp.full(23, 7, jnp.int32)
    result = AttackResult(
        x + 0.01, y, jnp.full(23, 2.0), jnp.full(23, 0.04), status, spent
    )
    again = attacks.target_runner_up(
        linear, jnp.asarray(WEIGHTS), x, y, result, batch_size=5
    )
    for old, new in zip(result, again, strict=True):
        np.testing.assert_array_equal(
            np.asarray(new)[~failed], np.asarray(old)[~failed]
        )
    second = np.argsort(linear(WEIGHTS, np.asarray(x)), -1)[:, -2]
    np.testing.assert_array_equal(again.labels[failed], second[failed])
    np.testing.assert_array_equal(again.status[failed], Status.FOUND)
    assert np.all(again.num_gradients[failed] > 7)
    logits = linear(WEIGHTS, np.asarray(x))
    for i in np.flatnonzero(failed):
        gap = logits[i, y[i]] - logits[i, second[i]]
        margin = gap / np.linalg.norm(WEIGHTS[:, int(y[i])] - WEIGHTS[:, second[i]])
        assert margin * 0.999 <= again.distance[i] <= 2.0


def test_unusable_input_is_refused(samples, key):
    x, y = samples
    none = jnp.zeros(23, jnp.int32)
    nothing = AttackResult(x, y, jnp.ones(23), jnp.ones(23), none, none)
    for options in ({"epsilon_init": 0.0}, {"num_steps": 0}, {"num_restarts": -1}):
        with pytest.raises(InputError, match=r"must be (positive|an? )"):
            attacks.fast_adversarial_set(
                jax.random.clone(key), linear, WEIGHTS, x, y, **options
            )
    with pytest.raises(InputError, match="images must lie in"):
        attacks.fast_adversarial_set(key, linear, WEIGHTS, x * 9, y)
    with pytest.raises(InputError, match="fraction must be in"):
        attacks.cap_failures(linear, WEIGHTS, x, y, nothing, fraction=1.2)
    with pytest.raises(InputError, match="must be a positive integer"):
        attacks.target_runner_up(linear, WEIGHTS, x, y, nothing, num_steps=0)
