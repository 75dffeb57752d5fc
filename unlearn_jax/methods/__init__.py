"""Unlearning methods: values called ``(key, problem) -> (variables, info)``.

A method is a frozen dataclass whose fields are its hyperparameters. ``METHODS`` names
the published methods, with their published settings as defaults. To add your own, write
a frozen dataclass with ``__call__`` and register it: ``METHODS["mine"] = Mine()``.

>>> METHODS["amun"] == AMUN()
True
"""

from unlearn_jax.methods._unlearn import unlearn
from unlearn_jax.methods.adversarial import adversarial_samples
from unlearn_jax.methods.amun import AMUN
from unlearn_jax.methods.bad_teacher import BadTeacher
from unlearn_jax.methods.base import (
    Constraint,
    FineTuning,
    Restriction,
    attack_forget_set,
    finetune_on,
    forget_set,
    make_problem,
)
from unlearn_jax.methods.boundary_expand import BoundaryExpand
from unlearn_jax.methods.boundary_shrink import BoundaryShrink
from unlearn_jax.methods.compose import (
    Filtered,
    Restricted,
    Sequential,
    SpectralBound,
    constrained,
    filtered,
    masked,
    sequence,
    unlearn_sequence,
)
from unlearn_jax.methods.convolution_transpose import ConvolutionTranspose
from unlearn_jax.methods.delete import DELETE
from unlearn_jax.methods.finetune import FineTune
from unlearn_jax.methods.fisher import FisherForgetting
from unlearn_jax.methods.gradient_ascent import GradientAscent
from unlearn_jax.methods.identity import Identity
from unlearn_jax.methods.influence import Influence
from unlearn_jax.methods.influence_target import InfluenceTarget
from unlearn_jax.methods.l1_sparse import L1Sparse
from unlearn_jax.methods.l2ul import L2UL
from unlearn_jax.methods.masked_small_gradients import MaskedSmallGradients
from unlearn_jax.methods.neggrad_plus import NegGradPlus
from unlearn_jax.methods.ntk_influence import NTKInfluence
from unlearn_jax.methods.passes import Pass, finetune_passes
from unlearn_jax.methods.random_label import RandomLabel
from unlearn_jax.methods.retrain import Retrain
from unlearn_jax.methods.saliency import Saliency, saliency_mask
from unlearn_jax.methods.scar import SCAR
from unlearn_jax.methods.scrub import SCRUB
from unlearn_jax.methods.spaces import SPACES, draw_levels
from unlearn_jax.methods.ssd import SSD
from unlearn_jax.methods.svd_projection import SVDProjection
from unlearn_jax.methods.trw import TRW
from unlearn_jax.methods.uam import UAM
from unlearn_jax.methods.unsir import UNSIR
from unlearn_jax.types import UnlearnFn

METHODS: dict[str, UnlearnFn] = {
    "identity": Identity(),
    "retrain": Retrain(),
    "finetune": FineTune(),
    "gradient_ascent": GradientAscent(),
    "neggrad_plus": NegGradPlus(),
    "random_label": RandomLabel(),
    "boundary_shrink": BoundaryShrink(),
    "boundary_expand": BoundaryExpand(),
    "l1_sparse": L1Sparse(),
    "salun": masked(RandomLabel(learning_rate=0.013), Saliency()),
    "scrub": SCRUB(),
    "scar": SCAR(),
    "uam": UAM(),
    "bad_teacher": BadTeacher(),
    "ssd": SSD(),
    "svd_projection": SVDProjection(),
    "unsir": UNSIR(),
    "l2ul": L2UL(),
    "delete": DELETE(),
    "trw": TRW(),
    "influence_target": InfluenceTarget(),
    "influence": Influence(),
    "ntk_influence": NTKInfluence(),
    "fisher": FisherForgetting(),
    "masked_small_gradients": MaskedSmallGradients(),
    "convolution_transpose": ConvolutionTranspose(),
    "amun": AMUN(),
    "amun_salun": masked(AMUN(), Saliency()),
}
"""Published methods by name, as values."""

__all__ = [
    "AMUN",
    "DELETE",
    "L2UL",
    "METHODS",
    "SCAR",
    "SCRUB",
    "SPACES",
    "SSD",
    "TRW",
    "UAM",
    "UNSIR",
    "BadTeacher",
    "BoundaryExpand",
    "BoundaryShrink",
    "Constraint",
    "ConvolutionTranspose",
    "Filtered",
    "FineTune",
    "FineTuning",
    "FisherForgetting",
    "GradientAscent",
    "Identity",
    "Influence",
    "InfluenceTarget",
    "L1Sparse",
    "MaskedSmallGradients",
    "NTKInfluence",
    "NegGradPlus",
    "Pass",
    "RandomLabel",
    "Restricted",
    "Restriction",
    "Retrain",
    "SVDProjection",
    "Saliency",
    "Sequential",
    "SpectralBound",
    "adversarial_samples",
    "attack_forget_set",
    "constrained",
    "draw_levels",
    "filtered",
    "finetune_on",
    "finetune_passes",
    "forget_set",
    "make_problem",
    "masked",
    "saliency_mask",
    "sequence",
    "unlearn",
    "unlearn_sequence",
]
