"""Wall time, compilation time, peak memory and progress of a computation.

Progress is shown as lines of the logger ``unlearn_jax``, which the command line prints,
and as bars on terminals.
"""

import contextlib
import dataclasses
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
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
      name: name of the computation.
      seconds: wall time, compilation included.
      compile_seconds: time of tracing, lowering and compiling, the part of ``seconds``
        that a second call does not take.
      peak_memory_mb: largest host memory that the process has held so far, in MiB.
      cached: whether the result was already stored; the cost is then that of the
        original computation.
    """

    name: str = ""
    seconds: float = 0.0
    compile_seconds: float = 0.0
    peak_memory_mb: float = 0.0
    cached: bool = False


def total(costs: Iterable[Cost], name: str = "", *, cached: bool = False) -> Cost:
    """Return the total cost of computations: times are added, the peak is the largest.

    Args:
      costs: costs of the computations.
      name: name of the total.
      cached: whether all results were already stored.
    """
    costs = list(costs)
    return Cost(
        name=name,
        seconds=round(sum(cost.seconds for cost in costs), 3),
        compile_seconds=round(sum(cost.compile_seconds for cost in costs), 3),
        peak_memory_mb=max((cost.peak_memory_mb for cost in costs), default=0.0),
        cached=cached,
    )


class _Compilation(threading.local):
    """Seconds that this thread has spent on compiling or on waiting for a compiler."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._spans: list[tuple[float, float]] = []

    def add(self, begin: float, end: float) -> None:
        """Count a span of time once, whatever other spans it contains."""
        # tracing a function traces the functions that it calls, which end first
        while self._spans and self._spans[-1][1] > begin:
            inner_begin, inner_end = self._spans.pop()
            self.seconds -= inner_end - inner_begin
            begin = min(begin, inner_begin)
        self._spans.append((begin, end))
        self.seconds += end - begin


_compilation = _Compilation()


def _listen(event: str, duration_secs: float, **kwargs: Any) -> None:
    del kwargs
    if event.startswith("/jax/core/compile/"):
        end = time.perf_counter()
        _compilation.add(end - duration_secs, end)


jax.monitoring.register_event_duration_secs_listener(_listen)


class Stopwatch:
    """Clock of a block of code; ``cost`` is set once the block has ended."""

    cost = Cost()


@contextlib.contextmanager
def stopwatch(name: str = "") -> Iterator[Stopwatch]:
    """Time a block of code.

    Args:
      name: name of the cost.
    """
    watch = Stopwatch()
    began = time.perf_counter()
    compiled_before = _compilation.seconds
    try:
        yield watch
    finally:
        seconds = time.perf_counter() - began
        compile_seconds = _compilation.seconds - compiled_before
        watch.cost = Cost(
            name=name,
            seconds=round(seconds, 3),
            compile_seconds=round(min(compile_seconds, seconds), 3),
            peak_memory_mb=round(peak_memory_mb(), 1),
        )


LOG = logging.getLogger("unlearn_jax")
"""Log of the stages of runs, at level INFO."""

HEARTBEAT = 60.0
"""Seconds between the lines that a stage writes while it computes, without a bar."""


class _Lines(logging.StreamHandler):
    """Handler that writes above the bars of a terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a line; ignore errors of the stream, which must not fail a run."""
        with contextlib.suppress(OSError, ValueError):
            tqdm.write(self.format(record), file=self.stream)


