"""Federated unlearning of segmentation: generated shapes, each client in a style of its own, PUF beside retraining.

Command: unlearn-jax run puf_shapes --workdir runs/puf_shapes
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.federated.shapes import Config, make_parts
from unlearn_jax.studies.federated.shapes_page import make_page

EXPERIMENT = Experiment(
    title="Federated unlearning of segmentation on generated shapes",
    config=Config(),
    parts=make_parts,
    page=make_page,
)
