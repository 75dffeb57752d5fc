"""Ways out of a run and into one: opened, exported, audited again; own models."""

import contextlib
import dataclasses
import io
import json
import re
import shutil

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import serialization
from support.runs import TINY

import unlearn_jax as uj
from unlearn_jax import cli, models, pipeline
from unlearn_jax.pipeline import ReplicasConfig, _run
from unlearn_jax.pipeline.stages.plan import make_plan
from unlearn_jax.replicas import predict_many
from unlearn_jax.types import DamagedFileError, InputError, ReportError


@pytest.fixture(scope="module")
def folder(tmp_path_factory, splits):
    """The working directory of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    pipeline.run(TINY, folder, splits=splits)
    return folder


@pytest.fixture(scope="module")
def network(splits):
    """The run's network."""
    shape = splits.train.images.shape[1:]
    return models.build("mlp", shape, splits.num_classes, widths=(8,))


def test_a_run_opens_with_everything_it_stored(folder, splits, network):
    run = uj.open(folder)
    count = len(splits.train.labels) + len(splits.test.labels)
    assert list(run) == ["original", "retrained", "retrained_again", "finetune", "amun"]
    assert "AMUN" in run.table()
    assert run.results.row("amun").metrics["ft_auc"].mean > 0
    assert len(repr(run["amun"])) < 500
    assert run["amun"].logits.shape == (4, count, 3)
    assert run["amun"].scores.shape == (4, count)
    assert run.originals.logits.shape == (2, count, 3)
    assert run.oracles.logits.shape == (8, count, 3)
    assert run.references.logits.shape == (6, count, 3)
    images = uj.data.pool(splits).images
    for key in run:
        stacked = jax.tree.map(jnp.asarray, run[key].models)
        logits = predict_many(network.apply, stacked, images)
        np.testing.assert_allclose(logits, run[key].logits, rtol=1e-4, atol=1e-5)


def test_rows_follow_the_runs(folder):
    run = uj.open(folder)
    assert [one.original for one in run.results.runs] == [0, 0, 1, 1]
    originals = run.originals.logits
    np.testing.assert_array_equal(run["original"].logits, originals[[0, 0, 1, 1]])
    oracles = run.oracles.logits
    np.testing.assert_array_equal(run["retrained"].logits, oracles[:4])
    np.testing.assert_array_equal(run["retrained_again"].logits, oracles[4:])


def test_a_finished_run_writes_the_events_of_its_table(folder, splits, tmp_path):
    pytest.importorskip("tensorboardX")
    pipeline.run(TINY, folder, splits=splits, events=tmp_path)
    (file,) = tmp_path.glob("events.out.*")
    assert b"ft_auc/finetune" in file.read_bytes()


def test_opening_writes_nothing(folder):
    before = sorted(folder.rglob("*"))
    times = [path.stat().st_mtime_ns for path in before]
    run = uj.open(folder)
    _ = run["amun"].models, run.table(), run.references.logits
    assert sorted(folder.rglob("*")) == before
    assert [path.stat().st_mtime_ns for path in before] == times


def test_arrays_to_audit_leave_out_rows_that_diverged(folder):
    run = uj.open(folder)
    assert list(run.audit_arrays().target) == ["finetune", "amun"]
    rows = []
    for row in run.results.rows:
        lost = row.key == "finetune"
        rows.append(dataclasses.replace(row, num_diverged=int(lost)))
    run.results = dataclasses.replace(run.results, rows=tuple(rows))
    assert list(run.audit_arrays().target) == ["amun"]
    assert list(run.audit_arrays("finetune").target) == ["finetune"]


def test_an_audit_of_the_opened_arrays_is_the_runs(folder):
    run = uj.open(folder)
    # The methods behind arrays are not known, those of the run fine-tune.
    known = dataclasses.replace(TINY.audit, soft_margin="never")
    again = uj.audit_arrays(run.audit_arrays(), known)
    default = uj.audit_arrays(run.audit_arrays(), TINY.audit)
    for row in run.results.rows:
        assert again.row(row.key).metrics == row.metrics
        metrics = dict(default.row(row.key).metrics)
        assert metrics.pop("ft_auc_soft").num_runs == len(run.results.runs)
        assert metrics == row.metrics


