"""Robust ensembles on CIFAR-10 at the scale of two CPU cores: three small CNNs, plain, clipped, with LOTOS.

Command::

    unlearn-jax run ensembles_cifar10_cpu --workdir runs/ensembles_cifar10_cpu --data.path DATA_DIR

**Not measured with its default seeds yet.** On seed 100, with which the radii were
chosen (one ensemble per arm, 100 images attacked): clean accuracy 53 plain, 47 clipped,
45 with LOTOS; white-box robust accuracy at 1, 2, 4/255: plain 36, 26, 9, clipped 35,
29, 16, LOTOS 34, 26, 16. The full-scale preset is ``ensembles_cifar10``.

``cifar10_jpeg`` holds CIFAR-10's images recompressed as JPEG, ordered by class: numbers
come close to CIFAR-10's, and are not equal to them. With the original images:
--data.name=cifar10.
"""

from unlearn_jax.ensembles import Lotos
from unlearn_jax.pipeline import DataConfig, Experiment, ModelConfig, TrainingConfig
from unlearn_jax.studies.ensembles.page import make_page
from unlearn_jax.studies.ensembles.parts import (
    AttackPlan,
    ClipConfig,
    EnsembleConfig,
    make_parts,
)

EXPERIMENT = Experiment(
    title="Robust ensembles on CIFAR-10, small",
    config=EnsembleConfig(
        arms=("orig", "clip", "clip+lotos"),
        data=DataConfig(
            source="tfds", name="cifar10_jpeg", num_train=4000, num_test=2000
        ),
        model=ModelConfig(name="cnn", fields={"widths": (16, 32)}),
        training=TrainingConfig(
            num_epochs=8, batch_size=32, learning_rate=0.02, decay_every=6
        ),
        clip=ClipConfig(max_norm=2.0, period=5),
        lotos=Lotos(weight=0.05, max_length=1.6),
        attack=AttackPlan(
            radii=(1, 2, 4),
            main_radius=2,
            num_steps=30,
            num_samples=200,
            strong_samples=100,
            strong_steps=20,
            strong_targets=2,
        ),
        overhead_steps=20,
    ),
    artifacts=make_parts,
    page=make_page,
)
