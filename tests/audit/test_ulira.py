"""U-LiRA equals its slow definition, cannot tell equal laws apart, and reaches the best
attack on Gaussians.
"""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unlearn_jax.audit._ulira import ulira, ulira_kodge
from unlearn_jax.types import InputError


def log_normal(x, mean, std):
    return -0.5 * math.log(2 * math.pi) - math.log(std) - (x - mean) ** 2 / (2 * std**2)


def mean_std(values):
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(
        math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    )


def half_ties(positive, negative):
    """P(positive > negative), ties half, by counting pairs."""
    return np.mean([(p > n) + (p == n) / 2 for p in positive for n in negative])


def slow_ratio(value, s, n, unlearned, retrained, min_std):
    """Log-likelihood ratio of a held-out value, from the other models' values of sample
    n.
    """
    logs = []
    for side in (unlearned, retrained):
        mean, std = mean_std([side[m][n] for m in range(len(side)) if m != s])
        logs.append(log_normal(value, mean, max(std, min_std)))
    return logs[0] - logs[1]


VALUES = st.one_of(st.sampled_from([-73.0, 0.0, 0.5, 1.0]), st.floats(-4, 4, width=32))


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(3, 6), st.integers(1, 4)).flatmap(
        lambda shape: arrays(float, (2, *shape), elements=VALUES)
    ),
    st.sampled_from([1e-2, 1.0]),
)
def test_equals_the_definition(sides, min_std):
    unlearned, retrained = sides.tolist()
    got = ulira(*sides, min_std=min_std)
    models, samples = sides.shape[1:]
    for own, ratios, called in (
        (unlearned, got.target, got.target_called),
        (retrained, got.reference, got.reference_called),
    ):
        for s in range(models):
            for n in range(samples):
                expected = slow_ratio(own[s][n], s, n, unlearned, retrained, min_std)
                assert math.isclose(ratios[s, n], expected, rel_tol=1e-9, abs_tol=1e-6)
                assert called[s, n] == (
                    0.5 if ratios[s, n] == 0 else float(ratios[s, n] > 0)
                )
    for s in range(models):
        assert math.isclose(
            got.accuracy[s],
            np.mean(
                [(u + 1 - r) / 2 for u, r in zip(got[2][s], got[3][s], strict=True)]
            ),
        )
        assert math.isclose(got.auc[s], half_ties(got.target[s], got.reference[s]))


def test_outlier_does_not_enter_the_std_of_other_models():
    values = np.array([[1e6], [0.1], [0.2], [0.3]])
    ratio = ulira(values, values + 1).target[0, 0]
    assert math.isclose(
        ratio,
        slow_ratio(1e6, 0, 0, values.tolist(), (values + 1).tolist(), 1e-3),
        rel_tol=1e-9,
    )


def test_ulira_of_equal_distributions_is_one_half():
    rng = np.random.default_rng(0)
    trials, models, samples = 60, 5, 40
    scale = rng.gamma(2, size=samples)  # each sample has its own law, far from Gaussian
    means, areas = [], []
    for _ in range(trials):
        result = ulira(*(scale * rng.exponential(size=(2, models, samples)) ** 2))
        means.append(result.accuracy.mean())
        areas.append(result.auc.mean())
    for values in (means, areas):
        error = np.std(values, ddof=1) / math.sqrt(trials)
        assert abs(np.mean(values) - 0.5) < 3.3 * error
        assert error < 0.01


@pytest.mark.parametrize(("shift", "spread"), [(1.0, 1.0), (2.0, 1.0), (0.0, 3.0)])
def test_reaches_the_best_attack_on_gaussians(shift, spread):
    """With many models the accuracy is 1/2 + TV / 2 of the two laws, total variation by
    summation.
    """
    rng = np.random.default_rng(1)
    unlearned, retrained = (
        rng.normal(shift, spread, (60, 800)),
        rng.normal(size=(60, 800)),
    )
    grid = np.linspace(-15, 15, 20001)
    p, q = (
        np.exp(-0.5 * ((grid - m) / s) ** 2) / s for m, s in ((shift, spread), (0, 1))
    )
    best = 0.5 + 0.25 * np.abs(p / p.sum() - q / q.sum()).sum()
    result = ulira(unlearned, retrained)
    assert abs(result.accuracy.mean() - best) < 0.01
    if spread == 1:
        assert math.isclose(
            best, (1 + math.erf(shift / 2 / math.sqrt(2))) / 2, abs_tol=1e-4
        )
        assert (
            abs(result.auc.mean() - (1 + math.erf(shift / 2)) / 2) < 0.01
        )  # Phi(d / sqrt 2)


def test_ulira_separates_distant_distributions_and_is_antisymmetric():
    rng = np.random.default_rng(2)
    far, near = rng.normal(8, 1, (8, 30)), rng.normal(size=(8, 30))
    result, mirrored = ulira(far, near), ulira(near, far)
    assert result.accuracy.mean() > 0.99
    assert result.auc.min() > 0.99
    assert np.array_equal(mirrored.target, -result.reference)
    assert np.allclose(mirrored.accuracy, result.accuracy)


