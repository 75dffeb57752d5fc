"""Class unlearning at full scale: ResNet-18 and VGG-19 on Tiny-ImageNet from an image folder (for an accelerator).

Command:   unlearn-jax run class_tables_tiny_imagenet --workdir runs/class_tiny --data.path TINY/train
Published: forgetting of 0.00 for TRW (arXiv 2512.06993); the table could not be had.
Measured:  not yet; it needs an accelerator.

The folder holds one folder of images per class, as the archive's ``train`` does
(``train/CLASS/images/*.JPEG``); a fifth of them is set apart for testing, because the
archive's test labels are not public.
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
            size=(64, 64),
            num_train=80_000,
            num_test=20_000,
            balanced=True,
        ),
        forget=ForgetConfig(kind="class", classes=(0, 40, 80, 120, 160)),
    )
    for name, base in _BASE.items()
}
