"""The studies of Boltzmann machines, whole, at their smallest."""

import pytest
from support.studies import check_study


@pytest.mark.slow
def test_rbm_bars(tmp_path):
    check_study(
        "rbm_bars",
        tmp_path,
        seeds=(0, 1),
        num_hidden=4,
        num_steps=20,
        fractions=(0.3, 0.6),
    )


@pytest.mark.slow
def test_rbm_digits(tmp_path):
    check_study(
        "rbm_digits",
        tmp_path,
        seeds=(0, 1),
        classes=(1,),
        fractions=(0.5, 0.9),
        num_train=500,
        num_hidden=8,
        num_steps=10,
        num_chains=16,
        num_betas=10,
    )
