"""What AMUN's adversarial set can be replaced by (AMUN, Figures 1, 6 and 7): digits, a perceptron.

Command:   unlearn-jax run ablation_sets --workdir runs/ablation_sets
Published: figures of test accuracy only (ResNet-18, CIFAR-10, 20 epochs, learning rate 0.01, a tenth of it after every
           5 epochs): on the set alone, only true adversarial examples with their labels keep the accuracy.
Sets:      Adv is D_A; Orig D_F once more; AdvL the clean images with the adversarial labels; RL with random ones; ARL
           the adversarial images with random labels; ARS random points as far away, with the adversarial labels.
Measured:  TO BE MEASURED
"""

import dataclasses

from unlearn_jax.pipeline import TuningConfig, presets

_SETS = {
    "none": "Adv",
    "original": "Orig",
    "label": "AdvL",
    "random_label": "RL",
    "adversarial_random_label": "ARL",
    "random_point": "ARS",
}
_MIXES = {
    "D_R, D_F": {"retain": True, "forget": True},
    "D_F": {"retain": False, "forget": True},
    "alone": {"retain": False, "forget": False},
}
_PUBLISHED = {"num_epochs": 20, "learning_rate": 0.01, "decay_every": 5}

PRESET = dataclasses.replace(
    presets.load("digits").config,
    title="What the adversarial set is replaced by",
    tuning=TuningConfig(),
    rows={
        f"{replace}-{mix.replace(', ', '_')}": {
            "label": f"{label} alone" if mix == "alone" else f"{label} with {mix}",
            "method": "amun",
            "replace": replace,
            **sets,
            **_PUBLISHED,
        }
        for mix, sets in _MIXES.items()
        for replace, label in _SETS.items()
    },
)
