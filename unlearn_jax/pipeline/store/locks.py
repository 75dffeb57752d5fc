"""Locks on files, which end with the process that holds them."""

import contextlib
import errno
import pathlib
from collections.abc import Iterator

import filelock

from unlearn_jax.pipeline.store import hosts
from unlearn_jax.types import InputError

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)


def make_folder(folder: pathlib.Path) -> None:
    """Make a folder that can be written.

    Raises:
      InputError: it cannot.
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
      file: made where it is missing, and left; its folder exists.
      wait: wait for the process that holds it, or refuse.

    Raises:
      InputError: another run holds it and ``wait`` is False, or the file system has no
        locks.
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
            f"the file system of {file.parent} has no locks: mount it with them, or"
            " choose another folder"
        ) from error
    try:
        yield
    finally:
        held.release()


@contextlib.contextmanager
def lock_process(folder: pathlib.Path, this: hosts.Host) -> Iterator[None]:
    """Hold a process's lock on a run's folder against processes of an earlier run.

    Process ``i`` holds lock ``i``; the first one also those of all larger numbers, so
    that any two runs exclude each other, whatever their numbers of processes.

    Args:
      folder: exists.
      this: this process.

    Raises:
      InputError: a process of another run holds one of these, or the file system has no
        locks.
    """
    numbers = [this.index]
    if this.first:
        for file in folder.glob(".process-*.lock"):
            number = int(file.stem.rpartition("-")[2])
            if number >= this.count:
                numbers.append(number)
    with contextlib.ExitStack() as held:
        for number in sorted(numbers):
            held.enter_context(lock(folder / f".process-{number}.lock", wait=False))
        yield
