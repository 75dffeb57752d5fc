"""A targeted attack on the samples for which a search found no adversarial example."""

import jax
import jax.numpy as jnp

from unlearn_jax.attacks._pgd import check_attacked, pgd
from unlearn_jax.attacks.norms import Norm, l2
from unlearn_jax.attacks.parameters import check_functions
from unlearn_jax.attacks.search import retry_failures
from unlearn_jax.checks import check_counts, check_positive
from unlearn_jax.losses import log_odds
from unlearn_jax.types import ApplyFn, Array, AttackResult, PyTree


def target_runner_up(
    apply_fn: ApplyFn,
    variables: PyTree,
    images: Array,
    labels: Array,
    result: AttackResult,
    *,
    num_steps: int = 50,
    step_ratio: float | Array = 0.1,
    norm: Norm = l2,
    bounds: tuple[float, float] = (0.0, 1.0),
    batch_size: int = 128,
) -> AttackResult:
    """Attack the failed samples of a search again, toward their runner-up class.

    The target of a sample is the class, other than its label, with the largest logit at
    the clean image. :func:`unlearn_jax.attacks.pgd` starts at the clean image and
    increases the log-odds of the target, in a ball of the last radius that the search
    tried for the sample (``result.epsilon``). As in every attack, any class other than
    ``labels`` is a success. The failed samples are gathered into full batches, so the
    work is about that of attacking them alone.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` clean float images within ``bounds``.
      labels: ``[B]`` labels to move away from.
      result: search result for these samples; rows that succeeded are returned
        unchanged.
      num_steps: number of gradient steps.
      step_ratio: step length over radius. May be traced.
      norm: norm that the search used.
      bounds: smallest and largest pixel value.
      batch_size: samples attacked at a time.

    Returns:
      One row per sample. Where this attack fails too, the row holds its last iterate
      and its status.

    Raises:
      InputError: ``apply_fn`` is not a function, or unusable images or sizes.
      AssertionError: shapes that do not fit.
    """
    check_attacked(apply_fn, variables, images, labels, bounds)
    check_functions(norm=norm)
    check_counts(num_steps=num_steps, batch_size=batch_size)
    check_positive(step_ratio=step_ratio)

    def attack_batch(images: Array, labels: Array, radius: Array) -> AttackResult:
        logits = apply_fn(variables, images)
        is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
        target = jnp.argmax(jnp.where(is_label, -jnp.inf, logits), -1)

        def loss(logits: Array, _: Array) -> Array:
            return -log_odds(logits, target)

        return pgd(
            apply_fn,
            variables,
            images,
            labels,
            images,
            epsilon=radius,
            num_steps=num_steps,
            step_ratio=step_ratio,
            norm=norm,
            bounds=bounds,
            loss=loss,
        )

    return retry_failures(
        attack_batch,
        result,
        images,
        labels.astype(jnp.int32),
        result.epsilon,
        batch_size=batch_size,
    )
