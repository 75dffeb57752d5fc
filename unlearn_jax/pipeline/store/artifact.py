"""Stored artifacts: results that are computed once, under a key of all they depend on.

An artifact is a folder of named arrays and pytrees. An artifact with items is divided
into pieces, one folder each, so that an interrupted run resumes with the missing pieces
and several processes can divide the work. Folders appear whole or not at all; every
file has a checksum; a damaged folder is moved aside and recomputed.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from functools import cached_property
from typing import Any

import jax
import numpy as np
from tabulate import tabulate

from unlearn_jax.pipeline.config.schema import digest, to_json
from unlearn_jax.pipeline.store import clock, folders, hosts, locks, trees
from unlearn_jax.pipeline.store.clock import Cost
from unlearn_jax.pipeline.store.events import Events
from unlearn_jax.replicas import rehearsal
from unlearn_jax.types import DamagedFileError, InputError, PyTree


@dataclasses.dataclass(frozen=True)
class Items:
    """Division of an artifact into pieces.

    Attributes:
      count: number of items.
      group: largest number of items per piece.
      shapes: one value per item; items of equal value share pieces and a program. None
        if all items are equal.
      steps: units of progress per item.
    """

    count: int
    group: int
    shapes: Sequence[Any] | None = None
    steps: int = 1

    @cached_property
    def groups(self) -> list[list[int]]:
        """Items of every piece; the last one of a shape may be smaller."""
        groups: list[list[int]] = []
        shapes = [0] * self.count if self.shapes is None else list(self.shapes)
        for shape in sorted(set(shapes)):
            items = [item for item in range(self.count) if shapes[item] == shape]
            num_pieces = math.ceil(len(items) / self.group)
            size = math.ceil(len(items) / num_pieces)
            groups += [items[i : i + size] for i in range(0, len(items), size)]
        return groups

    @property
    def size(self) -> int:
        """Number of items that pieces are padded to, so that all share a program."""
        return max(map(len, self.groups))

    def padded(self, items: list[int]) -> list[int]:
        """Return the items of a piece with the last one repeated up to :attr:`size`."""
        return items + [items[-1]] * (self.size - len(items))


@dataclasses.dataclass(frozen=True)
class Piece:
    """Task of computing some of an artifact's items.

    Attributes:
      items: items to compute, padded by repeating the last one.
      count: number of items to store, the first ones.
      scratch: folder for checkpoints, which does not exist at first. It survives a
        killed process, and is removed once the piece is stored.
      advance: function that reports progress, in units of one item.
      record: function ``(first_epoch, losses)`` that writes losses ``[items, epochs]``
        to TensorBoard; ``first_epoch`` counts from 1.
    """

    items: list[int]
    count: int
    scratch: pathlib.Path
    advance: Callable[[int], None] = lambda steps: None
    record: Callable[[int, np.ndarray], None] = lambda first_epoch, losses: None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Artifact:
    """Result that is computed once and stored.

    Attributes:
      name: name of its folder and of its stage.
      settings: plain values that determine the result, apart from code and inputs.
      compute: function ``(*inputs) -> {name: array or pytree}``, with inputs of type
        :class:`Stored`. With ``items``, it is called ``(piece, *inputs)``, and every
        leaf has a leading axis of ``piece.items``.
      inputs: artifacts from which it is computed.
      items: division into pieces; one folder if None.
      root: folder that holds it; the runner's if None.
      like: structures of the stored pytrees by name, see
        :func:`unlearn_jax.pipeline.store.trees.load_tree`.
      price: cost of computing one item, as a number of training samples, for estimates
        of time.
    """

    name: str
    settings: Mapping[str, Any]
    compute: Callable[..., Mapping[str, PyTree]]
    inputs: tuple["Artifact", ...] = ()
    items: Items | None = None
    root: pathlib.Path | None = None
    like: Mapping[str, PyTree] | None = None
    price: float = 0.0

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.+-]+", self.name):
            raise InputError(
                f"artifacts are named with letters, digits and - _ . +, got"
                f" {self.name!r}"
            )

    @cached_property
    def key(self) -> str:
        """Digest of the name, the settings, the inputs' keys and JAX's switches."""
        inputs = [artifact.key for artifact in self.inputs]
        settings = to_json(dict(self.settings))
        # switches at their defaults are left out, so that older results are found
        return digest(folders.FORMAT, self.name, settings, inputs, *folders.switches())


@dataclasses.dataclass(frozen=True)
class Entry:
    """Array or pytree of a stored folder.

    Attributes:
      dtype: type of the array; ``"tree"`` for a pytree.
      sha256: digest of the values.
    """

    dtype: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Description of a stored folder, in its ``manifest.json``.

    Attributes:
      artifact: name of the artifact.
      key: key of the artifact.
      settings: settings of the artifact, as plain values.
      items: items of the folder, in the order of the leading axes; ``[0]`` if the
        artifact has none.
      content: arrays and pytrees by name.
      cost: cost of computing the folder.
    """

    artifact: str
    key: str
    settings: Any
    items: list[int]
    content: dict[str, Entry]
    cost: Cost

    @classmethod
    def from_json(cls, manifest: Mapping[str, Any]) -> "Manifest":
        """Return the description of a folder from its parsed ``manifest.json``."""
        entries = manifest["content"].items()
        return cls(
            artifact=manifest["artifact"],
            key=manifest["key"],
            settings=manifest["settings"],
            items=manifest["items"],
            content={name: Entry(**entry) for name, entry in entries},
            cost=Cost(**manifest["cost"]),
        )

    @classmethod
    def read(cls, folder: pathlib.Path) -> "Manifest | None":
        """Return the description of a finished folder after a check of every file.

        Returns:
          The description, or None if the folder does not exist.

        Raises:
          DamagedFileError: a file is missing or its checksum has changed since it was
            written, or the manifest lacks a field.
        """
        manifest = folders.read_manifest(folder)
        if manifest is None:
            return None
        with folders.reading(folder / folders.MANIFEST, folder):
            return cls.from_json(manifest)


