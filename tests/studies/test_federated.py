"""The studies of federated unlearning, whole, at their smallest."""

import pytest
from support.studies import check_study


@pytest.mark.slow
def test_puf_digits(tmp_path):
    check_study(
        "puf_digits",
        tmp_path,
        settings=("dirichlet", "half"),
        seeds=(0, 1),
        width=8,
        rounds=3,
        recovery=2,
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
