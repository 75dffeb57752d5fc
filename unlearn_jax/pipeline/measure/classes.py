"""Measurements of one row where whole classes are forgotten.

Every row is compared with the retrained models of its own runs; the retrained row
itself with the second ones, so that it shows the effect of a change of seed alone.
"""

from collections.abc import Sequence

import numpy as np

from unlearn_jax import audit
from unlearn_jax.pipeline.measure.pool import (
    AuditPool,
    ClassPool,
    confidences,
    margins,
    neighbor_credits,
)
from unlearn_jax.pipeline.measure.statistics import Measured, Statistics

MIN_MODELS = 3
"""Models that U-LiRA needs on each side."""


def measure_classes(
    pool: AuditPool,
    classes: ClassPool,
    logits: Sequence[np.ndarray],
    signals: np.ndarray,
    against: int,
) -> tuple[dict[str, Measured], dict[str, np.ndarray]]:
    """Measure all metrics of one row but the gaps.

    Args:
      pool: of the table.
      classes: its additions for whole classes.
      logits: ``[N, C]`` of every run.
      signals: ``[R, N]`` of the membership attacks.
      against: 0 compares with each run's first retrained model, 1 with its second.

    Returns:
      The metrics by key as fractions (distances in nats); and the logit
      ``margin`` ``[R, N]`` and ``confusion`` ``[R, C]``, the fractions of the forgotten
      classes' test samples that are given to each class.
    """
    config = pool.config
    margin = margins(logits, pool.labels)
    oracle = classes.oracles[against]
    scores = {}
    if pool.average is not None:
        scores["ft_auc"] = pool.rmia(signals)[1]
        soft = pool.soft_rmia(logits)
        if soft is not None:
            scores["ft_auc_soft"] = soft
        lira = pool.lira(margin)
        if lira is not None:
            scores["lira_auc"] = lira
    attacks = None
    if config.mis:
        attacks = pool.mis(margin, ~pool.train & ~classes.peers)
    right = _ulira(pool, classes, margin, margins(oracle, pool.labels))
    test = ~pool.train
    set_of_run = {run: one for one in classes.sets for run in one.runs}

    def statistics_of(run: int) -> Statistics:
        forget = pool.forget[run]
        peers = classes.peers[run]
        retained_test = ~pool.train & ~peers
        is_right = np.asarray(logits[run]).argmax(-1) == pool.labels
        p = audit.softmax(oracle[run])
        q = audit.softmax(logits[run])
        variation = audit.total_variation(p, q)
        divergence = audit.kl_divergence(p, q)
        statistics = Statistics()
        statistics.mean("unlearn_accuracy", is_right, forget)
        statistics.mean("retain_accuracy", is_right, pool.train & ~forget)
        statistics.mean("acc_r", is_right, retained_test)
        statistics.mean("acc_f", is_right, peers)
        statistics.mean("tv_forget", variation, peers)
        statistics.mean("kl_forget", divergence, peers)
        statistics.mean("tv_retain", variation, retained_test)
        statistics.mean("kl_retain", divergence, retained_test)
        if attacks is not None:
            called = np.zeros(len(margin[run]), bool)
            called[forget] = ~attacks[run].called_member
            statistics.mean("mis", called, forget, value=attacks[run].fraction)
            _add_kodge(statistics, pool, margin[run], forget, peers)
        for key, score in scores.items():
            ranking = audit.Ranking(score[run], {"forget": forget, "test": peers})
            statistics.roc(ranking, {key: ("forget", "test")})
        if right is not None:
            statistics.mean("ulira", right[run], forget)
        one = set_of_run[run]
        own_credits = neighbor_credits(
            pool, one.classes, one.neighbors, logits[run][test]
        )
        for name, credit in own_credits.items():
            counted = np.isfinite(credit)
            expected = one.credits[name]
            statistics.mean(name, np.nan_to_num(credit), counted)
            statistics.mean(f"{name}_gap", np.nan_to_num(expected), counted)
        return statistics

    metrics = pool.measure(statistics_of)
    for name in config.mia_nn_columns():
        score = metrics[name]
        expected = metrics[f"{name}_gap"]
        metrics[f"{name}_gap"] = Measured(
            np.abs(score.value - expected.value),
            np.abs(score.replicates - expected.replicates),
        )
    confusion = []
    for run, one in enumerate(logits):
        peers = classes.peers[run]
        called = np.asarray(one).argmax(-1)[peers]
        confusion.append(np.bincount(called, minlength=one.shape[-1]) / peers.sum())
    return metrics, {"margin": margin, "confusion": np.stack(confusion)}


def _add_kodge(
    statistics: Statistics,
    pool: AuditPool,
    margin: np.ndarray,
    forget: np.ndarray,
    peers: np.ndarray,
) -> None:
    """Add the fraction of the forgotten classes' test samples called non-members."""
    confidence = confidences(margin)
    result = audit.kodge_mia(
        confidence[pool.train & ~forget],
        confidence[forget],
        confidence[peers],
        max_samples=pool.config.mis_samples,
        seed=pool.config.seed,
    )
    called = np.zeros(len(margin), bool)
    called[peers] = ~result.called_member
    statistics.mean("mia_kodge", called, peers, value=result.fraction)


def _ulira(
    pool: AuditPool, classes: ClassPool, margin: np.ndarray, oracle: np.ndarray
) -> np.ndarray | None:
    """Return how far U-LiRA is right on every run's pair of models, ``[R, N]``.

    The other runs of its forget set are the shadow models. None if not asked for, or
    with too few of them.
    """
    is_small = min(len(one.runs) for one in classes.sets) < MIN_MODELS
    if not pool.config.ulira or is_small:
        return None
    right = np.zeros(margin.shape)
    for one in classes.sets:
        members = list(one.runs)
        forget = pool.forget[members[0]]
        result = audit.ulira(margin[members][:, forget], oracle[members][:, forget])
        for position, run in enumerate(members):
            right[run, forget] = (
                result.target_called[position] + 1 - result.reference_called[position]
            ) / 2
    return right
