"""Federated unlearning of segmentation: generated shapes.

Claim:   PUF forgets a client's style in segmentation.
Command: unlearn-jax run puf_shapes --workdir runs/puf_shapes
Results: ``experiments/results/puf_shapes.json``
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.federated.shapes import Config, make_artifacts
from unlearn_jax.studies.federated.shapes_page import make_page

EXPERIMENT = Experiment(
    title="Federated unlearning of segmentation on generated shapes",
    config=Config(),
    artifacts=make_artifacts,
    page=make_page,
)
