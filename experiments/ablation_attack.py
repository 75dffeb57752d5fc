"""A weaker attack, and another model's adversarial examples (AMUN, Tables 8 and 9), with the terms of Theorem 4.1.

Command:   unlearn-jax run ablation_attack --workdir runs/ablation_attack
Published: ResNet-18, CIFAR-10, test accuracy / FT AUC / Avg Gap, mean ± std over 27
runs

                       with D_R, 10%                             without D_R, 10%
  PGD-50               93.45±0.22 / 50.18±0.36 / 0.62±0.05       91.67±0.04 / 52.24±0.23 / 1.94±0.13
  fast gradient        93.87±0.16 / 50.64±0.51 / 0.92±0.25       92.14±0.28 / 56.58±1.05 / 3.46±0.36
  PGD-50, other model  92.64±0.09 / 48.70±0.59 / 1.57±0.12       90.56±0.28 / 48.29±0.22 / 3.07±0.15

Measured:  mean ± std over 30 runs (3 originals x 10 forget sets of 90), 95% interval of the mean, in percent and
           points; 64 references; cost: gradients of single samples over a retraining's,
           the adversarial set's as an upper bound

                                    unlearn acc              test acc              FT AUC                Avg Gap            cost
  Original (do nothing)             100.0±0.0 [100.0,100.0]  98.0±0.1 [97.1,98.8]  58.6±2.8 [54.8,62.5]  3.2±0.7 [2.0,4.6]  –
  Retrained (oracle)                96.3±1.8 [94.0,98.2]     97.9±0.2 [97.1,98.7]  49.6±2.8 [46.2,52.9]  1.0±0.4 [0.8,1.9]  1.00
  Retrained again (floor)           96.7±2.0 [94.4,98.5]     97.9±0.3 [97.0,98.7]  50.1±2.7 [46.9,53.5]  1.0±0.5 [0.8,2.0]  1.00
  PGD-50                            100.0±0.0 [100.0,100.0]  97.5±0.3 [96.5,98.4]  48.5±2.6 [44.8,52.3]  1.6±0.4 [1.3,2.6]  0.40
  Fast gradient                     100.0±0.0 [100.0,100.0]  97.4±0.4 [96.4,98.3]  48.4±2.8 [45.0,52.0]  1.7±0.4 [1.3,2.7]  0.12
  PGD-50, other model               100.0±0.0 [100.0,100.0]  97.4±0.3 [96.4,98.2]  47.5±2.2 [43.8,51.0]  1.7±0.4 [1.3,2.6]  0.40
  PGD-50, without D_R               99.9±0.3 [99.6,100.0]    96.6±0.6 [95.5,97.5]  47.6±2.8 [43.9,51.2]  1.9±0.6 [1.5,3.0]  0.30
  Fast gradient, without D_R        100.0±0.0 [100.0,100.0]  96.6±0.5 [95.6,97.6]  48.2±2.7 [44.6,51.8]  1.9±0.4 [1.5,2.9]  0.02
  PGD-50, other model, without D_R  99.9±0.3 [99.5,100.0]    96.0±0.7 [94.9,97.0]  46.4±2.3 [42.9,49.7]  2.3±0.6 [1.8,3.3]  0.30

Chosen:    PGD-50: learning_rate 0.0306, decay_every 5; Fast gradient: learning_rate 0.0959, decay_every 5; PGD-50,
           other model: learning_rate 0.0306, decay_every 5; PGD-50, without D_R:
           learning_rate 0.03, decay_every 5; Fast gradient, without D_R: learning_rate
           0.03, decay_every 5; PGD-50, other model, without D_R: learning_rate 0.03,
           decay_every 5

Reading:   every interval overlaps: at this scale neither the weaker attack nor another model's set is shown to be
           worse.
Time:      1 to 5 minutes with other jobs beside.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.
"""

import dataclasses

from unlearn_jax.pipeline import presets
from unlearn_jax.pipeline.config import rows

_BASE = presets.load("digits").config

PRESET = dataclasses.replace(
    _BASE,
    title="Weaker and transferred adversarial sets",
    audit=dataclasses.replace(_BASE.audit, theory=True),
    attacks={
        "fast": {"kind": "fast", "norm": "linf", "epsilon_init": 0.01},
        "other": {"source": "other"},
    },
    tuning=dataclasses.replace(
        _BASE.tuning, originals=(101, 102)
    ),  # a set of another model needs two
    rows={
        f"{attack or 'pgd'}{suffix}": {**row, "label": label + end, "attack": attack}
        for suffix, end, row in (
            ("", "", {"method": "amun"}),
            ("_no_retain", ", without D_R", rows.without_retain()["amun_no_retain"]),
        )
        for attack, label in {
            "": "PGD-50",
            "fast": "Fast gradient",
            "other": "PGD-50, other model",
        }.items()
    },
)
