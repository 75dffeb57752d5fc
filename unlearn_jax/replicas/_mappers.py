"""Mappers: one function of one model, applied to each of many."""

from collections.abc import Callable
from functools import cache, lru_cache, partial, wraps
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unlearn_jax import targets
from unlearn_jax.checks import check_counts, count_models
from unlearn_jax.models.conv import BATCH_AXIS
from unlearn_jax.models.flops import has_convolutions
from unlearn_jax.replicas._programs import REHEARSAL, Program, put
from unlearn_jax.train import Batch, FetchFn
from unlearn_jax.types import Array, Dataset, InputError, PyTree, is_key

Form = Literal["auto", "loop", "map", "vmap", "split"]
OneModel = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
"""``(carry, item, shared) -> (carry, out)`` of one model; the carry is donated.

Mapped, it is the same of a stack: carry, item and out have leaves ``[M, ...]``.
"""


class Mapper(NamedTuple):
    """Way to apply a function to each of ``M`` models.

    Attributes:
      name: name in reports, such as ``"pmap[2] x map"``.
      place: function ``shared -> placed`` that puts shared data on the devices, once.
      lift: function ``fun -> mapped``, where
        ``mapped(carry [M, ...], item [M, ...], placed) -> (carry, out)``.
      shards: number of parts that every training batch is divided into; 1 for no
        division.
      fetch: function from a reader of batches to a reader that divides each batch into
        ``shards`` parts, and reads a data set placed by ``place_data``.
      place_data: function that puts a training set on the devices, once; ``place`` by
        default.
      lift_training: ``lift`` for functions that read a placed training set only through
        ``fetch``; ``lift`` by default.
    """

    name: str
    place: Callable[[PyTree], PyTree]
    lift: Callable[[OneModel], OneModel]
    shards: int = 1
    fetch: Callable[[FetchFn], FetchFn] = lambda fetch: fetch
    place_data: Callable[[Dataset], PyTree] | None = None
    lift_training: Callable[[OneModel], OneModel] | None = None


def _body(form: Form, fun: OneModel) -> OneModel:
    """Return ``fun`` of one model as a traceable function of a stack.

    With the form ``loop`` the stack has one model. The form ``auto`` is ``map`` for
    functions with convolutions and ``vmap`` for others: ``vmap`` makes grouped
    convolutions, which GPUs compute at a fraction of the speed of plain ones.
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


def _loop(mapped: OneModel, size: int) -> OneModel:
    """Return a Python loop over a stack, which maps ``size`` models at a time."""

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
        the models with ``lax.map``, ``vmap`` one program that computes all at once.
        ``auto`` is ``map`` on CPU (measured for a small CNN with the same convolution:
        5.4 times the speed of ``vmap``). On other platforms, where no form has been
        timed, it is ``map`` for programs with convolutions (``vmap`` makes grouped
        convolutions, which are slow on GPUs, and needs more memory) and ``vmap`` for
        others. ``split`` is ``loop`` with every batch divided over all devices.
      num_models: ``M``. No more devices than models are used, except with a split or
        ``across_hosts``.
      devices: number of local devices to spread the models over, not with
        ``across_hosts``; None for all, 1 to not spread them. A mapper's name says
        ``pmap``, but it is a jitted ``shard_map`` over a mesh, JAX's successor of
        ``pmap``. ``M`` need not be a multiple of the number: the last model is repeated
        as padding, and its copies are dropped.
      split: number of devices that each training batch is divided over (data
        parallelism, for models that fill a device). The mesh then has two axes, models
        and batches. The result equals that of other mappers up to rounding, because
        gradients are summed in another order. Everything but training (attacks,
        predictions) is computed by all devices of a model in the same way.
      shard_data: whether to divide the images of a training set over the devices
        instead of copying them to each, for data sets that do not fit. Every device
        sends the others the rows of their batches; the result has the same bits.
        Everything but training (attacks, methods, predictions) has its images divided
        over the devices of a model, if ``split`` divides their number.
      across_hosts: whether the mesh spans the devices of all processes, which must make
        the same calls with the same arguments (JAX's distributed runtime). Every
        process receives losses and logits; states stay on the devices
        (:func:`to_host`).

    Returns:
      The mapper.

    Raises:
      InputError: an unknown form, numbers that are not positive integers, devices that
        are not available or that ``split`` does not divide, or the form ``split`` with
        another number of them.
    """
    check_counts(num_models=num_models, split=split)
    if form == "auto" and targets.platform() == "cpu":
        form = "map"
    if form not in ("auto", "loop", "map", "vmap", "split"):
        raise InputError(
            f"unknown mapper {form!r}: choose auto, loop, map, vmap or split"
        )
    present = targets.devices(across_hosts=across_hosts)
    if across_hosts and devices is not None:
        raise InputError(
            "a mesh across hosts takes all devices of all processes: leave out devices"
        )
    count = len(present) if devices is None else devices
    check_counts(devices=count)
    if count > len(present):
        raise InputError(
            f"{devices} devices asked for, {len(present)} present: choose 1 to"
            f" {len(present)}"
        )
    suffix = " x shards" if shard_data else ""
    if form == "split":
        if split > 1:
            raise InputError(
                "the form 'split' divides each batch over all devices: leave out"
                f" split={split}, or choose another form"
            )
        name = f"split[{count}]{suffix}"
        return _on_mesh("loop", present[:count], count, name, shard_data)
    if count % split:
        raise InputError(
            f"{count} devices do not divide into parts of split={split}: choose a"
            " divisor"
        )
    models = count // split
    if not across_hosts:
        # otherwise every process must have a device in the mesh, if only for padding
        models = min(models, num_models)
    name = f"pmap[{models}] x {form}"
    if split > 1:
        name = f"{name} x split[{split}]"
    if models * split > 1:
        chosen = present[: models * split]
        return _on_mesh(form, chosen, split, name + suffix, shard_data)
    return _on_one(form, targets.current())


