"""An ensemble as one model."""

from collections.abc import Sequence
from functools import lru_cache

import jax
import jax.numpy as jnp

from unlearn_jax import targets
from unlearn_jax.types import ApplyFn, Array, Model, Variables, pure_functions


def ensemble_apply(models: Model | Sequence[Model]) -> ApplyFn:
    """Return an apply function for the logarithm of the members' mean softmax.

    Args:
      models: sequence of the members' architectures, whose variables are a sequence
        too, as in :class:`unlearn_jax.ensembles.EnsembleState`; or one architecture,
        whose variables are stacked, with leaves ``[M, ...]``.

    Returns:
      ``(variables, images [B, ...]) -> [B, C]``, finite wherever the members' logits
      are finite. The same models return the same function object. (The released code
      takes the logarithm of probabilities cut off at 1e-40.)
    """
    if isinstance(models, Model):
        return _stacked_apply(models)
    return _joint_apply(tuple(models))


@lru_cache(maxsize=64)
def _joint_apply(models: tuple[Model, ...]) -> ApplyFn:
    def apply(variables: Sequence[Variables], images: Array) -> Array:
        pairs = zip(models, variables, strict=True)
        return _log_mean([model.apply(one, images) for model, one in pairs])

    pure_functions.add(apply)
    return apply


@lru_cache(maxsize=64)
def _stacked_apply(model: Model) -> ApplyFn:
    def apply(variables: Variables, images: Array) -> Array:
        # On other platforms, stacked convolutions become grouped ones, which are slow.
        if targets.platform() == "tpu":
            return _log_mean(jax.vmap(model.apply, (0, None))(variables, images))
        count = len(jax.tree.leaves(variables)[0])
        members = [
            jax.tree.map(lambda leaf, j=j: leaf[j], variables) for j in range(count)
        ]
        return _log_mean([model.apply(one, images) for one in members])

    pure_functions.add(apply)
    return apply


def _log_mean(logits: Sequence[Array] | Array) -> Array:
    stacked = jax.nn.log_softmax(
        jnp.stack(list(logits)) if not isinstance(logits, Array) else logits
    )
    return jax.nn.logsumexp(stacked, 0) - jnp.log(len(stacked))
