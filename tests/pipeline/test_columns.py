"""Columns and signals that another package brings."""

import hashlib
import pathlib
import sys
from functools import partial

import jax
import numpy as np
import pytest
from support.refusals import refuses

from unlearn_jax import audit, cli, extensions, pipeline, values
from unlearn_jax.data import membership_design
from unlearn_jax.pipeline.config.command_line import parse
from unlearn_jax.pipeline.config.overrides import choose_values
from unlearn_jax.pipeline.config.resolve import complete
from unlearn_jax.pipeline.measure.columns import outside_functions
from unlearn_jax.pipeline.store.fingerprint import functions_digest
from unlearn_jax.types import ReportError

MODULE = """
import numpy as np
from unlearn_jax.pipeline import Column
from unlearn_jax.values import Real, value

@value
class Keep:
    rate: Real = 0.5

    def __call__(self, key, problem):
        return problem.variables, None

KEEP = Keep()

def brier(logits, labels):
    exps = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities = exps / exps.sum(-1, keepdims=True)
    return ((probabilities - np.eye(logits.shape[-1])[labels]) ** 2).sum(-1) / 2

def confidence(logits, labels):
    exps = np.exp(np.asarray(logits, float))
    return exps[np.arange(len(labels)), labels] / exps.sum(-1)

def largest(logits, labels):
    return logits.max(-1)

BRIER = Column("Brier", brier, part="test", direction="0", description="Calibration.")
KL_BRIER = Column("Brier again", brier, part="test", direction="0")
MAX_LOGIT = Column("Max AUC", largest, part="forget_against_test", direction="50")
FT_AUC = Column("Again", largest)
RAISES = Column("Raises", lambda logits, labels: 1 / 0)
SHORT = Column("Short", lambda logits, labels: labels[:2])
"""
ENTRY_POINTS = """
[unlearn_jax.columns]
brier = outside_columns:BRIER
[unlearn_jax.methods]
keep = outside_columns:KEEP
[unlearn_jax.signals]
outside_confidence = outside_columns:confidence
"""
RNG = np.random.default_rng(0)
MEMBER = membership_design(4, 60, seed=0)
LOGITS = RNG.normal(size=(6, 60, 3)).astype(np.float32)
LABELS = np.arange(60) % 3


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A module and an installed package's entry points on the path."""
    (tmp_path / "outside_columns.py").write_text(MODULE)
    metadata = tmp_path / "outside_columns-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: outside-columns\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(tmp_path)
    for cached in (extensions.names, extensions.find):
        cached.cache_clear()
    yield
    for cached in (extensions.names, extensions.find):
        cached.cache_clear()


def audited(**options):
    arrays = pipeline.AuditArrays(
        target={"mine": LOGITS[0]},
        labels=LABELS,
        train=np.arange(60) < 40,
        forget=np.arange(60) < 10,
        references=LOGITS[2:],
        member=MEMBER,
        retrained=LOGITS[1],
    )
    config = pipeline.AuditConfig(num_bootstrap=20, mis=False, **options)
    return pipeline.audit_arrays(arrays, config)


def test_own_metrics_and_attacks_are_columns_with_intervals(outside):
    names = ("brier", "outside_columns:KL_BRIER", "outside_columns:MAX_LOGIT")
    result = audited(columns=names)
    import outside_columns

    brier = outside_columns.brier(LOGITS[0], LABELS)[40:].mean()
    row = result.row("mine")
    assert row.metrics["brier"].mean == pytest.approx(100 * brier, abs=1e-3)
    assert row.metrics["brier"].low < row.metrics["brier"].high
    assert row.metrics["kl_brier"] == row.metrics["brier"], "in %, whatever its name"
    scores = LOGITS[0].max(-1)
    is_compared = (np.arange(60) < 10) | (np.arange(60) >= 40)
    auc = audit.auc(scores[is_compared], (np.arange(60) < 10)[is_compared])
    assert row.metrics["max_logit"].mean == pytest.approx(100 * auc, abs=1e-3)
    heads = {one.key: one for one in result.metrics}
    assert heads["brier"].label == "Brier"
    assert heads["max_logit"].direction == "50"
    assert "Brier" in pipeline.terminal_text(result)


@pytest.mark.parametrize("signal", ["outside_confidence", "outside_columns:confidence"])
def test_an_own_signal_is_rmias(outside, signal):
    own = audited(signal=signal).row("mine").metrics
    known = audited(signal="softmax_confidence").row("mine").metrics
    assert own["ft_auc"].mean == pytest.approx(known["ft_auc"].mean, abs=0.51)
    again = audit.model_signals(signal, LOGITS[:1], LABELS)
    expected = audit.model_signals("softmax_confidence", LOGITS[:1], LABELS)
    np.testing.assert_allclose(again, expected, rtol=1e-5)


