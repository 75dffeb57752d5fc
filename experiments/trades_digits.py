"""AMUN on adversarially trained originals (AMUN, Table 7), beside plain ones: digits, a perceptron.

Command:   unlearn-jax run trades_digits --workdir runs/trades_digits
Published: ResNet-18 by TRADES, CIFAR-10, 10%: unlearn / retain / test accuracy / FT AUC
/ Avg Gap

  Retrained            82.33±0.39 / 94.22±0.21 / 81.72±0.36 / 50.04±0.34
  AMUN                 82.65±0.62 / 94.33±0.84 / 84.99±0.91 / 47.18±0.50 / 1.02±0.18
  AMUN without D_R     81.38±0.10 / 87.45±0.54 / 79.74±0.31 / 54.61±0.23 / 3.57±0.24

Measured:  mean ± std over 30 runs (3 originals x 10 forget sets of 90), 95% interval of the mean, in percent and
           points; 64 references; cost: gradients of single samples over a retraining's,
           the adversarial set's as an upper bound

plain:
                           unlearn acc              test acc              FT AUC                Avg Gap            cost
  Original (do nothing)    100.0±0.0 [100.0,100.0]  98.0±0.1 [97.1,98.8]  58.6±2.8 [54.8,62.5]  3.2±0.7 [2.0,4.6]  –
  Retrained (oracle)       96.3±1.8 [94.0,98.2]     97.9±0.2 [97.1,98.7]  49.6±2.8 [46.2,52.9]  1.0±0.4 [0.8,1.9]  1.00
  Retrained again (floor)  96.7±2.0 [94.4,98.5]     97.9±0.3 [97.0,98.7]  50.1±2.7 [46.9,53.5]  1.0±0.5 [0.8,2.0]  1.00
  Fine-tuned (FT)          97.0±1.8 [95.1,98.5]     97.5±0.5 [96.5,98.2]  49.6±2.4 [46.2,53.0]  1.1±0.5 [1.0,2.1]  0.10
  AMUN                     100.0±0.0 [100.0,100.0]  97.5±0.3 [96.5,98.4]  48.5±2.6 [44.8,52.3]  1.6±0.4 [1.3,2.6]  0.40
  AMUN without D_R         99.9±0.3 [99.6,100.0]    96.6±0.6 [95.5,97.5]  47.6±2.8 [43.9,51.2]  1.9±0.6 [1.5,3.0]  0.30

Chosen:    Fine-tuned (FT): learning_rate 0.3, decay_every 5; AMUN: learning_rate 0.0306, decay_every 5; AMUN without
           D_R: learning_rate 0.03, decay_every 5

trades:
                           unlearn acc            test acc              FT AUC                Avg Gap            cost
  Original (do nothing)    99.7±0.6 [99.0,100.0]  98.8±0.3 [98.0,99.4]  59.4±2.3 [56.2,62.4]  3.1±0.6 [2.0,4.3]  –
  Retrained (oracle)       97.6±1.9 [95.6,99.1]   98.1±1.3 [97.1,98.9]  50.3±2.4 [47.7,53.2]  1.2±0.7 [0.9,2.2]  1.00
  Retrained again (floor)  97.6±1.6 [95.6,99.1]   98.2±0.8 [97.4,98.9]  50.9±3.1 [48.1,53.8]  1.2±0.4 [1.1,2.2]  1.00
  Fine-tuned (FT)          99.7±0.5 [98.9,100.0]  99.1±0.2 [98.6,99.7]  60.1±2.1 [56.9,63.3]  3.4±0.5 [2.4,4.6]  0.10
  AMUN                     99.9±0.4 [99.3,100.0]  98.3±0.3 [97.6,99.0]  50.9±2.5 [47.4,54.1]  1.3±0.4 [1.0,2.5]  0.43
  AMUN without D_R         99.9±0.4 [99.3,100.0]  97.8±0.6 [96.9,98.6]  52.7±2.9 [49.3,56.0]  1.6±0.6 [1.1,2.7]  0.33

Chosen:    Fine-tuned (FT): learning_rate 0.3, decay_every 0; AMUN: learning_rate 0.0959, decay_every 5; AMUN without
           D_R: learning_rate 0.03, decay_every 0

Reading:   AMUN stays at the seed floor on adversarially trained originals; fine-tuning does not (3.4 against 1.2).
Time:      8 minutes with other jobs beside.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.
"""

import dataclasses

from unlearn_jax.pipeline import presets

_BASE = presets.load("digits").config
_PLAIN = dataclasses.replace(
    _BASE, title="Robust originals", audit=dataclasses.replace(_BASE.audit, theory=True)
)
_TRADES = dataclasses.replace(
    _BASE.training, objective="trades", objective_fields={"beta": 6.0, "epsilon": 0.1}
)

STUDY = {"plain": _PLAIN, "trades": dataclasses.replace(_PLAIN, training=_TRADES)}
