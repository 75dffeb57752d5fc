"""Attacks as values: hyperparameters to compare, vary, map over and store.

An attack is called as ``attack(apply_fn, variables, images, labels, key=key)`` and
returns one row per sample. For ``jit`` and ``vmap``, an attack is a pytree whose leaves
are its radii and ratios, so one compiled program serves all their values.

>>> from unlearn_jax.values import replace
>>> attack = PGD(norm="linf", search=Grid(num_radii=8))
>>> replace(attack, epsilon_init=0.01).search
Grid(epsilon_init=0.01, num_radii=8, batch_size=128)
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, Protocol

import jax.numpy as jnp

from unlearn_jax.attacks._apgd import (
    apgd,
    autoattack_small,
    check_autoattack,
    difference_of_logits_ratio,
)
from unlearn_jax.attacks._pgd import (
    AttackLoss,
    Keep,
    check_attacked,
    pgd,
    random_start,
)
from unlearn_jax.attacks.capped import cap_failures
from unlearn_jax.attacks.legacy import check_normalization, legacy_pgd
from unlearn_jax.attacks.line_search import check_line_search, fast_adversarial_set
from unlearn_jax.attacks.norms import NORMS, NormName
from unlearn_jax.attacks.parameters import check_bounds
from unlearn_jax.attacks.search import (
    adversarial_set,
    check_keep,
    check_minimal,
    in_batches,
)
from unlearn_jax.attacks.targeted import target_runner_up
from unlearn_jax.checks import check_counts, check_fractions, check_positive
from unlearn_jax.losses import cross_entropy, log_odds
from unlearn_jax.reuse import is_reusable, program
from unlearn_jax.types import ApplyFn, Array, AttackResult, InputError, PyTree
from unlearn_jax.values import Real, value

LossName = Literal["log_odds", "cross_entropy", "dlr"]

LOSSES: dict[LossName, AttackLoss] = {
    "log_odds": log_odds,
    "cross_entropy": cross_entropy,
    "dlr": difference_of_logits_ratio,
}
"""Losses by name, for the ``loss`` field of attacks."""


class Attack(Protocol):
    """An attack with its hyperparameters: a value of this module, or a function."""

    def __call__(
        self,
        apply_fn: ApplyFn,
        variables: PyTree,
        images: Array,
        labels: Array,
        *,
        key: Array,
    ) -> AttackResult:
        """Attack images ``[B, ...]`` so that their classes are not ``labels [B]``."""
        ...


def _compiled(attack: Callable[..., AttackResult]) -> Callable[..., AttackResult]:
    """Run an attack on a model in one program, which the next call reuses.

    Images and labels are checked first, while their values are known. With traced
    arguments, or a function that is not a model's, the attack runs as it is.

    Args:
      attack: ``__call__`` of a value with ``bounds``, or of one for images in [0, 1].
    """

    def run(apply_fn: ApplyFn, self: Any, key: Array, *arrays: PyTree) -> AttackResult:
        return attack(self, apply_fn, *arrays, key=key)

    @functools.wraps(attack)
    def call(
        self: Any,
        apply_fn: ApplyFn,
        variables: PyTree,
        images: Array,
        labels: Array,
        *,
        key: Array | None = None,
    ) -> AttackResult:
        if not is_reusable(apply_fn, self, variables, images, labels, key):
            return attack(self, apply_fn, variables, images, labels, key=key)
        bounds = getattr(self, "bounds", (0.0, 1.0))
        check_attacked(apply_fn, variables, images, labels, bounds)
        return program(run, apply_fn)(self, key, variables, images, labels)

    return call


def _required(key: Array | None, attack: object) -> Array:
    if key is None:
        raise InputError(
            f"{type(attack).__name__} draws random numbers: pass key=jax.random.key(0)"
        )
    return key


@value
class Doubling:
    """A search over doubled radii that attacks only unsolved samples; for CPU.

    Attributes:
      epsilon_init: smallest radius, in units of the attack's norm; AMUN's is 0.04 for
        CIFAR-10 in L2. The radii are ``epsilon_init * 2**k``.
      num_radii: number of radii; 12 from 0.04 reach 81.92, more than the diagonal of a
        CIFAR image (55.4).
      batch_size: samples attacked at a time.
      restart: whether each radius starts from the clean image, as in the paper; False
        continues from the last iterate, as in the released code.
    """

    epsilon_init: Real = 0.04
    num_radii: int = 12
    batch_size: int = 128
    restart: bool = True

    def __post_init__(self) -> None:
        """Raise on sizes that are not positive."""
        check_counts(num_radii=self.num_radii, batch_size=self.batch_size)
        check_positive(epsilon_init=self.epsilon_init)


@value
class Grid:
    """A search that attacks in all radii at once; for accelerators.

    Returns what :class:`Doubling` with ``restart=True`` returns.

    Attributes:
      epsilon_init: smallest radius, in units of the attack's norm. The radii are
        ``epsilon_init * 2**k``.
      num_radii: number of radii.
      batch_size: samples attacked at a time.
    """

    epsilon_init: Real = 0.04
    num_radii: int = 12
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Raise on sizes that are not positive."""
        check_counts(num_radii=self.num_radii, batch_size=self.batch_size)
        check_positive(epsilon_init=self.epsilon_init)


