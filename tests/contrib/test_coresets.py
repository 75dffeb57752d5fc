"""Core-sets match refitting, the search all subsets, probabilities those by hand."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearn_jax import replicas, train
from unlearn_jax.contrib import coresets
from unlearn_jax.influence import ridge
from unlearn_jax.types import InputError

RNG = np.random.default_rng(3)
LABELS = np.arange(24) % 3
CENTERS = RNG.uniform(0.2, 0.8, (3, 6))
INPUTS = np.clip(CENTERS[LABELS] + RNG.normal(0, 0.12, (24, 6)), 0, 1)
FORGET = np.array([0, 3, 6, 9, 4, 11, 17])  # half of class 0, and three others
OF_FORGET = LABELS[FORGET]
SUBSETS = np.array(list(itertools.product([False, True], repeat=7)))
RIDGE, TOLERANCE, DELTA = 0.1, 0.15, 0.2


def margin(outputs, labels):
    return np.mean(
        [
            row[y] - max(v for j, v in enumerate(row) if j != y)
            for row, y in zip(outputs, labels, strict=True)
        ]
    )


def accuracy(outputs, labels):
    return np.mean(np.argmax(outputs, -1) == labels)


@pytest.fixture(scope="module")
def worlds(double):
    keys = jax.random.split(jax.random.key(0), 5)
    return coresets.seed_worlds(
        keys, INPUTS, LABELS, FORGET, num_classes=3, ridge=RIDGE, num_features=40
    )


@pytest.fixture(scope="module")
def levels(double):
    """Margins and accuracies ``[5, 128]`` without every subset, by refitting."""
    targets = np.eye(3)[LABELS] - 1 / 3
    found = []
    for key in jax.random.split(jax.random.key(0), 5):
        features = np.asarray(
            ridge.random_relu_features(
                jax.random.split(key)[0], jnp.asarray(INPUTS), 40
            )
        )
        row = []
        for subset in SUBSETS:
            kept = np.setdiff1d(np.arange(24), FORGET[subset])
            gram = features[kept].T @ features[kept] + RIDGE * np.eye(40)
            outputs = features[FORGET] @ np.linalg.solve(
                gram, features[kept].T @ targets[kept]
            )
            row.append((margin(outputs, OF_FORGET), accuracy(outputs, OF_FORGET)))
        found.append(row)
    return np.moveaxis(np.array(found), -1, 0)


@pytest.fixture(scope="module")
def fractions(levels):
    return (levels[0, :, :1] - levels[0]) / (levels[0, :, :1] - levels[0, :, -1:])


def row_of(mask):
    return int(np.flatnonzero((mask == SUBSETS).all(-1))[0])


def test_suppression_of_all_subsets_equals_refitting(worlds, levels, fractions):
    np.testing.assert_allclose(
        coresets.suppression_without(worlds, OF_FORGET, SUBSETS), fractions, atol=1e-9
    )
    many = np.asarray(
        jax.vmap(jax.vmap(coresets.forget_accuracy, (0, None)), (0, None))(
            jax.vmap(
                lambda state: jax.vmap(ridge.outputs_without, (None, 0))(state, SUBSETS)
            )(worlds),
            OF_FORGET,
        )
    )
    np.testing.assert_allclose(many, levels[1], atol=1e-12)


def test_greedy_search_takes_the_best_candidate_at_every_step(worlds, fractions):
    """By refitting; the first is the ranking's first."""
    alone = fractions[:, [row_of(mask) for mask in np.eye(7, dtype=bool)]].mean(0)
    ranking = coresets.rank_by_influence(worlds, OF_FORGET)
    np.testing.assert_array_equal(ranking, np.argsort(-alone))
    order, path = coresets.forward_greedy(worlds, OF_FORGET)
    removed = np.zeros(7, bool)
    for step, chosen in enumerate(order):
        distances = {}
        for i in np.flatnonzero(~removed):
            row = row_of(removed | (np.arange(7) == i))
            distances[i] = abs(1 - fractions[:, row]).mean()
        assert min(distances, key=distances.__getitem__) == chosen
        removed[chosen] = True
        np.testing.assert_allclose(
            path[:, step], fractions[:, row_of(removed)], atol=1e-8
        )
    assert not np.array_equal(order, ranking), (
        "samples replace each other here: the two must differ"
    )


