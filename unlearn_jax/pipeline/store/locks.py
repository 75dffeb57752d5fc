"""Locks on files, released when the process that holds them ends."""

import contextlib
import errno
import pathlib
from collections.abc import Iterator

import filelock

from unlearn_jax.pipeline.store import hosts
from unlearn_jax.types import InputError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


def make_folder(folder: pathlib.Path) -> None:
    """Make a folder, and check that it can be written.

    Raises:
      InputError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".lock").touch()
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror}): check its permissions or"
            " choose another"
        ) from error


@contextlib.contextmanager
def lock(file: pathlib.Path, *, wait: bool = True) -> Iterator[None]:
    """Hold a lock against other processes.

    Args:
      file: lock file, which is made if missing and never removed; its folder must
        exist.
      wait: whether to wait for the process that holds the lock, or to raise.

    Raises:
      InputError: another run holds the lock and ``wait`` is False, or the file system
        has no locks.
    """
    held = filelock.FileLock(file, timeout=-1 if wait else 0, fallback_to_soft=False)
    try:
        held.acquire()
    except filelock.Timeout as error:
        raise InputError(
            f"another run is at work in {file.parent}: wait for it, or choose another"
            " --workdir"
        ) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        raise InputError(
            f"the file system of {file.parent} has no locks: mount it with locks, or"
            " choose another folder"
        ) from error
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def lock_process(folder: pathlib.Path, process: hosts.Host) -> Iterator[None]:
    """Hold a process's lock on a run's folder against processes of an earlier run.

    Process ``i`` holds lock ``i``. The first process also holds every existing lock
    with a larger number than the run's last process, so that any two runs exclude each
    other, whatever their numbers of processes.

    Args:
      folder: folder of the run, which must exist.
      process: this process.

    Raises:
      InputError: a process of another run holds one of these locks, or the file system
        has no locks.
    """
    numbers = [process.index]
    if process.first:
        for file in folder.glob(".process-*.lock"):
            number = file.stem.removeprefix(".process-")
            if number.isdecimal() and int(number) >= process.count:
                numbers.append(int(number))
    with contextlib.ExitStack() as held:
        for number in sorted(numbers):
            held.enter_context(lock(folder / f".process-{number}.lock", wait=False))
        yield
