"""A whole study at a small configuration."""

import json
import re

import numpy as np

from unlearn_jax.pipeline import presets, run_experiment


def check_study(name, folder, **small):
    """Run a study twice and check its page, its artifacts and that it resumes."""
    experiment = presets.load(name).experiment
    config = type(experiment.config)(**small)
    results = run_experiment(experiment, folder, name=name, config=config)
    table = (folder / "table.md").read_text()
    page = (folder / "report.html").read_text()
    assert re.search(r"\d\.\d", table), "no numbers"
    assert page.count("<table") >= 2, "no table, or no table of costs"
    assert "<svg" in page or "data:image/png" in page
    assert not re.search(r">\s*(nan|inf|None)\s*<", page)
    finite = [check for check in results.checks if "finite" in check.name]
    assert all(check.passed for check in finite)
    arrays = list(folder.rglob("*.npy"))
    assert arrays
    assert all(np.load(file).dtype != object for file in arrays)
    again = run_experiment(experiment, folder, name=name, config=config)
    assert all(stage.cached for stage in again.stages)
    assert (folder / "table.md").read_text() == table
    stored = json.loads((folder / "results.json").read_text())
    assert stored["summary"] == results.summary
    return results
