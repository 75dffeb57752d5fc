"""Every method on MNIST, each with the same trials per hyperparameter.

Claim:   how near each method comes to retraining when all are tuned alike.
Command: unlearn-jax run methods_mnist --workdir runs/methods_mnist --data.path DATA_DIR
Results: ``experiments/results/methods_mnist.json``
"""

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

PRESET = RunConfig(
    title="Methods on MNIST, small CNN",
    data=DataConfig(source="tfds", name="mnist", num_train=1500, num_test=1500),
    model=ModelConfig(name="cnn", widths=(8, 16)),
    training=TrainingConfig(num_epochs=25, batch_size=64, learning_rate=0.05),
    forget=ForgetConfig(seeds=(1, 2, 3)),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=64),
    attack=AttackConfig(epsilon_init=0.16),
    tuning=TuningConfig(trials=8, seeds=(101,)),
    audit=AuditConfig(num_bootstrap=500),
    rows=rows.with_retain() | rows.without_retain(),
)
