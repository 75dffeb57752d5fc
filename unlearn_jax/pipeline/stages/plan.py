"""A run, resolved: what a configuration means in data, models, masks and banks, before anything is computed."""

import dataclasses
import hashlib
import os
import pathlib
import zlib
from functools import cached_property, partial
from typing import Any

import jax
import numpy as np

from unlearn_jax import audit, data, values
from unlearn_jax.data import Splits
from unlearn_jax.pipeline.config.checks import check_settings
from unlearn_jax.pipeline.config.resolve import (
    HARD,
    ResolvedAttack,
    ResolvedRow,
    attack_config,
    build_model,
    forget_masks,
    load_data,
    make_objective,
    make_recipe,
    make_row,
    registered_method,
    request_masks,
    resolve_attack,
)
from unlearn_jax.pipeline.config.schema import (
    AuditConfig,
    RunConfig,
    TrainingConfig,
    TuningConfig,
    digest,
    to_json,
)
from unlearn_jax.pipeline.stages.training import Training
from unlearn_jax.pipeline.store.artifact import Runner
from unlearn_jax.pipeline.store.fingerprint import model_digest
from unlearn_jax.replicas import Mapper, mapper
from unlearn_jax.spectral import clip
from unlearn_jax.train import LossFn, Recipe
from unlearn_jax.types import Dataset, InputError, Model, UnlearnFn


