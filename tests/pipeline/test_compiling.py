"""A preset's programs, compiled for devices that need not be there."""

import dataclasses
import importlib
import importlib.util
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.runs import TINY

from unlearn_jax import cli, replicas, targets
from unlearn_jax.checks import check_images
from unlearn_jax.data import membership_design, pool
from unlearn_jax.data.stand_in import SHAPES, stand_in
from unlearn_jax.methods import METHODS
from unlearn_jax.models.flops import Operations
from unlearn_jax.pipeline import (
    AttackConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    Row,
    RunConfig,
    TrainingConfig,
    compiling,
    pods,
    published,
)
from unlearn_jax.pipeline.compiling import Compiled, ProgramRow
from unlearn_jax.pipeline.config import rows
from unlearn_jax.pipeline.config.resolve import complete
from unlearn_jax.pipeline.pods import PresetNumbers, ProgramNumbers
from unlearn_jax.replicas import _mappers
from unlearn_jax.types import InputError


def compile_tiny(splits, target, only=""):
    return compiling.compile_run(
        {"": TINY},
        targets.parse(target),
        preset="tiny",
        parts=lambda _: {"splits": splits},
        only=only,
    )


@pytest.fixture(scope="module")
def report(splits):
    return compile_tiny(splits, "cpu:2")


def test_every_stage_has_its_programs(report):
    stages = {(row.stage, row.name) for row in report.rows}
    for stage in ("originals", "references", "retrained"):
        assert (stage, "train_models") in stages
        assert (stage, "logits") in stages
    assert ("attack", "attack_one") in stages
    for name in TINY.rows:
        assert (f"unlearn-{name}", "unlearn_one") in stages
    assert ("audit", "rmia") in stages
    assert all(not row.compiled.error for row in report.rows)
    assert report.largest_group is None


