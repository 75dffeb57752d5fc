"""Diluted restricted Boltzmann machines on handwritten digits: sparsity before and after training, forgetting a digit.

Command: unlearn-jax run rbm_digits --workdir runs/rbm_digits
"""

from unlearn_jax.studies.rbm.digits import EXPERIMENT

__all__ = ["EXPERIMENT"]
