"""Class unlearning: ResNet-18 and VGG-19, MNIST and CIFAR; accelerator.

Claim:   TRW comes nearest to retraining under U-LiRA and MIA-NN.
Command: unlearn-jax run class_tables --workdir runs/class_tables --data.path DATA_DIR
Results: ``experiments/results/class_tables.json``
"""

import dataclasses

from unlearn_jax.pipeline import (
    AuditConfig,
    DataConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    RunConfig,
    TrainingConfig,
    TuningConfig,
)
from unlearn_jax.pipeline.config import rows

_NETWORKS = {
    "resnet18": ModelConfig(
        name="resnet",
        blocks=(2, 2, 2, 2),
        width=64,
        halve_projection=True,
    ),
    "vgg19": ModelConfig(name="vgg"),
}
_CLASSES = {
    "mnist": (0, 3, 5, 7, 9),
    "cifar10": (0, 1, 3, 5, 8),
    "cifar100": (0, 20, 40, 60, 80),
}
_BASE = RunConfig(
    training=TrainingConfig(
        num_epochs=200,
        batch_size=128,
        learning_rate=0.1,
        decay_every=40,
        augment="crop_flip",
    ),
    replicas=ReplicasConfig(
        originals=tuple(range(8)), references=0, group=8, mapper="map"
    ),
    tuning=TuningConfig(trials=5),
    audit=AuditConfig(num_bootstrap=200, mis_samples=10_000),
    rows=rows.for_classes(),
)


def _variant(name: str, network: str) -> RunConfig:
    return dataclasses.replace(
        _BASE,
        title=f"Class unlearning: {network} on {name}",
        data=DataConfig(source="tfds", name=name),
        model=_NETWORKS[network],
        training=dataclasses.replace(
            _BASE.training, augment="crop" if name == "mnist" else "crop_flip"
        ),
        forget=ForgetConfig(kind="class", classes=_CLASSES[name]),
    )


STUDY = {
    f"{name}_{network}": _variant(name, network)
    for name in _CLASSES
    for network in _NETWORKS
}
