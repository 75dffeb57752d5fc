"""AMUN's Tables 1 and 2: ResNet-18, CIFAR-10, 10% and 50%; accelerator.

Claim:   AMUN comes closest to retraining (arXiv 2503.00917).
Command: unlearn-jax run amun_tables_cifar10 --workdir runs/amun_tables_cifar10
         --data.path DATA_DIR
Time:    not measured yet.
Results: ``experiments/results/amun_tables_cifar10.json``
"""

import dataclasses

from unlearn_jax.methods import SPACES
from unlearn_jax.pipeline import (
    AttackConfig,
    AuditConfig,
    DataConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    RunConfig,
    TrainingConfig,
    TuningConfig,
)
from unlearn_jax.pipeline.config import rows

_ADVERSARIAL_ONLY = {  # for large forget sets the paper leaves D_F out
    "amun_adversarial": {
        "label": "AMUN, D_R and D_A",
        "method": "amun",
        "forget": False,
    },
    "amun_adversarial_only": {
        **rows.without_retain()["amun_no_retain"],
        "label": "AMUN, D_A only",
        "forget": False,
    },
}
_ROWS = rows.with_retain() | rows.without_retain() | _ADVERSARIAL_ONLY
for _row in _ROWS.values():  # the schedules that AMUN's code searches
    _space = _row.get("search", SPACES[_row["method"]])
    if "decay_every" in _space:
        _row["search"] = {**_space, "decay_every": [0, 1, 5]}
_TENTH = RunConfig(
    title="AMUN, Tables 1 and 2: ResNet-18 on CIFAR-10",
    data=DataConfig(source="tfds", name="cifar10"),
    model=ModelConfig(
        name="resnet",
        fields={"blocks": (2, 2, 2, 2), "width": 64, "halve_projection": True},
    ),
    training=TrainingConfig(
        num_epochs=200,
        batch_size=128,
        learning_rate=0.1,
        decay_every=40,
        augment="crop_flip",
    ),
    forget=ForgetConfig(fraction=0.1, seeds=(1, 10, 100), generator="legacy"),
    replicas=ReplicasConfig(
        originals=(1, 10, 100),
        repeats=3,
        references=128,
        reference_epochs=161,
        group=8,
        mapper="map",
    ),
    attack=AttackConfig(epsilon_init=0.04, num_steps=50),
    tuning=TuningConfig(trials=12, originals=(1000,), seeds=(1000,)),
    audit=AuditConfig(num_bootstrap=200, mis_samples=10_000),
    rows=_ROWS,
)

STUDY = {
    "tenth": _TENTH,
    "half": dataclasses.replace(
        _TENTH, forget=dataclasses.replace(_TENTH.forget, fraction=0.5)
    ),
}
