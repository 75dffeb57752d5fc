"""Concept unlearning in class-conditional diffusion models, by AMUN's idea.

AMUN attacks the image; here the attack is on the condition. The package is a testbed,
at the scale of digits, for a question that *Toward Reliable Machine Unlearning* (arXiv
2512.06993, chapter 6) leaves open. :func:`unlearn_jax.models.build_denoiser` builds the
denoiser.
"""

from unlearn_jax.contrib.diffusion.latent import (
    LatentAttack,
    LatentPGD,
    class_losses,
    denoising_judge,
    external_judge,
    latent_attack,
    recover_concept,
)
from unlearn_jax.contrib.diffusion.process import (
    Process,
    add_noise,
    clean_estimate,
    denoising_losses,
    sample,
    to_images,
    to_signal,
    train_denoiser,
    training_loss,
)
from unlearn_jax.contrib.diffusion.quality import concept_rate, frechet_distance
from unlearn_jax.contrib.diffusion.unlearn import (
    ERASURES,
    ConceptProblem,
    KeepOriginal,
    LatentAdversarial,
    Matching,
    RandomCondition,
    RetrainDenoiser,
    SteerAway,
    attack_concept,
    concept_images,
)

__all__ = [
    "ERASURES",
    "ConceptProblem",
    "KeepOriginal",
    "LatentAdversarial",
    "LatentAttack",
    "LatentPGD",
    "Matching",
    "Process",
    "RandomCondition",
    "RetrainDenoiser",
    "SteerAway",
    "add_noise",
    "attack_concept",
    "class_losses",
    "clean_estimate",
    "concept_images",
    "concept_rate",
    "denoising_judge",
    "denoising_losses",
    "external_judge",
    "frechet_distance",
    "latent_attack",
    "recover_concept",
    "sample",
    "to_images",
    "to_signal",
    "train_denoiser",
    "training_loss",
]