def test_core_set_is_sufficient_and_every_member_necessary(worlds, fractions):
    """PS by refitting; the size against the smallest of all 128 subsets."""
    found = coresets.find_core_set(worlds, OF_FORGET, tolerance=TOLERANCE, delta=DELTA)
    sufficiency = (abs(1 - fractions) <= TOLERANCE).mean(0)
    assert found.sufficiency == pytest.approx(sufficiency[row_of(found.members)])
    assert found.sufficiency >= 1 - DELTA
    for i in np.flatnonzero(found.members):
        assert sufficiency[row_of(found.members & (np.arange(7) != i))] < 1 - DELTA, (
            "a superfluous member"
        )
    smallest = SUBSETS[sufficiency >= 1 - DELTA].sum(-1).min()
    assert smallest <= found.members.sum() <= found.forward_size <= 7
    assert found.members.sum() <= smallest + 1


def test_pruning_removes_superfluous_members(worlds, fractions):
    sufficiency = (abs(1 - fractions) <= TOLERANCE).mean(0)
    kept = coresets.backward_prune(
        worlds, OF_FORGET, np.ones(7, bool), tolerance=TOLERANCE, delta=DELTA
    )
    assert kept.sum() < 7
    assert sufficiency[row_of(kept)] >= 1 - DELTA
    assert all(
        sufficiency[row_of(kept & (np.arange(7) != i))] < 1 - DELTA
        for i in np.flatnonzero(kept)
    )
    anything = coresets.backward_prune(
        worlds, OF_FORGET, np.ones(7, bool), tolerance=0.99, delta=0.8
    )
    assert anything.sum() <= 1


def test_bootstrap_worlds_redraw_the_retained_samples(double):
    """Worlds of the same features differ; the forget set is always present."""
    options = {"num_classes": 3, "ridge": RIDGE, "num_features": 40}
    plain, drawn = (
        coresets.seed_worlds(
            jax.random.split(jax.random.key(0), 2),
            INPUTS,
            LABELS,
            FORGET,
            bootstrap=flag,
            **options,
        )
        for flag in (False, True)
    )
    assert np.abs(plain.outputs - drawn.outputs).min(axis=(1, 2)).max() > 0
    assert np.all(
        np.diagonal(np.asarray(drawn.inverse), axis1=1, axis2=2) < 1 / RIDGE - 1e-6
    ), "weight 0 would be 1/ridge"
    key = jax.random.split(jax.random.key(0), 2)[0]
    key_features, key_draw = jax.random.split(key)
    retain = np.setdiff1d(np.arange(24), FORGET)
    kept = np.concatenate(
        [FORGET, np.asarray(jax.random.choice(key_draw, jnp.asarray(retain), (17,)))]
    )
    features = np.asarray(
        ridge.random_relu_features(key_features, jnp.asarray(INPUTS), 40)
    )
    gram = features[kept].T @ features[kept] + RIDGE * np.eye(40)
    expected = features[FORGET] @ np.linalg.solve(
        gram, features[kept].T @ (np.eye(3)[LABELS[kept]] - 1 / 3)
    )
    np.testing.assert_allclose(drawn.outputs[0], expected, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=12))
def test_probabilities_are_counts_within_their_bounds(pairs):
    sufficient, complement = (np.array(side) for side in zip(*pairs, strict=True))
    found = coresets.causes(sufficient, complement)
    assert found.sufficiency == pytest.approx(sum(a for a, _ in pairs) / len(pairs))
    assert found.necessity == pytest.approx(sum(not b for _, b in pairs) / len(pairs))
    assert found.both == pytest.approx(sum(a and not b for a, b in pairs) / len(pairs))
    low, high = found.bounds
    assert 0 <= low <= found.both + 1e-12 <= high + 2e-12
    rows = (
        sorted(a for a, _ in pairs),
        sorted(b for _, b in pairs),
    )  # couplings that attain the bounds
    assert coresets.causes(rows[0], rows[1]).both == pytest.approx(low)
    assert coresets.causes(rows[0], rows[1][::-1]).both == pytest.approx(high)


def test_knowledge_and_suppression_by_hand():
    outputs = np.array([[0.9, 0.1, -0.2], [0.3, 0.2, 0.5], [0.4, 0.4, 0.1]])
    labels = np.array([0, 1, 1])
    np.testing.assert_allclose(
        coresets.margins(outputs, labels), [0.8, -0.3, 0.0], atol=1e-6
    )
    np.testing.assert_allclose(
        coresets.mean_margin(outputs, labels), 0.5 / 3, atol=1e-6
    )
    np.testing.assert_allclose(
        coresets.forget_accuracy(outputs, labels), 1 / 3, atol=1e-6
    )
    levels, original, oracle = np.array([3.0, 2.0, 1.0, 0.5]), 3.0, 1.0
    share = coresets.suppression(levels, original, oracle)
    np.testing.assert_allclose(share, [0, 0.5, 1, 1.25])
    np.testing.assert_array_equal(
        coresets.suppressed(share, tolerance=0.25), [False, False, True, True]
    )
    assert not coresets.suppressed(np.nan, tolerance=0.5)


