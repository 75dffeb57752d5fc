"""Requests in a row: what each one sees, whose adversarial examples it gets, and the loop by hand."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import attacks, methods, models
from unlearn_jax.methods.sequence import unlearn_sequence
from unlearn_jax.types import Dataset, InputError, Problem, UnlearnInfo

PARTS = np.array([[3, 20], [7, 58], [11, 33]])
REQUESTS = np.stack([np.isin(np.arange(60), part) for part in PARTS])
FORGET = REQUESTS.any(0)
KNOBS = {"num_epochs": 2, "batch_size": 8, "learning_rate": 0.1}
ATTACK = attacks.PGD(num_steps=5, search=attacks.Doubling(num_radii=8))


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


def spy(log):
    """A method that keeps what it is given and moves the weights by one."""

    def run(key, problem):
        log.append((jax.random.key_data(key), problem))
        moved = problem.variables._replace(params=problem.variables.params + 1)
        return moved, UnlearnInfo(jnp.zeros(1), jnp.asarray(len(log), jnp.int32))

    return run


@pytest.mark.parametrize("adaptive", [False, True])
def test_each_request_sees_its_own_problem(problem, key, adaptive):
    log = []
    variables, info = unlearn_sequence(
        spy(log),
        jax.random.clone(key),
        problem,
        REQUESTS,
        adaptive=adaptive,
        attack=ATTACK,
    )
    np.testing.assert_array_equal(info.num_gradients, [1, 2, 3])
    everything = np.flatnonzero(FORGET)
    for k, (key_data, now) in enumerate(log):
        np.testing.assert_allclose(
            variables.params[k], problem.variables.params + (k + 1), rtol=1e-6
        )
        np.testing.assert_allclose(
            now.variables.params, problem.variables.params + k, rtol=1e-6
        )
        np.testing.assert_array_equal(now.forget, REQUESTS[k])
        np.testing.assert_array_equal(now.retain, ~REQUESTS[: k + 1].any(0))
        assert (now.num_forget, now.num_removed, now.num_retain) == (
            2,
            2 * k,
            60 - 2 * (k + 1),
        )
        np.testing.assert_array_equal(
            key_data, jax.random.key_data(jax.random.fold_in(jax.random.clone(key), k))
        )
        if adaptive:
            expected = methods.attack_forget_set(now, ATTACK)
        else:
            rows = np.searchsorted(everything, PARTS[k])
            expected = jax.tree.map(
                lambda leaf, rows=rows: leaf[rows], problem.adversarial
            )
        chex.assert_trees_all_close(now.adversarial, expected, rtol=1e-5, atol=1e-6)


def test_adversarial_examples_are_made_once_on_the_original_if_asked_for(problem, key):
    bare = Problem(
        problem.model,
        problem.variables,
        problem.train,
        problem.forget,
        problem.num_forget,
    )
    given, made, absent = [], [], []
    k_given, k_made, k_absent = jax.random.split(key, 3)
    unlearn_sequence(spy(given), k_given, problem, REQUESTS)
    unlearn_sequence(spy(made), k_made, bare, REQUESTS, attack=ATTACK)
    unlearn_sequence(spy(absent), k_absent, bare, REQUESTS)
    for (_, one), (_, two), (_, none) in zip(given, made, absent, strict=True):
        chex.assert_trees_all_close(
            one.adversarial, two.adversarial, rtol=1e-5, atol=1e-6
        )
        assert none.adversarial is None


def test_is_the_loop_by_hand_and_jits(problem, key):
    method = methods.amun(**KNOBS)
    run = jax.jit(
        lambda key, problem, requests: unlearn_sequence(method, key, problem, requests)
    )
    stacked, info = run(jax.random.clone(key), problem, REQUESTS)
    variables = problem.variables
    for k, request in enumerate(REQUESTS):
        removed = REQUESTS[:k].any(0) if k else None
        rows = np.searchsorted(np.flatnonzero(FORGET), PARTS[k])
        found = jax.tree.map(lambda leaf, rows=rows: leaf[rows], problem.adversarial)
        now = methods.make_problem(
            problem.model, variables, problem.train, request, found, removed=removed
        )
        variables, cost = jax.jit(method)(
            jax.random.fold_in(jax.random.clone(key), k), now
        )
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, k=k: leaf[k], stacked),
            variables,
            rtol=1e-5,
            atol=1e-6,
        )
        assert info.num_gradients[k] == cost.num_gradients
    assert info.losses.shape == (3, 2)


def test_never_reads_what_was_forgotten_before(problem, key):
    """Poisoned from the start: only those who read it late would notice."""
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
    method = methods.finetune(**KNOBS)
    run = jax.jit(
        lambda key, problem: unlearn_sequence(method, key, problem, REQUESTS)[0]
    )
    clean = run(jax.random.clone(key), problem)
    chex.assert_tree_all_finite(clean)
    chex.assert_trees_all_equal(clean, run(key, poisoned))


def test_bad_input(problem, key):
    method = methods.nothing()
    for requests, message in (
        (REQUESTS.astype(int), "must be bool"),
        (REQUESTS[:, :-1], "must be bool"),
        (REQUESTS[[0, 1, 1]], "disjoint, of 2 samples each"),
        (REQUESTS[:2], "disjoint, of 3 samples each"),
        (np.concatenate([REQUESTS, REQUESTS[:1]]), "no 4 requests of equal size"),
    ):
        with pytest.raises(InputError, match=message):
            unlearn_sequence(method, jax.random.clone(key), problem, requests)
