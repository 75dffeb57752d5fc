"""One contract for all variables: Linen's, NNX's, a bare tree, this library's."""

from functools import partial

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from unlearn_jax import models
from unlearn_jax.layers import layers
from unlearn_jax.spectral import (
    ClipRule,
    clip,
    fastclip,
    spectral_norms,
)
from unlearn_jax.types import InputError, Variables

IMAGES = np.random.default_rng(0).uniform(size=(12, 6, 6, 2)).astype("f4")
LABELS = np.arange(12) % 3


class Net(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = nn.Conv(5, (3, 3))(images)
        hidden = nn.BatchNorm(use_running_average=True)(hidden)
        return nn.Dense(3)(nn.relu(hidden).reshape(len(images), -1))


class NetNNX(nnx.Module):
    def __init__(self, rngs):
        self.Conv_0 = nnx.Conv(2, 5, (3, 3), rngs=rngs)
        self.BatchNorm_0 = nnx.BatchNorm(5, use_running_average=True, rngs=rngs)
        self.Dense_0 = nnx.Linear(180, 3, rngs=rngs)

    def __call__(self, images):
        hidden = nnx.relu(self.BatchNorm_0(self.Conv_0(images)))
        return self.Dense_0(hidden.reshape(len(images), -1))


@pytest.fixture(scope="module")
def forms():
    """The same network and weights, in four forms: function, variables, bare leaves."""
    linen = jax.tree.map(lambda leaf: 2 * leaf, Net().init(jax.random.key(0), IMAGES))
    params, stats = linen["params"], linen["batch_stats"]
    stats = jax.tree.map(
        lambda leaf: 1 + jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)) / 2, stats
    )
    linen = {"params": params, "batch_stats": stats}
    graph, state = nnx.split(NetNNX(nnx.Rngs(0)))
    joined = {name: dict(params[name]) for name in params}
    joined["BatchNorm_0"] |= stats["BatchNorm_0"]
    nnx.replace_by_pure_dict(state, joined)
    of_nnx = lambda state, images: nnx.merge(graph, state)(images)
    of_params = lambda params, images: Net().apply(
        {"params": params, "batch_stats": stats}, images
    )
    ours = lambda v, images: Net().apply(
        {"params": v.params, "batch_stats": v.state}, images
    )
    return {
        "linen": (Net().apply, linen, lambda v: v["params"]),
        "nnx": (of_nnx, state, nnx.to_pure_dict),
        "bare": (of_params, params, lambda v: v),
        "ours": (ours, Variables(params, stats), lambda v: v.params),
    }


def test_four_forms_of_variables_give_the_same(forms):
    results = {}
    for name, (apply, variables, params_of) in forms.items():
        norms = spectral_norms(apply, variables, IMAGES)
        clipped = clip(apply, variables, IMAGES, max_norm=0.8)
        assert type(clipped) is type(variables)
        found = layers(apply, variables, IMAGES)
        paths = [path.removeprefix("params/") for path in norms]
        assert paths == ["Conv_0/kernel", "Dense_0/kernel"]
        results[name] = (
            list(norms.values()),
            [params_of(clipped)["Conv_0"]["kernel"]],
            [params_of(clipped)["BatchNorm_0"]["scale"]],
            [layer.inputs for layer in found],
        )
        np.testing.assert_allclose(
            list(spectral_norms(apply, clipped, IMAGES).values()), 0.8, rtol=0.01
        )
    for name in ("nnx", "bare", "ours"):
        for ours, theirs in zip(results[name], results["linen"], strict=True):
            for one, other in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


def svd_norm(kernel):
    """The norm of a dense kernel, several axes of heads made one."""
    kernel = np.asarray(kernel)
    return np.linalg.norm(kernel.reshape(kernel.shape[0], -1), 2)


class MLP(nn.Module):
    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.Dense(16)(images.reshape(len(images), -1)))
        return nn.Dense(3)(hidden)