@lru_cache(maxsize=64)
def _on_one(form: Form, target: targets.Target | None) -> Mapper:
    """Return the mapper on the first device of a target (None for this machine)."""
    # only a key of the cache: programs of one target must not serve another
    del target

    def lift(fun: OneModel) -> OneModel:
        program = Program(jax.jit(_body(form, fun), donate_argnums=0))
        stacked = _loop(program, 1) if form == "loop" else program

        def run(carry: PyTree, item: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
            carry, item = on_first((carry, item))
            return stacked(carry, item, shared)

        return run

    def place(shared: PyTree) -> PyTree:
        # A watched rehearsal may be of another machine, whose arrays may not fit here.
        # Any other one has the arrays of this machine's run, which copies them too.
        if REHEARSAL.watch is not None:
            return shared
        return on_first(jax.tree.map(jnp.asarray, shared))

    return Mapper(form, place, lift)


@lru_cache(maxsize=64)
def _on_mesh(
    form: Form,
    devices: tuple[Any, ...],
    split: int,
    name: str,
    shard_data: bool,
) -> Mapper:
    """Return the mapper over a mesh of devices."""
    return _MeshMapper(form, devices, split, shard_data).mapper(name)


class _MeshMapper:
    """Functions of a mapper over a mesh of models and of parts of their batches.

    The axis of models is manual: along it, devices exchange nothing but rows of a
    sharded data set. The axis of batch parts is automatic: XLA divides the operations
    on a batch and sums the gradients of its parts.

    Args:
      form: form of the mapper on each position of the axis of models.
      devices: all devices of the mesh.
      split: number of devices that each batch is divided over.
      shard_data: whether to divide the images of a data set over the devices.

    Attributes:
      size: length of the axis of models.
      mesh: the devices, with the axis ``models`` and, if batches are divided, the axis
        ``BATCH_AXIS``.
      by_model: sharding of stacked models over the axis of models.
      everywhere: sharding of arrays with a copy on every device.
      by_batch: sharding of rows over the axis of batch parts, if there is one.
      by_rows: shardings of a sharded training set: its images over all devices, its
        labels everywhere.
      has_divided_images: whether images outside of training sets are divided, over the
        axis of batch parts.
    """

    def __init__(
        self,
        form: Form,
        devices: tuple[Any, ...],
        split: int,
        shard_data: bool,
    ) -> None:
        self.form: Form = form
        self.split = split
        self.shard_data = shard_data
        self.size = len(devices) // split
        if split > 1:
            grid = np.array(devices).reshape(self.size, split)
            self.mesh = Mesh(grid, ("models", BATCH_AXIS))
            batch_spec = PartitionSpec(BATCH_AXIS)
            image_spec = PartitionSpec(("models", BATCH_AXIS))
        else:
            self.mesh = Mesh(devices, "models")
            batch_spec = PartitionSpec()
            image_spec = PartitionSpec("models")
        self.by_model = NamedSharding(self.mesh, PartitionSpec("models"))
        self.everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.by_batch = NamedSharding(self.mesh, batch_spec)
        self.by_rows = Dataset(NamedSharding(self.mesh, image_spec), self.everywhere)
        self.has_divided_images = shard_data and split > 1
        self._is_cpu = devices[0].platform == "cpu"
        self._pad = Program(
            jax.jit(
                self.pad_models,
                in_shardings=self.everywhere,
                out_shardings=self.by_model,
            ),
            (self.everywhere,),
        )
        self._cut = cache(self._make_cut)

    def mapper(self, name: str) -> Mapper:
        """Return the mapper with these functions.

        Args:
          name: name in reports.
        """
        return Mapper(
            name,
            self.place,
            self.lift,
            self.split,
            self.fetch,
            self.place_data if self.shard_data else None,
            self.lift_training if self.shard_data else None,
        )

    def place(self, shared: PyTree) -> PyTree:
        """Put shared arrays on the devices."""
        # No rehearsal places arrays here: the devices of a watched one may be absent,
        # and any other one would copy its arrays to every device a second time.
        if REHEARSAL.is_on:
            return shared
        return put(shared, self.shared_shardings(shared))

    def shared_shardings(self, shared: PyTree) -> PyTree:
        """Return the sharding of each shared array.

        Images are divided over the axis of batch parts if ``has_divided_images``, and
        if their number is a multiple of its length. All other arrays are everywhere.
        """

        def sharding(leaf: Any) -> NamedSharding:
            shape = np.shape(leaf)
            has_rows = len(shape) > 2 and shape[0] % self.split == 0
            return self.by_batch if has_rows else self.everywhere

        if self.has_divided_images:
            return jax.tree.map(sharding, shared)
        return self.everywhere

    def place_data(self, data: Dataset) -> Dataset:
        """Put a training set on the devices, its images divided and padded by zeros."""
        num_rows = len(data.labels)
        num_devices = self.mesh.size
        shape = (num_rows + -num_rows % num_devices, *data.images.shape[1:])
        if REHEARSAL.is_on:
            one = np.zeros((), data.images.dtype)
            return Dataset(np.broadcast_to(one, shape), data.labels)

        def read(index: Any) -> np.ndarray:
            # of a memory-mapped file, this reads the rows of one device at a time
            part = np.asarray(data.images[index[0]])
            start, stop, _ = index[0].indices(shape[0])
            missing = stop - start - len(part)
            return np.pad(part, [(0, missing)] + [(0, 0)] * (part.ndim - 1))

        images = jax.make_array_from_callback(shape, self.by_rows.images, read)
        return Dataset(images, put(data.labels, self.by_rows.labels))

    def fetch(self, read: FetchFn) -> FetchFn:
        """Adapt a reader to a sharded data set, and to batches divided into parts."""

        def read_shards(data: Dataset, index: Array, key: Array) -> Batch:
            samples = Dataset(_exchange(data, index), data.labels[index])
            batch = read(samples, jnp.arange(len(index)), key)
            return batch._replace(position=index)

        read_whole = read_shards if self.shard_data else read

        def read_parts(data: Dataset, index: Array, key: Array) -> Batch:
            is_inside = BATCH_AXIS in jax.sharding.get_abstract_mesh().shape
            parts = self.by_batch.spec if is_inside else self.by_batch
            index = lax.with_sharding_constraint(index, parts)
            return lax.with_sharding_constraint(read_whole(data, index, key), parts)

        return read_parts if self.split > 1 else read_whole

    def lift(self, fun: OneModel) -> OneModel:
        """Map a function over models, for any shared data."""
        place = self.shared_shardings if self.has_divided_images else self.everywhere
        return self._lift(fun, place, PartitionSpec())

    def lift_training(self, fun: OneModel) -> OneModel:
        """Map a function over models, for training sets that it reads by ``fetch``."""
        specs = Dataset(PartitionSpec("models"), PartitionSpec())
        return self._lift(fun, self.by_rows, specs)

    def _lift(
        self,
        fun: OneModel,
        place: PyTree | Callable[[PyTree], PyTree],
        shared_specs: PyTree,
    ) -> OneModel:
        """Map a function over models.

        Args:
          fun: function of one model.
          place: shardings of the shared data, or a function from the data to them.
          shared_specs: division of the shared data over the axis of models.
        """
        on_device = jax.shard_map(
            _body(self.form, fun),
            mesh=self.mesh,
            in_specs=(self.by_model.spec, self.by_model.spec, shared_specs),
            out_specs=self.by_model.spec,
            axis_names={"models"},
            check_vma=False,
        )
        shared = None if callable(place) else place
        shardings = (self.by_model, self.by_model, shared)
        jitted = jax.jit(on_device, in_shardings=shardings, donate_argnums=0)
        program = Program(jitted, (self.by_model, self.by_model, place))
        spread = _loop(program, self.size) if self.form == "loop" else program

        def run(carry: PyTree, item: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
            num_models = jax.tree.leaves((carry, item))[0].shape[0]
            is_padded = num_models % self.size > 0
            if is_padded:
                carry, item = self._pad((carry, item))
            results = spread(carry, item, shared)
            if self._is_cpu:
                # a device that waits in a collective gives up after 40 seconds
                results = jax.block_until_ready(results)
            return self._cut(num_models)(results) if is_padded else results

        return run

    def pad_models(self, tree: PyTree) -> PyTree:
        """Pad leaves ``[M, ...]`` to ``[P, ...]``, a multiple ``P`` of the axis's size.

        The last model is repeated as padding.
        """

        def pad(leaf: Array) -> Array:
            num_models = leaf.shape[0]
            num_padded = num_models + -num_models % self.size
            places = np.minimum(np.arange(num_padded), num_models - 1)
            if not is_key(leaf):
                return leaf[places]
            # padding repeats a key, which JAX's check of key reuse would refuse
            data = jax.random.key_data(leaf)[places]
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))

        return jax.tree.map(pad, tree)

    def _make_cut(self, num_models: int) -> Program:
        """Return the program that drops the padding of ``num_models`` models."""

        def cut_models(tree: PyTree) -> PyTree:
            return jax.tree.map(itemgetter(slice(num_models)), tree)

        jitted = jax.jit(cut_models, in_shardings=self.by_model)
        return Program(jitted, (self.by_model,))


