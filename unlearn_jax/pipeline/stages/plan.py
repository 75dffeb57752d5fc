"""Resolved runs: data, model, masks, methods and banks, before anything runs."""

import dataclasses
import hashlib
import math
import os
import pathlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property, partial
from typing import Any

import jax
import numpy as np

from unlearn_jax import audit, data, targets
from unlearn_jax.data import Splits
from unlearn_jax.methods import FineTuning
from unlearn_jax.objectives import CrossEntropy
from unlearn_jax.pipeline.config.checks import check_settings
from unlearn_jax.pipeline.config.forget_sets import (
    forget_masks,
    number_classes,
    request_masks,
)
from unlearn_jax.pipeline.config.resolve import (
    ResolvedAttack,
    ResolvedRow,
    build_model,
    load_data,
    make_recipe,
    outside_signal,
    plain_model,
    resolve_rows,
)
from unlearn_jax.pipeline.config.schema import (
    HARD,
    AuditConfig,
    ForgetConfig,
    ReplicasConfig,
    RunConfig,
    TrainingConfig,
    TuningConfig,
    digest,
    to_json,
)
from unlearn_jax.pipeline.stages.given import Given, stack_given
from unlearn_jax.pipeline.stages.training import Training
from unlearn_jax.pipeline.store.artifact import Runner
from unlearn_jax.pipeline.store.fingerprint import functions_digest, model_digest
from unlearn_jax.pipeline.store.trees import tree_digest
from unlearn_jax.replicas import Mapper, mapper
from unlearn_jax.spectral import clip
from unlearn_jax.train import LossFn, Recipe
from unlearn_jax.types import Dataset, InputError, Model, Variables


