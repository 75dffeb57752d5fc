"""AMUN on VGG19, DenseNet and ResNet-18, CIFAR-10; accelerator.

Claim:   AMUN's order of methods holds on other architectures.
Command: unlearn-jax run architectures_cifar10 --workdir runs/architectures_cifar10
         --data.path DATA_DIR
Time:    not measured yet.
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

STUDY = {
    f"{model}_{size}": dataclasses.replace(
        table,
        title="Architectures on CIFAR-10",
        model=_MODELS[model],
        audit=dataclasses.replace(table.audit, theory=True),
        rows={
            name: table.rows[name]
            for name in (*_ROWS, *(n for n in table.rows if n.endswith("_no_retain")))
        },
    )
    for model in _MODELS
    for size, table in _TABLES.items()
}
