"""Many models at once: mappers, and training and prediction of stacked models.

A stack of ``M`` models is a pytree whose leaves have a leading ``M``. "For each model"
is a replaceable *mapper*, so the same pure function of one model runs as a Python loop,
as ``lax.map``, as ``vmap``, or over devices by ``pmap`` with any of these inside;
batches of models too large for one device are divided over several, and so are the
samples of a data set too large for one.
All give the same result; which is fast depends on the backend and on the model.
"""

import contextlib
import math
import os
import re
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from functools import cache, lru_cache, partial, wraps
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from numpy.typing import ArrayLike

from unlearn_jax import targets
from unlearn_jax.checks import check_images, check_samples, warn_of_probabilities
from unlearn_jax.data import Splits, membership_design, pool
from unlearn_jax.models.conv import BATCH_AXIS
from unlearn_jax.models.flops import has_convolutions
from unlearn_jax.train import (
    Batch,
    FetchFn,
    LossFn,
    Recipe,
    TrainState,
    check_losses,
    check_member,
    cross_entropy_loss,
    fetch_from,
    init_state,
    predict,
    steps_per_epoch,
    train_epochs,
)
from unlearn_jax.types import (
    ApplyFn,
    Array,
    Dataset,
    InputError,
    Model,
    PyTree,
    Variables,
    check_apply_fn,
)

Form = Literal["auto", "loop", "map", "vmap", "split"]
OneModel = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
"""``(carry, item, shared) -> (carry, out)`` of one model; the carry is donated."""


class Mapper(NamedTuple):
    """Way to apply a function to each of ``M`` models.

    Attributes:
      name: for reports, such as ``"pmap[2] x map"``.
      place: puts shared data on the devices, once: ``shared -> placed``.
      lift: ``fun -> mapped``,
        ``mapped(carry [M, ...], item [M, ...], placed) -> (carry, out)``; the carry is
        donated.
      shards: parts that every batch of a training step is divided into; 1 for none.
      fetch: turns a function that reads batches into one that divides them.
      place_data: puts a training set on the devices, once; ``place`` by default.
      lift_training: ``lift`` of functions that read a placed training set through
        ``fetch`` alone; ``lift`` by default.
    """

    name: str
    place: Callable[[PyTree], PyTree]
    lift: Callable[
        [OneModel], Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
    ]
    shards: int = 1
    fetch: Callable[[FetchFn], FetchFn] = lambda fetch: fetch
    place_data: Callable[[Dataset], PyTree] | None = None
    lift_training: Callable[[OneModel], OneModel] | None = None


_SWITCHES = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_numpy_dtype_promotion",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
)
"""Switches of JAX, set for a thread or for all, that change what is traced."""


class _Program:
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
        if _rehearsal.watch is not None:
            return jax.tree.map(
                _zeros, _rehearsal.watch(self._jitted, self.shapes(args))
            )
        leaves, structure = jax.tree.flatten(args)
        if any(isinstance(leaf, Tracer) for leaf in leaves):
            return self._jitted(*args)
        types = [jax.typeof(leaf) for leaf in leaves]
        shapes = [
            jax.ShapeDtypeStruct(one.shape, one.dtype, weak_type=one.weak_type)
            for one in types
        ]
        if _rehearsal.is_on and not _rehearsal.is_wanted():
            raise UnwantedError
        compiled = self._compile(structure, tuple(shapes))
        if _rehearsal.is_on:
            return jax.tree.map(_zeros, compiled.out_info)
        if self._places is not None:
            args = tuple(map(_put, args, self._shardings(args)))
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
                options = _compiler_options(lowered)
                self._compiled[signature] = lowered.compile(options)
        return self._compiled[signature]

    def clear(self) -> None:
        """Free the compiled programs."""
        self._compiled.clear()


_programs: "weakref.WeakSet[_Program]" = weakref.WeakSet()


def clear_programs() -> None:
    """Free all compiled programs, of which a process can hold only so many."""
    for program in list(_programs):
        program.clear()
    jax.clear_caches()


