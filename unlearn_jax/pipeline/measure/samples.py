"""From stored logits to the numbers of the table: signals, attacks, and an interval for every mean."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from unlearn_jax import audit
from unlearn_jax.pipeline.config.schema import AuditConfig

METRICS: list[dict[str, str]] = [
    {
        "key": "unlearn_accuracy",
        "name": "Unlearn acc",
        "unit": "%",
        "target": "retrained",
        "help": (
            "Accuracy on the forget set. Good: equal to the retrained model's, neither"
            " higher nor lower."
        ),
    },
    {
        "key": "retain_accuracy",
        "name": "Retain acc",
        "unit": "%",
        "target": "retrained",
        "help": (
            "Accuracy on the training samples that are kept. Good: equal to the"
            " retrained model's."
        ),
    },
    {
        "key": "test_accuracy",
        "name": "Test acc",
        "unit": "%",
        "target": "retrained",
        "help": (
            "Accuracy on samples no model was trained on. Good: equal to the retrained"
            " model's."
        ),
    },
    {
        "key": "ft_auc",
        "name": "FT AUC",
        "unit": "%",
        "target": "50",
        "help": (
            "How well RMIA tells forget samples from test samples. Good: 50, a coin"
            " toss."
        ),
    },
    {
        "key": "fr_auc",
        "name": "FR AUC",
        "unit": "%",
        "target": "retrained",
        "help": (
            "How well RMIA tells retained samples from forget samples. Good: equal to"
            " the retrained model's."
        ),
    },
    {
        "key": "rt_auc",
        "name": "RT AUC",
        "unit": "%",
        "target": "retrained",
        "help": (
            "How well RMIA tells retained samples from test samples: the power of the"
            " attack on this model."
        ),
    },
    {
        "key": "ft_tpr",
        "name": "FT TPR",
        "unit": "%",
        "target": "retrained",
        "help": (
            "Share of forget samples found, by RMIA's ratio, at the stated share of"
            " test samples falsely accused."
        ),
    },
    {
        "key": "rt_tpr",
        "name": "RT TPR",
        "unit": "%",
        "target": "retrained",
        "help": (
            "The same for retained samples: what unlearning costs the privacy of those"
            " who stay. Good: not above the original's."
        ),
    },
    {
        "key": "lira_auc",
        "name": "LiRA AUC",
        "unit": "%",
        "target": "50",
        "help": (
            "How well LiRA tells forget samples from test samples (below 64 references,"
            " with one variance for all samples). Good: 50."
        ),
    },
    {
        "key": "mis",
        "name": "MIS",
        "unit": "%",
        "target": "retrained",
        "help": (
            "Share of forget samples that the older SVC confidence attack calls"
            " non-members."
        ),
    },
    {
        "key": "avg_gap",
        "name": "Avg Gap",
        "unit": "points",
        "target": "0",
        "help": (
            "Mean distance to the retrained models' mean in unlearn, retain and test"
            " accuracy and FT AUC. Good: as low as the second retrained model's, which"
            " is what a change of seed alone gives."
        ),
    },
    {
        "key": "avg_gap_mis",
        "name": "Avg Gap (MIS)",
        "unit": "points",
        "target": "0",
        "help": "The same with MIS in the place of FT AUC.",
    },
]

_MANY_SHADOWS = 64
Measured = tuple[np.ndarray, np.ndarray]
"""A metric's values ``[R]`` and their bootstrap replicates ``[B, R]``."""
GAPS = {
    "avg_gap": ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "ft_auc"),
    "avg_gap_mis": ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "mis"),
}
"""What each gap to the retrained models is the mean of."""


