"""Checks of an attack's bounds, norm and loss, before anything is traced."""

from collections.abc import Callable
from typing import Any

from unlearn_jax.attacks.norms import Norm
from unlearn_jax.types import InputError


def check_bounds(bounds: Any) -> None:
    """Raise unless bounds are the smallest and the largest pixel value.

    They may be infinite, for inputs that are not images.

    Raises:
      InputError: bounds that are not an increasing pair; the message shows them.
    """
    is_pair = isinstance(bounds, tuple | list) and len(bounds) == 2
    if is_pair and not any(isinstance(bound, str) for bound in bounds):
        low, high = bounds
        if low < high:
            return
    raise InputError(f"bounds must be the least and the largest pixel, got {bounds!r}")


def check_functions(*, norm: Any, loss: Callable[..., Any] | None = None) -> None:
    """Raise on a norm that is not a ``Norm`` or a loss that is not a function.

    Raises:
      InputError: such an argument, for example a name; the message says what to pass.
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
