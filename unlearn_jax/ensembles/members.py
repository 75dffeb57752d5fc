"""An ensemble as one model."""

from collections.abc import Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp

from unlearn_jax import targets
from unlearn_jax.types import ApplyFn, Array, Model, Variables


def ensemble_apply(models: Model | Sequence[Model]) -> ApplyFn:
    """Return the logarithm of the members' mean softmax as one model's function.

    Args:
      models: the members' architectures; the variables are then a sequence of the
        members', as in :class:`EnsembleState`. Or one architecture; the variables are
        then a stack, leaves ``[M, ...]``.

    Returns:
      ``(variables, images [B, ...]) -> [B, C]``, finite wherever the members' logits
      are; the same function object for the same models. (The released code takes the
      logarithm of probabilities cut off at 1e-40.)
    """
    if isinstance(models, Model):
        return _stacked_apply(models)
    return _joint_apply(tuple(models))


@lru_cache(maxsize=64)
def _joint_apply(models: tuple[Model, ...]) -> ApplyFn:
    def apply(variables: Sequence[Variables], images: Array) -> Array:
        pairs = zip(models, variables, strict=True)
        return _log_mean([model.apply(one, images) for model, one in pairs])

    return apply


@lru_cache(maxsize=64)
def _stacked_apply(model: Model) -> ApplyFn:
    def apply(variables: Variables, images: Array) -> Array:
        # elsewhere stacked convolutions are grouped ones, and slow
        if targets.platform() == "tpu":
            return _log_mean(jax.vmap(model.apply, (0, None))(variables, images))
        count = len(jax.tree.leaves(variables)[0])
        members = [
            jax.tree.map(lambda leaf, j=j: leaf[j], variables) for j in range(count)
        ]
        return _log_mean([model.apply(one, images) for one in members])

    return apply


def _log_mean(logits: Sequence[Array] | Array) -> Array:
    stacked = jax.nn.log_softmax(
        jnp.stack(list(logits)) if not isinstance(logits, Array) else logits
    )
    return jax.nn.logsumexp(stacked, 0) - jnp.log(len(stacked))
