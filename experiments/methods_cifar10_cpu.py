"""Every method on CIFAR-10 at the scale of two CPU cores: a small CNN, 1,500 JPEG-recompressed training images.

Command:   unlearn-jax run methods_cifar10_cpu --workdir runs/methods_cifar10_cpu --data.path DATA_DIR
Published: none at this scale; the paper's Tables 1 and 2 are ``amun_tables_cifar10``.
Measured:  not yet (about two hours on two CPU cores).

``cifar10_jpeg`` holds CIFAR-10's images recompressed as JPEG, ordered by class: numbers
come close to CIFAR-10's, and are not equal to them. With the original images:
--data.name=cifar10.
"""

import dataclasses

from unlearn_jax.pipeline import AttackConfig, DataConfig, ModelConfig, presets

PRESET = dataclasses.replace(
    presets.load("methods_mnist").config,
    title="Methods on CIFAR-10 (JPEG), small CNN",
    data=DataConfig(source="tfds", name="cifar10_jpeg", num_train=1500, num_test=1500),
    model=ModelConfig(name="cnn", fields={"widths": (16, 32, 64)}),
    attack=AttackConfig(epsilon_init=0.04),
)
