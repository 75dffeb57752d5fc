"""Training and attacks of robust ensembles: plain, clipped, LOTOS and adversarial.

All arms of a seed start from the same weights and train on the same batches;
surrogates have weights and batches of their own.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial
from itertools import product
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
    ensemble_apply,
    fit_ensemble,
)
from unlearn_jax.losses import cross_entropy, foreign_stretch
from unlearn_jax.pipeline.config.resolve import build_model, load_data, make_recipe
from unlearn_jax.pipeline.config.schema import DataConfig
from unlearn_jax.studies.common import Arrays, variables_of
from unlearn_jax.studies.ensembles.config import EnsembleConfig, lotos_of, terms_of
from unlearn_jax.studies.ensembles.overhead import step_seconds
from unlearn_jax.train import Recipe, cross_entropy_loss, predict
from unlearn_jax.types import (
    Array,
    AttackResult,
    InputError,
    Model,
    PyTree,
    Variables,
    to_float,
)


@lru_cache(maxsize=2)
def _splits(data: DataConfig) -> Splits:
    return load_data(data)


class Lab:
    """Data, model and arms of one configuration; an arm is built once and reused.

    Args:
      config: study configuration.
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
                objective = config.adversarial
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
          name: name of the arm.
          seed: seed of the weights and the batches.
          pilot: arrays of :meth:`pilot`, with the attack radius of the transfer during
            training; None for the configured radius.

        Returns:
          ``members``, stacked; ``layers``, the names of their layers; the layers' true
          norms, ``norms_trained`` at the end of training and ``norms`` after the last
          clip; ``losses`` and ``lotos`` by epoch; ``foreign`` ``[L, M, M]``, the
          stretches of :func:`unlearn_jax.losses.foreign_stretch` after the last clip,
          and ``foreign_layers``, the names of their layers. With
          ``attack.every_epochs``, also ``epochs`` ``[E]``, and the members'
          ``transfer`` and ``accuracy`` ``[E]`` after these epochs.
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
            epochs_per_call=every or longest_call(recipe),
            callback=measure,
        )
        trained = self.norms(state.variables)
        members = self.clip_last(name, state.variables)
        norms = spectral.spectral_norms(self.model.apply, members[0], self.sample)
        foreign = self.foreign(members)
        # A compiled function returns the layers in alphabetical order.
        places = {name: place for place, name in enumerate(norms)}
        names = sorted(foreign, key=lambda name: places.get(name, len(places)))
        arrays = {
            "members": replicas.stack(members),
            "layers": np.array(list(norms)),
            "norms_trained": trained,
            "norms": self.norms(members),
            "losses": np.asarray(losses.members),
            "lotos": np.asarray(losses.lotos),
            "foreign": np.stack([np.asarray(foreign[name]) for name in names]),
            "foreign_layers": np.array(names),
        }
        return arrays | {key: np.array(each) for key, each in curve.items() if every}

    def foreign(self, members: Sequence[Variables]) -> dict[str, Array]:
        """Return the foreign stretches of all layers by their names."""
        return _foreign(self.model.apply, replicas.stack(members), self.sample)

    def main_radius(self, pilot: Arrays | None) -> float:
        """Return the radius of the tables: the pilot's if there is one."""
        if pilot is None:
            return self.config.attack.main_radius
        return float(pilot["main_radius"])

    def transfer_now(
        self, key: Array, members: Sequence[Variables], radius: float
    ) -> tuple[float, float]:
        """Return the members' transfer and accuracy on a few test images.

        Args:
          key: PRNG key of the attacks.
          members: variables of the members to attack.
          radius: attack radius, in units of 1/255.
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
        """Return the effect of each member's attack on all members, by radius."""
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
            source = jnp.stack([result.labels[place] != labels for result in results])
            outcomes.append(attacks.Transfer(right, source, right, jnp.stack(fooled)))
        return outcomes

    def wrong(
        self, classifiers: Sequence[tuple[Any, Any]], images: Array, labels: Array
    ) -> list[Array]:
        """Return error masks ``[B]``, one per classifier ``(apply, variables)``."""
        return [~correct(*one, images, labels) for one in classifiers]

    def pilot(self, seed: int) -> dict[str, np.ndarray]:
        """Train ensembles on the pilot's seed: do they learn, and at which radius?

        The ensembles are a plain one, which chooses the attack radius, and a clipped
        one if any arm is clipped.

        Returns:
          By radius ``[R]``: ``transfer``, the conditional transfer between the plain
          members, and ``robust``, their mean accuracy under an attack on themselves.
          Also the least clean ``accuracy`` of a plain member and
          ``clipped_accuracy`` of a clipped one (NaN if there is none); and
          ``main_radius``, the smallest radius with a transfer of at least
          ``attack.min_transfer``, or the largest radius if there is none.

        Raises:
          InputError: a member that does not reach ``attack.min_accuracy``.
        """
        plan = self.config.attack
        plain, accuracy = self._fit_pilot(seed, "orig")
        clipped_accuracy = math.nan
        if self.config.is_clipped:
            _, clipped_accuracy = self._fit_pilot(seed, "clip")
        outcomes = self.outcome(
            jax.random.fold_in(jax.random.key(seed), 3),
            plain,
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
            "accuracy": np.array(accuracy),
            "clipped_accuracy": np.array(clipped_accuracy),
            "main_radius": np.array(plan.radii[place], float),
        }

    def _fit_pilot(self, seed: int, arm: str) -> tuple[list[Variables], float]:
        """Return the members of an arm, and the least of their clean accuracies."""
        ensemble, recipe = self.arm(arm)
        state, _ = fit_ensemble(
            jax.random.fold_in(jax.random.key(seed), 0),
            ensemble,
            self.splits.train,
            self.everyone,
            recipe,
            epochs_per_call=longest_call(recipe),
        )
        members = self.clip_last(arm, state.variables)
        accuracies = []
        for member in members:
            is_right = correct(self.model.apply, member, *self.targets)
            accuracies.append(float(jnp.mean(is_right)))
        lowest = min(accuracies)
        least = self.config.attack.min_accuracy
        if lowest < least:
            raise InputError(
                f"a member of the pilot's arm {arm!r} is right on {lowest:.0%} of the"
                f" test images, below attack.min_accuracy={least:g}: choose another"
                " learning rate, network, number of epochs or clip.max_norm"
            )
        return members, lowest

    def control(
        self, seed: int, trained: Mapping[str, PyTree], pilot: Arrays | None = None
    ) -> dict[str, np.ndarray]:
        """Clip a trained ensemble, then descend on the LOTOS penalty alone.

        Args:
          seed: seed of the attacks and of the initial directions.
          trained: arrays of :meth:`train`.
          pilot: arrays of :meth:`pilot`; None for the configured radius.

        Returns:
          ``steps``, and after each of these numbers of steps ``penalty``, ``transfer``,
          ``accuracy`` and ``stretch``, the largest foreign stretch of any layer.
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
        curves: dict[str, list[float]] = {
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
            curves["steps"].append(step)
            curves["penalty"].append(float(penalties[0]))
            curves["transfer"].append(transfer)
            curves["accuracy"].append(accuracy)
            curves["stretch"].append(_largest_foreign(self.foreign(moved)))
        return {name: np.array(each) for name, each in curves.items()}

    def clip_last(self, arm: str, members: Sequence[Variables]) -> list[Variables]:
        """Return trained members as they are attacked: clipped if their arm clips."""
        if "clip" not in terms_of(arm):
            return list(members)
        return [self.clip(one) for one in members]

    def clip(self, member: Variables) -> Variables:
        """Clip a member until every layer's norm is within half a percent.

        The norms are computed by Lanczos iteration, which, unlike power iteration, does
        not depend on a good start.
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
        """Return the norms ``[M, L]`` of all layers of the given members."""
        rows = []
        for one in members:
            norms = spectral.spectral_norms(self.model.apply, one, self.sample)
            rows.append([float(norm) for norm in norms.values()])
        return np.array(rows)

    def train_surrogates(self, seed: int) -> Variables:
        """Train independent plain models, and return them stacked.

        Args:
          seed: seed of the weights and the batches.
        """
        keys = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), 1), self.config.num_surrogates
        )
        masks = np.tile(self.everyone, (len(keys), 1))
        return replicas.fit_many(
            keys, self.model, self.splits.train, masks, self.recipe
        )[0].variables

    def surrogates(
        self, seed: int, pilot: Arrays | None = None
    ) -> dict[str, np.ndarray]:
        """Train independent plain models and attack them.

        Args:
          seed: seed of the weights, the batches and the attacks.
          pilot: arrays of :meth:`pilot`, with the main radius; None for the configured
            radius.

        Returns:
          For S surrogates and R radii: ``right`` ``[S, B]``, whether clean images are
          classified correctly; PGD's ``images`` ``[S, R, B, ...]`` and its success
          ``fooled`` ``[S, R, B]``; and APGD's ``strong_images`` at the main radius.
        """
        config = self.config
        plan = config.attack
        x, y = self.targets
        strong = plan.strong_samples
        stacked = self.train_surrogates(seed)
        columns: dict[str, list[Any]] = {
            name: [] for name in ("right", "images", "fooled", "strong_images")
        }
        key_attacks = jax.random.fold_in(jax.random.key(seed), 2)
        keys = jax.random.split(key_attacks, config.num_surrogates)
        for j, key in enumerate(keys):
            one = (self.model.apply, replicas.unstack(stacked, j))
            key_pgd, key_apgd = jax.random.split(key)
            result = self.pgd(key_pgd, one, x, y, keep="last")
            columns["right"].append(np.asarray(correct(*one, x, y)))
            columns["images"].append(np.asarray(result.images))
            columns["fooled"].append(np.asarray(result.labels) != np.asarray(y))
            best = _apgd(
                one[0],
                plan.strong_steps,
                key_apgd,
                one[1],
                x[:strong],
                y[:strong],
                self.main_radius(pilot) / 255,
            )
            columns["strong_images"].append(np.asarray(best))
        return {name: np.stack(values) for name, values in columns.items()}

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
          seed: seed of the attacks.
          trained: arrays of :meth:`train`.
          surrogates: arrays of :meth:`surrogates`.
          pilot: arrays of :meth:`pilot`; None for the configured radius.

        Returns:
          Booleans per test image. ``clean`` and ``members_clean``: whether ensemble and
          members are right on the clean image. ``source_fooled`` ``[M, R, B]``: whether
          PGD on a member fools this member. ``target_fooled`` ``[M, R, M, B]``: whether
          it fools each member. ``white_fooled``, ``strong_fooled``, ``black_fooled``
          and ``strong_black_fooled``: whether the ensemble is fooled by PGD, by the
          APGD set, and by the surrogates' PGD and APGD images. ``surrogate_right`` and
          ``surrogate_fooled``: the arrays ``right`` and ``fooled`` of
          :meth:`surrogates`. In addition, the arrays of :meth:`theory`.
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

        def transferred(result: AttackResult) -> np.ndarray:
            """Return a mask ``[R, M, B]`` of every member's errors, by radius."""
            pairs = product(result.images, each)
            wrong = [fooled(member, images, y) for images, member in pairs]
            return np.reshape(wrong, (len(plan.radii), len(each), -1))

        def by_radius(crafted: Any) -> np.ndarray:
            """Return a mask ``[R, B]`` of the ensemble's errors, by radius."""
            return np.stack([fooled(whole, images, y) for images in crafted])

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
                [by_radius(images) for images in surrogates["images"]]
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
          members: variables of M members.
          x: ``[B, ...]`` clean images.
          y: ``[B]`` labels.
          crafted: ``[B, ...]`` adversarial images of each member.

        Returns:
          ``clean_risk`` ``[M]``; ``moved_risk`` ``[M, M]`` on adversarial images (row:
          source); ``mean_length`` ``[M]``, the mean L2 length of the perturbations; and
          ``slope`` ``[M]``, the steepest slope observed.
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
        """Return the seconds per step, and of compilation, for three arms."""
        names = ("orig", "clip", "clip+lotos")
        runs = {name: self.arm(name) for name in names}
        seconds, compiling = step_seconds(
            runs, self.splits.train, num_steps=self.config.overhead_steps
        )
        return {"arms": np.array(names), "seconds": seconds, "compiling": compiling}


