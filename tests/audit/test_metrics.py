"""Table metrics equal their definitions and the published tables; the SVC attack
separates what it can.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from support import oracles
from support.refusals import assert_refused

from unlearn_jax.audit import accuracy, avg_gap, forget_aucs, mis

RETRAIN = (94.49, 100.0, 94.33, 50.0)
# AMUN, Table 1, 10% forget: unlearn, retain, test accuracy, FT AUC, printed Avg Gap
TABLE_1 = {
    "FT": (95.16, 96.64, 92.21, 52.08, 2.06),
    "RL": (95.54, 97.47, 92.17, 51.33, 1.74),
    "GA": (98.94, 99.22, 93.39, 60.96, 4.28),
    "BS": (99.14, 99.89, 93.04, 57.85, 3.48),
    "l1-sparse": (94.29, 95.63, 91.55, 51.21, 2.16),
    "SalUn": (96.25, 98.14, 93.06, 50.88, 1.44),
    "AMUN": (95.45, 99.57, 93.45, 50.18, 0.62),
    "AMUN+SalUn": (95.02, 99.58, 93.29, 50.72, 0.68),
}


@pytest.mark.parametrize("method", TABLE_1)
def test_avg_gap_recomputes_the_published_rows(method):
    *means, printed = TABLE_1[method]
    assert abs(avg_gap([means], [RETRAIN])[0] - printed) < 0.05


def test_avg_gap_is_per_run_against_the_oracles_mean():
    rng = np.random.default_rng(0)
    values, oracle = rng.random((5, 4)), rng.random((3, 4))
    expected = [oracles.avg_gap(run, oracle) for run in values]
    assert np.allclose(avg_gap(values, oracle), expected, rtol=1e-14)
    assert np.allclose(
        avg_gap(jnp.asarray(values), jnp.asarray(oracle)), expected, rtol=1e-6
    )
    assert avg_gap(values, oracle).mean() >= avg_gap(values.mean(0)[None], oracle)[0]
    assert avg_gap(oracle, oracle).max() > 0  # a retrained run is not its own mean
    assert np.allclose(avg_gap(oracle.mean(0)[None], oracle), 0)


def test_accuracy_counts_masked_samples_only():
    rng = np.random.default_rng(1)
    logits, labels = (
        rng.normal(size=(60, 4)).astype(np.float32),
        rng.integers(4, size=60),
    )
    mask = rng.random(60) < 0.5
    right = [np.argmax(z) == y for z, y in zip(logits, labels, strict=True)]
    assert accuracy(logits, labels) == np.mean(right)
    assert accuracy(logits, labels, mask) == np.mean(np.array(right)[mask])
    assert accuracy(
        jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(mask)
    ) == accuracy(logits, labels, mask)
    assert accuracy(logits, logits.argmax(1)) == 1
    assert accuracy(logits, (logits.argmax(1) + 1) % 4) == 0
    broken = np.where(mask[:, None], logits, np.nan)
    assert accuracy(broken, labels, mask) == accuracy(logits, labels, mask)


def test_forget_aucs_equal_counting():
    rng = np.random.default_rng(2)
    part = rng.integers(4, size=120)  # part 3 is in none of the masks
    scores = rng.integers(0, 12, 120) + 2.0 * (part == 1)
    forget, retain, test = (part == k for k in range(3))
    measured = forget_aucs(scores, forget, retain, test)
    for value, (above, below) in zip(
        measured, ((forget, test), (retain, forget), (retain, test)), strict=True
    ):
        kept = above | below
        assert np.isclose(value, oracles.mann_whitney(scores[kept], above[kept]))
    assert measured.fr > 0.6
    assert np.allclose(
        forget_aucs(jnp.asarray(scores), *map(jnp.asarray, (forget, retain, test))),
        measured,
    )
    separated = forget_aucs(
        np.choose(part, [1.0, 2.0, 0.0, np.nan]), forget, retain, test
    )
    assert separated == (1.0, 1.0, 1.0)


def test_mis_separates_members_from_others():
    rng = np.random.default_rng(3)
    sure, unsure = rng.uniform(0.97, 1, 300), rng.uniform(0.1, 0.6, 200)
    forget = np.concatenate([rng.uniform(0.97, 1, 30), rng.uniform(0.1, 0.6, 10)])
    result = mis(sure, unsure, forget)
    assert result.fraction == 0.25
    assert result.called_member.tolist() == [True] * 30 + [False] * 10
    assert result.num_per_side == 200
    assert (
        mis(jnp.asarray(sure), jnp.asarray(unsure), jnp.asarray(forget)).fraction
        == 0.25
    )
    assert mis(unsure, sure, forget).fraction == 0.75


def test_mis_caps_and_repeats_by_seed():
    rng = np.random.default_rng(4)
    retain, test, forget = rng.beta(5, 1, 300), rng.beta(3, 1, 200), rng.beta(4, 1, 100)
    assert mis(retain, test, forget, max_samples=50).num_per_side == 50
    assert mis(retain, test, forget, max_samples=None).num_per_side == 200
    few = [mis(retain, test, forget, max_samples=40, seed=seed) for seed in (0, 0, 1)]
    assert np.array_equal(few[0].called_member, few[1].called_member)
    assert not np.array_equal(few[0].called_member, few[2].called_member)
    order = rng.permutation(100)
    again = mis(retain, test, forget[order], max_samples=40)
    assert np.array_equal(again.called_member, few[0].called_member[order])


PARTS = np.eye(3, dtype=bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accuracy([1.0, 2.0], [0]), "2 axes"),
        (lambda: accuracy([[1.0, 2.0]], [0, 1]), "1 integers"),
        (lambda: accuracy([[1.0, 2.0]], [0.0]), "1 integers"),
        (lambda: accuracy([[1.0, np.nan]], [0]), "1 NaN"),
        (lambda: accuracy([[1.0, 2.0]], [0], [False]), "empty"),
        (lambda: accuracy([[1.0, 2.0]], [0], [0]), "boolean"),
        (lambda: forget_aucs(np.ones(3), PARTS[0], PARTS[0], PARTS[1]), "overlap"),
        (
            lambda: forget_aucs(np.ones(3), PARTS[0], PARTS[1], np.zeros(3, bool)),
            "test is empty",
        ),
        (lambda: forget_aucs([1, 2, np.nan], *PARTS), "1 NaN"),
        (lambda: forget_aucs(np.ones(3), [0], PARTS[1], PARTS[2]), "forget has dtype"),
        (lambda: avg_gap(np.ones(4), np.ones((1, 4))), "2 axes"),
        (lambda: avg_gap(np.ones((2, 4)), np.ones((1, 3))), "same metrics"),
        (lambda: avg_gap([[1.0, np.nan]], np.ones((1, 2))), "values has 1"),
        (lambda: avg_gap(np.ones((1, 2)), [[np.inf, 1.0]]), "reference has 1"),
        (lambda: mis([], [0.1], [0.2]), "retain has shape"),
        (lambda: mis([0.9], [np.nan], [0.2]), "test has 1"),
        (lambda: mis([0.9], [0.1], [[0.2]]), "1 axes"),
        (lambda: mis([0.9], [0.1], [0.2], max_samples=0), "max_samples"),
    ],
)
def test_bad_input_is_one_line(call, message):
    assert_refused(call, message)
