"""Robust ensembles: plain, clipped, LOTOS and adversarial members; transfer of attacks.

Every arm of a seed starts from the same weights and trains on the same batches;
surrogates have weights and batches of their own.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax import attacks, replicas, spectral
from unlearn_jax.attacks import correct, pgd_curve
from unlearn_jax.data import Splits
from unlearn_jax.ensembles import (
    Ensemble,
    EnsembleLosses,
    EnsembleState,
    Lotos,
    Trs,
    ensemble_apply,
    fit_ensemble,
)
from unlearn_jax.losses import cross_entropy, foreign_stretch
from unlearn_jax.objectives import AdversarialTraining, CrossEntropy
from unlearn_jax.pipeline import estimate
from unlearn_jax.pipeline.config.resolve import (
    build_model,
    load_data,
    make_recipe,
    plain_model,
)
from unlearn_jax.pipeline.config.schema import (
    DataConfig,
    ModelConfig,
    TrainingConfig,
    to_json,
)
from unlearn_jax.pipeline.store.artifact import Artifact
from unlearn_jax.studies.common import Arrays, variables_of
from unlearn_jax.studies.ensembles.overhead import step_seconds
from unlearn_jax.train import Recipe, cross_entropy_loss, predict, to_float
from unlearn_jax.types import Array, AttackResult, InputError, Model, PyTree, Variables

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
    found = re.fullmatch(r"lotos(\d+(?:\.\d+)?)", part)
    return float(found[1]) if found else None


def make_artifacts(config: EnsembleConfig) -> list[Artifact]:
    """Return surrogates, and an ensemble and its attacks per arm, for every seed.

    The last artifact is the cost of a step.

    Raises:
      InputError: unusable configuration.
    """
    _check(config)
    lab = Lab(config)
    plain = to_json(config)
    data = {
        key: value
        for key, value in plain["data"].items()
        if config.data.source != "tfds" or key != "path"
    }
    base = {
        "data": data,
        "model": plain_model(config.model),
        "training": plain["training"],
    }
    plan = config.attack
    price = _Price(config)
    artifacts = []
    pilots: tuple[Artifact, ...] = ()
    if config.pilot_seed is not None:
        pilot = Artifact(
            name="pilot",
            settings={
                **base,
                "seed": config.pilot_seed,
                "count": config.num_members,
                "attack": plain["attack"],
            },
            compute=partial(lab.pilot, config.pilot_seed),
            price=price.members() + price.curve(plan.num_samples, plan.num_steps),
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
            own = base | {"seed": seed, "arm": arm, "count": config.num_members}
            own |= {term: plain[term] for term in terms_of(arm)}
            if config.attack.every_epochs:
                own |= {"curve": curve}
            trained = Artifact(
                name=f"{arm}-{seed}",
                settings=own,
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
    """Gradients of single samples that artifacts cost, about.

    Clipping and LOTOS come on top.
    """

    config: EnsembleConfig

    def member(self) -> float:
        """Return those of one model."""
        size = self.config.data.num_train or 50_000
        return float(self.config.training.num_epochs * size)

    def members(self) -> float:
        """Return those of training an ensemble."""
        return self.config.num_members * self.member()

    def curve(self, num_samples: int, num_steps: int) -> float:
        """Return those of attacking each member at all radii."""
        count = self.config.num_members * len(self.config.attack.radii)
        return float(count * num_samples * num_steps)

    def in_training(self) -> float:
        """Return those of measuring transfer in training."""
        plan = self.config.attack
        if not plan.every_epochs:
            return 0.0
        times = -(-self.config.training.num_epochs // plan.every_epochs)
        each = self.config.num_members * plan.epoch_samples * plan.epoch_steps
        return float(times * each)

    def surrogate(self) -> float:
        """Return those of a surrogate and its attacks."""
        plan = self.config.attack
        pgd = len(plan.radii) * plan.num_samples * plan.num_steps
        return self.member() + pgd + plan.strong_samples * plan.strong_steps

    def attack(self) -> float:
        """Return those of attacking members and ensemble."""
        plan = self.config.attack
        white = self.curve(plan.num_samples, plan.num_steps)
        strong = plan.strong_samples * plan.strong_steps * (2 + plan.strong_targets)
        return 2 * white + self.config.num_members * strong

    def control(self) -> float:
        """Return those of the penalty alone, of its attacks."""
        plan = self.config.attack
        control = self.config.control
        each = self.config.num_members * plan.epoch_samples * plan.epoch_steps
        return float((control.num_steps // control.every + 1) * each)


def training_speed(config: EnsembleConfig) -> float:
    """Return the samples per second of training one plain member, here."""
    lab = Lab(config)
    keys = jax.random.split(jax.random.key(0), 1)
    samples = lab.splits.train
    return estimate.training_speed(
        lab.model, samples, lab.recipe, keys=keys, member=lab.everyone[None]
    )


def _check(config: EnsembleConfig) -> None:
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


@lru_cache(maxsize=2)
def _splits(data: DataConfig) -> Splits:
    return load_data(data)


class Lab:
    """Data, model and arms of one configuration; an arm is built once and reused.

    Args:
      config: of the study.
    """

    def __init__(self, config: EnsembleConfig) -> None:
        self.config = config
        self._arms: dict[str, tuple[Ensemble, Recipe]] = {}

    @cached_property
    def splits(self) -> Splits:
        """Training and test samples."""
        return _splits(self.config.data)

    @cached_property
    def model(self) -> Model:
        """Architecture of members and surrogates."""
        return build_model(self.config.model, self.splits)

    @property
    def sample(self) -> Array:
        """An image of zeros ``[1, H, W, C]``."""
        return jnp.zeros((1, *self.splits.train.images.shape[1:]))

    @cached_property
    def recipe(self) -> Recipe:
        """Recipe of a plain member."""
        samples = self.splits.train
        return make_recipe(
            self.config.training, len(samples.labels), self.model, samples.images
        )

    @property
    def everyone(self) -> np.ndarray:
        """Mask of all training samples."""
        return np.ones(len(self.splits.train.labels), bool)

    @cached_property
    def targets(self) -> tuple[Array, Array]:
        """Test images to attack, and their labels."""
        test = self.splits.test
        count = self.config.attack.num_samples
        images = to_float(jnp.asarray(test.images[:count]))
        return images, jnp.asarray(test.labels[:count])

    def arm(self, name: str) -> tuple[Ensemble, Recipe]:
        """Return the ensemble of an arm and its members' recipe."""
        if name not in self._arms:
            config = self.config
            terms = terms_of(name)
            recipe = self.recipe
            objective: Callable[..., Any] = cross_entropy_loss
            if "adversarial" in terms:
                objective = AdversarialTraining(**config.adversarial)
            if "clip" in terms:
                clip = spectral.fastclip(
                    self.model.apply,
                    self.sample,
                    max_norm=config.clip.max_norm,
                    period=config.clip.period,
                    rule=spectral.ClipRule(
                        num_vectors=config.clip.num_vectors,
                        num_iters=config.clip.power_iters,
                        num_rounds=config.clip.num_rounds,
                    ),
                    model_state=spectral.state_shapes(self.model),
                )
                recipe = dataclasses.replace(recipe, tx=optax.chain(recipe.tx, clip))
            ensemble = Ensemble(
                [self.model] * config.num_members,
                objective=objective,
                lotos=lotos_of(config, name) if "lotos" in terms else None,
                trs=config.trs if "trs" in terms else None,
            )
            self._arms[name] = (ensemble, recipe)
        return self._arms[name]

    def train(
        self, name: str, seed: int, pilot: Arrays | None = None
    ) -> dict[str, PyTree]:
        """Train one ensemble.

        Args:
          name: of the arm.
          seed: of weights and batches.
          pilot: of :meth:`pilot`; chooses the radius of the transfer in training.

        Returns:
          ``members``, stacked; ``layers``, their names; the layers' true norms
          ``norms_trained`` at the end of training and ``norms`` after the last clip;
          ``losses`` and ``lotos`` by epoch; ``foreign`` ``[L, M, M]``, the stretches of
          :func:`unlearn_jax.losses.foreign_stretch` after the last clip, and
          ``foreign_layers``; with ``attack.every_epochs``, ``epochs``, and
          ``transfer`` and ``accuracy`` (``[E]``, of the members) after them.
        """
        ensemble, recipe = self.arm(name)
        key = jax.random.fold_in(jax.random.key(seed), 0)
        every = self.config.attack.every_epochs
        curve: dict[str, list[float]] = {"epochs": [], "transfer": [], "accuracy": []}

        def measure(state: EnsembleState, _: EnsembleLosses) -> None:
            if not every:
                return
            transfer, accuracy = self.transfer_now(
                jax.random.fold_in(jax.random.key(seed), 4),
                state.variables,
                self.main_radius(pilot),
            )
            curve["epochs"].append(int(state.epoch))
            curve["transfer"].append(transfer)
            curve["accuracy"].append(accuracy)

        state, losses = fit_ensemble(
            key,
            ensemble,
            self.splits.train,
            self.everyone,
            recipe,
            epochs_per_call=every or max(1, min(recipe.num_epochs, 50)),
            callback=measure,
        )
        members = list(state.variables)
        trained = self.norms(members)
        if "clip" in terms_of(name):
            members = [self.clip(one) for one in members]
        norms = spectral.spectral_norms(self.model.apply, members[0], self.sample)
        foreign = self.foreign(members)
        # a compiled function returns them in alphabetical order
        places = {name: place for place, name in enumerate(norms)}
        names = sorted(foreign, key=lambda name: places.get(name, len(places)))
        found = {
            "members": replicas.stack(members),
            "layers": np.array(list(norms)),
            "norms_trained": trained,
            "norms": self.norms(members),
            "losses": np.asarray(losses.members),
            "lotos": np.asarray(losses.lotos),
            "foreign": np.stack([np.asarray(foreign[name]) for name in names]),
            "foreign_layers": np.array(names),
        }
        return found | {key: np.array(each) for key, each in curve.items() if every}

    def foreign(self, members: Sequence[Variables]) -> dict[str, Array]:
        """Return the foreign stretches of all layers by their names."""
        return _foreign(self.model.apply, replicas.stack(members), self.sample)

    def main_radius(self, pilot: Arrays | None) -> float:
        """Return the radius of the tables: the pilot's, where there is one."""
        if pilot is None:
            return self.config.attack.main_radius
        return float(pilot["main_radius"])

    def transfer_now(
        self, key: Array, members: Sequence[Variables], radius: float
    ) -> tuple[float, float]:
        """Return transfer between members and their accuracy, on a few test images.

        Args:
          key: of the attacks.
          members: to attack.
          radius: in units of 1/255.
        """
        plan = self.config.attack
        images = to_float(jnp.asarray(self.splits.test.images[: plan.epoch_samples]))
        labels = jnp.asarray(self.splits.test.labels[: plan.epoch_samples])
        outcome = self.outcome(
            key, members, images, labels, (radius,), plan.epoch_steps
        )[0]
        rate = attacks.transfer_rate(attacks.transfer_rates(outcome))
        return float(rate), float(jnp.mean(outcome.source_right))

    def outcome(
        self,
        key: Array,
        members: Sequence[Variables],
        images: Array,
        labels: Array,
        radii: Sequence[float],
        num_steps: int,
    ) -> list[attacks.Transfer]:
        """Return the effect of each member's adversarial examples on all, by radius."""
        each = [(self.model.apply, one) for one in members]
        right = jnp.stack([correct(*one, images, labels) for one in each])
        results = [
            pgd_curve(
                own_key,
                *one,
                images,
                labels,
                np.array(radii) / 255,
                num_steps=num_steps,
                keep="last",
                batch_size=256,
            )
            for own_key, one in zip(jax.random.split(key, len(each)), each, strict=True)
        ]
        outcomes = []
        for place in range(len(radii)):
            fooled = [
                jnp.stack(self.wrong(each, result.images[place], labels))
                for result in results
            ]
            own = jnp.stack([result.labels[place] != labels for result in results])
            outcomes.append(attacks.Transfer(right, own, right, jnp.stack(fooled)))
        return outcomes

    def wrong(
        self, classifiers: Sequence[tuple[Any, Any]], images: Array, labels: Array
    ) -> list[Array]:
        """Return where each classifier ``(apply, variables)`` is wrong, ``[B]``."""
        return [~correct(*one, images, labels) for one in classifiers]

    def pilot(self, seed: int) -> dict[str, np.ndarray]:
        """Train a plain ensemble on a seed of its own, and choose the radius.

        Returns:
          By radius ``[R]``: ``transfer``, conditional, between members, and ``robust``,
          the members' accuracy under their own attack; their ``accuracy``; and
          ``main_radius``, the least radius of ``attack.min_transfer``, or the largest.
        """
        plan = self.config.attack
        ensemble, recipe = self.arm("orig")
        state, _ = fit_ensemble(
            jax.random.fold_in(jax.random.key(seed), 0),
            ensemble,
            self.splits.train,
            self.everyone,
            recipe,
            epochs_per_call=max(1, min(recipe.num_epochs, 50)),
        )
        outcomes = self.outcome(
            jax.random.fold_in(jax.random.key(seed), 3),
            state.variables,
            *self.targets,
            plan.radii,
            plan.num_steps,
        )
        transfer = []
        robust = []
        for outcome in outcomes:
            rates = attacks.transfer_rates(outcome)
            transfer.append(float(attacks.transfer_rate(rates)))
            robust.append(
                float(jnp.mean(outcome.source_right & ~outcome.source_fooled))
            )
        is_enough = np.array(transfer) >= plan.min_transfer
        place = int(np.argmax(is_enough)) if is_enough.any() else len(plan.radii) - 1
        return {
            "transfer": np.array(transfer),
            "robust": np.array(robust),
            "accuracy": np.array(float(jnp.mean(outcomes[0].source_right))),
            "main_radius": np.array(plan.radii[place], float),
        }

    def control(
        self, seed: int, trained: Mapping[str, PyTree], pilot: Arrays | None = None
    ) -> dict[str, np.ndarray]:
        """Clip a trained ensemble, then descend on the LOTOS penalty alone.

        Args:
          seed: of the attacks and the first directions.
          trained: from :meth:`train`.
          pilot: from :meth:`pilot`.

        Returns:
          ``steps``, and after each of them ``penalty``, ``transfer``, ``accuracy`` and
          ``stretch``, the largest foreign one of the penalized layers.
        """
        plan = self.config.control
        members = [self.clip(one) for one in members_of(trained)]
        term = self.config.lotos.term(
            [self.model.apply] * len(members), self.sample, "sum"
        )
        key_term, key_attack = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), 5)
        )
        state = jax.jit(term.init)(key_term, members)

        def descend(params: Any, state: Any) -> tuple[Any, Any]:
            def penalty(params: Any) -> tuple[Array, Any]:
                moved = [
                    one._replace(params=new)
                    for one, new in zip(members, params, strict=True)
                ]
                return term.update(moved, state)

            (value, after), slope = jax.value_and_grad(penalty, has_aux=True)(params)
            rate = plan.learning_rate
            moved = jax.tree.map(lambda leaf, one: leaf - rate * one, params, slope)
            return (moved, after), value

        def block(params: Any, state: Any) -> tuple[tuple[Any, Any], Array]:
            return jax.lax.scan(
                lambda carry, _: descend(*carry), (params, state), None, plan.every
            )

        block = jax.jit(block)
        params = [one.params for one in members]
        found: dict[str, list[float]] = {
            name: [] for name in ("steps", "penalty", "transfer", "accuracy", "stretch")
        }
        for step in range(0, plan.num_steps + 1, plan.every):
            moved = [
                one._replace(params=new)
                for one, new in zip(members, params, strict=True)
            ]
            transfer, accuracy = self.transfer_now(
                jax.random.clone(key_attack), moved, self.main_radius(pilot)
            )
            (params, state), penalties = block(params, state)
            found["steps"].append(step)
            found["penalty"].append(float(penalties[0]))
            found["transfer"].append(transfer)
            found["accuracy"].append(accuracy)
            found["stretch"].append(_largest_foreign(self.foreign(moved)))
        return {name: np.array(each) for name, each in found.items()}

    def clip(self, member: Variables) -> Variables:
        """Clip a member until every layer's norm is within half a percent.

        The norms are Lanczos values, which do not depend on a good start as power
        iteration's do.
        """
        for _ in range(8):
            if self.norms([member]).max() <= 1.005 * self.config.clip.max_norm:
                break
            most = self.config.clip.max_norm
            rule = spectral.ClipRule(
                num_vectors=4, num_iters=30, num_rounds=200, tolerance=1e-3
            )
            member = spectral.clip(
                self.model.apply, member, self.sample, max_norm=most, rule=rule
            )
        return member

    def norms(self, members: Sequence[Variables]) -> np.ndarray:
        """Return the norms ``[M, L]`` of all layers of some members."""
        rows = []
        for one in members:
            norms = spectral.spectral_norms(self.model.apply, one, self.sample)
            rows.append([float(norm) for norm in norms.values()])
        return np.array(rows)

    def surrogates(
        self, seed: int, pilot: Arrays | None = None
    ) -> dict[str, np.ndarray]:
        """Train independent plain models and attack them.

        Args:
          seed: of weights, batches and attacks.
          pilot: of :meth:`pilot`; chooses the main radius.

        Returns:
          For S surrogates and R radii: ``right`` ``[S, B]`` on clean images, PGD's
          ``images`` ``[S, R, B, ...]`` and success ``fooled`` ``[S, R, B]``, and APGD's
          ``strong_images`` at the main radius.
        """
        config = self.config
        plan = config.attack
        x, y = self.targets
        strong = plan.strong_samples
        keys = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), 1), config.num_surrogates
        )
        masks = np.tile(self.everyone, (len(keys), 1))
        stacked = replicas.fit_many(
            keys, self.model, self.splits.train, masks, self.recipe
        )[0].variables
        found: dict[str, list[Any]] = {
            name: [] for name in ("right", "images", "fooled", "strong_images")
        }
        key_attacks = jax.random.fold_in(jax.random.key(seed), 2)
        for j, key in enumerate(jax.random.split(key_attacks, len(keys))):
            one = (self.model.apply, replicas.unstack(stacked, j))
            key_pgd, key_apgd = jax.random.split(key)
            result = self.pgd(key_pgd, one, x, y, keep="last")
            found["right"].append(np.asarray(correct(*one, x, y)))
            found["images"].append(np.asarray(result.images))
            found["fooled"].append(np.asarray(result.labels) != np.asarray(y))
            best = _apgd(
                one[0],
                plan.strong_steps,
                key_apgd,
                one[1],
                x[:strong],
                y[:strong],
                self.main_radius(pilot) / 255,
            )
            found["strong_images"].append(np.asarray(best))
        return {name: np.stack(values) for name, values in found.items()}

    def pgd(
        self,
        key: Array,
        classifier: tuple[Any, Any],
        x: Array,
        y: Array,
        *,
        keep: Literal["first", "last"],
    ) -> AttackResult:
        """Attack a classifier ``(apply, variables)`` at all radii."""
        plan = self.config.attack
        radii = np.array(plan.radii) / 255
        apply_fn, variables = classifier
        return pgd_curve(
            key,
            apply_fn,
            variables,
            x,
            y,
            radii,
            num_steps=plan.num_steps,
            keep=keep,
            batch_size=256,
        )

    def attack(
        self,
        seed: int,
        trained: Mapping[str, PyTree],
        surrogates: Arrays,
        pilot: Arrays | None = None,
    ) -> dict[str, np.ndarray]:
        """Attack an ensemble from within and from outside, and its members.

        Args:
          seed: of the attacks.
          trained: from :meth:`train`.
          surrogates: from :meth:`surrogates`.
          pilot: from :meth:`pilot`.

        Returns:
          Booleans per test image: ``clean``, ``members_clean``; fooled by member s at
          radius r (``source_fooled``) and then another member (``target_fooled``);
          ``white_``, ``strong_``, ``black_`` and ``strong_black_fooled``; and the
          arrays of :meth:`theory`.
        """
        plan = self.config.attack
        x, y = self.targets
        model = self.model
        members = members_of(trained)
        each = [(model.apply, one) for one in members]
        whole = (ensemble_apply([model] * len(members)), tuple(members))
        test = to_float(jnp.asarray(self.splits.test.images))
        labels = jnp.asarray(self.splits.test.labels)
        key_pairs, key_white, key_strong = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), 3), 3
        )
        crafted = [
            self.pgd(k, one, x, y, keep="last")
            for k, one in zip(jax.random.split(key_pairs, len(each)), each, strict=True)
        ]
        most = 9 if self.splits.num_classes > 3 else 0
        strong = attacks.AutoAttackSmall(
            epsilon=self.main_radius(pilot) / 255,
            num_steps=plan.strong_steps,
            num_targets=min(plan.strong_targets, most),
        )
        cut = plan.strong_samples

        def fooled(classifier: Any, images: Any, labels: Array) -> np.ndarray:
            apply_fn, variables = classifier
            images = jnp.asarray(images)
            return ~np.asarray(correct(apply_fn, variables, images, labels))

        def transferred(result: AttackResult) -> list[list[np.ndarray]]:
            return [
                [fooled(one, images, y) for one in each] for images in result.images
            ]

        white = self.pgd(key_white, whole, x, y, keep="first")
        robust = attacks.robustness(
            key_strong, *whole, x[:cut], y[:cut], attack=strong
        ).robust
        main = plan.radii.index(self.main_radius(pilot))
        result = {
            "clean": np.asarray(correct(*whole, test, labels)),
            "members_clean": np.stack(
                [np.asarray(correct(*one, test, labels)) for one in each]
            ),
            "source_fooled": np.stack(
                [np.asarray(r.labels) != np.asarray(y) for r in crafted]
            ),
            "target_fooled": np.stack([transferred(result) for result in crafted]),
            "white_fooled": np.asarray(white.labels) != np.asarray(y),
            "strong_fooled": ~np.asarray(robust),
            "black_fooled": np.stack(
                [[fooled(whole, im, y) for im in one] for one in surrogates["images"]]
            ),
            "strong_black_fooled": np.stack(
                [fooled(whole, im, y[:cut]) for im in surrogates["strong_images"]]
            ),
            "surrogate_right": surrogates["right"],
            "surrogate_fooled": surrogates["fooled"],
        }
        return result | self.theory(members, x, y, [r.images[main] for r in crafted])

    def theory(
        self, members: Sequence[Variables], x: Array, y: Array, crafted: Sequence[Array]
    ) -> dict[str, np.ndarray]:
        """Return the terms of the risk gap bound.

        Args:
          members: M of them.
          x: ``[B, ...]`` clean images.
          y: ``[B]`` labels.
          crafted: ``[B, ...]`` of each member.

        Returns:
          ``clean_risk`` ``[M]``, ``moved_risk`` ``[M, M]`` (row: source),
          ``mean_length`` ``[M]`` of the perturbations, and ``slope`` ``[M]``, the
          steepest one seen.
        """

        def outputs(images: Array) -> Array:
            apply_fn = self.model.apply
            return jnp.stack([_logits(apply_fn, one, images) for one in members])

        def risk(logits: Array) -> np.ndarray:
            labels = jnp.broadcast_to(y, logits.shape[:-1])
            return np.asarray(jnp.mean(cross_entropy(logits, labels), -1))

        # [M, B, C] and [S, M, B, C]
        clean = outputs(x)
        moved = jnp.stack([outputs(images) for images in crafted])
        length = jnp.stack(
            [jnp.sqrt(jnp.sum((images - x) ** 2, (1, 2, 3))) for images in crafted]
        )
        change = jnp.sqrt(jnp.sum((moved - clean[None]) ** 2, -1))
        secant = jnp.max(change / jnp.maximum(length, 1e-6)[:, None], (0, 2))
        tangent = jnp.stack(
            [_jacobian_norms(self.model.apply, one, x[:16]) for one in members]
        )
        return {
            "clean_risk": risk(clean),
            "moved_risk": risk(moved),
            "mean_length": np.asarray(jnp.mean(length, -1)),
            "slope": np.asarray(jnp.maximum(secant, jnp.max(tangent, 1))),
        }

    def overhead(self) -> dict[str, np.ndarray]:
        """Return the seconds per step of three arms, and those of compiling."""
        names = ("orig", "clip", "clip+lotos")
        runs = {name: self.arm(name) for name in names}
        seconds, compiling = step_seconds(
            runs, self.splits.train, num_steps=self.config.overhead_steps
        )
        return {"arms": np.array(names), "seconds": seconds, "compiling": compiling}


