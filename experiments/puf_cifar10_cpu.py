"""Federated unlearning of CIFAR-10 by PUF: a residual network; CPU.

Claim:   PUF forgets a client's samples as retraining does.
Command: unlearn-jax run puf_cifar10_cpu --workdir runs/puf_cifar10_cpu --data.path
         DATA_DIR
Results: ``experiments/results/puf_cifar10_cpu.json``
"""

from unlearn_jax.pipeline import DataConfig, Experiment, ModelConfig
from unlearn_jax.studies.federated.images import Config, make_artifacts, training_speed
from unlearn_jax.studies.federated.images_page import make_page

# Ten clients, three of which leave in turn; three that own a class. The network has
# BatchNorm, the paper's GroupNorm. The same with a vision transformer:
# puf_vit_cifar10_cpu.
EXPERIMENT = Experiment(
    title="Federated unlearning on CIFAR-10 (JPEG), small residual network",
    config=Config(
        settings=("dirichlet", "owner"),
        seeds=(0, 1, 2),
        num_cases=3,
        data=DataConfig(
            source="tfds", name="cifar10_jpeg", num_train=5_000, num_test=2_000
        ),
        model=ModelConfig(name="resnet", blocks=(1, 1, 1, 1), width=8),
        augment="crop_flip",
        strengths=(2.0,),
        rounds=40,
        recovery=15,
        group=2,
    ),
    artifacts=make_artifacts,
    page=make_page,
    speed=training_speed,
)
