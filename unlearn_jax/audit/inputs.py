"""Checks of the host functions' arguments, before anything is computed.

Signals (``signals.py``) are JAX functions. The other functions of this package sort and
count, which NumPy does 2 to 7 times faster than XLA on a CPU. They therefore accept
NumPy and JAX arrays and return NumPy arrays. Under ``jax.jit`` and ``jax.vmap`` those
that :mod:`unlearn_jax.audit.device` has call it. Then only shapes and options are
checked, and NaN, empty classes and too few models give NaN. The others raise.
"""

from typing import Any

import numpy as np
from jax.core import Tracer
from numpy.typing import ArrayLike

from unlearn_jax.types import InputError


def is_traced(*arrays: Any) -> bool:
    """Return whether an argument is traced, so that its values cannot be checked."""
    return any(isinstance(array, Tracer) for array in arrays)


def _on_host(name: str, values: ArrayLike) -> np.ndarray:
    if is_traced(values):
        raise InputError(
            f"{name} is traced: this function runs on the host, call it outside jit and"
            " vmap"
        )
    return np.asarray(values)


def real_array(name: str, values: ArrayLike, *, ndim: tuple[int, ...]) -> np.ndarray:
    """Return real numbers as a float32 or float64 array, checked.

    Args:
      name: name of the argument in the error message.
      values: array of real numbers or booleans.
      ndim: allowed numbers of axes.

    Returns:
      Array with the shape of ``values``. float32 and float64 are not copied; every
      other dtype becomes float64. NaN and infinity are accepted; see
      :func:`refuse_nan`.

    Raises:
      InputError: a traced array, a number of axes that is not in ``ndim``, no elements,
        or elements that are not real numbers.
    """
    array = _on_host(name, values)
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
      InputError: the same cases as :func:`real_array`; a single output per sample.
    """
    logits = real_array("logits", values, ndim=(2,))
    if logits.shape[1] < 2:
        raise InputError(
            f"logits have shape {logits.shape}: pass [N, C] with at least two classes"
        )
    return logits


def mask_array(name: str, values: ArrayLike, shape: tuple[int, ...]) -> np.ndarray:
    """Return a boolean mask, checked.

    Args:
      name: name of the argument in the error message.
      values: booleans; integers are refused, because indices could be taken for a mask.
      shape: required shape of the mask.

    Returns:
      Bool array of that shape.

    Raises:
      InputError: a traced array, another dtype or another shape.
    """
    array = _on_host(name, values)
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
    """Raise an InputError with the number of NaNs in ``array``, if there are any."""
    count = int(np.isnan(array).sum())
    if count:
        raise InputError(
            f"{name} has {count} NaN: drop those samples or repair the model that"
            " produced them"
        )


def refuse_infinite(name: str, array: np.ndarray) -> None:
    """Raise an InputError with the number of NaNs and infinities, if there are any."""
    count = int((~np.isfinite(array)).sum())
    if count:
        raise InputError(
            f"{name} has {count} values that are NaN or infinite: pass finite numbers"
        )


def check_seed(seed: int) -> None:
    """Raise an InputError unless NumPy's generator accepts the seed."""
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
