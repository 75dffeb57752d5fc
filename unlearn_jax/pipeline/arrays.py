"""Arrays of an audit: logits of models from any source, with labels and masks."""

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.checks import warn_of_probabilities
from unlearn_jax.data.sources import read_npz
from unlearn_jax.pipeline.store.folders import write_file
from unlearn_jax.types import InputError

TARGET = "target"
_REQUIRED = ("labels", "train", "forget")
_GIVEN = ("original", "retrained", "retrained_again")


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class AuditArrays:
    """Arrays of an audit, checked and converted to NumPy.

    Logits of a single model ``[N, C]``, or a single mask ``[N]``, are used for every
    run. Samples may be in any order that all arrays share.

    Attributes:
      target: ``[R, N, C]`` logits of the audited models, one for each run, by row.
      labels: ``[N]`` integers in 0..C-1.
      train: ``[N]`` bool, the training set of the model before unlearning. The other
        samples are test samples, on which only references may have been trained.
      forget: ``[R, N]`` bool, the samples of the training set that were forgotten.
      references: ``[M, N, C]`` logits of reference models, half of which were trained
        on each sample. Optional where whole classes are forgotten.
      member: ``[M, N]`` bool, the samples that each reference was trained on.
      original: ``[R, N, C]`` logits of the models before unlearning; a row of the
        table.
      retrained: ``[R, N, C]`` logits of models trained without the forget set: the
        oracle that the gaps are measured to.
      retrained_again: ``[R, N, C]`` logits of a second oracle with other seeds: the
        seed floor. If every forget set consists of all training samples of some
        classes, and both oracles are given, the table is that of class forgetting, with
        U-LiRA, MIA-NN and distances of outputs.
      runs: ``[R, 2]`` integers, the numbers of each run's original and forget set,
        which are the random factors of the intervals. By default each run has its own
        original, and runs with equal masks share a forget set.
      class_names: ``[C]`` names; the numbers of the classes by default.

    Raises:
      InputError: an array is missing, has the wrong shape or type, or is not finite;
        the message names it.

    >>> from unlearn_jax.data import membership_design
    >>> logits = np.zeros((4, 6, 2))
    >>> member = membership_design(4, 6, seed=0)
    >>> arrays = AuditArrays(
    ...     target=logits[0], labels=[0, 1] * 3, train=np.arange(6) < 4,
    ...     forget=np.arange(6) < 1, references=logits, member=member)
    >>> arrays.target["target"].shape, arrays.forget.shape
    ((1, 6, 2), (1, 6))
    """

    target: Mapping[str, np.ndarray] | ArrayLike
    labels: ArrayLike
    train: ArrayLike
    forget: ArrayLike
    references: ArrayLike | None = None
    member: ArrayLike | None = None
    original: ArrayLike | None = None
    retrained: ArrayLike | None = None
    retrained_again: ArrayLike | None = None
    runs: ArrayLike | None = None
    class_names: Sequence[str] | None = None

    def __post_init__(self) -> None:
        rows = (
            self.target if isinstance(self.target, Mapping) else {TARGET: self.target}
        )
        labels = _integers("labels", self.labels, ndim=1)
        logits = self._all_logits(rows)
        first = next(iter(logits))
        num_samples = len(labels)
        num_classes = logits[first].shape[-1]
        if num_classes < 2:
            raise InputError(f"{first} has {num_classes} class: pass logits [N, C]")
        if labels.min(initial=0) < 0 or labels.max(initial=0) >= num_classes:
            raise InputError(
                f"labels must lie in 0..{num_classes - 1}, because {first} has"
                f" {num_classes} classes"
            )
        forget = _mask("forget", self.forget)
        counts = {name: len(array) for name, array in logits.items()}
        counts["forget"] = len(forget)
        num_runs = max(counts.values())
        for name, count in counts.items():
            if count not in (1, num_runs):
                raise InputError(f"{name} has {count} runs, another array {num_runs}")
        for name, array in logits.items():
            if array.shape[1:] != (num_samples, num_classes):
                raise InputError(
                    f"{name} has shape {array.shape[1:]}: pass logits [N, C] ="
                    f" ({num_samples}, {num_classes}) of every run"
                )
            _refuse_infinite(name, array)
            warn_of_probabilities(array, f"the values of {name}")
            shape = (num_runs, num_samples, num_classes)
            logits[name] = np.broadcast_to(array, shape)
        train = _mask("train", self.train)[0]
        _check_masks(train, forget, num_samples)
        forget = np.broadcast_to(forget, (num_runs, num_samples))
        names = range(num_classes) if self.class_names is None else self.class_names
        if len(names) != num_classes:
            raise InputError(
                f"class_names has {len(names)} names for {num_classes} classes"
            )
        values: dict[str, Any] = {
            "target": {name: logits[name] for name in rows},
            "labels": labels,
            "train": train,
            "forget": forget,
            "runs": self._runs(forget),
            "class_names": tuple(map(str, names)),
            **self._references(num_samples, num_classes),
        }
        for name in _GIVEN:
            values[name] = logits.get(name)
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.member is None and not self.is_class:
            raise InputError(
                "references is missing: membership attacks need logits [M, N, C] of"
                " reference models, and member [M, N]"
            )

    def _all_logits(self, rows: Mapping[str, ArrayLike]) -> dict[str, np.ndarray]:
        """Return logits ``[K, N, C]`` by name, for rows and for the given models."""
        if not rows:
            raise InputError("target has no row: pass logits [N, C] or [R, N, C]")
        logits = {name: _logits(name, array) for name, array in rows.items()}
        for name in _GIVEN:
            if name in logits:
                raise InputError(f"target has a row {name!r}: pass it as {name}=")
            if getattr(self, name) is not None:
                logits[name] = _logits(name, getattr(self, name))
        return logits

    def _runs(self, forget: np.ndarray) -> np.ndarray:
        """Return the checked numbers of original and forget set of every run."""
        sets = np.unique(forget, axis=0, return_inverse=True)[1].reshape(-1)
        if self.runs is None:
            return np.stack([np.arange(len(forget)), sets], 1).astype(np.int32)
        runs = _integers("runs", self.runs, ndim=2)
        if runs.shape != (len(forget), 2):
            raise InputError(
                f"runs has shape {runs.shape}: pass [R, 2] = ({len(forget)}, 2)"
            )
        for number in np.unique(runs[:, 1]):
            if len(set(sets[runs[:, 1] == number])) > 1:
                raise InputError(
                    f"runs of forget set {number} have unequal forget masks"
                )
        return runs

    def _references(self, num_samples: int, num_classes: int) -> dict[str, Any]:
        """Return the checked logits of the references and their members."""
        if (self.references is None) != (self.member is None):
            lone = "member" if self.references is None else "references"
            raise InputError(
                f"{lone} is given alone: pass references and member, or neither"
            )
        if self.references is None or self.member is None:
            return {"references": None, "member": None}
        references = _logits("references", self.references)
        member = _mask("member", self.member)
        shape = (len(references), num_samples, num_classes)
        if references.shape != shape:
            raise InputError(
                f"references has shape {references.shape}: pass logits [M, N, C] ="
                f" {shape}"
            )
        if member.shape != shape[:2]:
            raise InputError(
                f"member has shape {member.shape}: pass a mask [M, N] = {shape[:2]}"
            )
        _refuse_infinite("references", references)
        inside = member.sum(0)
        if (inside == 0).any() or (inside == len(member)).any():
            sample = int(np.flatnonzero((inside == 0) | (inside == len(member)))[0])
            raise InputError(
                f"member of sample {sample} is equal for all references: some must be"
                " trained on it, and some not"
            )
        return {"references": references, "member": member}

    @property
    def is_class(self) -> bool:
        """True if the table is that of class forgetting."""
        if self.retrained is None or self.retrained_again is None:
            return False
        labels = np.asarray(self.labels)
        train = np.asarray(self.train)
        for mask in np.asarray(self.forget):
            if np.isin(labels[train & ~mask], labels[mask]).any():
                return False
        return True

    @property
    def digest(self) -> str:
        """SHA-256 of all arrays."""
        sha = hashlib.sha256()
        for name, array in self._by_name().items():
            sha.update(f"{name}{array.shape}{array.dtype.str}".encode())
            sha.update(np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()

    def _by_name(self) -> dict[str, np.ndarray]:
        """Return the arrays by the names that they have in a file."""
        arrays = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Mapping):
                for row, array in value.items():
                    key = TARGET if row == TARGET else f"{TARGET}_{row}"
                    arrays[key] = array
            elif value is not None:
                arrays[field.name] = np.asarray(value)
        return arrays

    def save(self, path: str | os.PathLike[str]) -> pathlib.Path:
        """Write the arrays as ``.npz``, for :meth:`AuditArrays.load` and the CLI.

        Args:
          path: path of the file; an existing file is refused.

        Returns:
          The path.

        Raises:
          InputError: the file exists.
        """
        path = pathlib.Path(os.path.expanduser(path)).absolute()
        if path.exists():
            raise InputError(f"{path} exists: choose another path")

        def write(draft: pathlib.Path) -> None:
            # a file, since NumPy adds .npz to names without it
            with open(draft, "wb") as file:
                np.savez_compressed(file, **self._by_name())  # pyright: ignore[reportArgumentType]

        write_file(path, write)
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "AuditArrays":
        """Read an ``.npz`` file.

        Args:
          path: path of the file, whose arrays are named like the attributes. Further
            rows are arrays named ``target_ROW``. Pickled objects are refused.

        Raises:
          InputError: no such file, not a readable ``.npz``, unknown arrays, or arrays
            that :class:`AuditArrays` refuses.
        """
        arrays = read_npz(path, "file of logits")
        target = {}
        for name in list(arrays):
            if name == TARGET or name.startswith(f"{TARGET}_"):
                row = name.removeprefix(f"{TARGET}_")
                target[row] = arrays.pop(name)
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in arrays if name not in known]
        missing = [name for name in _REQUIRED if name not in arrays]
        if not target:
            missing.insert(0, TARGET)
        if missing:
            raise InputError(
                f"{path}: {', '.join(missing)} is missing; the file holds"
                f" {', '.join([*target, *arrays]) or 'nothing'}"
            )
        if unknown:
            raise InputError(
                f"{path}: unknown array {unknown[0]}; known are {', '.join(known)},"
                " and target_ROW"
            )
        try:
            return cls(target=target, **arrays)  # pyright: ignore[reportArgumentType]
        except InputError as error:
            raise InputError(f"{path}: {error}") from None


