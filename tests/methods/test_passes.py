"""Fine-tuning by passes: which samples are read, how often, at which learning rate."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.problems import unchecked_problem

from unlearn_jax import methods, models
from unlearn_jax.methods.base import default_loss, finetune_on
from unlearn_jax.methods.passes import Pass, finetune_passes
from unlearn_jax.optimizers import SGD
from unlearn_jax.train import fetch_from
from unlearn_jax.types import Variables

FORGET = np.isin(np.arange(60), [3, 7, 11, 20, 33, 58])
COUNTER = models.from_functions(
    lambda key: jnp.zeros(60), lambda params, images: images
)
PLAIN = {
    "optimizer": SGD(momentum=0.0),
    "weight_decay": 0.0,
    "learning_rate": 1.0,
}


@pytest.fixture
def counting(blobs):
    """A problem whose parameters, one per sample, count the reads of each sample."""
    return unchecked_problem(COUNTER, Variables(jnp.zeros(60), {}), blobs, FORGET)


def read(data, index, key):
    del data, key
    return index


def count(weight):
    def loss_fn(variables, index, key):
        del key
        if isinstance(index, tuple):
            return (
                -sum(
                    w * jnp.sum(variables.params[i])
                    for w, i in zip(weight, index, strict=True)
                ),
                {},
            )
        return -weight * jnp.sum(variables.params[index]), {}

    return loss_fn


def test_pass_reads_its_samples_once_in_each_of_its_epochs(counting, key):
    first = Pass(count(1.0), read, None, counting.forget, 6, batch_size=3, num_epochs=2)
    second = Pass(count(100.0), read, None, counting.retain, 54)
    options = methods.FineTuning(**PLAIN, num_epochs=3, batch_size=9)
    variables, info = jax.jit(
        lambda k, p: finetune_passes(k, p, options, [first, second])
    )(key, counting)
    np.testing.assert_array_equal(variables.params, np.where(FORGET, 2, 300))
    assert info.losses.shape == (3,)
    assert info.num_gradients == 2 * 6 + 3 * 54
    # the loss of an epoch is the mean over its last pass: the first step of the third
    # epoch reads counts of 2
    np.testing.assert_allclose(info.losses[2], -100 * 9 * 200.0, rtol=1e-5)


@settings(max_examples=8, deadline=None)
@given(last=st.integers(0, 5), every=st.integers(0, 3))
def test_rate_decays_between_epochs_of_any_length(blobs, last, every):
    problem = unchecked_problem(COUNTER, Variables(jnp.zeros(60), {}), blobs, FORGET)
    first = Pass(
        count(1.0), read, None, problem.forget, 6, batch_size=3, num_epochs=last
    )
    second = Pass(count(1.0), read, None, problem.retain, 54)
    options = methods.FineTuning(
        **PLAIN, num_epochs=4, batch_size=27, decay_every=every, decay_factor=0.5
    )
    variables, _ = finetune_passes(
        jax.random.key(last), problem, options, [first, second]
    )
    rates = [0.5 ** (epoch // every) if every else 1.0 for epoch in range(4)]
    np.testing.assert_allclose(
        variables.params, np.where(FORGET, sum(rates[:last]), sum(rates)), rtol=1e-5
    )


def test_second_set_is_read_cyclically_with_the_first(counting, key):
    part = Pass(
        count((1.0, 100.0)),
        read,
        None,
        counting.retain,
        54,
        batch_size=9,
        second=counting.forget,
        second_batch_size=5,
    )
    options = methods.FineTuning(**PLAIN, num_epochs=2)
    variables, info = finetune_passes(key, counting, options, [part])
    np.testing.assert_array_equal(variables.params[~FORGET], 2)
    np.testing.assert_array_equal(
        variables.params[FORGET], 2 * 5 * 100
    )  # 6 steps of 5 are 5 rounds of 6
    assert info.num_gradients == 2 * (54 + 30)


def test_data_is_refreshed_from_the_model_at_the_start_of_a_pass(counting, key):
    def halve(variables, index, key):
        del index, key
        return 0.25 * jnp.sum(variables.params**2), {}

    def add_data(variables, batch, key):
        del key
        return -jnp.sum(batch * variables.params), {}

    def as_it_is(data, index, key):
        del index, key
        return data

    last = Pass(
        add_data,
        as_it_is,
        None,
        counting.forget,
        6,
        3,
        refresh=lambda variables: variables.params + 1,
    )
    options = methods.FineTuning(**PLAIN, num_epochs=3, batch_size=54)
    variables, _ = finetune_passes(
        key, counting, options, [Pass(halve, read, None, counting.retain, 54), last]
    )
    expected = 0.0
    for _ in range(3):
        expected /= 2
        expected += 2 * (
            expected + 1
        )  # two steps, the data of both from before the first
    np.testing.assert_allclose(variables.params, np.full(60, expected), rtol=1e-6)


def test_one_pass_over_a_set_equals_fine_tuning_on_it(tiny, tiny_variables, blobs, key):
    problem = unchecked_problem(tiny, tiny_variables, blobs, FORGET)
    options = methods.FineTuning(
        num_epochs=4, batch_size=54, decay_every=2, learning_rate=0.1
    )
    part = Pass(
        default_loss(tiny, options), fetch_from(), problem.train, problem.retain, 54
    )
    k_a, k_b = jax.random.split(key)
    passed, info = finetune_passes(k_a, problem, options, [part])
    tuned, by_hand = finetune_on(
        k_b,
        problem,
        options,
        data=problem.train,
        member=problem.retain,
        num_samples=54,
        fetch=fetch_from(),
    )
    chex.assert_trees_all_close((passed, info), (tuned, by_hand), rtol=1e-4, atol=1e-6)
