"""Influence functions on digits, primal and dual: how near retraining, when not to believe them, what they cost.

Command: unlearn-jax run influence_digits --workdir runs/influence_digits
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.influence.digits import Config, make_parts
from unlearn_jax.studies.influence.digits_page import make_page

EXPERIMENT = Experiment(
    title="Influence functions: near retraining where their assumptions hold",
    config=Config(),
    parts=make_parts,
    page=make_page,
)
