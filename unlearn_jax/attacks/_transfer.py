"""Transfer rates between models, and white-box and black-box robust accuracy.

Definition 3.1.2 of *Toward Reliable Machine Unlearning* (arXiv 2512.06993), definition
3.2 of LOTOS (arXiv 2410.05136). Outcomes are kept per sample, so that intervals can be
computed (``unlearn_jax.audit.bootstrap``); rates are means over samples.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from unlearn_jax.attacks._pgd import check_attacked, predicted_classes
from unlearn_jax.attacks.values import Attack
from unlearn_jax.checks import check_counts
from unlearn_jax.types import (
    ApplyFn,
    Array,
    AttackResult,
    InputError,
    PyTree,
    Status,
)

Classifier = tuple[ApplyFn, PyTree]
"""A model, as its function and its variables.

An ensemble can be such a model, too (``unlearn_jax.ensembles.ensemble_apply``).
"""

Condition = Literal["fooled", "right"]


class Transfer(NamedTuple):
    """Effect of the adversarial examples of ``S`` sources on ``T`` targets, per sample.

    Logits that are not finite are misclassified.

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
        """Return a mask of the samples that a rate averages over, ``[S, T, B]`` bool.

        Args:
          condition: ``"fooled"``, the published definition, counts samples whose clean
            image both source and target classify correctly and on which the attack on
            the source succeeds. Attacks on a robust source succeed only with strong
            perturbations, so this rate rises with the source's robustness for a reason
            that has nothing to do with the target. ``"right"`` counts all samples that
            both classify correctly, and avoids that selection.

        Raises:
          InputError: an unknown condition.
        """
        if condition not in ("fooled", "right"):
            raise InputError(
                f"unknown condition {condition!r}: choose 'fooled' (as published) or"
                " 'right'"
            )
        source = self.source_right
        if condition == "fooled":
            source = source & self.source_fooled
        pairs = jnp.broadcast_to(source[:, None], self.target_fooled.shape)
        return pairs & self.target_right[None]


class Robustness(NamedTuple):
    """Outcome of an attack on one model, sample by sample.

    Attributes:
      right: ``[B]`` bool, the clean image is classified correctly.
      robust: ``[B]`` bool, the adversarial image is classified correctly as well; the
        mean is the robust accuracy.
    """

    right: Array
    robust: Array


def transfer(
    key: Array,
    sources: Sequence[Classifier],
    targets: Sequence[Classifier] | None,
    images: Array,
    labels: Array,
    *,
    attack: Attack,
    batch_size: int = 512,
) -> Transfer:
    """Attack every source and classify its adversarial examples with every target.

    * With the members of an ensemble as sources and as targets, the outcome is the
      pairwise table. The mean over ordered pairs is the T_rate.
    * With independently trained surrogates as sources and the ensemble as the only
      target, this is the black-box protocol.

    Args:
      key: PRNG key, consumed; each source gets its own.
      sources: models to attack, each ``(apply_fn, variables)``.
      targets: models that classify the adversarial examples; None for the sources
        themselves.
      images: ``[B, ...]`` clean float images in [0, 1].
      labels: ``[B]`` true labels.
      attack: attack such as ``PGD(norm="linf", keep="last", search=FixedRadius())``, or
        a function with the same arguments.
      batch_size: images classified at a time; changes memory, not values.

    Returns:
      The outcome, with one column per sample.

    Raises:
      InputError: no models, an ``apply_fn`` that is not a function, or unusable images
        or labels.
      AssertionError: shapes that do not fit.
    """
    targets = sources if targets is None else targets
    if not sources or not targets:
        raise InputError("transfer takes at least one source and one target")
    for apply_fn, variables in (*sources, *targets):
        check_attacked(apply_fn, variables, images, labels, (0.0, 1.0))
    check_counts(batch_size=batch_size)
    labels = jnp.asarray(labels).astype(jnp.int32)
    crafted = []
    keys = jax.random.split(key, len(sources))
    for key_source, (apply_fn, variables) in zip(keys, sources, strict=True):
        result = _craft(
            apply_fn, _as_pytree(attack), variables, images, labels, key_source
        )
        crafted.append(result)

    def is_right(classifier: Classifier, images: Array) -> Array:
        return _classify(*classifier, images, batch_size) == labels

    fooled = []
    for result in crafted:
        right = jnp.stack([is_right(target, result.images) for target in targets])
        fooled.append(~right)
    return Transfer(
        source_right=jnp.stack([is_right(source, images) for source in sources]),
        source_fooled=jnp.stack([_is_fooled(result, labels) for result in crafted]),
        target_right=jnp.stack([is_right(target, images) for target in targets]),
        target_fooled=jnp.stack(fooled),
    )


def transfer_rates(outcome: Transfer, *, condition: Condition = "fooled") -> Array:
    """Return the fraction of counted samples that fool the target, for each pair.

    Args:
      outcome: result of :func:`transfer`.
      condition: samples to count; see :meth:`Transfer.counted`.

    Returns:
      ``[S, T]`` float32 in [0, 1], one row per source and one column per target; NaN
      where no sample counts.
    """
    counted = outcome.counted(condition)
    return jnp.sum(counted & outcome.target_fooled, -1) / jnp.sum(counted, -1)


