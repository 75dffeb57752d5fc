"""AMUN on VGG19, DenseNet and ResNet-18, CIFAR-10; accelerator.

Claim:   AMUN's order of methods holds on other architectures.
Command: unlearn-jax run architectures_cifar10 --workdir runs/architectures_cifar10
         --data.path DATA_DIR
Results: ``experiments/results/architectures_cifar10.json``
"""

import dataclasses

from unlearn_jax.pipeline import ModelConfig, presets

_TABLES = presets.load("amun_tables_cifar10").variants
_ROWS = (
    "finetune",
    "random_label",
    "gradient_ascent",
    "boundary_shrink",
    "l1_sparse",
    "salun",
    "amun",
    "amun_salun",
)
_MODELS = {
    "resnet18": _TABLES["tenth"].model,
    "vgg19": ModelConfig(name="vgg"),
    "densenet": ModelConfig(name="densenet"),
}

STUDY = {}
for _model, _config in _MODELS.items():
    for _size, _table in _TABLES.items():
        _without = [name for name in _table.rows if name.endswith("_no_retain")]
        STUDY[f"{_model}_{_size}"] = dataclasses.replace(
            _table,
            title="Architectures on CIFAR-10",
            model=_config,
            audit=dataclasses.replace(_table.audit, theory=True),
            rows={name: _table.rows[name] for name in [*_ROWS, *_without]},
        )