def purpose_key(purpose: str, *numbers: int) -> jax.Array:
    """Return the PRNG key of a purpose and its seeds, the same on every machine.

    >>> first, second = purpose_key("original", 0), purpose_key("retrained", 0)
    >>> bool((jax.random.key_data(first) == jax.random.key_data(second)).all())
    False
    """
    key = jax.random.key(zlib.crc32(purpose.encode()))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """Resolved run; making a plan trains nothing and writes nothing.

    Attributes:
      title: heading of the report.
      settings: plain copy of the configuration, as ``config.json`` holds it.
      splits: the data.
      make_model: function that returns the network, the same object at every call.
      model_id: plain values that identify the network in content keys.
      bank_root: folder of the shared models.
      runner: runner that makes and reads the artifacts of the run.
      training: training of originals, retrained models and references.
      forgetting: configuration of the forget sets.
      replicas: numbers of models, and the way to train many at once.
      audit: options of the audit.
      tuning: options of the search.
      rows: rows to run, by name.
      attacks: attacks that the rows need, by name; the empty name is the run's own.
      loss_fn: objective of originals, retrained models and references; cross-entropy
        if None.
      original: stacked models to unlearn from, trained elsewhere; None to train them.
      avoid: ``[N_train]`` bool, samples that random forget sets must not contain;
        ignored if too few other samples are left.
    """

    title: str
    settings: Any
    splits: Splits
    make_model: Callable[[], Model]
    model_id: Any
    bank_root: pathlib.Path
    runner: Runner
    training: TrainingConfig
    forgetting: ForgetConfig
    replicas: ReplicasConfig
    audit: AuditConfig
    tuning: TuningConfig
    rows: Mapping[str, ResolvedRow]
    attacks: Mapping[str, ResolvedAttack]
    loss_fn: LossFn | None = None
    original: Variables | None = None
    avoid: np.ndarray | None = None

    @property
    def model(self) -> Model:
        """The network."""
        return self.make_model()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the originals."""
        return self.replicas.originals

    @property
    def repeats(self) -> int:
        """Unlearning runs per original and forget set."""
        return self.replicas.repeats

    @property
    def num_references(self) -> int:
        """Number of reference models."""
        return self.replicas.references

    @property
    def num_requests(self) -> int:
        """Number of requests into which every forget set is split."""
        return self.forgetting.requests

    @property
    def group(self) -> int:
        """Largest number of models trained and stored at a time."""
        return self.replicas.group

    @property
    def is_class(self) -> bool:
        """True if whole classes are forgotten."""
        return self.forgetting.kind == "class"

    @property
    def is_hard(self) -> bool:
        """True if the reference models choose the forget set."""
        return self.forgetting.kind in HARD

    def mapper(self, num_models: int, *, is_audit: bool = False) -> Mapper:
        """Return the mapper that computes many models at once.

        Args:
          num_models: number of models of one call.
          is_audit: whether the call is part of the audit, which the first process runs
            alone, on its own devices.
        """
        replicas = self.replicas
        split = replicas.split
        across_hosts = replicas.across_hosts
        if across_hosts and is_audit:
            across_hosts = False
            split = math.gcd(split, len(targets.devices()))
        return mapper(
            replicas.mapper,
            num_models=num_models,
            devices=replicas.devices,
            split=split,
            shard_data=self._shards_data,
            across_hosts=across_hosts,
        )

    @cached_property
    def _shards_data(self) -> bool:
        """True if training sets are divided over the devices; by size if not set."""
        if self.replicas.shard_data is not None:
            return self.replicas.shard_data
        memory = targets.memory()
        return memory is not None and self.pool.images.nbytes > memory / 4

    @cached_property
    def recipe(self) -> Recipe:
        """Recipe of the originals' training."""
        return self.originals.recipe

    @cached_property
    def _forget(self) -> tuple[np.ndarray, list[int]]:
        return forget_masks(
            self.forgetting,
            np.asarray(self.splits.train.labels),
            self._hardness,
            self.avoid,
        )

    @property
    def forget(self) -> np.ndarray:
        """``[S, N_train]`` bool, the forget sets. Hard ones need trained references."""
        return self._forget[0]

    @property
    def forget_names(self) -> list[int]:
        """Seed or class of each forget set."""
        return self._forget[1]

    def forgotten(self, s: int) -> np.ndarray:
        """Return the classes whose training samples are all in forget set ``s``."""
        labels = np.asarray(self.splits.train.labels)
        return np.setdiff1d(labels[self.forget[s]], labels[~self.forget[s]])

    @cached_property
    def requests(self) -> np.ndarray:
        """``[S, K, N_train]`` bool: the requests that make up each forget set."""
        return request_masks(self.forget, self.forget_names, self.num_requests)

    @property
    def forget_known(self) -> bool:
        """True if the forget sets are known before anything is trained."""
        return not self.is_hard or not self.references.missing()

    def _hardness(self, kind: str) -> np.ndarray:
        """Return the positions of the training samples, hardest first.

        Equally memorized samples are in the order of the confidence of the models that
        were trained without them, lowest first.
        """
        labels = np.asarray(self.splits.train.labels)
        count = len(labels)
        member = self.references.member[:, :count]
        confidence = self.references.signals("softmax_confidence")[:, :count]
        sure = audit.out_confidence(confidence, member)
        if kind == "memorized":
            is_correct = self.references.signals("correctness")[:, :count]
            memorized = audit.memorization(is_correct, member).value
            return np.lexsort((sure, -memorized))
        return np.argsort(sure, kind="stable")

    @cached_property
    def pool(self) -> Dataset:
        """Training set, then test set: all samples to score or train references on."""
        return data.pool(self.splits)

    @cached_property
    def runs(self) -> np.ndarray:
        """``[R, 3]``: original, forget set and repeat of each run, by position."""
        shape = (
            len(self.replicas.originals),
            len(self.forget),
            self.replicas.repeats,
        )
        return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(
            -1, 3
        )

    @cached_property
    def pairs(self) -> np.ndarray:
        """``[P, 2]``: distinct pairs (original, forget set) of the runs."""
        return np.unique(self.runs[:, :2], axis=0)

    @cached_property
    def pair_of_run(self) -> np.ndarray:
        """``[R]``: position in ``pairs`` of each run's original and forget set."""
        return np.unique(self.runs[:, :2], axis=0, return_inverse=True)[1].reshape(-1)

    def _training(
        self,
        name: str,
        member: np.ndarray,
        keys: list[jax.Array],
        num_epochs: int,
        num_samples: int,
    ) -> Training:
        padded = np.zeros((len(member), len(self.pool.labels)), bool)
        padded[:, : member.shape[1]] = member
        packed = np.packbits(padded, axis=None).tobytes() + str(padded.shape).encode()
        key_data = np.array([np.asarray(jax.random.key_data(key)) for key in keys])
        training = dataclasses.replace(self.training, num_epochs=num_epochs)
        finish = None
        if training.max_norm is None:
            # without clips, the period must not be part of the models' key
            training = dataclasses.replace(
                training, clip_period=TrainingConfig.clip_period
            )
        else:
            finish = partial(
                clip,
                self.model.apply,
                sample=self.pool.images,
                max_norm=training.max_norm,
            )
        return Training(
            name=name,
            settings={
                "data": self.splits.digest,
                "num_classes": self.splits.num_classes,
                "model": self.model_id,
                "training": to_json(training),
                "num_samples": num_samples,
                "member": hashlib.sha256(packed).hexdigest(),
                "keys": digest(key_data.tolist()),
            },
            model=self.model,
            pool=self.pool,
            member=padded,
            keys=key_data,
            recipe=make_recipe(training, num_samples, self.model, self.pool.images),
            loss_fn=self.loss_fn,
            finish=finish,
            mapper=self.mapper,
            group=self.group,
            checkpoint_seconds=self.replicas.checkpoint_seconds,
            root=self.bank_root,
            runner=self.runner,
        )

    @cached_property
    def originals(self) -> Training:
        """Models to unlearn from, one per seed, trained on the whole training set."""
        seeds = self.seeds
        count = len(self.splits.train.labels)
        keys = [purpose_key("original", seed) for seed in seeds]
        trained = self._training(
            "originals",
            np.ones((len(seeds), count), bool),
            keys,
            self.training.num_epochs,
            count,
        )
        if self.original is None:
            return trained
        settings = {
            name: trained.settings[name] for name in ("data", "num_classes", "model")
        }
        settings["weights"] = tree_digest(self.original)
        return dataclasses.replace(trained, settings=settings, given=self.original)

    @cached_property
    def oracles(self) -> Training:
        """Two retrained models per (original, forget set): the oracle, and the floor.

        They differ only in their seeds, so the second one gives the distance between
        two retrained models.
        """
        seeds = self.seeds
        keys = [
            purpose_key(purpose, seeds[o], self.forget_names[s])
            for purpose in ("retrained", "retrained again")
            for o, s in self.pairs
        ]
        member = np.concatenate([~self.forget[self.pairs[:, 1]]] * 2)
        count = int(member.sum(1).max())
        return self._training(
            "retrained", member, keys, self.training.num_epochs, count
        )

    @cached_property
    def references(self) -> Training:
        """Reference models of the attack, each on a random half of the pool."""
        settings = self.replicas
        count = len(self.pool.labels)
        member = np.zeros((0, count), bool)
        if settings.references:
            member = data.membership_design(
                settings.references,
                count,
                seed=settings.reference_seed,
                generator=settings.reference_generator,
            )
        keys = [
            purpose_key("reference", settings.reference_seed, m)
            for m in range(settings.references)
        ]
        epochs = settings.reference_epochs or self.training.num_epochs
        trained = self._training(
            "references", member, keys, epochs, int(member.sum(1).max(initial=1))
        )
        keep = settings.keep_references
        about = dict(trained.settings)
        # the key of logits does not name them: such a bank may also hold models
        if keep != "logits":
            about["keep"] = keep
        signals = sorted({self.audit.signal, "soft_margin", "logit_margin"})
        if keep == "signals":
            about["signals"] = signals
            outside = outside_signal(self.audit.signal)
            if outside is not None:
                about["signals_code"] = functions_digest([outside])
        return dataclasses.replace(
            trained, settings=about, keep=keep, signal_names=tuple(signals)
        )

    @property
    def has_soft_margin(self) -> bool:
        """True if the table has FT AUC by the soft margin."""
        methods = [row.method for row in self.rows.values()]
        is_gradient_free = not all(isinstance(one, FineTuning) for one in methods)
        return self.audit.wants_soft_margin(is_gradient_free=is_gradient_free)

    @cached_property
    def forget_digest(self) -> str:
        """SHA-256 of the forget sets and of their names, which seed PRNG keys."""
        about = f"{self.forget.shape} {self.forget_names}"
        packed = np.packbits(self.forget, axis=None).tobytes()
        return hashlib.sha256(packed + about.encode()).hexdigest()