@dataclasses.dataclass(frozen=True)
class _Slice:
    """Items to read from a folder, and their positions in it."""

    folder: pathlib.Path
    items: list[int]
    positions: list[int]


class Stored(Mapping[str, PyTree]):
    """Content of a finished artifact, read on access.

    ``stored["logits"]`` is an array, memory-mapped if it is a single file, and
    ``stored["models"]`` a pytree. The pieces of an artifact with items are joined in
    the order of the items.

    Attributes:
      path: folder of the artifact.
      cost: cost of computing all of its pieces.
    """

    def __init__(
        self,
        artifact: Artifact,
        path: pathlib.Path,
        manifests: Mapping[pathlib.Path, Manifest],
        *,
        cached: bool = False,
    ) -> None:
        self.path = path
        self.cost = clock.total(
            (manifest.cost for manifest in manifests.values()),
            artifact.name,
            cached=cached,
        )
        self._like = artifact.like or {}
        self._is_split = artifact.items is not None
        self._manifests = dict(sorted(manifests.items()))
        self._derived: dict[Any, Any] = {}
        # pieces of different group sizes may overlap: an item is read from the first
        self._places: dict[int, tuple[pathlib.Path, int]] = {}
        self._slices: list[_Slice] = []
        for folder, manifest in self._manifests.items():
            part = _Slice(folder, [], [])
            for position, item in enumerate(manifest.items):
                if item not in self._places:
                    self._places[item] = (folder, position)
                    part.items.append(item)
                    part.positions.append(position)
            if part.items:
                self._slices.append(part)

    @property
    def folders(self) -> list[pathlib.Path]:
        """Folders of the pieces; the artifact's own folder if it has no pieces."""
        return list(self._manifests)

    @property
    def manifest(self) -> Manifest:
        """Manifest of the artifact, or of its first piece."""
        return next(iter(self._manifests.values()))

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest.content)

    def __contains__(self, name: object) -> bool:
        # without this, a mapping reads the content to look for its name
        return name in self.manifest.content

    def __len__(self) -> int:
        return len(self.manifest.content)

    def __getitem__(self, name: str) -> PyTree:
        if name not in self.manifest.content:
            raise KeyError(name)
        if not self._is_split:
            return self._read(self.path, name)
        content = []
        order: list[int] = []
        for part in self._slices:
            content.append(self._read(part.folder, name, part.positions))
            order += part.items
        joined = content[0]
        if len(content) > 1:
            joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *content)
        if order != sorted(order):
            joined = _take(joined, np.argsort(order))
        return joined

    def pieces(self) -> Iterator[tuple[list[int], dict[str, PyTree]]]:
        """Yield the items of every piece, and their content."""
        for part in self._slices:
            content = {}
            for name in self:
                content[name] = self._read(part.folder, name, part.positions)
            yield part.items, content

    def each(self, name: str) -> list[np.ndarray]:
        """Return one array per item, in their order; shapes may differ."""
        return list(self.iterate(name))

    def iterate(self, name: str) -> Iterator[np.ndarray]:
        """Yield one array per item, in their order, memory-mapped from its file."""
        arrays = {folder: self._read(folder, name) for folder in self._manifests}
        for item in sorted(self._places):
            folder, position = self._places[item]
            yield arrays[folder][position]

    def derived(self, key: Any, function: Callable[["Stored"], Any]) -> Any:
        """Return a value derived from the content, computed at the first call.

        Args:
          key: name of the value; equal keys must stand for equal functions.
          function: function of the content that computes the value.
        """
        if key not in self._derived:
            self._derived[key] = function(self)
        return self._derived[key]

    def item(self, item: int) -> dict[str, PyTree]:
        """Return the content of one item."""
        folder, position = self._places[item]
        return {name: _take(self._read(folder, name), position) for name in self}

    def _read(
        self, folder: pathlib.Path, name: str, positions: list[int] | None = None
    ) -> PyTree:
        """Return an entry of a folder, or the items at some positions of it."""
        manifest = self._manifests[folder]
        dtype = manifest.content[name].dtype
        if dtype == "tree":
            with folders.reading(folder / name, folder):
                entry = trees.load_tree(folder / name, self._like.get(name))
        else:
            entry = folders.load_array(folder / f"{name}.npy")
            if entry.dtype.kind == "V":
                # NumPy stores bfloat16 and similar types as bytes
                entry = entry.view(dtype)
        if positions in (None, list(range(len(manifest.items)))):
            return entry
        return _take(entry, positions)


