"""Metrics under resampled weights equal metrics of repeated samples."""

import numpy as np
import pytest

from unlearn_jax import audit
from unlearn_jax.pipeline import AuditConfig
from unlearn_jax.pipeline.measure import statistics
from unlearn_jax.pipeline.measure.pool import make_pool
from unlearn_jax.pipeline.measure.statistics import Statistics, resample

NUM_SAMPLES = 3000
RUNS = 5


def statistics_of(run):
    rng = np.random.default_rng(run)
    part = rng.integers(0, 3, NUM_SAMPLES)
    masks = {name: part == number for number, name in enumerate("abc")}
    right = rng.random(NUM_SAMPLES) < 0.7
    own = Statistics()
    own.mean("accuracy_a", right, masks["a"])
    own.mean("accuracy_b", right, masks["b"], value=0.5)
    own.mean("distance", rng.random(NUM_SAMPLES), masks["a"])
    ranking = audit.Ranking(rng.integers(0, 50, NUM_SAMPLES), masks)
    own.roc(ranking, {"auc": ("a", "b")}, {"tpr": ("a", "c")}, max_fpr=0.1)
    return own


@pytest.mark.parametrize("samples", [1, 2 * NUM_SAMPLES, 1 << 22])
@pytest.mark.parametrize("cores", [1, 3])
def test_resampled_metrics_are_those_of_repeated_samples(monkeypatch, samples, cores):
    monkeypatch.setattr(statistics, "_SAMPLES", samples)
    monkeypatch.setattr(statistics, "num_cores", lambda: cores)
    weights = audit.SampleWeights(
        np.random.default_rng(0), 200, np.arange(NUM_SAMPLES) % 2
    )
    measured = resample(range(RUNS), statistics_of, weights)
    whole = np.concatenate([block for _, block in weights])
    for run in range(RUNS):
        rng = np.random.default_rng(run)
        part = rng.integers(0, 3, NUM_SAMPLES)
        right = rng.random(NUM_SAMPLES) < 0.7
        distance = rng.random(NUM_SAMPLES)
        scores = rng.integers(0, 50, NUM_SAMPLES)
        assert measured["accuracy_a"].value[run] == right[part == 0].mean()
        assert measured["accuracy_b"].value[run] == 0.5
        for replicate in (0, 111, 199):
            drawn = np.repeat(np.arange(NUM_SAMPLES), whole[replicate])
            a, b, c = (drawn[part[drawn] == number] for number in range(3))
            curve = audit.roc(
                scores[np.append(a, c)], np.arange(len(a) + len(c)) < len(a)
            )
            expected = {
                "accuracy_a": right[a].mean(),
                "accuracy_b": right[b].mean(),
                "distance": distance[a].mean(),
                "auc": audit.auc(
                    scores[np.append(a, b)], np.arange(len(a) + len(b)) < len(a)
                ),
                "tpr": curve.tpr_at_fpr(0.1),
            }
            for key, value in expected.items():
                found = measured[key].replicates[replicate, run]
                assert found == pytest.approx(value, rel=1e-12), key


def test_runs_of_equal_margins_and_forget_sets_share_an_svc(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.zeros(60, int)
    forget = np.zeros((4, 40), bool)
    forget[[0, 1, 2], :10] = True
    forget[3, 10:20] = True
    pool = make_pool(
        AuditConfig(num_bootstrap=2),
        labels,
        forget,
        np.zeros((4, 2), int),
        None,
        np.zeros((0, 60), bool),
    )
    margin = rng.normal(size=(4, 60))
    margin[1] = margin[0]
    margin[3] = margin[0]
    outside = np.broadcast_to(~pool.train, pool.forget.shape)
    calls = []
    real = audit.mis

    def counted(*sides, **options):
        calls.append(sides)
        return real(*sides, **options)

    monkeypatch.setattr(audit, "mis", counted)
    results = pool.mis(margin, outside)
    assert len(calls) == 3
    assert results.value[0] == results.value[1]
    assert results.replicates is None
    for run, fraction in enumerate(results.value):
        confidence = 1 / (1 + np.exp(-margin[run]))
        sides = (pool.train & ~pool.forget[run], ~pool.train, pool.forget[run])
        alone = real(*(confidence[side] for side in sides), seed=pool.config.seed)
        assert fraction == alone.fraction
