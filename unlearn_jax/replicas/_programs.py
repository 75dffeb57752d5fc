"""Programs compiled once for their arguments, and rehearsals, which only compile."""

import contextlib
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import SingleDeviceSharding

from unlearn_jax import targets
from unlearn_jax.types import Array, PyTree

_SWITCHES = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
"""Switches of JAX, set for a thread or for all, that change what is traced."""


class Program:
    """Jitted function, compiled once for each signature of its arguments.

    In a :func:`rehearsal` a call compiles only, and returns zeros. So a thread can
    compile what another one is going to call; whoever comes second waits.

    Args:
      jitted: from ``jax.jit``.
      places: sharding of each argument, which is moved there, or a function that gives
        it; None leaves them.
    """

    def __init__(self, jitted: Any, places: Sequence[Any] | None = None) -> None:
        self._jitted = jitted
        self._places = places
        self._compiled: dict[Any, Any] = {}
        self._lock = threading.Lock()
        _programs.add(self)

    def __call__(self, *args: PyTree) -> PyTree:
        """Return what the function returns."""
        if REHEARSAL.watch is not None:
            return jax.tree.map(zeros, REHEARSAL.watch(self._jitted, self.shapes(args)))
        leaves, structure = jax.tree.flatten(args)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self._jitted(*args)
        types = [jax.typeof(leaf) for leaf in leaves]
        shapes = [
            jax.ShapeDtypeStruct(one.shape, one.dtype, weak_type=one.weak_type)
            for one in types
        ]
        if REHEARSAL.is_on and not REHEARSAL.is_wanted():
            raise UnwantedError
        compiled = self._compile(structure, tuple(shapes))
        if REHEARSAL.is_on:
            return jax.tree.map(zeros, compiled.out_info)
        if self._places is not None:
            args = tuple(map(put, args, self._shardings(args)))
        return compiled(*args)

    def _shardings(self, args: PyTree) -> list[Any]:
        if self._places is None:
            first = SingleDeviceSharding(targets.devices()[0])
            return [first] * len(args)
        return [
            place(arg) if callable(place) else place
            for place, arg in zip(self._places, args, strict=True)
        ]

    def shapes(self, args: PyTree) -> PyTree:
        """Return shapes, types and places of arguments, on the devices of the target.

        Args:
          args: arrays, or their shapes.
        """

        def shape(leaf: Any, place: Any) -> jax.ShapeDtypeStruct:
            kind = jax.typeof(leaf)
            weak = getattr(kind, "weak_type", False)
            return jax.ShapeDtypeStruct(
                kind.shape, kind.dtype, weak_type=weak, sharding=place
            )

        return tuple(
            jax.tree.map(shape, arg, jax.tree.broadcast(place, arg))
            for arg, place in zip(args, self._shardings(args), strict=True)
        )

    def _compile(self, structure: Any, shapes: tuple[Any, ...]) -> Any:
        switches = tuple(getattr(jax.config, name) for name in _SWITCHES)
        signature = (structure, shapes, switches)
        if signature in self._compiled:
            return self._compiled[signature]
        began = time.perf_counter()
        with self._lock:
            # as compilation, for whoever times this thread
            waited = time.perf_counter() - began
            jax.monitoring.record_event_duration_secs(WAITED, waited)
            if signature not in self._compiled:
                args = jax.tree.unflatten(structure, shapes)
                if self._places is not None:
                    args = self.shapes(args)
                lowered = self._jitted.lower(*args)
                options = compiler_options(lowered)
                self._compiled[signature] = lowered.compile(options)
        return self._compiled[signature]

    def clear(self) -> None:
        """Free the compiled programs."""
        self._compiled.clear()


_programs: "weakref.WeakSet[Program]" = weakref.WeakSet()


def clear_programs() -> None:
    """Free all compiled programs, of which a process can hold only so many."""
    for program in list(_programs):
        program.clear()
    jax.clear_caches()


def compiler_options(lowered: Any) -> dict[str, Any] | None:
    """Return LLVM's first level for programs without convolutions, on a CPU.

    They compile in four fifths of the time, and run as fast, with the same bits
    (measured); a ResNet takes 7% longer.
    """
    is_chosen = "xla_backend_optimization_level" in os.environ.get("XLA_FLAGS", "")
    if is_chosen or targets.platform() != "cpu":
        return None
    if re.search("stablehlo.convolution|onednn", lowered.as_text()):
        return None
    return {"xla_backend_optimization_level": 1}


WAITED = "/jax/core/compile/waited_for_another_thread"
"""Event of the seconds that a thread has waited for another one to compile."""


class UnwantedError(Exception):
    """A rehearsal ends before its next program: nobody wants it any more."""


class _Rehearsal(threading.local):
    is_on = False
    watch: "Watch | None" = None
    repeats = 1

    def is_wanted(self) -> bool:
        """Return whether to compile further programs."""
        return True


REHEARSAL = _Rehearsal()


Watch = Callable[[Any, tuple[Any, ...]], PyTree]
"""``(jitted, shapes of its arguments) -> shapes of its results``."""


@contextlib.contextmanager
def rehearsal(
    watch: Watch | None = None, is_wanted: Callable[[], bool] | None = None
) -> Iterator[None]:
    """Compile the programs that this thread calls, and run none: results are zeros.

    Of :func:`map_models`, :func:`fit_many` and :func:`predict_many`.

    Args:
      watch: called in the place of the compiler, at every call; by default that of a
        rehearsal around this one.
      is_wanted: asked before every program is compiled; where it returns False the
        rehearsal ends by :class:`UnwantedError`.
    """
    before = (REHEARSAL.is_on, REHEARSAL.watch, REHEARSAL.is_wanted)
    REHEARSAL.is_on = True
    REHEARSAL.watch = REHEARSAL.watch if watch is None else watch
    if is_wanted is not None:
        REHEARSAL.is_wanted = is_wanted
    try:
        yield
    finally:
        REHEARSAL.is_on, REHEARSAL.watch, REHEARSAL.is_wanted = before


def is_rehearsal() -> bool:
    """Return whether this thread compiles its programs only (:func:`rehearsal`)."""
    return REHEARSAL.is_on


def repeats() -> int:
    """Return the calls that a call of this thread's rehearsal stands for."""
    return REHEARSAL.repeats


def put(tree: PyTree, shardings: PyTree) -> PyTree:
    """Return arrays on devices, of which some may be other processes'.

    These hold the same arrays.
    """

    def put(leaf: Any, sharding: Any) -> Any:
        if sharding.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.jit(_same, out_shardings=sharding)(leaf)
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = put(jax.random.key_data(leaf), sharding)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, host.__getitem__)

    return jax.tree.map(put, tree, jax.tree.broadcast(shardings, tree))


def _same(leaf: Array) -> Array:
    return leaf


def zeros(like: Any) -> Any:
    """Return zeros that take no memory; of keys, their shape."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return like
    return np.broadcast_to(np.zeros((), like.dtype), like.shape)
