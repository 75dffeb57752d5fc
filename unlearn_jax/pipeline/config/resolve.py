"""Data, recipes, attacks, methods and networks of a configuration."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import optax
from jax.typing import ArrayLike

from unlearn_jax import audit, data, extensions, methods, models, targets, values
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
from unlearn_jax.data.stand_in import SHAPES, stand_in
from unlearn_jax.filters import FILTERS, Filter
from unlearn_jax.methods import FineTuning
from unlearn_jax.methods.base import is_bound
from unlearn_jax.optimizers import SGD
from unlearn_jax.pipeline.config.checks import check_logits
from unlearn_jax.pipeline.config.schema import (
    AttackConfig,
    DataConfig,
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
    """Return the folder of the trained models that runs share.

    Args:
      config: configuration of the run; its ``bank`` is the folder, if set.
      workdir: working directory; the folder is ``banks`` next to it otherwise.
    """
    if config.bank:
        return pathlib.Path(os.path.expanduser(config.bank)).resolve()
    return pathlib.Path(os.path.expanduser(workdir)).resolve().parent / "banks"


def load_data(config: DataConfig, *, by_shape: bool = False) -> Splits:
    """Return the configured data set, with its chosen classes and split.

    Args:
      config: configuration of the data set.
      by_shape: whether to return black images instead, if the data set's shapes are
        known.

    Raises:
      InputError: the data set is not available.
    """
    if config.source == "digits":
        splits = data.load_digits(seed=config.seed)
    elif config.source == "tfds" and not config.name:
        raise InputError(
            "data.source=tfds needs data.name, such as --data.name=cifar10"
        )
    elif (by_shape or targets.current() is not None) and config.name in SHAPES:
        # programs are compiled for another machine, from shapes alone
        splits = stand_in(
            config.name, config.train_split, config.test_split, config.size
        )
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


def make_recipe(
    config: TrainingConfig, num_samples: int, model: Model, images: ArrayLike
) -> Recipe:
    """Return the recipe of training from scratch; FastClip enforces ``max_norm``.

    Args:
      config: configuration of the run's training.
      num_samples: number of training samples.
      model: the network.
      images: ``[N, ...]`` images; only their shape is read.

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
    """Attack of a run, as a value.

    Attributes:
      attack: attack that finds the adversarial examples.
      source: model to attack: ``own`` is the original to unlearn from, ``other`` the
        next original.
      failures: fraction of the forget samples for which the attack is made to fail.
      settings: plain values that identify the attack in content keys. Unlike the choice
        of a search, they do not depend on the machine.
    """

    attack: PGD | LineSearch
    source: Literal["own", "other"]
    failures: float
    settings: Any

    @property
    def capped(self) -> Attack:
        """The attack with its failures, which makes the adversarial sets."""
        if not self.failures:
            return self.attack
        return CappedFailures(attack=self.attack, fraction=self.failures)


def resolve_attack(config: AttackConfig) -> ResolvedAttack:
    """Return the attack of a configuration.

    Args:
      config: configuration of the attack; ``search="auto"`` is the grid on
        accelerators (if ``restart`` is True), and doubling otherwise.
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
    """Row of a run: a method as a value, with the pipeline's options for it.

    Attributes:
      method: method with every hyperparameter that the run gives it.
      name: registered name of the method, or the name of its class.
      label: row's label in tables.
      attack: name of the attack whose adversarial sets the method takes; None if it
        takes none.
      adaptive: whether the adversarial set is recomputed on the current model before
        every request.
      filter: output filter of the unlearned models; None for no filter.
      space: hyperparameters to tune, without those that the row sets.
      baseline: name of the row to compare this row with; none if empty.
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
        """Registered name of the filter, or the name of its class."""
        if self.filter is None:
            return None
        names = [name for name, known in FILTERS.items() if known == self.filter]
        return names[0] if names else type(self.filter).__name__

    def replace(self, **changes: Any) -> "ResolvedRow":
        """Return the row with other hyperparameters.

        Args:
          **changes: new hyperparameters by name; they may be traced.
        """
        return dataclasses.replace(self, method=values.replace(self.method, **changes))


