"""Runs whose networks FastClip holds: originals, oracles, references and what methods
make of them.
"""

import dataclasses

import jax
import numpy as np
import pytest
from support.runs import TINY

from unlearn_jax import methods, values
from unlearn_jax.pipeline import Row, run
from unlearn_jax.pipeline.config import resolve as settings
from unlearn_jax.pipeline.report.sections import norms_section
from unlearn_jax.pipeline.report.study import NORM, TERMS, study_tables
from unlearn_jax.pipeline.stages.plan import make_plan
from unlearn_jax.types import InputError

MAX_NORM = 1.5
CLIPPED = dataclasses.replace(
    TINY,
    training=dataclasses.replace(
        TINY.training, num_epochs=8, max_norm=MAX_NORM, clip_period=3
    ),
    replicas=dataclasses.replace(TINY.replicas, keep_references="models"),
    audit=dataclasses.replace(TINY.audit, norms=True, theory=True),
)


@pytest.fixture(scope="module")
def clipped(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clipped")
    return folder / "run", run(CLIPPED, folder / "run", splits=splits)


def true_norms(variables):
    """``[M, layers]`` by the SVD, which an MLP's kernels allow."""
    kernels = [leaf for leaf in jax.tree.leaves(variables.params) if leaf.ndim == 3]
    return np.stack(
        [
            np.linalg.norm(np.asarray(kernel, np.float64), 2, (1, 2))
            for kernel in kernels
        ],
        -1,
    )


def test_every_trained_model_is_within_its_norms(clipped, splits):
    plan = make_plan(CLIPPED, clipped[0].parent / "banks", splits=splits)
    for bank in (plan.originals, plan.oracles, plan.references):
        assert not bank.missing()
        norms = true_norms(bank.variables())
        assert norms.shape == (len(bank.member), 2)
        assert norms.max() < 1.01 * MAX_NORM
    free = make_plan(TINY, clipped[0].parent / "free", splits=splits)
    assert free.originals.artifact.key != plan.originals.artifact.key


def test_the_report_gives_the_norms_of_every_row(clipped, splits):
    results = clipped[1]
    shown = results.norms.rows
    assert results.norms.unfound == ()
    assert list(shown) == [
        "original",
        "retrained",
        "retrained_again",
        "finetune",
        "amun",
    ]
    plan = make_plan(CLIPPED, clipped[0].parent / "banks", splits=splits)
    expected = true_norms(plan.originals.variables())
    for i, layer in enumerate(shown["original"].values()):
        np.testing.assert_allclose(
            [layer.mean, layer.high],
            [expected[:, i].mean(), expected[:, i].max()],
            rtol=1e-4,
        )
    assert all(
        layer.high < 1.01 * MAX_NORM for row in shown.values() for layer in row.values()
    )
    table = norms_section(results).blocks[0]
    assert f"bound all of them by {MAX_NORM}" in table.caption
    assert not any(cell.mark for row in table.rows for cell in row[1:])
    page = (clipped[0] / "report.html").read_text()
    assert "Spectral norms" in page
    assert table.rows[-1][1].value in page


def test_a_study_compares_radius_transfer_and_norms(clipped):
    tables = {one.title: one for one in study_tables({"clipped": clipped[1]})}
    delta = clipped[1].theory.rows["amun"]["delta"].mean
    assert f"{delta:.2f}" in tables[TERMS["delta"]].rows[0][1]
    layers = clipped[1].norms.rows["original"].values()
    assert tables[NORM].rows[0][1] == max(layer.high for layer in layers)


@pytest.mark.parametrize("name", ["finetune", "neggrad_plus"])
def test_a_method_keeps_the_given_norms(name, key, blobs, tiny, tiny_variables):
    forget = np.arange(60) < 6
    problem = methods.make_problem(tiny, tiny_variables, blobs, forget)
    options = {"num_epochs": 3, "batch_size": 20, "learning_rate": 0.1}
    norms = {}
    for limit in (None, 0.7):
        method = values.replace(methods.METHODS[name], **options)
        if limit is not None:
            method = methods.constrained(method, limit, clip_period=2)
        variables, _ = jax.jit(method)(jax.random.clone(key), problem)
        norms[limit] = max(
            np.linalg.norm(leaf, 2)
            for leaf in jax.tree.leaves(variables.params)
            if leaf.ndim == 2
        )
    assert norms[None] > 0.9
    assert norms[0.7] < 0.7 * 1.01


def test_rows_clip_as_the_training_unless_they_set_norms():
    rows, _ = settings.resolve_rows(CLIPPED)
    bound = methods.SpectralBound(max_norm=MAX_NORM, clip_period=3)
    assert rows["finetune"].method.constraints == (bound,)
    assert rows["amun"].method.constraints == (bound,)
    rows, _ = settings.resolve_rows(TINY)
    assert rows["finetune"].method.constraints == ()
    assert CLIPPED.rows["finetune"].method.constraints == ()
    own = methods.constrained(methods.FineTune(), 4.0)
    config = dataclasses.replace(CLIPPED, rows={"own": Row(method=own)})
    rows, _ = settings.resolve_rows(config)
    assert [c.max_norm for c in rows["own"].method.constraints] == [4.0]


@pytest.mark.parametrize(
    ("field", "value"),
    [("max_norm", 0.0), ("max_norm", float("inf")), ("clip_period", 0)],
)
def test_unusable_norms_are_refused(field, value):
    with pytest.raises(InputError, match=field):
        dataclasses.replace(CLIPPED.training, **{field: value})
    with pytest.raises(InputError, match=field):
        methods.constrained(methods.FineTune(), **{"max_norm": 1.0, field: value})
