"""Influence, Fisher and SSD against their formulas in NumPy, and at the edges."""

import importlib
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.problems import unchecked_problem

from unlearn_jax import methods, models, replicas
from unlearn_jax.methods import gradients
from unlearn_jax.methods.fisher import FisherForgetting
from unlearn_jax.methods.influence import Influence
from unlearn_jax.methods.ssd import SSD
from unlearn_jax.types import Dataset, InputError, Problem

LINEAR = models.from_functions(
    lambda key: jax.random.normal(key, (4, 3)),
    lambda weights, images: images.reshape(len(images), -1) @ weights,
)
FORGET = np.isin(np.arange(30), [1, 4, 9, 16, 25, 26])
REMOVED = np.isin(np.arange(30), [0, 7, 29])
RETAIN = ~(FORGET | REMOVED)
RNG = np.random.default_rng(3)
IMAGES = RNG.uniform(0, 1, (30, 2, 2, 1)).astype("f4")
LABELS = RNG.integers(0, 3, 30).astype("i4")
WEIGHTS = RNG.normal(size=(4, 3)).astype("f4")


def linear_problem(
    images=IMAGES, forget=FORGET, removed=REMOVED, labels=LABELS, weights=WEIGHTS
):
    variables = LINEAR.init(jax.random.key(0))._replace(
        params=jnp.asarray(weights, jnp.float32)
    )
    return unchecked_problem(
        LINEAR, variables, Dataset(images, labels), forget, removed=removed
    )


def probabilities(weights, images):
    logits = images.reshape(len(images), -1).astype(float) @ weights
    exps = np.exp(logits - logits.max(1, keepdims=True))
    return exps / exps.sum(1, keepdims=True)


def each_gradient(images, labels, weights=WEIGHTS):
    """``[N, 4, 3]``: x (p - e_y)^T of every sample."""
    x = images.reshape(len(images), -1).astype(float)
    return (
        x[:, :, None] * (probabilities(weights, images) - np.eye(3)[labels])[:, None, :]
    )


# --- sums over a set


def slow_fisher(images, labels, kind, per, size, weights=WEIGHTS):
    """The four diagonals, chunk by chunk: a sample, or a batch of ``size`` at most."""
    probs = probabilities(weights, images)
    options = (
        [(labels, np.ones(len(images)))]
        if kind == "true"
        else [(np.full(len(images), y), probs[:, y]) for y in range(3)]
    )
    total, parts = 0.0, 0
    chunks = [slice(i, i + 1) for i in range(len(images))]
    if per == "batch":
        chunks = [slice(i, i + size) for i in range(0, len(images), size)]
    for chunk in chunks:
        parts += 1
        for label, weight in options:
            total += (
                weight[chunk].mean()
                * each_gradient(images[chunk], label[chunk], weights).mean(0) ** 2
            )
    return total / parts


@pytest.mark.parametrize("per", ["sample", "batch"])
@pytest.mark.parametrize("labels", ["true", "model"])
def test_fisher_diagonal_equals_its_definition(labels, per):
    problem = linear_problem()
    batches = gradients.batches_of(
        gradients.members(problem.retain, problem.num_retain), 4
    )
    got = jax.jit(
        lambda p: gradients.fisher_diagonal(p, batches, labels=labels, per=per)
    )(problem)
    expected = slow_fisher(IMAGES[RETAIN], LABELS[RETAIN], labels, per, 4)
    np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [4, 100])
def test_mean_gradient_is_the_mean_over_the_set(batch_size):
    problem = linear_problem()
    got = gradients.mean_gradient(
        problem, problem.forget, problem.num_forget, batch_size=batch_size
    )
    np.testing.assert_allclose(
        got, each_gradient(IMAGES[FORGET], LABELS[FORGET]).mean(0), rtol=1e-5, atol=1e-7
    )
    each = gradients.example_gradients(problem, jnp.array([5, 2, 5]))
    np.testing.assert_allclose(
        each, each_gradient(IMAGES[[5, 2, 5]], LABELS[[5, 2, 5]]), rtol=1e-5, atol=1e-7
    )


