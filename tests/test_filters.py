"""Filters against their formulas, on any input, and against a probe of the features."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from unlearn_jax import filters, models, train, values
from unlearn_jax.filters import (
    FILTERS,
    class_means,
    masked_renormalization,
    mpru,
    removed_directions,
)
from unlearn_jax.types import Dataset, InputError

VARIANTS = ["inductive", "direct"]


def draw(seed, *shape, sharpness=0.5):
    """Random distributions over the last axis."""
    return np.random.default_rng(seed).dirichlet(
        np.full(shape[-1], sharpness), shape[:-1]
    )


def slow_mean(probs, labels, k):
    rows = [p for p, y in zip(probs, labels, strict=True) if y == k]
    return sum(rows) / len(rows) if rows else np.zeros(probs.shape[1])


def slow_filter(p, means, forgotten, variant):
    """One prediction, in float64, by least squares; ``variant`` None masks only."""
    retained = [k for k in range(len(p)) if k not in forgotten]
    z = p
    for i, f in enumerate(forgotten if variant else ()):
        before = np.array(
            [
                means[k]
                for k in (*(retained if variant == "inductive" else ()), *forgotten[:i])
            ]
        )
        rest = means[f] - (
            np.linalg.lstsq(before.T, means[f], rcond=None)[0] @ before
            if len(before)
            else 0
        )
        e = rest / np.linalg.norm(rest)
        z = z - (p @ e) * e
    left = np.array([max(z[k], 0.0) if k in retained else 0.0 for k in range(len(p))])
    return (
        left / left.sum()
        if left.sum() > 1e-12
        else np.isin(np.arange(len(p)), retained) / len(retained)
    )


def test_class_means_match_a_loop_over_classes():
    probs, labels = (
        draw(0, 40, 5),
        np.random.default_rng(0).integers(4, size=40),
    )  # no sample of class 4
    expected = [slow_mean(probs, labels, k) for k in range(5)]
    assert np.allclose(class_means(probs, labels), expected, atol=1e-6)
    assert np.allclose(jax.jit(class_means)(probs, labels), expected, atol=1e-6)
    assert class_means(probs[:, :3], labels, num_classes=4).shape == (4, 3)


@pytest.mark.parametrize("forgotten", [(2,), (4, 1), (0, 2, 3)])
@pytest.mark.parametrize("name", FILTERS)
def test_filters_match_the_definition_by_least_squares(name, forgotten):
    variant = {"mask": None, "mpru": "inductive", "mpru_direct": "direct"}[name]
    means, probs = draw(1, 6, 6) * 0.3 + 0.7 * np.eye(6), draw(2, 3, 20, 6)
    expected = [
        [slow_filter(p, means, forgotten, variant) for p in row] for row in probs
    ]
    value = FILTERS[name](probs, means, forgotten)
    assert value.dtype == jnp.float32
    assert np.allclose(value, expected, atol=3e-6)
    mask = np.isin(np.arange(6), forgotten)
    assert np.allclose(FILTERS[name](probs, means, mask), expected, atol=3e-6)
    assert np.allclose(
        jax.jit(FILTERS[name])(probs, means, np.array(forgotten)), expected, atol=3e-6
    )
    each = jax.jit(
        jax.vmap(jax.vmap(FILTERS[name], (0, None, None)), (0, None, None))
    )  # the mask is traced, too
    assert np.allclose(each(probs, means, mask), expected, atol=3e-6)


def test_class_numbers_and_sequences_of_any_order_agree():
    means, probs = draw(3, 5, 5), draw(4, 9, 5)
    for filtered in FILTERS.values():
        assert np.array_equal(filtered(probs, means, 3), filtered(probs, means, [3]))
        assert np.array_equal(
            filtered(probs, means, (1, 4)), filtered(probs, means, (4, 1, 1))
        )
    assert (
        np.abs(
            np.asarray(mpru(probs, means, 3)) - mpru(probs, means, 3, variant="direct")
        ).max()
        > 0.05
    )


@pytest.mark.parametrize("name", FILTERS)
def test_renaming_the_classes_renames_the_result(name):
    means, probs, order = (
        draw(5, 5, 5) * 0.5 + 0.5 * np.eye(5),
        draw(6, 8, 5),
        np.array([3, 0, 4, 1, 2]),
    )
    renamed = FILTERS[name](
        probs[:, order],
        means[order][:, order],
        [order.tolist().index(f) for f in (1, 2)],
    )
    assert np.allclose(
        renamed, np.asarray(FILTERS[name](probs, means, (1, 2)))[:, order], atol=3e-6
    )


probabilities = arrays(
    np.float64, (7, 4), elements=st.floats(0, 1) | st.sampled_from([0.0, 1e-12, 1.0])
).map(lambda x: np.where(x.sum(1, keepdims=True) > 0, x, 1.0))


@settings(deadline=None, max_examples=25)
@given(probabilities, st.sampled_from([(0,), (3,), (1, 2), (0, 1, 3)]))
def test_any_input_gives_a_distribution_without_the_forgotten(values, forgotten):
    rows = values / values.sum(1, keepdims=True)
    probs, means = rows[:3], rows[3:]
    for name, filtered in FILTERS.items():
        value = np.asarray(filtered(probs, means, forgotten))
        assert (value[:, list(forgotten)] == 0).all(), name
        assert (value >= 0).all(), name
        assert np.allclose(value.sum(1), 1, atol=1e-6), name
    once = masked_renormalization(probs, forgotten)
    assert np.allclose(masked_renormalization(once, forgotten), once, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("forgotten", [(1,), (0, 3)])
def test_directions_are_an_orthogonal_projection(variant, forgotten):
    means, probs = draw(7, 5, 5), draw(8, 30, 5)
    directions = np.asarray(removed_directions(means, forgotten, variant=variant))
    gram = np.zeros((5, 5))
    gram[list(forgotten), list(forgotten)] = 1
    assert np.allclose(
        directions @ directions.T, gram, atol=2e-6
    )  # orthonormal, and 0 for retained classes
    once = probs - probs @ directions.T @ directions
    assert np.allclose(once - once @ directions.T @ directions, once, atol=2e-6)
    spoken_of = directions @ means.T
    retained = [k for k in range(5) if k not in forgotten]
    if variant == "inductive":
        assert (
            np.abs(spoken_of[:, retained]).max() < 2e-6
        )  # the means of retained classes stay where they are
        masked = masked_renormalization(means[retained], forgotten)
        assert np.allclose(mpru(means[retained], means, forgotten), masked, atol=1e-6)
    else:
        assert np.abs(spoken_of[:, retained]).max() > 0.1
        removed = means[list(forgotten)]
        assert np.allclose(removed - removed @ directions.T @ directions, 0, atol=2e-6)


def test_one_hot_means_reduce_both_variants_to_masking():
    probs = np.concatenate(
        [draw(9, 20, 4), [[1 - 3e-9, 1e-9, 2e-9, 0]]]
    )  # the last one is surer than float32 can say
    for variant in VARIANTS:
        for forgotten in (0, (0, 2)):
            expected = masked_renormalization(probs, forgotten)
            assert np.array_equal(
                mpru(probs, np.eye(4), forgotten, variant=variant), expected
            )
            twice = mpru(expected, np.eye(4), forgotten, variant=variant)
            assert np.allclose(twice, expected, rtol=1e-6)


def test_mpru_without_directions_is_masking():
    probs, means = draw(10, 20, 4), draw(11, 4, 4)
    means[1] = 0.25 * means[0] + 0.75 * means[3]  # in the span of the retained means
    assert not removed_directions(means, 1).any()
    assert np.array_equal(mpru(probs, means, 1), masked_renormalization(probs, 1))
    assert removed_directions(means, 1, variant="direct").any()


def test_no_remaining_mass_is_uniform_over_the_retained_classes():
    assert masked_renormalization([0.0, 1.0, 0.0], 1).tolist() == [0.5, 0.0, 0.5]
    means = np.array([[0.9, 0.09, 0.01], [0.3, 0.5, 0.2], [0.0, 0.1, 0.9]])
    assert mpru(means[0], means, 0, variant="direct").tolist() == [
        0.0,
        0.5,
        0.5,
    ]  # rounding is not mass
    assert mpru(np.eye(3)[0], np.eye(3), 0).tolist() == [0.0, 0.5, 0.5]


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype(np.float32).reshape(-1, 8, 8, 1), labels.astype(
        np.int32
    )


def test_filters_take_the_probabilities_of_a_tree_ensemble(digits):
    images, labels = digits[0].reshape(len(digits[1]), -1), digits[1]
    forest = RandomForestClassifier(10, random_state=0).fit(images[:600], labels[:600])
    held_out, probs = (
        forest.predict_proba(images[600:900]),
        forest.predict_proba(images[900:]),
    )
    means = np.array([slow_mean(held_out, labels[600:900], k) for k in range(10)])
    for variant in VARIANTS:
        value = mpru(probs, class_means(held_out, labels[600:900]), 3, variant=variant)
        expected = [slow_filter(p, means, (3,), variant) for p in probs[:200]]
        assert np.allclose(value[:200], expected, atol=1e-5)
        retained = labels[900:] != 3
        assert (np.asarray(value).argmax(1) == labels[900:])[retained].mean() > 0.85


def test_a_linear_probe_on_the_features_still_recognizes_the_class(key, digits):
    images, labels = digits
    model = models.build("mlp", (8, 8, 1), 10, widths=(32,))
    recipe = train.Recipe(20, 50, train.sgd(0.1))
    state, _ = train.fit(
        key,
        model,
        Dataset(*digits),
        np.arange(len(labels)) < 900,
        recipe,
        epochs_per_call=20,
    )
    logits = np.asarray(
        train.predict(model.apply, state.variables, jnp.asarray(images))
    )
    probs, is_three, seen = (
        jax.nn.softmax(logits),
        labels == 3,
        np.arange(len(labels)) < 900,
    )
    means = class_means(probs[:900], labels[:900])
    recall = (logits.argmax(1) == 3)[is_three & ~seen].mean()
    assert recall > 0.8
    layer = state.variables.params["Dense_0"]
    features = np.maximum(
        images.reshape(len(images), -1) @ layer["kernel"]
        + np.asarray(layer["bias"])[None],
        0,
    )
    probe = LogisticRegression(max_iter=2000, class_weight="balanced").fit(
        features[seen], is_three[seen]
    )
    right = probe.predict(features) == is_three
    for name, filtered in FILTERS.items():
        answers = np.asarray(filtered(probs, means, 3)).argmax(1)
        assert not (answers == 3).any(), name  # the output has forgotten
    assert right[is_three & ~seen].mean() > max(
        0.8, recall - 0.05
    )  # the features have not
    assert right[~is_three & ~seen].mean() > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: masked_renormalization(draw(0, 3, 4), 4), r"classes in 0\.\.3"),
        (lambda: masked_renormalization(draw(0, 3, 4), -1), r"classes in 0\.\.3"),
        (
            lambda: jax.jit(lambda p: masked_renormalization(p, (1, 7)))(draw(0, 3, 4)),
            r"classes in 0\.\.3",
        ),
        (
            lambda: masked_renormalization(draw(0, 3, 4), [0, 1, 2, 3]),
            "retain at least one",
        ),
        (
            lambda: masked_renormalization(draw(0, 3, 4), [True, False]),
            "one entry per class, 4",
        ),
        (lambda: masked_renormalization(draw(0, 3, 4), 1.0), "class numbers or a mask"),
        (
            lambda: masked_renormalization(draw(0, 3, 4), [[1]]),
            "class numbers or a mask",
        ),
        (lambda: masked_renormalization(0.5, 0), "last axis"),
        (lambda: mpru(draw(0, 3, 4), np.eye(3), 0), r"pass \[C, C\] for the 4 classes"),
        (lambda: mpru(draw(0, 3, 4), np.eye(4), 0, variant="B"), "'inductive' or"),
        (lambda: removed_directions(np.ones((3, 4)), 0), "one row per class"),
        (lambda: class_means(draw(0, 3, 4), [0, 1]), "integer labels"),
        (
            lambda: class_means(draw(0, 3, 4), [0, 1, 2], num_classes=0),
            "num_classes must be a positive integer, got 0",
        ),
        (lambda: class_means(draw(0, 3, 4), [0.0, 1.0, 2.0]), "integer labels"),
    ],
)
def test_unusable_input_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_an_empty_list_forgets_nothing():
    probabilities = draw(0, 3, 4)
    filtered = masked_renormalization(probabilities, [])
    np.testing.assert_allclose(filtered, probabilities, rtol=1e-6)


def test_concrete_probabilities_may_be_filtered_inside_jit():
    probabilities = draw(0, 3, 4)
    means = draw(1, 4, 4)
    got = jax.jit(lambda means: mpru(probabilities, means, 1))(means)
    np.testing.assert_allclose(got, mpru(probabilities, means, 1), rtol=1e-6)
    listed = jax.jit(lambda p: masked_renormalization([p, 1 - p], 0))(0.5)
    np.testing.assert_array_equal(listed, [0, 1])


def test_products_are_not_rounded_on_accelerators():
    text = str(jax.make_jaxpr(lambda p, m: mpru(p, m, 1))(draw(0, 3, 4), np.eye(4)))
    assert text.count("dot_general") == text.count("precision=(Precision.HIGHEST") == 8


def test_filters_are_registered_by_name():
    assert set(FILTERS) == {"mask", "mpru", "mpru_direct"}
    assert filters.FILTERS["mpru"] == filters.MPRU()
    assert filters.FILTERS["mpru_direct"] == filters.MPRU(variant="direct")
    for name, named in FILTERS.items():
        assert values.from_json(values.to_json(named)) == named, name


def test_unknown_variant_is_refused():
    with pytest.raises(InputError, match="choose inductive or direct"):
        filters.MPRU(variant="B")
