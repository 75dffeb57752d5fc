"""Models: convolution forms agree with autodiff's, adapters keep the contract."""

import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from support.convolutions import NATIVE
from support.refusals import assert_refused

from unlearn_jax import models, spectral
from unlearn_jax.types import InputError, Variables

CASES = [
    # height, width, in, out, kernel, stride, padding
    (8, 8, 3, 5, 3, 1, "SAME"),
    (9, 7, 2, 4, 3, 2, "SAME"),
    (8, 8, 3, 4, 1, 1, "SAME"),
    (8, 8, 3, 4, 1, 2, "VALID"),
    (11, 10, 2, 3, 5, 2, "VALID"),
    (8, 9, 2, 3, 3, 2, ((1, 1), (1, 1))),
    (8, 8, 2, 3, 3, 1, ((0, 2), (2, 0))),
]


@pytest.mark.parametrize("form", ["canonical", NATIVE])
@pytest.mark.parametrize("case", CASES)
def test_forms_equal_lax_in_value_and_gradients(form, case, key):
    height, width, cin, cout, size, stride, padding = case
    k1, k2, k3 = jax.random.split(key, 3)
    image = jax.random.normal(k1, (4, height, width, cin))
    kernel = jax.random.normal(k2, (size, size, cin, cout))

    def run(conv):
        out, back = jax.vjp(
            lambda i, k: conv(i, k, (stride, stride), padding), image, kernel
        )
        return out, back(jax.random.normal(jax.random.clone(k3), out.shape))

    def stock(image, kernel, strides, pads):
        return lax.conv_general_dilated(
            image, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    expected, got = run(stock), run(models.CONVOLUTIONS[form])
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", ["canonical", NATIVE])
@pytest.mark.parametrize(
    ("side", "size", "padding"), [(3, 5, "VALID"), (2, 4, ((0, 1), (0, 2)))]
)
def test_a_kernel_larger_than_its_image_is_refused(form, side, size, padding):
    image = jnp.ones((1, side, side, 1))
    kernel = jnp.ones((size, size, 1, 1))
    message = f"{size}x{size} does not fit into an image of {side}x{side}"
    with pytest.raises(InputError, match=message):
        models.CONVOLUTIONS[form](image, kernel, (1, 1), padding)


@pytest.mark.parametrize(
    ("batch", "part", "parts"), [(6, 1000, 2), (6, 500, 3), (7, 1000, 7), (13, 2000, 1)]
)
def test_weight_gradients_in_parts_are_the_whole(batch, part, parts, key, monkeypatch):
    k1, k2, k3, k4 = jax.random.split(key, 4)
    image, kernel = (
        jax.random.normal(k1, (batch, 5, 6, 2)),
        jax.random.normal(k2, (3, 3, 2, 4)),
    )
    back, tangent = (
        jax.random.normal(k3, (batch, 3, 3, 4)),
        jax.random.normal(k4, kernel.shape),
    )

    def run(conv):  # the gradient by the kernel, and its derivative along a direction
        fun = lambda k: jnp.tanh(
            conv(image, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )
        return lambda k: jax.jvp(
            lambda k: jax.vjp(fun, k)[1](back)[0], (k,), (tangent,)
        )

    monkeypatch.setattr("unlearn_jax.models.conv.PART", part)  # an image has 240 bytes
    program = jax.make_jaxpr(run(models.canonical_conv))(kernel)
    assert set(re.findall(r"length=(\d+)", str(program))) == (
        {str(parts)} if parts > 1 else set()
    )
    got, expected = (
        jax.jit(run(models.canonical_conv))(kernel),
        jax.jit(run(lax.conv_general_dilated))(kernel),
    )
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-4)


def test_parts_of_bfloat16_are_added_in_float32(key, monkeypatch):
    monkeypatch.setattr("unlearn_jax.models.conv.PART", 1)
    image, kernel = (
        jnp.ones((512, 2, 2, 5), jnp.bfloat16),
        jax.random.normal(key, (1, 1, 5, 1), jnp.bfloat16),
    )
    gradient = jax.grad(
        lambda k: jnp.sum(models.canonical_conv(image, k, (1, 1), "SAME")).astype(
            jnp.float32
        )
    )(kernel)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        gradient.astype(jnp.float32), 2048
    )  # steps of 4 are lost in bfloat16 from 1024 on