def test_folders_that_are_no_finished_run(folder, tmp_path):
    with pytest.raises(InputError, match="not the working directory of a run"):
        uj.open(tmp_path)
    started = tmp_path / "started"
    started.mkdir()
    shutil.copy(folder / "unlearn_jax.json", started)
    with pytest.raises(InputError, match="run the same command again to finish"):
        uj.open(started)
    variant = started / "variant"
    variant.mkdir()
    shutil.copy(folder / "results.json", variant)
    with pytest.raises(InputError, match="study or an experiment: open one of its"):
        uj.open(started)
    (started / "results.json").write_text('{"tables": []}')
    with pytest.raises(InputError, match="study or an experiment"):
        uj.open(started)
    (started / "results.json").write_text('{"rows": [], "schema": 0}')
    with pytest.raises(InputError, match="schema 0"):
        uj.open(started)
    (started / "results.json").write_text('{"rows": [')
    with pytest.raises(DamagedFileError, match="run the same command again to write"):
        uj.open(started)
    (started / "results.json").write_text("[]")
    with pytest.raises(DamagedFileError, match="run the same command again to write"):
        uj.open(started)
    with pytest.raises(InputError, match="no row 'amum': choose from original"):
        uj.open(folder)["amum"]


@pytest.mark.parametrize(
    ("name", "text", "status", "message"),
    [
        ("config.json", '{"ty', 1, "config.json is damaged: run the same command"),
        ("config.json", "[]", 1, "config.json is damaged: run the same command"),
        ("results.json", "null", 1, "results.json is damaged: run the same command"),
        ("results.json", '{"rows": [], "schema": 0}', 2, "schema 0"),
    ],
)
def test_damaged_files_of_a_run_are_one_line(
    name, text, status, message, folder, tmp_path, capsys
):
    for file in ("config.json", "results.json"):
        shutil.copy(folder / file, tmp_path)
    (tmp_path / name).write_text(text)
    for words in (["publish", str(tmp_path)], ["export", str(tmp_path), "amun"]):
        assert cli.main([*words, "--to", str(tmp_path / "to.json")]) == status
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_damage_is_found_when_it_is_read(folder, tmp_path):
    copy = tmp_path / "runs" / "tiny"
    shutil.copytree(folder, copy)
    shutil.copytree(folder.parent / "banks", copy.parent / "banks")
    (path,) = copy.glob("unlearn-amun-*")
    logits = next(path.glob("items-*/logits.npy"))
    logits.write_bytes(logits.read_bytes()[:-4] + b"0000")
    arrays = copy / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:-100])
    run = uj.open(copy)
    with pytest.raises(DamagedFileError, match="to write it from what is stored"):
        _ = run.arrays
    assert run["finetune"].logits.shape[0] == 4
    with pytest.raises(DamagedFileError, match=r"logits\.npy"):
        _ = run["amun"].logits
    shutil.rmtree(copy.parent / "banks")
    with pytest.raises(InputError, match="is missing"):
        _ = run.originals


@pytest.mark.parametrize(
    ("name", "position", "read"),
    [
        ("retrained", 0, lambda run: run["retrained"].logits),
        ("retrained", -1, lambda run: run["retrained_again"].models),
        ("references", -1, lambda run: run.references.logits),
        ("references", 0, lambda run: run.audit_arrays()),
    ],
)
def test_a_missing_piece_is_named(name, position, read, folder, tmp_path):
    copy = tmp_path / "runs" / "tiny"
    shutil.copytree(folder, copy)
    shutil.copytree(folder.parent / "banks", copy.parent / "banks")
    run = uj.open(copy)
    pieces = sorted((copy / run.results.folders[name]).resolve().glob("items-*"))
    assert len(pieces) > 1
    shutil.rmtree(pieces[position])
    with pytest.raises(DamagedFileError, match=r"lacks item \d: run the same command"):
        read(run)
    assert run["amun"].logits.shape[0] == 4


def test_results_that_differ_from_the_seal_are_damaged(folder, tmp_path, capsys):
    for file in ("config.json", "results.json", "manifest.json", "arrays.npz"):
        shutil.copy(folder / file, tmp_path)
    results = uj.open(tmp_path).results.to_json()
    results["rows"][0]["metrics"]["ft_auc"]["mean"] += 0.5
    np.savez(tmp_path / "arrays.npz", labels=np.arange(3))
    with pytest.raises(DamagedFileError, match=r"arrays\.npz is missing or damaged"):
        _ = uj.open(tmp_path).arrays
    (tmp_path / "results.json").write_text(json.dumps(results))
    for words in (["publish", str(tmp_path)], ["export", str(tmp_path), "amun"]):
        assert cli.main([*words, "--to", str(tmp_path / "to.json")]) == 1
        assert "results.json is damaged: run the same" in capsys.readouterr().err
    (tmp_path / "manifest.json").unlink()
    assert uj.open(tmp_path).results.to_json() == results


