"""The study of ensembles: columns against slow definitions, and a tiny run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import attacks, targets, train
from unlearn_jax.attacks import correct, pgd_curve
from unlearn_jax.ensembles import Ensemble, Lotos
from unlearn_jax.objectives import TRADES
from unlearn_jax.pipeline import ModelConfig, TrainingConfig, compiling
from unlearn_jax.pipeline.experiment import Experiment, run_experiment
from unlearn_jax.pipeline.store.artifact import Runner
from unlearn_jax.studies.ensembles import page
from unlearn_jax.studies.ensembles.artifacts import make_artifacts
from unlearn_jax.studies.ensembles.config import (
    AttackPlan,
    ClipConfig,
    ControlConfig,
    EnsembleConfig,
    lotos_of,
    terms_of,
)
from unlearn_jax.studies.ensembles.lab import Lab, members_of
from unlearn_jax.studies.ensembles.overhead import step_seconds
from unlearn_jax.studies.ensembles.programs import make_programs
from unlearn_jax.types import InputError, to_float

CONFIG = EnsembleConfig(
    seeds=(3,),
    arms=("orig", "clip+lotos"),
    num_members=2,
    num_surrogates=1,
    model=ModelConfig(name="mlp", widths=(8,)),
    training=TrainingConfig(num_epochs=2, batch_size=100, learning_rate=0.1),
    clip=ClipConfig(max_norm=1.5, period=5),
    lotos=Lotos(max_length=1.0, which="all"),
    attack=AttackPlan(
        (16, 48),
        48,
        num_steps=4,
        num_samples=40,
        strong_samples=20,
        strong_steps=4,
        strong_targets=0,
        every_epochs=1,
        epoch_samples=30,
        epoch_steps=12,
        min_transfer=2.0,  # none is so large: the largest radius
    ),
    pilot_seed=9,
    control=ControlConfig(arms=("orig",), num_steps=20, every=10, learning_rate=0.02),
    num_bootstrap=20,
    overhead_steps=0,
)


def made_up(rng, members=3, sources=2, radii=2, size=30, tested=50, strong=10):
    draw = lambda *shape: rng.random(shape) < 0.6
    return {
        "clean": draw(tested),
        "members_clean": draw(members, tested),
        "source_fooled": draw(members, radii, size),
        "target_fooled": draw(members, radii, members, size),
        "white_fooled": draw(radii, size),
        "strong_fooled": draw(strong),
        "black_fooled": draw(sources, radii, size),
        "strong_black_fooled": draw(sources, strong),
        "surrogate_right": draw(sources, size),
        "surrogate_fooled": draw(sources, radii, size),
    }


def slow_columns(a, rows):
    """Return the main table at the second radius, on these test samples, slowly."""
    first = lambda n: [i for i in rows if i < n]
    rate = lambda hits, counted: (
        100 * np.mean([h for h, c in zip(hits, counted, strict=True) if c])
    )
    every = lambda fooled, n: (
        100 * np.mean([a["clean"][i] and not fooled[i] for i in first(n)])
    )
    conditional, right = [], []
    for s in range(3):
        for t in set(range(3)) - {s}:
            both = [
                a["members_clean"][s, i] and a["members_clean"][t, i] for i in first(30)
            ]
            found = [a["source_fooled"][s, 1, i] for i in first(30)]
            hits = [a["target_fooled"][s, 1, t, i] for i in first(30)]
            right.append(rate(hits, both))
            conditional.append(rate(hits, np.logical_and(both, found)))
    published = [
        rate(
            [not a["black_fooled"][s, 1, i] for i in first(30)],
            [
                a["surrogate_right"][s, i]
                and a["surrogate_fooled"][s, 1, i]
                and a["clean"][i]
                for i in first(30)
            ],
        )
        for s in range(2)
    ]
    return {
        "clean": 100 * np.mean(a["clean"][rows]),
        "transfer, conditional": np.mean(conditional),
        "transfer, unconditional": np.mean(right),
        "white-box PGD": every(a["white_fooled"][1], 30),
        "white-box APGD set": every(a["strong_fooled"], 10),
        "black-box PGD": np.mean(
            [every(a["black_fooled"][s, 1], 30) for s in range(2)]
        ),
        "black-box APGD": np.mean(
            [every(a["strong_black_fooled"][s], 10) for s in range(2)]
        ),
        "black-box PGD, published": np.mean(published),
    }


def test_columns_by_definition_one_sample_after_the_other():
    """A weight of two is a sample that is there twice."""
    rng = np.random.default_rng(5)
    arrays = made_up(rng)
    weights = rng.integers(0, 3, (2, 50))
    got = {name: metric(arrays, weights) for name, metric in page.metrics(1).items()}
    for w, row in enumerate(weights):
        expected = slow_columns(arrays, np.repeat(np.arange(50), row))
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(got[name][w], value, err_msg=name)


def test_columns_agree_with_the_librarys_transfer_rates():
    a = made_up(np.random.default_rng(6))
    right = jnp.asarray(a["members_clean"][:, :30])
    outcome = attacks.Transfer(
        right,
        jnp.asarray(a["source_fooled"][:, 0]),
        right,
        jnp.asarray(a["target_fooled"][:, 0]),
    )
    for condition in ("fooled", "right"):
        table = page.transfer_table(a, 0, np.ones((1, 50)), condition=condition)[..., 0]
        np.testing.assert_allclose(
            table,
            100 * np.asarray(attacks.transfer_rates(outcome, condition=condition)),
            rtol=1e-5,
        )


@pytest.mark.parametrize(
    ("fooled", "verdict"), [(0.1, "is contradicted"), (0.9, "holds")]
)
def test_percentages_have_bounds_and_a_contrary_change_is_no_open_question(
    fooled, verdict
):
    config = dataclasses.replace(
        CONFIG, seeds=(0, 1, 2), arms=("orig", "clip"), num_members=3
    )
    config = dataclasses.replace(
        config, attack=dataclasses.replace(config.attack, min_transfer=0.9)
    )
    rng = np.random.default_rng(0)
    parts = {}
    for seed in config.seeds:
        for arm, rate in (("orig", 0.5), ("clip", fooled)):
            arrays = made_up(rng)
            arrays["source_fooled"][:] = True
            arrays["target_fooled"] = rng.random((3, 2, 3, 30)) < rate
            arrays["white_fooled"] = rng.random((2, 30)) < 0.99
            parts[f"attack-{arm}-{seed}"] = arrays
    summary = page._Summary(config, parts)
    columns = page.metrics(1)
    values = {
        arm: {name: summary.values(arm, metric) for name, metric in columns.items()}
        for arm in config.arms
    }
    words = page._words(config, summary, values)
    assert f"clipping raises transfer. At 48/255 here it {verdict} (" in words
    cells = [summary.percentage(column) for column in values["orig"].values()]
    assert not any(cell.low < 0 or cell.high > 100 for cell in cells if cell)


def test_several_radii_in_one_program_are_the_attacks_one_by_one(key):
    weights = jax.random.normal(jax.random.key(1), (16, 3))
    linear = lambda w, images: (images - 0.5).reshape(len(images), -1) @ w
    x = jax.random.uniform(jax.random.key(2), (9, 4, 4, 1), minval=0.2, maxval=0.8)
    y = jnp.argmax(linear(weights, x), -1)
    curve = pgd_curve(
        jax.random.clone(key),
        linear,
        weights,
        x,
        y,
        [0.02, 0.1],
        num_steps=5,
        batch_size=4,
    )
    for i, k in enumerate(jax.random.split(key)):
        radius = (0.02, 0.1)[i]
        start = attacks.random_start(k, x, epsilon=radius, norm=attacks.linf)
        alone = attacks.pgd(
            linear,
            weights,
            x,
            y,
            start,
            epsilon=radius,
            num_steps=5,
            norm=attacks.linf,
            keep="last",
        )
        np.testing.assert_allclose(curve.images[i], alone.images, atol=1e-6)
        np.testing.assert_array_equal(
            correct(linear, weights, curve.images[i], y), alone.labels == y
        )
    wrong = np.mean(np.asarray(curve.labels) != np.asarray(y)[None], 1)
    assert wrong[0] < wrong[1]
    with pytest.raises(InputError, match=r"images must lie in \[0, 1\]"):
        pgd_curve(jax.random.key(0), linear, weights, 9 * x, y, [0.1])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run, and what its artifacts hold."""
    folder = tmp_path_factory.mktemp("ensembles")
    tiny = Experiment("Tiny", CONFIG, make_artifacts, page.make_page)
    results = run_experiment(tiny, folder, name="tiny_ensembles")
    return results, Runner(folder).make_all(make_artifacts(CONFIG))


