"""Diluted Boltzmann machines on MNIST: sparsity and forgetting.

Claim:   80% of the connections can be removed before training.
Command: unlearn-jax run rbm_mnist --workdir runs/rbm_mnist --data.path DATA_DIR
Results: ``experiments/results/rbm_mnist.json``
"""

from unlearn_jax.pipeline import DataConfig, Experiment
from unlearn_jax.studies.rbm.digits import Config, make_artifacts
from unlearn_jax.studies.rbm.digits_page import make_page

# 784 pixels and 200 hidden units: far from enumeration, so that annealed importance
# sampling with twice as many temperatures gives the likelihoods.
EXPERIMENT = Experiment(
    title="Diluted machines on MNIST",
    config=Config(
        data=DataConfig(source="tfds", name="mnist", num_train=5_000, num_test=2_000),
        seeds=(0, 1, 2),
        classes=(1, 3),
        fractions=(0.5, 0.8, 0.9, 0.95),
        num_train=5_000,
        num_hidden=200,
        num_steps=2_000,
        learning_rate=0.1,
        num_betas=2_000,
    ),
    artifacts=make_artifacts,
    page=make_page,
)
