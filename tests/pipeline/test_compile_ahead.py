"""Programs compiled ahead, in a thread: once each, and the results are the same."""

import threading
from concurrent import futures

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.runs import TINY

from unlearn_jax import replicas, train
from unlearn_jax.pipeline import Artifact, Items, run
from unlearn_jax.pipeline.stages.plan import make_plan
from unlearn_jax.pipeline.store.artifact import Rehearsed, Runner
from unlearn_jax.replicas import _programs


@pytest.mark.parametrize("devices", [1, 2])
def test_a_rehearsal_compiles_and_returns_zeros(devices):
    traced = []
    ran = []

    def square(item, shared):
        traced.append(threading.current_thread().name)
        jax.debug.callback(ran.append, item)
        return {"y": item * item + shared, "n": jnp.int32(1)}

    mapper = replicas.mapper("map", num_models=3, devices=devices)
    items = jnp.arange(3.0)
    with replicas.rehearsal():
        zeros = replicas.map_models(mapper, square, items, np.float32(2))
    jax.effects_barrier()
    assert not ran
    count = len(traced)
    np.testing.assert_array_equal(zeros["y"], np.zeros(3, np.float32))
    assert zeros["n"].dtype == np.int32
    found = replicas.map_models(mapper, square, items, np.float32(2))
    np.testing.assert_array_equal(found["y"], [2, 3, 6])
    jax.effects_barrier()
    assert len(ran) >= 3
    assert len(traced) == count, "nothing is traced again"


def test_two_threads_compile_a_program_once(monkeypatch):
    compiled = []
    lower = _programs.compiler_options
    monkeypatch.setattr(
        _programs,
        "compiler_options",
        lambda lowered: compiled.append(lowered) or lower(lowered),
    )
    program = _programs.Program(jax.jit(lambda x: jnp.linalg.inv(x) @ x))
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(program(jnp.eye(8))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert len(compiled) == 1
    program(jnp.eye(9))
    assert len(compiled) == 2, "another shape is another program"
    replicas.clear_programs()
    program(jnp.eye(9))
    assert len(compiled) == 3


def test_programs_are_freed_before_the_process_runs_out_of_maps(monkeypatch):
    assert not _programs.is_short_of_maps()
    first = _programs.Program(jax.jit(lambda x: jnp.linalg.inv(x) @ x))
    second = _programs.Program(jax.jit(lambda x: jnp.linalg.inv(x) + x))
    first(jnp.eye(4))
    second(jnp.eye(4))
    assert first._compiled
    monkeypatch.setattr(_programs, "is_short_of_maps", lambda: True)
    second(jnp.eye(5))
    assert not first._compiled
    assert len(second._compiled) == 1
    np.testing.assert_array_equal(first(2 * jnp.eye(4)), jnp.eye(4))


def test_programs_follow_the_switches_of_the_thread_that_calls():
    program = _programs.Program(jax.jit(lambda x: jnp.zeros(()) + x.shape[0]))
    one = np.ones(2, np.float32)
    ahead = threading.Thread(target=program, args=(one,))
    with jax.enable_x64(True):
        # the other thread has the switches that hold for all
        ahead.start()
        ahead.join()
        assert program(one).dtype == np.float64
    assert program(one).dtype == np.float32


def test_training_is_rehearsed_without_a_trace(tiny, blobs):
    keys = jax.random.split(jax.random.key(0), 2)
    member = np.ones((2, 60), bool)
    recipe = train.Recipe(2, 16, train.sgd(0.1))
    called = []
    with replicas.rehearsal():
        state, losses = replicas.fit_many(
            keys, tiny, blobs, member, recipe, callback=lambda *_: called.append(1)
        )
    assert not called
    assert losses.shape == (2, 2)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.variables))


def test_a_run_compiled_ahead_ends_in_the_same_bits(splits, tmp_path, monkeypatch):
    rehearsed = []
    rehearse = Runner.rehearse

    def watched(self, artifact):
        content = rehearse(self, artifact)
        rehearsed.append((artifact.name, type(content)))
        return content

    monkeypatch.setattr(Runner, "rehearse", watched)
    ahead = run(TINY, tmp_path / "ahead" / "run", splits=splits)
    assert ("unlearn-amun", Rehearsed) in rehearsed
    assert not list(tmp_path.glob("**/rehearsal*"))
    monkeypatch.setattr(Runner, "compile_ahead", lambda *_: None)
    alone = run(TINY, tmp_path / "alone" / "run", splits=splits)
    contents = []
    for name in ("ahead", "alone"):
        plan = make_plan(
            TINY,
            tmp_path / name / "banks",
            splits=splits,
            workdir=tmp_path / name / "run",
        )
        contents.append(plan.references.stored.manifest.content)
    assert contents[0] == contents[1]
    for one, other in zip(ahead.rows, alone.rows, strict=True):
        assert one.metrics == other.metrics


def test_an_error_ahead_is_the_stages_own(tmp_path):
    threads = []

    def compute(piece):
        threads.append(threading.current_thread())
        raise ZeroDivisionError(f"items {piece.items}")

    artifact = Artifact(name="a", settings={}, compute=compute, items=Items(2, 1))
    runner = Runner(tmp_path, progress=False)
    runner.compile_ahead([artifact])
    futures.wait(runner._ahead.values())
    runner.close()
    assert len(threads) == 1
    with pytest.raises(ZeroDivisionError, match=r"items \[0\]"):
        runner.make(artifact)
    assert threads[1] is threading.current_thread()


def test_closing_waits_for_no_compilation(tmp_path, monkeypatch):
    """The program in the compiler's hands is left to it, and no other follows."""
    is_compiling = threading.Event()
    may_end = threading.Event()
    named = []

    def options(lowered):
        named.append(lowered)
        is_compiling.set()
        assert may_end.wait(60)

    monkeypatch.setattr(_programs, "compiler_options", options)
    double = _programs.Program(jax.jit(lambda x: 2 * x))
    triple = _programs.Program(jax.jit(lambda x: 3 * x))

    def compute(piece):
        return {"x": triple(double(np.ones(2, np.float32)))}

    runner = Runner(tmp_path, progress=False)
    artifact = Artifact(name="a", settings={}, compute=compute, items=Items(2, 1))
    runner.compile_ahead([artifact])
    assert is_compiling.wait(60)
    runner.close()
    (future,) = runner._ahead.values()
    assert not future.done(), "closed while it compiles"
    may_end.set()
    assert isinstance(future.exception(60), replicas.UnwantedError)
    assert len(named) == 1
