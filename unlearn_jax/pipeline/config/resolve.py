"""The parts of a configuration, resolved: data, masks, recipes, methods, networks; unusable settings refused."""

import dataclasses
import math
import os
import pathlib
import re
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from unlearn_jax import data, methods, models, values
from unlearn_jax.attacks import (
    PGD,
    Attack,
    CappedFailures,
    Doubling,
    Grid,
    LineSearch,
)
from unlearn_jax.data import Splits
from unlearn_jax.filters import FILTERS
from unlearn_jax.methods import FineTuning, SpectralBound
from unlearn_jax.objectives import OBJECTIVES
from unlearn_jax.optimizers import OPTIMIZERS, SGD
from unlearn_jax.pipeline.config.schema import (
    AttackConfig,
    DataConfig,
    ForgetConfig,
    RunConfig,
    TrainingConfig,
)
from unlearn_jax.pipeline.store.fingerprint import check_logits
from unlearn_jax.spectral import fastclip, state_shapes
from unlearn_jax.train import LossFn, Recipe
from unlearn_jax.types import InputError, Model, UnlearnFn

RESERVED_ROWS = ("original", "retrained", "retrained_again")
ROW_KEYS = ("method", "label", "search", "attack", "adaptive", "filter")
"""What a row may hold beside the knobs of its method."""


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
            "data.num_train and data.num_test go together: give both, or neither to"
            " keep the data set's own split"
        )
    if config.source == "digits":
        splits = data.load_digits(seed=config.seed)
    elif config.source == "tfds":
        if not config.name:
            raise InputError(
                "data.source=tfds needs data.name, such as --data.name=cifar10"
            )
        splits = data.load_tfds(
            config.name,
            data_dir=config.path,
            train_split=config.train_split,
            test_split=config.test_split,
            image_key=config.image_key,
            label_key=config.label_key,
        )
    else:
        if config.path is None:
            raise InputError(f"data.source={config.source} needs data.path")
        splits = (
            data.load_npz(config.path)
            if config.source == "npz"
            else data.load_folder(config.path, size=config.size)
        )
    if config.num_train is None or config.num_test is None:
        if config.balanced:
            raise InputError(
                "data.balanced needs data.num_train and data.num_test: it is about the"
                " random split"
            )
        return splits
    sizes = {"num_train": config.num_train, "num_test": config.num_test}
    return data.resplit(splits, **sizes, seed=config.seed, balanced=config.balanced)


HARD = ("memorized", "uncertain")
"""Kinds of forget sets that the reference models choose."""


def forget_masks(
    config: ForgetConfig,
    labels: np.ndarray,
    hardness: Callable[[str], np.ndarray] | None = None,
    avoid: np.ndarray | None = None,
) -> tuple[np.ndarray, list[int]]:
    """The forget sets of a configuration.

    Args:
      config: which.
      labels: ``[N]`` of the training set.
      hardness: ``kind -> [N]`` ranks of the training samples, the hardest first, for
        the hard kinds.
      avoid: ``[N]`` bool, samples that random sets must not hold; looked at only if
        enough others are left.

    Returns:
      ``[S, N]`` bool, and what names each: its seed, or its class (0 for a file or the
      hardest samples).

    Raises:
      InputError: nothing or everything to forget, or unusable settings.
    """
    fraction = None if config.count is not None else config.fraction
    if config.kind == "random":
        if not config.seeds or len(set(config.seeds)) < len(config.seeds):
            raise InputError(
                "forget.seeds must be one or more different seeds, one per forget set"
            )
        draw = lambda seed: data.forget_random(
            len(labels),
            fraction=fraction,
            count=config.count,
            seed=seed,
            generator=config.generator,
        )
        masks = np.stack([draw(seed) for seed in config.seeds])
        if avoid is not None and (~avoid).sum() >= masks[0].sum():
            masks = np.stack(
                [
                    _draw_outside(avoid, int(masks[0].sum()), seed)
                    for seed in config.seeds
                ]
            )
        return masks, list(config.seeds)
    if config.kind == "class":
        if not config.classes:
            raise InputError(
                "forget.kind=class needs forget.classes, such as --forget.classes 0 3"
            )
        if config.together:
            return data.forget_class(labels, config.classes)[None], [config.classes[0]]
        return np.stack([data.forget_class(labels, [c]) for c in config.classes]), list(
            config.classes
        )
    if config.kind in HARD:
        size = data.forget_random(
            len(labels), fraction=fraction, count=config.count, seed=0
        ).sum()
        assert hardness is not None
        return data.forget_indices(hardness(config.kind)[:size], len(labels))[None], [0]
    if config.path is None:
        raise InputError(
            "forget.kind=file needs forget.path, a file of indices or a mask"
        )
    return data.forget_file(config.path, len(labels))[None], [0]