def test_the_code_of_a_column_is_part_of_the_results_key(
    outside, tmp_path, monkeypatch
):
    module = tmp_path / "changing_columns.py"
    text = """
import numpy as np
from unlearn_jax.pipeline import Column
HALF = Column(label="Half", values=lambda logits, labels: np.full(len(labels), 0.5))
"""
    digests = []
    for version in (text, text.replace("0.5", "0.25")):
        module.write_text(version)
        for cached in (extensions.names, extensions.find):
            cached.cache_clear()
        config = pipeline.AuditConfig(columns=("changing_columns:HALF",))
        digests.append(functions_digest(outside_functions(config)))
    assert digests[0] != digests[1]
    assert outside_functions(pipeline.AuditConfig()) == []
    signal = pipeline.AuditConfig(signal="outside_columns:confidence")
    assert [one.__name__ for one in outside_functions(signal)] == ["confidence"]


class Times:
    """A callable with a state."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, logits, labels):
        return self.factor * labels


def scaled(logits, labels, *, k=1, shift=None):
    return k * labels


@pytest.mark.parametrize(
    ("function", "other"),
    [
        (Times(2), None),
        (Times(2), Times(3)),
        (partial(scaled, k=2), partial(scaled, k=3)),
        (jax.jit(partial(scaled, k=2)), None),
        (jax.jit(partial(scaled, k=2)), jax.jit(partial(scaled, k=3))),
        (partial(np.add, scaled), partial(np.add, np.exp)),
    ],
)
def test_callables_and_their_arguments_are_part_of_the_results_key(function, other):
    digest = functions_digest([function])
    assert digest == functions_digest([function])
    assert digest != functions_digest([] if other is None else [other])


def test_functions_are_known_by_their_file_alone():
    digest = hashlib.sha256(pathlib.Path(__file__).read_bytes()).hexdigest()
    assert functions_digest([scaled]) == functions_digest([jax.jit(scaled)]) == digest
    assert functions_digest([audit.auc]) == functions_digest([])


def test_modules_of_the_current_folder_are_found(tmp_path, monkeypatch):
    (tmp_path / "nearby_columns.py").write_text("ONE = 1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    assert extensions.find("columns", "nearby_columns:ONE") == 1


def test_entry_points_are_listed(outside, capsys):
    assert extensions.names("columns") == ("brier",)
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    assert "columns (audit.columns):      brier" in said
    assert "outside_confidence" in said
    assert "  keep                     defined by another package" in said


@pytest.mark.parametrize("name", ["keep", "outside_columns:KEEP"])
def test_a_method_of_another_package_is_a_row(outside, name):
    config = complete(pipeline.RunConfig())
    words = [f"--rows.mine.method={name}", "--rows.mine.method.rate=0.25"]
    config, others = choose_values(config, words)
    assert others == words[1:]
    method = config.rows["mine"].method
    assert type(method).__name__ == "Keep"
    config = parse(pipeline.RunConfig, others, "run", config)
    assert config.rows["mine"].method.rate == 0.25
    again = values.from_json(values.to_json(config))
    assert again.rows["mine"].method == config.rows["mine"].method


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent", "no method is called 'absent': .* keep"),
        ("outside_columns:absent", "is not one of the methods"),
        ("outside_columns:brier", "must be a method with its hyperparameters"),
        ("outside_columns:Keep", "must be a method with its hyperparameters"),
    ],
)
def test_a_method_that_is_none_is_one_line(outside, name, message):
    with refuses(message):
        choose_values(complete(pipeline.RunConfig()), [f"--rows.mine.method={name}"])


def test_a_column_that_fails_costs_no_other_column(outside):
    names = ("outside_columns:SHORT", "outside_columns:RAISES", "brier")
    with pytest.raises(ReportError) as caught:
        audited(columns=names)
    said = str(caught.value)
    assert "audit.columns: short: InputError: it gives shape (2,)" in said
    assert "audit.columns: raises: ZeroDivisionError: division by zero" in said
    assert "\n" not in said
    result = caught.value.result
    assert len(result.faults) == 2
    keys = {metric.key for metric in result.metrics}
    assert keys >= {"brier", "ft_auc"}
    assert not keys & {"short", "raises"}
    assert result.row("mine").metrics["brier"].mean > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ("absent",)}, "'absent' is not one of the columns"),
        ({"columns": ("outside_columns:absent",)}, "is not one of the columns"),
        ({"columns": ("outside_columns:brier",)}, "is a function: pass a pipeline"),
        ({"columns": ("outside_columns:FT_AUC",)}, "there is a column ft_auc: rename"),
        ({"signal": "absent"}, "unknown audit.signal 'absent'"),
        ({"signal": "absent:function"}, "is not one of the signals"),
    ],
)
def test_names_of_nothing_are_one_line(outside, options, message):
    with refuses(message):
        audited(**options)
