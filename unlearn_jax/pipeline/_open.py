"""Finished runs, opened for reading: their models, logits, scores and table."""

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import jax
import numpy as np

from unlearn_jax import models, values
from unlearn_jax.models.files import FORMATS, known_format
from unlearn_jax.pipeline import presets
from unlearn_jax.pipeline.arrays import AuditArrays
from unlearn_jax.pipeline.measure.records import RowResult, RunResult, to_plain
from unlearn_jax.pipeline.measure.rows import ORIGINAL, RETRAINED, RETRAINED_AGAIN
from unlearn_jax.pipeline.report.tables import terminal_text
from unlearn_jax.pipeline.stages.models import filter_logits
from unlearn_jax.pipeline.store import folders
from unlearn_jax.pipeline.store.artifact import Stored, open_stored
from unlearn_jax.types import DamagedFileError, InputError, PyTree, Variables


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedModels:
    """Models of a run and their logits, read from disk on access.

    Attributes:
      path: folder of the models.
      index: ``[M]`` positions of the models in the folder; None for all.
      count: number of models in the folder; None if it is not known.
    """

    path: pathlib.Path
    index: np.ndarray | None = None
    count: int | None = None

    @cached_property
    def stored(self) -> Stored:
        """Content of the folder, after a check of its checksums and its pieces."""
        return open_stored(self.path, count=self.count)

    @property
    def models(self) -> Variables:
        """Variables of all models: NumPy arrays with a leading axis, ``[M, ...]``."""
        tree = self._read("models")
        stacked = Variables(tree["params"], tree.get("state") or {})
        return self._chosen(stacked)

    @property
    def logits(self) -> np.ndarray:
        """Logits ``[M, N, C]`` on the training set, then on the test set."""
        return self._chosen(self._read("logits"))

    def _read(self, name: str) -> PyTree:
        """Return what is stored under a name; raise if it was not kept."""
        if name not in self.stored:
            raise InputError(
                f"{self.path} has no {name}, because they were not kept: run again with"
                f" --replicas.keep_references {name}"
            )
        return self.stored[name]

    def _chosen(self, tree: PyTree) -> Any:
        if self.index is None:
            return tree
        return jax.tree.map(lambda leaf: leaf[self.index], tree)


@dataclasses.dataclass(frozen=True, eq=False)
class OpenedRow(OpenedModels):
    """Row of a run: one model for each run, in the order of ``run.results.runs``.

    Attributes:
      run: run that the row belongs to.
      result: numbers of the row.
    """

    run: "OpenedRun" = dataclasses.field(kw_only=True)
    result: RowResult = dataclasses.field(kw_only=True, repr=False)

    @property
    def logits(self) -> np.ndarray:
        """Logits ``[R, N, C]`` after the row's output filter, as the table uses them.

        ``stored["logits"]`` has the models' logits before the filter.
        """
        logits = super().logits
        if self.result.filter is None:
            return logits
        rows: Any = self.run.results.config["rows"]
        output_filter = values.from_json(rows[self.result.key]["method"]["filter"])
        forget = self.run.arrays["forget"]
        labels = self.run.arrays["labels"][: forget.shape[1]]
        filtered = []
        for run_logits, mask in zip(logits, forget, strict=True):
            filtered.append(filter_logits(output_filter, run_logits, labels, mask))
        return np.stack(filtered)

    @property
    def scores(self) -> np.ndarray | None:
        """RMIA's scores ``[R, N]``, higher for members; None without references."""
        return self.run.arrays.get(f"scores/{self.result.key}")

    def export(
        self,
        folder: str | os.PathLike[str],
        *,
        format: str = "orbax",
        logits: bool = False,
    ) -> pathlib.Path:
        """Write the row's models in a format that other programs read.

        Args:
          folder: new folder, which gets ``run-000``, ``run-001``, ... in the order of
            the runs, and ``settings.json`` with the method, the versions and the row's
            metrics.
          format: format of the models; see :func:`unlearn_jax.models.save`.
          logits: whether to write ``logits.npz``, too, which ``unlearn-jax audit``
            reads.

        Returns:
          The folder.

        Raises:
          InputError: the folder exists, an unknown format, or safetensors is not
            installed.
        """
        folder = pathlib.Path(os.path.expanduser(folder)).absolute()
        if folder.exists():
            raise InputError(f"{folder} exists: choose another folder")
        known = known_format(format)
        results = self.run.results
        row = to_plain(dataclasses.replace(self.result, values={}))
        runs = []
        draft = folder.with_name(f".{folder.name}-{os.getpid()}")
        draft.mkdir(parents=True)
        try:
            stacked = self.models
            for number, run in enumerate(results.runs):
                name = f"run-{number:03d}{FORMATS[known]}"
                model = jax.tree.map(lambda leaf, i=number: leaf[i], stacked)
                models.save(draft / name, model, format=known)
                metrics = {}
                for key, by_run in self.result.values.items():
                    metrics[key] = by_run[number]
                about = {"path": name, **dataclasses.asdict(run), "metrics": metrics}
                runs.append(to_plain(about))
            settings = {
                "row": row,
                "runs": runs,
                "preset": results.preset,
                "title": results.title,
                "model": results.config.get("model"),
                "data": to_plain(results.data),
                "versions": dict(results.versions),
                "date": results.date,
            }
            if logits:
                keys = [self.result.key] if self.result.kind == "method" else []
                self.run.audit_arrays(*keys).save(draft / "logits.npz")
            text = json.dumps(settings, indent=1, allow_nan=False)
            (draft / "settings.json").write_text(text)
            draft.rename(folder)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        return folder


