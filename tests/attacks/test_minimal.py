"""The minimal search: exact distances of linear models, a plain loop, its batches."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize
from support.small import linear

from unlearn_jax import attacks, models
from unlearn_jax.theory import log10_lipschitz_bound
from unlearn_jax.types import InputError, Status

SHAPE = (4, 4, 1)
RNG = np.random.default_rng(6)
NORMS = [(attacks.l2, 2), (attacks.linf, 1)]
WIDE = (-9.0, 9.0)
"""Bounds that no example reaches."""
ROUNDING = 1e-5
"""Examples are wrong by more than the rounding of their logits, a little farther."""


def search(apply_fn, variables, images, labels, **options):
    return attacks.adversarial_set(
        apply_fn, variables, images, labels, **{"search": "minimal", **options}
    )


@pytest.fixture(scope="module")
def network():
    """Confident random features, images with many pixels at the bounds."""
    model = models.build("cnn", (8, 8, 1), 5, widths=(8, 8))
    variables = jax.jit(model.init)(jax.random.key(1))
    variables = jax.tree.map(lambda leaf: 2 * leaf, variables)
    x = np.clip(np.random.default_rng(1).normal(0.4, 0.5, (37, 8, 8, 1)), 0, 1)
    x = jnp.asarray(x, jnp.float32)
    y = jnp.argmax(model.apply(variables, x), -1).astype(jnp.int32)
    return model.apply, variables, x, y.at[5].set((y[5] + 1) % 5)


@pytest.mark.parametrize(("norm", "dual"), NORMS)
def test_distance_is_the_margin_of_a_linear_model(norm, dual):
    weights = RNG.normal(size=(16, 2)).astype("f4")
    x = RNG.uniform(0.4, 0.6, (30, *SHAPE)).astype("f4")
    logits = x.reshape(30, -1) @ weights
    y = np.argmax(logits, -1)
    gap = np.abs(logits[:, 0] - logits[:, 1])
    exact = gap / np.linalg.norm(weights[:, 0] - weights[:, 1], dual)
    arguments = (linear, jnp.asarray(weights), jnp.asarray(x), jnp.asarray(y))
    result = search(*arguments, norm=norm, bounds=WIDE)
    np.testing.assert_array_equal(result.status, Status.FOUND)
    assert np.all(result.distance >= exact * (1 - 1e-5))
    assert np.all(result.distance <= exact * 1.002 + ROUNDING)
    # One linear step crosses the boundary, and the polish follows.
    np.testing.assert_array_equal(result.num_gradients, 12)


def test_distance_lies_between_the_closest_boundary_and_that_of_the_second_class():
    weights = RNG.normal(size=(16, 6)).astype("f4")
    x = RNG.uniform(0.4, 0.6, (50, *SHAPE)).astype("f4")
    logits = x.reshape(50, -1) @ weights
    y = np.argmax(logits, -1)
    second = np.argsort(logits, -1)[:, -2]
    rows = np.arange(50)
    gaps = logits[rows, y][:, None] - logits
    lengths = np.linalg.norm(weights[:, y].T[:, None] - weights.T[None], axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        distances = gaps / lengths
    distances[rows, y] = np.inf
    arguments = (linear, jnp.asarray(weights), jnp.asarray(x), jnp.asarray(y))
    result = search(*arguments, bounds=WIDE)
    np.testing.assert_array_equal(result.status, Status.FOUND)
    assert np.all(result.distance >= distances.min(1) * (1 - 1e-5))
    assert np.all(result.distance <= distances[rows, second] * 1.002 + ROUNDING)
    assert np.mean(distances.argmin(1) == second) > 0.3, "often the same boundary"


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_distance_is_the_least_within_the_image_box(norm):
    """Against a quadratic and a linear program, with most pixels at a bound."""
    weights = RNG.normal(size=(16, 2)).astype("f4")
    x = np.clip(RNG.normal(0.5, 0.9, (12, *SHAPE)), 0, 1).astype("f4")
    y = np.argmax(x.reshape(12, -1) @ weights, -1)
    result = search(
        linear,
        jnp.asarray(weights),
        jnp.asarray(x),
        jnp.asarray(y),
        norm=attacks.NORMS[norm],
    )
    np.testing.assert_array_equal(result.status, Status.FOUND)
    assert np.mean((x == 0) | (x == 1)) > 0.5
    is_longer = []
    for i in range(12):
        image = x[i].ravel().astype(float)
        normal = (weights[:, y[i]] - weights[:, 1 - y[i]]).astype(float)
        gap = normal @ image
        box = list(zip(-image, 1 - image, strict=True))
        if norm == "l2":
            solution = optimize.minimize(
                lambda delta: delta @ delta,
                np.zeros(16),
                jac=lambda delta: 2 * delta,
                bounds=box,
                constraints={
                    "type": "ineq",
                    "fun": lambda delta, gap=gap, normal=normal: -gap - normal @ delta,
                },
                method="SLSQP",
                options={"ftol": 1e-9, "maxiter": 500},
            )
            assert normal @ solution.x <= -gap + 1e-6
            exact = np.sqrt(solution.fun)
        else:
            # Variables are delta and a bound t on its entries.
            columns = np.vstack([np.eye(16), -np.eye(16), normal[None]])
            bound = np.concatenate([-np.ones(32), [0.0]])
            solution = optimize.linprog(
                np.eye(17)[16],
                A_ub=np.column_stack([columns, bound]),
                b_ub=np.concatenate([np.zeros(32), [-gap]]),
                bounds=[*box, (0, None)],
            )
            exact = solution.fun
            assert solution.success
        assert exact * (1 - 1e-4) <= result.distance[i] <= exact * 1.01
        order = 2 if norm == "l2" else 1
        is_longer.append(exact > 1.05 * gap / np.linalg.norm(normal, order))
    assert np.mean(is_longer) > 0.5, "the box must be in the way"


def margin_of(apply_fn, variables, label):
    def margin(point):
        logits = apply_fn(variables, point[None])[0]
        other = jnp.max(jnp.where(jnp.arange(len(logits)) == label, -jnp.inf, logits))
        return logits[label] - other, jnp.argmax(logits)

    return jax.jit(jax.value_and_grad(margin, has_aux=True))


def plain_search(apply_fn, variables, image, label, order, depth, num_polish=10):
    """One sample in Python: distance, class, gradients spent."""
    evaluate = margin_of(apply_fn, variables, int(label))

    def direction(gradient):
        if order == 2:
            return gradient / np.sqrt(np.sum(gradient**2))
        return np.sign(gradient)

    def measure(delta):
        return np.sqrt(np.sum(delta**2)) if order == 2 else np.max(np.abs(delta))

    image = np.asarray(image, np.float64)
    point = image
    best = None
    num_gradients = 0
    num_polished = 0
    while True:
        (margin, predicted), gradient = evaluate(jnp.asarray(point, jnp.float32))
        gradient = np.asarray(gradient, np.float64)
        margin = float(margin)
        num_gradients += 1
        is_wrong = int(predicted) != label
        if num_gradients == 1:
            excess = 0.02 * margin
            if is_wrong:
                return 0.0, int(predicted), 1
        if best is not None:
            num_polished += 1
        reach = measure(point - image)
        if is_wrong and (best is None or reach < best[0]):
            best = (reach, int(predicted), point)
        if best is None:
            # Bisection for the least length that lowers the margin enough.
            unit = direction(gradient)
            low, high = 0.0, 1e3
            for _ in range(100):
                middle = (low + high) / 2
                moved = np.clip(point - middle * unit, 0, 1)
                enough = np.sum(gradient * (point - moved)) >= margin + excess
                low, high = (low, middle) if enough else (middle, high)
            point = np.clip(point - high * unit, 0, 1)
            continue
        if num_polished >= num_polish:
            break
        free = ~((point <= 0) & (gradient > 0)) & ~((point >= 1) & (gradient < 0))
        gradient = gradient * free
        unit = direction(gradient)
        radius = reach + (margin + 0.1 * abs(margin)) / np.sum(gradient * unit)
        radius = max(radius, 0.9 * min(reach, best[0]))
        radius = min(radius, 0.999 * best[0])
        ratio = (1 + np.cos(np.pi * num_polished / num_polish)) / 2
        delta = point - ratio * radius * unit - image
        length = measure(delta)
        if order == 2 or length < radius:
            delta = delta * radius / length
        delta = np.clip(delta, -radius, radius)
        point = np.clip(image + delta, 0, 1)
    if depth:
        deeper = np.clip(image + (1 + depth) * (best[2] - image), 0, 1)
        predicted = int(evaluate(jnp.asarray(deeper, jnp.float32))[0][1])
        num_gradients += 1
        if predicted != label:
            best = (measure(deeper - image), predicted)
    return best[0], best[1], num_gradients


@pytest.mark.parametrize(
    ("norm", "order", "depth", "batch_size"), [("l2", 2, 0.0, 64), ("linf", 1, 0.2, 4)]
)
def test_search_equals_a_plain_loop(network, norm, order, depth, batch_size):
    apply_fn, variables, x, y = network
    result = search(
        apply_fn,
        variables,
        x,
        y,
        norm=attacks.NORMS[norm],
        depth=depth,
        batch_size=batch_size,
    )
    assert result.status[5] == Status.ALREADY_WRONG
    assert np.all(np.delete(result.status, 5) == Status.FOUND)
    assert len(np.unique(result.num_gradients)) > 2
    for i in range(len(x)):
        distance, label, num_gradients = plain_search(
            apply_fn, variables, np.asarray(x[i]), int(y[i]), order, depth
        )
        # Rounding may put a point on the boundary's other side, once in a while.
        assert result.distance[i] == pytest.approx(distance, rel=5e-3), i
        assert result.labels[i] == label
        assert abs(int(result.num_gradients[i]) - num_gradients) <= 1


@pytest.mark.parametrize(("norm", "dual"), NORMS)
def test_examples_are_closer_than_those_of_doubling(network, norm, dual):
    apply_fn, variables, x, y = network
    closest = search(apply_fn, variables, x, y, norm=norm)
    doubled = search(apply_fn, variables, x, y, norm=norm, search="doubling")
    predicted = np.argmax(apply_fn(variables, closest.images), -1)
    assert np.all(predicted != np.asarray(y))
    np.testing.assert_array_equal(closest.labels, predicted)
    assert np.all((closest.images >= 0) & (closest.images <= 1))
    length = jax.vmap(norm.measure)(closest.images - x)
    np.testing.assert_allclose(closest.distance, length, rtol=1e-5)
    assert np.all(closest.distance <= closest.epsilon)
    assert np.median(closest.distance) < 0.97 * np.median(doubled.distance)
    assert np.mean(closest.num_gradients) < 0.5 * np.mean(doubled.num_gradients)


def test_examples_are_wrong_by_more_than_rounding(network):
    apply_fn, variables, x, y = network

    def shifted(variables, images):
        """Logits on a large constant, so that rounding counts."""
        return apply_fn(variables, images) + 2.0**10

    result = search(shifted, variables, x, y)
    logits = np.asarray(apply_fn(variables, result.images))
    rows = np.arange(len(y))
    of_label = logits[rows, y]
    others = np.where(np.arange(5) == np.asarray(y)[:, None], -np.inf, logits)
    found = np.asarray(result.status) == Status.FOUND
    assert found.sum() > 20
    least = 32 * np.finfo(np.float32).eps * 2.0**10
    assert np.all((others.max(-1) - of_label)[found] > 0.9 * least)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_linear_steps_go_beyond_the_rounding_of_short_types(network, dtype):
    apply_fn, variables, x, y = network

    def short(variables, images):
        return apply_fn(variables, images).astype(dtype)

    y = jnp.argmax(short(variables, x), -1)
    closest = search(short, variables, x, y)
    doubled = attacks.adversarial_set(short, variables, x, y)
    np.testing.assert_array_equal(closest.status, Status.FOUND)
    assert np.all(jnp.argmax(short(variables, closest.images), -1) != y)
    assert np.median(closest.num_gradients) <= 20
    assert np.median(closest.distance) < np.median(doubled.distance)


def test_a_class_that_is_ruled_out_changes_nothing():
    weights = jnp.asarray(RNG.normal(size=(16, 4)), jnp.float32).at[:, 3].set(0.0)
    x = jnp.asarray(RNG.uniform(0.2, 0.8, (12, *SHAPE)), jnp.float32)

    def masked(low):
        return lambda weights, images: linear(weights, images).at[:, 3].set(low)

    y = jnp.argmax(masked(-jnp.inf)(weights, x), -1)
    expected = search(masked(-9.0), weights, x, y, bounds=WIDE)
    result = search(masked(-jnp.inf), weights, x, y, bounds=WIDE)
    np.testing.assert_allclose(result.distance, expected.distance, rtol=1e-3)
    np.testing.assert_array_equal(result.num_gradients, expected.num_gradients)


def test_a_model_of_64_bits_takes_images_of_32():
    with jax.enable_x64(True):
        weights = jnp.asarray(RNG.normal(size=(16, 3)))
        x = jnp.asarray(RNG.uniform(0.4, 0.6, (5, *SHAPE)), jnp.float32)
        y = jnp.argmax(linear(weights, x), -1)
        result = search(linear, weights, x, y, bounds=WIDE)
        assert result.images.dtype == result.distance.dtype == jnp.float32
        np.testing.assert_array_equal(result.status, Status.FOUND)
        assert np.max(result.num_gradients) < 20, "no doubling"


def test_linear_steps_go_beyond_the_rounding_of_a_small_margin():
    """Twice the margin's overshoot is less than what rounding needs."""
    weights = jnp.asarray(RNG.normal(size=(16, 2)), jnp.float32)
    gap = weights[:, 0] - weights[:, 1]
    start = jnp.full(16, 0.5) - gap * jnp.sum(0.5 * gap) / jnp.sum(gap**2)
    x = (start + 1e-3 * gap / jnp.sum(gap**2)).reshape(1, *SHAPE)

    def shifted(weights, images):
        return linear(weights, images) + 100.0

    y = jnp.argmax(shifted(weights, x), -1)
    result = search(shifted, weights, x, y, bounds=WIDE)
    np.testing.assert_array_equal(result.status, Status.FOUND)
    assert int(result.num_gradients[0]) <= 20


