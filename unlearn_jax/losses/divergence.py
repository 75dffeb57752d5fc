"""Divergences between two predictions."""

import chex
import jax
import jax.numpy as jnp

from unlearn_jax.types import Array


def kl_from_logits(logits: Array, other: Array) -> Array:
    """Return ``KL(softmax(logits) || softmax(other))`` in nats.

    Args:
      logits: ``[..., C]``, logits of the first distribution; in distillation the
        teacher's, divided by the temperature.
      other: ``[..., C]``, logits of the second distribution; in distillation the
        student's, likewise.

    Returns:
      ``[...]``, 0 where the two agree. The gradient with respect to ``other`` is
      ``softmax(other) - softmax(logits)``.

    Raises:
      AssertionError: shapes that differ; nothing is broadcast.

    >>> other = jnp.array([0.0, jnp.log(3.0)])
    >>> round(float(kl_from_logits(jnp.array([0.0, 0.0]), other)), 4)  # 0.5 log(4 / 3)
    0.1438
    """
    chex.assert_equal_shape([logits, other])
    log_probs = jax.nn.log_softmax(logits)
    return jnp.sum(jnp.exp(log_probs) * (log_probs - jax.nn.log_softmax(other)), -1)
