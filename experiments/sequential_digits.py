"""Sequential requests (AMUN, section 6.3): 10% of digits forgotten in five requests, by AMUN, AMUN-A and others.

Command:   unlearn-jax run sequential_digits --workdir runs/sequential_digits
Published: figures only (ResNet-18, CIFAR-10, 5 x 2%): the score, AUC of D_R against D_F minus AUC of D_F against test,
           is highest for AMUN-A, then AMUN, then all others at every request.
Measured:  TO BE MEASURED
"""

import dataclasses

from unlearn_jax.pipeline import presets, rows

_BASE = presets.load("digits").config
_WITHOUT = rows.without_retain()["amun_no_retain"]

PRESET = dataclasses.replace(
    _BASE,
    title="Five requests in a row",
    forget=dataclasses.replace(_BASE.forget, fraction=None, count=90, requests=5),
    rows={
        "finetune": {"label": "Fine-tuned (FT)", "method": "finetune"},
        "random_label": {"label": "Random label (RL)", "method": "random_label"},
        "salun": {"label": "SalUn", "method": "salun"},
        "amun": {"label": "AMUN", "method": "amun"},
        "amun_adaptive": {"label": "AMUN-A", "method": "amun", "adaptive": True},
        "amun_no_retain": _WITHOUT,
        "amun_adaptive_no_retain": {**_WITHOUT, "label": "AMUN-A without D_R", "adaptive": True},
    },
)
