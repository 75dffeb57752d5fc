"""An exact generative test-bed: bars and stripes in a diluted restricted Boltzmann machine, 512 states all written out.

Command: unlearn-jax run rbm_bars --workdir runs/rbm_bars
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.rbm.bars import Config, make_parts
from unlearn_jax.studies.rbm.bars_page import make_page

EXPERIMENT = Experiment(
    title="Exact generative test-bed: bars and stripes",
    config=Config(),
    parts=make_parts,
    page=make_page,
)
