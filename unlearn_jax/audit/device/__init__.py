"""The audit as ``jax.numpy``: jittable, ``vmap``-able, sharded over devices.

Each function has the name, the arguments and the equation of the one in
:mod:`unlearn_jax.audit`, which checks its arguments and computes in float64 on the
host. The functions here check shapes only, at trace time, and compute **in the dtype of
their input**: float32 on accelerators, float64 under ``jax.enable_x64``. NaN and empty
sides are not refused: they give NaN.

* Every function takes one target or ``[T, N]``, and may be mapped by ``jax.vmap`` over
  runs or resamples, or sharded along targets: no device then needs another one's rows.
* Work is ``O(M N log^2 M + T N log N)`` and memory is linear in the inputs.
* Sums over models are compensated (Knuth's two-sum), so float32 results carry one
  rounding, whatever the number of models. Counts are integers, or float32 sums of
  integers below 2**24, which are exact.
* Random draws take a typed ``key``.

On a CPU the functions of :mod:`unlearn_jax.audit` are 2 to 7 times faster (128 x
60,000; not when leaving one out), because NumPy sorts 60,000 numbers with vector
instructions in 0.2 ms where XLA's comparison sort takes 11 ms. Under ``jax.jit`` or
``jax.vmap``, those functions call the ones here.
"""

from unlearn_jax.audit.device._curves import (
    auc,
    roc,
    weighted_auc,
    weighted_mean,
    weighted_tpr,
)
from unlearn_jax.audit.device._draws import run_weights, sample_weights
from unlearn_jax.audit.device._lira import lira, lira_leave_one_out
from unlearn_jax.audit.device._rmia import dominated_fraction, rmia, rmia_ratio
from unlearn_jax.audit.device._ulira import ulira

__all__ = [
    "auc",
    "dominated_fraction",
    "lira",
    "lira_leave_one_out",
    "rmia",
    "rmia_ratio",
    "roc",
    "run_weights",
    "sample_weights",
    "ulira",
    "weighted_auc",
    "weighted_mean",
    "weighted_tpr",
]
