"""Composition: masks, spectral bounds and filters of methods, nested and stored."""

import dataclasses
import json
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import methods
from unlearn_jax.attacks import PGD
from unlearn_jax.filters import Mask, masked_renormalization
from unlearn_jax.methods import (
    AMUN,
    FineTune,
    Identity,
    Influence,
    RandomLabel,
    Restricted,
    Saliency,
    SpectralBound,
    constrained,
    filtered,
    finetune_on,
    masked,
    sequence,
    unlearn_sequence,
)
from unlearn_jax.train import fetch_from, init_state
from unlearn_jax.transforms import freeze_outside
from unlearn_jax.types import InputError
from unlearn_jax.values import (
    fields_of,
    from_json,
    is_traceable,
    replace,
    to_json,
    value,
)

FORGET = np.isin(np.arange(60), [3, 7, 11, 20, 33, 58])
OPTIONS = {"num_epochs": 2, "batch_size": 16, "learning_rate": 0.05}
MAX_NORM = 0.5
FILTERED = filtered(Identity(), Mask())


@value
class Renormalization:
    """A filter that removes the forgotten classes."""

    kind: Literal["mask"] = "mask"

    def __call__(self, probs, means, forgotten):
        del means
        return masked_renormalization(probs, forgotten)


@pytest.fixture(scope="module")
def problem(tiny, blobs):
    variables = jax.jit(tiny.init)(jax.random.key(1))
    return methods.make_problem(tiny, variables, blobs, FORGET)


def has_moved(problem, variables):
    return jax.tree.map(
        lambda new, old: new != old, variables.params, problem.variables.params
    )


def norms(variables):
    return [np.linalg.norm(layer["kernel"], 2) for layer in variables.params.values()]


def test_masked_method_trains_with_gradients_frozen_outside_the_mask(problem, key):
    method = FineTune(**OPTIONS)
    saliency = Saliency(fraction=0.3)
    mask = methods.saliency_mask(problem, fraction=0.3, batch_size=16)
    got, info = masked(method, saliency)(jax.random.clone(key), problem)
    expected, plain = finetune_on(
        key,
        problem,
        method,
        data=problem.train,
        member=problem.retain,
        num_samples=problem.num_retain,
        fetch=fetch_from(),
        wrap_tx=lambda tx: freeze_outside(tx, mask),
    )
    chex.assert_trees_all_equal(got, expected)
    chex.assert_trees_all_equal(has_moved(problem, got), mask)
    assert info.num_gradients == plain.num_gradients + problem.num_forget


def test_masked_retraining_starts_at_the_original_outside_the_mask(problem, key):
    method = masked(methods.Retrain(**OPTIONS), Saliency(fraction=0.3))
    restriction = method.restriction(problem)
    drawn = init_state(key, problem.model, method.tx(1)).variables
    expected, info = finetune_on(
        key,
        dataclasses.replace(problem, variables=restriction.project(drawn)),
        method,
        data=problem.train,
        member=problem.retain,
        num_samples=problem.num_retain,
        fetch=fetch_from(),
        restriction=restriction,
    )
    got, masked_info = method(jax.random.clone(key), problem)
    chex.assert_trees_all_equal(got, expected)
    chex.assert_trees_all_equal(masked_info, info)


def test_saliency_resets_what_a_method_without_training_moves_outside(problem, key):
    method = Influence(num_samples=10)
    restricted = masked(method, Saliency(fraction=0.3))
    assert restricted == Restricted(method=method, constraint=Saliency(fraction=0.3))
    got, info = restricted(jax.random.clone(key), problem)
    full, plain = method(key, problem)
    mask = methods.saliency_mask(problem, fraction=0.3)
    chex.assert_trees_all_equal(
        got.params,
        jax.tree.map(jnp.where, mask, full.params, problem.variables.params),
    )
    assert info.num_gradients == plain.num_gradients + problem.num_forget