@settings(max_examples=12, deadline=None)
@given(count=st.integers(1, 13), size=st.integers(1, 15))
def test_batches_hold_every_sample_once_and_no_other(count, size):
    index = 3 * np.arange(count) + 1
    batches = gradients.batches_of(jnp.asarray(index), size)
    position, weight = (
        np.asarray(batches.position).ravel(),
        np.asarray(batches.weight).ravel(),
    )
    np.testing.assert_array_equal(position[weight == 1], index)
    assert set(position[weight == 0]) <= set(index)
    assert batches.position.shape[1] <= size
    assert len(position) < count + size


# --- what all of them share

TENTH = np.arange(60) % 10 == 3

TRACED = {
    "influence": (Influence, {"alpha": 0.7, "damping": 0.2}),
    "fisher": (
        lambda **k: FisherForgetting(shared=True, **k),
        {"alpha": 1e-3, "cap": 20.0, "power": 0.25},
    ),
    "ssd": (SSD, {"alpha": 1.3, "dampening": 0.6}),
}


@pytest.mark.parametrize("name", TRACED)
def test_traced_fields_give_what_static_ones_give(name, key):
    factory, chosen = TRACED[name]
    problem = linear_problem()
    static, _ = jax.jit(factory(**chosen))(jax.random.clone(key), problem)
    traced, _ = jax.jit(lambda values, key: factory(**values)(key, problem))(
        chosen, key
    )
    chex.assert_trees_all_close(static, traced, rtol=1e-5, atol=1e-6)


def test_methods_map_over_problems(key):
    problem, keys = linear_problem(removed=np.zeros(30, bool)), jax.random.split(key, 3)
    masks = jnp.stack([jnp.roll(problem.forget, shift) for shift in range(3)])

    def one(item, train):
        key, mask = item
        moved = Problem(LINEAR, problem.variables, train, mask, problem.num_forget)
        several = Influence(num_samples=5), FisherForgetting(), SSD(alpha=1.1)
        return [
            method(k, moved)[0]
            for k, method in zip(jax.random.split(key, 3), several, strict=True)
        ]

    by_map, by_vmap = (
        replicas.mapper(form, num_models=3, devices=1) for form in ("map", "vmap")
    )
    mapped = replicas.map_models(
        by_map, one, (jax.random.clone(keys), masks), problem.train
    )
    vmapped = replicas.map_models(by_vmap, one, (keys, masks), problem.train)
    chex.assert_trees_all_close(mapped, vmapped, rtol=1e-4, atol=1e-6)
    assert np.abs(np.diff(mapped[2].params, axis=0)).max() > 1e-3


def run(method, key, problem, *, cost=None):
    """Variables of one compiled run, which must have cost that many gradients."""
    variables, info = jax.jit(method)(key, problem)
    assert cost is None or info.num_gradients == cost
    return variables


@pytest.mark.parametrize(
    ("factory", "chosen", "message"),
    [
        (Influence, {"alpha": float("nan")}, "alpha must be finite"),
        (Influence, {"damping": 0.0}, "must be positive"),
        (Influence, {"num_samples": 0}, "must be a positive integer"),
        (Influence, {"inverse": "exact"}, "unknown inverse"),
        (FisherForgetting, {"alpha": -1.0}, "alpha must be finite and not"),
        (FisherForgetting, {"cap": float("inf")}, "cap must be finite"),
        (FisherForgetting, {"information": "none"}, "unknown information"),
        (FisherForgetting, {"batch_size": 0}, "batch_size must be a pos"),
        (SSD, {"alpha": -0.1}, "alpha must be finite and not"),
        (SSD, {"importance": "layer"}, "unknown importance"),
        (SSD, {"batch_size": 0}, "batch_size must be a pos"),
        (SSD, {"batch_size": -1, "importance": "batch"}, "batch_size must be a pos"),
    ],
)
def test_bad_values_are_refused(factory, chosen, message):
    with pytest.raises(InputError, match=message):
        factory(**chosen)


# --- SSD


def slow_ssd(everywhere, forget, alpha, dampening):
    out = WEIGHTS.astype(float).copy()
    for place in np.ndindex(out.shape):
        if forget[place] > alpha * everywhere[place]:
            out[place] *= min(dampening * everywhere[place] / forget[place], 1)
    return out


