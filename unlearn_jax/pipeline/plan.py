"""A run, resolved: what a configuration means in data, models, masks and banks, before anything is computed."""

import dataclasses
import hashlib
import inspect
import os
import pathlib
import re
import zlib
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import data, methods, models
from unlearn_jax.audit import SIGNALS
from unlearn_jax.data import Splits
from unlearn_jax.methods import FineTuning
from unlearn_jax.pipeline.bank import Bank, BankSpec
from unlearn_jax.pipeline.config import DataConfig, ForgetConfig, RunConfig, TrainingConfig, digest, to_json
from unlearn_jax.train import LossFn, Recipe
from unlearn_jax.types import Dataset, InputError, Model, UnlearnFn

RESERVED_ROWS = ("original", "retrained", "retrained_again")


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


def banks_folder(config: RunConfig, workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Where trained models are shared: ``config.bank``, or ``banks`` beside the working directory."""
    return (
        pathlib.Path(config.bank).expanduser().resolve()
        if config.bank
        else pathlib.Path(workdir).expanduser().resolve().parent / "banks"
    )


def load_data(config: DataConfig) -> Splits:
    """The data set a configuration names, split anew where it asks for sizes.

    Raises:
      InputError: it cannot be had, or its settings do not fit together.
    """
    if (config.num_train is None) != (config.num_test is None):
        raise InputError(
            "data.num_train and data.num_test go together: give both, or neither to keep the data set's own split"
        )
    if config.source == "digits":
        splits = data.load_digits(seed=config.seed)
    elif config.source == "tfds":
        if not config.name:
            raise InputError("data.source=tfds needs data.name, such as --data.name=cifar10")
        splits = data.load_tfds(config.name, data_dir=config.path)
    else:
        if config.path is None:
            raise InputError(f"data.source={config.source} needs data.path")
        splits = (data.load_npz if config.source == "npz" else data.load_folder)(config.path)
    if config.num_train is None or config.num_test is None:
        return splits
    return data.resplit(splits, num_train=config.num_train, num_test=config.num_test, seed=config.seed)


def forget_masks(config: ForgetConfig, labels: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """The forget sets of a configuration.

    Returns:
      ``[S, N]`` bool, and what names each: its seed, or its class (0 for a file).

    Raises:
      InputError: nothing or everything to forget, or unusable settings.
    """
    if config.kind == "random":
        fraction = None if config.count is not None else config.fraction
        if not config.seeds or len(set(config.seeds)) < len(config.seeds):
            raise InputError("forget.seeds must be one or more different seeds, one per forget set")
        draw = lambda seed: data.forget_random(  # noqa: E731
            len(labels), fraction=fraction, count=config.count, seed=seed, generator=config.generator
        )
        return np.stack([draw(seed) for seed in config.seeds]), list(config.seeds)
    if config.kind == "class":
        if not config.classes:
            raise InputError("forget.kind=class needs forget.classes, such as --forget.classes 0 3")
        return np.stack([data.forget_class(labels, [c]) for c in config.classes]), list(config.classes)
    if config.path is None:
        raise InputError("forget.kind=file needs forget.path, a file of indices or a mask")
    return data.forget_file(config.path, len(labels))[None], [0]


def make_recipe(config: TrainingConfig, num_samples: int, num_epochs: int) -> Recipe:
    """The recipe of a configuration for a training set of a given size.

    Raises:
      InputError: unusable settings.
    """
    fields = {**to_json(config), "augment": _augment(config.augment), "num_epochs": num_epochs}
    return FineTuning(**fields).recipe(num_samples)


def _augment(name: str) -> Any:
    if name not in data.AUGMENTATIONS:
        raise InputError(f"unknown training.augment {name!r}; choose one of {', '.join(data.AUGMENTATIONS)}")
    return None if name == "none" else data.AUGMENTATIONS[name]


def make_row(name: str, row: dict[str, Any], training: TrainingConfig) -> UnlearnFn:
    """The method of one row of the configuration; knobs it does not give are the training's.

    Raises:
      InputError: unknown method or knob.
    """
    if name in RESERVED_ROWS or not re.fullmatch(r"[A-Za-z0-9_.+-]+", name):
        raise InputError(
            f"a row cannot be called {name!r}: use letters, digits and _, and not {', '.join(RESERVED_ROWS)}"
        )
    if "method" not in row:
        raise InputError(f"row {name!r} names no method; known are {', '.join(sorted(methods.METHODS))}")
    known = methods.knobs_of(row["method"])
    shared = {"batch_size": training.batch_size, "momentum": training.momentum, "weight_decay": training.weight_decay}
    knobs = {key: value for key, value in shared.items() if key in known}
    knobs |= {key: value for key, value in row.items() if key not in ("method", "label")}
    if "augment" in known:
        knobs["augment"] = _augment(knobs.get("augment", training.augment))
    return methods.make_method(row["method"], **knobs)


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """Everything a run will compute, by name; making one trains nothing and writes nothing.

    Attributes:
      config: the configuration.
      splits: the data.
      model: the network.
      model_id: what names it in content keys.
      bank_root: folder of the shared banks.
      forget: ``[S, N_train]`` bool, the forget sets.
      forget_names: seed or class of each.
      loss_fn: the objective of originals, retrained models and references; cross-entropy if None.
    """

    config: RunConfig
    splits: Splits
    model: Model
    model_id: Any
    bank_root: pathlib.Path
    forget: np.ndarray
    forget_names: list[int]
    loss_fn: LossFn | None = None

    @cached_property
    def pool(self) -> Dataset:
        """Training set, then test set: the samples that references are drawn from and scores are computed for."""
        train, test = self.splits.train, self.splits.test
        return Dataset(np.concatenate([train.images, test.images]), np.concatenate([train.labels, test.labels]))

    @cached_property
    def runs(self) -> np.ndarray:
        """``[R, 3]``: position of the original, of the forget set, and number of the repeat, of each unlearning run."""
        shape = (len(self.config.replicas.originals), len(self.forget), self.config.replicas.repeats)
        return np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)

    @cached_property
    def pairs(self) -> np.ndarray:
        """``[P, 2]``: the different (original, forget set) of the runs."""
        return np.unique(self.runs[:, :2], axis=0)

    @cached_property
    def rows(self) -> dict[str, UnlearnFn]:
        """The methods to run."""
        wanted = self.config.only or tuple(self.config.rows)
        if unknown := [name for name in wanted if name not in self.config.rows]:
            raise InputError(f"only names the unknown row {unknown[0]!r}; rows are {', '.join(self.config.rows)}")
        return {name: make_row(name, self.config.rows[name], self.config.training) for name in wanted}

    def _bank(self, name: str, member: np.ndarray, keys: list[jax.Array], num_epochs: int, num_samples: int) -> Bank:
        padded = np.zeros((len(member), len(self.pool.labels)), bool)
        padded[:, : member.shape[1]] = member
        key_data = np.stack([np.asarray(jax.random.key_data(key)) for key in keys])
        training = dataclasses.replace(self.config.training, num_epochs=num_epochs)
        key = digest(
            self.splits.digest,
            self.model_id,
            training,
            num_samples,
            hashlib.sha256(np.packbits(padded, axis=None).tobytes() + str(padded.shape).encode()).hexdigest(),
            key_data.tolist(),
        )
        recipe = make_recipe(training, num_samples, num_epochs)
        spec = BankSpec(name, key, self.model, self.pool, padded, key_data, recipe, self.loss_fn)
        return Bank(self.bank_root, spec, self.config.replicas)

    @cached_property
    def originals(self) -> Bank:
        """The models to unlearn from, one per seed, trained on the whole training set."""
        seeds, count = self.config.replicas.originals, len(self.splits.train.labels)
        if not seeds or len(set(seeds)) < len(seeds):
            raise InputError("replicas.originals must be one or more different seeds")
        keys = [purpose_key("original", seed) for seed in seeds]
        return self._bank("originals", np.ones((len(seeds), count), bool), keys, self.config.training.num_epochs, count)

    @cached_property
    def oracles(self) -> Bank:
        """Two retrained models per (original, forget set): the oracle, and a second one that shows the seeds' floor."""
        seeds = self.config.replicas.originals
        keys = [
            purpose_key(purpose, seeds[o], self.forget_names[s])
            for purpose in ("retrained", "retrained again")
            for o, s in self.pairs
        ]
        member = np.concatenate([~self.forget[self.pairs[:, 1]]] * 2)
        count = int(member.sum(1).max())
        return self._bank("retrained", member, keys, self.config.training.num_epochs, count)

    @cached_property
    def references(self) -> Bank:
        """The reference models of the membership attack, each on a random half of train and test together."""
        settings = self.config.replicas
        member = data.membership_design(settings.references, len(self.pool.labels), seed=settings.reference_seed)
        keys = [purpose_key("reference", settings.reference_seed, m) for m in range(settings.references)]
        epochs = settings.reference_epochs or self.config.training.num_epochs
        return self._bank("references", member, keys, epochs, len(self.pool.labels) // 2)

    def attack_digest(self) -> str:
        """Content key of the adversarial sets."""
        return digest(self.originals.spec.key, self._forget_digest(), self.config.attack)

    def row_digest(self, name: str) -> str:
        """Content key of one method's unlearned models."""
        row = {key: value for key, value in self.config.rows[name].items() if key != "label"}
        attack = self.attack_digest() if self.uses_attack(name) else None
        parts = (self.originals.spec.key, self._forget_digest(), row, attack, self.config.training)
        return digest(*parts, self.config.replicas.repeats)

    def uses_attack(self, name: str) -> bool:
        """Whether the row's method is given the adversarial set: methods with a knob ``attack`` are."""
        return "attack" in methods.knobs_of(self.config.rows[name]["method"])

    def _forget_digest(self) -> str:
        return hashlib.sha256(
            np.packbits(self.forget, axis=None).tobytes() + str(self.forget.shape).encode()
        ).hexdigest()


def make_plan(
    config: RunConfig,
    bank_root: pathlib.Path,
    *,
    splits: Splits | None = None,
    model: Model | None = None,
    loss_fn: LossFn | None = None,
) -> Plan:
    """Resolves a configuration and refuses what cannot work, before anything is trained or written.

    Args:
      config: the configuration.
      bank_root: folder of the shared banks.
      splits: a user's own data instead of ``config.data``.
      model: a user's own network instead of ``config.model``.
      loss_fn: a user's own objective instead of cross-entropy.

    Raises:
      InputError: unusable data, masks, methods, knobs or numbers of models.
    """
    splits = load_data(config.data) if splits is None else splits
    if config.audit.signal not in SIGNALS:
        raise InputError(f"unknown audit.signal {config.audit.signal!r}; choose one of {', '.join(sorted(SIGNALS))}")
    if min(config.replicas.repeats, config.replicas.group, config.audit.num_bootstrap) < 1:
        raise InputError("replicas.repeats, replicas.group and audit.num_bootstrap must be at least 1")
    if config.audit.mode not in ("online", "offline") or not 0 < config.audit.level < 1 or config.audit.gamma <= 0:
        raise InputError("audit.mode must be online or offline, audit.level in (0, 1) and audit.gamma positive")
    attack = config.attack
    if (
        min(attack.num_radii, attack.num_steps, attack.batch_size) < 1
        or min(attack.epsilon_init, attack.step_ratio) <= 0
    ):
        raise InputError("attack.num_radii, num_steps, batch_size, epsilon_init and step_ratio must be positive")
    if attack.search == "grid" and not attack.restart:
        raise InputError(
            "attack.search=grid attacks all radii at once: attack.restart=False needs attack.search=doubling"
        )
    height, width, channels = splits.train.images.shape[1:]
    model_id: Any = to_json(config.model)
    if model is None:
        fields = {key: tuple(v) if isinstance(v, list) else v for key, v in config.model.fields.items()}
        model = models.build(
            config.model.name,
            (height, width, channels),
            splits.num_classes,
            conv=config.model.conv,
            dtype=config.model.dtype,
            **fields,
        )
    else:
        model_id = fingerprint(model, splits)
    if loss_fn is not None:
        model_id = [model_id, _source_of(loss_fn)]
    masks, names = forget_masks(config.forget, np.asarray(splits.train.labels))
    plan = Plan(config, splits, model, model_id, pathlib.Path(bank_root), masks, names, loss_fn)
    _ = plan.rows, plan.originals, plan.oracles, plan.references  # refuse bad settings now
    return plan


def fingerprint(model: Model, splits: Splits) -> str:
    """Names a user's network by what it computes: its jaxprs, without addresses.

    Raises:
      InputError: its logits do not fit the data.
    """
    key = jax.random.key(0)
    images = jax.ShapeDtypeStruct((2, *splits.train.images.shape[1:]), jnp.float32)
    variables = jax.eval_shape(model.init, key)
    logits = jax.eval_shape(model.apply, variables, images)
    if logits.shape != (2, splits.num_classes):
        raise InputError(
            f"the model gives logits {logits.shape} for 2 images of {splits.num_classes} classes: it must give "
            f"(2, {splits.num_classes})"
        )
    programs = (
        jax.make_jaxpr(model.init)(key),
        jax.make_jaxpr(model.apply)(variables, images),
        jax.make_jaxpr(model.apply_train)(variables, images, key),
    )
    text = "\n".join(re.sub(r" at 0x[0-9a-f]+", "", str(program)) for program in programs)
    return hashlib.sha256(text.encode()).hexdigest()


def _source_of(fun: Any) -> str:
    try:
        return hashlib.sha256(inspect.getsource(fun).encode()).hexdigest()
    except (OSError, TypeError) as error:
        raise InputError(
            "the source of loss_fn cannot be read, so its models cannot be named: define it in a file"
        ) from error
