"""The numbers of the table where whole classes are forgotten: accuracies, older attacks, distances, U-LiRA, MIA-NN.

Every row is compared with the retrained models of its own runs; the retrained row
itself with the second ones, so that it shows what a change of seed alone does.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from unlearn_jax import audit
from unlearn_jax.pipeline.config.schema import AuditConfig
from unlearn_jax.pipeline.measure import samples as measure
from unlearn_jax.pipeline.measure.samples import Measured

METRICS: list[dict[str, str]] = [
    {
        "key": "unlearn_accuracy",
        "name": "Unlearn acc",
        "unit": "%",
        "target": "retrained",
        "help": (
            "Accuracy on the training samples of the forgotten classes. Good: equal to"
            " the retrained model's, 0."
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
        "key": "acc_r",
        "name": "ACC_r",
        "unit": "%",
        "target": "retrained",
        "help": (
            "Accuracy on test samples of the classes that are kept. Good: equal to the"
            " retrained model's."
        ),
    },
    {
        "key": "acc_f",
        "name": "ACC_f",
        "unit": "%",
        "target": "retrained",
        "help": (
            "Accuracy on test samples of the forgotten classes. Good: equal to the"
            " retrained model's, 0."
        ),
    },
    {
        "key": "mia_kodge",
        "name": "MIA (Kodge)",
        "unit": "%",
        "target": "retrained",
        "help": (
            "Share of the forgotten classes' test samples that an SVC on the true"
            " class's probability, trained on retained against forgotten training"
            " samples, calls non-members. It says little: any model that takes the"
            " probability down scores 100."
        ),
    },
    {
        "key": "mis",
        "name": "MIA (SalUn)",
        "unit": "%",
        "target": "retrained",
        "help": (
            "Share of forgotten training samples that the SVC confidence attack,"
            " trained on retained training samples against test samples of retained"
            " classes, calls non-members."
        ),
    },
    {
        "key": "tv_forget",
        "name": "TV forget",
        "unit": "points",
        "target": "0",
        "help": (
            "Total variation between the outputs and the retrained model's, on test"
            " samples of the forgotten classes. Good: as low as the retrained rows',"
            " which a change of seed alone gives."
        ),
    },
    {
        "key": "kl_forget",
        "name": "KL forget",
        "unit": "nats",
        "target": "0",
        "help": (
            "KL(retrained || unlearned) on the same samples; probabilities below 1e-12"
            " count as that."
        ),
    },
    {
        "key": "tv_retain",
        "name": "TV retain",
        "unit": "points",
        "target": "0",
        "help": "Total variation on test samples of the classes that are kept.",
    },
    {
        "key": "kl_retain",
        "name": "KL retain",
        "unit": "nats",
        "target": "0",
        "help": (
            "KL(retrained || unlearned) on test samples of the classes that are kept."
        ),
    },
    {
        "key": "ulira",
        "name": "U-LiRA",
        "unit": "%",
        "target": "50",
        "help": (
            "Balanced accuracy of telling unlearned from retrained models by the"
            " forgotten class's log-odds on its training samples, with a Gaussian per"
            " sample, every pair of models held out once. Good: 50, a coin toss."
        ),
    },
    {
        "key": "mia_nn",
        "name": "MIA-NN",
        "unit": "%",
        "target": "retrained",
        "help": (
            "Share of the forgotten classes' test samples that a discriminator of their"
            " nearest class, trained on the model's own outputs, claims. Good: equal to"
            " the retrained model's."
        ),
    },
    {
        "key": "mia_nn_gap",
        "name": "MIA-NN gap",
        "unit": "points",
        "target": "0",
        "help": (
            "Its distance from the retrained models' mean for the same classes,"
            " themselves included. Good: as the retrained rows'."
        ),
    },
    {
        "key": "ft_auc",
        "name": "FT AUC",
        "unit": "%",
        "target": "50",
        "help": (
            "How well RMIA tells training samples of the forgotten classes from their"
            " test samples. Good: 50."
        ),
    },
    {
        "key": "lira_auc",
        "name": "LiRA AUC",
        "unit": "%",
        "target": "50",
        "help": (
            "How well LiRA tells the same samples apart (below 64 references, with one"
            " variance for all samples). Good: 50."
        ),
    },
    {
        "key": "avg_gap",
        "name": "Avg Gap",
        "unit": "points",
        "target": "0",
        "help": (
            "Mean distance to the retrained models' mean in unlearn, retain, ACC_r and"
            " ACC_f accuracy and in TV forget. What the search goes by; U-LiRA and"
            " MIA-NN have no part in it."
        ),
    },
]
GAPS = {
    "avg_gap": ("unlearn_accuracy", "retain_accuracy", "acc_r", "acc_f", "tv_forget")
}
"""What the gap to the retrained models is the mean of."""
FEWEST = 3
"""Models that U-LiRA needs on each side."""


@dataclasses.dataclass(frozen=True)
class Forgotten:
    """One forget set of whole classes.

    Attributes:
      runs: positions of the runs that forget it.
      neighbors: (class, its nearest retained class) of each of its classes; empty where
        MIA-NN is not asked for.
      claimed: ``[N]`` share of the retrained models that claim each sample; 0 off the
        classes' test samples.
    """

    runs: tuple[int, ...]
    neighbors: tuple[tuple[int, int], ...]
    claimed: np.ndarray


@dataclasses.dataclass(frozen=True)
class ClassPool(measure.Pool):
    """What all rows share.

    Attributes:
      peers: ``[R, N]`` bool, test samples of the forgotten classes.
      oracles: logits of each run's two retrained models.
      sets: the forget sets.
    """

    peers: np.ndarray
    oracles: tuple[list[np.ndarray], list[np.ndarray]]
    sets: tuple[Forgotten, ...]


def make_pool(
    config: AuditConfig,
    labels: np.ndarray,
    forget: np.ndarray,
    runs: np.ndarray,
    reference_logits: Sequence[np.ndarray],
    member: np.ndarray,
    oracles: tuple[list[np.ndarray], list[np.ndarray]],
) -> ClassPool:
    """Prepares what all rows share.

    Args:
      config: how to audit.
      labels: ``[N]``.
      forget: ``[R, N_train]`` bool, each run's forget set: all samples of some classes.
      runs: ``[R, 3]``, original, forget set and repeat of each run.
      reference_logits: ``[M, N, C]``; may be empty.
      member: ``[M, N]`` bool.
      oracles: ``[N, C]`` of each run's first and of its second retrained model.
    """
    base = measure.make_pool(
        config, labels, forget, runs, reference_logits, member, strata=labels
    )
    classes = [np.unique(labels[: forget.shape[1]][mask]) for mask in forget]
    test = ~base.train
    peers = np.stack([test & np.isin(labels, gone) for gone in classes])
    sets = []
    for s in np.unique(runs[:, 1]):
        own = tuple(int(r) for r in np.flatnonzero(runs[:, 1] == s))
        gone = [int(c) for c in classes[own[0]]]
        models = np.stack([oracles[side][r][test] for side in (0, 1) for r in own])
        pairs, claimed = [], np.zeros(len(labels))
        for c in gone if config.mia_nn else ():
            others = _others(gone, c)
            machine = config.discriminator
            n = audit.nearest_neighbor(
                models,
                labels[test],
                c,
                also_forgotten=others,
                discriminator=machine,
            ).neighbor
            calls = [
                audit.discriminator_calls(
                    one,
                    labels[test],
                    n,
                    c,
                    also_forgotten=others,
                    discriminator=machine,
                )
                for one in models
            ]
            claimed[test & (labels == c)] = np.mean(calls, 0)
            pairs.append((c, n))
        sets.append(Forgotten(own, tuple(pairs), claimed))
    fields = {
        field.name: getattr(base, field.name) for field in dataclasses.fields(base)
    }
    return ClassPool(**fields, peers=peers, oracles=oracles, sets=tuple(sets))


def _others(gone: Sequence[int], own: int) -> list[int]:
    return [c for c in gone if c != own]


def measure_row(
    config: AuditConfig, pool: ClassPool, logits: list[np.ndarray], against: int = 0
) -> tuple[dict[str, Measured], dict[str, np.ndarray]]:
    """All metrics of one row but the gaps.

    Args:
      config: how to audit.
      pool: what rows share.
      logits: ``[N, C]`` of every run.
      against: 0 compares with each run's first retrained model, 1 with its second.

    Returns:
      Metrics by key, and what plots need: logit ``margin [R, N]`` and
      ``confusion [R, C]``, the shares of the forgotten classes' test samples that go to
      each class.
    """
    margin = measure.margins(logits, pool.labels)
    oracle = pool.oracles[against]
    parts = [
        _measure_run(config, pool, run, logits[run], margin[run], oracle[run])
        for run in range(len(logits))
    ]
    for key, scores in _member_scores(config, pool, logits, margin).items():
        for run, one in enumerate(parts):
            one[key] = _percent(
                measure.auc_of(pool, scores[run], pool.forget[run], pool.peers[run])
            )
    if config.ulira and min(len(group.runs) for group in pool.sets) >= FEWEST:
        _add_ulira(pool, parts, margin, measure.margins(oracle, pool.labels))
    if config.mia_nn:
        _add_mia_nn(config, pool, parts, logits)
    metrics = {
        key: (
            np.array([p[key][0] for p in parts]),
            np.stack([p[key][1] for p in parts], 1),
        )
        for key in parts[0]
    }
    return metrics, {
        "margin": margin,
        "confusion": np.stack([_went_to(pool, r, one) for r, one in enumerate(logits)]),
    }


def _percent(measured: Measured) -> Measured:
    return 100 * measured[0], 100 * measured[1]


def _mean(pool: ClassPool, values: np.ndarray, mask: np.ndarray) -> Measured:
    """A mean over samples, and its replicates."""
    return values[mask].mean(), audit.weighted_mean(values, mask, pool.sample_weights)


def _went_to(pool: ClassPool, run: int, logits: np.ndarray) -> np.ndarray:
    called = np.asarray(logits)[pool.peers[run]].argmax(-1)
    return np.bincount(called, minlength=logits.shape[-1]) / len(called)


def _measure_run(
    config: AuditConfig,
    pool: ClassPool,
    run: int,
    logits: np.ndarray,
    margin: np.ndarray,
    oracle: np.ndarray,
) -> dict[str, Measured]:
    """What one run says by itself."""
    forget, peers = pool.forget[run], pool.peers[run]
    kept = ~pool.train & ~peers
    right = np.asarray(logits).argmax(-1) == pool.labels
    masks = {
        "unlearn_accuracy": forget,
        "retain_accuracy": pool.train & ~forget,
        "acc_r": kept,
        "acc_f": peers,
    }
    found = {key: _percent(_mean(pool, right, mask)) for key, mask in masks.items()}
    p, q = audit.softmax(oracle), audit.softmax(logits)
    apart, bits = audit.total_variation(p, q), audit.kl_divergence(p, q)
    for name, mask in (("forget", peers), ("retain", kept)):
        found[f"tv_{name}"] = _percent(_mean(pool, apart, mask))
        found[f"kl_{name}"] = _mean(pool, bits, mask)
    if config.mis:
        found["mis"] = _percent(measure.mis_of(config, pool, margin, forget, kept))
        found["mia_kodge"] = _percent(_kodge(config, pool, margin, forget, peers))
    return found


def _kodge(
    config: AuditConfig,
    pool: ClassPool,
    margin: np.ndarray,
    forget: np.ndarray,
    peers: np.ndarray,
) -> Measured:
    confidence = measure.confidence_of(margin)
    sides = [confidence[mask] for mask in (pool.train & ~forget, forget, peers)]
    result = audit.kodge_mia(*sides, max_samples=config.mis_samples, seed=config.seed)
    called = np.zeros(len(margin))
    called[peers] = ~result.called_member
    return np.asarray(result.fraction), audit.weighted_mean(
        called, peers, pool.sample_weights
    )


def _member_scores(
    config: AuditConfig, pool: ClassPool, logits: list[np.ndarray], margin: np.ndarray
) -> dict[str, np.ndarray]:
    """Scores of the attacks that need reference models, ``[R, N]`` each; nothing without references."""
    if not len(pool.member):
        return {}
    target = np.stack([measure.signal_of(config, run, pool.labels) for run in logits])
    knobs: dict[str, Any] = {
        "gamma": config.gamma,
        "mode": config.mode,
        "offline_a": config.offline_a,
    }
    found = {"ft_auc": audit.rmia(target, pool.reference, pool.member, **knobs)}
    lira = measure.lira_scores(config, pool, margin)
    return found if lira is None else {**found, "lira_auc": lira}


def _add_ulira(
    pool: ClassPool,
    parts: list[dict[str, Measured]],
    margin: np.ndarray,
    oracle: np.ndarray,
) -> None:
    """Balanced accuracy of every run's pair of models, the other runs of its forget set being the shadow models."""
    for group in pool.sets:
        forget = pool.forget[group.runs[0]]
        found = audit.ulira(
            margin[list(group.runs)][:, forget], oracle[list(group.runs)][:, forget]
        )
        for place, run in enumerate(group.runs):
            right = np.zeros(len(forget))
            right[forget] = (
                found.target_called[place] + 1 - found.reference_called[place]
            ) / 2
            parts[run]["ulira"] = _percent(_mean(pool, right, forget))


def _add_mia_nn(
    config: AuditConfig,
    pool: ClassPool,
    parts: list[dict[str, Measured]],
    logits: list[np.ndarray],
) -> None:
    """Every run's score, and its distance from the retrained models' mean."""
    test = np.flatnonzero(~pool.train)
    for group in pool.sets:
        gone = [own for own, _ in group.neighbors]
        for run in group.runs:
            called = np.zeros(len(pool.labels))
            for own, neighbor in group.neighbors:
                rows = test[pool.labels[test] == own]
                called[rows] = audit.discriminator_calls(
                    logits[run][test],
                    pool.labels[test],
                    neighbor,
                    own,
                    also_forgotten=_others(gone, own),
                    discriminator=config.discriminator,
                )
            score, expected = (
                _mean(pool, values, pool.peers[run])
                for values in (called, group.claimed)
            )
            parts[run]["mia_nn"] = _percent(score)
            parts[run]["mia_nn_gap"] = _percent(
                (np.abs(score[0] - expected[0]), np.abs(score[1] - expected[1]))
            )