@value
class Minimal:
    """A search for the closest example by linear steps; for any device.

    The ``search="minimal"`` of :func:`unlearn_jax.attacks.adversarial_set`: DeepFool on
    the margin between the label and the strongest other class, DDN along the boundary,
    and doubling for samples on which both fail.

    Attributes:
      epsilon_init: smallest radius, in units of the attack's norm. The radii
        ``epsilon_init * 2**k`` are doubling's, and the last one bounds every distance.
      num_radii: number of radii.
      batch_size: samples attacked at a time. A sample that is done is replaced by the
        next, so small batches waste less.
      num_linear: maximum number of linear steps to the boundary.
      num_polish: number of steps along the boundary; 0 for DeepFool.
      overshoot: fraction of the clean image's margin by which linear steps aim past the
        boundary.
      depth: fraction of the closest example's distance by which the result lies beyond
        it; 0 returns the closest example.
    """

    epsilon_init: Real = 0.04
    num_radii: int = 12
    batch_size: int = 128
    num_linear: int = 30
    num_polish: int = 10
    overshoot: Real = 0.02
    depth: Real = 0.0

    def __post_init__(self) -> None:
        """Raise on sizes that are not positive."""
        check_counts(num_radii=self.num_radii, batch_size=self.batch_size)
        check_positive(epsilon_init=self.epsilon_init)
        check_minimal(self.num_linear, self.num_polish, self.overshoot, self.depth)


@value
class FixedRadius:
    """One fixed radius without a search, for robust accuracy and transfer.

    Attributes:
      epsilon: radius in units of the attack's norm; 8/255 for CIFAR-10 in L-infinity.
      batch_size: samples attacked at a time; changes memory, not values.
    """

    epsilon: Real = 8 / 255
    batch_size: int = 512

    def __post_init__(self) -> None:
        """Raise on sizes that are not positive."""
        check_counts(batch_size=self.batch_size)
        check_positive(epsilon=self.epsilon)


