"""Policies of AMUN for samples without an adversarial example; digits.

Claim:   which policy keeps AMUN working where its search fails.
Command: unlearn-jax run ablation_failures --workdir runs/ablation_failures
Time:    9 minutes with other jobs running.
Device:  2 CPU cores (x86-64, AVX-512).
Results: ``experiments/results/ablation_failures.json``
"""

import dataclasses

from unlearn_jax.pipeline import TuningConfig, presets

_POLICIES = {
    "drop": "drop",
    "random_label": "random label",
    "runner_up": "runner-up class",
    "targeted": "targeted retry",
    "keep": "keep last iterate",
}
_SHARES = (0, 10, 25, 50, 90)
_KNOBS = {"retain": False, "learning_rate": 0.01}

PRESET = dataclasses.replace(
    presets.load("digits").config,
    title="Failed searches",
    tuning=TuningConfig(),
    attacks={f"fail{share}": {"failures": share / 100} for share in _SHARES if share},
    rows={"fail0": {"label": "No failures", "method": "amun", **_KNOBS}}
    | {
        f"fail{share}-{policy}": {
            "label": f"{share}% fail: {label}",
            "method": "amun",
            "failures": policy,
            "attack": f"fail{share}",
            **_KNOBS,
        }
        for share in _SHARES
        if share
        for policy, label in _POLICIES.items()
    }
    | {
        "forget_only": {
            "label": "D_F twice, no D_A",
            "method": "amun",
            "replace": "original",
            **_KNOBS,
        }
    },
)
