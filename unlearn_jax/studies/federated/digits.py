"""Federated unlearning of digits: PUF and its baselines, against retraining."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from unlearn_jax import data, models, replicas, train
from unlearn_jax.contrib import federated
from unlearn_jax.losses import cross_entropy
from unlearn_jax.pipeline import Part
from unlearn_jax.types import Array, Dataset, InputError

SETTINGS = {
    "dirichlet": "Dirichlet clients, each leaves in turn",
    "iid": "uniform clients, each leaves in turn",
    "owner": "five clients own a class each, each owner leaves in turn",
    "half": "Dirichlet clients, half of each one's samples leaves in turn",
    "pairs": "Dirichlet clients, two at once leave",
}


METHODS = {
    "natural": "Natural (continue)",
    "special": "PUF special, η_u = 2",
    "regular": "PUF regular, η_u = 20",
    "not": "NoT",
    "ascent": "Projected ascent",
}


STRENGTHS = (0.5, 1.0, 2.0, 5.0, 10.0)


MEASURES = ("test", "forget", "yeom", "distance")


@dataclasses.dataclass(frozen=True)
class Config:
    """What is trained, and who leaves. Learning rate 0.1 x 0.998^round, batch 32, one local epoch, as PUF's."""

    settings: tuple[str, ...] = tuple(SETTINGS)
    """Parts of the experiment: dirichlet, iid, owner, half, pairs."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of initial weights and of the order of samples; the clients' samples are the same for all."""
    num_clients: int = 10
    """Clients; owner and pairs need at least ten."""
    alpha: float = 0.3
    """Concentration of the Dirichlet split."""
    num_train: int = 1078
    """Training images; the others of the 1,797 are the test set."""
    width: int = 64
    """Units of the hidden layer."""
    rounds: int = 100
    """Rounds of the original and of every retraining."""
    recovery: int = 30
    """Most rounds after unlearning."""


@dataclasses.dataclass(frozen=True)
class Federation:
    """The clients of a setting, and who leaves in each of its L cases; nothing trained.

    There is always a row K more than clients, for a part of a client that leaves as a
    client of its own; elsewhere it takes part in nothing. So all settings have one
    shape, and one compiled program.

    Attributes:
      before: as the original model was trained.
      after: stacked over cases, when somebody leaves.
      leaving: ``[L, K + 1]`` bool.
      staying: ``[L, K + 1]`` bool.
      gone: ``[L, N]`` bool, the samples that must be forgotten.
      forget: ``[L, N]`` bool, those of them that are measured: of an owner, the class
        that it owned.
    """

    before: federated.Clients
    after: federated.Clients
    leaving: np.ndarray
    staying: np.ndarray
    gone: np.ndarray
    forget: np.ndarray


@functools.lru_cache(maxsize=1)
def digits(num_train: int) -> data.Splits:
    return data.load_digits(num_train=num_train, seed=0)


@functools.lru_cache(maxsize=1)
def network(width: int) -> Any:
    return models.build("mlp", (8, 8, 1), 10, widths=(width,))


@functools.lru_cache(maxsize=8)
def federation(
    setting: str, num_clients: int, alpha: float, num_train: int
) -> Federation:
    labels = digits(num_train).train.labels
    if setting == "iid":
        split = federated.iid_split(len(labels), num_clients, seed=0)
    elif setting == "owner":
        split = federated.owner_split(
            labels, num_clients, {client: client for client in range(5)}, seed=0
        )
    else:
        split = federated.dirichlet_split(
            labels, num_clients, alpha=alpha, min_samples=20, seed=0
        )
    everybody, width = np.arange(num_clients), len(labels) // 2
    real = np.arange(num_clients + 1) < num_clients
    plain = federated.gather_clients(split, width=width)
    before = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]]), plain)
    if setting == "half":
        parted = [
            federated.split_client(split, client, seed=client) for client in everybody
        ]
        rows = [federated.gather_clients(one, width=width) for one in parted]
        after, gone = (
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows),
            np.stack(parted) == num_clients,
        )
        leaving = np.tile(~real, (num_clients, 1))
        return Federation(before, after, leaving, ~leaving, gone, gone)
    cases = {"owner": everybody[:5, None], "pairs": everybody.reshape(-1, 2)}.get(
        setting, everybody[:, None]
    )
    leaving = (cases[:, :, None] == np.arange(num_clients + 1)).any(1)
    after = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(cases)), before)
    gone = leaving[:, split]
    forget = (
        gone & (labels == cases) if setting == "owner" else gone
    )  # client c owns class c
    return Federation(before, after, leaving, ~leaving & real, gone, forget)


def to_vector(variables: Any) -> Array:
    return ravel_pytree(variables.params)[0]


def from_vector(width: int, vector: Array) -> Any:
    blank = jax.eval_shape(network(width).init, jax.random.key(0))
    unravel = ravel_pytree(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), blank.params)
    )[1]
    return blank._replace(params=unravel(vector))


