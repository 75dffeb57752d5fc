"""Audits of arrays: the table on models whose membership is known, and its files."""

import json

import numpy as np
import pytest

from unlearn_jax import cli
from unlearn_jax.data import membership_design
from unlearn_jax.pipeline import AuditArrays, AuditConfig, audit_arrays
from unlearn_jax.pipeline.measure.records import RunResult
from unlearn_jax.types import InputError

N, C, M, R = 200, 3, 8, 3
LABELS = np.arange(N) % C
OPTIONS = AuditConfig(num_bootstrap=30, mis_samples=50)


def draw(rng, member):
    """Logits of a model that is surer of its members."""
    right = np.eye(C)[LABELS]
    noise = rng.normal(0, 0.7, (N, C))
    return (right * (1 + 2 * member[:, None]) + noise).astype("f4")


@pytest.fixture(scope="module")
def arrays():
    rng = np.random.default_rng(0)
    train = rng.permutation(N) < 120
    forget = np.zeros((R, N), bool)
    for run, rows in enumerate(np.flatnonzero(train)[: 20 * R].reshape(R, 20)):
        forget[run, rows] = True
    member = membership_design(M, N, seed=0)
    sides = {"original": train | forget, "retrained": train & ~forget}
    sides |= {"retrained_again": sides["retrained"]}
    stacks = {name: np.stack([draw(rng, m) for m in s]) for name, s in sides.items()}
    target = {"good": np.stack([draw(rng, m) for m in sides["retrained"]])}
    target["idle"] = stacks["original"]
    return {
        **stacks,
        "target": target,
        "labels": LABELS,
        "train": train,
        "forget": forget,
        "references": np.stack([draw(rng, one) for one in member]),
        "member": member,
    }


def means(result, metric):
    return {row.key: row.metrics[metric].mean for row in result.rows}


def test_the_command_gives_a_status_and_refuses_what_needs_models(
    arrays, tmp_path, capsys
):
    AuditArrays(**arrays | {"original": arrays["retrained"]}).save(tmp_path / "a.npz")
    words = ["audit", "--logits", str(tmp_path / "a.npz"), "--audit.num-bootstrap=10"]
    words.append("--audit.mis=False")
    assert cli.main(words) == 0
    assert cli.main([*words, "--strict"]) == 3
    assert "FAIL  the attack has power" in capsys.readouterr().out
    assert cli.main([*words, "--audit.norms=True"]) == 2
    assert "audit.norms needs models" in capsys.readouterr().err


def test_forgetting_shows_in_the_table(arrays, tmp_path):
    result = audit_arrays(AuditArrays(**arrays), OPTIONS, folder=tmp_path / "audit")
    aucs = means(result, "ft_auc")
    assert list(aucs) == ["original", "retrained", "retrained_again", "good", "idle"]
    assert aucs["idle"] == aucs["original"] > 80
    assert abs(aucs["good"] - 50) < 10
    gaps = means(result, "avg_gap")
    assert gaps["good"] < 0.5 * gaps["idle"]
    assert all(check.passed for check in result.checks)
    files = {path.name for path in (tmp_path / "audit").iterdir()}
    assert {"report.html", "table.md", "results.json", "arrays.npz"} <= files
    with pytest.raises(InputError, match="is not empty"):
        audit_arrays(AuditArrays(**arrays), OPTIONS, folder=tmp_path / "audit")


def test_the_order_of_the_samples_does_not_matter(arrays):
    order = np.argsort(~arrays["train"], kind="stable")
    moved = {}
    for name, array in arrays.items():
        if name == "target":
            moved[name] = {row: one[:, order] for row, one in array.items()}
        elif array.ndim == 1:
            moved[name] = array[order]
        else:
            moved[name] = array[:, order]
    first, second = (
        audit_arrays(AuditArrays(**one), OPTIONS) for one in (arrays, moved)
    )
    assert [row.metrics for row in first.rows] == [row.metrics for row in second.rows]


def test_targets_alone_make_a_table_and_a_report(arrays, tmp_path):
    names = ("labels", "train", "references", "member")
    few = {name: arrays[name] for name in names}
    few |= {"target": arrays["target"]["good"][0], "forget": arrays["forget"][0]}
    result = audit_arrays(AuditArrays(**few), OPTIONS, folder=tmp_path / "audit")
    (row,) = result.rows
    assert row.key == "target"
    assert "avg_gap" not in row.metrics
    assert abs(row.metrics["ft_auc"].mean - 50) < 20
    assert (tmp_path / "audit" / "report.html").stat().st_size > 1000


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"forget": np.arange(N) < 20, "retrained": None},
        {"forget": np.arange(N) < 20, "one": True},
    ],
    ids=["several forget sets", "no retrained models", "one model"],
)
def test_klom_needs_ensembles_of_one_forget_set(arrays, changes):
    given = arrays | changes
    given["train"] = arrays["train"] | (np.arange(N) < 20)
    if given.pop("one", False):
        given |= {name: given[name][0] for name in ("original", "retrained")}
        given |= {"retrained_again": None, "target": given["target"]["good"][0]}
    with pytest.raises(InputError, match=r"audit\.klom compares ensembles for one"):
        audit_arrays(AuditArrays(**given), AuditConfig(klom=True))


def test_whole_classes_make_the_table_of_class_forgetting(arrays, tmp_path):
    rng = np.random.default_rng(1)
    train = arrays["train"]
    forget = train & (LABELS == 0)
    sides = {"original": train, "retrained": train & ~forget}
    sides |= {"retrained_again": train & ~forget, "target": train & ~forget}
    stacks = {
        name: np.stack([draw(rng, member) for _ in range(R)])
        for name, member in sides.items()
    }
    given = AuditArrays(**stacks, labels=LABELS, train=train, forget=forget)
    options = AuditConfig(num_bootstrap=30, mis_samples=50, klom=True)
    result = audit_arrays(given, options, folder=tmp_path / "audit")
    assert {"ulira", "mia_nn", "tv_forget"} <= set(result.row("target").metrics)
    assert result.confusion is not None
    assert result.klom is not None
    assert set(result.klom.rows) == {"original", "retrained_again", "target"}
    stored = json.loads((tmp_path / "audit" / "results.json").read_text())
    assert RunResult.from_json(stored).to_json() == result.to_json() == stored
