"""APGD on linear models and against its algorithm; AutoAttack against its parts."""

import importlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small import linear

from unlearn_jax import attacks, models, train
from unlearn_jax.losses import cross_entropy
from unlearn_jax.types import InputError, Status

module = importlib.import_module("unlearn_jax.attacks._apgd")

SHAPE = (4, 4, 1)
RNG = np.random.default_rng(11)
WEIGHTS = RNG.normal(size=(16, 5)).astype("f4")


@pytest.fixture(scope="module")
def samples():
    x = RNG.uniform(0, 1, (24, *SHAPE)).astype("f4")
    return jnp.asarray(x), jnp.asarray(np.argmax(linear(WEIGHTS, x), -1).astype("i4"))


@pytest.fixture(scope="module")
def trained(blobs):
    """A small perceptron that fits ``blobs``, its variables, images and labels."""
    model = models.build("mlp", (4, 4, 1), 3, widths=(16,))
    recipe = train.Recipe(num_epochs=40, batch_size=60, tx=train.sgd(0.3))
    state, _ = train.fit(
        jax.random.key(2), model, blobs, np.ones(60, bool), recipe, epochs_per_call=40
    )
    return model, state.variables, jnp.asarray(blobs.images), jnp.asarray(blobs.labels)


def slow_dlr(z, y, target=None):
    """Equations 6 and 7 for one sample."""
    ranked = sorted(z, reverse=True)
    if target is None:
        return -(z[y] - max(v for i, v in enumerate(z) if i != y)) / (
            ranked[0] - ranked[2]
        )
    return -(z[y] - z[target]) / (ranked[0] - (ranked[2] + ranked[3]) / 2)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-40, 40), min_size=5, max_size=5, unique=True),
    st.integers(0, 4),
    st.integers(1, 4),
)
def test_dlr_matches_its_equations(logits, label, shift):
    z, target = np.array(logits, "f4"), (label + shift) % 5
    got = module.difference_of_logits_ratio(z, jnp.array(label))
    np.testing.assert_allclose(got, slow_dlr(z, label), rtol=1e-5)
    assert (got > 0) == (np.argmax(z) != label)
    aimed = module.targeted_difference_of_logits_ratio(
        z, jnp.array(label), jnp.array(target)
    )
    np.testing.assert_allclose(aimed, slow_dlr(z, label, target), rtol=1e-5)
    scaled = module.difference_of_logits_ratio(8 * z + 3, jnp.array(label))
    np.testing.assert_allclose(scaled, got, rtol=1e-4)


def test_checkpoints_match_the_paper():
    assert module.checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    windows = module._windows(10)
    assert windows.sum() == module.checkpoints(10)[-1] <= 10
    assert all(windows[k] > 0 for k in module.checkpoints(10))


def test_linear_optimum_in_linf_is_exact(samples):
    """For two classes the loss is highest at one corner of ball and image box."""
    x, pair = samples[0], jnp.asarray(WEIGHTS[:, :2])
    y = jnp.argmax(linear(pair, x), -1)
    result = module.apgd(linear, pair, x, y, x, epsilon=0.2, num_steps=8, keep="best")
    away = np.sign(WEIGHTS[:, 1] - WEIGHTS[:, 0])
    sign = np.where(np.asarray(y) == 0, 1, -1)[:, None] * away[None]
    corner = np.clip(np.asarray(x).reshape(24, -1) + 0.2 * sign, 0, 1)
    np.testing.assert_allclose(
        np.asarray(result.images).reshape(24, -1), corner, atol=1e-6
    )


@pytest.mark.parametrize("norm", [attacks.linf, attacks.l2])
def test_result_describes_its_images_inside_ball_and_box(samples, norm, key):
    x, y = samples
    radius = jnp.where(jnp.arange(24) % 2 == 0, 0.1, 0.4)
    start = attacks.random_start(key, x, epsilon=radius, norm=norm)
    first, best = (
        module.apgd(
            linear,
            WEIGHTS,
            x,
            y,
            start,
            epsilon=radius,
            num_steps=12,
            norm=norm,
            keep=keep,
        )
        for keep in ("first", "best")
    )
    for result in (first, best):
        assert np.all((result.images >= 0) & (result.images <= 1))
        assert np.all(result.distance <= radius)
        np.testing.assert_allclose(
            result.distance, jax.vmap(norm.measure)(result.images - x), rtol=1e-6
        )
        predicted = np.argmax(linear(WEIGHTS, result.images), -1)
        np.testing.assert_array_equal(result.labels, predicted)
        np.testing.assert_array_equal(result.success, predicted != np.asarray(y))
    assert 0 < np.sum(best.success) < 24, "the case must have both outcomes"
    loss = [
        np.asarray(cross_entropy(linear(WEIGHTS, r.images), y)) for r in (first, best)
    ]
    assert np.all(loss[1] >= loss[0] - 1e-5)
    np.testing.assert_array_equal(first.success, best.success)


