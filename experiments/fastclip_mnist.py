"""FastClip against Miyato, Gouk and the FFT clip on MNIST.

Claim:   FastClip holds every layer at its target, the comparators do not.
Command: unlearn-jax run fastclip_mnist --workdir runs/fastclip_mnist --data.path
         DATA_DIR
Results: ``experiments/results/fastclip_mnist.json``
"""

from unlearn_jax.pipeline import DataConfig, Experiment, ModelConfig
from unlearn_jax.studies.norms.artifacts import NormConfig, make_artifacts
from unlearn_jax.studies.norms.page import make_page

EXPERIMENT = Experiment(
    title="FastClip on MNIST",
    config=NormConfig(
        data=DataConfig(source="tfds", name="mnist", num_train=6000, num_test=4000),
        model=ModelConfig(name="cnn", widths=(8, 16)),
    ),
    artifacts=make_artifacts,
    page=make_page,
)