def check_samples(plan: Plan) -> None:
    """Raise on classes that cannot be measured.

    Args:
      plan: run to check, if it forgets classes; other runs pass.

    Raises:
      InputError: a class lacks the test samples that the table or MIA-NN needs.
    """
    if not plan.is_class:
        return
    tested = np.asarray(plan.splits.test.labels)
    for s in range(len(plan.forget)):
        forgotten = plan.forgotten(s)
        retained = np.setdiff1d(np.arange(plan.splits.num_classes), forgotten)
        if lost := np.setdiff1d(forgotten, tested).tolist():
            raise InputError(
                f"class {lost[0]} has no test sample: forget classes that are"
                " tested, too"
            )
        if np.isin(tested, forgotten).all():
            raise InputError(
                "no class that is kept has a test sample: split the data again"
                " (data.num_train, num_test)"
            )
        if not plan.audit.mia_nn:
            continue
        if len(retained) < 2:
            raise InputError(
                "MIA-NN needs two classes that are kept: forget fewer, or set"
                " audit.mia_nn=False"
            )
        if lost := np.setdiff1d(retained, tested).tolist():
            raise InputError(
                f"class {lost[0]} has no test sample, which MIA-NN needs for every"
                " class: set audit.mia_nn=False"
            )


def make_plan(
    config: RunConfig,
    bank_root: pathlib.Path,
    *,
    splits: Splits | None = None,
    model: Model | None = None,
    loss_fn: LossFn | None = None,
    original: Given | Sequence[Given] | None = None,
    workdir: str | os.PathLike[str] | None = None,
    check: bool = True,
) -> Plan:
    """Resolve a configuration; raise on unusable settings before anything is written.

    Args:
      config: configuration of the run; nothing reads it after this.
      bank_root: folder of the shared models.
      splits: a user's own data instead of ``config.data``.
      model: a user's own network instead of ``config.model``.
      loss_fn: a user's own objective instead of ``config.training.objective``.
      original: models to unlearn from, as variables or paths, instead of training them.
        The first seeds of ``replicas.originals`` name them.
      workdir: folder of everything else that the run stores; ``bank_root`` if None.
      check: whether to call :func:`check_plan`.

    Raises:
      InputError: unusable data, masks, hyperparameters or numbers of models.
    """
    check_settings(config)
    splits = load_data(config.data) if splits is None else splits
    config = number_classes(config, splits.class_names)

    @cache
    def make_model() -> Model:
        # built only when needed: a finished run is recognized without its network
        return build_model(config.model, splits) if model is None else model

    objective = config.training.objective
    minimized = loss_fn
    if loss_fn is None and objective != CrossEntropy():
        minimized = objective(make_model())
        if not type(objective).__module__.startswith("unlearn_jax."):
            # a user's code may change: its program, not its value, names the models
            loss_fn = minimized
    model_id: Any = [plain_model(config.model)]
    if model is not None:
        model_id = model_digest(model, splits, loss_fn)
    elif loss_fn is not None:
        model_id.append(model_digest(make_model(), splits, loss_fn))
    given = None
    if original is not None:
        given = stack_given(original, make_model())
        count = len(jax.tree.leaves(given)[0])
        seeds = config.replicas.originals[:count]
        if len(seeds) < count:
            raise InputError(
                f"{count} original models are given, but replicas.originals has"
                f" {len(seeds)} seeds: give one seed per model"
            )
        replicas = dataclasses.replace(config.replicas, originals=seeds)
        config = dataclasses.replace(config, replicas=replicas)
    rows, attacks = resolve_rows(config)
    plan = Plan(
        title=config.title,
        settings=to_json(config),
        splits=splits,
        make_model=make_model,
        model_id=model_id,
        bank_root=pathlib.Path(bank_root),
        runner=Runner(
            pathlib.Path(os.path.expanduser(workdir or bank_root)).resolve(),
            is_joint=config.replicas.across_hosts,
        ),
        training=config.training,
        forgetting=config.forget,
        replicas=config.replicas,
        audit=config.audit,
        tuning=config.tuning,
        rows=rows,
        attacks=attacks,
        loss_fn=minimized,
        original=given,
    )
    if check:
        check_plan(plan)
    return plan


def check_plan(plan: Plan) -> None:
    """Raise on settings that cannot work, before anything is computed.

    Args:
      plan: run to check.

    Raises:
      InputError: same as for :func:`make_plan`.
    """
    # banks are resolved on access, which checks the settings of their training
    _ = plan.originals, plan.references
    check_samples(plan)
    if plan.forget_known:
        # resolved on access, which checks the forget sets
        _ = plan.oracles, plan.requests
        if plan.audit.klom and len(plan.forget) > 1:
            raise InputError(
                "audit.klom compares ensembles for one forget set: give one forget"
                " seed, and many replicas.originals"
            )
