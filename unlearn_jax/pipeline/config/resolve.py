"""From a configuration to data, masks, recipes, networks, attacks and methods."""

import dataclasses
import os
import pathlib
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import jax
import numpy as np
import optax
from jax.typing import ArrayLike

from unlearn_jax import data, extensions, methods, models, targets, values
from unlearn_jax.attacks import (
    PGD,
    Attack,
    CappedFailures,
    Doubling,
    Grid,
    LineSearch,
    Minimal,
)
from unlearn_jax.data import Splits
from unlearn_jax.data.splits import class_numbers
from unlearn_jax.data.stand_in import SHAPES, stand_in
from unlearn_jax.filters import FILTERS, Filter
from unlearn_jax.methods import FineTuning
from unlearn_jax.methods.base import is_bound
from unlearn_jax.objectives import OBJECTIVES
from unlearn_jax.optimizers import OPTIMIZERS, SGD
from unlearn_jax.pipeline.config.checks import check_logits
from unlearn_jax.pipeline.config.schema import (
    HARD,
    Architecture,
    AttackConfig,
    DataConfig,
    ForgetConfig,
    ModelConfig,
    Row,
    RunConfig,
    TrainingConfig,
    takes_attack,
    to_json,
)
from unlearn_jax.spectral import fastclip, state_shapes
from unlearn_jax.train import Recipe
from unlearn_jax.types import InputError, Model, UnlearnFn


