"""Many models at once: mappers, and training and prediction of stacked models.

A stack of ``M`` models is a pytree whose leaves have a leading ``M``. "For each model"
is a replaceable *mapper*, so the same pure function of one model runs as a Python loop,
as ``lax.map``, as ``vmap``, or over devices by ``pmap`` with any of these inside;
models too large for that are trained one by one, each batch divided over all devices.
All give the same result; which is fast depends on the backend and on the model.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unlearn_jax.models.conv import BATCH_AXIS
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
from unlearn_jax.types import Array, Dataset, InputError, Model, PyTree, Variables

Form = Literal["auto", "loop", "map", "vmap", "split"]
OneModel = Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
"""``(carry, item, shared) -> (carry, out)`` of one model; the carry's buffers are given away."""


class Mapper(NamedTuple):
    """How "for each model" is done.

    Attributes:
      name: for reports, such as ``"pmap[2] x map"``.
      place: puts what all models share on the devices, once: ``shared -> placed``.
      lift: ``fun -> mapped``,
        ``mapped(carry [M, ...], item [M, ...], placed) -> (carry, out)``; the carry is
        donated.
      shards: parts that every batch of a training step is divided into; 1 for none.
      fetch: what reading a batch becomes.
    """

    name: str
    place: Callable[[PyTree], PyTree]
    lift: Callable[
        [OneModel], Callable[[PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]
    ]
    shards: int = 1
    fetch: Callable[[FetchFn], FetchFn] = lambda fetch: fetch


def _body(form: str, fun: OneModel) -> OneModel:
    """``fun`` of one model as a traceable function of a stack."""
    if form == "vmap":
        return jax.vmap(fun, in_axes=(0, 0, None))
    return lambda carry, item, shared: lax.map(
        lambda pair: fun(pair[0], pair[1], shared), (carry, item)
    )


def _slots(mapped: OneModel, axis: int) -> OneModel:
    """Calls ``mapped`` for each position along ``axis`` and stacks what comes back: the Python loop over models."""

    def run(carry: PyTree, item: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
        count = jax.tree.leaves((carry, item))[0].shape[axis]
        take = lambda tree, j: jax.tree.map(
            lambda leaf: jnp.take(leaf, j, axis=axis), tree
        )
        results = [mapped(take(carry, j), take(item, j), shared) for j in range(count)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis), *results)

    return run


@lru_cache(maxsize=128)
def mapper(
    form: Form = "auto", *, num_models: int, devices: int | None = None
) -> Mapper:
    """Chooses how to go through ``num_models`` models.

    Args:
      form: ``loop`` is a jitted call per model, ``map`` one program that goes through
        them with ``lax.map``, ``vmap`` one program that does all at once. ``auto``
        takes the fastest as measured: ``map`` on CPU (32 times the speed of ``vmap``
        for a small CNN), ``vmap`` elsewhere. ``split`` trains one model after another,
        its batches divided over the devices (data parallelism, for models that fill a
        device): equal to the others to rounding, since gradients are summed in another
        order. What is no training (attacks, predictions) then runs on every device
        alike.
      num_models: ``M``; no more devices than models are used, but by ``split``.
      devices: local devices to spread the models over by ``pmap``; all of them by
        default, 1 for none. ``M`` need not be a multiple: the last model is repeated as
        filling and its copies are dropped.

    Returns:
      The mapper.

    Raises:
      InputError: unknown form, or a number of devices that is not there.
    """
    if form == "auto":
        form = "map" if jax.default_backend() == "cpu" else "vmap"
    if form not in ("loop", "map", "vmap", "split"):
        raise InputError(
            f"unknown mapper {form!r}: choose auto, loop, map, vmap or split"
        )
    present = jax.local_devices()
    if devices is not None and not 1 <= devices <= len(present):
        raise InputError(
            f"{devices} devices asked for, {len(present)} present: choose 1 to"
            f" {len(present)}"
        )
    if form == "split":
        return _split(devices or len(present))
    count = min(devices or len(present), num_models)
    return _on_devices(form, count) if count > 1 else _on_one(form)


def _on_one(form: str) -> Mapper:
    def lift(fun: OneModel) -> OneModel:
        compiled = jax.jit(
            fun if form == "loop" else _body(form, fun), donate_argnums=0
        )
        here = _slots(compiled, 0) if form == "loop" else compiled

        def run(carry: PyTree, item: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
            carry, item = _on_first((carry, item))
            return here(carry, item, shared)

        return run

    return Mapper(form, lambda shared: jax.tree.map(jnp.asarray, shared), lift)


def _on_devices(form: str, count: int) -> Mapper:
    devices = jax.local_devices()[:count]
    mesh = Mesh(np.array(devices), "models")
    sharding, everywhere = (
        NamedSharding(mesh, PartitionSpec("models")),
        NamedSharding(mesh, PartitionSpec()),
    )

    def place(shared: PyTree) -> PyTree:
        def copies(leaf: Any) -> Array:
            leaf = np.asarray(leaf)
            return jax.device_put(
                np.broadcast_to(leaf[None], (count, *leaf.shape)), sharding
            )

        return jax.tree.map(copies, shared)

    def lift(fun: OneModel) -> OneModel:
        mapped = jax.pmap(
            fun if form == "loop" else _body(form, fun),
            donate_argnums=0,
            devices=devices,
        )
        spread = _slots(mapped, 1) if form == "loop" else mapped

        def run(carry: PyTree, item: PyTree, shared: PyTree) -> tuple[PyTree, PyTree]:
            models = jax.tree.leaves((carry, item))[0].shape[0]
            split, join = _rows(sharding, models)
            carry, item = _reach((carry, item), set(devices), everywhere)
            results = spread(split(carry), split(item), shared)
            if (
                devices[0].platform == "cpu"
            ):  # a device that waits in a collective for another gives up after 40 seconds
                results = jax.block_until_ready(results)
            return join(results[0]), join(results[1])

        return run

    return Mapper(f"pmap[{count}] x {form}", place, lift)


def _on_first(tree: PyTree) -> PyTree:
    device = jax.local_devices()[0]
    return _reach(tree, {device}, device)


def _reach(tree: PyTree, devices: set[Any], where: Any) -> PyTree:
    """What an earlier call left on other devices, such as results of more models, copied to these."""

    def copy(leaf: Any) -> Any:
        if isinstance(leaf, Tracer) or not getattr(leaf, "committed", False):
            return leaf
        return (
            leaf if leaf.sharding.device_set == devices else jax.device_put(leaf, where)
        )

    return jax.tree.map(copy, tree)


def _split(count: int) -> Mapper:
    """One model after another, on a mesh that each batch is divided over."""
    mesh = Mesh(np.array(jax.local_devices()[:count]), BATCH_AXIS)
    whole, rows = (
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec(BATCH_AXIS)),
    )

    def lift(fun: OneModel) -> OneModel:
        compiled = jax.jit(fun, donate_argnums=0)

        def on_mesh(
            carry: PyTree, item: PyTree, shared: PyTree
        ) -> tuple[PyTree, PyTree]:
            with jax.set_mesh(mesh):  # convolutions look at it
                return compiled(carry, item, shared)

        return _slots(on_mesh, 0)

    def fetch(read: FetchFn) -> FetchFn:
        def divided(data: Any, index: Array, key: Array) -> Batch:
            return lax.with_sharding_constraint(
                read(data, lax.with_sharding_constraint(index, rows), key), rows
            )

        return divided

    return Mapper(
        f"split[{count}]",
        lambda shared: jax.device_put(shared, whole),
        lift,
        count,
        fetch,
    )


@lru_cache(maxsize=64)
def _rows(
    sharding: NamedSharding, models: int
) -> tuple[Callable[[PyTree], PyTree], Callable[[PyTree], PyTree]]:
    """``[M, ...] -> [devices, ceil(M / devices), ...]`` with the last model as filling, and its inverse."""
    count = sharding.num_devices
    rows = -(-models // count)
    filled = np.minimum(
        np.arange(count * rows, dtype=np.int32), np.int32(models - 1)
    ).reshape(count, rows)

    def take(leaf: Array) -> Array:
        if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return leaf[filled]
        data = jax.random.key_data(leaf)[
            filled
        ]  # filling repeats a key, which the checker of key reuse would refuse
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))

    split = jax.jit(partial(jax.tree.map, take), out_shardings=sharding)
    join = jax.jit(
        lambda tree: jax.tree.map(
            lambda leaf: leaf.reshape(count * rows, *leaf.shape[2:])[:models], tree
        )
    )
    return split, join