def options_of(method: UnlearnFn) -> dict[str, Any]:
    """Return a method's hyperparameters by name, without those of its attack.

    Args:
      method: method; a plain function has no hyperparameters.
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
      method: method; if it has an output filter, the method without the filter counts.

    Returns:
      The registered name, or the name of the class (or function) if the method is not
      registered.
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
    """Return the types of a method and of its masks, which identify the method."""
    constraints = getattr(method, "constraints", ())
    return type(method), *(type(c) for c in constraints if not is_bound(c))


def followed(row: Row) -> tuple[str, ...]:
    """Return the fields of a row's method that the run gives.

    Args:
      row: row whose ``follow`` names the fields. None stands for the fields that hold
        the default shared by fine-tuning methods, unless the method's class has a
        default of its own.
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
    """Write the run's values into the fields of every row's method that follow them.

    The fields can then be shown and overridden.

    Args:
      config: configuration of a run.

    Returns:
      An equivalent configuration: the rows list the fields that follow the run.
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
    """Return a row's method with the run's values, except for ``max_norm``."""
    changes: dict[str, Any] = {}
    for name in followed(row):
        if name == "attack":
            changes[name] = _descent(config.attack_named(row.attack))
        elif name != "max_norm":
            changes[name] = getattr(config.training, name)
    return values.replace(row.method, **changes) if changes else row.method


def resolve_rows(
    config: RunConfig,
) -> tuple[dict[str, ResolvedRow], dict[str, ResolvedAttack]]:
    """Return the rows to run, and the attacks that they need, by name.

    An attack that a row's method sets itself has the row's name, or ``own-ROW`` if
    other rows follow an attack of the run with that name.

    Args:
      config: configuration of the run.

    Raises:
      InputError: a method rejects a hyperparameter.
    """
    rows = {}
    attacks = {}
    training = config.training
    chosen_rows = [config.rows[name] for name in config.only or config.rows]
    taken = {row.attack for row in chosen_rows if "attack" in followed(row)}
    for name in config.only or config.rows:
        row = config.rows[name]
        method = _follow(config, row)
        chosen = method.filter if isinstance(method, methods.Filtered) else None
        method = _unfiltered(method)
        attack = None
        if takes_attack(method):
            if "attack" in followed(row):
                attack = row.attack
                attacks[attack] = resolve_attack(config.attack_named(attack))
            else:
                attack = name
                while attack in taken:
                    attack = f"own-{attack}"
                taken.add(attack)
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
    """Return a row's search space, without hyperparameters at other than usual values.

    A range without a published value starts at the row's own value.
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
    """Return a network's configuration in the form used for keys of artifacts.

    ``conv`` is ``onednn`` wherever oneDNN's convolutions are used: their results differ
    in their bits, so that models of the two forms must not be confused. Newer options
    are left out if they are not set, so that older stored models are still found.
    """
    plain = to_json(config)
    for name in ("stem", "block", "remat"):
        if plain[name] is None:
            del plain[name]
    if config.name != "mlp" and models.convolution_form(config.conv) == "onednn":
        plain["conv"] = "onednn"
    return plain


def with_convolutions(devices: str, network: Mapping[str, Any]) -> str:
    """Return a description of devices, with oneDNN's convolutions if they are used.

    Args:
      devices: description of the devices.
      network: network's configuration, as :func:`plain_model` returns it.
    """
    if network.get("conv") == "onednn":
        devices += ", oneDNN's convolutions"
    return devices


def outside_signal(name: str) -> Callable[..., Any] | None:
    """Return a membership signal from outside of the package; None for one inside.

    Raises:
      InputError: the signal cannot be imported.
    """
    return None if name in audit.SIGNALS else extensions.find("signals", name)


def build_model(config: ModelConfig, splits: Splits) -> Model:
    """Return the configured network after a check of its shapes on the data.

    Args:
      config: configuration of the network.
      splits: data set, with the shape of the images and the classes.

    Raises:
      InputError: unknown fields, or values with which the network cannot be built.
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
        if isinstance(error, ZeroDivisionError):
            lines = ["a layer has no units"]
        raise InputError(
            f"model {config.name!r} cannot be built with {options} for images of"
            f" {height}x{width}x{channels}: {lines[0]}"
        ) from error
    return model
