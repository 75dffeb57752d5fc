"""Search spaces: the hyperparameters of each method that its authors tuned."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unlearn_jax.types import InputError

Space = Mapping[str, Any]
"""Names of fields to ``{"low": .., "high": ..}``, searched on a logarithmic scale, or
to a list of choices."""


def _range(low: float, high: float) -> dict[str, float]:
    return {"low": low, "high": high}


_DECAY = [0, 5]

SPACES: dict[str, dict[str, Any]] = {
    "finetune": {"learning_rate": _range(1e-3, 0.3), "decay_every": _DECAY},
    "gradient_ascent": {"learning_rate": _range(1e-6, 1e-2)},
    "neggrad_plus": {"learning_rate": _range(1e-3, 0.3), "alpha": _range(0.8, 0.999)},
    "random_label": {"learning_rate": _range(1e-3, 0.3), "decay_every": _DECAY},
    "boundary_shrink": {"learning_rate": _range(1e-6, 1e-2)},
    "l1_sparse": {"learning_rate": _range(1e-3, 0.3), "gamma": _range(1e-6, 1e-3)},
    "salun": {"learning_rate": _range(1e-3, 0.3), "fraction": _range(0.1, 0.9)},
    "scrub": {"learning_rate": _range(1e-4, 0.1), "alpha": _range(1e-3, 1.0)},
    "scar": {
        "learning_rate": _range(5e-5, 5e-3),
        "distill_weight": _range(0.1, 25.0),
    },
    "uam": {"learning_rate": _range(1e-3, 0.3), "rho": _range(0.01, 3.0)},
    "bad_teacher": {"learning_rate": _range(1e-5, 1e-2)},
    "boundary_expand": {"learning_rate": _range(1e-5, 0.1)},
    "svd_projection": {
        "alpha_retain": _range(10.0, 1000.0),
        "alpha_forget": _range(1.0, 100.0),
    },
    "unsir": {"learning_rate": _range(1e-4, 0.03), "repair_rate": _range(1e-4, 0.03)},
    "l2ul": {"learning_rate": _range(5e-4, 0.02)},
    "delete": {"learning_rate": _range(1e-4, 0.1)},
    "trw": {"learning_rate": _range(1e-3, 0.3), "beta": _range(0.5, 30.0)},
    "influence_target": {"learning_rate": _range(1e-3, 0.3)},
    "ssd": {"alpha": _range(0.1, 30.0), "importance": ["sample", "batch"]},
    "influence": {"alpha": _range(0.1, 100.0)},
    "ntk_influence": {"alpha": _range(0.1, 1.0)},
    "fisher": {"alpha": _range(1e-8, 1e-4)},
    "masked_small_gradients": {
        "learning_rate": _range(1e-3, 0.3),
        "init_rate": _range(0.03, 0.9),
    },
    "convolution_transpose": {"learning_rate": _range(1e-3, 0.3)},
    "amun": {"learning_rate": _range(1e-3, 0.3), "decay_every": _DECAY},
    "amun_salun": {"learning_rate": _range(1e-3, 0.3), "fraction": _range(0.1, 0.9)},
}
"""The default search of each method: the range that its authors or later re-runs
searched, with three changes.

For class unlearning the authors' ranges are those of SVD projection alone; TRW's beta
lies around its published 10. Learning rates go up to 0.3 (GA and BS: 0.01), because
small networks want larger steps, and down to where ten epochs move nothing; SSD tries
both readings of its importance; l1-sparse's gamma goes up to 1e-3. The rate decays to a
tenth after five epochs or not at all (AMUN also searches after every epoch).
"""


def draw_trials(space: Space, count: int) -> list[dict[str, Any]]:
    """Return the settings of a search: a grid of choices and of log-spaced values.

    The ends of every range are included. Levels are dealt out to the ranges in turn,
    the first range first, for as long as the grid holds at most ``count`` settings: 12
    trials of a rate and a fraction are 4 rates by 3 fractions. A range with a single
    level is at its middle.

    Args:
      space: hyperparameters with their ranges or choices.
      count: trials allowed.

    Returns:
      At most ``count`` settings, a value per hyperparameter; floats have three
      significant digits.

    Raises:
      InputError: an unusable range, or more choices than trials.

    >>> trials = draw_trials({"rate": {"low": 0.01, "high": 1.0}}, 3)
    >>> [trial["rate"] for trial in trials]
    [0.01, 0.1, 1.0]
    """
    for name, candidates in space.items():
        _check(name, candidates)
    if not space or count < 1:
        return []
    ranges = [
        name for name, candidates in space.items() if isinstance(candidates, Mapping)
    ]
    num_choices = math.prod(
        len(candidates) for name, candidates in space.items() if name not in ranges
    )
    if num_choices > count:
        raise InputError(
            f"the search has {num_choices} combinations of choices: allow as many"
            " trials, or list fewer"
        )
    num_levels = _deal(ranges, count // num_choices)
    axes = []
    for name, candidates in space.items():
        is_range = name in ranges
        axes.append(_levels(candidates, num_levels[name]) if is_range else candidates)
    return [
        dict(zip(space, setting, strict=True)) for setting in itertools.product(*axes)
    ]


def _deal(ranges: Sequence[str], count: int) -> dict[str, int]:
    """Return the number of levels of each range; their product is at most ``count``."""
    levels = dict.fromkeys(ranges, 1)
    has_grown = True
    while has_grown:
        has_grown = False
        for name in ranges:
            others = math.prod(levels.values()) // levels[name]
            if others * (levels[name] + 1) <= count:
                levels[name] += 1
                has_grown = True
    return levels


def _levels(limits: Mapping[str, float], count: int) -> list[float]:
    """Return log-spaced values of a range, rounded to three significant digits."""
    low = limits["low"]
    high = limits["high"]
    levels = np.geomspace(low, high, count) if count > 1 else [math.sqrt(low * high)]
    return sorted({float(f"{level:.3g}") for level in levels})


def _check(name: str, candidates: Any) -> None:
    """Raise on candidates that are neither a range nor a list of choices."""
    if isinstance(candidates, Mapping):
        if (
            set(candidates) != {"low", "high"}
            or not 0 < candidates["low"] <= candidates["high"]
        ):
            raise InputError(
                f"the search of {name!r} needs low and high with 0 < low <= high, got"
                f" {dict(candidates)}"
            )
    elif (
        not isinstance(candidates, Sequence)
        or isinstance(candidates, str)
        or not candidates
    ):
        raise InputError(
            f"the search of {name!r} needs low and high, or a list of choices, got"
            f" {candidates!r}"
        )
