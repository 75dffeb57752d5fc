"""Federated unlearning of images: PUF and its baselines, against retraining."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import data, train
from unlearn_jax.checks import check_choice, check_counts, check_positive
from unlearn_jax.contrib import federated
from unlearn_jax.losses import cross_entropy
from unlearn_jax.optimizers import Adam
from unlearn_jax.pipeline import Artifact, DataConfig, ModelConfig, estimate
from unlearn_jax.pipeline.config.resolve import build_model, load_data, plain_model
from unlearn_jax.pipeline.config.schema import to_json
from unlearn_jax.studies.common import check_distinct, variables_of
from unlearn_jax.studies.federated import recovery
from unlearn_jax.types import Array, Dataset, InputError, Model, PyTree, Variables

Mode = Literal["special", "regular"]

SETTINGS = {
    "dirichlet": "Dirichlet clients, each leaves in turn",
    "iid": "uniform clients, each leaves in turn",
    "owner": "five clients own a class each, each owner leaves in turn",
    "half": "Dirichlet clients, half of each one's samples leaves in turn",
    "pairs": "Dirichlet clients, two at once leave",
}
STRENGTHS = (0.5, 1.0, 2.0, 5.0, 10.0)
MEASURES = ("test", "forget", "yeom", "distance")


@dataclasses.dataclass(frozen=True)
class Config:
    """Federations and their cases, with the local training of PUF."""

    settings: tuple[str, ...] = tuple(SETTINGS)
    """Splits of the samples and cases of leaving; keys of :data:`SETTINGS`."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of initial weights and sample order; the clients' samples are the same."""
    num_clients: int = 10
    """Number of clients; settings owner and pairs need at least ten."""
    num_cases: int = 0
    """Number of first cases of every setting; 0 for all."""
    alpha: float = 0.3
    """Concentration parameter of the Dirichlet split."""
    data: DataConfig | None = None
    """Images; None for scikit-learn's 1,797 digits."""
    num_train: int = 1078
    """Number of training images of the digits; the others are the test set."""
    model: ModelConfig = dataclasses.field(
        default_factory=lambda: ModelConfig(name="mlp", widths=(64,))
    )
    """Network."""
    augment: str = "none"
    """Augmentation of the clients' images."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Clients' optimizer; PUF uses Adam for transformers, here without weight decay."""
    learning_rate: float = 0.1
    """Clients' learning rate in the first round."""
    strengths: tuple[float, ...] = STRENGTHS
    """Strengths of PUF special on the Dirichlet split; 2 is always included."""
    rounds: int = 100
    """Training rounds of the original and of every retrained model."""
    recovery: int = 30
    """Maximum number of rounds of recovery after unlearning."""
    group: int = 12
    """Number of models trained at a time."""

    @property
    def local(self) -> federated.LocalTraining:
        """Local training of a client."""
        if self.optimizer == "adam":
            return federated.LocalTraining(
                augment=data.augmentation(self.augment),
                optimizer=Adam(),
                learning_rate=self.learning_rate,
                weight_decay=0.0,
            )
        return federated.LocalTraining(
            augment=data.augmentation(self.augment), learning_rate=self.learning_rate
        )


@dataclasses.dataclass(frozen=True)
class Federation:
    """The K clients of a setting, and those that leave in each of its L cases.

    Row K + 1 holds the part of a client that leaves as a client of its own. Other
    settings have the row too, but never use it, so that all settings share one shape
    and one compiled program.

    Attributes:
      before: clients of the original model.
      after: clients of each case, stacked.
      leaving: ``[L, K + 1]`` bool, the clients that leave.
      staying: ``[L, K + 1]`` bool, the clients that stay.
      removed: ``[L, N]`` bool, samples to forget.
      forget: ``[L, N]`` bool, removed samples on which forgetting is measured; for an
        owner, those of the class that it owned.
    """

    before: federated.Clients
    after: federated.Clients
    leaving: np.ndarray
    staying: np.ndarray
    removed: np.ndarray
    forget: np.ndarray


@functools.lru_cache(maxsize=2)
def splits_of(config: Config) -> data.Splits:
    """Return training and test images."""
    if config.data is None:
        return data.load_digits(num_train=config.num_train, seed=0)
    return load_data(config.data)


@functools.lru_cache(maxsize=2)
def network(config: Config) -> Model:
    """Return the network, which is built once, outside of traced functions."""
    return build_model(config.model, splits_of(config))