def _compiler_options(lowered: Any) -> dict[str, Any] | None:
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


_rehearsal = _Rehearsal()


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
    before = (_rehearsal.is_on, _rehearsal.watch, _rehearsal.is_wanted)
    _rehearsal.is_on = True
    _rehearsal.watch = _rehearsal.watch if watch is None else watch
    if is_wanted is not None:
        _rehearsal.is_wanted = is_wanted
    try:
        yield
    finally:
        _rehearsal.is_on, _rehearsal.watch, _rehearsal.is_wanted = before


def is_rehearsal() -> bool:
    """Return whether this thread compiles its programs only (:func:`rehearsal`)."""
    return _rehearsal.is_on


def repeats() -> int:
    """Return the calls that a call of this thread's rehearsal stands for."""
    return _rehearsal.repeats


def _put(tree: PyTree, shardings: PyTree) -> PyTree:
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


def _zeros(like: Any) -> Any:
    """Return zeros that take no memory; of keys, their shape."""
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        return like
    return np.broadcast_to(np.zeros((), like.dtype), like.shape)


def _body(form: str, fun: OneModel) -> OneModel:
    """Return ``fun`` of one model as a traceable function of a stack.

    Of a stack of one model where the form is ``loop``. The form ``auto`` maps what
    holds convolutions: mapped at once, they become grouped ones, which GPUs compute at
    a fraction of the speed of plain ones.
    """
    if form == "auto":
        at_once = _body("vmap", fun)
        in_turn = _body("map", fun)

        @wraps(fun)
        def chosen(
            carry: PyTree, item: PyTree, shared: PyTree
        ) -> tuple[PyTree, PyTree]:
            one = jax.tree.map(itemgetter(0), (carry, item))
            jaxpr = jax.make_jaxpr(fun)(*one, shared).jaxpr
            mapped = in_turn if has_convolutions(jaxpr) else at_once
            return mapped(carry, item, shared)

        return chosen
    if form == "vmap":
        return jax.vmap(fun, in_axes=(0, 0, None))
    if form == "loop":

        @wraps(fun)
        def one(carry: PyTree, item: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
            carry, item = jax.tree.map(itemgetter(0), (carry, item))
            return jax.tree.map(lambda leaf: leaf[None], fun(carry, item, shared))

        return one

    @wraps(fun)
    def each(carry: PyTree, item: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
        return lax.map(lambda pair: fun(pair[0], pair[1], shared), (carry, item))

    return each


def _slots(mapped: OneModel, size: int) -> OneModel:
    """Return the Python loop over a stack, ``size`` models at a time."""

    def run(carry: PyTree, item: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
        models = jax.tree.leaves((carry, item))[0].shape[0]
        results = []
        for first in range(0, models, size):
            take = partial(jnp.take, indices=np.arange(first, first + size), axis=0)
            part = jax.tree.map(take, carry)
            results.append(mapped(part, jax.tree.map(take, item), shared))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *results)

    return run


def mapper(
    form: Form = "auto",
    *,
    num_models: int,
    devices: int | None = None,
    split: int = 1,
    shard_data: bool = False,
    across_hosts: bool = False,
) -> Mapper:
    """Make the mapper of ``num_models`` models.

    Args:
      form: ``loop`` is a jitted call per model, ``map`` one program that goes through
        them with ``lax.map``, ``vmap`` one program that does all at once. ``auto``
        takes the fastest: ``map`` on CPU (measured: 32 times the speed of ``vmap`` for
        a small CNN); elsewhere ``map`` for programs with convolutions, ``vmap`` for
        others. ``split`` is ``loop`` with every batch divided over all devices.
      num_models: ``M``; no more devices than models are used, but by ``split``.
      devices: local devices to spread the models over by ``pmap``; all of them by
        default, 1 for none. ``M`` need not be a multiple: the last model is repeated as
        padding and its copies are dropped.
      split: devices that each batch of a training step is divided over (data
        parallelism, for models that fill a device). The mesh then has two axes, models
        and batches. Equal to the others to rounding, since gradients are summed in
        another order. Everything but training (attacks, predictions) runs on the
        devices of a model alike.
      shard_data: the images of a training set are divided over the devices in place of
        being on each; every device sends the others the rows of their batches, with
        the same bits. For data sets that do not fit. All else (attacks, methods,
        predictions) has images over the devices of a model, where ``split`` divides
        their number.
      across_hosts: the mesh is over the devices of all processes, which make the same
        calls with the same arguments (JAX's distributed runtime). Losses and logits
        are returned to each; states stay on the devices (:func:`to_host`).

    Returns:
      The mapper.

    Raises:
      InputError: unknown form, or a number of devices that is not there.
    """
    if form == "auto" and targets.platform() == "cpu":
        form = "map"
    if form not in ("auto", "loop", "map", "vmap", "split"):
        raise InputError(
            f"unknown mapper {form!r}: choose auto, loop, map, vmap or split"
        )
    present = targets.devices(across_hosts=across_hosts)
    if devices is not None and not 1 <= devices <= len(present):
        raise InputError(
            f"{devices} devices asked for, {len(present)} present: choose 1 to"
            f" {len(present)}"
        )
    count = devices or len(present)
    suffix = " x shards" if shard_data else ""
    if form == "split":
        name = f"split[{count}]{suffix}"
        return _on_mesh("loop", present[:count], count, name, shard_data)
    if split < 1 or count % split:
        raise InputError(
            f"{count} devices do not divide into parts of split={split}: choose a"
            " divisor"
        )
    models = count // split
    if not across_hosts:
        # of all processes each needs a device, those without a model that of a padding
        models = min(models, num_models)
    name = f"pmap[{models}] x {form}"
    if split > 1:
        name = f"{name} x split[{split}]"
    if models * split > 1:
        chosen = present[: models * split]
        return _on_mesh(form, chosen, split, name + suffix, shard_data)
    return _on_one(form, targets.current())


@lru_cache(maxsize=64)
def _on_one(form: str, target: targets.Target | None) -> Mapper:
    """Return the mapper on the first device of a target, None for this machine."""
    del target

    def lift(fun: OneModel) -> OneModel:
        program = _Program(jax.jit(_body(form, fun), donate_argnums=0))
        stacked = _slots(program, 1) if form == "loop" else program

        def run(carry: PyTree, item: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
            carry, item = _on_first((carry, item))
            return stacked(carry, item, shared)

        return run

    def place(shared: PyTree) -> PyTree:
        is_shape = _rehearsal.watch is not None
        return shared if is_shape else jax.tree.map(jnp.asarray, shared)

    return Mapper(form, place, lift)


@lru_cache(maxsize=64)
def _on_mesh(
    form: str, devices: tuple[Any, ...], split: int, name: str, shard_data: bool
) -> Mapper:
    """Return the mapper over a mesh of models, and of the parts of their batches.

    The axis of the models is manual: no device hears of another one's, but for rows of
    a sharded data set. That of the batches is XLA's, which divides what reads them and
    sums their gradients.
    """
    count = len(devices) // split
    grid = np.array(devices).reshape(count, split)
    mesh = Mesh(grid, ("models", BATCH_AXIS)) if split > 1 else Mesh(devices, "models")
    models = NamedSharding(mesh, PartitionSpec("models"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    rows = PartitionSpec(BATCH_AXIS)
    # a data set's images by their rows, its labels everywhere
    axes = ("models", BATCH_AXIS) if split > 1 else "models"
    by_rows = Dataset(NamedSharding(mesh, PartitionSpec(axes)), everywhere)
    own_rows = Dataset(PartitionSpec("models"), PartitionSpec())

    def pad_models(tree: PyTree) -> PyTree:
        return _pad(count, tree)

    pad = _Program(
        jax.jit(pad_models, in_shardings=everywhere, out_shardings=models),
        (everywhere,),
    )

    @cache
    def cut(num_models: int) -> _Program:
        def cut_models(tree: PyTree) -> PyTree:
            return jax.tree.map(itemgetter(slice(num_models)), tree)

        return _Program(jax.jit(cut_models, in_shardings=models), (models,))

    def lift_reading(place: Any, shared_spec: Any, fun: OneModel) -> OneModel:
        on_device = jax.shard_map(
            _body(form, fun),
            mesh=mesh,
            in_specs=(models.spec, models.spec, shared_spec),
            out_specs=models.spec,
            axis_names={"models"},
            check_vma=False,
        )
        shardings = (models, models, None if callable(place) else place)
        jitted = jax.jit(on_device, in_shardings=shardings, donate_argnums=0)
        program = _Program(jitted, (models, models, place))
        spread = _slots(program, count) if form == "loop" else program

        def run(carry: PyTree, item: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
            num_models = jax.tree.leaves((carry, item))[0].shape[0]
            if num_models % count:
                carry, item = pad((carry, item))
            results = spread(carry, item, shared)
            if devices[0].platform == "cpu":
                # a device that waits in a collective gives up after 40 seconds
                results = jax.block_until_ready(results)
            return cut(num_models)(results) if num_models % count else results

        return run

    def by_size(shared: PyTree) -> PyTree:
        """Return the shardings of shared arrays: images over the parts of a batch."""

        def sharding(leaf: Any) -> NamedSharding:
            shape = np.shape(leaf)
            has_rows = len(shape) > 2 and shape[0] % split == 0
            return NamedSharding(mesh, rows) if has_rows else everywhere

        return jax.tree.map(sharding, shared)

    shared_place = by_size if shard_data and split > 1 else everywhere
    lift = partial(lift_reading, shared_place, everywhere.spec)

    def place(shared: PyTree) -> PyTree:
        if _rehearsal.is_on:
            return shared
        where = shared_place(shared) if callable(shared_place) else shared_place
        return _put(shared, where)

    def fetch(read: FetchFn) -> FetchFn:
        def from_rows(data: Any, index: Array, key: Array) -> Batch:
            found = Dataset(_exchange(data, index), data.labels[index])
            batch = read(found, jnp.arange(len(index)), key)
            return batch._replace(position=index)

        whole = from_rows if shard_data else read

        def divided(data: Any, index: Array, key: Array) -> Batch:
            is_inside = BATCH_AXIS in jax.sharding.get_abstract_mesh().shape
            parts = rows if is_inside else NamedSharding(mesh, rows)
            index = lax.with_sharding_constraint(index, parts)
            return lax.with_sharding_constraint(whole(data, index, key), parts)

        return divided if split > 1 else whole

    if not shard_data:
        return Mapper(name, place, lift, split, fetch)
    lift_training = partial(lift_reading, by_rows, own_rows)
    return Mapper(
        name, place, lift, split, fetch, partial(_place_rows, by_rows), lift_training
    )


def _place_rows(shardings: Dataset, data: Dataset) -> Dataset:
    """Put a data set on devices by shardings of its images' rows and its labels."""
    num_rows = len(data.labels)
    count = len(shardings.images.device_set)
    shape = (num_rows + -num_rows % count, *data.images.shape[1:])
    if _rehearsal.is_on:
        one = np.zeros((), data.images.dtype)
        return Dataset(np.broadcast_to(one, shape), data.labels)

    def read(index: Any) -> np.ndarray:
        # of a memory-mapped file only the rows of one device at a time
        part = np.asarray(data.images[index[0]])
        start, stop, _ = index[0].indices(shape[0])
        missing = stop - start - len(part)
        return np.pad(part, [(0, missing)] + [(0, 0)] * (part.ndim - 1))

    images = jax.make_array_from_callback(shape, shardings.images, read)
    return Dataset(images, _put(data.labels, shardings.labels))


def _exchange(data: Dataset, index: Array) -> Array:
    """Return the images of a batch, on each device, from the devices that hold them.

    A data set has its rows divided over the mesh's axis of models.
    """
    num_rows = len(data.images)
    wanted = lax.all_gather(index, "models")
    local = wanted - num_rows * lax.axis_index("models")
    is_own = (local >= 0) & (local < num_rows)
    images = data.images[jnp.clip(local, 0, num_rows - 1)]
    mask = is_own.reshape(is_own.shape + (1,) * (images.ndim - 2))
    parts = lax.all_to_all(jnp.where(mask, images, 0), "models", 0, 0)
    # of each image one part is not zero
    return jnp.sum(parts, 0, dtype=parts.dtype)


def _pad(count: int, tree: PyTree) -> PyTree:
    """Return ``[M, ...] -> [P, ...]`` for the next multiple ``P`` of ``count``.

    The last model is repeated as padding.
    """

    def pad(leaf: Array) -> Array:
        models = leaf.shape[0]
        places = np.minimum(np.arange(models + -models % count), models - 1)
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf[places]
        # padding repeats a key, which the checker of key reuse would refuse
        data = jax.random.key_data(leaf)[places]
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))

    return jax.tree.map(pad, tree)


def _on_first(tree: PyTree) -> PyTree:
    """Copy what an earlier call left on other devices to the first one."""
    device = jax.local_devices()[0]

    def copy(leaf: Any) -> Any:
        if isinstance(leaf, Tracer) or not getattr(leaf, "committed", False):
            return leaf
        if leaf.sharding.device_set == {device}:
            return leaf
        return jax.device_put(leaf, device)

    return jax.tree.map(copy, tree)


def map_models(
    mapper: Mapper,
    fun: Callable[[PyTree, PyTree], PyTree],
    items: PyTree,
    shared: PyTree,
) -> PyTree:
    """Return ``fun(item, shared)`` for each model's item.

    Args:
      mapper: for ``M`` models.
      fun: pure and traceable, of one item; a second call with the same function
        compiles nothing.
      items: leaves ``[M, ...]``.
      shared: passed to every call, not yet placed.

    Returns:
      The results, stacked: leaves ``[M, ...]``.
    """
    return _lifted(mapper, fun)((), items, mapper.place(shared))[1]


@lru_cache(maxsize=64)
def _lifted(mapper: Mapper, fun: Callable[[PyTree, PyTree], PyTree]) -> OneModel:
    @wraps(fun)
    def lifted(_: PyTree, item: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
        return (), fun(item, shared)

    return mapper.lift(lifted)


def to_host(tree: PyTree) -> PyTree:
    """Return arrays as NumPy, on every process those of all processes' devices.

    Args:
      tree: leaves on devices of this process, or over those of several
        (``across_hosts`` of :func:`mapper`), which all call this.
    """

    def fetch(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(fetch, tree)


def _mapper_or_default(chosen: Mapper | None, num_models: int) -> Mapper:
    return mapper(num_models=num_models) if chosen is None else chosen


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Stack models from any devices: leaves ``[M, ...]`` on the first device."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(_on_first, trees))


def unstack(stacked: PyTree, index: int) -> PyTree:
    """Return one model of a stack, on the first device."""
    return _on_first(jax.tree.map(lambda leaf: leaf[index], stacked))


def fit_many(
    keys: Array,
    model: Model,
    data: Dataset,
    member: ArrayLike,
    recipe: Recipe,
    *,
    mapper: Mapper | None = None,
    state: TrainState | None = None,
    loss_fn: LossFn | None = None,
    num_batches: int | None = None,
    epochs_per_call: int = 1,
    callback: Callable[[TrainState, np.ndarray], None] | None = None,
) -> tuple[TrainState, np.ndarray]:
    """Train ``M`` models, each on its own samples.

    Each is trained as :func:`unlearn_jax.train.fit` trains one, but all take the same
    number of steps per epoch, enough for the largest mask unless ``num_batches`` is
    given.

    Args:
      keys: ``[M]``, one per model.
      model: the architecture they share.
      data: ``[N]`` samples they share.
      member: ``[M, N]`` bool, each with at least one True.
      recipe: epochs, batches, optimizer and augmentation.
      mapper: for ``M`` models; the default for the backend if None.
      state: stacked state to resume from, all its epochs equal; its buffers are
        donated. Fresh if None.
      loss_fn: the objective; mean cross-entropy by default.
      num_batches: steps per epoch; give it when models are trained group by group, so
        that all groups agree.
      epochs_per_call: epochs per compiled call; does not change the result.
      callback: called after every call with the stacked state and the losses
        ``[M, epochs]`` of the call.

    Returns:
      The stacked last state, and the mean loss of each epoch of this call
      ``[M, epochs]``.

    Raises:
      InputError: unusable masks, images or labels, variables of another model, or
        batches that the mapper cannot divide.
      DivergedError: a loss of any model was not finite.
    """
    member = check_member(member, len(data.labels))
    mapper = _mapper_or_default(mapper, len(member))
    if recipe.batch_size % mapper.shards:
        raise InputError(
            f"a batch of {recipe.batch_size} samples does not divide evenly over"
            f" {mapper.shards} devices"
        )
    most = int(member.sum(-1).max())
    num_batches = num_batches or steps_per_epoch(most, recipe.batch_size)
    current: TrainState = (
        map_models(mapper, _creator(model, recipe.tx), keys, ())
        if state is None
        else state
    )
    of_one = jax.tree.map(_without_models, current.variables)
    is_read = np.asarray(member.any(0))
    check_samples(model.apply, of_one, data, "training set", member=is_read)
    loss_fn = loss_fn or cross_entropy_loss(model)
    placed = (mapper.place_data or mapper.place)(data)
    mask = jnp.asarray(member)
    losses = [np.zeros((len(member), 0), np.float32)]
    # read before the first call, which donates the state
    first_epoch = int(to_host(current.epoch)[0])
    starts = range(first_epoch, recipe.num_epochs, epochs_per_call)
    lengths = [min(epochs_per_call, recipe.num_epochs - epoch) for epoch in starts]
    for epoch, num_epochs in zip(starts, lengths, strict=True):
        times = 1
        if _rehearsal.is_on:
            # the first call of each length stands for all
            if num_epochs in lengths[: starts.index(epoch)]:
                continue
            times = lengths.count(num_epochs)
        _rehearsal.repeats = times
        advance = _advance(mapper, loss_fn, recipe, num_batches, num_epochs)
        current, new_losses = advance(current, (keys, mask), placed)
        losses += [check_losses(to_host(new_losses), epoch)] * times
        _rehearsal.repeats = 1
        if callback is not None and not _rehearsal.is_on:
            callback(current, losses[-1])
    return current, np.concatenate(losses, -1)


def _without_models(leaf: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


PART_BYTES = 2**31
"""Most bytes of images that :func:`predict_many` puts on a device at a time."""


class References(NamedTuple):
    """Reference models of a membership attack.

    Attributes:
      variables: stacked, leaves ``[M, ...]``.
      member: ``[M, N]`` bool, the samples of the pool that each was trained on.
    """

    variables: Variables
    member: np.ndarray


def fit_references(
    key: Array,
    model: Model,
    splits: Splits,
    recipe: Recipe,
    *,
    num_models: int = 32,
    seed: int = 0,
    mapper: Mapper | None = None,
) -> References:
    """Train reference models, each on half of the pool of training and test samples.

    Args:
      key: split into one for each model.
      model: the architecture of the audited model.
      splits: its data; see :func:`unlearn_jax.data.pool`.
      recipe: of the audited model, so that the references stand for it.
      num_models: ``M``, even: every sample is in exactly half of the references.
      seed: of the membership design, see :func:`unlearn_jax.data.membership_design`.
      mapper: for ``M`` models; the default for the backend if None.

    Returns:
      The references, for :func:`unlearn_jax.pipeline.audit_models`; by hand,
      :func:`unlearn_jax.audit.shadow_signals` and :func:`unlearn_jax.audit.rmia` take
      their fields.

    Raises:
      InputError: an odd number of models, or batches that the mapper cannot divide.
      DivergedError: a loss of any model was not finite.
    """
    samples = pool(splits)
    member = membership_design(num_models, len(samples.labels), seed=seed)
    keys = jax.random.split(key, num_models)
    state, _ = fit_many(keys, model, samples, member, recipe, mapper=mapper)
    return References(state.variables, member)


@lru_cache(maxsize=16)
def _creator(
    model: Model, tx: optax.GradientTransformation
) -> Callable[[Array, PyTree], TrainState]:
    def initialize(key: Array, _: PyTree) -> TrainState:
        return init_state(key, model, tx)

    return initialize


@lru_cache(maxsize=32)
def _advance(
    mapper: Mapper, loss_fn: LossFn, recipe: Recipe, num_batches: int, num_epochs: int
) -> OneModel:
    """Return the compiled epochs of one recipe, kept for the next group of models."""
    one = partial(
        train_epochs,
        loss_fn,
        recipe.tx,
        mapper.fetch(fetch_from(recipe.augment)),
        num_epochs=num_epochs,
        num_batches=num_batches,
        batch_size=recipe.batch_size,
    )

    def train_models(
        state: TrainState, item: PyTree, data: Dataset
    ) -> tuple[PyTree, PyTree]:
        return one(state, item[0], data, item[1])

    return (mapper.lift_training or mapper.lift)(train_models)


def predict_many(
    apply_fn: ApplyFn,
    variables: PyTree,
    images: ArrayLike,
    *,
    mapper: Mapper | None = None,
    batch_size: int = 512,
) -> np.ndarray:
    """Return the logits of every model for every image, in evaluation mode.

    Args:
      apply_fn: ``(variables, images [B, ...]) -> logits [B, C]``, of one model.
      variables: stacked, leaves ``[M, ...]``.
      images: ``[N, ...]`` uint8 or float32 in [0, 1], shared; on the devices in parts
        of at most 2 GiB.
      mapper: for ``M`` models; the default for the backend if None.
      batch_size: images at a time.

    Returns:
      ``[M, N, C]`` float32, on the host.

    Raises:
      InputError: a model in place of its function, or unusable images.
    """
    check_apply_fn(apply_fn)
    images = np.asarray(images) if isinstance(images, list | tuple) else images
    check_images(images)
    mapper = _mapper_or_default(mapper, len(jax.tree.leaves(variables)[0]))
    predictor = _predictor(apply_fn, batch_size)
    rows: Any = images
    num_images = len(rows)
    bytes_each = math.prod(rows.shape[1:]) * rows.dtype.itemsize
    # whole batches; the last part begins earlier, so that all share a program
    most = batch_size * max(1, PART_BYTES // (batch_size * bytes_each))
    num_rows = min(most, num_images)
    parts = []
    for start in range(0, num_images, num_rows):
        first = min(start, num_images - num_rows)
        part = rows[first : first + num_rows]
        found = to_host(map_models(mapper, predictor, variables, part))
        parts.append(found[:, start - first :])
    if len(parts) == 1:
        logits = parts[0]
    elif _rehearsal.is_on:
        # zeros that take no memory
        shape = (len(parts[0]), num_images, parts[0].shape[2])
        logits = np.broadcast_to(np.zeros((), parts[0].dtype), shape)
    else:
        logits = np.concatenate(parts, 1)
    warn_of_probabilities(logits)
    return logits


@lru_cache(maxsize=16)
def _predictor(apply_fn: ApplyFn, batch_size: int) -> Callable[[PyTree, PyTree], Array]:
    def logits(variables: PyTree, images: Array) -> Array:
        return predict(apply_fn, variables, images, batch_size=batch_size)

    return logits