class Rehearsed(dict[str, PyTree]):
    """Content of a rehearsed artifact: zeros in the shapes of its content.

    Args:
      content: content of a piece.
      count: number of the artifact's items; None if it has none.
    """

    def __init__(self, content: Mapping[str, PyTree], count: int | None) -> None:
        if count is None:
            super().__init__(content)
            return

        def repeat(leaf: Any) -> np.ndarray:
            return np.broadcast_to(leaf[:1], (count, *leaf.shape[1:]))

        super().__init__({key: jax.tree.map(repeat, content[key]) for key in content})

    def each(self, name: str) -> list[np.ndarray]:
        """Return one array per item."""
        return list(self[name])


def open_stored(
    path: pathlib.Path,
    like: Mapping[str, PyTree] | None = None,
    count: int | None = None,
) -> Stored:
    """Return the content of a finished artifact, given only its folder.

    Args:
      path: folder of the artifact.
      like: structures of the stored pytrees; nested dictionaries if None.
      count: number of the artifact's items. If None, pieces after the last one that is
        stored are not missed.

    Raises:
      DamagedFileError: a file or a piece is missing, or a file has another checksum.
      InputError: no artifact is stored there.
    """
    is_whole = (path / folders.MANIFEST).is_file()
    manifests = {}
    items: set[int] = set()
    for folder in [path] if is_whole else sorted(path.glob("items-*")):
        manifest = Manifest.read(folder)
        if manifest is not None:
            manifests[folder] = manifest
            items.update(manifest.items)
    if not manifests:
        raise InputError(f"{path} stores nothing: run the same command again")
    missing = set(range(max(items) + 1 if count is None else count)) - items
    if missing and not is_whole:
        raise DamagedFileError(
            f"{path} lacks item {min(missing)}: run the same command again to rebuild"
            " it"
        )
    artifact = Artifact(
        name=next(iter(manifests.values())).artifact,
        settings={},
        compute=dict,
        items=None if is_whole else Items(0, 1),
        like=like,
    )
    return Stored(artifact, path, manifests, cached=True)


