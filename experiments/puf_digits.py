"""Federated unlearning on scikit-learn's digits: PUF and its baselines, every client in turn, beside retraining.

Command: unlearn-jax run puf_digits --workdir runs/puf_digits
"""

from unlearn_jax.studies.federated.digits import EXPERIMENT

__all__ = ["EXPERIMENT"]
