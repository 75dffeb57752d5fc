"""Analyses of a run: named attacks, request sequences, hard forget sets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.made_up import Page

from unlearn_jax import audit, replicas, train
from unlearn_jax.methods import AMUN, FineTune
from unlearn_jax.pipeline import (
    AttackConfig,
    AuditConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    Row,
    RunConfig,
    TrainingConfig,
    dry_run,
    run,
)
from unlearn_jax.pipeline.config.forget_sets import request_masks
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages.plan import make_plan
from unlearn_jax.theory import summarize_terms, theorem_terms
from unlearn_jax.types import AttackResult, Dataset, Status

TINY = RunConfig(
    title="tiny",
    model=ModelConfig(name="mlp", widths=[8]),
    training=TrainingConfig(num_epochs=6, batch_size=16, learning_rate=0.2),
    forget=ForgetConfig(fraction=0.2, seeds=(1, 2)),
    replicas=ReplicasConfig(originals=(0, 1), references=6),
    attack=AttackConfig(num_radii=8, num_steps=5, batch_size=8),
    attacks={
        "fast": AttackConfig(
            num_radii=8, num_steps=5, batch_size=8, kind="fast", epsilon_init=0.1
        ),
        "other": AttackConfig(num_radii=8, num_steps=5, batch_size=8, source="other"),
        "half": AttackConfig(num_radii=8, num_steps=5, batch_size=8, failures=0.5),
    },
    audit=AuditConfig(num_bootstrap=20, mis=False, theory=True),
    rows={
        name or "own": Row(
            method=AMUN(num_epochs=1, learning_rate=0.05),
            attack=name,
            baseline="own" if name else "",
        )
        for name in ("", "fast", "other", "half")
    },
)


@pytest.fixture(scope="module")
def finished(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("attacks") / "run"
    results = run(TINY, folder, splits=splits)
    plan = make_plan(TINY, folder.parent / "banks", splits=splits, workdir=folder)
    sets = {name: plan.runner.make(stages.attack(plan, name)) for name in plan.attacks}
    return folder, results, plan, sets


def test_rows_are_compared_with_their_baseline(finished):
    _, results, _, _ = finished
    reference = results.row("own")
    assert reference.baseline == ""
    for name in ("fast", "other", "half"):
        row = results.row(name)
        assert row.baseline == "own"
        for key in ("ft_auc", "avg_gap"):
            change = np.subtract(row.values[key], reference.values[key])
            if np.std(change) > 1e-6:
                found = row.differences[key]["baseline"]
                assert found.mean == pytest.approx(change.mean(), abs=1e-3)
                assert found.low < found.mean < found.high


def test_every_attack_is_reported(finished):
    _, results, _, _ = finished
    assert sum(results.attacks[""].status.values()) == 4 * 12
    assert set(results.attacks) == {"", "fast", "other", "half"}
    assert results.attacks["half"].settings == {"failures": 0.5}
    for name in ("", "half"):  # of a perceptron, in L2, attacked itself
        attack = results.attacks[name]
        assert 0 < attack.lower_bound <= attack.distance_quantiles["0.5"]
    assert results.attacks["other"].lower_bound is None, "another model's examples"
    spent = [np.ravel(part) for part in finished[3][""].each("num_gradients")]
    assert results.attacks[""].gradients == pytest.approx(
        np.mean(np.concatenate(spent))
    )
    assert [row.attack for row in results.rows[3:]] == ["", "fast", "other", "half"]
    folder, _, plan, sets = finished
    train = plan.splits.train
    images = np.asarray(train.images, np.float64).reshape(len(train.labels), -1)
    between = np.linalg.norm(images[:, None] - images, axis=-1)
    between[between < 1e-9] = np.inf
    over_norm = []
    over_neighbor = []
    for position, (_, s) in enumerate(plan.pairs):
        index = np.flatnonzero(plan.forget[s])
        is_found = np.asarray(sets[""].each("status")[position]) <= 1
        moved = np.asarray(sets[""].each("images")[position]).reshape(len(index), -1)
        distance = np.linalg.norm(moved - images[index], axis=1)[is_found]
        over_norm.append(distance / np.linalg.norm(images[index], axis=1)[is_found])
        over_neighbor.append(distance / between[index].min(1)[is_found])
    own = results.attacks[""]
    ratios = [np.median(np.concatenate(one)) for one in (over_norm, over_neighbor)]
    assert (own.over_norm, own.over_neighbor) == pytest.approx(ratios, rel=1e-4)
    shown = f"{ratios[0]:.2g} and {ratios[1]:.2g}"
    assert shown in (folder / "table.md").read_text()
    assert shown in Page((folder / "report.html").read_text()).words
    names = [check.name for check in results.checks]
    assert (
        "adversarial sets make forget: FT AUC at most 10 points above retraining's"
        in names
    )
    assert [row.key for row in results.rows[3:]] == [
        "own",
        "fast",
        "other",
        "half",
    ]
    assert all(row.cost.seconds > 0 for row in results.rows[3:])


def test_a_transferred_set_is_the_next_originals(finished):
    _, _, plan, sets = finished
    own, other = sets[""].each("images"), sets["other"].each("images")
    pairs = [tuple(pair) for pair in plan.pairs]
    for position, (o, s) in enumerate(pairs):
        np.testing.assert_allclose(
            other[position], own[pairs.index((1 - o, s))], atol=1e-6
        )


def test_a_capped_attack_fails_for_the_share_asked_for(finished):
    _, results, _, sets = finished
    total = 0
    for before, status, distance, full in zip(
        sets[""].each("status"),
        sets["half"].each("status"),
        sets["half"].each("distance"),
        sets[""].each("distance"),
        strict=True,
    ):
        can_fail = np.asarray(before) != Status.ALREADY_WRONG
        failed = np.isin(status, (Status.NOT_FOUND, Status.ZERO_GRADIENT))
        assert failed.sum() == min(6, can_fail.sum()), (before, status)
        cut = np.asarray(status) == Status.NOT_FOUND
        assert np.all(distance[cut] <= full[cut] + 1e-6)
        assert np.max(distance[cut]) <= np.min(full[cut]) + 1e-6
        total += cut.sum()
    assert results.attacks["half"].status["not_found"] == total > 0


def test_the_terms_of_the_theorem_are_those_of_the_stored_models(finished, splits):
    _folder, results, plan, sets = finished
    run_number = 3
    o, s = plan.runs[run_number, :2]
    pair = plan.pair_of_run[run_number]
    original = replicas.unstack(plan.originals.variables(), int(o))
    retrained = replicas.unstack(plan.oracles.variables(), int(pair))
    stored = {
        item: replicas.unstack(content["models"], i)
        for items, content in plan.runner.make(stages.unlearn(plan, "own")).pieces()
        for i, item in enumerate(items)
    }
    index = np.flatnonzero(plan.forget[s])
    samples = Dataset(
        jnp.asarray(splits.train.images[index]), jnp.asarray(splits.train.labels[index])
    )
    given = AttackResult(
        *(jnp.asarray(sets[""].each(name)[pair]) for name in AttackResult._fields)
    )
    terms = theorem_terms(
        plan.model.apply,
        *jax.tree.map(jnp.asarray, (original, retrained, stored[3])),
        samples,
        given,
    )
    found = summarize_terms(terms)
    shown = results.theory.rows["own"]
    assert set(shown) == set(found)
    single = {key: float(value) for key, value in found.items()}
    for key in ("num_samples", "delta", "transfer", "unlearned_distance"):
        spread = 4 * shown[key].std + 1e-5
        assert abs(single[key] - shown[key].mean) <= spread
        assert single[key] == pytest.approx(shown[key].values[3], rel=1e-3, abs=1e-5)


def test_vulnerable_samples_are_those_of_the_scores(finished, splits):
    folder, results, plan, _ = finished
    arrays = np.load(folder / "arrays.npz")
    forget = np.pad(plan.forget[plan.runs[:, 1]], ((0, 0), (0, 30)))
    found = audit.vulnerability(
        arrays["scores/own"], forget, np.arange(90) >= 60, max_fpr=0.05
    )
    row = results.vulnerability.rows["own"]
    some = found.num_runs > 0
    assert row.num_samples == some.sum() == plan.forget.any(0).sum()
    assert row.mean == pytest.approx(found.fraction[some].mean(), abs=1e-4)
    assert [m.sample for m in row.most] == list(
        audit.most_vulnerable(found, num_samples=10)
    )
    for shown in row.most:
        assert shown.low <= shown.fraction <= shown.high
        assert shown.label == splits.train.labels[shown.sample]


def test_requests_in_sequence(splits, tmp_path):
    config = dataclasses.replace(
        TINY,
        forget=ForgetConfig(count=12, fraction=None, seeds=(1, 2), requests=3),
        attacks={},
        audit=AuditConfig(num_bootstrap=20, mis=False),
        rows={
            "amun": Row(method=AMUN(num_epochs=1)),
            "amun_a": Row(method=AMUN(num_epochs=1), adaptive=True),
        },
    )
    results = run(config, tmp_path / "run", splits=splits)
    plan = make_plan(
        config, tmp_path / "banks", splits=splits, workdir=tmp_path / "run"
    )
    assert plan.requests.shape == (2, 3, 60)
    np.testing.assert_array_equal(plan.requests.sum(1), plan.forget)
    np.testing.assert_array_equal(plan.requests.sum(2), 4)
    parts = plan.runner.make(stages.unlearn(plan, "amun"))
    steps, last = parts.each("steps")[1], parts.each("logits")[1]
    np.testing.assert_array_equal(steps[-1], last)
    assert not np.allclose(steps[0], steps[1])
    adapted = plan.runner.make(stages.unlearn(plan, "amun_a")).each("steps")[1]
    np.testing.assert_allclose(
        adapted[0], steps[0], atol=1e-5
    )  # the first set is the same
    assert not np.allclose(adapted[-1], steps[-1], atol=1e-4)
    shown = results.requests
    assert shown.count == 3
    assert shown.size == 4
    assert set(shown.rows) == {"original", "retrained", "amun", "amun_a"}
    # the second request of run 1, by hand
    labels, (o, s) = plan.pool.labels, plan.runs[1, :2]
    signal = lambda logits: audit.taylor_softmax(
        jnp.asarray(logits), jnp.asarray(labels)
    )
    references = np.stack([np.asarray(signal(one)) for one in plan.references.logits()])
    scores = audit.rmia(
        np.asarray(signal(steps[1])), references, plan.references.member, gamma=2.0
    )
    gone, now = np.zeros(90, bool), np.zeros(90, bool)
    gone[:60], now[:60] = plan.requests[s, :2].any(0), plan.requests[s, 1]
    train_set = np.arange(90) < 60
    aucs = audit.forget_aucs(scores, now, train_set & ~gone, ~train_set)
    cell = shown.rows["amun"][1]
    assert cell.values["fr_auc"][1] == pytest.approx(100 * aucs.fr, abs=1e-3)
    assert cell.values["ft_auc"][1] == pytest.approx(100 * aucs.ft, abs=1e-3)
    assert cell.values["score"][1] == pytest.approx(100 * (aucs.fr - aucs.ft), abs=1e-3)
    assert o == 0


@pytest.mark.parametrize("kind", ["memorized", "uncertain"])
def test_hard_forget_sets_are_chosen_by_the_references(kind, splits, tmp_path):
    config = dataclasses.replace(
        TINY,
        forget=ForgetConfig(kind=kind, fraction=0.2),
        attacks={},
        audit=AuditConfig(num_bootstrap=10, mis=False, klom=True),
        rows={"finetune": Row(method=FineTune(num_epochs=1))},
    )
    assert "once the references have chosen" in dry_run(
        config, tmp_path / "run", splits=splits
    )
    results = run(config, tmp_path / "run", splits=splits)
    plan = make_plan(
        config, tmp_path / "banks", splits=splits, workdir=tmp_path / "run"
    )
    member, logits = (
        plan.references.member[:, :60],
        np.stack(plan.references.logits())[:, :60],
    )
    labels = np.asarray(splits.train.labels)
    probs = np.asarray(jax.nn.softmax(jnp.asarray(logits)))[:, np.arange(60), labels]
    right = np.asarray(logits).argmax(-1) == labels
    out = np.array([probs[~member[:, i], i].mean() for i in range(60)])
    memory = np.array(
        [
            right[member[:, i], i].mean() - right[~member[:, i], i].mean()
            for i in range(60)
        ]
    )
    hardness = memory if kind == "memorized" else -out
    chosen = plan.forget[0]
    assert chosen.sum() == 12
    assert hardness[chosen].min() >= hardness[~chosen].max() - 1e-6
    check, ties = results.checks
    assert check.name.startswith("the attack has power"), "no check of fairness"
    assert ties.name == "the attack's scores tell samples apart"
    originals = results.row("original").differences["ft_auc"]["oracle"]
    assert check.passed == (originals.low > 0)
    assert f"{originals.mean:.1f} [{originals.low:.1f}" in check.detail
    assert results.design.forget_sets == 1
    arrays = np.load(tmp_path / "run" / "arrays.npz")
    distance = audit.klom(arrays["margin/finetune"], arrays["margin/retrained"])
    shown = results.klom.rows
    assert set(shown) == {"original", "retrained_again", "finetune"}
    assert shown["finetune"]["forget"].mean.mean == pytest.approx(
        distance[:60][chosen].mean(), abs=1e-4
    )
    assert results.klom.num_models == 2


def test_request_masks_refuse_sets_that_do_not_split():
    with pytest.raises(ValueError, match=r"forget\.count as a multiple"):
        request_masks(np.ones((1, 7), bool), [1], 2)


def test_predictions_of_requests_use_the_pool_in_order(finished, splits):
    """Stored logits of a row are those of its stored models on training set, then test
    set.
    """
    _folder, _, plan, _ = finished
    parts = plan.runner.make(stages.unlearn(plan, "own"))
    items, content = next(iter(parts.pieces()))
    stacked = content["models"]
    one = jax.tree.map(jnp.asarray, replicas.unstack(stacked, 0))
    pool = np.concatenate([splits.train.images, splits.test.images])
    np.testing.assert_allclose(
        train.predict(plan.model.apply, one, jnp.asarray(pool)),
        parts.each("logits")[items[0]],
        atol=1e-5,
    )
