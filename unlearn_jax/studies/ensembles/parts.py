"""Robust ensembles: plain, clipped, LOTOS and adversarial members; transfer of attacks.

Shared by the presets of ``experiments/ensembles_*.py``. Every arm of a seed starts from
the same weights and sees the same batches; surrogates have weights and batches of their
own. The page is in ``page.py``.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unlearn_jax import attacks, replicas, spectral
from unlearn_jax.attacks import correct, pgd_curve
from unlearn_jax.data import Splits
from unlearn_jax.ensembles import Ensemble, Lotos, Trs, ensemble_apply, fit_ensemble
from unlearn_jax.losses import cross_entropy
from unlearn_jax.objectives import AdversarialTraining
from unlearn_jax.pipeline.config.resolve import build_model, load_data, make_recipe
from unlearn_jax.pipeline.config.schema import (
    DataConfig,
    ModelConfig,
    TrainingConfig,
    to_json,
)
from unlearn_jax.pipeline.experiment import Part
from unlearn_jax.studies.ensembles.overhead import step_seconds
from unlearn_jax.train import Recipe, cross_entropy_loss, predict, to_float
from unlearn_jax.types import Array, InputError, Model, Variables

TERMS = ("clip", "lotos", "trs", "adversarial")
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """FastClip of the arms with ``clip``: last in the optimizer's chain, and once more when training has ended."""

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
    """How the ensembles are attacked: L-infinity in [0, 1], radii in units of 1/255."""

    radii: tuple[float, ...] = (2, 4, 8)
    """Radii of PGD, ascending."""
    main_radius: float = 4
    """The one of them that the table is about; choose it on other seeds than the reported ones."""
    num_steps: int = 50
    """Steps of PGD, a tenth of the radius each, from a random start."""
    num_samples: int = 500
    """Test images attacked."""
    strong_samples: int = 200
    """The first of them, attacked by APGD with several losses as well."""
    strong_steps: int = 50
    """Steps of each of its attacks."""
    strong_targets: int = 3
    """Targeted attacks among them."""


@dataclasses.dataclass(frozen=True)
class EnsembleConfig:
    """Arms of ensembles, trained for several seeds and attacked."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """One ensemble per arm, and fresh surrogates, per seed."""
    arms: tuple[str, ...] = ("orig", "clip", "clip+lotos")
    """``orig``, or terms joined by +, in this order: ``clip``, ``lotos``, ``trs``, ``adversarial``."""
    num_members: int = 3
    """Members of an ensemble."""
    num_surrogates: int = 3
    """Independently trained plain models that the black-box attacks are made on."""
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    """Images."""
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    """Architecture of members and surrogates."""
    training: TrainingConfig = dataclasses.field(default_factory=TrainingConfig)
    """Recipe of every member of every arm; its objective is cross-entropy, see ``adversarial``."""
    clip: ClipConfig = dataclasses.field(default_factory=ClipConfig)
    """Arms with ``clip``."""
    lotos: Lotos = dataclasses.field(default_factory=Lotos)
    """Arms with ``lotos``; ``max_length`` is to be read beside ``clip.max_norm``, 0.8 of it as published."""
    trs: Trs = dataclasses.field(default_factory=Trs)
    """Arms with ``trs``."""
    adversarial: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Knobs of :class:`unlearn_jax.objectives.AdversarialTraining` in arms with ``adversarial``."""
    attack: AttackPlan = dataclasses.field(default_factory=AttackPlan)
    """Attacks."""
    num_bootstrap: int = 500
    """Replicates behind the intervals: test samples and seeds redrawn."""
    overhead_steps: int = 20
    """Steps timed, nine times over, for the cost of clipping and LOTOS; 0 for none."""


def terms_of(arm: str) -> tuple[str, ...]:
    """The terms of an arm by its name; none for ``orig``.

    Raises:
      InputError: an unknown term, one given twice, or another order.

    >>> terms_of("clip+lotos"), terms_of("orig")
    (('clip', 'lotos'), ())
    """
    terms = () if arm == "orig" else tuple(arm.split("+"))
    if tuple(term for term in TERMS if term in terms) != terms:
        raise InputError(
            f"unknown arm {arm!r}: write orig, or some of {', '.join(TERMS)} in this"
            " order, joined by +"
        )
    return terms


