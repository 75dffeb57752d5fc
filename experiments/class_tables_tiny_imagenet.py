"""Class unlearning on Tiny-ImageNet, from a folder; accelerator.

Claim:   TRW forgets to 0.00 (arXiv 2512.06993).
Command: unlearn-jax run class_tables_tiny_imagenet --workdir
         runs/class_tables_tiny_imagenet --data.path TINY/train
Results: ``experiments/results/class_tables_tiny_imagenet.json``
"""

import dataclasses

from unlearn_jax.pipeline import DataConfig, ForgetConfig, presets

_NAMES = ("resnet18", "vgg19")
_BASE = {
    name: presets.load("class_tables").variants[f"cifar100_{name}"] for name in _NAMES
}

STUDY = {
    name: dataclasses.replace(
        base,
        title=f"Class unlearning: {name} on Tiny-ImageNet",
        data=DataConfig(
            source="folder",
            name="tiny_imagenet",
            size=(64, 64),
            num_train=80_000,
            num_test=20_000,
            balanced=True,
        ),
        forget=ForgetConfig(kind="class", classes=(0, 40, 80, 120, 160)),
    )
    for name, base in _BASE.items()
}