@value
class PGD:
    """Projected gradient descent; by default AMUN's search for the closest examples.

    Attributes:
      num_steps: number of gradient steps per radius.
      step_ratio: step length over radius.
      norm: norm of the balls, ``"l2"`` or ``"linf"``.
      bounds: smallest and largest pixel value.
      loss: loss to be increased: ``"log_odds"`` (cross-entropy's direction without its
        underflow on confident samples), ``"cross_entropy"``, or ``"dlr"``
        (:func:`unlearn_jax.attacks.difference_of_logits_ratio`).
      keep: ``"first"`` returns the first misclassified iterate; ``"last"`` takes all
        steps, which transfers better.
      search: :class:`Doubling` or :class:`Grid` over radii, :class:`Minimal`, or one
        :class:`FixedRadius`. With :class:`Minimal`, ``num_steps``, ``step_ratio`` and
        ``loss`` apply only to its doubling.
    """

    num_steps: int = 50
    step_ratio: Real = 0.1
    norm: NormName = "l2"
    bounds: tuple[float, float] = (0.0, 1.0)
    loss: LossName = "log_odds"
    keep: Keep = "first"
    search: Doubling | Grid | Minimal | FixedRadius = Doubling()

    def __post_init__(self) -> None:
        """Raise on unusable sizes or an unknown search."""
        check_bounds(self.bounds)
        check_counts(num_steps=self.num_steps)
        check_positive(step_ratio=self.step_ratio)
        if not isinstance(self.search, Doubling | Grid | Minimal | FixedRadius):
            raise InputError(
                "search must be attacks.Doubling(...), attacks.Grid(...),"
                f" attacks.Minimal(...) or attacks.FixedRadius(...), got"
                f" {self.search!r}"
            )
        if isinstance(self.search, Minimal):
            check_keep(self.keep)

    @_compiled
    def __call__(
        self,
        apply_fn: ApplyFn,
        variables: PyTree,
        images: Array,
        labels: Array,
        *,
        key: Array | None = None,
    ) -> AttackResult:
        """Attack images so that the model assigns them classes other than their labels.

        Args:
          apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
          variables: any pytree.
          images: ``[B, ...]`` clean float images within ``bounds``.
          labels: ``[B]`` labels to move away from.
          key: PRNG key for random starts in the balls with :class:`FixedRadius`; None
            starts from the images. The other searches start from the images and ignore
            the key.

        Returns:
          One row per sample.

        Raises:
          InputError: ``apply_fn`` is not a function, or unusable images or labels.
        """
        search = self.search
        if isinstance(search, FixedRadius):
            return self._attack_radius(
                search, apply_fn, variables, images, labels, key=key
            )
        options: dict[str, Any]
        if isinstance(search, Minimal):
            options = {
                "search": "minimal",
                "num_linear": search.num_linear,
                "num_polish": search.num_polish,
                "overshoot": search.overshoot,
                "depth": search.depth,
            }
        elif isinstance(search, Grid):
            options = {"search": "grid"}
        else:
            options = {"search": "doubling", "restart": search.restart}
        return adversarial_set(
            apply_fn,
            variables,
            images,
            labels,
            epsilon_init=search.epsilon_init,
            num_radii=search.num_radii,
            num_steps=self.num_steps,
            step_ratio=self.step_ratio,
            norm=NORMS[self.norm],
            bounds=self.bounds,
            loss=LOSSES[self.loss],
            keep=self.keep,
            batch_size=search.batch_size,
            **options,
        )

    def retry(
        self,
        apply_fn: ApplyFn,
        variables: PyTree,
        images: Array,
        labels: Array,
        result: AttackResult,
    ) -> AttackResult:
        """Attack the failed samples of a result again, toward their runner-up class.

        Calls :func:`unlearn_jax.attacks.target_runner_up` with this attack's norm,
        steps, bounds and batch size.

        Args:
          apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
          variables: any pytree.
          images: ``[B, ...]`` clean float images within ``bounds``.
          labels: ``[B]`` labels to move away from.
          result: result of this attack on these samples.

        Returns:
          One row per sample; rows that succeeded are returned unchanged.
        """
        return target_runner_up(
            apply_fn,
            variables,
            images,
            labels,
            result,
            num_steps=self.num_steps,
            step_ratio=self.step_ratio,
            norm=NORMS[self.norm],
            bounds=self.bounds,
            batch_size=self.search.batch_size,
        )

    def _attack_radius(
        self,
        search: FixedRadius,
        apply_fn: ApplyFn,
        variables: PyTree,
        images: Array,
        labels: Array,
        *,
        key: Array | None,
    ) -> AttackResult:
        check_attacked(apply_fn, variables, images, labels, self.bounds)
        norm = NORMS[self.norm]

        def attack_batch(images: Array, labels: Array, start: Array) -> AttackResult:
            return pgd(
                apply_fn,
                variables,
                images,
                labels,
                start,
                epsilon=search.epsilon,
                num_steps=self.num_steps,
                step_ratio=self.step_ratio,
                norm=norm,
                bounds=self.bounds,
                loss=LOSSES[self.loss],
                keep=self.keep,
            )

        start = images
        if key is not None:
            start = random_start(
                key, images, epsilon=search.epsilon, norm=norm, bounds=self.bounds
            )
        return in_batches(
            attack_batch,
            images,
            labels.astype(jnp.int32),
            start,
            batch_size=search.batch_size,
        )


