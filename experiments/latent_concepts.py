"""Does a diffusion model forget a class when its condition is moved to the nearest one that is something else?

Command: unlearn-jax run latent_concepts --workdir runs/latent_concepts
"""

from unlearn_jax.studies.latent.concepts import EXPERIMENT

__all__ = ["EXPERIMENT"]