@pytest.mark.parametrize("stride", [1, 2])
def test_canonical_second_derivatives(stride, key):
    k1, k2, k3 = jax.random.split(key, 3)
    image, kernel = (
        jax.random.normal(k1, (2, 6, 6, 2)),
        jax.random.normal(k2, (3, 3, 2, 3)),
    )
    tangent = jax.random.normal(k3, kernel.shape)

    def hvp(conv, dims):
        fun = lambda k: jnp.sum(
            jnp.tanh(conv(image, k, (stride, stride), "SAME", dimension_numbers=dims))
            ** 2
        )
        return jax.jvp(jax.grad(fun), (kernel,), (tangent,))[1]

    dims = ("NHWC", "HWIO", "NHWC")
    chex.assert_trees_all_close(
        hvp(models.canonical_conv, dims),
        hvp(lax.conv_general_dilated, dims),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize("form", ["canonical", NATIVE])
def test_forms_refuse_what_they_cannot_do(form):
    image, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 1, 2))
    with pytest.raises(InputError, match="dilation or groups"):
        models.CONVOLUTIONS[form](image, kernel, (1, 1), "SAME", feature_group_count=2)
    with pytest.raises(InputError, match="NHWC"):
        models.CONVOLUTIONS[form](
            image, kernel, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
    with pytest.raises(TypeError, match="batch_group_count"):
        models.CONVOLUTIONS[form](image, kernel, (1, 1), "SAME", batch_group_count=2)
    with pytest.raises(InputError, match="unknown convolution"):
        models.convolution("fast")


@pytest.mark.parametrize("form", ["canonical", NATIVE])
def test_forms_have_the_preferred_type(form):
    image = jnp.ones((1, 4, 4, 2), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 2, 2), jnp.bfloat16)
    convolve = models.CONVOLUTIONS[form]
    wide = convolve(image, kernel, (1, 1), "SAME", preferred_element_type=jnp.float32)
    assert wide.dtype == jnp.float32
    assert convolve(image, kernel, (1, 1), "SAME").dtype == jnp.bfloat16


@pytest.mark.parametrize("shape", [(2, 7, 6, 3), (1, 2, 2, 1)])
def test_max_pool_matches_flax_away_from_ties(shape, key):
    k_x, k_t, k_g = jax.random.split(key, 3)
    images, tangent = jax.random.normal(k_x, shape), jax.random.normal(k_t, shape)
    stock = lambda x: nn.max_pool(x, (2, 2), (2, 2))
    expected, back = jax.vjp(stock, images)
    got, own_back = jax.vjp(models.max_pool_2x2, images)
    chex.assert_trees_all_equal(got, expected)
    cotangent = jax.random.normal(k_g, got.shape)
    chex.assert_trees_all_close(own_back(cotangent), back(cotangent))
    forward = [
        jax.jvp(pool, (images,), (tangent,)) for pool in (models.max_pool_2x2, stock)
    ]
    chex.assert_trees_all_close(*forward)


