"""A weaker attack, and another model's adversarial examples (AMUN, Tables 8 and 9), with the terms of Theorem 4.1.

Command:   unlearn-jax run ablation_attack --workdir runs/ablation_attack
Published: ResNet-18, CIFAR-10, test accuracy / FT AUC / Avg Gap, mean ± std over 27 runs

                       with D_R, 10%                             without D_R, 10%
  PGD-50               93.45±0.22 / 50.18±0.36 / 0.62±0.05       91.67±0.04 / 52.24±0.23 / 1.94±0.13
  fast gradient        93.87±0.16 / 50.64±0.51 / 0.92±0.25       92.14±0.28 / 56.58±1.05 / 3.46±0.36
  PGD-50, other model  92.64±0.09 / 48.70±0.59 / 1.57±0.12       90.56±0.28 / 48.29±0.22 / 3.07±0.15

Measured:  TO BE MEASURED
"""

import dataclasses

from unlearn_jax.pipeline import presets, rows

_BASE = presets.load("digits").config

PRESET = dataclasses.replace(
    _BASE,
    title="Weaker and transferred adversarial sets",
    audit=dataclasses.replace(_BASE.audit, theory=True),
    attacks={"fast": {"kind": "fast", "norm": "linf", "epsilon_init": 0.01}, "other": {"source": "other"}},
    tuning=dataclasses.replace(_BASE.tuning, originals=(101, 102)),  # a set of another model needs two
    rows={
        f"{attack or 'pgd'}{suffix}": {**row, "label": label + end, "attack": attack}
        for suffix, end, row in (
            ("", "", {"method": "amun"}),
            ("_no_retain", ", without D_R", rows.without_retain()["amun_no_retain"]),
        )
        for attack, label in {"": "PGD-50", "fast": "Fast gradient", "other": "PGD-50, other model"}.items()
    },
)
