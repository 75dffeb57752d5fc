"""Theorem 4.1's terms by hand on linear models; the Lipschitz bound against
materialized maps.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from unlearn_jax import models, spectral, theory
from unlearn_jax.types import AttackResult, Dataset, Status, Variables

RNG = np.random.default_rng(6)
ORIGINAL, RETRAINED, UNLEARNED = (
    RNG.normal(size=(12, 4)).astype("f4") for _ in range(3)
)


def loss(weights, image, label):
    """Cross-entropy of one sample."""
    logits = image.reshape(-1).astype(np.float64) @ weights
    return np.log(np.exp(logits).sum()) - logits[label]


@pytest.fixture(scope="module")
def case():
    """Five samples: found, found, already wrong, failed, not finite."""
    model = models.from_functions(
        lambda key: jnp.zeros((12, 4)), lambda w, x: x.reshape(len(x), -1) @ w
    )
    x = RNG.integers(0, 256, (5, 2, 2, 3)).astype(np.uint8)
    near = (x / 255 + RNG.uniform(-0.1, 0.1, x.shape)).astype("f4")
    near[2], near[4] = (x[2] / 255).astype("f4"), np.nan
    y, found = np.array([0, 1, 2, 3, 0], "i4"), np.array([1, 3, 0, 3, 2], "i4")
    status = np.array(
        [
            Status.FOUND,
            Status.FOUND,
            Status.ALREADY_WRONG,
            Status.NOT_FOUND,
            Status.FOUND,
        ],
        "i4",
    )
    distance = jnp.array([1.0, 1.0, 0.0, 1.0, 1.0])
    result = AttackResult(
        jnp.asarray(near),
        jnp.asarray(found),
        jnp.ones(5),
        distance,
        jnp.asarray(status),
        jnp.ones(5, jnp.int32),
    )
    return (
        model,
        [Variables(jnp.asarray(w), {}) for w in (ORIGINAL, RETRAINED, UNLEARNED)],
        Dataset(x, y),
        result,
    )


def test_terms_by_hand(case):
    model, variables, forget, result = case
    terms = theory.theorem_terms(model.apply, *variables, forget, result)
    np.testing.assert_array_equal(terms.counted, [True, True, True, False, False])
    near = np.asarray(result.images)
    for i in range(4):
        x, y, found = (
            forget.images[i] / 255,
            int(forget.labels[i]),
            int(result.labels[i]),
        )
        delta = np.linalg.norm(near[i] - x)
        first, second = loss(ORIGINAL, near[i], y), loss(UNLEARNED, near[i], found)
        third, fourth = loss(RETRAINED, x, y), loss(RETRAINED, near[i], found)
        expected = {
            "delta": delta,
            "original_adversarial": first,
            "original_clean": loss(ORIGINAL, x, y),
            "unlearned_adversarial": second,
            "retrained_clean": third,
            "retrained_adversarial": fourth,
            "combination": first + second - third - fourth,
            "transfer": np.argmax(near[i].reshape(-1) @ RETRAINED) == found,
        }
        for name, value in expected.items():
            np.testing.assert_allclose(
                getattr(terms, name)[i], value, rtol=1e-4, atol=1e-6, err_msg=name
            )
        if i == 2:
            assert np.isnan(terms.slope[i])
        else:
            slope = abs(first - expected["original_clean"]) / delta
            np.testing.assert_allclose(terms.slope[i], slope, rtol=1e-3)
            assert slope <= np.sqrt(2) * 10**terms.log10_lipschitz_bound * (1 + 1e-5)
    np.testing.assert_allclose(
        terms.log10_lipschitz_bound, np.log10(np.linalg.norm(ORIGINAL, 2)), rtol=1e-5
    )
    np.testing.assert_allclose(
        terms.original_distance, np.linalg.norm(ORIGINAL - RETRAINED), rtol=1e-5
    )
    np.testing.assert_allclose(
        terms.unlearned_distance, np.linalg.norm(UNLEARNED - RETRAINED), rtol=1e-5
    )
    jitted = jax.jit(theory.theorem_terms, static_argnums=0)(
        model.apply, *variables, forget, result
    )
    chex.assert_trees_all_close(jitted, terms, rtol=1e-5, atol=1e-6)


def test_summary_counts_found_and_finite_samples_only(case):
    model, variables, forget, result = case
    terms = theory.theorem_terms(model.apply, *variables, forget, result)
    summary = theory.summarize_terms(terms)
    assert summary["num_samples"] == 3
    for name in ("delta", "original_adversarial", "combination", "transfer"):
        np.testing.assert_allclose(
            summary[name], np.mean(np.asarray(getattr(terms, name))[:3]), rtol=1e-5
        )
    np.testing.assert_allclose(
        summary["slope"], np.mean(np.asarray(terms.slope)[:2]), rtol=1e-5
    )
    rise = np.abs(
        np.asarray(terms.original_adversarial) - np.asarray(terms.original_clean)
    )[:3]
    np.testing.assert_allclose(
        summary["excess"], np.mean(rise - np.asarray(terms.combination)[:3]), rtol=1e-4
    )
    gap = (
        np.linalg.norm(ORIGINAL - RETRAINED) ** 2
        - np.linalg.norm(UNLEARNED - RETRAINED) ** 2
    )
    np.testing.assert_allclose(summary["approach"], gap, rtol=1e-3, atol=1e-3)
    none = theory.summarize_terms(terms._replace(counted=jnp.zeros(5, bool)))
    assert none["num_samples"] == 0
    assert np.isnan(none["delta"])


def test_a_value_that_is_not_finite_leaves_the_mean_of_the_others(case):
    """Whatever term it is in; and only a term without any finite value has none."""
    model, variables, forget, result = case
    terms = theory.theorem_terms(model.apply, *variables, forget, result)
    names = [
        name
        for name, value in terms._asdict().items()
        if value.ndim == 1 and value.dtype != bool
    ]
    assert len(names) == 8
    for name in names:
        value = getattr(terms, name)
        for bad in (jnp.nan, jnp.inf):
            summary = theory.summarize_terms(
                terms._replace(**{name: value.at[0].set(bad)})
            )
            rest = np.asarray(value)[1:3]
            np.testing.assert_allclose(
                summary[name], rest[np.isfinite(rest)].mean(), rtol=1e-5, err_msg=name
            )
            finite = [np.isfinite(found) for found in summary.values()]
            assert all(finite), name
    lost = theory.summarize_terms(terms._replace(delta=jnp.full(5, jnp.inf)))
    assert np.isnan(lost["delta"])
    assert np.isfinite(lost["excess"])


def test_one_step_on_a_convex_model_obeys_the_theorem():
    """Linear softmax, many samples, one gradient step: the inequality itself, tight
    within a factor of two.
    """
    rng = np.random.default_rng(8)
    x, y = rng.normal(size=(30, 5)), rng.integers(0, 3, 30)
    original = np.zeros((5, 3))

    def gradient(weights, images, labels):
        logits = images @ weights
        probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        return images.T @ (probs - np.eye(3)[labels])

    def descend(images, labels, rate):
        weights = np.zeros((5, 3))
        for _ in range(30000):
            weights -= rate * gradient(weights, images, labels)
        return weights

    y = np.argmax(x @ rng.normal(size=(5, 3)), -1)
    beta = (
        0.5 * np.linalg.norm(np.concatenate([x, x[:1]]), 2) ** 2
    )  # of the sum, one copy of x_adv in it
    original, retrained = descend(x, y, 1 / beta), descend(x[1:], y[1:], 1 / beta)
    gap = lambda label: original[:, y[0]] - original[:, label]
    other = min(
        (c for c in range(3) if c != y[0]),
        key=lambda c: x[0] @ gap(c) / np.linalg.norm(gap(c)),
    )
    normal = gap(other)
    near = x[0] - 1.01 * (x[0] @ normal) / (normal @ normal) * normal
    found = int(np.argmax(near @ original))
    assert found != y[0]
    step = gradient(original, np.vstack([x, near]), np.append(y, found)) / beta
    unlearned = original - step
    model = models.from_functions(
        lambda key: jnp.zeros((5, 3)), lambda w, x: x.reshape(len(x), -1) @ w
    )
    one = lambda leaf: jnp.asarray(leaf, jnp.float32).reshape(1, 5, 1, 1)
    result = AttackResult(
        images=one(near),
        labels=jnp.array([found]),
        epsilon=jnp.ones(1),
        distance=jnp.ones(1),
        status=jnp.zeros(1, jnp.int32),
        num_gradients=jnp.ones(1, jnp.int32),
    )
    forget = Dataset(one(x[0]), np.array([y[0]], "i4"))
    variables = [
        Variables(jnp.asarray(w, jnp.float32), {})
        for w in (original, retrained, unlearned)
    ]
    terms = theory.theorem_terms(model.apply, *variables, forget, result)
    summary = theory.summarize_terms(terms)
    assert (
        0
        < -summary["approach"]
        <= 2 / beta * summary["excess"]
        <= 2 * -summary["approach"]
    )


def materialized(kernel, size, stride, padding):
    """The convolution's matrix, one basis image at a time."""
    basis = np.eye(size * size * kernel.shape[2], dtype="f4").reshape(
        -1, size, size, kernel.shape[2]
    )
    out = lax.conv_general_dilated(
        jnp.asarray(basis),
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return np.asarray(out).reshape(len(basis), -1)


@settings(max_examples=6, deadline=None)
@given(
    st.integers(0, 9),
    st.sampled_from(
        [(3, 3, 1, "SAME"), (3, 1, 2, "SAME"), (2, 3, 1, "VALID"), (1, 1, 1, "SAME")]
    ),
)
def test_conv_bound_is_above_the_norm(seed, shape):
    height, width, stride, padding = shape
    rng = np.random.default_rng(seed)
    kernel = jnp.asarray(
        rng.normal(size=(height, width, 2, 3)) * rng.choice([1e-3, 1.0, 1e3]),
        jnp.float32,
    )
    exact = np.linalg.norm(materialized(kernel, 5, stride, padding), 2)
    bound = float(theory.conv_bound(kernel))
    assert exact <= bound * (1 + 1e-5)
    assert bound <= exact * height * width * 3, "not vacuous"
    if height == width == 1:
        np.testing.assert_allclose(bound, exact, rtol=1e-5)


def test_gram_matrices_are_not_rounded_on_accelerators():
    text = str(jax.make_jaxpr(theory.largest_singular_value)(np.ones((3, 2), "f4")))
    assert "precision=(Precision.HIGHEST, Precision.HIGHEST)" in text


def test_conv_bound_is_the_smallest_of_four_layouts():
    """A kernel that is an outer product over (in, width) and (out, height), say, is
    tight in one layout alone.
    """
    kernel = RNG.normal(size=(3, 2, 4, 5))
    layouts = []
    for rows in ((3, 0), (3, 1), (3,), (0, 1, 3)):
        columns = tuple(axis for axis in range(4) if axis not in rows)
        matrix = kernel.transpose(*rows, *columns).reshape(
            np.prod([kernel.shape[a] for a in rows]), -1
        )
        layouts.append(np.linalg.norm(matrix, 2))
    assert len({round(value, 3) for value in layouts}) == 4
    np.testing.assert_allclose(
        theory.conv_bound(jnp.asarray(kernel, jnp.float32)),
        np.sqrt(6) * min(layouts),
        rtol=1e-5,
    )


def test_lipschitz_bound_multiplies_kernels_and_bounds_a_network(key):
    dense = RNG.normal(size=(7, 3)).astype("f4")
    conv = RNG.normal(size=(3, 3, 2, 2)).astype("f4")
    params = {
        "a": {"kernel": jnp.asarray(dense), "bias": jnp.full(3, 9.0)},
        "b": jnp.asarray(conv),
        "scale": jnp.ones(()),
    }
    expected = np.linalg.norm(dense, 2) * theory.conv_bound(jnp.asarray(conv))
    np.testing.assert_allclose(
        10 ** theory.log10_lipschitz_bound(params), expected, rtol=1e-5
    )
    assert theory.log10_lipschitz_bound({"bias": jnp.zeros(3)}) == 0
    assert (
        theory.log10_lipschitz_bound(
            {"zero": jnp.zeros((3, 2)), "b": jnp.asarray(conv)}
        )
        == -np.inf
    )
    for shape in ((3, 2, 2), (1, 3, 3, 2, 2)):
        assert np.isnan(
            theory.log10_lipschitz_bound(params | {"kernel": jnp.ones(shape)})
        )
    model = models.build("cnn", (4, 4, 1), 3, widths=(3,))
    k_init, k_from, k_to = jax.random.split(key, 3)
    variables = jax.jit(model.init)(k_init)
    images = jax.random.uniform(k_from, (64, 4, 4, 1))
    moved = images + 1e-2 * jax.random.normal(k_to, images.shape)
    change = np.linalg.norm(
        model.apply(variables, moved) - model.apply(variables, images), axis=-1
    )
    length = np.sqrt(np.sum((np.asarray(moved) - np.asarray(images)) ** 2, (1, 2, 3)))
    assert np.max(change / length) <= 10 ** theory.log10_lipschitz_bound(
        variables.params
    )


def test_lipschitz_bound_of_a_hundred_layers():
    """The product is far beyond float32; the sum of logarithms is exact to rounding,
    and so is the summary.
    """
    rng = np.random.default_rng(3)
    kernels = rng.normal(size=(100, 3, 3)).astype("f4") * 10 ** rng.uniform(
        0.0, 2.0, (100, 1, 1)
    ).astype("f4")
    expected = sum(
        np.log10(np.linalg.norm(kernel.astype("f8"), 2)) for kernel in kernels
    )
    assert expected > 100
    bound = jax.jit(theory.log10_lipschitz_bound)(
        [jnp.asarray(kernel) for kernel in kernels]
    )
    np.testing.assert_allclose(bound, expected, rtol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.integers(8, 48))
def test_neighbor_bound_holds_between_all_frequencies(seed, taps, size):
    """Against the circulant matrix, for random kernels with some taps zero."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=taps) * rng.choice([0, 1], size=taps, p=[0.2, 0.8])
    column = np.zeros(size)
    column[:taps] = kernel
    circulant = np.stack([np.roll(column, shift) for shift in range(size)], 1)
    time = np.arange(size)
    waves = np.exp(2j * np.pi * np.outer(time, time) / size) / np.sqrt(size)
    stretch = np.linalg.norm(circulant @ waves, axis=0)
    np.testing.assert_allclose(
        np.sort(stretch),
        np.sort(np.linalg.svd(circulant, compute_uv=False)),
        rtol=1e-6,
        atol=1e-6,
    )
    for offset in range(-size // 2, size // 2 + 1):
        bound = theory.neighbor_bound(
            jnp.asarray(kernel, jnp.float32),
            size,
            offset,
            length=jnp.asarray(stretch, jnp.float32),
        )
        shifted = np.roll(stretch, -offset)
        assert (shifted <= np.asarray(bound) * (1 + 1e-5) + 1e-6).all()
        if offset == 0 or taps == 1:
            np.testing.assert_allclose(bound, stretch, rtol=1e-5)
    assert bound.shape == (size,)


def test_neighbor_bound_is_attained_by_two_equal_taps():
    """Next to a quarter of the sampling rate, where the slope is largest."""
    size = 1000
    stretch = np.abs(np.fft.fft([1.0, 1.0], size))
    rise = stretch[size // 4 + 1] ** 2 - stretch[size // 4] ** 2
    bound = theory.neighbor_bound(jnp.ones(2), size, 1, length=0.0) ** 2
    assert abs(rise) <= bound <= 1.01 * abs(rise)


@pytest.mark.parametrize(
    ("taps", "excess"), [(2, 1.0), (3, 1.2247), (5, 1.4216), (7, 1.5099)]
)
def test_neighbor_bound_against_the_worst_kernel(taps, excess):
    """The steepest squared stretch of any kernel, found by eigenvalues: the bound's
    constant is that many times too large."""
    places = np.arange(taps)
    lags = places[:, None] - places[None]
    steepest, worst, at = 0.0, None, 0.0
    for angle in np.linspace(0, np.pi, 2001):
        # the squared stretch is sum_ab f_a f_b cos((a - b) angle); this is its slope
        slopes, kernels = np.linalg.eigh(-lags * np.sin(lags * angle))
        if slopes[-1] > steepest:
            steepest, worst, at = slopes[-1], kernels[:, -1], angle
    size = 2**14
    angles = at + 2 * np.pi * np.arange(2) / size
    stretch = np.abs(np.exp(1j * np.outer(angles, places)) @ worst)
    bound = theory.neighbor_bound(jnp.asarray(worst), size, 1, length=stretch[0])
    rise = stretch[1] ** 2 - stretch[0] ** 2
    allowed = float(bound) ** 2 - stretch[0] ** 2
    assert rise <= allowed * 1.01
    np.testing.assert_allclose(allowed / rise, excess, rtol=0.02)
    np.testing.assert_allclose(taps * (taps - 1) / 2 / steepest, excess, rtol=1e-3)


def test_a_kernel_that_annihilates_a_wave_leaves_the_next_one_short():
    size = 4096
    stretch = np.abs(np.fft.fft(np.array([1.0, -1.0]) / np.sqrt(2), size))
    kernel = jnp.array([1.0, -1.0]) / jnp.sqrt(2)
    bound = theory.neighbor_bound(kernel, size, 1, length=0.0)
    assert stretch[1] <= bound < 0.06 * stretch.max()


def test_local_slopes_are_those_of_the_jacobian_and_below_the_product_of_the_norms(key):
    model = models.build("cnn", (4, 4, 1), 3, widths=(3,))
    k_init, k_images = jax.random.split(key)
    variables, images = (
        jax.jit(model.init)(k_init),
        jax.random.uniform(k_images, (3, 4, 4, 1)),
    )
    slopes = jax.jit(theory.local_slopes, static_argnums=0)(
        model.apply, variables, images
    )
    for image, slope in zip(np.asarray(images, "f8"), slopes, strict=True):
        nudged = image + 1e-3 * np.eye(16).reshape(16, 4, 4, 1)
        rise = model.apply(variables, jnp.asarray(nudged)) - model.apply(
            variables, jnp.asarray(image[None])
        )
        np.testing.assert_allclose(
            slope, np.linalg.norm(np.asarray(rise) / 1e-3, 2), rtol=2e-2
        )
    product = spectral.log10_lipschitz_product(
        spectral.spectral_norms(model.apply, variables, images)
    )
    assert (slopes <= 10**product).all()


def test_local_slopes_of_logits_in_bfloat16_and_float64(key):
    weights = jax.random.normal(key, (6, 4))
    expected = np.linalg.norm(np.asarray(weights), 2)
    images = jnp.ones((2, 6))
    short = lambda w, x: x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)
    slopes = theory.local_slopes(short, weights, images)
    np.testing.assert_allclose(slopes, expected, rtol=1e-2)
    in_short = theory.local_slopes(short, weights, images.astype(jnp.bfloat16))
    np.testing.assert_allclose(in_short, expected, rtol=1e-2)
    with jax.enable_x64(True):
        slopes = theory.local_slopes(lambda w, x: x @ w, weights, images)
        assert slopes.dtype == jnp.float32
    np.testing.assert_allclose(slopes, expected, rtol=1e-5)
