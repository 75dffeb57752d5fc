"""The affine layers of a model, found by walking its forward pass: against what Flax
says of the same layers.
"""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from support.convolutions import NATIVE, im2col

from unlearn_jax import models
from unlearn_jax.layers import features, head_kernel, layers, with_kernels
from unlearn_jax.types import InputError

IMAGES = np.random.default_rng(0).uniform(size=(3, 8, 8, 2)).astype("f4")


def made(name, **fields):
    model = models.build(name, (8, 8, 2), 5, **fields)
    return model, jax.jit(model.init)(jax.random.key(0))


@pytest.mark.parametrize("conv", ["canonical", "lax", "im2col", NATIVE])
def test_every_form_of_convolution_is_found(conv, monkeypatch):
    monkeypatch.setitem(models.CONVOLUTIONS, "im2col", im2col)
    model, variables = made("cnn", widths=(4, 6), conv=conv)
    found = layers(model.apply, variables, IMAGES)
    assert [layer.path.split("/")[1] for layer in found] == [
        "Conv_0",
        "Conv_1",
        "Dense_0",
    ]
    first = variables.params["Conv_0"]["kernel"]
    chex.assert_trees_all_equal(found[0].store(found[0].kernel), first)
    if conv == "im2col":
        assert (found[0].kind, found[0].inputs.shape) == ("dense", (3, 8, 8, 18))
        out = found[0].inputs @ found[0].kernel
    else:
        chex.assert_trees_all_equal(found[0].inputs, jnp.asarray(IMAGES))
        numbers = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        out = lax.conv_general_dilated(
            found[0].inputs, found[0].kernel, **found[0].options, **numbers
        )
    expected = lax.conv_general_dilated(
        IMAGES, first, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_features_times_the_head_are_the_logits(name):
    fields = {"blocks": (1,), "width": 4} if name == "resnet" else {"widths": (4, 6)}
    model, variables = made(name, **fields)
    seen = features(model.apply, variables, IMAGES)
    kernel = head_kernel(model.apply, variables, IMAGES)
    bias = model.apply(variables, IMAGES) - seen @ kernel
    np.testing.assert_allclose(bias, jnp.broadcast_to(bias[:1], bias.shape), atol=1e-5)


def test_linen_layers_have_the_same_inputs():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, images, *, train):
            hidden = nn.Conv(4, (3, 3), strides=2, padding="VALID", kernel_dilation=2)(
                images
            )
            hidden = nn.relu(
                nn.BatchNorm(use_running_average=not train)(hidden)
            ).reshape(len(images), -1)
            return nn.Dense(5)(nn.gelu(nn.Dense(7)(hidden)))

    seen = []

    def note(call, args, kwargs, context):
        if context.method_name == "__call__" and isinstance(
            context.module, nn.Dense | nn.Conv
        ):
            seen.append(np.asarray(args[0]))
        return call(*args, **kwargs)

    model = models.from_linen(Net(), IMAGES[:1])
    variables = model.init(jax.random.key(0))
    with nn.intercept_methods(note):
        model.apply(variables, IMAGES)
    found = layers(model.apply, variables, IMAGES)
    assert [layer.kind for layer in found] == ["conv", "dense", "dense"]
    for layer, expected in zip(found, seen, strict=True):
        np.testing.assert_allclose(layer.inputs, expected, atol=1e-6)
    assert found[0].options["rhs_dilation"] == (2, 2)
    assert found[0].options["window_strides"] == (2, 2)


def test_nnx_and_transposed_weights_are_found_and_put_back():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.head = nnx.Linear(128, 5, rngs=rngs)

        def __call__(self, images):
            return self.head(images.reshape(len(images), -1))

    model = models.from_nnx(Net)
    variables = model.init(jax.random.key(0))
    assert [layer.path for layer in layers(model.apply, variables, IMAGES)] == [
        "params/head/kernel"
    ]

    weights = {"a": np.ones((4, 128), "f4"), "b": np.full((5, 4), 2.0, "f4")}
    apply = lambda w, x: (w["b"] @ jax.nn.relu(x.reshape(len(x), -1) @ w["a"].T).T).T
    found = layers(apply, weights, IMAGES)
    assert [(layer.path, layer.kernel.shape) for layer in found] == [
        ("a", (128, 4)),
        ("b", (4, 5)),
    ]
    changed = with_kernels(weights, {"b": jnp.arange(20.0).reshape(4, 5)}, found)
    np.testing.assert_array_equal(changed["b"], np.arange(20.0).reshape(4, 5).T)
    np.testing.assert_array_equal(changed["a"], weights["a"])
    with pytest.raises(InputError, match="no layer has its weights at 'c'"):
        with_kernels(weights, {"c": jnp.zeros(1)}, found)