def test_operations_and_calls_of_training_are_as_by_hand(report, splits):
    row = next(
        one
        for one in report.rows
        if (one.stage, one.name) == ("references", "train_models")
    )
    # six references in groups of three, one and two on each of two devices, padded
    assert row.compiled.devices == 2
    num_train = len(splits.train.labels)
    pool = num_train + len(splits.test.labels)
    largest = membership_design(6, pool, seed=0).sum(1).max()
    steps = 4 * -(-largest // 16)
    features = math.prod(splits.train.images.shape[1:])
    products = features * 8 + 8 * splits.num_classes
    # three times the forward pass, but for the gradient by the images
    per_sample = 2 * (3 * products - features * 8)
    flops = row.compiled.operations.float32 * row.calls
    assert flops == 2 * 2 * steps * 16 * per_sample
    assert row.compiled.operations.is_exact
    bound = row.compiled.bound
    assert row.device_hours == pytest.approx(row.calls * bound.seconds * 2 / 3600)


def test_the_report_is_labelled_a_bound_and_plain(report):
    text = report.text()
    assert "roofline's bound, not a measurement" in text
    numbers = report.numbers()
    plain = json.dumps(dataclasses.asdict(numbers), allow_nan=False)
    stored = PresetNumbers.from_json(json.loads(plain))
    assert pods.plan_pod(stored, 8) == pods.plan_pod(numbers, 8)
    assert numbers.devices_per_host == 2
    assert len(numbers.programs) == len(report.rows)
    for program in numbers.programs:
        assert program.fits
        assert 0 <= program.bound_mfu <= 1
        assert program.memory_bytes > 0


def test_programs_run_on_the_devices_here(splits):
    report = compile_tiny(splits, "here", "references|attack|unlearn-amun|audit")
    assert {row.stage for row in report.rows} == {
        "references",
        "attack",
        "unlearn-amun",
        "audit",
    }
    for row in report.rows:
        assert not row.compiled.error
        seconds = row.compiled.seconds
        assert 0 < seconds < 10
        assert row.measured_hours == row.calls * seconds * row.compiled.devices / 3600
        # a CPU's peak is nominal
        assert row.utilization(report.target) is None
    hours = sum(row.measured_hours for row in report.rows)
    assert report.measured_hours == pytest.approx(hours)
    text = report.text()
    assert "compiled and run" in text
    assert "Measured, all calls take" in text
    for program in report.numbers().programs:
        assert 0 < program.seconds < 10


def test_masks_and_counts_of_a_timed_program_are_those_of_the_run():
    """A loop over the samples of a mask is as long as in the run."""
    rng = np.random.default_rng(0)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def argument(given, dtype):
        shape = jax.ShapeDtypeStruct((4,), dtype, sharding=here)
        return np.asarray(compiling._made_up(rng, shape, given)).tolist()

    mask = np.array([True, False, False, True])
    assert argument(mask, bool) == mask.tolist()
    # a result of a program that the rehearsal has not run
    assert argument(np.zeros(4, bool), bool) == [True] * 4
    assert argument(np.array([3, 1, 0, 2]), np.int32) == [3, 1, 0, 2]
    assert argument(None, np.int32) == [0] * 4
    for leaf in (np.float32([1.0]), np.uint8([1]), jax.ShapeDtypeStruct((1,), bool)):
        assert compiling._mask_or_count(leaf) is None
    np.testing.assert_array_equal(compiling._mask_or_count(mask), mask)


def test_a_program_that_does_not_fit_is_not_run(splits, monkeypatch):
    target = targets.parse("here")
    small = dataclasses.replace(target.chip, memory=1)
    monkeypatch.setattr(targets.Target, "chip", small)
    monkeypatch.setattr(compiling, "_seconds", None)
    report = compile_tiny(splits, "here", "^originals")
    row = report.rows[0]
    assert not row.compiled.error
    assert row.fits(target) is False
    numbers = row.numbers(target)
    assert numbers.seconds is None
    assert numbers.measured_device_hours is None


def test_utilization_is_the_bounds_by_the_ratio_of_times():
    bound = targets.Bound(compute=1.2, memory=2.0, network=0.0)
    row = row_of(0.0)
    compiled = dataclasses.replace(row.compiled, bound=bound, seconds=8.0)
    row = dataclasses.replace(row, compiled=compiled)
    assert row.utilization(targets.parse("h100")) == pytest.approx(0.15)
    assert row.measured_hours == 3 * 8.0 / 3600
    assert row_of(0.0).utilization(targets.parse("h100")) is None
    inexact = dataclasses.replace(compiled, operations=Operations(0, 10, False))
    row = dataclasses.replace(row, compiled=inexact)
    assert row.utilization(targets.parse("h100")) is None


def row_of(memory, error=""):
    compiled = Compiled(error, memory, 1, Operations(0, 10, True))
    return ProgramRow("references", "train_models", 3, compiled)


def test_the_largest_group_is_on_the_line_through_two_sizes():
    target = targets.parse("tpu-v5e:2x2")
    limit = target.chip.memory

    def rows_of(group):
        return [row_of(limit / 20 + group * limit / 10)]

    found = compiling._report("p", target, 16, rows_of)
    assert (found.group, found.largest_group) == (16, 9)
    odd = compiling._report("p", target, 11, rows_of)
    assert odd.largest_group == 9
    fits = compiling._report("p", target, 8, rows_of)
    assert fits.largest_group is None
    never = compiling._report("p", target, 8, lambda group: [row_of(2 * limit)])
    assert never.largest_group == 0


def test_a_refused_program_says_why_and_what_it_needs():
    message = (
        "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of"
        " 15.75G hbm.\nMore lines"
    )
    assert compiling._used_memory(message) == 20.5 * 2**30
    assert np.isnan(compiling._used_memory("another fault"))
    unknown = row_of(math.nan, "another fault")
    assert unknown.fits(targets.parse("tpu-v5e:2x2")) is None
    unknown = row_of(math.nan, "RESOURCE_EXHAUSTED: Ran out of memory on HBM")
    assert unknown.fits(targets.parse("tpu-v5e:2x2")) is False
    row = row_of(20.5 * 2**30, compiling._one_line(RuntimeError(message)))
    target = targets.parse("tpu-v5e:2x2")
    assert not row.fits(target)
    numbers = row.numbers(target)
    assert not numbers.compiles
    assert numbers.why_not.startswith("RESOURCE_EXHAUSTED")
    assert "\n" not in numbers.why_not


def made_up(**changes):
    """Eight models at a time on four devices: two turns of a call of 90 s."""
    program = ProgramNumbers(
        stage="references",
        program="train_models",
        calls=16 * 10,
        pieces=16,
        items=128,
        size=8,
        devices=4,
        compiles=True,
        memory_bytes=2**33,
        state_bytes=8 * 2**30,
        data_bytes=2**28,
        input_bytes=9e10,
        bound_seconds=90.0,
        bound_mfu=0.6,
        collectives={"all-reduce": (3, 100.0)},
    )
    return PresetNumbers(
        preset="made_up",
        device="TPU v5 lite",
        group=8,
        programs=(dataclasses.replace(program, **changes),),
    )


@pytest.fixture
def script(monkeypatch):
    scripts = pathlib.Path(__file__).parents[2] / "experiments" / "benchmarks"
    monkeypatch.syspath_prepend(scripts)
    return importlib.import_module("compiled")


def test_rows_that_all_failed_here_are_an_error(script, tmp_path, monkeypatch):
    (tmp_path / "q--here--training.failed").write_text("not compiled in 60 s")
    monkeypatch.setattr("sys.argv", ["compiled.py", "publish", str(tmp_path)])
    with pytest.raises(SystemExit, match="q: training: not compiled in 60 s"):
        script.main()


def test_measured_rows_are_a_result_of_their_own(script, tmp_path, monkeypatch):
    monkeypatch.setattr(published, "folder", lambda: tmp_path)
    run = made_up(seconds=360.0, mfu=0.15, measured_device_hours=64.0)
    failed = made_up(compiles=False, why_not="RESOURCE_EXHAUSTED")
    too_large = made_up(fits=False)
    script.publish_measured(
        {("p", "here"): run, ("p", "here vmap"): failed, ("q", "here"): too_large},
        [("r", "here", "training: not compiled in 60 s")],
    )
    result = published.read_result(tmp_path / "measured.json")
    (table,) = result.tables
    first, second, third, fourth = table.rows
    cells = dict(zip(table.columns, first, strict=True))
    assert cells["mapper"] == "of the preset"
    assert cells["time of a call"].mean == 360
    assert cells["its bound"].mean == 90
    assert cells["MFU"].mean == 15
    assert cells["device hours"].mean == 64
    assert second[1:] == ("vmap", *[None] * 7, "RESOURCE_EXHAUSTED")
    assert third[-1] == "not run: it does not fit"
    assert fourth == ("r", "-", *[None] * 7, "training: not compiled in 60 s")


def test_a_plan_is_as_by_hand():
    """A model takes ten calls of 45 s."""
    plans = {n: pods.plan_pod(made_up(), n) for n in (4, 8, 64, 256, 1024)}
    for n, plan in plans.items():
        assert plan.hosts == n // 4
        assert plan.device_hours == pytest.approx(128 * 450 / 3600)
        assert plan.assumed_device_hours == pytest.approx(2 * 128 * 450 / 3600)
    # hosts x groups of a host x turns of a group
    for n, turns, group, busy in [
        (4, 16 * 2, 8, 4),
        (8, 8 * 2, 8, 8),
        (64, 2, 8, 64),
        (256, 1, 2, 128),
        (1024, 1, 1, 128),
    ]:
        main = plans[n].main
        assert plans[n].hours == pytest.approx(turns * 450 / 3600), n
        assert (main.group, main.busy) == (group, busy), n
        assert plans[n].busy == pytest.approx(128 / (n * turns)), n
    assert plans[64].main.input_rate == 1e9
    assert plans[64].main.checkpoint == 8 * 2**30
    assert plans[256].main.checkpoint == 2 * 2**30
    assert plans[4].main.exchanged == 16 * 10 * 100
    assert plans[64].main.exchanged == 10 * 100
    assert plans[4].breaks.startswith("nothing before the slowest host")
    assert "replicas.split=2" in plans[256].breaks
    assert "128 have none" in plans[1024].breaks
    text = pods.plan_text([*plans.values()])
    assert "planned from compiled programs, not measured" in text


@pytest.mark.parametrize(
    ("items", "advice"),
    [(3, "replicas.split=2 would use 6"), (5, "8 devices: 3 have none")],
)
def test_advice_to_divide_batches_is_what_devices_it_uses(items, advice):
    few = made_up(items=items, pieces=1, calls=10, size=items, devices=1)
    assert pods.plan_pod(few, 8, per_host=8).breaks.endswith(advice)


def test_one_device_shares_no_model_with_others():
    alone = made_up(items=1, pieces=1, calls=10, size=1, devices=1)
    alone = dataclasses.replace(alone, across_hosts=True)
    hours = [pods.plan_pod(alone, n).hours for n in (1, 8, 64)]
    assert hours[0] == hours[1] == hours[2]


def test_a_plan_of_divided_batches_and_of_what_does_not_fit():
    """One model on all four devices of a host, a call each."""
    split = made_up(split=4, size=1, pieces=128, calls=1280)
    plan = pods.plan_pod(split, 64)
    assert plan.hours == pytest.approx(8 * 900 / 3600)
    assert plan.busy == pytest.approx(1)
    assert plan.main.busy == 64
    too_large = dataclasses.replace(made_up(memory_bytes=17 * 2**30), largest_group=3)
    large = pods.plan_pod(too_large, 8)
    assert large.breaks == "memory: 17.0 of 16.0 GiB; groups of 3 fit"
    with pytest.raises(InputError, match="no plan for 0 devices"):
        pods.plan_pod(made_up(), 0)
    with pytest.raises(InputError, match="compile a program"):
        pods.plan_pod(made_up(compiles=False), 8)


def test_a_plan_names_the_devices_that_images_fit_on():
    """48 GiB of images on a device, a quarter of them, and 4 GiB of all else."""
    data = {"data_bytes": 48 * 2**30, "data_parts": 4}
    row = made_up(split=4, size=1, memory_bytes=52 * 2**30, **data)
    plan = pods.plan_pod(row, 64)
    # 192 GiB in parts of at most 12
    named = "replicas.across_hosts=True and replicas.shard_data=True on 16 devices"
    assert plan.breaks.startswith("memory: 52.0 of 16.0 GiB")
    assert named in plan.breaks
    refused = made_up(compiles=False, memory_bytes=52 * 2**30, **data)
    with pytest.raises(InputError, match="=True on 16 devices or more"):
        pods.plan_pod(refused, 64)
    # compiled for 16 devices: time and images fall with their number
    together = made_up(
        split=16,
        devices=16,
        size=1,
        pieces=128,
        memory_bytes=16 * 2**30,
        data_bytes=12 * 2**30,
        data_parts=16,
    )
    together = dataclasses.replace(together, across_hosts=True)
    plans = [pods.plan_pod(together, n) for n in (8, 16, 64)]
    assert [plan.memory / 2**30 for plan in plans] == [28, 16, 7]
    assert [plan.data / 2**30 for plan in plans] == [24, 12, 3]
    assert "=True on 16 devices" in plans[0].breaks
    assert plans[0].hours == pytest.approx(8 * plans[2].hours)
    assert plans[1].hours == pytest.approx(160 * 90 / 3600)
    for plan in plans:
        assert plan.main.hosts == plan.hosts == plan.devices // 4
        assert plan.main.busy == plan.devices


def test_rows_have_what_a_plan_needs(report, splits):
    rows = {(row.stage, row.name): row for row in report.rows}
    row = rows["references", "train_models"]
    assert (row.items, row.size, row.pieces) == (6, 3, 2)
    plan = pods.plan_pod(report.numbers(), 4, per_host=2)
    assert plan.main.hosts <= plan.hosts == 2
    assert plan.missing == ()
    assert plan.device_hours == pytest.approx(
        sum(stage.device_hours for stage in plan.stages)
    )


def test_images_that_are_gathered_are_counted():
    images = jnp.zeros((60, 4, 4, 3), jnp.uint8)

    def epoch(images, order):
        def step(total, index):
            return total + images[index].astype(jnp.float32).sum(), None

        return jax.lax.scan(step, 0.0, order)[0]

    order = jnp.zeros((5, 8), jnp.int32)
    jaxpr = jax.make_jaxpr(epoch)(images, order).jaxpr
    assert compiling._gathered(jaxpr) == 5 * 8 * 4 * 4 * 3


def test_a_stand_in_has_the_shapes_and_takes_no_memory():
    for name, (num_train, num_test, shape, num_classes) in SHAPES.items():
        found = stand_in(name)
        assert found.train.images.shape == (num_train, *shape)
        assert len(found.test.labels) == num_test
        assert found.num_classes == num_classes == found.train.labels.max() + 1
        assert set(found.train.images.strides) == {0}
        assert len(pool(found).images) == num_train + num_test
        assert set(pool(found).images.strides) == {0}
    assert len(stand_in("cifar10", "train[:1000]").train.labels) == 1000


def test_a_preset_is_planned_without_its_data(tmp_path, capsys):
    """ImageNet's images would be 193 GB."""
    command = ["run", "resnet50_imagenet", "--workdir", str(tmp_path / "run")]
    assert cli.main([*command, "--dry-run", "--data.path", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "planned from its shapes alone" in text
    assert re.search(r"references +8 +0 +8 +-", text)
    assert not (tmp_path / "run").exists()


def test_images_that_take_no_memory_are_checked_once():
    check_images(stand_in("imagenet2012").train.images)
    with pytest.warns(UserWarning, match="nothing but 0 and 1"):
        check_images(np.broadcast_to(np.uint8(1), (10**7, 224, 224, 3)))


def test_the_command_compiles_and_writes_json(tmp_path, capsys):
    file = tmp_path / "found.json"
    arguments = ["compile", "digits", "--target", "cpu", "--json", str(file)]
    arguments += ["--devices", "2", "8", "--audit.lira=True"]
    assert cli.main([*arguments, "--only", "^audit$"]) == 0
    printed = capsys.readouterr().out
    assert "digits on cpu" in printed
    assert "what breaks first" in printed
    names = [row["program"] for row in json.loads(file.read_text())["programs"]]
    assert names == ["rmia", "lira"]
    for option in ("--devices", "--per-host"):
        words = ["compile", "digits", "--target", "cpu", option, "0"]
        assert cli.main(words) == 2
        assert "count devices: 1 or more" in capsys.readouterr().err
    assert cli.main(["compile", "digits", "--target", "b900"]) == 2
    assert "unknown target" in capsys.readouterr().err
    assert cli.main(["compile"]) == 2
    assert "needs a preset" in capsys.readouterr().err


def test_programs_with_convolutions_are_mapped_and_others_at_once():
    """The default where it is not a CPU."""

    def convolve(item, shared):
        image = shared * item
        kernel = jnp.ones((3, 3, 1, 1))
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    def multiply(item, shared):
        return shared * item

    seen = {}

    def watch(jitted, _, shapes):
        traced = jitted.trace(*shapes)
        names = {eqn.primitive.name for eqn in traced.jaxpr.jaxpr.eqns}
        seen[jitted.__name__] = "scan" in names
        return traced.out_info

    gpu = dataclasses.replace(targets.parse("cpu"), kind="NVIDIA H100 80GB HBM3")
    mapper = _mappers._on_one("auto", gpu)
    with replicas.rehearsal(watch):
        for fun in (convolve, multiply):
            replicas.map_models(mapper, fun, jnp.ones(3), jnp.ones((2, 4, 4, 1)))
    assert seen == {"convolve": True, "multiply": False}


# --- with the extra ``compilers``: minutes

TARGETS = {"tpu-v5e:2x2": "libtpu", "h100": "jax_cuda13_plugin"}
PER_SAMPLE = {"fisher", "influence", "l2ul", "ssd"}
"""Methods of gradients per sample: those of a convolution are grouped ones."""


def small(name):
    """One run of a method on a small CNN, whole classes where it needs them."""
    is_class = name in rows.for_classes() or name == "trw"
    forget = ForgetConfig(fraction=0.1, seeds=(1,))
    num_references = 4
    if is_class:
        forget = ForgetConfig(kind="class", classes=(3,))
        num_references = 0
    config = RunConfig(
        model=ModelConfig(name="cnn", widths=(8, 16)),
        training=TrainingConfig(num_epochs=1, batch_size=32),
        forget=forget,
        replicas=ReplicasConfig(originals=(0, 1), references=num_references, group=2),
        attack=AttackConfig(num_radii=4, num_steps=3),
        rows={name: Row(method=METHODS[name])},
    )
    return complete(config)


@pytest.fixture(params=TARGETS)
def target(request):
    """Name of a target whose compiler is installed."""
    if importlib.util.find_spec(TARGETS[request.param]) is None:
        pytest.skip("needs the extra compilers")
    return request.param


@pytest.fixture
def unchecked_keys():
    """The checker counts a batched fold_in in a scan as a use of the key."""
    with jax.debug_key_reuse(False):
        yield


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_keys")
@pytest.mark.parametrize("name", sorted(METHODS))
def test_methods_compile_for_accelerators(target, name):
    report = compiling.compile_run(
        {"": small(name)}, targets.parse(target), only=f"attack|unlearn-{name}$"
    )
    for row in report.rows:
        assert not row.compiled.error, row.compiled.error
    assert {row.name for row in report.rows} >= {"unlearn_one"}
    for row in report.rows:
        assert row.fits(report.target)
        reading = row.compiled.reading
        assert (reading.float64, reading.callbacks) == (0, 0)
        if name not in PER_SAMPLE:
            assert reading.grouped == 0


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_keys")
def test_training_and_audit_compile_for_accelerators(target):
    # a TPU's compiler makes a further axis of the models in place of groups
    is_vmap_grouped = target == "h100"
    for mapper, is_grouped in (("auto", False), ("vmap", is_vmap_grouped)):
        config = small("amun")
        audit_config = dataclasses.replace(config.audit, lira=True)
        replicas_config = dataclasses.replace(config.replicas, mapper=mapper, devices=1)
        report = compiling.compile_run(
            {
                "": dataclasses.replace(
                    config, replicas=replicas_config, audit=audit_config
                )
            },
            targets.parse(target),
            only="references|audit",
        )
        found = {row.name: row.compiled for row in report.rows}
        assert {"train_models", "logits", "rmia", "lira"} <= set(found)
        for compiled in found.values():
            assert not compiled.error, compiled.error
            reading = compiled.reading
            assert (reading.float64, reading.callbacks) == (0, 0)
        reading = found["train_models"].reading
        assert reading.convolutions > 0
        assert (reading.grouped > 0) == is_grouped
        assert found["train_models"].operations.is_exact


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_keys")
def test_a_clip_compiles_for_accelerators_as_a_branch(target):
    """Training clips every 100th step: a select would pay for a clip in every one."""
    config = small("amun")
    training = dataclasses.replace(config.training, max_norm=1.0)
    config = dataclasses.replace(config, training=training)
    report = compiling.compile_run(
        {"": config}, targets.parse(target), only="references"
    )
    found = {row.name: row.compiled for row in report.rows}["train_models"]
    assert not found.error, found.error
    assert (found.reading.float64, found.reading.callbacks) == (0, 0)
    assert found.reading.branches > 0
