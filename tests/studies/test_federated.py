"""The studies of federated unlearning, whole, at their smallest."""

import pytest
from support.studies import check_study

from unlearn_jax.pipeline import ModelConfig, presets


@pytest.mark.slow
def test_puf_digits(tmp_path):
    check_study(
        "puf_digits",
        tmp_path,
        settings=("dirichlet", "half"),
        seeds=(0, 1),
        model=ModelConfig(name="mlp", widths=(8,)),
        rounds=3,
        recovery=2,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("puf_cifar10_cpu", ModelConfig(name="resnet", blocks=(1,), width=4)),
        (
            "puf_vit_cifar10_cpu",
            ModelConfig(name="vit", patch_size=4, width=8, depth=1, num_heads=2),
        ),
    ],
)
def test_puf_cifar10(name, model, tmp_path):
    """On digits, with the first cases: a network with statistics, and Adam."""
    config = presets.load(name).experiment.config
    small = {
        "seeds": (0,),
        "num_cases": 2,
        "data": None,
        "num_train": 400,
        "model": model,
        "rounds": 2,
        "recovery": 1,
    }
    check_study(name, tmp_path, **vars(config) | small)


@pytest.mark.slow
def test_puf_shapes(tmp_path):
    check_study(
        "puf_shapes",
        tmp_path,
        seeds=(0, 1),
        num_clients=3,
        num_images=8,
        width=4,
        rounds=2,
        recovery=2,
    )
