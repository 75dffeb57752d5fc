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
    Measured,
    confidences,
    margins,
)

MIN_MODELS = 3
"""Models that U-LiRA needs on each side."""


def measure_classes(
    pool: AuditPool, classes: ClassPool, logits: Sequence[np.ndarray], against: int
) -> tuple[list[dict[str, Measured]], dict[str, np.ndarray]]:
    """Measure all metrics of one row but the gaps.

    Args:
      pool: of the table.
      classes: its additions for whole classes.
      logits: ``[N, C]`` of every run.
      against: 0 compares with each run's first retrained model, 1 with its second.

    Returns:
      For each run its metrics as fractions (distances in nats); and the logit
      ``margin`` ``[R, N]`` and ``confusion`` ``[R, C]``, the fractions of the forgotten
      classes' test samples that are given to each class.
    """
    config = pool.config
    margin = margins(logits, pool.labels)
    oracle = classes.oracles[against]
    confusion = []
    runs = []
    for run, one in enumerate(logits):
        forget = pool.forget[run]
        peers = classes.peers[run]
        retained_test = ~pool.train & ~peers
        called = np.asarray(one).argmax(-1)
        right = called == pool.labels
        p = audit.softmax(oracle[run])
        q = audit.softmax(one)
        variation = audit.total_variation(p, q)
        divergence = audit.kl_divergence(p, q)
        metrics = {
            "unlearn_accuracy": pool.mean(right, forget),
            "retain_accuracy": pool.mean(right, pool.train & ~forget),
            "acc_r": pool.mean(right, retained_test),
            "acc_f": pool.mean(right, peers),
            "tv_forget": pool.mean(variation, peers),
            "kl_forget": pool.mean(divergence, peers),
            "tv_retain": pool.mean(variation, retained_test),
            "kl_retain": pool.mean(divergence, retained_test),
        }
        if config.mis:
            metrics["mis"] = pool.mis(margin[run], forget, retained_test)
            metrics["mia_kodge"] = _kodge(pool, margin[run], forget, peers)
        counts = np.bincount(called[peers], minlength=one.shape[-1])
        confusion.append(counts / peers.sum())
        runs.append(metrics)
    scores = {}
    if len(pool.member):
        scores["ft_auc"] = pool.rmia(pool.signals(logits))
        lira = pool.lira(margin)
        if lira is not None:
            scores["lira_auc"] = lira
    for key, score in scores.items():
        for run, metrics in enumerate(runs):
            metrics[key] = pool.auc(score[run], pool.forget[run], classes.peers[run])
    if config.ulira and min(len(one.runs) for one in classes.sets) >= MIN_MODELS:
        _add_ulira(pool, classes, runs, margin, margins(oracle, pool.labels))
    if config.mia_nn:
        _add_mia_nn(pool, classes, runs, logits)
    return runs, {"margin": margin, "confusion": np.stack(confusion)}


def _kodge(
    pool: AuditPool, margin: np.ndarray, forget: np.ndarray, peers: np.ndarray
) -> Measured:
    """Return the fraction of the forgotten classes' test samples called non-members."""
    confidence = confidences(margin)
    result = audit.kodge_mia(
        confidence[pool.train & ~forget],
        confidence[forget],
        confidence[peers],
        max_samples=pool.config.mis_samples,
        seed=pool.config.seed,
    )
    called = np.zeros(len(margin))
    called[peers] = ~result.called_member
    replicates = audit.weighted_mean(called, peers, pool.sample_weights)
    return Measured(np.asarray(result.fraction), replicates)


def _add_ulira(
    pool: AuditPool,
    classes: ClassPool,
    runs: list[dict[str, Measured]],
    margin: np.ndarray,
    oracle: np.ndarray,
) -> None:
    """Add the balanced accuracy of every run's pair of models.

    The other runs of its forget set are the shadow models.
    """
    for one in classes.sets:
        members = list(one.runs)
        forget = pool.forget[members[0]]
        result = audit.ulira(margin[members][:, forget], oracle[members][:, forget])
        for position, run in enumerate(members):
            right = np.zeros(len(forget))
            right[forget] = (
                result.target_called[position] + 1 - result.reference_called[position]
            ) / 2
            runs[run]["ulira"] = pool.mean(right, forget)


def _add_mia_nn(
    pool: AuditPool,
    classes: ClassPool,
    runs: list[dict[str, Measured]],
    logits: Sequence[np.ndarray],
) -> None:
    """Add every run's score, and its distance from the retrained models' mean."""
    test = np.flatnonzero(~pool.train)
    machine = pool.config.discriminator
    for one in classes.sets:
        for run in one.runs:
            called = np.zeros(len(pool.labels))
            for label, neighbor in zip(one.classes, one.neighbors, strict=True):
                called[test[pool.labels[test] == label]] = audit.discriminator_calls(
                    logits[run][test],
                    pool.labels[test],
                    neighbor,
                    label,
                    also_forgotten=[other for other in one.classes if other != label],
                    discriminator=machine,
                )
            score = pool.mean(called, classes.peers[run])
            expected = pool.mean(one.claimed, classes.peers[run])
            runs[run]["mia_nn"] = score
            runs[run]["mia_nn_gap"] = Measured(
                np.abs(score.value - expected.value),
                np.abs(score.replicates - expected.replicates),
            )
