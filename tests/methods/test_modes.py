"""Evaluation and training mode of each pass, with a model whose two modes differ.

In training mode the logits are doubled, and the state writes down what passed: a digit
of base 3 for each batch, 1 for retained samples and 2 for samples to forget.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.method_checks import HALF, IGNORANT, LINEAR, descend, gradient, softmax
from support.problems import unchecked_problem

from unlearn_jax import methods
from unlearn_jax.methods.bad_teacher import BadTeacher
from unlearn_jax.methods.fisher import FisherForgetting
from unlearn_jax.methods.influence import Influence
from unlearn_jax.methods.masked_small_gradients import MaskedSmallGradients
from unlearn_jax.methods.neggrad_plus import NegGradPlus
from unlearn_jax.methods.scrub import SCRUB
from unlearn_jax.methods.ssd import SSD
from unlearn_jax.optimizers import SGD
from unlearn_jax.types import Model, Variables

WEIGHTS = np.random.default_rng(4).normal(size=(16, 3)).astype("f4")
FULL = {"batch_size": 30, "learning_rate": 0.3, "optimizer": SGD(momentum=0.9)}


def apply(variables, images):
    return LINEAR.apply(variables._replace(state={}), images)


def apply_train(variables, images, key):
    del key
    forgotten = jnp.any(images[:, 0, 0, 0] == 1)
    log = 3 * variables.state["log"] + 1 + forgotten.astype(jnp.int32)
    return 2 * apply(variables, images), {"log": log}


TWO_FACED = Model(LINEAR.init, apply, apply_train)
"""Training twice as steep as evaluation: a temperature of 1/2."""


@pytest.fixture
def train(blobs):
    """Half of the samples to forget, marked by their first pixel."""
    images = np.asarray(blobs.images).copy()
    images[:, 0, 0, 0] = HALF
    return blobs._replace(images=images)


@pytest.fixture
def problem(train):
    state = {"log": jnp.zeros((), jnp.int32)}
    return unchecked_problem(
        TWO_FACED, Variables(jnp.asarray(WEIGHTS), state), train, HALF
    )


@pytest.fixture
def plain(train):
    """The same without a training mode."""
    return unchecked_problem(LINEAR, Variables(jnp.asarray(WEIGHTS), {}), train, HALF)


def passed(variables):
    """The batches in their order, as a word: R for retained, F for forgotten."""
    return (
        np.base_repr(int(variables.state["log"]), 3).replace("1", "R").replace("2", "F")
    )


def test_the_student_of_scrub_trains_and_its_teacher_does_not(problem, train, key):
    options = {"gamma": 0.7, "alpha": 0.4, "temperature": 3.0, "forget_batch_size": 30}
    got, _ = SCRUB(**options, **FULL, num_epochs=3, num_max_epochs=2)(key, problem)

    def divergence(w, part):
        target = softmax(
            train.images[part].reshape(30, -1) @ WEIGHTS.astype("f8") / 3.0
        )
        return 9.0 * gradient(w, train.images[part], target, 1.5)

    def stay(w):
        return 0.7 * gradient(
            w, train.images[~HALF], train.labels[~HALF], 0.5
        ) + 0.4 * divergence(w, ~HALF)

    steps = [
        lambda w: -divergence(w, HALF),
        stay,
        lambda w: -divergence(w, HALF),
        stay,
        stay,
    ]
    np.testing.assert_allclose(
        got.params, descend(WEIGHTS, steps, 0.3), rtol=1e-4, atol=1e-5
    )
    assert passed(got) == "FRFRR"


def test_the_student_of_bad_teacher_trains_and_its_teachers_do_not(problem, train, key):
    options = {
        "retain_fraction": 1.0,
        "optimizer": SGD(),
        "batch_size": 60,
        "num_epochs": 2,
        "learning_rate": 0.9,
    }
    got, _ = BadTeacher(**options, temperature=2.0)(key, problem)
    x = train.images.reshape(60, -1).astype("f8")
    target = softmax(np.where(HALF[:, None], x @ IGNORANT, x @ WEIGHTS) / 2.0)
    steps = 2 * [lambda w: gradient(w, train.images, target, 1.0)]
    np.testing.assert_allclose(
        got.params, descend(WEIGHTS, steps, 0.9, weight_decay=0.0), rtol=1e-4, atol=1e-5
    )


def test_neggrad_plus_passes_retained_samples_first_and_keeps_the_state(
    problem, train, key
):
    got, _ = NegGradPlus(**FULL, alpha=0.8, num_epochs=2)(key, problem)

    def step(w):
        kept, gone = (
            gradient(w, train.images[part], train.labels[part], 0.5)
            for part in (~HALF, HALF)
        )
        return 0.8 * kept - 0.2 * gone

    np.testing.assert_allclose(
        got.params, descend(WEIGHTS, 2 * [step], 0.3), rtol=1e-4, atol=1e-5
    )
    assert passed(got) == "RFRF"


def test_masked_small_gradients_passes_retained_samples_first(problem, train, key):
    """Two batches of each for the gradients, then the fine-tuning."""
    got, _ = MaskedSmallGradients(kernels="all", num_epochs=2, batch_size=15)(
        jax.random.clone(key), problem
    )
    assert passed(got) == "RRFF" + "RR" + "RR"
    still = {
        "kernels": "all",
        "num_epochs": 1,
        "batch_size": 30,
        "learning_rate": 1e-30,
        "init_rate": 0.4,
    }
    moved = (
        np.abs(MaskedSmallGradients(**still)(key, problem)[0].params - WEIGHTS) > 1e-20
    )
    kept, gone = (
        gradient(WEIGHTS, train.images[part], train.labels[part], 0.5)
        for part in (~HALF, HALF)
    )
    smallest = np.argsort(np.abs(kept - gone), axis=None)[: round(0.4 * 48)]
    np.testing.assert_array_equal(np.flatnonzero(moved), np.sort(smallest))


@pytest.mark.parametrize(
    "method",
    [SSD(alpha=1.0), Influence(num_samples=8), FisherForgetting(alpha=1e-4)],
    ids=["ssd", "influence", "fisher"],
)
def test_second_order_methods_see_evaluation_mode(method, problem, plain, key):
    got, _ = method(jax.random.clone(key), problem)
    np.testing.assert_array_equal(got.params, method(key, plain)[0].params)
    assert not np.array_equal(got.params, WEIGHTS)
    assert passed(got) == "0"


def test_saliency_is_of_evaluation_mode_and_the_training_of_salun_is_not(
    problem, plain, key
):
    mask = methods.saliency_mask(problem, fraction=0.3)
    chex.assert_trees_all_equal(mask, methods.saliency_mask(plain, fraction=0.3))
    trained = methods.RandomLabel(batch_size=60, num_epochs=1, learning_rate=0.013)
    salun = methods.masked(trained, methods.Saliency(fraction=0.3))
    got, _ = salun(key, problem)
    np.testing.assert_array_equal(np.asarray(got.params) != WEIGHTS, mask)
    assert passed(got) == "F"


def test_frozen_statistics_mean_evaluation_mode(problem, plain, key):
    options = {"batch_size": 30, "num_epochs": 2, "batch_stats": "freeze"}
    got, _ = methods.FineTune(**options)(jax.random.clone(key), problem)
    np.testing.assert_array_equal(
        got.params, methods.FineTune(**options)(key, plain)[0].params
    )
    assert passed(got) == "0"