def test_a_new_result_has_no_seal_until_all_of_it_is_written(folder, tmp_path):
    shutil.copy(folder / "manifest.json", tmp_path)
    run = uj.open(folder)
    lost = dataclasses.replace(run.results, faults=("one fault",))
    with pytest.raises(ReportError, match="one fault"):
        _run.publish(lost, run.arrays, tmp_path)
    assert uj.open(tmp_path).results.title == run.results.title


def command(*words):
    """Run a command and return its output."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = cli.main([str(word) for word in words])
    assert status == 0, out.getvalue()
    return out.getvalue()


def test_a_stranger_exports_and_audits_the_exported_models(
    folder, splits, network, tmp_path
):
    """Exported by the command line, opened by Orbax alone, audited as arrays."""
    exported = tmp_path / "exported"
    assert str(exported) in command("export", folder, "amun", "--to", exported)
    settings = json.loads((exported / "settings.json").read_text())
    assert settings["row"]["method"] == "amun"
    assert settings["row"]["options"]["num_epochs"] == 2
    run = uj.open(folder)
    estimate = run.results.row("amun").metrics["ft_auc"]
    assert settings["row"]["metrics"]["ft_auc"]["mean"] == estimate.mean
    assert settings["versions"]["jax"] == jax.__version__
    images = uj.data.pool(splits).images
    logits = []
    with ocp.PyTreeCheckpointer() as checkpointer:
        for one in settings["runs"]:
            tree = checkpointer.restore(exported / one["path"])
            variables = uj.Variables(tree["params"], {})
            logits.append(uj.predict(network.apply, variables, images))
    known = run.audit_arrays("finetune")
    arrays = uj.AuditArrays(
        target={"amun": np.stack(logits)},
        labels=known.labels,
        train=known.train,
        forget=known.forget,
        references=known.references,
        member=known.member,
        retrained=known.retrained,
        runs=known.runs,
    )
    file = arrays.save(tmp_path / "logits.npz")
    audited = tmp_path / "audited"
    options = ("--audit.num-bootstrap", 20, "--audit.mis-samples", 20)
    text = command("audit", "--logits", file, "--to", audited, *options)
    assert "FT AUC" in text
    results = json.loads((audited / "results.json").read_text())
    assert results["command"].startswith(f"unlearn-jax audit --logits {file} --to")
    (row,) = (row for row in results["rows"] if row["key"] == "amun")
    np.testing.assert_allclose(row["metrics"]["ft_auc"]["mean"], estimate.mean, 0.02)
    assert (audited / "report.html").is_file()


@pytest.mark.parametrize("format", ["safetensors", "msgpack"])
def test_exports_load_as_models(format, folder, network, tmp_path):
    if format == "safetensors":
        pytest.importorskip("safetensors")
    exported = tmp_path / "exported"
    options = ("--format", format, "--logits")
    command("export", folder, "retrained", "--to", exported, *options)
    files = {path.name for path in exported.iterdir()}
    names = {f"run-00{number}.{format}" for number in range(4)}
    assert files == names | {"settings.json", "logits.npz"}
    loaded = models.load(exported / f"run-003.{format}", like=network)
    stacked = uj.open(folder)["retrained"].models
    chex.assert_trees_all_equal(loaded, jax.tree.map(lambda leaf: leaf[3], stacked))
    arrays = uj.AuditArrays.load(exported / "logits.npz")
    assert list(arrays.target) == ["finetune", "amun"]


def test_an_export_overwrites_nothing(folder, tmp_path, capsys):
    (tmp_path / "there").mkdir()
    words = ["export", str(folder), "amun", "--to", str(tmp_path / "there")]
    assert cli.main(words) == 2
    assert "exists: choose another folder" in capsys.readouterr().err
    assert cli.main(["export", str(folder)]) == 2
    assert "Missing from unlearn-jax export" in capsys.readouterr().err
    words[-1] += "/new"
    assert cli.main([*words, "--format", "pickle"]) == 2
    error = capsys.readouterr().err
    assert "unknown format 'pickle': choose orbax, safetensors, msgpack" in error
    assert list(tmp_path.iterdir()) == [tmp_path / "there"]


class Net(nn.Module):
    """A network of a user."""

    @nn.compact
    def __call__(self, images, *, train):
        hidden = nn.relu(nn.Dense(8)(images.reshape(len(images), -1)))
        return nn.Dense(3)(hidden)


PRESET = '''"""My network on my data."""

import flax.linen as nn
import jax.numpy as jnp
from support.runs import TINY
import dataclasses
from unlearn_jax import data, models
from unlearn_jax.pipeline import ReplicasConfig


class Net(nn.Module):
    @nn.compact
    def __call__(self, images, *, train):
        hidden = nn.relu(nn.Dense(8)(images.reshape(len(images), -1)))
        return nn.Dense(3)(hidden)


def make_splits():
    return data.load_npz({data!r})


def make_model(image_shape, num_classes):
    return models.from_linen(Net(), jnp.zeros((1, *image_shape)))


PRESET = TINY
'''


@pytest.fixture(scope="module")
def own(splits):
    """A user's network with trained variables, and its logits over the pool."""
    model = models.from_linen(Net(), jnp.zeros((1, 4, 4, 1)))
    recipe = uj.Recipe(30, 16, optax.sgd(0.1))
    member = np.ones(len(splits.train.labels), bool)
    state, _ = uj.fit(jax.random.key(5), model, splits.train, member, recipe)
    logits = uj.predict(model.apply, state.variables, uj.data.pool(splits).images)
    return model, state.variables, logits


