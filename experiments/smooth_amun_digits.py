"""Smooth AMUN: networks held at several norms by FastClip; digits.

Claim:   AMUN comes closer to retraining on smooth networks.
Command: unlearn-jax run smooth_amun_digits --workdir runs/smooth_amun_digits
Results: ``experiments/results/smooth_amun_digits.json``
"""

import dataclasses

from unlearn_jax.pipeline import RunConfig, presets

_BASE = presets.load("digits").config


def _at(max_norm: float | None, title: str, gamma: float = 2.0) -> RunConfig:
    return dataclasses.replace(
        _BASE,
        title=f"Smooth AMUN on digits: {title}",
        training=dataclasses.replace(_BASE.training, max_norm=max_norm, clip_period=50),
        audit=dataclasses.replace(_BASE.audit, norms=True, theory=True, gamma=gamma),
    )


STUDY = {
    "free": _at(None, "free layers"),
    "norm-4": _at(4.0, "norms of at most 4"),
    "norm-2": _at(2.0, "norms of at most 2"),
    # predictions are so uncertain that no ratio is twice another
    "norm-1": _at(1.0, "norms of at most 1", gamma=1.0),
}
