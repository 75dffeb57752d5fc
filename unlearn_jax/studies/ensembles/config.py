"""Settings of the studies of robust ensembles, and the names of their arms."""

import dataclasses
import re
from typing import Any

from unlearn_jax.ensembles import Lotos, Trs
from unlearn_jax.objectives import CrossEntropy
from unlearn_jax.pipeline.config.schema import DataConfig, ModelConfig, TrainingConfig
from unlearn_jax.types import InputError

TERMS = ("clip", "lotos", "trs", "adversarial")


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """FastClip of the arms with ``clip``: last in the chain, and again at the end."""

    max_norm: float = 1.0
    """Target of every layer's norm."""
    period: int = 100
    """Steps between clips."""
    num_vectors: int = 4
    """Directions per layer and clip."""
    power_iters: int = 5
    """Iterations of PowerQR around a clip."""
    num_rounds: int = 1
    """Rounds per clip at most."""


@dataclasses.dataclass(frozen=True)
class AttackPlan:
    """Attacks on the ensembles: L-infinity in [0, 1], radii in units of 1/255."""

    radii: tuple[float, ...] = (2, 4, 8)
    """Radii of PGD, ascending."""
    main_radius: float = 4
    """Radius of the tables; chosen on the pilot's seed, where there is one."""
    min_transfer: float = 0.6
    """Conditional transfer between the pilot's members at the chosen radius: the least
    such radius."""
    num_steps: int = 50
    """Steps of PGD, a tenth of the radius each, from a random start."""
    num_samples: int = 500
    """Test images attacked."""
    strong_samples: int = 200
    """First test images, which are attacked by APGD with several losses too."""
    strong_steps: int = 50
    """Steps of each APGD attack."""
    strong_targets: int = 3
    """Targeted APGD attacks."""
    every_epochs: int = 0
    """Epochs between two measurements of transfer in training; 0 for none."""
    epoch_samples: int = 200
    """First test images of these."""
    epoch_steps: int = 20
    """Steps of PGD of these."""


@dataclasses.dataclass(frozen=True)
class ControlConfig:
    """Trained ensembles, clipped and then moved by the LOTOS penalty alone.

    Does transfer move at all as the penalty goes to 0? Gradient descent on the penalty,
    without the members' own losses.
    """

    arms: tuple[str, ...] = ()
    """Arms to start from; none for no control."""
    num_steps: int = 200
    """Steps of gradient descent."""
    every: int = 50
    """Steps between two measurements."""
    learning_rate: float = 0.05
    """Of the descent."""


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """Arms of ensembles, trained for several seeds and attacked."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One ensemble per arm, and fresh surrogates, per seed."""
    arms: tuple[str, ...] = ("orig", "clip", "clip+lotos")
    """``orig``, or terms in the order of :data:`TERMS`, joined by +; a number behind
    ``lotos`` is its weight: ``clip+lotos0.3``."""
    num_members: int = 3
    """Members of an ensemble."""
    num_surrogates: int = 3
    """Independently trained plain models, the source of the black-box attacks."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Images."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    """Architecture of members and surrogates."""
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    """Recipe of every member of every arm, with cross-entropy."""
    clip: ClipConfig = dataclasses.field(default_factory=ClipConfig)
    """Clipping of arms with ``clip``."""
    lotos: Lotos = dataclasses.field(default_factory=Lotos)
    """LOTOS of arms with ``lotos``; published: a ``max_length`` of 0.8 max_norm."""
    trs: Trs = dataclasses.field(default_factory=Trs)
    """TRS of arms with ``trs``."""
    adversarial: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Options of :class:`unlearn_jax.objectives.AdversarialTraining`."""
    attack: AttackPlan = dataclasses.field(default_factory=AttackPlan)
    """Attacks."""
    pilot_seed: int | None = None
    """Seed of the plain ensemble that chooses ``attack.main_radius``; none of the
    reported ones."""
    control: ControlConfig = dataclasses.field(default_factory=ControlConfig)
    """The penalty alone."""
    num_bootstrap: int = 500
    """Replicates of the intervals: test samples and seeds resampled."""
    overhead_steps: int = 20
    """Steps of each of nine timings of clipping and LOTOS; 0 for none."""


def terms_of(arm: str) -> tuple[str, ...]:
    """Return the terms of an arm by its name; none for ``orig``.

    Raises:
      InputError: an unknown term, one given twice, or another order.

    >>> terms_of("clip+lotos0.3"), terms_of("orig")
    (('clip', 'lotos'), ())
    """
    parts = () if arm == "orig" else tuple(arm.split("+"))
    terms = tuple("lotos" if _weight(part) is not None else part for part in parts)
    if tuple(term for term in TERMS if term in terms) != terms:
        raise InputError(
            f"unknown arm {arm!r}: write orig, or some of {', '.join(TERMS)} in this"
            " order, joined by +"
        )
    return terms


def lotos_of(config: EnsembleConfig, arm: str) -> Lotos:
    """Return the LOTOS term of an arm: the run's, or with the weight that it names."""
    weights = [_weight(part) for part in arm.split("+")]
    given = [weight for weight in weights if weight is not None]
    return dataclasses.replace(config.lotos, weight=given[0]) if given else config.lotos


def _weight(part: str) -> float | None:
    """Return the number behind ``lotos``; None where there is none."""
    match = re.fullmatch(r"lotos(\d+(?:\.\d+)?)", part)
    return float(match[1]) if match else None


def check(config: EnsembleConfig) -> None:
    """Raise on settings that no study could use."""
    plan = config.attack
    if any(len(set(each)) < len(each) for each in (config.seeds, config.arms)):
        raise InputError("seeds and arms must each be different from one another")
    is_small = config.num_members < 2 or config.num_surrogates < 1
    if not config.seeds or not config.arms or is_small:
        raise InputError(
            "give one seed, one arm and one surrogate at least, and two members"
        )
    for arm in config.arms:
        terms_of(arm)
    if config.pilot_seed in config.seeds:
        raise InputError("pilot_seed must be none of the reported seeds")
    control = config.control
    if (
        set(control.arms) - set(config.arms)
        or min(control.num_steps, control.every) < 1
    ):
        raise InputError(
            "control.arms must be some of arms, control.num_steps and control.every"
            " at least 1"
        )
    if plan.every_epochs < 0:
        raise InputError("attack.every_epochs must not be negative")
    is_rising = list(plan.radii) == sorted(plan.radii) and plan.radii[0] > 0
    if plan.main_radius not in plan.radii or not is_rising:
        raise InputError(
            "attack.radii must be positive and ascending, and attack.main_radius one of"
            " them"
        )
    steps = min(plan.num_steps, plan.strong_steps, plan.epoch_steps)
    samples = min(plan.num_samples, plan.strong_samples, plan.epoch_samples)
    if min(steps, samples, config.num_bootstrap) < 1:
        raise InputError(
            "the attacks' steps and samples, and num_bootstrap, must be at least 1"
        )
    training = config.training
    if training.objective != CrossEntropy() or training.max_norm is not None:
        raise InputError(
            "training.objective and training.max_norm are not for ensembles: name arms"
            " instead"
        )
    if config.overhead_steps % config.clip.period:
        raise InputError(
            "overhead_steps must be a multiple of clip.period, so that a step has its"
            " share of a clip"
        )
