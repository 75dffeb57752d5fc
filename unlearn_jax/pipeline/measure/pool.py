"""Pool of samples and models that every row of a table is measured on."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from unlearn_jax import audit
from unlearn_jax.pipeline.config.schema import AuditConfig
from unlearn_jax.pipeline.measure.metrics import CLASSES, SAMPLES, Table

_MANY_REFERENCES = 64


class Measured(NamedTuple):
    """Metric before its interval.

    Attributes:
      value: on the data as they are: of one run, or ``[R]``.
      replicates: under the bootstrap's sample weights, ``[B]`` or ``[B, R]``.
    """

    value: np.ndarray
    replicates: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ForgottenClasses:
    """One forget set of whole classes.

    Attributes:
      classes: the forgotten classes.
      runs: positions of the runs that forget them.
      neighbors: the nearest retained class of each; empty without MIA-NN.
      claimed: ``[N]`` fraction of the retrained models that claim each sample; 0 for
        all but the classes' test samples.
    """

    classes: tuple[int, ...]
    runs: tuple[int, ...]
    neighbors: tuple[int, ...]
    claimed: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassPool:
    """Additions for forget sets of whole classes.

    Attributes:
      peers: ``[R, N]`` bool, test samples of the forgotten classes.
      oracles: logits ``[N, C]`` of each run's first and of its second retrained model.
      sets: the forget sets.
    """

    peers: np.ndarray
    oracles: tuple[Sequence[np.ndarray], Sequence[np.ndarray]]
    sets: tuple[ForgottenClasses, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AuditPool:
    """Samples, reference models and resampling weights that all rows share.

    Attributes:
      config: options of the audit.
      labels: ``[N]`` of the training set, then of the test set.
      forget: ``[R, N]`` bool, each run's forget set.
      train: ``[N]`` bool.
      reference: ``[M, N]`` signals of the reference models.
      reference_margin: ``[M, N]``, their logit margins; None without LiRA.
      member: ``[M, N]`` bool, their training sets.
      sample_weights: ``[B, N]``, shared by all runs, rows and metrics.
      run_weights: ``[B, R]``.
      classes: None unless whole classes are forgotten.
    """

    config: AuditConfig
    labels: np.ndarray
    forget: np.ndarray
    train: np.ndarray
    reference: np.ndarray
    reference_margin: np.ndarray | None
    member: np.ndarray
    sample_weights: np.ndarray
    run_weights: np.ndarray
    classes: ClassPool | None = None

    @property
    def table(self) -> Table:
        """Kind of table that its rows make."""
        return SAMPLES if self.classes is None else CLASSES

    def mean(self, values: np.ndarray, mask: np.ndarray) -> Measured:
        """Return the mean of masked values ``[N]``."""
        replicates = audit.weighted_mean(values, mask, self.sample_weights)
        return Measured(values[mask].mean(), replicates)

    def auc(
        self, scores: np.ndarray, positive: np.ndarray, negative: np.ndarray
    ) -> Measured:
        """Return the AUC of scores ``[N]`` of one run, as a fraction."""
        ones = np.ones((1, len(scores)), np.int32)
        value = audit.weighted_auc(scores, positive, negative, ones)[0]
        return Measured(
            value, audit.weighted_auc(scores, positive, negative, self.sample_weights)
        )

    def tpr(self, ratio: np.ndarray, positive: np.ndarray) -> Measured:
        """Return the TPR of one run against the test samples at the audit's FPR.

        RMIA's scores are a step function of the ratio ``[N]``: a low false positive
        rate needs the statistic without the steps' ties.
        """
        rates = []
        for weights in (np.ones((1, len(ratio)), np.int32), self.sample_weights):
            rates.append(
                audit.weighted_tpr(
                    ratio, positive, ~self.train, weights, max_fpr=self.config.max_fpr
                )
            )
        return Measured(rates[0][0], rates[1])

    def mis(
        self, margin: np.ndarray, forget: np.ndarray, outside: np.ndarray
    ) -> Measured:
        """Return the fraction of forget samples that the SVC calls non-members.

        Args:
          margin: ``[N]`` of one run.
          forget: ``[N]`` bool.
          outside: ``[N]`` bool, samples known to be non-members.
        """
        confidence = confidences(margin)
        result = audit.mis(
            confidence[self.train & ~forget],
            confidence[outside],
            confidence[forget],
            max_samples=self.config.mis_samples,
            seed=self.config.seed,
        )
        called = np.zeros(len(margin))
        called[forget] = ~result.called_member
        replicates = audit.weighted_mean(called, forget, self.sample_weights)
        return Measured(np.asarray(result.fraction), replicates)

    def signals(self, logits: Sequence[np.ndarray]) -> np.ndarray:
        """Return membership signals ``[K, N]`` of ``K`` models' logits ``[N, C]``."""
        return np.array([signal_of(self.config, one, self.labels) for one in logits])

    def rmia(self, target: np.ndarray) -> np.ndarray:
        """Return RMIA's scores ``[R, N]`` of signals ``[R, N]``."""
        return audit.rmia(
            target,
            self.reference,
            self.member,
            gamma=self.config.gamma,
            mode=self.config.mode,
            offline_a=self.config.offline_a,
        )

    def lira(self, margin: np.ndarray) -> np.ndarray | None:
        """Return LiRA's scores ``[R, N]`` of margins ``[R, N]``; None if not asked for.

        With fewer than 64 references one variance serves all samples, as its authors
        advise.
        """
        if self.reference_margin is None:
            return None
        is_many = len(self.member) >= _MANY_REFERENCES
        return audit.lira(
            margin,
            self.reference_margin,
            self.member,
            mode=self.config.mode,
            variance="per_sample" if is_many else "fixed_centered",
            offline_score="cdf",
        )

    def is_usable(self, logits: Sequence[np.ndarray]) -> bool:
        """Return whether all logits, and the signals if used, are finite.

        Models with others have diverged.
        """
        if not all(np.isfinite(one).all() for one in logits):
            return False
        return not len(self.member) or bool(np.isfinite(self.signals(logits)).all())


