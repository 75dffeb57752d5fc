"""The trained part of a model's variables, whatever pytree they are."""

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
      The ``params`` of :class:`unlearn_jax.types.Variables` and of a Linen collection
      ``{"params": ...}``, the ``nnx.Param`` of an NNX state, or the whole of any other
      tree; and ``params -> variables``, None where the whole tree is trained.

    >>> params, rebuild = split_trained({"params": 1.0, "batch_stats": 2.0})
    >>> params, rebuild(3.0)
    (1.0, {'params': 3.0, 'batch_stats': 2.0})
    """
    if isinstance(variables, Variables):
        return variables.params, lambda params: variables._replace(params=params)
    # a process without NNX has no state of it
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(variables, nnx.State):
        params, rest = nnx.split_state(variables, nnx.Param, ...)
        return params, lambda params: nnx.merge_state(params, rest)
    if isinstance(variables, Mapping) and "params" in variables:
        return variables["params"], lambda params: {**variables, "params": params}
    return variables, None
