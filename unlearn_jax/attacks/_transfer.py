"""Transfer rates between models, and robust accuracy from within and from outside.

Definition 3.1.2 of *Toward Reliable Machine Unlearning* (arXiv 2512.06993), definition
3.2 of LOTOS (arXiv 2410.05136). Everything is kept per sample, so that intervals can be
computed (``unlearn_jax.audit.bootstrap``); the rates are means.
"""

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from unlearn_jax.attacks._pgd import check_attacked, predict_class
from unlearn_jax.attacks.values import Attack
from unlearn_jax.checks import check_counts
from unlearn_jax.types import (
    ApplyFn,
    Array,
    AttackResult,
    InputError,
    PyTree,
    Status,
    check_apply_fn,
)

Classifier = tuple[ApplyFn, PyTree]
"""One model of several: its function and its variables.

An ensemble is one, too (``unlearn_jax.ensembles.ensemble_apply``).
"""

Condition = Literal["fooled", "right"]


class Transfer(NamedTuple):
    """Effect of the adversarial examples of ``S`` sources on ``T`` targets, per sample.

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
        """Return the samples that a rate is a mean over, ``[S, T, B]`` bool.

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
        source = self.source_right
        if condition == "fooled":
            source = source & self.source_fooled
        pairs = jnp.broadcast_to(source[:, None], self.target_fooled.shape)
        return pairs & self.target_right[None]


class Robustness(NamedTuple):
    """Outcome of an attack on one model, sample by sample.

    Attributes:
      right: ``[B]`` bool, the clean image is classified correctly.
      robust: ``[B]`` bool, and the adversarial one too: its mean is the robust
        accuracy.
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
    """Attack every source and classify its adversarial examples by every target.

    * The members of an ensemble as both give the pairwise table; the mean over ordered
      pairs is the T_rate.
    * Independently trained surrogates as sources and the ensemble as the one target is
      the black-box protocol.

    Args:
      key: consumed; every source has one of its own.
      sources: the models attacked, each ``(apply_fn, variables)``.
      targets: the models that classify the results; None for the sources themselves.
      images: ``[B, ...]`` clean float images in [0, 1].
      labels: ``[B]`` true labels.
      attack: such as ``PGD(norm="linf", keep="last", search=FixedRadius())``, or a
        function called alike.
      batch_size: images classified at a time; changes memory, not values.

    Returns:
      One column per sample.

    Raises:
      InputError: no models, an ``apply_fn`` that is no function, or unusable images or
        labels.
      AssertionError: shapes that do not fit.
    """
    targets = sources if targets is None else targets
    if not sources or not targets:
        raise InputError("transfer takes one source and one target at least")
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
        return correct(*classifier, images, labels, batch_size=batch_size)

    fooled = []
    for result in crafted:
        right = jnp.stack([is_right(target, result.images) for target in targets])
        fooled.append(~right)
    return Transfer(
        source_right=jnp.stack([is_right(source, images) for source in sources]),
        source_fooled=jnp.stack([result.labels != labels for result in crafted]),
        target_right=jnp.stack([is_right(target, images) for target in targets]),
        target_fooled=jnp.stack(fooled),
    )


def transfer_rates(outcome: Transfer, *, condition: Condition = "fooled") -> Array:
    """Return the fraction of the counted samples that fool the target, by pair.

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
    """Return the T_rate of an ensemble: the mean over ordered pairs of two members.

    Args:
      rates: ``[N, N]`` of :func:`transfer_rates` with the members as sources and
        targets.

    Returns:
      ``[]``; pairs for which no sample counts are left out, NaN if that is all.
    """
    others = ~jnp.eye(len(rates), dtype=bool) & jnp.isfinite(rates)
    return jnp.sum(jnp.where(others, rates, 0.0)) / jnp.sum(others)


def black_box_accuracy(outcome: Transfer, *, condition: Condition = "fooled") -> Array:
    """Return each target's accuracy on the adversarial examples of all surrogates.

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
      key: consumed.
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` clean float images in [0, 1].
      labels: ``[B]`` true labels.
      attack: such as ``PGD(norm="linf", search=FixedRadius())`` or
        ``AutoAttackSmall()``, or a function called alike.
      batch_size: images classified at a time; changes memory, not values.

    Returns:
      One entry per sample. ``mean(robust)`` is the robust accuracy as RobustBench means
      it; LOTOS's code reports ``sum(robust) / sum(right)``, the fraction of the samples
      right on clean images that stay right.

    Raises:
      InputError: ``apply_fn`` is no function, or unusable images, labels or radii.
    """
    check_attacked(apply_fn, variables, images, labels, (0.0, 1.0))
    labels = jnp.asarray(labels).astype(jnp.int32)
    right = correct(apply_fn, variables, images, labels, batch_size=batch_size)
    result = _craft(apply_fn, _as_pytree(attack), variables, images, labels, key)
    is_held = (result.labels == labels) & (result.status != Status.NOT_FINITE)
    return Robustness(right, right & is_held)


def correct(
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    *,
    batch_size: int = 512,
) -> Array:
    """Return the images that a model classifies correctly, such as adversarial ones.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` float images in [0, 1].
      labels: ``[B]`` true labels.
      batch_size: images classified at a time; changes memory, not values.

    Returns:
      ``[B]`` bool.

    Raises:
      InputError: ``apply_fn`` is no function.
    """
    check_apply_fn(apply_fn)
    check_counts(batch_size=batch_size)
    predicted = _classify(apply_fn, variables, images, batch_size)
    return predicted == jnp.asarray(labels).astype(jnp.int32)


def _as_pytree(attack: Attack) -> PyTree:
    """Return an attack that ``jit`` takes: a value as it is, a function as static."""
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


@partial(jax.jit, static_argnums=(0, 3))
def _classify(
    apply_fn: ApplyFn, variables: PyTree, images: Array, batch_size: int
) -> Array:
    def classify_one(image: Array) -> Array:
        return predict_class(apply_fn(variables, image[None])[0])

    return lax.map(classify_one, images, batch_size=min(batch_size, len(images)))


def risk_gap_bound(
    clean_gap: Array | float, *, lipschitz: Array | float, epsilon: Array | float
) -> Array:
    """Bound the gap between the adversarial risks of two models.

    ``clean_gap + 2 L epsilon`` (LOTOS, proposition 3.3). If the losses of both models
    are ``L``-Lipschitz in the image, an input moved by at most ``epsilon`` moves each
    loss by at most ``L epsilon``. So the smoother the two are, the nearer their losses
    on the same adversarial examples: the reason why clipping alone makes attacks
    transfer.

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
