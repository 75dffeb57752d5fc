"""Who may work in a folder: locks that end with the process that holds them."""

import contextlib
import errno
import fcntl
import pathlib
from collections.abc import Iterator

from unlearn_jax.pipeline.store import hosts
from unlearn_jax.types import InputError

PROCESSES = ".lock-processes"
"""Locked number by number, one for each process of a run."""


def make_folder(folder: pathlib.Path) -> None:
    """Makes a folder and tries that it can be written.

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
def lock(folder: pathlib.Path, *, wait: bool) -> Iterator[None]:
    """Makes a folder and holds it against other processes.

    Args:
      folder: made if it is not there.
      wait: wait for the other, or refuse.

    Raises:
      InputError: it cannot be written, or is held by another run and ``wait`` is False,
        or its file system has no locks.
    """
    make_folder(folder)
    with (folder / ".lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise _refused(error, folder) from error
        yield


def _refused(error: OSError, folder: pathlib.Path) -> Exception:
    """What to say of a lock that was not given."""
    if error.errno in (errno.EACCES, errno.EAGAIN):
        return InputError(
            f"another run is at work in {folder}: wait for it, or choose another"
            " --workdir"
        )
    if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
        return InputError(
            f"the file system of {folder} has no locks: mount it with them, or choose"
            " another folder"
        )
    return error


@contextlib.contextmanager
def lock_process(folder: pathlib.Path, here: hosts.Host) -> Iterator[None]:
    """Holds one process's share of a run's folder against the processes of another run that may still be at work.

    Process ``i`` holds the number ``i``, the first one also all from their count on, so
    that any two runs exclude each other, whatever their counts.

    Args:
      folder: is there.
      here: this process.

    Raises:
      InputError: a process of another run holds one of these, or the file system has no
        locks.
    """
    with (folder / PROCESSES).open("w") as handle:
        held = [(here.index, 1), (here.count, 0)] if here.first else [(here.index, 1)]
        try:
            for first, number in held:  # 0: all that follow
                fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB, number, first)
        except OSError as error:
            raise _refused(error, folder) from error
        yield


@contextlib.contextmanager
def lock_range(folder: pathlib.Path, first: int, last: int) -> Iterator[None]:
    """Holds some of the numbered things of a folder against other processes, and waits for those who hold any of them.

    Args:
      folder: is there.
      first: number of the first.
      last: number of the last.
    """
    with (folder / ".lock-models").open(
        "w"
    ) as handle:  # closing it gives the lock back
        fcntl.lockf(handle, fcntl.LOCK_EX, last - first + 1, first)
        yield
