"""AMUN on a narrow VGG and a small DenseNet, four classes of CIFAR-10; CPU.

Claim:   AMUN's order of methods holds on other architectures.
Command: unlearn-jax run architectures_cifar10_cpu
         --workdir runs/architectures_cifar10_cpu --data.path DATA_DIR
Results: ``experiments/results/architectures_cifar10_cpu.json``
"""

import dataclasses

from unlearn_jax.pipeline import ModelConfig, Row, RunConfig, TuningConfig, presets
from unlearn_jax.pipeline.config import rows

_TABLE = presets.load("amun_cifar10_cpu").variants["tenth"]
_NAMES = (
    "finetune_augmented",
    "random_label_augmented",
    "salun_augmented",
    "amun",
    "amun_augmented",
    "amun_no_retain_augmented",
)
_EPOCHS = 5


def _shorter(name: str) -> Row:
    """Return a row of fewer epochs, compared with another that is in the table."""
    row = rows.with_options(_TABLE.rows[name], num_epochs=_EPOCHS)
    baseline = row.baseline if row.baseline in _NAMES else ""
    return dataclasses.replace(row, baseline=baseline)


def _with(model: ModelConfig) -> RunConfig:
    """Return a shorter table of one architecture."""
    return dataclasses.replace(
        _TABLE,
        title="Architectures on four classes of CIFAR-10 (JPEG)",
        data=dataclasses.replace(_TABLE.data, num_train=6_000, num_test=2_000),
        model=model,
        # without the decay, accuracy changes by points from epoch to epoch
        training=dataclasses.replace(_TABLE.training, num_epochs=25, decay_every=15),
        replicas=dataclasses.replace(_TABLE.replicas, references=16),
        tuning=TuningConfig(trials=4, seeds=(101,)),
        audit=dataclasses.replace(_TABLE.audit, theory=True),
        rows={name: _shorter(name) for name in _NAMES},
    )


# few layers at 32 x 32 pixels, where a layer costs most
_DENSENET = _with(ModelConfig(name="densenet", blocks=(1, 3, 4), growth=8))
# What the first search of the VGG chose. A step of the DenseNet takes four times as
# long, so that a search of its own is left out, and with it some of the runs.
_CHOSEN: dict[str, dict[str, float]] = {
    "finetune_augmented": {"learning_rate": 0.01, "decay_every": 0},
    "random_label_augmented": {"learning_rate": 0.01, "decay_every": 0},
    "salun_augmented": {"learning_rate": 0.013, "fraction": 0.9},
    "amun": {"learning_rate": 0.0548, "decay_every": 1},
    "amun_augmented": {"learning_rate": 0.0548, "decay_every": 1},
    "amun_no_retain_augmented": {"learning_rate": 0.03, "decay_every": 1},
}

STUDY = {
    "vgg": _with(ModelConfig(name="vgg", stages=((16,), (32,), (64, 64), (64, 64)))),
    "densenet": dataclasses.replace(
        _DENSENET,
        forget=dataclasses.replace(_DENSENET.forget, seeds=(1, 2)),
        replicas=dataclasses.replace(_DENSENET.replicas, references=8),
        tuning=TuningConfig(),
        rows={
            name: rows.with_options(row, **_CHOSEN[name])
            for name, row in _DENSENET.rows.items()
        },
    ),
}
