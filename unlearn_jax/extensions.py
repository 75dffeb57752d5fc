"""Extensions by other packages: methods, columns of tables, membership signals.

An extension is named ``package.module:attribute``, or by an entry point that an
installed package has in the group ``unlearn_jax.methods``, ``unlearn_jax.columns`` or
``unlearn_jax.signals``.
"""

import functools
import importlib
import os
import sys
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
    """Import and return the object that a name stands for.

    Args:
      group: group of the entry points.
      name: ``package.module:attribute``, or the name of an entry point. Modules in
        the current folder are found, too.

    Raises:
      InputError: the name is unknown, or its object cannot be imported.
    """
    try:
        if ":" in name:
            if os.getcwd() not in sys.path:
                # as for python -c; a command's own path lacks the current folder
                sys.path.append(os.getcwd())
            module, _, attribute = name.partition(":")
            return getattr(importlib.import_module(module), attribute)
        points = metadata.entry_points(group=f"unlearn_jax.{group}", name=name)
        if not points:
            raise ValueError("there is none of this name")
        return next(iter(points)).load()
    except (ImportError, AttributeError, ValueError) as error:
        # `unlearn-jax list` imports this module; importing JAX takes most of a second
        from unlearn_jax.types import InputError

        known = ", ".join(names(group)) or "none"
        raise InputError(
            f"{name!r} is not one of the {group}: give package.module:attribute, or an"
            f" installed entry point ({known}): {error}"
        ) from None
