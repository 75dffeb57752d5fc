"""Augmentation of unlearning, of training, of both: four classes of CIFAR-10.

Claim:   augmentation helps unlearning (arXiv 2508.18502).
Command: unlearn-jax run augmentation_cifar10_cpu --workdir
         runs/augmentation_cifar10_cpu --data.path DATA_DIR
Results: ``experiments/results/augmentation_cifar10_cpu.json``
"""

import dataclasses

from unlearn_jax.pipeline import Row, RunConfig, presets
from unlearn_jax.pipeline.config import rows

# a network that memorizes: on training images 100%, on test images 93%
_BASE = presets.load("architectures_cifar10_cpu").variants["vgg"]
_METHODS = {
    name: rows.with_options(rows.with_retain()[name], num_epochs=5)
    for name in ("finetune", "random_label", "salun")
}
_POLICIES = {
    "crop_flip": "crops and flips",
    "crop_flip+trivial_augment": "TrivialAugment",
    "crop_flip+rand_augment": "RandAugment",
    "crop_flip+auto_augment": "AutoAugment",
    "crop_flip+aug_mix": "AugMix",
    "crop_flip+random_erasing": "random erasing",
}
# Unlearning alone takes the models of architectures_cifar10_cpu. Which of training and
# unlearning it helps is the ablation that the paper leaves open.


def _rows(policies: dict[str, str]) -> dict[str, Row]:
    """Return every method without augmentation and with each of some."""
    chosen = {}
    for name, row in _METHODS.items():
        none = f"{name}_none"
        chosen[none] = rows.augmented(row, "none", "no augmentation")
        for policy, label in policies.items():
            part = policy.rpartition("+")[-1]
            chosen[f"{name}_{part}"] = rows.augmented(row, policy, label, baseline=none)
    return chosen


def _trained_with(policy: str) -> RunConfig:
    """Return a run whose models train with a policy, and unlearn with it or without."""
    return dataclasses.replace(
        _BASE,
        title=f"Training and unlearning with {_POLICIES[policy]}",
        training=dataclasses.replace(_BASE.training, augment=policy),
        rows=_rows({policy: _POLICIES[policy]}),
    )


STUDY = {
    "unlearning": dataclasses.replace(
        _BASE, title="Augmentation in unlearning", rows=_rows(_POLICIES)
    ),
    "crop_flip": _trained_with("crop_flip"),
    "trivial_augment": _trained_with("crop_flip+trivial_augment"),
}
