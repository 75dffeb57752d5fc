"""What a search tries: the knobs of each method that its authors tuned, in their published ranges."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unlearn_jax.types import InputError

Space = Mapping[str, Any]
"""Knob name to ``{"low": .., "high": ..}``, searched on a logarithmic scale, or to a list of choices."""


def _rate(low: float, high: float) -> dict[str, float]:
    return {"low": low, "high": high}


_DECAY = [0, 5]

SPACES: dict[str, dict[str, Any]] = {
    "finetune": {"learning_rate": _rate(1e-3, 0.3), "decay_every": _DECAY},
    "gradient_ascent": {"learning_rate": _rate(1e-6, 1e-2)},
    "neggrad_plus": {"learning_rate": _rate(1e-3, 0.3), "alpha": _rate(0.8, 0.999)},
    "random_label": {"learning_rate": _rate(1e-3, 0.3), "decay_every": _DECAY},
    "boundary_shrink": {"learning_rate": _rate(1e-6, 1e-2)},
    "l1_sparse": {"learning_rate": _rate(1e-3, 0.3), "gamma": _rate(1e-6, 1e-3)},
    "salun": {"learning_rate": _rate(1e-3, 0.3), "share": _rate(0.1, 0.9)},
    "scrub": {"learning_rate": _rate(1e-4, 0.1), "alpha": _rate(1e-3, 1.0)},
    "bad_teacher": {"learning_rate": _rate(1e-5, 1e-2)},
    "boundary_expand": {"learning_rate": _rate(1e-5, 0.1)},
    "svd_projection": {
        "alpha_retain": _rate(10.0, 1000.0),
        "alpha_forget": _rate(1.0, 100.0),
    },
    "unsir": {"learning_rate": _rate(1e-4, 0.03), "repair_rate": _rate(1e-4, 0.03)},
    "l2ul": {"learning_rate": _rate(5e-4, 0.02)},
    "delete": {"learning_rate": _rate(1e-4, 0.1)},
    "trw": {"learning_rate": _rate(1e-3, 0.3), "beta": _rate(0.5, 30.0)},
    "influence_target": {"learning_rate": _rate(1e-3, 0.3)},
    "ssd": {"alpha": _rate(0.1, 30.0), "importance": ["sample", "batch"]},
    "influence": {"alpha": _rate(0.1, 100.0)},
    "ntk_influence": {"alpha": _rate(0.1, 1.0)},
    "fisher": {"alpha": _rate(1e-8, 1e-4)},
    "masked_small_gradients": {
        "learning_rate": _rate(1e-3, 0.3),
        "init_rate": _rate(0.03, 0.9),
    },
    "convolution_transpose": {"learning_rate": _rate(1e-3, 0.3)},
    "amun": {"learning_rate": _rate(1e-3, 0.3), "decay_every": _DECAY},
    "amun_salun": {"learning_rate": _rate(1e-3, 0.3), "share": _rate(0.1, 0.9)},
}
"""The default search of each method: the range that its authors or later re-runs searched, with three changes.

For class unlearning the authors' ranges are those of SVD projection alone; TRW's beta
lies around its published 10. Learning rates go up to 0.3 (GA and BS: 0.01), because
small networks want larger steps, and down to where ten epochs move nothing; SSD tries
both readings of its importance; l1-sparse's gamma goes up to 1e-3. The rate decays to a
tenth after five epochs or not at all (AMUN also searches after every epoch).
"""


def draw_trials(space: Space, count: int) -> list[dict[str, Any]]:
    """The settings of a search: a grid of all choices and of log-spaced values, the ends of every range included.

    Levels are dealt out to the ranges in turn, the first range first, for as long as
    the grid holds at most ``count`` settings: 12 trials of a rate and a share are 4
    rates by 3 shares. A range with a single level is at its middle.

    Args:
      space: knobs and their ranges or choices.
      count: trials allowed.

    Returns:
      At most ``count`` settings, a value per knob; floats have three significant
      digits.

    Raises:
      InputError: a range that is none, or more choices than trials.

    >>> [trial["rate"] for trial in draw_trials({"rate": {"low": 0.01, "high": 1.0}}, 3)]
    [0.01, 0.1, 1.0]
    """
    for name, values in space.items():
        _check(name, values)
    if not space or count < 1:
        return []
    ranges = [name for name, values in space.items() if isinstance(values, Mapping)]
    choices = math.prod(
        len(values) for name, values in space.items() if name not in ranges
    )
    if choices > count:
        raise InputError(
            f"the search has {choices} combinations of choices: allow as many trials,"
            " or list fewer"
        )
    levels = _deal(ranges, count // choices)
    axes = [
        _levels(space[name], levels[name]) if name in ranges else list(space[name])
        for name in space
    ]
    return [
        dict(zip(space, setting, strict=True)) for setting in itertools.product(*axes)
    ]


def _deal(ranges: Sequence[str], count: int) -> dict[str, int]:
    """How many levels each range gets, so that their product is at most ``count``."""
    levels, grown = dict.fromkeys(ranges, 1), True
    while grown:
        grown = False
        for name in ranges:
            if math.prod(levels.values()) // levels[name] * (levels[name] + 1) <= count:
                levels[name] += 1
                grown = True
    return levels


def _levels(values: Mapping[str, float], count: int) -> list[float]:
    low, high = values["low"], values["high"]
    found = np.geomspace(low, high, count) if count > 1 else [math.sqrt(low * high)]
    return sorted({float(f"{value:.3g}") for value in found})


def _check(name: str, values: Any) -> None:
    if isinstance(values, Mapping):
        if set(values) != {"low", "high"} or not 0 < values["low"] <= values["high"]:
            raise InputError(
                f"the search of {name!r} needs low and high with 0 < low <= high, got"
                f" {dict(values)}"
            )
    elif not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise InputError(
            f"the search of {name!r} needs low and high, or a list of choices, got"
            f" {values!r}"
        )
