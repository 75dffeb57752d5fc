"""Robust ensembles on CIFAR-10 at the scale of two CPU cores.

Claim:   LOTOS lowers transfer between the members of an ensemble.
Command: unlearn-jax run ensembles_cifar10_cpu --workdir runs/ensembles_cifar10_cpu
         --data.path DATA_DIR
Time:    not measured yet.
Results: ``experiments/results/ensembles_cifar10_cpu.json``
"""

from unlearn_jax.ensembles import Lotos
from unlearn_jax.pipeline import DataConfig, Experiment, ModelConfig, TrainingConfig
from unlearn_jax.studies.ensembles.artifacts import (
    AttackPlan,
    ClipConfig,
    EnsembleConfig,
    make_artifacts,
)
from unlearn_jax.studies.ensembles.page import make_page

EXPERIMENT = Experiment(
    title="Robust ensembles on CIFAR-10, small",
    config=EnsembleConfig(
        arms=("orig", "clip", "clip+lotos"),
        data=DataConfig(
            source="tfds", name="cifar10_jpeg", num_train=4000, num_test=2000
        ),
        model=ModelConfig(name="cnn", widths=(16, 32)),
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
    artifacts=make_artifacts,
    page=make_page,
)
