"""AMUN on adversarially trained originals (AMUN, Table 7), beside plain ones: digits, a perceptron.

Command:   unlearn-jax run trades_digits --workdir runs/trades_digits
Published: ResNet-18 by TRADES, CIFAR-10, 10%: unlearn / retain / test accuracy / FT AUC / Avg Gap

  Retrained            82.33±0.39 / 94.22±0.21 / 81.72±0.36 / 50.04±0.34
  AMUN                 82.65±0.62 / 94.33±0.84 / 84.99±0.91 / 47.18±0.50 / 1.02±0.18
  AMUN without D_R     81.38±0.10 / 87.45±0.54 / 79.74±0.31 / 54.61±0.23 / 3.57±0.24

Measured:  TO BE MEASURED
"""

import dataclasses

from unlearn_jax.pipeline import presets

_BASE = presets.load("digits").config
_PLAIN = dataclasses.replace(_BASE, title="Robust originals", audit=dataclasses.replace(_BASE.audit, theory=True))
_TRADES = dataclasses.replace(_BASE.training, objective="trades", objective_fields={"beta": 6.0, "epsilon": 0.1})

STUDY = {"plain": _PLAIN, "trades": dataclasses.replace(_PLAIN, training=_TRADES)}
