"""The replica bank: trained models and their logits on disk, shared by every run whose models are the same.

A bank's folder is named by what determines its models: data, network, recipe, and who
trains on what with which key; nothing else. Inside, each finished group of models is a
folder ``models-FIRST-LAST`` with ``models.npz`` (variables, stacked) and ``logits.npy``
``[G, N, C]`` over the whole pool, so that auditing never touches a model again. A group
under way keeps Orbax checkpoints (state of the optimizer, epoch, keys) in
``training-FIRST-LAST``.
"""

import dataclasses
import hashlib
import logging
import pathlib
import re
import shutil
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from tqdm import tqdm

from unlearn_jax.pipeline.config.schema import ReplicasConfig
from unlearn_jax.pipeline.store import clock, hosts, locks
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.replicas import fit_many, map_models, mapper, predict_many
from unlearn_jax.train import LossFn, Recipe, TrainState, init_state, steps_per_epoch
from unlearn_jax.types import Dataset, Model, PyTree, Variables


class BankSpec(NamedTuple):
    """What a bank holds.

    Attributes:
      name: for people: originals, references ...
      key: content key, hexadecimal.
      model: the network.
      pool: the samples that models train on and are evaluated on.
      member: ``[M, N]`` bool, who trains on what.
      keys: ``[M, 2]`` key data of the models' keys.
      recipe: how they are trained.
      loss_fn: the objective; cross-entropy if None.
      finish: what is done to a model at the end of its training; nothing if None.
    """

    name: str
    key: str
    model: Model
    pool: Dataset
    member: np.ndarray
    keys: np.ndarray
    recipe: Recipe
    loss_fn: LossFn | None = None
    finish: Callable[[Variables], Variables] | None = None


