"""How well was it forgotten? Membership attacks, ROC curves and intervals: arrays in, arrays out.

Nothing here knows of models or training. Signals (:mod:`~unlearn_jax.audit.signals`)
are JAX functions of logits; attacks and statistics take their outputs, NumPy or JAX,
sort and count on the host, and return NumPy. **A higher score means a more likely
member, everywhere.** Bad input raises :class:`~unlearn_jax.types.InputError` with one
line that says what to do; NaN is never ranked.

Axis letters: ``B`` bootstrap replicates, ``C`` classes, ``M`` reference models, ``N``
samples, ``R`` runs, ``T`` targets, ``Z`` population.
"""

from unlearn_jax.audit._klom import KlomSummary, klom, klom_summary
from unlearn_jax.audit._lira import lira, lira_leave_one_out
from unlearn_jax.audit._memorization import Memorization, memorization, out_confidence
from unlearn_jax.audit._mia_nn import (
    Discriminator,
    MiaNN,
    Neighbor,
    discriminator_calls,
    mia_nn,
    nearest_neighbor,
)
from unlearn_jax.audit._rmia import dominated_share, rmia, rmia_ratio
from unlearn_jax.audit._roc import RocCurve, auc, auc_interval, clopper_pearson, roc
from unlearn_jax.audit._ulira import KodgeResult, ULira, ulira, ulira_kodge
from unlearn_jax.audit._vulnerability import (
    Vulnerability,
    most_vulnerable,
    vulnerability,
)
from unlearn_jax.audit.bootstrap import (
    Estimate,
    Interval,
    interval,
    run_weights,
    sample_weights,
    summarize,
    weighted_auc,
    weighted_mean,
    weighted_tpr,
)
from unlearn_jax.audit.metrics import ForgetAucs, accuracy, avg_gap, forget_aucs
from unlearn_jax.audit.predictions import (
    confusion_rows,
    kl_divergence,
    kodge_mia,
    softmax,
    total_variation,
)
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
    "Discriminator",
    "Estimate",
    "ForgetAucs",
    "Interval",
    "KlomSummary",
    "KodgeResult",
    "Memorization",
    "MiaNN",
    "MisResult",
    "Neighbor",
    "RocCurve",
    "ULira",
    "Vulnerability",
    "accuracy",
    "auc",
    "auc_interval",
    "avg_gap",
    "clopper_pearson",
    "confusion_rows",
    "correctness",
    "cross_entropy",
    "discriminator_calls",
    "dominated_share",
    "entropy",
    "forget_aucs",
    "interval",
    "kl_divergence",
    "klom",
    "klom_summary",
    "kodge_mia",
    "lira",
    "lira_leave_one_out",
    "logit_margin",
    "memorization",
    "mia_nn",
    "mis",
    "modified_entropy",
    "most_vulnerable",
    "nearest_neighbor",
    "out_confidence",
    "rmia",
    "rmia_ratio",
    "roc",
    "run_weights",
    "sample_weights",
    "soft_margin",
    "softmax",
    "softmax_confidence",
    "summarize",
    "taylor",
    "taylor_softmax",
    "total_variation",
    "ulira",
    "ulira_kodge",
    "vulnerability",
    "weighted_auc",
    "weighted_mean",
    "weighted_tpr",
]
