"""Latent concept unlearning: a diffusion model forgets a digit.

Claim:   adversarial perturbations of latents remove a concept from a generator.
Command: unlearn-jax run latent_concepts --workdir runs/latent_concepts
Results: ``experiments/results/latent_concepts.json``
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.latent.concepts import Config, make_artifacts
from unlearn_jax.studies.latent.concepts_page import make_page

EXPERIMENT = Experiment(
    title="Forgetting a concept by its nearest conditions",
    config=Config(),
    artifacts=make_artifacts,
    page=make_page,
)