def test_a_users_own_model_is_unlearned_and_audited(own, splits, tmp_path):
    """Its own arrays, its own Flax module, weights as Flax stores them."""
    _, variables, logits = own
    names = ("train_images", "train_labels", "test_images", "test_labels")
    arrays = (*splits.train, *splits.test)
    np.savez(tmp_path / "data.npz", **dict(zip(names, arrays, strict=True)))
    linen = {"params": variables.params}
    (tmp_path / "weights.msgpack").write_bytes(serialization.to_bytes(linen))
    preset = tmp_path / "mine.py"
    preset.write_text(PRESET.replace("{data!r}", repr(str(tmp_path / "data.npz"))))
    words = ("run", preset, "--workdir", tmp_path / "runs" / "mine")
    weights = ("--original", tmp_path / "weights.msgpack")
    text = command(*words, *weights)
    assert "AMUN" in text
    run = uj.open(tmp_path / "runs" / "mine")
    np.testing.assert_allclose(run.originals.logits[0], logits, rtol=1e-4, atol=1e-5)
    assert run.results.design.originals == 1
    assert run.results.design.runs == 2
    dry = command(*words, *weights, "--dry-run")
    assert re.search(r"originals +1 +1 +0", dry)


@pytest.fixture(scope="module")
def problem(own, splits):
    model, variables, _ = own
    forget = uj.data.forget_random(len(splits.train.labels), fraction=0.2, seed=0)
    return uj.make_problem(model, variables, splits.train, forget)


def test_models_are_audited_as_their_logits(own, problem, splits):
    model, variables, logits = own
    recipe = uj.Recipe(2, 16, optax.sgd(0.1))
    key = jax.random.key(6)
    references = uj.fit_references(key, model, splits, recipe, num_models=4, seed=3)
    pool = uj.data.pool(splits)
    member = uj.data.membership_design(4, len(pool.labels), seed=3)
    keys = jax.random.split(jax.random.clone(key), 4)
    state, _ = uj.fit_many(keys, model, pool, member, recipe)
    np.testing.assert_array_equal(references.member, member)
    chex.assert_trees_all_equal(references.variables, state.variables)

    moved = jax.tree.map(lambda leaf: 1.1 * leaf, variables)
    oracle = jax.tree.map(lambda leaf: 0.9 * leaf, variables)
    config = pipeline.AuditConfig(num_bootstrap=20)
    models = {"retrained": oracle, "mine": moved}
    found = uj.audit_models(problem, splits, references, models, config)
    assert [row.key for row in found.rows] == ["original", "retrained", "mine"]
    assert found.command == "unlearn_jax.audit_models(...)"
    arrays = uj.AuditArrays(
        target={"mine": uj.predict(model.apply, moved, pool.images)},
        labels=pool.labels,
        train=uj.data.pool_mask(splits),
        forget=uj.data.pool_mask(splits, problem.forget),
        references=uj.predict_many(model.apply, state.variables, pool.images),
        member=member,
        original=logits,
        retrained=uj.predict(model.apply, oracle, pool.images),
    )
    for row in uj.audit_arrays(arrays, config).rows:
        for key, estimate in row.metrics.items():
            value = found.row(row.key).metrics[key].mean
            # a score that ties in one program may not in another
            assert value == pytest.approx(estimate.mean, abs=0.5), (row.key, key)
    table = uj.terminal_text(found, ["ft_auc", "avg_gap"])
    assert "Avg Gap" in table
    assert "Test acc" not in table
    assert "Cost" not in table  # nothing was timed