@contextlib.contextmanager
def log_lines() -> Iterator[None]:
    """Write the log to standard error in a block, unless it already has a handler."""
    if LOG.handlers or logging.getLogger().handlers:
        yield
        return
    handler = _Lines(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level = LOG.level
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
    LOG.propagate = False  # absl gives the root logger a handler of its own
    try:
        yield
    finally:
        LOG.removeHandler(handler)
        LOG.setLevel(level)
        LOG.propagate = True


def duration(seconds: float) -> str:
    """Return a time as text, in the unit that suits its size.

    >>> [duration(seconds) for seconds in (0.2, 48, 150, 9000, 200000)]
    ['0.2 s', '48 s', '2.5 min', '2.5 h', '2.3 days']
    """
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def progress(label: str, items: Iterable[Any], *, unit: str) -> tqdm:
    """Return items with a bar that is shown on terminals and vanishes at the end.

    Args:
      label: label of the bar.
      items: items to iterate over.
      unit: word for one item.
    """
    return tqdm(items, label, unit=unit, disable=None, leave=False, dynamic_ncols=True)


def has_bars() -> bool:
    """Return whether standard error is a terminal that has columns.

    The terminals of containers and recorders may have no columns.
    """
    try:
        return sys.stderr.isatty() and os.get_terminal_size(2).columns > 0
    except (AttributeError, OSError, ValueError):
        return False


class Progress:
    """Progress of a run by stages: their numbers, bars, lines of text and time left.

    Args:
      stages: labels of the stages, in order; a label that is not among them has no
        number.
      work_left: function that returns the price of all that is not computed, in
        samples; the time left of the whole run is left out if it returns 0.
      process: index of this process, and number of processes.
      is_shown: whether to show bars and write lines.
    """

    def __init__(
        self,
        stages: Sequence[str] = (),
        work_left: Callable[[], float] = lambda: 0.0,
        *,
        process: tuple[int, int] = (0, 1),
        is_shown: bool = True,
    ) -> None:
        self._stages = list(stages)
        self._work_left = work_left
        self._process = process
        self._is_shown = is_shown
        self._paid = 0.0
        self._seconds = 0.0

    def title(self, label: str) -> str:
        """Return the label of a stage with its number."""
        if label not in self._stages:
            return label
        number = self._stages.index(label) + 1
        return f"stage {number} of {len(self._stages)}, {label}"

    def say(self, label: str, text: str) -> None:
        """Write a line about a stage.

        Args:
          label: label of the stage.
          text: text of the line.
        """
        if not self._is_shown:
            return
        index, count = self._process
        where = f" [process {index + 1} of {count}]" if count > 1 else ""
        LOG.info("%s: %s%s", self.title(label), text, where)

    def spend(self, price: float, seconds: float) -> None:
        """Count finished work, for the estimate of the time left.

        Args:
          price: price of the work, in samples.
          seconds: time that it took, without compilation.
        """
        if price:
            self._paid += price
            self._seconds += seconds

    def time_left(self) -> str:
        """Return the time left of the whole run as text; empty if it is not known."""
        work = self._work_left()
        if not (work and self._paid):
            return ""
        seconds = work * self._seconds / self._paid / self._process[1]
        return f"about {duration(seconds)} left of the run without compilation"

    @contextlib.contextmanager
    def stage(
        self, label: str, total: int, num_items: int, steps: int
    ) -> Iterator["Stage"]:
        """Show a stage: a bar on a terminal, lines elsewhere, and a line at its end.

        Args:
          label: label of the stage.
          total: number of items that all processes have to compute.
          num_items: number of items that this process has to compute.
          steps: units of progress per item.
        """
        is_shown = self._is_shown and num_items > 0
        bar = tqdm(
            desc=self.title(label),
            total=num_items * steps,
            disable=not (is_shown and has_bars()),
            leave=False,
            dynamic_ncols=True,
        )
        with bar:
            stage = Stage(self, label, bar, num_items, steps)
            if bar.disable and is_shown:
                self.say(label, f"{num_items} of {total} to do")
            yield stage
        if is_shown:
            stage.end()


class Stage:
    """Stage in progress, made by :meth:`Progress.stage`."""

    def __init__(
        self, progress: Progress, label: str, bar: tqdm, num_items: int, steps: int
    ) -> None:
        self._progress = progress
        self._label = label
        self._bar = bar
        self._num_items = num_items
        self._steps = steps
        self._done = 0
        self._group = 0
        self._began = time.perf_counter()
        self._told = self._began

    def advance(self, steps: int) -> None:
        """Advance by units of progress, summed over all items of a group."""
        self._group += steps
        self._bar.update(steps)
        if time.perf_counter() - self._told > HEARTBEAT:
            self._tell(self._done * self._steps + self._group)

    def finish_group(self, num_items: int) -> None:
        """Count a finished group.

        Args:
          num_items: number of items of the group.
        """
        self._bar.update(num_items * self._steps - self._group)
        self._bar.set_postfix_str(self._progress.time_left())
        self._done += num_items
        self._group = 0
        if self._done < self._num_items:
            self._tell(self._done * self._steps)

    def _tell(self, steps: int) -> None:
        """Write the progress of the stage if no bar shows it."""
        self._told = time.perf_counter()
        if not self._bar.disable or not steps:
            return
        items = steps / self._steps
        seconds = self._told - self._began
        left = seconds * (self._num_items - items) / items
        phrases = [
            f"{items:.4g} of {self._num_items}",
            _rate(items, seconds),
            f"about {duration(left)} left",
            self._progress.time_left(),
        ]
        self._progress.say(self._label, ", ".join(filter(None, phrases)))

    def end(self) -> None:
        """Write the last line of the stage."""
        seconds = time.perf_counter() - self._began
        phrases = [
            f"{self._num_items} done in {duration(seconds)}",
            _rate(self._num_items, seconds),
            self._progress.time_left(),
        ]
        self._progress.say(self._label, ", ".join(filter(None, phrases)))


def _rate(items: float, seconds: float) -> str:
    """Return the items per second, or the time per item if that exceeds a second.

    >>> _rate(1234, 1.0), _rate(3, 2.0), _rate(1, 90.0)
    ('1,234 per s', '1.5 per s', '90 s each')
    """
    if items >= seconds:
        rate = items / max(seconds, 1e-9)
        return f"{rate:.3g} per s" if rate < 999.5 else f"{rate:,.0f} per s"
    return f"{duration(seconds / items)} each"


def peak_memory_mb() -> float:
    """Return the largest host memory that this process has held so far, in MiB."""
    if resource is None:
        return 0.0
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
