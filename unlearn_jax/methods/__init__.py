"""Unlearning methods: pure functions ``(key, problem) -> (variables, info)``, made by factories that take the knobs.

``METHODS`` is the registry. A method of your own is one factory and one line:
``METHODS["mine"] = my_factory``.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from unlearn_jax.methods.amun import amun
from unlearn_jax.methods.amun_salun import amun_salun
from unlearn_jax.methods.bad_teacher import bad_teacher
from unlearn_jax.methods.base import (
    FineTuning,
    attack_forget_set,
    finetune_on,
    forget_set,
    make_problem,
)
from unlearn_jax.methods.boundary_expand import boundary_expand
from unlearn_jax.methods.boundary_shrink import boundary_shrink
from unlearn_jax.methods.convolution_transpose import convolution_transpose
from unlearn_jax.methods.delete import delete
from unlearn_jax.methods.finetune import finetune
from unlearn_jax.methods.fisher import fisher
from unlearn_jax.methods.gradient_ascent import gradient_ascent
from unlearn_jax.methods.influence import influence
from unlearn_jax.methods.influence_target import influence_target
from unlearn_jax.methods.l1_sparse import l1_sparse
from unlearn_jax.methods.l2ul import l2ul
from unlearn_jax.methods.masked_small_gradients import masked_small_gradients
from unlearn_jax.methods.neggrad_plus import neggrad_plus
from unlearn_jax.methods.nothing import nothing
from unlearn_jax.methods.ntk_influence import ntk_influence
from unlearn_jax.methods.passes import Pass, finetune_passes
from unlearn_jax.methods.random_label import random_label
from unlearn_jax.methods.retrain import retrain
from unlearn_jax.methods.saliency import freeze_outside, saliency_mask
from unlearn_jax.methods.salun import salun
from unlearn_jax.methods.scrub import scrub
from unlearn_jax.methods.sequence import unlearn_sequence
from unlearn_jax.methods.spaces import SPACES, draw_trials
from unlearn_jax.methods.ssd import ssd
from unlearn_jax.methods.svd_projection import svd_projection
from unlearn_jax.methods.trw import trw
from unlearn_jax.methods.unsir import unsir
from unlearn_jax.types import InputError, UnlearnFn

METHODS: dict[str, Callable[..., UnlearnFn]] = {
    "nothing": nothing,
    "retrain": retrain,
    "finetune": finetune,
    "gradient_ascent": gradient_ascent,
    "neggrad_plus": neggrad_plus,
    "random_label": random_label,
    "boundary_shrink": boundary_shrink,
    "boundary_expand": boundary_expand,
    "l1_sparse": l1_sparse,
    "salun": salun,
    "scrub": scrub,
    "bad_teacher": bad_teacher,
    "ssd": ssd,
    "svd_projection": svd_projection,
    "unsir": unsir,
    "l2ul": l2ul,
    "delete": delete,
    "trw": trw,
    "influence_target": influence_target,
    "influence": influence,
    "ntk_influence": ntk_influence,
    "fisher": fisher,
    "masked_small_gradients": masked_small_gradients,
    "convolution_transpose": convolution_transpose,
    "amun": amun,
    "amun_salun": amun_salun,
}


def knobs_of(name: str) -> dict[str, Any]:
    """The knobs of a registered method with their defaults, ``{}`` of :class:`FineTuning` included where it takes them.

    Raises:
      InputError: unknown method.

    >>> knobs_of("amun")["retain"], knobs_of("amun")["num_epochs"]
    (True, 10)
    """
    if name not in METHODS:
        raise InputError(
            f"unknown method {name!r}; choose one of {', '.join(sorted(METHODS))}"
        )
    knobs = {}
    for parameter in inspect.signature(METHODS[name]).parameters.values():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            knobs |= {
                field.name: field.default
                for field in dataclasses.fields(FineTuning)
                if field.name not in knobs
            }
        else:
            knobs[parameter.name] = parameter.default
    return knobs


def tuning_knobs_of(name: str) -> set[str]:
    """The knobs that a registered method takes over from :class:`FineTuning` without a default of its own."""
    parameters = inspect.signature(METHODS[name]).parameters.values()
    if not any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters
    ):
        return set()
    return {field.name for field in dataclasses.fields(FineTuning)} - {
        parameter.name for parameter in parameters
    }


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
        raise InputError(
            f"method {name!r} has no knob {unknown[0]!r}; it has"
            f" {', '.join(sorted(known)) or 'none'}"
        )
    return METHODS[name](**knobs)


__all__ = [
    "METHODS",
    "SPACES",
    "FineTuning",
    "Pass",
    "amun",
    "amun_salun",
    "attack_forget_set",
    "bad_teacher",
    "boundary_expand",
    "boundary_shrink",
    "convolution_transpose",
    "delete",
    "draw_trials",
    "finetune",
    "finetune_on",
    "finetune_passes",
    "fisher",
    "forget_set",
    "freeze_outside",
    "gradient_ascent",
    "influence",
    "influence_target",
    "knobs_of",
    "l1_sparse",
    "l2ul",
    "make_method",
    "make_problem",
    "masked_small_gradients",
    "neggrad_plus",
    "nothing",
    "ntk_influence",
    "random_label",
    "retrain",
    "saliency_mask",
    "salun",
    "scrub",
    "ssd",
    "svd_projection",
    "trw",
    "unlearn_sequence",
    "unsir",
]
