"""Runs whose forget sets differ in size: one program, the results of a program each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.runs import TINY

from unlearn_jax.methods import AMUN, SSD, FineTune
from unlearn_jax.pipeline import AuditConfig, ForgetConfig, Row, run
from unlearn_jax.pipeline.config.resolve import complete
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.plan import make_plan
from unlearn_jax.types import Dataset, to_float

CONFIG = complete(
    dataclasses.replace(
        TINY,
        forget=ForgetConfig(kind="class", classes=(0, 1, 2)),
        replicas=dataclasses.replace(TINY.replicas, references=0, group=8),
        audit=AuditConfig(num_bootstrap=10, mia_nn=False, mis=False, theory=True),
        attacks={},
        rows={
            "finetune": Row(method=FineTune(num_epochs=2)),
            "amun": Row(method=AMUN(num_epochs=2)),
            "amun_decay": Row(method=AMUN(num_epochs=2, decay_every=1)),
            "ssd": Row(method=SSD()),
        },
    )
)


@pytest.fixture
def uneven(splits):
    """Classes of 20, 17 and 11 training samples."""
    images, labels = map(np.asarray, splits.train)
    position = np.arange(60) // 3
    is_used = position < np.array([20, 17, 11])[labels]
    return dataclasses.replace(splits, train=Dataset(images[is_used], labels[is_used]))


def test_sets_of_several_sizes_share_a_program(uneven, tmp_path, monkeypatch):
    plan = make_plan(CONFIG, tmp_path / "banks", splits=uneven, workdir=tmp_path / "a")
    assert plan.forget.sum(1).tolist() == [20, 17, 11]
    groups = {}
    logits = {}
    costs = {}
    for name in plan.rows:
        artifact = stages.unlearn(plan, name)
        groups[name] = len(artifact.items.groups)
        stored = plan.runner.make(artifact)
        logits[name] = stored.each("logits")
        costs[name] = stored.each("num_gradients")
    assert groups == {"finetune": 1, "amun": 1, "amun_decay": 3, "ssd": 3}
    monkeypatch.setattr(stages, "is_padded", lambda method: False)
    alone = make_plan(CONFIG, tmp_path / "banks", splits=uneven, workdir=tmp_path / "b")
    for name in plan.rows:
        artifact = stages.unlearn(alone, name)
        assert len(artifact.items.groups) == 3
        stored = alone.runner.make(artifact)
        for run_, one in enumerate(stored.each("logits")):
            np.testing.assert_allclose(
                logits[name][run_], one, rtol=1e-4, atol=1e-5, err_msg=name
            )
        assert np.array_equal(costs[name], stored.each("num_gradients"))


def test_padding_of_adversarial_sets_is_not_counted(uneven, tmp_path):
    plan = make_plan(CONFIG, tmp_path / "banks", splits=uneven, workdir=tmp_path / "a")
    (name,) = plan.attacks
    stored = plan.runner.make(stages.attack(plan, name))
    assert [len(one) for one in stored.each("labels")] == [20] * 6
    found = {}
    for field in ("images", "labels", "distance", "status", "num_gradients"):
        found[field] = stages.attack_rows(stored, field)
    originals = plan.originals.variables()
    attack = plan.attacks[name].capped
    for pair, (o, s) in enumerate(plan.pairs):
        index = np.flatnonzero(plan.forget[s])
        images = to_float(jnp.asarray(plan.splits.train.images[index]))
        key = stages.purpose_key("attack", plan.seeds[o], plan.forget_names[s])
        variables = jax.tree.map(lambda leaf, o=o: jnp.asarray(leaf[o]), originals)
        expected = attack(
            plan.model.apply,
            variables,
            images,
            jnp.asarray(plan.splits.train.labels[index]),
            key=jax.random.fold_in(key, 0),
        )
        for field, rows in found.items():
            np.testing.assert_allclose(
                rows[pair], getattr(expected, field), rtol=1e-4, atol=1e-5
            )


def test_a_run_of_several_sizes_reports_every_set(uneven, tmp_path):
    results = run(CONFIG, tmp_path / "run", splits=uneven)
    assert [len(row.values["acc_f"]) for row in results.rows] == [6] * len(results.rows)
    summary = results.attacks[""]
    assert sum(summary.status.values()) == 2 * (20 + 17 + 11)
    terms = results.theory.rows["amun"]
    assert all(len(term.values) == 6 for term in terms.values())
