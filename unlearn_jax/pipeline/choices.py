"""Names that fields of a configuration accept, with a sentence about each."""

import inspect
import re
from collections.abc import Mapping
from typing import Any

from unlearn_jax import extensions
from unlearn_jax.attacks import PGD, Doubling, Grid, LineSearch, Minimal
from unlearn_jax.audit.signals import SIGNALS
from unlearn_jax.data import AUGMENTATIONS
from unlearn_jax.filters import FILTERS
from unlearn_jax.models import ARCHITECTURES
from unlearn_jax.objectives import OBJECTIVES
from unlearn_jax.optimizers import OPTIMIZERS
from unlearn_jax.pipeline import presets
from unlearn_jax.pipeline.config.schema import RMIA_SIGNALS

CONVOLUTIONS = {
    "auto": "On CPU oneDNN's where it was built, else canonical; elsewhere XLA's own.",
    "canonical": "Gradients in the layout that XLA computes fast inside loops on CPU.",
    "lax": "XLA's own.",
    "onednn": "oneDNN's, on CPU, which unlearn-jax doctor --build-onednn builds.",
}
"""Forms of :func:`unlearn_jax.models.convolution_form`."""
MAPPERS = {
    "auto": "The fastest: map on CPU and for convolutions, vmap for others.",
    "loop": "A call of a program for each model.",
    "map": "One program that goes through the models.",
    "vmap": "One program that computes all models at once.",
    "split": "loop, with every batch divided over all devices.",
}
"""Forms of :func:`unlearn_jax.replicas.mapper`."""
SEARCHES = {
    "auto": "doubling on CPU, grid elsewhere.",
    "doubling": Doubling,
    "grid": Grid,
    "minimal": Minimal,
}
"""Searches of :class:`unlearn_jax.attacks.PGD`."""


def choices() -> dict[str, dict[str, str]]:
    """Return a sentence about each accepted name, by option and name."""
    tables: dict[str, Mapping[str, Any]] = {
        "model.name": ARCHITECTURES,
        "model.conv": CONVOLUTIONS,
        "training.augment, joined with +": AUGMENTATIONS,
        "training.objective": OBJECTIVES,
        "replicas.mapper": MAPPERS,
        "attack.kind": {"pgd": PGD, "fast": LineSearch},
        "attack.search": SEARCHES,
        "audit.signal": {
            **{name: SIGNALS[name] for name in RMIA_SIGNALS},
            **_outside("signals"),
        },
        "audit.columns": _outside("columns"),
        "rows.ROW.method": {**presets.methods(), **_outside("methods")},
        "rows.ROW.method.optimizer": OPTIMIZERS,
        "rows.ROW.method.filter": FILTERS,
    }
    sentences: dict[str, dict[str, str]] = {}
    for option, table in tables.items():
        for name, choice in table.items():
            sentences.setdefault(option, {})[name] = _sentence(choice)
    return sentences


def text() -> str:
    """Return the names of all options, one per line."""
    lines = []
    for option, names in choices().items():
        lines += ["", f"names for --{option}"]
        lines += [f"  {name:22} {sentence}" for name, sentence in names.items()]
    return "\n".join(lines)


def _outside(group: extensions.Group) -> dict[str, str]:
    """Return the names that other packages register."""
    return dict.fromkeys(extensions.names(group), "Defined by another package.")


def _sentence(choice: Any) -> str:
    """Return a sentence about a choice: its text, or its docstring's first line.

    The bound options of a partial function are appended, and so is a value that is not
    the default of its type.
    """
    if isinstance(choice, str):
        return choice
    function = getattr(choice, "func", choice)
    is_value = not isinstance(function, type) and not inspect.isroutine(function)
    documented: Any = type(function) if is_value else function
    line = (inspect.getdoc(documented) or "").split("\n")[0]
    options = getattr(choice, "keywords", {})
    if options:
        listed = ", ".join(f"{name}={value}" for name, value in options.items())
        line = f"{line} Here {listed}."
    elif is_value and function != documented():
        line = f"{line} Here {function}."
    return re.sub(r":\w+:`([^`]+)`", r"`\1`", line).replace("``", "`")