def test_depth_scales_the_distance_for_one_gradient(network):
    apply_fn, variables, x, y = network
    x = 0.3 + 0.4 * x  # no pixel near a bound
    y = jnp.argmax(apply_fn(variables, x), -1)
    closest = search(apply_fn, variables, x, y)
    deep = search(apply_fn, variables, x, y, depth=0.25)
    np.testing.assert_allclose(deep.distance, 1.25 * closest.distance, rtol=1e-4)
    np.testing.assert_array_equal(deep.num_gradients, closest.num_gradients + 1)
    expected = x + 1.25 * (closest.images - x)
    np.testing.assert_allclose(deep.images, expected, atol=1e-5)
    predicted = np.argmax(apply_fn(variables, deep.images), -1)
    np.testing.assert_array_equal(deep.labels, predicted)


def test_depth_never_leaves_the_other_class_nor_the_last_radius():
    def band(_, images):
        """Class 1 where the mean is between 0.5 and 0.55."""
        mean = jnp.mean(images, (1, 2, 3))
        inside = jnp.minimum(mean - 0.5, 0.55 - mean)
        return jnp.stack([jnp.zeros_like(mean), inside], -1)

    x = jnp.full((1, *SHAPE), 0.4)
    y = jnp.zeros(1, jnp.int32)
    closest = search(band, (), x, y)
    np.testing.assert_allclose(closest.distance, 0.4, rtol=2e-3)
    deep = search(band, (), x, y, depth=0.2)
    np.testing.assert_allclose(deep.distance, 0.48, rtol=2e-3)
    left = search(band, (), x, y, depth=1.0)
    chex.assert_trees_all_equal(left.images, closest.images)
    assert left.num_gradients[0] == closest.num_gradients[0] + 1
    capped = search(band, (), x, y, depth=0.2, epsilon_init=0.45, num_radii=1)
    chex.assert_trees_all_equal(capped.images, closest.images)


