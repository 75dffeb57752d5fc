"""Names of what other packages bring: methods, columns of tables, membership signals.

A name is ``package.module:attribute``, or that of an entry point of the installed
package in the group ``unlearn_jax.methods``, ``unlearn_jax.columns`` or
``unlearn_jax.signals``.
"""

import functools
import importlib
from importlib import metadata
from typing import Any, Literal

Group = Literal["methods", "columns", "signals"]


@functools.cache
def names(group: Group) -> tuple[str, ...]:
    """Return the names of a group's entry points, in alphabetical order."""
    points = metadata.entry_points(group=f"unlearn_jax.{group}")
    return tuple(sorted({one.name for one in points}))


@functools.cache
def find(group: Group, name: str) -> Any:
    """Return what a name stands for, imported.

    Args:
      group: of the entry points.
      name: ``package.module:attribute``, or an entry point's.

    Raises:
      InputError: there is nothing of that name, or it cannot be imported.
    """
    try:
        if ":" in name:
            module, _, attribute = name.partition(":")
            return getattr(importlib.import_module(module), attribute)
        (point, *_) = metadata.entry_points(group=f"unlearn_jax.{group}", name=name)
        return point.load()
    except (ImportError, AttributeError, ValueError) as error:
        # `unlearn-jax list` imports this module, and JAX takes most of a second
        from unlearn_jax.types import InputError

        known = ", ".join(names(group)) or "none"
        raise InputError(
            f"{name!r} is none of the {group}: give package.module:attribute, or an"
            f" installed entry point ({known}): {error}"
        ) from None
