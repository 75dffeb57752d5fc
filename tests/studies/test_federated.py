"""The studies of federated unlearning, whole, at their smallest."""

import pytest
from support.studies import check_study

from unlearn_jax.pipeline import ModelConfig


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
def test_a_federation_may_have_a_network_with_statistics_and_few_cases(tmp_path):
    check_study(
        "puf_digits",
        tmp_path,
        settings=("dirichlet",),
        seeds=(0,),
        num_cases=2,
        num_train=400,
        model=ModelConfig(name="cnn", widths=(4,), batch_norm=True),
        augment="crop",
        strengths=(2.0,),
        rounds=2,
        recovery=1,
        group=2,
    )


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
