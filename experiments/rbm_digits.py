"""Diluted Boltzmann machines on digits: sparsity and forgetting.

Claim:   80% of the connections can be removed before training.
Command: unlearn-jax run rbm_digits --workdir runs/rbm_digits
Results: ``experiments/results/rbm_digits.json``
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.rbm.digits import Config, make_artifacts
from unlearn_jax.studies.rbm.digits_page import make_page

EXPERIMENT = Experiment(
    title="Diluted machines on digits",
    config=Config(),
    artifacts=make_artifacts,
    page=make_page,
)
