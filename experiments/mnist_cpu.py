"""AMUN on MNIST at the scale of two CPU cores: a small CNN, 1,500 training images."""

from unlearn_jax.pipeline import (
    AttackConfig,
    AuditConfig,
    DataConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    RunConfig,
    TrainingConfig,
)

PRESET = RunConfig(
    title="AMUN on MNIST, small CNN",
    data=DataConfig(source="tfds", name="mnist", num_train=1500, num_test=1500),
    model=ModelConfig(name="cnn", fields={"widths": (8, 16)}),
    training=TrainingConfig(num_epochs=25, batch_size=64, learning_rate=0.05),
    forget=ForgetConfig(seeds=(1, 2, 3, 4, 5, 6)),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=64),
    attack=AttackConfig(epsilon_init=0.16),
    audit=AuditConfig(num_bootstrap=500),
    rows={  # learning rates from mnist_cpu_tuning
        "finetune": {"label": "Fine-tuned (FT)", "method": "finetune", "learning_rate": 0.1},
        "amun": {"label": "AMUN", "method": "amun", "learning_rate": 0.1},
        "amun_no_retain": {"label": "AMUN without D_R", "method": "amun", "retain": False, "learning_rate": 0.01},
    },
)