def test_the_page_follows_from_the_parts(finished):
    results, parts = finished
    main, norms = results.tables[0], results.tables[1]
    assert [row[0] for row in main.rows] == ["Plain", "Clipped + LOTOS"]
    for row, arm in zip(main.rows, CONFIG.arms, strict=True):
        arrays = parts[f"attack-{arm}-3"]
        cells = dict(zip(main.columns[1:], row[1:], strict=True))
        assert cells["clean"].mean == pytest.approx(100 * arrays["clean"].mean())
        robust = 100 * np.mean(arrays["clean"][:40] & ~arrays["white_fooled"][1])
        assert cells["white-box PGD"].mean == pytest.approx(robust)
        assert cells["white-box PGD"].low <= robust <= cells["white-box PGD"].high
        assert 0 < robust < cells["clean"].mean, "the attack must matter here"
    assert norms.rows[-1][0] == "Clipped + LOTOS, after the last clip"
    assert list(norms.columns[1:]) == [
        "Dense_0/kernel",
        "Dense_1/kernel",
        "product",
        "steepest slope seen",
    ]
    assert max(norms.rows[-1][1:3]) <= 1.5 * 1.01 < max(norms.rows[0][1:3])
    assert norms.rows[-1][4] == pytest.approx(
        parts["attack-clip+lotos-3"]["slope"].max()
    )
    assert "LOTOS lowers transfer" not in results.summary, (
        "there is no arm to compare with"
    )
    checks = {check.name: check.passed for check in results.checks}
    assert len(checks) == 4
    assert checks["clipped layers are within 1% of their target"]
    assert checks["the risk gap bound holds"]
    assert checks["local slopes stay below the Lipschitz product"]