_logits = jax.jit(predict, static_argnums=0)


@partial(jax.jit, static_argnums=(0, 1))
def _apgd(
    apply_fn: Any,
    num_steps: int,
    key: Array,
    variables: Any,
    x: Array,
    y: Array,
    radius: float,
) -> Array:
    """Return the images of the highest margin loss, for attacks that must transfer."""
    start = attacks.random_start(key, x, epsilon=radius, norm=attacks.linf)
    loss = attacks.difference_of_logits_ratio
    return attacks.apgd(
        apply_fn,
        variables,
        x,
        y,
        start,
        epsilon=radius,
        num_steps=num_steps,
        loss=loss,
        keep="best",
    ).images


@partial(jax.jit, static_argnums=0)
def _jacobian_norms(apply_fn: Any, variables: Any, images: Array) -> Array:
    """Return the L2 slope ``[B]`` of the logits in the image."""

    def one(image: Array) -> Array:
        jacobian = jax.jacrev(lambda image: apply_fn(variables, image[None])[0])(image)
        return jnp.linalg.norm(jacobian.reshape(len(jacobian), -1), 2)

    return jax.lax.map(one, images)


@partial(jax.jit, static_argnums=0)
def _foreign(apply_fn: Any, members: Variables, sample: Array) -> dict[str, Array]:
    return foreign_stretch(apply_fn, members, sample)


def _largest_foreign(tables: Mapping[str, Array]) -> float:
    """Return the largest stretch of another member's direction."""
    stacked = np.stack([np.asarray(table) for table in tables.values()])
    return float(stacked[:, ~np.eye(stacked.shape[-1], dtype=bool)].max())


def members_of(trained: Mapping[str, PyTree]) -> list[Variables]:
    """Return the members that :meth:`Lab.train` stored."""
    stacked = variables_of(trained["members"])
    count = len(trained["norms"])
    return [replicas.unstack(stacked, j) for j in range(count)]
