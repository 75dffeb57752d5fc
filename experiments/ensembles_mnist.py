"""Robust ensembles on MNIST: plain, clipped, LOTOS, adversarial.

Claim:   clipping raises transfer and robustness; LOTOS lowers transfer.
Command: unlearn-jax run ensembles_mnist --workdir runs/ensembles_mnist --data.path
         DATA_DIR
Results: ``experiments/results/ensembles_mnist.json``
"""

from unlearn_jax.ensembles import Lotos
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
    title="Robust ensembles on MNIST",
    config=EnsembleConfig(
        arms=("orig", "clip", "clip+lotos", "adversarial", "clip+lotos+adversarial"),
        data=DataConfig(source="tfds", name="mnist", num_train=2500, num_test=2000),
        model=ModelConfig(name="cnn", widths=(8, 16)),
        training=TrainingConfig(
            num_epochs=8, batch_size=32, learning_rate=0.03, decay_every=6
        ),
        clip=ClipConfig(max_norm=2.0, period=5),
        lotos=Lotos(weight=0.05, max_length=1.6),
        adversarial=AdversarialTraining(epsilon=32 / 255, num_steps=3, step=16 / 255),
        attack=AttackPlan(
            radii=(16, 32, 48),
            main_radius=32,
            num_steps=30,
            num_samples=300,
            strong_samples=150,
            strong_steps=20,
            strong_targets=2,
        ),
        overhead_steps=20,
    ),
    artifacts=make_artifacts,
    page=make_page,
    speed=training_speed,
    programs=make_programs,
)
