"""Optimizers as values: the same steps as optax's, traced fields, checks."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from unlearn_jax import optimizers, train
from unlearn_jax.optimizers import OPTIMIZERS, SGD, Adam
from unlearn_jax.types import InputError

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 5), "b": jnp.ones(2)}


def walk(tx, num_steps=4):
    """Parameters after some steps on a quadratic."""
    params = PARAMS
    state = tx.init(params)
    for _ in range(num_steps):
        gradient = jax.tree.map(lambda leaf: leaf - 0.3, params)
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    return params


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_takes_the_steps_of_train_sgd(momentum, nesterov):
    optimizer = SGD(momentum=momentum, nesterov=nesterov)
    plain = train.sgd(0.1, momentum=momentum, weight_decay=0.01, nesterov=nesterov)
    chex.assert_trees_all_equal(walk(optimizer(0.1, 0.01)), walk(plain))


def test_adam_adds_decay_to_the_gradient():
    plain = optax.chain(optax.add_decayed_weights(0.01), optax.adam(0.1))
    chex.assert_trees_all_equal(walk(Adam()(0.1, 0.01)), walk(plain))


def test_without_momentum_there_is_no_velocity():
    assert len(jax.tree.leaves(SGD(momentum=0.0)(0.1, 0.0).init(PARAMS))) == 0
    assert len(jax.tree.leaves(SGD()(0.1, 0.0).init(PARAMS))) == 2


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizers_are_mapped_over_fields_rates_and_decays(name):
    optimizer = OPTIMIZERS[name]
    leaves, structure = jax.tree.flatten(optimizer)
    halves = jax.tree.unflatten(structure, [leaf / 2 for leaf in leaves])
    both = jax.tree.map(lambda *rows: jnp.stack(rows), optimizer, halves)
    rates = jnp.array([0.1, 0.02])
    decays = jnp.array([0.0, 0.1])
    mapped = jax.vmap(lambda *row: walk(row[0](row[1], row[2])))(both, rates, decays)
    for j, one in enumerate((optimizer, halves)):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, j=j: leaf[j], mapped),
            walk(one(rates[j], decays[j])),
            rtol=1e-4,
        )


def test_momentum_may_be_a_traced_zero():
    traced = jax.jit(lambda momentum: walk(SGD(momentum=momentum)(0.1, 0.0)))(0.0)
    chex.assert_trees_all_close(traced, walk(SGD(momentum=0.0)(0.1, 0.0)), rtol=1e-6)


def test_a_schedule_is_a_learning_rate():
    schedule = train.step_decay(0.1, every=2)
    plain = train.sgd(schedule, weight_decay=0.0)
    chex.assert_trees_all_equal(walk(SGD()(schedule, 0.0)), walk(plain))


def test_optimizers_refuse_values_out_of_range():
    with pytest.raises(InputError, match=r"momentum must be in \[0, 1\), got 1"):
        SGD(momentum=1)
    with pytest.raises(InputError, match="b2 must be in"):
        Adam(b2=-0.1)
    with pytest.raises(InputError, match="eps must be positive"):
        Adam(eps=0)
    with pytest.raises(InputError, match="weight_decay must be finite and not neg"):
        Adam()(0.1, -1.0)
    with pytest.raises(InputError, match="learning_rate must be finite and not neg"):
        Adam()(float("nan"), 0.0)
    with pytest.raises(InputError, match="nesterov must be True or False"):
        SGD(nesterov=1)


def test_optimizers_by_name_are_values():
    assert {
        name: type(optimizer) for name, optimizer in optimizers.OPTIMIZERS.items()
    } == {"sgd": SGD, "adam": Adam}
    assert hash(SGD(momentum=0.9)) == hash(OPTIMIZERS["sgd"])
