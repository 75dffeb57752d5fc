"""AMUN on adversarially trained originals and on plain ones; digits.

Claim:   AMUN works on adversarially trained originals.
Command: unlearn-jax run trades_digits --workdir runs/trades_digits
Results: ``experiments/results/trades_digits.json``
"""

import dataclasses

from unlearn_jax.objectives import TRADES
from unlearn_jax.pipeline import presets

_BASE = presets.load("digits").config
_PLAIN = dataclasses.replace(
    _BASE, title="Robust originals", audit=dataclasses.replace(_BASE.audit, theory=True)
)
_TRADES = dataclasses.replace(_BASE.training, objective=TRADES(beta=6.0, epsilon=0.1))

STUDY = {"plain": _PLAIN, "trades": dataclasses.replace(_PLAIN, training=_TRADES)}
