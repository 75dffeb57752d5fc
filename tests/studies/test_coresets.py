"""The study of core-sets: its page from made-up artifacts, refusals, a tiny run."""

import dataclasses

import numpy as np
import pytest

from unlearn_jax import audit
from unlearn_jax.contrib import coresets
from unlearn_jax.pipeline import Experiment, run_experiment
from unlearn_jax.pipeline.report.blocks import Check, Figure, Table
from unlearn_jax.studies.coresets import digits, digits_page
from unlearn_jax.types import InputError

SMALL = {
    "num_train": 400,
    "cluster_classes": (1,),
    "random_sets": 1,
    "random_size": 10,
    "search_worlds": 3,
    "judge_worlds": 4,
    "num_features": 50,
    "random_orders": 2,
    "seeds": (0, 1, 2),
    "judge_seeds": (3, 4, 5),
    "curve": (0.3, 0.6),
    "other_tolerances": (0.3,),
    "num_epochs": 2,
    "width": 8,
}
EXPERIMENT = Experiment(
    "Core-sets", digits.Config(), digits.make_artifacts, digits_page.make_page
)


@pytest.fixture
def config():
    return digits.Config(**SMALL)


def made_up(rng, core):
    """Parts of one forget set of ten, whose core-set always suffices on networks."""
    members = np.arange(10) < core
    subsets = np.array(
        [
            members,
            rng.permutation(members),
            *(rng.permutation(members) for _ in range(2)),
        ]
    )
    search = {
        "index": np.arange(10),
        "orders": np.array([rng.permutation(10) for _ in range(4)]),
        "subsets": subsets,
        "searched": np.array([core, 1.0]),
        "sizes_elsewhere": np.array([core - 1]),
        "top_shares": np.tile(np.linspace(0.1, 1, 10), (3, 1)),
        "shares": np.tile([1.0, 0.95, 0.5, 0.95], (4, 1)),
        "rest_shares": np.tile([0.0, 1.0, 0.0, 0.0], (4, 1)),
        "one_left_shares": rng.random((4, core)),
        "curve": rng.random((4, 4, 20)),
        "curve_sizes": np.linspace(0.05, 1, 20),
    }
    networks = np.array([[[0.3, 0.95], [0.3, 0.6], [0.95, 0.2]]] * 3)
    levels = 1 - np.array(
        [0, 1, *[1, 0.5, 0.2], *[0.1, 0.95, 0.2], *[1, 1, 1], *[0, 0, 0], 1.05]
    )
    signals = rng.normal(size=(3, 15, 10))
    signals[:, 2][:, ~members] += 50  # left in: plain to see
    judge = {
        "among": np.array(
            [
                np.zeros(10, bool),
                np.ones(10, bool),
                *subsets[:3],
                *~subsets[:3],
                *np.ones((3, 10), bool),
                *np.zeros((3, 10), bool),
            ]
        ),
        "margins": np.tile(levels[None, :, None], (3, 1, 10)),
        "signals": signals,
        "accuracy": rng.random((3, 15)),
        "test_accuracy": rng.random((3, 15)),
    }
    return search, {"shares": networks}, judge


def test_page_from_made_up_parts(config):
    rng = np.random.default_rng(0)
    found = {
        "ridge": {"ridge": np.array(0.1), "errors": np.ones(6), "gap": np.array(1e-12)}
    }
    for name, core in (("cluster-1", 7), ("random-0", 6)):
        parts = made_up(rng, core)
        found |= {
            f"{stage}-{name}": part
            for stage, part in zip(("search", "curve", "judge"), parts, strict=True)
        }
    page = digits_page.make_page(config, found)
    assert coresets.CAVEAT in page.summary
    assert "hold 70% of the forget set; in networks 60% of it is enough" in page.summary
    assert page.find(Check)[0].passed
    assert "Members left out of the core-set give U-LiRA an AUC of" in page.summary
    clusters, _, membership, kernels, sizes = page.find(Table)
    assert all(0 <= cell.low <= cell.high <= 100 for cell in clusters.rows[0][6:])
    rows = {row[0]: row for row in clusters.rows}
    nothing, core, oracle, floor = (
        rows[name] for name in list(rows)[:2] + list(rows)[-2:]
    )
    assert (nothing[2].mean, core[2].mean, oracle[2].mean) == pytest.approx((0, 1, 1))
    assert floor[2].mean == pytest.approx(1.05)
    assert core[3].startswith("1.00 [0.29")
    assert core[4].startswith("1.00")
    assert clusters.rows[2][4].startswith("0.00"), "its complement suppresses as much"
    assert membership.rows[1][1].mean > 80
    assert membership.rows[-1][1] is None, "nobody is left in"
    assert [row[5].split()[0] for row in kernels.rows[:3]] == ["1.00", "0.00", "0.50"]
    assert kernels.rows[2][6] == "0.50 to 0.50"
    assert sizes.rows[0][2:] == ["70%", "60%", "90%", "60%", "100%", "30%"]
    assert len(page.find(Figure)[0].figure.axes) == 4
    broken = found | {"ridge": {**found["ridge"], "gap": np.array(1e-3)}}
    assert not digits_page.make_page(config, broken).find(Check)[0].passed
    alone = dataclasses.replace(config, random_sets=0)
    assert len(digits_page.make_page(alone, found).find(Figure)[0].figure.axes) == 2


def test_pairs_of_ulira_are_not_independent(config):
    signals = np.random.default_rng(0).normal(size=(5, 15, 10))
    part = {"among": np.ones((15, 10), bool), "signals": signals}
    estimate = digits_page.ulira_auc([part], digits_page.ALL, removed=True)
    areas = 100 * audit.ulira(signals[:, digits_page.ALL], signals[:, -1]).auc
    naive = audit.summarize_runs(areas[None])
    assert estimate.mean == naive.mean
    assert estimate.high - estimate.low > 1.3 * (naive.high - naive.low)
    assert estimate.low >= 0
    assert estimate.high <= 100


def test_orders_become_prefixes():
    masks = digits.prefixes(np.array([2, 0, 1]), [1, 2])
    np.testing.assert_array_equal(masks, [[False, False, True], [True, False, True]])
    np.testing.assert_array_equal(digits.counts_of([0.01, 0.5], 10), [1, 5])


def test_refusals_are_one_line(config):
    for change, message in (
        ({"seeds": (0, 1)}, "at least 3"),
        ({"judge_seeds": (0, 4, 5)}, "must not overlap"),
        ({"curve": (0.5, 1.0)}, "between 0 and 1"),
        ({"curve": (0.9, 0.1)}, "must ascend"),
    ):
        with pytest.raises(InputError, match=message):
            digits.make_artifacts(dataclasses.replace(config, **change))


@pytest.mark.slow
def test_tiny_run(config, tmp_path):
    results = run_experiment(EXPERIMENT, tmp_path, name="coreset_digits", config=config)
    assert results.checks[0].passed
    assert (tmp_path / "report.html").exists()
