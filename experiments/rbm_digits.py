"""Diluted restricted Boltzmann machines on handwritten digits: sparsity before and after training, forgetting a digit.

Command: unlearn-jax run rbm_digits --workdir runs/rbm_digits
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.rbm.digits import Config, make_parts
from unlearn_jax.studies.rbm.digits_page import make_page

EXPERIMENT = Experiment(
    title="Diluted machines on digits",
    config=Config(),
    parts=make_parts,
    page=make_page,
)
