"""An exact generative test-bed: bars and stripes in a diluted restricted Boltzmann machine, 512 states all written out.

Command: unlearn-jax run rbm_bars --workdir runs/rbm_bars
"""

from unlearn_jax.studies.rbm.bars import EXPERIMENT

__all__ = ["EXPERIMENT"]
