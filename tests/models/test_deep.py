"""VGG and DenseNet have the published sizes, keep the model contract, and train in
every convolution form.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import models
from unlearn_jax.types import InputError

VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
TINY = {
    "vgg": {"stages": ((4,), (6, 6)), "head": 5},
    "densenet": {"blocks": (1, 2), "growth": 2},
}


def count(name, image_shape=(32, 32, 3), num_classes=10, **fields):
    """Trained numbers of the full-size network, without building it."""
    shapes = jax.eval_shape(
        models.build(name, image_shape, num_classes, **fields).init, jax.random.key(0)
    )
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes.params))


@pytest.mark.parametrize(
    ("name", "fields", "size"),
    [
        ("vgg", {}, 20_040_522),
        ("vgg", {"stages": VGG11}, 9_231_114),
        (
            "vgg",
            {"image_shape": (64, 64, 3), "num_classes": 200},
            20_040_522 - 5_130 + 2049 * 200,
        ),
        ("vgg", {"head": 100}, 20_040_522 - 5_130 + 513 * 100 + 101 * 10),
        ("densenet", {}, 769_162),
        ("densenet", {"num_classes": 100}, 800_032),
        # one layer, no transition: stem, BN 8, 1x1 to 16, BN 16, 3x3 to 4, BN 12, head
        (
            "densenet",
            {"blocks": [1], "growth": 4},
            27 * 8 + 16 + 8 * 16 + 32 + 9 * 16 * 4 + 24 + 13 * 10,
        ),
    ],
)
def test_published_sizes(name, fields, size):
    assert count(name, **fields) == size


def test_compression_sets_the_width_after_a_transition():
    shapes = jax.eval_shape(
        models.build(
            "densenet", (8, 8, 1), 3, blocks=(3, 1), growth=4, compression=0.4
        ).init,
        jax.random.key(0),
    )
    assert shapes.params["Dense_0"]["kernel"].shape == (
        int(0.4 * (2 * 4 + 3 * 4)) + 4,
        3,
    )


@pytest.mark.parametrize("name", TINY)
def test_contract_and_gradients_in_every_form(name, key):
    k_init, k_x, k_train = jax.random.split(key, 3)
    images = jax.random.uniform(k_x, (6, 8, 8, 2))
    labels = jnp.arange(6) % 3
    variables = jax.jit(models.build(name, (8, 8, 2), 3, **TINY[name]).init)(k_init)

    def run(form):
        model = models.build(name, (8, 8, 2), 3, conv=form, **TINY[name])

        def loss(params):
            logits, state = model.apply_train(
                variables._replace(params=params), images, jax.random.clone(k_train)
            )
            return -jnp.mean(
                jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
            ), (logits, state)

        (_, (logits, state)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(
            variables.params
        )
        return logits, state, grads

    canonical, lax = run("canonical"), run("lax")
    chex.assert_trees_all_close(canonical, lax, rtol=1e-3, atol=1e-5)
    logits, state, grads = canonical
    chex.assert_shape(logits, (6, 3))
    chex.assert_tree_all_finite(grads)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, variables.state)
    # every kernel gets a gradient, and every running mean moves
    kernels = {
        path: g
        for path, g in jax.tree.leaves_with_path(grads)
        if "kernel" in jax.tree_util.keystr(path)
    }
    assert all(jnp.abs(g).max() > 0 for g in kernels.values())
    moved = jax.tree.map(
        lambda new, old: bool(jnp.abs(new - old).max() > 0),
        state,
        dict(variables.state),
    )
    assert all(jax.tree.leaves(moved))

    model = models.build(name, (8, 8, 2), 3, **TINY[name])
    evaluate = jax.jit(model.apply)
    whole = evaluate(variables, images)
    assert whole.dtype == jnp.float32
    changed = evaluate(variables, images.at[1:].set(0.0))
    chex.assert_trees_all_close(whole[0], changed[0], rtol=1e-5)
    assert not np.allclose(whole[1], changed[1])
    assert not np.allclose(whole, evaluate(variables._replace(state=state), images))


class Slow:
    """The two networks in evaluation mode, in plain NumPy; layers are used in the order
    Flax numbers them.
    """

    def __init__(self, variables):
        self.params, self.stats = jax.tree.map(
            np.asarray, (variables.params, variables.state["batch_stats"])
        )
        self.used = {"Conv": 0, "BatchNorm": 0, "Dense": 0}

    def next(self, kind):
        name = f"{kind}_{self.used[kind]}"
        self.used[kind] += 1
        return self.params[name], self.stats.get(name)

    def conv(self, x):
        params, _ = self.next("Conv")
        kernel, (_, height, width, _) = params["kernel"], x.shape
        size = len(kernel)
        padded = np.pad(x, ((0, 0), *((size // 2, size // 2),) * 2, (0, 0)))
        shifts = [(i, j) for i in range(size) for j in range(size)]
        return sum(
            padded[:, i : i + height, j : j + width] @ kernel[i, j] for i, j in shifts
        ) + params.get("bias", 0)

    def norm_relu(self, x):
        params, stats = self.next("BatchNorm")
        scaled = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params[
            "scale"
        ] + params["bias"]
        return np.maximum(scaled, 0)

    def dense(self, x):
        params, _ = self.next("Dense")
        return x @ params["kernel"] + params["bias"]

    def pool(self, x, reduce):
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        if min(rows, columns) == 0:
            return x
        quarters = [
            x[:, i : 2 * rows : 2, j : 2 * columns : 2] for i in (0, 1) for j in (0, 1)
        ]
        return reduce(np.stack(quarters), axis=0)

    def vgg(self, x, stages, head):
        for stage in stages:
            for _ in stage:
                x = self.norm_relu(self.conv(x))
            x = self.pool(x, np.max)
        return self.dense(np.maximum(self.dense(x.reshape(len(x), -1)), 0))

    def densenet(self, x, blocks, growth):
        x = self.conv(x)
        for block, layers in enumerate(blocks):
            if block:
                x = self.pool(self.conv(self.norm_relu(x)), np.mean)
            for _ in range(layers):
                x = np.concatenate(
                    [x, self.conv(self.norm_relu(self.conv(self.norm_relu(x))))],
                    axis=-1,
                )
        return self.dense(self.norm_relu(x).mean((1, 2)))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("shape", [(7, 6, 2), (1, 3, 1)])
def test_logits_equal_a_plain_numpy_network(name, shape):
    rng = np.random.default_rng(0)
    model = models.build(name, shape, 3, **TINY[name])
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.2, 1.2, leaf.shape).astype(np.float32), shapes
    )
    centered = jax.tree.map(lambda leaf: leaf - 0.7, variables.params)
    variables = variables._replace(params=centered)
    images = rng.random((3, *shape)).astype(np.float32)
    expected = getattr(Slow(variables), name)(
        images.astype(np.float64), *TINY[name].values()
    )
    assert np.allclose(
        jax.jit(model.apply)(variables, images), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 3), (3, 2, 1)])
def test_small_images_pass_with_fewer_pools(name, shape):
    model = models.build(name, shape, 3, **TINY[name])
    variables = jax.eval_shape(model.init, jax.random.key(0))
    logits = jax.eval_shape(
        model.apply, variables, jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    )
    assert logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("side", "inputs"), [(64, 24), (32, 6), (31, 6), (16, 6), (8, 6), (1, 6)]
)
def test_vgg_head_sees_the_positions_that_five_pools_leave(side, inputs):
    model = models.build("vgg", (side, side, 3), 10, stages=((6,),) * 5)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    assert shapes.params["Dense_0"]["kernel"].shape == (inputs, 10)


def test_vit_keeps_float32_where_float64_is_the_default(key):
    with jax.enable_x64(True):
        variables = jax.eval_shape(models.build("vit", (8, 8, 1), 3, depth=1).init, key)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(variables)}
    assert dtypes == {jnp.dtype("float32")}


def test_bfloat16_computes_in_it_and_keeps_the_rest(key):
    for name, fields in TINY.items():
        model = models.build(name, (8, 8, 2), 3, dtype="bfloat16", **fields)
        variables = jax.eval_shape(model.init, key)
        jaxpr = str(
            jax.make_jaxpr(model.apply)(
                variables, jax.ShapeDtypeStruct((2, 8, 8, 2), jnp.float32)
            )
        )
        assert "bf16" in jaxpr
        logits = jax.eval_shape(
            model.apply, variables, jax.ShapeDtypeStruct((2, 8, 8, 2), jnp.float32)
        )
        assert {leaf.dtype for leaf in jax.tree.leaves((variables, logits))} == {
            jnp.dtype("float32")
        }


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("vgg", {"stages": ()}, "stages must be one sequence of widths per stage"),
        ("vgg", {"stages": 64}, "stages must be one sequence of widths per stage"),
        ("vgg", {"stages": (64, 64)}, r"stages\[0\] must be a sequence of positive"),
        ("vgg", {"stages": ((64,), ())}, r"stages\[1\] must be a sequence"),
        ("vgg", {"stages": ((64, "M"),)}, r"stages\[0\]\[1\] must be a positive"),
        ("vgg", {"stages": ((0,),)}, r"stages\[0\]\[0\] must be a positive integer"),
        ("vgg", {"head": -1}, "head must be an integer, 0 or more, got -1"),
        ("vgg", {"blocks": (1,)}, "no field 'blocks'"),
        ("densenet", {"blocks": ()}, "blocks must be a sequence of positive integers"),
        ("densenet", {"blocks": 3}, "blocks must be a sequence of positive integers"),
        ("densenet", {"blocks": (2, 0)}, r"blocks\[1\] must be a positive integer"),
        ("densenet", {"growth": 0}, "growth"),
        ("densenet", {"growth": "12"}, "growth"),
        ("densenet", {"compression": 0.0}, "compression"),
        ("densenet", {"compression": 1.5}, "compression"),
        ("densenet", {"width": 64}, "no field 'width'"),
    ],
)
def test_bad_fields_are_refused_in_one_line(name, fields, message):
    with pytest.raises(InputError, match=message) as caught:
        models.build(name, (8, 8, 1), 3, **fields)
    assert "\n" not in str(caught.value)
