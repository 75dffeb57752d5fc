"""The studies of federated unlearning: a page of known numbers, tiny runs."""

import numpy as np
import pytest
from support.studies import check_study

from unlearn_jax.pipeline import ModelConfig, presets
from unlearn_jax.pipeline.report.blocks import Check, Table
from unlearn_jax.studies.federated import images, images_page


def test_a_model_that_diverged_is_a_cell_and_not_the_end_of_the_page():
    config = images.Config(
        settings=("dirichlet",), seeds=(0, 1), num_cases=2, strengths=(0.5,)
    )
    rng = np.random.default_rng(0)
    found = {}
    for seed in config.seeds:
        rows = ("natural", "more", "special", "special-0.5", "regular", "not", "ascent")
        found[f"forget-dirichlet-{seed}"] = {
            name: rng.random((2, 4)) for name in ("original", "retrained", "again")
        } | {name: rng.random((2, 4, 4)) for name in rows}
    assert images_page.make_page(config, found).find(Check)[0].passed
    for name in ("not", "natural"):
        found["forget-dirichlet-0"][name][0, :, 1] = np.nan
    page = images_page.make_page(config, found)
    methods, _, strengths = page.find(Table)
    rows = {row[0]: row for row in methods.rows}
    assert rows["NoT"][4] == "diverged 1 of 4"
    assert 0 <= rows["NoT"][3].low <= rows["NoT"][3].high <= 100
    assert "natural unknown (diverged)" in page.summary
    assert not page.find(Check)[0].passed
    assert [row[0] for row in strengths.rows] == ["0.5", "2"]


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
