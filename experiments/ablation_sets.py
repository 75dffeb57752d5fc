"""What AMUN's adversarial set can be replaced by (AMUN, Figures 1, 6 and 7): digits, a perceptron.

Command:   unlearn-jax run ablation_sets --workdir runs/ablation_sets
Published: figures of test accuracy only (ResNet-18, CIFAR-10, 20 epochs, learning rate
0.01, a tenth of it after every
           5 epochs): on the set alone, only true adversarial examples with their labels
           keep the accuracy.
Sets:      Adv is D_A; Orig D_F once more; AdvL the clean images with the adversarial labels; RL with random ones; ARL
           the adversarial images with random labels; ARS random points as far away,
           with the adversarial labels.
Measured:  mean ± std over 30 runs (3 originals x 10 forget sets of 90), 95% interval of the mean, in percent and
           points; 64 references; cost: gradients of single samples over a retraining's,
           the adversarial set's as an upper bound

                           unlearn acc              test acc              FT AUC                Avg Gap               cost
  Original (do nothing)    100.0±0.0 [100.0,100.0]  98.0±0.1 [97.1,98.8]  58.6±2.8 [54.8,62.5]  3.2±0.7 [2.0,4.6]     –
  Retrained (oracle)       96.3±1.8 [94.0,98.2]     97.9±0.2 [97.1,98.7]  49.6±2.8 [46.2,52.9]  1.0±0.4 [0.8,1.9]     1.00
  Retrained again (floor)  96.7±2.0 [94.4,98.5]     97.9±0.3 [97.0,98.7]  50.1±2.7 [46.9,53.5]  1.0±0.5 [0.8,2.0]     1.00
  Adv with D_R, D_F        100.0±0.0 [100.0,100.0]  97.7±0.3 [96.8,98.5]  51.7±2.8 [48.1,55.7]  1.7±0.5 [1.2,3.0]     0.52
  Orig with D_R, D_F       100.0±0.0 [100.0,100.0]  98.2±0.1 [97.3,99.0]  59.3±2.8 [55.2,63.3]  3.4±0.7 [2.3,4.8]     0.52
  AdvL with D_R, D_F       99.0±1.2 [97.9,99.8]     95.5±0.6 [94.4,96.6]  39.8±1.8 [36.4,43.0]  3.8±0.5 [2.9,4.8]     0.52
  RL with D_R, D_F         100.0±0.0 [100.0,100.0]  97.3±0.3 [96.3,98.3]  45.4±1.6 [42.0,48.8]  2.1±0.4 [1.5,3.2]     0.52
  ARL with D_R, D_F        99.9±0.3 [99.6,100.0]    97.7±0.3 [96.7,98.5]  51.8±2.0 [48.5,55.3]  1.6±0.5 [1.1,2.9]     0.52
  ARS with D_R, D_F        99.1±1.1 [98.1,99.9]     95.5±0.6 [94.4,96.6]  40.5±1.8 [37.3,43.8]  3.6±0.6 [2.7,4.6]     0.52
  Adv with D_F             100.0±0.0 [100.0,100.0]  97.5±0.3 [96.6,98.4]  52.4±2.8 [48.7,56.3]  1.8±0.6 [1.3,3.2]     0.32
  Orig with D_F            100.0±0.0 [100.0,100.0]  98.1±0.2 [97.2,98.9]  59.4±2.9 [55.5,63.2]  3.4±0.8 [2.3,4.8]     0.32
  AdvL with D_F            87.0±5.7 [82.5,90.9]     85.0±2.9 [82.1,87.2]  45.1±2.7 [41.7,48.5]  9.6±2.8 [7.8,12.1]    0.32
  RL with D_F              93.3±3.1 [90.2,95.9]     90.7±2.0 [89.0,92.3]  43.5±1.6 [40.4,46.6]  5.7±1.7 [4.7,7.4]     0.32
  ARL with D_F             98.8±1.1 [97.4,99.7]     95.2±0.9 [94.0,96.4]  50.4±2.5 [46.9,53.8]  2.3±0.5 [2.0,3.5]     0.32
  ARS with D_F             88.7±5.0 [84.4,92.6]     86.1±2.6 [83.5,88.2]  45.2±2.7 [41.7,48.6]  8.5±2.4 [6.9,10.9]    0.32
  Adv alone                99.9±0.5 [99.1,100.0]    97.4±0.5 [96.4,98.2]  51.4±2.9 [47.6,55.3]  1.7±0.6 [1.3,3.0]     0.31
  Orig alone               100.0±0.0 [100.0,100.0]  98.1±0.1 [97.2,98.9]  59.0±2.7 [55.2,62.8]  3.3±0.7 [2.2,4.7]     0.31
  AdvL alone               55.4±8.6 [49.0,61.6]     63.2±7.4 [58.4,67.9]  44.8±3.3 [41.2,48.1]  28.5±5.7 [25.0,32.7]  0.31
  RL alone                 54.6±8.4 [48.4,60.8]     65.3±6.1 [61.7,68.8]  41.2±1.8 [38.3,44.2]  29.0±5.2 [25.9,32.3]  0.31
  ARL alone                92.9±5.8 [88.4,96.6]     91.1±3.6 [88.5,93.7]  48.5±3.2 [44.8,52.1]  5.1±3.2 [3.6,7.4]     0.31
  ARS alone                59.3±8.8 [52.6,65.5]     66.6±7.7 [61.6,71.2]  44.7±3.2 [41.1,48.0]  25.9±5.9 [22.3,30.2]  0.31

Reading:   on the set alone, D_A keeps the test accuracy (97.4) where AdvL, RL and ARS lose a third of it; ARL keeps
           91, so adversarial images alone do much of it. With D_R the differences
           shrink, as published.
Time:      7 minutes with other jobs beside.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.
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
