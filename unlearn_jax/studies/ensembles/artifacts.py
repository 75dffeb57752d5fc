"""Stored artifacts of a study of robust ensembles: members and attacks, by seed."""

import dataclasses
from functools import partial

import jax

from unlearn_jax.pipeline import estimate
from unlearn_jax.pipeline.config.resolve import plain_model
from unlearn_jax.pipeline.config.schema import to_json
from unlearn_jax.pipeline.store.artifact import Artifact
from unlearn_jax.studies.ensembles.config import EnsembleConfig, check, terms_of
from unlearn_jax.studies.ensembles.lab import Lab


def make_artifacts(config: EnsembleConfig) -> list[Artifact]:
    """Return surrogates, and an ensemble and its attacks per arm, for every seed.

    With ``overhead_steps``, the last artifact is the cost of a training step.

    Raises:
      InputError: unusable configuration.
    """
    check(config)
    lab = Lab(config)
    plain = to_json(config)
    base = {
        "data": config.data.identity(),
        "model": plain_model(config.model),
        "training": plain["training"],
    }
    plan = config.attack
    price = _Price(config)
    artifacts = []
    pilots: tuple[Artifact, ...] = ()
    if config.pilot_seed is not None:
        of_pilot = base | {
            "seed": config.pilot_seed,
            "count": config.num_members,
            "attack": plain["attack"],
        }
        if config.is_clipped:
            of_pilot["clip"] = plain["clip"]
        training = (1 + config.is_clipped) * price.members()
        pilot = Artifact(
            name="pilot",
            settings=of_pilot,
            compute=partial(lab.pilot, config.pilot_seed),
            price=training + price.curve(plan.num_samples, plan.num_steps),
        )
        artifacts.append(pilot)
        pilots = (pilot,)
    curve = {
        name: plain["attack"][name]
        for name in ("every_epochs", "epoch_samples", "epoch_steps", "main_radius")
    }
    for seed in config.seeds:
        settings = {"seed": seed, "attack": plain["attack"]}
        surrogates = Artifact(
            name=f"surrogates-{seed}",
            settings={**base, **settings, "count": config.num_surrogates},
            compute=partial(lab.surrogates, seed),
            inputs=pilots,
            price=config.num_surrogates * price.surrogate(),
        )
        artifacts.append(surrogates)
        for arm in config.arms:
            of_arm = base | {"seed": seed, "arm": arm, "count": config.num_members}
            of_arm |= {term: plain[term] for term in terms_of(arm)}
            if config.attack.every_epochs:
                of_arm |= {"curve": curve}
            trained = Artifact(
                name=f"{arm}-{seed}",
                settings=of_arm,
                compute=partial(lab.train, arm, seed),
                inputs=pilots if config.attack.every_epochs else (),
                price=price.members() + price.in_training(),
            )
            attacked = Artifact(
                name=f"attack-{arm}-{seed}",
                settings=settings,
                compute=partial(lab.attack, seed),
                inputs=(trained, surrogates, *pilots),
                price=price.attack(),
            )
            artifacts += [trained, attacked]
            if arm in config.control.arms:
                names = ("control", "clip", "lotos", "attack")
                artifacts.append(
                    Artifact(
                        name=f"control-{arm}-{seed}",
                        settings={name: plain[name] for name in names} | {"seed": seed},
                        compute=partial(lab.control, seed),
                        inputs=(trained, *pilots),
                        price=price.control(),
                    )
                )
    if config.overhead_steps:
        names = ("clip", "lotos", "num_members", "overhead_steps")
        settings = base | {name: plain[name] for name in names}
        artifacts.append(
            Artifact(name="overhead", settings=settings, compute=lab.overhead)
        )
    return artifacts


@dataclasses.dataclass(frozen=True)
class _Price:
    """Approximate cost of artifacts, in gradients of single samples.

    The cost of clipping and LOTOS is not included.
    """

    config: EnsembleConfig

    def member(self) -> float:
        """Return the cost of training one model."""
        size = self.config.data.num_train or 50_000
        return float(self.config.training.num_epochs * size)

    def members(self) -> float:
        """Return the cost of training an ensemble."""
        return self.config.num_members * self.member()

    def curve(self, num_samples: int, num_steps: int) -> float:
        """Return the cost of attacking each member at all radii."""
        count = self.config.num_members * len(self.config.attack.radii)
        return float(count * num_samples * num_steps)

    def in_training(self) -> float:
        """Return the cost of measuring transfer during training."""
        plan = self.config.attack
        if not plan.every_epochs:
            return 0.0
        times = -(-self.config.training.num_epochs // plan.every_epochs)
        each = self.config.num_members * plan.epoch_samples * plan.epoch_steps
        return float(times * each)

    def surrogate(self) -> float:
        """Return the cost of training and attacking one surrogate."""
        plan = self.config.attack
        pgd = len(plan.radii) * plan.num_samples * plan.num_steps
        return self.member() + pgd + plan.strong_samples * plan.strong_steps

    def attack(self) -> float:
        """Return the cost of attacking the members and the ensemble."""
        plan = self.config.attack
        white = self.curve(plan.num_samples, plan.num_steps)
        strong = plan.strong_samples * plan.strong_steps * (2 + plan.strong_targets)
        return 2 * white + self.config.num_members * strong

    def control(self) -> float:
        """Return the cost of the attacks in the control with the penalty alone."""
        plan = self.config.attack
        control = self.config.control
        each = self.config.num_members * plan.epoch_samples * plan.epoch_steps
        return float((control.num_steps // control.every + 1) * each)


def training_speed(config: EnsembleConfig) -> float:
    """Return the samples per second of training one plain member on this machine."""
    lab = Lab(config)
    keys = jax.random.split(jax.random.key(0), 1)
    samples = lab.splits.train
    return estimate.training_speed(
        lab.model, samples, lab.recipe, keys=keys, member=lab.everyone[None]
    )
