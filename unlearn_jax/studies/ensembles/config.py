"""Configuration of the studies of robust ensembles, and the names of their arms."""

import dataclasses
import re

from unlearn_jax.checks import check_counts
from unlearn_jax.ensembles import Lotos, Trs
from unlearn_jax.objectives import AdversarialTraining, CrossEntropy
from unlearn_jax.pipeline.config.schema import DataConfig, ModelConfig, TrainingConfig
from unlearn_jax.types import InputError

TERMS = ("clip", "lotos", "trs", "adversarial")


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """FastClip of arms with ``clip``.

    It is the last transformation of the optimizer chain, and is applied again after
    training.
    """

    max_norm: float = 1.0
    """Upper bound on every layer's norm."""
    period: int = 100
    """Steps between clips."""
    num_vectors: int = 4
    """Directions per layer and clip."""
    power_iters: int = 5
    """PowerQR iterations before and after every clip."""
    num_rounds: int = 1
    """Maximum number of rounds per clip."""


@dataclasses.dataclass(frozen=True)
class AttackPlan:
    """L-infinity attacks on images in [0, 1]; radii are in units of 1/255."""

    radii: tuple[float, ...] = (2, 4, 8)
    """Radii of PGD, ascending."""
    main_radius: float = 4
    """Radius of the tables; chosen on the pilot's seed if there is one."""
    min_transfer: float = 0.6
    """Conditional transfer between the pilot's members; the smallest radius that
    reaches it is chosen."""
    min_accuracy: float = 0.3
    """Least clean accuracy of the pilot's members, plain and clipped; members that do
    not learn make a study of transfer void."""
    num_steps: int = 50
    """Steps of PGD, a tenth of the radius each, from a random start."""
    num_samples: int = 500
    """Number of test images to attack."""
    strong_samples: int = 200
    """Number of first test images that APGD with several losses attacks too."""
    strong_steps: int = 50
    """Steps of each APGD attack."""
    strong_targets: int = 3
    """Number of targeted APGD attacks."""
    every_epochs: int = 0
    """Epochs between two measurements of transfer during training; 0 for none."""
    epoch_samples: int = 200
    """Number of first test images in these measurements."""
    epoch_steps: int = 20
    """PGD steps in these measurements."""


@dataclasses.dataclass(frozen=True)
class ControlConfig:
    """Control: trained ensembles, clipped and then moved by the LOTOS penalty alone.

    Gradient descent on the penalty, without the members' own losses, tests whether
    transfer changes at all as the penalty goes to 0.
    """

    arms: tuple[str, ...] = ()
    """Arms to start from; empty for no control."""
    num_steps: int = 200
    """Steps of gradient descent."""
    every: int = 50
    """Steps between two measurements."""
    learning_rate: float = 0.05
    """Learning rate of the descent."""


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """Arms of ensembles, trained for several seeds and attacked."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds; each has one ensemble per arm, and surrogates of its own."""
    arms: tuple[str, ...] = ("orig", "clip", "clip+lotos")
    """Arms: ``orig``, or terms in the order of :data:`TERMS`, joined by +; a number
    after ``lotos`` is its weight, as in ``clip+lotos0.3``."""
    num_members: int = 3
    """Number of members of an ensemble."""
    num_surrogates: int = 3
    """Independently trained plain models, the sources of the black-box attacks."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Images."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    """Architecture of members and surrogates."""
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    """Recipe of every member of every arm, with cross-entropy."""
    clip: ClipConfig = dataclasses.field(default_factory=ClipConfig)
    """Clipping of arms with ``clip``."""
    lotos: Lotos = dataclasses.field(default_factory=Lotos)
    """LOTOS of arms with ``lotos``; the published ``max_length`` is 0.8 max_norm."""
    trs: Trs = dataclasses.field(default_factory=Trs)
    """TRS of arms with ``trs``."""
    adversarial: AdversarialTraining = dataclasses.field(
        default_factory=AdversarialTraining
    )
    """Adversarial training of arms with ``adversarial``."""
    attack: AttackPlan = dataclasses.field(default_factory=AttackPlan)
    """Attacks."""
    pilot_seed: int | None = None
    """Seed of the plain ensemble on which ``attack.main_radius`` is chosen; not one of
    ``seeds``. None to use the given radius."""
    control: ControlConfig = dataclasses.field(default_factory=ControlConfig)
    """Control with the LOTOS penalty alone."""
    num_bootstrap: int = 500
    """Bootstrap replicates of the intervals, over test samples and seeds."""
    overhead_steps: int = 20
    """Steps in each of nine timings of clipping and LOTOS; 0 for no timings."""

    @property
    def is_clipped(self) -> bool:
        """True if any arm is clipped."""
        return any("clip" in terms_of(arm) for arm in self.arms)


def terms_of(arm: str) -> tuple[str, ...]:
    """Return the terms in the name of an arm; empty for ``orig``.

    Raises:
      InputError: an unknown or repeated term, or terms out of order.

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
    """Return an arm's LOTOS term, with the weight in the arm's name if it has one."""
    weights = [_weight(part) for part in arm.split("+")]
    given = [weight for weight in weights if weight is not None]
    return dataclasses.replace(config.lotos, weight=given[0]) if given else config.lotos


def _weight(part: str) -> float | None:
    """Return the number after ``lotos``; None if there is none."""
    match = re.fullmatch(r"lotos(\d+(?:\.\d+)?)", part)
    return float(match[1]) if match else None


def check(config: EnsembleConfig) -> None:
    """Raise on an unusable configuration."""
    plan = config.attack
    if any(len(set(each)) < len(each) for each in (config.seeds, config.arms)):
        raise InputError("seeds must be different from one another, and so must arms")
    is_small = config.num_members < 2 or config.num_surrogates < 1
    if not config.seeds or not config.arms or is_small:
        raise InputError(
            "give at least one seed, one arm, one surrogate and two members"
        )
    for arm in config.arms:
        terms_of(arm)
    if config.pilot_seed in config.seeds:
        raise InputError("pilot_seed must not be one of the reported seeds")
    control = config.control
    if (
        set(control.arms) - set(config.arms)
        or min(control.num_steps, control.every) < 1
    ):
        raise InputError(
            "control.arms must be some of arms, and control.num_steps and"
            " control.every at least 1"
        )
    if plan.every_epochs < 0:
        raise InputError("attack.every_epochs must not be negative")
    is_rising = (
        list(plan.radii) == sorted(plan.radii) and min(plan.radii, default=0) > 0
    )
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
            "training.objective and training.max_norm do not apply to ensembles: name"
            " arms instead"
        )
    check_counts(**{"clip.period": config.clip.period})
    if config.overhead_steps % config.clip.period:
        raise InputError(
            "overhead_steps must be a multiple of clip.period, so that the time per"
            " step includes its part of a clip"
        )