def banks_folder(config: RunConfig, workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Return where trained models are shared.

    Args:
      config: its ``bank`` if it names one.
      workdir: working directory; ``banks`` next to it otherwise.
    """
    if config.bank:
        return pathlib.Path(os.path.expanduser(config.bank)).resolve()
    return pathlib.Path(os.path.expanduser(workdir)).resolve().parent / "banks"


def load_data(config: DataConfig, *, by_shape: bool = False) -> Splits:
    """Return the data set of a configuration: its classes, split again if asked for.

    Args:
      config: of the data set.
      by_shape: black images in its place, where its shapes are known.

    Raises:
      InputError: the data set cannot be had.
    """
    if config.source == "digits":
        splits = data.load_digits(seed=config.seed)
    elif config.source == "tfds" and not config.name:
        raise InputError(
            "data.source=tfds needs data.name, such as --data.name=cifar10"
        )
    elif (by_shape or targets.current() is not None) and config.name in SHAPES:
        # programs are compiled for another machine, from shapes alone
        splits = stand_in(config.name, config.train_split)
    elif config.source == "tfds":
        splits = data.load_tfds(
            config.name,
            data_dir=config.path,
            train_split=config.train_split,
            test_split=config.test_split,
            image_key=config.image_key,
            label_key=config.label_key,
            size=config.size,
        )
    elif config.path is None:
        raise InputError(f"data.source={config.source} needs data.path")
    elif config.source == "npz":
        splits = data.load_npz(config.path)
    else:
        splits = data.load_folder(config.path, size=config.size)
    if config.classes:
        splits = data.select_classes(splits, config.classes)
    if config.num_train is None or config.num_test is None:
        return splits
    return data.resplit(
        splits,
        num_train=config.num_train,
        num_test=config.num_test,
        seed=config.seed,
        balanced=config.balanced,
    )


def number_classes(config: RunConfig, class_names: Sequence[str]) -> RunConfig:
    """Return a configuration whose classes to forget are numbers.

    Args:
      config: may give classes by name.
      class_names: ``[C]`` of the data set.

    Raises:
      InputError: a name that no class has.
    """
    forget = class_numbers(config.forget.classes, class_names)
    tuning = class_numbers(config.tuning.classes, class_names)
    return dataclasses.replace(
        config,
        forget=dataclasses.replace(config.forget, classes=tuple(forget)),
        tuning=dataclasses.replace(config.tuning, classes=tuple(tuning)),
    )


def forget_masks(
    config: ForgetConfig,
    labels: np.ndarray,
    hardness: Callable[[str], np.ndarray] | None = None,
    avoid: np.ndarray | None = None,
) -> tuple[np.ndarray, list[int]]:
    """Return the forget sets of a configuration.

    Args:
      config: of the forget sets, its classes by number.
      labels: ``[N]`` of the training set.
      hardness: ``kind -> [N]`` ranks of the training samples, the hardest first, for
        the hard kinds.
      avoid: ``[N]`` bool, samples that random sets must not hold; read only if enough
        others are left.

    Returns:
      ``[S, N]`` bool, and a name for each: its seed, or its class (0 for a file or the
      hardest samples).

    Raises:
      InputError: nothing or everything to forget, or unusable settings.
    """
    num_train = len(labels)
    if config.kind == "class":
        if not config.classes:
            raise InputError(
                "forget.kind=class needs forget.classes, such as --forget.classes 0 3"
            )
        classes = class_numbers(config.classes, ())
        if len(set(classes)) < len(classes):
            repeated = ", ".join(map(str, classes))
            raise InputError(f"the classes to forget repeat a class: {repeated}")
        if config.together:
            return data.forget_class(labels, classes)[None], [classes[0]]
        masks = [data.forget_class(labels, [c]) for c in classes]
        return np.stack(masks), classes
    if config.kind == "file":
        if config.path is None:
            raise InputError(
                "forget.kind=file needs forget.path, a file of indices or a mask"
            )
        return data.forget_file(config.path, num_train)[None], [0]

    fraction = None if config.count is not None else config.fraction
    if config.kind in HARD:
        assert hardness is not None
        drawn = data.forget_random(
            num_train, fraction=fraction, count=config.count, seed=0
        )
        hardest = hardness(config.kind)[: drawn.sum()]
        return data.forget_indices(hardest, num_train)[None], [0]
    if not config.seeds or len(set(config.seeds)) < len(config.seeds):
        raise InputError(
            "forget.seeds must be one or more different seeds, one per forget set"
        )
    masks = [
        data.forget_random(
            num_train,
            fraction=fraction,
            count=config.count,
            seed=seed,
            generator=config.generator,
        )
        for seed in config.seeds
    ]
    size = int(masks[0].sum())
    if avoid is not None and (~avoid).sum() >= size:
        others = np.flatnonzero(~avoid)
        masks = []
        for seed in config.seeds:
            chosen = np.random.default_rng(seed).choice(others, size, replace=False)
            masks.append(data.forget_indices(chosen, num_train))
    return np.stack(masks), list(config.seeds)


def request_masks(forget: np.ndarray, names: list[int], count: int) -> np.ndarray:
    """Split every forget set into requests of equal size, at random by its seed.

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
        shuffled = np.random.default_rng([names[s], count]).permutation(members)
        for k, rows in enumerate(shuffled.reshape(count, -1)):
            masks[s, k, rows] = True
    return masks


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
    options = FineTuning(
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        decay_every=config.decay_every,
        decay_factor=config.decay_factor,
        weight_decay=config.weight_decay,
        optimizer=SGD(momentum=config.momentum),
        augment=config.augment,
    )
    recipe = options.recipe(num_samples)
    if config.max_norm is None:
        return recipe
    clipping = fastclip(
        model.apply,
        images,
        max_norm=config.max_norm,
        period=config.clip_period,
        model_state=state_shapes(model),
    )
    return dataclasses.replace(recipe, tx=optax.chain(recipe.tx, clipping))


@dataclasses.dataclass(frozen=True)
class ResolvedAttack:
    """An attack of the run, as a value.

    Attributes:
      attack: finds adversarial examples.
      source: whose: of the original to unlearn from, or of the next one.
      failures: fraction of the forget samples that is made to fail.
      settings: plain values that name the attack in content keys: they do not depend on
        the machine, as the choice of a search does.
    """

    attack: PGD | LineSearch
    source: Literal["own", "other"]
    failures: float
    settings: Any

    @property
    def capped(self) -> Attack:
        """The attack with its failures: what makes the adversarial sets."""
        if not self.failures:
            return self.attack
        return CappedFailures(attack=self.attack, fraction=self.failures)


def resolve_attack(config: AttackConfig) -> ResolvedAttack:
    """Return the attack of a configuration.

    Args:
      config: ``search="auto"`` is the grid on accelerators, doubling on CPU.
    """
    attack: PGD | LineSearch = _descent(config)
    if config.kind == "fast":
        attack = LineSearch(norm=config.norm, epsilon_init=config.epsilon_init)
    return ResolvedAttack(attack, config.source, config.failures, to_json(config))


def _descent(config: AttackConfig) -> PGD:
    name = config.search
    if name == "auto":
        is_grid = config.restart and targets.platform() != "cpu"
        name = "grid" if is_grid else "doubling"
    sizes = {
        "epsilon_init": config.epsilon_init,
        "num_radii": config.num_radii,
        "batch_size": config.batch_size,
    }
    if name == "minimal":
        search = Minimal(**sizes, depth=config.depth)
    elif name == "grid":
        search = Grid(**sizes)
    else:
        search = Doubling(**sizes, restart=config.restart)
    return PGD(
        num_steps=config.num_steps,
        step_ratio=config.step_ratio,
        norm=config.norm,
        keep=config.keep,
        search=search,
    )


@dataclasses.dataclass(frozen=True)
class ResolvedRow:
    """A row of the run: a method as a value, and the choices of the pipeline about it.

    Attributes:
      method: with every hyperparameter that the run gives it.
      name: of the method: as registered, else of its class.
      label: in tables.
      attack: name of the attack whose adversarial sets the method is given; None for
        methods that are given none.
      adaptive: find the adversarial set on the current model before every request.
      filter: output filter behind the unlearned models.
      space: hyperparameters to tune, without those that the row sets.
      baseline: row to compare the row with; none if empty.
    """

    method: UnlearnFn
    name: str
    label: str
    attack: str | None = None
    adaptive: bool = False
    filter: Filter | None = None
    space: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    baseline: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Plain hyperparameters by name, for manifests and reports."""
        given = {"adaptive": self.adaptive} if self.adaptive else {}
        given |= {"attack": self.attack} if self.attack else {}
        given |= {"filter": self.filter_name} if self.filter else {}
        plain = {
            name: held
            for name, held in options_of(self.method).items()
            if isinstance(held, bool | int | float | str)
        }
        return plain | given

    @property
    def filter_name(self) -> str | None:
        """Name of the filter: as registered, else of its class."""
        if self.filter is None:
            return None
        names = [name for name, known in FILTERS.items() if known == self.filter]
        return names[0] if names else type(self.filter).__name__

    def replace(self, **changes: Any) -> "ResolvedRow":
        """Return the row with other hyperparameters.

        Args:
          **changes: of the method, by name; may be traced.
        """
        return dataclasses.replace(self, method=values.replace(self.method, **changes))


def options_of(method: UnlearnFn) -> dict[str, Any]:
    """Return a method's hyperparameters by name, without those of its attack.

    Args:
      method: a value; a function has none.
    """
    if not values.is_value(method):
        return {}
    options = values.fields_of(method)
    attack = options.pop("attack", None)
    for name in values.fields_of(attack) if values.is_value(attack) else ():
        if not hasattr(method, name):
            options.pop(name, None)
    return options


def method_name(method: UnlearnFn) -> str:
    """Return the name of a method in ``METHODS``, whatever its hyperparameters.

    Args:
      method: a value.

    Returns:
      The name of its class for methods that are not registered, of the method behind
      an output filter for a filtered one.
    """
    method = _unfiltered(method)
    kind = _kind(method)
    for name, registered in methods.METHODS.items():
        if _kind(registered) == kind:
            return name
    return getattr(method, "__name__", type(method).__name__)


def _unfiltered(method: UnlearnFn) -> UnlearnFn:
    """Return a method without its output filter: filters do not change models."""
    return method.method if isinstance(method, methods.Filtered) else method


def _kind(method: UnlearnFn) -> tuple[type, ...]:
    """Return the types that tell methods apart: of a method and of its masks."""
    constraints = getattr(method, "constraints", ())
    return type(method), *(type(c) for c in constraints if not is_bound(c))


def followed(row: Row) -> tuple[str, ...]:
    """Return the fields of a row's method that the run gives.

    Args:
      row: ``follow`` names them; None stands for those at the default that fine-tuning
        methods share, unless the method's class has a default of its own.
    """
    if row.follow is not None:
        return row.follow
    method = _unfiltered(row.method)
    names = []
    if takes_attack(method) and values.fields_of(method)["attack"] is None:
        names.append("attack")
    if not isinstance(method, FineTuning):
        return tuple(names)
    wanted = ["batch_size", "weight_decay", "augment"]
    if isinstance(method, methods.Retrain):
        wanted += ["num_epochs", "learning_rate", "decay_every", "decay_factor"]
    shared = FineTuning()
    names += [
        name
        for name in wanted
        if not _redeclares(method, name)
        and getattr(method, name) == getattr(shared, name)
    ]
    optimizer = method.optimizer
    has_default = isinstance(optimizer, SGD) and optimizer.momentum == SGD().momentum
    if has_default and not _redeclares(method, "optimizer"):
        names.append("momentum")
    if not any(is_bound(constraint) for constraint in method.constraints):
        names.append("max_norm")
    return tuple(names)


def _redeclares(method: FineTuning, name: str) -> bool:
    """Return whether a method's class has a default of its own for a shared field."""
    bases = type(method).__mro__
    own_classes = bases[: bases.index(FineTuning)]
    return any(name in vars(cls).get("__annotations__", {}) for cls in own_classes)


def complete(config: RunConfig) -> RunConfig:
    """Write into every row what the run gives its method, to be shown and overridden.

    Args:
      config: of a run.

    Returns:
      The same run: the rows still follow the run, by name.
    """
    rows = {}
    for name, row in config.rows.items():
        space = row.search
        if space is None and config.tuning.trials:
            space = methods.SPACES.get(method_name(row.method), {})
        rows[name] = dataclasses.replace(
            row,
            method=_follow(config, row),
            label=row.label or name,
            search=space,
            follow=followed(row),
        )
    return dataclasses.replace(config, rows=rows)


def _follow(config: RunConfig, row: Row) -> UnlearnFn:
    """Return a row's method with what the run gives it, but for a norm bound."""
    changes: dict[str, Any] = {}
    for name in followed(row):
        if name == "attack":
            changes[name] = _descent(config.attack_named(row.attack))
        elif name != "max_norm":
            changes[name] = getattr(config.training, name)
    return values.replace(row.method, **changes) if changes else row.method


def _method_named(name: str) -> Any:
    """Return a method by its name, one of another package too; None if there is none.

    Raises:
      InputError: a name of another package that cannot be imported or is no method.
    """
    if name in methods.METHODS:
        return methods.METHODS[name]
    if ":" not in name and name not in extensions.names("methods"):
        return None
    method = extensions.find("methods", name)
    if not values.is_value(method) or not callable(method):
        raise InputError(
            f"{name} must be a method with its hyperparameters, a frozen dataclass"
            f" (unlearn_jax.values.value) that is called (key, problem), got {method!r}"
        )
    return method


def _method_names() -> str:
    return ", ".join([*methods.METHODS, *extensions.names("methods")])


def choose_values(
    config: RunConfig, arguments: Sequence[str]
) -> tuple[RunConfig, list[str]]:
    """Put registered values in the place of a configuration's, by their names.

    Args:
      config: completed.
      arguments: of a command line, such as ``--model.name=resnet``,
        ``--training.objective=trades``, ``--rows.amun.method=salun``,
        ``--rows.amun.method.optimizer=adam`` or ``--rows.mask.method.filter=mpru``; the
        values have the defaults that they are registered with. Another network has its
        own fields. A method for a row that the configuration does not have adds it; it
        may be another package's, by ``package.module:attribute`` or entry point.

    Returns:
      The configuration, completed, and the other arguments.

    Raises:
      InputError: a name that is not registered.

    Warns:
      UserWarning: a row's own search does not fit the method that it is given.
    """
    registries: dict[str, tuple[str, Mapping[str, Any]]] = {
        "__training.objective": ("objective", OBJECTIVES),
        "__model.name": ("model", {name: name for name in get_args(Architecture)}),
    }
    config = _with_rows(config, arguments)
    for key in config.rows:
        prefix = _prefix(key)
        registries[f"{prefix}.method"] = ("method", methods.METHODS)
        registries[f"{prefix}.method.optimizer"] = ("optimizer", OPTIMIZERS)
        registries[f"{prefix}.method.filter"] = ("filter", FILTERS)
    chosen: dict[str, Any] = {}
    others = []
    words = iter(arguments)
    for word in words:
        flag, is_joined, name = word.partition("=")
        flag = flag.replace("-", "_")
        if flag not in registries:
            others.append(word)
            continue
        name = name if is_joined else next(words, "")
        kind, registry = registries[flag]
        value = _method_named(name) if kind == "method" else registry.get(name)
        if value is None:
            known = _method_names() if kind == "method" else ", ".join(registry)
            raise InputError(f"unknown {kind} {name!r}; choose one of {known}")
        chosen[flag] = value
    if not chosen:
        return config, others
    if "__model.name" in chosen:
        network = ModelConfig(
            name=chosen["__model.name"],
            conv=config.model.conv,
            dtype=config.model.dtype,
        )
        if network.name != config.model.name:
            config = dataclasses.replace(config, model=network)
    training = config.training
    if "__training.objective" in chosen:
        objective = chosen["__training.objective"]()
        training = dataclasses.replace(training, objective=objective)
    rows = dict(config.rows)
    for key, row in config.rows.items():
        flag = f"{_prefix(key)}.method"
        if flag in chosen:
            rows[key] = _with_method(key, row, chosen[flag])
    config = complete(dataclasses.replace(config, training=training, rows=rows))
    rows = dict(config.rows)
    for key, row in config.rows.items():
        for field in ("optimizer", "filter"):
            flag = f"{_prefix(key)}.method.{field}"
            if flag not in chosen:
                continue
            if field not in values.fields_of(row.method):
                raise InputError(f"the method of row {key!r} has no {field}")
            method = values.replace(row.method, **{field: chosen[flag]})
            row = dataclasses.replace(row, method=method)
            if field == "optimizer":
                others_followed = (name for name in followed(row) if name != "momentum")
                row = dataclasses.replace(row, follow=tuple(others_followed))
        rows[key] = row
    return dataclasses.replace(config, rows=rows), others


def _with_rows(config: RunConfig, arguments: Sequence[str]) -> RunConfig:
    """Return a configuration with the rows that arguments give a method."""
    rows = dict(config.rows)
    known = [_prefix(key) for key in rows]
    for position, word in enumerate(arguments):
        match = re.fullmatch(r"--rows\.([^.=]+)\.method(?:=(.*))?", word)
        if match is None or _prefix(match[1]) in known:
            continue
        name = match[2]
        if name is None:
            name = next(iter(arguments[position + 1 : position + 2]), "")
        method = _method_named(name)
        if method is None:
            raise InputError(
                f"the run has no row {match[1]!r}, and no method is called {name!r}:"
                f" rows are {', '.join(rows)}, methods {_method_names()}"
            )
        rows[match[1]] = Row(method=method, label=match[1])
        known.append(_prefix(match[1]))
    if len(rows) == len(config.rows):
        return config
    return complete(dataclasses.replace(config, rows=rows))


def _prefix(key: str) -> str:
    """Return how the options of a row begin, as arguments are compared."""
    return f"__rows.{key}".replace("-", "_")


def _with_method(key: str, row: Row, method: UnlearnFn) -> Row:
    """Return a row with another method; a search of its own stays where it fits."""
    name = method_name(method)
    search = row.search
    if search is not None:
        options = options_of(method)
        misfits = [
            option
            for option, levels in search.items()
            if option not in options
            or (isinstance(levels, Mapping) and not values.is_traceable(method, option))
        ]
        is_own = search != methods.SPACES.get(method_name(row.method), {})
        if misfits and is_own:
            warnings.warn(
                f"row {key!r} searches {misfits[0]!r}, which {name!r} cannot: that"
                " method's own hyperparameters are searched",
                stacklevel=3,
            )
        if misfits or not is_own:
            search = None
    return dataclasses.replace(
        row, method=method, label=name, search=search, follow=None
    )


def unfollow(config: RunConfig, arguments: Sequence[str]) -> RunConfig:
    """Let rows keep the fields that a command line has set, also to the usual value.

    They neither follow the run nor are searched.

    Args:
      config: read from the command line.
      arguments: of it, such as ``--rows.amun.method.batch-size=32``.
    """
    flags = [word.partition("=")[0].replace("-", "_") for word in arguments]
    rows = {}
    for key, row in config.rows.items():
        prefix = f"{_prefix(key)}.method."
        # a filtered method has the fields of the method that it holds
        given = {
            flag.removeprefix(prefix).removeprefix("method.")
            for flag in flags
            if flag.startswith(prefix)
        }
        fields = {path.split(".")[0] for path in given}
        fields |= {"momentum"} if "optimizer" in fields else set()
        follow = tuple(field for field in followed(row) if field not in fields)
        space = row.search
        if space is None:
            space = methods.SPACES.get(method_name(row.method), {})
        # a search names nested fields by their last part
        options = given | {path.split(".")[-1] for path in given}
        if options & set(space):
            left = {name: space[name] for name in space if name not in options}
            row = dataclasses.replace(row, search=left)
        rows[key] = dataclasses.replace(row, follow=follow)
    return dataclasses.replace(config, rows=rows)


def resolve_rows(
    config: RunConfig,
) -> tuple[dict[str, ResolvedRow], dict[str, ResolvedAttack]]:
    """Return the rows to run, and the attacks that they need, by name.

    Args:
      config: of the run.

    Raises:
      InputError: a hyperparameter that a method refuses.
    """
    rows = {}
    attacks = {}
    training = config.training
    for name in config.only or config.rows:
        row = config.rows[name]
        method = _follow(config, row)
        chosen = method.filter if isinstance(method, methods.Filtered) else None
        method = _unfiltered(method)
        attack = None
        if takes_attack(method):
            attack = row.attack if "attack" in followed(row) else name
            if "attack" in followed(row):
                attacks[attack] = resolve_attack(config.attack_named(attack))
            else:
                pgd = values.fields_of(method)["attack"] or PGD()
                method = values.replace(method, attack=pgd)
                attacks[attack] = ResolvedAttack(pgd, "own", 0.0, to_json(pgd))
        space = _space(config, row, method)
        if "max_norm" in followed(row) and training.max_norm is not None:
            method = methods.constrained(
                method, training.max_norm, clip_period=training.clip_period
            )
        rows[name] = ResolvedRow(
            method,
            method_name(method),
            row.label or name,
            attack,
            row.adaptive,
            chosen,
            space,
            row.baseline,
        )
    return rows, {name: attacks[name] for name in sorted(attacks)}


def _space(config: RunConfig, row: Row, method: UnlearnFn) -> dict[str, Any]:
    """Return what a row searches: nothing that it gives another value than usual.

    A range without a published value starts at the row's own.
    """
    name = method_name(method)
    space = methods.SPACES.get(name, {}) if row.search is None else row.search
    default = methods.METHODS.get(name)
    given = options_of(method)
    usual = given
    if default is not None:
        usual = options_of(_follow(config, Row(method=default)))
    searched = {}
    for option, candidates in space.items():
        if option in given and given[option] != usual[option]:
            continue
        if isinstance(candidates, Mapping) and option in given:
            candidates = {"published": given[option], **candidates}
        searched[option] = candidates
    return searched


def plain_model(config: ModelConfig) -> dict[str, Any]:
    """Return a network's configuration as keys of artifacts hold it.

    The form of convolution is named where it is oneDNN's, whose bits are its own, so
    that models of two forms never stand for one another. Options that came later are
    left out where they are not given, so that models of before are found.
    """
    plain = to_json(config)
    for name in ("stem", "block", "remat"):
        if plain[name] is None:
            del plain[name]
    if config.name != "mlp" and models.convolution_form(config.conv) == "onednn":
        plain["conv"] = "onednn"
    return plain


def with_convolutions(devices: str, network: Mapping[str, Any]) -> str:
    """Return devices in words, with oneDNN's convolutions where a network has them.

    Args:
      devices: in words.
      network: of :func:`plain_model`.
    """
    if network.get("conv") == "onednn":
        devices += ", oneDNN's convolutions"
    return devices


def build_model(config: ModelConfig, splits: Splits) -> Model:
    """Return the configured network, its shapes tried on the data.

    Args:
      config: of the network.
      splits: give the shape of the images and the classes.

    Raises:
      InputError: unknown fields, or values it cannot be built with.
    """
    height, width, channels = splits.train.images.shape[1:]
    options = config.options()
    shape = (height, width, channels)
    model = models.build(config.name, shape, splits.num_classes, **options)
    try:
        sizes = jax.eval_shape(model.init, jax.random.key(0))
        if any(leaf.size == 0 for leaf in jax.tree.leaves(sizes)):
            raise ValueError("a layer has no units")
        check_logits(model, splits)
    except (TypeError, ValueError, ArithmeticError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"model {config.name!r} cannot be built with {options} for images of"
            f" {height}x{width}x{channels}: {lines[0]}"
        ) from error
    return model
