"""Layers beyond plain matrices: several axes, parts of leaves, scans, products."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from unlearn_jax import models
from unlearn_jax.layers import layers, unfound, with_kernels
from unlearn_jax.models import adapters
from unlearn_jax.spectral import clip, spectral_norms
from unlearn_jax.types import InputError, Variables

TOKENS = np.random.default_rng(0).uniform(size=(2, 5, 6)).astype("f4")


def draw(*shape, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def jacobian_norm(function, shape):
    """The norm of a linear function, written out."""
    matrix = jax.jacobian(function)(jnp.zeros(shape))
    return np.linalg.norm(matrix.reshape(-1, int(np.prod(shape))), 2)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.MultiHeadDotProductAttention(3, qkv_features=12)(tokens)


def test_every_kernel_of_flax_attention_is_a_layer():
    module = Attention()
    variables = module.init(jax.random.key(0), TOKENS)
    found = layers(module.apply, variables, TOKENS)
    prefix = "params/MultiHeadDotProductAttention_0"
    names = ["query", "key", "value", "out"]
    assert {layer.path for layer in found} == {f"{prefix}/{n}/kernel" for n in names}
    for layer in found:
        name = layer.path.split("/")[2]
        kernel = variables["params"]["MultiHeadDotProductAttention_0"][name]["kernel"]
        shape = (12, 6) if name == "out" else (6, 12)
        np.testing.assert_array_equal(layer.kernel, kernel.reshape(shape))
        np.testing.assert_array_equal(layer.store(layer.kernel), kernel)
        assert layer.inputs.shape == (2, 5, shape[0])
    doubled = with_kernels(variables, {found[0].path: 2 * found[0].kernel}, found)
    name = found[0].path.split("/")[2]
    old, new = (
        v["params"]["MultiHeadDotProductAttention_0"][name]["kernel"]
        for v in (variables, doubled)
    )
    np.testing.assert_array_equal(new, 2 * old)
    assert unfound(module.apply, variables, TOKENS) == []


@pytest.mark.parametrize(
    ("formula", "shape"),
    [
        ("btd,dhe->bthe", (6, 2, 4)),
        ("btd,hde->bhte", (3, 6, 2)),
        ("btd,tde->be", (5, 6, 4)),
        ("btd,edt->be", (4, 6, 5)),
        ("btd,edtf->bef", (4, 6, 5, 2)),
    ],
)
def test_einsum_layer_is_its_linear_map(formula, shape):
    weights = {"w": draw(*shape)}
    apply = lambda w, x: jnp.tanh(jnp.einsum(formula, x, w["w"]))
    (layer,) = layers(apply, weights, TOKENS)
    changed = with_kernels(weights, {"w": 2 * layer.kernel}, [layer])
    np.testing.assert_array_equal(changed["w"], 2 * weights["w"])
    linear = lambda x: jnp.einsum(formula, x[None], weights["w"])
    # where tokens are not contracted, the map acts on each of them alike
    one = (
        linear
        if "t" in formula.split(",")[1].split("-")[0]
        else (lambda x: linear(x[None]))
    )
    shape_in = (5, 6) if one is linear else (6,)
    norm = spectral_norms(apply, weights, TOKENS)["w"]
    np.testing.assert_allclose(norm, jacobian_norm(one, shape_in), rtol=1e-4)


def test_slices_of_a_leaf_are_separate_layers():
    weights = {"stack": draw(3, 6, 6), "qkv": draw(6, 12), "whole": draw(1, 6, 2)}

    def apply(w, x):
        for index in range(3):
            x = jnp.tanh(x @ w["stack"][index])
        first, second = jnp.split(w["qkv"], 2, axis=1)
        return jnp.tanh(x @ first + x @ second) @ w["whole"][0]

    found = layers(apply, weights, TOKENS)
    assert [layer.path for layer in found] == [
        "stack[0]",
        "stack[1]",
        "stack[2]",
        "qkv[:,0:6]",
        "qkv[:,6:12]",
        "whole",
    ]
    assert found[1].leaf_path == "stack"
    new = with_kernels(
        weights, {"stack[1]": jnp.zeros((6, 6)), "qkv[:,6:12]": jnp.ones((6, 6))}, found
    )
    np.testing.assert_array_equal(new["stack"], weights["stack"].at[1].set(0))
    np.testing.assert_array_equal(new["qkv"], weights["qkv"].at[:, 6:].set(1))

    def in_parts_and_whole(w, x):
        heads = jnp.einsum("btd,hde->bthe", jnp.tanh(x @ w["stack"][0]), w["stack"])
        return heads.sum(1)

    found = layers(in_parts_and_whole, weights, TOKENS)
    with pytest.raises(InputError, match="used in two forms"):
        with_kernels(weights, {}, found)


def test_a_product_batched_over_a_kernels_axis_is_one_layer_per_entry():
    weights = {"w": draw(5, 6, 4)}
    apply = lambda w, x: jnp.einsum("btd,tde->bte", x, w["w"])
    found = layers(apply, weights, TOKENS)
    assert [layer.path for layer in found] == [f"w[{i}]" for i in range(5)]
    norms = spectral_norms(apply, weights, TOKENS)
    for index, layer in enumerate(found):
        np.testing.assert_array_equal(layer.kernel, weights["w"][index])
        np.testing.assert_array_equal(layer.inputs, TOKENS[:, index])
        expected = np.linalg.norm(weights["w"][index], 2)
        np.testing.assert_allclose(norms[layer.path], expected, rtol=1e-4)
    clipped = clip(apply, weights, TOKENS, max_norm=1.0)["w"]
    np.testing.assert_allclose(np.linalg.norm(clipped, 2, (1, 2)), 1.0, rtol=0.01)


class Step(nn.Module):
    @nn.compact
    def __call__(self, tokens, _):
        hidden = nn.Dense(8)(nn.LayerNorm()(tokens))
        return tokens + nn.Dense(6)(nn.gelu(hidden)), None


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("remat", [False, True])
def test_layers_inside_a_scan_are_found_and_clipped(axis, remat):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            block = nn.remat(Step) if remat else Step
            scanned = nn.scan(
                block,
                variable_axes={"params": axis},
                split_rngs={"params": True},
                length=3,
            )
            return scanned(name="blocks")(tokens, None)[0]

    module = Net()
    variables = jax.jit(module.init)(jax.random.key(0), TOKENS)
    found = layers(module.apply, variables, TOKENS)
    part = "" if axis == 0 else ":,"
    expected = []
    for i in range(3):
        for name in ("Dense_0", "Dense_1"):
            expected.append(f"params/blocks/{name}/kernel[{part}{i}]")
    assert [layer.path for layer in found] == expected
    assert unfound(module.apply, variables, TOKENS) == []
    kernels = variables["params"]["blocks"]["Dense_0"]["kernel"]
    np.testing.assert_array_equal(found[2].kernel, jnp.take(kernels, 1, axis))
    clipped = clip(
        module.apply,
        variables,
        TOKENS,
        max_norm=0.5,
        max_norms={"params/blocks/Dense_1/kernel": 0.25, expected[4]: None},
    )
    new = clipped["params"]["blocks"]
    norms = np.linalg.norm(np.moveaxis(new["Dense_0"]["kernel"], axis, 0), 2, (1, 2))
    np.testing.assert_allclose(norms[:2], 0.5, rtol=0.01)
    np.testing.assert_array_equal(
        jnp.take(new["Dense_0"]["kernel"], 2, axis), jnp.take(kernels, 2, axis)
    )
    norms = np.linalg.norm(np.moveaxis(new["Dense_1"]["kernel"], axis, 0), 2, (1, 2))
    np.testing.assert_allclose(norms, 0.25, rtol=0.01)


def test_a_scans_outputs_are_those_of_the_scan():
    weights = {"w": draw(4, 6, 6), "c": draw(6, 6)}

    def apply(w, x):
        def step(carry, entry):
            kernel, image = entry
            carry = jnp.tanh(carry @ kernel + image @ w["c"])
            return carry, carry.sum(1)

        images = jnp.swapaxes(x, 0, 1)[:4]
        last, sums = lax.scan(step, x[:, 0], (w["w"], images), reverse=True)
        return last + jnp.sum(sums) * 0.1

    found = layers(lambda w, x: apply(w, x) @ w["c"], weights, TOKENS)
    assert [layer.path for layer in found][:2] == ["w[3]", "c"]
    assert len(found) == 9
    np.testing.assert_allclose(found[-1].inputs, apply(weights, TOKENS), rtol=1e-5)


def standardized(w):
    return (w - w.mean(0, keepdims=True)) / w.std(0, keepdims=True)


def test_computed_kernels_have_norms_and_are_not_clipped():
    weights = {"a": draw(6, 4), "b": draw(4, 3), "low": draw(4, 2), "rank": draw(2, 3)}

    def apply(w, x):
        hidden = jnp.tanh(x @ standardized(w["a"]))
        return hidden @ (w["b"] + w["low"] @ w["rank"])

    assert layers(apply, weights, TOKENS) == []
    assert unfound(apply, weights, TOKENS) == []
    norms = spectral_norms(apply, weights, TOKENS)
    assert list(norms) == ["a", "b+low+rank"]
    np.testing.assert_allclose(
        norms["a"], np.linalg.norm(standardized(weights["a"]), 2), rtol=1e-4
    )
    summed = weights["b"] + weights["low"] @ weights["rank"]
    np.testing.assert_allclose(
        norms["b+low+rank"], np.linalg.norm(summed, 2), rtol=1e-4
    )
    plain = lambda w, x: apply(w, x) @ w["c"]
    given = weights | {"c": 9 * draw(3, 3)}
    with pytest.warns(UserWarning, match=r"not clipped: a, b\+low\+rank; kernels are"):
        clipped = clip(plain, given, TOKENS)
    assert np.linalg.norm(clipped.pop("c"), 2) < 1.01
    for name, leaf in clipped.items():
        np.testing.assert_array_equal(leaf, weights[name])


def test_unfound_weights_are_named_once_and_additive_ones_are_not():
    weights = {
        "gate": draw(5, 6),
        "branch": draw(6, 6),
        "loop": draw(6, 6),
        "positions": draw(1, 5, 6),
        "token": draw(1, 1, 6),
        "scale": draw(1, 1, 6),
        "table": draw(9, 6),
        "kernel": draw(6, 3),
    }

    def apply(w, x):
        x = x + w["positions"].repeat(len(x), 0) + w["table"][x.argmax(-1)]
        x = x * jnp.broadcast_to(w["gate"], x.shape)
        x = x * jnp.broadcast_to(w["scale"], x.shape)
        x = lax.cond(x.sum() > 0, lambda x: x @ w["branch"], lambda x: x, x)
        x = lax.while_loop(lambda x: x.sum() > 1e6, lambda x: x @ w["loop"], x)
        token = jnp.broadcast_to(w["token"], (len(x), 1, 6))
        return jnp.concatenate([token, x], 1).mean(1) @ w["kernel"]

    names = ["branch", "gate", "loop"]
    assert (
        unfound(apply, weights, jax.ShapeDtypeStruct(TOKENS.shape, "float32")) == names
    )
    with pytest.warns(
        UserWarning, match="not measured: branch, gate, loop; "
    ) as caught:
        norms = spectral_norms(apply, weights, TOKENS)
    assert list(norms) == ["kernel"]
    assert len(caught) == 1
    with pytest.warns(UserWarning, match="not clipped: branch, gate, loop; ") as caught:
        clip(apply, weights, TOKENS)
    assert len(caught) == 1


SMALL = {
    "mlp": {"widths": (4,)},
    "cnn": {"widths": (4, 4), "batch_norm": True},
    "resnet": {"blocks": (1, 1), "width": 4},
    "vgg": {"stages": ((4,), (4, 4)), "head": 5},
    "densenet": {"blocks": (1, 2), "growth": 2},
    "vit": {"width": 8, "depth": 2, "num_heads": 2},
}


@pytest.mark.parametrize("name", SMALL)
def test_every_weight_of_the_built_models_is_found(name):
    for conv in ("canonical", "lax"):
        model = models.build(name, (8, 8, 3), 5, conv=conv, **SMALL[name])
        variables = jax.eval_shape(model.init, jax.random.key(0))
        image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
        assert unfound(model.apply, variables, image) == []


def test_a_state_of_nnx_has_the_same_paths_with_its_variables_and_without():
    class Net(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(6, 6, rngs=rngs) for _ in range(2)])
            self.norm = nnx.BatchNorm(6, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)

    state = nnx.state(Net(nnx.Rngs(0)))
    plain = nnx.to_pure_dict(state)
    assert adapters.leaf_paths(state) == adapters.leaf_paths(plain)
    trained = dict(
        zip(adapters.leaf_paths(state), adapters.is_trained(state), strict=True)
    )
    assert trained["layers/0/kernel"]
    assert trained["norm/scale"]
    assert not trained["norm/mean"]
    assert not trained["drop/rngs/count"]
    given = Variables({"a": 1.0}, {"b": 2.0})
    assert adapters.is_trained(given) == [True, False]