def _logits(name: str, values: ArrayLike) -> np.ndarray:
    """Return logits ``[K, N, C]`` from ``[K, N, C]`` or ``[N, C]``."""
    array = np.asarray(values)
    if array.dtype.kind != "f" and array.dtype.kind not in "iu":
        # bfloat16 and similar types have kind V, and np.savez loses their names
        if array.dtype.kind == "V" and array.dtype.type is np.void:
            raise InputError(f"{name} has dtype {array.dtype}: pass or save float32")
        if array.dtype.kind != "V":
            raise InputError(f"{name} has dtype {array.dtype}: pass real logits")
        array = array.astype(np.float32)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.size == 0:
        raise InputError(
            f"{name} has shape {np.shape(values)}: pass logits [N, C], or one such"
            " array for each model"
        )
    return array.astype(np.float32, copy=False)


def _mask(name: str, values: ArrayLike) -> np.ndarray:
    """Return masks ``[K, N]`` from ``[K, N]`` or ``[N]``."""
    array = np.asarray(values)
    if array.dtype != np.bool_:
        raise InputError(f"{name} has dtype {array.dtype}: pass booleans")
    if array.ndim == 1:
        array = array[None]
    if array.ndim != 2 or array.size == 0 or (name == "train" and len(array) != 1):
        raise InputError(f"{name} has shape {np.shape(values)}: pass a mask [N]")
    return array