def test_doubling_attacks_what_linear_steps_do_not_find(network):
    apply_fn, variables, x, y = network
    options = {"num_radii": 9, "num_steps": 12, "batch_size": 8}
    doubled = search(apply_fn, variables, x, y, search="doubling", **options)
    result = search(apply_fn, variables, x, y, num_linear=1, depth=0.5, **options)
    limit = search(apply_fn, variables, x, y, num_linear=1, **options)
    # Two gradients: at the image and where one step ends.
    is_left = np.asarray(limit.num_gradients - doubled.num_gradients) == 2
    assert 0 < np.sum(is_left) < len(x) - 5
    for field in ("distance", "labels", "epsilon", "status"):
        np.testing.assert_allclose(
            getattr(result, field)[is_left], getattr(doubled, field)[is_left], rtol=1e-3
        )


def test_work_follows_the_samples_and_not_the_slowest():
    """Many samples that are done at once, few that take long, in slots of four."""
    num_calls = 0

    def count(_):
        nonlocal num_calls
        num_calls += 1

    def bent(_, images):
        jax.debug.callback(count, 0)
        mean = jnp.mean(images, (1, 2, 3))
        return jnp.stack([jnp.zeros_like(mean), (mean - 0.5) ** 3], -1)

    start = np.full(60, 0.7)
    start[::10] = 0.01
    x = jnp.asarray(np.broadcast_to(start.reshape(-1, 1, 1, 1), (60, *SHAPE)), "f4")
    result = search(bent, (), x, jnp.zeros(60, jnp.int32), batch_size=4)
    jax.effects_barrier()
    assert np.all(result.success)
    spent = np.asarray(result.num_gradients)
    assert np.max(spent) > 15
    assert num_calls <= np.sum(spent) / 4 + np.max(spent)
    # A batch of 60 would have cost that much for every sample.
    assert 4 * num_calls < 0.25 * 60 * np.max(spent)


