"""AMUN on MNIST at the scale of two CPU cores: a small CNN, 1,500 training images.

Command:   unlearn-jax run mnist_cpu --workdir runs/mnist --data.path DATA_DIR
Published: none at this scale; the paper's Table 1 is ``amun_table1_cifar10``.
Measured:  mean ± std over 18 runs (3 originals x 6 forget sets), 95% interval of the mean, in percent and points

                               unlearn acc            test acc               FT AUC                 Avg Gap
  Original (do nothing)        100.0±0.0 [100.0, 100.0] 95.0±0.2 [93.9, 96.0]  53.9±1.8 [50.5, 57.0]  2.7±0.5 [1.8, 3.8]
  Retrained (oracle)           94.1±1.9 [91.4, 96.6]  94.7±0.4 [93.7, 95.7]  49.4±1.8 [46.3, 52.5]  0.8±0.4 [0.6, 1.6]
  Retrained again (seed floor) 94.4±1.8 [92.0, 96.6]  94.8±0.4 [93.7, 95.8]  49.1±1.4 [46.2, 52.0]  0.7±0.4 [0.7, 1.7]
  Fine-tuned (FT)              98.4±2.5 [95.6, 100.0] 94.5±1.1 [93.0, 95.7]  52.3±1.7 [49.0, 55.5]  2.1±0.8 [1.5, 3.4]
  AMUN                         95.8±2.7 [93.2, 97.7]  92.6±1.0 [91.5, 93.7]  49.4±2.5 [46.3, 53.0]  2.0±0.6 [1.7, 2.9]
  AMUN without D_R             100.0±0.0 [100.0, 100.0] 94.0±0.4 [92.9, 95.1]  50.4±2.0 [47.1, 53.2]  2.2±0.3 [1.7, 3.3]

Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.
Time:      22 minutes (references 11.5, retrained 4, adversarial sets 2.5), other jobs beside; peak memory 0.9 GB.
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