def test_result_is_the_best_point_visited(samples):
    """No recorded point is outside, or of the same success and a higher loss."""
    x, y = samples
    bent = (
        jnp.asarray(RNG.normal(0, 2, size=(16, 8)), jnp.float32),
        jnp.asarray(RNG.normal(size=(8, 5)), jnp.float32),
    )
    seen = []

    def curved(pair, images):
        jax.debug.callback(lambda visited: seen.append(np.asarray(visited)), images)
        return jnp.sin(images.reshape(len(images), -1) @ pair[0]) @ pair[1]

    y = jnp.argmax(curved(bent, x), -1)
    result = module.apgd(curved, bent, x, y, x, epsilon=0.05, num_steps=15, keep="best")
    jax.effects_barrier()
    visited = np.stack(seen[1:])
    assert len(visited) == 16
    assert np.max(np.abs(visited - np.asarray(x)[None])) <= 0.05
    logits = np.stack([curved(bent, jnp.asarray(images)) for images in visited])
    loss = np.stack([cross_entropy(step, y) for step in logits])
    wrong = logits.argmax(-1) != np.asarray(y)[None]
    for i in range(24):
        allowed = wrong[:, i] if wrong[:, i].any() else np.ones(16, bool)
        best = np.flatnonzero(allowed)[np.argmax(loss[allowed, i])]
        np.testing.assert_allclose(result.images[i], visited[best, i], atol=1e-6)
    assert len({int(np.argmax(loss[:, i])) for i in range(24)}) > 2, (
        "the best must not always be the last"
    )


def slow_apgd(loss_of, x, epsilon, num_steps):
    """Algorithm 1 for one sample in L-infinity: the point of the highest loss."""
    value_and_slope = jax.jit(jax.value_and_grad(loss_of))

    def look(z):
        value, slope = value_and_slope(jnp.asarray(z, jnp.float32))
        return z, float(value), np.asarray(slope)

    def restrict(z):
        return np.clip(np.clip(z, x - epsilon, x + epsilon), 0, 1)

    def step(here, previous, eta, share):
        ascent = restrict(here[0] + eta * np.sign(here[2]))
        return look(
            restrict(
                here[0]
                + share * (ascent - here[0])
                + (1 - share) * (here[0] - previous)
            )
        )

    marks, eta, here, previous = (
        [0, *module.checkpoints(num_steps)],
        2 * epsilon,
        look(x),
        x,
    )
    best, rises, halved, record = here, 0, False, here[1]
    for k in range(1, num_steps + 1):
        new = step(here, previous, eta, 1.0 if k == 1 else 0.75)
        rises += new[1] > here[1]
        best = new if new[1] > best[1] else best
        previous, here = here[0], new
        if k in marks:
            length = k - marks[marks.index(k) - 1]
            halve = rises < 0.75 * length or (not halved and best[1] <= record)
            if halve:
                eta, here = eta / 2, best
            rises, halved, record = 0, halve, best[1]
    return best[0]


def test_apgd_matches_the_algorithm_line_by_line():
    """On a bumpy function of the image, where steps are halved and ascents restart."""
    rng = np.random.default_rng(5)
    waves = rng.normal(0, 4, size=(16, 3)).astype("f4")

    def bumpy(weights, images):
        height = jnp.sum(jnp.sin(images.reshape(len(images), -1) @ weights), -1)
        return jnp.stack(
            [jnp.full_like(height, 50.0), jnp.zeros_like(height), height], -1
        )  # class 0 always wins

    x = jnp.asarray(rng.uniform(0.2, 0.8, (6, *SHAPE)), jnp.float32)
    loss = lambda logits, y: logits[:, 2]
    result = module.apgd(
        bumpy,
        waves,
        x,
        jnp.zeros(6, jnp.int32),
        x,
        epsilon=0.1,
        num_steps=25,
        loss=loss,
    )
    for i in range(6):
        slow = slow_apgd(
            lambda z: bumpy(waves, z[None])[0, 2], np.asarray(x[i]), 0.1, 25
        )
        np.testing.assert_allclose(result.images[i], slow, atol=1e-4)


