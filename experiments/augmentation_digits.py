"""Does augmentation help unlearning? (arXiv 2508.18502): of training, of unlearning, of both; digits, a perceptron.

Command:   unlearn-jax run augmentation_digits --workdir runs/augmentation_digits
Published: ResNet-18, CIFAR-10/100: with the same augmentation for original, retrained
and unlearned models,
           TrivialAugment lowers the Average Gap by up to 40.12% against crop and flip
           (no table values recovered).
Measured:  TO BE MEASURED

Digits must not be mirrored, so the default is a crop without a flip, by 1 pixel of 8.
``only_training`` and ``only_unlearning`` are the ablation that the paper leaves open.
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
