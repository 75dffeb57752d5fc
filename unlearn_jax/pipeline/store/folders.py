"""Files between stages: folders that appear whole or not at all, and are checked when they are read."""

import contextlib
import errno
import hashlib
import importlib.metadata
import itertools
import json
import os
import pathlib
import platform
import re
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from unlearn_jax import __version__
from unlearn_jax.data.tfds_reader import file_sha256
from unlearn_jax.pipeline.store import hosts, locks
from unlearn_jax.types import DamagedFileError, InputError, PyTree

MANIFEST = "manifest.json"


def write_folder(
    path: pathlib.Path, fill: Callable[[pathlib.Path], None], manifest: dict[str, Any]
) -> None:
    """Makes a folder in one step: filled under a temporary name, then renamed.

    Args:
      path: must not exist, or be a folder to replace; the caller holds the lock of a
        folder above it.
      fill: writes the files into the folder it is given.
      manifest: stored as ``manifest.json`` with the SHA-256 of every file, and of
        itself.
    """
    for orphan in path.parent.glob(
        f".{path.name}-*"
    ):  # of a process that was killed while it wrote
        shutil.rmtree(orphan)
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        fill(draft)
        files = {file.name: file_sha256(file) for file in sorted(draft.iterdir())}
        manifest = json.loads(json.dumps({**manifest, "files": files}))
        files[MANIFEST] = _manifest_sha256(manifest)
        write_text(draft / MANIFEST, json.dumps({**manifest, "files": files}, indent=1))
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def read_manifest(path: pathlib.Path) -> dict[str, Any] | None:
    """The manifest of a finished folder, every file of it checked; None where there is no such folder.

    Raises:
      DamagedFileError: a file is missing or does not have the checksum it was written
        with.
    """
    if not path.is_dir():
        return None
    with _refusing(path / MANIFEST):
        manifest = json.loads((path / MANIFEST).read_text())
        files = dict(manifest["files"])
        own = _manifest_sha256(manifest)
    if files.pop(MANIFEST, own) != own:
        raise damaged(path / MANIFEST, path)
    for name, checksum in files.items():
        with _refusing(path / name):
            sound = file_sha256(path / name) == checksum
        if not sound:
            raise damaged(path / name, path)
    return {**manifest, "files": files}


def _manifest_sha256(manifest: dict[str, Any]) -> str:
    """Checksum of what a manifest says, its own checksum left out."""
    files = {
        name: checksum
        for name, checksum in manifest["files"].items()
        if name != MANIFEST
    }
    return hashlib.sha256(
        json.dumps({**manifest, "files": files}, sort_keys=True).encode()
    ).hexdigest()


def is_damage(error: Exception) -> bool:
    """Whether what a reader met is the file's fault; memory or descriptors that are short, or permissions, are not."""
    unreadable = (
        None,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EIO,
        errno.ESTALE,
        errno.EINVAL,
    )
    return (
        error.errno in unreadable
        if isinstance(error, OSError)
        else not isinstance(error, MemoryError)
    )


def damaged(file: pathlib.Path, folder: pathlib.Path) -> DamagedFileError:
    """The error for a file that is not what was written."""
    return DamagedFileError(
        f"{file} is missing, truncated or changed since it was written: delete the"
        f" folder {folder} and run the same command again to rebuild it"
    )


def changed(what: pathlib.Path) -> DamagedFileError:
    """The error for something that was written in this run and is not sound."""
    return DamagedFileError(
        f"{what} was changed or removed while this run was at work: check the disk, and"
        " run the same command again"
    )


class DamagedFileWarning(UserWarning):
    """A stored folder was not what was written; it was moved aside and its content is computed anew."""


def find_manifest(path: pathlib.Path) -> dict[str, Any] | None:
    """The manifest of a finished and sound folder; None where there is none, or where it is damaged."""
    try:
        return read_manifest(path)
    except DamagedFileError:
        return None


def set_aside(folder: pathlib.Path) -> None:
    """Moves a folder out of the way that is there but damaged, with a warning; a sound one stays.

    Args:
      folder: of :func:`write_folder`; the caller holds the lock of a folder above it.
    """
    try:
        read_manifest(folder)
    except DamagedFileError as error:
        move_aside(folder, str(error).partition(":")[0])


def move_aside(folder: pathlib.Path, what: str) -> None:
    """Renames a folder to ``damaged-NAME-NUMBER`` beside it, and warns.

    Args:
      folder: to be renamed.
      what: was found, a sentence without a full stop.
    """
    names = (
        folder.with_name(f"damaged-{folder.name}-{number}")
        for number in itertools.count()
    )
    target = next(name for name in names if not name.exists())
    folder.rename(target)
    warnings.warn(
        f"{what}; moved to {target}, and computed anew",
        DamagedFileWarning,
        stacklevel=3,
    )


def write_file(path: pathlib.Path, fill: Callable[[pathlib.Path], object]) -> None:
    """Makes a file in one step: a reader sees the old file or the new one, never a half.

    Args:
      path: the file; its folder is made.
      fill: writes the file of another name, with the same suffix, that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}{path.suffix}")
    try:
        with naming(path):
            fill(draft)
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a text file in one step, see :func:`write_file`."""
    write_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def save_array(path: pathlib.Path, array: np.ndarray) -> None:
    """An array as ``.npy``, without pickle."""
    with naming(path):
        np.save(path, array, allow_pickle=False)


