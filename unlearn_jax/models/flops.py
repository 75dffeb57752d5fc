"""Operations of a network or a program, for model FLOP utilization.

An operation is a multiplication or an addition, counted for matrix products and
convolutions alone, which are all but a few percent. Utilization is the operations that
the network needs, whatever was computed, over what the device could have done in that
time (PaLM, arXiv 2204.02311, appendix B); the peaks of devices are in
:mod:`unlearn_jax.targets`.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend import core

from unlearn_jax import onednn
from unlearn_jax.types import ApplyFn, InputError, PyTree


def forward_flops(apply_fn: ApplyFn, variables: PyTree, images: Any) -> int:
    """Count the operations of one forward pass, two per multiplication with addition.

    Args:
      apply_fn: any ``(variables, images) -> logits``.
      variables: any pytree, of arrays or of their shapes.
      images: ``[B, H, W, ch]``, or its shape (``jax.ShapeDtypeStruct``).

    Returns:
      Of all ``B`` images. Loops count as often as they run, branches as their largest.

    Raises:
      InputError: a loop whose length is not known before it runs.

    >>> import jax.numpy as jnp
    >>> forward_flops(lambda w, x: x @ w, jnp.ones((5, 3)), jnp.ones((2, 5)))
    60
    """
    return _count(jax.make_jaxpr(apply_fn)(variables, images).jaxpr)


def training_flops(apply_fn: ApplyFn, variables: PyTree, images: Any) -> int:
    """Count the operations of one training step.

    Three times the forward pass, as is the convention. The gradients by a layer's
    inputs and by its weights cost as much as the layer each; the first layer's inputs
    need none, which is not taken off (0.1% of a ResNet-18). Arguments and errors as
    :func:`forward_flops`.
    """
    return 3 * forward_flops(apply_fn, variables, images)


@dataclasses.dataclass(frozen=True)
class Operations:
    """Operations of a program on one device.

    Attributes:
      bfloat16: of products of that type.
      float32: of products of other types.
      is_exact: False if a loop of unknown length is counted as one step, or branches
        of different cost as the cheapest one: fewer operations than it may take.
    """

    bfloat16: int
    float32: int
    is_exact: bool


def program_flops(jaxpr: core.Jaxpr) -> Operations:
    """Count the operations of any program, those of a mapped axis on one device.

    Args:
      jaxpr: of the program, such as ``jax.jit(f).trace(*args).jaxpr.jaxpr``.
    """
    counts: Counter[str] = Counter()

    def walk(jaxpr: core.Jaxpr, times: int) -> bool:
        is_exact = True
        for eqn in jaxpr.eqns:
            name = eqn.primitive.name
            if name in _PRODUCTS:
                operand: Any = eqn.invars[0].aval
                dtype = operand.dtype.name
                counts[dtype] += times * _PRODUCTS[name](eqn)
                continue
            length = eqn.params["length"] if name == "scan" else 1
            held = [value for param in eqn.params.values() for value in _held(param)]
            if name == "cond":
                costs = [_count(one, loops_once=True) for one in held]
                is_exact &= min(costs) == max(costs)
                held = [held[costs.index(min(costs))]]
            for inner in held:
                is_exact &= walk(inner, times * length)
            if name == "while":
                is_exact &= not any(_count(one, loops_once=True) for one in held)
        return is_exact

    is_exact = walk(jaxpr, 1)
    bfloat16 = counts.pop("bfloat16", 0)
    return Operations(bfloat16, sum(counts.values()), is_exact)


def has_convolutions(jaxpr: core.Jaxpr) -> bool:
    """Return whether a program convolves, in any of the programs that it holds.

    Args:
      jaxpr: of the program.
    """
    for eqn in jaxpr.eqns:
        if _PRODUCTS.get(eqn.primitive.name) is _convolution:
            return True
        held = [value for param in eqn.params.values() for value in _held(param)]
        if any(map(has_convolutions, held)):
            return True
    return False


def _count(jaxpr: core.Jaxpr, *, loops_once: bool = False) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        if name in _PRODUCTS:
            total += _PRODUCTS[name](eqn)
            continue
        inner = [
            _count(one, loops_once=loops_once)
            for param in eqn.params.values()
            for one in _held(param)
        ]
        if name == "while" and any(inner) and not loops_once:
            raise InputError(
                "operations cannot be counted inside a while loop: use lax.scan or"
                " lax.fori_loop"
            )
        if name == "cond":
            total += max(inner)
        else:
            total += sum(inner) * (eqn.params["length"] if name == "scan" else 1)
    return total


def _held(param: Any) -> Iterator[core.Jaxpr]:
    """Yield the programs that a parameter of an operation holds."""
    for value in param if isinstance(param, tuple | list) else (param,):
        if isinstance(value, core.ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, core.Jaxpr):
            yield value


def _dot(eqn: Any) -> int:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left = eqn.invars[0].aval.shape
    return (
        2
        * math.prod(eqn.outvars[0].aval.shape)
        * math.prod(left[axis] for axis in contracted)
    )


def _convolution(eqn: Any) -> int:
    kernel = eqn.invars[1].aval.shape
    numbers = eqn.params["dimension_numbers"].rhs_spec
    # the kernel's inputs are those of one group
    per_output = math.prod(kernel) // kernel[numbers[0]]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * per_output


_PRODUCTS: dict[str, Callable[[Any], int]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    onednn.NAME: _convolution,
}
