"""Checks of the hyperparameters of attacks, before anything is traced."""

import math
import operator
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from unlearn_jax.attacks.norms import Norm
from unlearn_jax.types import InputError

KINDS = (jnp.integer, jnp.floating)
"""Types of numbers; booleans are none."""


def check_counts(low: int = 1, **counts: Any) -> None:
    """Raise on numbers of steps, radii or samples that are no integers, or too small.

    Traced ones pass.

    Args:
      low: smallest allowed, 0 or 1.
      **counts: by name.

    Raises:
      InputError: naming the number.
    """
    for name, count in counts.items():
        if isinstance(count, Tracer):
            continue
        try:
            is_integer = not isinstance(count, bool | np.bool_)
            is_allowed = is_integer and operator.index(count) >= low
        except TypeError:
            is_allowed = False
        if not is_allowed:
            wanted = "a positive integer" if low else "an integer, 0 or more"
            raise InputError(f"{name} must be {wanted}, got {count!r}")


def check_positive(**numbers: Any) -> None:
    """Raise on numbers that are not positive and finite; traced ones pass.

    Args:
      **numbers: or arrays of them to map over, by name.

    Raises:
      InputError: naming the number.
    """
    for name, number in numbers.items():
        if not _lies_within(number, 0.0, math.inf, is_open=True):
            raise InputError(f"{name} must be positive and finite, got {number!r}")


def check_not_negative(**numbers: Any) -> None:
    """Raise on numbers that are negative or not finite; traced ones pass.

    Args:
      **numbers: or arrays of them to map over, by name.

    Raises:
      InputError: naming the number.
    """
    for name, number in numbers.items():
        if not _lies_within(number, 0.0, math.inf):
            raise InputError(f"{name} must be finite and not negative, got {number!r}")


def check_fractions(**numbers: Any) -> None:
    """Raise on numbers outside [0, 1]; traced ones pass.

    Args:
      **numbers: or arrays of them to map over, by name.

    Raises:
      InputError: naming the number.
    """
    for name, number in numbers.items():
        if not _lies_within(number, 0.0, 1.0):
            raise InputError(f"{name} must be in [0, 1], got {number!r}")


def check_bounds(bounds: Any) -> None:
    """Raise unless an image box is its least and its largest pixel.

    Raises:
      InputError: naming it.
    """
    is_pair = isinstance(bounds, tuple | list) and len(bounds) == 2
    if is_pair and not any(isinstance(bound, str) for bound in bounds):
        low, high = bounds
        if -math.inf < low < high < math.inf:
            return
    raise InputError(f"bounds must be the least and the largest pixel, got {bounds!r}")


def check_functions(*, norm: Any, loss: Callable[..., Any] | None = None) -> None:
    """Raise on a norm or a loss that is given by its name.

    Raises:
      InputError: naming what to pass.
    """
    if not isinstance(norm, Norm):
        raise InputError(
            f"norm must be attacks.l2, attacks.linf or another attacks.Norm, got"
            f" {norm!r}"
        )
    if loss is not None and not callable(loss):
        raise InputError(
            "loss must be a function (logits [B, C], labels [B]) -> [B], such as"
            f" attacks.LOSSES['dlr'], got {loss!r}"
        )


def check_choice(name: str, given: Any, choices: tuple[str, ...]) -> None:
    """Raise on a name that is none of the choices.

    Raises:
      InputError: listing them.
    """
    if given not in choices:
        *first, last = (repr(choice) for choice in choices)
        raise InputError(
            f"unknown {name} {given!r}: choose {', '.join(first)} or {last}"
        )


def _lies_within(
    number: Any, low: float, high: float, *, is_open: bool = False
) -> bool:
    """Return whether numbers are finite and within bounds; traced ones are."""
    if isinstance(number, Tracer):
        return True
    given = np.asarray(number)
    is_number = any(jnp.issubdtype(given.dtype, kind) for kind in KINDS)
    if not is_number:
        return False
    values = given.astype(np.float64)
    is_within = (low <= values) & (values <= high) & np.isfinite(values)
    return bool(np.all(is_within & ((values > low) | (not is_open))))