def save_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays by name as one ``.npz``."""
    with naming(path):
        np.savez(path, **arrays)  # type: ignore[arg-type]


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Adds the file to what is said of a disk that is full; NumPy gives no number where it took fewer bytes."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        number = errno.ENOSPC if error.errno is None else error.errno
        raise OSError(number, os.strerror(number), str(path)) from error


def load_array(path: pathlib.Path) -> np.ndarray:
    """The inverse of :func:`save_array`, as a read-only map of the file.

    Raises:
      DamagedFileError: not such a file; one of pickled objects is not, and nothing of
        it is executed.
    """
    with _refusing(path):
        return np.lib.format.open_memmap(path, mode="r")


def load_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """The arrays of an ``.npz`` file by name.

    Raises:
      DamagedFileError: as :func:`load_array`.
    """
    with (
        _refusing(path),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as stored,
    ):
        return {
            name: stored[name] for name in stored.files
        }  # numpy leaves a truncated file that it opened open


@contextlib.contextmanager
def _refusing(path: pathlib.Path) -> Iterator[None]:
    """What readers of NumPy and JSON say, half a dozen types of exceptions, as one."""
    try:
        yield
    except Exception as error:
        if not is_damage(error):
            raise
        raise damaged(path, path.parent) from error


def save_tree(path: pathlib.Path, tree: PyTree) -> None:
    """A pytree of arrays as one ``.npz``, leaves named by their path; no pickle, unknown types as bytes."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    save_arrays(
        path, {jax.tree_util.keystr(place): np.asarray(leaf) for place, leaf in leaves}
    )


def load_tree(path: pathlib.Path, like: PyTree) -> PyTree:
    """The inverse of :func:`save_tree`.

    Args:
      path: the file.
      like: a pytree of the same structure (arrays or shapes), whose leading axis may
        differ.

    Raises:
      DamagedFileError: as :func:`load_array`, or other leaves, shapes or types than
        ``like`` has.
    """
    leaves, treedef = jax.tree.flatten_with_path(like)
    stored, names = (
        load_arrays(path),
        [jax.tree_util.keystr(place) for place, _ in leaves],
    )
    if set(names) != set(stored):
        raise damaged(path, path.parent)
    arrays = [stored[name] for name in names]
    for position, (array, (_, leaf)) in enumerate(zip(arrays, leaves, strict=True)):
        if (
            array.dtype.kind == "V" and array.dtype.itemsize == leaf.dtype.itemsize
        ):  # bfloat16 and its like
            arrays[position] = array = array.view(leaf.dtype)
        if array.shape[1:] != leaf.shape[1:] or array.dtype != leaf.dtype:
            raise damaged(path, path.parent)
    return jax.tree.unflatten(treedef, arrays)


def versions() -> dict[str, str]:
    """Versions of what decides the numbers, and the devices."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
    devices = jax.devices()
    return {
        "unlearn_jax": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
        "platform": f"{platform.system()} {platform.machine()}",
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


class Workdir:
    """A run's directory: refused when it is somebody else's, locked while a run works in it."""

    MARK = "unlearn_jax.json"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path).expanduser().resolve()

    def check(self) -> None:
        """Refuses a directory that is not ours, without changing anything.

        Raises:
          InputError: a file, a directory with other content, or one that cannot be
            written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: give --workdir a folder")
        if self.path.is_dir() and not self._ours():
            raise InputError(
                f"{self.path} holds files that are not of an unlearn_jax run: give"
                " --workdir a new or empty folder"
            )
        nearest = next(
            folder for folder in (self.path, *self.path.parents) if folder.exists()
        )
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise InputError(
                f"{self.path} cannot be written: check the permissions of {nearest}, or"
                " choose another --workdir"
            )

    def _ours(self) -> bool:
        """Marked, or with nothing in it but what is there before the mark, or with what only a run makes."""
        before = re.compile(rf"\.lock|\.{re.escape(self.MARK)}-.*")
        if (self.path / self.MARK).is_file() or all(
            before.fullmatch(file.name) for file in self.path.iterdir()
        ):
            return True
        parts = itertools.chain(
            self.path.glob(f"*/{MANIFEST}"), self.path.glob(f"*/part-*/{MANIFEST}")
        )
        return (self.path / "config.json").is_file() and any(map(_by_us, parts))

    @contextlib.contextmanager
    def locked(self) -> Iterator[pathlib.Path]:
        """Makes and marks the directory, and keeps other runs out of it.

        The first of several processes makes it, the others wait for that.

        Raises:
          InputError: as :meth:`check`, or another run, or a process of one, is at work
            in it.
        """
        here, mark = hosts.here(), self.path / self.MARK
        if not here.first:
            here.wait(mark.is_file)
            with locks.lock_process(self.path, here):
                yield self.path
            return
        self.check()
        with locks.lock(self.path, wait=False):
            said = json.dumps({"what": "a working directory of unlearn_jax"})
            if not mark.is_file() or mark.read_bytes() != said.encode():
                write_text(mark, said)
            with locks.lock_process(self.path, here):
                self._tidy()
                yield self.path

    def _tidy(self) -> None:
        """Removes what processes that were killed left half written beside the folders of the stages."""
        for file in self.path.iterdir():
            if file.is_file() and re.fullmatch(r"\..+-\d+(\.\w+)?", file.name):
                file.unlink()


def _by_us(manifest: pathlib.Path) -> bool:
    try:
        return "unlearn_jax" in json.loads(manifest.read_text())["versions"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