@value
class LineSearch:
    """The weak attack of AMUN's ablation: a straight line along one gradient.

    Calls :func:`unlearn_jax.attacks.fast_adversarial_set` with these hyperparameters.

    Attributes:
      epsilon_init: length of a step, in units of ``norm``.
      num_steps: number of steps along one gradient.
      num_restarts: number of restarts after the first line.
      norm: norm of the direction, of the distance, and of the restarts' ball.
      bounds: smallest and largest pixel value.
      loss: loss to be increased.
      batch_size: samples attacked at a time.
    """

    epsilon_init: Real = 0.04
    num_steps: int = 20
    num_restarts: int = 5
    norm: NormName = "linf"
    bounds: tuple[float, float] = (0.0, 1.0)
    loss: LossName = "log_odds"
    batch_size: int = 128

    def __post_init__(self) -> None:
        """Raise on unusable sizes."""
        check_bounds(self.bounds)
        check_line_search(
            self.epsilon_init, self.num_steps, self.num_restarts, self.batch_size
        )

    @_compiled
    def __call__(
        self,
        apply_fn: ApplyFn,
        variables: PyTree,
        images: Array,
        labels: Array,
        *,
        key: Array | None = None,
    ) -> AttackResult:
        """Attack images so that the model assigns them classes other than their labels.

        Args:
          apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
          variables: any pytree.
          images: ``[B, ...]`` clean float images within ``bounds``.
          labels: ``[B]`` labels to move away from.
          key: PRNG key for the restarts; consumed.

        Returns:
          One row per sample.

        Raises:
          InputError: no key, ``apply_fn`` is not a function, or unusable images.
        """
        return fast_adversarial_set(
            _required(key, self),
            apply_fn,
            variables,
            images,
            labels,
            epsilon_init=self.epsilon_init,
            num_steps=self.num_steps,
            num_restarts=self.num_restarts,
            norm=NORMS[self.norm],
            bounds=self.bounds,
            loss=LOSSES[self.loss],
            batch_size=self.batch_size,
        )


@value
class APGD:
    """Auto-PGD at one radius: :func:`unlearn_jax.attacks.apgd`.

    Attributes:
      epsilon: radius in units of ``norm``.
      num_steps: maximum number of gradient steps.
      norm: norm of the ball.
      bounds: smallest and largest pixel value.
      loss: loss to be increased; the paper uses ``"cross_entropy"`` and ``"dlr"``.
      momentum: weight of the new step; the previous step has the rest.
      min_rises: fraction of rising steps below which the step size is halved.
      keep: ``"first"`` returns the first misclassified iterate; ``"best"`` takes all
        steps and returns the misclassified iterate with the highest loss.
      batch_size: samples attacked at a time; changes memory, not values.
    """

    epsilon: Real = 8 / 255
    num_steps: int = 100
    norm: NormName = "linf"
    bounds: tuple[float, float] = (0.0, 1.0)
    loss: LossName = "cross_entropy"
    momentum: Real = 0.75
    min_rises: Real = 0.75
    keep: Literal["first", "best"] = "first"
    batch_size: int = 512

    def __post_init__(self) -> None:
        """Raise on unusable sizes."""
        check_bounds(self.bounds)
        check_counts(num_steps=self.num_steps)
        check_fractions(momentum=self.momentum, min_rises=self.min_rises)
        check_counts(batch_size=self.batch_size)
        check_positive(epsilon=self.epsilon)

    @_compiled
    def __call__(
        self,
        apply_fn: ApplyFn,
        variables: PyTree,
        images: Array,
        labels: Array,
        *,
        key: Array | None = None,
    ) -> AttackResult:
        """Attack images so that the model assigns them classes other than their labels.

        Args:
          apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
          variables: any pytree.
          images: ``[B, ...]`` clean float images within ``bounds``.
          labels: ``[B]`` labels to move away from.
          key: PRNG key for random starts in the balls; None starts from the images.

        Returns:
          One row per sample.

        Raises:
          InputError: ``apply_fn`` is not a function, or unusable images or labels.
        """
        check_attacked(apply_fn, variables, images, labels, self.bounds)
        norm = NORMS[self.norm]

        def attack_batch(images: Array, labels: Array, start: Array) -> AttackResult:
            return apgd(
                apply_fn,
                variables,
                images,
                labels,
                start,
                epsilon=self.epsilon,
                num_steps=self.num_steps,
                norm=norm,
                bounds=self.bounds,
                loss=LOSSES[self.loss],
                momentum=self.momentum,
                min_rises=self.min_rises,
                keep=self.keep,
            )

        start = images
        if key is not None:
            start = random_start(
                key, images, epsilon=self.epsilon, norm=norm, bounds=self.bounds
            )
        return in_batches(
            attack_batch,
            images,
            labels.astype(jnp.int32),
            start,
            batch_size=self.batch_size,
        )


