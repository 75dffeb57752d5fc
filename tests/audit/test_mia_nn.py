"""MIA-NN finds the class that a forgotten one sits next to, and tells models that
ignore that neighbor.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fuzzing import with_fields
from support.refusals import assert_refused

from unlearn_jax import audit

discriminator_calls = with_fields(audit.discriminator_calls)
mia_nn = with_fields(audit.mia_nn)
neighbor_credits = with_fields(audit.neighbor_credits)
nearest_neighbor = with_fields(audit.nearest_neighbor)

NUM_CLASSES, PER_CLASS, FORGOTTEN, NEXT = 5, 30, 1, 3
LABELS = np.random.default_rng(9).permutation(
    np.repeat(np.arange(NUM_CLASSES), PER_CLASS)
)


def models(seed, num_models=3, *, forgotten=2.0, spread=0.3, towards=NEXT):
    """Logits ``[R, N, C]``: 2 at the own class; forgotten samples have ``forgotten`` at
    class ``towards``, 0 else.
    """
    rng = np.random.default_rng(seed)
    logits = (
        rng.normal(0, spread, (num_models, LABELS.size, NUM_CLASSES))
        + 2 * np.eye(NUM_CLASSES)[LABELS]
    )
    logits[:, LABELS == FORGOTTEN, FORGOTTEN] -= 2
    logits[:, LABELS == FORGOTTEN, towards] += forgotten
    return logits


def nearest_mean_calls(logits, labels, own, gone, query):
    """A linear discriminator of another kind: which of two class means is nearer, one
    sample after the other.
    """
    own_mean = np.mean(
        [z for z, y in zip(logits, labels, strict=True) if y == own], axis=0
    )
    others = [k for k in range(logits.shape[1]) if k != own and k not in gone]
    means = [
        np.mean([z for z, y in zip(logits, labels, strict=True) if y == k], axis=0)
        for k in others
    ]
    near = [
        min(np.linalg.norm(z - m) for m in means) - np.linalg.norm(z - own_mean)
        for z in logits[labels == query]
    ]
    return np.array(near) > 0


@pytest.mark.parametrize("towards", [0, 3, 4])
def test_neighbor_is_the_class_nearest_to_the_forgotten_samples(towards):
    logits = models(0, towards=towards)
    result = nearest_neighbor(logits, LABELS, FORGOTTEN)
    assert result.neighbor == towards
    assert result.fractions.shape == (3, NUM_CLASSES)
    assert (result.fractions[:, towards] > 0.9).all()
    assert (result.fractions[:, FORGOTTEN] == 0).all()
    assert (np.delete(result.fractions, towards, axis=1) < 0.1).all()
    assert np.array_equal(
        result.fractions[:, towards],
        [discriminator_calls(z, LABELS, towards, FORGOTTEN).mean() for z in logits],
    )


def test_the_neighbor_is_found_from_all_retrained_models():
    logits = np.concatenate([models(0, 1, towards=0), models(1, 2)])
    result = nearest_neighbor(logits, LABELS, FORGOTTEN)
    assert result.fractions[0].argmax() == 0
    assert result.neighbor == NEXT


def test_calls_agree_with_a_simpler_discriminator_and_keep_the_order_of_samples():
    logits = models(1, 1)[0]
    rng = np.random.default_rng(1)
    logits[LABELS == FORGOTTEN, NEXT] = rng.permutation(
        np.repeat([2.0, -1.0], PER_CLASS // 2)
    )
    logits[LABELS == FORGOTTEN, 0] = 1 - logits[LABELS == FORGOTTEN, NEXT]
    expected = nearest_mean_calls(logits, LABELS, NEXT, (FORGOTTEN,), FORGOTTEN)
    assert 0 < expected.mean() < 1
    for options in (
        {},
        {"kernel": "linear"},
        {"gamma": "scale"},
        {"features": "probabilities"},
    ):
        calls = discriminator_calls(logits, LABELS, NEXT, FORGOTTEN, **options)
        assert calls.dtype == bool
        assert np.array_equal(calls, expected)
    assert np.array_equal(
        discriminator_calls(jnp.asarray(logits), jnp.asarray(LABELS), NEXT, FORGOTTEN),
        expected,
    )
    foreign = discriminator_calls(logits, LABELS, 0, FORGOTTEN)
    assert np.array_equal(
        foreign, nearest_mean_calls(logits, LABELS, 0, (FORGOTTEN,), FORGOTTEN)
    )


def test_gap_of_two_sets_of_retrained_models_is_within_their_spread():
    noisy = {"forgotten": 1.2, "spread": 0.6}  # scores strictly between 0 and 1
    result = mia_nn(models(2, 6, **noisy), models(3, 6, **noisy), LABELS, FORGOTTEN)
    assert 0.2 < result.reference_mean < 0.98
    assert result.reference_std > 0
    assert abs(
        result.scores.mean() - result.reference_mean
    ) < 3 * result.reference_std * np.sqrt(2 / 6)
    assert (result.gap < 4 * result.reference_std).all()
    assert np.allclose(
        result.gap, [abs(s - np.mean(result.reference_scores)) for s in result.scores]
    )
    deviations = result.reference_scores - result.reference_mean
    assert np.isclose(result.reference_std, np.sqrt((deviations**2).sum() / 5))
    assert np.array_equal(result.called.mean(axis=1), result.scores)
    assert result.called.shape == (6, PER_CLASS)


def test_more_mass_on_the_neighbor_scores_higher_and_uniform_outputs_score_low():
    masses = (0.0, 0.8, 1.2, 2.0)
    unlearned = np.concatenate([models(4, 1, forgotten=mass) for mass in masses])
    uniform = unlearned[:1].copy()
    uniform[:, LABELS == FORGOTTEN] = 0
    result = mia_nn(models(5), np.concatenate([unlearned, uniform]), LABELS, FORGOTTEN)
    assert result.neighbor == NEXT
    assert result.reference_mean > 0.9
    assert result.scores[0] < 0.1
    assert sorted(result.scores[:4]) == result.scores[:4].tolist()
    assert result.scores[1] < result.scores[3] - 0.1
    assert result.scores[4] == 0
    assert result.gap[3] < 0.1 < 0.8 < result.gap[4]


def test_neighbor_against_forgotten_score_rises_with_recognition():
    unlearned = models(6, 2)
    unlearned[1, LABELS == FORGOTTEN, FORGOTTEN] += 2  # still recognized
    result = mia_nn(
        models(7, 4), unlearned, LABELS, FORGOTTEN, reading="neighbor_against_forgotten"
    )
    assert (
        abs(result.reference_scores - 0.5) < 0.3
    ).all()  # neighbor and forgotten class have one law here
    assert abs(result.scores[0] - 0.5) < 0.3
    assert result.scores[1] > 0.95
    assert not result.called[1].any()
    assert result.neighbor == NEXT


def test_neighbor_against_forgotten_scores_out_of_sample():
    """A kernel so narrow that it knows its training samples only: in sample it would be
    right everywhere.
    """
    logits = models(8)
    result = mia_nn(
        logits,
        logits[0],
        LABELS,
        FORGOTTEN,
        neighbor=NEXT,
        reading="neighbor_against_forgotten",
        gamma=1e6,
    )
    assert abs(result.scores[0] - 0.5) < 0.1


def mixed(seed):
    """Retrained and unlearned logits on which no option is without effect: wide, with
    mixed forgotten samples.
    """
    rng = np.random.default_rng(seed)
    logits = models(seed, 3, forgotten=1.0, spread=0.9)
    logits[:, LABELS == FORGOTTEN, 0] += rng.normal(0.5, 1, PER_CLASS)
    logits[:, LABELS == FORGOTTEN, FORGOTTEN] += rng.normal(0, 2, PER_CLASS)
    return logits


@pytest.mark.parametrize(
    "options",
    [
        {"kernel": "linear"},
        {"C": 0.05},
        {"gamma": 2.0},
        {"gamma": "scale", "features": "probabilities"},
        {"columns": "retained"},
        {"columns": "neighbor"},
        {"features": "probabilities"},
        {"balance": False},
        {"max_samples": 10},
        {"seed": 1},
        {"also_forgotten": (4,)},
        {"neighbor": 0},
        {"reading": "neighbor_against_forgotten"},
    ],
    ids=str,
)
def test_every_option_changes_the_calls(options):
    logits = mixed(10)
    plain = mia_nn(logits, logits[::-1], LABELS, FORGOTTEN, **{"neighbor": NEXT})
    other = mia_nn(
        logits, logits[::-1], LABELS, FORGOTTEN, **{"neighbor": NEXT, **options}
    )
    assert not np.array_equal(plain.called, other.called)
    assert np.array_equal(plain.scores, plain.reference_scores[::-1])
    assert ((other.scores >= 0) & (other.scores <= 1)).all()


def test_only_the_chosen_columns_are_read():
    """What a machine does not read may be anything."""
    logits = mixed(11)[0]
    poisoned = logits.copy()
    poisoned[:, FORGOTTEN] = np.random.default_rng(0).normal(0, 100, LABELS.size)
    also = poisoned.copy()
    also[LABELS == 4] = 50  # samples of another forgotten class, and its logits
    also[:, 4] = -poisoned[:, FORGOTTEN]

    def calls(z, **options):
        return discriminator_calls(z, LABELS, NEXT, FORGOTTEN, **options)

    assert np.array_equal(
        calls(logits, columns="retained"), calls(poisoned, columns="retained")
    )
    assert not np.array_equal(calls(logits), calls(poisoned))
    masked = logits.copy()
    masked[
        :, FORGOTTEN
    ] = -1e10  # a constant column must not cost the others their digits
    for options in ({"gamma": 0.3}, {"kernel": "linear"}):
        assert np.array_equal(
            calls(masked, **options), calls(logits, columns="retained", **options)
        )
    only = np.zeros_like(logits)
    only[:, NEXT] = logits[:, NEXT]
    assert np.array_equal(
        calls(only, columns="neighbor"), calls(logits, columns="neighbor")
    )
    two = {"columns": "retained", "also_forgotten": [4]}
    assert np.array_equal(calls(poisoned, **two), calls(also, **two))
    assert (
        nearest_neighbor(also[None], LABELS, FORGOTTEN, also_forgotten=[4]).fractions[
            0, 4
        ]
        == 0
    )
    shifted = logits + 7 * np.random.default_rng(0).normal(
        size=(LABELS.size, 1)
    )  # the softmax does not move
    assert np.array_equal(
        calls(logits, features="probabilities"),
        calls(shifted, features="probabilities"),
    )


@settings(deadline=None, max_examples=6)
@given(
    st.integers(0, 2**16),
    st.sampled_from([{}, {"kernel": "linear"}, {"features": "probabilities"}]),
)
def test_repeats_and_survives_saturated_logits(seed, options):
    logits = 1e5 * models(seed, 2)
    logits[1, :, FORGOTTEN] = -1e15
    logits[0, 0, 0] = 1e30
    first = mia_nn(logits, logits[0], LABELS, FORGOTTEN, **options)
    again = mia_nn(logits, logits[0], LABELS, FORGOTTEN, **options)
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b)
    assert min(first.reference_scores) > 0.7
    assert np.isclose(
        first.gap[0], abs(first.reference_scores[0] - first.reference_scores[1]) / 2
    )


RETRAINED, ONE = models(12, 2), models(13, 1)[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mia_nn(ONE, ONE, LABELS, 1), "reference_logits has shape"),
        (lambda: mia_nn(RETRAINED[:1], ONE, LABELS, 1), "at least 2"),
        (lambda: mia_nn(RETRAINED, ONE[:, :4], LABELS, 1), "same samples and classes"),
        (
            lambda: mia_nn(RETRAINED, ONE * np.nan, LABELS, 1),
            "target_logits has 750",
        ),
        (
            lambda: mia_nn(RETRAINED, ONE, LABELS, 1, reading="both"),
            "unknown reading 'both'",
        ),
        (lambda: mia_nn(RETRAINED, ONE, LABELS, 1, neighbor=1), "neighbor is 1"),
        (
            lambda: mia_nn(RETRAINED, ONE, LABELS, 1, also_forgotten=(2,), neighbor=2),
            "neighbor is 2",
        ),
        (
            lambda: mia_nn(
                RETRAINED,
                ONE,
                np.arange(150).clip(max=4),
                1,
                reading="neighbor_against_forgotten",
            ),
            "at least 2 samples",
        ),
        (lambda: nearest_neighbor(RETRAINED, LABELS[:9], 1), "pass 150 integers"),
        (lambda: nearest_neighbor(RETRAINED, LABELS * 1.0, 1), "labels are float64"),
        (lambda: nearest_neighbor(RETRAINED, LABELS + 1, 1), "labels must lie in 0..4"),
        (
            lambda: nearest_neighbor(RETRAINED, LABELS, 5),
            r"forgotten classes are \[5\]",
        ),
        (
            lambda: nearest_neighbor(RETRAINED, LABELS, 1, also_forgotten=[1]),
            r"\[1, 1\]",
        ),
        (
            lambda: nearest_neighbor(RETRAINED, LABELS, 1, also_forgotten=[2, 3, 4]),
            "1 of 5 classes",
        ),
        (
            lambda: nearest_neighbor(RETRAINED, np.where(LABELS == 2, 0, LABELS), 1),
            "class 2 has no sample",
        ),
        (lambda: discriminator_calls(ONE, LABELS, 9, 1), "neighbor is 9"),
        (lambda: discriminator_calls(RETRAINED, LABELS, 3, 1), "logits has shape"),
        (
            lambda: discriminator_calls(ONE, LABELS, 3, 1, kernel="poly"),
            "unknown kernel",
        ),
        (
            lambda: discriminator_calls(ONE, LABELS, 3, 1, columns="some"),
            "unknown columns",
        ),
        (
            lambda: discriminator_calls(ONE, LABELS, 3, 1, features="softmax"),
            "unknown features",
        ),
        (lambda: discriminator_calls(ONE, LABELS, 3, 1, gamma="wide"), "unknown gamma"),
        (lambda: discriminator_calls(ONE, LABELS, 3, 1, gamma=0.0), "gamma must be"),
        (lambda: discriminator_calls(ONE, LABELS, 3, 1, C=-1.0), "C must be positive"),
        (lambda: discriminator_calls(ONE, LABELS, 3, 1, max_samples=0), "max_samples"),
    ],
)
def test_bad_input_is_one_line(call, message):
    assert_refused(call, message)


def test_an_ignored_class_needs_no_samples():
    labels = np.where(LABELS == 2, 0, LABELS)
    assert nearest_neighbor(RETRAINED, labels, 1, also_forgotten=[2]).neighbor == NEXT


@pytest.mark.parametrize(
    "reading", ["neighbor_against_rest", "neighbor_against_forgotten"]
)
def test_a_score_is_the_mean_of_its_credits(reading):
    logits = models(4, 4, spread=1.5)
    options = dict(neighbor=NEXT, reading=reading, features="probabilities")
    result = mia_nn(logits[:2], logits[2:], LABELS, FORGOTTEN, **options)
    for score, one in zip(result.scores, logits[2:], strict=True):
        credits = neighbor_credits(
            one,
            LABELS,
            NEXT,
            FORGOTTEN,
            reading=reading,
            features="probabilities",
        )
        counted = np.isfinite(credits)
        is_pair = reading == "neighbor_against_forgotten"
        classes = [FORGOTTEN, NEXT] if is_pair else [FORGOTTEN]
        np.testing.assert_array_equal(counted, np.isin(LABELS, classes))
        assert 0 < score < 1
        assert credits[counted].mean() == pytest.approx(score)
