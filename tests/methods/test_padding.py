"""Forget sets of several sizes in one program give what each gives alone."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import methods
from unlearn_jax.attacks import PGD, Doubling
from unlearn_jax.methods import (
    AMUN,
    DELETE,
    SCRUB,
    UAM,
    BoundaryExpand,
    BoundaryShrink,
    FineTune,
    GradientAscent,
    L1Sparse,
    NegGradPlus,
    RandomLabel,
    Saliency,
    masked,
)
from unlearn_jax.methods.base import attack_forget_set, is_padded
from unlearn_jax.types import Count, Problem

SIZES = (8, 11)  # of batches of four: two full ones, or three with a rest
SMALL = {"num_epochs": 2, "batch_size": 4, "learning_rate": 0.05}
ATTACK = PGD(num_steps=5, search=Doubling(num_radii=4, batch_size=8))
CASES = {
    "finetune": FineTune(**SMALL),
    "amun": AMUN(**SMALL),
    "amun_controls": AMUN(
        **SMALL, retain=False, replace="random_point", failures="runner_up"
    ),
    "amun_random_label": AMUN(**SMALL, replace="random_label", redraw="once"),
    "gradient_ascent": GradientAscent(**SMALL, retain=True),
    "neggrad_plus": NegGradPlus(**SMALL, forget_batch_size=3),
    "random_label": RandomLabel(**SMALL),
    "random_label_forget_first": RandomLabel(**SMALL, order="forget_first"),
    "salun": masked(RandomLabel(**SMALL), Saliency()),
    "scrub": SCRUB(**SMALL, num_max_epochs=1, forget_batch_size=2),
    "uam": UAM(**SMALL, forget_batch_size=3),
    "l1_sparse": L1Sparse(**SMALL, schedule="amun_code"),
    "delete": DELETE(**SMALL, retain=True),
    "boundary_expand": BoundaryExpand(**SMALL, retain=True),
    "boundary_shrink": BoundaryShrink(**SMALL, retain=True, relabel="epoch"),
}


@pytest.fixture(scope="module")
def problem_of(normed, blobs):
    """Problems by size, without or with adversarial images, each made once."""
    variables = jax.jit(normed.init)(jax.random.key(1))
    attack = jax.jit(lambda problem: attack_forget_set(problem, ATTACK))

    @functools.cache
    def make(size, is_attacked):
        order = np.random.default_rng(size).permutation(60)
        forget = np.isin(np.arange(60), order[:size])
        problem = methods.make_problem(normed, variables, blobs, forget)
        if not is_attacked:
            return problem
        return dataclasses.replace(problem, adversarial=attack(problem))

    return make


def padded_program(method, model):
    """The method's program of all sizes, for problems whose D_A is padded with NaN."""
    most = max(SIZES)

    @jax.jit
    def run(key, variables, train, forget, given):
        count = Count(min(SIZES), most, jnp.sum(forget))
        return method(key, Problem(model, variables, train, forget, count, given))

    def pad(leaf):
        width = ((0, most - len(leaf)), *((0, 0),) * (leaf.ndim - 1))
        fill = np.nan if leaf.dtype == np.float32 else 0
        return np.pad(leaf, width, constant_values=fill)

    def padded(key, problem):
        given = jax.tree.map(pad, jax.device_get(problem.adversarial))
        return run(key, problem.variables, problem.train, problem.forget, given)

    return padded


@pytest.mark.parametrize("name", CASES)
def test_padded_problems_give_what_each_gives_alone(normed, problem_of, name):
    method = CASES[name]
    assert is_padded(method)
    alone = jax.jit(method)
    padded = padded_program(method, normed)
    for size in SIZES:
        problem = problem_of(size, isinstance(method, AMUN))
        key = jax.random.key(size)
        expected, info = alone(jax.random.clone(key), problem)
        found, padded_info = padded(key, problem)
        chex.assert_trees_all_close(found, expected, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(
            padded_info.losses, info.losses, rtol=2e-5, atol=2e-6
        )
        assert padded_info.num_gradients == info.num_gradients
        moved = jax.tree.map(np.subtract, found.params, problem.variables.params)
        assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(moved)) > 1e-4


def test_methods_that_read_the_number_get_a_program_for_each_size(normed, problem_of):
    assert not is_padded(FineTune(decay_every=1))
    assert not is_padded(methods.SSD())
    assert not is_padded(masked(FineTune(), methods.SpectralBound()))

    class Mine(FineTune):
        pass

    assert not is_padded(Mine())
    with pytest.raises(TypeError):
        padded_program(methods.SSD(), normed)(jax.random.key(0), problem_of(8, False))


def test_counts_add_up_like_their_values():
    for value in range(3, 12):
        count = Count(3, 11, np.asarray(value))
        others = (count + 2, 2 + count, 20 - count, count - 1, 3 * count, count * True)
        expected = (value + 2, value + 2, 20 - value, value - 1, 3 * value, value)
        for other, number in zip(others, expected, strict=True):
            assert other.value == number
            assert other.least <= number <= other.most
        total = count + (20 - count)
        assert total.value == 20
        batches = count.divided(4)
        assert batches.value == -(-value // 4)
        assert (batches.least, batches.most) == (1, 3)
