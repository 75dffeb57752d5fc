"""Membership attacks, ROC curves and intervals, from arrays to arrays.

Signals (:mod:`~unlearn_jax.audit.signals`) are JAX functions of logits. Attacks and
statistics take signals as NumPy or JAX arrays, sort and count on the host in float64,
and return NumPy arrays. Under ``jax.jit`` and ``jax.vmap`` those that
:mod:`~unlearn_jax.audit.device` has call it; the others run on the host only, and raise
there. :func:`shadow_signals` evaluates a stack of models.
**A higher score always means a more likely member.** Bad input raises
:class:`~unlearn_jax.types.InputError` with one line that says what to do. NaN is
refused rather than ranked.

Axis letters: ``B`` bootstrap replicates, ``C`` classes, ``M`` reference models, ``N``
samples, ``R`` runs, ``T`` targets, ``Z`` population.
"""

from unlearn_jax.audit import device
from unlearn_jax.audit._correlation import rank_correlation
from unlearn_jax.audit._klom import KlomSummary, klom, klom_summary
from unlearn_jax.audit._lira import lira, lira_leave_one_out
from unlearn_jax.audit._memorization import Memorization, memorization, out_confidence
from unlearn_jax.audit._mia_nn import (
    Discriminator,
    Features,
    MiaNN,
    Neighbor,
    Reading,
    discriminator_calls,
    mia_nn,
    nearest_neighbor,
    neighbor_credits,
)
from unlearn_jax.audit._ranking import Ranking, WeightedCurves
from unlearn_jax.audit._rmia import (
    dominated_fraction,
    ratio_to_average,
    reference_average,
    rmia,
    rmia_ratio,
)
from unlearn_jax.audit._roc import auc, auc_interval, roc
from unlearn_jax.audit._shadow import shadow_signals
from unlearn_jax.audit._ulira import (
    KodgeResult,
    pair_influences,
    ulira,
    ulira_kodge,
)
from unlearn_jax.audit._vulnerability import (
    Vulnerability,
    most_vulnerable,
    vulnerability,
)
from unlearn_jax.audit.bootstrap import (
    Estimate,
    MeanVariance,
    SampleWeights,
    agreeing_interval,
    interval,
    mean_interval,
    mean_variance,
    run_weights,
    sample_weights,
    summarize,
    summarize_runs,
    weighted_auc,
    weighted_mean,
    weighted_tpr,
)
from unlearn_jax.audit.metrics import ForgetAucs, accuracy, avg_gap, forget_aucs
from unlearn_jax.audit.predictions import (
    KodgeMiaResult,
    confusion_rows,
    kl_divergence,
    kodge_mia,
    softmax,
    total_variation,
)
from unlearn_jax.audit.results import Interval, RocCurve, ULira, clopper_pearson
from unlearn_jax.audit.signals import (
    SIGNALS,
    correctness,
    entropy,
    logit_margin,
    loss_signal,
    model_signals,
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
    "Features",
    "ForgetAucs",
    "Interval",
    "KlomSummary",
    "KodgeMiaResult",
    "KodgeResult",
    "MeanVariance",
    "Memorization",
    "MiaNN",
    "MisResult",
    "Neighbor",
    "Ranking",
    "Reading",
    "RocCurve",
    "SampleWeights",
    "ULira",
    "Vulnerability",
    "WeightedCurves",
    "accuracy",
    "agreeing_interval",
    "auc",
    "auc_interval",
    "avg_gap",
    "clopper_pearson",
    "confusion_rows",
    "correctness",
    "device",
    "discriminator_calls",
    "dominated_fraction",
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
    "loss_signal",
    "mean_interval",
    "mean_variance",
    "memorization",
    "mia_nn",
    "mis",
    "model_signals",
    "modified_entropy",
    "most_vulnerable",
    "nearest_neighbor",
    "neighbor_credits",
    "out_confidence",
    "pair_influences",
    "rank_correlation",
    "ratio_to_average",
    "reference_average",
    "rmia",
    "rmia_ratio",
    "roc",
    "run_weights",
    "sample_weights",
    "shadow_signals",
    "soft_margin",
    "softmax",
    "softmax_confidence",
    "summarize",
    "summarize_runs",
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