def test_max_pool_splits_ties_evenly():
    window = jnp.array([[3.0, 1.0], [3.0, 3.0]])
    gradient = jax.grad(
        lambda x: 6 * jnp.sum(models.max_pool_2x2(x[None, :, :, None]))
    )(window)
    np.testing.assert_allclose(gradient, [[2, 0], [2, 2]])


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"widths": (16,)}),
        ("cnn", {"widths": (4, 8)}),
        ("cnn", {"widths": (4,), "batch_norm": True}),
        ("vit", {"width": 8, "depth": 2, "num_heads": 2}),
        ("vit", {"width": 8, "depth": 1, "num_heads": 2, "dtype": "bfloat16"}),
        ("resnet", {"blocks": (1, 1), "width": 4}),
        ("resnet", {"blocks": (1, 1), "width": 4, "batch_norm": False}),
        (
            "resnet",
            {
                "blocks": (1, 1),
                "width": 4,
                "halve_projection": True,
                "dtype": "bfloat16",
            },
        ),
        ("resnet", {"blocks": (1, 1), "width": 4, "block": "bottleneck"}),
    ],
)
def test_architectures_keep_the_contract(name, options, key):
    model = models.build(name, (8, 8, 1), 10, **options)
    k_init, k_x, k_train = jax.random.split(key, 3)
    variables = jax.jit(model.init)(k_init)
    images = jax.random.uniform(k_x, (6, 8, 8, 1))
    apply = jax.jit(model.apply)
    logits = apply(variables, images)
    chex.assert_shape(logits, (6, 10))
    assert logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    # a logit never depends on the rest of the batch
    chex.assert_trees_all_close(
        logits[2:4], apply(variables, images[2:4]), rtol=2e-2, atol=2e-2
    )
    train_logits, state = jax.jit(model.apply_train)(variables, images, k_train)
    chex.assert_shape(train_logits, (6, 10))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, variables.state)
    assert bool(variables.state) == options.get("batch_norm", "resnet" in name)


RESNET50 = {"blocks": (3, 4, 6, 3), "block": "bottleneck", "stem": "imagenet"}


@pytest.mark.parametrize(
    ("side", "num_classes", "options", "size"),
    [
        (32, 10, {}, 11_173_962),
        # torchvision's resnet50
        (224, 1000, RESNET50, 25_557_032),
    ],
)
def test_resnets_have_the_published_sizes(side, num_classes, options, size):
    model = models.build("resnet", (side, side, 3), num_classes, **options)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.params)) == size


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet", {"blocks": (1, 1), "width": 4, "block": "bottleneck"}),
        ("vit", {"width": 8, "depth": 2, "num_heads": 2}),
    ],
)
def test_recomputed_blocks_have_the_same_gradients(name, options, key):
    k_init, k_x, k_train = jax.random.split(key, 3)
    images = jax.random.uniform(k_x, (6, 8, 8, 1))
    found = {}
    for remat in (False, True):
        model = models.build(name, (8, 8, 1), 10, remat=remat, **options)
        variables = model.init(jax.random.clone(k_init))

        def loss(params, model=model, variables=variables):
            changed = variables._replace(params=params)
            logits, state = model.apply_train(
                changed, images, jax.random.clone(k_train)
            )
            return jnp.mean(logits**2), state

        gradient = jax.jit(jax.grad(loss, has_aux=True))
        found[remat] = (variables, gradient(variables.params))
        text = str(jax.make_jaxpr(gradient)(variables.params))
        assert ("checkpoint" in text or "remat" in text) == remat
    chex.assert_trees_all_close(found[True], found[False], rtol=1e-4, atol=1e-6)


def test_vit_of_the_papers_shape_has_the_papers_size():
    """ViT-S/16 with pooling (arXiv 2205.01580) has no class token and its position."""
    fields = {"patch_size": 16, "width": 384, "depth": 12, "num_heads": 6}
    model = models.build("vit", (224, 224, 3), 1000, **fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    size = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes.params))
    published = 22_050_664  # timm's vit_small_patch16_224, with class token
    assert size == published - 2 * 384


