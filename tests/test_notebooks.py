"""Every notebook runs, with few epochs and models, and is stored with its outputs.

``python tests/test_notebooks.py [NAME ...]`` executes notebooks as readers do, and
stores them with their outputs.
"""

import base64
import io
import pathlib
import re
import sys

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

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


PLACE = re.compile(r"/(home|root|tmp|work|usr|mnt|opt|Users)/|[A-Z]:\\\\")
"""Path of a machine."""
LARGEST = 150_000
"""Bytes of a notebook."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_with_its_outputs(path):
    text = path.read_text()
    assert len(text) < LARGEST
    assert not PLACE.search(re.sub(r'"image/png": ".*"', "", text))
    cells = nbformat.reads(text, as_version=4).cells
    cells = [cell for cell in cells if cell.cell_type == "code"]
    counts = [cell.execution_count for cell in cells]
    assert counts == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    printed = [output for output in outputs if output.output_type == "stream"]
    assert {output.name for output in printed} == {"stdout"}
    assert SHOWN[path.stem] in "".join(output.text for output in printed)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any("Warning" in output.text for output in printed)


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


def store(path):
    """Execute a notebook, and write it with outputs that name no machine."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=900, kernel_name="python3")
    client.coalesce_streams = True
    client.execute()
    notebook.metadata.language_info = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.clear()
        for output in cell.get("outputs", ()):
            output.get("metadata", {}).clear()
            if "image/png" in output.get("data", {}):
                drawn = io.BytesIO(base64.b64decode(output.data["image/png"]))
                # 64 colors, rare ones too: half the size.
                image = Image.open(drawn).convert("RGB")
                image = image.quantize(64, Image.Quantize.MAXCOVERAGE)
                stream = io.BytesIO()
                image.save(stream, format="png", optimize=True)
                png = base64.b64encode(stream.getvalue()).decode()
                output.data["image/png"] = png
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for one in NOTEBOOKS:
        if one.stem in sys.argv[1:] or not sys.argv[1:]:
            store(one)