def test_kept_members_are_what_was_attacked(finished):
    """Read back, they classify as the attack found; the slope is one of theirs."""
    _, parts = finished
    lab = Lab(CONFIG)
    members = members_of(parts["clip+lotos-3"])
    assert len(members) == CONFIG.num_members
    x, y = to_float(jnp.asarray(lab.splits.test.images)), lab.splits.test.labels
    probs = np.mean([jax.nn.softmax(lab.model.apply(one, x)) for one in members], 0)
    np.testing.assert_array_equal(
        probs.argmax(1) == y, parts["attack-clip+lotos-3"]["clean"]
    )
    norms, slope = parts["clip+lotos-3"]["norms"], parts["attack-clip+lotos-3"]["slope"]
    for one, mine, seen in zip(members, norms, slope, strict=True):
        kernels = [one.params[name]["kernel"] for name in ("Dense_0", "Dense_1")]
        np.testing.assert_allclose(
            mine, [np.linalg.norm(kernel, 2) for kernel in kernels], rtol=1e-3
        )
        assert 0.1 * mine.prod() < seen <= mine.prod() * 1.001


def test_foreign_stretches_are_of_the_others_singular_vectors(finished):
    """Of plain members, whose top singular values are no ties as clipped ones are."""
    results, parts = finished
    members = members_of(parts["orig-3"])
    tables = dict(
        zip(
            parts["orig-3"]["foreign_layers"],
            parts["orig-3"]["foreign"],
            strict=True,
        )
    )
    assert [path.rsplit("/", 2)[-2] for path in tables] == ["Dense_0", "Dense_1"]
    for path, table in tables.items():
        kernels = [
            np.asarray(one.params[path.rsplit("/", 2)[-2]]["kernel"], "f8")
            for one in members
        ]
        tops = [np.linalg.svd(kernel)[0][:, 0] for kernel in kernels]
        for i, kernel in enumerate(kernels):
            for j, top in enumerate(tops):
                expected = np.linalg.norm(top @ kernel)
                assert table[i, j] == pytest.approx(expected, rel=2e-2)
    shown = next(one for one in results.tables if one.title.startswith("Foreign"))
    first = parts["orig-3"]["foreign"][0]
    expected = (first[0, 1] + first[1, 0]) / 2 / CONFIG.clip.max_norm
    assert shown.rows[0][1] == pytest.approx(expected)


def test_transfer_in_training_is_that_of_the_members(finished):
    results, parts = finished
    found = parts["orig-3"]
    assert list(found["epochs"]) == [1, 2]
    lab = Lab(CONFIG)
    key = jax.random.fold_in(jax.random.key(3), 4)
    transfer, accuracy = lab.transfer_now(key, members_of(found), 48)
    assert 0 <= transfer <= 1
    assert found["transfer"][-1] == pytest.approx(transfer)
    assert found["accuracy"][-1] == pytest.approx(accuracy)
    titles = [table.title for table in results.tables]
    assert "Transfer in training" in titles
    assert "The penalty alone" in titles


def test_a_pilot_chooses_the_least_radius_of_enough_transfer(finished):
    _, parts = finished
    assert parts["pilot"]["main_radius"] == 48
    assert parts["pilot"]["robust"][0] > parts["pilot"]["robust"][1]
    easy = dataclasses.replace(CONFIG.attack, min_transfer=0.0)
    lab = Lab(dataclasses.replace(CONFIG, attack=easy))
    again = lab.pilot(9)
    assert again["main_radius"] == 16
    np.testing.assert_allclose(again["transfer"], parts["pilot"]["transfer"])


