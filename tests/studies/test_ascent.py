"""The studies of ascent: whole runs at their smallest, and a page of known numbers."""

import dataclasses
import warnings

import jax
import numpy as np
import pytest
from support.studies import check_study

from unlearn_jax import replicas
from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline import Experiment, run_experiment
from unlearn_jax.pipeline.report.blocks import Check, Table
from unlearn_jax.studies.ascent import digits, digits_page, theory, theory_page
from unlearn_jax.types import Dataset, InputError, to_float


def test_theory_at_its_smallest(tmp_path):
    config = theory.Config(seeds=(0,), num_examples=2, grid=3, num_steps=300)
    study = Experiment("Theory", config, theory.make_artifacts, theory_page.make_page)
    results = run_experiment(study, tmp_path, name="ascent_theory")
    assert all(check.passed for check in results.checks)
    rows = {tuple(row[:2]): row for row in results.tables[0].rows}
    assert rows["0", "0.05"][5] == "yes"
    assert rows["0.9", "0.05"][5] == "no"
    with pytest.raises(InputError, match="seed"):
        theory.make_artifacts(dataclasses.replace(config, seeds=()))


def made_up(config, rng):
    """Return artifacts, untrained; run 2 of every set is at the floor."""
    runs = len(digits.methods_of(config))
    found = {}
    for seed in config.seeds:
        norms = rng.uniform(1, 2, (len(digits.SETS), 3))
        found[f"sets-{seed}"] = {"norms": norms}
        for name in digits.SETS:
            klom = rng.uniform(2, 3, (2, runs + 2, config.num_train + 40))
            klom[:, [2, -1]] = 0.3
            forget = np.arange(config.num_train) < config.num_forget
            found[f"{name}-{seed}"] = {
                "klom": klom[0],
                "again": klom[1],
                "forget": forget,
                "diverged": np.zeros(runs, bool),
            }
    return found


def test_runs_and_methods_agree():
    config = digits.Config()
    counts = [len(program.mapped["learning_rate"]) for program in digits.grid(config)]
    assert sum(counts) == len(digits.methods_of(config))
    alphas = np.array(digits.grid(config)[-2].mapped["alpha"])
    methods = digits.methods_of(config)
    is_gda = np.isin(methods, ["gda", "finetune"])
    np.testing.assert_array_equal(methods[is_gda] == "finetune", alphas == 1)


def test_nearest_sets_are_those_of_exact_distances():
    config = digits.Config(num_train=120, num_forget=5, num_models=2, width=8)
    model, samples, _, _ = digits.setting(config, 0)
    params = [model.init(key).params for key in jax.random.split(jax.random.key(0))]
    models = {"models": {"params": replicas.stack(params), "state": {}}}
    masks = digits.forget_sets(config, 0, models)["masks"]
    pixels = samples.images.reshape(120, -1).astype(np.float64)
    gaps = ((pixels[:, None] - pixels) ** 2).sum(-1)
    nearest = np.sort(gaps, 1)[:, :5].sum(1)
    for name in ("nearest-0", "nearest-1"):
        chosen = masks[digits.SETS.index(name)]
        assert np.isclose(gaps[:, chosen].sum(1), nearest).any()


def test_gradients_are_taken_where_networks_are_trained():
    config = digits.Config(num_train=40, num_forget=2, width=8)
    model, _, _, _ = digits.setting(config, 0)
    pool = digits.pool_of(config, 0)
    params = model.init(jax.random.key(0)).params
    scaled = Dataset(to_float(pool.images), pool.labels)
    assert pool.images.dtype == np.uint8
    slopes = digits.margin_gradients(model, params, pool)
    expected = digits.margin_gradients(model, params, scaled)
    np.testing.assert_allclose(slopes, expected, atol=1e-6)


