"""Methods that learn from teachers: SCRUB and bad teacher."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.method_checks import (
    HALF,
    IGNORANT,
    descend,
    gradient,
    linear_problem,
    softmax,
    traced,
)

from unlearn_jax import methods, models
from unlearn_jax.losses import kl_from_logits
from unlearn_jax.methods.bad_teacher import BadTeacher, draw_members
from unlearn_jax.methods.scrub import SCRUB
from unlearn_jax.optimizers import SGD
from unlearn_jax.types import Dataset, InputError, Variables

FULL = {"batch_size": 30, "learning_rate": 0.3}


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 999),
    temperature=st.floats(0.5, 8.0),
    scale=st.floats(0.0, 30.0),
)
def test_kl_divergence_of_softened_logits_is_that_of_the_softened_distributions(
    seed, temperature, scale
):
    teacher, student = scale * np.random.default_rng(seed).normal(size=(2, 4, 3))
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    expected = np.sum(
        p * (np.log(np.maximum(p, 1e-300)) - np.log(np.maximum(q, 1e-300))), -1
    )
    got = kl_from_logits(
        jnp.asarray(teacher, "f4") / temperature,
        jnp.asarray(student, "f4") / temperature,
    )
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
    assert np.all(got >= -1e-5)


def test_scrub_matches_steps_away_from_and_toward_its_teacher(blobs, key):
    problem = linear_problem(blobs)
    numbers = {"gamma": 0.7, "alpha": 0.4, "temperature": 3.0}
    options = {
        "num_epochs": 3,
        "num_max_epochs": 2,
        "forget_batch_size": 30,
        "weight_decay": 0.1,
        **FULL,
    }
    got = traced(SCRUB, numbers, problem, key, 5 * 30, **options)
    teacher = np.asarray(problem.variables.params, "f8")

    def divergence(w, images):
        target = softmax(images.reshape(30, -1) @ teacher / 3.0)
        return 9.0 * gradient(w, images, target, 3.0)

    def leave(w):
        return -divergence(w, blobs.images[HALF])

    def stay(w):
        entropy = gradient(w, blobs.images[~HALF], blobs.labels[~HALF])
        return 0.7 * entropy + 0.4 * divergence(w, blobs.images[~HALF])

    expected = descend(teacher, [leave, stay, leave, stay, stay], 0.3, weight_decay=0.1)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_scrub_without_teacher_is_fine_tuning(blobs, key):
    problem, (k_a, k_b) = linear_problem(blobs), jax.random.split(key)
    bare, _ = SCRUB(**FULL, num_epochs=2, gamma=1.0, alpha=0.0, num_max_epochs=0)(
        k_a, problem
    )
    chex.assert_trees_all_close(
        bare,
        methods.FineTune(**FULL, num_epochs=2)(k_b, problem)[0],
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize(("reduction", "classes"), [("batch", 1), ("element", 3)])
def test_bad_teacher_follows_two_teachers(reduction, classes, blobs, key):
    problem = linear_problem(blobs)
    options = {
        "num_epochs": 3,
        "batch_size": 60,
        "retain_fraction": 1.0,
        "optimizer": SGD(),
        "reduction": reduction,
    }
    got = traced(
        BadTeacher,
        {"temperature": 2.0, "learning_rate": 0.9},
        problem,
        key,
        3 * 60,
        **options,
    )
    original, x = (
        np.asarray(problem.variables.params, "f8"),
        blobs.images.reshape(60, -1),
    )
    target = softmax(np.where(HALF[:, None], x @ IGNORANT, x @ original) / 2.0)
    steps = 3 * [lambda w: gradient(w, blobs.images, target, 2.0) / classes]
    np.testing.assert_allclose(
        got, descend(original, steps, 0.9, weight_decay=0.0), rtol=1e-4, atol=1e-5
    )


def test_bad_teacher_reads_the_same_part_of_the_retained_samples_in_every_epoch(key):
    """Sample ``i`` alone moves row ``i`` of the weights, once the bias has moved."""
    model = models.from_functions(
        lambda key: {"w": jnp.ones((16, 3)), "b": jnp.arange(3.0)},
        lambda params, images: (
            images.reshape(len(images), -1) @ params["w"] + params["b"][None]
        ),
    )
    train = Dataset(np.eye(16, dtype="f4").reshape(16, 4, 4, 1), np.zeros(16, "i4"))
    start = Variables({"w": jnp.zeros((16, 3)), "b": jnp.zeros(3)}, {})
    problem = methods.make_problem(model, start, train, np.arange(16) < 8)
    run = jax.jit(
        BadTeacher(num_epochs=4, batch_size=4, learning_rate=0.1, retain_fraction=0.5)
    )
    variables, info = run(key, problem)
    moved = np.any(np.asarray(variables.params["w"]) != 0, -1)
    assert info.num_gradients == 4 * (8 + 4)
    assert moved[:8].all()
    assert moved[8:].sum() == 4


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), count=st.sampled_from([0, 7, 30]))
def test_draw_members_draws_that_many_members(seed, count):
    drawn = np.asarray(draw_members(jax.random.key(seed), jnp.asarray(HALF), count))
    assert drawn.sum() == count
    assert not np.any(drawn & ~HALF)


def test_draw_members_is_uniform(key):
    draws = jax.vmap(lambda k: draw_members(k, jnp.asarray(HALF), 9))(
        jax.random.split(key, 2000)
    )
    assert np.all(np.abs(draws.mean(0)[HALF] - 0.3) < 5 * np.sqrt(0.21 / 2000))


def test_bad_values_are_refused():
    for factory, options, message in [
        (SCRUB, {"temperature": 0.0}, "temperature must be positive"),
        (SCRUB, {"gamma": -1.0}, "gamma must be"),
        (SCRUB, {"num_max_epochs": -1}, "must be an integer, 0 or more"),
        (SCRUB, {"forget_batch_size": 0}, "must be a positive integer"),
        (BadTeacher, {"temperature": -1.0}, "temperature must be"),
        (BadTeacher, {"retain_fraction": 1.1}, "retain_fraction must be"),
        (BadTeacher, {"reduction": "sum"}, "unknown reduction"),
    ]:
        with pytest.raises(InputError, match=message):
            factory(**options)