def test_search_maps_over_models_and_depths(network):
    apply_fn, variables, x, y = network
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.7 * leaf]), variables)
    depths = jnp.array([0.0, 0.3])

    def run(variables, depth):
        return search(apply_fn, variables, x[:9], y[:9], depth=depth, batch_size=4)

    mapped = jax.jit(jax.vmap(run))(stacked, depths)
    for m in range(2):
        alone = run(jax.tree.map(lambda leaf, m=m: leaf[m], stacked), depths[m])
        one = jax.tree.map(lambda leaf, m=m: leaf[m], mapped)
        np.testing.assert_array_equal(one.status, alone.status)
        np.testing.assert_array_equal(one.num_gradients, alone.num_gradients)
        np.testing.assert_allclose(one.distance, alone.distance, rtol=5e-3)


def test_no_example_is_closer_than_the_certificate(network):
    apply_fn, variables, x, y = network
    bound = log10_lipschitz_bound(variables.params)
    certified = attacks.certified_distance(
        apply_fn(variables, x), y, log10_lipschitz=bound
    )
    result = search(apply_fn, variables, x, y)
    assert np.all(certified <= result.distance)
    assert certified[5] == 0
    assert np.sum(certified > 0) == len(x) - 1


def test_certificate_is_exact_for_orthogonal_classes():
    """Two columns of length s are sqrt(2) s apart, and their matrix has norm s."""
    columns = np.linalg.qr(RNG.normal(size=(16, 4)))[0]
    weights = jnp.asarray(3.0 * columns, jnp.float32)
    x = jnp.asarray(RNG.uniform(0.4, 0.6, (20, *SHAPE)), jnp.float32)
    logits = linear(weights, x)
    y = jnp.argmax(logits, -1)
    certified = attacks.certified_distance(logits, y, log10_lipschitz=np.log10(3.0))
    result = search(linear, weights, x, y, bounds=WIDE)
    np.testing.assert_allclose(result.distance, certified, rtol=2e-3, atol=ROUNDING)


@pytest.mark.parametrize("label", [-1, 3])
def test_certificate_of_a_label_of_no_class_is_zero(label):
    logits = jnp.array([-3.0, -1.0, -2.0])
    none = attacks.certified_distance(logits, jnp.array(label), log10_lipschitz=0.0)
    assert float(none) == 0.0


def test_unusable_hyperparameters_are_refused(network):
    for options, message in (
        ({"num_linear": 0}, "num_linear must be a positive integer, got 0"),
        ({"num_polish": -1}, "num_polish must be an integer, 0 or more"),
        ({"overshoot": 0.0}, "overshoot must be positive"),
        ({"depth": -0.1}, "depth must be finite and not negative, got -0.1"),
        ({"keep": "last"}, "keeps the closest example"),
    ):
        with pytest.raises(InputError, match=message):
            search(*network, **options)
    with pytest.raises(InputError, match="keeps the closest example"):
        attacks.PGD(keep="last", search=attacks.Minimal())
    with pytest.raises(InputError, match="depth must be finite and not negative"):
        attacks.Minimal(depth=-1.0)
