"""What a search tries: the knobs of each method that its authors tuned, in their published ranges."""

from collections.abc import Mapping, Sequence
from typing import Any

from unlearn_jax.types import InputError

Space = Mapping[str, Any]
"""Knob name to ``{"low": .., "high": ..}``, searched on a logarithmic scale, or to a list of choices."""


def _rate(low: float, high: float) -> dict[str, float]:
    return {"low": low, "high": high}


_DECAY = [0, 1, 5]
_WITH_RETAIN = {"learning_rate": _rate(1e-3, 0.3), "decay_every": _DECAY}

SPACES: dict[str, dict[str, Any]] = {
    "finetune": _WITH_RETAIN,
    "gradient_ascent": {"learning_rate": _rate(1e-6, 1e-2)},
    "neggrad_plus": {"learning_rate": _rate(1e-4, 0.1), "alpha": _rate(0.8, 0.999)},
    "random_label": {"learning_rate": _rate(1e-4, 0.3), "decay_every": _DECAY},
    "boundary_shrink": {"learning_rate": _rate(1e-6, 1e-2)},
    "l1_sparse": {"learning_rate": _rate(1e-3, 0.3), "gamma": _rate(1e-6, 1e-3)},
    "salun": {"learning_rate": _rate(1e-4, 0.3), "share": _rate(0.1, 0.9)},
    "scrub": {"learning_rate": _rate(1e-4, 0.1), "alpha": _rate(1e-3, 1.0)},
    "bad_teacher": {"learning_rate": _rate(1e-5, 1e-2)},
    "ssd": {"alpha": _rate(1.0, 10.0), "dampening": _rate(0.1, 5.0)},
    "influence": {"alpha": _rate(0.1, 100.0)},
    "fisher": {"alpha": _rate(1e-8, 1e-4)},
    "masked_small_gradients": {"learning_rate": _rate(1e-4, 0.3), "init_rate": _rate(0.03, 0.9)},
    "convolution_transpose": {"learning_rate": _rate(1e-4, 0.3)},
    "amun": {"learning_rate": _rate(1e-4, 0.3), "decay_every": _DECAY},
    "amun_salun": {"learning_rate": _rate(1e-4, 0.3), "share": _rate(0.1, 0.9)},
}
"""The default search of each method: the range that its authors or later re-runs searched, with three changes. Learning
rates go up to 0.3 (GA and BS: 0.01), because small networks want larger steps, and down to where ten epochs move nothing;
SSD's alpha ends where it selects nothing (|D| / |D_F| at 10%, by sample); l1-sparse's gamma goes up to 1e-3. The decays
are AMUN's: none, or to a tenth after every or every fifth epoch."""


def draw_trials(space: Space, count: int) -> list[dict[str, Any]]:
    """The settings of a search: the first points of a Halton sequence, each knob evenly (in its logarithm) covered.

    Deterministic, and the first trials of a longer search are those of a shorter one.

    Args:
      space: knobs and their ranges or choices.
      count: trials wanted; fewer come back where choices alone make fewer settings.

    Returns:
      Different settings, each a value per knob; floats have three significant digits.

    Raises:
      InputError: a range that is none.

    >>> [trial["rate"] for trial in draw_trials({"rate": {"low": 0.01, "high": 1.0}}, 3)]
    [0.1, 0.0316, 0.316]
    """
    from scipy.stats import qmc  # slow to import

    for name, values in space.items():
        _check(name, values)
    if not space or count < 1:
        return []
    sampler, trials = qmc.Halton(len(space), scramble=False), []
    sampler.fast_forward(1)  # the first point is the corner
    for point in sampler.random(20 * count):
        trial = {name: _value(values, float(where)) for (name, values), where in zip(space.items(), point, strict=True)}
        if trial not in trials:
            trials.append(trial)
        if len(trials) == count:
            break
    return trials


def _value(values: Any, where: float) -> Any:
    if isinstance(values, Mapping):
        return float(f"{values['low'] * (values['high'] / values['low']) ** where:.3g}")
    return values[int(where * len(values))]


def _check(name: str, values: Any) -> None:
    if isinstance(values, Mapping):
        if set(values) != {"low", "high"} or not 0 < values["low"] <= values["high"]:
            raise InputError(f"the search of {name!r} needs low and high with 0 < low <= high, got {dict(values)}")
    elif not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise InputError(f"the search of {name!r} needs low and high, or a list of choices, got {values!r}")