def _take(tree: PyTree, positions: Any) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[positions], tree)


class Checkpoints:
    """Checkpoints of a computation in progress; the newest two are kept.

    Each is a folder named by its step, with checksums; Orbax stores the state in it.

    Args:
      folder: folder of the checkpoints, such as a piece's ``scratch``.
      every: shortest time between two checkpoints, in seconds.
      is_joint: whether all processes compute the state together; the first one stores
        it.
    """

    def __init__(
        self, folder: pathlib.Path, every: float, *, is_joint: bool = False
    ) -> None:
        self._folder = folder
        self._every = every
        self._is_joint = is_joint
        self._began = time.monotonic()
        self._saved = self._began
        self._seconds_before = spent(folder)

    def restore(self, like: PyTree) -> PyTree | None:
        """Return the newest undamaged state, or None if there is none.

        Args:
          like: state of the same structure and shapes.

        Warns:
          DamagedFileWarning: a checkpoint is damaged, or its state has other shapes; it
            is moved aside.
        """
        if not self._is_joint:
            return self._restore(like)
        state = self._restore(like) if hosts.current_process().first else None
        if not hosts.agreed(np.array(state is not None)):
            return None
        if state is None:
            data = jax.tree.map(trees.blank, like)
        else:
            data = jax.tree.map(trees.plain, state)
        return jax.tree.map(trees.typed, hosts.agreed(data), like)

    def _restore(self, like: PyTree) -> PyTree | None:
        for folder in reversed(_steps(self._folder)):
            try:
                if folders.read_manifest(folder) is not None:
                    state = trees.load_tree(folder / "state", like)
                    shapes = jax.tree.map(np.shape, state)
                    if shapes == jax.tree.map(np.shape, like):
                        return state
            except Exception as error:
                if not folders.is_damage(error):
                    raise
            folders.move_aside(
                folder,
                f"checkpoint {folder} is truncated or changed, or of another group",
                self._folder.with_name(f"{self._folder.name}-{folder.name}"),
            )
        return None

    def save(self, step: int, state: PyTree) -> None:
        """Save a state if enough time has passed since the last one.

        Args:
          step: number of the step, larger than those before.
          state: pytree of arrays.
        """
        time_now = time.monotonic()
        is_early = time_now - self._saved < self._every
        if self._is_joint:
            is_early = bool(hosts.agreed(np.array(is_early)))
        if is_early:
            return
        if self._is_joint:
            state = jax.tree.map(trees.to_host, state)
            if not hosts.current_process().first:
                return
        folder = self._folder / f"{step:08d}"
        seconds = self._seconds_before + time_now - self._began
        with folders.naming(folder):
            folders.write_folder(
                folder,
                lambda draft: trees.save_tree(draft / "state", state),
                {"seconds": round(seconds, 3)},
            )
        for old in _steps(self._folder)[:-2]:
            shutil.rmtree(old)
        self._saved = time.monotonic()


