"""Class unlearning on CIFAR-10 at the scale of two CPU cores: every method, tuned alike, beside retraining.

Command:   unlearn-jax run class_cifar10_cpu --workdir runs/class_cifar10_cpu --data.path DATA_DIR
Published: none at this scale; the full-scale preset is ``class_tables``.
Measured:  TO BE MEASURED

``cifar10_jpeg`` holds CIFAR-10's images recompressed as JPEG, ordered by class: numbers come close to CIFAR-10's, and
are not equal to them. With the original images: --data.name=cifar10.
"""

from unlearn_jax.pipeline import (
    AuditConfig,
    DataConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    RunConfig,
    TrainingConfig,
    TuningConfig,
    rows,
)

_ROWS = rows.for_classes(small=True)
for _row in _ROWS.values():
    if "num_epochs" in _row:
        _row["num_epochs"] = 5

PRESET = RunConfig(
    title="Class unlearning on CIFAR-10 (JPEG), small CNN",
    data=DataConfig(source="tfds", name="cifar10_jpeg", num_train=1500, num_test=1000, balanced=True),
    model=ModelConfig(name="cnn", fields={"widths": (8, 16)}),
    training=TrainingConfig(num_epochs=20, batch_size=64, learning_rate=0.02),
    forget=ForgetConfig(kind="class", classes=(1, 3, 8)),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=0),
    tuning=TuningConfig(trials=8, classes=(0,)),
    audit=AuditConfig(num_bootstrap=500),
    rows=_ROWS,
)