def purpose_key(purpose: str, *numbers: int) -> jax.Array:
    """A key for one purpose and its seeds; the same on every machine.

    >>> first, second = purpose_key("original", 0), purpose_key("retrained", 0)
    >>> bool((jax.random.key_data(first) == jax.random.key_data(second)).all())
    False
    """
    key = jax.random.key(zlib.crc32(purpose.encode()))
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Everything a run will compute, by name; making one trains nothing and writes nothing.

    Attributes:
      config: the configuration.
      splits: the data.
      model: the network.
      model_id: what names it in content keys.
      bank_root: folder of the shared models.
      runner: makes and reads whatever the run stores.
      loss_fn: the objective of originals, retrained models and references;
        cross-entropy if None.
      avoid: ``[N_train]`` bool, samples that random forget sets keep clear of where
        they can.
    """

    config: RunConfig
    splits: Splits
    model: Model
    model_id: Any
    bank_root: pathlib.Path
    runner: Runner
    loss_fn: LossFn | None = None
    avoid: np.ndarray | None = None

    @property
    def title(self) -> str:
        """Heading of the report."""
        return self.config.title

    @cached_property
    def settings(self) -> Any:
        """Plain copy of the configuration, as ``config.json`` holds it."""
        return to_json(self.config)

    @property
    def settings_digest(self) -> str:
        """SHA-256 of the configuration."""
        return digest(self.config)

    @property
    def audit(self) -> AuditConfig:
        """Options of the audit."""
        return self.config.audit

    @property
    def tuning(self) -> TuningConfig:
        """Options of the search."""
        return self.config.tuning

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the originals."""
        return self.config.replicas.originals

    @property
    def repeats(self) -> int:
        """Unlearning runs per original and forget set."""
        return self.config.replicas.repeats

    @property
    def num_references(self) -> int:
        """Number of reference models."""
        return self.config.replicas.references

    @property
    def num_requests(self) -> int:
        """Requests in which every forget set is forgotten."""
        return self.config.forget.requests

    @property
    def group(self) -> int:
        """Models trained and stored at a time, at most."""
        return self.config.replicas.group

    @property
    def checkpoint_seconds(self) -> float:
        """Least time between two checkpoints of a training."""
        return self.config.replicas.checkpoint_seconds

    @property
    def max_norm(self) -> float | None:
        """Largest spectral norm of the trained models' layers; None if unbounded."""
        return self.config.training.max_norm

    @property
    def forget_kind(self) -> str:
        """Kind of the forget sets: random, class, file, memorized or uncertain."""
        return self.config.forget.kind

    @property
    def is_class(self) -> bool:
        """Whether whole classes are forgotten."""
        return self.config.forget.kind == "class"

    @property
    def is_hard(self) -> bool:
        """Whether the reference models choose the forget set."""
        return self.config.forget.kind in HARD

    def mapper(self, num_models: int) -> Mapper:
        """Return the way to compute many models at once.

        Args:
          num_models: of one call.
        """
        replicas = self.config.replicas
        return mapper(replicas.mapper, num_models=num_models, devices=replicas.devices)

    @cached_property
    def recipe(self) -> Recipe:
        """Recipe of the originals' training."""
        return self.originals.recipe

    @cached_property
    def _forget(self) -> tuple[np.ndarray, list[int]]:
        return forget_masks(
            self.config.forget,
            np.asarray(self.splits.train.labels),
            self._hardness,
            self.avoid,
        )

    @property
    def forget(self) -> np.ndarray:
        """``[S, N_train]`` bool, the forget sets. Hard ones need the finished bank of references."""
        return self._forget[0]

    @cached_property
    def forget_pool(self) -> np.ndarray:
        """``[S, N_pool]`` bool, the forget sets as masks of the pool."""
        num_test = len(self.pool.labels) - self.forget.shape[1]
        return np.pad(self.forget, ((0, 0), (0, num_test)))

    @property
    def forget_names(self) -> list[int]:
        """Seed or class of each forget set."""
        return self._forget[1]

    def forgotten(self, s: int) -> np.ndarray:
        """The classes of which forget set ``s`` leaves no training sample."""
        labels = np.asarray(self.splits.train.labels)
        return np.setdiff1d(labels[self.forget[s]], labels[~self.forget[s]])

    @cached_property
    def requests(self) -> np.ndarray:
        """``[S, K, N_train]`` bool: the requests in which each forget set is forgotten."""
        return request_masks(
            self.forget, self.forget_names, self.config.forget.requests
        )

    @property
    def forget_known(self) -> bool:
        """Whether the forget sets can be told before anything is trained."""
        return self.config.forget.kind not in HARD or not self.references.missing()

    def _hardness(self, kind: str) -> np.ndarray:
        """The training samples, the hardest first; equally memorized ones by how unsure models are of them."""
        count, labels = (
            len(self.splits.train.labels),
            np.asarray(self.splits.train.labels),
        )
        logits, member = (
            self.references.logits()[:, :count],
            self.references.member[:, :count],
        )
        sure = audit.out_confidence(audit.softmax_confidence(logits, labels), member)
        if kind == "memorized":
            return np.lexsort(
                (
                    sure,
                    -audit.memorization(
                        audit.correctness(logits, labels), member
                    ).value,
                )
            )
        return np.argsort(sure, kind="stable")

    @cached_property
    def pool(self) -> Dataset:
        """Training set, then test set: the samples that references are drawn from and scores are computed for."""
        return data.pool(self.splits)

    @cached_property
    def runs(self) -> np.ndarray:
        """``[R, 3]``: position of the original, of the forget set, and number of the repeat, of each unlearning run."""
        shape = (
            len(self.config.replicas.originals),
            len(self.forget),
            self.config.replicas.repeats,
        )
        return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(
            -1, 3
        )

    @cached_property
    def pairs(self) -> np.ndarray:
        """``[P, 2]``: the different (original, forget set) of the runs."""
        return np.unique(self.runs[:, :2], axis=0)

    @cached_property
    def pair_of_run(self) -> np.ndarray:
        """``[R]``: position in ``pairs`` of each run's original and forget set."""
        return np.unique(self.runs[:, :2], axis=0, return_inverse=True)[1].reshape(-1)

    @cached_property
    def rows(self) -> dict[str, ResolvedRow]:
        """The rows to run."""
        wanted = self.config.only or tuple(self.config.rows)
        if unknown := [name for name in wanted if name not in self.config.rows]:
            raise InputError(
                f"only names the unknown row {unknown[0]!r}; rows are"
                f" {', '.join(self.config.rows)}"
            )
        return {name: self._row(name) for name in wanted}

    def _row(self, name: str) -> ResolvedRow:
        row = self.config.rows[name]
        takes_attack = "attack" in values.fields_of(registered_method(row))
        return ResolvedRow(
            self.make_row(name, row),
            row["method"],
            row.get("label", name),
            row.get("attack", "") if takes_attack else None,
            row.get("adaptive", False),
            row.get("filter"),
            {k: v for k, v in row.items() if k not in ("label", "method", "search")},
        )

    def make_row(self, name: str, row: dict[str, Any]) -> UnlearnFn:
        """The method of a row, told how its adversarial examples are made."""
        attack = row.get("attack", "")
        config = attack_config(self.config, attack) if isinstance(attack, str) else None
        if (
            config is not None
            and row.get("adaptive")
            and config
            != dataclasses.replace(config, kind="pgd", source="own", failures=0.0)
        ):
            raise InputError(
                f"row {name!r}: adaptive recomputes an attack of kind pgd, source own"
                " and no failures"
            )
        return make_row(name, row, self.config.training, config)

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
        training = dataclasses.replace(self.config.training, num_epochs=num_epochs)
        finish = None
        if training.max_norm is None:
            # a period without clips names no model
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
            checkpoint_seconds=self.checkpoint_seconds,
            root=self.bank_root,
            runner=self.runner,
        )

    @cached_property
    def originals(self) -> Training:
        """The models to unlearn from, one per seed, trained on the whole training set."""
        seeds, count = self.config.replicas.originals, len(self.splits.train.labels)
        if not seeds or len(set(seeds)) < len(seeds):
            raise InputError("replicas.originals must be one or more different seeds")
        keys = [purpose_key("original", seed) for seed in seeds]
        return self._training(
            "originals",
            np.ones((len(seeds), count), bool),
            keys,
            self.config.training.num_epochs,
            count,
        )

    @cached_property
    def oracles(self) -> Training:
        """Two retrained models per (original, forget set): the oracle, and a second one that shows the seeds' floor."""
        seeds = self.config.replicas.originals
        keys = [
            purpose_key(purpose, seeds[o], self.forget_names[s])
            for purpose in ("retrained", "retrained again")
            for o, s in self.pairs
        ]
        member = np.concatenate([~self.forget[self.pairs[:, 1]]] * 2)
        count = int(member.sum(1).max())
        return self._training(
            "retrained", member, keys, self.config.training.num_epochs, count
        )

    @cached_property
    def references(self) -> Training:
        """The reference models of the membership attack, each on a random half of train and test together."""
        settings, count = self.config.replicas, len(self.pool.labels)
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
        epochs = settings.reference_epochs or self.config.training.num_epochs
        return self._training(
            "references", member, keys, epochs, int(member.sum(1).max(initial=1))
        )

    @cached_property
    def attacks(self) -> dict[str, ResolvedAttack]:
        """The attacks that the rows need, by name; the empty name is the run's own."""
        names = {row.attack for row in self.rows.values() if row.attack is not None}
        return {
            name: resolve_attack(attack_config(self.config, name))
            for name in sorted(names)
        }

    @cached_property
    def forget_digest(self) -> str:
        """SHA-256 of the forget sets, and of their names, which seed keys."""
        about = f"{self.forget.shape} {self.forget_names}"
        packed = np.packbits(self.forget, axis=None).tobytes()
        return hashlib.sha256(packed + about.encode()).hexdigest()


