"""Every experiment that is not a run, whole, at its smallest: its page has its tables, its numbers, its pictures."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest

from unlearn_jax.pipeline import presets, run_experiment

FOLDER = pathlib.Path(__file__).parents[2] / "experiments"
SMALL = {
    "ascent_digits": {
        "seeds": (0, 1),
        "num_train": 120,
        "num_forget": 6,
        "num_models": 4,
        "num_epochs": 2,
        "width": 8,
        "ga_rates": (0.01, 0.1),
        "ga_epochs": (2,),
        "gda_rates": (0.01,),
        "gda_alphas": (0.9,),
        "scrub_rates": (0.01,),
        "num_tuning_epochs": 4,
    },
    "ascent_theory": {
        "seeds": (0,),
        "num_examples": 4,
        "num_retain": 60,
        "num_forget": 10,
        "num_active": 6,
        "num_steps": 50,
        "grid": 5,
        "fine_tuning_steps": 2000,
    },
    "influence_digits": {
        "seeds": (0, 1),
        "num_samples": 60,
        "width": 8,
        "fractions": (0.1, 0.5),
        "networks": ("tanh-8-0.1",),
        "num_steps": 30,
        "widths": (4, 8),
        "classes": (1,),
    },
    "latent_concepts": {
        "seeds": (0,),
        "concepts": (3,),
        "width": 16,
        "num_epochs": 1,
        "num_steps": 3,
        "learning_rates": (1e-3,),
        "overshoots": (2.0,),
        "num_samples": 10,
        "radii": (1.0,),
    },
    "puf_digits": {
        "settings": ("dirichlet", "half"),
        "seeds": (0, 1),
        "width": 8,
        "rounds": 3,
        "recovery": 2,
    },
    "puf_shapes": {
        "seeds": (0, 1),
        "num_clients": 3,
        "num_images": 8,
        "width": 4,
        "rounds": 2,
        "recovery": 2,
    },
    "rbm_bars": {
        "seeds": (0, 1),
        "num_hidden": 4,
        "num_steps": 20,
        "shares": (0.3, 0.6),
    },
    "rbm_digits": {
        "seeds": (0, 1),
        "classes": (1,),
        "shares": (0.5, 0.9),
        "num_train": 500,
        "num_hidden": 8,
        "num_steps": 10,
        "num_chains": 16,
        "num_betas": 10,
    },
}


def run_small(name, folder):
    experiment = presets._execute(FOLDER / f"{name}.py")["EXPERIMENT"]
    config = dataclasses.replace(experiment.config, **SMALL[name])
    return run_experiment(experiment, folder, name=name, config=config)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_a_whole_experiment(name, tmp_path):
    results = run_small(name, tmp_path)
    table, page = (
        (tmp_path / "table.md").read_text(),
        (tmp_path / "report.html").read_text(),
    )
    assert re.search(r"\d\.\d", table), "numbers"
    assert page.count("<table") >= 2, "its tables, and the parts' costs"
    assert "<svg" in page or "data:image/png" in page
    assert not re.search(r">\s*(nan|inf|None)\s*<", page)
    finite = [check for check in results["checks"] if "finite" in check["name"]]
    assert all(check["passed"] for check in finite)
    parts = {file: file.read_bytes() for file in tmp_path.rglob("*.npz")}
    assert parts
    for file in parts:
        with np.load(file) as stored:
            assert all(stored[key].dtype != object for key in stored.files)
    again = run_small(name, tmp_path)
    assert [part["cached"] for part in again["costs"]] == [True] * len(again["costs"])
    assert (tmp_path / "table.md").read_text() == table
    assert (
        json.loads((tmp_path / "results.json").read_text())["summary"]
        == results["summary"]
    )


def test_every_experiment_is_tried():
    """Those with tests of their own beside."""
    files = {
        path.stem for path in FOLDER.glob("*.py") if "EXPERIMENT" in path.read_text()
    }
    elsewhere = {
        "coreset_digits",
        "ensembles_mnist",
        "ensembles_cifar10",
        "ensembles_cifar10_cpu",
    }
    elsewhere |= {"fastclip_mnist", "references_resnet18"}
    assert files == elsewhere | set(SMALL)
