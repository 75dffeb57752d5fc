"""Class unlearning on MNIST at the scale of two CPU cores.

Claim:   TRW comes nearest to retraining under U-LiRA and MIA-NN.
Command: unlearn-jax run class_mnist --workdir runs/class_mnist --data.path DATA_DIR
Results: ``experiments/results/class_mnist.json``
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

PRESET = RunConfig(
    title="Class unlearning on MNIST, small CNN",
    data=DataConfig(
        source="tfds", name="mnist", num_train=1500, num_test=1500, balanced=True
    ),
    model=ModelConfig(name="cnn", widths=(8, 16)),
    training=TrainingConfig(num_epochs=25, batch_size=64, learning_rate=0.05),
    forget=ForgetConfig(kind="class", classes=(1, 4, 8)),
    replicas=ReplicasConfig(originals=(0, 1, 2, 3, 4), references=0),
    tuning=TuningConfig(trials=6, classes=(0,)),
    audit=AuditConfig(num_bootstrap=500),
    rows=rows.for_classes(small=True),
)
