"""Concept unlearning in class-conditional diffusion models: AMUN's idea asked of the condition instead of the image.

A testbed of a question that *Toward Reliable Machine Unlearning* (arXiv 2512.06993,
chapter 6) leaves open, at the scale of digits. The denoiser itself is
:func:`unlearn_jax.models.build_denoiser`.
"""

from unlearn_jax.diffusion.latent import (
    LatentAttack,
    class_losses,
    denoising_judge,
    external_judge,
    latent_attack,
    recover,
)
from unlearn_jax.diffusion.process import (
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
from unlearn_jax.diffusion.quality import concept_rate, frechet_distance
from unlearn_jax.diffusion.unlearn import (
    ERASURES,
    ConceptProblem,
    Matching,
    attack_concept,
    concept_images,
    do_nothing,
    latent_adversarial,
    random_label,
    retrain,
    steer,
)

__all__ = [
    "ERASURES",
    "ConceptProblem",
    "LatentAttack",
    "Matching",
    "Process",
    "add_noise",
    "attack_concept",
    "class_losses",
    "clean_estimate",
    "concept_images",
    "concept_rate",
    "denoising_judge",
    "denoising_losses",
    "do_nothing",
    "external_judge",
    "frechet_distance",
    "latent_adversarial",
    "latent_attack",
    "random_label",
    "recover",
    "retrain",
    "sample",
    "steer",
    "to_images",
    "to_signal",
    "train_denoiser",
    "training_loss",
]
