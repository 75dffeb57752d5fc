"""The study of influence functions: a page of known numbers, a tiny run."""

import numpy as np
import pytest
from support.studies import check_study

from unlearn_jax.pipeline.report.blocks import Check, Table
from unlearn_jax.studies.influence import digits, digits_page


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


def made_up(config, *, trusted):
    """Return artifacts of untrained networks, whose errors are all of one size."""
    count = len(config.fractions) + 1
    found = {}
    for seed in config.seeds:
        rng = np.random.default_rng(seed)
        found[f"convex-{seed}"] = {
            name: rng.uniform(0.01, 0.04, count)
            for name in ("moved", "params", "outputs", "forms", "floor")
        } | {
            "fraction": np.array([*config.fractions, config.fractions[0]]),
            "squared": np.arange(count) == count - 1,
        }
        kl = rng.exponential(0.1, (len(config.classes), 4))
        found[f"targets-{seed}"] = {"kl": kl}
        for name in config.networks:
            found[f"network-{name}-{seed}"] = {
                key: rng.uniform(0.1, 0.9)
                for key in (
                    "stationarity",
                    "linearizability",
                    "params",
                    "outputs",
                    "warm",
                    "second",
                )
            } | {"trusted": trusted}
    for width in config.widths:
        for outputs in (1, 10):
            found[f"cost-{width}-{outputs}"] = {
                "kernel": np.ones(1),
                "parameters": np.ones(1),
                "bytes": np.ones((1, 2)),
            } | {
                key: np.ones(len(config.fractions))
                for key in ("dense", "cg", "primal", "gap")
            }
    return found


@pytest.mark.parametrize(
    ("trusted", "words", "others"),
    [(True, "trusts it", "it warns"), (False, "it warns", "trusts it")],
)
def test_page_of_networks_that_are_all_trusted_or_all_not(trusted, words, others):
    config = digits.Config(networks=("tanh-64-0.1",), fractions=(0.5,))
    page = digits_page.make_page(config, made_up(config, trusted=trusted))
    assert words in page.summary
    assert others not in page.summary
    assert "nan" not in page.summary
    assert len(page.find(Check)) == 2, "there is neither 10% nor a small penalty"
    targets = page.find(Table)[2]
    assert all(cell.low >= 0 for row in targets.rows for cell in row[1:])