def test_bound_holds_after_training_and_without(problem, key):
    assert max(norms(problem.variables)) > 1.1 * MAX_NORM
    for method in (FineTune(**OPTIONS), Identity()):
        bounded = constrained(method, MAX_NORM, clip_period=2)
        variables, _ = jax.jit(bounded)(jax.random.clone(key), problem)
        assert max(norms(variables)) <= 1.006 * MAX_NORM


@pytest.mark.parametrize("method", [FineTune(**OPTIONS), Identity()], ids=type)
def test_bound_holds_whatever_the_order_of_composition(method, problem, key):
    saliency = Saliency(fraction=0.3)
    first = masked(constrained(method, MAX_NORM, clip_period=2), saliency)
    last = constrained(masked(method, saliency), MAX_NORM, clip_period=2)
    results = []
    for composed in (first, last):
        variables, _ = jax.jit(composed)(jax.random.clone(key), problem)
        assert max(norms(variables)) <= 1.006 * MAX_NORM
        results.append(variables)
    chex.assert_trees_all_equal(*results)


@pytest.mark.parametrize(
    ("compose", "message"),
    [
        (lambda: masked(AMUN(), 0.5), "a constraint is a value"),
        (lambda: masked("amun", Saliency()), "a method is a value"),
        (lambda: masked(AMUN, Saliency()), "a method is a value"),
        (lambda: FineTune(constraints=(3,)), "constraints must be values"),
        (lambda: FineTune(optimizer="adam"), "optimizer must be a value"),
        (lambda: FineTune(augment=None), "augment must be a name"),
        (lambda: AMUN(attack="pgd"), "attack must be of type PGD"),
        (lambda: sequence("amun", [FORGET]), "a method is a value"),
        (
            lambda: sequence(Identity(), [FORGET], attack="pgd"),
            "attack must be of type PGD",
        ),
        (
            lambda: unlearn_sequence(0, Identity(), 0, [FORGET], attack="pgd"),
            "attack must be a PGD",
        ),
        (lambda: sequence(FILTERED, [FORGET]), "a filter comes last"),
        (lambda: filtered(FILTERED, Mask()), "a filter comes last"),
        (lambda: Restricted(method=FILTERED, constraint=3), "a filter comes last"),
        (lambda: Restricted(method=Identity(), constraint=4), "a constraint is a val"),
        (lambda: unlearn_sequence(0, "amun", 0, [FORGET]), "a method is a value"),
    ],
)
def test_parts_that_are_not_values_are_refused(compose, message):
    with pytest.raises(InputError, match=message):
        compose()


def test_constraints_follow_the_order_of_composition(problem, key):
    method = constrained(masked(AMUN(**OPTIONS), Saliency(fraction=0.5)), 2.0)
    assert method.constraints == (Saliency(fraction=0.5), SpectralBound(max_norm=2.0))
    assert method == dataclasses.replace(method)
    assert hash(method) == hash(dataclasses.replace(method))
    assert is_traceable(method, "fraction")
    assert fields_of(method)["max_norm"] == 2.0
    assert replace(method, max_norm=3.0).constraints[1].max_norm == 3.0
    assert methods.METHODS["salun"] == masked(
        RandomLabel(learning_rate=0.013), Saliency()
    )
    assert methods.METHODS["amun_salun"].constraints == (Saliency(),)


def test_filters_and_sequences_pass_constraints_on(problem):
    saliency = Saliency(fraction=0.2)
    method = masked(FineTune(), saliency)
    filter = Renormalization()
    requests = np.stack([FORGET, ~FORGET])
    assert masked(filtered(FineTune(), filter), saliency) == filtered(method, filter)
    outer = masked(sequence(FineTune(), requests), saliency)
    assert outer == sequence(method, requests.copy())
    assert hash(outer) == hash(sequence(method, requests.copy()))
    assert outer != sequence(method, requests[::-1])