@functools.lru_cache(maxsize=8)
def federation(setting: str, config: Config) -> Federation:
    """Return the clients and cases of a setting.

    Args:
      setting: key of :data:`SETTINGS`.
      config: study configuration.
    """
    num_clients = config.num_clients
    most = config.num_cases or num_clients
    labels = splits_of(config).train.labels
    if setting == "iid":
        split = federated.iid_split(len(labels), num_clients, seed=0)
    elif setting == "owner":
        split = federated.owner_split(
            labels, num_clients, {client: client for client in range(5)}, seed=0
        )
    else:
        split = federated.dirichlet_split(
            labels,
            num_clients,
            alpha=config.alpha,
            min_samples=min(20, len(labels) // num_clients),
            seed=0,
        )
    everybody = np.arange(num_clients)
    width = max(len(labels) // 2, int(np.bincount(split).max()))
    real = np.arange(num_clients + 1) < num_clients
    plain = federated.gather_clients(split, width=width)
    before = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:1]]), plain)
    if setting == "half":
        parted = [
            federated.split_client(split, client, seed=client)
            for client in range(min(num_clients, most))
        ]
        rows = [federated.gather_clients(one, width=width) for one in parted]
        after = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)
        removed = np.stack(parted) == num_clients
        leaving = np.tile(~real, (len(parted), 1))
        return Federation(before, after, leaving, ~leaving, removed, removed)
    cases = everybody[:, None]
    if setting == "owner":
        cases = everybody[:5, None]
    elif setting == "pairs":
        cases = everybody.reshape(-1, 2)
    cases = cases[:most]
    leaving = (cases[:, :, None] == np.arange(num_clients + 1)).any(1)
    after = jax.tree.map(lambda leaf: jnp.stack([leaf] * len(cases)), before)
    removed = leaving[:, split]
    # Client c owns class c.
    forget = removed & (labels == cases) if setting == "owner" else removed
    return Federation(before, after, leaving, ~leaving & real, removed, forget)


@dataclasses.dataclass(frozen=True)
class Measures:
    """:data:`MEASURES` of a model; items ``(variables, oracle, forget, removed)``.

    Attributes:
      model: architecture of the models.
    """

    model: Model

    def __call__(self, item: Any, shared: tuple[Dataset, Dataset]) -> Array:
        """Return measures ``[4]``; distance is total variation from the oracle."""
        variables, oracle, forget, removed = item
        samples, test = shared
        apply_fn = self.model.apply
        logits = train.predict(apply_fn, variables, samples.images)
        on_test = train.predict(apply_fn, variables, test.images)
        goal = train.predict(apply_fn, oracle, samples.images)
        gap = jnp.abs(jax.nn.softmax(logits) - jax.nn.softmax(goal))
        distance = 0.5 * jnp.sum(gap, -1)
        is_right = jnp.argmax(logits, -1) == samples.labels
        losses = cross_entropy(logits, samples.labels)
        mean = functools.partial(federated.mean_over, mask=forget)
        return jnp.stack(
            [
                jnp.mean(jnp.argmax(on_test, -1) == test.labels),
                mean(is_right),
                federated.yeom(losses, forget, ~removed),
                mean(distance),
            ]
        )


def train_models(config: Config, setting: str, seed: int) -> dict[str, Variables]:
    """Return the original, and two retrained models for each case."""
    fed = federation(setting, config)
    return recovery.train_all(
        recovery.Trainer(network(config), config.local, config.rounds),
        jax.random.fold_in(jax.random.key(17), seed),
        fed.before,
        fed.after,
        np.arange(config.num_clients + 1) < config.num_clients,
        fed.staying,
        _samples(config),
        group=config.group,
    )


def forget_all(
    config: Config, setting: str, seed: int, trained: Mapping[str, PyTree]
) -> dict[str, np.ndarray]:
    """Apply every method to every case and let the remaining clients recover.

    Args:
      config: study configuration.
      setting: key of :data:`SETTINGS`.
      seed: seed of the methods.
      trained: models of :func:`train_models`.

    Returns:
      Measures by model: ``[L, 1 + recovery, 4]`` by round for each method, and
      ``[L, 4]`` for the trained models.
    """
    fed = federation(setting, config)
    model = network(config)
    cases = len(fed.leaving)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(23), seed), cases)
    oracle = variables_of(trained["retrained"])
    original = variables_of(trained["original"])
    originals = recovery.repeat(original, cases)
    run = functools.partial(
        recovery.for_each, shared=_samples(config), group=min(config.group, 10)
    )
    again = variables_of(trained["again"])
    arrays: dict[str, np.ndarray] = {}
    trio = {"original": originals, "retrained": oracle, "again": again}
    for name, variables in trio.items():
        items = (variables, oracle, fed.forget, fed.removed)
        arrays[name] = run(Measures(model), items)
    # Variables from which to recover, and the number of rounds so far.
    rounds = config.rounds
    starts: dict[str, tuple[Variables, int]] = {
        "natural": (originals, rounds),
        "more": (oracle, rounds),
    }
    unlearning: dict[str, tuple[Mode, float]] = {
        "special": ("special", 2.0),
        "regular": ("regular", 20.0),
    }
    if setting == "dirichlet":
        for eta in config.strengths:
            if eta != 2.0:
                unlearning[f"special-{eta:g}"] = ("special", eta)
    one_round = recovery.Round(model, config.local, rounds)
    for name, (mode, eta) in unlearning.items():
        weights = _puf_weights(fed, mode, eta)
        unlearned = run(one_round, (keys, originals, fed.after, weights))
        starts[name] = (unlearned, rounds + 1)
    images = jnp.zeros((1, *splits_of(config).train.images.shape[1:]))
    negated = federated.negate_first_layer(
        model.apply, jax.tree.map(jnp.asarray, original), images
    )
    starts["not"] = (recovery.repeat(negated, cases), rounds)
    # Projected ascent forgets one client at a time.
    if setting != "pairs":
        ascent = recovery.Ascent(model, config.local, rounds)
        items = (keys, originals, fed.after, fed.leaving, fed.staying)
        starts["ascent"] = (run(ascent, items), rounds)
    program = recovery.Recovery(model, config.local, config.recovery, Measures(model))
    case = (fed.after, fed.staying, oracle, fed.forget, fed.removed)
    return arrays | recovery.recover_all(program, starts, keys, case, run)


