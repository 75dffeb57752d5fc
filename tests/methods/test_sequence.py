"""Sequences of requests: the problem and adversarial set of each, and a plain loop."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import methods, models
from unlearn_jax.attacks import PGD, Doubling
from unlearn_jax.methods import sequence, unlearn_sequence
from unlearn_jax.types import Dataset, InputError, Problem, UnlearnInfo

PARTS = np.array([[3, 20], [7, 58], [11, 33]])
REQUESTS = np.stack([np.isin(np.arange(60), part) for part in PARTS])
FORGET = REQUESTS.any(0)
OPTIONS = {"num_epochs": 2, "batch_size": 8, "learning_rate": 0.1}
ATTACK = PGD(num_steps=5, search=Doubling(num_radii=8))


@pytest.fixture(scope="module")
def problem(blobs):
    model = models.from_functions(
        lambda key: jax.random.normal(key, (16, 3)),
        lambda w, images: images.reshape(len(images), -1) @ w,
    )
    bare = methods.make_problem(model, model.init(jax.random.key(4)), blobs, FORGET)
    return methods.make_problem(
        model, bare.variables, blobs, FORGET, methods.attack_forget_set(bare, ATTACK)
    )


def test_requests_may_be_a_list(problem):
    method = methods.FineTune(**OPTIONS)
    as_list = sequence(method, REQUESTS.tolist())
    assert as_list == sequence(method, REQUESTS)
    key = jax.random.key(5)
    chex.assert_trees_all_equal(
        methods.unlearn(key, as_list, problem),
        methods.unlearn(jax.random.clone(key), sequence(method, REQUESTS), problem),
    )


def spy(log):
    """A method that logs its arguments and moves the weights by one."""

    def run(key, problem):
        log.append((jax.random.key_data(key), problem))
        moved = problem.variables._replace(params=problem.variables.params + 1)
        return moved, UnlearnInfo(jnp.zeros(1), jnp.asarray(len(log), jnp.int32))

    return run


@pytest.mark.parametrize("adaptive", [False, True])
def test_each_request_gets_its_own_problem(problem, key, adaptive):
    log = []
    variables, info = unlearn_sequence(
        jax.random.clone(key),
        spy(log),
        problem,
        REQUESTS,
        adaptive=adaptive,
        attack=ATTACK,
    )
    np.testing.assert_array_equal(info.num_gradients, [1, 2, 3])
    everything = np.flatnonzero(FORGET)
    for k, (key_data, current) in enumerate(log):
        np.testing.assert_allclose(
            variables.params[k], problem.variables.params + (k + 1), rtol=1e-6
        )
        np.testing.assert_allclose(
            current.variables.params, problem.variables.params + k, rtol=1e-6
        )
        np.testing.assert_array_equal(current.forget, REQUESTS[k])
        np.testing.assert_array_equal(current.retain, ~REQUESTS[: k + 1].any(0))
        assert (current.num_forget, current.num_removed, current.num_retain) == (
            2,
            2 * k,
            60 - 2 * (k + 1),
        )
        np.testing.assert_array_equal(
            key_data, jax.random.key_data(jax.random.fold_in(jax.random.clone(key), k))
        )
        if adaptive:
            expected = methods.attack_forget_set(current, ATTACK)
        else:
            rows = np.searchsorted(everything, PARTS[k])
            expected = jax.tree.map(
                lambda leaf, rows=rows: leaf[rows], problem.adversarial
            )
        chex.assert_trees_all_close(current.adversarial, expected, rtol=1e-5, atol=1e-6)


def test_attack_runs_once_on_the_original_model(problem, key):
    bare = Problem(
        problem.model,
        problem.variables,
        problem.train,
        problem.forget,
        problem.num_forget,
    )
    given, made, absent = [], [], []
    k_given, k_made, k_absent = jax.random.split(key, 3)
    unlearn_sequence(k_given, spy(given), problem, REQUESTS)
    unlearn_sequence(k_made, spy(made), bare, REQUESTS, attack=ATTACK)
    unlearn_sequence(k_absent, spy(absent), bare, REQUESTS)
    for (_, first), (_, second), (_, bare) in zip(given, made, absent, strict=True):
        chex.assert_trees_all_close(
            first.adversarial, second.adversarial, rtol=1e-5, atol=1e-6
        )
        assert bare.adversarial is None


def test_sequence_equals_the_loop_by_hand(problem, key):
    method = methods.AMUN(**OPTIONS)
    run = jax.jit(
        lambda key, problem, requests: unlearn_sequence(key, method, problem, requests)
    )
    stacked, info = run(jax.random.clone(key), problem, REQUESTS)
    variables = problem.variables
    for k, request in enumerate(REQUESTS):
        removed = REQUESTS[:k].any(0) if k else None
        rows = np.searchsorted(np.flatnonzero(FORGET), PARTS[k])
        adversarial = jax.tree.map(
            lambda leaf, rows=rows: leaf[rows], problem.adversarial
        )
        current = methods.make_problem(
            problem.model,
            variables,
            problem.train,
            request,
            adversarial,
            removed=removed,
        )
        variables, cost = jax.jit(method)(
            jax.random.fold_in(jax.random.clone(key), k), current
        )
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, k=k: leaf[k], stacked),
            variables,
            rtol=1e-5,
            atol=1e-6,
        )
        assert info.num_gradients[k] == cost.num_gradients
    assert info.losses.shape == (3, 2)


def test_later_requests_read_no_forgotten_sample(problem, key):
    """The first request is poisoned from the start: only later ones could notice."""
    images = np.where(
        REQUESTS[0][:, None, None, None], np.nan, np.asarray(problem.train.images)
    ).astype("f4")
    poisoned = Problem(
        problem.model,
        problem.variables,
        Dataset(images, problem.train.labels),
        problem.forget,
        6,
        problem.adversarial,
    )
    method = methods.FineTune(**OPTIONS)
    run = jax.jit(
        lambda key, problem: unlearn_sequence(key, method, problem, REQUESTS)[0]
    )
    clean = run(jax.random.clone(key), problem)
    chex.assert_tree_all_finite(clean)
    chex.assert_trees_all_equal(clean, run(key, poisoned))


def test_bad_input_is_refused(problem, key):
    method = methods.Identity()
    for requests, message in (
        (REQUESTS.astype(int), "must be bool"),
        (REQUESTS[:, :-1], "must be bool"),
        (REQUESTS[[0, 1, 1]], "disjoint, of 2 samples each"),
        (REQUESTS[:2], "disjoint, of 3 samples each"),
        (
            np.concatenate([REQUESTS, REQUESTS[:1]]),
            "cannot be split into 4 requests of equal size",
        ),
    ):
        with pytest.raises(InputError, match=message):
            unlearn_sequence(jax.random.clone(key), method, problem, requests)


@pytest.mark.parametrize("adaptive", [False, True])
def test_sequence_value_gives_the_last_model(problem, key, adaptive):
    method = sequence(
        methods.AMUN(**OPTIONS), REQUESTS, attack=ATTACK, adaptive=adaptive
    )
    steps, costs = unlearn_sequence(
        jax.random.clone(key),
        method.method,
        problem,
        REQUESTS,
        attack=ATTACK,
        adaptive=adaptive,
    )
    variables, info = method(key, problem)
    chex.assert_trees_all_equal(variables, jax.tree.map(lambda leaf: leaf[-1], steps))
    chex.assert_trees_all_equal(info, costs)


def test_sequence_of_changing_requests_is_compiled_once(problem, key):
    """The requests are leaves of the value, and so is the learning rate."""
    method = sequence(methods.FineTune(**OPTIONS), REQUESTS)
    num_traces = 0

    @jax.jit
    def run(key, method, problem):
        nonlocal num_traces
        num_traces += 1
        return method(key, problem)

    forward, info = run(jax.random.clone(key), method, problem)
    faster = dataclasses.replace(
        method,
        method=dataclasses.replace(method.method, learning_rate=0.2),
        requests=REQUESTS[::-1],
    )
    backward, _ = run(jax.random.clone(key), faster, problem)
    assert num_traces == 1
    assert info.losses.shape == (3, 2)
    assert not np.allclose(forward.params, backward.params)
    by_hand, _ = unlearn_sequence(key, method.method, problem, REQUESTS)
    np.testing.assert_allclose(forward.params, by_hand.params[-1], rtol=1e-5, atol=1e-6)
