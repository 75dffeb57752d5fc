"""Federated unlearning of digits: PUF and its baselines.

Claim:   PUF forgets a client's samples as retraining does.
Command: unlearn-jax run puf_digits --workdir runs/puf_digits
Results: ``experiments/results/puf_digits.json``
"""

from unlearn_jax.pipeline import Experiment
from unlearn_jax.studies.federated.images import Config, make_artifacts, training_speed
from unlearn_jax.studies.federated.images_page import make_page

EXPERIMENT = Experiment(
    title="Federated unlearning on digits",
    config=Config(),
    artifacts=make_artifacts,
    page=make_page,
    speed=training_speed,
)