class MLPNNX(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(72, 16, rngs=rngs)
        self.drop = nnx.Dropout(0.1, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, images):
        hidden = nnx.relu(self.hidden(images.reshape(len(images), -1)))
        return self.head(self.drop(hidden))


def linen_script(images, labels):
    model = MLP()
    params = model.init(jax.random.key(0), images)["params"]
    apply_fn = lambda params, images: model.apply({"params": params}, images)
    tx = optax.chain(
        optax.adam(0.01),
        fastclip(apply_fn, images, max_norm=0.7, period=5, num_steps=23),
    )
    state = tx.init(params)

    @jax.jit
    def step(params, state):
        def loss(params):
            logits = apply_fn(params, images)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(23):
        params, state = step(params, state)
    return params


def nnx_script(images, labels):
    module = MLPNNX(nnx.Rngs(0))
    module.eval()
    graph, _, rest = nnx.split(module, nnx.Param, ...)
    apply_fn = lambda params, images: nnx.merge(graph, params, rest, copy=True)(images)
    tx = optax.chain(
        optax.adam(0.01), fastclip(apply_fn, images, max_norm=0.7, period=5)
    )
    optimizer = nnx.Optimizer(module, tx, wrt=nnx.Param)

    @nnx.jit
    def step(module, optimizer):
        def loss(module):
            losses = optax.softmax_cross_entropy_with_integer_labels(
                module(images), labels
            )
            return losses.mean()

        optimizer.update(module, nnx.grad(loss)(module))

    for _ in range(25):
        step(module, optimizer)
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


@pytest.mark.parametrize("script", [linen_script, nnx_script])
def test_a_users_own_loop_ends_with_every_norm_inside(script):
    kernels = [layer["kernel"] for layer in script(IMAGES, LABELS).values()]
    norms = np.array([svd_norm(kernel) for kernel in kernels])
    assert (norms <= 0.7 * 1.005).all()
    assert (norms > 0.69).all()


def test_an_nnx_optimizer_of_params_names_the_ways_to_give_the_rest(forms):
    module = NetNNX(nnx.Rngs(0))
    graph, _ = nnx.split(module)
    of_state = lambda state, images: nnx.merge(graph, state)(images)
    tx = optax.chain(optax.sgd(0.1), fastclip(of_state, IMAGES))
    with pytest.raises(InputError, match=r"close over the rest.*pass model_state="):
        nnx.Optimizer(module, tx, wrt=nnx.Param)
    graph, _, rest = nnx.split(module, nnx.Param, ...)
    closed = lambda params, images: nnx.merge(graph, params, rest, copy=True)(images)
    tx = optax.chain(optax.sgd(0.1), fastclip(closed, IMAGES))
    optimizer = nnx.Optimizer(module, tx, wrt=nnx.Param)
    assert len(optimizer.opt_state[1].layers) == 2


def test_warnings_point_at_the_users_own_line(forms):
    def apply_fn(variables, images):
        flat = images.reshape(len(images), -1)
        computed, unfound, kernel = variables["params"].values()
        hidden = flat @ (computed / jnp.linalg.norm(computed))
        return hidden @ kernel + jnp.sum(flat[:, :, None] * unfound[None], 1)

    shapes = {"computed": (72, 3), "unfound": (72, 3), "w": (3, 3)}
    variables = {"params": {name: jnp.ones(shapes[name]) for name in shapes}}
    of_ours, ours, _ = forms["ours"]
    tx = fastclip(of_ours, IMAGES, model_state=ours.state)
    chained = optax.chain(optax.sgd(0.1), tx)
    zeros = jax.tree.map(jnp.zeros_like, ours.params)
    state = chained.init(ours.params)
    calls = [
        lambda: clip(apply_fn, variables, IMAGES),
        lambda: optax.chain(fastclip(apply_fn, IMAGES)).init(variables),
        lambda: jax.eval_shape(chained.update, zeros, state, ours.params),
    ]
    messages = []
    for call in calls:
        with pytest.warns(UserWarning, match="not clipped|no model_state") as caught:
            call()
        assert {warning.filename for warning in caught} == {__file__}
        messages.extend(str(warning.message) for warning in caught)
    assert sum("kernels are computed from" in text for text in messages) == 2
    assert sum("the pass multiplies by" in text for text in messages) == 2
    assert sum("no model_state was given" in text for text in messages) == 1


def test_a_linen_loop_over_whole_variables():
    model = MLP()
    variables = model.init(jax.random.key(0), IMAGES)
    rule = ClipRule(num_vectors=3)
    tx = fastclip(model.apply, IMAGES, max_norm=0.3, period=1, rule=rule)
    zeros = jax.tree.map(jnp.zeros_like, variables)
    state = tx.init(variables)
    assert list(state.layers) == ["params/Dense_0/kernel", "params/Dense_1/kernel"]
    updates, _ = jax.jit(tx.update)(zeros, state, variables)
    for layer in optax.apply_updates(variables, updates)["params"].values():
        np.testing.assert_allclose(svd_norm(layer["kernel"]), 0.3, rtol=0.005)


def test_a_loop_over_this_librarys_whole_variables_clips_as_over_params(forms):
    apply_fn, variables, _ = forms["ours"]
    rule = ClipRule(num_vectors=3)
    options = {"max_norm": 0.3, "period": 1, "rule": rule}
    whole = optax.chain(optax.sgd(0.1), fastclip(apply_fn, IMAGES[:1], **options))
    zeros = jax.tree.map(jnp.zeros_like, variables)
    updates, _ = jax.jit(whole.update)(zeros, whole.init(variables), variables)
    tx = fastclip(apply_fn, IMAGES[:1], model_state=variables.state, **options)
    update = jax.jit(partial(tx.update, model_state=variables.state))
    expected, _ = update(zeros.params, tx.init(variables.params), variables.params)
    assert jnp.any(updates.params["Dense_0"]["kernel"] != 0)
    chex.assert_trees_all_close(updates, Variables(expected, zeros.state), atol=1e-2)


def test_every_true_norm_of_a_clipped_vit_is_within_a_percent():
    model = models.build("vit", (8, 8, 3), 5, width=16, depth=1, num_heads=4)
    variables = jax.jit(model.init)(jax.random.key(0))
    variables = jax.tree.map(lambda leaf: 3 * leaf, variables)
    clipped = clip(model.apply, variables, jnp.zeros((1, 8, 8, 3)))
    norms = {}
    paths = jax.tree_util.tree_flatten_with_path(clipped.params)[0]
    for path, leaf in paths:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("kernel"):
            # all but the free axes made one: patches do not overlap, and only "out"
            # contracts two axes
            rows = {"patches/kernel": 48}.get(name, 16)
            rows = 64 if name.endswith("Dense_1/kernel") else rows
            norms[name] = np.linalg.norm(np.asarray(leaf).reshape(rows, -1), 2)
    assert len(norms) == 2 + 6
    np.testing.assert_allclose(list(norms.values()), 1.0, rtol=0.01)
    measured = spectral_norms(model.apply, clipped, jnp.zeros((1, 8, 8, 3)))
    assert {path.removeprefix("params/") for path in measured} == set(norms)
    for path, norm in measured.items():
        expected = norms[path.removeprefix("params/")]
        np.testing.assert_allclose(norm, expected, rtol=1e-3)
    np.testing.assert_array_equal(
        clipped.params["positions"], variables.params["positions"]
    )


@pytest.mark.parametrize("num_vectors", [1, 3])
def test_both_estimators_hold_the_norms(num_vectors):
    weights = {"a": jnp.asarray(np.random.default_rng(0).normal(size=(30, 20)), "f4")}
    apply = lambda w, x: x @ w["a"]
    for estimator, num_iters in (("lanczos", 10), ("power_qr", 30)):
        rule = ClipRule(
            estimator=estimator, num_iters=num_iters, num_vectors=num_vectors
        )
        clipped = clip(apply, weights, jnp.zeros((1, 30)), max_norm=3.0, rule=rule)
        singular = np.linalg.svd(clipped["a"], compute_uv=False)
        before = np.linalg.svd(weights["a"], compute_uv=False)
        assert 2.99 < singular[0] < 3.03
        np.testing.assert_allclose(singular[15:], before[15:], rtol=0.01)
