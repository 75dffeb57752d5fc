"""oneDNN's convolutions against XLA's own, in value and in every derivative."""

import os
import subprocess
import sys
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from unlearn_jax import models, onednn, replicas, train
from unlearn_jax.types import Dataset

pytestmark = pytest.mark.skipif(
    bool(onednn.native().reason), reason=f"oneDNN: {onednn.native().reason}"
)
CASES = [
    # batch, height, width, in, out, kernel, strides, padding
    (4, 8, 8, 3, 5, (3, 3), (1, 1), "SAME"),
    (5, 9, 7, 2, 4, (3, 3), (2, 2), "SAME"),
    (3, 8, 9, 16, 32, (3, 3), (2, 1), "SAME"),
    (4, 8, 8, 3, 4, (1, 1), (2, 2), "VALID"),
    (3, 11, 10, 2, 3, (5, 3), (2, 3), "VALID"),
    (3, 6, 5, 1, 1, (2, 4), (1, 1), ((0, 2), (3, 1))),
    (2, 4, 4, 3, 3, (1, 1), (1, 1), ((2, 1), (0, 3))),
    (2, 9, 9, 4, 4, (7, 7), (2, 2), ((3, 3), (3, 3))),
    # several blocks of images, the last one smaller
    (37, 16, 16, 16, 32, (3, 3), (1, 1), "SAME"),
    (21, 16, 16, 24, 40, (3, 3), (2, 2), "SAME"),
    (19, 4, 4, 160, 96, (3, 3), (1, 1), "SAME"),
]


