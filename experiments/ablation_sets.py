"""Replacements of AMUN's adversarial set; digits.

Claim:   only adversarial examples with their labels keep the accuracy.
Command: unlearn-jax run ablation_sets --workdir runs/ablation_sets
Results: ``experiments/results/ablation_sets.json``
"""

import dataclasses

from unlearn_jax.methods import AMUN
from unlearn_jax.pipeline import Row, TuningConfig, presets

_SETS = {
    "none": "Adv",
    "original": "Orig",
    "label": "AdvL",
    "random_label": "RL",
    "adversarial_random_label": "ARL",
    "random_point": "ARS",
}
_MIXES = {
    "D_R, D_F": {"retain": True, "forget": True},
    "D_F": {"retain": False, "forget": True},
    "alone": {"retain": False, "forget": False},
}
_PUBLISHED = AMUN(num_epochs=20, learning_rate=0.01, decay_every=5)


def _rows() -> dict[str, Row]:
    rows = {}
    for mix, sets in _MIXES.items():
        for replace, label in _SETS.items():
            rows[f"{replace}-{mix.replace(', ', '_')}"] = Row(
                label=f"{label} alone" if mix == "alone" else f"{label} with {mix}",
                method=dataclasses.replace(_PUBLISHED, replace=replace, **sets),
            )
    return rows


PRESET = dataclasses.replace(
    presets.load("digits").config,
    title="What the adversarial set is replaced by",
    tuning=TuningConfig(),
    rows=_rows(),
)
