"""Folders that appear whole or not at all, with checksums that readers verify."""

import contextlib
import datetime
import errno
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from unlearn_jax import __version__, onednn
from unlearn_jax.data.tfds_reader import file_sha256
from unlearn_jax.pipeline.store import hosts, locks
from unlearn_jax.types import DamagedFileError, InputError, ReportError, first_line

FORMAT = 3
"""Number of the format of stored folders; part of every key."""

MANIFEST = "manifest.json"

VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2", "sve": "SVE", "asimd": "NEON"}
"""Names of vector instruction sets by Linux's processor flags, widest first."""

SWITCHES = {
    "jax_enable_x64": False,
    "jax_default_matmul_precision": None,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
}
"""JAX options that decide numbers, with their default values."""

DAMAGE = (
    None,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EIO,
    errno.ESTALE,
    errno.EINVAL,
)
"""Error numbers of readers that mean a damaged file, not lack of memory or rights."""


class DamagedFileWarning(UserWarning):
    """A damaged folder was moved aside; its content is recomputed."""


def write_folder(
    path: pathlib.Path, write: Callable[[pathlib.Path], None], manifest: dict[str, Any]
) -> None:
    """Make a folder in one step: write it under a temporary name, then rename it.

    Args:
      path: path of the folder; an existing folder is replaced. The caller holds its
        lock.
      write: function that writes the files into the folder it is given.
      manifest: values to store in ``manifest.json``, with the format, the versions, and
        the SHA-256 of every file and of the manifest itself.
    """
    # drafts of processes that were killed while they wrote
    for draft in path.parent.glob(f".{path.name}-*"):
        if draft.name.removeprefix(f".{path.name}-").isdecimal():
            shutil.rmtree(draft)
    draft = path.with_name(f".{path.name}-{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        write(draft)
        seal(draft, sorted(filter(pathlib.Path.is_file, draft.rglob("*"))), manifest)
        if path.exists():
            shutil.rmtree(path)
        draft.rename(path)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def seal(
    folder: pathlib.Path, files: Iterable[pathlib.Path], manifest: dict[str, Any]
) -> None:
    """Write the manifest of a folder.

    Args:
      folder: folder for ``manifest.json``.
      files: files whose checksums are in the manifest, in the folder or elsewhere.
      manifest: values to store, see :func:`write_folder`.
    """
    checksums = {}
    for file in files:
        name = pathlib.Path(os.path.relpath(file, folder)).as_posix()
        checksums[name] = file_sha256(file)
    about = {"format": FORMAT, **manifest, "versions": versions(), "files": checksums}
    about = json.loads(json.dumps(about))
    checksums[MANIFEST] = _manifest_sha256(about)
    text = json.dumps({**about, "files": checksums}, indent=1)
    write_text(folder / MANIFEST, text)


def is_sealed(folder: pathlib.Path, key: str) -> bool:
    """Return whether a folder was sealed under a key and is unchanged since then.

    Args:
      folder: folder of :func:`seal`. If its files include manifests, the folders of
        these manifests are checked as well.
      key: key that its manifest must have.
    """
    try:
        if json.loads((folder / MANIFEST).read_text()).get("key") != key:
            return False
        manifest = read_manifest(folder) or {}
        for name in manifest["files"]:
            if pathlib.Path(name).name == MANIFEST:
                read_manifest((folder / name).parent)
    except (DamagedFileError, OSError, ValueError, AttributeError):
        return False
    return True


def is_as_sealed(file: pathlib.Path) -> bool:
    """Return False if a file differs from its checksum in its folder's manifest."""
    try:
        manifest = json.loads((file.parent / MANIFEST).read_text())
        checksum = manifest["files"].get(file.name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return True
    return checksum is None or checksum == file_sha256(file)


def read_manifest(path: pathlib.Path) -> dict[str, Any] | None:
    """Return the manifest of a finished folder after a check of every file.

    Returns:
      The manifest, or None if the folder does not exist.

    Raises:
      DamagedFileError: a file is missing, its checksum has changed since it was
        written, or ``path`` is a file.
    """
    if not path.exists():
        return None
    with reading(path / MANIFEST, path):
        manifest = json.loads((path / MANIFEST).read_text())
        files = dict(manifest["files"])
        checksum = files.pop(MANIFEST)
        manifest["files"] = files
        expected = _manifest_sha256(manifest)
    if checksum != expected:
        raise damaged(path / MANIFEST, path)
    for name, checksum in files.items():
        with reading(path / name, path):
            expected = file_sha256(path / name)
        if checksum != expected:
            raise damaged(path / name, path)
    return manifest


def _manifest_sha256(manifest: dict[str, Any]) -> str:
    """Return the checksum of a manifest without its own checksum."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def find_manifest(path: pathlib.Path) -> dict[str, Any] | None:
    """Return the manifest of a finished and undamaged folder, or None."""
    try:
        return read_manifest(path)
    except DamagedFileError:
        return None


def is_damage(error: Exception) -> bool:
    """Return whether an error of a reader means that the file is damaged."""
    if isinstance(error, OSError):
        return error.errno in DAMAGE
    return not isinstance(error, MemoryError)


@contextlib.contextmanager
def reading(file: pathlib.Path, folder: pathlib.Path) -> Iterator[None]:
    """Raise DamagedFileError in place of a reader's errors on a damaged file."""
    try:
        yield
    except Exception as error:
        if not is_damage(error):
            raise
        raise damaged(file, folder) from error


def damaged(file: pathlib.Path, folder: pathlib.Path) -> DamagedFileError:
    """Return the error for a file that differs from what was written."""
    return DamagedFileError(
        f"{file} is missing, truncated or changed since it was written: delete the"
        f" folder {folder} and run the same command again to rebuild it"
    )


def changed(path: pathlib.Path) -> DamagedFileError:
    """Return the error for a folder that was written in this run and is damaged."""
    return DamagedFileError(
        f"{path} was changed or removed while this run was at work: check the disk, and"
        " run the same command again"
    )


def set_aside(folder: pathlib.Path) -> None:
    """Move a damaged folder out of the way with a warning; an undamaged one stays.

    Args:
      folder: folder of :func:`write_folder`; the caller holds a lock on it.
    """
    try:
        read_manifest(folder)
    except DamagedFileError as error:
        move_aside(folder, str(error).partition(":")[0])


def move_aside(
    folder: pathlib.Path, reason: str, place: pathlib.Path | None = None
) -> None:
    """Rename a folder to ``damaged-NAME-NUMBER``, and warn.

    Args:
      folder: folder to rename.
      reason: sentence without a period.
      place: path whose name is ``NAME``; the folder's own if None.
    """
    place = place or folder
    number = 0
    while (target := place.with_name(f"damaged-{place.name}-{number}")).exists():
        number += 1
    folder.rename(target)
    warnings.warn(
        f"{reason}; moved to {target}, and recomputed",
        DamagedFileWarning,
        stacklevel=3,
    )


def write_file(path: pathlib.Path, write: Callable[[pathlib.Path], object]) -> None:
    """Make a file in one step: a reader gets the old file or the new one.

    Args:
      path: path of the file; its folder is made.
      write: function that writes to the temporary path it is given, which has the same
        suffix.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}-{os.getpid()}{path.suffix}")
    try:
        with naming(path):
            write(draft)
            os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text file in one step."""
    write_file(path, lambda draft: draft.write_text(text, encoding="utf-8"))


def write_each(
    writers: Mapping[str, Callable[[], object]],
    folder: pathlib.Path,
    result: Any,
    faults: Sequence[str] = (),
) -> None:
    """Write the parts of a report on a stored result, one after the other.

    If a part fails, the others are still written: days of computing are not lost to a
    figure.

    Args:
      writers: functions that write a part each, by name of the part.
      folder: folder that they write to.
      result: result that is already stored; the error carries it.
      faults: faults found before, one line each.

    Raises:
      ReportError: a part cannot be written, or there are faults; all other parts are
        written.
    """
    faults = list(faults)
    for name, write in writers.items():
        try:
            write()
        except Exception as error:
            faults.append(f"{name} cannot be written: {first_line(error)}")
    if faults:
        where = f"the other results are in {folder}"
        raise ReportError(f"{'; '.join(faults)}; {where}", result)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Add the file to the error of a full disk; NumPy and Orbax name none."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        number = errno.ENOSPC if error.errno is None else error.errno
        raise OSError(number, os.strerror(number), str(path)) from error


def save_array(path: pathlib.Path, array: np.ndarray) -> None:
    """Write an array as ``.npy``, without pickle."""
    with naming(path):
        np.save(path, array, allow_pickle=False)


def load_array(path: pathlib.Path) -> np.ndarray:
    """Return the array of a ``.npy`` file as a read-only memory map.

    Raises:
      DamagedFileError: the file is not a valid ``.npy`` file of numbers. Pickled
        objects are rejected as well, and nothing in them is executed.
    """
    with reading(path, path.parent):
        return np.lib.format.open_memmap(path, mode="r")


def versions() -> dict[str, str]:
    """Return the versions of all that determines the results, and the devices."""
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
    native = onednn.native().version
    return {
        "unlearn_jax": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
        **({"onednn": native} if native else {}),
        "platform": f"{platform.system()} {platform.machine()}",
        "devices": _device_names(),
    }


def switches() -> list[str]:
    """Return the JAX options of :data:`SWITCHES` that are not at their defaults."""
    return [
        f"{name}={getattr(jax.config, name)}"
        for name, default in SWITCHES.items()
        if getattr(jax.config, name) != default
    ]


class Provenance(NamedTuple):
    """Origin of a result that is computed now.

    Attributes:
      date: date and time in UTC, in the form of ISO 8601.
      device: number and kind of the devices.
      versions: versions of all that determines the result, by name.
      command: command line of the process; empty if it is not the package's.
    """

    date: str
    device: str
    versions: dict[str, str]
    command: str


def provenance() -> Provenance:
    """Return the date, devices, versions and command to store with a result."""
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    by_name = versions()
    device = by_name.pop("devices")
    command = ""
    program = pathlib.PurePath(sys.argv[0])
    is_module = program.parts[-2:] == ("unlearn_jax", "__main__.py")
    if is_module or program.stem == "unlearn-jax":
        command = shlex.join(["unlearn-jax", *sys.argv[1:]])
    return Provenance(date, device, by_name, command)


@functools.cache
def _device_names() -> str:
    """Return the number and kind of accelerators, or of cores with vector units."""
    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    cores = num_cores()
    machine = platform.machine().replace("x86_64", "x86-64").replace("AMD64", "x86-64")
    try:
        features = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:  # another system
        features = ""
    for flag, name in VECTORS.items():
        if re.search(rf"\b{flag}\b", features):
            machine += f", {name}"
            break
    return f"{cores} CPU core{'s' * (cores > 1)} ({machine})"


def num_cores() -> int:
    """Return the number of cores that the process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Workdir:
    """Directory of a run, locked while a run works in it."""

    MARK = "unlearn_jax.json"

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(os.path.expanduser(path)).resolve()

    def check(self) -> None:
        """Raise on a directory that no run of this version can use; change nothing.

        Raises:
          InputError: the path is a file, or a directory that has other content, has
            another format, or cannot be written.
        """
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path} is a file: give --workdir a folder")
        if self.path.is_dir() and not self._is_new():
            layout = self._format()
            if layout is None:
                raise InputError(
                    f"{self.path} holds files that are not of an unlearn_jax run: give"
                    " --workdir a new or empty folder"
                )
            if layout != FORMAT:
                raise InputError(
                    f"{self.path} is of format {layout}, but this version writes format"
                    f" {FORMAT}: give --workdir a new folder, or delete this one"
                )
        nearest = next(
            folder for folder in (self.path, *self.path.parents) if folder.exists()
        )
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise InputError(
                f"{self.path} cannot be written: check the permissions of {nearest}, or"
                " choose another --workdir"
            )

    def _is_new(self) -> bool:
        """Return whether the folder holds only files written before the mark."""
        draft = rf"\.{re.escape(self.MARK)}-.*"
        early = re.compile(rf"\.lock|\.process-\d+\.lock|{draft}")
        return all(early.fullmatch(file.name) for file in self.path.iterdir())

    def _format(self) -> int | None:
        """Return the format of a run's directory; None if it is not a run's.

        If the mark is missing or damaged, the format is read from the manifests.
        """
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            about = json.loads((self.path / self.MARK).read_text())
            return int(about.get("format", 2))
        if not (self.path / "config.json").is_file():
            return None
        manifests = [*self.path.glob(f"*/{MANIFEST}")]
        manifests += self.path.glob(f"*/*/{MANIFEST}")
        for file in manifests:
            with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
                about = json.loads(file.read_text())
                if "unlearn_jax" in about.get("versions", {}):
                    return int(about.get("format", 2))
        return None

    @contextlib.contextmanager
    def locked(self) -> Iterator[pathlib.Path]:
        """Make and mark the directory, and keep other runs out of it.

        The first of several processes makes it, and the others wait for that.

        Raises:
          InputError: same as for :meth:`check`; or another run, or a process of one, is
            using the directory.
        """
        process = hosts.current_process()
        mark = self.path / self.MARK
        if not process.first:
            process.wait(mark.is_file)
            with locks.lock_process(self.path, process):
                yield self.path
            return
        self.check()
        locks.make_folder(self.path)
        with locks.lock(self.path / ".lock", wait=False):
            about = {"what": "a working directory of unlearn_jax", "format": FORMAT}
            text = json.dumps(about)
            if not mark.is_file() or mark.read_bytes() != text.encode():
                write_text(mark, text)
            with locks.lock_process(self.path, process):
                # files of processes that were killed while they wrote
                for file in self.path.iterdir():
                    if file.is_file() and re.fullmatch(
                        r"\..+-\d+(\.(?!lock)\w+)?", file.name
                    ):
                        file.unlink()
                yield self.path
