"""Pool of samples and reference models that all rows of a table are measured on."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np

from unlearn_jax import audit
from unlearn_jax.audit import device
from unlearn_jax.pipeline.config.schema import AuditConfig
from unlearn_jax.pipeline.measure.metrics import CLASSES, SAMPLES, Table
from unlearn_jax.pipeline.measure.statistics import (
    Measured,
    Statistics,
    in_threads,
    resample,
)
from unlearn_jax.replicas import Mapper, map_models
from unlearn_jax.types import Array

_MANY_REFERENCES = 64
_R = TypeVar("_R")
RunScores = Callable[[Array, Any], Array]
"""``(signal [N], bank) -> scores [N]`` of one run, traceable."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ForgottenClasses:
    """One forget set of whole classes.

    Attributes:
      classes: forgotten classes.
      runs: positions of the runs that forget them.
      neighbors: nearest retained class of each forgotten class; empty without MIA-NN.
      expected: ``[1 + refits, R]`` mean scores of both retrained models of these runs,
        by column of MIA-NN. The first row is on the original data, the others are on
        the replicates.
    """

    classes: tuple[int, ...]
    runs: tuple[int, ...]
    neighbors: tuple[int, ...]
    expected: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassPool:
    """Additions to a pool for forget sets of whole classes.

    Attributes:
      peers: ``[R, N]`` bool, test samples of the forgotten classes.
      oracles: logits ``[N, C]`` of each run's first and of its second retrained model.
      sets: forget sets.
    """

    peers: np.ndarray
    oracles: tuple[Sequence[np.ndarray], Sequence[np.ndarray]]
    sets: tuple[ForgottenClasses, ...]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AuditPool:
    """Samples, reference models and resampling weights that all rows share.

    Attributes:
      config: options of the audit.
      labels: ``[N]`` labels of the training set, then of the test set.
      forget: ``[R, N]`` bool, each run's forget set.
      train: ``[N]`` bool, the training set.
      average: ``[N]``, RMIA's average of the reference models' signals; None without
        references.
      soft_average: ``[N]``, the same average of their soft margins; None unless these
        are compared.
      reference_margin: ``[M, N]`` logit margins of the reference models; None without
        LiRA.
      member: ``[M, N]`` bool, the reference models' training sets.
      sample_weights: bootstrap weights of shape ``[B, N]``, shared by all runs, rows
        and metrics.
      factors: ``[R, 2]``, numbers of the original and the forget set of each run.
      classes: additions for whole classes; None for other forget sets.
      mapper: mapper of the runs, which computes their RMIA and LiRA scores on its
        devices, in float32. A score of RMIA changes by 1 / (N - 1) for every pair of
        ratios that agree to 1e-7. None computes the scores on the host, in float64.
      faults: reasons why columns of other packages failed, by key; added while rows are
        measured.
    """

    config: AuditConfig
    labels: np.ndarray
    forget: np.ndarray
    train: np.ndarray
    average: np.ndarray | None
    soft_average: np.ndarray | None
    reference_margin: np.ndarray | None
    member: np.ndarray
    sample_weights: audit.SampleWeights
    factors: np.ndarray
    classes: ClassPool | None = None
    mapper: Mapper | None = None
    faults: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def table(self) -> Table:
        """Kind of table that is measured on the pool."""
        return SAMPLES if self.classes is None else CLASSES

    def measure(
        self, statistics_of: Callable[[int], Statistics]
    ) -> dict[str, Measured]:
        """Measure every run: values ``[R]`` and replicates ``[B, R]``, by key.

        Args:
          statistics_of: function from the number of a run to its statistics.
        """
        return resample(range(len(self.forget)), statistics_of, self.sample_weights)

    def refit(
        self,
        attack: Callable[[int, np.ndarray], float],
        queries: np.ndarray,
        *inputs: np.ndarray,
    ) -> Measured:
        """Measure an attack whose classifier is fitted again in every replicate.

        Without ``config.refits`` there are no replicates and no interval: predictions
        of a fixed classifier do not show the noise of its fit.

        Args:
          attack: function from a run and positions of samples to the metric on these
            samples. Samples drawn several times have repeated positions. The metric is
            NaN where a side is empty.
          queries: ``[R, N]`` bool, the samples that the attack classifies.
          *inputs: ``[R, ...]`` arrays that the attack depends on; runs with equal
            inputs share a result.
        """
        drawn = [np.arange(len(self.labels))]
        for rows, block in self.sample_weights:
            if len(drawn) > self.config.refits:
                break
            for row in block[: self.config.refits - rows.start]:
                drawn.append(np.repeat(drawn[0], row))

        def measure(run: int) -> np.ndarray:
            return np.array([attack(run, samples) for samples in drawn])

        values = np.stack(_shared(measure, queries, *inputs), axis=1)
        replicates = values[1:] if self.config.refits > 1 else None
        if replicates is None:
            return Measured(values[0], None)
        return Measured(values[0], replicates, int(queries.any(axis=0).sum()))

    def mis(self, margin: np.ndarray, outside: np.ndarray) -> Measured:
        """Measure the fraction of forget samples that an SVC calls non-members.

        Args:
          margin: ``[R, N]`` logit margins.
          outside: ``[R, N]`` bool, samples known to be non-members.
        """
        confidence = confidences(margin)

        def attack(run: int, samples: np.ndarray) -> float:
            values = confidence[run, samples]
            forget = self.forget[run, samples]
            sides = (
                values[self.train[samples] & ~forget],
                values[outside[run, samples]],
                values[forget],
            )
            if not all(side.size for side in sides):
                return np.nan
            options = {"max_samples": self.config.mis_samples, "seed": self.config.seed}
            return audit.mis(*sides, **options).fraction

        return self.refit(attack, self.forget, margin, outside)

    def signals(self, logits: Iterable[np.ndarray]) -> np.ndarray:
        """Return membership signals ``[K, N]`` from ``K`` models' logits ``[N, C]``."""
        return audit.model_signals(self.config.signal, logits, self.labels)

    def rmia(self, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return RMIA's ratios and scores, ``[R, N]`` each, from signals ``[R, N]``."""
        assert self.average is not None
        ratio = audit.ratio_to_average(target, self.average)
        return ratio, self._dominated(ratio)

    def soft_rmia(self, logits: Iterable[np.ndarray]) -> np.ndarray | None:
        """Return RMIA's scores ``[R, N]`` by the soft margin; None if not requested."""
        if self.soft_average is None:
            return None
        target = audit.model_signals("soft_margin", logits, self.labels)
        return self._dominated(audit.ratio_to_average(target, self.soft_average))

    def _dominated(self, ratio: np.ndarray) -> np.ndarray:
        config = self.config
        if self.mapper is not None:
            scores = rmia_scores(config)
            return _on_devices(self.mapper, scores, ratio, ())
        return audit.dominated_fraction(
            ratio, gamma=config.gamma, comparison=config.comparison
        )

    def lira(self, margin: np.ndarray) -> np.ndarray | None:
        """Return LiRA's scores ``[R, N]`` from margins ``[R, N]``; None if not used.

        With fewer than 64 references, all samples share one variance, as the authors of
        LiRA recommend.
        """
        if self.reference_margin is None:
            return None
        bank = (self.reference_margin, self.member)
        if self.mapper is not None:
            scores = lira_scores(self.config, len(self.member))
            return _on_devices(self.mapper, scores, margin, bank)
        return audit.lira(margin, *bank, **_lira_options(self.config, len(self.member)))

    def usable_signals(self, logits: Sequence[np.ndarray]) -> np.ndarray | None:
        """Return the signals ``[K, N]``; None if a model has diverged.

        A model has diverged if its logits or signals are not finite. Without references
        there are no signals: the result is ``[K, 0]``.
        """
        if not all(np.isfinite(one).all() for one in logits):
            return None
        if self.average is None:
            return np.zeros((len(logits), 0))
        signals = self.signals(logits)
        return signals if np.isfinite(signals).all() else None

    def num_diverged(self, logits: Sequence[np.ndarray]) -> int:
        """Return the number of models that diverged, by their logits ``[N, C]``."""
        return sum(self.usable_signals([one]) is None for one in logits)


def _on_devices(
    mapper: Mapper, scores: RunScores, runs: np.ndarray, bank: tuple[np.ndarray, ...]
) -> np.ndarray:
    """Return scores ``[R, N]`` of signals ``[R, N]``, computed on several devices."""
    return np.asarray(map_models(mapper, scores, runs.astype(np.float32), bank))


@lru_cache(maxsize=8)
def rmia_scores(config: AuditConfig) -> RunScores:
    """Return the function that scores one run by RMIA on a device.

    It takes the run's ratios ``[N]`` and an empty bank.

    Args:
      config: options of the audit.
    """

    def rmia(ratio: Array, bank: tuple[()]) -> Array:
        del bank
        return device.dominated_fraction(
            ratio, gamma=config.gamma, comparison=config.comparison
        )

    return rmia


@lru_cache(maxsize=8)
def lira_scores(config: AuditConfig, num_references: int) -> RunScores:
    """Return the function that scores one run by LiRA on a device.

    It takes the run's margins ``[N]`` and a bank: the references' margins ``[M, N]``
    and their members ``[M, N]``.

    Args:
      config: options of the audit.
      num_references: number of reference models, ``M``.
    """
    options = _lira_options(config, num_references)

    def lira(margin: Array, bank: tuple[Array, Array]) -> Array:
        return device.lira(margin, *bank, **options)

    return lira


def _lira_options(config: AuditConfig, num_references: int) -> dict[str, Any]:
    """Return the options of LiRA for a number of reference models."""
    is_many = num_references >= _MANY_REFERENCES
    return {
        "mode": config.mode,
        "variance": "per_sample" if is_many else "fixed_centered",
        "offline_score": "cdf",
    }


def neighbor_score(
    logits: np.ndarray,
    labels: np.ndarray,
    forgotten: ForgottenClasses,
    machine: audit.Discriminator,
    reading: audit.Reading,
) -> float:
    """Return the score of MIA-NN for one model.

    For several forgotten classes, it is the mean of their scores, weighted by their
    numbers of samples.

    Args:
      logits: ``[N, C]`` logits of the model on test samples.
      labels: ``[N]`` labels.
      forgotten: forgotten classes and their neighbors.
      machine: options of the discriminators.
      reading: kind of score; see :func:`unlearn_jax.audit.mia_nn`.

    Returns:
      The score; NaN if a class has too few samples for its discriminator.
    """
    counts = np.bincount(labels, minlength=logits.shape[-1])
    if counts.min() < 1 + (reading == "neighbor_against_forgotten"):
        return np.nan
    scores = []
    for label, neighbor in zip(forgotten.classes, forgotten.neighbors, strict=True):
        others = [other for other in forgotten.classes if other != label]
        credits = audit.neighbor_credits(
            logits,
            labels,
            neighbor,
            label,
            also_forgotten=others,
            reading=reading,
            discriminator=machine,
        )
        scores.append(np.nanmean(credits))
    return float(np.average(scores, weights=counts[list(forgotten.classes)]))


def margins(logits: Iterable[np.ndarray], labels: np.ndarray) -> np.ndarray:
    """Return logit margins ``[K, N]`` from ``K`` models' logits ``[N, C]``."""
    return audit.model_signals("logit_margin", logits, labels)


def confidences(margin: np.ndarray) -> np.ndarray:
    """Return the true class's probabilities from logit margins, in float64."""
    # The exponential of a margin below -709 overflows; the confidence is 0.
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-margin.astype(np.float64)))


