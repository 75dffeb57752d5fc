"""Measurements of one row where whole classes are forgotten.

Every row is compared with the retrained models of its own runs. The retrained row
itself is compared with the second retrained models, so that it shows the effect of a
change of seed alone.
"""

from collections.abc import Sequence

import numpy as np

from unlearn_jax import audit
from unlearn_jax.pipeline.measure.pool import (
    AuditPool,
    ClassPool,
    confidences,
    margins,
    neighbor_score,
)
from unlearn_jax.pipeline.measure.statistics import Measured, Statistics

MIN_MODELS = 3
"""Number of models that U-LiRA needs on each side."""


def measure_classes(
    pool: AuditPool,
    classes: ClassPool,
    logits: Sequence[np.ndarray],
    signals: np.ndarray,
    against: int,
) -> tuple[dict[str, Measured], dict[str, np.ndarray]]:
    """Measure all metrics of one row except the gaps.

    Args:
      pool: pool of the table.
      classes: additions to the pool for whole classes.
      logits: ``[N, C]`` logits of every run.
      signals: ``[R, N]`` signals of the membership attacks.
      against: 0 to compare with each run's first retrained model, 1 with its second.

    Returns:
      The metrics by key as fractions (distances in nats), and two arrays: the logit
      ``margin`` ``[R, N]``, and ``confusion`` ``[R, C]``, the fractions of the
      forgotten classes' test samples that are assigned to each class.
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
    right = _ulira(pool, classes, margin, margins(oracle, pool.labels))

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
        for key, score in scores.items():
            ranking = audit.Ranking(score[run], {"forget": forget, "test": peers})
            statistics.roc(ranking, {key: ("forget", "test")})
        if right is not None:
            statistics.mean("ulira", right[run], forget)
        return statistics

    metrics = pool.measure(statistics_of)
    if right is not None:
        influences = np.zeros(len(logits))
        for one in classes.sets:
            members = list(one.runs)
            of_row = metrics["ulira"].value[members]
            influences[members] = audit.pair_influences(of_row)
        metrics["ulira"] = metrics["ulira"]._replace(influences=influences)
    if config.mis:
        metrics["mis"] = pool.mis(margin, ~pool.train & ~classes.peers)
        metrics["mia_kodge"] = _kodge(pool, margin, classes.peers)
    for name in config.mia_nn_columns():
        score = _mia_nn(pool, classes, logits, name)
        metrics[name] = score
        metrics[f"{name}_gap"] = _mia_nn_gap(classes, score, name)
    confusion = []
    for run, one in enumerate(logits):
        peers = classes.peers[run]
        called = np.asarray(one).argmax(-1)[peers]
        confusion.append(np.bincount(called, minlength=one.shape[-1]) / peers.sum())
    return metrics, {"margin": margin, "confusion": np.stack(confusion)}


def _kodge(pool: AuditPool, margin: np.ndarray, peers: np.ndarray) -> Measured:
    """Measure the fraction of forgotten classes' test samples called non-members."""
    confidence = confidences(margin)

    def attack(run: int, samples: np.ndarray) -> float:
        values = confidence[run, samples]
        forget = pool.forget[run, samples]
        sides = (
            values[pool.train[samples] & ~forget],
            values[forget],
            values[peers[run, samples]],
        )
        if not all(side.size for side in sides):
            return np.nan
        options = {"max_samples": pool.config.mis_samples, "seed": pool.config.seed}
        return audit.kodge_mia(*sides, **options).fraction

    return pool.refit(attack, peers, margin, pool.forget)


def _ulira(
    pool: AuditPool, classes: ClassPool, margin: np.ndarray, oracle: np.ndarray
) -> np.ndarray | None:
    """Return U-LiRA's accuracy on every run's pair of models, ``[R, N]``.

    The models of the other runs with the same forget set are the shadow models. None if
    U-LiRA is not requested, or has too few models.
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


def _mia_nn(
    pool: AuditPool, classes: ClassPool, logits: Sequence[np.ndarray], name: str
) -> Measured:
    """Measure one column of MIA-NN."""
    machine, reading = pool.config.mia_nn_columns()[name]
    set_of_run = {run: one for one in classes.sets for run in one.runs}

    def attack(run: int, samples: np.ndarray) -> float:
        test = samples[~pool.train[samples]]
        test_logits = np.asarray(logits[run])[test]
        labels = pool.labels[test]
        return neighbor_score(test_logits, labels, set_of_run[run], machine, reading)

    return pool.refit(attack, classes.peers, np.stack(logits))


def _mia_nn_gap(classes: ClassPool, score: Measured, name: str) -> Measured:
    """Measure the distance to the retrained models' mean for the same forget set.

    This mean is itself an estimate, which the runs share. Its influences are computed
    as in :func:`~unlearn_jax.pipeline.measure.rows.measure_gaps`.
    """
    value = np.zeros(score.value.shape)
    influences = np.zeros(score.value.shape)
    replicates = None if score.replicates is None else np.zeros(score.replicates.shape)
    for one in classes.sets:
        runs = list(one.runs)
        expected = one.expected[name]
        center = expected.mean(1, keepdims=True)
        distance = score.value[runs] - center[0]
        value[runs] = np.abs(distance)
        slope = np.sign(distance).mean()
        influences[runs] = value[runs] - slope * (expected[0] - center[0])
        if replicates is not None and score.replicates is not None:
            replicates[:, runs] = np.abs(score.replicates[:, runs] - center[1:])
    return Measured(value, replicates, score.num_samples, influences)
