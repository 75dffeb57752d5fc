"""Divergences between two predictions."""

import jax
import jax.numpy as jnp

from unlearn_jax.types import Array


def kl_divergence(logits: Array, other: Array) -> Array:
    """``KL(softmax(logits) || softmax(other))`` in nats.

    Args:
      logits: ``[..., C]`` of the first distribution; a teacher's, over the temperature,
        in distillation.
      other: ``[..., C]`` of the second; a student's, likewise.

    Returns:
      ``[...]``, 0 where the two agree; its gradient by ``other`` is
      ``softmax(other) - softmax(logits)``.

    >>> round(float(kl_divergence(jnp.array([0.0, 0.0]), jnp.array([0.0, jnp.log(3.0)]))), 4)  # 0.5 log(4 / 3)
    0.1438
    """
    log_probs = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_probs) * (log_probs - jax.nn.log_softmax(other)), -1)
