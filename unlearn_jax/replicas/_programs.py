"""Programs compiled once per signature, and rehearsals, which only compile."""

import contextlib
import os
import pathlib
import re
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.sharding import Sharding, SingleDeviceSharding
from jax.stages import Compiled, Lowered, Wrapped

from unlearn_jax import targets
from unlearn_jax.types import Array, PyTree, is_key

_SWITCHES = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_default_device",
)
"""JAX options, set globally or for a thread, that change compiled programs."""

_Signature = tuple[Hashable, tuple[jax.ShapeDtypeStruct, ...], tuple[Any, ...]]
"""Structure and shapes of a program's arguments, and values of the switches."""


class Program:
    """Jitted function, compiled once for each signature of its arguments.

    In a :func:`rehearsal`, a call only compiles the function and returns zeros. So one
    thread can compile a program that another thread will call. If both need it at the
    same time, the second one waits for the first.

    Args:
      jitted: result of ``jax.jit``.
      places: for each argument, the shardings that it is moved to (one for all leaves,
        or a pytree of them), or a function from the argument to its shardings; None to
        leave all arguments on their devices.
    """

    def __init__(
        self,
        jitted: Wrapped,
        places: Sequence[PyTree | Callable[[PyTree], PyTree]] | None = None,
    ) -> None:
        self._jitted = jitted
        self._places = places
        self._compiled: dict[_Signature, Compiled] = {}
        self._lock = threading.Lock()
        _programs.add(self)

    def __call__(self, *args: PyTree) -> PyTree:
        """Return the result of the function, or zeros in a rehearsal."""
        if REHEARSAL.watch is not None:
            # nothing is compiled for this machine
            shapes = REHEARSAL.watch(self._jitted, args, self.shapes(args))
            return jax.tree.map(zeros, shapes)
        leaves, structure = jax.tree.flatten(args)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self._jitted(*args)
        types = [jax.typeof(leaf) for leaf in leaves]
        shapes = tuple(
            jax.ShapeDtypeStruct(one.shape, one.dtype, weak_type=one.weak_type)
            for one in types
        )
        should_continue = REHEARSAL.should_continue
        if should_continue is not None and not should_continue():
            raise UnwantedError
        compiled = self._compile(structure, shapes)
        if REHEARSAL.is_on:
            return jax.tree.map(zeros, compiled.out_info)
        if self._places is not None:
            args = tuple(map(put, args, self._shardings(args)))
        return compiled(*args)

    def _shardings(self, args: tuple[PyTree, ...]) -> list[PyTree]:
        """Return the shardings of each argument, on the target's devices."""
        if self._places is None:
            first = SingleDeviceSharding(targets.devices()[0])
            return [first] * len(args)
        return [
            place(arg) if callable(place) else place
            for place, arg in zip(self._places, args, strict=True)
        ]

    def shapes(self, args: tuple[PyTree, ...]) -> tuple[PyTree, ...]:
        """Return shapes, types and shardings of arguments, on the target's devices.

        Args:
          args: arrays or their shapes.
        """

        def shape(leaf: Any, place: Sharding) -> jax.ShapeDtypeStruct:
            kind = jax.typeof(leaf)
            weak = getattr(kind, "weak_type", False)
            return jax.ShapeDtypeStruct(
                kind.shape, kind.dtype, weak_type=weak, sharding=place
            )

        return tuple(
            jax.tree.map(shape, arg, jax.tree.broadcast(place, arg))
            for arg, place in zip(args, self._shardings(args), strict=True)
        )

    def _compile(
        self, structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]
    ) -> Compiled:
        """Return the program of one signature, compiled by the first thread to ask."""
        switches = tuple(getattr(jax.config, name) for name in _SWITCHES)
        signature = (structure, shapes, switches)
        compiled = self._compiled.get(signature)
        if compiled is not None:
            return compiled
        began = time.perf_counter()
        with self._lock:
            # the wait counts as compilation when this thread is timed
            waited = time.perf_counter() - began
            jax.monitoring.record_event_duration_secs(WAITED, waited)
            compiled = self._compiled.get(signature)
            if compiled is None:
                if is_short_of_maps():
                    clear_programs()
                args: tuple[PyTree, ...] = jax.tree.unflatten(structure, shapes)
                if self._places is not None:
                    args = self.shapes(args)
                lowered = self._jitted.lower(*args)
                options = compiler_options(lowered)
                compiled = lowered.compile(options)
                self._compiled[signature] = compiled
        return compiled

    def clear(self) -> None:
        """Free the compiled programs."""
        self._compiled.clear()


_programs: "weakref.WeakSet[Program]" = weakref.WeakSet()


def clear_programs() -> None:
    """Free all compiled programs: a process can hold a limited number of them."""
    for program in list(_programs):
        program.clear()
    jax.clear_caches()