def _exchange(data: Dataset, index: Array) -> Array:
    """Return each device's images of a batch, sent by the devices that hold them.

    The rows of the data set are divided over the mesh's axis of models.
    """
    num_rows = len(data.images)
    wanted = lax.all_gather(index, "models")
    local = wanted - num_rows * lax.axis_index("models")
    is_own = (local >= 0) & (local < num_rows)
    images = data.images[jnp.clip(local, 0, num_rows - 1)]
    mask = is_own.reshape(is_own.shape + (1,) * (images.ndim - 2))
    parts = lax.all_to_all(jnp.where(mask, images, 0), "models", 0, 0)
    # each image is nonzero in one part only, that of the device that holds it
    return jnp.sum(parts, 0, dtype=parts.dtype)


def on_first(tree: PyTree) -> PyTree:
    """Copy arrays that an earlier call left on other devices to the first device.

    It is that of ``jax.default_device``, if set.
    """
    device = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(device, jax.Device):
        # None, or the name of a platform
        device = jax.local_devices(backend=device)[0]

    def copy(leaf: Any) -> Any:
        if isinstance(leaf, Tracer) or not getattr(leaf, "committed", False):
            return leaf
        if leaf.sharding.device_set == {device}:
            return leaf
        return jax.device_put(leaf, device)

    return jax.tree.map(copy, tree)


