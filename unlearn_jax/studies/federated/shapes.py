"""Federated unlearning of segmentation: generated shapes, a style per client."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from unlearn_jax import models, optimizers, replicas, train
from unlearn_jax.contrib import federated
from unlearn_jax.pipeline import Part
from unlearn_jax.types import Array, Dataset, InputError

ROWS = {
    "original": "Original (do nothing)",
    "retrained": "Retrained (oracle)",
    "again": "Retrained again (floor)",
    "natural": "Natural (continue)",
    "same": "Natural, PUF's rounds",
    "special": "PUF special, η_u = 2",
    "regular": "PUF regular, η_u = 20",
    "not": "NoT",
    "ascent": "Projected ascent",
    "natural+": "Natural, on to the last round",
    "special+": "PUF special, on to the last round",
}


MEASURES = ("test", "test_iou", "forget", "forget_iou", "unseen")


CLASSES = len(federated.SHAPES)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained. Adam afresh in every round, one local epoch in batches of 8."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of initial weights and of the order of samples; images are the same for all."""
    num_clients: int = 5
    """Clients, each with a style; each leaves in turn."""
    num_images: int = 32
    """Training images of a client; as many of its style are held out."""
    size: int = 12
    """Side of an image."""
    width: int = 12
    """Channels of the two hidden convolutions."""
    learning_rate: float = 0.01
    """In the first round; decays by 0.998 per round."""
    rounds: int = 60
    """Rounds of the original and of every retraining."""
    recovery: int = 15
    """Most rounds after unlearning."""


@functools.lru_cache(maxsize=2)
def network(width: int) -> Any:
    """Three 5x5 convolutions, written by hand around the library's convolution; logits for every pixel."""
    conv, shapes = (
        models.convolution(),
        [
            (5, 5, 3, width),
            (5, 5, width, width),
            (5, 5, width, CLASSES),
        ],
    )

    def init(key: Array) -> list[dict[str, Array]]:
        draw = jax.nn.initializers.he_normal()
        keys = jax.random.split(key, 3)
        return [
            {"kernel": draw(k, s), "bias": jnp.zeros(s[3])}
            for k, s in zip(keys, shapes, strict=True)
        ]

    def apply(params: list[dict[str, Array]], images: Array) -> Array:
        hidden = images
        for i, layer in enumerate(params):
            hidden = jax.nn.relu(hidden) if i else hidden
            hidden = conv(hidden, layer["kernel"], (1, 1), "SAME") + layer[
                "bias"
            ].reshape(1, 1, 1, -1)
        return hidden

    return models.from_functions(init, apply)


@functools.lru_cache(maxsize=2)
def images(num_clients: int, num_images: int, size: int) -> tuple[Dataset, Dataset]:
    """Training and held-out images, the first ``num_images`` of them client 0's, and so on."""
    styles = federated.draw_styles(num_clients, seed=0)
    drawn = [
        [
            federated.shape_images(num_images, style, size=size, seed=base + i)
            for i, style in enumerate(styles)
        ]
        for base in (1000, 2000)
    ]
    near, far = (
        Dataset(*map(np.concatenate, zip(*parts, strict=True))) for parts in drawn
    )
    return near, far


@functools.lru_cache(maxsize=2)
def local(learning_rate: float) -> federated.LocalTraining:
    return federated.LocalTraining(
        batch_size=8,
        learning_rate=learning_rate,
        optimizer=optimizers.Adam(),
        weight_decay=0.0,
    )


def to_vector(variables: Any) -> Array:
    return ravel_pytree(variables.params)[0]


def from_vector(width: int, vector: Array) -> Any:
    blank = jax.eval_shape(network(width).init, jax.random.key(0))
    unravel = ravel_pytree(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), blank.params)
    )[1]
    return blank._replace(params=unravel(vector))