def test_networks_retrain_without_the_subsets_on_the_same_seeds(blobs, tiny):
    """As ``train.fit`` trains each alone on that seed; no forget sample is read."""
    recipe = train.Recipe(num_epochs=3, batch_size=20, tx=train.sgd(0.1))
    removed = np.zeros((2, 60), bool)
    removed[1, :6] = True
    keys = jax.random.split(jax.random.key(5), 2)
    logits = coresets.retrain_without(
        jax.random.clone(keys), tiny, blobs, removed, recipe, blobs.images
    )
    assert logits.shape == (2, 2, 60, 3)
    state, _ = replicas.fit_many(
        keys[1:], tiny, blobs, ~removed[1:], recipe, num_batches=3
    )
    alone = replicas.predict_many(tiny.apply, state.variables, blobs.images)[0]
    np.testing.assert_allclose(logits[1, 1], alone, atol=1e-5)
    assert np.abs(logits[0] - logits[1]).max() > 1e-2
    poisoned = blobs._replace(
        images=np.where(removed[1][:, None, None, None], np.nan, blobs.images)
    )
    again = coresets.retrain_without(
        jax.random.split(jax.random.key(5), 2),
        tiny,
        poisoned,
        removed[1:],
        recipe,
        blobs.images,
    )
    np.testing.assert_array_equal(again[:, 0], logits[:, 1])


def test_bad_input_is_one_line(worlds, blobs, tiny):
    keys = jax.random.split(jax.random.key(1), 2)
    recipe = train.Recipe(num_epochs=1, batch_size=20, tx=train.sgd(0.1))
    make = lambda index: coresets.seed_worlds(
        keys, INPUTS, LABELS, index, num_classes=3, ridge=RIDGE
    )
    options = {"num_classes": 3, "ridge": RIDGE}
    made = lambda keys, labels, **other: coresets.seed_worlds(
        keys, INPUTS, labels, FORGET, **(options | other)
    )
    flat = worlds._replace(
        alpha=jnp.zeros_like(worlds.alpha)
    )  # removing anything changes nothing
    for call, message in (
        (lambda: make(np.arange(24)), "some but not all"),
        (lambda: make(np.array([1, 1])), "different positions"),
        (lambda: make(np.array([1, 24])), r"positions in 0\.\.23"),
        (lambda: make(np.array([1.0, 2.0])), "integer positions"),
        (lambda: made(keys, LABELS, ridge=-1.0), "ridge must be positive"),
        (lambda: made(keys[0], LABELS), "keys of worlds must be typed keys"),
        (lambda: made(keys, LABELS, num_classes=2), r"labels must lie in 0\.\.1"),
        (lambda: made(keys, LABELS[:5]), "labels must have shape"),
        (
            lambda: coresets.suppression_without(worlds, OF_FORGET, np.ones(7, bool)),
            r"pass \[Q, 7\] bool",
        ),
        (
            lambda: coresets.suppression_without(worlds, OF_FORGET[:3], SUBSETS),
            r"pass \[S, Z, C\] and \[Z\]",
        ),
        (lambda: coresets.find_core_set(flat, OF_FORGET), "no core-set"),
        (
            lambda: coresets.find_core_set(worlds, OF_FORGET, tolerance=1.0),
            "tolerance is 1",
        ),
        (lambda: coresets.find_core_set(worlds, OF_FORGET, delta=1.0), "delta is 1"),
        (lambda: coresets.causes([], []), "one boolean per world"),
        (lambda: coresets.causes([True], [True, False]), "boolean mask"),
        (lambda: coresets.causes([1, 0], [True, False]), "boolean mask"),
        (lambda: coresets.tian_pearl_bounds(1.2, 0.0), "not a probability"),
        (
            lambda: coresets.retrain_without(
                keys, tiny, blobs, np.ones(60, bool), recipe, blobs.images
            ),
            "bool",
        ),
        (
            lambda: coresets.retrain_without(
                keys, tiny, blobs, np.ones((1, 60), bool), recipe, blobs.images
            ),
            "no sample",
        ),
    ):
        with pytest.raises(InputError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_suppression_is_nan_where_the_forget_set_changes_nothing():
    with np.errstate(invalid="ignore"):
        assert np.isnan(coresets.suppression(1.0, 1.0, 1.0))


def test_no_epoch_leaves_every_network_as_it_starts(tiny, blobs):
    keys = jax.random.split(jax.random.key(1), 2)
    recipe = train.Recipe(num_epochs=0, batch_size=20, tx=train.sgd(0.1))
    forget = np.arange(60) < np.array([[0], [5]])
    logits = coresets.retrain_without(
        keys, tiny, blobs, forget, recipe, blobs.images[:3]
    )
    np.testing.assert_array_equal(logits[:, 0], logits[:, 1])
