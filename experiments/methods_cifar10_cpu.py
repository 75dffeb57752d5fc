"""Every method on CIFAR-10 at the scale of two CPU cores.

Claim:   how near each method comes to retraining when all are tuned alike.
Command: unlearn-jax run methods_cifar10_cpu --workdir runs/methods_cifar10_cpu
         --data.path DATA_DIR
Time:    not measured yet.
Results: ``experiments/results/methods_cifar10_cpu.json``
"""

import dataclasses

from unlearn_jax.pipeline import AttackConfig, DataConfig, ModelConfig, presets

PRESET = dataclasses.replace(
    presets.load("methods_mnist").config,
    title="Methods on CIFAR-10 (JPEG), small CNN",
    data=DataConfig(source="tfds", name="cifar10_jpeg", num_train=1500, num_test=1500),
    model=ModelConfig(name="cnn", widths=(16, 32, 64)),
    attack=AttackConfig(epsilon_init=0.04),
)
