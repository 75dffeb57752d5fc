"""PGD at several radii: robustness and transfer as the radius grows."""

from functools import partial
from typing import get_args

import chex
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from unlearn_jax.attacks._pgd import (
    Keep,
    check_attacked,
    pgd,
    random_start,
)
from unlearn_jax.attacks.norms import Norm, linf
from unlearn_jax.attacks.parameters import check_functions
from unlearn_jax.attacks.search import in_batches
from unlearn_jax.checks import (
    check_choice,
    check_counts,
    check_not_negative,
    check_positive,
)
from unlearn_jax.types import ApplyFn, Array, AttackResult, PyTree


def pgd_curve(
    key: Array,
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    radii: ArrayLike,
    *,
    num_steps: int = 50,
    step_ratio: float | Array = 0.1,
    norm: Norm = linf,
    keep: Keep = "last",
    batch_size: int = 512,
) -> AttackResult:
    """Run PGD from random starts at several radii, in one program.

    Args:
      key: PRNG key, consumed; each radius has its own random start.
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode; for
        an ensemble, :func:`unlearn_jax.ensembles.ensemble_apply`.
      variables: any pytree.
      images: ``[B, ...]`` clean float images in [0, 1].
      labels: ``[B]`` true labels.
      radii: ``[R]`` radii in units of ``norm``.
      num_steps: number of gradient steps per radius.
      step_ratio: step length over radius.
      norm: norm of the balls.
      keep: ``"last"`` takes all steps, which transfers better; ``"first"`` returns the
        first misclassified iterate.
      batch_size: samples attacked at a time; changes memory, not values.

    Returns:
      The result with leaves ``[R, B, ...]``.

    Raises:
      InputError: ``apply_fn`` is not a function, or unusable images, labels, radii or
        sizes.
    """
    radii = jnp.asarray(radii, jnp.float32)
    check_attacked(apply_fn, variables, images, labels, (0.0, 1.0))
    check_not_negative(radii=radii)
    check_functions(norm=norm)
    check_choice("keep", keep, get_args(Keep))
    check_counts(num_steps=num_steps, batch_size=batch_size)
    check_positive(step_ratio=step_ratio)
    chex.assert_rank(radii, 1)
    labels = jnp.asarray(labels).astype(jnp.int32)
    return _curve(
        apply_fn,
        num_steps,
        norm,
        keep,
        batch_size,
        key,
        variables,
        images,
        labels,
        radii,
        step_ratio,
    )


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _curve(
    apply_fn: ApplyFn,
    num_steps: int,
    norm: Norm,
    keep: Keep,
    batch_size: int,
    key: Array,
    variables: PyTree,
    images: Array,
    labels: Array,
    radii: Array,
    step_ratio: Array,
) -> AttackResult:
    def attack_radius(item: tuple[Array, Array]) -> AttackResult:
        key, radius = item

        def attack_batch(images: Array, labels: Array, start: Array) -> AttackResult:
            return pgd(
                apply_fn,
                variables,
                images,
                labels,
                start,
                epsilon=radius,
                num_steps=num_steps,
                step_ratio=step_ratio,
                norm=norm,
                keep=keep,
            )

        start = random_start(key, images, epsilon=radius, norm=norm)
        return in_batches(attack_batch, images, labels, start, batch_size=batch_size)

    return lax.map(attack_radius, (jax.random.split(key, len(radii)), radii))