@pytest.mark.parametrize("importance", ["sample", "batch"])
def test_ssd_equals_its_definition(importance, key):
    problem = linear_problem()
    over = [
        slow_fisher(IMAGES[m], LABELS[m], "true", importance, 100)
        for m in (FORGET | RETAIN, FORGET)
    ]
    method = jax.jit(
        lambda k, a, d: SSD(
            alpha=a, dampening=d, importance=importance, batch_size=100
        )(k, problem)
    )
    settings = [(1.0, 1.0), (1.2, 0.3), (1.0, 1.1)]
    for k, chosen in zip(jax.random.split(key, 3), settings, strict=True):
        expected = slow_ssd(*over, *chosen)
        assert np.any(expected != WEIGHTS)
        got, info = method(k, *chosen)
        np.testing.assert_allclose(got.params, expected, rtol=1e-4)
        assert info.num_gradients == 27 + 6


def test_ssd_takes_128_samples_a_batch_as_published_and_32_where_the_value_is_the_same(
    monkeypatch, key
):
    sizes = []
    count = lambda index, size: sizes.append(size) or gradients.batches_of(index, size)
    monkeypatch.setattr(
        importlib.import_module("unlearn_jax.methods.ssd"), "batches_of", count
    )
    for k, chosen in zip(
        jax.random.split(key, 3),
        ({}, {"importance": "batch"}, {"batch_size": 7}),
        strict=True,
    ):
        jax.eval_shape(SSD(**chosen), k, linear_problem())
    assert sizes == [32, 32, 128, 128, 7, 7]


def test_ssd_at_extreme_hyperparameters(key):
    problem, keys = linear_problem(), jax.random.split(key, 4)
    method = jax.jit(lambda k, a, d: SSD(alpha=a, dampening=d)(k, problem)[0])
    for k, chosen in zip(
        keys, [(1.0, 1e6), (27 / 6, 1.0), (1e9, 1.0)], strict=False
    ):  # |D| / |D_F| = 27 / 6
        chex.assert_trees_all_equal(method(k, *chosen), problem.variables)
    np.testing.assert_array_equal(method(keys[3], 0.0, 0.0).params, 0)


# --- Fisher forgetting


def noises(method, key, problem, count=3000):
    """``[count, 4, 3]``: what is added with as many keys."""
    run = jax.jit(jax.vmap(lambda k: method(k, problem)[0].params))
    return np.asarray(run(jax.random.split(key, count))) - np.asarray(
        problem.variables.params
    )


def check_deviation(noise, expected):
    np.testing.assert_allclose(
        noise.std(0), expected, rtol=0.08
    )  # 6 standard errors of 3000 draws
    assert np.all(np.abs(noise.mean(0)) < 6 * expected / np.sqrt(len(noise)))
    flat = noise.reshape(len(noise), -1)
    assert np.abs(np.corrcoef(flat.T) - np.eye(flat.shape[1])).max() < 6 / np.sqrt(
        len(noise)
    )


@pytest.mark.parametrize(("information", "power"), [("model", 0.5), ("true", 0.25)])
def test_fisher_noise_has_the_deviation_of_its_formula(information, power, key):
    information_of = slow_fisher(
        IMAGES[RETAIN], LABELS[RETAIN], information, "sample", 0
    )
    raw = information_of ** (-2 * power)
    cap = float(np.median(raw))  # half of the entries are capped
    noise = noises(
        FisherForgetting(alpha=1e-2, cap=cap, power=power, information=information),
        key,
        linear_problem(),
    )
    check_deviation(noise, np.sqrt(1e-2 * np.minimum(raw, cap)))


