"""What AMUN's adversarial set can be replaced by (AMUN, Figures 1, 6 and 7): digits, a perceptron.

Command:   unlearn-jax run ablation_sets --workdir runs/ablation_sets
Published: figures of test accuracy only (ResNet-18, CIFAR-10, 20 epochs, learning rate 0.01, a tenth of it after every
           5 epochs): on the set alone, only true adversarial examples with their labels keep the accuracy.
Measured:  TO BE MEASURED
"""

import dataclasses

from unlearn_jax.pipeline import TuningConfig, presets

_SETS = {
    "none": "D_A",
    "original": "D_F again (Orig)",
    "label": "clean image, adversarial label (AdvL)",
    "random_label": "clean image, random label (RL)",
    "adversarial_random_label": "adversarial image, random label (ARL)",
    "random_point": "random point as far away, adversarial label (ARS)",
}
_MIXES = {
    "with D_R and D_F": {"retain": True, "forget": True},
    "with D_F": {"retain": False, "forget": True},
    "alone": {"retain": False, "forget": False},
}
_PUBLISHED = {"num_epochs": 20, "learning_rate": 0.01, "decay_every": 5}

PRESET = dataclasses.replace(
    presets.load("digits").config,
    title="What the adversarial set is replaced by",
    tuning=TuningConfig(),
    rows={
        f"{replace}-{mix.replace(' ', '_')}": {
            "label": f"{label}, {mix}",
            "method": "amun",
            "replace": replace,
            **sets,
            **_PUBLISHED,
        }
        for mix, sets in _MIXES.items()
        for replace, label in _SETS.items()
    },
)
