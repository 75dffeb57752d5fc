"""Rank correlations are Spearman's, and their intervals cover the population's."""

import numpy as np
import pytest
from scipy import stats

from unlearn_jax.audit import rank_correlation


def draw(rng, rho, *, groups=3, each=8, shared=0.0):
    """Pairs ``[2, n]`` of a normal copula, a part of the variance shared by groups."""
    factor = np.linalg.cholesky([[1, rho], [rho, 1]])
    within = rng.normal(size=(groups, each, 2)) @ factor.T
    between = rng.normal(size=(groups, 1, 2)) @ factor.T
    pairs = np.sqrt(1 - shared) * within + np.sqrt(shared) * between
    return pairs.reshape(-1, 2).T


def test_rank_correlation_is_spearmans():
    x, y = draw(np.random.default_rng(1), 0.6)
    y = np.round(y, 1)  # with ties
    found = rank_correlation(x, y)
    assert np.isclose(found.mean, stats.spearmanr(x, y).statistic)
    assert -1 <= found.low < found.mean < found.high <= 1
    assert rank_correlation(np.exp(x), y) == pytest.approx(found, nan_ok=True)
    narrow = rank_correlation(x, y, level=0.5)
    assert found.low < narrow.low < narrow.high < found.high
    assert np.isnan(rank_correlation(x, np.ones(24)).mean)
    few = rank_correlation(x[:4], y[:4])
    assert np.isfinite(few.mean)
    assert np.isnan(few.low)


def test_an_exact_order_has_a_width():
    x = np.arange(24.0)
    found = rank_correlation(x, x**3)
    assert (found.mean, found.high) == (1, 1)
    assert 0.99 < found.low < 1
    assert rank_correlation(x[:6], x[:6]).low < 0.9
    assert rank_correlation(x, -x).low == -1


@pytest.mark.parametrize(("rho", "shared"), [(0.0, 0.0), (0.9, 0.0), (0.5, 0.7)])
def test_intervals_cover_the_population(rho, shared):
    truth = 6 / np.pi * np.arcsin(rho / 2)
    groups = np.repeat(np.arange(3), 8)
    hits = np.zeros(2)
    for number in range(150):
        pairs = draw(np.random.default_rng(number), rho, shared=shared)
        for place, by in enumerate((None, groups)):
            found = rank_correlation(*pairs, by)
            hits[place] += found.low <= truth <= found.high
    assert stats.binom.cdf(hits[1], 150, 0.94) > 1e-4
    if shared:
        assert hits[0] < 0.85 * 150, "groups are no independent pairs"
    else:
        assert stats.binom.cdf(hits[0], 150, 0.94) > 1e-4
