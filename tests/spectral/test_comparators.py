"""The comparators: exact where they should be, wrong where they are known to be;
against dense matrices in NumPy.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearn_jax import models
from unlearn_jax.spectral._projection import Targets, project, projection
from unlearn_jax.spectral.comparators import (
    delattre_bound,
    fft_clip,
    frequency_blocks,
    gouk,
    gram_bound,
    miyato,
    sedghi,
)
from unlearn_jax.types import InputError, Variables

SIZE, CHANNELS = 8, 4
KERNELS = (
    np.random.default_rng(0).normal(size=(3, 3, 3, CHANNELS, CHANNELS)).astype("f4") / 4
)


def convolve(x, kernel, strides):
    """A valid cross-correlation by its definition."""
    (kh, kw), (s, t) = kernel.shape[:2], strides
    rows, cols = (x.shape[1] - kh) // s + 1, (x.shape[2] - kw) // t + 1
    out = 0
    for a in range(kh):
        for b in range(kw):
            out = (
                out
                + x[:, a : a + s * rows : s, b : b + t * cols : t][:, :rows, :cols]
                @ kernel[a, b]
            )
    return out


def norm(kernel, mode="wrap", strides=(1, 1)):
    """The largest singular value of the operator written out as a matrix."""
    unit = np.eye(SIZE * SIZE * kernel.shape[2]).reshape(
        -1, SIZE, SIZE, kernel.shape[2]
    )
    padded = np.pad(unit, ((0, 0), (1, 1), (1, 1), (0, 0)), mode=mode)
    return np.linalg.norm(
        convolve(padded, np.asarray(kernel, "f8"), strides).reshape(len(unit), -1), 2
    )


def largest(kernel, strides=(1, 1)):
    return np.linalg.svd(
        frequency_blocks(jnp.asarray(kernel), (SIZE, SIZE), strides=strides),
        compute_uv=False,
    ).max()


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 1)])
def test_frequencies_give_the_norm_on_a_torus_exactly_with_any_stride(strides):
    for kernel in KERNELS:
        np.testing.assert_allclose(
            largest(kernel, strides), norm(kernel, strides=strides), rtol=1e-4
        )


def test_an_fft_clip_without_cutting_is_exact_and_cutting_lifts_the_norm_again():
    whole = (
        np.random.default_rng(1)
        .normal(size=(SIZE, SIZE, CHANNELS, CHANNELS))
        .astype("f4")
    )
    for strides in [(1, 1), (2, 2)]:
        clipped = fft_clip(
            jnp.asarray(whole), (SIZE, SIZE), strides=strides, max_norm=5.0
        )
        assert largest(whole, strides) > 10
        np.testing.assert_allclose(largest(clipped, strides), 5, rtol=1e-4)
    unchanged = fft_clip(jnp.asarray(KERNELS[0]), (SIZE, SIZE), max_norm=100.0)
    np.testing.assert_allclose(unchanged, KERNELS[0], atol=1e-5)
    for kernel in KERNELS:
        target = norm(kernel) / 2.9  # the share of the note's table
        for mode, low, high in [
            ("wrap", 1.15, 1.55),
            ("constant", 1.1, 1.55),
            ("reflect", 1.3, 1.9),
        ]:
            left = (
                norm(fft_clip(jnp.asarray(kernel), (SIZE, SIZE), max_norm=target), mode)
                / target
            )
            assert low < left < high, mode


of_gram = jax.jit(gram_bound, static_argnums=1, static_argnames="num_iters")
of_delattre = jax.jit(delattre_bound)


def test_bounds_bound_for_zero_and_circular_padding_and_fail_for_reflected_borders():
    for kernel in KERNELS:
        gram = float(of_gram(kernel, (SIZE, SIZE), num_iters=6))
        zero = float(of_delattre(kernel))
        circular = norm(kernel)
        assert circular * 0.9999 <= gram <= circular * 1.05
        assert max(circular, norm(kernel, "constant")) <= zero <= 1.2 * circular
        assert norm(kernel, strides=(2, 2)) < gram
        assert norm(kernel, "reflect") > gram
        finer = float(of_gram(kernel, (SIZE, SIZE), num_iters=12))
        np.testing.assert_allclose(finer, circular, rtol=1e-3)
    wide = np.concatenate([KERNELS[0], KERNELS[1]], 2)
    assert norm(wide, "constant") <= float(of_delattre(wide)) <= 1.25 * norm(wide)
    empty = jnp.zeros((3, 3, 2, 2))
    assert float(of_gram(empty, (SIZE, SIZE), num_iters=6)) == 0
    assert float(of_delattre(empty)) == 0


def chain():
    """A circular convolution and a dense layer, as plain functions."""

    def apply(variables, images):
        wide = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        hidden = models.canonical_conv(wide, variables.params["conv"], (1, 1), "VALID")
        return jnp.mean(jax.nn.relu(hidden), (1, 2)) @ variables.params["head"]

    head = np.random.default_rng(2).normal(size=(CHANNELS, 3)).astype("f4")
    return apply, Variables(
        {"conv": jnp.asarray(KERNELS[0]), "head": jnp.asarray(head)}, {}
    )


SAMPLE = np.zeros((2, SIZE, SIZE, CHANNELS), "f4")


@pytest.mark.parametrize(
    ("rule", "low", "high"),
    [(miyato(), 1.3, 2.2), (gouk(), 1.005, 1.3), (sedghi(), 1.1, 1.6)],
)
def test_one_application_of_a_comparator_misses_the_target_of_a_convolution(
    rule, low, high
):
    apply, variables = chain()
    done, _ = jax.jit(lambda v: project(apply, v, SAMPLE, rule, Targets(1.0)))(
        variables
    )
    assert low < norm(done.params["conv"]) < high
    singular = np.linalg.svd(done.params["head"], compute_uv=False)
    assert 0.99 < singular[0] < 1.02
    before = np.linalg.svd(variables.params["head"], compute_uv=False)
    kept = (
        np.minimum(before, 1)
        if rule.change.__qualname__.startswith("sedghi")
        else before / before[0]
    )
    np.testing.assert_allclose(singular, kept, rtol=0.02)


def test_only_spectral_normalization_lifts_small_layers():
    apply, variables = chain()
    small = jax.tree.map(lambda leaf: leaf / 100, variables)
    for rule, lifted in [(miyato(), True), (gouk(), False), (sedghi(), False)]:
        done = jax.jit(
            lambda v, rule=rule: project(apply, v, SAMPLE, rule, Targets(1.0))[0]
        )(small)
        assert (np.linalg.norm(done.params["head"], 2) > 0.9) == lifted
        if not lifted:
            np.testing.assert_allclose(
                done.params["head"], small.params["head"], rtol=1e-5, atol=1e-7
            )


def test_comparator_transformation_draws_a_new_start_each_step():
    apply, variables = chain()
    tx = optax.chain(
        optax.sgd(0.1),
        projection(
            apply,
            SAMPLE,
            gouk(num_iters=1),
            Targets(1.0),
            period=1,
            model_state=variables.state,
        ),
    )
    state = tx.init(variables.params)
    zeros = jax.tree.map(jnp.zeros_like, variables.params)
    step = jax.jit(tx.update)
    norms, params = [], variables.params
    counts = [dict.fromkeys(state[-1].layers, jnp.full((), count)) for count in (0, 1)]
    for _ in range(3):
        updates, state = step(zeros, state, params)
        params = optax.apply_updates(params, updates)
        norms.append(norm(params["conv"]))
    assert norm(KERNELS[0]) > norms[0] >= norms[1] >= norms[2] > 1
    assert state[-1].layers["params/conv"] == 3
    once = jax.jit(
        lambda memory: project(
            apply, variables, SAMPLE, gouk(num_iters=1), Targets(0.1), memory=memory
        )[0]
    )
    first, second = map(once, counts)
    assert abs(norm(first.params["conv"]) - norm(second.params["conv"])) > 1e-3


def test_bad_input_is_refused():
    with pytest.raises(InputError, match="num_iters must be a positive integer"):
        gouk(num_iters=0)
    with pytest.raises(InputError, match="num_iters must be a positive integer"):
        delattre_bound(jnp.ones((1, 1, 1, 1)), num_iters=0)
    with pytest.raises(InputError, match="a torus of 5 x 8"):
        frequency_blocks(jnp.ones((3, 3, 1, 1)), (5, 8), strides=(2, 2))
    variables = chain()[1]

    def dilated(v, x):
        return jax.lax.conv_general_dilated(
            x,
            v.params["conv"],
            (1, 1),
            "SAME",
            rhs_dilation=(2, 2),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    with pytest.raises(InputError, match="without groups or dilation"):
        project(dilated, variables, SAMPLE, sedghi(), Targets(1.0))


@pytest.mark.parametrize("rule", [miyato(), gouk(num_iters=20), sedghi()])
def test_kernels_of_16_bits_are_taken(rule):
    kernel = jax.random.normal(jax.random.key(0), (6, 4), jnp.bfloat16)
    apply = lambda w, x: x.astype(jnp.bfloat16) @ w["w"]
    changed, _ = project(apply, {"w": kernel}, jnp.zeros((1, 6)), rule, Targets(0.7))
    assert changed["w"].dtype == jnp.bfloat16
    norm = np.linalg.norm(np.asarray(changed["w"], "f4"), 2)
    assert norm == pytest.approx(0.7, rel=0.01)