def test_samples_are_independent_of_their_batch(trained):
    model, variables, x, y = trained
    run = lambda rows: module.apgd(
        model.apply,
        variables,
        x[rows],
        y[rows],
        x[rows],
        epsilon=0.15,
        num_steps=12,
        keep="best",
    )
    part = jax.tree.map(lambda leaf: leaf[7:12], run(slice(None)))
    chex.assert_trees_all_close(part, run(slice(7, 12)), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("norm", [attacks.linf, attacks.l2])
def test_apgd_is_at_least_as_strong_as_pgd_of_equal_steps(trained, norm):
    model, variables, x, y = trained
    epsilon = 0.12 if norm is attacks.linf else 0.35
    pgd = attacks.pgd(
        model.apply,
        variables,
        x,
        y,
        x,
        epsilon=epsilon,
        num_steps=20,
        norm=norm,
        loss=cross_entropy,
        keep="last",
    )
    auto = module.apgd(
        model.apply,
        variables,
        x,
        y,
        x,
        epsilon=epsilon,
        num_steps=20,
        norm=norm,
        keep="best",
    )
    assert 0 < np.mean(pgd.success) < 1, "the case must be neither hopeless nor trivial"
    assert np.sum(auto.success) >= np.sum(pgd.success)
    loss = [
        np.mean(cross_entropy(model.apply(variables, r.images), y)) for r in (pgd, auto)
    ]
    assert loss[1] >= 0.999 * loss[0]


def test_halving_reaches_a_ridge_that_long_steps_miss():
    """A ridge at 0.61 that steps of 2 epsilon jump over."""

    def ridge(width, images):
        mean = jnp.mean(images, (1, 2, 3))
        return jnp.stack([jnp.abs(mean - 0.61) * width, jnp.full_like(mean, 0.01)], -1)

    x, y = jnp.full((1, *SHAPE), 0.5), jnp.zeros(1, jnp.int32)
    result = module.apgd(ridge, 1.0, x, y, x, epsilon=0.4, num_steps=60, keep="best")
    assert result.status[0] == Status.FOUND
    np.testing.assert_allclose(jnp.mean(result.images), 0.61, atol=0.01)


def test_autoattack_is_the_worst_case_of_its_parts(samples, key):
    x, y = samples
    y = y.at[3].set((y[3] + 1) % 5)
    options = dict(epsilon=0.06, num_steps=10)
    run = jax.jit(
        lambda k, num, size: module.autoattack_small(
            k, linear, WEIGHTS, x, y, num_targets=num, batch_size=size, **options
        ),
        static_argnums=(1, 2),
    )
    plain, whole = (run(jax.random.clone(key), num, 24) for num in (0, 4))
    assert np.all(whole.success >= plain.success)
    assert 0 < np.sum(whole.success) < 24
    assert whole.status[3] == Status.ALREADY_WRONG
    chex.assert_trees_all_equal(whole.images[3], x[3])
    np.testing.assert_array_equal(
        whole.labels, np.argmax(linear(WEIGHTS, whole.images), -1)
    )
    np.testing.assert_array_equal(
        whole.success, np.asarray(whole.labels) != np.asarray(y)
    )
    # on a linear model the truth is known: some other class wins at the corner that its
    # weights point to
    flat, fooled = np.asarray(x).reshape(24, -1), np.zeros(24, bool)
    for i in range(24):
        for other in set(range(5)) - {int(y[i])}:
            gap = WEIGHTS[:, other] - WEIGHTS[:, int(y[i])]
            fooled[i] |= np.clip(flat[i] + 0.06 * np.sign(gap), 0, 1) @ gap > 1e-5
    np.testing.assert_array_equal(whole.success, fooled)
    other = run(jax.random.clone(key), 4, 7)
    np.testing.assert_array_equal(other.status, whole.status)


def test_unusable_input_is_refused(samples, key):
    x, y = samples
    with pytest.raises(InputError, match="num_steps must be a positive integer"):
        module.apgd(linear, WEIGHTS, x, y, x, epsilon=0.1, num_steps=0)
    with pytest.raises(InputError, match="'first' or 'best'"):
        module.apgd(linear, WEIGHTS, x, y, x, epsilon=0.1, keep="last")
    with pytest.raises(InputError, match="needs four classes"):
        module.autoattack_small(
            jax.random.clone(key), linear, WEIGHTS[:, :3], x, y, epsilon=0.1
        )
    with pytest.raises(InputError, match="compares four logits, got 3"):
        module.targeted_difference_of_logits_ratio(jnp.zeros((2, 3)), y[:2], y[:2])
    with pytest.raises(InputError, match="must be positive"):
        module.autoattack_small(key, linear, WEIGHTS, x, y, epsilon=0.0)
    with pytest.raises(InputError, match="images must lie in"):
        module.apgd(linear, WEIGHTS, x * 9, y, x, epsilon=0.1)