def signal_of(
    config: AuditConfig, logits: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return membership signals ``[..., N]`` of logits ``[..., N, C]``."""
    signal = audit.SIGNALS[config.signal]
    return np.asarray(signal(jnp.asarray(logits), jnp.asarray(labels)))


def margins(
    logits: Sequence[np.ndarray] | np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Return logit margins ``[K, N]`` of ``K`` models' logits ``[N, C]``."""
    true = jnp.asarray(labels)
    rows = [audit.logit_margin(jnp.asarray(one), true) for one in logits]
    return np.stack([np.asarray(row) for row in rows])


def confidences(margin: np.ndarray) -> np.ndarray:
    """Return the true class's probabilities of logit margins, in float64."""
    # A margin below -709 overflows, and is a confidence of 0.
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-margin.astype(np.float64)))


def make_pool(
    config: AuditConfig,
    labels: np.ndarray,
    forget: np.ndarray,
    runs: np.ndarray,
    reference_logits: Sequence[np.ndarray] | np.ndarray,
    member: np.ndarray,
    oracles: tuple[Sequence[np.ndarray], Sequence[np.ndarray]] | None = None,
) -> AuditPool:
    """Return the pool of a table.

    Args:
      config: options of the audit.
      labels: ``[N]`` of the training set, then of the test set.
      forget: ``[R, N_train]`` bool, each run's forget set.
      runs: ``[R, 2]`` or wider: numbers of the original and the forget set of each run,
        the two factors of the bootstrap.
      reference_logits: ``[M, N, C]``; may be empty where classes are forgotten.
      member: ``[M, N]`` bool, the references' training sets.
      oracles: logits ``[N, C]`` of each run's first and of its second retrained model,
        where every forget set is all samples of some classes; None for other sets.
    """
    num_train = forget.shape[1]
    train = np.arange(len(labels)) < num_train
    # A replicate keeps the sizes of training and test set, and those of the classes
    # where whole classes are forgotten.
    strata = train.astype(int)
    if oracles is not None:
        strata = 2 * np.asarray(labels, int) + train
    rng = np.random.default_rng(config.seed)
    pool = AuditPool(
        config=config,
        labels=labels,
        forget=np.pad(forget, ((0, 0), (0, len(labels) - num_train))),
        train=train,
        reference=np.array(
            [signal_of(config, one, labels) for one in reference_logits]
        ),
        reference_margin=(
            margins(reference_logits, labels) if config.lira and len(member) else None
        ),
        member=member,
        sample_weights=audit.sample_weights(rng, config.num_bootstrap, strata),
        run_weights=audit.run_weights(rng, config.num_bootstrap, runs[:, :2]),
    )
    if oracles is None:
        return pool
    return dataclasses.replace(pool, classes=_class_pool(pool, runs[:, 1], oracles))


def _class_pool(
    pool: AuditPool,
    sets: np.ndarray,
    oracles: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
) -> ClassPool:
    labels = pool.labels
    test = ~pool.train
    classes = [np.unique(labels[mask]) for mask in pool.forget]
    forgotten = []
    for number in np.unique(sets):
        runs = [int(run) for run in np.flatnonzero(sets == number)]
        removed = [int(label) for label in classes[runs[0]]]
        models = np.stack([side[run][test] for side in oracles for run in runs])
        neighbors = []
        claimed = np.zeros(len(labels))
        for label in removed if pool.config.mia_nn else ():
            others = [other for other in removed if other != label]
            machine = pool.config.discriminator
            neighbor = audit.nearest_neighbor(
                models,
                labels[test],
                label,
                also_forgotten=others,
                discriminator=machine,
            ).neighbor
            calls = [
                audit.discriminator_calls(
                    model,
                    labels[test],
                    neighbor,
                    label,
                    also_forgotten=others,
                    discriminator=machine,
                )
                for model in models
            ]
            claimed[test & (labels == label)] = np.mean(calls, 0)
            neighbors.append(int(neighbor))
        forgotten.append(
            ForgottenClasses(
                classes=tuple(removed),
                runs=tuple(runs),
                neighbors=tuple(neighbors),
                claimed=claimed,
            )
        )
    peers = np.stack([test & np.isin(labels, removed) for removed in classes])
    return ClassPool(peers=peers, oracles=oracles, sets=tuple(forgotten))