class Bank:
    """Trained models on disk: ``ensure`` trains what is missing, the rest reads."""

    def __init__(
        self, root: pathlib.Path, spec: BankSpec, settings: ReplicasConfig
    ) -> None:
        self.spec, self.settings = spec, settings
        self.folder = root / f"{spec.name}-{spec.key[:16]}"
        self._finished: dict[tuple[int, int], dict[str, Any]] | None = None
        self._sound: dict[pathlib.Path, dict[str, Any]] = {}

    def finished(self) -> dict[tuple[int, int], dict[str, Any]]:
        """Manifests of the finished, sound groups by first and last model; files are checked once per process."""
        if self._finished is not None:
            return self._finished
        groups = {}
        for folder in sorted(self.folder.glob("models-*-*")):
            first, last = map(int, folder.name.split("-")[1:])
            manifest = self._sound.get(folder) or store.find_manifest(folder)
            if manifest is not None:
                groups[first, last] = self._sound[folder] = manifest
        self._finished = groups
        return groups

    def missing(self) -> list[int]:
        """Models not trained yet."""
        done = {m for first, last in self.finished() for m in range(first, last + 1)}
        return [m for m in range(len(self.spec.member)) if m not in done]

    def ensure(self, progress: Callable[..., tqdm]) -> tuple[dict[str, float], bool]:
        """Trains, evaluates and stores the models that are missing.

        Args:
          progress: makes the progress bar.

        Returns:
          What the whole bank cost when it was made, and whether all of it was there
          already.

        Raises:
          DivergedError: a model's loss was not finite.
          DamagedFileError: a group cannot be read back as it was written.

        Warns:
          DamagedFileWarning: a stored file is not what was written; its group is moved
            aside and trained again.
        """
        here = hosts.here()
        locks.make_folder(self.folder)
        self._finished = None  # another process may have trained meanwhile
        self._sound.clear()
        missing = self.missing()
        if missing:
            self._train(missing, progress, here)
            here.wait(self._complete)
            self._finished = None
        if lost := self.missing():
            raise store.changed(self.folder / f"model {lost[0]}")
        if here.first:
            self._tidy()
        cost: dict[str, float] = {}
        for manifest in self.finished().values():
            cost = clock.add(cost, manifest["cost"])
        return cost, not missing

    def _tidy(self) -> None:
        """Removes checkpoints and half-written groups of processes that were killed, or of another grouping."""
        patterns = ("training-*", ".models-*-*")
        if any(list(self.folder.glob(pattern)) for pattern in patterns):
            with locks.lock_range(
                self.folder, 0, len(self.spec.member) - 1
            ):  # nobody trains
                for stale in (
                    folder
                    for pattern in patterns
                    for folder in self.folder.glob(pattern)
                ):
                    shutil.rmtree(
                        stale, ignore_errors=True
                    )  # its process may be removing it, too

    def _complete(self) -> bool:
        """Whether every model is there and sound; new files are read once there are enough."""
        ranges = [
            folder.name.split("-")[1:] for folder in self.folder.glob("models-*-*")
        ]
        if sum(int(last) - int(first) + 1 for first, last in ranges) < len(
            self.spec.member
        ):
            return False
        self._finished = None
        return not self.missing()

    def _train(
        self, missing: list[int], progress: Callable[..., tqdm], here: hosts.Host
    ) -> None:
        total = len(self.spec.member)
        size = -(
            -total // -(-total // self.settings.group)
        )  # of all models, so that a rerun meets the same groups
        groups = [
            np.intersect1d(missing, np.arange(start, start + size))
            for start in range(0, total, size)
        ]
        mine = [
            (number, rows)
            for number, rows in enumerate(groups)
            if len(rows) and here.does(number)
        ]
        count = sum(len(rows) for _, rows in mine)
        with progress(
            total=count * self.spec.recipe.num_epochs, desc=self.spec.name, unit="epoch"
        ) as bar:
            for number, rows in mine:
                first, last = number * size, min((number + 1) * size, total) - 1
                with locks.lock_range(
                    self.folder, first, last
                ):  # runs on one bank may group differently
                    self._finished = None  # whoever held it may have trained them
                    self._set_aside(rows)
                    rows = np.intersect1d(rows, self.missing())
                    for run in np.split(
                        rows, np.where(np.diff(rows) != 1)[0] + 1
                    ):  # what is stored is a range
                        if len(run):
                            self._train_group([int(m) for m in run], size, bar)

    def _set_aside(self, rows: np.ndarray) -> None:
        """Moves damaged groups with some of these models out of the way."""
        with locks.lock(
            self.folder / ".damaged.lock"
        ):  # such a group may reach into the share of another process
            for folder in sorted(self.folder.glob("models-*-*")):
                first, last = map(int, folder.name.split("-")[1:])
                if len(np.intersect1d(rows, np.arange(first, last + 1))):
                    store.set_aside(folder)

    def _train_group(self, rows: list[int], size: int, bar: tqdm) -> None:
        spec = self.spec
        filled = np.array(
            rows + [rows[-1]] * (size - len(rows))
        )  # one size for all groups: one compilation
        how = mapper(
            self.settings.mapper, num_models=size, devices=self.settings.devices
        )
        label = f"{rows[0]:04d}-{rows[-1]:04d}"
        with clock.stopwatch() as cost:
            with _Checkpoints(
                self.folder / f"training-{label}", self.settings.checkpoint_seconds
            ) as checkpoints:
                state, before = checkpoints.restore(self._blank(size))
                began = int(state.epoch[0]) if state is not None else 0
                bar.update(began * len(rows))

                def note(state: TrainState, losses: np.ndarray) -> None:
                    bar.update(losses.shape[1] * len(rows))
                    if (
                        np.asarray(state.epoch)[0] < spec.recipe.num_epochs
                    ):  # the last losses are of no checkpoint
                        checkpoints.save(state)

                state, losses = fit_many(
                    jax.random.wrap_key_data(jnp.asarray(spec.keys[filled])),
                    spec.model,
                    spec.pool,
                    spec.member[filled],
                    spec.recipe,
                    mapper=how,
                    state=state,
                    loss_fn=spec.loss_fn,
                    num_batches=steps_per_epoch(
                        int(spec.member.sum(1).max()), spec.recipe.batch_size
                    ),
                    epochs_per_call=epochs_per_call(
                        spec.recipe, int(spec.member.sum(1).max()) * size
                    ),
                    callback=note,
                )
            trained = state.variables
            if spec.finish is not None:
                trained = map_models(how, _each(spec.finish), trained, ())
            variables = jax.tree.map(
                lambda leaf: np.asarray(leaf)[: len(rows)], trained
            )
            logits = predict_many(
                spec.model.apply, trained, spec.pool.images, mapper=how
            )[: len(rows)]

        def fill(folder: pathlib.Path) -> None:
            store.save_tree(folder / "models.npz", variables)
            store.save_array(folder / "logits.npy", logits)

        cost = clock.add(cost, before)
        last = [float(loss) for loss in losses[: len(rows), -1]] if losses.size else []
        manifest = {
            "bank": spec.name,
            "key": spec.key,
            "models": rows,
            "mapper": how.name,
            "loss": last,
            "cost": cost,
        }
        store.write_folder(
            self.folder / f"models-{label}",
            fill,
            {**manifest, "versions": store.versions()},
        )
        shutil.rmtree(self.folder / f"training-{label}", ignore_errors=True)

    def _blank(self, size: int) -> TrainState:
        """Shapes of the stacked training state."""
        one = jax.eval_shape(
            lambda key: init_state(key, self.spec.model, self.spec.recipe.tx),
            jax.random.key(0),
        )
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), one
        )

    def logits(self) -> np.ndarray:
        """``[M, N, C]`` float32 of all models over the pool (memory-mapped where it is one group)."""
        parts = [
            store.load_array(self._group(group) / "logits.npy")
            for group in sorted(self.finished())
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def variables(self) -> Variables:
        """All models, stacked: leaves ``[M, ...]``."""
        like = self._blank(1).variables
        parts = [
            store.load_tree(self._group(group) / "models.npz", like)
            for group in sorted(self.finished())
        ]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    def _group(self, group: tuple[int, int]) -> pathlib.Path:
        return self.folder / f"models-{group[0]:04d}-{group[1]:04d}"


@lru_cache(maxsize=16)
def _each(
    finish: Callable[[Variables], Variables],
) -> Callable[[Variables, Any], Variables]:
    """As :func:`unlearn_jax.replicas.map_models` wants it; the same object again, so that groups share a program."""
    return lambda variables, _: finish(variables)


def epochs_per_call(recipe: Recipe, samples_per_epoch: int) -> int:
    """Epochs in one compiled call: about half a million samples, so that progress shows and overhead does not."""
    wanted = max(1, 500_000 // samples_per_epoch)
    return next(
        (
            n
            for n in range(min(wanted, recipe.num_epochs), 0, -1)
            if recipe.num_epochs % n == 0
        ),
        1,
    )


class _Tree(ocp.CheckpointHandler):
    """A pytree in one file, written by any process; Orbax's own writes arrays of the host in the first one only."""

    def save(self, directory: Any, args: "_TreeArgs") -> None:
        """Writes the file."""
        store.save_tree(pathlib.Path(directory) / "tree.npz", args.item)

    def restore(self, directory: Any, args: "_TreeArgs") -> PyTree:
        """Reads it; ``args`` holds a pytree of the same structure."""
        return store.load_tree(pathlib.Path(directory) / "tree.npz", args.item)


@ocp.args.register_with_handler(_Tree, for_save=True, for_restore=True)
@dataclasses.dataclass
class _TreeArgs(ocp.args.CheckpointArgs):
    item: PyTree


class _Checkpoints:
    """Orbax checkpoints of a group under way: saved at most every so often, the newest two kept.

    Each holds the training state, the seconds spent so far, and a checksum over the
    state.
    """

    def __init__(self, folder: pathlib.Path, every: float) -> None:
        self._folder, self._every, self._last = folder, every, time.monotonic()
        self._began, self._before = time.monotonic(), 0.0
        self._manager: ocp.CheckpointManager | None = None

    def __enter__(self) -> "_Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._manager is not None:
            try:
                with store.naming(self._folder):
                    self._manager.close()
            finally:
                self._manager = None
                logging.getLogger("absl").removeFilter(_worth_saying)

    def _open(self) -> ocp.CheckpointManager:
        if self._manager is None:
            me = jax.process_index()  # Orbax would wait for the other processes of the run, who are at other groups
            alone = ocp.options.MultiprocessingOptions(
                primary_host=me,
                active_processes={me},
                barrier_sync_key_prefix=f"process-{me}",
            )
            self._folder.mkdir(exist_ok=True)
            options = ocp.CheckpointManagerOptions(
                max_to_keep=2, create=False, multiprocessing_options=alone
            )
            logging.getLogger("absl").addFilter(_worth_saying)
            self._manager = ocp.CheckpointManager(self._folder, options=options)
        return self._manager

    def restore(self, like: TrainState) -> tuple[TrainState | None, dict[str, float]]:
        """The newest sound checkpoint (None where there is none), and what training had cost until then.

        Where one cannot be read, or is not what was saved, the checkpoints are moved
        aside with a warning, and training goes on from the one before.
        """
        nothing: dict[str, float] = {
            "seconds": 0.0,
            "compile_seconds": 0.0,
            "peak_memory_mb": 0.0,
        }
        steps = (
            sorted(self._open().all_steps(), reverse=True)
            if self._folder.is_dir()
            else []
        )
        found = next(
            (
                (step, saved)
                for step in steps
                if (saved := self._read(step, like)) is not None
            ),
            None,
        )
        if steps and (found is None or found[0] != steps[0]):
            self._close()
            store.move_aside(
                self._folder,
                f"checkpoint {self._folder / str(steps[0])} is truncated or changed, or"
                " of another replicas.group",
            )
        if found is None:
            return None, nothing
        self._before = float(found[1]["seconds"])
        return found[1]["state"], {**nothing, "seconds": round(self._before, 3)}

    def _read(self, step: int, like: TrainState) -> dict[str, Any] | None:
        """A checkpoint; None where it is of no use, which Orbax says with whatever its readers meet."""
        blank = {
            "state": like,
            "seconds": np.zeros(()),
            "checksum": np.zeros(32, np.uint8),
        }
        try:
            saved = self._open().restore(step, args=_TreeArgs(blank))
        except Exception as error:
            if not store.is_damage(error):
                raise
            return None
        state = jax.tree.map(jnp.asarray, saved["state"])
        if jax.tree.map(np.shape, state) != jax.tree.map(
            np.shape, like
        ):  # of a group of another size
            return None
        if not np.array_equal(
            saved["checksum"], _checksum(jax.tree.map(np.asarray, state))
        ):
            return None
        return {**saved, "state": state}

    def save(self, state: TrainState) -> None:
        """Saves if the last time is long enough ago."""
        if time.monotonic() - self._last >= self._every:
            host = jax.tree.map(np.asarray, state)
            spent = np.asarray(self._before + time.monotonic() - self._began)
            saved = {"state": host, "seconds": spent, "checksum": _checksum(host)}
            with store.naming(self._folder):
                self._open().save(int(host.epoch[0]), args=_TreeArgs(saved))
            self._last = time.monotonic()


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not what Orbax raises in a thread, as it raises that again; nor its metadata, which decide nothing."""
    again = (
        r"_SignalingThread\.run\(\) raised|Failed to run .* Handler Commit|Save"
        r" Finalize thread .* failed"
    )
    nothing = "Metadata file|Failed to (write|update) metadata="
    return not re.search(f"{again}|{nothing}", record.getMessage())


def _checksum(tree: Any) -> np.ndarray:
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)
