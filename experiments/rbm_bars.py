"""An exact generative test-bed: bars and stripes in a small RBM.

Claim:   exact distances to the retrained model show what forget scores hide.
Command: unlearn-jax run rbm_bars --workdir runs/rbm_bars
Results: ``experiments/results/rbm_bars.json``
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.rbm.bars import Config, make_artifacts
from unlearn_jax.studies.rbm.bars_page import make_page

EXPERIMENT = Experiment(
    title="Exact generative test-bed: bars and stripes",
    config=Config(),
    artifacts=make_artifacts,
    page=make_page,
)
