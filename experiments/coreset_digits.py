"""Core-sets on scikit-learn's digits: how little of a forget set must be removed for the knowledge of it to go?

Command: unlearn-jax run coreset_digits --workdir runs/coreset_digits
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.coresets.digits import Config, make_parts
from unlearn_jax.studies.coresets.digits_page import make_page

EXPERIMENT = Experiment(
    title="Core-sets on digits",
    config=Config(),
    parts=make_parts,
    page=make_page,
)
