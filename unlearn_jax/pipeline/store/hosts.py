"""Several processes at one run: who does what, and waiting for the others through the shared working directory.

Work comes in pieces that have a number and appear as a whole folder when they are
finished (groups of models, parts of a stage). Every process does the pieces that fall
to it and waits until all are there. Nothing is sent: the processes see the same files,
so a process that is lost takes no more with it than the piece it was at, and a rerun,
with as many processes or another number, goes on with what is missing. The result does
not depend on the number of processes.
"""

import dataclasses
import os
import sys
import time
from collections.abc import Callable

import jax

from unlearn_jax.types import InputError

_POLL = 0.2
"""Seconds between two looks at the shared directory."""

_PATIENCE = 30 * 24 * 3600
"""Seconds that a process waits at its end for the others: those that have done their share, for the first to report."""


@dataclasses.dataclass(frozen=True)
class Host:
    """One of the processes of a run.

    Attributes:
      index: of this process.
      count: of all of them; 1 unless JAX's distributed runtime was started.
    """

    index: int
    count: int

    @property
    def first(self) -> bool:
        """This process audits and reports."""
        return self.index == 0

    def does(self, piece: int) -> bool:
        """Whether a piece of work falls to this process."""
        return piece % self.count == self.index

    def wait(self, there: Callable[[], bool]) -> None:
        """Returns when something is there; at once if nobody else works.

        JAX's runtime ends this process when another one is lost, so the wait does.

        Args:
          there: looks at the shared directory.
        """
        while self.count > 1 and not there():
            time.sleep(_POLL)


def here() -> Host:
    """This process."""
    return Host(jax.process_index(), jax.process_count())


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Starts JAX's distributed runtime; before anything else of JAX is used.

    Args:
      coordinator: ``address:port`` of the first process. All three may be None on TPU
        pods, under SLURM, Open MPI and Kubernetes, where JAX finds out by itself.
      num_processes: how many there are.
      process_id: which one this is.

    Raises:
      InputError: the others cannot be reached, or the values do not fit together.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is None for value in given) and any(
        value is not None for value in given
    ):
        raise InputError(
            "--coordinator, --num-processes and --process-id go together: give all"
            " three, or none"
        )
    if (
        num_processes is not None
        and process_id is not None
        and not 0 <= process_id < num_processes
    ):
        raise InputError(
            f"--process-id must be from 0 to {num_processes - 1}, got {process_id}"
        )
    if coordinator is not None and not coordinator.rpartition(":")[2].isdecimal():
        raise InputError(f"--coordinator must be ADDRESS:PORT, got {coordinator!r}")
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, shutdown_timeout_seconds=_PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"the processes of this run did not find each other ({reason}): check"
            " --coordinator, --num-processes and --process-id"
        ) from error


def leave(status: int) -> None:
    """Ends a process that failed at once where others are at the run: these notice, and end, too.

    An ordinary end would wait for them, and they for this one's share. Returns where
    nobody else works.

    Args:
      status: exit status.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