def check_mapper(mapper: Any) -> None:
    """Raise unless an argument is a mapper.

    Raises:
      InputError: another object; the message names its type.
    """
    if not isinstance(mapper, Mapper):
        raise InputError(
            f"mapper must be a Mapper, got {type(mapper).__name__}: pass"
            " replicas.mapper('map', num_models=M)"
        )


def map_models(
    mapper: Mapper,
    fun: Callable[[PyTree, PyTree], PyTree],
    items: PyTree,
    shared: PyTree,
) -> PyTree:
    """Return ``fun(item, shared)`` for each model's item.

    Args:
      mapper: mapper of ``M`` models.
      fun: pure, traceable function of one item and the shared data; a second call with
        the same function compiles nothing.
      items: pytree with leaves ``[M, ...]``.
      shared: data passed to every call, not yet placed.

    Returns:
      The results, stacked: leaves ``[M, ...]``.

    Raises:
      InputError: an argument that is no mapper, no item, or leaves of different
        lengths.
    """
    check_mapper(mapper)
    count_models(items, "items")
    return _lifted(mapper, fun)((), items, mapper.place(shared))[1]


@lru_cache(maxsize=64)
def _lifted(mapper: Mapper, fun: Callable[[PyTree, PyTree], PyTree]) -> OneModel:
    @wraps(fun)
    def lifted(_: PyTree, item: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
        return (), fun(item, shared)

    return mapper.lift(lifted)


def to_host(tree: PyTree) -> PyTree:
    """Return whole arrays as NumPy arrays, on every process; typed keys stay keys.

    Args:
      tree: pytree whose leaves are on devices of this process, or divided over the
        devices of several processes (``across_hosts`` of :func:`mapper`). In the second
        case every process must call this function.
    """

    def fetch(leaf: Any) -> Any:
        if is_key(leaf):
            data = fetch(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(fetch, tree)