def _shared(function: Callable[[int], _R], *inputs: np.ndarray) -> list[_R]:
    """Return the results of all runs; runs with equal inputs share a call."""
    first: dict[bytes, int] = {}
    source = []
    for run in range(len(inputs[0])):
        content = hashlib.sha256()
        for array in inputs:
            content.update(np.ascontiguousarray(array[run]).tobytes())
        source.append(first.setdefault(content.digest(), run))
    results = dict(
        zip(first.values(), in_threads(function, first.values()), strict=True)
    )
    return [results[run] for run in source]


class ReferenceSignals(NamedTuple):
    """Signals of the reference models; an audit needs nothing else of these models.

    Attributes:
      signal: ``[M, N]`` membership signals.
      margin: ``[M, N]`` logit margins; None without LiRA.
      soft: ``[M, N]`` soft margins; None unless they are compared with ``signal``.
    """

    signal: np.ndarray
    margin: np.ndarray | None
    soft: np.ndarray | None = None


def make_pool(
    config: AuditConfig,
    labels: np.ndarray,
    forget: np.ndarray,
    runs: np.ndarray,
    references: ReferenceSignals | None,
    member: np.ndarray,
    oracles: tuple[Sequence[np.ndarray], Sequence[np.ndarray]] | None = None,
    mapper: Mapper | None = None,
) -> AuditPool:
    """Return the pool of a table.

    Args:
      config: options of the audit.
      labels: ``[N]`` labels of the training set, then of the test set.
      forget: ``[R, N_train]`` bool, each run's forget set.
      runs: ``[R, 2]`` or wider: numbers of the original and the forget set of each run,
        the two factors of the intervals.
      references: signals of the reference models; may be None where whole classes are
        forgotten.
      member: ``[M, N]`` bool, the references' training sets.
      oracles: logits ``[N, C]`` of each run's first and of its second retrained model,
        where every forget set is all samples of some classes; None for other sets.
      mapper: mapper of the runs, to score them on devices; None scores them on the
        host.
    """
    num_train = forget.shape[1]
    train = np.arange(len(labels)) < num_train
    # A replicate keeps the sizes of training and test set, and those of the classes
    # where whole classes are forgotten.
    strata = train.astype(int)
    if oracles is not None:
        strata = 2 * np.asarray(labels, int) + train
    rng = np.random.default_rng(config.seed)
    averages: list[np.ndarray | None] = [None, None]
    if references is not None:
        averages = [
            None
            if signal is None
            else audit.reference_average(
                signal, member, mode=config.mode, offline_a=config.offline_a
            )
            for signal in (references.signal, references.soft)
        ]
    pool = AuditPool(
        config=config,
        labels=labels,
        forget=np.pad(forget, ((0, 0), (0, len(labels) - num_train))),
        train=train,
        average=averages[0],
        soft_average=averages[1],
        reference_margin=None if references is None else references.margin,
        member=member,
        sample_weights=audit.SampleWeights(rng, config.num_bootstrap, strata),
        factors=np.asarray(runs)[:, :2],
        mapper=mapper,
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
        for label in removed if pool.config.mia_nn else ():
            nearest = audit.nearest_neighbor(
                models,
                labels[test],
                label,
                also_forgotten=[other for other in removed if other != label],
                discriminator=pool.config.discriminators[0],
            )
            neighbors.append(nearest.neighbor)
        one = ForgottenClasses(
            classes=tuple(removed), runs=tuple(runs), neighbors=tuple(neighbors)
        )
        expected = {}
        for name, (machine, reading) in pool.config.mia_nn_columns().items():

            def attack(
                model: int,
                samples: np.ndarray,
                one: ForgottenClasses = one,
                models: np.ndarray = models,
                machine: audit.Discriminator = machine,
                reading: audit.Reading = reading,
            ) -> float:
                inside = samples[test[samples]]
                logits = models[model][np.cumsum(test)[inside] - 1]
                return neighbor_score(logits, labels[inside], one, machine, reading)

            peers = np.broadcast_to(
                test & np.isin(labels, removed), (len(models), len(labels))
            )
            score = pool.refit(attack, peers, models)
            drawn = [score.value[None]]
            if score.replicates is not None:
                drawn.append(score.replicates)
            both = np.concatenate(drawn).reshape(-1, len(oracles), len(runs))
            expected[name] = both.mean(1)
        forgotten.append(dataclasses.replace(one, expected=expected))
    peers = np.stack([test & np.isin(labels, removed) for removed in classes])
    return ClassPool(peers=peers, oracles=oracles, sets=tuple(forgotten))
