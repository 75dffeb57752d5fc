"""Sequential requests: 10% of digits in five requests.

Claim:   AMUN-A, then AMUN, have the highest scores at every request.
Command: unlearn-jax run sequential_digits --workdir runs/sequential_digits
Results: ``experiments/results/sequential_digits.json``
"""

import dataclasses

from unlearn_jax.methods import AMUN, METHODS, FineTune, RandomLabel
from unlearn_jax.pipeline import Row, presets
from unlearn_jax.pipeline.config import rows

_BASE = presets.load("digits").config
_WITHOUT = rows.without_retain()["amun_no_retain"]

PRESET = dataclasses.replace(
    _BASE,
    title="Five requests in a row",
    forget=dataclasses.replace(_BASE.forget, fraction=None, count=90, requests=5),
    rows={
        "finetune": Row(label="Fine-tuned (FT)", method=FineTune()),
        "random_label": Row(label="Random label (RL)", method=RandomLabel()),
        "salun": Row(label="SalUn", method=METHODS["salun"]),
        "amun": Row(label="AMUN", method=AMUN()),
        "amun_adaptive": Row(label="AMUN-A", method=AMUN(), adaptive=True),
        "amun_no_retain": _WITHOUT,
        "amun_adaptive_no_retain": dataclasses.replace(
            _WITHOUT, label="AMUN-A without D_R", adaptive=True
        ),
    },
)