def test_std_floor_bounds_scores_of_point_masses():
    rng = np.random.default_rng(3)
    retrained = rng.normal(size=(6, 20))
    result = ulira(np.full((6, 20), -73.7), retrained, min_std=0.01)
    assert np.isfinite(result.target).all()
    assert np.array_equal(result.accuracy, np.ones(6))
    mean, std = mean_std(retrained[1:, 0])
    expected = log_normal(-73.7, -73.7, 0.01) - log_normal(-73.7, mean, std)
    assert math.isclose(result.target[0, 0], expected, rel_tol=1e-9)
    same = ulira(np.full((4, 5), 0.1), np.full((4, 5), 0.1))
    assert (same.target_called == 0.5).all()
    assert np.array_equal(same.accuracy, np.full(4, 0.5))
    near = np.full((4, 5), 0.1 + 1e-4)
    assert ulira(near, np.full((4, 5), 0.1), min_std=0.1).target.max() < 1e-5


def test_pairs_and_samples_have_no_order_and_jax_arrays_pass():
    rng = np.random.default_rng(4)
    unlearned, retrained = (
        rng.normal(0.5, 1, (7, 9)).astype(np.float32),
        rng.normal(size=(7, 9)).astype(np.float32),
    )
    result = ulira(unlearned, retrained)
    pairs, samples = rng.permutation(7), rng.permutation(9)
    moved = ulira(unlearned[np.ix_(pairs, samples)], retrained[np.ix_(pairs, samples)])
    for a, b in zip(moved[:4], result[:4], strict=True):
        assert np.allclose(a, b[np.ix_(pairs, samples)], rtol=1e-9)
    assert np.allclose(moved.accuracy, result.accuracy[pairs])
    assert np.array_equal(
        ulira(jnp.asarray(unlearned), jnp.asarray(retrained)).target,
        result.target,
    )
    assert not np.array_equal(
        ulira(unlearned, retrained, min_std=5.0).target, result.target
    )


def kodge_by_hand(p_unlearned, p_retrained):
    """The described protocol on probabilities, sample by sample; the ROC curve has
    corners only.
    """

    def statistic(p):
        return math.log(p / (1 - p + 1e-32) + 1e-32)

    ratios = []
    for side in (p_unlearned, p_retrained):
        row = []
        for n, p in enumerate(side[-1]):
            densities = []
            for fitted in (p_unlearned, p_retrained):
                mean, std = mean_std([statistic(model[n]) for model in fitted[:-1]])
                densities.append(math.exp(log_normal(statistic(p), mean, std + 1e-32)))
            row.append(densities[0] / (densities[1] + 1e-32))
        ratios.append(row)
    points = [(math.inf, 0.0, 0.0)]
    for t in sorted({*ratios[0], *ratios[1]}, reverse=True):
        points.append((t, *(sum(v >= t for v in row) / len(row) for row in ratios)))
    corners = [points[0]]  # a point is a corner where the direction changes
    for before, here, after in zip(
        points, points[1:], [*points[2:], None], strict=False
    ):
        step_in = (here[1] - before[1], here[2] - before[2])
        step_out = None if after is None else (after[1] - here[1], after[2] - here[2])
        if step_out is None or not np.allclose(step_in, step_out):
            corners.append(here)
    threshold, tpr, fpr = min(
        corners, key=lambda corner: abs(corner[1] + corner[2] - 1)
    )
    return half_ties(*ratios), tpr, (tpr + 1 - fpr) / 2, threshold


@pytest.mark.parametrize(
    ("start", "shift"), [(0.0, 0.0), (0.0, 1.0), (-6.0, 6.0), (-73.0, 1.0)]
)
def test_kodge_equals_its_description(start, shift):
    for seed in range(4):
        rng = np.random.default_rng(seed)
        phi = rng.normal(start, size=(2, 5, 12))
        phi[0] += shift
        got = ulira_kodge(*phi)
        expected = kodge_by_hand(*(1 / (1 + np.exp(-phi))).tolist())
        assert np.allclose(got, expected, rtol=1e-6)


def test_kodge_of_point_masses_and_of_empty_sets():
    rng = np.random.default_rng(5)
    gone, retrained = np.full((4, 10), -500.0), rng.normal(-3, 1, (4, 10))
    result = ulira_kodge(gone, retrained)
    assert result[:3] == (1.0, 1.0, 1.0)
    assert (
        1e31 < result.threshold < 1e64
    )  # (the ratio of a point mass to a density that may underflow)
    assert result == ulira_kodge(
        gone - 100, retrained
    )  # the statistic ends at log(1e-32)
    assert ulira_kodge(gone, gone) == (
        0.5,
        0.0,
        0.5,
        math.inf,
    )  # all ratios are equal: nothing reaches the threshold
    halves = [ulira_kodge(*rng.normal(size=(2, 8, 400))) for _ in range(10)]
    assert abs(np.mean([h.accuracy for h in halves]) - 0.5) < 0.05
    assert abs(np.mean([h.auc for h in halves]) - 0.5) < 0.05


ONES = np.ones((3, 4))


@pytest.mark.parametrize("attack", [ulira, ulira_kodge])
@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ((ONES[0], ONES), "target has shape .* 2 axes"),
        ((ONES, ONES[:2]), "reference has 2 models: pass at least 3"),
        ((ONES, ONES[:, :2]), "same samples"),
        ((ONES, np.ones((4, 4))), "equally many models"),
        ((ONES * np.nan, ONES), "target has 12 values"),
        ((ONES, ONES * -math.inf), "reference has 12 values"),
    ],
)
def test_bad_input_is_one_line(attack, sides, message):
    with pytest.raises(InputError, match=message):
        attack(*sides)


@pytest.mark.parametrize("min_std", [0.0, -1.0, math.inf, math.nan])
def test_the_floor_must_be_positive(min_std):
    with pytest.raises(InputError, match="min_std"):
        ulira(ONES, ONES, min_std=min_std)
