"""Core-sets: the smallest part of a forget set that is enough; digits.

Claim:   a small part of a forget set is enough.
Command: unlearn-jax run coreset_digits --workdir runs/coreset_digits
Results: ``experiments/results/coreset_digits.json``
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.coresets.digits import Config, make_artifacts
from unlearn_jax.studies.coresets.digits_page import make_page

EXPERIMENT = Experiment(
    title="Core-sets on digits",
    config=Config(),
    artifacts=make_artifacts,
    page=make_page,
)