def test_one_class_holds_every_set_of_one_class():
    """The split of seed 15 has six samples of one class, fewer than a set."""
    config = digits.Config(num_train=120, num_forget=10, num_models=2, width=8)
    model, samples, _, _ = digits.setting(config, 15)
    assert np.bincount(samples.labels).min() < 10
    params = [model.init(key).params for key in jax.random.split(jax.random.key(0))]
    models = {"models": {"params": replicas.stack(params), "state": {}}}
    masks = digits.forget_sets(config, 15, models)["masks"]
    chosen = masks[digits.SETS.index("one-class")]
    assert chosen.sum() == 10
    assert len(set(np.asarray(samples.labels)[chosen])) == 1


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_originals_at_the_floor_have_no_fraction(share):
    """And none of the sentences and cells holds NaN, also where no run breaks."""
    config = digits.Config(seeds=(0, 1), num_train=60, num_forget=5)
    parts = made_up(config, np.random.default_rng(0))
    at_floor = digits.SETS[: round(share * len(digits.SETS))]
    for name, part in parts.items():
        if "klom" in part:
            if name.rsplit("-", 1)[0] in at_floor:
                part["klom"][0] = part["again"][0] = 0.3
            part["klom"][1:-1] = np.minimum(part["klom"][1:-1], part["klom"][0])
    found = digits.collect(config, parts)
    fractions = found.remaining("scrub")
    assert np.isnan(fractions).mean() == share
    assert (fractions[~np.isnan(fractions)] < 2).all()
    page = digits_page.make_page(config, parts)
    assert "nan" not in page.summary.lower()
    assert page.summary.endswith(".")
    assert f"of {len(found.kinds)} sets" in page.summary
    for table in page.find(Table):
        cells = [cell for row in table.rows for cell in row]
        numbers = [cell.mean for cell in cells if isinstance(cell, Estimate)]
        assert not np.isnan(numbers).any()


def test_a_range_without_examples_has_no_percentage():
    held = {"held": np.array([[1.0, np.nan, np.nan, 0.0]])[..., None]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = theory_page.order_table([held])
    assert [row[-1] for row in table.rows] == [100, None, None, 0]


def test_page_of_known_numbers():
    config = digits.Config(num_train=60, num_forget=5)
    parts = made_up(config, np.random.default_rng(0))
    page = digits_page.make_page(config, parts)
    found = digits.collect(config, parts)
    # Made-up retained samples are as far away as forgotten ones.
    assert [check.passed for check in page.find(Check)] == [True, False]
    assert (found.best("ga") == 2).all()
    assert np.allclose(found.remaining("ga"), 0)
    assert (found.remaining("scrub") > 0.5).all()
    shares = digits_page.outcomes(found, "ga")
    count = (found.method == "ga").sum()
    assert np.allclose(sum(shares.values()), 1)
    assert (shares["improved"] >= 1 / count).all()
    names = {artifact.name for artifact in digits.make_artifacts(config)}
    assert names == set(parts) | {f"originals-{seed}" for seed in config.seeds}
    with pytest.raises(InputError, match="forget samples"):
        digits.make_artifacts(dataclasses.replace(config, num_forget=59))


@pytest.mark.slow
def test_ascent_digits(tmp_path):
    check_study(
        "ascent_digits",
        tmp_path,
        seeds=(0, 1),
        num_train=120,
        num_forget=6,
        num_models=4,
        num_epochs=2,
        width=8,
        ga_rates=(0.01, 0.1),
        ga_epochs=(2,),
        gda_rates=(0.01,),
        gda_alphas=(0.9,),
        scrub_rates=(0.01,),
        num_tuning_epochs=4,
    )


@pytest.mark.slow
def test_ascent_theory(tmp_path):
    check_study(
        "ascent_theory",
        tmp_path,
        seeds=(0,),
        num_examples=4,
        num_retain=60,
        num_forget=10,
        num_active=6,
        num_steps=50,
        grid=5,
        fine_tuning_steps=2000,
    )