class OpenedRun(Mapping[str, OpenedRow]):
    """Finished run: a mapping from keys of its table's rows to their models.

    Attributes:
      path: working directory.
      results: content of ``results.json``.
    """

    def __init__(self, path: pathlib.Path, results: RunResult) -> None:
        self.path = path
        self.results = results

    def __iter__(self) -> Iterator[str]:
        return (row.key for row in self.results.rows)

    def __len__(self) -> int:
        return len(self.results.rows)

    def __getitem__(self, key: str) -> OpenedRow:
        result = self.results.row(key)
        runs, pairs, pair_of_run = self._positions
        places = {
            ORIGINAL: ("originals", runs[:, 0]),
            RETRAINED: ("retrained", pair_of_run),
            RETRAINED_AGAIN: ("retrained", pairs + pair_of_run),
        }
        name, index = places.get(key, (f"unlearn-{key}", None))
        count = self._count(name)
        return OpenedRow(self._path(name), index, count, run=self, result=result)

    def __contains__(self, key: object) -> bool:
        return key in list(self)

    @cached_property
    def _positions(self) -> tuple[np.ndarray, int, np.ndarray]:
        """Return the original and forget set of all runs, and how they pair up.

        Returns:
          ``[R, 2]`` numbers of original and forget set, the number of different pairs,
          and ``[R]`` the pair of each run.
        """
        names = [(run.original, run.forget_set) for run in self.results.runs]
        originals = list(dict.fromkeys(original for original, _ in names))
        sets = list(dict.fromkeys(forget for _, forget in names))
        numbers = np.array([(originals.index(o), sets.index(s)) for o, s in names])
        pairs, pair_of_run = np.unique(numbers, axis=0, return_inverse=True)
        return numbers, len(pairs), pair_of_run.reshape(-1)

    def _count(self, name: str) -> int:
        """Return the number of models of an artifact of the run."""
        counts = {
            "originals": self.results.design.originals,
            "retrained": 2 * self._positions[1],
            "references": self.results.design.references,
        }
        return counts.get(name, len(self.results.runs))

    def _models(self, name: str) -> OpenedModels:
        """Return all models of an artifact of the run."""
        return OpenedModels(self._path(name), count=self._count(name))

    def _path(self, name: str) -> pathlib.Path:
        """Return the folder of an artifact of the run."""
        if name not in self.results.folders:
            raise InputError(f"{self.path} stores no {name}")
        path = (self.path / self.results.folders[name]).resolve()
        if not path.is_dir():
            raise InputError(f"{path} is missing: run the same command again")
        return path

    @property
    def originals(self) -> OpenedModels:
        """Models before unlearning, one per seed."""
        return self._models("originals")

    @property
    def oracles(self) -> OpenedModels:
        """Retrained models: one per original and forget set, then the second ones."""
        return self._models("retrained")

    @property
    def references(self) -> OpenedModels:
        """Reference models of the membership attacks."""
        return self._models("references")

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Content of ``arrays.npz``: ``scores/ROW``, ``margin/ROW``, ...

        It also has ``labels [N]``, the forget sets ``forget [R, N_train]`` and the
        training sets of the references, ``member [M, N]``.
        """
        path = self.path / "arrays.npz"
        try:
            if not folders.is_as_sealed(path):
                raise ValueError("changed since it was written")
            # opened explicitly, since NumPy does not close damaged files
            with path.open("rb") as file, np.load(file) as stored:
                return {name: stored[name] for name in stored.files}
        except Exception as error:
            if not folders.is_damage(error):
                raise
            raise DamagedFileError(
                f"{path} is missing or damaged: run the same command again to write it"
                " from what is stored"
            ) from error

    def table(self) -> str:
        """Return the table as text; ``results.rows`` has the numbers."""
        return terminal_text(self.results)

    def audit_arrays(self, *keys: str) -> AuditArrays:
        """Return the arrays to audit the run's models by their logits alone.

        They are input of :func:`unlearn_jax.pipeline.audit_arrays` and, once saved, of
        ``unlearn-jax audit``.

        Args:
          *keys: keys of methods' rows; all methods that did not diverge if none is
            given. The original and the retrained models are always included.
        """
        if not keys:
            keys = tuple(key for key in self if not self.results.row(key).num_diverged)
        given = (ORIGINAL, RETRAINED, RETRAINED_AGAIN)
        methods = [key for key in keys if key not in given]
        num_train = self.results.data.num_train
        labels = self.arrays["labels"]
        forget = self.arrays["forget"]
        padding = ((0, 0), (0, len(labels) - num_train))
        has_references = len(self.arrays["member"]) > 0
        return AuditArrays(
            target={key: self[key].logits for key in methods},
            labels=labels,
            train=np.arange(len(labels)) < num_train,
            forget=np.pad(forget, padding),
            references=self.references.logits if has_references else None,
            member=self.arrays["member"] if has_references else None,
            runs=self._positions[0],
            original=self[ORIGINAL].logits,
            retrained=self[RETRAINED].logits,
            retrained_again=self[RETRAINED_AGAIN].logits,
        )

    def __repr__(self) -> str:
        return f"OpenedRun({str(self.path)!r}, rows={list(self)})"


def read_record(file: pathlib.Path) -> dict[str, Any]:
    """Return the content of a file that a run has written.

    Args:
      file: ``results.json`` or ``config.json``.

    Raises:
      DamagedFileError: the file is not a JSON object.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise _damaged(file)
    return record


