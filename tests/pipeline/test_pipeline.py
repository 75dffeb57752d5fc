"""The run: from arrays to report, resumed, shared, with a user's own network, and
refusing what cannot work.
"""

import dataclasses
import importlib.util
import json
import shutil
import sys
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.runs import TINY

import unlearn_jax as uj
from unlearn_jax import audit, data, methods, models, replicas, train
from unlearn_jax.methods import AMUN, FineTune
from unlearn_jax.pipeline import (
    AttackConfig,
    AuditConfig,
    ForgetConfig,
    ModelConfig,
    Row,
    TuningConfig,
    _run,
    dry_run,
    run,
)
from unlearn_jax.pipeline.config.forget_sets import forget_masks
from unlearn_jax.pipeline.measure.pool import ReferenceSignals, make_pool
from unlearn_jax.pipeline.measure.records import RunResult, Tuning
from unlearn_jax.pipeline.measure.results import make_notes
from unlearn_jax.pipeline.stages import models as stages
from unlearn_jax.pipeline.stages import training
from unlearn_jax.pipeline.stages.plan import make_plan
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.pipeline.store import locks, trees
from unlearn_jax.pipeline.store.artifact import Checkpoints, Runner
from unlearn_jax.types import DivergedError, InputError


@pytest.fixture(scope="module")
def finished(splits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    return folder / "run", run(TINY, folder / "run", splits=splits, preset="tiny")


def strip(results):
    """Return the part that two runs of one configuration share: all but times."""
    shared = ("rows", "attacks", "runs", "design", "banks", "checks")
    data = results.to_json()
    return {key: data[key] for key in shared}


def without_cost(results):
    rows = [dataclasses.replace(row, cost=None) for row in results.rows]
    return strip(dataclasses.replace(results, rows=tuple(rows)))


def test_a_run_ends_in_table_and_report(finished):
    folder, results = finished
    stored = json.loads((folder / "results.json").read_text())
    assert stored == json.loads(json.dumps(results.to_json()))
    assert RunResult.from_json(stored).to_json() == stored
    assert [row.key for row in results.rows] == [
        "original",
        "retrained",
        "retrained_again",
        "finetune",
        "amun",
    ]
    for row in results.rows:
        assert set(row.metrics) == {metric.key for metric in results.metrics}
        assert set(row.values) == set(row.metrics)
        for key, estimate in row.metrics.items():
            assert estimate.num_runs == 4
            # No interval: the SVC attack without refits, its gap, or nothing varied.
            if key in ("mis", "avg_gap_mis") or (
                estimate.std == 0 and np.isnan(estimate.low)
            ):
                assert np.isnan([estimate.low, estimate.high]).all(), key
            else:
                assert estimate.low <= estimate.mean <= estimate.high, key
        assert row.metrics["test_accuracy"].low < row.metrics["test_accuracy"].high
    for name in (
        "report.html",
        "table.txt",
        "table.csv",
        "table.tex",
        "arrays.npz",
        "config.json",
    ):
        assert (folder / name).stat().st_size > 0, name
    arrays = np.load(folder / "arrays.npz")
    assert arrays["scores/amun"].shape == (4, 90)
    assert arrays["forget"].sum() == 4 * 12
    assert sum(results.attacks[""].status.values()) == 4 * 12


def test_accuracies_are_those_of_the_stored_models(finished, splits):
    folder, results = finished
    plan = make_plan(TINY, folder.parent / "banks", splits=splits)
    original = jax.tree.map(
        jnp.asarray, replicas.unstack(plan.originals.variables(), 1)
    )
    logits = train.predict(plan.model.apply, original, jnp.asarray(splits.test.images))
    right = 100 * np.mean(np.argmax(logits, -1) == splits.test.labels)
    # Runs 2 and 3 are of the second original.
    value = results.row("original").values["test_accuracy"][2]
    assert value == pytest.approx(right)


def test_originals_that_have_learned_nothing_are_warned_of(caplog):
    labels = np.array([0, 0, 0, 1, 1, 2])
    constant = np.eye(3)[np.zeros(6, int)]
    originals = types.SimpleNamespace(
        pool=uj.Dataset(np.zeros((6, 1)), labels),
        member=np.array([[True] * 5 + [False], [True] * 6]),
        logits=lambda: [constant, np.eye(3)[labels]],
    )
    _run._warn_of_chance(originals)
    (message,) = caplog.messages
    assert "original 0 is right on 60% of its training set" in message


def test_switches_of_jax_decide_whether_a_run_is_finished(splits, tmp_path):
    plan = make_plan(TINY, tmp_path, splits=splits)
    key = _run.results_key(plan, "tiny")
    assert key == _run.results_key(plan, "tiny")
    with jax.default_matmul_precision("bfloat16"):
        assert _run.results_key(plan, "tiny") != key


def test_results_of_other_settings_are_replaced_with_a_warning(tmp_path, caplog):
    settings = '{"title": "one"}'
    _run._warn_of_replaced_results(tmp_path, settings)
    (tmp_path / "config.json").write_text(settings)
    _run._warn_of_replaced_results(tmp_path, '{"title": "another"}')
    (tmp_path / "results.json").write_text("{}")
    _run._warn_of_replaced_results(tmp_path, settings)
    assert not caplog.messages
    _run._warn_of_replaced_results(tmp_path, '{"title": "another"}')
    (message,) = caplog.messages
    assert "holds the results of other settings: results.json, report" in message


def test_cost_is_counted_in_gradients_of_single_samples(finished, splits):
    folder, results = finished
    cost = {row.key: row.cost for row in results.rows}
    assert cost["original"] is None
    # Epochs, retained samples (3 steps of 16).
    assert cost["retrained"].gradients == 4 * 48
    assert cost["finetune"].gradients == 2 * 48
    assert cost["finetune"].relative_gradients == 0.5
    plan = make_plan(TINY, folder.parent / "banks", splits=splits, workdir=folder)
    sets = plan.runner.make(stages.attack(plan, ""))
    attacked = sets["num_gradients"].sum(1).mean()
    radii = np.round(np.log2(np.maximum(sets["epsilon"], 0.04) / 0.04)) + 1
    # The clean image and up to five steps in each radius, which ends early where the
    # gradient has no direction.
    assert np.all(sets["num_gradients"] <= 6 * radii)
    assert np.all(sets["num_gradients"] >= radii)
    tuned = 2 * 16 * -(-(48 + 12 + 12) // 16)
    assert cost["amun"].gradients == pytest.approx(tuned + attacked)


def test_huge_but_finite_logits_count_as_diverged():
    logits = np.ones((5, 3), np.float32)
    member = np.array([[True, False, True, False, True], [False, True] * 2 + [False]])
    pool = make_pool(
        AuditConfig(num_bootstrap=2),
        np.zeros(5, int),
        np.array([[True, False, False]]),
        np.zeros((1, 2), int),
        ReferenceSignals(np.ones((2, 5)), None),
        member,
    )
    assert pool.usable_signals([logits]).shape == (1, 5)
    assert pool.usable_signals([logits, 1e16 * logits]) is None
    lost = np.full((5, 3), np.nan, np.float32)
    assert pool.usable_signals([lost]) is None
    assert pool.num_diverged([logits, 1e16 * logits, lost, logits]) == 2


def test_notes_cover_the_search_and_the_choice_of_hard_samples(splits, tmp_path):
    plan = make_plan(TINY, tmp_path, splits=splits)
    search = Tuning(originals=(7,), sets=(7,), shared=0.12, original=None, rows={})
    notes = " ".join(make_notes(plan, search))
    assert "12% of the samples of those sets" in notes
    assert "Hyperparameters were chosen" in notes
    assert "Hyperparameters were chosen" not in " ".join(make_notes(plan, None))
    for mis in (True, False):
        audit = dataclasses.replace(plan.audit, mis=mis)
        plain = " ".join(make_notes(dataclasses.replace(plan, audit=audit), None))
        assert ("MIS: a machine is fitted" in plain) == mis
    hard = dataclasses.replace(
        TINY, forget=ForgetConfig(kind="uncertain", fraction=0.2)
    )
    assert any(
        "also audit them" in note
        for note in make_notes(make_plan(hard, tmp_path, splits=splits), None)
    )


def test_oracles_never_saw_their_forget_sets(finished, splits):
    folder, _ = finished
    plan = make_plan(TINY, folder.parent / "banks", splits=splits)
    pairs = np.concatenate([plan.pairs, plan.pairs])
    for member, (_, s) in zip(plan.oracles.member, pairs, strict=True):
        np.testing.assert_array_equal(member[:60], ~plan.forget[s])
        assert not member[60:].any()
    assert plan.references.member.sum(0).tolist() == [3] * 90


def test_a_finished_run_started_again_computes_nothing(finished, splits, monkeypatch):
    folder, results = finished
    monkeypatch.setattr(training, "fit_many", None)  # any training would fail
    again = run(TINY, folder, splits=splits, preset="tiny")
    assert strip(again) == strip(results)
    with monkeypatch.context() as patched:
        patched.setattr(_run, "measure_run", None)
        assert run(TINY, folder, splits=splits, preset="tiny") == again
    # other results of the same models: measured again, from what is stored
    other = run(TINY, folder, splits=splits, preset="other")
    assert strip(other) == strip(results)
    assert all(stage.cached for stage in other.stages if stage.name != "audit")


def test_another_method_reuses_the_bank(finished, splits, monkeypatch, tmp_path):
    folder, results = finished
    monkeypatch.setattr(training, "fit_many", None)
    config = dataclasses.replace(
        TINY, only=("amun",), bank=str(folder.parent / "banks")
    )
    other = run(config, tmp_path / "other", splits=splits)
    assert [row.key for row in other.rows] == [
        "original",
        "retrained",
        "retrained_again",
        "amun",
    ]
    assert all(row.metrics == results.row(row.key).metrics for row in other.rows)


class Stop(Exception):
    """The machine dies here."""


@pytest.mark.parametrize("where", ["training", "store", "attack", "unlearn"])
def test_interrupted_anywhere_and_rerun_the_same(
    where, finished, splits, tmp_path, monkeypatch
):
    _, results = finished
    calls = {"n": 0}

    def dies_at(nth, fun):
        def wrapped(*args, **kwargs):
            calls["n"] += 1
            if calls["n"] == nth:
                raise Stop
            return fun(*args, **kwargs)

        return wrapped

    with monkeypatch.context() as patched:
        # what is compiled ahead would die in a thread
        patched.setattr(Runner, "compile_ahead", lambda *_: None)
        if where == "training":
            patched.setattr(Checkpoints, "save", saves_then_dies(Checkpoints.save))
            patched.setattr(training, "epochs_per_call", lambda *_: 1)
        elif where == "store":
            patched.setattr(trees, "save_tree", dies_at(3, trees.save_tree))
        else:
            patched.setattr(
                stages,
                "map_models",
                dies_at({"attack": 1, "unlearn": 2}[where], stages.map_models),
            )
        with pytest.raises(Stop):
            run(TINY, tmp_path / "run", splits=splits, preset="tiny")
    resumed = run(TINY, tmp_path / "run", splits=splits, preset="tiny")
    assert without_cost(resumed) == without_cost(results)
    assert not list((tmp_path / "banks").glob("*/unfinished-*")), (
        "checkpoints of finished groups are removed"
    )


def test_killed_after_the_last_epoch_its_losses_are_not_lost(
    splits, tmp_path, monkeypatch
):
    config = dataclasses.replace(
        TINY, replicas=dataclasses.replace(TINY.replicas, checkpoint_seconds=0.0)
    )
    write = store.write_folder

    def stops(path, fill, manifest):
        if path.name.startswith("items"):
            raise Stop
        write(path, fill, manifest)

    def originals(name):
        return make_plan(config, tmp_path / name, splits=splits).originals

    monkeypatch.setattr(training, "epochs_per_call", lambda *_: 1)
    whole = originals("whole").stored
    monkeypatch.setattr(store, "write_folder", stops)
    with pytest.raises(Stop):
        _ = originals("killed").stored
    assert list((tmp_path / "killed").glob("*/unfinished-*/*"))
    monkeypatch.setattr(store, "write_folder", write)
    resumed = originals("killed").stored
    assert np.isfinite(resumed["loss"]).all()
    assert resumed.manifest.content == whole.manifest.content


def saves_then_dies(save):
    def wrapped(self, step, state):
        save(self, step, state)
        if step == 2:
            raise Stop

    return wrapped


def test_a_truncated_checkpoint_is_set_aside(finished, splits, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", saves_then_dies(Checkpoints.save))
        patched.setattr(training, "epochs_per_call", lambda *_: 1)
        with pytest.raises(Stop):
            run(TINY, tmp_path / "run", splits=splits)
    (scratch,) = (tmp_path / "banks").glob("originals-*/unfinished-*")
    for file in (f for f in scratch.rglob("*") if f.is_file()):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.warns(
        store.DamagedFileWarning,
        match=r"unfinished-items-0000-0001.*moved to .*, and recomputed",
    ):
        results = run(TINY, tmp_path / "run", splits=splits, preset="tiny")
    assert without_cost(results) == without_cost(finished[1])


@pytest.mark.parametrize("name", ["models/_METADATA", "logits.npy", "manifest.json"])
def test_a_damaged_bank_is_named_and_rebuilt(name, finished, splits, tmp_path):
    folder, _ = finished
    shutil.copytree(folder.parent, tmp_path / "copy")
    group, *_ = sorted((tmp_path / "copy" / "banks").glob("originals-*/items-*"))
    file = group / name
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.warns(
        store.DamagedFileWarning, match=f"{name} is missing, truncated or changed"
    ):
        results = run(TINY, tmp_path / "copy" / "run", splits=splits, preset="tiny")
    assert without_cost(results) == without_cost(finished[1])
    assert (group.with_name(f"damaged-{group.name}-0")).is_dir()


def test_users_own_function_and_arrays(splits, tmp_path):
    def init(key):
        return {"w": 0.1 * jax.random.normal(key, (16, 3)), "b": jnp.zeros(3)}

    def apply(params, images):
        return images.reshape(len(images), -1) @ params["w"] + params["b"][None]

    model = models.from_functions(init, apply)
    config = dataclasses.replace(
        TINY, replicas=dataclasses.replace(TINY.replicas, originals=(0,), references=2)
    )
    results = run(config, tmp_path / "mine", splits=splits, model=model)
    assert results.rows[0].metrics["test_accuracy"].mean > 60
    # another function must not find the first one's models
    other = models.from_functions(
        init, lambda params, images: jnp.tanh(apply(params, images))
    )
    plans = [
        make_plan(config, tmp_path / "banks", splits=splits, model=m)
        for m in (model, other)
    ]
    assert plans[0].originals.artifact.key != plans[1].originals.artifact.key
    again = make_plan(
        config,
        tmp_path / "banks",
        splits=splits,
        model=models.from_functions(init, apply),
    )
    assert again.originals.artifact.key == plans[0].originals.artifact.key


@pytest.mark.parametrize(
    "what", ["constant", "nested constant", "weights", "loss", "loss constant"]
)
def test_captured_constants_of_a_users_function_name_its_models(what, splits, tmp_path):
    """A changed constant must never find the models of the old one."""

    def key_of(value):
        mean = np.full((4, 4, 1), value, np.float32)

        def logits(w, x):
            if what == "constant":
                x = x - jnp.asarray(mean)[None]
            elif what == "nested constant":
                x = jax.jit(lambda v: v - jnp.asarray(mean)[None])(x)
            return x.reshape(len(x), -1) @ w

        start = np.full((16, 3), value if what == "weights" else 0.0, np.float32)
        model = models.from_functions(lambda key: jnp.asarray(start), logits)

        def loss_fn(variables, batch, key):
            out, state = model.apply_train(variables, batch.images, key)
            weight = jnp.asarray(mean.ravel()[:3]) if what == "loss constant" else value
            return jnp.mean(weight * jnp.sum(out, 0)), state

        loss = loss_fn if what.startswith("loss") else None
        return make_plan(
            TINY, tmp_path, splits=splits, model=model, loss_fn=loss
        ).originals.artifact.key

    assert key_of(0.5) == key_of(0.5)
    assert key_of(0.5) != key_of(0.25)


SHRINK = """
import dataclasses

import jax
import jax.numpy as jnp

from unlearn_jax.types import UnlearnInfo


@dataclasses.dataclass(frozen=True)
class Shrink:
    factor: float = 0.5

    def __call__(self, key, problem):
        params = jax.tree.map(
            lambda leaf: SCALE * self.factor * leaf, problem.variables.params
        )
        info = UnlearnInfo(jnp.zeros(0), jnp.zeros((), jnp.int32))
        return problem.variables._replace(params=params), info
"""


def users_method(folder, scale=1.0):
    """A user's method: a dataclass in a file of the user's own."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "users_methods.py"
    file.write_text(SHRINK.replace("SCALE", str(scale)))
    spec = importlib.util.spec_from_file_location("users_methods", file)
    sys.modules["users_methods"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Shrink()


def test_changed_code_of_a_users_method_is_run_again(finished, splits, tmp_path):
    folder, _ = finished
    config = dataclasses.replace(
        TINY,
        bank=str(folder.parent / "banks"),
    )
    keys = []
    for scale in (0.5, 0.5, 0.25):
        rows = {"mine": Row(method=users_method(tmp_path, scale))}
        plan = make_plan(
            dataclasses.replace(config, rows=rows),
            folder.parent / "banks",
            splits=splits,
        )
        keys.append(stages.unlearn(plan, "mine").key)
    assert keys[0] == keys[1] != keys[2]


ATTACK = """
from unlearn_jax.attacks import PGD
from unlearn_jax.values import value

SCALE = 1.0


@value
class Mine(PGD):
    pass
"""


def test_changed_code_of_a_users_attack_is_run_again(finished, splits, tmp_path):
    file = tmp_path / "users_attacks.py"
    keys = []
    for scale in ("1.0", "1.0", "2.0"):
        file.write_text(ATTACK.replace("1.0", scale))
        spec = importlib.util.spec_from_file_location("users_attacks", file)
        sys.modules["users_attacks"] = module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        attack = module.Mine(num_steps=5)
        rows = {"amun": Row(method=methods.AMUN(attack=attack))}
        config = dataclasses.replace(TINY, rows=rows)
        plan = make_plan(config, finished[0].parent / "banks", splits=splits)
        (name,) = plan.attacks
        keys.append(stages.attack(plan, name).key)
    assert keys[0] == keys[1] != keys[2]


def test_a_users_method_is_a_dataclass_and_becomes_a_row(
    finished, splits, tmp_path, monkeypatch
):
    """Nothing of the package knows it: it is run, searched, measured, reported."""
    shrink = users_method(tmp_path / "code")
    monkeypatch.setitem(methods.METHODS, "shrink", shrink)
    config = dataclasses.replace(
        TINY,
        bank=str(finished[0].parent / "banks"),
        tuning=TuningConfig(trials=3, originals=(9, 10), seeds=(9,)),
        rows={
            "mine": Row(
                method=shrink,
                label="Mine",
                search={"factor": {"low": 0.01, "high": 1.0}},
            )
        },
    )
    results = run(config, tmp_path / "run", splits=splits)
    row = results.rows[-1]
    assert (row.key, row.label, row.method) == ("mine", "Mine", "shrink")
    assert row.metrics["avg_gap"].num_runs == 4
    search = results.tuning.rows["mine"]
    assert [trial.options["factor"] for trial in search.trials] == [0.5, 0.01, 1.0]
    chosen = search.trials[search.chosen].options
    assert row.options["factor"] == chosen["factor"]
    assert "Mine" in (tmp_path / "run" / "report.html").read_text()


def test_number_of_classes_names_a_bank(splits, tmp_path):
    wider = dataclasses.replace(splits, num_classes=5, class_names=tuple("abcde"))
    keys = {
        make_plan(TINY, tmp_path, splits=s).originals.artifact.key
        for s in (splits, wider)
    }
    assert len(keys) == 2


def test_killed_in_a_later_group_resumes_with_the_same_groups(
    splits, tmp_path, monkeypatch
):
    config = dataclasses.replace(
        TINY, replicas=dataclasses.replace(TINY.replicas, references=10, group=4)
    )
    plan = make_plan(config, tmp_path / "banks", splits=splits)
    saves = []

    def dies_in_the_second_group(self, step, state):
        saves.append(step)
        save(self, step, state)
        if len(saves) == 6:
            raise Stop

    def names():
        folder = plan.runner.path(plan.references.artifact)
        return sorted(path.name for path in folder.iterdir() if path.is_dir())

    save = Checkpoints.save
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoints, "save", dies_in_the_second_group)
        patched.setattr(training, "epochs_per_call", lambda *_: 1)
        with pytest.raises(Stop):
            _ = plan.references.stored
    assert names() == ["items-0000-0003", "unfinished-items-0004-0007"]
    plan = make_plan(config, tmp_path / "banks", splits=splits)
    _ = plan.references.stored
    assert names() == ["items-0000-0003", "items-0004-0007", "items-0008-0009"]
    whole = make_plan(config, tmp_path / "other", splits=splits).references
    chex.assert_trees_all_equal(plan.references.logits(), whole.logits())


def test_several_classes_as_one_forget_set(splits):
    masks, names = forget_masks(
        ForgetConfig(kind="class", classes=(0, 2), together=True), splits.train.labels
    )
    np.testing.assert_array_equal(masks[0], np.isin(splits.train.labels, [0, 2]))
    assert len(masks) == len(names) == 1


def test_users_own_loss(splits, tmp_path):
    model = models.build("mlp", (4, 4, 1), 3, widths=(8,))

    def squared(variables, batch, key):
        logits, state = model.apply_train(variables, batch.images, key)
        return jnp.mean((logits - jax.nn.one_hot(batch.labels, 3)) ** 2), state

    plan = make_plan(TINY, tmp_path, splits=splits, model=model, loss_fn=squared)
    plain = make_plan(TINY, tmp_path, splits=splits, model=model)
    assert plan.originals.artifact.key != plain.originals.artifact.key
    assert np.shape(plan.originals.logits()) == (2, 90, 3)


def test_class_forgetting_with_unequal_classes(splits, tmp_path):
    train_set = splits.train
    uneven = data.load_arrays(
        train_set.images[:59],
        train_set.labels[:59],
        splits.test.images,
        splits.test.labels,
    )
    config = dataclasses.replace(
        TINY,
        forget=ForgetConfig(kind="class", classes=(0, 2)),
        replicas=dataclasses.replace(TINY.replicas, originals=(0,), references=2),
        audit=dataclasses.replace(TINY.audit, signal="softmax_confidence"),
        only=("amun",),
    )
    results = run(config, tmp_path / "classes", splits=uneven)
    assert results.design.runs == 2
    assert [one.forget_set for one in results.runs] == [0, 2]


def test_replicas_stored_do_not_depend_on_the_group(finished, splits, tmp_path):
    folder, _ = finished
    other = dataclasses.replace(
        TINY, replicas=dataclasses.replace(TINY.replicas, group=3)
    )
    plan = make_plan(other, tmp_path / "banks", splits=splits)
    first = make_plan(TINY, folder.parent / "banks", splits=splits).references
    assert plan.references.artifact.key == first.artifact.key
    chex.assert_trees_all_equal(plan.references.logits(), first.logits())


def test_references_keep_what_is_asked_for_and_the_table_stays(
    finished, splits, tmp_path
):
    folder, results = finished
    banks = {}
    for keep in ("models", "logits", "signals"):
        kept = dataclasses.replace(TINY.replicas, keep_references=keep)
        config = dataclasses.replace(TINY, replicas=kept)
        plan = make_plan(config, folder.parent / "banks", splits=splits)
        own = plan.references
        banks[keep] = dataclasses.replace(own, root=tmp_path / keep)
        content = set(banks[keep].stored)
        assert own.artifact.key == banks[keep].artifact.key
        assert (
            content
            == {
                "models": {"models", "logits", "loss"},
                "logits": {"logits", "loss"},
                "signals": {"taylor_softmax", "soft_margin", "logit_margin", "loss"},
            }[keep]
        )
        first = make_plan(TINY, folder.parent / "banks", splits=splits).references
        assert (own.artifact.key == first.artifact.key) == (keep == "logits")
    labels = splits.train.labels.tolist() + splits.test.labels.tolist()
    whole = np.stack(banks["models"].logits())
    chex.assert_trees_all_equal(whole, np.stack(banks["logits"].logits()))
    for keep, bank in banks.items():
        for name in ("taylor_softmax", "soft_margin", "logit_margin"):
            expected = audit.SIGNALS[name](whole, np.array(labels))
            np.testing.assert_allclose(
                bank.signals(name), expected, rtol=1e-6, err_msg=keep
            )
    again = run(config, tmp_path / "run", splits=splits)
    for row, other in zip(results.rows, again.rows, strict=True):
        assert row.values == other.values
        assert row.metrics == other.metrics
    opened = uj.open(tmp_path / "run")
    with pytest.raises(InputError, match="keep_references logits"):
        _ = opened.references.logits
    with pytest.raises(InputError, match="has no models, because they were not kept"):
        _ = opened.references.models
    hard = ForgetConfig(kind="memorized", fraction=0.2)
    with pytest.raises(InputError, match="reads the references' logits"):
        make_plan(
            dataclasses.replace(config, forget=hard), tmp_path / "hard", splits=splits
        )


def test_dry_run_writes_nothing(splits, tmp_path, finished):
    text = dry_run(TINY, tmp_path / "new", splits=splits)
    assert "references" in text
    assert "min\n" in text
    assert not list(tmp_path.iterdir())
    done = dry_run(TINY, finished[0], splits=splits)
    assert "min\n" not in done


def test_keys_depend_on_what_determines_a_bank(splits, tmp_path):
    base = make_plan(TINY, tmp_path, splits=splits).references.artifact.key

    def key_with(**changes):
        return make_plan(
            dataclasses.replace(TINY, **changes), tmp_path, splits=splits
        ).references.artifact.key

    assert (
        key_with(training=dataclasses.replace(TINY.training, learning_rate=0.2)) != base
    )
    assert key_with(model=ModelConfig(name="mlp", widths=[9])) != base
    assert (
        key_with(replicas=dataclasses.replace(TINY.replicas, reference_seed=1)) != base
    )
    assert (
        key_with(
            attack=AttackConfig(num_steps=3),
            only=("amun",),
            audit=AuditConfig(gamma=1.0),
        )
        == base
    )
    assert key_with(forget=ForgetConfig(fraction=0.1, seeds=(5,))) == base


CASES = {
    "odd number of references": ({"replicas": {"references": 5}}, "even"),
    "one reference": ({"replicas": {"references": 1}}, "at least 2|2 or more|even"),
    "nothing to forget": ({"forget": {"fraction": 0.0}}, "fraction"),
    "everything forgotten": ({"forget": {"count": 60, "fraction": None}}, "60"),
    "repeated forget seeds": ({"forget": {"seeds": (1, 1)}}, "different seeds"),
    "repeated original seeds": ({"replicas": {"originals": (1, 1)}}, "different seeds"),
    "class out of range": (
        {
            "forget": {"kind": "class", "classes": (7,)},
            "audit": {"signal": "softmax_confidence"},
        },
        "no training sample has class 7",
    ),
    "missing index file": (
        {"forget": {"kind": "file", "path": "/nowhere.txt"}},
        "nowhere",
    ),
    "no index file": ({"forget": {"kind": "file"}}, "forget.path"),
    "unknown model": ({"model": {"name": "gpt"}}, "unknown name 'gpt'"),
    "unknown augmentation": (
        {"training": {"augment": "mixup"}},
        "unknown augmentation 'mixup'",
    ),
    "unknown signal": ({"audit": {"signal": "loss"}}, "audit.signal 'loss'"),
    "unknown mode": ({"audit": {"mode": "live"}}, "unknown mode 'live'"),
    "unknown row": ({"only": ("amnu",)}, "unknown row 'amnu'"),
    "half a split": ({"data": {"num_train": 5}}, "go together"),
    "zero learning rate": ({"training": {"learning_rate": 0.0}}, "positive"),
    "grid that continues": (
        {"attack": {"search": "grid", "restart": False}},
        "needs attack.search=doubling",
    ),
    "minimal that keeps the last": (
        {"attack": {"search": "minimal", "keep": "last"}},
        "keeps the closest example",
    ),
    "depth of another search": ({"attack": {"depth": 0.1}}, "attack.search=minimal"),
    "negative depth": (
        {"attack": {"search": "minimal", "depth": -0.1}},
        "finite and not negative",
    ),
    "no radius": ({"attack": {"num_radii": 0}}, "a positive integer"),
    "negative seed": ({"replicas": {"originals": (-1,)}}, "seeds must be between"),
    "huge seed": ({"forget": {"seeds": (2**40,)}}, "seeds must be between"),
    "negative audit seed": ({"audit": {"seed": -1}}, "seeds must be between"),
    "false positive rate": ({"audit": {"max_fpr": 2.0}}, "max_fpr"),
    "no svc samples": ({"audit": {"mis_samples": 0}}, "a positive integer"),
    "nan gamma": ({"audit": {"gamma": float("nan")}}, "positive and finite"),
    "negative momentum": ({"training": {"momentum": -5.0}}, "momentum"),
    "nan rate": ({"training": {"learning_rate": float("nan")}}, "positive and finite"),
    "too many devices": ({"replicas": {"devices": 99}}, "99 devices"),
    "widths of zero": (
        {"model": {"widths": [0]}},
        "cannot be built|zero|width",
    ),
    "negative widths": ({"model": {"widths": [-3]}}, "must be a positive integer"),
    "negative signal": ({"audit": {"signal": "negative_entropy"}}, "positive signal"),
    "bank that is a file": ({"bank": "/dev/null"}, "cannot be written"),
    "row that sets the attack": (
        {"rows": {"a": {"method": AMUN(), "attack": {}}}},
        "attack must be a string",
    ),
    "baseline that is no row": (
        {"rows": {"a": {"method": AMUN(), "baseline": "b"}}},
        "the baseline 'b' is not another row",
    ),
    "baseline that is the row": (
        {"rows": {"a": {"method": AMUN(), "baseline": "a"}}},
        "the baseline 'a' is not another row",
    ),
    "row with an unknown attack": (
        {"rows": {"a": {"method": AMUN(), "attack": "weak"}}},
        "unknown attack 'weak'",
    ),
    "another original where there is one": (
        {"replicas": {"originals": (0,)}, "attack": {"source": "other"}},
        "two or more originals",
    ),
    "everything fails": ({"attack": {"failures": 1.0}}, "attack.failures"),
    "uneven requests": ({"forget": {"requests": 5}}, "do not split into"),
    "unknown objective": (
        {"training": {"objective": "hinge"}},
        "training.objective must be a value",
    ),
    "tuning on a reported original": (
        {"tuning": {"trials": 2, "originals": (0, 9)}},
        "never tune on what is reported",
    ),
    "tuning on a reported forget set": (
        {"tuning": {"trials": 2, "seeds": (1, 9)}},
        "never tune on what is reported",
    ),
    "search of an unknown knob": (
        {
            "tuning": {"trials": 2},
            "rows": {"a": {"method": AMUN(), "search": {"rate": [1]}}},
        },
        "not a hyperparameter of 'amun'",
    ),
    "search without a range": (
        {
            "tuning": {"trials": 2},
            "rows": {
                "a": {
                    "method": AMUN(),
                    "search": {"learning_rate": {"low": 0, "high": 1}},
                }
            },
        },
        "low must be positive",
    ),
    "search over a range of whole numbers": (
        {
            "tuning": {"trials": 2},
            "rows": {
                "a": {"method": AMUN(), "search": {"num_epochs": {"low": 1, "high": 9}}}
            },
        },
        "list choices for it",
    ),
    "search of the attack": (
        {
            "tuning": {"trials": 2},
            "rows": {"a": {"method": AMUN(), "search": {"adaptive": [True]}}},
        },
        "not a hyperparameter of 'amun'",
    ),
    "search that is none": (
        {"rows": {"a": {"method": AMUN(), "search": "no"}}},
        "search must be a mapping",
    ),
    "nothing to tune on": (
        {"tuning": {"trials": 2, "seeds": ()}},
        "tuning.seeds must name one seed or more",
    ),
    "tuned twice on one original": (
        {"tuning": {"trials": 2, "originals": (101, 102, 102)}},
        r"tuning.originals must be different seeds, got \(101, 102, 102\)",
    ),
    "tuned twice on one forget set": (
        {"tuning": {"trials": 2, "seeds": (5, 5)}},
        r"tuning.seeds must be different seeds, got \(5, 5\)",
    ),
    "attack of an unknown kind": (
        {"attacks": {"w": {"kind": "fgsm"}}},
        "unknown kind 'fgsm': choose pgd or fast",
    ),
    "attack of a negative radius": (
        {"attacks": {"w": {"epsilon_init": -1.0}}},
        "epsilon_init must be positive",
    ),
    "attack with words for numbers": (
        {"attacks": {"w": {"failures": "half"}}},
        "failures must be a number",
    ),
    "attack with a path for a name": ({"attacks": {"../w": {}}}, "cannot be called"),
    "attack called as a parent": ({"attacks": {"..": {}}}, "cannot be called"),
    "row called as the key of a class": (
        {"rows": {"type": {"method": AMUN()}}},
        "cannot be called 'type'",
    ),
    "file of samples that is not read": (
        {"forget": {"path": "a.npy"}},
        "forget.path is a file of samples, but forget.kind is random",
    ),
    "path of bundled data": ({"data": {"path": "/tmp"}}, "data.source is digits"),
    "split of bundled data": (
        {"data": {"train_split": "train[:9]"}},
        "data.train_split is for data.source=tfds, but data.source is digits",
    ),
    "data by its name": ({"data": "digits"}, "data must be of type DataConfig"),
    "attack of a method without one": (
        {"rows": {"a": {"method": FineTune(), "attack": "w"}}, "attacks": {"w": {}}},
        "is given no adversarial examples",
    ),
    "adaptive with a transferred set": (
        {
            "rows": {"a": {"method": AMUN(), "attack": "w", "adaptive": True}},
            "attacks": {"w": {"source": "other"}},
        },
        "adaptive needs an attack",
    ),
    "adaptive that is no truth value": (
        {"rows": {"a": {"method": AMUN(), "adaptive": "False"}}},
        "True or False",
    ),
    "klom of repeats": (
        {
            "audit": {"klom": True},
            "replicas": {"repeats": 2},
            "forget": {"seeds": (1,)},
        },
        "audit.klom",
    ),
    "klom of several forget sets": ({"audit": {"klom": True}}, "one forget set"),
    "no bootstrap": ({"audit": {"num_bootstrap": 0}}, "a positive integer"),
}


def changed(changes):
    """The tiny run with some options changed, by part and name."""
    kinds = {"rows": Row, "attacks": AttackConfig}
    fields = {
        part: (
            {name: kinds[part](**options) for name, options in change.items()}
            if part in kinds
            else dataclasses.replace(getattr(TINY, part), **change)
            if isinstance(change, dict)
            else change
        )
        for part, change in changes.items()
    }
    return dataclasses.replace(TINY, **fields)


@pytest.mark.parametrize("case", CASES)
def test_bad_configuration_is_one_line_and_writes_nothing(case, splits, tmp_path):
    changes, message = CASES[case]
    own = None if "data" in changes else splits
    with pytest.raises(InputError, match=message) as error:
        run(changed(changes), tmp_path / "run", splits=own)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_bad_rows():
    with pytest.raises(InputError, match="a method is a value such as AMUN"):
        Row(method="amnu")
    with pytest.raises(InputError, match="a row cannot follow 'speed'"):
        Row(method=AMUN(), follow=("speed",))
    with pytest.raises(InputError, match="cannot be called 'retrained'"):
        dataclasses.replace(TINY, rows={"retrained": Row(method=AMUN())})
    with pytest.raises(InputError, match=r"rows\.mine must be of type Row, got AMUN"):
        dataclasses.replace(TINY, rows={"mine": AMUN()})


def test_model_that_does_not_fit_the_data(splits, tmp_path):
    model = models.build("mlp", (4, 4, 1), 5, widths=(8,))
    with pytest.raises(InputError, match=r"must give \(2, 3\)"):
        run(TINY, tmp_path / "run", splits=splits, model=model)


def test_diverged_training_is_an_error_and_a_diverged_method_a_row(splits, tmp_path):
    wild = dataclasses.replace(
        TINY, training=dataclasses.replace(TINY.training, learning_rate=1e25)
    )
    with pytest.raises(DivergedError, match="lower the learning rate"):
        run(wild, tmp_path / "a", splits=splits)
    rows = {
        **TINY.rows,
        "finetune": Row(method=FineTune(learning_rate=1e25, num_epochs=3)),
    }
    results = run(dataclasses.replace(TINY, rows=rows), tmp_path / "b", splits=splits)
    assert results.row("finetune").metrics == {}, (
        "a method that diverges is a result, and does not stop the others"
    )
    assert results.row("amun").metrics
    assert results.row("finetune").num_diverged == len(results.runs)
    assert not any("finite" in check.name for check in results.checks), (
        "a divergence is no failed check of the run"
    )


def test_working_directories_of_others(splits, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    with pytest.raises(
        InputError, match="holds files that are not of an unlearn_jax run"
    ):
        run(TINY, tmp_path / "full", splits=splits)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        run(TINY, tmp_path / "file", splits=splits)
    with pytest.raises(InputError, match="cannot be written"):
        run(TINY, tmp_path / "file" / "below", splits=splits)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full"]


def test_two_runs_in_one_directory(finished, splits):
    folder, _ = finished
    with (
        locks.lock(folder / ".lock", wait=False),
        pytest.raises(InputError, match="another run is at work"),
    ):
        run(TINY, folder, splits=splits)


def test_audits_of_runs_across_hosts_are_on_the_devices_of_one(tmp_path, splits):
    plan = make_plan(TINY, tmp_path, splits=splits)
    # more devices to a batch than this process has
    across = dataclasses.replace(plan.replicas, across_hosts=True, split=16)
    plan = dataclasses.replace(plan, replicas=across)
    with pytest.raises(InputError, match="do not divide into parts of split=16"):
        plan.mapper(2)
    assert plan.mapper(2, is_audit=True).shards == 8