def test_vit_attends_as_written_out(key):
    """One head, one block, from the parameters by hand."""
    model = models.build(
        "vit", (4, 4, 2), 3, patch_size=2, width=6, depth=1, num_heads=1
    )
    k_init, k_x = jax.random.split(key)
    params = jax.jit(model.init)(k_init).params
    images = jax.random.uniform(k_x, (5, 4, 4, 2))

    def affine(x, layer):
        kernel = layer["kernel"]
        bias = layer["bias"].reshape(-1)
        out = x @ kernel.reshape(x.shape[-1], -1)
        return out + jnp.broadcast_to(bias, out.shape)

    def normalize(x):
        center = x - x.mean(-1, keepdims=True)
        return center / jnp.sqrt(x.var(-1, keepdims=True) + 1e-6)

    @jax.jit
    def written_out(params, images):
        patches = images.reshape(5, 2, 2, 2, 2, 2).transpose(0, 1, 3, 2, 4, 5)
        tokens = affine(patches.reshape(5, 4, 8), params["patches"]) + jnp.repeat(
            params["positions"], 5, 0
        )
        block = params["block_0"]
        inner = normalize(tokens)
        q, k, v = (
            affine(inner, block["attention"][n]) for n in ("query", "key", "value")
        )
        weights = jax.nn.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(6), -1)
        tokens = tokens + affine(weights @ v, block["attention"]["out"])
        hidden = jax.nn.gelu(affine(normalize(tokens), block["Dense_0"]))
        tokens = tokens + affine(hidden, block["Dense_1"])
        return affine(normalize(tokens).mean(1), params["head"])

    chex.assert_trees_all_close(
        jax.jit(model.apply)(Variables(params, {}), images),
        written_out(params, images),
        rtol=1e-4,
        atol=1e-5,
    )


def test_halving_the_projection_changes_logits(key):
    options = {"blocks": (1, 1), "width": 4}
    plain, halved = (
        models.build("resnet", (8, 8, 1), 3, halve_projection=h, **options)
        for h in (False, True)
    )
    k_init, k_x = jax.random.split(key)
    variables = jax.jit(plain.init)(k_init)
    images = jax.random.uniform(k_x, (2, 8, 8, 1))
    assert not np.allclose(
        jax.jit(plain.apply)(variables, images),
        jax.jit(halved.apply)(variables, images),
    )


class TinyNNX(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(16, 8, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, images):
        return self.last(
            self.drop(nnx.relu(self.norm(self.first(images.reshape(len(images), -1)))))
        )


def test_nnx_adapter(key):
    model = models.from_nnx(lambda rngs: TinyNNX(rngs))
    k_init, k_x, k_a, k_b = jax.random.split(key, 4)
    variables = jax.jit(model.init)(k_init)
    images = jax.random.uniform(k_x, (5, 4, 4, 1))
    chex.assert_trees_all_equal(
        model.apply(variables, images), model.apply(variables, images)
    )

    def loss(params, key):
        logits, state = model.apply_train(
            variables._replace(params=params), images, key
        )
        return jnp.mean(logits**2), state

    (value_a, state), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        variables.params, jax.random.clone(k_a)
    )
    (value_b, _), _ = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        variables.params, k_b
    )
    (again, _), _ = jax.jit(jax.value_and_grad(loss, has_aux=True))(
        variables.params, k_a
    )
    assert value_a != value_b, "dropout must follow the key"
    assert value_a == again
    chex.assert_trees_all_equal_shapes(grads, variables.params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, variables.state)
    assert not np.allclose(state["norm"]["mean"], variables.state["norm"]["mean"])


class NoisyNNX(nnx.Module):
    """Logits are two draws, each from a stream of its own."""

    def __init__(self):
        self.scale = nnx.Param(jnp.ones(()))
        self.rngs = nnx.Rngs(dropout=0, noise=1)

    def __call__(self, images):
        shape = (len(images),)
        draws = [
            jax.random.normal(key, shape)
            for key in (self.rngs.dropout(), self.rngs.noise())
        ]
        return self.scale * jnp.stack(draws, -1)


