"""The study of erased concepts: a page of known numbers, a tiny run."""

import numpy as np
import pytest
from support.studies import check_study

from unlearn_jax.pipeline.report.blocks import Table
from unlearn_jax.studies.latent import concepts, concepts_page
from unlearn_jax.types import Status


def made_up(config, forgotten, attacked):
    """Return artifacts of untrained models, in which run 1 has no border."""
    runs = len(config.seeds) * len(config.concepts)
    rng = np.random.default_rng(0)
    found = {"classifiers": {"evaluator-accuracy": np.array(0.95)}}
    for name in concepts.ROWS:
        fraction = np.full(runs, forgotten.get(name, 0.5))
        after = np.full(runs, attacked.get(name, 0.9))
        found[name] = {
            "forgotten": fraction,
            "retained": rng.uniform(0.9, 1, runs),
            "frechet": rng.uniform(0, 2, runs),
            "unconditional": rng.uniform(0, 0.1, runs),
            "attacked": np.stack([fraction] + [after] * len(config.radii), 1),
            "images": rng.random((runs, 11, 6, 4, 4, 1)),
        }
    status = np.full((runs, 64), Status.FOUND)
    status[1:2] = Status.NOT_FOUND
    found["search"] = {"scale": np.ones(runs)}
    for name in ("own", "external"):
        found["search"] |= {
            f"{name}-status": status,
            f"{name}-distance": np.full((runs, 64), 0.2),
            f"{name}-epsilon": np.full((runs, 64), 0.2),
        }
    for name in concepts.TUNED:
        found[f"tune-{name}"] = {
            "rate": np.array([0.1]),
            "error": np.array([0.1]),
            "chosen": np.array([1e-3, 1.0]),
        }
    return found


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_page_of_known_numbers(seeds, monkeypatch):
    config = concepts.Config(seeds=seeds, concepts=(3, 8))
    runs = 2 * len(seeds)
    floor = np.linspace(0.1, 0.2, runs)
    monkeypatch.setattr(concepts_page, "floor_distance", lambda *_: floor)
    forgotten = {"retrained": 0.0, "again": 0.0, "esd": 0.02, "random-label": 0.3}
    attacked = {"retrained": 0.3, "again": 0.3, "esd": 0.1, "latent-beyond": 0.31}
    page = concepts_page.make_page(config, made_up(config, forgotten, attacked))
    assert "nan" not in page.summary
    assert "points of f: steer past it (ESD) (+2.0; a second" in page.summary
    # 20 points below retraining is farther away than 1 point above.
    assert "re-attack: latent, classifier, past the border (+1.0; a" in page.summary
    main, _, border, _ = page.find(Table)
    for row in (*main.rows[1:], *border.rows):
        cells = [cell for cell in row[1:] if hasattr(cell, "mean")]
        assert not any(cell.low < 0 or cell.high > 100 for cell in cells)
    for row in border.rows:
        assert row[-2].mean == pytest.approx(0.2)
        assert row[-1] == f"{runs - 1} of {runs}"


def test_runs_without_a_border_have_no_length(monkeypatch):
    config = concepts.Config(seeds=(0,), concepts=(3,))
    monkeypatch.setattr(concepts_page, "floor_distance", lambda *_: np.ones(1))
    found = made_up(config, {}, {})
    found["search"]["own-status"][:] = Status.NOT_FOUND
    row = concepts_page.search_table(config, found).rows[0]
    assert row[-2:] == [None, "0 of 1"]


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