def measure(width: int, vector: Array, leaving: Array, shared: Any) -> Array:
    """The numbers of :data:`MEASURES`: means over the two shapes, of Dice unless the name says IoU."""
    near, far, _ = shared
    owner = jnp.repeat(jnp.arange(len(leaving)), len(near.labels) // len(leaving))
    gone, variables = leaving[owner], from_vector(width, vector)
    seen, unseen = (
        jnp.argmax(
            train.predict(network(width).apply, variables, part.images, batch_size=64),
            -1,
        )
        for part in (near, far)
    )
    test = federated.overlap(unseen, far.labels, CLASSES, ~gone)
    forget = federated.overlap(seen, near.labels, CLASSES, gone)
    style = federated.overlap(unseen, far.labels, CLASSES, gone)
    return jnp.stack(
        [
            jnp.mean(v[1:])
            for v in (test.dice, test.iou, forget.dice, forget.iou, style.dice)
        ]
    )


@functools.lru_cache(maxsize=2)
def trainer(width: int, rounds: int, rate: float) -> Callable[[Any, Any], Array]:
    model = network(width)

    def run(item: Any, shared: Any) -> Array:
        (key, part), (near, _, clients) = item, shared
        key_start, key_rounds = jax.random.split(key)
        start, weights = (
            federated.init_server(model.init(key_start)),
            federated.fedavg_weights(clients, part),
        )
        group = federated.Federation(model, local(rate), near, clients)
        last, _ = federated.run_rounds(
            key_rounds, group, start, weights, num_rounds=rounds
        )
        return to_vector(last.variables)

    return run


@functools.lru_cache(maxsize=2)
def one_round(width: int, rounds: int, rate: float) -> Callable[[Any, Any], Array]:
    def run(item: Any, shared: Any) -> Array:
        (key, vector, weights), (near, _, clients) = item, shared
        state = federated.init_server(from_vector(width, vector), num_rounds=rounds)
        group = federated.Federation(network(width), local(rate), near, clients)
        return to_vector(
            federated.federated_round(key, group, state, weights).variables
        )

    return run


@functools.lru_cache(maxsize=2)
def ascender(width: int, rounds: int, rate: float) -> Callable[[Any, Any], Array]:
    def run(item: Any, shared: Any) -> Array:
        (key, vector, leaving), (near, _, clients) = item, shared
        state = federated.init_server(from_vector(width, vector), num_rounds=rounds)
        group = federated.Federation(network(width), local(rate), near, clients)
        return to_vector(
            federated.projected_ascent(key, group, state, leaving).variables
        )

    return run


@functools.lru_cache(maxsize=2)
def recoverer(width: int, recovery: int, rate: float) -> Callable[[Any, Any], Array]:
    """The remaining clients go on; measured before and after each round: ``[1 + recovery, 5]``."""

    def run(item: Any, shared: Any) -> Array:
        (key, vector, done, leaving), (near, _, clients) = item, shared
        state = federated.init_server(from_vector(width, vector), num_rounds=done)
        group = federated.Federation(network(width), local(rate), near, clients)
        weights = federated.fedavg_weights(clients, ~leaving)
        seen = lambda variables: measure(width, to_vector(variables), leaving, shared)
        trace = federated.run_rounds(
            key, group, state, weights, num_rounds=recovery, evaluate=seen
        )[1]
        return jnp.concatenate([measure(width, vector, leaving, shared)[None], trace])

    return run


@functools.lru_cache(maxsize=2)
def measurer(width: int) -> Callable[[Any, Any], Array]:
    return lambda item, shared: measure(width, *item, shared)


def for_each(
    config: Config, run: Callable[[Any, Any], Array], items: Any
) -> np.ndarray:
    near, far = images(config.num_clients, config.num_images, config.size)
    clients = federated.gather_clients(
        np.repeat(np.arange(config.num_clients), config.num_images)
    )
    how = replicas.mapper(num_models=len(jax.tree.leaves(items)[0]))
    return np.asarray(
        replicas.map_models(
            how, run, jax.tree.map(jnp.asarray, items), (near, far, clients)
        )
    )


def train_models(config: Config, seed: int) -> dict[str, Any]:
    """The original, and for each client a retrained model and a second one, as vectors of parameters."""
    cases = config.num_clients
    keys = jax.random.split(jax.random.fold_in(jax.random.key(29), seed), 1 + 2 * cases)
    part = np.concatenate(
        [
            np.ones((1, cases), bool),
            ~np.eye(cases, dtype=bool),
            ~np.eye(cases, dtype=bool),
        ]
    )
    vectors = for_each(
        config, trainer(config.width, config.rounds, config.learning_rate), (keys, part)
    )
    return {
        "original": vectors[0],
        "retrained": vectors[1 : 1 + cases],
        "again": vectors[1 + cases :],
    }


def forget_all(
    config: Config, seed: int, trained: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Every method's numbers by round ``[L, 1 + recovery, 5]``, and those of the models beside them ``[L, 5]``."""
    cases, leaving = config.num_clients, np.eye(config.num_clients, dtype=bool)
    knobs = (config.width, config.rounds, config.learning_rate)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(31), seed), cases)
    original = np.stack([trained["original"]] * cases)
    static = {
        "original": original,
        "retrained": trained["retrained"],
        "again": trained["again"],
    }
    found = {
        name: for_each(config, measurer(config.width), (v, leaving))
        for name, v in static.items()
    }
    clients = federated.gather_clients(np.repeat(np.arange(cases), config.num_images))
    starts: dict[str, tuple[np.ndarray, int]] = {"natural": (original, 0)}
    for mode in ("special", "regular"):
        weights = np.stack(
            [federated.puf_weights(clients, one, mode=mode) for one in leaving]
        )
        starts[mode] = (
            for_each(config, one_round(*knobs), (keys, original, weights)),
            1,
        )
    whole = from_vector(config.width, jnp.asarray(trained["original"]))
    negated = federated.negate_first_layer(
        network(config.width).apply, whole, jnp.zeros((1, config.size, config.size, 3))
    )
    starts["not"] = (np.stack([to_vector(negated)] * cases), 0)
    starts["ascent"] = (
        for_each(config, ascender(*knobs), (keys, original, leaving)),
        0,
    )
    repeat = lambda leaf: jnp.concatenate([leaf] * len(starts))
    vectors = np.concatenate([vectors for vectors, _ in starts.values()])
    done = np.repeat([config.rounds + more for _, more in starts.values()], cases)
    run = recoverer(config.width, config.recovery, config.learning_rate)
    traces = for_each(config, run, (repeat(keys), vectors, done, repeat(leaving)))
    return found | dict(
        zip(starts, traces.reshape(len(starts), cases, *traces.shape[1:]), strict=True)
    )


def make_artifacts(config: Config) -> dict[str, Part]:
    if not config.seeds:
        raise InputError("give at least one seed")
    if (
        config.num_clients < 2
        or min(config.num_images, config.rounds, config.recovery, config.width) < 1
    ):
        raise InputError(
            "at least 2 clients, and 1 image, channel, round and recovery round are"
            " needed"
        )
    images(
        config.num_clients, config.num_images, config.size
    )  # refuses what cannot be drawn
    parts: dict[str, Part] = {}
    plain = {
        key: value
        for key, value in dataclasses.asdict(config).items()
        if key != "seeds"
    }
    for seed in config.seeds:
        known = {**plain, "seed": seed}
        parts[f"models-{seed}"] = Part(
            known, functools.partial(train_models, config, seed)
        )
        needs = (f"models-{seed}",)
        parts[f"forget-{seed}"] = Part(
            known, functools.partial(forget_all, config, seed), needs=needs
        )
    return parts
