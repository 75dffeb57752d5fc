"""AMUN's Tables 1 and 2: ResNet-18, CIFAR-10, 10% and 50%; accelerator.

Claim:   AMUN comes closest to retraining (arXiv 2503.00917).
Command: unlearn-jax run amun_tables_cifar10 --workdir runs/amun_tables_cifar10
         --data.path DATA_DIR
Results: ``experiments/results/amun_tables_cifar10.json``
"""

import dataclasses

from unlearn_jax.methods import AMUN, SPACES
from unlearn_jax.pipeline import (
    AttackConfig,
    AuditConfig,
    DataConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    Row,
    RunConfig,
    TrainingConfig,
    TuningConfig,
)
from unlearn_jax.pipeline.config import rows
from unlearn_jax.pipeline.config.resolve import method_name

# for large forget sets the paper leaves D_F out
_ROWS = {
    **rows.with_retain(),
    **rows.without_retain(),
    "amun_adversarial": Row(label="AMUN, D_R and D_A", method=AMUN(forget=False)),
    "amun_adversarial_only": Row(
        label="AMUN, D_A only",
        method=AMUN(retain=False, forget=False),
        search=rows.without_retain()["amun_no_retain"].search,
    ),
}
# the schedules that AMUN's code searches
for _name, _row in _ROWS.items():
    _space = SPACES[method_name(_row.method)] if _row.search is None else _row.search
    if "decay_every" in _space and 1 not in _space["decay_every"]:
        _space = {**_space, "decay_every": [*_space["decay_every"], 1]}
        _ROWS[_name] = dataclasses.replace(_row, search=_space)
_TENTH = RunConfig(
    title="AMUN, Tables 1 and 2: ResNet-18 on CIFAR-10",
    data=DataConfig(source="tfds", name="cifar10"),
    model=ModelConfig(
        name="resnet",
        blocks=(2, 2, 2, 2),
        width=64,
        halve_projection=True,
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
    tuning=TuningConfig(trials=8, originals=(1000, 1001), seeds=(1000,)),
    audit=AuditConfig(num_bootstrap=200, mis_samples=10_000),
    rows=_ROWS,
)

STUDY = {
    "tenth": _TENTH,
    "half": dataclasses.replace(
        _TENTH, forget=dataclasses.replace(_TENTH.forget, fraction=0.5)
    ),
}
