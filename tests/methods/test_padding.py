"""Forget sets of several sizes in one program give what each gives alone."""

import dataclasses

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

SIZES = (5, 8, 11)  # of batches of four: two or three to an epoch
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
    "boundary_shrink": BoundaryShrink(**SMALL, retain=True, relabel="epoch"),
}


def problem_of(model, blobs, size, attack):
    variables = jax.jit(model.init)(jax.random.key(1))
    order = np.random.default_rng(size).permutation(60)
    forget = np.isin(np.arange(60), order[:size])
    problem = methods.make_problem(model, variables, blobs, forget)
    if attack is None:
        return problem
    given = jax.jit(lambda p: attack_forget_set(p, attack))(problem)
    return dataclasses.replace(problem, adversarial=given)


def padded_run(method, key, problem):
    """The method in the program of all sizes, rows of D_A padded with NaN."""
    most = max(SIZES)

    def pad(leaf):
        width = ((0, most - len(leaf)), *((0, 0),) * (leaf.ndim - 1))
        fill = jnp.nan if leaf.dtype == jnp.float32 else 0
        return jnp.pad(leaf, width, constant_values=fill)

    given = jax.tree.map(pad, problem.adversarial)

    @jax.jit
    def run(key, variables, train, forget, given):
        count = Count(min(SIZES), most, jnp.sum(forget))
        return method(
            key, Problem(problem.model, variables, train, forget, count, given)
        )

    return run(key, problem.variables, problem.train, problem.forget, given)


@pytest.mark.parametrize("name", CASES)
def test_padded_problems_give_what_each_gives_alone(normed, blobs, name):
    method = CASES[name]
    assert is_padded(method)
    for size in SIZES:
        attack = ATTACK if isinstance(method, AMUN) else None
        problem = problem_of(normed, blobs, size, attack)
        key = jax.random.key(size)
        expected, info = jax.jit(method)(jax.random.clone(key), problem)
        found, padded_info = padded_run(method, key, problem)
        chex.assert_trees_all_close(found, expected, rtol=2e-5, atol=2e-6)
        np.testing.assert_allclose(
            padded_info.losses, info.losses, rtol=2e-5, atol=2e-6
        )
        assert padded_info.num_gradients == info.num_gradients
        moved = jax.tree.map(jnp.subtract, found.params, problem.variables.params)
        assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(moved)) > 1e-4


def test_methods_that_read_the_number_get_a_program_for_each_size(normed, blobs):
    assert not is_padded(FineTune(decay_every=1))
    assert not is_padded(methods.SSD())
    assert not is_padded(masked(FineTune(), methods.SpectralBound()))

    class Mine(FineTune):
        pass

    assert not is_padded(Mine())
    problem = problem_of(normed, blobs, 5, None)
    with pytest.raises(TypeError):
        padded_run(methods.SSD(), jax.random.key(0), problem)


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
