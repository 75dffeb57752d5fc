"""Device versions of the audit in ``jax.numpy``, for ``jit``, ``vmap`` and sharding.

Each function has the name, the arguments and the equation of its counterpart in
:mod:`unlearn_jax.audit`. The counterparts check their arguments and compute in float64
on the host. The functions here only check shapes and static options, at trace time, and
compute **in the dtype of their input**: float32 on accelerators, float64 under
``jax.enable_x64``. NaN, empty classes and too few models are not refused; they give
NaN.

* Every function takes one target or ``[T, N]``. It may be mapped by ``jax.vmap`` over
  runs or resamples, or sharded along targets, which needs no communication between
  devices.
* Work is ``O(M N log^2 M + T N log N)`` and memory is linear in the inputs.
* Sums over models are compensated (Knuth's two-sum), so float32 results have the error
  of one rounding, whatever the number of models. Counts are integers, or float32 sums
  of integers below 2**24, which are exact.
* :func:`lira_leave_one_out` subtracts the model that is left out from the moments of
  all. In float32 this loses digits if that model is far from the others: scores of
  models 60 standard deviations away are up to a fifth off.
* Random draws take a typed ``key``.

On a CPU the functions of :mod:`unlearn_jax.audit` are 2 to 7 times faster (128 models
and 60,000 samples, except :func:`lira_leave_one_out`): NumPy's vectorized sort of
60,000 numbers takes 0.2 ms, XLA's comparison sort 11 ms. Under ``jax.jit`` or
``jax.vmap``, those functions call the functions here.
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
