"""Class unlearning on CIFAR-10 at the scale of two CPU cores.

Claim:   TRW comes nearest to retraining under U-LiRA and MIA-NN.
Command: unlearn-jax run class_cifar10_cpu --workdir runs/class_cifar10_cpu --data.path
         DATA_DIR
Time:    12 minutes with other jobs running.
Device:  2 CPU cores (x86-64, AVX-512).
Results: ``experiments/results/class_cifar10_cpu.json``
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
)
from unlearn_jax.pipeline.config import rows

_ROWS = rows.for_classes(small=True)
for _name, _row in _ROWS.items():
    if _name != "unsir" and hasattr(_row.method, "num_epochs"):
        _ROWS[_name] = rows.with_options(_row, num_epochs=5)

PRESET = RunConfig(
    title="Class unlearning on CIFAR-10 (JPEG), small CNN",
    data=DataConfig(
        source="tfds", name="cifar10_jpeg", num_train=1500, num_test=1000, balanced=True
    ),
    model=ModelConfig(name="cnn", widths=(8, 16)),
    training=TrainingConfig(num_epochs=20, batch_size=64, learning_rate=0.02),
    forget=ForgetConfig(kind="class", classes=(1, 3, 8)),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=0),
    tuning=TuningConfig(trials=4, classes=(0,)),
    audit=AuditConfig(num_bootstrap=500),
    rows=_ROWS,
)
