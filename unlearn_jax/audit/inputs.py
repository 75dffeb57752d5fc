"""Arguments of the host functions: checked before anything is computed.

Signals are JAX (``signals.py``). What follows them sorts and counts: on a CPU NumPy
does that 2 to 7 times faster than XLA, so the functions of this package take NumPy and
JAX arrays alike and return NumPy. Inside ``jax.jit`` and ``jax.vmap`` they call
:mod:`unlearn_jax.audit.device`, which gives NaN where they raise.
"""

from typing import Any

import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike

from unlearn_jax.types import InputError


def is_traced(*arrays: Any) -> bool:
    """Return whether an argument is traced, so that its values cannot be checked."""
    return any(isinstance(array, Tracer) for array in arrays)


def real_array(name: str, values: ArrayLike, *, ndim: tuple[int, ...]) -> np.ndarray:
    """Return real numbers as float32 or float64, without copying either.

    Args:
      name: what the message calls the argument.
      values: an array of real numbers or booleans.
      ndim: the allowed numbers of axes.

    Returns:
      A float32 or float64 array with the shape of ``values``; every other dtype becomes
      float64. NaN and infinity pass; see :func:`refuse_nan`.

    Raises:
      InputError: the number of axes is not in ``ndim``, there is no element, or the
        elements are not real numbers.
    """
    array = np.asarray(values)
    if array.ndim not in ndim:
        allowed = " or ".join(str(n) for n in ndim)
        raise InputError(
            f"{name} has shape {array.shape}: pass an array with {allowed} axes"
        )
    if array.size == 0:
        raise InputError(f"{name} has shape {array.shape}: pass at least one element")
    if array.dtype in (np.float32, np.float64):
        return array
    if array.dtype.kind in "cOSUMm":
        raise InputError(f"{name} has dtype {array.dtype}: pass real numbers")
    return array.astype(np.float64)


def class_logits(values: ArrayLike) -> np.ndarray:
    """Return logits ``[N, C]``, or raise on fewer than two classes.

    Raises:
      InputError: as :func:`real_array`, or a single output per sample.
    """
    logits = real_array("logits", values, ndim=(2,))
    if logits.shape[1] < 2:
        raise InputError(
            f"logits have shape {logits.shape}: pass [N, C] with at least two classes"
        )
    return logits


def mask_array(name: str, values: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Return a boolean mask.

    Args:
      name: what the message calls the argument.
      values: booleans; indices and 0/1 integers are refused, because a list of indices
        would pass as a mask.
      shape: the shape the mask must have.

    Returns:
      A bool array of that shape.

    Raises:
      InputError: other dtype or other shape.
    """
    array = np.asarray(values)
    if array.dtype != np.bool_:
        raise InputError(
            f"{name} has dtype {array.dtype}: pass a boolean mask of shape {shape}"
        )
    if array.shape != shape:
        raise InputError(
            f"{name} has shape {array.shape}: pass a boolean mask of shape {shape}"
        )
    return array


def refuse_nan(name: str, array: np.ndarray) -> None:
    """Raise an InputError that counts the NaNs of ``array``, if it has any."""
    count = int(np.isnan(array).sum())
    if count:
        raise InputError(
            f"{name} has {count} NaN: drop those samples or repair the model that"
            " produced them"
        )


def refuse_infinite(name: str, array: np.ndarray) -> None:
    """Raise an InputError that counts the NaNs and infinities of ``array``."""
    count = int((~np.isfinite(array)).sum())
    if count:
        raise InputError(
            f"{name} has {count} values that are NaN or infinite: pass finite numbers"
        )


def check_seed(seed: int) -> None:
    """Raise an InputError unless NumPy's generator takes the seed."""
    if not isinstance(seed, int | np.integer):
        raise InputError(f"seed is {seed!r}: pass an integer")
    if seed < 0:
        raise InputError(f"seed is {seed}: pass a number of at least 0")


def check_level(level: float) -> None:
    """Raise an InputError unless the confidence level is strictly between 0 and 1."""
    if not 0.0 < level < 1.0:
        raise InputError(
            f"level is {level}: pass a confidence level between 0 and 1, such as 0.95"
        )