def make_parts(config: EnsembleConfig) -> dict[str, Part]:
    """Surrogates, and for every arm an ensemble and the attacks on it, per seed; the cost of a step once.

    Raises:
      InputError: unusable configuration.
    """
    _check(config)
    lab, plain = _Lab(config), to_json(config)
    data = {
        key: value
        for key, value in plain["data"].items()
        if config.data.source != "tfds" or key != "path"
    }
    base = {"data": data} | {key: plain[key] for key in ("model", "training")}
    parts: dict[str, Part] = {}
    for seed in config.seeds:
        own = base | {
            "seed": seed,
            "attack": plain["attack"],
            "count": config.num_surrogates,
        }
        parts[f"surrogates-{seed}"] = Part(own, partial(lab.surrogates, seed))
        for arm in config.arms:
            own = base | {"seed": seed, "arm": arm, "count": config.num_members}
            own |= {term: plain[term] for term in terms_of(arm)}
            parts[f"{arm}-{seed}"] = Part(own, partial(lab.train, arm, seed))
            own = {"attack": plain["attack"], "seed": seed}
            needs = (f"{arm}-{seed}", f"surrogates-{seed}")
            parts[f"attack-{arm}-{seed}"] = Part(own, partial(lab.attack, seed), needs)
    if config.overhead_steps:
        own = base | {
            key: plain[key]
            for key in ("clip", "lotos", "num_members", "overhead_steps")
        }
        parts["overhead"] = Part(own, lab.overhead)
    return parts


def _check(config: EnsembleConfig) -> None:
    plan = config.attack
    if len(set(config.seeds)) < len(config.seeds) or len(set(config.arms)) < len(
        config.arms
    ):
        raise InputError("seeds and arms must each be different from one another")
    if (
        not config.seeds
        or not config.arms
        or config.num_members < 2
        or config.num_surrogates < 1
    ):
        raise InputError(
            "give one seed, one arm and one surrogate at least, and two members"
        )
    for arm in config.arms:
        terms_of(arm)
    if (
        plan.main_radius not in plan.radii
        or list(plan.radii) != sorted(plan.radii)
        or plan.radii[0] <= 0
    ):
        raise InputError(
            "attack.radii must be positive and ascending, and attack.main_radius one of"
            " them"
        )
    if (
        min(
            plan.num_steps,
            plan.num_samples,
            plan.strong_samples,
            plan.strong_steps,
            config.num_bootstrap,
        )
        < 1
    ):
        raise InputError(
            "the attacks' steps and samples, and num_bootstrap, must be at least 1"
        )
    if (
        config.training.objective != "cross_entropy"
        or config.training.max_norm is not None
    ):
        raise InputError(
            "training.objective and training.max_norm are not for ensembles: name arms"
            " instead"
        )
    if config.overhead_steps % config.clip.period:
        raise InputError(
            "overhead_steps must be a multiple of clip.period, so that clips weigh in a"
            " step as they should"
        )


@lru_cache(maxsize=2)
def _splits(data: DataConfig) -> Splits:
    return load_data(data)


