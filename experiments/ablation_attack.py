"""A weaker attack, and another model's adversarial set, in AMUN; digits.

Claim:   AMUN gets worse with a weaker attack or with another model's adversarial set.
Command: unlearn-jax run ablation_attack --workdir runs/ablation_attack
Time:    1 to 5 minutes with other jobs running.
Device:  2 CPU cores (x86-64, AVX-512).
Results: ``experiments/results/ablation_attack.json``
"""

import dataclasses

from unlearn_jax.methods import AMUN
from unlearn_jax.pipeline import Row, presets
from unlearn_jax.pipeline.config import rows

_BASE = presets.load("digits").config

PRESET = dataclasses.replace(
    _BASE,
    title="Weaker and transferred adversarial sets",
    audit=dataclasses.replace(_BASE.audit, theory=True),
    attacks={
        "fast": dataclasses.replace(
            _BASE.attack, kind="fast", norm="linf", epsilon_init=0.01
        ),
        "other": dataclasses.replace(_BASE.attack, source="other"),
    },
    # a set of another model needs two
    tuning=dataclasses.replace(_BASE.tuning, originals=(101, 102)),
    rows={
        f"{attack or 'pgd'}{suffix}": dataclasses.replace(
            row, label=label + end, attack=attack
        )
        for suffix, end, row in (
            ("", "", Row(method=AMUN())),
            ("_no_retain", ", without D_R", rows.without_retain()["amun_no_retain"]),
        )
        for attack, label in {
            "": "PGD-50",
            "fast": "Fast gradient",
            "other": "PGD-50, other model",
        }.items()
    },
)
