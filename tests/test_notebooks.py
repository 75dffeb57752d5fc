"""Every notebook runs from top to bottom, with few epochs and models."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SHOWN = {
    "ascent_fails": "a trap",
    "class_unlearning": "U-LiRA",
    "coresets": "PNS",
    "exact_generative": "times as far from the oracle",
    "federated": "a second retrained model",
    "forgetting_by_hand": "FT AUC",
    "influence": "times nearer",
    "latent_concepts": "classes are",
    "robust_ensembles": "slope",
    "smooth_models": "product bound",
}
"""What each notebook prints when it gets to its audit."""
LONG = ("influence", "latent_concepts", "robust_ensembles")
"""Half a minute and more each."""


@pytest.mark.filterwarnings(
    "default"
)  # the kernel's transport warns about its own sockets
@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=pytest.mark.slow if path.stem in LONG else ())
        for path in NOTEBOOKS
    ],
    ids=lambda path: path.stem,
)
def test_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("UNLEARN_JAX_SMOKE", "1")
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("PYTHONPATH", str(path.parents[1]))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert SHOWN[path.stem] in printed
    assert all(cell.source.count("\ndef ") == 0 for cell in notebook.cells), (
        "a notebook composes, it does not define"
    )