def stock(images, kernel, strides, padding):
    return lax.conv_general_dilated(
        images, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def arrays(key, case, dtype="float32"):
    batch, height, width, into, out, size, *_ = case
    k1, k2 = jax.random.split(key)
    images = jax.random.normal(k1, (batch, height, width, into)).astype(dtype)
    return images, jax.random.normal(k2, (*size, into, out)).astype(dtype)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients_are_xlas(case, dtype, key):
    if dtype == "bfloat16" and not onednn.native().has_bfloat16:
        pytest.skip("no bfloat16 on this processor")
    k1, k2 = jax.random.split(key)
    images, kernel = arrays(k1, case, dtype)
    strides, padding = case[6:]

    def run(conv, *operands):
        out, back = jax.vjp(lambda i, k: conv(i, k, strides, padding), *operands)
        cotangent = jax.random.normal(jax.random.clone(k2), out.shape).astype(dtype)
        return out, back(cotangent.astype(out.dtype))

    found = run(models.onednn_conv, images, kernel)
    assert "onednn" in str(
        jax.make_jaxpr(lambda *both: models.onednn_conv(*both, strides, padding))(
            images, kernel
        )
    )
    # the same numbers, multiplied and added in float32
    wide = run(stock, images.astype("float32"), kernel.astype("float32"))
    for got, expected in zip(*map(jax.tree.leaves, (found, wide)), strict=True):
        assert got.dtype == dtype
        scale = float(jnp.abs(expected).max())
        tolerance = 1e-5 if dtype == "float32" else 2**-7
        np.testing.assert_allclose(
            got.astype("float32"), expected, rtol=tolerance, atol=tolerance * scale
        )


def test_weight_gradients_in_bfloat16_are_added_in_float32():
    if not onednn.native().has_bfloat16:
        pytest.skip("no bfloat16 on this processor")
    images = jnp.ones((2048, 8, 8, 4), jnp.bfloat16)
    outputs = jnp.ones((2048, 8, 8, 8), jnp.bfloat16)
    gradient = onednn.of_kernel(images, outputs, (1, 1), ((0, 0), (0, 0)), (1, 1))
    # from 256 on, ones are lost in bfloat16
    np.testing.assert_array_equal(gradient.astype("float32"), 2048 * 64)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_derivatives_of_every_order_and_mode_are_xlas(strides, key):
    k1, k2, k3 = jax.random.split(key, 3)
    images, kernel = arrays(k1, (2, 6, 6, 2, 3, (3, 3)))
    along = (jax.random.normal(k2, images.shape), jax.random.normal(k3, kernel.shape))

    def derivatives(conv):
        fun = lambda i, k: jnp.sum(jnp.tanh(conv(i, k, strides, "SAME")) ** 2)
        gradient = jax.grad(fun, (0, 1))
        norm = lambda *both: sum(jnp.sum(leaf**2) for leaf in gradient(*both))
        return (
            jax.jvp(fun, (images, kernel), along),
            jax.jvp(gradient, (images, kernel), along),
            jax.grad(norm, (0, 1))(images, kernel),
            jax.hessian(fun, 1)(images, kernel),
            jax.jacrev(jax.jacfwd(fun, 1), 0)(images, kernel),
        )

    found = jax.jit(derivatives, static_argnums=0)(models.onednn_conv)
    expected = jax.jit(derivatives, static_argnums=0)(stock)
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("axes", [(0, None), (None, 0), (0, 0), (2, 1)])
def test_vmap_is_a_loop(axes, key):
    k1, k2, k3 = jax.random.split(key, 3)
    shapes = [(4, 7, 6, 2), (3, 3, 2, 5)]
    operands = []
    for shape, axis, one in zip(shapes, axes, (k1, k2), strict=True):
        whole = shape if axis is None else (*shape[:axis], 3, *shape[axis:])
        operands.append(jax.random.normal(one, whole))
    outputs = jax.random.normal(k3, (4, 4, 3, 5))

    def all_three(images, kernel):
        out, back = jax.vjp(
            lambda i, k: models.onednn_conv(i, k, (2, 2), "SAME"), images, kernel
        )
        return out, back(outputs)

    def entry(operand, axis, position):
        return operand if axis is None else jnp.take(operand, position, axis)

    found = jax.jit(jax.vmap(all_three, axes))(*operands)
    one = jax.jit(all_three)
    rows = [
        one(*(entry(*pair, j) for pair in zip(operands, axes, strict=True)))
        for j in range(3)
    ]
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_mapped_batch_joins_the_batch():
    images, kernel = jnp.ones((3, 4, 8, 8, 2)), jnp.ones((3, 3, 2, 5))
    conv = lambda i: models.onednn_conv(i, kernel, (1, 1), "SAME")
    program = str(jax.make_jaxpr(jax.vmap(conv))(images))
    assert "12,8,8,2" in program
    assert "scan" not in program


def test_bits_in_loops_on_devices_and_in_threads_are_those_of_one_call(key):
    k1, k2 = jax.random.split(key)
    count = 8
    images = jax.random.normal(k1, (count, 24, 16, 16, 16))
    kernels = jax.random.normal(k2, (count, 3, 3, 16, 32))

    def step(images, kernel):
        loss = lambda i, k: jnp.sum(models.onednn_conv(i, k, (1, 1), "SAME") ** 2)
        return jax.grad(loss, (0, 1))(images, kernel)

    one = jax.jit(step)
    expected = [one(*pair) for pair in zip(images, kernels, strict=True)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *expected)
    mapped = jax.jit(lambda *both: lax.map(lambda pair: step(*pair), both))
    chex.assert_trees_all_equal(mapped(images, kernels), stacked)
    assert jax.local_device_count() >= count
    for _ in range(5):
        # library scratchpads, shared by threads, gave NaN here
        chex.assert_trees_all_equal(jax.pmap(step)(images, kernels), stacked)

    found = [None] * count

    def work(j):
        for _ in range(5):
            found[j] = one(images[j], kernels[j])

    threads = [threading.Thread(target=work, args=(j,)) for j in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    chex.assert_trees_all_equal(found, expected)


def test_what_onednn_does_not_do_is_canonical(key):
    images, kernel = arrays(key, (8, 8, 8, 2, 3, (3, 3)))
    program = lambda i, k, padding="SAME": str(
        jax.make_jaxpr(lambda i, k: models.onednn_conv(i, k, (1, 1), padding))(i, k)
    )
    assert onednn.NAME in program(images, kernel)
    half = (images.astype("float16"), kernel.astype("float16"))
    assert onednn.NAME not in program(*half)
    negative = ((-1, 1), (1, 0))
    assert onednn.NAME not in program(images, kernel, negative)
    chex.assert_trees_all_close(
        models.onednn_conv(images, kernel, (1, 1), negative),
        stock(images, kernel, (1, 1), negative),
        rtol=1e-5,
        atol=1e-5,
    )
    empty = models.onednn_conv(images[:0], kernel, (1, 1), "SAME")
    assert empty.shape == (0, 8, 8, 3)
    mesh = jax.make_mesh((2,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        assert onednn.NAME not in program(images, kernel)


def test_training_in_mappers_is_the_canonical_forms(blobs, key, replay):
    """The same bits by loop, map and pmap; the canonical form's to rounding."""
    recipe = train.Recipe(2, 16, train.sgd(0.05))
    member = np.ones((2, len(blobs.labels)), bool)

    def fit(conv, form, devices):
        model = models.build(
            "cnn", (4, 4, 1), 3, widths=(8, 16), batch_norm=True, conv=conv
        )
        state, _ = replicas.fit_many(
            jax.random.split(jax.random.clone(key)),
            model,
            Dataset(*blobs),
            member,
            recipe,
            mapper=replicas.mapper(form, num_models=2, devices=devices),
        )
        return jax.tree.map(np.asarray, state.variables)

    mapped = fit("onednn", "map", 1)
    chex.assert_trees_all_equal(mapped, fit("onednn", "loop", 1))
    chex.assert_trees_all_equal(mapped, fit("onednn", "map", 2))
    chex.assert_trees_all_close(mapped, fit("onednn", "vmap", 1), rtol=1e-3, atol=1e-4)
    chex.assert_trees_all_close(
        mapped, fit("canonical", "map", 1), rtol=1e-3, atol=1e-4
    )


PROGRAM = """
import os, sys
os.sched_setaffinity(0, map(int, sys.argv[3:]))
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
import jax.numpy as jnp, numpy as np
from unlearn_jax import models, onednn
assert not onednn.native().reason
child = os.fork() if sys.argv[2] == "fork" else 0
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
rng = np.random.default_rng(0)
images = rng.normal(size=(40, 16, 16, 16)).astype("f4")
kernel = rng.normal(size=(3, 3, 16, 64)).astype("f4")
conv = lambda i, k: models.onednn_conv(i, k, (1, 1), "SAME")
out, back = jax.vjp(jax.jit(conv), images, kernel)
found = (out, *back(jnp.tanh(out)))
print([np.asarray(leaf).tobytes().hex()[-64:] for leaf in found])
print([float(np.abs(leaf).sum()) for leaf in found], flush=True)
os._exit(0)
"""


def test_bits_do_not_depend_on_cores_devices_and_forks():
    cores = sorted(os.sched_getaffinity(0))

    def run(devices, mode, used):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(devices), mode, *map(str, used)],
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    expected = run(1, "alone", cores)
    assert expected.count("\n") == 2
    assert run(8, "alone", cores) == expected
    assert run(1, "alone", cores[:1]) == expected
    assert run(2, "fork", cores) == expected
