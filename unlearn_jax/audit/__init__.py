"""How well was it forgotten? Membership attacks, ROC curves and intervals: arrays in, arrays out.

Nothing here knows of models or training. Signals (:mod:`~unlearn_jax.audit.signals`) are JAX functions of
logits; attacks and statistics take their outputs, NumPy or JAX, sort and count on the host, and return NumPy.
**A higher score means a more likely member, everywhere.** Bad input raises
:class:`~unlearn_jax.types.InputError` with one line that says what to do; NaN is never ranked.

Axis letters: ``B`` bootstrap replicates, ``C`` classes, ``M`` reference models, ``N`` samples, ``R`` runs,
``T`` targets, ``Z`` population.
"""

from unlearn_jax.audit.bootstrap import (
    Estimate,
    Interval,
    interval,
    run_weights,
    sample_weights,
    summarise,
    weighted_auc,
    weighted_mean,
    weighted_tpr,
)
from unlearn_jax.audit.metrics import ForgetAucs, accuracy, avg_gap, forget_aucs
from unlearn_jax.audit.rmia import dominated_share, rmia, rmia_ratio
from unlearn_jax.audit.roc import RocCurve, auc, auc_interval, clopper_pearson, roc
from unlearn_jax.audit.signals import (
    SIGNALS,
    correctness,
    cross_entropy,
    entropy,
    logit_margin,
    modified_entropy,
    soft_margin,
    softmax_confidence,
    taylor,
    taylor_softmax,
)
from unlearn_jax.audit.svc import MisResult, mis

__all__ = [
    "SIGNALS",
    "Estimate",
    "ForgetAucs",
    "Interval",
    "MisResult",
    "RocCurve",
    "accuracy",
    "auc",
    "auc_interval",
    "avg_gap",
    "clopper_pearson",
    "correctness",
    "cross_entropy",
    "dominated_share",
    "entropy",
    "forget_aucs",
    "interval",
    "logit_margin",
    "mis",
    "modified_entropy",
    "rmia",
    "rmia_ratio",
    "roc",
    "run_weights",
    "sample_weights",
    "soft_margin",
    "softmax_confidence",
    "summarise",
    "taylor",
    "taylor_softmax",
    "weighted_auc",
    "weighted_mean",
    "weighted_tpr",
]
