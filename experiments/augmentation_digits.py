"""Augmentation of training, of unlearning, of both; digits.

Claim:   augmentation helps unlearning.
Command: unlearn-jax run augmentation_digits --workdir runs/augmentation_digits
Time:    not measured yet.
Results: ``experiments/results/augmentation_digits.json``
"""

import dataclasses

from unlearn_jax.methods import AMUN, METHODS, FineTune, RandomLabel
from unlearn_jax.pipeline import Row, RunConfig, presets
from unlearn_jax.pipeline.config.resolve import followed
from unlearn_jax.values import replace

_BASE = presets.load("digits").config
_ROWS = {
    "finetune": Row(label="Fine-tuned (FT)", method=FineTune()),
    "random_label": Row(label="Random label (RL)", method=RandomLabel()),
    "salun": Row(label="SalUn", method=METHODS["salun"]),
    "amun": Row(label="AMUN", method=AMUN()),
}


def _own_augmentation(row: Row, augment: str) -> Row:
    follow = tuple(name for name in followed(row) if name != "augment")
    method = replace(row.method, augment=augment)
    return dataclasses.replace(row, method=method, follow=follow)


def _variant(training: str, unlearning: str | None = None) -> RunConfig:
    rows = _ROWS
    if unlearning is not None:
        rows = {name: _own_augmentation(row, unlearning) for name, row in _ROWS.items()}
    return dataclasses.replace(
        _BASE,
        title="Augmentation and unlearning",
        training=dataclasses.replace(_BASE.training, augment=training),
        forget=dataclasses.replace(_BASE.forget, seeds=(1, 2, 3)),
        rows=rows,
    )


STUDY = {
    "none": _variant("none"),
    "nudge": _variant("nudge"),
    **{
        part: _variant(f"nudge+{part}")
        for part in (
            "trivial_augment",
            "rand_augment",
            "auto_augment",
            "aug_mix",
            "random_erasing",
        )
    },
    "only_training": _variant("nudge+trivial_augment", "none"),
    "only_unlearning": _variant("none", "nudge+trivial_augment"),
}