def test_nnx_networks_that_draw_in_evaluation_are_refused():
    model = models.from_nnx(lambda rngs: NoisyNNX())
    variables = model.init(jax.random.key(0))
    with pytest.raises(InputError, match="draws random numbers in evaluation: draw"):
        model.apply(variables, jnp.ones((4, 2, 2, 1)))


class StackedNNX(nnx.Module):
    """Two linear layers with dropout, made by a map and applied by a scan."""

    def __init__(self, rngs):
        keys = rngs.split(2)
        self.layers = nnx.vmap(DroppedNNX, in_axes=0, out_axes=0)(keys)

    def __call__(self, images):
        run = lambda hidden, layer: layer(hidden)
        scan = nnx.scan(run, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        return scan(images.reshape(len(images), -1), self.layers)


class DroppedNNX(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, hidden):
        return self.drop(self.linear(hidden))


def test_nnx_layers_that_are_stacked_have_keys_of_their_own(key):
    made = []
    model = models.from_nnx(lambda rngs: made.append(rngs) or StackedNNX(rngs))
    assert len(made) == 1, "nothing is initialized before init"
    variables = model.init(jax.random.key(0))
    images = jnp.ones((64, 2, 2, 1))
    sure = model.apply(variables, images)
    np.testing.assert_array_equal(sure[0], sure[1])
    logits, _ = model.apply_train(variables, images, key)
    assert 0.3 < np.mean(np.asarray(logits) == 0) < 0.7


def test_nnx_streams_have_different_keys(key):
    model = models.from_nnx(lambda rngs: NoisyNNX())
    variables = model.init(jax.random.key(0))
    logits, _ = model.apply_train(variables, jnp.ones((64, 2, 2, 1)), key)
    assert abs(np.corrcoef(logits.T)[0, 1]) < 0.5


def test_nnx_dropout_has_the_key_itself(key):
    """Whether its stream is the default one or has a name."""
    for streams in ({"params": 0, "dropout": 1}, {"default": 0}):
        rngs = nnx.Rngs(**streams)
        module = nnx.Dropout(0.5, rngs=rngs)
        model = models.from_nnx(
            lambda _, streams=streams: nnx.Dropout(0.5, rngs=nnx.Rngs(**streams))
        )
        images = jnp.ones((64, 2))
        dropped, _ = model.apply_train(
            model.init(jax.random.key(0)), images, jax.random.clone(key)
        )
        module.train()
        nnx.reseed(module, default=jax.random.clone(key), dropout=jax.random.clone(key))
        np.testing.assert_array_equal(dropped, module(images))


REFUSED = [
    ("lenet", {}, "unknown model 'lenet'"),
    ("mlp", {"depth": 3}, "no field 'depth'; it has widths"),
    ("mlp", {"parent": None}, "no field 'parent'"),
    ("mlp", {"conv": "fast"}, "unknown convolution 'fast'"),
    ("mlp", {"dtype": "int8"}, "unknown compute type 'int8'"),
    ("mlp", {"num_classes": 0}, "num_classes must be a positive integer"),
    ("mlp", {"num_classes": 1}, "needs at least 2 classes, got 1"),
    ("mlp", {"image_shape": (8, 8)}, r"image_shape must be \(H, W, channels\)"),
    ("mlp", {"image_shape": 8}, "image_shape must be a sequence"),
    ("mlp", {"image_shape": (8, 8, 0)}, r"image_shape\[2\] must be a positive integer"),
    ("mlp", {"widths": 16}, "widths must be a sequence of positive integers, got 16"),
    ("mlp", {"widths": (4.5,)}, r"widths\[0\] must be a positive integer, got 4.5"),
    ("cnn", {"widths": (4, 0)}, r"widths\[1\] must be a positive integer, got 0"),
    ("resnet", {"blocks": ()}, "blocks must be a sequence of positive integers"),
    ("resnet", {"blocks": (-1,)}, r"blocks\[0\] must be a positive integer, got -1"),
    ("resnet", {"width": 8.0}, "width must be a positive integer, got 8.0"),
    ("resnet", {"stem": "large"}, "unknown stem 'large'"),
    ("resnet", {"block": "wide"}, "unknown block 'wide'"),
    ("vit", {"patch_size": 3}, "patches of side 3 do not divide"),
    ("vit", {"patch_size": 0}, "patch_size must be a positive integer, got 0"),
    ("vit", {"width": 8, "num_heads": 3}, "a width of 8 is not a multiple of 3 heads"),
    ("vit", {"num_heads": 0}, "num_heads must be a positive integer, got 0"),
    ("vit", {"mlp_ratio": 0}, "mlp_ratio must be a positive integer, got 0"),
    ("vit", {"depth": -1}, "depth must be a positive integer, got -1"),
]


@pytest.mark.parametrize(("name", "options", "message"), REFUSED)
def test_build_names_what_is_wrong(name, options, message):
    options = {"image_shape": (8, 8, 1), "num_classes": 10, **options}
    assert_refused(
        lambda: models.build(name, **options).init(jax.random.key(0)), message
    )


NETWORKS = {
    "mlp": {"widths": (4,)},
    "cnn": {"widths": (4,)},
    "vgg": {"stages": ((4,),)},
    "vit": {"width": 4, "depth": 1, "num_heads": 1},
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(2, 16, 16, 1), (2, 8, 8, 3)])
def test_images_of_another_shape_are_refused(name, shape):
    model = models.build(name, (8, 8, 1), 3, **NETWORKS[name])
    variables = jax.eval_shape(model.init, jax.random.key(0))
    images = jnp.zeros(shape)
    message = rf"takes images \[B, 8, 8, 1\], got {re.escape(str(shape))}: resize"
    for call in (
        lambda: jax.eval_shape(model.apply, variables, images),
        lambda: jax.eval_shape(model.apply_train, variables, images, jax.random.key(0)),
    ):
        assert_refused(call, message)


