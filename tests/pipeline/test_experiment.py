"""Experiments that are not runs: artifacts computed once, a page, the command line."""

import dataclasses
import json

import numpy as np
import pytest
from matplotlib.figure import Figure as Drawing

from unlearn_jax import cli
from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline import (
    Artifact,
    Check,
    Experiment,
    Figure,
    Page,
    Table,
    dry_run_experiment,
    run_experiment,
)
from unlearn_jax.pipeline.measure.records import ExperimentResult
from unlearn_jax.pipeline.report import page as page_module
from unlearn_jax.pipeline.report.blocks import render_terminal
from unlearn_jax.pipeline.report.page import page_of
from unlearn_jax.pipeline.store.folders import DamagedFileWarning
from unlearn_jax.types import InputError, ReportError


@dataclasses.dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (0, 1)
    scale: float = 2.0


def make(computed):
    """An experiment that notes what it computes."""

    def draw(seed):
        computed.append(f"draw-{seed}")
        return {"x": np.random.default_rng(seed).normal(size=3)}

    def total(*drawn, scale):
        computed.append("total")
        return {"sum": scale * sum(one["x"].sum() for one in drawn)}

    def artifacts(config):
        if config.scale <= 0:
            raise InputError("scale must be positive")
        draws = [
            Artifact(
                name=f"draw-{seed}",
                settings={"seed": seed},
                compute=lambda seed=seed: draw(seed),
            )
            for seed in config.seeds
        ]
        whole = Artifact(
            name="total",
            settings={"scale": config.scale},
            compute=lambda *drawn: total(*drawn, scale=config.scale),
            inputs=tuple(draws),
        )
        return [*draws, whole] if draws else []

    def page(config, found):
        figure = Drawing(figsize=(3, 2))
        figure.add_subplot().plot(found["draw-0"]["x"])
        value = found["total"]["sum"][()]
        estimate = Estimate(50.123, 1.0, 49.0, float("nan"), 3, 0)
        table = Table(
            "A | table",
            ["row", "value", "mean"],
            [["a_b <i>", value, estimate], ["c", None, np.int64(4000)]],
        )
        check = Check("finite", np.isfinite(value), f"{value:.1f}")
        return Page(
            f"The sum is {value:.3f}.",
            [table, Figure("A picture", figure, alt="a line"), check],
        )

    return Experiment("A title", Config(), artifacts, page)


def test_artifacts_are_computed_once_and_only_those_that_a_setting_decides(tmp_path):
    computed = []
    experiment = make(computed)
    first = run_experiment(experiment, tmp_path / "a", name="e")
    assert computed == ["draw-0", "draw-1", "total"]
    again = run_experiment(experiment, tmp_path / "a", name="e")
    assert len(computed) == 3
    assert [stage.cached for stage in again.stages] == [True] * 3
    tables = first.to_json()["tables"]
    assert again.to_json()["tables"] == tables
    assert again.config_digest == first.config_digest
    run_experiment(experiment, tmp_path / "a", name="e", config=Config(seeds=(0, 1, 2)))
    assert computed[3:] == ["draw-2", "total"]
    run_experiment(experiment, tmp_path / "a", name="e", config=Config(scale=3.0))
    assert computed[5:] == ["total"]


def test_a_page_that_cannot_be_drawn_costs_no_numbers(tmp_path, monkeypatch):
    def fail(_):
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(page_module, "render_html", fail)
        with pytest.raises(ReportError, match=r"report.html cannot .*: MemoryError;"):
            run_experiment(make([]), tmp_path / "a", name="e")
    assert json.loads((tmp_path / "a" / "results.json").read_text())["tables"]
    assert (tmp_path / "a" / "table.md").is_file()
    computed = []
    assert run_experiment(make(computed), tmp_path / "a", name="e") is not None
    assert (tmp_path / "a" / "report.html").is_file()
    assert not computed


def test_events_have_times_and_the_numbers_of_the_tables(tmp_path):
    pytest.importorskip("tensorboardX")
    experiment = make([])
    result = run_experiment(
        experiment, tmp_path / "a", name="e", events=tmp_path / "events"
    )
    (file,) = (tmp_path / "events").iterdir()
    text = file.read_bytes()
    for tag in (b"seconds/draw-0", b"seconds/total", b"A_table/a_b_i_/value"):
        assert tag in text
    assert b"A_table/a_b_i_/mean" in text
    assert result.tables[0].rows[0][2].mean == 50.123


