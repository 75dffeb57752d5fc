"""LOTOS where its penalty can act: pairs clipped to 1 on CIFAR-10; CPU.

Claim:   LOTOS lowers transfer between the members of an ensemble (arXiv 2410.05136).
Command: unlearn-jax run lotos_cifar10_cpu --workdir runs/lotos_cifar10_cpu --data.path
         DATA_DIR
Results: ``experiments/results/lotos_cifar10_cpu.json``
"""

from unlearn_jax.ensembles import Lotos
from unlearn_jax.pipeline import DataConfig, Experiment, ModelConfig, TrainingConfig
from unlearn_jax.studies.ensembles.artifacts import make_artifacts, training_speed
from unlearn_jax.studies.ensembles.config import (
    AttackPlan,
    ClipConfig,
    ControlConfig,
    EnsembleConfig,
)
from unlearn_jax.studies.ensembles.page import make_page
from unlearn_jax.studies.ensembles.programs import make_programs

# Two members without BatchNorm, clipped to norm 1, as in the authors' notebook. At this
# size residual networks do not learn so, and with BatchNorm a last clip takes what they
# have learned (two runs were void). Small CNNs learn, but clipped in every 50th step
# their norms reach 2.3 in between, and a last clip takes them to 13% (a third run was
# ended by its pilot). Clipped in every 10th step they reach 1.3, and a pair of the
# pilot's seed is right on 35% after the last clip, with LOTOS on 35 and 37%. That seed
# also chooses the radius at which adversarial examples of plain members transfer. A
# first run (seeds 0 to 2, 300 images, radii to 8/255) was too small to decide: this one
# has other seeds, more images and a larger radius.
EXPERIMENT = Experiment(
    title="LOTOS on CIFAR-10 (JPEG), small CNNs",
    config=EnsembleConfig(
        seeds=(3, 4, 5, 6, 7),
        arms=("orig", "clip", "clip+lotos", "clip+lotos0.3"),
        num_members=2,
        num_surrogates=2,
        data=DataConfig(
            source="tfds", name="cifar10_jpeg", num_train=10_000, num_test=2_000
        ),
        model=ModelConfig(name="cnn", widths=(16, 32, 64)),
        training=TrainingConfig(
            num_epochs=30,
            batch_size=128,
            learning_rate=0.01,
            decay_every=20,
            augment="crop_flip",
        ),
        clip=ClipConfig(max_norm=1.0, period=10),
        lotos=Lotos(weight=0.05, max_length=0.8),
        attack=AttackPlan(
            radii=(2, 4, 8, 16),
            num_steps=30,
            num_samples=1000,
            strong_samples=100,
            strong_steps=30,
            strong_targets=2,
            every_epochs=3,
        ),
        pilot_seed=100,
        control=ControlConfig(arms=("orig", "clip")),
        overhead_steps=0,
    ),
    artifacts=make_artifacts,
    page=make_page,
    speed=training_speed,
    programs=make_programs,
)
