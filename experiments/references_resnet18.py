"""Price of 128 and 256 ResNet-18 references; accelerator.

Claim:   device hours and model FLOP utilization of the references.
Command: unlearn-jax run references_resnet18 --workdir runs/references_resnet18
         --data.path DATA_DIR
Results: ``experiments/results/references_resnet18.json``
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.references.resnet18 import Config, make_artifacts
from unlearn_jax.studies.references.resnet18_page import make_page

EXPERIMENT = Experiment(
    title="Reference models: ResNet-18",
    config=Config(),
    artifacts=make_artifacts,
    page=make_page,
)
