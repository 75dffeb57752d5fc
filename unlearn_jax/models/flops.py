"""Operations of a network and the peak of a device, for model FLOP utilization.

An operation is a multiplication or an addition, counted for matrix products and
convolutions alone, which are all but a few percent. Utilization is the operations that
the network needs, whatever was computed, over what the device could have done in that
time (PaLM, arXiv 2204.02311, appendix B).
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from unlearn_jax import onednn
from unlearn_jax.types import ApplyFn, InputError, PyTree

# from the makers' data sheets, without sparsity: TFLOP/s of JAX's default precision in
# float32, in bfloat16
PEAKS = {
    "NVIDIA A100": (156.0, 312.0),  # float32 as TF32
    "NVIDIA H100 80GB HBM3": (494.7, 989.4),
    "NVIDIA H100 PCIe": (378.0, 756.0),
    "NVIDIA H200": (494.7, 989.4),
    "NVIDIA GeForce RTX 4080": (48.7, 97.5),
    "NVIDIA GeForce RTX 4090": (82.6, 165.2),
    "TPU v4": (275.0, 275.0),  # float32 in one pass of bfloat16
    "TPU v5 lite": (197.0, 197.0),
    "TPU v5": (459.0, 459.0),
    "TPU v6 lite": (918.0, 918.0),
}
"""By ``device_kind``; of all variants of a card where they agree (A100)."""


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Return the operations per second that a device can do at most.

    Args:
      device_kind: as ``jax.devices()[0].device_kind`` says.
      dtype: compute type, ``float32`` or ``bfloat16``.

    Returns:
      The peak, or None for a device that is not in :data:`PEAKS` (a slice of one is
      not).
    """
    whole = device_kind.startswith("NVIDIA A100") and " MIG " not in device_kind
    kind = "NVIDIA A100" if whole else device_kind
    return PEAKS[kind][dtype == "bfloat16"] * 1e12 if kind in PEAKS else None


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


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_RULES.get(eqn.primitive.name, _inner)(eqn) for eqn in jaxpr.eqns)


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


def _while(eqn: Any) -> int:
    if any(
        map(_count, (eqn.params["body_jaxpr"].jaxpr, eqn.params["cond_jaxpr"].jaxpr))
    ):
        raise InputError(
            "operations cannot be counted inside a while loop: use lax.scan or"
            " lax.fori_loop"
        )
    return 0


def _inner(eqn: Any) -> int:
    """Count what other operations that hold a program do: calls, derivatives."""
    held = [
        value
        for value in eqn.params.values()
        if isinstance(value, core.Jaxpr | core.ClosedJaxpr)
    ]
    return sum(
        _count(value.jaxpr if isinstance(value, core.ClosedJaxpr) else value)
        for value in held
    )


_RULES: dict[str, Callable[[Any], int]] = {
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    onednn.NAME: _convolution,
    "scan": lambda eqn: eqn.params["length"] * _count(eqn.params["jaxpr"].jaxpr),
    "cond": lambda eqn: max(_count(branch.jaxpr) for branch in eqn.params["branches"]),
    "while": _while,
}