def map_models(
    how: Mapper, fun: Callable[[PyTree, PyTree], PyTree], items: PyTree, shared: PyTree
) -> PyTree:
    """``fun(item, shared)`` for each model's item.

    Args:
      how: a mapper for ``M`` models.
      fun: pure and traceable, of one item; a second call with the same function
        compiles nothing.
      items: leaves ``[M, ...]``.
      shared: what every call reads, not yet placed.

    Returns:
      The results, stacked: leaves ``[M, ...]``.
    """
    return _lifted(how, fun)((), items, how.place(shared))[1]


@lru_cache(maxsize=64)
def _lifted(how: Mapper, fun: Callable[[PyTree, PyTree], PyTree]) -> OneModel:
    return how.lift(lambda _, item, shared: ((), fun(item, shared)))


def stack(trees: Sequence[PyTree]) -> PyTree:
    """Models side by side, wherever they come from: leaves ``[M, ...]`` on the first device."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(_on_first, trees))


def unstack(stacked: PyTree, index: int) -> PyTree:
    """One model of a stack, on the first device."""
    return _on_first(jax.tree.map(lambda leaf: leaf[index], stacked))


def fit_many(
    keys: Array,
    model: Model,
    data: Dataset,
    member: Any,
    recipe: Recipe,
    *,
    how: Mapper | None = None,
    state: TrainState | None = None,
    loss_fn: LossFn | None = None,
    num_batches: int | None = None,
    epochs_per_call: int = 1,
    callback: Callable[[TrainState, np.ndarray], None] | None = None,
) -> tuple[TrainState, np.ndarray]:
    """Trains ``M`` models, each on its own samples, as :func:`unlearn_jax.train.fit` trains one.

    All take the same number of steps per epoch, enough for the largest mask unless
    ``num_batches`` says otherwise.

    Args:
      keys: ``[M]``, one per model.
      model: the architecture they share.
      data: ``[N]`` samples they share.
      member: ``[M, N]`` bool.
      recipe: how to train.
      how: a mapper for ``M`` models; the default for the backend if None.
      state: stacked state to go on from, with all its epochs equal (its buffers are
        given away); fresh if None.
      loss_fn: the objective; mean cross-entropy by default.
      num_batches: steps per epoch; give it when models are trained group by group, so
        that all groups agree.
      epochs_per_call: epochs per compiled call; does not change the result.
      callback: called after every call with the stacked state and the losses
        ``[M, epochs]`` of the call.

    Returns:
      The stacked last state, and the mean loss of each epoch done now ``[M, epochs]``.

    Raises:
      InputError: unusable masks.
      DivergedError: a loss of any model was not finite.
    """
    member = check_member(member, len(data.labels))
    how = how or mapper(num_models=len(member))
    if recipe.batch_size % how.shards:
        raise InputError(
            f"a batch of {recipe.batch_size} samples does not divide evenly over"
            f" {how.shards} devices"
        )
    num_batches = num_batches or steps_per_epoch(
        int(member.sum(-1).max()), recipe.batch_size
    )
    now: TrainState = (
        map_models(how, _creator(model, recipe.tx), keys, ())
        if state is None
        else state
    )
    done = int(np.asarray(now.epoch)[0])
    placed, mask, losses = how.place(data), jnp.asarray(member), []
    for first in range(done, recipe.num_epochs, epochs_per_call):
        count = min(epochs_per_call, recipe.num_epochs - first)
        advance = _advance(
            how, loss_fn or cross_entropy_loss(model), recipe, num_batches, count
        )
        now, new = advance(now, (keys, mask), placed)
        losses.append(check_losses(new, first))
        if callback is not None:
            callback(now, losses[-1])
    return now, (
        np.concatenate(losses, -1) if losses else np.zeros((len(member), 0), np.float32)
    )


@lru_cache(maxsize=16)
def _creator(
    model: Model, tx: optax.GradientTransformation
) -> Callable[[Array, PyTree], TrainState]:
    return lambda key, _: init_state(key, model, tx)


@lru_cache(maxsize=32)
def _advance(
    how: Mapper, loss_fn: LossFn, recipe: Recipe, num_batches: int, num_epochs: int
) -> OneModel:
    """The compiled epochs of one recipe, kept so that a second group of models compiles nothing."""
    one = partial(
        train_epochs,
        loss_fn,
        recipe.tx,
        how.fetch(fetch_from(recipe.augment)),
        num_epochs=num_epochs,
        num_batches=num_batches,
        batch_size=recipe.batch_size,
    )
    return how.lift(lambda state, item, data: one(state, item[0], data, item[1]))


def predict_many(
    model: Model,
    variables: Variables,
    images: Any,
    *,
    how: Mapper | None = None,
    batch_size: int = 512,
) -> np.ndarray:
    """Logits of every model for every image, in evaluation mode.

    Args:
      model: the architecture.
      variables: stacked, leaves ``[M, ...]``.
      images: ``[N, ...]`` uint8 or float32 in [0, 1], shared.
      how: a mapper for ``M`` models; the default for the backend if None.
      batch_size: images at a time.

    Returns:
      ``[M, N, C]`` float32, on the host.
    """
    how = how or mapper(num_models=len(jax.tree.leaves(variables)[0]))
    return np.asarray(map_models(how, _predictor(model, batch_size), variables, images))


@lru_cache(maxsize=16)
def _predictor(model: Model, batch_size: int) -> Callable[[PyTree, PyTree], Array]:
    return lambda variables, images: predict(
        model.apply, variables, images, batch_size=batch_size
    )