def longest_call(recipe: Recipe) -> int:
    """Return the maximum number of epochs per compiled call."""
    return max(1, min(recipe.num_epochs, 50))


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
    """Return the images with the highest margin loss, for transfer attacks."""
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
    """Return the spectral norms ``[B]`` of the logits' Jacobian by the image."""

    def one(image: Array) -> Array:
        jacobian = jax.jacrev(lambda image: apply_fn(variables, image[None])[0])(image)
        return jnp.linalg.norm(jacobian.reshape(len(jacobian), -1), 2)

    return jax.lax.map(one, images)


@partial(jax.jit, static_argnums=0)
def _foreign(apply_fn: Any, members: Variables, sample: Array) -> dict[str, Array]:
    return foreign_stretch(apply_fn, members, sample)


def _largest_foreign(tables: Mapping[str, Array]) -> float:
    """Return the largest stretch of a direction of another member."""
    stacked = np.stack([np.asarray(table) for table in tables.values()])
    return float(stacked[:, ~np.eye(stacked.shape[-1], dtype=bool)].max())


def members_of(trained: Mapping[str, PyTree]) -> list[Variables]:
    """Return the members that :meth:`Lab.train` stored."""
    stacked = variables_of(trained["members"])
    count = len(trained["norms"])
    return [replicas.unstack(stacked, j) for j in range(count)]