def _damaged(file: pathlib.Path) -> DamagedFileError:
    return DamagedFileError(
        f"{file} is damaged: run the same command again to write it from what is stored"
    )


def check_finished(workdir: pathlib.Path, record: Mapping[str, object]) -> None:
    """Raise on changed results, or if a later run has not replaced them yet.

    Args:
      workdir: folder with results.
      record: the results.

    Raises:
      InputError: ``config.json`` is of a run that did not finish.
      DamagedFileError: ``results.json`` differs from what the run has sealed, or
        ``config.json`` is not a JSON object.
    """
    path = workdir / "config.json"
    if not folders.is_as_sealed(workdir / "results.json"):
        raise _damaged(workdir / "results.json")
    if not {"rows", "config"} <= set(record) or not path.is_file():
        return
    config = read_record(path)
    config.pop(presets.OWN_PARTS, None)
    if config != record["config"]:
        raise InputError(
            f"the last run in {workdir} did not finish, and its results are of an"
            " earlier one: run the same command again"
        )


def open(path: str | os.PathLike[str]) -> OpenedRun:
    """Open the working directory of a finished run for reading.

    Nothing is computed or written. Results, and models and logits when they are read,
    are checked against their stored checksums.

    Args:
      path: path of the directory.

    Returns:
      The run: ``run["amun"].models``, ``.logits`` and ``.scores``, ``run.originals``,
      ``run.oracles``, ``run.references``, ``run.results`` and ``run.table()``.

    Raises:
      InputError: not the directory of a run, a run that is not finished, or results of
        another version or an earlier run.
      DamagedFileError: ``results.json`` differs from what the run wrote, or it or
        ``config.json`` is not a JSON object.
    """
    folder = pathlib.Path(os.path.expanduser(path)).resolve()
    file = folder / "results.json"
    holds_runs = f"{folder} holds a study or an experiment: open one of its runs"
    if not file.is_file():
        if any(folder.glob("*/results.json")):
            raise InputError(holds_runs)
        if (folder / folders.Workdir.MARK).is_file():
            raise InputError(
                f"{folder} holds no results yet: run the same command again to finish"
                " it"
            )
        raise InputError(f"{folder} is not the working directory of a run")
    stored = read_record(file)
    if "tables" in stored and "rows" not in stored:
        raise InputError(holds_runs)
    check_finished(folder, stored)
    try:
        results = RunResult.from_json(stored)
    except InputError as error:
        raise InputError(f"{file}: {error}") from None
    return OpenedRun(folder, results)
