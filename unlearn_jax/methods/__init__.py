"""Unlearning methods: pure functions ``(key, problem) -> (variables, info)``, made by factories that take the knobs.

``METHODS`` is the registry. A method of your own is one factory and one line: ``METHODS["mine"] = my_factory``.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from unlearn_jax.methods.amun import amun
from unlearn_jax.methods.base import FineTuning, attack_forget_set, finetune_on, forget_set, make_problem
from unlearn_jax.methods.finetune import finetune
from unlearn_jax.methods.nothing import nothing
from unlearn_jax.methods.retrain import retrain
from unlearn_jax.types import InputError, UnlearnFn

METHODS: dict[str, Callable[..., UnlearnFn]] = {
    "nothing": nothing,
    "retrain": retrain,
    "finetune": finetune,
    "amun": amun,
}


def knobs_of(name: str) -> dict[str, Any]:
    """The knobs of a registered method with their defaults, ``{}`` of :class:`FineTuning` included where it takes them.

    Raises:
      InputError: unknown method.

    >>> knobs_of("amun")["retain"], knobs_of("amun")["num_epochs"]
    (True, 10)
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose one of {', '.join(sorted(METHODS))}")
    knobs = {}
    for parameter in inspect.signature(METHODS[name]).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            knobs |= {field.name: field.default for field in dataclasses.fields(FineTuning)}
        else:
            knobs[parameter.name] = parameter.default
    return knobs


def make_method(name: str, **knobs: Any) -> UnlearnFn:
    """A registered method with its knobs.

    Raises:
      InputError: unknown method or knob, or a knob's unusable value.

    >>> make_method("amun", learning_rat=0.1)
    Traceback (most recent call last):
    ...
    unlearn_jax.types.InputError: method 'amun' has no knob 'learning_rat'; it has attack, augment, batch_size, ...
    """
    if unknown := sorted(set(knobs) - set(known := knobs_of(name))):
        raise InputError(f"method {name!r} has no knob {unknown[0]!r}; it has {', '.join(sorted(known)) or 'none'}")
    return METHODS[name](**knobs)


__all__ = [
    "METHODS",
    "FineTuning",
    "amun",
    "attack_forget_set",
    "finetune",
    "finetune_on",
    "forget_set",
    "knobs_of",
    "make_method",
    "make_problem",
    "nothing",
    "retrain",
]