def test_walking_can_be_jitted_mapped_and_differentiated_through_a_custom_gradient():
    model, variables = made("cnn", widths=(4,), conv="canonical")
    plain = jax.grad(lambda v: jnp.sum(model.apply(v, IMAGES) ** 2))(variables)
    kernel = lambda v: head_kernel(model.apply, v, IMAGES)

    def by_features(v):
        bias = v.params["Dense_0"]["bias"]
        return jnp.sum((features(model.apply, v, IMAGES) @ kernel(v) + bias[None]) ** 2)

    chex.assert_trees_all_close(
        jax.jit(jax.grad(by_features))(variables), plain, rtol=1e-4, atol=1e-4
    )
    text = str(jax.make_jaxpr(lambda v: features(model.apply, v, IMAGES))(variables))
    assert "custom_vjp_call" in text
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), variables)
    both = jax.vmap(lambda v: features(model.apply, v, IMAGES))(stacked)
    np.testing.assert_allclose(
        both[0], features(model.apply, variables, IMAGES), atol=1e-5
    )


def test_bfloat16_weights_keep_their_place():
    model, variables = made("mlp", widths=(4,), dtype="bfloat16")
    found = layers(model.apply, variables, IMAGES)
    assert [layer.path for layer in found] == [
        "params/Dense_0/kernel",
        "params/Dense_1/kernel",
    ]
    changed = with_kernels(variables, {found[0].path: found[0].kernel * 2}, found)
    assert (
        changed.params["Dense_0"]["kernel"].dtype
        == variables.params["Dense_0"]["kernel"].dtype
    )


def test_a_model_without_a_linear_head_is_refused():
    apply = lambda w, x: jnp.stack([x.mean((1, 2, 3)) * w, x.sum((1, 2, 3)) * w], 1)
    assert layers(apply, jnp.ones(()), IMAGES) == []
    with pytest.raises(InputError, match="ends in a linear layer"):
        features(apply, jnp.ones(()), IMAGES)
    single = lambda w, x: (x @ w)[:, 0]
    for classes in (2, len(FLAT)):
        with pytest.raises(InputError, match="ends in a linear layer"):
            features(single, draw(16, classes), FLAT)


def test_bytes_are_scaled_for_layers_as_for_the_head():
    apply = lambda w, x: x.reshape(len(x), -1) @ w
    images = np.full((2, 4, 4, 1), 51, np.uint8)
    (layer,) = layers(apply, draw(16, 3), images)
    np.testing.assert_allclose(layer.inputs, 0.2)
    np.testing.assert_array_equal(features(apply, draw(16, 3), images), layer.inputs)
    listed = features(apply, draw(16, 3), (images / 255).tolist())
    np.testing.assert_allclose(listed, layer.inputs, rtol=1e-6)


def draw(*shape):
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


FLAT = jnp.asarray(IMAGES[:, :4, :4, 0]).reshape(3, 16)
UNIT = lambda v: v / jnp.linalg.norm(v, axis=0, keepdims=True)
NOT_THE_HEAD = {
    # the only layer of five outputs that is found is hidden, or has other rows than the
    # logits
    "weight norm": lambda w, x: jax.nn.relu(x @ w["a"]) @ UNIT(w["b"]),
    "branch": lambda w, x: lax.cond(
        True, lambda h: h @ w["b"], lambda h: h, jax.nn.relu(x @ w["a"])
    ),
    "patches": lambda w, x: jnp.mean(
        (x.reshape(-1, 16) @ w["a"]).reshape(len(x), -1, 5), 1
    ),
    "one more axis": lambda w, x: (jax.nn.relu(x @ w["a"])[:, None] @ w["b"])[:, 0],
    "sum of two": lambda w, x: x @ w["a"] + jnp.tanh(x) @ w["c"],
}


@pytest.mark.parametrize("name", NOT_THE_HEAD)
def test_only_the_last_layer_is_the_head(name):
    weights = {"a": draw(16, 5), "b": draw(5, 5), "c": draw(16, 5)}
    images = jnp.repeat(FLAT, 2, 1) if name == "patches" else FLAT
    assert layers(NOT_THE_HEAD[name], weights, images)
    with pytest.raises(InputError, match="ends in a linear layer"):
        features(NOT_THE_HEAD[name], weights, images)


def test_a_second_head_that_the_logits_do_not_use_is_not_the_head():
    def apply(w, x):
        hidden = jax.nn.relu(x @ w["a"])
        return (
            jax.nn.log_softmax(hidden @ w["b"] + w["bias"][None]),
            jnp.tanh(hidden) @ w["c"],
        )

    weights = {"a": draw(16, 8), "b": draw(8, 5), "c": draw(8, 5), "bias": draw(5)}
    only = lambda w, x: apply(w, x)[0]
    np.testing.assert_allclose(
        features(only, weights, FLAT), jax.nn.relu(FLAT @ weights["a"]), rtol=1e-5
    )
    np.testing.assert_array_equal(head_kernel(only, weights, FLAT), weights["b"])


def test_tied_weights_are_refused_where_they_would_be_changed():
    apply = lambda w, x: jax.nn.relu(x @ w["a"]) @ w["a"].T @ w["b"]
    weights = {"a": draw(16, 16), "b": draw(16, 5)}
    found = layers(apply, weights, FLAT)
    with pytest.raises(InputError, match="'a' are used in two forms"):
        with_kernels(weights, {"b": weights["b"]}, found)
    twice = layers(lambda w, x: x @ w["a"] @ w["a"], weights, FLAT)
    np.testing.assert_array_equal(
        with_kernels(weights, {"a": 2 * weights["a"]}, twice)["a"], 2 * weights["a"]
    )
