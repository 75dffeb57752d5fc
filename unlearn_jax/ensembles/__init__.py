"""Joint training of ensembles: shared batches, and terms that couple members.

Without such a term, the members are trained exactly as if each were trained alone.
LOTOS (arXiv 2410.05136) and TRS (arXiv 2104.00671) couple them. FastClip, as the last
transformation of the optimizer's chain, bounds each member's layers.
"""

from unlearn_jax.ensembles.config import Ensemble, Lotos, Trs
from unlearn_jax.ensembles.members import ensemble_apply
from unlearn_jax.ensembles.training import (
    EnsembleLosses,
    EnsembleState,
    ensemble_epochs,
    ensemble_step,
    fit_ensemble,
    init_ensemble,
    joint_training,
)

__all__ = [
    "Ensemble",
    "EnsembleLosses",
    "EnsembleState",
    "Lotos",
    "Trs",
    "ensemble_apply",
    "ensemble_epochs",
    "ensemble_step",
    "fit_ensemble",
    "init_ensemble",
    "joint_training",
]
