"""Influence functions on digits, primal and dual, with a guard.

Claim:   influence equals retraining for linearized networks only.
Command: unlearn-jax run influence_digits --workdir runs/influence_digits
Results: ``experiments/results/influence_digits.json``
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.influence.digits import Config, make_artifacts
from unlearn_jax.studies.influence.digits_page import make_page

EXPERIMENT = Experiment(
    title="Influence functions: near retraining where their assumptions hold",
    config=Config(),
    artifacts=make_artifacts,
    page=make_page,
)
