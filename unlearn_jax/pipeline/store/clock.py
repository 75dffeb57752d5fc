"""Wall time, compilation apart, and peak memory of a computation; its progress."""

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
from tqdm import tqdm

try:
    import resource
except ImportError:  # Windows
    resource = None


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost of a computation.

    Attributes:
      name: of the computation.
      seconds: wall time, compilation included.
      compile_seconds: tracing, lowering and compiling, the part of ``seconds`` that a
        second call does not pay.
      peak_memory_mb: the most host memory that the process has held so far, in MiB.
      cached: the result was stored already; the cost is that of its making.
    """

    name: str = ""
    seconds: float = 0.0
    compile_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    cached: bool = False


def total(costs: Iterable[Cost], name: str = "", *, cached: bool = False) -> Cost:
    """Return the cost of several computations: times add up, the peak is the largest.

    Args:
      costs: of the computations.
      name: of the whole.
      cached: all were stored already.
    """
    costs = list(costs)
    return Cost(
        name,
        round(sum(cost.seconds for cost in costs), 3),
        round(sum(cost.compile_seconds for cost in costs), 3),
        max((cost.peak_memory_mb for cost in costs), default=0.0),
        cached,
    )


class _Compilation(threading.local):
    """Seconds that this thread has compiled, or waited for another one to compile."""

    seconds = 0.0


_compilation = _Compilation()


def _listen(event: str, duration_secs: float, **kwargs: Any) -> None:
    del kwargs
    if event.startswith("/jax/core/compile/"):
        _compilation.seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)


class Stopwatch:
    """Clock of a block; ``cost`` is that of the block once it has ended."""

    cost = Cost()


@contextlib.contextmanager
def stopwatch(name: str = "") -> Iterator[Stopwatch]:
    """Time a block.

    Args:
      name: of the cost.
    """
    watch = Stopwatch()
    began = time.perf_counter()
    compiled = _compilation.seconds
    try:
        yield watch
    finally:
        seconds = time.perf_counter() - began
        watch.cost = Cost(
            name,
            round(seconds, 3),
            round(min(_compilation.seconds - compiled, seconds), 3),
            round(peak_memory_mb(), 1),
        )


def progress(
    label: str,
    items: Iterable[Any] | None = None,
    *,
    total: int | None = None,
    unit: str = "it",
    is_hidden: bool = False,
) -> tqdm:
    """Return a progress bar that is shown on terminals and vanishes at the end.

    Args:
      label: of the bar.
      items: to go through; None for a bar that the caller advances.
      total: number of steps, where ``items`` do not tell.
      unit: of a step.
      is_hidden: show nothing.
    """
    return tqdm(
        items,
        label,
        total,
        unit=unit,
        disable=True if is_hidden else None,
        leave=False,
        dynamic_ncols=True,
    )


def peak_memory_mb() -> float:
    """Return the most host memory that this process has held so far, in MiB."""
    if resource is None:
        return 0.0
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