@functools.lru_cache(maxsize=8)
def trainer(width: int, rounds: int) -> Callable[[Any, Any], Array]:
    """Trains one model on the clients that take part."""
    model = network(width)

    def run(item: Any, shared: Any) -> Array:
        key, clients, part = item
        key_start, key_rounds = jax.random.split(key)
        start, weights = (
            federated.init_server(model.init(key_start)),
            federated.fedavg_weights(clients, part),
        )
        group = federated.Federation(
            model, federated.LocalTraining(), shared[0], clients
        )
        last, _ = federated.run_rounds(
            key_rounds, group, start, weights, num_rounds=rounds
        )
        return to_vector(last.variables)

    return run


@functools.lru_cache(maxsize=8)
def one_round(width: int, rounds: int) -> Callable[[Any, Any], Array]:
    """One round with any weights after ``rounds`` of them: PUF in both modes and all strengths."""
    model = network(width)

    def run(item: Any, shared: Any) -> Array:
        key, vector, clients, weights = item
        state = federated.init_server(from_vector(width, vector), num_rounds=rounds)
        group = federated.Federation(
            model, federated.LocalTraining(), shared[0], clients
        )
        return to_vector(
            federated.federated_round(key, group, state, weights).variables
        )

    return run


@functools.lru_cache(maxsize=8)
def ascender(width: int, rounds: int) -> Callable[[Any, Any], Array]:
    """Projected gradient ascent of the leaving client."""
    model = network(width)

    def run(item: Any, shared: Any) -> Array:
        key, vector, clients, leaving = item
        state = federated.init_server(from_vector(width, vector), num_rounds=rounds)
        group = federated.Federation(
            model, federated.LocalTraining(), shared[0], clients
        )
        return to_vector(
            federated.projected_ascent(key, group, state, leaving).variables
        )

    return run


def measure(
    width: int,
    vector: Array,
    oracle: Array,
    forget: Array,
    gone: Array,
    shared: tuple[Dataset, Dataset],
) -> Array:
    """The four numbers of :data:`MEASURES`; distance is total variation to the oracle's probabilities."""
    model, (near, test) = network(width), shared
    logits, tested, goal = (
        train.predict(model.apply, from_vector(width, parameters), part.images)
        for parameters, part in ((vector, near), (vector, test), (oracle, near))
    )
    apart = 0.5 * jnp.sum(jnp.abs(jax.nn.softmax(logits) - jax.nn.softmax(goal)), -1)
    right, losses = (
        jnp.argmax(logits, -1) == near.labels,
        cross_entropy(logits, near.labels),
    )
    hits = jnp.mean(jnp.argmax(tested, -1) == test.labels)
    mean = functools.partial(federated.mean_over, mask=forget)
    return jnp.stack(
        [hits, mean(right), federated.yeom(losses, forget, ~gone), mean(apart)]
    )


@functools.lru_cache(maxsize=8)
def recoverer(width: int, recovery: int) -> Callable[[Any, Any], Array]:
    """The remaining clients go on; measured before and after each round: ``[1 + recovery, 4]``."""
    model = network(width)

    def run(item: Any, shared: Any) -> Array:
        key, vector, oracle, done, clients, staying, forget, gone = item
        state = federated.init_server(from_vector(width, vector), num_rounds=done)
        group = federated.Federation(
            model, federated.LocalTraining(), shared[0], clients
        )
        weights = federated.fedavg_weights(clients, staying)
        seen = lambda variables: measure(
            width, to_vector(variables), oracle, forget, gone, shared
        )
        trace = federated.run_rounds(
            key, group, state, weights, num_rounds=recovery, evaluate=seen
        )[1]
        return jnp.concatenate(
            [measure(width, vector, oracle, forget, gone, shared)[None], trace]
        )

    return run


@functools.lru_cache(maxsize=8)
def measurer(width: int) -> Callable[[Any, Any], Array]:
    return lambda item, shared: measure(width, *item, shared)


def for_each(
    run: Callable[[Any, Any], Array], items: Any, config: Config, size: int = 10
) -> np.ndarray:
    """``run`` for any number of items, always ``size`` at a time, so that all settings share one program."""
    count = len(jax.tree.leaves(items)[0])
    splits, how = digits(config.num_train), replicas.mapper(num_models=size)
    network(
        config.width
    )  # made here, not inside a traced function, whose values it would keep
    found = []
    for first in range(0, count, size):
        place = np.minimum(np.arange(first, first + size), count - 1)
        take = jax.tree.map(
            lambda leaf, place=place: leaf[place], jax.tree.map(jnp.asarray, items)
        )
        found.append(
            np.asarray(replicas.map_models(how, run, take, (splits.train, splits.test)))
        )
    return np.concatenate(found)[:count]