def test_samples_of_earlier_requests_are_left_out(own, problem, splits):
    model, variables, _ = own
    removed = np.zeros(len(problem.forget), bool)
    removed[np.flatnonzero(~np.asarray(problem.forget))[:7]] = True
    later = uj.make_problem(
        model, variables, splits.train, problem.forget, removed=removed
    )
    recipe = uj.Recipe(1, 16, optax.sgd(0.1))
    references = uj.fit_references(
        jax.random.key(3), model, splits, recipe, num_models=4
    )
    moved = jax.tree.map(lambda leaf: 1.1 * leaf, variables)
    config = pipeline.AuditConfig(num_bootstrap=20)
    models = {"retrained": variables, "mine": moved}
    result = uj.audit_models(later, splits, references, models, config)
    logits = uj.predict(model.apply, moved, splits.train.images)
    right = np.argmax(logits, -1) == splits.train.labels
    retain = ~(np.asarray(problem.forget) | removed)
    metrics = result.row("mine").metrics
    assert metrics["retain_accuracy"].mean == pytest.approx(100 * right[retain].mean())


def test_models_that_forgot_a_class_are_audited_without_references(own, splits):
    model, variables, _ = own
    forget = uj.data.forget_class(splits.train.labels, 1)
    problem = uj.make_problem(model, variables, splits.train, forget)
    recipe = uj.Recipe(20, 16, optax.sgd(0.1))
    masks = np.stack([~forget, ~forget])
    keys = jax.random.split(jax.random.key(7), 2)
    state, _ = uj.fit_many(keys, model, splits.train, masks, recipe)
    models = {
        "retrained": uj.replicas.unstack(state.variables, 0),
        "retrained_again": uj.replicas.unstack(state.variables, 1),
        "mine": variables,
    }
    config = pipeline.AuditConfig(num_bootstrap=20)
    result = uj.audit_models(problem, splits, None, models, config)
    assert result.design.forget_kind == "class"
    accuracy = {row.key: row.metrics["acc_f"].mean for row in result.rows}
    assert accuracy["mine"] == accuracy["original"] > 50
    assert accuracy["retrained"] == 0
    assert result.row("mine").metrics["tv_forget"].mean > 50


def test_audits_of_models_that_do_not_fit(own, problem, splits):
    _, variables, _ = own
    short = dataclasses.replace(
        splits, train=jax.tree.map(lambda a: a[:9], splits.train)
    )
    with pytest.raises(InputError, match="training samples and the data 9: pass the"):
        uj.audit_models(problem, short, None, {"mine": variables})
    changed = splits.train.images.copy()
    changed[0] = 1 - changed[0]
    other = dataclasses.replace(splits, train=splits.train._replace(images=changed))
    with pytest.raises(InputError, match="training images of problem and data differ"):
        uj.audit_models(problem, other, None, {"mine": variables})
    with pytest.raises(InputError, match="leave it out of the models"):
        uj.audit_models(problem, splits, None, {"original": variables})
    with pytest.raises(InputError, match="target has no row"):
        uj.audit_models(problem, splits, None, {"retrained": variables})
    with pytest.raises(InputError, match="references is missing"):
        uj.audit_models(problem, splits, None, {"mine": variables})


def test_other_weights_are_another_run(own, splits, tmp_path):
    model, variables, _ = own
    moved = jax.tree.map(lambda leaf: leaf + 0.01, variables)
    keys = []
    for original in (variables, [moved], (variables, moved)):
        plan = make_plan(TINY, tmp_path, splits=splits, model=model, original=original)
        keys.append(plan.originals.artifact.key)
    trained = make_plan(TINY, tmp_path, splits=splits, model=model)
    assert len({*keys, trained.originals.artifact.key}) == 4
    assert plan.seeds == (0, 1)


def test_original_models_that_do_not_fit(own, splits, tmp_path):
    model, variables, _ = own
    few = uj.replace(TINY, replicas=ReplicasConfig(originals=(0,), references=6))
    cases = [
        ([variables] * 2, few, "2 original models are given"),
        ([], TINY, "original holds no model"),
        (tmp_path / "absent", TINY, "no model at"),
        (uj.Variables({"w": np.ones(2)}, {}), TINY, "original 0: it lacks params/"),
        (
            uj.Variables({"w": np.ones(2)}, {}),
            TINY,
            "choose the network that was trained",
        ),
    ]
    for original, config, message in cases:
        with pytest.raises(InputError, match=message):
            make_plan(config, tmp_path, splits=splits, model=model, original=original)
