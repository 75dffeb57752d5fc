"""Per-example classification losses."""

import jax
import jax.numpy as jnp

from unlearn_jax.types import Array


def cross_entropy(logits: Array, target: Array) -> Array:
    """Cross-entropy in nats, against a class or a distribution.

    Args:
      logits: ``[..., C]``.
      target: ``[...]`` integer classes, or ``[..., C]`` probabilities.

    Returns:
      ``[...]``, finite for finite logits.

    >>> float(cross_entropy(jnp.array([0.0, 0.0]), jnp.array(1)))
    0.693...
    """
    log_probs = jax.nn.log_softmax(logits)
    if jnp.issubdtype(jnp.asarray(target).dtype, jnp.integer):
        return -jnp.take_along_axis(log_probs, jnp.asarray(target)[..., None], -1)[
            ..., 0
        ]
    return -jnp.sum(target * log_probs, -1)


def log_odds(logits: Array, label: Array) -> Array:
    """Log-odds against the labeled class, ``log(1 - p_y) - log p_y``.

    Its gradient points exactly where cross-entropy's does (they differ by the factor
    ``1 - p_y``), but does not vanish in float32 on a confident sample, so an attack
    that normalizes its steps never stalls on one.

    Args:
      logits: ``[..., C]`` with ``C >= 2``.
      label: ``[...]`` integer classes.

    Returns:
      ``[...]``; minus the logit margin of LiRA (Carlini et al., arXiv 2112.03570).

    >>> float(log_odds(jnp.array([0.0, 200.0]), jnp.array(1)))  # cross-entropy would be 0 with gradient 0
    -200.0
    """
    is_label = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
    rest = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    return rest - jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)
