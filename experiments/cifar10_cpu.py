"""AMUN on CIFAR-10 at the scale of two CPU cores: a small CNN, 1,500 JPEG-recompressed training images.

Command:   unlearn-jax run cifar10_cpu --workdir runs/cifar10_cpu --data.path DATA_DIR
Published: none at this scale; the paper's Table 1 is ``amun_table1_cifar10``.
Measured:  not yet; the learning rates below are untuned until ``cifar10_cpu_tuning`` has been run.

``cifar10_jpeg`` holds CIFAR-10's images recompressed as JPEG, ordered by class: numbers come close to CIFAR-10's, and
are not equal to them. With the original images: --data.name=cifar10.
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
)

PRESET = RunConfig(
    title="AMUN on CIFAR-10 (JPEG), small CNN",
    data=DataConfig(source="tfds", name="cifar10_jpeg", num_train=1500, num_test=1500),
    model=ModelConfig(name="cnn", fields={"widths": (16, 32, 64)}),
    training=TrainingConfig(num_epochs=25, batch_size=64, learning_rate=0.05),
    forget=ForgetConfig(seeds=(1, 10, 100)),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=64),
    attack=AttackConfig(epsilon_init=0.04),
    audit=AuditConfig(num_bootstrap=500),
    rows={
        "finetune": {"label": "Fine-tuned (FT)", "method": "finetune", "learning_rate": 0.01},
        "amun": {"label": "AMUN", "method": "amun", "learning_rate": 0.01},
        "amun_no_retain": {"label": "AMUN without D_R", "method": "amun", "retain": False, "learning_rate": 0.01},
    },
)
