"""Federated unlearning of segmentation: generated shapes, each client in a style of its own, PUF beside retraining.

Command: unlearn-jax run puf_shapes --workdir runs/puf_shapes
"""

from unlearn_jax.studies.federated.shapes import EXPERIMENT

__all__ = ["EXPERIMENT"]