def _draw_outside(avoid: np.ndarray, count: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).choice(
        np.flatnonzero(~avoid), count, replace=False
    )
    return data.forget_indices(drawn, len(avoid))


def request_masks(forget: np.ndarray, names: list[int], count: int) -> np.ndarray:
    """Splits every forget set into requests of equal size, at random by its seed.

    Args:
      forget: ``[S, N]`` bool.
      names: seed of each set.
      count: ``K``.

    Returns:
      ``[S, K, N]`` bool.

    Raises:
      InputError: a set that does not split evenly.
    """
    masks = np.zeros((len(forget), count, forget.shape[1]), bool)
    for s, mask in enumerate(forget):
        members = np.flatnonzero(mask)
        if len(members) % count:
            raise InputError(
                f"{len(members)} forget samples do not split into"
                f" forget.requests={count} equal requests: choose forget.count as a"
                " multiple"
            )
        shuffled = (
            np.random.default_rng([names[s], count])
            .permutation(members)
            .reshape(count, -1)
        )
        for k, rows in enumerate(shuffled):
            masks[s, k, rows] = True
    return masks


def make_training(config: TrainingConfig) -> FineTuning:
    """Return the hyperparameters of training from scratch, without its norm bound.

    Args:
      config: of the run's training.

    Raises:
      InputError: unusable settings.
    """
    return FineTuning(
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        decay_every=config.decay_every,
        decay_factor=config.decay_factor,
        weight_decay=config.weight_decay,
        optimizer=SGD(momentum=config.momentum),
        augment=config.augment,
    )


def make_recipe(
    config: TrainingConfig, num_samples: int, model: Model, images: ArrayLike
) -> Recipe:
    """Return the recipe of training from scratch; FastClip holds ``max_norm``.

    Args:
      config: of the run's training.
      num_samples: to train on.
      model: the network.
      images: ``[N, ...]``; only the shape is read.

    Raises:
      InputError: unusable settings.
    """
    recipe = make_training(config).recipe(num_samples)
    if config.max_norm is None:
        return recipe
    bound = SpectralBound(max_norm=config.max_norm, clip_period=config.clip_period)
    clipping = fastclip(
        model.apply,
        images,
        max_norm=bound.max_norm,
        period=bound.clip_period,
        model_state=state_shapes(model),
    )
    return dataclasses.replace(recipe, tx=optax.chain(recipe.tx, clipping))


def registered_method(row: Mapping[str, Any]) -> UnlearnFn:
    """Return the registered method that a row names, with the optimizer it names.

    Args:
      row: of the configuration.

    Raises:
      InputError: an unknown method or optimizer.
    """
    if row["method"] not in methods.METHODS:
        raise InputError(
            f"unknown method {row['method']!r}; choose one of"
            f" {', '.join(sorted(methods.METHODS))}"
        )
    method = methods.METHODS[row["method"]]
    optimizer = row.get("optimizer")
    if optimizer is None:
        return method
    if isinstance(optimizer, str):
        if optimizer == optimizer_name(getattr(method, "optimizer", None)):
            return method  # with the method's own defaults
        if optimizer not in OPTIMIZERS:
            raise InputError(
                f"unknown optimizer {optimizer!r}: choose {' or '.join(OPTIMIZERS)}"
            )
        optimizer = OPTIMIZERS[optimizer]
    return values.replace(method, optimizer=optimizer)


def optimizer_name(optimizer: Any) -> str | None:
    """Return the name of an optimizer's kind, whatever its hyperparameters.

    Args:
      optimizer: None, or a value of any kind.

    Returns:
      A key of ``OPTIMIZERS``; None for other kinds.
    """
    kinds = {type(registered): name for name, registered in OPTIMIZERS.items()}
    return kinds.get(type(optimizer))


def options_of(row: Mapping[str, Any], training: TrainingConfig) -> dict[str, Any]:
    """Return a row's hyperparameters by name, before the row sets any.

    Args:
      row: of the configuration; its method and optimizer are read.
      training: of the run. Batch size, momentum, weight decay, augmentation and the
        norm bound follow it, unless the method's class gives its own default;
        retraining also follows its epochs and rates.

    Raises:
      InputError: an unknown method or optimizer.
    """
    method = registered_method(row)
    return {**values.fields_of(method), **_followed(method, training)}


def _followed(method: UnlearnFn, training: TrainingConfig) -> dict[str, Any]:
    """Return the hyperparameters that a method takes over from the run's training."""
    if not isinstance(method, FineTuning):
        return {}
    names = ["batch_size", "weight_decay", "augment", "max_norm", "clip_period"]
    if "momentum" in values.fields_of(method) and not _redeclares(method, "optimizer"):
        names.append("momentum")
    if isinstance(method, methods.Retrain):
        names += ["num_epochs", "learning_rate", "decay_every", "decay_factor"]
    return {
        name: getattr(training, name) for name in names if not _redeclares(method, name)
    }


