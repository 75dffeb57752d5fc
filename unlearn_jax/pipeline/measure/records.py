"""Records of a run's results, and their JSON form: the content of ``results.json``.

Every table, file and figure is made from these records. :meth:`RunResult.to_json`
writes plain values; :meth:`RunResult.from_json` reads them back and refuses another
schema. JSON has neither NaN nor infinity, so both are stored as ``null``. A field of
type ``float`` reads it back as NaN, an optional field as None.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Literal

from unlearn_jax.audit import Estimate
from unlearn_jax.pipeline.store.clock import Cost
from unlearn_jax.types import InputError

SCHEMA = 2
"""Version of the layout of ``results.json``."""
COST = "Cost (x retraining)"
"""Heading of :attr:`RowCost.relative_gradients`."""

Plain = Mapping[str, object]
"""JSON-able settings by name."""
ForgetName = int | str
"""Name of a forget set: its seed, its class, or words."""
RowKind = Literal["original", "oracle", "second_oracle", "method"]
State = Literal["like", "different", "undecided"]
"""Verdict on a difference: forgotten like retraining, measurably different, neither."""


@dataclasses.dataclass(frozen=True)
class Metric:
    """Column of the table.

    Attributes:
      key: name in :attr:`RowResult.metrics`.
      label: heading.
      unit: unit of the numbers: ``%``, ``points`` or ``nats``.
      direction: good value: that of the ``retrained`` models, ``50`` (a coin toss) or
        ``0``.
      description: meaning and good values, in words.
    """

    key: str
    label: str
    unit: str
    direction: Literal["retrained", "50", "0"]
    description: str

    @property
    def unit_of_differences(self) -> str:
        """Unit of a difference of two numbers: points for percentages."""
        return "points" if self.unit == "%" else self.unit


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowCost:
    """Cost of one model of a row, with its adversarial set, without its search.

    Attributes:
      gradients: counted number of gradients of single samples.
      relative_gradients: the same as a multiple of retraining's.
      seconds: wall time without compilation; it depends on the machine's load.
    """

    gradients: float
    relative_gradients: float
    seconds: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """Paired difference of a row's metric to another row's, in the metric's unit.

    Attributes:
      mean: mean over runs of the row less the other row.
      low: lower end of the interval, not corrected for the number of methods.
      high: upper end of the interval.
      margin: margin of equivalence, the seed floor's spread over runs; None without
        one.
      p_different: p-value of no difference, corrected for the number of methods (Holm).
      p_like: p-value of a difference outside the margin, corrected likewise; NaN
        without a margin.
      state: outcome of both tests.
      more_runs: number of further runs that would decide; None if the outcome is
        decided, or if the samples alone leave it open.
    """

    mean: float
    low: float
    high: float
    margin: float | None
    p_different: float
    p_like: float
    state: State
    more_runs: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """Verdict on a method, from its differences to the oracle.

    Attributes:
      state: ``different`` if any metric is, ``like`` if all are.
      metrics: keys of the metrics that decide the verdict, or leave it open.
      more_runs: number of further runs that would decide; see
        :attr:`Difference.more_runs`.
    """

    state: State
    metrics: tuple[str, ...]
    more_runs: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowResult:
    """Row of the table.

    Attributes:
      key: name of the row.
      label: name for readers.
      kind: models before unlearning, retrained models (the oracle), a second retraining
        (the seed floor), or an unlearning method.
      method: registered name of the method; ``nothing`` and ``retrain`` for the others.
      options: the method's hyperparameters.
      attack: name of the row's adversarial sets, empty for the run's own; None if the
        method uses none.
      adaptive: whether the sets are recomputed at every request.
      filter: output filter, if any.
      metrics: estimates by metric; empty if a run diverged.
      num_diverged: number of runs that ended in numbers that are not finite.
      values: each run's value by metric, ``[R]`` in the order of
        :attr:`RunResult.runs`.
      baseline: key of the row that this row is compared with; empty for none.
      differences: paired differences by metric, to the ``oracle``, to the ``floor``
        (the second retraining), to the ``best`` other method and to the ``baseline``.
        References that the table lacks are left out.
      verdict: verdict on a method; None without an oracle, and for other kinds of rows.
      cost: cost of a model; None for the original models.
    """

    key: str
    label: str
    kind: RowKind = "method"
    method: str = ""
    options: Plain = dataclasses.field(default_factory=dict)
    attack: str | None = None
    adaptive: bool = False
    filter: str | None = None
    baseline: str = ""
    metrics: Mapping[str, Estimate] = dataclasses.field(default_factory=dict)
    values: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    differences: Mapping[str, Mapping[str, Difference]] = dataclasses.field(
        default_factory=dict
    )
    verdict: Verdict | None = None
    num_diverged: int = 0
    cost: RowCost | None = None

    @property
    def is_diverged(self) -> bool:
        """True if any run of the row did not end in finite numbers."""
        return self.num_diverged > 0


@dataclasses.dataclass(frozen=True)
class Check:
    """Statement that must hold for the numbers to be trusted.

    Attributes:
      name: the statement.
      passed: True if it holds.
      detail: number that decides it, in words.
    """

    name: str
    passed: bool
    detail: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSummary:
    """Data set of a run.

    Attributes:
      name: name of the data set.
      num_train: number of training samples.
      num_test: number of test samples.
      num_classes: number of classes, ``C``.
      image_shape: shape of an image, ``(H, W, ch)``.
      digest: SHA-256 of the samples.
      class_names: ``[C]`` names, in the order of the labels.
    """

    name: str
    num_train: int
    num_test: int
    num_classes: int
    image_shape: tuple[int, ...]
    digest: str
    class_names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Design:
    """Numbers of models and sets.

    ``forget_kind`` is ``random``, ``class``, ``file``, or one of the hard kinds
    ``memorized`` and ``uncertain``.
    """

    forget_kind: str
    originals: int
    forget_sets: int
    repeats: int
    runs: int
    num_forget: int
    references: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunName:
    """Seed of the original, name of the forget set and repeat of one run."""

    original: int
    forget_set: ForgetName
    repeat: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class AttackSummary:
    """Outcomes of the adversarial search of one attack.

    Attributes:
      norm: norm of the attack's ball.
      settings: options that differ from the run's own attack.
      status: number of samples by outcome.
      radii: radii at which the search succeeded, ascending.
      counts: number of samples for each of ``radii``.
      distance_quantiles: quantiles of the successful samples' distances; empty if there
        are none.
      gradients: mean number of gradients spent on a sample.
      lower_bound: median over the successful samples of the L2 distance within which
        the Lipschitz bound of the attacked model excludes examples; None for other
        norms, and for models without a known bound.
      over_norm: median over the successful samples of the L2 distance between example
        and image, relative to the image's L2 norm; None if it is not defined for any.
      over_neighbor: the same, relative to the distance to the nearest other training
        image.
    """

    norm: str
    settings: Plain
    status: Mapping[str, int]
    radii: tuple[float, ...]
    counts: tuple[int, ...]
    distance_quantiles: Mapping[str, float]
    gradients: float
    lower_bound: float | None = None
    over_norm: float | None = None
    over_neighbor: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExposedSample:
    """Forgotten sample that the attack finds.

    Attributes:
      sample: position in the training set.
      label: class of the sample.
      fraction: fraction of the runs that forgot the sample in which it is found.
      low: lower end of the Clopper-Pearson interval of the fraction.
      high: upper end of that interval.
      num_runs: number of runs that forgot the sample.
    """

    sample: int
    label: int
    fraction: float
    low: float
    high: float
    num_runs: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowVulnerability:
    """Samples of one row: mean fraction, number always found, most exposed samples."""

    mean: float
    num_always: int
    num_samples: int
    most: tuple[ExposedSample, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vulnerability:
    """Frequency with which single forgotten samples are found, by row."""

    max_fpr: float
    rows: Mapping[str, RowVulnerability]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConfusionSet:
    """Predictions on the test samples of one forget set of classes.

    Attributes:
      title: classes of the set, in words.
      classes: forgotten classes.
      neighbors: nearest retained class of each forgotten class; None without MIA-NN.
      rows: ``[C]`` mean fractions of the samples assigned to each class, by row.
    """

    title: str
    classes: tuple[int, ...]
    neighbors: tuple[int | None, ...]
    rows: Mapping[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Confusion:
    """Predictions on the forgotten classes, by forget set."""

    sets: tuple[ConfusionSet, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TargetDistance:
    """KL(retrained || target) on the forget set in nats, by strength.

    ``values`` are means over runs, ``low`` and ``high`` the values of the smallest and
    the largest run. A target without a strength has one number in each. ``less`` are
    the means of the paired differences to the target without a tilt, ``less_low`` and
    ``less_high`` the ends of their 95% intervals. The last three are empty if the runs
    do not allow intervals.
    """

    name: str
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    less: tuple[float, ...] = ()
    less_low: tuple[float, ...] = ()
    less_high: tuple[float, ...] = ()

    @property
    def differences(self) -> list[tuple[float, float, float]]:
        """Mean and ends of each paired difference, by strength."""
        return list(zip(self.less, self.less_low, self.less_high, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Targets:
    """Distances of the targets of class unlearning from retrained models.

    ``coefficients`` belong to the tilt fitted to all forget sets together, for use on
    other classes; empty with a single forget set.
    """

    betas: tuple[float, ...]
    rows: tuple[TargetDistance, ...]
    coefficients: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class KlomDistance:
    """KLoM over the samples of one part; ``mean.num_runs`` is the ensemble's size."""

    mean: Estimate
    median: float
    p95: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Klom:
    """KLoM by row and part (``forget``, ``retain``, ``test``)."""

    num_models: int
    rows: Mapping[str, Mapping[str, KlomDistance]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestScore:
    """Score of one request, ``FR AUC - FT AUC`` in points, and both AUCs in percent.

    ``values`` has each run's numbers ``[R]`` under the names of the three estimates.
    """

    score: Estimate
    fr_auc: Estimate
    ft_auc: Estimate
    values: Mapping[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requests:
    """Scores of a sequence of requests, with the number and the size of requests."""

    count: int
    size: int
    rows: Mapping[str, tuple[RequestScore, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """Mean and extremes over the models of a row."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Norms:
    """Spectral norms by row and layer.

    ``max_norm`` is the bound during training, if any. ``unfound`` has the trained
    arrays that do not belong to a layer that was found.
    """

    max_norm: float | None
    rows: Mapping[str, Mapping[str, Range]]
    unfound: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Term:
    """Term of a theorem: mean, standard deviation over runs, each run's value."""

    mean: float
    std: float
    values: tuple[float, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Theory:
    """Terms of AMUN's Theorem 4.1 by row and name."""

    rows: Mapping[str, Mapping[str, Term]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """Trial of a search.

    Attributes:
      options: hyperparameters.
      metrics: estimates; empty if a run diverged.
      gain: paired difference of the Avg Gap to the original's; None without an
        interval, for example if the trial's models predict like the originals.
      num_diverged: number of runs that ended in numbers that are not finite.
    """

    options: Plain
    metrics: Mapping[str, Estimate]
    gain: Difference | None = None
    num_diverged: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowSearch:
    """Search of one row.

    Attributes:
      space: ranges and choices by hyperparameter.
      trials: trials in the order of the search, the published values first.
      chosen: position of the chosen trial; None if every trial diverged.
    """

    space: Plain
    trials: tuple[Trial, ...]
    chosen: int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """Choice of the hyperparameters.

    Attributes:
      originals: seeds of the originals tuned on.
      sets: names of the forget sets tuned on.
      shared: fraction of the samples of these sets that are also in a reported forget
        set.
      original: Avg Gap of the original models on the same sets.
      rows: searches by row.
    """

    originals: tuple[int, ...]
    sets: tuple[ForgetName, ...]
    shared: float
    original: Estimate
    rows: Mapping[str, RowSearch]

    @property
    def choices(self) -> dict[str, Plain]:
        """Chosen hyperparameters by row, without rows whose trials all diverged."""
        return {
            name: row.trials[row.chosen].options
            for name, row in self.rows.items()
            if row.chosen is not None
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunResult:
    """Results of a run.

    Attributes:
      title: heading of the report.
      preset: name of the preset; empty for a run from Python.
      command: command line of the run.
      date: UTC, ISO 8601.
      workdir: name of the working directory.
      versions: versions of the package, of Python and of the libraries that decide the
        numbers.
      device: devices of the run, in words.
      config: the configuration as plain values.
      config_digest: SHA-256 of the configuration.
      data: the data set.
      design: numbers of models and sets.
      folders: folders of the stored models and sets, relative to the working directory,
        by name.
      banks: content keys of the trained models, by kind.
      level: coverage of every interval.
      num_bootstrap: number of bootstrap replicates behind every interval.
      metrics: columns of the table.
      rows: rows of the table: original, retrained, retrained again, methods.
      runs: names of the runs, in the order of every row's values.
      stages: costs in the order of the run.
      checks: tests of whether the numbers can be trusted.
      notes: caveats.
      faults: measurements that failed, a line each; the run fails at its end.
      attacks: adversarial searches by name; the run's own attack has the empty name.
      tuning: choice of hyperparameters; None without a search.
      vulnerability: frequency with which samples are found; None without reference
        models.
      confusion: predictions on forgotten classes; None unless classes are forgotten.
      targets: distances of targets; None unless requested.
      klom: distances between ensembles; None unless requested.
      requests: scores of a sequence of requests; None for a single request.
      norms: spectral norms; None unless requested.
      theory: terms of the theorem; None unless requested.
    """

    title: str
    preset: str = ""
    command: str = ""
    date: str = ""
    workdir: str = ""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    device: str = ""
    config: Plain = dataclasses.field(default_factory=dict)
    config_digest: str = ""
    data: DataSummary
    design: Design
    folders: Mapping[str, str] = dataclasses.field(default_factory=dict)
    banks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    level: float
    num_bootstrap: int
    metrics: tuple[Metric, ...]
    rows: tuple[RowResult, ...]
    runs: tuple[RunName, ...]
    stages: tuple[Cost, ...] = ()
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    attacks: Mapping[str, AttackSummary] = dataclasses.field(default_factory=dict)
    tuning: Tuning | None = None
    vulnerability: Vulnerability | None = None
    confusion: Confusion | None = None
    targets: Targets | None = None
    klom: Klom | None = None
    requests: Requests | None = None
    norms: Norms | None = None
    theory: Theory | None = None

    def row(self, key: str) -> RowResult:
        """Return the row of a key.

        Raises:
          InputError: there is no such row; the message lists the keys.
        """
        keys = [row.key for row in self.rows]
        if key not in keys:
            raise InputError(f"no row {key!r}: choose from {', '.join(keys)}")
        return self.rows[keys.index(key)]

    def is_unsearched(self, row: RowResult) -> bool:
        """Return whether a row kept given hyperparameters while others were tuned.

        False for rows without hyperparameters, and if nothing was tuned.
        """
        if self.tuning is None or row.kind != "method" or not row.options:
            return False
        return row.key not in self.tuning.rows

    def row_of_kind(self, kind: RowKind) -> RowResult | None:
        """Return the first row of a kind; None if there is none."""
        return next((row for row in self.rows if row.kind == kind), None)

    def metric(self, key: str) -> Metric:
        """Return the metric of a key.

        Raises:
          InputError: there is no such metric; the message lists the keys.
        """
        keys = [metric.key for metric in self.metrics]
        if key not in keys:
            raise InputError(f"no metric {key!r}: choose from {', '.join(keys)}")
        return self.metrics[keys.index(key)]

    def to_json(self) -> dict[str, object]:
        """Return plain values for ``json.dumps(..., allow_nan=False)``."""
        return {"schema": SCHEMA, **typing.cast(dict[str, object], to_plain(self))}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> "RunResult":
        """Return the results from the plain values of :meth:`RunResult.to_json`.

        Raises:
          InputError: another schema, or fields that are missing, unknown or of another
            type.
        """
        return typing.cast(RunResult, from_plain(cls, _fields(data), "results"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class TableResult:
    """Table of an experiment: cells are text, numbers, estimates or None."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | bool | int | float | Estimate | None, ...], ...]
    caption: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExperimentResult:
    """Results of an experiment that is not a run.

    Attributes:
      experiment: name of the experiment.
      title: heading of the page.
      date: date and time of the end, ISO 8601.
      summary: findings in words.
      tables: tables of the page, in order.
      checks: checks of the page, in order.
      stages: costs of the artifacts.
      versions: versions of the packages, and the devices.
      config: configuration as plain values.
      config_digest: digest of the configuration.
      command: command line of the experiment; empty if it was called from Python.
    """

    experiment: str
    title: str
    date: str
    summary: str
    tables: tuple[TableResult, ...]
    checks: tuple[Check, ...]
    stages: tuple[Cost, ...]
    versions: Mapping[str, str]
    config: Plain
    config_digest: str
    command: str = ""

    def to_json(self) -> dict[str, object]:
        """Return plain values for ``json.dumps(..., allow_nan=False)``."""
        return {"schema": SCHEMA, **typing.cast(dict[str, object], to_plain(self))}

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> "ExperimentResult":
        """Return the results from the plain values of :meth:`ExperimentResult.to_json`.

        Raises:
          InputError: another schema, or fields that are missing, unknown or of another
            type.
        """
        return typing.cast(ExperimentResult, from_plain(cls, _fields(data), "results"))


def _fields(data: Mapping[str, object]) -> dict[str, object]:
    """Return the stored fields without the schema's number; refuse other schemas."""
    schema = data.get("schema")
    if schema is None:
        raise InputError(
            "these results are from unlearn_jax 0.1: run it again in a new folder"
        )
    if schema != SCHEMA:
        age = "newer" if isinstance(schema, int) and schema > SCHEMA else "older"
        remedy = "update unlearn_jax" if age == "newer" else "run it again"
        raise InputError(
            f"results have schema {schema} of {age} code, but this version reads"
            f" {SCHEMA}: {remedy}"
        )
    return {key: value for key, value in data.items() if key != "schema"}


def to_plain(value: object) -> object:
    """Return JSON-able values of records, mappings and sequences; None for NaN."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: to_plain(getattr(value, name)) for name in names}
    if isinstance(value, Estimate):
        return to_plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(hint: object, data: object, name: str) -> object:
    """Return a value of the type ``hint`` from JSON-able values.

    Args:
      hint: a record, :class:`~unlearn_jax.audit.Estimate`, ``tuple[T, ...]``,
        ``Mapping[str, T]``, a union of classes, a literal, a plain class, or
        ``object``, which returns the data unchanged.
      data: JSON-able values.
      name: name of the data in error messages.

    Raises:
      InputError: fields that are missing or unknown, or data of another type.
    """
    origin = typing.get_origin(hint)
    parts = typing.get_args(hint)
    if hint is object:
        return data
    if origin in (types.UnionType, typing.Union):
        if data is None and types.NoneType in parts:
            return None
        for part in parts:
            if _is_form(part, data):
                return from_plain(part, data, name)
    if hint is float and data is None:
        return math.nan
    if origin is Literal and data in parts:
        return data
    if origin is tuple and isinstance(data, list | tuple):
        return tuple(
            from_plain(parts[0], item, f"{name}[{i}]") for i, item in enumerate(data)
        )
    if origin is Mapping and isinstance(data, Mapping):
        return {
            key: from_plain(parts[1], item, f"{name}.{key}")
            for key, item in data.items()
        }
    if not isinstance(hint, type) or origin or not _is_form(hint, data):
        raise InputError(f"{name} is {data!r}: not a result of this version")
    if not _is_record(hint):
        return float(typing.cast(float, data)) if hint is float else data
    fields = typing.cast(Mapping[str, object], data)
    hints = typing.get_type_hints(hint)
    odd = sorted(set(hints) ^ set(fields))
    if odd:
        raise InputError(f"{name} lacks or adds {', '.join(odd)}: not of this version")
    values = {
        key: from_plain(hints[key], item, f"{name}.{key}")
        for key, item in fields.items()
    }
    return hint(**values)


def _is_record(hint: type) -> bool:
    return dataclasses.is_dataclass(hint) or hint is Estimate


def _is_form(hint: type, data: object) -> bool:
    """Return whether data have the JSON form of a class."""
    if _is_record(hint):
        return isinstance(data, Mapping)
    if isinstance(data, bool):
        return hint is bool
    return isinstance(data, (int, float) if hint is float else hint)