def _steps(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the folders of checkpoints, newest last."""
    return sorted(path for path in folder.glob("*") if path.name.isdecimal())


def spent(folder: pathlib.Path) -> float:
    """Return the seconds that a computation had taken at its newest checkpoint."""
    for step in reversed(_steps(folder)):
        try:
            manifest = json.loads((step / folders.MANIFEST).read_text())
            return float(manifest["seconds"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return 0.0


class Runner:
    """Runner that computes artifacts, inputs first, and stores them.

    Args:
      folder: folder of the artifacts without a root of their own.
      progress: whether to show and log progress.
      is_joint: whether several processes compute every piece together, on a mesh of all
        their devices, instead of dividing the pieces; the first one stores it.

    Attributes:
      costs: costs of the artifacts that were made, in order.
      events: TensorBoard events to write to; none if None.
    """

    events: Events | None = None

    def __init__(
        self, folder: pathlib.Path, *, progress: bool = True, is_joint: bool = False
    ) -> None:
        self.folder = pathlib.Path(folder)
        self.costs: list[Cost] = []
        self._wants_joint = is_joint
        self._is_shown = progress
        self._progress = clock.Progress(is_shown=progress)
        self._expected: list[Artifact] = []
        # The first of equal artifacts: its functions hold the compiled programs.
        self._known: dict[pathlib.Path, Artifact] = {}
        # Artifacts for which this process has done its pieces, with True if it found
        # all pieces stored.
        self._started: dict[pathlib.Path, bool] = {}
        self._made: dict[pathlib.Path, Stored] = {}
        # Folders whose checksums have been checked.
        self._sound: dict[pathlib.Path, Manifest] = {}
        # Folders that were damaged when this process last looked for them.
        self._damaged: set[pathlib.Path] = set()
        self._thread = futures.ThreadPoolExecutor(1)
        self._is_closed = threading.Event()
        self._ahead: dict[pathlib.Path, futures.Future[Any]] = {}
        self._rehearsed: dict[pathlib.Path, Rehearsed] = {}

    @property
    def is_joint(self) -> bool:
        """True if several processes compute every piece together."""
        return self._wants_joint and hosts.current_process().count > 1

    def path(self, artifact: Artifact) -> pathlib.Path:
        """Return the folder of an artifact."""
        root = self.folder if artifact.root is None else artifact.root
        return root / f"{artifact.name}-{artifact.key[:16]}"

    def expect(self, stages: Sequence[str], artifacts: Sequence[Artifact]) -> None:
        """Announce what will be made, to number stages and estimate the time left.

        Args:
          stages: labels of the stages, in order.
          artifacts: artifacts that are already known.
        """
        process = hosts.current_process()
        self._expected = list(artifacts)
        self._progress = clock.Progress(
            stages,
            self._work_left,
            process=(process.index, process.count),
            is_shown=self._is_shown,
        )

    def _work_left(self) -> float:
        """Return the cost of what is missing, as a number of training samples."""
        ordered = self._with_inputs(self._expected)
        return sum(len(self.missing(artifact)) * artifact.price for artifact in ordered)

    def say(self, label: str, text: str) -> None:
        """Log a line about a stage that makes no artifact.

        Args:
          label: label of the stage.
          text: text of the line.
        """
        self._progress.say(label, text)

    def make(self, artifact: Artifact, label: str = "") -> Stored:
        """Compute the missing part of an artifact, inputs first; return its content.

        Args:
          artifact: artifact to make.
          label: name of its cost; consecutive costs of the same name are added. The
            artifact's name if empty.

        Raises:
          DamagedFileError: a folder cannot be read back as it was written.
          InputError: a folder cannot be written.

        Warns:
          DamagedFileWarning: a stored folder is damaged; it is moved aside and
            recomputed.
        """
        path = self.path(artifact)
        if path in self._made:
            return self._made[path]
        artifact = self._known.setdefault(path, artifact)
        label = label or artifact.name
        self._start(artifact, label)
        process = hosts.current_process()
        if process.count > 1 and self.missing(artifact):
            self._progress.say(label, "waiting for the other processes")
        process.wait(lambda: self._is_there(artifact))
        if self.missing(artifact):
            raise folders.changed(path)
        if process.first:
            self._tidy(artifact)
        cached = self._started[path]
        stored = Stored(artifact, path, self._find(artifact), cached=cached)
        self._made[path] = stored
        cost = dataclasses.replace(stored.cost, name=label)
        if cached:
            self._progress.say(label, "there already")
        if self.events is not None:
            self.events.stage(cost)
            if "losses" in stored:
                # losses of an unlearning method, by run and epoch
                self.events.losses(artifact.name, 1, stored["losses"])
        if self.costs and self.costs[-1].name == label:
            last = self.costs.pop()
            cached = last.cached and cost.cached
            cost = clock.total([last, cost], label, cached=cached)
        self.costs.append(cost)
        return stored

    def compile_ahead(self, artifacts: Iterable[Artifact]) -> None:
        """Compile the programs of artifacts in a thread, while others are made.

        The artifacts have items. Their ``compute`` is called in a rehearsal
        (:func:`unlearn_jax.replicas.rehearsal`), so it must be a pure function. An
        artifact that is made before its rehearsal compiles its own programs. An error
        in a rehearsal is not reported: it recurs when the artifact is made.

        Args:
          artifacts: artifacts in the order in which they will be made.
        """
        if self.is_joint:
            # compilers for a mesh over processes may wait for the other processes
            return
        for artifact in artifacts:
            path = self.path(artifact)
            artifact = self._known.setdefault(path, artifact)
            if path not in self._ahead:
                self._ahead[path] = self._thread.submit(self.rehearse, artifact)

    def close(self) -> None:
        """Stop compiling ahead, without waiting.

        A compilation in progress cannot be stopped; the thread ends with it.
        """
        self._is_closed.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _is_open(self) -> bool:
        return not self._is_closed.is_set()

    def rehearse(self, artifact: Artifact) -> "Stored | Rehearsed":
        """Return the content of an artifact, or zeros if it is not stored.

        Its programs and those of its inputs are compiled but not run; see
        :func:`unlearn_jax.replicas.rehearsal`.

        Args:
          artifact: artifact whose ``compute`` is a pure function.
        """
        path = self.path(artifact)
        if path in self._rehearsed:
            return self._rehearsed[path]
        if not self.missing(artifact):
            return Stored(artifact, path, self._find(artifact))
        inputs = []
        for source in artifact.inputs:
            source = self._known.setdefault(self.path(source), source)
            inputs.append(self.rehearse(source))
        arguments: list[Any] = inputs
        count = None
        if artifact.items is not None:
            items = artifact.items.groups[0]
            padded = artifact.items.padded(items)
            arguments = [Piece(padded, len(items), path / "rehearsal"), *inputs]
            count = artifact.items.count
        with rehearsal(is_wanted=self._is_open):
            content = artifact.compute(*arguments)
        self._rehearsed[path] = Rehearsed(content, count)
        return self._rehearsed[path]

    @property
    def folders(self) -> list[pathlib.Path]:
        """Stored folders of all artifacts that were made."""
        return [folder for stored in self._made.values() for folder in stored.folders]

    def make_all(self, artifacts: Iterable[Artifact]) -> dict[str, Stored]:
        """Compute the missing parts of artifacts, and return their content by name.

        Several processes work on different artifacts at the same time.

        Args:
          artifacts: artifacts in an order in which inputs come first.

        Raises:
          DamagedFileError: same as for :meth:`make`.
          InputError: same as for :meth:`make`.
        """
        ordered = list(artifacts)
        if hosts.current_process().count > 1:
            for artifact in ordered:
                self._start(artifact, artifact.name)
        return {artifact.name: self.make(artifact) for artifact in ordered}

    def _start(self, artifact: Artifact, label: str) -> None:
        """Compute this process's part of the missing pieces of an artifact."""
        path = self.path(artifact)
        if path in self._started:
            return
        inputs = [self.make(source) for source in artifact.inputs]
        # artifacts of one piece are assigned to the processes in turn
        turn = 0 if artifact.items else len(self._started)
        locks.make_folder(path if artifact.items else path.parent)
        missing = self._agreed_missing(artifact)
        if missing:
            self._set_aside(artifact)
        cut = artifact.items or Items(1, 1)
        process = hosts.current_process()
        tasks = []
        for number, group in enumerate(cut.groups):
            items = [item for item in group if item in missing]
            if items and (self.is_joint or process.does(number + turn)):
                tasks.append(items)
        num_items = sum(map(len, tasks))
        with self._progress.stage(label, len(missing), num_items, cut.steps) as stage:
            for items in tasks:
                self._compute_missing(artifact, items, inputs, stage.advance)
                stage.finish_group(len(items))
        self._started[path] = not missing

    def _compute_missing(
        self,
        artifact: Artifact,
        items: list[int],
        inputs: list[Stored],
        show: Callable[[int], None],
    ) -> None:
        """Compute and store some items under the lock of their folder.

        Another run may have stored some of them while this one waited for the lock. The
        remaining items then have another folder, with another lock.
        """
        while items:
            folder = self._folder(artifact, items)
            lock = contextlib.nullcontext()
            if hosts.current_process().first or not self.is_joint:
                lock = locks.lock(folder.with_name(f".{folder.name}.lock"))
            with lock:
                missing = self._agreed_missing(artifact)
                remaining = [item for item in items if item in missing]
                if remaining == items:
                    cost = self._compute(artifact, items, inputs, show)
                    seconds = cost.seconds - cost.compile_seconds
                    self._progress.spend(len(items) * artifact.price, seconds)
                    return
            items = remaining

    def missing(self, artifact: Artifact) -> list[int]:
        """Return the missing items; ``[0]`` for a missing artifact without items."""
        manifests = self._find(artifact)
        if artifact.items is None:
            return [] if manifests else [0]
        stored: set[int] = set()
        for manifest in manifests.values():
            stored.update(manifest.items)
        return [item for item in range(artifact.items.count) if item not in stored]

    def _is_there(self, artifact: Artifact) -> bool:
        """Return whether all of an artifact is stored; raise if a part is damaged.

        Called again and again by a process that waits for the others. One that has just
        found a damaged folder may still be moving it aside, so that only a folder that
        is damaged at two calls in a row is lost.

        Raises:
          DamagedFileError: a folder cannot be read back as it was written.
        """
        if not self.missing(artifact):
            return True
        damaged = set(self._folders(artifact)) - set(self._find(artifact))
        lost = sorted(damaged & self._damaged)
        if lost:
            raise folders.changed(lost[0])
        self._damaged = damaged
        return False

    def _agreed_missing(self, artifact: Artifact) -> list[int]:
        """Return the missing items; in a joint run, those of the first process."""
        missing = self.missing(artifact)
        if not self.is_joint:
            return missing
        count = 1 if artifact.items is None else artifact.items.count
        is_missing = hosts.agreed(np.isin(np.arange(count), missing))
        return [int(item) for item in np.flatnonzero(is_missing)]

    def plan(self, artifacts: Iterable[Artifact], speed: float = 0.0) -> str:
        """Return a table of stored and missing items; write nothing.

        Args:
          artifacts: artifacts in order; their inputs are added.
          speed: training speed, in samples per second; no times if 0.
        """
        rows = []
        total = 0.0
        for artifact in self._with_inputs(artifacts):
            count = 1 if artifact.items is None else artifact.items.count
            missing = len(self.missing(artifact))
            seconds = missing * artifact.price / speed if speed else 0.0
            total += seconds
            about = f"{seconds:.0f} s" if seconds else "-"
            rows.append([artifact.name, count, count - missing, missing, about])
        if total:
            rows.append(["all", "", "", "", f"{total / 60:.1f} min"])
        headers = ["artifact", "items", "there", "to do", "about"]
        return tabulate(rows, headers=headers, tablefmt="simple")

    def _with_inputs(self, artifacts: Iterable[Artifact]) -> list[Artifact]:
        """Return artifacts and all of their inputs, each once, inputs first."""
        ordered: dict[pathlib.Path, Artifact] = {}

        def walk(artifact: Artifact) -> None:
            for source in artifact.inputs:
                walk(source)
            ordered.setdefault(self.path(artifact), artifact)

        for artifact in artifacts:
            walk(artifact)
        return list(ordered.values())

    def _folders(self, artifact: Artifact) -> list[pathlib.Path]:
        """Return the folders of an artifact that exist, finished or damaged."""
        path = self.path(artifact)
        if artifact.items is None:
            return [path] if path.exists() else []
        return sorted(path.glob("items-*"))

    def _find(self, artifact: Artifact) -> dict[pathlib.Path, Manifest]:
        """Return undamaged folders with their manifests; each is checked once."""
        manifests = {}
        for folder in self._folders(artifact):
            if folder not in self._sound:
                try:
                    manifest = Manifest.read(folder)
                except DamagedFileError:
                    continue
                if manifest is None:
                    continue
                self._sound[folder] = manifest
            manifests[folder] = self._sound[folder]
        return manifests

    def _set_aside(self, artifact: Artifact) -> None:
        """Move damaged folders out of the way."""
        damaged = set(self._folders(artifact)) - set(self._find(artifact))
        if damaged:
            with locks.lock(self.path(artifact).parent / ".damaged.lock"):
                for folder in sorted(damaged):
                    folders.set_aside(folder)

    def _folder(self, artifact: Artifact, items: list[int]) -> pathlib.Path:
        """Return the folder of a piece."""
        path = self.path(artifact)
        if artifact.items is None:
            return path
        name = f"items-{items[0]:04d}-{items[-1]:04d}"
        if items != list(range(items[0], items[-1] + 1)):
            name += f"-{hashlib.sha256(json.dumps(items).encode()).hexdigest()[:8]}"
        return path / name

    def _compute(
        self,
        artifact: Artifact,
        items: list[int],
        inputs: list[Stored],
        show: Callable[[int], None],
    ) -> Cost:
        """Compute and store some items, and return their cost in this process."""
        ahead = self._ahead.get(self.path(artifact))
        if ahead is not None:
            ahead.cancel()
        folder = self._folder(artifact, items)
        scratch = folder.with_name(f"unfinished-{folder.name}")
        seconds_before = spent(scratch)
        with clock.stopwatch() as watch:
            content = self._content(artifact, items, inputs, scratch, show)
        if self.is_joint and not hosts.current_process().first:
            return watch.cost
        seconds = round(watch.cost.seconds + seconds_before, 3)
        manifest = Manifest(
            artifact=artifact.name,
            key=artifact.key,
            settings=to_json(dict(artifact.settings)),
            items=items,
            content={name: _describe(entry) for name, entry in content.items()},
            cost=dataclasses.replace(watch.cost, seconds=seconds),
        )

        def write(draft: pathlib.Path) -> None:
            for name, entry in content.items():
                if isinstance(entry, np.ndarray):
                    folders.save_array(draft / f"{name}.npy", entry)
                else:
                    with folders.naming(draft / name):
                        trees.save_tree(draft / name, entry)

        folders.write_folder(folder, write, dataclasses.asdict(manifest))
        shutil.rmtree(scratch, ignore_errors=True)
        return watch.cost

    def _content(
        self,
        artifact: Artifact,
        items: list[int],
        inputs: list[Stored],
        scratch: pathlib.Path,
        show: Callable[[int], None],
    ) -> dict[str, PyTree]:
        """Compute some items, and return their content as NumPy arrays."""
        if artifact.items is None:
            content = artifact.compute(*inputs)
            return {name: _to_host(entry) for name, entry in content.items()}
        count = len(items)

        def advance(steps: int) -> None:
            show(steps * count)

        def record(first_epoch: int, losses: np.ndarray) -> None:
            if self.events is not None:
                name = f"{artifact.name} {items[0]}-{items[-1]}"
                self.events.losses(name, first_epoch, losses[:count])

        padded = artifact.items.padded(items)
        piece = Piece(padded, count, scratch, advance, record)
        content = artifact.compute(piece, *inputs)
        content = {name: _to_host(entry) for name, entry in content.items()}
        return jax.tree.map(lambda leaf: leaf[:count], content)

    def _tidy(self, artifact: Artifact) -> None:
        """Remove the unfinished folders of a finished artifact."""
        path = self.path(artifact)
        parent = path if artifact.items else path.parent
        name = "items-*" if artifact.items else path.name
        stale = [*parent.glob(f"unfinished-{name}"), *parent.glob(f".{name}-*")]
        stale = [folder for folder in stale if folder.is_dir()]
        if not stale:
            return
        with contextlib.ExitStack() as held:
            try:
                for file in sorted(parent.glob(f".{name}.lock")):
                    held.enter_context(locks.lock(file, wait=False))
            except InputError:
                return
            for folder in stale:
                shutil.rmtree(folder, ignore_errors=True)


def _to_host(entry: PyTree) -> PyTree:
    """Return an entry with NumPy leaves; a list of numbers becomes an array."""
    leaves = jax.tree.leaves(entry)
    if isinstance(entry, list | tuple) and all(
        isinstance(leaf, int | float | np.generic) for leaf in leaves
    ):
        entry = np.asarray(entry)
    entry = jax.tree.map(trees.to_host, entry)
    for leaf in jax.tree.leaves(entry):
        if leaf.dtype.hasobject:
            raise ValueError("Python objects cannot be stored: return arrays")
    return entry


def _describe(entry: PyTree) -> Entry:
    """Return the type of an entry and a digest of its values."""
    dtype = str(entry.dtype) if isinstance(entry, np.ndarray) else "tree"
    return Entry(dtype, trees.tree_digest(entry))
