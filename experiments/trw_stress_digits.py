"""TRW's similarity under stress: spoiled, replaced, predicted; digits.

Claim:   a tilt towards similar classes moves the target towards a retrained model's
         predictions.
Command: unlearn-jax run trw_stress_digits --workdir runs/trw_stress_digits
Results: ``experiments/results/trw_stress_digits.json``
"""

import dataclasses
from typing import Any

from unlearn_jax.methods import SPACES, TRW, InfluenceTarget
from unlearn_jax.pipeline import Row, presets

_BASE = presets.load("class_digits").config
_SEARCH = {"learning_rate": SPACES["trw"]["learning_rate"]}
_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "beta_0": ("No tilt (beta 0)", {"beta": 0.0}),
    "beta_1": ("TRW, beta 1", {"beta": 1.0}),
    "beta_10": ("TRW, beta 10", {"beta": 10.0}),
    "not_centered": ("Weights not centered", {"beta": 10.0, "center": False}),
    "components": ("3 components", {"beta": 10.0, "num_components": 3}),
    "temperature": ("Temperature 0.1", {"beta": 10.0, "temperature": 0.1}),
    "centroids": ("Centroids", {"beta": 10.0, "similarity": "centroids"}),
    "features": ("By sample: features", {"beta": 10.0, "similarity": "features"}),
    "neighbors": ("By sample: neighbors", {"beta": 10.0, "similarity": "neighbors"}),
    "noise_03": ("Noise 0.3", {"beta": 10.0, "perturb": "noise", "noise": 0.3}),
    "noise_1": ("Noise 1", {"beta": 10.0, "perturb": "noise", "noise": 1.0}),
    "noise_3": ("Noise 3", {"beta": 10.0, "perturb": "noise", "noise": 3.0}),
    "permuted": ("Permuted", {"beta": 10.0, "perturb": "permute"}),
    "flipped": ("Sign flipped", {"beta": 10.0, "perturb": "flip"}),
    "swapped": ("First two swapped", {"beta": 10.0, "perturb": "swap"}),
}
PRESET = dataclasses.replace(
    _BASE,
    title="TRW's similarity on digits",
    replicas=dataclasses.replace(_BASE.replicas, references=0),
    audit=dataclasses.replace(_BASE.audit, lira=False, targets=True),
    rows={
        key: Row(label=label, method=TRW(num_epochs=10, **options), search=_SEARCH)
        for key, (label, options) in _KINDS.items()
    }
    | {
        "influence": Row(
            label="Influence target", method=InfluenceTarget(num_epochs=10)
        )
    },
)