def _redeclares(method: FineTuning, name: str) -> bool:
    """Return whether a method's class has a default of its own for a shared field."""
    bases = type(method).__mro__
    own_classes = bases[: bases.index(FineTuning)]
    return any(name in vars(cls).get("__annotations__", {}) for cls in own_classes)


def make_row(
    name: str,
    row: dict[str, Any],
    training: TrainingConfig,
    attack: AttackConfig | None = None,
) -> UnlearnFn:
    """Return the method of one row; hyperparameters it does not give are defaults.

    Args:
      name: of the row.
      row: see :class:`RunConfig`.
      training: of the run, see :func:`options_of`.
      attack: for methods that are given adversarial examples: how those were made.

    Raises:
      InputError: unknown method or hyperparameter.
    """
    if name in RESERVED_ROWS or not re.fullmatch(r"[A-Za-z0-9_.+-]+", name):
        raise InputError(
            f"a row cannot be called {name!r}: use letters, digits and _, and not"
            f" {', '.join(RESERVED_ROWS)}"
        )
    if "method" not in row:
        raise InputError(
            f"row {name!r} names no method; known are"
            f" {', '.join(sorted(methods.METHODS))}"
        )
    method = registered_method(row)
    options = options_of(row, training)
    if not isinstance(row.get("attack", ""), str):
        raise InputError(
            f"the attack of row {name!r} must be the name of one of the run's attacks"
        )
    if not isinstance(row.get("search", {}), dict):
        raise InputError(
            f"the search of row {name!r} must map hyperparameters to their values"
        )
    if row.get("filter") not in (None, *FILTERS):
        raise InputError(
            f"row {name!r} has the unknown filter {row['filter']!r}; choose one of"
            f" {', '.join(FILTERS)}"
        )
    if not isinstance(row.get("adaptive", False), bool):
        raise InputError(f"adaptive of row {name!r} must be True or False")
    if {"attack", "adaptive"} & set(row) and "attack" not in options:
        raise InputError(
            f"row {name!r}: method {row['method']!r} is given no adversarial examples,"
            " so it has no attack"
        )

    changes = {key: given for key, given in row.items() if key not in ROW_KEYS}
    changes.pop("optimizer", None)
    # a preset writes its optimizer's fields into the rows; another has no use for them
    for optimizer in OPTIMIZERS.values():
        for field in values.fields_of(optimizer):
            if field not in options:
                changes.pop(field, None)
    for key in changes:
        if key not in options:
            known = ", ".join(sorted(options)) or "none"
            raise InputError(
                f"method {row['method']!r} has no hyperparameter {key!r}; it has"
                f" {known}"
            )
    changes = {**_followed(method, training), **changes}
    max_norm = changes.pop("max_norm", None)
    period = changes.pop("clip_period", SpectralBound().clip_period)
    if "attack" in options and attack is not None:
        pgd = dataclasses.replace(attack, kind="pgd")
        changes["attack"] = resolve_attack(pgd).attack
    method = values.replace(method, **changes)
    if max_norm is not None:
        method = methods.constrained(method, max_norm, clip_period=period)
    return method


def attack_config(config: RunConfig, name: str) -> AttackConfig:
    """An attack of the run by name; the empty name is the run's own.

    Raises:
      InputError: unknown name or field.
    """
    if name and name not in config.attacks:
        raise InputError(
            f"unknown attack {name!r}: name one of the run's attacks"
            f" ({', '.join(config.attacks) or 'it has none'})"
        )
    changes = config.attacks[name] if name else {}
    known = {field.name for field in dataclasses.fields(AttackConfig)}
    if unknown := sorted(set(changes) - known):
        raise InputError(
            f"attacks.{name} has the unknown field {unknown[0]!r}; choose from"
            f" {', '.join(sorted(known))}"
        )
    if name and not re.fullmatch(r"[A-Za-z0-9_.+-]+", name):
        raise InputError(
            f"an attack cannot be called {name!r}: use letters, digits and _"
        )
    attack = dataclasses.replace(config.attack, **changes)
    where = f"attacks.{name}" if name else "attack"
    for key, hint in typing.get_type_hints(AttackConfig).items():
        value, choices = getattr(attack, key), typing.get_args(hint)
        if choices and value not in choices:
            raise InputError(
                f"{where}.{key} must be one of {', '.join(map(str, choices))}, got"
                f" {value!r}"
            )
        if not choices and not (
            isinstance(value, hint) or (hint is float and isinstance(value, int))
        ):
            raise InputError(
                f"{where}.{key} must be of type {hint.__name__}, got {value!r}"
            )
    numbers = (
        attack.epsilon_init,
        attack.step_ratio,
        attack.num_radii,
        attack.num_steps,
        attack.batch_size,
    )
    if not all(math.isfinite(value) and value > 0 for value in numbers):
        raise InputError(
            f"{where}.epsilon_init, step_ratio, num_radii, num_steps and batch_size"
            " must be positive and finite"
        )
    return attack