def test_fractions_share_one_program(problem, key):
    num_traces = 0

    @jax.jit
    def run(key, method, problem):
        nonlocal num_traces
        num_traces += 1
        return method(key, problem)

    method = masked(FineTune(**OPTIONS), Saliency(fraction=0.25))
    for fraction in (0.25, 0.5):
        variables, _ = run(
            jax.random.clone(key), replace(method, fraction=fraction), problem
        )
        mask = methods.saliency_mask(problem, fraction=fraction, batch_size=16)
        chex.assert_trees_all_equal(has_moved(problem, variables), mask)
    assert num_traces == 1


def test_filtered_method_predicts_through_the_filter(tiny, blobs, key):
    variables = jax.jit(tiny.init)(jax.random.key(1))
    problem = methods.make_problem(tiny, variables, blobs, blobs.labels == 1)
    method = filtered(FineTune(**OPTIONS), Renormalization())
    unlearned, info = method(jax.random.clone(key), problem)
    plain, cost = FineTune(**OPTIONS)(key, problem)
    chex.assert_trees_all_equal((unlearned, info), (plain, cost))
    apply_fn = method.apply_fn(problem, unlearned)
    log_probs = jax.jit(apply_fn)(unlearned, blobs.images)
    logits = tiny.apply(unlearned, blobs.images)
    probs = np.asarray(jax.nn.softmax(logits)) * [1, 0, 1]
    np.testing.assert_allclose(
        np.exp(log_probs), probs / probs.sum(-1, keepdims=True), rtol=1e-4
    )
    assert np.all(log_probs[:, 1] == -np.inf)


@pytest.mark.parametrize(
    "method",
    [
        masked(AMUN(attack=PGD(num_steps=7)), Saliency(fraction=0.2, leak=True)),
        constrained(masked(RandomLabel(order="forget_first"), Saliency()), 0.7),
        masked(constrained(Influence(alpha=2), 0.7, clip_period=3), Saliency()),
        filtered(masked(FineTune(), Saliency()), Renormalization()),
        filtered(Identity(), Renormalization()),
    ],
    ids=["AMUN+SalUn", "SalUn in a bound", "not trained", "filter", "filter alone"],
)
def test_composition_goes_to_json_and_back(method):
    assert from_json(to_json(method)) == method


def test_a_sequence_goes_to_json_with_its_requests():
    several = sequence(FineTune(), np.stack([FORGET, ~FORGET]))
    assert from_json(json.loads(json.dumps(to_json(several)))) == several


@pytest.mark.parametrize("requests", [3, [True, False], np.eye(2, dtype=int)])
def test_requests_that_are_no_masks_are_refused(requests):
    with pytest.raises(InputError, match=r"requests must be bool masks \[K, N\]"):
        sequence(FineTune(), requests)


def test_values_without_json_form_are_refused():
    with pytest.raises(InputError, match="cannot be stored as JSON"):
        to_json(filtered(Identity(), lambda probs, means, forgotten: probs))


@pytest.mark.parametrize("filter", ["mask", Mask, None])
def test_what_is_no_filter_is_refused(filter):
    with pytest.raises(InputError, match=r"filter must be a value such as Mask\(\)"):
        filtered(Identity(), filter)


def test_composed_methods_can_be_sequenced(problem, key):
    parts = [[3, 7], [11, 20], [33, 58]]
    requests = np.stack([np.isin(np.arange(60), part) for part in parts])
    method = sequence(masked(FineTune(**OPTIONS), Saliency(fraction=0.1)), requests)
    variables, info = jax.jit(method)(key, problem)
    chex.assert_tree_all_finite(variables)
    cost = methods.FineTune(**OPTIONS)
    steps = [-(-(60 - 2 * (k + 1)) // cost.batch_size) for k in range(3)]
    expected = [2 * num_steps * cost.batch_size + 2 for num_steps in steps]
    np.testing.assert_array_equal(info.num_gradients, expected)


def test_impossible_bounds_are_refused():
    for options, message in (
        ({"max_norm": 0.0}, "max_norm must be positive"),
        ({"max_norm": -1.0}, "max_norm must be positive"),
        ({"max_norm": 1.0, "clip_period": 0}, "clip_period must be a pos"),
    ):
        with pytest.raises(InputError, match=message):
            SpectralBound(**options)
