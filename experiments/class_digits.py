"""Class unlearning on digits: every method, tuned alike.

Claim:   TRW comes nearest to retraining under U-LiRA and MIA-NN.
Command: unlearn-jax run class_digits --workdir runs/class_digits
Results: ``experiments/results/class_digits.json``
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
    title="Class unlearning on digits",
    data=DataConfig(num_train=1200, num_test=500, balanced=True),
    model=ModelConfig(name="mlp", widths=(256, 256)),
    training=TrainingConfig(num_epochs=60, batch_size=64, learning_rate=0.05),
    forget=ForgetConfig(kind="class", classes=(1, 3, 5, 8)),
    replicas=ReplicasConfig(originals=(0, 1, 2, 3, 4), references=64),
    tuning=TuningConfig(trials=5),
    audit=AuditConfig(num_bootstrap=500, signal="softmax_confidence", lira=True),
    rows=rows.for_classes(small=True),
)
