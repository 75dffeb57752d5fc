"""Augmentation of training, of unlearning, of both; digits.

Claim:   augmentation helps unlearning.
Command: unlearn-jax run augmentation_digits --workdir runs/augmentation_digits
Time:    not measured yet.
Results: ``experiments/results/augmentation_digits.json``
"""

import dataclasses

from unlearn_jax.pipeline import presets

_BASE = presets.load("digits").config
_ROWS = {
    "finetune": {"label": "Fine-tuned (FT)", "method": "finetune"},
    "random_label": {"label": "Random label (RL)", "method": "random_label"},
    "salun": {"label": "SalUn", "method": "salun"},
    "amun": {"label": "AMUN", "method": "amun"},
}


def _variant(training: str, unlearning: str | None = None):
    rows = {
        name: row | ({} if unlearning is None else {"augment": unlearning})
        for name, row in _ROWS.items()
    }
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