@pytest.mark.parametrize("name", NETWORKS)
def test_no_images_have_no_logits(name):
    model = models.build(name, (8, 8, 1), 3, **NETWORKS[name])
    variables = jax.eval_shape(model.init, jax.random.key(0))
    logits = jax.eval_shape(model.apply, variables, jnp.zeros((0, 8, 8, 1)))
    assert logits.shape == (0, 3)


@pytest.mark.parametrize("adapter", ["linen", "nnx", "functions"])
def test_an_adapted_model_refuses_what_is_not_its_variables(adapter, key):
    images = jnp.ones((2, 4, 4, 1))
    adapted = {
        "linen": lambda: models.build("mlp", (4, 4, 1), 3),
        "nnx": lambda: models.from_nnx(TinyNNX),
        "functions": lambda: models.from_functions(
            lambda key: jax.random.normal(key, (16, 3)),
            lambda params, images: images.reshape(len(images), -1) @ params,
        ),
    }
    model = adapted[adapter]()
    variables = model.init(key)
    bare = {"params": variables.params}
    for wrong, name in [(bare, "dict"), (None, "NoneType")]:
        message = rf"takes unlearn_jax\.Variables\(params, state\), got {name}: pass"
        with pytest.raises(InputError, match=message):
            model.apply(wrong, images)
        with pytest.raises(InputError, match=message):
            jax.jit(model.apply)(wrong, images)
        with pytest.raises(InputError, match=message):
            model.apply_train(wrong, images, key)
        with pytest.raises(InputError, match=message):
            spectral.clip(model.apply, wrong, images[:1])

    def loss(variables):
        return jnp.sum(model.apply(variables, images) ** 2)

    stacked = jax.tree.map(lambda leaf: leaf[None], variables)
    slopes = jax.jit(jax.vmap(jax.grad(loss, allow_int=True)))(stacked)
    assert isinstance(slopes, Variables)
