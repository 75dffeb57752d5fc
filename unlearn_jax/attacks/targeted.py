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
    """Attack the failed samples of a search again, towards their second class.

    That class comes second at the clean image. Runs :func:`unlearn_jax.attacks.pgd`
    from the clean image within the last radius of each failed sample, up the log-odds
    of that one class. Any class but ``labels`` ends the attack, as everywhere. The
    failed samples are gathered into full batches, so that the work is about that of
    attacking them alone.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, evaluation mode.
      variables: any pytree.
      images: ``[B, ...]`` clean float images within ``bounds``.
      labels: ``[B]`` labels to leave.
      result: of a search on them; rows that succeeded come back as they are.
      num_steps: gradient steps.
      step_ratio: step length over radius. May be traced.
      norm: of the search.
      bounds: the image box.
      batch_size: samples attacked at a time.

    Returns:
      One row per sample. Where this fails too, the row holds this attack's last
      iterate, and its status.

    Raises:
      InputError: ``apply_fn`` is no function, unusable images or sizes.
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
