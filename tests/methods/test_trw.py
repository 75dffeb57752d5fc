"""TRW and DELETE: their targets and training by hand on softmax regression, and the
similarities in NumPy.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from support.method_checks import (
    descend,
    gradient,
    linear_problem,
    softmax,
    traced,
)

from unlearn_jax import methods, models
from unlearn_jax.methods import DELETE, TRW
from unlearn_jax.methods.similarity import (
    excluded_classes,
    fit_tilt,
    pair_descriptors,
    perturb_similarity,
    similarity_scores,
)
from unlearn_jax.types import Dataset, InputError, Variables

# Six classes: 0 and 3 are forgotten, 5 was forgotten earlier, and class 1 loses two
# samples.
LABELS = np.arange(60) % 6
MASK = np.isin(LABELS, [0, 3]) | np.isin(np.arange(60), [7, 13])
GONE = LABELS == 5
KEPT = ~(MASK | GONE)
EXCLUDED = np.isin(np.arange(6), [0, 3, 5]) | np.eye(6, dtype=bool)
WEIGHTS = np.random.default_rng(3).normal(size=(16, 6)).astype("f4")
SIX = models.from_functions(
    lambda key: jnp.asarray(WEIGHTS),
    lambda w, images: images.reshape(len(images), -1) @ w,
)


def six_classes(blobs, model=SIX, variables=None):
    train = Dataset(blobs.images, LABELS.astype("i4"))
    return methods.make_problem(
        model,
        variables or Variables(jnp.asarray(WEIGHTS), {}),
        train,
        MASK,
        removed=GONE,
    )


def tilt_by_hand(logits, scores, beta, excluded=EXCLUDED):
    """Targets of forget samples: probabilities without the excluded classes, times
    ``exp(beta s)``, renormalized.
    """
    odds = np.where(
        excluded[LABELS[MASK]],
        0.0,
        softmax(np.asarray(logits, "f8")) * np.exp(beta * scores),
    )
    return odds / odds.sum(-1, keepdims=True)


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def scores_by_hand(kind, features, kernel, *, center, num_neighbors=3):
    """Similarity of every class to each forget sample, by loops over both."""
    labels, kept = LABELS[MASK], features[KEPT]
    mean = kept.mean(0) if center else 0.0
    own, kept = features[MASK] - mean, kept - mean
    centroids = [
        (
            kept[LABELS[KEPT] == k].mean(0)
            if k in LABELS[KEPT]
            else np.zeros(kept.shape[1])
        )
        for k in range(6)
    ]
    rows = kernel.T - (kernel.T.mean(0) if center else 0.0)
    scores = []
    for x, f in zip(own, labels, strict=True):
        if kind == "neighbors":
            others = LABELS[KEPT][LABELS[KEPT] != f]
            near = np.argsort(-unit(kept[LABELS[KEPT] != f]) @ unit(x))[:num_neighbors]
            scores.append([np.mean(others[near] == k) for k in range(6)])
        else:
            vector = {
                "weights": rows[f],
                "centroids": own[labels == f].mean(0),
                "features": x,
            }[kind]
            scores.append(
                unit(np.stack(rows if kind == "weights" else centroids)) @ unit(vector)
            )
    return np.array(scores)


def sharpened(scores, temperature):
    odds = np.where(EXCLUDED[LABELS[MASK]], 0.0, np.exp(scores / temperature))
    return odds / odds.sum(-1, keepdims=True)


def test_trw_descends_its_objective(blobs, key):
    """Two classes at once, and a few of a third that stays, with every float option
    traced.
    """
    problem, x = six_classes(blobs), blobs.images.reshape(60, -1).astype("f8")
    numbers = {
        "beta": 3.0,
        "retain_weight": 0.6,
        "temperature": 0.5,
        "learning_rate": 0.4,
    }
    size = int(MASK.sum() + KEPT.sum())
    got = traced(
        TRW,
        numbers,
        problem,
        key,
        3 * size,
        num_epochs=3,
        batch_size=size,
        noise=0.0,
        perturb="noise",
    )
    scores = sharpened(
        scores_by_hand("weights", x, WEIGHTS.astype("f8"), center=True), 0.5
    )
    target = tilt_by_hand(x[MASK] @ WEIGHTS, scores, 3.0)
    assert np.all(target[:, [0, 3, 5]] == 0)

    def slope(w):
        share = MASK.sum() / size
        kept = gradient(w, blobs.images[KEPT], np.eye(6)[LABELS[KEPT]])
        return (
            share * gradient(w, blobs.images[MASK], target) + (1 - share) * 0.6 * kept
        )

    np.testing.assert_allclose(
        got, descend(WEIGHTS, 3 * [slope], 0.4), rtol=1e-4, atol=1e-5
    )


def test_delete_descends_its_objective(blobs, key):
    """Only the own label is excluded, so that classes 0 and 3 keep probability for each
    other.
    """
    problem, x = six_classes(blobs), blobs.images.reshape(60, -1).astype("f8")
    size = int(MASK.sum())
    got = traced(
        DELETE,
        {"learning_rate": 0.5},
        problem,
        key,
        4 * size,
        num_epochs=4,
        batch_size=size,
    )
    target = tilt_by_hand(x[MASK] @ WEIGHTS, 0.0, 0.0, excluded=np.eye(6, dtype=bool))
    assert target[LABELS[MASK] == 0, 3].min() > 0
    steps = 4 * [lambda w: gradient(w, blobs.images[MASK], target)]
    np.testing.assert_allclose(
        got, descend(WEIGHTS, steps, 0.5, weight_decay=0.0), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("targets", ["once", "view"])
def test_targets_of_clean_or_augmented_images(targets, blobs, key):
    def flip(keys, images):
        return images[:, ::-1]

    problem, size = six_classes(blobs), int(MASK.sum())
    options = {
        "num_epochs": 2,
        "batch_size": size,
        "learning_rate": 0.5,
        "weight_decay": 0.0,
    }
    run = TRW(
        **options, beta=2.0, center=False, retain=False, targets=targets, augment=flip
    )
    got, _ = jax.jit(run)(key, problem)
    images = blobs.images[MASK]
    clean = (
        (images[:, ::-1] if targets == "view" else images)
        .reshape(size, -1)
        .astype("f8")
    )
    scores = scores_by_hand(
        "weights", blobs.images.reshape(60, -1), WEIGHTS, center=False
    )
    target = tilt_by_hand(clean @ WEIGHTS, scores, 2.0)
    steps = 2 * [lambda w: gradient(w, images[:, ::-1], target)]
    expected = descend(WEIGHTS, steps, 0.5, weight_decay=0.0)
    np.testing.assert_allclose(got.params, expected, rtol=1e-4, atol=1e-5)


def test_beta_of_zero_is_delete_and_a_large_one_relabels(blobs, key):
    """At 0, for one class, it is DELETE; a large one relabels every sample as the
    nearest class.
    """
    train = Dataset(blobs.images, LABELS.astype("i4"))
    problem = methods.make_problem(
        SIX, Variables(jnp.asarray(WEIGHTS), {}), train, LABELS == 2
    )
    options = {
        "num_epochs": 2,
        "batch_size": 10,
        "learning_rate": 0.5,
        "weight_decay": 0.0,
        "retain": False,
    }
    run = jax.jit(lambda beta, key: TRW(**options, beta=beta)(key, problem)[0].params)
    k_a, k_b, k_c = jax.random.split(key, 3)
    np.testing.assert_allclose(
        run(0.0, k_a),
        jax.jit(DELETE(**options))(k_b, problem)[0].params,
        rtol=1e-4,
        atol=1e-6,
    )
    rows = unit((WEIGHTS - WEIGHTS.mean(1, keepdims=True)).T)
    nearest = np.argsort(rows @ rows[2])[-2]
    steps = 2 * [
        lambda w: gradient(
            w, blobs.images[LABELS == 2], np.tile(np.eye(6)[nearest], (10, 1))
        )
    ]
    expected = descend(WEIGHTS, steps, 0.5, weight_decay=0.0)
    np.testing.assert_allclose(run(1e6, k_c), expected, rtol=1e-4, atol=1e-5)


def hidden(adapter):
    """A model with features of its own, its variables, and a function to its features
    and its head in NumPy.
    """
    if adapter == "linen":
        model = models.build("mlp", (4, 4, 1), 6, widths=(8,))
    elif adapter == "nnx":
        model = models.from_nnx(
            lambda rngs: nnx.Sequential(
                lambda x: x.reshape(len(x), -1),
                nnx.Linear(16, 8, rngs=rngs),
                nnx.relu,
                nnx.Linear(8, 6, rngs=rngs),
            )
        )
    else:
        model = models.from_functions(
            lambda key: [
                jax.random.normal(key, (16, 8)),
                jnp.ones(8),
                jnp.asarray(WEIGHTS[:8]),
            ],
            lambda p, images: (
                jax.nn.relu(images.reshape(len(images), -1) @ p[0] + p[1][None]) @ p[2]
            ),
        )
    variables = jax.jit(model.init)(jax.random.key(2))
    leaves = jax.tree.leaves(variables.params)
    first, head = (
        next(np.asarray(x, "f8") for x in leaves if x.shape == shape)
        for shape in ((16, 8), (8, 6))
    )
    bias = next(np.asarray(leaf, "f8") for leaf in leaves if leaf.shape == (8,))
    return (
        model,
        variables,
        (lambda x: np.maximum(x.reshape(len(x), -1) @ first + bias, 0.0)),
        head,
    )


@pytest.mark.parametrize(
    ("adapter", "kinds", "center"),
    [
        ("linen", ["weights", "features"], True),
        ("nnx", ["weights", "features"], True),
        ("functions", ["weights", "centroids", "features", "neighbors"], True),
        ("functions", ["weights", "centroids", "features", "neighbors"], False),
    ],
)
def test_similarity_scores_match_numpy(adapter, kinds, center, blobs, key):
    model, variables, features, head = hidden(adapter)
    problem = six_classes(blobs, model, variables)
    for kind in kinds:
        got = jax.jit(
            lambda key, problem, kind=kind: similarity_scores(
                key,
                problem,
                jnp.asarray(EXCLUDED),
                kind=kind,
                center=center,
                num_neighbors=3,
                batch_size=7,
            )
        )(jax.random.clone(key), problem)
        expected = scores_by_hand(
            kind, features(blobs.images.astype("f8")), head, center=center
        )
        stays = ~EXCLUDED[LABELS[MASK]]
        np.testing.assert_allclose(
            np.asarray(got)[stays], expected[stays], rtol=1e-3, atol=1e-5, err_msg=kind
        )


def test_fitted_scores_are_a_combination_of_descriptors(blobs, key):
    problem = six_classes(blobs)
    coefficients = (0.5, -2.0, 1.5)
    descriptors = np.asarray(pair_descriptors(problem, jnp.asarray(EXCLUDED)), "f8")
    flat = np.asarray(blobs.images, "f8").reshape(60, -1)
    logits = flat @ WEIGHTS
    rows = unit((WEIGHTS - WEIGHTS.mean(1, keepdims=True)).T)
    centered = flat - flat[KEPT].mean(0)
    for own in (0, 3):
        chosen = MASK & (own == LABELS)
        odds = np.where(EXCLUDED[own], 0.0, softmax(logits[chosen]))
        mean = (odds / odds.sum(1, keepdims=True)).mean(0)
        for other in (1, 2, 4):
            centroid = centered[KEPT & (other == LABELS)].mean(0)
            expected = [
                rows[own] @ rows[other],
                unit(centered[chosen].mean(0)) @ unit(centroid),
                np.log(mean[other]),
            ]
            np.testing.assert_allclose(
                descriptors[own, other], expected, rtol=1e-3, atol=1e-4
            )
    scores = similarity_scores(
        key,
        problem,
        jnp.asarray(EXCLUDED),
        kind="fitted",
        coefficients=coefficients,
    )
    expected = (descriptors @ np.array(coefficients))[LABELS[MASK]]
    allowed = ~EXCLUDED[LABELS[MASK]]
    np.testing.assert_allclose(
        np.asarray(scores)[allowed], expected[allowed], rtol=1e-4, atol=1e-4
    )


def test_a_tilt_is_fitted_to_the_least_divergence():
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(80, 5))
    descriptors = rng.normal(size=(80, 5, 3))
    excluded = np.eye(5, dtype=bool)[rng.integers(0, 5, 80)]
    truth = softmax(2 * rng.normal(size=(80, 5)))

    def divergence(coefficients):
        odds = np.exp(logits + descriptors @ coefficients) * ~excluded
        target = odds / odds.sum(1, keepdims=True)
        kept = np.where(excluded, 1.0, target)
        return -np.mean(np.sum(np.where(excluded, 0.0, truth) * np.log(kept), 1))

    found = fit_tilt(
        *(
            jnp.asarray(one, jnp.float32) if one.dtype != bool else jnp.asarray(one)
            for one in (truth, logits, excluded, descriptors)
        )
    )
    expected = optimize.minimize(divergence, np.zeros(3), tol=1e-10).x
    np.testing.assert_allclose(found, expected, rtol=1e-2, atol=2e-3)
    # what made the truth is found again
    known = np.array([1.0, -0.5, 2.0])
    odds = np.exp(logits + descriptors @ known) * ~excluded
    made = odds / odds.sum(1, keepdims=True)
    found = fit_tilt(
        jnp.asarray(made, jnp.float32),
        jnp.asarray(logits, jnp.float32),
        jnp.asarray(excluded),
        jnp.asarray(descriptors, jnp.float32),
    )
    np.testing.assert_allclose(found, known, rtol=1e-3, atol=1e-3)


def test_excluded_classes(blobs):
    np.testing.assert_array_equal(excluded_classes(six_classes(blobs), 6), EXCLUDED)
    problem = linear_problem(blobs)
    np.testing.assert_array_equal(
        excluded_classes(problem, 3), np.eye(3, dtype=bool)
    )  # a random set: own labels
    binary = Dataset(blobs.images, (np.arange(60) % 2).astype("i4"))
    forget = (np.arange(60) % 2 == 0) | (np.arange(60) == 1)
    problem = methods.make_problem(problem.model, problem.variables, binary, forget)
    np.testing.assert_array_equal(
        excluded_classes(problem, 2), [[True, False], [True, False]]
    )


ROWS = np.random.default_rng(6).normal(size=(4, 6)).astype("f4")
MASKS = np.stack([EXCLUDED[1], EXCLUDED[2], np.arange(6) != 4, np.arange(6) < 0])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999))
def test_permuting_keeps_the_entries_of_the_classes_that_stay(seed):
    got = np.asarray(
        perturb_similarity(jax.random.key(seed), ROWS, MASKS, kind="permute")
    )
    np.testing.assert_array_equal(got[MASKS], ROWS[MASKS])
    for new, old, mask in zip(got, ROWS, MASKS, strict=True):
        np.testing.assert_array_equal(np.sort(new[~mask]), np.sort(old[~mask]))


def test_permutations_and_noise_are_uniform_and_normal(key):
    keys = jax.random.split(key, 4000)
    twice = jax.random.clone(keys)
    got = jax.vmap(lambda key: perturb_similarity(key, ROWS, MASKS[3], kind="permute"))(
        keys
    )
    first = np.mean(
        np.asarray(got)[:, 0, :, None] == ROWS[0][None, None], 0
    )  # where each entry lands
    np.testing.assert_allclose(first, 1 / 6, atol=5 * np.sqrt(5 / 36 / 4000))
    assert (
        np.mean(np.all(np.argsort(got[:, 0], -1) == np.argsort(got[:, 1], -1), -1))
        < 0.01
    )  # rows draw for themselves
    noisy = np.asarray(
        jax.vmap(
            lambda key: perturb_similarity(key, ROWS, MASKS, kind="noise", scale=0.3)
        )(twice)
    )
    np.testing.assert_array_equal(noisy[:, MASKS], np.tile(ROWS[MASKS], (4000, 1)))
    for row, (old, mask) in enumerate(zip(ROWS, MASKS, strict=True)):
        spread = 0.3 * np.std(old[~mask])
        np.testing.assert_allclose(
            noisy[:, row, ~mask].mean(0),
            old[~mask],
            atol=5 * spread / np.sqrt(4000) + 1e-6,
        )
        np.testing.assert_allclose(
            noisy[:, row, ~mask].std(0), spread, rtol=0.07, atol=1e-6
        )


def test_flip_swap_and_none(key):
    k_flip, k_swap, k_none, k_zero = jax.random.split(key, 4)
    np.testing.assert_array_equal(
        perturb_similarity(k_flip, ROWS, MASKS, kind="flip"),
        np.where(MASKS, ROWS, -ROWS),
    )
    swapped = ROWS.copy()
    for row, mask in zip(swapped, MASKS, strict=True):
        order = [k for k in np.argsort(-row) if not mask[k]][:2]
        if len(order) == 2:
            row[order] = row[order[::-1]]
    assert np.sum(swapped != ROWS) == 2 * 3  # the third row has one class that stays
    np.testing.assert_array_equal(
        perturb_similarity(k_swap, ROWS, MASKS, kind="swap"), swapped
    )
    np.testing.assert_array_equal(
        perturb_similarity(k_none, ROWS, MASKS, kind="none"), ROWS
    )
    np.testing.assert_array_equal(
        perturb_similarity(k_zero, ROWS, MASKS, kind="noise", scale=0.0), ROWS
    )


def test_a_class_is_perturbed_once_for_all_its_samples(blobs, key):
    problem = six_classes(blobs)
    for kind, expected in (("weights", 3), ("features", 22)):
        options = {"kind": kind, "perturb": "noise", "noise": 1.0}
        run = jax.jit(functools.partial(similarity_scores, **options))
        scores = np.asarray(run(jax.random.clone(key), problem, jnp.asarray(EXCLUDED)))
        assert len(np.unique(scores[:, 4])) == expected


def test_a_forgotten_class_goes_and_the_rest_stays(blobs, key):
    k_fit, k_run = jax.random.split(key)
    problem = linear_problem(blobs)
    fitted, _ = jax.jit(
        methods.FineTune(num_epochs=150, batch_size=30, learning_rate=0.5)
    )(k_fit, problem)
    problem = methods.make_problem(problem.model, fitted, blobs, blobs.labels == 0)
    variables, info = jax.jit(TRW(num_epochs=150, batch_size=60, learning_rate=0.5))(
        k_run, problem
    )
    before, after = (
        np.argmax(problem.model.apply(v, blobs.images), -1) == blobs.labels
        for v in (fitted, variables)
    )
    assert before.mean() > 0.9
    assert not after[blobs.labels == 0].any()
    assert after[blobs.labels != 0].mean() > 0.9
    assert info.losses[-1] < info.losses[0]


def test_values_out_of_range_are_refused(blobs, key):
    for factory, options, message in [
        (TRW, {"beta": -1.0}, "beta must be"),
        (TRW, {"beta": float("inf")}, "beta must be"),
        (TRW, {"retain_weight": -1.0}, "retain_weight must be"),
        (TRW, {"noise": -0.1}, "noise must be"),
        (TRW, {"temperature": -0.1}, "temperature must be"),
        (TRW, {"temperature": 0.0}, "temperature must be positive"),
        (TRW, {"similarity": "logits"}, "unknown similarity"),
        (
            TRW,
            {"similarity": "features", "num_components": 2},
            "num_components projects the weights",
        ),
        (TRW, {"num_components": 0}, "must be a positive integer"),
        (TRW, {"num_neighbors": 0}, "must be a positive integer"),
        (TRW, {"perturb": "shuffle"}, "unknown perturb"),
        (TRW, {"targets": "clean"}, "unknown targets"),
        (DELETE, {"targets": "clean"}, "unknown targets"),
        (DELETE, {"learning_rate": 0.0}, "must be positive"),
    ]:
        with pytest.raises(InputError, match=message):
            factory(**options)
    problem, (k_a, k_b) = six_classes(blobs), jax.random.split(key)
    with pytest.raises(
        InputError, match="num_neighbors must be at most the 28 retained"
    ):
        TRW(similarity="neighbors", num_neighbors=29)(k_a, problem)
    with pytest.raises(InputError, match=r"num_components must be in 1\.\.5"):
        TRW(num_components=6)(k_b, problem)
    with pytest.raises(InputError, match="unknown perturb"):
        perturb_similarity(jax.random.key(1), ROWS, MASKS, kind="shuffle")
