"""AMUN on other architectures: VGG19 and DenseNet beside ResNet-18, CIFAR-10, 10% and 50% (for an accelerator).

Command:  unlearn-jax run architectures_cifar10 --workdir runs/architectures --data.path DATA

A next check that the thesis asks for (arXiv 2512.06993). The protocol is that of
``amun_tables_cifar10``; the terms of Theorem 4.1 (distance of the adversarial examples,
local slope, product of layer norms) stand beside each table.

Published: none for CIFAR-10 (Tiny-ImageNet with VGG19, 10%: Retrain 55.93 / 99.98 /
55.96 / 50.06, AMUN 62.57 / 93.66 /
           55.52 / 57.33, Avg Gap 5.17).
Measured:  not yet; it needs an accelerator.
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
