"""Trained part of a model's variables, for any kind of pytree."""

import sys
from collections.abc import Callable, Mapping

from unlearn_jax.types import Params, PyTree, Variables


def split_trained(
    variables: PyTree,
) -> tuple[Params, Callable[[Params], PyTree] | None]:
    """Split variables into the trained part and a function that puts it back.

    Args:
      variables: any pytree.

    Returns:
      The trained part, and a function ``params -> variables`` or None. The trained part
      is ``params`` for :class:`unlearn_jax.types.Variables` and for a Linen dictionary
      ``{"params": ...}``, the ``nnx.Param`` leaves for an NNX state, and the whole tree
      otherwise; in the last case the function is None.

    >>> params, rebuild = split_trained({"params": 1.0, "batch_stats": 2.0})
    >>> params, rebuild(3.0)
    (1.0, {'params': 3.0, 'batch_stats': 2.0})
    """
    if isinstance(variables, Variables):
        return variables.params, lambda params: variables._replace(params=params)
    # a process that has not imported NNX has no NNX state
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(variables, nnx.State):
        params, rest = nnx.split_state(variables, nnx.Param, ...)
        return params, lambda params: nnx.merge_state(params, rest)
    if isinstance(variables, Mapping) and "params" in variables:
        return variables["params"], lambda params: {**variables, "params": params}
    return variables, None