@dataclasses.dataclass(frozen=True)
class ResolvedAttack:
    """An attack of the run, as a value.

    Attributes:
      attack: finds adversarial examples.
      source: whose: of the original to unlearn from, or of the next one.
      failures: fraction of the forget samples that is made to fail.
      settings: the configuration, which names the attack in content keys: it does not
        depend on the machine, as the choice of a search does.
    """

    attack: PGD | LineSearch
    source: Literal["own", "other"]
    failures: float
    settings: AttackConfig

    @property
    def capped(self) -> Attack:
        """The attack with its failures: what makes the adversarial sets."""
        if not self.failures:
            return self.attack
        return CappedFailures(attack=self.attack, fraction=self.failures)

    @property
    def epsilon_init(self) -> float:
        """Smallest radius."""
        return self.settings.epsilon_init


@dataclasses.dataclass(frozen=True)
class ResolvedRow:
    """A row of the run: a method as a value, and the choices of the pipeline about it.

    Attributes:
      method: with every hyperparameter that the run's training gives it.
      name: of the method: as registered, else of its class.
      label: in tables.
      attack: name of the attack whose adversarial sets the method is given; None for
        methods that are given none.
      adaptive: find the adversarial set on the current model before every request.
      filter: name of the output filter in front of the unlearned models.
      settings: plain hyperparameters by name, for manifests and reports.
    """

    method: UnlearnFn
    name: str
    label: str
    attack: str | None = None
    adaptive: bool = False
    filter: str | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def resolve_attack(config: AttackConfig) -> ResolvedAttack:
    """Return the attack of a configuration.

    Args:
      config: ``search="auto"`` is the grid on accelerators, doubling on CPU.
    """
    if config.kind == "fast":
        line = LineSearch(norm=config.norm, epsilon_init=config.epsilon_init)
        return ResolvedAttack(line, config.source, config.failures, config)
    search = config.search
    if search == "auto":
        is_grid = config.restart and jax.default_backend() != "cpu"
        search = "grid" if is_grid else "doubling"
    sizes = {
        "epsilon_init": config.epsilon_init,
        "num_radii": config.num_radii,
        "batch_size": config.batch_size,
    }
    attack = PGD(
        num_steps=config.num_steps,
        step_ratio=config.step_ratio,
        norm=config.norm,
        keep=config.keep,
        search=Grid(**sizes)
        if search == "grid"
        else Doubling(**sizes, restart=config.restart),
    )
    return ResolvedAttack(attack, config.source, config.failures, config)


def make_objective(config: TrainingConfig, model: Model) -> LossFn | None:
    """The training objective of a configuration; None for plain cross-entropy.

    Raises:
      InputError: unknown objective or fields.
    """
    if config.objective not in OBJECTIVES:
        raise InputError(
            f"unknown training.objective {config.objective!r}; choose one of"
            f" {', '.join(OBJECTIVES)}"
        )
    if config.objective == "cross_entropy" and not config.objective_fields:
        return None
    try:
        return OBJECTIVES[config.objective](**config.objective_fields)(model)
    except TypeError as error:
        raise InputError(f"training.objective={config.objective!r}: {error}") from error


def build_model(config: RunConfig, splits: Splits) -> Model:
    """The configured network, its shapes tried on the data.

    Raises:
      InputError: unknown architecture or fields, or values it cannot be built with.
    """
    height, width, channels = splits.train.images.shape[1:]
    fields = {
        key: tuple(v) if isinstance(v, list) else v
        for key, v in config.model.fields.items()
    }
    knobs = {"conv": config.model.conv, "dtype": config.model.dtype, **fields}
    model = models.build(
        config.model.name, (height, width, channels), splits.num_classes, **knobs
    )
    try:
        if any(
            leaf.size == 0
            for leaf in jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0)))
        ):
            raise ValueError("a layer has no units")
        check_logits(model, splits)
    except (TypeError, ValueError, ArithmeticError) as error:
        reason = (
            str(error).strip().splitlines()[0]
            if str(error).strip()
            else type(error).__name__
        )
        raise InputError(
            f"model {config.model.name!r} cannot be built with model.fields"
            f" {config.model.fields} for images of {height}x{width}x{channels}:"
            f" {reason}"
        ) from error
    return model
