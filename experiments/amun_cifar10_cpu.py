"""AMUN against its rivals on four classes of CIFAR-10, at the scale of a CPU.

Claim:   AMUN comes closest to retraining (arXiv 2503.00917).
Command: unlearn-jax run amun_cifar10_cpu --workdir runs/amun_cifar10_cpu --data.path
         DATA_DIR
Results: ``experiments/results/amun_cifar10_cpu.json``
"""

import dataclasses

from unlearn_jax.methods import AMUN
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

AUTOMOBILE = 1
FROG = 6
HORSE = 7
SHIP = 8


def _with_and_without(chosen: dict[str, Row]) -> dict[str, Row]:
    """Return every row, and after it the same with augmentation."""
    both = {}
    for name, row in chosen.items():
        both[name] = row
        both[f"{name}_augmented"] = rows.augmented(row, "crop_flip", baseline=name)
    return both


_WITH = rows.with_retain()
_WITHOUT = rows.without_retain()
_TENTH = {
    name: _WITH[name]
    for name in (
        "finetune",
        "random_label",
        "salun",
        "boundary_shrink",
        "masked_small_gradients",
        "amun",
        "amun_salun",
    )
} | {
    name: _WITHOUT[name]
    for name in (
        "random_label_no_retain",
        "salun_no_retain",
        "boundary_shrink_no_retain",
        "amun_no_retain",
        "amun_salun_no_retain",
    )
}
# for large forget sets the paper leaves D_F out
_HALF = {
    "finetune": _WITH["finetune"],
    "random_label": _WITH["random_label"],
    "amun": _WITH["amun"],
    "amun_adversarial": Row(
        label="AMUN, D_R and D_A", method=AMUN(forget=False, num_epochs=rows.BUDGET)
    ),
}
# adversarial images are never augmented, so there is one row of them alone
_ADVERSARIAL_ONLY = Row(
    label="AMUN, D_A only",
    method=AMUN(retain=False, forget=False, num_epochs=rows.BUDGET),
    search=_WITHOUT["amun_no_retain"].search,
)
# Four classes that a small network tells apart at about 85%, originals that memorize
# their training set, adversarial examples far nearer than other images: the regime of
# the paper's tables.
_BASE = RunConfig(
    title="AMUN on four classes of CIFAR-10 (JPEG), small CNN",
    data=DataConfig(
        source="tfds",
        name="cifar10_jpeg",
        classes=(AUTOMOBILE, FROG, HORSE, SHIP),
        num_train=12_000,
        num_test=4_000,
    ),
    model=ModelConfig(name="cnn", widths=(16, 32, 64)),
    training=TrainingConfig(num_epochs=40, batch_size=64, learning_rate=0.05),
    forget=ForgetConfig(fraction=0.1, seeds=(1, 2, 3)),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=32),
    attack=AttackConfig(epsilon_init=0.04),
    tuning=TuningConfig(trials=4, seeds=(101,)),
    audit=AuditConfig(num_bootstrap=500),
    rows=_with_and_without(_TENTH),
)

STUDY = {
    "tenth": _BASE,
    "half": dataclasses.replace(
        _BASE,
        forget=dataclasses.replace(_BASE.forget, fraction=0.5),
        rows=_with_and_without(_HALF) | {"amun_adversarial_only": _ADVERSARIAL_ONLY},
    ),
}
