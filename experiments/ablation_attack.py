"""AMUN by search of its adversarial set, and with weaker sets; digits.

Claim:   AMUN needs adversarial examples of its own model that are close; a tenth of the
         gradients finds closer ones than PGD-50 in doubled radii.
Command: unlearn-jax run ablation_attack --workdir runs/ablation_attack
Results: ``experiments/results/ablation_attack.json``
"""

import dataclasses

from unlearn_jax.methods import AMUN
from unlearn_jax.pipeline import AttackConfig, Row, presets
from unlearn_jax.pipeline.config import rows

_BASE = presets.load("digits").config
_LABELS = {
    "": "PGD-50",
    "minimal": "Minimal",
    "minimal_10": "Minimal, 10% deeper",
    "minimal_20": "Minimal, 20% deeper",
    "fast": "Fast gradient",
    "other": "PGD-50, other model",
}


def _rows() -> dict[str, Row]:
    without = rows.without_retain()["amun_no_retain"]
    table = {}
    for attack, label in _LABELS.items():
        table[attack or "pgd"] = Row(label=label, method=AMUN(), attack=attack)
    for attack, label in _LABELS.items():
        table[f"{attack or 'pgd'}_no_retain"] = dataclasses.replace(
            without, label=f"{label}, without D_R", attack=attack
        )
    return table


PRESET = dataclasses.replace(
    _BASE,
    title="AMUN by search of its adversarial set",
    audit=dataclasses.replace(_BASE.audit, theory=True),
    attack=AttackConfig(),
    attacks={
        "minimal": AttackConfig(search="minimal"),
        "minimal_10": AttackConfig(search="minimal", depth=0.1),
        "minimal_20": AttackConfig(search="minimal", depth=0.2),
        "fast": AttackConfig(kind="fast", norm="linf", epsilon_init=0.01),
        "other": AttackConfig(source="other"),
    },
    rows=_rows(),
)