def test_a_pilot_whose_members_do_not_learn_ends_the_study(finished):
    _, parts = finished
    assert 0.3 < parts["pilot"]["clipped_accuracy"] <= 1
    assert 0.3 < parts["pilot"]["accuracy"] <= 1
    strict = dataclasses.replace(CONFIG.attack, min_accuracy=1.1)
    lab = Lab(dataclasses.replace(CONFIG, attack=strict))
    with pytest.raises(InputError, match=r"arm 'orig' is right on \d+% .* below"):
        lab.pilot(9)
    plain = dataclasses.replace(CONFIG, arms=("orig",))
    assert np.isnan(Lab(plain).pilot(9)["clipped_accuracy"])


def test_the_penalty_alone_lowers_foreign_stretches(finished):
    _, parts = finished
    found = parts["control-orig-3"]
    assert list(found["steps"]) == [0, 10, 20]
    assert found["penalty"][0] > found["penalty"][-1] >= 0
    assert found["stretch"][0] > found["stretch"][-1]
    assert np.isfinite(found["transfer"]).all()


def test_an_arm_may_name_the_weight_of_lotos():
    assert terms_of("clip+lotos0.3") == ("clip", "lotos")
    assert lotos_of(CONFIG, "clip+lotos0.3").weight == 0.3
    assert lotos_of(CONFIG, "clip+lotos") == CONFIG.lotos
    arms = ("orig", "clip", "clip+lotos", "clip+lotos0.3")
    assert page.parents(arms) == [
        ("clip", "orig"),
        ("clip+lotos", "clip"),
        ("clip+lotos0.3", "clip"),
    ]


def test_steps_are_timed_with_compiling_apart(tiny, blobs):
    recipe = train.Recipe(num_epochs=1, batch_size=20, tx=train.sgd(0.1))
    seconds, compiling = step_seconds(
        {"orig": (Ensemble([tiny] * 2), recipe)}, blobs, num_steps=3, num_repeats=2
    )
    assert seconds.shape == (1, 2)
    assert 0 < seconds.max() < compiling[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": ()}, "one seed, one arm"),
        ({"seeds": (1, 1)}, "different"),
        ({"num_members": 1}, "two members"),
        ({"arms": ("lotos+clip",)}, "in this order"),
        ({"arms": ("smooth",)}, "unknown arm"),
        ({"attack": AttackPlan((2, 4), 8)}, "main_radius one of them"),
        ({"attack": AttackPlan((4, 2), 2)}, "ascending"),
        ({"attack": AttackPlan(num_samples=0)}, "at least 1"),
        ({"training": TrainingConfig(objective=TRADES())}, "name arms instead"),
        ({"overhead_steps": 7}, "multiple of clip.period"),
        ({"pilot_seed": 3}, "not be one of the reported"),
        ({"control": ControlConfig(arms=("clip",))}, "some of arms"),
        ({"attack": AttackPlan((4,), 4, every_epochs=-1)}, "not be negative"),
    ],
)
def test_bad_configurations(changes, message):
    with pytest.raises(InputError, match=message):
        make_artifacts(dataclasses.replace(CONFIG, **changes))


def test_an_artifact_depends_on_the_terms_of_its_arm_alone():
    heavier = dataclasses.replace(CONFIG, lotos=Lotos(weight=0.7))
    parts = {part.name: part for part in make_artifacts(CONFIG)}
    other = {part.name: part for part in make_artifacts(heavier)}
    assert parts["orig-3"].key == other["orig-3"].key
    assert parts["clip+lotos-3"].key != other["clip+lotos-3"].key
    inputs = [part.name for part in parts["attack-clip+lotos-3"].inputs]
    assert inputs == ["clip+lotos-3", "surrogates-3", "pilot"]


def test_programs_of_a_study_are_compiled_and_not_run():
    """The study goes on by numbers that it computes; these programs do not."""
    experiment = Experiment(
        "x", CONFIG, make_artifacts, page.make_page, None, make_programs
    )
    target = targets.parse("cpu:1")
    with jax.debug_key_reuse(False):
        report = compiling.compile_experiment(experiment, target, preset="x")
    calls = {(row.stage, row.name): row.calls for row in report.rows}
    # two epochs, one in a call; two members, and the ensemble once
    assert calls["orig", "train_members"] == 2
    assert calls["clip+lotos", "train_members"] == 2
    assert calls["attack-orig", "attack_member"] == 2
    assert calls["attack-orig", "attack_ensemble"] == 1
    assert ("surrogates", "train_models") in calls
    for row in report.rows:
        assert not row.compiled.error
        assert row.compiled.operations.float32 > 0
