"""Federated unlearning on scikit-learn's digits: PUF and its baselines, every client in turn, beside retraining.

Command: unlearn-jax run puf_digits --workdir runs/puf_digits
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.federated.digits import Config, make_parts
from unlearn_jax.studies.federated.digits_page import make_page

EXPERIMENT = Experiment(
    title="Federated unlearning on digits",
    config=Config(),
    parts=make_parts,
    page=make_page,
)
