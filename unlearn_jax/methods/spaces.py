"""Search spaces: the hyperparameters that each method's authors tuned."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unlearn_jax.checks import check_counts, check_positive
from unlearn_jax.types import InputError

Space = Mapping[str, Any]
"""Search by name of field: ``{"low": .., "high": .., "published": ..}``, a range on a
logarithmic scale, or a tuple of choices, the published one first."""


def _range(low: float, high: float, *, published: float) -> dict[str, float]:
    return {"low": low, "high": high, "published": published}


_RATE = _range(1e-3, 0.3, published=0.01)
_DECAY = (0, 5)

SPACES: dict[str, dict[str, Any]] = {
    "finetune": {"learning_rate": _RATE, "decay_every": _DECAY},
    "gradient_ascent": {"learning_rate": _range(1e-6, 1e-2, published=1e-4)},
    "neggrad_plus": {
        "learning_rate": _RATE,
        "alpha": _range(0.8, 0.999, published=0.95),
    },
    "random_label": {"learning_rate": _RATE, "decay_every": _DECAY},
    "boundary_shrink": {"learning_rate": _range(1e-6, 1e-2, published=1e-5)},
    "l1_sparse": {
        "learning_rate": _RATE,
        "gamma": _range(1e-6, 1e-3, published=5e-4),
    },
    "salun": {
        "learning_rate": _range(1e-3, 0.3, published=0.013),
        "fraction": _range(0.1, 0.9, published=0.5),
    },
    "scrub": {
        "learning_rate": _range(1e-4, 0.1, published=5e-4),
        "alpha": _range(1e-3, 1.0, published=1e-3),
    },
    "scar": {
        "learning_rate": _range(5e-5, 5e-3, published=5e-4),
        "distill_weight": _range(0.1, 25.0, published=5.0),
    },
    "uam": {"learning_rate": _RATE, "rho": _range(0.01, 3.0, published=0.1)},
    "bad_teacher": {"learning_rate": _range(1e-5, 1e-2, published=1e-4)},
    "boundary_expand": {"learning_rate": _range(1e-5, 0.1, published=1e-5)},
    "svd_projection": {
        "alpha_retain": _range(10.0, 1000.0, published=100.0),
        "alpha_forget": _range(1.0, 100.0, published=3.0),
    },
    "unsir": {
        "learning_rate": _range(1e-4, 0.03, published=0.02),
        "repair_rate": _range(1e-4, 0.03, published=0.01),
    },
    "l2ul": {"learning_rate": _range(5e-4, 0.02, published=1e-3)},
    "delete": {"learning_rate": _range(1e-4, 0.1, published=1e-4)},
    "trw": {"learning_rate": _RATE, "beta": _range(0.5, 30.0, published=10.0)},
    "influence_target": {"learning_rate": _RATE},
    "ssd": {
        "alpha": _range(0.1, 30.0, published=10.0),
        "importance": ("batch", "sample"),
    },
    "influence": {"alpha": _range(0.1, 100.0, published=1.0)},
    "ntk_influence": {"alpha": _range(0.1, 1.0, published=1.0)},
    "fisher": {"alpha": _range(1e-8, 1e-4, published=1e-6)},
    "masked_small_gradients": {
        "learning_rate": _range(1e-3, 0.3, published=1e-3),
        "init_rate": _range(0.03, 0.9, published=0.3),
    },
    "convolution_transpose": {"learning_rate": _range(1e-3, 0.3, published=1e-3)},
    "amun": {"learning_rate": _RATE, "decay_every": (1, *_DECAY)},
    "amun_salun": {
        "learning_rate": _RATE,
        "fraction": _range(0.1, 0.9, published=0.5),
        "decay_every": (1, *_DECAY),
    },
}
"""Default search space of each method: the range that its authors or later re-runs
searched, and the value that they published, with three changes to the ranges.

For class unlearning, only SVD projection has a range from its authors; the range of
TRW's beta surrounds its published value of 10. Learning rates go up to 0.3 (GA and BS:
0.01), because small networks need larger steps, and down to values at which ten epochs
change nothing.

If authors published only a range, the value is the default of their released code.
AMUN's code decays the rate after every epoch; its paper also searches every fifth epoch
and no decay. SSD's value is for importances of batches. TRW, influence targets and NTK
influence have no published rate or scale, and UAM no radius: their values are ours.
"""


def draw_levels(space: Space, count: int) -> dict[str, list[Any]]:
    """Return the values to try for every hyperparameter, the published one first.

    The other values of a range are log-spaced between the published value and both
    ends, and include the ends. A list of choices is tried entirely.

    Args:
      space: hyperparameters with their ranges or choices. A range without a published
        value starts at its middle.
      count: largest number of values per hyperparameter.

    Returns:
      Values by hyperparameter: the published one, then the others in ascending order
      (choices as listed). Floats other than the published one have three significant
      digits.

    Raises:
      InputError: an unusable range, more choices than ``count``, or a ``count`` below
        1.

    >>> draw_levels({"beta": {"low": 1.0, "high": 100.0, "published": 12.0}}, 3)
    {'beta': [12.0, 1.0, 100.0]}
    """
    check_counts(count=count)
    drawn = {}
    for name, candidates in space.items():
        _check(name, candidates)
        if isinstance(candidates, Mapping):
            drawn[name] = _levels(candidates, count)
            continue
        if len(candidates) > count:
            raise InputError(
                f"the search of {name!r} has {len(candidates)} choices: allow as many"
                " trials, or list fewer"
            )
        drawn[name] = list(candidates)
    return drawn


def _levels(limits: Mapping[str, float], count: int) -> list[float]:
    """Return the published value of a range, and log-spaced others on both sides."""
    low = limits["low"]
    high = limits["high"]
    first = limits.get("published", math.sqrt(low * high))
    if count == 1:
        return [first]
    if not low <= first <= high:
        others = np.geomspace(low, high, count - 1)
    else:
        width = math.log(high / low) or 1.0
        num_below = round((count - 1) * math.log(first / low) / width)
        if low < first < high and count > 2:
            num_below = min(max(num_below, 1), count - 2)  # both ends are tried
        below = np.geomspace(low, first, num_below + 1)[:-1]
        above = np.geomspace(first, high, count - num_below)[1:]
        others = np.concatenate([below, above])
    rounded = sorted({float(f"{level:.3g}") for level in others} - {first})
    return [first, *rounded]


def _check(name: str, candidates: Any) -> None:
    """Raise on candidates that are neither a range nor a list of choices."""
    if isinstance(candidates, Mapping):
        is_range = set(candidates) - {"published"} == {"low", "high"}
        if is_range:
            check_positive(**{f"{name}'s {end}": n for end, n in candidates.items()})
        if not is_range or candidates["low"] > candidates["high"]:
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