def test_fisher_shares_noise_as_the_released_codes_do(key):
    weights = WEIGHTS + np.array([0, 0, -3.0])  # a class that is hardly ever predicted
    raw = (
        slow_fisher(IMAGES[RETAIN], LABELS[RETAIN], "model", "batch", 100, weights)
        ** -1.0
    )
    cap = float(
        5 * raw.max()
    )  # a tenth of it, half of the largest, binds: the only leaf [4, 3] is the head
    shared = np.minimum(raw, cap / 10).mean(0)
    assert shared.max() > 2 * shared.min()
    chosen = {
        "alpha": 1e-6,
        "cap": cap,
        "information": "batch",
        "shared": True,
        "batch_size": 100,
    }
    noise = noises(FisherForgetting(**chosen), key, linear_problem(weights=weights))
    check_deviation(noise, np.sqrt(10 * 1e-6 * shared)[None, :] * np.ones((4, 1)))


def test_fisher_scales_only_biases_and_head(tiny, tiny_variables, blobs, key):
    """``power=0`` makes the inverse 1: the factors of ``shared`` are left."""
    problem = methods.make_problem(tiny, tiny_variables, blobs, TENTH)
    run = jax.vmap(
        lambda k: (
            FisherForgetting(alpha=1.0, cap=1.0, power=0.0, shared=True)(k, problem)[
                0
            ].params
        )
    )
    drawn = jax.jit(run)(jax.random.split(key, 400))
    for leaf, original in zip(
        jax.tree.leaves(drawn), jax.tree.leaves(tiny_variables.params), strict=True
    ):
        head, bias = leaf.shape[-1] == 3, leaf.ndim == 2
        variance = (0.1 if head else 1.0) * (10 if head or bias else 1)
        noise = np.asarray(leaf) - np.asarray(original)[None]
        assert np.mean(noise**2) == pytest.approx(
            variance, rel=6 * np.sqrt(2 / noise.size)
        )


def test_fisher_without_noise_is_the_original(key):
    problem = linear_problem()
    cost = 3 * 21  # every class, every retained sample
    chex.assert_trees_all_equal(
        run(FisherForgetting(alpha=0.0), key, problem, cost=cost), problem.variables
    )


# --- influence


def slow_direction(images, labels, forget, retain, weights=WEIGHTS):
    each = each_gradient(images, labels, weights).reshape(len(images), -1)
    num_f, num_r = forget.sum(), retain.sum()
    total = num_f + num_r
    return each[forget].sum(0) / total - num_f / (total * num_r) * each[retain].sum(0)


def sherman_morrison(samples, damping):
    """WoodFisher's recursion over dense matrices."""
    inverse = np.eye(samples.shape[1]) / damping
    for g in samples:
        along = inverse @ g
        inverse = inverse - np.outer(along, along) / (len(samples) + g @ along)
    return inverse


@pytest.mark.parametrize(("damping", "batch_size"), [(1.0, 64), (0.05, 4)])
def test_influence_equals_the_recursion(damping, batch_size, key):
    samples = each_gradient(IMAGES[RETAIN], LABELS[RETAIN]).reshape(-1, 12)
    inverse = sherman_morrison(samples, damping)
    dense = damping * np.eye(12) + samples.T @ samples / len(samples)
    np.testing.assert_allclose(inverse @ dense, np.eye(12), atol=1e-9)
    step = inverse @ slow_direction(IMAGES, LABELS, FORGET, RETAIN)
    cost = 27 + (
        24 * (2 + 6) if batch_size == 4 else 21 * (2 + 1)
    )  # 21 samples in batches of 4, or in one
    got = run(
        Influence(alpha=2.0, damping=damping, batch_size=batch_size),
        key,
        linear_problem(),
        cost=cost,
    )
    np.testing.assert_allclose(
        (got.params - WEIGHTS).ravel(), 2 * step, rtol=2e-3, atol=2e-6
    )


@pytest.mark.parametrize("batch_size", [64, 4])
def test_influence_is_finite_and_bounded_for_any_damping(batch_size, key):
    """21 gradients of rank 8: all but 8 eigenvalues of their products are rounding."""
    length = np.linalg.norm(slow_direction(IMAGES, LABELS, FORGET, RETAIN))
    method = jax.jit(
        lambda k, d: (
            Influence(alpha=d, damping=d, batch_size=batch_size)(k, linear_problem())[
                0
            ].params
        )
    )
    for k, damping in zip(
        jax.random.split(key, 4), (1e-5, 1e-7, 1e-9, 1e-20), strict=True
    ):
        assert np.linalg.norm(method(k, damping) - WEIGHTS) <= 1.001 * length


