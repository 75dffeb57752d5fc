"""Several processes of a run, which divide the work through a shared directory.

Work comes in numbered pieces that appear as whole folders. Every process computes its
pieces and waits until all exist. Processes exchange no results: a lost process loses
only its current piece, and a rerun, with any number of processes, resumes with the
missing pieces. The result does not depend on the number of processes.
"""

import dataclasses
import itertools
import os
import sys
import time
from collections.abc import Callable

import jax
import numpy as np
from jax.experimental import multihost_utils

from unlearn_jax.types import InputError, PyTree, first_line

_POLL = 0.2
"""Seconds between two checks of the shared directory."""

_PATIENCE = 30 * 24 * 3600
"""Seconds that a process waits for the others before it ends."""

_comparisons = itertools.count()


@dataclasses.dataclass(frozen=True)
class Host:
    """Process of a run.

    Attributes:
      index: index of this process, from 0.
      count: number of processes; 1 unless JAX's distributed runtime was started.
    """

    index: int
    count: int

    @property
    def first(self) -> bool:
        """True for the process that audits and reports."""
        return self.index == 0

    def does(self, piece: int) -> bool:
        """Return whether this process computes a piece."""
        return piece % self.count == self.index

    def wait(self, is_there: Callable[[], bool]) -> None:
        """Wait until something exists; return at once if there is only one process.

        JAX's runtime ends this process when another one is lost, so the wait ends.

        Args:
          is_there: function that checks the shared directory.
        """
        while self.count > 1 and not is_there():
            time.sleep(_POLL)


def agreed(values: PyTree) -> PyTree:
    """Return the first process's values in every process; all must call this.

    Args:
      values: arrays or numbers, with the same shapes in all processes.
    """
    if jax.process_count() == 1:
        return values
    arrays = jax.tree.map(np.asarray, values)
    # sent as bytes: the broadcast adds zeros, which loses the sign of -0.0, and it
    # truncates 64-bit types
    sent = multihost_utils.broadcast_one_to_all(
        jax.tree.map(lambda array: np.frombuffer(array.tobytes(), np.uint8), arrays)
    )
    return jax.tree.map(
        lambda array, data: np.asarray(data).view(array.dtype).reshape(array.shape),
        arrays,
        sent,
    )


def check_equal(digest: str) -> None:
    """Raise in a process whose settings differ from the first one's; all call this.

    Processes of different settings would wait for each other's pieces without end.

    Args:
      digest: digest of the settings and of the code.

    Raises:
      InputError: the first process has another digest.
    """
    process = current_process()
    if process.count == 1:
        return
    # imported only here, since Orbax imports TensorFlow where it is installed
    from orbax.checkpoint import multihost

    # the store of the runtime: a broadcast would open connections of devices
    client = multihost.get_jax_distributed_client()
    name = f"unlearn_jax/settings/{next(_comparisons)}"
    if process.first:
        client.key_value_set(name, digest)
    elif client.blocking_key_value_get(name, 1000 * _PATIENCE) != digest:
        raise InputError(
            "this process has other settings, or another version of the code, than the"
            " first one: start the same command in all processes"
        )


def current_process() -> Host:
    """Return this process of the run."""
    return Host(jax.process_index(), jax.process_count())


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Start JAX's distributed runtime, before anything else of JAX is used.

    Args:
      coordinator: ``address:port`` of the first process. All three arguments may be
        None on TPU pods, under SLURM, Open MPI and Kubernetes, where JAX finds them.
      num_processes: number of processes.
      process_id: index of this process, from 0.

    Raises:
      InputError: the other processes cannot be reached, or the arguments do not fit
        together.
    """
    given = (coordinator, num_processes, process_id)
    if given.count(None) not in (0, len(given)):
        raise InputError(
            "--coordinator, --num-processes and --process-id go together: give all"
            " three, or none"
        )
    if num_processes is not None and num_processes < 1:
        raise InputError(f"--num-processes must be at least 1, got {num_processes}")
    if (
        num_processes is not None
        and process_id is not None
        and not 0 <= process_id < num_processes
    ):
        raise InputError(
            f"--process-id must be from 0 to {num_processes - 1}, got {process_id}"
        )
    if coordinator is not None:
        address, _, port = coordinator.rpartition(":")
        if not address or not port.isdecimal() or not 0 < int(port) < 2**16:
            raise InputError(
                f"--coordinator must be ADDRESS:PORT, with a port below {2**16}, got"
                f" {coordinator!r}"
            )
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, shutdown_timeout_seconds=_PATIENCE
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(
            "the processes of this run did not find each other"
            f" ({first_line(error)}): check --coordinator, --num-processes and"
            " --process-id"
        ) from error


def leave(status: int) -> None:
    """End a failed process immediately, so that the other processes end as well.

    An ordinary exit would wait for the other processes, which would wait for the pieces
    of this one. The function returns if this is the only process.

    Args:
      status: exit status.
    """
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
