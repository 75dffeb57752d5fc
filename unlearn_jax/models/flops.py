"""Operations of a network or a program, for model FLOP utilization.

An operation is a multiplication or an addition. Only matrix products and convolutions
are counted, which are all but a few percent of the operations. Utilization is the
number of operations that the network needs (not the number that was computed), divided
by the number that the device could have computed in the same time (PaLM, arXiv
2204.02311, appendix B). The peaks of devices are in :mod:`unlearn_jax.targets`.
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
    """Count the operations of one forward pass, two per multiply-add.

    Args:
      apply_fn: any function ``(variables, images) -> logits``.
      variables: any pytree of arrays or of their shapes.
      images: ``[B, H, W, ch]``, or its shape (``jax.ShapeDtypeStruct``).

    Returns:
      The number of operations for all ``B`` images. The body of a loop counts as often
      as it runs, and a conditional counts as its largest branch.

    Raises:
      InputError: a loop whose length is not known before it runs.

    >>> import jax.numpy as jnp
    >>> forward_flops(lambda w, x: x @ w, jnp.ones((5, 3)), jnp.ones((2, 5)))
    60
    """
    return _count(jax.make_jaxpr(apply_fn)(variables, images).jaxpr)


def training_flops(apply_fn: ApplyFn, variables: PyTree, images: Any) -> int:
    """Count the operations of one training step.

    By convention this is three times the forward pass: the gradients with respect to a
    layer's inputs and to its weights each cost as much as the layer. The first layer
    needs no gradient of its inputs, but this is not subtracted (0.1% of a ResNet-18).
    Arguments and errors are as in :func:`forward_flops`.
    """
    return 3 * forward_flops(apply_fn, variables, images)


@dataclasses.dataclass(frozen=True)
class Operations:
    """Operations of a program on one device.

    Attributes:
      bfloat16: number of operations in bfloat16 products.
      float32: number of operations in products of any other type.
      is_exact: whether the numbers are exact. They are lower bounds if a loop of
        unknown length is counted as one step, or branches of different cost as the
        cheapest one.
    """

    bfloat16: int
    float32: int
    is_exact: bool


def program_flops(jaxpr: core.Jaxpr) -> Operations:
    """Count the operations of any program, on one device of a mapped axis.

    Args:
      jaxpr: jaxpr of the program, such as ``jax.jit(f).trace(*args).jaxpr.jaxpr``.
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
    """Return whether a program, or any program inside it, has a convolution.

    Args:
      jaxpr: jaxpr of the program.
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
    """Yield the programs inside a parameter of an operation."""
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
    # the kernel's input channels are those of a single group
    per_output = math.prod(kernel) // kernel[numbers[0]]
    # the zeros between a strided convolution's outputs, in its gradient, do not count
    inserted = math.prod(eqn.params["lhs_dilation"])
    return 2 * math.prod(eqn.outvars[0].aval.shape) * per_output // inserted


def _adjoint(eqn: Any) -> int:
    """Return the operations of oneDNN's adjoints: those of the convolution itself."""
    first, second = (one.aval.shape for one in eqn.invars)
    if eqn.primitive.name == onednn.OF_IMAGES:
        return 2 * math.prod(first) * math.prod(second[:3])
    return 2 * math.prod(second) * math.prod(eqn.outvars[0].aval.shape[:3])


_PRODUCTS: dict[str, Callable[[Any], int]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    onednn.NAME: _convolution,
    onednn.OF_IMAGES: _adjoint,
    onednn.OF_KERNEL: _adjoint,
}