def released_recursion(samples, direction):
    k, o = direction.copy(), samples[0].copy()
    for g in samples[1:]:
        t = o @ g
        k -= (k @ g) / (len(samples) + t) * o
        o -= t / (len(samples) + t) * o
    return k


def test_influence_draws_different_retained_samples(key):
    """Of five retained samples, three in some order explain the result."""
    forget, retain = np.arange(8) < 3, np.arange(8) >= 3
    images, labels = 2 * IMAGES[:8], LABELS[:8]
    problem = linear_problem(images, forget, np.zeros(8, bool), labels)
    direction = slow_direction(images, labels, forget, retain)
    each = each_gradient(images, labels).reshape(8, -1)
    slow = {
        "woodfisher": lambda samples: sherman_morrison(samples, 1.0) @ direction,
        "released": lambda samples: released_recursion(samples, direction),
    }
    for k, (inverse, recursion) in zip(
        jax.random.split(key), slow.items(), strict=True
    ):
        got = run(Influence(inverse=inverse, num_samples=3), k, problem)
        step = np.asarray(got.params - WEIGHTS).ravel()
        gaps = {
            p: np.abs(recursion(each[list(p)]) - step).max()
            for p in itertools.permutations(range(3, 8), 3)
        }
        best = min(gaps, key=gaps.get)
        assert gaps[best] < 1e-6
        others = [gap for p, gap in gaps.items() if set(p) != set(best)]
        assert min(others) > 1e-4, inverse


def test_influence_at_extreme_hyperparameters(key):
    problem, keys = linear_problem(), jax.random.split(key, 3)
    method = jax.jit(lambda k, a, d: Influence(alpha=a, damping=d)(k, problem)[0])
    chex.assert_trees_all_equal(method(keys[0], 0.0, 1.0), problem.variables)
    direction = slow_direction(IMAGES, LABELS, FORGET, RETAIN)
    damped = method(keys[1], 1e4, 1e4)
    np.testing.assert_allclose(
        (damped.params - WEIGHTS).ravel(), direction, rtol=1e-3, atol=1e-6
    )
    one = run(
        Influence(inverse="released", num_samples=1), keys[2], problem, cost=27 + 1
    )
    np.testing.assert_allclose(
        (one.params - WEIGHTS).ravel(), direction, rtol=1e-3, atol=1e-6
    )


def newton(images, labels):
    """The minimizer of the mean cross-entropy, all classes' weights centered."""
    x, weights = images.reshape(len(images), -1).astype(float), np.zeros((4, 3))
    for _ in range(50):
        p = probabilities(weights, images)
        curvature = np.einsum(
            "ni,nj,ncd->icjd",
            x,
            x,
            np.einsum("nc,cd->ncd", p, np.eye(3)) - p[:, :, None] * p[:, None],
        )
        gradient = each_gradient(images, labels, weights).sum(0)
        weights = weights - (
            np.linalg.pinv(curvature.reshape(12, 12)) @ gradient.ravel()
        ).reshape(4, 3)
    assert np.abs(gradient).max() < 1e-8
    return weights - weights.mean(1, keepdims=True)


def test_influence_moves_a_convex_model_to_the_retrained_one(key):
    rng = np.random.default_rng(5)
    images = rng.normal(size=(150, 2, 2, 1)).astype("f4")
    odds = probabilities(rng.normal(size=(4, 3)), images)
    labels = np.array([rng.choice(3, p=row) for row in odds]).astype("i4")
    forget = (labels == 0) & (np.arange(150) < 40)
    original, retrained = (
        newton(images, labels),
        newton(images[~forget], labels[~forget]),
    )
    problem = linear_problem(images, forget, np.zeros(150, bool), labels, original)
    got = run(Influence(damping=1e-3), key, problem)
    before, after = (
        np.linalg.norm(original - retrained),
        np.linalg.norm(np.asarray(got.params) - retrained),
    )
    assert before > 0.1
    assert after < 0.5 * before
