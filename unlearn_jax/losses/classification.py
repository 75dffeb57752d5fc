"""Per-example classification losses."""

import chex
import jax
import jax.numpy as jnp

from unlearn_jax.checks import check_range
from unlearn_jax.types import Array, InputError


def cross_entropy(logits: Array, target: Array) -> Array:
    """Return the cross-entropy in nats, against a class or a distribution.

    Args:
      logits: ``[..., C]``.
      target: ``[...]`` integer classes, or ``[..., C]`` probabilities.

    Returns:
      ``[...]``, finite for finite logits.

    Raises:
      InputError: a label outside 0..C-1; traced labels are not checked.
      AssertionError: shapes that do not match; nothing is broadcast.

    >>> float(cross_entropy(jnp.array([0.0, 0.0]), jnp.array(1)))
    0.693...
    """
    target = jnp.asarray(target)
    log_probs = jax.nn.log_softmax(logits)
    if jnp.issubdtype(target.dtype, jnp.integer):
        chex.assert_shape(target, log_probs.shape[:-1])
        check_range(target, log_probs.shape[-1], "cross_entropy")
        return -jnp.take_along_axis(log_probs, target[..., None], -1)[..., 0]
    chex.assert_equal_shape([log_probs, target])
    return -jnp.sum(target * log_probs, -1)


def log_odds(logits: Array, labels: Array) -> Array:
    """Return the log-odds against the labeled class, ``log(1 - p_y) - log p_y``.

    The gradient has exactly the direction of the cross-entropy's (they differ by the
    factor ``1 - p_y``), but does not vanish in float32 on a confident sample. An attack
    that normalizes its steps therefore never stalls on such a sample.

    Args:
      logits: ``[..., C]`` with ``C >= 2``.
      labels: ``[...]`` integer classes.

    Returns:
      ``[...]``; minus the logit margin of LiRA (Carlini et al., arXiv 2112.03570).

    Raises:
      InputError: fewer than two classes, labels that are not integers, or a label
        outside 0..C-1, unless it is traced.
      AssertionError: shapes that do not match; nothing is broadcast.

    >>> confident = jnp.array([0.0, 200.0])  # cross-entropy: 0 with gradient 0
    >>> float(log_odds(confident, jnp.array(1)))
    -200.0
    """
    labels = jnp.asarray(labels)
    if logits.shape[-1] < 2 or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InputError(
            "log_odds takes logits of two classes or more and integer labels, got"
            f" {logits.shape[-1]} classes and {labels.dtype} labels"
        )
    chex.assert_shape(labels, logits.shape[:-1])
    check_range(labels, logits.shape[-1], "log_odds")
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    rest = jax.nn.logsumexp(jnp.where(is_label, -jnp.inf, logits), axis=-1)
    return rest - jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)
