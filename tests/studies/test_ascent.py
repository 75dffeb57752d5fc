"""The studies of ascent, whole, at their smallest."""

import pytest
from support.studies import check_study


@pytest.mark.slow
def test_ascent_digits(tmp_path):
    check_study(
        "ascent_digits",
        tmp_path,
        seeds=(0, 1),
        num_train=120,
        num_forget=6,
        num_models=4,
        num_epochs=2,
        width=8,
        ga_rates=(0.01, 0.1),
        ga_epochs=(2,),
        gda_rates=(0.01,),
        gda_alphas=(0.9,),
        scrub_rates=(0.01,),
        num_tuning_epochs=4,
    )


@pytest.mark.slow
def test_ascent_theory(tmp_path):
    check_study(
        "ascent_theory",
        tmp_path,
        seeds=(0,),
        num_examples=4,
        num_retain=60,
        num_forget=10,
        num_active=6,
        num_steps=50,
        grid=5,
        fine_tuning_steps=2000,
    )
