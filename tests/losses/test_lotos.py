"""LOTOS and TRS against loops in NumPy; the LOTOS term and its memory."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax import losses
from unlearn_jax.losses import _lotos as lotos
from unlearn_jax.losses import trs
from unlearn_jax.models.conv import canonical_conv
from unlearn_jax.types import InputError

RNG = np.random.default_rng(31)


def top(matrix, count):
    """Right singular vectors, the longest first."""
    return np.linalg.svd(matrix)[2][:count].astype("f4")


def product(matrix):
    return lambda x: jnp.asarray(matrix, jnp.float32) @ x


def slow_similarity(f, g, v_f, v_g, max_length, weights):
    """Equation 3.3, one direction at a time."""
    total = 0.0
    for i, weight in enumerate(weights):
        total += weight * max(0.0, np.linalg.norm(f @ v_g[i]) - max_length)
        total += weight * max(0.0, np.linalg.norm(g @ v_f[i]) - max_length)
    return total


@pytest.mark.parametrize("count", [1, 3])
def test_equals_a_loop_over_layers_and_pairs(count):
    layers = [
        [RNG.normal(size=(5, 6)) for _ in range(4)],
        [RNG.normal(size=(7, 5)) for _ in range(4)],
    ]
    vectors = [[top(matrix, count) for matrix in row] for row in layers]
    raw = 1 - 0.01 * np.arange(count)
    expected = sum(
        slow_similarity(row[i], row[j], blocks[i], blocks[j], 0.8, raw / raw.sum())
        for row, blocks in zip(layers, vectors, strict=True)
        for i, j in itertools.combinations(range(4), 2)
    )
    maps = [[product(matrix) for matrix in row] for row in layers]
    # directions need not have length 1: the length is divided out
    blocks = [[3 * jnp.asarray(block) for block in row] for row in vectors]
    np.testing.assert_allclose(lotos.lotos_penalty(maps, blocks), expected, rtol=1e-5)
    mean = lotos.lotos_penalty(maps, blocks, convention="mean")
    np.testing.assert_allclose(mean, expected / (2 * 4 * 3), rtol=1e-5)  # L N (N - 1)


def test_similarity_is_zero_where_each_layer_shortens_the_others_directions():
    basis = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
    first = np.diag([2.0, 0.5, 0.2, 0, 0, 0]) @ basis
    second = (
        np.diag([0.5, 2.0, 0.2, 0, 0, 0]) @ basis
    )  # the top two directions are swapped
    args = (
        product(first),
        product(second),
        jnp.asarray(top(first, 1)),
        jnp.asarray(top(second, 1)),
    )
    assert lotos.lotos_similarity(*args, max_length=0.5001) == 0
    np.testing.assert_allclose(
        lotos.lotos_similarity(*args, max_length=0.4), 0.2, rtol=1e-4
    )
    np.testing.assert_allclose(
        lotos.lotos_similarity(*args, max_length=0.0), 1.0, rtol=1e-4
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_similarity_to_itself_is_largest_for_one_direction(seed):
    """Of all layers with the same singular values none is more similar to f than f
    itself, for one direction.
    """
    rng = np.random.default_rng(seed)
    f = rng.normal(size=(5, 5))
    g = f @ np.linalg.qr(rng.normal(size=(5, 5)))[0]
    own = lotos.lotos_similarity(product(f), product(f), *2 * (jnp.asarray(top(f, 1)),))
    other = lotos.lotos_similarity(
        product(f), product(g), jnp.asarray(top(f, 1)), jnp.asarray(top(g, 1))
    )
    assert other <= own + 1e-4
    np.testing.assert_allclose(
        own, 2 * max(np.linalg.norm(f, 2) - 0.8, 0), rtol=1e-3, atol=1e-5
    )


def test_several_directions_may_be_more_similar_to_others():
    """The sum of lengths is not largest where the layers coincide: 2 + 0 against twice
    the root of 2.
    """
    f = np.diag([2.0, 0.0])
    g = f @ np.array([[1, 1], [-1, 1]]) / np.sqrt(2)
    args = dict(max_length=0.0, weights=(1.0, 1.0))
    own = lotos.lotos_similarity(product(f), product(f), *2 * (jnp.eye(2),), **args)
    turned = lotos.lotos_similarity(
        product(f), product(g), jnp.eye(2), jnp.asarray(top(g, 2)), **args
    )
    np.testing.assert_allclose([own, turned], [4.0, 4 * np.sqrt(2)], rtol=1e-5)


def test_gradient_flows_into_both_models_and_not_into_vectors():
    """Against autodiff of the loop for convolutions; finite where a map annihilates a
    direction.
    """
    kernels = [
        jnp.asarray(RNG.normal(size=(3, 3, 2, 4)), jnp.float32) for _ in range(2)
    ]
    vectors = [
        jnp.asarray(RNG.normal(size=(2, 5, 5, 2)), jnp.float32) for _ in range(2)
    ]
    conv = lambda kernel: lambda x: canonical_conv(x[None], kernel, (1, 1), "SAME")[0]

    def penalty(kernels, vectors):
        return lotos.lotos_similarity(*map(conv, kernels), *vectors)

    by_kernels, by_vectors = jax.jit(jax.grad(penalty, (0, 1)))(kernels, vectors)
    for kernel, block, gradient in zip(kernels, vectors[::-1], by_kernels, strict=True):

        def lengths(kernel, block=block):
            weights = np.array([1, 0.99]) / 1.99
            unit = [v / jnp.linalg.norm(v.ravel()) for v in block]
            return sum(
                w * jnp.linalg.norm(conv(kernel)(v).ravel())
                for w, v in zip(weights, unit, strict=True)
            )

        np.testing.assert_allclose(
            gradient, jax.grad(lengths)(kernel), rtol=1e-4, atol=1e-5
        )
        assert np.any(gradient != 0)
    assert all(np.all(block == 0) for block in by_vectors)
    at_zero = jax.grad(
        lambda matrix: jnp.sum(lotos.stretch(lambda x: matrix @ x, jnp.eye(3)))
    )(jnp.zeros((2, 3)))
    assert np.all(at_zero == 0)


def test_lotos_refuses_bad_input():
    one, block = product(np.eye(3)), jnp.eye(3)
    with pytest.raises(InputError, match="two or more"):
        lotos.layer_similarity([one], [block])
    with pytest.raises(InputError, match="inputs differ between members"):
        lotos.layer_similarity([one, one], [block, jnp.eye(4)[:3]])
    with pytest.raises(InputError, match="as many weights"):
        lotos.layer_similarity([one, one], [block, block], weights=(1.0,))
    with pytest.raises(InputError, match="weights must not increase"):
        lotos.layer_similarity([one, one], [block, block], weights=(0.1, 0.2, 0.3))
    with pytest.raises(InputError, match="max_length must be finite"):
        lotos.layer_similarity([one, one], [block, block], max_length=np.nan)
    traced = jax.jit(
        lambda weights, length: lotos.layer_similarity(
            [one, one], [block, block], weights=weights, max_length=length
        )
    )
    np.testing.assert_allclose(traced((0.6, 0.3, 0.1), 0.5), 1.0, rtol=1e-6)
    with pytest.raises(InputError, match="at least one layer"):
        lotos.lotos_penalty([], [])
    with pytest.raises(InputError, match="'sum' or 'mean'"):
        lotos.lotos_penalty([[one, one]], [[block, block]], convention="paper")


def test_trs_by_hand():
    gradients = RNG.normal(size=(3, 4, 2, 2, 1)).astype("f4")
    gradients[1, 2] = 0
    cosines, squares = [], []
    for i, j in itertools.combinations(range(3), 2):
        for a, b in zip(gradients[i], gradients[j], strict=True):
            lengths = np.linalg.norm(a) * np.linalg.norm(b)
            cosines.append(abs(np.sum(a * b)) / lengths if lengths else 0.0)
    for row in gradients.reshape(12, -1):
        squares.append(row @ row)
    np.testing.assert_allclose(
        trs.gradient_similarity(gradients), np.mean(cosines), rtol=1e-5
    )
    np.testing.assert_allclose(
        trs.gradient_magnitude(jnp.asarray(gradients)), 2 * np.mean(squares), rtol=1e-5
    )
    both = trs.trs_penalty(jnp.asarray(gradients), similarity=3.0, smoothness=0.5)
    np.testing.assert_allclose(both, 3 * np.mean(cosines) + np.mean(squares), rtol=1e-5)
    slope = jax.grad(lambda g: trs.trs_penalty(g))(jnp.asarray(gradients))
    assert np.all(np.isfinite(slope))
    with pytest.raises(InputError, match="two or more"):
        trs.trs_penalty(jnp.asarray(gradients[:1]))


def linear(weights, images):
    """Two layers of a member, ``{"a": [3, 4], "b": [4, 2]}``."""
    return jnp.tanh(images @ weights["a"]) @ weights["b"]


def draw_members(num_members):
    return [
        {
            "a": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32),
            "b": jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32),
        }
        for _ in range(num_members)
    ]


def by_hand(members, max_length, which=("a", "b")):
    """The penalty with exact singular vectors."""
    maps = [[product(one[name].T) for one in members] for name in which]
    vectors = [
        [jnp.asarray(top(np.asarray(one[name]).T, 1)) for one in members]
        for name in which
    ]
    return losses.lotos_penalty(maps, vectors, max_length=max_length)


SAMPLE = np.zeros((5, 3), np.uint8)


def test_term_equals_the_penalty_of_the_top_directions(key):
    members = draw_members(3)
    term = losses.lotos([linear] * 3, SAMPLE, which="all", max_length=0.3)
    state = jax.jit(term.init)(key, members)
    penalty, state = jax.jit(term.update)(members, state)
    np.testing.assert_allclose(penalty, by_hand(members, 0.3), rtol=1e-4)
    assert int(state.step) == 1
    assert [[block.shape for block in row] for row in state.vectors] == [
        [(1, 3)] * 3,
        [(1, 4)] * 3,
    ]


def test_term_of_a_stack_equals_that_of_a_sequence(key):
    members = draw_members(2)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    options = {"which": "first", "max_length": 0.3, "num_vectors": 2, "init_iters": 5}

    def first_update(apply_fns, variables):
        term = losses.lotos(apply_fns, SAMPLE, **options)
        state = term.init(jax.random.clone(key), variables)
        return term.update(variables, state)[0]

    step = jax.jit(jax.value_and_grad(first_update, argnums=1), static_argnums=0)
    value, gradient = step(linear, stacked)
    expected, gradients = step((linear, linear), members)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    chex.assert_trees_all_close(
        gradient, jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients), rtol=1e-5
    )


def test_gradient_of_the_term_takes_the_directions_for_constants(key):
    members = draw_members(2)
    term = losses.lotos([linear] * 2, SAMPLE, which="first", max_length=0.1)
    state = term.init(key, members)

    @jax.jit
    def slope(members):
        return jax.grad(lambda tree: term.update(tree, state), has_aux=True)(members)

    gradient, after = slope(members)

    def fixed(members):
        maps = [[product_of(one["a"]) for one in members]]
        return losses.lotos_penalty(maps, after.vectors, max_length=0.1)

    def product_of(matrix):
        return lambda x: x @ matrix

    chex.assert_trees_all_close(
        gradient, jax.grad(fixed)(members), rtol=1e-4, atol=1e-6
    )
    assert all(np.all(one["b"] == 0) for one in gradient)


def test_directions_follow_the_parameters_from_where_they_were(key):
    members = draw_members(2)
    term = losses.lotos([linear] * 2, SAMPLE, which="all", max_length=0.3)
    update = jax.jit(term.update)
    state = term.init(key, members)
    moved = [jax.tree.map(lambda leaf: leaf[::-1], one) for one in members]
    gaps = []
    for _ in range(30):
        penalty, state = update(moved, state)
        gaps.append(abs(float(penalty - by_hand(moved, 0.3))))
    assert gaps[-1] < 1e-3
    assert gaps[0] > 2 * gaps[-1]


def test_a_term_that_acts_at_every_third_update(key):
    members = draw_members(2)
    seldom = losses.lotos([linear] * 2, SAMPLE, which="all", max_length=0.1, every=3)
    state = seldom.init(key, members)
    update = jax.jit(jax.value_and_grad(seldom.update, has_aux=True))
    for number in range(5):
        (penalty, after), gradient = update(members, state)
        is_active = number % 3 == 0
        assert (penalty > 0) == is_active
        assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient)) == is_active
        if not is_active:
            chex.assert_trees_all_equal(after.vectors, state.vectors)
        state = after
    assert int(state.step) == 5


def test_term_refuses_what_it_cannot_compare(key, tiny):
    members = draw_members(2)
    with pytest.raises(InputError, match="choose which='all'"):
        losses.lotos([linear] * 2, SAMPLE).init(key, members)
    with pytest.raises(InputError, match="choose 'conv', 'all' or 'first'"):
        losses.lotos(linear, SAMPLE, which="last")
    with pytest.raises(InputError, match="choose 'conv', 'all' or 'first'"):
        losses.foreign_stretch([linear] * 2, members, SAMPLE, which="last")
    for options, message in (
        ({"every": 0}, "every must be a positive integer, got 0"),
        ({"every": 1.5}, "every must be a positive integer, got 1.5"),
        ({"max_length": np.nan}, "max_length must be finite and not negative"),
        ({"num_vectors": 101}, "choose at most 100, or pass weights"),
        ({"weights": (1.0, 2.0)}, "1 directions need as many weights, got 2"),
        ({"weights": (-1.0,)}, "weights must be finite and not negative"),
        ({"num_vectors": 2, "weights": (0.4, 0.6)}, "weights must not increase"),
    ):
        with pytest.raises(InputError, match=message):
            losses.lotos(linear, SAMPLE, **options)
    with pytest.raises(InputError, match=r"got Model: pass model\.apply"):
        losses.lotos([tiny, tiny], SAMPLE)
    with pytest.raises(InputError, match=r"got Model: pass model\.apply"):
        losses.lotos(tiny, SAMPLE)
    with pytest.raises(InputError, match="2 members and 3 functions"):
        losses.lotos([linear] * 3, SAMPLE, which="all").init(key, members)
    with pytest.raises(InputError, match="two or more"):
        losses.lotos([linear], SAMPLE, which="all").init(key, members[:1])
    with pytest.raises(InputError, match="'sum' or 'mean'"):
        losses.lotos(linear, SAMPLE, convention="paper")