def is_short_of_maps() -> bool:
    """Return whether the process has used half of the memory maps that Linux allows.

    Each program on a CPU has maps of its own. At the limit, 65,530 by default, LLVM
    cannot allocate memory, and the process crashes.
    """
    try:
        most = int(pathlib.Path("/proc/sys/vm/max_map_count").read_text())
        with open("/proc/self/maps", "rb") as maps:
            count = sum(1 for _ in maps)
    except OSError:
        # not Linux
        return False
    return count > most / 2


def compiler_options(lowered: Lowered) -> dict[str, Any] | None:
    """Return options that choose LLVM level 1 for CPU programs without convolutions.

    Such programs then compile in four fifths of the time, and run as fast, with the
    same bits (measured). A ResNet would run 7% longer. None stands for the default.

    Args:
      lowered: lowered program.
    """
    is_chosen = "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", "")
    if is_chosen or targets.platform() != "cpu":
        return None
    if re.search("stablehlo.convolution|onednn", lowered.as_text()):
        return None
    return {"xla_backend_optimization_level": 1}


WAITED = "/jax/core/compile/waited_for_another_thread"
"""Monitored event: seconds that a thread has waited while another one compiled."""


class UnwantedError(Exception):
    """Signal that ends a rehearsal whose next program is no longer needed."""


Watch = Callable[[Wrapped, tuple[PyTree, ...], tuple[PyTree, ...]], PyTree]
"""``(jitted, arguments, shapes of the arguments) -> shapes of the results``."""


class _Rehearsal(threading.local):
    """Mode of one thread, in which programs are compiled but not run.

    The mode is no argument, because programs are called deep inside other functions.
    It is local to a thread, so that one thread can rehearse what another one runs.

    Attributes:
      is_on: whether the thread is in a :func:`rehearsal`.
      watch: function that is called instead of the compiler; None for the compiler.
      repeats: number of calls that the current call stands for.
      should_continue: function that is called before every compilation and returns
        whether to continue; None to always continue.
    """

    is_on: bool = False
    watch: Watch | None = None
    repeats: int = 1
    should_continue: Callable[[], bool] | None = None


REHEARSAL = _Rehearsal()


@contextlib.contextmanager
def rehearsal(
    watch: Watch | None = None, is_wanted: Callable[[], bool] | None = None
) -> Iterator[None]:
    """Compile the programs that this thread calls, but run none: results are zeros.

    These are the programs of :func:`unlearn_jax.replicas.map_models`,
    :func:`unlearn_jax.replicas.fit_many` and
    :func:`unlearn_jax.replicas.predict_many`.

    Args:
      watch: function that every call runs instead of the compiler; None for that of an
        enclosing rehearsal, if any.
      is_wanted: function that is called before every compilation; if it returns False,
        the rehearsal ends with :class:`UnwantedError`. None for that of an enclosing
        rehearsal, if any.
    """
    before = (REHEARSAL.is_on, REHEARSAL.watch, REHEARSAL.should_continue)
    REHEARSAL.is_on = True
    if watch is not None:
        REHEARSAL.watch = watch
    if is_wanted is not None:
        REHEARSAL.should_continue = is_wanted
    try:
        yield
    finally:
        REHEARSAL.is_on, REHEARSAL.watch, REHEARSAL.should_continue = before


def is_rehearsal() -> bool:
    """Return whether this thread only compiles its programs (:func:`rehearsal`)."""
    return REHEARSAL.is_on


def repeats() -> int:
    """Return the number of calls that the current call of a rehearsal stands for."""
    return REHEARSAL.repeats


@contextlib.contextmanager
def repeated_calls(num_calls: int) -> Iterator[None]:
    """Let each program called in the context stand for several calls.

    Args:
      num_calls: value of :func:`repeats` in the context.
    """
    before = REHEARSAL.repeats
    REHEARSAL.repeats = num_calls
    try:
        yield
    finally:
        REHEARSAL.repeats = before


def put(tree: PyTree, shardings: PyTree) -> PyTree:
    """Put arrays on devices, some of which may belong to other processes.

    Those processes must hold the same arrays.

    Args:
      tree: arrays of this process, or arrays divided over all processes.
      shardings: sharding of each leaf, or of whole subtrees.
    """

    def put_leaf(leaf: Any, sharding: Sharding) -> Array:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(_same, out_shardings=sharding)(leaf)
        if is_key(leaf):
            data = put_leaf(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)

    return jax.tree.map(put_leaf, tree, jax.tree.broadcast(shardings, tree))


def _same(leaf: Array) -> Array:
    return leaf


def zeros(like: jax.ShapeDtypeStruct) -> np.ndarray | jax.ShapeDtypeStruct:
    """Return zeros that take no memory; for keys, return their shape."""
    if is_key(like):
        return like
    return np.broadcast_to(np.zeros((), like.dtype), like.shape)
