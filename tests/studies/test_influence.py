"""The study of influence functions, whole, at its smallest."""

import pytest
from support.studies import check_study


@pytest.mark.slow
def test_influence_digits(tmp_path):
    check_study(
        "influence_digits",
        tmp_path,
        seeds=(0, 1),
        num_samples=60,
        width=8,
        fractions=(0.5,),
        networks=("tanh-8-0.1",),
        num_steps=30,
        widths=(4,),
        classes=(1,),
    )