@value
class AutoAttackSmall:
    """APGD on several losses: :func:`unlearn_jax.attacks.autoattack_small`.

    Attributes:
      epsilon: radius in units of ``norm``.
      num_steps: maximum number of gradient steps per attack.
      num_targets: number of targeted attacks; must be 0 with fewer than four classes.
      norm: norm of the ball.
      bounds: smallest and largest pixel value.
      batch_size: samples attacked at a time; changes memory, not values.
    """

    epsilon: Real = 8 / 255
    num_steps: int = 100
    num_targets: int = 9
    norm: NormName = "linf"
    bounds: tuple[float, float] = (0.0, 1.0)
    batch_size: int = 512

    def __post_init__(self) -> None:
        """Raise on unusable sizes."""
        check_bounds(self.bounds)
        check_autoattack(
            self.epsilon, self.num_steps, self.num_targets, self.batch_size
        )

    @_compiled
    def __call__(
        self,
        apply_fn: ApplyFn,
        variables: PyTree,
        images: Array,
        labels: Array,
        *,
        key: Array | None = None,
    ) -> AttackResult:
        """Attack images so that the model assigns them classes other than their labels.

        Args:
          apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
          variables: any pytree.
          images: ``[B, ...]`` clean float images within ``bounds``.
          labels: ``[B]`` labels to move away from.
          key: PRNG key for the random starts; consumed.

        Returns:
          One row per sample.

        Raises:
          InputError: no key, ``apply_fn`` is not a function, unusable images, or
            targeted attacks with fewer than four classes.
        """
        return autoattack_small(
            _required(key, self),
            apply_fn,
            variables,
            images,
            labels,
            epsilon=self.epsilon,
            num_steps=self.num_steps,
            num_targets=self.num_targets,
            norm=NORMS[self.norm],
            bounds=self.bounds,
            batch_size=self.batch_size,
        )


@value
class LegacyPGD:
    """LOTOS's and FastClip's protocol: :func:`unlearn_jax.attacks.legacy_pgd`.

    Attributes:
      mean: channel means; CIFAR-10's by default.
      std: channel standard deviations; CIFAR-10's by default.
      epsilon: radius in normalized units; 0.04 in LOTOS, 0.02 in FastClip.
      num_steps: number of gradient steps.
      batch_size: samples attacked at a time; changes memory, not values.
    """

    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465)
    std: tuple[float, ...] = (0.2023, 0.1994, 0.2010)
    epsilon: Real = 0.04
    num_steps: int = 50
    batch_size: int = 512

    def __post_init__(self) -> None:
        """Raise on unusable sizes."""
        check_counts(num_steps=self.num_steps, batch_size=self.batch_size)
        check_positive(epsilon=self.epsilon)
        check_normalization(self.mean, self.std)

    @_compiled
    def __call__(
        self,
        apply_fn: ApplyFn,
        variables: PyTree,
        images: Array,
        labels: Array,
        *,
        key: Array | None = None,
    ) -> AttackResult:
        """Attack images so that the model assigns them classes other than their labels.

        Args:
          apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
          variables: any pytree.
          images: ``[B, ..., ch]`` clean float images in [0, 1].
          labels: ``[B]`` labels to move away from.
          key: PRNG key for the random starts; consumed.

        Returns:
          One row per sample.

        Raises:
          InputError: no key, unusable images, or a number of channels that differs from
            ``mean``'s.
        """
        return legacy_pgd(
            _required(key, self),
            apply_fn,
            variables,
            images,
            labels,
            mean=self.mean,
            std=self.std,
            epsilon=self.epsilon,
            num_steps=self.num_steps,
            batch_size=self.batch_size,
        )


@value
class CappedFailures:
    """An attack whose radius is capped so that a fraction of the samples fails.

    Applies :func:`unlearn_jax.attacks.cap_failures` to the attack's result.

    Attributes:
      attack: attack to cap, with any radius.
      fraction: fraction of the samples to fail, in [0, 1].
      batch_size: images classified at a time; changes memory, not values.
    """

    attack: PGD | LineSearch = PGD()
    fraction: Real = 0.1
    batch_size: int = 512

    def __post_init__(self) -> None:
        """Raise on a fraction outside [0, 1]."""
        check_fractions(fraction=self.fraction)
        check_counts(batch_size=self.batch_size)

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest pixel value, those of the attack."""
        return self.attack.bounds

    @_compiled
    def __call__(
        self,
        apply_fn: ApplyFn,
        variables: PyTree,
        images: Array,
        labels: Array,
        *,
        key: Array | None = None,
    ) -> AttackResult:
        """Attack images, then turn those with the largest distances into failures.

        Args:
          apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
          variables: any pytree.
          images: ``[B, ...]`` clean float images within the attack's bounds.
          labels: ``[B]`` labels to move away from.
          key: PRNG key for the attack.

        Returns:
          One row per sample.

        Raises:
          InputError: arguments that the attack refuses.
        """
        result = self.attack(apply_fn, variables, images, labels, key=key)
        return cap_failures(
            apply_fn,
            variables,
            images,
            labels,
            result,
            fraction=self.fraction,
            batch_size=self.batch_size,
        )