@dataclasses.dataclass(frozen=True)
class Pool:
    """What all rows share.

    Attributes:
      labels: ``[N]`` of training set, then test set.
      forget: ``[R, N]`` bool.
      train: ``[N]`` bool.
      reference: ``[M, N]`` signals of the reference models.
      reference_margin: ``[M, N]``, their logit margins, for LiRA; None if it is not
        asked for.
      member: ``[M, N]`` bool, their design.
      sample_weights: ``[B, N]``, shared by all runs, rows and metrics.
      run_weights: ``[B, R]``.
    """

    labels: np.ndarray
    forget: np.ndarray
    train: np.ndarray
    reference: np.ndarray
    reference_margin: np.ndarray | None
    member: np.ndarray
    sample_weights: np.ndarray
    run_weights: np.ndarray


def signal_of(
    config: AuditConfig, logits: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Membership signals ``[..., N]`` of logits ``[..., N, C]``."""
    return np.asarray(
        audit.SIGNALS[config.signal](jnp.asarray(logits), jnp.asarray(labels))
    )


def margins(logits: np.ndarray | list[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Logit margins ``[K, N]`` of ``K`` models' logits ``[N, C]``."""
    return np.stack(
        [
            np.asarray(audit.logit_margin(jnp.asarray(one), jnp.asarray(labels)))
            for one in logits
        ]
    )


def usable(
    config: AuditConfig,
    labels: np.ndarray,
    logits: list[np.ndarray],
    *,
    signals: bool = True,
) -> bool:
    """Whether every run's logits are finite numbers, and its signals where they are used; others have diverged."""
    if not all(np.isfinite(run).all() for run in logits):
        return False
    return not signals or all(
        np.isfinite(signal_of(config, run, labels)).all() for run in logits
    )


def make_pool(
    config: AuditConfig,
    labels: np.ndarray,
    forget: np.ndarray,
    runs: np.ndarray,
    reference_logits: Sequence[np.ndarray] | np.ndarray,
    member: np.ndarray,
    strata: np.ndarray | None = None,
) -> Pool:
    """Prepares what all rows share.

    Args:
      config: how to audit.
      labels: ``[N]``.
      forget: ``[R, N_train]`` bool, each run's forget set.
      runs: ``[R, 3]``, original, forget set and repeat of each run.
      reference_logits: ``[M, N, C]``.
      member: ``[M, N]`` bool.
      strata: ``[N]``; a bootstrap replicate has as many samples of each as the data, in
        training and test set apart.
    """
    num_train = forget.shape[1]
    train = np.arange(len(labels)) < num_train
    kinds = train.astype(int) if strata is None else 2 * np.asarray(strata, int) + train
    rng = np.random.default_rng(config.seed)
    return Pool(
        labels=labels,
        forget=np.pad(forget, ((0, 0), (0, len(labels) - num_train))),
        train=train,
        reference=np.array(
            [signal_of(config, logits, labels) for logits in reference_logits]
        ),
        reference_margin=(
            margins(list(reference_logits), labels)
            if config.lira and len(member)
            else None
        ),
        member=member,
        sample_weights=audit.sample_weights(rng, config.num_bootstrap, kinds),
        run_weights=audit.run_weights(rng, config.num_bootstrap, runs[:, :2]),
    )


def measure_row(
    config: AuditConfig, pool: Pool, logits: list[np.ndarray]
) -> tuple[dict[str, Measured], dict[str, np.ndarray]]:
    """All metrics of one row but the gaps, which need the oracle.

    Args:
      config: how to audit.
      pool: what rows share.
      logits: ``[N, C]`` of every run.

    Returns:
      Metrics by key, and what plots need: RMIA ``scores``, the ``ratio`` they count,
      and logit ``margin``, ``[R, N]`` each.
    """
    target = np.stack([signal_of(config, run, pool.labels) for run in logits])
    margin = margins(logits, pool.labels)
    scores = audit.rmia(
        target,
        pool.reference,
        pool.member,
        gamma=config.gamma,
        mode=config.mode,
        offline_a=config.offline_a,
    )
    ratio = audit.rmia_ratio(
        target,
        pool.reference,
        pool.member,
        mode=config.mode,
        offline_a=config.offline_a,
    )
    lira = lira_scores(config, pool, margin)
    found: dict[str, list[Measured]] = {}
    for run, forget in enumerate(pool.forget):
        right = np.asarray(logits[run]).argmax(-1) == pool.labels
        one = _accuracies(pool, right, forget) | _aucs(
            config, pool, scores[run], ratio[run], forget
        )
        if lira is not None:
            one["lira_auc"] = auc_of(pool, lira[run], forget, ~pool.train)
        if config.mis:
            one["mis"] = mis_of(config, pool, margin[run], forget, ~pool.train)
        for key, measured in one.items():
            found.setdefault(key, []).append(measured)
    metrics = {
        key: (
            100 * np.array([v for v, _ in parts]),
            100 * np.stack([r for _, r in parts], 1),
        )
        for key, parts in found.items()
    }
    return metrics, {
        "scores": scores.astype(np.float32),
        "ratio": ratio.astype(np.float32),
        "margin": margin,
    }


def _accuracies(pool: Pool, right: np.ndarray, forget: np.ndarray) -> dict[str, Any]:
    masks = {"unlearn": forget, "retain": pool.train & ~forget, "test": ~pool.train}
    return {
        f"{name}_accuracy": (
            right[mask].mean(),
            audit.weighted_mean(right, mask, pool.sample_weights),
        )
        for name, mask in masks.items()
    }


def _aucs(
    config: AuditConfig,
    pool: Pool,
    scores: np.ndarray,
    ratio: np.ndarray,
    forget: np.ndarray,
) -> dict[str, Any]:
    retain, test, weights = pool.train & ~forget, ~pool.train, pool.sample_weights
    flat = np.ones((1, len(scores)), np.int32)

    # scores are a step function of the ratio: a low false positive rate needs the
    # statistic without the steps' ties
    def tpr(positive: np.ndarray) -> Any:
        found = [
            audit.weighted_tpr(ratio, positive, test, w, max_fpr=config.max_fpr)
            for w in (flat, weights)
        ]
        return found[0][0], found[1]

    return {
        "ft_auc": auc_of(pool, scores, forget, test),
        "fr_auc": auc_of(pool, scores, retain, forget),
        "rt_auc": auc_of(pool, scores, retain, test),
        "ft_tpr": tpr(forget),
        "rt_tpr": tpr(retain),
    }


def lira_scores(
    config: AuditConfig, pool: Pool, margin: np.ndarray
) -> np.ndarray | None:
    """LiRA's scores ``[R, N]`` of margins ``[R, N]``; None if it is not asked for.

    With fewer than 64 references one variance serves all samples, as its authors
    advise.
    """
    if pool.reference_margin is None:
        return None
    variance = "per_sample" if len(pool.member) >= _MANY_SHADOWS else "fixed_centered"
    knobs: dict[str, Any] = {
        "mode": config.mode,
        "variance": variance,
        "offline_score": "cdf",
    }
    return audit.lira(margin, pool.reference_margin, pool.member, **knobs)


def auc_of(
    pool: Pool, scores: np.ndarray, positive: np.ndarray, negative: np.ndarray
) -> Measured:
    """One run's AUC and its replicates, as shares."""
    flat = np.ones((1, len(scores)), np.int32)
    found = [
        audit.weighted_auc(scores, positive, negative, weights)
        for weights in (flat, pool.sample_weights)
    ]
    return found[0][0], found[1]


def request_scores(
    config: AuditConfig,
    pool: Pool,
    logits: np.ndarray,
    request: np.ndarray,
    gone: np.ndarray,
) -> dict[str, Measured]:
    """AMUN's score of a request, ``FR AUC - FT AUC``, and both its parts, in percent.

    Args:
      config: how to audit.
      pool: what rows share.
      logits: ``[R, N, C]`` after the request.
      request: ``[R, N]`` bool, its samples.
      gone: ``[R, N]`` bool, samples that do not count as retained.
    """
    target = np.stack([signal_of(config, run, pool.labels) for run in logits])
    knobs = {"mode": config.mode, "offline_a": config.offline_a}
    scores = audit.rmia(
        target, pool.reference, pool.member, gamma=config.gamma, **knobs
    )
    flat, found = np.ones((1, scores.shape[1]), np.int32), {}
    sides = {
        "fr_auc": (pool.train & ~gone, request),
        "ft_auc": (request, ~pool.train & np.ones_like(request)),
    }
    for key, (positive, negative) in sides.items():
        aucs = [
            [audit.weighted_auc(s, p, n, w) for w in (flat, pool.sample_weights)]
            for s, p, n in zip(scores, positive, negative, strict=True)
        ]
        found[key] = (
            100 * np.array([one[0][0] for one in aucs]),
            100 * np.stack([one[1] for one in aucs], 1),
        )
    first, second = found["fr_auc"], found["ft_auc"]
    return {"score": (first[0] - second[0], first[1] - second[1]), **found}


def confidence_of(margin: np.ndarray) -> np.ndarray:
    """The true class's probability of a logit margin, in float64."""
    with np.errstate(over="ignore"):  # a margin below -709 is a confidence of 0
        return 1 / (1 + np.exp(-margin.astype(np.float64)))


def mis_of(
    config: AuditConfig,
    pool: Pool,
    margin: np.ndarray,
    forget: np.ndarray,
    outside: np.ndarray,
) -> Measured:
    """One run's MIS and its replicates, as shares; ``outside [N]`` are the samples known to be non-members."""
    confidence = confidence_of(margin)
    result = audit.mis(
        confidence[pool.train & ~forget],
        confidence[outside],
        confidence[forget],
        max_samples=config.mis_samples,
        seed=config.seed,
    )
    called = np.zeros(len(margin))
    called[forget] = ~result.called_member
    return np.asarray(result.fraction), audit.weighted_mean(
        called, forget, pool.sample_weights
    )


def add_gaps(
    pool: Pool,
    rows: dict[str, dict[str, Measured]],
    oracle: str,
    gaps: Mapping[str, Sequence[str]] = GAPS,
    groups: Sequence[np.ndarray] = (),
) -> None:
    """Adds the Avg Gap of every row to the oracle's mean over runs, in place.

    The replicates of a gap compare replicates of the row with replicates of the
    oracle's mean, made of the same samples and runs. A mean of absolute values is never
    below zero, so its noise is part of it: read it beside the second retrained model's.
    """
    for key, keys in gaps.items():
        if not set(keys) <= set(rows[oracle]):
            continue
        for metrics in rows.values():
            metrics[key] = np.zeros(len(pool.forget)), np.zeros(pool.run_weights.shape)
        for group in groups or [np.arange(len(pool.forget))]:
            weights = pool.run_weights[:, group]
            share = weights / np.maximum(weights.sum(1, keepdims=True), 1)
            center = [
                (share * rows[oracle][k][1][:, group]).sum(1, keepdims=True)
                for k in keys
            ]
            truth = np.stack([rows[oracle][k][0][group] for k in keys], 1)
            for metrics in rows.values():
                apart = [
                    np.abs(metrics[k][1][:, group] - middle)
                    for k, middle in zip(keys, center, strict=True)
                ]
                metrics[key][0][group] = audit.avg_gap(
                    np.stack([metrics[k][0][group] for k in keys], 1), truth
                )
                metrics[key][1][:, group] = np.mean(apart, axis=0)


def estimate(config: AuditConfig, pool: Pool, measured: Measured) -> dict[str, Any]:
    """A metric as it is stored: mean and spread over runs, interval, every run's value."""
    values, replicates = measured
    summary = audit.summarize(values, replicates, pool.run_weights, level=config.level)
    spread = None if np.isnan(summary.std) else round(summary.std, 4)
    return {
        "mean": round(summary.mean, 4),
        "std": spread,
        "low": round(summary.low, 4),
        "high": round(summary.high, 4),
        "num_runs": summary.num_runs,
        "num_dropped": summary.num_dropped,
        "values": [round(float(value), 4) for value in values],
    }