def train_models(config: Config, setting: str, seed: int) -> dict[str, Any]:
    """The original, and for each case a retrained model and a second one, as vectors of parameters."""
    fed = federation(setting, config.num_clients, config.alpha, config.num_train)
    cases = len(fed.leaving)
    # every model starts at weights of its own: a retrained one shares nothing with the
    # original
    keys = jax.random.split(jax.random.fold_in(jax.random.key(17), seed), 1 + 2 * cases)
    everybody = np.arange(config.num_clients + 1) < config.num_clients
    part = np.concatenate([everybody[None], fed.staying, fed.staying])
    clients = jax.tree.map(
        lambda a, b: jnp.concatenate([a[None], b, b]), fed.before, fed.after
    )
    vectors = for_each(
        trainer(config.width, config.rounds), (keys, clients, part), config, size=12
    )
    return {
        "original": vectors[0],
        "retrained": vectors[1 : 1 + cases],
        "again": vectors[1 + cases :],
    }


def forget_all(
    config: Config, setting: str, seed: int, trained: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Every method's numbers by round ``[L, 1 + recovery, 4]``, and those of the models beside them ``[L, 4]``."""
    fed = federation(setting, config.num_clients, config.alpha, config.num_train)
    cases, oracle = len(fed.leaving), trained["retrained"]
    keys = jax.random.split(jax.random.fold_in(jax.random.key(23), seed), cases)
    original = np.stack([trained["original"]] * cases)
    static = {"original": original, "retrained": oracle, "again": trained["again"]}
    found = {
        name: for_each(
            measurer(config.width), (vectors, oracle, fed.forget, fed.gone), config
        )
        for name, vectors in static.items()
    }
    starts: dict[str, tuple[np.ndarray, int]] = {
        "natural": (original, 0),
        "more": (oracle, 0),
    }
    rounds = {"special": ("special", 2.0), "regular": ("regular", 20.0)}
    if setting == "dirichlet":
        rounds |= {
            f"special-{eta:g}": ("special", eta) for eta in STRENGTHS if eta != 2.0
        }
    for name, (mode, eta) in rounds.items():
        weights = jax.vmap(
            lambda clients, leaving, staying, mode=mode, eta=eta: federated.puf_weights(
                clients, leaving, mode=mode, eta_u=eta, remaining=staying
            )
        )(fed.after, fed.leaving, fed.staying)
        items = (keys, original, fed.after, weights)
        starts[name] = (
            for_each(one_round(config.width, config.rounds), items, config),
            1,
        )
    whole = from_vector(config.width, jnp.asarray(trained["original"]))
    negated = federated.negate_first_layer(
        network(config.width).apply, whole, jnp.zeros((1, 8, 8, 1))
    )
    starts["not"] = (np.stack([to_vector(negated)] * cases), 0)
    if setting != "pairs":  # it forgets one client at a time
        items = (keys, original, fed.after, fed.leaving)
        starts["ascent"] = (
            for_each(ascender(config.width, config.rounds), items, config),
            0,
        )
    repeat = lambda leaf: jnp.concatenate([leaf] * len(starts))
    vectors = np.concatenate([vectors for vectors, _ in starts.values()])
    done = np.repeat([config.rounds + more for _, more in starts.values()], cases)
    same = jax.tree.map(
        repeat, (keys, oracle, fed.after, fed.staying, fed.forget, fed.gone)
    )
    items = (same[0], vectors, same[1], done, *same[2:])
    traces = for_each(recoverer(config.width, config.recovery), items, config)
    return found | dict(
        zip(starts, traces.reshape(len(starts), cases, *traces.shape[1:]), strict=True)
    )


def make_artifacts(config: Config) -> dict[str, Part]:
    if unknown := set(config.settings) - set(SETTINGS):
        raise InputError(
            f"unknown setting {sorted(unknown)[0]!r}: choose {', '.join(SETTINGS)}"
        )
    if not config.seeds or not config.settings:
        raise InputError("give at least one seed and one setting")
    if config.num_clients < 10 and {"owner", "pairs"} & set(config.settings):
        raise InputError(
            "settings owner and pairs need at least 10 clients, got"
            f" {config.num_clients}"
        )
    if "pairs" in config.settings and config.num_clients % 2:
        raise InputError(
            f"setting pairs needs an even number of clients, got {config.num_clients}"
        )
    if min(config.rounds, config.recovery) < 1:
        raise InputError("rounds and recovery must be at least 1")
    parts: dict[str, Part] = {}
    plain = {
        key: value
        for key, value in dataclasses.asdict(config).items()
        if key not in ("settings", "seeds")
    }
    for setting in config.settings:
        federation(
            setting, config.num_clients, config.alpha, config.num_train
        )  # refuses what cannot be split
        for seed in config.seeds:
            known = {**plain, "setting": setting, "seed": seed}
            models_part = f"models-{setting}-{seed}"
            parts[models_part] = Part(
                known, functools.partial(train_models, config, setting, seed)
            )
            parts[f"forget-{setting}-{seed}"] = Part(
                known,
                functools.partial(forget_all, config, setting, seed),
                needs=(models_part,),
            )
    return parts