def check_samples(plan: Plan) -> None:
    """Refuses attacks that the data or the references are too few for, and classes that cannot be measured.

    Raises:
      InputError: LiRA with two references; classes that are forgotten twice, or without
        the test samples that the table, or MIA-NN, looks at.
    """
    config, audited = plan.config, plan.config.audit
    if audited.lira and 0 < config.replicas.references < 4:
        raise InputError(
            "audit.lira needs replicas.references of at least 4: two of each kind for"
            " every sample"
        )
    if config.forget.kind != "class":
        return
    if len(set(config.forget.classes)) < len(config.forget.classes):
        raise InputError(
            "the classes to forget repeat a class:"
            f" {', '.join(map(str, config.forget.classes))}"
        )
    every, tested = (
        np.arange(plan.splits.num_classes),
        np.asarray(plan.splits.test.labels),
    )
    for s in range(len(plan.forget)):
        gone = plan.forgotten(s)
        if lost := np.setdiff1d(gone, tested).tolist():
            raise InputError(
                f"class {lost[0]} has no test sample: forget classes that are"
                " tested, too"
            )
        if np.isin(tested, gone).all():
            raise InputError(
                "no class that is kept has a test sample: split the data anew"
                " (data.num_train, num_test)"
            )
        if not audited.mia_nn:
            continue
        if len(kept := np.setdiff1d(every, gone)) < 2:
            raise InputError(
                "MIA-NN needs two classes that are kept: forget fewer, or set"
                " audit.mia_nn=False"
            )
        if lost := np.setdiff1d(kept, tested).tolist():
            raise InputError(
                f"class {lost[0]} has no test sample, which MIA-NN needs of all: set"
                " audit.mia_nn=False"
            )


def make_plan(
    config: RunConfig,
    bank_root: pathlib.Path,
    *,
    splits: Splits | None = None,
    model: Model | None = None,
    loss_fn: LossFn | None = None,
    workdir: str | os.PathLike[str] | None = None,
) -> Plan:
    """Resolves a configuration and refuses what cannot work, before anything is trained or written.

    Args:
      config: the configuration.
      bank_root: folder of the shared banks.
      splits: a user's own data instead of ``config.data``.
      model: a user's own network instead of ``config.model``.
      loss_fn: a user's own objective instead of cross-entropy.
      workdir: folder of all else that the run stores; ``bank_root`` if None.

    Raises:
      InputError: unusable data, masks, methods, knobs or numbers of models.
    """
    check_settings(config)
    splits = load_data(config.data) if splits is None else splits
    model_id: Any = [to_json(config.model)]
    if model is None:
        model = build_model(config, splits)
        if loss_fn is not None:
            model_id.append(model_digest(model, splits, loss_fn))
    else:
        model_id = model_digest(model, splits, loss_fn)
    loss_fn = loss_fn or make_objective(config.training, model)
    runner = Runner(pathlib.Path(workdir or bank_root).expanduser().resolve())
    bank_root = pathlib.Path(bank_root)
    plan = Plan(config, splits, model, model_id, bank_root, runner, loss_fn)
    _ = (
        plan.rows,
        plan.attacks,
        plan.originals,
        plan.references,
    )  # refuse bad settings now
    check_samples(plan)
    if plan.forget_known:
        _ = plan.oracles, plan.requests
        if config.audit.klom and len(plan.forget) > 1:
            raise InputError(
                "audit.klom compares ensembles for one forget set: give one forget"
                " seed, and many replicas.originals"
            )
    return plan