def test_an_interrupted_experiment_resumes_to_the_same_result(tmp_path):
    whole = run_experiment(make([]), tmp_path / "whole", name="e")
    broken = make([])

    def stop(*_):
        raise KeyboardInterrupt

    def stopping(config):
        *draws, total = broken.artifacts(config)
        return [*draws, dataclasses.replace(total, compute=stop)]

    with pytest.raises(KeyboardInterrupt):
        run_experiment(
            dataclasses.replace(broken, artifacts=stopping), tmp_path / "cut", name="e"
        )
    assert not (tmp_path / "cut" / "results.json").exists()
    table = dry_run_experiment(broken, tmp_path / "cut").splitlines()
    assert table[-1].split() == ["total", "1", "0", "1", "-"]
    computed = []
    resumed = run_experiment(make(computed), tmp_path / "cut", name="e")
    assert computed == ["total"]
    assert resumed.to_json()["tables"] == whole.to_json()["tables"]


def test_a_damaged_artifact_is_named_moved_aside_and_recomputed(tmp_path):
    first = run_experiment(make([]), tmp_path, name="e")
    part = next(tmp_path.glob("draw-1-*"))
    content = bytearray((part / "x.npy").read_bytes())
    content[len(content) // 2] ^= 1
    (part / "x.npy").write_bytes(content)
    computed = []
    table = dry_run_experiment(make([]), tmp_path).splitlines()
    assert table[3].split() == ["draw-1", "1", "0", "1", "-"]
    assert part.exists(), "a dry run changes nothing"
    with pytest.warns(
        DamagedFileWarning, match="draw-1.*truncated or changed.*moved to"
    ):
        again = run_experiment(make(computed), tmp_path, name="e")
    assert computed == ["draw-1"]
    assert again.to_json()["tables"] == first.to_json()["tables"]
    assert (next(tmp_path.glob("damaged-draw-1-*-0")) / "x.npy").read_bytes() == bytes(
        content
    )


def test_everything_shown_is_written(tmp_path):
    results = run_experiment(make([]), tmp_path, name="e")
    stored = json.loads((tmp_path / "results.json").read_text())
    assert stored == results.to_json()
    again = ExperimentResult.from_json(stored)
    assert again.to_json() == stored
    total = 2 * sum(np.random.default_rng(s).normal(size=3).sum() for s in (0, 1))
    assert stored["tables"][0]["rows"][0][1] == pytest.approx(total, abs=0)
    assert stored["tables"][0]["rows"][0][2]["high"] is None
    assert stored["checks"] == [
        {"name": "finite", "passed": True, "detail": f"{total:.1f}"}
    ]
    assert stored["versions"]["jax"]
    page = (tmp_path / "report.html").read_text()
    for text in (
        "A title",
        "a_b &lt;i&gt;",
        "50.12 ± 1.00",
        'aria-label="a line"',
        "4,000",
        "finite",
    ):
        assert text in page
    table = (tmp_path / "table.md").read_text()
    assert r"A \| table" in table
    assert r"| a\_b &lt;i&gt; |" in table
    said = render_terminal(page_of(results))
    assert "ok    finite" in said
    assert said.startswith("The sum is")


@pytest.mark.parametrize(
    ("names", "message"),
    [([], "nothing to compute"), (["a", "a"], "two artifacts are named 'a'")],
)
def test_artifacts_that_cannot_be_are_refused_before_anything_is_written(
    names, message, tmp_path
):
    artifacts = [Artifact(name=name, settings={}, compute=dict) for name in names]
    experiment = dataclasses.replace(make([]), artifacts=lambda _: artifacts)
    with pytest.raises(InputError, match=message):
        run_experiment(experiment, tmp_path / "x", name="e")
    assert not (tmp_path / "x").exists()


FILE = '''
"""A tiny experiment."""
import dataclasses
from unlearn_jax.pipeline import Artifact, Experiment, Page, Table
from unlearn_jax.types import InputError

@dataclasses.dataclass(frozen=True)
class Config:
    """What."""
    number: int = 3
    """How many of them."""

def artifacts(config):
    if config.number < 1:
        raise InputError("number must be at least 1")
    settings = {"number": config.number}
    count = lambda: {"n": config.number}
    return [Artifact(name="one", settings=settings, compute=count)]

EXPERIMENT = Experiment("Tiny", Config(), artifacts, lambda c, found: Page(
    f"There are {found['one']['n']}.",
    [Table("Numbers", ["what", "n"], [["all", int(found["one"]["n"])]])],
))
'''


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.py").write_text(FILE)
    assert cli.main(["run", "tiny.py", "--workdir", "out", "--dry-run"]) == 0
    assert "to do" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    assert cli.main(["run", "tiny.py", "--workdir", "out", "--number=5"]) == 0
    assert "There are 5." in capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["config"]["number"] == 5
    assert cli.main(["run", "tiny.py", "--workdir", "bad", "--number=0"]) == 2
    assert capsys.readouterr().err == "unlearn-jax: error: number must be at least 1\n"
    assert not (tmp_path / "bad").exists()
    assert cli.main(["run", "tiny.py"]) == 2
    assert "for example --workdir runs/tiny" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["run", "tiny.py", "--help"])
    assert "How many of them." in capsys.readouterr().out
