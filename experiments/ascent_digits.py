"""Gradient ascent on digits: KLoM of every run of a grid.

Claim:   ascent fails to forget, and the cross-influence norm predicts when.
Command: unlearn-jax run ascent_digits --workdir runs/ascent_digits
Results: ``experiments/results/ascent_digits.json``
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.ascent.digits import Config, make_artifacts
from unlearn_jax.studies.ascent.digits_page import make_page

EXPERIMENT = Experiment(
    title="Does gradient ascent forget on digits?",
    config=Config(),
    artifacts=make_artifacts,
    page=make_page,
)