class _Lab:
    """What the parts of one configuration share: data, model, and one object per arm, so that programs are reused."""

    def __init__(self, config: EnsembleConfig) -> None:
        self.config = config
        self._arms: dict[str, tuple[Ensemble, Recipe]] = {}

    @cached_property
    def splits(self) -> Splits:
        return _splits(self.config.data)

    @cached_property
    def model(self) -> Model:
        return build_model(self.config.model, self.splits)

    @property
    def sample(self) -> Array:
        return jnp.zeros((1, *self.splits.train.images.shape[1:]))

    @cached_property
    def recipe(self) -> Recipe:
        train = self.splits.train
        return make_recipe(
            self.config.training, len(train.labels), self.model, train.images
        )

    @property
    def everyone(self) -> np.ndarray:
        return np.ones(len(self.splits.train.labels), bool)

    @cached_property
    def targets(self) -> tuple[Array, Array]:
        """The test images that are attacked, and their labels."""
        test, count = self.splits.test, self.config.attack.num_samples
        return to_float(jnp.asarray(test.images[:count])), jnp.asarray(
            test.labels[:count]
        )

    def arm(self, name: str) -> tuple[Ensemble, Recipe]:
        if name not in self._arms:
            config, terms, recipe = self.config, terms_of(name), self.recipe
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
            given = {"lotos": config.lotos, "trs": config.trs}
            given = {key: value for key, value in given.items() if key in terms}
            self._arms[name] = (
                Ensemble(
                    [self.model] * config.num_members, objective=objective, **given
                ),
                recipe,
            )
        return self._arms[name]

    def train(self, name: str, seed: int) -> Arrays:
        """One ensemble: its weights, and its layers' true norms."""
        ensemble, recipe = self.arm(name)
        key = jax.random.fold_in(jax.random.key(seed), 0)
        epochs = max(1, min(recipe.num_epochs, 50))
        state, losses = fit_ensemble(
            key,
            ensemble,
            self.splits.train,
            self.everyone,
            recipe,
            epochs_per_call=epochs,
        )
        members = list(state.variables)
        trained = self.norms(members)
        if "clip" in terms_of(name):
            members = [self.settle(one) for one in members]
        layers = list(
            spectral.spectral_norms(self.model.apply, members[0], self.sample)
        )
        return to_arrays(replicas.stack(members)) | {
            "layers": np.array(layers),
            "norms_trained": trained,
            "norms": self.norms(members),
            "losses": np.asarray(losses.members),
            "lotos": np.asarray(losses.lotos),
        }

    def settle(self, member: Variables) -> Variables:
        """Clipped until Lanczos, which no start misleads, finds every layer within half a percent."""
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
        found = [
            spectral.spectral_norms(self.model.apply, one, self.sample)
            for one in members
        ]
        return np.array([[float(norm) for norm in one.values()] for one in found])

    def surrogates(self, seed: int) -> Arrays:
        """Adversarial images ``[S, R, B, ...]`` of independent plain models, and APGD's at the main radius."""
        config, plan = self.config, self.config.attack
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
        for j, key in enumerate(
            jax.random.split(jax.random.fold_in(jax.random.key(seed), 2), len(keys))
        ):
            one = (self.model.apply, replicas.unstack(stacked, j))
            key_pgd, key_apgd = jax.random.split(key)
            result = self.pgd(key_pgd, one, x, y, keep="last")
            found["right"].append(correct(*one, x, y))
            found["images"].append(result.images)
            found["fooled"].append(np.asarray(result.labels) != np.asarray(y))
            best = _apgd(
                one[0],
                plan.strong_steps,
                key_apgd,
                one[1],
                x[:strong],
                y[:strong],
                plan.main_radius / 255,
            )
            found["strong_images"].append(best)
        return {
            name: np.stack([np.asarray(value) for value in values])
            for name, values in found.items()
        }

    def pgd(self, key: Array, classifier: Any, x: Array, y: Array, *, keep: Any) -> Any:
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

    def attack(self, seed: int, trained: Arrays, surrogates: Arrays) -> Arrays:
        """Transfer between members, the ensemble from within and from outside, and what the theory is about."""
        plan, (x, y), model = self.config.attack, self.targets, self.model
        members = restore(model, trained)
        each = [(model.apply, one) for one in members]
        whole = (ensemble_apply([model] * len(members)), tuple(members))
        test, labels = (
            to_float(jnp.asarray(self.splits.test.images)),
            jnp.asarray(self.splits.test.labels),
        )
        key_pairs, key_white, key_strong = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), 3), 3
        )
        crafted = [
            self.pgd(k, one, x, y, keep="last")
            for k, one in zip(jax.random.split(key_pairs, len(each)), each, strict=True)
        ]
        strong = attacks.AutoAttackSmall(
            epsilon=plan.main_radius / 255,
            num_steps=plan.strong_steps,
            num_targets=min(
                plan.strong_targets, 9 if self.splits.num_classes > 3 else 0
            ),
        )
        cut = plan.strong_samples

        def fooled(classifier: Any, images: Any, labels: Array) -> np.ndarray:
            apply_fn, variables = classifier
            images = jnp.asarray(images)
            return ~np.asarray(correct(apply_fn, variables, images, labels))

        main = plan.radii.index(plan.main_radius)
        result = {
            "clean": np.asarray(correct(*whole, test, labels)),
            "members_clean": np.stack(
                [np.asarray(correct(*one, test, labels)) for one in each]
            ),
            "source_fooled": np.stack(
                [np.asarray(r.labels) != np.asarray(y) for r in crafted]
            ),
            "target_fooled": np.stack(
                [
                    [[fooled(one, images, y) for one in each] for images in r.images]
                    for r in crafted
                ]
            ),
            "white_fooled": (
                np.asarray(self.pgd(key_white, whole, x, y, keep="first").labels)
                != np.asarray(y)
            ),
            "strong_fooled": ~np.asarray(
                attacks.robustness(
                    key_strong, *whole, x[:cut], y[:cut], attack=strong
                ).robust
            ),
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
    ) -> Arrays:
        """Risks on clean and crafted images, lengths of the perturbations, and slopes seen: for the bounds."""
        outputs = lambda images: jnp.stack(
            [_logits(self.model.apply, one, images) for one in members]
        )
        clean, moved = (
            outputs(x),
            jnp.stack([outputs(images) for images in crafted]),
        )  # [M, B, C], [S, M, B, C]
        length = jnp.stack(
            [jnp.sqrt(jnp.sum((images - x) ** 2, (1, 2, 3))) for images in crafted]
        )
        change = jnp.sqrt(jnp.sum((moved - clean[None]) ** 2, -1))
        secant = jnp.max(change / jnp.maximum(length, 1e-6)[:, None], (0, 2))
        tangent = jnp.stack(
            [_jacobian_norms(self.model.apply, one, x[:16]) for one in members]
        )
        risk = lambda logits: jnp.mean(
            cross_entropy(logits, jnp.broadcast_to(y, logits.shape[:-1])), -1
        )
        return {
            "clean_risk": np.asarray(risk(clean)),
            "moved_risk": np.asarray(risk(moved)),
            "mean_length": np.asarray(jnp.mean(length, -1)),
            "slope": np.asarray(jnp.maximum(secant, jnp.max(tangent, 1))),
        }

    def overhead(self) -> Arrays:
        """Seconds per step of the arms that cost no more than weights, compiled beforehand."""
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
    """Images that fool by the highest margin loss: for attacks that must transfer."""
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
    """``[B]``, the slope of the logits in the image, in L2."""

    def one(image: Array) -> Array:
        jacobian = jax.jacrev(lambda image: apply_fn(variables, image[None])[0])(image)
        return jnp.linalg.norm(jacobian.reshape(len(jacobian), -1), 2)

    return jax.lax.map(one, images)


def to_arrays(stacked: Variables) -> Arrays:
    """Stacked members as named arrays, for :func:`restore`."""
    return {
        f"leaf{i:03d}": np.asarray(leaf)
        for i, leaf in enumerate(jax.tree.leaves(stacked))
    }


def restore(model: Model, arrays: Mapping[str, np.ndarray]) -> list[Variables]:
    """The members that :func:`to_arrays` wrote."""
    tree = jax.tree.structure(jax.eval_shape(model.init, jax.random.key(0)))
    leaves = [jnp.asarray(arrays[f"leaf{i:03d}"]) for i in range(tree.num_leaves)]
    return [
        jax.tree.unflatten(tree, [leaf[j] for leaf in leaves])
        for j in range(len(leaves[0]))
    ]
