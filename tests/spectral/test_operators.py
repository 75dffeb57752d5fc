"""Layers as linear maps: against matrices written out by a slow NumPy convolution."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support.convolutions import im2col, numpy_matrix

from unlearn_jax import models
from unlearn_jax.layers import layers
from unlearn_jax.spectral.norms import spectral_norms, top_spectrum
from unlearn_jax.spectral.operators import affine_map, layer_map

SIDE, CHANNELS, OUT = 6, 2, 4
NUMBERS = ("NHWC", "HWIO", "NHWC")
# name: kernel size, stride, padding, dilation, NumPy's name of the padding, groups
FORMS = {
    "zeros": (3, 1, 1, 1, "constant", 1),
    "circular": (3, 1, 1, 1, "wrap", 1),
    "reflect": (3, 1, 1, 1, "reflect", 1),
    "replicate": (5, 2, 2, 1, "edge", 1),
    "stride": (3, 2, 1, 1, "constant", 1),
    "valid": (5, 1, 0, 1, "constant", 1),
    "dilation": (3, 1, 2, 2, "constant", 1),
    "point": (1, 2, 0, 1, "constant", 1),
    "groups": (3, 1, 1, 1, "constant", 2),
}


def every_form(weights, images):
    """One model with a layer of every form."""
    totals = []
    for name, (_, stride, pad, dilation, mode, groups) in FORMS.items():
        explicit = mode != "constant"
        padded = (
            jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode=mode)
            if explicit
            else images
        )
        pads = [(0, 0) if explicit else (pad, pad)] * 2
        out = lax.conv_general_dilated(
            padded,
            weights[name],
            (stride, stride),
            pads,
            rhs_dilation=(dilation, dilation),
            dimension_numbers=NUMBERS,
            feature_group_count=groups,
        )
        totals.append(jax.nn.relu(out).sum((1, 2, 3)))
    return jnp.stack(totals, 1)


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=(size, size, CHANNELS // groups, OUT)).astype("f4")
        for name, (size, _, _, _, _, groups) in FORMS.items()
    }


def test_every_padding_stride_dilation_and_group_is_the_true_matrix(weights):
    images = jnp.zeros((2, SIDE, SIDE, CHANNELS))

    @jax.jit
    def matrices(weights):
        found = {
            layer.path: layer_map(layer)
            for layer in layers(every_form, weights, images)
        }
        forward = {
            name: jax.vmap(a.matvec)(
                jnp.eye(np.prod(a.in_shape)).reshape(-1, *a.in_shape)
            )
            for name, a in found.items()
        }
        backward = {
            name: jax.vmap(a.rmatvec)(
                jnp.eye(np.prod(a.out_shape)).reshape(-1, *a.out_shape)
            )
            for name, a in found.items()
        }
        return forward, backward

    forward, backward = matrices(weights)
    norms = spectral_norms(every_form, weights, images)
    assert list(norms) == list(FORMS)
    tops = top_spectrum(every_form, weights, images, num_vectors=8, num_iters=30)
    for name, form in FORMS.items():
        expected = numpy_matrix(weights[name], (SIDE, SIDE, CHANNELS), form)
        np.testing.assert_allclose(
            forward[name].reshape(expected.shape[::-1]).T, expected, atol=1e-5
        )
        np.testing.assert_allclose(
            backward[name].reshape(expected.shape), expected, atol=1e-5
        )
        sigma = np.linalg.svd(expected, compute_uv=False)
        np.testing.assert_allclose(norms[name], sigma[0], rtol=1e-5)
        np.testing.assert_allclose(tops[name].sigma[0], sigma[0], rtol=2e-3)
        assert (np.asarray(tops[name].sigma) <= sigma[:8] * (1 + 1e-5)).all()


def test_padding_outside_of_the_convolution_counts_and_zeros_on_its_input_do_not():
    found = layers(
        every_form,
        {n: np.ones((s, s, 2 // g, 4), "f4") for n, (s, *_, g) in FORMS.items()},
        jnp.zeros((2, 6, 6, 2)),
    )
    copied = {layer.path for layer in found if layer.copies is not None}
    assert copied == {"circular", "reflect", "replicate"}
    assert all(
        layer.copies.shape == (2, 6, 6, 2)
        for layer in found
        if layer.copies is not None
    )


@pytest.mark.parametrize("padding", ["CIRCULAR", "REFLECT"])
def test_padding_modes_of_linen(padding):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            return nn.Conv(3, (3, 3), padding=padding)(nn.relu(images)).sum((1, 2))

    model = models.from_linen(Net(), jnp.zeros((1, 5, 5, 2)))
    variables = model.init(jax.random.key(0))
    (layer,) = layers(model.apply, variables, jnp.zeros((1, 5, 5, 2)))
    form = (3, 1, 1, 1, {"CIRCULAR": "wrap", "REFLECT": "reflect"}[padding], 1)
    expected = numpy_matrix(layer.kernel, (5, 5, 2), form)
    operator = layer_map(layer)
    got = jax.jit(jax.vmap(operator.matvec))(jnp.eye(50).reshape(-1, 5, 5, 2))
    np.testing.assert_allclose(got.reshape(50, -1).T, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "strides", "padding"),
    [
        ((3, 3), (1, 1), "SAME"),
        ((3, 2), (2, 1), ((1, 0), (0, 1))),
        ((1, 1), (2, 2), "VALID"),
        ((2, 3), (2, 3), ((2, 1), (0, 0))),
    ],
)
def test_kernels_larger_than_their_images_multiply_patches(kernel, strides, padding):
    def apply(weights, images):
        convolved = models.canonical_conv(images, weights["w"], strides, padding)
        return convolved.mean((1, 2))

    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(*kernel, 20, 5)).astype("f4")}
    (layer,) = layers(apply, weights, jnp.zeros((1, 4, 5, 20)))
    found = layer_map(layer)
    expected = layer_map(layer, form="canonical")
    assert "_canonical" not in str(jax.make_jaxpr(found.matvec)(jnp.ones((4, 5, 20))))
    image = jnp.asarray(rng.normal(size=(4, 5, 20)), jnp.float32)
    outputs = expected.matvec(image)
    for got, want in (
        (found.matvec(image), outputs),
        (found.rmatvec(outputs), expected.rmatvec(outputs)),
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


@pytest.mark.slow
def test_patches_of_images_are_the_convolution_that_they_stand_for(monkeypatch):
    monkeypatch.setitem(models.CONVOLUTIONS, "im2col", im2col)
    sample, norms = jnp.zeros((2, 6, 6, 2)), []
    for conv in ("im2col", "canonical"):
        model = models.build("cnn", (6, 6, 2), 3, widths=(4,), conv=conv)
        variables = model.init(jax.random.key(0))
        norms.append(spectral_norms(model.apply, variables, sample))
    chex.assert_trees_all_close(*norms, rtol=1e-5)


def test_a_layer_and_its_batch_norm_are_one_map():
    """The identity of the kernel that is scaled per channel; the product of the two
    norms is too large.
    """
    model = models.build("cnn", (6, 6, 2), 3, widths=(4,), batch_norm=True)
    rng = np.random.default_rng(1)
    positive = lambda leaf: jnp.asarray(rng.uniform(0.2, 3, leaf.shape), leaf.dtype)
    variables = jax.tree.map(positive, model.init(jax.random.key(0)))
    norm, stats = (
        variables.params["BatchNorm_0"],
        variables.state["batch_stats"]["BatchNorm_0"],
    )
    factor = np.asarray(norm["scale"]) / np.sqrt(np.asarray(stats["var"]) + 1e-5)
    kernel = np.asarray(variables.params["Conv_0"]["kernel"])
    form, shape = FORMS["zeros"], (6, 6, 2)
    alone = np.linalg.svd(numpy_matrix(kernel, shape, form), compute_uv=False)[0]
    both = np.linalg.svd(numpy_matrix(kernel * factor, shape, form), compute_uv=False)[
        0
    ]
    sample = jnp.zeros((1, *shape))
    path = "params/Conv_0/kernel"
    composite = spectral_norms(model.apply, variables, sample)
    np.testing.assert_allclose(composite[path], both, rtol=1e-5)
    np.testing.assert_allclose(
        spectral_norms(model.apply, variables, sample, composite=False)[path],
        alone,
        rtol=1e-5,
    )
    assert both < 0.95 * alone * factor.max()
    head = layers(model.apply, variables, sample)[1]
    assert head.scale is None


def tail(name, w, y):
    """What may follow a layer's output y [B, 5], and the factor it amounts to (None:
    none, or unknown).
    """
    row, ones = w["g"].reshape(1, -1), jnp.ones_like(w["g"])
    return {
        "nothing": lambda: (y, None),
        "a bias": lambda: (y + row, None),
        "a product": lambda: (row * y, w["g"]),
        "mean and factor": lambda: ((y - row) * (2 * row) + row, 2 * w["g"]),
        "a quotient": lambda: ((row - y) / row, -1 / w["g"]),
        "a scalar": lambda: (-(y * 3.0) / w["t"], -3 * ones / w["t"]),
        "a call": lambda: (
            jax.jit(lambda y: y * row)(y).astype(jnp.float16).astype(jnp.float32) * 2,
            2 * w["g"],
        ),
        "a turn": lambda: (
            y.T.reshape(5, 1, -1).reshape(5, -1) * w["g"].reshape(-1, 1),
            None,
        ),
        "a transpose": lambda: (y.T * w["g"].reshape(-1, 1), w["g"]),
        "new axes": lambda: (y.reshape(-1, 1, 5) * w["g"].reshape(1, 1, -1), w["g"]),
        "its own square": lambda: (y * y, None),
        "two uses": lambda: ((y * row, y), None),
        "the images": lambda: (y * w["x"], None),
        "up to a ReLU": lambda: (jax.nn.relu(y * row) * row, w["g"]),
        "a fraction of": lambda: (row / y, None),
        "the batch": lambda: (y * jnp.arange(2.0).reshape(-1, 1), None),
    }[name]()


TAILS = [
    "nothing",
    "a bias",
    "a product",
    "mean and factor",
    "a quotient",
    "a scalar",
    "a call",
    "a turn",
]
TAILS += [
    "a transpose",
    "new axes",
    "its own square",
    "two uses",
    "the images",
    "up to a ReLU",
    "a fraction of",
]


@pytest.mark.parametrize("name", [*TAILS, "the batch"])
def test_the_tail_of_a_layer_is_followed_while_it_is_affine_per_channel(name):
    rng = np.random.default_rng(2)
    weights = {
        "k": rng.normal(size=(3, 5)).astype("f4"),
        "g": np.arange(1.0, 6, dtype="f4"),
        "t": np.float32(0.5),
    }

    def apply(w, x):
        return tail(name, {**w, "x": x.sum()}, x @ w["k"])[0]

    (layer,) = layers(apply, weights, jnp.ones((2, 3)))
    expected = tail(name, {**weights, "x": jnp.ones(())}, jnp.ones((2, 5)))[1]
    if expected is None:
        assert layer.scale is None
    else:
        np.testing.assert_allclose(layer.scale, expected, rtol=1e-6)


@pytest.mark.slow
def test_gradients_of_the_kernel_have_the_canonical_form(weights):
    layer = next(
        x
        for x in layers(every_form, weights, jnp.zeros((1, 6, 6, 2)))
        if x.path == "stride"
    )
    vector = jax.random.normal(jax.random.key(3), (6, 6, 2))
    squares = lambda kernel: jnp.sum(layer_map(layer, kernel).matvec(vector) ** 2)
    stock = lambda kernel: jnp.sum(
        lax.conv_general_dilated(
            vector[None], kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=NUMBERS
        )
        ** 2
    )
    np.testing.assert_allclose(
        jax.grad(squares)(layer.kernel),
        jax.grad(stock)(layer.kernel),
        rtol=1e-4,
        atol=1e-4,
    )
    assert "_canonical" in str(jax.make_jaxpr(squares)(layer.kernel))
    assert "_canonical" not in str(jax.make_jaxpr(stock)(layer.kernel))


def test_any_affine_function_loses_its_constant():
    matrix = np.random.default_rng(4).normal(size=(3, 4)).astype("f4")
    operator = affine_map(lambda x: matrix @ x + 7, (4,))
    assert (operator.in_shape, operator.out_shape) == ((4,), (3,))
    np.testing.assert_allclose(
        jax.vmap(operator.matvec)(jnp.eye(4)).T, matrix, atol=1e-5
    )
    np.testing.assert_allclose(
        jax.vmap(operator.rmatvec)(jnp.eye(3)), matrix, atol=1e-5
    )
