"""Every method on scikit-learn's digits, each tuned with the same number of trials; a perceptron.

Command:   unlearn-jax run methods_digits --workdir runs/methods_digits
Published: none at this scale; the paper's Tables 1 and 2 are ``amun_tables_cifar10``.
Measured:  mean ± std over 30 runs (3 originals x 10 forget sets of 90), 95% interval of the mean, in percent and
           points; 64 references; cost: gradients of single samples over a retraining's,
           the adversarial set's as an upper bound

                           unlearn acc              test acc              FT AUC                Avg Gap            cost
  Original (do nothing)    100.0±0.0 [100.0,100.0]  98.0±0.1 [97.1,98.8]  58.6±2.8 [54.8,62.5]  3.2±0.7 [2.0,4.6]  –
  Retrained (oracle)       96.3±1.8 [94.0,98.2]     97.9±0.2 [97.1,98.7]  49.6±2.8 [46.2,52.9]  1.0±0.4 [0.8,1.9]  1.00
  Retrained again (floor)  96.7±2.0 [94.4,98.5]     97.9±0.3 [97.0,98.7]  50.1±2.7 [46.9,53.5]  1.0±0.5 [0.8,2.0]  1.00
  Fine-tuned (FT)          97.0±1.8 [95.1,98.5]     97.5±0.5 [96.5,98.2]  49.6±2.4 [46.2,53.0]  1.1±0.5 [1.0,2.1]  0.10
  Random label (RL)        99.4±0.7 [98.5,100.0]    96.5±0.6 [95.5,97.5]  47.9±2.1 [44.5,51.2]  1.7±0.5 [1.4,2.8]  0.12
  Gradient ascent (GA)     99.7±0.8 [98.9,100.0]    98.0±0.2 [97.2,98.9]  57.0±2.8 [53.2,61.0]  2.8±0.8 [1.7,4.0]  0.12
  NegGrad+                 96.0±2.2 [93.4,97.9]     97.2±0.5 [96.3,98.0]  52.4±2.7 [48.9,55.9]  1.5±0.6 [1.2,2.5]  0.20
  Boundary shrink (BS)     98.4±1.3 [97.0,99.5]     96.1±0.7 [95.1,97.0]  46.2±2.2 [42.8,49.3]  1.9±0.7 [1.5,2.9]  0.12
  l1-sparse                99.3±1.0 [98.1,99.9]     97.7±0.4 [96.8,98.5]  53.4±2.6 [50.0,56.9]  1.9±0.6 [1.3,3.0]  0.10
  SalUn                    99.4±0.7 [98.5,99.9]     96.6±0.7 [95.5,97.5]  48.5±2.3 [45.2,51.7]  1.7±0.5 [1.3,2.7]  0.12
  SCRUB                    100.0±0.0 [100.0,100.0]  98.2±0.2 [97.3,99.0]  58.0±2.4 [54.3,61.8]  3.1±0.6 [2.0,4.4]  0.10
  Bad teacher              99.8±0.5 [99.1,100.0]    97.0±0.8 [96.0,98.0]  52.1±2.6 [48.6,55.4]  1.9±0.4 [1.4,3.2]  0.06
  SSD                      100.0±0.0 [100.0,100.0]  98.0±0.1 [97.1,98.8]  58.6±2.8 [54.8,62.6]  3.2±0.7 [2.1,4.7]  0.01
  Influence (WoodFisher)   99.4±0.8 [98.4,100.0]    97.4±0.4 [96.5,98.3]  54.0±2.3 [50.5,57.7]  2.1±0.6 [1.4,3.3]  0.16
  Fisher forgetting        99.7±0.6 [99.0,100.0]    96.9±0.5 [96.0,97.8]  55.7±3.3 [52.1,59.3]  2.7±0.8 [1.8,3.9]  0.10
  Masked small gradients   96.9±1.7 [94.9,98.4]     97.5±0.5 [96.7,98.3]  49.3±2.2 [46.1,52.3]  1.0±0.5 [1.0,2.1]  0.10
  AMUN                     100.0±0.0 [100.0,100.0]  97.5±0.3 [96.5,98.4]  48.5±2.6 [44.8,52.3]  1.6±0.4 [1.3,2.6]  0.40
  AMUN+SalUn               99.9±0.3 [99.5,100.0]    97.3±0.4 [96.3,98.2]  48.2±2.8 [44.7,51.6]  1.7±0.4 [1.3,2.7]  0.40
  RL without D_R           99.8±0.4 [99.2,100.0]    97.0±0.6 [96.0,97.9]  51.9±3.0 [48.1,55.5]  1.9±0.5 [1.4,3.2]  0.02
  GA without D_R           98.6±3.0 [96.2,100.0]    96.7±2.2 [94.8,98.0]  54.9±2.6 [51.4,58.4]  2.7±1.1 [1.8,4.2]  0.02
  BS without D_R           93.3±4.3 [90.0,96.4]     92.8±2.7 [90.5,94.9]  49.1±2.6 [45.8,52.6]  4.0±1.9 [3.0,5.9]  0.02
  SalUn without D_R        99.4±1.0 [98.5,100.0]    96.9±0.8 [95.9,97.8]  51.7±3.2 [48.1,55.4]  1.9±0.5 [1.4,3.2]  0.02
  AMUN without D_R         99.9±0.3 [99.6,100.0]    96.6±0.6 [95.5,97.5]  47.6±2.8 [43.9,51.2]  1.9±0.6 [1.5,3.0]  0.30
  AMUN+SalUn without D_R   99.9±0.3 [99.7,100.0]    96.6±0.5 [95.5,97.4]  48.0±2.8 [44.3,51.4]  1.9±0.5 [1.5,2.9]  0.30

Chosen:    Fine-tuned (FT): learning_rate 0.3, decay_every 5; Random label (RL): learning_rate 0.001, decay_every 0;
           Gradient ascent (GA): learning_rate 0.01; NegGrad+: learning_rate 0.0448,
           alpha 0.894; Boundary shrink (BS): learning_rate 0.00187; l1-sparse:
           learning_rate 0.0448, gamma 0.001; SalUn: learning_rate 0.001, share 0.3;
           SCRUB: learning_rate 0.01, alpha 0.001; Bad teacher: learning_rate 0.000123;
           SSD: alpha 9.59, importance sample; Influence (WoodFisher): alpha 28.5;
           Fisher forgetting: alpha 1.52e-06; Masked small gradients: learning_rate 0.3,
           init_rate 0.9; AMUN: learning_rate 0.0306, decay_every 5; AMUN+SalUn:
           learning_rate 0.0448, share 0.1; RL without D_R: learning_rate 0.000979,
           decay_every 5; GA without D_R: learning_rate 0.01; BS without D_R:
           learning_rate 0.000811; SalUn without D_R: learning_rate 0.000669, share 0.1;
           AMUN without D_R: learning_rate 0.03, decay_every 5; AMUN+SalUn without D_R:
           learning_rate 0.03, share 0.1

Time:      9.5 minutes with other jobs beside; peak memory 1.9 GB.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.
"""

import dataclasses

from unlearn_jax.pipeline import presets
from unlearn_jax.pipeline.config import rows

_ROWS = rows.with_retain() | rows.without_retain()
del _ROWS["convolution_transpose"]  # a perceptron has no convolutions ...
_ROWS["masked_small_gradients"]["kernels"] = (
    "all"  # ... and its layers stand in for them
)

PRESET = dataclasses.replace(
    presets.load("digits").config, title="Methods on digits", rows=_ROWS
)