def transfer_rate(rates: Array) -> Array:
    """Return the T_rate of an ensemble: the mean over ordered pairs of two members.

    Args:
      rates: ``[N, N]`` result of :func:`transfer_rates` with the members as sources
        and as targets.

    Returns:
      ``[]``. Pairs for which no sample counts are left out; NaN if no pair remains.
    """
    others = ~jnp.eye(len(rates), dtype=bool) & jnp.isfinite(rates)
    return jnp.sum(jnp.where(others, rates, 0.0)) / jnp.sum(others)


def black_box_accuracy(outcome: Transfer, *, condition: Condition = "fooled") -> Array:
    """Return each target's accuracy on the adversarial examples of all surrogates.

    Args:
      outcome: result of :func:`transfer` with independent surrogates as sources.
      condition: samples to count; ``"fooled"`` is the published protocol.

    Returns:
      ``[T]``, one minus the mean transfer rate of the surrogates. Surrogates for which
      no sample counts are left out.
    """
    rates = transfer_rates(outcome, condition=condition)
    usable = jnp.isfinite(rates)
    return 1 - jnp.sum(jnp.where(usable, rates, 0.0), 0) / jnp.sum(usable, 0)


def robustness(
    key: Array,
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    *,
    attack: Attack,
    batch_size: int = 512,
) -> Robustness:
    """Return the white-box robustness of one model, or of an ensemble as a whole.

    Args:
      key: PRNG key; consumed.
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` clean float images in [0, 1].
      labels: ``[B]`` true labels.
      attack: attack such as ``PGD(norm="linf", search=FixedRadius())`` or
        ``AutoAttackSmall()``, or a function with the same arguments.
      batch_size: images classified at a time; changes memory, not values.

    Returns:
      One entry per sample. ``mean(robust)`` is the robust accuracy as RobustBench
      defines it. LOTOS's code reports ``sum(robust) / sum(right)``, the fraction of
      correctly classified samples that remain correct under attack.

    Raises:
      InputError: ``apply_fn`` is not a function, or unusable images, labels or radii.
    """
    right = correct(apply_fn, variables, images, labels, batch_size=batch_size)
    labels = jnp.asarray(labels).astype(jnp.int32)
    result = _craft(apply_fn, _as_pytree(attack), variables, images, labels, key)
    return Robustness(right, right & ~_is_fooled(result, labels))


def _is_fooled(result: AttackResult, labels: Array) -> Array:
    """Return a mask of the images that are not classified correctly."""
    return (result.labels != labels) | (result.status == Status.NOT_FINITE)


def correct(
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    *,
    batch_size: int = 512,
) -> Array:
    """Return a mask of the images that a model classifies correctly.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` float images in [0, 1], clean or adversarial.
      labels: ``[B]`` true labels.
      batch_size: images classified at a time; changes memory, not values.

    Returns:
      ``[B]`` bool.

    Raises:
      InputError: ``apply_fn`` is not a function, or unusable images or labels.
    """
    check_attacked(apply_fn, variables, images, labels, (0.0, 1.0))
    check_counts(batch_size=batch_size)
    predicted = _classify(apply_fn, variables, images, batch_size)
    return predicted == jnp.asarray(labels).astype(jnp.int32)


def _as_pytree(attack: Attack) -> PyTree:
    """Convert an attack for ``jit``: keep a value, make a function static."""
    is_function = jax.tree_util.all_leaves([attack])
    return Partial(attack) if is_function else attack


@partial(jax.jit, static_argnums=0)
def _craft(
    apply_fn: ApplyFn,
    attack: Attack,
    variables: PyTree,
    images: Array,
    labels: Array,
    key: Array,
) -> AttackResult:
    return attack(apply_fn, variables, images, labels, key=key)


_classify = partial(jax.jit, static_argnums=(0, 3))(predicted_classes)


def risk_gap_bound(
    clean_gap: Array | float, *, lipschitz: Array | float, epsilon: Array | float
) -> Array:
    """Bound the gap between the adversarial risks of two models.

    ``clean_gap + 2 L epsilon`` (LOTOS, proposition 3.3). If the losses of both models
    are ``L``-Lipschitz in the image, an input moved by at most ``epsilon`` moves each
    loss by at most ``L epsilon``. So the smoother the two models are, the closer their
    losses are on the same adversarial examples. This is why clipping alone makes
    attacks transfer.

    Args:
      clean_gap: ``|R_f - R_g|``, the difference of their mean losses on clean images,
        or of their losses per sample.
      lipschitz: Lipschitz constant ``L`` of the losses in the norm of ``epsilon``.
        Cross-entropy is ``sqrt(2)``-Lipschitz in the logits (L2), so ``sqrt(2)`` times
        the network's constant is valid.
      epsilon: length of the perturbation.

    Returns:
      The bound, in the shape of the arguments.

    >>> float(risk_gap_bound(0.5, lipschitz=2.0, epsilon=0.25))
    1.5
    """
    return jnp.asarray(clean_gap + 2 * lipschitz * epsilon)