def _puf_weights(fed: Federation, mode: Mode, eta: float) -> Array:
    """Return PUF's weights ``[L, K + 1]`` of every case."""

    def one(clients: federated.Clients, leaving: Any, staying: Any) -> Array:
        return federated.puf_weights(
            clients, leaving, mode=mode, eta_u=eta, remaining=staying
        )

    return jax.vmap(one)(fed.after, fed.leaving, fed.staying)


def _samples(config: Config) -> tuple[Dataset, Dataset]:
    splits = splits_of(config)
    return splits.train, splits.test


def make_artifacts(config: Config) -> list[Artifact]:
    """Return artifacts of training and unlearning, for every setting and seed.

    Raises:
      InputError: unknown settings, settings that do not fit the number of clients, or
        values out of range.
    """
    if unknown := set(config.settings) - set(SETTINGS):
        raise InputError(
            f"unknown setting {sorted(unknown)[0]!r}: choose {', '.join(SETTINGS)}"
        )
    check_distinct(seeds=config.seeds, settings=config.settings)
    if config.num_clients < 2:
        raise InputError(f"num_clients must be 2 or more, got {config.num_clients}")
    if config.num_clients < 10 and {"owner", "pairs"} & set(config.settings):
        raise InputError(
            "settings owner and pairs need at least 10 clients, got"
            f" {config.num_clients}"
        )
    if "pairs" in config.settings and config.num_clients % 2:
        raise InputError(
            f"setting pairs needs an even number of clients, got {config.num_clients}"
        )
    check_counts(rounds=config.rounds, recovery=config.recovery, group=config.group)
    check_counts(0, num_cases=config.num_cases)
    check_choice("optimizer", config.optimizer, ("sgd", "adam"))
    check_positive(learning_rate=config.learning_rate, strengths=config.strengths)
    plain = to_json(config)
    for name in ("settings", "seeds", "group"):
        del plain[name]
    plain["model"] = plain_model(config.model)
    if config.data is not None:
        plain["data"] = config.data.identity()
    artifacts = []
    for setting in config.settings:
        # Raises on samples that cannot be split.
        cases = len(federation(setting, config).leaving)
        size = len(splits_of(config).train.labels)
        methods = 6 + max(len(config.strengths) - 1, 0) * (setting == "dirichlet")
        for seed in config.seeds:
            settings = {**plain, "setting": setting, "seed": seed}
            models_of = Artifact(
                name=f"models-{setting}-{seed}",
                settings=settings,
                compute=functools.partial(train_models, config, setting, seed),
                price=float((1 + 2 * cases) * config.rounds * size),
            )
            forget = Artifact(
                name=f"forget-{setting}-{seed}",
                settings=settings,
                compute=functools.partial(forget_all, config, setting, seed),
                inputs=(models_of,),
                price=float(methods * cases * (config.recovery + 1) * size),
            )
            artifacts += [models_of, forget]
    return artifacts


def training_speed(config: Config) -> float:
    """Return the samples per second of the clients' training on this machine."""
    samples = splits_of(config).train
    local = config.local
    tx = local.optimizer(local.learning_rate, local.weight_decay)
    recipe = train.Recipe(1, local.batch_size, tx, local.augment)
    count = min(config.group, len(jax.local_devices()))
    return estimate.training_speed(
        network(config),
        samples,
        recipe,
        keys=jax.random.split(jax.random.key(0), count),
        member=np.ones((count, len(samples.labels)), bool),
    )
