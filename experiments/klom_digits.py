"""KLoM (arXiv 2410.23232): margins of 50 unlearned models against those of 50 retrained ones, sample by sample.

Command:   unlearn-jax run klom_digits --workdir runs/klom_digits
Published: none at this scale; the paper uses 100 models of ResNet-9 on CIFAR-10.
Measured:  mean ± std over 50 runs (50 originals x 1 forget sets of 90), 95% interval of the mean, in percent and
           points; 64 references; cost: gradients of single samples over a retraining's,
           the adversarial set's as an upper bound

                           unlearn acc              test acc              FT AUC                Avg Gap            cost
  Original (do nothing)    100.0±0.0 [100.0,100.0]  98.1±0.2 [97.2,98.8]  58.0±1.6 [52.8,63.1]  3.4±0.4 [1.7,5.5]  –
  Retrained (oracle)       96.9±0.7 [93.1,99.7]     98.0±0.2 [97.2,98.7]  47.5±1.5 [42.1,52.7]  0.5±0.3 [0.4,1.0]  1.00
  Retrained again (floor)  97.1±0.7 [93.3,99.9]     98.0±0.2 [97.2,98.8]  47.3±1.6 [42.0,52.8]  0.5±0.3 [0.4,1.0]  1.00
  Fine-tuned (FT)          97.1±1.5 [94.4,99.3]     97.6±0.5 [96.7,98.4]  47.6±2.0 [42.9,52.0]  0.9±0.4 [0.9,2.0]  0.10
  AMUN                     100.0±0.0 [100.0,100.0]  97.2±0.4 [96.2,98.1]  45.5±2.2 [40.9,50.5]  1.6±0.4 [1.1,2.9]  0.40
  AMUN without D_R         100.0±0.2 [99.8,100.0]   96.2±0.5 [95.2,97.3]  45.5±2.0 [40.1,50.8]  1.9±0.4 [1.4,3.2]  0.30

Chosen:    Fine-tuned (FT): learning_rate 0.3, decay_every 5; AMUN: learning_rate 0.0959, decay_every 5; AMUN without
           D_R: learning_rate 0.03, decay_every 5

KLoM:      of 50 unlearned against 50 retrained models, mean over samples [95% interval]

                             forget               retain               test
  Original (do nothing)      3.0 [2.3,3.7]        1.8 [1.7,1.9]        1.7 [1.6,1.8]
  Retrained again (floor)    0.9 [0.8,1.0]        0.9 [0.8,0.9]        0.9 [0.8,0.9]
  Fine-tuned (FT)            5.2 [4.9,5.5]        5.5 [5.4,5.6]        5.1 [5.0,5.2]
  AMUN                       4.8 [4.4,5.3]        4.0 [3.9,4.1]        3.7 [3.6,3.8]
  AMUN without D_R           6.1 [5.5,6.7]        5.2 [5.0,5.4]        4.7 [4.5,4.8]

Reading:   by KLoM every method here moves away from retraining: doing nothing is nearer on the forget set (3.0) than
           any of them, and on all other samples (1.8) too, because ten epochs at the
           rates that Avg Gap chooses move every margin. A low Avg Gap says nothing of
           that.
Time:      12 minutes with other jobs beside; peak memory 0.5 GB.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.
"""

import dataclasses

from unlearn_jax.pipeline import ForgetConfig, presets

_BASE = presets.load("digits").config

PRESET = dataclasses.replace(
    _BASE,
    title="KLoM on digits",
    forget=ForgetConfig(seeds=(1,)),
    replicas=dataclasses.replace(_BASE.replicas, originals=tuple(range(50)), group=50),
    audit=dataclasses.replace(_BASE.audit, klom=True),
)
