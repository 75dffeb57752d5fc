"""Do adversarial examples of one model fool another: transfer rates, and robust accuracy from within and from outside.

Definition 3.1.2 of *Toward Reliable Machine Unlearning* (arXiv 2512.06993), definition
3.2 of LOTOS (arXiv 2410.05136). Everything is kept per sample, so that intervals can be
computed (``unlearn_jax.audit.bootstrap``); the rates are means.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from unlearn_jax.attacks._apgd import autoattack_small
from unlearn_jax.attacks._pgd import check_images, pgd, random_start
from unlearn_jax.attacks.norms import Norm, linf
from unlearn_jax.attacks.search import in_batches
from unlearn_jax.losses import cross_entropy
from unlearn_jax.types import ApplyFn, Array, AttackResult, InputError, PyTree, Status

AttackFn = Callable[[Array, ApplyFn, PyTree, Array, Array], AttackResult]
"""``(key, apply_fn, variables, x [B, ...], y [B]) -> AttackResult``: an attack with all its knobs chosen."""

Classifier = tuple[ApplyFn, PyTree]
"""A model to attack: its function and its variables; an ensemble is one (``unlearn_jax.ensembles.ensemble_apply``)."""

Condition = Literal["fooled", "right"]


class Transfer(NamedTuple):
    """What the adversarial examples of ``S`` sources do to ``T`` targets, sample by sample.

    Attributes:
      source_right: ``[S, B]`` bool, the source classifies the clean image correctly.
      source_fooled: ``[S, B]`` bool, the source misclassifies its own adversarial
        example.
      target_right: ``[T, B]`` bool, the target classifies the clean image correctly.
      target_fooled: ``[S, T, B]`` bool, the target misclassifies the source's
        adversarial example.
    """

    source_right: Array
    source_fooled: Array
    target_right: Array
    target_fooled: Array

    def counted(self, condition: Condition = "fooled") -> Array:
        """``[S, T, B]`` bool: the samples that a rate is a mean over.

        Args:
          condition: ``"fooled"`` is the published definition: source and target are
            right on the clean image, and the attack on the source succeeds. A robust
            source succeeds with strong perturbations only, so this rate rises with the
            source's robustness for a reason that has nothing to do with the target.
            ``"right"`` counts all samples that both get right, and is free of that
            selection.

        Raises:
          InputError: an unknown condition.
        """
        if condition not in ("fooled", "right"):
            raise InputError(
                f"unknown condition {condition!r}: choose 'fooled' (as published) or"
                " 'right'"
            )
        source = (
            self.source_right & self.source_fooled
            if condition == "fooled"
            else self.source_right
        )
        pairs = jnp.broadcast_to(source[:, None], self.target_fooled.shape)
        return pairs & self.target_right[None]


class Robustness(NamedTuple):
    """How one classifier stands an attack on itself, sample by sample.

    Attributes:
      right: ``[B]`` bool, the clean image is classified correctly.
      robust: ``[B]`` bool, and the adversarial one too: its mean is the robust
        accuracy.
    """

    right: Array
    robust: Array


def transfer(
    key: Array,
    attack: AttackFn,
    sources: Sequence[Classifier],
    targets: Sequence[Classifier] | None,
    x: Array,
    y: Array,
    *,
    batch_size: int = 512,
) -> Transfer:
    """Attacks every source and shows its adversarial examples to every target.

    * The members of an ensemble as both give the pairwise table; the mean over ordered
      pairs is the T_rate.
    * Independently trained surrogates as sources and the ensemble as the one target is
      the black-box protocol.

    Args:
      key: consumed; every source has one of its own.
      attack: such as :func:`pgd_attack`.
      sources: the models attacked.
      targets: the models that see the results; None for the sources themselves.
      x: ``[B, ...]`` clean float images in [0, 1].
      y: ``[B]`` true labels.
      batch_size: images classified at a time; changes memory, not values.

    Returns:
      One column per sample.

    Raises:
      InputError: unusable images.
    """
    check_images(x, (0.0, 1.0))
    y = jnp.asarray(y).astype(jnp.int32)
    targets = sources if targets is None else targets
    keys = jax.random.split(key, len(sources))
    crafted = [
        _craft(attack, apply_fn, k, members, x, y)
        for k, (apply_fn, members) in zip(keys, sources, strict=True)
    ]
    right = partial(correct, y=y, batch_size=batch_size)
    return Transfer(
        source_right=jnp.stack([right(source, x) for source in sources]),
        source_fooled=jnp.stack([result.labels != y for result in crafted]),
        target_right=jnp.stack([right(target, x) for target in targets]),
        target_fooled=jnp.stack(
            [
                jnp.stack([~right(target, r.images) for target in targets])
                for r in crafted
            ]
        ),
    )


def transfer_rates(outcome: Transfer, *, condition: Condition = "fooled") -> Array:
    """Share of the counted samples on which the target is fooled: the pairwise table.

    Args:
      outcome: of :func:`transfer`.
      condition: which samples count, see :meth:`Transfer.counted`.

    Returns:
      ``[S, T]`` float32 in [0, 1]; NaN where no sample counts. Row: source, column:
      target.
    """
    counted = outcome.counted(condition)
    return jnp.sum(counted & outcome.target_fooled, -1) / jnp.sum(counted, -1)


def transfer_rate(rates: Array) -> Array:
    """T_rate of an ensemble: the mean of its pairwise table over the ordered pairs of different members.

    Args:
      rates: ``[N, N]`` of :func:`transfer_rates` with the members as sources and
        targets.

    Returns:
      ``[]``; pairs for which no sample counts are left out, NaN if that is all.
    """
    others = ~jnp.eye(len(rates), dtype=bool) & jnp.isfinite(rates)
    return jnp.sum(jnp.where(others, rates, 0.0)) / jnp.sum(others)


def black_box_accuracy(outcome: Transfer, *, condition: Condition = "fooled") -> Array:
    """Accuracy of each target on the counted adversarial examples of all surrogates, one after the other.

    Args:
      outcome: of :func:`transfer` with independent surrogates as sources.
      condition: which samples count: the published protocol is ``"fooled"``.

    Returns:
      ``[T]``, one minus the mean over surrogates of the rate; surrogates for which no
      sample counts are left out.
    """
    rates = transfer_rates(outcome, condition=condition)
    usable = jnp.isfinite(rates)
    return 1 - jnp.sum(jnp.where(usable, rates, 0.0), 0) / jnp.sum(usable, 0)


def robustness(
    key: Array,
    attack: AttackFn,
    classifier: Classifier,
    x: Array,
    y: Array,
    *,
    batch_size: int = 512,
) -> Robustness:
    """White-box robustness of one model, or of an ensemble as a whole.

    Args:
      key: consumed.
      attack: such as :func:`pgd_attack` with ``keep="first"``, or :func:`autoattack`.
      classifier: attacked and judged.
      x: ``[B, ...]`` clean float images in [0, 1].
      y: ``[B]`` true labels.
      batch_size: images classified at a time; changes memory, not values.

    Returns:
      One entry per sample. ``mean(robust)`` is the robust accuracy as RobustBench means
      it; LOTOS's code reports ``sum(robust) / sum(right)``, the share of the samples
      right on clean images that stay right.

    Raises:
      InputError: unusable images.
    """
    check_images(x, (0.0, 1.0))
    (apply_fn, variables), y = classifier, jnp.asarray(y).astype(jnp.int32)
    right = correct(classifier, x, y, batch_size=batch_size)
    return Robustness(
        right, right & (_craft(attack, apply_fn, key, variables, x, y).labels == y)
    )


def correct(
    classifier: Classifier, images: Array, y: Array, *, batch_size: int = 512
) -> Array:
    """Which images a model classifies correctly: for adversarial ones that are at hand.

    Args:
      classifier: judged.
      images: ``[B, ...]`` float images in [0, 1].
      y: ``[B]`` true labels.
      batch_size: images classified at a time; changes memory, not values.

    Returns:
      ``[B]`` bool.
    """
    return _classify(classifier[0], classifier[1], images, batch_size) == jnp.asarray(
        y
    ).astype(jnp.int32)


@partial(jax.jit, static_argnums=(0, 1))
def _craft(
    attack: AttackFn,
    apply_fn: ApplyFn,
    key: Array,
    variables: PyTree,
    x: Array,
    y: Array,
) -> AttackResult:
    return attack(key, apply_fn, variables, x, y)


@partial(jax.jit, static_argnums=(0, 3))
def _classify(
    apply_fn: ApplyFn, variables: PyTree, images: Array, batch_size: int
) -> Array:
    def one(image: Array) -> Array:
        return jnp.argmax(apply_fn(variables, image[None])[0]).astype(jnp.int32)

    return lax.map(one, images, batch_size=min(batch_size, len(images)))


@lru_cache(maxsize=64)
def pgd_attack(
    *,
    epsilon: float = 8 / 255,
    num_steps: int = 50,
    step_ratio: float = 0.1,
    norm: Norm = linf,
    keep: Literal["first", "last"] = "last",
    batch_size: int = 512,
) -> AttackFn:
    """PGD in [0, 1] from a random start, as an attack for :func:`transfer` and :func:`robustness`.

    The same arguments give the same function object, so that compiled programs are
    found again.

    Args:
      epsilon: radius in units of ``norm``, for images in [0, 1].
      num_steps: gradient steps.
      step_ratio: step length over ``epsilon``; a tenth in the published protocol.
      norm: of the ball.
      keep: ``"last"`` takes all steps, which transfers better and is what the published
        protocol does; ``"first"`` stops at the first misclassified iterate, which is
        stronger against the attacked model itself.
      batch_size: samples attacked at a time; changes memory, not values.
    """

    def attack(
        key: Array, apply_fn: ApplyFn, variables: PyTree, x: Array, y: Array
    ) -> AttackResult:
        def attack_batch(images: Array, labels: Array, start: Array) -> AttackResult:
            knobs = {
                "epsilon": epsilon,
                "num_steps": num_steps,
                "step_ratio": step_ratio,
                "norm": norm,
                "keep": keep,
            }
            return pgd(apply_fn, variables, images, labels, start, **knobs)

        start = random_start(key, x, epsilon=epsilon, norm=norm)
        return in_batches(
            attack_batch, x, y.astype(jnp.int32), start, batch_size=batch_size
        )

    return attack


@lru_cache(maxsize=64)
def autoattack(
    *,
    epsilon: float = 8 / 255,
    num_steps: int = 100,
    num_targets: int = 9,
    norm: Norm = linf,
    batch_size: int = 512,
) -> AttackFn:
    """:func:`unlearn_jax.attacks.autoattack_small` as an attack for :func:`transfer` and :func:`robustness`.

    Args:
      epsilon: radius in units of ``norm``, for images in [0, 1].
      num_steps: of each of its attacks.
      num_targets: targeted attacks; 0 in fewer than four classes.
      norm: of the ball.
      batch_size: samples attacked at a time; changes memory, not values.
    """
    knobs = {
        "epsilon": epsilon,
        "num_steps": num_steps,
        "num_targets": num_targets,
        "norm": norm,
    }
    return lambda key, apply_fn, variables, x, y: autoattack_small(
        key, apply_fn, variables, x, y, batch_size=batch_size, **knobs
    )


@lru_cache(maxsize=16)
def legacy_attack(
    *,
    mean: tuple[float, ...] = (0.4914, 0.4822, 0.4465),
    std: tuple[float, ...] = (0.2023, 0.1994, 0.2010),
    epsilon: float = 0.04,
    num_steps: int = 50,
    batch_size: int = 512,
) -> AttackFn:
    """The protocol of LOTOS's and FastClip's released code, to compare with numbers made by it; **not** a fair attack.

    There images are normalized by the loader and PGD (cross-entropy, L-infinity, step
    ``epsilon / 10``, random start, all steps) runs on the normalized values
    ``(x - mean) / std``, but clips them to [0, 1]. So the radius is 0.04 of a standard
    deviation, about 2/255 of a pixel; and every pixel below the mean or more than a
    standard deviation above it is moved into that range, far outside the ball. Neither
    numbers nor orders of magnitude compare with an attack in [0, 1]. The model attacked
    still takes images in [0, 1] and normalizes inside.

    Args:
      mean: per channel; CIFAR-10's by default.
      std: per channel.
      epsilon: radius in normalized units; 0.04 in LOTOS, 0.02 in FastClip.
      num_steps: gradient steps.
      batch_size: samples attacked at a time; changes memory, not values.

    Returns:
      An attack whose ``epsilon`` and ``distance`` are the L-infinity distance in pixel
      units, the clipping included.
    """
    shift, scale = np.asarray(mean, np.float32), np.asarray(std, np.float32)

    def attack(
        key: Array, apply_fn: ApplyFn, variables: PyTree, x: Array, y: Array
    ) -> AttackResult:
        if x.shape[-1] != len(shift):
            raise InputError(
                f"images have {x.shape[-1]} channels: give a mean and a deviation for"
                " each"
            )
        shift_of, scale_of = (
            a.reshape((1,) * (x.ndim - 1) + (-1,)) for a in (shift, scale)
        )

        def pixels(values: Array) -> Array:
            return values * scale_of + shift_of

        def attack_batch(images: Array, labels: Array, noise: Array) -> AttackResult:
            def inner(values: Array) -> Array:
                return apply_fn(variables, pixels(values))

            clean, first = (
                (images - shift_of) / scale_of,
                jnp.argmax(apply_fn(variables, images), -1),
            )
            values = _clamped_ascent(
                inner, clean, noise, labels, epsilon=epsilon, num_steps=num_steps
            )
            found = jnp.argmax(inner(values), -1).astype(jnp.int32)
            status = jnp.select(
                [first != labels, found != labels],
                [jnp.int32(Status.ALREADY_WRONG), jnp.int32(Status.FOUND)],
                jnp.int32(Status.NOT_FOUND),
            )
            distance = jax.vmap(linf.measure)(pixels(values) - images)
            return AttackResult(pixels(values), found, distance, distance, status)

        noise = jax.random.uniform(key, x.shape, minval=-epsilon, maxval=epsilon)
        return in_batches(
            attack_batch, x, y.astype(jnp.int32), noise, batch_size=batch_size
        )

    return attack


def _clamped_ascent(
    apply_fn: Callable[[Array], Array],
    clean: Array,
    noise: Array,
    labels: Array,
    *,
    epsilon: float,
    num_steps: int,
) -> Array:
    """PGD on values of any range whose last operation, at every step, is a clipping to [0, 1]."""

    def total(values: Array) -> Array:
        return jnp.sum(cross_entropy(apply_fn(values), labels))

    def step(_: int, values: Array) -> Array:
        moved = values + epsilon / 10 * jnp.sign(jax.grad(total)(values))
        return jnp.clip(clean + jnp.clip(moved - clean, -epsilon, epsilon), 0.0, 1.0)

    return lax.fori_loop(0, num_steps, step, jnp.clip(clean + noise, 0.0, 1.0))


def risk_gap_bound(
    clean_gap: Array | float, *, lipschitz: Array | float, epsilon: Array | float
) -> Array:
    """How far the adversarial risks of two models can lie apart: ``clean_gap + 2 L epsilon`` (LOTOS, proposition 3.3).

    If the losses of both models are ``L``-Lipschitz in the image, an input moved by at
    most ``epsilon`` moves each loss by at most ``L epsilon``. So the smoother the two
    are, the nearer their losses on the same adversarial examples: the reason why
    clipping alone makes attacks transfer.

    Args:
      clean_gap: ``|R_f - R_g|``, the difference of their mean losses on clean images;
        or per sample.
      lipschitz: ``L`` of the losses in the norm of ``epsilon``. Cross-entropy is
        ``sqrt(2)``-Lipschitz in the logits (L2), so ``sqrt(2)`` times the network's
        constant serves.
      epsilon: length of the perturbation.

    Returns:
      The bound, of the arguments' shape.

    >>> float(risk_gap_bound(0.5, lipschitz=2.0, epsilon=0.25))
    1.5
    """
    return jnp.asarray(clean_gap + 2 * lipschitz * epsilon)
