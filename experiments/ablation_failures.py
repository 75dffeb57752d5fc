"""Policies of AMUN for samples without an adversarial example; digits.

Claim:   which policy keeps AMUN working where its search fails.
Command: unlearn-jax run ablation_failures --workdir runs/ablation_failures
Results: ``experiments/results/ablation_failures.json``
"""

import dataclasses

from unlearn_jax.methods import AMUN
from unlearn_jax.pipeline import Row, TuningConfig, presets

_POLICIES = {
    "drop": "drop",
    "random_label": "random label",
    "runner_up": "runner-up class",
    "targeted": "targeted retry",
    "keep": "keep last iterate",
}
_SHARES = (10, 25, 50, 90)
_AMUN = AMUN(retain=False, learning_rate=0.01)
_BASE = presets.load("digits").config


def _rows() -> dict[str, Row]:
    rows = {"fail0": Row(label="No failures", method=_AMUN)}
    for share in _SHARES:
        for policy, label in _POLICIES.items():
            rows[f"fail{share}-{policy}"] = Row(
                label=f"{share}% fail: {label}",
                method=dataclasses.replace(_AMUN, failures=policy),
                attack=f"fail{share}",
            )
    rows["forget_only"] = Row(
        label="D_F twice, no D_A", method=dataclasses.replace(_AMUN, replace="original")
    )
    return rows


PRESET = dataclasses.replace(
    _BASE,
    title="Failed searches",
    tuning=TuningConfig(),
    attacks={
        f"fail{share}": dataclasses.replace(_BASE.attack, failures=share / 100)
        for share in _SHARES
    },
    rows=_rows(),
)