def _check_masks(train: np.ndarray, forget: np.ndarray, num_samples: int) -> None:
    """Raise on masks of training and forget sets that do not fit together.

    Args:
      train: ``[N]`` bool.
      forget: ``[K, N]`` bool.
      num_samples: number of labels.
    """
    for name, count in (("train", len(train)), ("forget", forget.shape[1])):
        if count != num_samples:
            raise InputError(f"{name} has {count} samples, labels {num_samples}")
    if train.all() or not train.any():
        raise InputError(
            "train must mark some samples, but not all: the rest is the test set"
        )
    if (forget & ~train).any():
        raise InputError("forget marks test samples: mark only samples of train")
    if not forget.any(1).all() or (forget == train).all(1).any():
        raise InputError("forget must mark some samples of train in every run")


def _integers(name: str, values: ArrayLike, *, ndim: int) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.ndim != ndim or array.size == 0:
        axes = "[N]" if ndim == 1 else "[R, 2]"
        raise InputError(
            f"{name} has shape {array.shape} and dtype {array.dtype}: pass integers"
            f" {axes}"
        )
    bounds = np.iinfo(np.int32)
    if array.min() < bounds.min or array.max() > bounds.max:
        raise InputError(f"{name} has numbers beyond 32 bits: number them from 0")
    return array.astype(np.int32)


def _refuse_infinite(name: str, array: np.ndarray) -> None:
    if not np.isfinite(array).all():
        raise InputError(
            f"{name} has NaN or infinity: repair the model, or leave it out"
        )
