"""The study of erased concepts, whole, at its smallest."""

import pytest
from support.studies import check_study


@pytest.mark.slow
def test_latent_concepts(tmp_path):
    check_study(
        "latent_concepts",
        tmp_path,
        seeds=(0,),
        concepts=(3,),
        width=16,
        num_epochs=1,
        num_steps=3,
        learning_rates=(0.001,),
        overshoots=(2.0,),
        num_samples=10,
        radii=(1.0,),
    )
