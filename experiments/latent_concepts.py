"""Does a diffusion model forget a class when its condition is moved to the nearest one that is something else?

Command: unlearn-jax run latent_concepts --workdir runs/latent_concepts
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.latent.concepts import Config, make_parts
from unlearn_jax.studies.latent.concepts_page import make_page

EXPERIMENT = Experiment(
    title="Forgetting a concept by its nearest conditions",
    config=Config(),
    parts=make_parts,
    page=make_page,
)
