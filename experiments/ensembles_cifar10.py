"""Robust ensembles of ResNet-18 on CIFAR-10, with LOTOS; accelerator.

Claim:   LOTOS lowers transfer between the members of an ensemble.
Command: unlearn-jax run ensembles_cifar10 --workdir runs/ensembles_cifar10 --data.path
         DATA_DIR
Results: ``experiments/results/ensembles_cifar10.json``
"""

from unlearn_jax.ensembles import Lotos, Trs
from unlearn_jax.objectives import AdversarialTraining
from unlearn_jax.pipeline import DataConfig, Experiment, ModelConfig, TrainingConfig
from unlearn_jax.studies.ensembles.artifacts import make_artifacts, training_speed
from unlearn_jax.studies.ensembles.config import (
    AttackPlan,
    ClipConfig,
    EnsembleConfig,
)
from unlearn_jax.studies.ensembles.page import make_page
from unlearn_jax.studies.ensembles.programs import make_programs

EXPERIMENT = Experiment(
    title="Robust ensembles on CIFAR-10 (ResNet-18)",
    config=EnsembleConfig(
        seeds=(1, 10, 100, 1000, 10000),
        arms=(
            "orig",
            "clip",
            "clip+lotos",
            "trs",
            "clip+lotos+trs",
            "adversarial",
            "clip+lotos+adversarial",
        ),
        data=DataConfig(source="tfds", name="cifar10"),
        model=ModelConfig(name="resnet", batch_norm=False, halve_projection=True),
        training=TrainingConfig(
            num_epochs=121,
            batch_size=128,
            learning_rate=0.1,
            decay_every=40,
            augment="crop_flip",
        ),
        clip=ClipConfig(max_norm=1.0, period=100, num_vectors=4, power_iters=10),
        lotos=Lotos(weight=0.05, max_length=0.8),
        trs=Trs(similarity=40.0, smoothness=2.5 / 128**2),
        adversarial=AdversarialTraining(epsilon=8 / 255, num_steps=7, step=2 / 255),
        attack=AttackPlan(
            radii=(1, 2, 4, 8),
            main_radius=2,
            num_samples=2000,
            strong_samples=1000,
            strong_steps=100,
            strong_targets=9,
        ),
        overhead_steps=100,
    ),
    artifacts=make_artifacts,
    page=make_page,
    speed=training_speed,
    programs=make_programs,
)
