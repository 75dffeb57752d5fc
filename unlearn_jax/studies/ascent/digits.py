"""Gradient ascent on digits: KLoM of every run of a grid, and predictors of failure."""

import dataclasses
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from unlearn_jax import audit, data, methods, models, replicas, train
from unlearn_jax.checks import (
    check_counts,
    check_fractions,
    check_positive,
    check_sizes,
)
from unlearn_jax.influence import cross_influence_norm
from unlearn_jax.pipeline import Artifact
from unlearn_jax.studies import common
from unlearn_jax.studies.common import Arrays, check_distinct, variables_of
from unlearn_jax.types import (
    Dataset,
    InputError,
    Model,
    Params,
    Problem,
    PyTree,
    Variables,
    to_float,
)
from unlearn_jax.values import replace

KINDS = {
    "random": "random",
    "pc1-top": "1st influence PC, top",
    "pc1-bottom": "1st influence PC, bottom",
    "pc2-top": "2nd influence PC, top",
    "nearest": "nearest to one sample",
    "one-class": "random within one class",
}
"""Labels of the kinds of forget sets; a key starts the names of its sets."""

SETS = (
    "random-0",
    "random-1",
    "pc1-top",
    "pc1-bottom",
    "pc2-top",
    "nearest-0",
    "nearest-1",
    "one-class",
)

METHODS = {
    "ga": "gradient ascent",
    "gda": "descent-ascent (NegGrad+)",
    "scrub": "SCRUB",
    "finetune": "fine-tuning (no ascent)",
}

ASCENT = ("ga", "gda", "scrub")

PARTS = ("forget", "retain", "test")

NORMS = ("|K_rf|", "|K_rf| / sqrt(|K_rr| |K_ff|)", "|T_rf|, with the inverse Hessian")


EFFECT = 0.25
"""Change of a run's worst part, in nats, that counts as improved or broken."""
NEAR = 0.1
"""Least excess of an original, in nats, of which fractions are reported."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Ensembles of small perceptrons, and the grid of methods."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the data, the forget sets and the models."""
    num_train: int = 600
    """Number of training samples of the 1,797 digits; the others are test samples."""
    num_forget: int = 30
    """Number of samples in each forget set."""
    num_models: int = 100
    """Number each of originals, oracles and second oracles; under 80 inflates KLoM."""
    num_epochs: int = 20
    """Passes over the training samples, with learning rate 0.1 and batches of 50."""
    width: int = 64
    """Number of units of the hidden layer."""
    ga_rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    """Learning rates of gradient ascent."""
    ga_epochs: tuple[int, ...] = (5, 20)
    """Epochs of gradient ascent; each is one step, on the whole forget set."""
    gda_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    """Learning rates of descent-ascent and of fine-tuning."""
    gda_alphas: tuple[float, ...] = (0.95, 0.9, 0.8)
    """Weights of the retained samples in descent-ascent; 1 in fine-tuning."""
    scrub_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.06, 0.1)
    """Learning rates of SCRUB."""
    num_tuning_epochs: int = 5
    """Passes of descent-ascent, fine-tuning and SCRUB over the retained samples."""


class Program(NamedTuple):
    """Runs that share a compiled program.

    Attributes:
      method: method to apply; the hyperparameters that are not mapped are the same in
        all runs.
      mapped: one value per run for each of the mapped hyperparameters.
    """

    method: Any
    mapped: dict[str, list[float]]


def grid(config: Config) -> list[Program]:
    """Return all runs as programs, in the order of the stored arrays."""
    known = methods.METHODS
    steps = {"batch_size": 50, "num_epochs": config.num_tuning_epochs}
    steps["forget_batch_size"] = config.num_forget
    programs = []
    for num_epochs in config.ga_epochs:
        ascent = replace(
            known["gradient_ascent"],
            batch_size=config.num_forget,
            num_epochs=num_epochs,
        )
        programs.append(Program(ascent, {"learning_rate": [*config.ga_rates]}))
    alphas = [alpha for alpha in (*config.gda_alphas, 1.0) for _ in config.gda_rates]
    rates = [*config.gda_rates] * (len(config.gda_alphas) + 1)
    descent_ascent = replace(known["neggrad_plus"], **steps)
    programs.append(Program(descent_ascent, {"learning_rate": rates, "alpha": alphas}))
    scrub = replace(known["scrub"], **steps, num_max_epochs=3)
    programs.append(Program(scrub, {"learning_rate": [*config.scrub_rates]}))
    return programs


def methods_of(config: Config) -> np.ndarray:
    """Return the method of each run, keys of :data:`METHODS`."""
    num_ascent = len(config.ga_epochs) * len(config.ga_rates)
    num_rates = len(config.gda_rates)
    return np.array(
        ["ga"] * num_ascent
        + ["gda"] * (num_rates * len(config.gda_alphas))
        + ["finetune"] * num_rates
        + ["scrub"] * len(config.scrub_rates)
    )


@lru_cache
def setting(config: Config, seed: int) -> tuple[Model, Dataset, Dataset, train.Recipe]:
    """Return the network, the training samples, the test samples and the recipe."""
    splits = data.load_digits(num_train=config.num_train, seed=seed)
    model = models.build("mlp", (8, 8, 1), 10, widths=(config.width,))
    recipe = train.Recipe(config.num_epochs, 50, train.sgd(0.1))
    return model, splits.train, splits.test, recipe


def train_ensemble(
    config: Config, seed: int, purpose: int, member: np.ndarray
) -> Variables:
    """Train ``num_models`` networks on the same samples, with different keys."""
    model, samples, _, recipe = setting(config, seed)
    key = jax.random.fold_in(jax.random.key(seed), purpose)
    state, _ = replicas.fit_many(
        jax.random.split(key, config.num_models),
        model,
        samples,
        np.tile(member, (config.num_models, 1)),
        recipe,
        epochs_per_call=recipe.num_epochs,
        num_batches=train.steps_per_epoch(config.num_train, recipe.batch_size),
    )
    return state.variables


def pool_of(config: Config, seed: int) -> Dataset:
    """Return the training samples, followed by the test samples."""
    _, samples, test, _ = setting(config, seed)
    return Dataset(*(np.concatenate(pair) for pair in zip(samples, test, strict=True)))


def margins_of(config: Config, seed: int, variables: Variables) -> np.ndarray:
    """Return the logit margins ``[M, N]`` on all samples."""
    model, _, _, _ = setting(config, seed)
    pool = pool_of(config, seed)
    logits = replicas.predict_many(model.apply, variables, pool.images)
    labels = np.broadcast_to(pool.labels, logits.shape[:2])
    return np.asarray(audit.logit_margin(logits, labels))


def originals(config: Config, seed: int) -> dict[str, PyTree]:
    """Return the original ``models``, stacked, and their ``margins`` ``[M, N]``."""
    variables = train_ensemble(config, seed, 0, np.ones(config.num_train, bool))
    return {"models": variables, "margins": margins_of(config, seed, variables)}


@dataclasses.dataclass(frozen=True)
class Unlearner:
    """Unlearning of one original by all runs of a program; items ``(key, params)``.

    Attributes:
      model: architecture of the original.
      method: method to apply.
      names: names of the hyperparameters that differ between runs.
      num_forget: size of the forget set.
    """

    model: Model
    method: Any
    names: tuple[str, ...]
    num_forget: int

    def __call__(self, item: Any, shared: Any) -> jax.Array:
        """Return the margins ``[K, N]``."""
        key, params = item
        samples, forget, pool, mapped = shared
        variables = Variables(params, {})
        problem = Problem(self.model, variables, samples, forget, self.num_forget)

        def one(pair: Any) -> jax.Array:
            key, values = pair
            options = dict(zip(self.names, values, strict=True))
            unlearned, _ = replace(self.method, **options)(key, problem)
            logits = train.predict(self.model.apply, unlearned, pool.images)
            return audit.logit_margin(logits, pool.labels)

        return jax.lax.map(one, (jax.random.split(key, len(mapped[0])), mapped))


def unlearned_margins(
    config: Config, seed: int, variables: Variables, forget: np.ndarray
) -> np.ndarray:
    """Return the margins ``[K, M, N]`` of every run applied to every original."""
    model, samples, _, _ = setting(config, seed)
    mapper = replicas.mapper(num_models=config.num_models)
    margins = []
    for number, (method, mapped) in enumerate(grid(config)):
        key = jax.random.fold_in(jax.random.key(seed), 100 + number)
        items = (jax.random.split(key, config.num_models), variables.params)
        values = tuple(np.array(column, np.float32) for column in mapped.values())
        shared = (samples, forget, pool_of(config, seed), values)
        run = Unlearner(model, method, tuple(mapped), config.num_forget)
        result = replicas.map_models(mapper, run, items, shared)
        margins.append(np.asarray(result).transpose(1, 0, 2))
    return np.concatenate(margins)


@partial(jax.jit, static_argnums=0)
def margin_gradients(model: Model, params: Params, pool: Dataset) -> jax.Array:
    """Return the gradients ``[N, P]`` of the margins by all parameters."""

    def one(sample: tuple[jax.Array, jax.Array]) -> jax.Array:
        image, label = sample

        def margin(params: Params) -> jax.Array:
            logits = model.apply(Variables(params, {}), to_float(image)[None])
            return audit.logit_margin(logits, label[None])[0]

        return ravel_pytree(jax.grad(margin)(params))[0]

    return jax.lax.map(one, (pool.images, pool.labels), batch_size=200)


def attributions(
    config: Config, seed: int, variables: Variables, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel and the influences of the margins, averaged over originals.

    The influence of training sample i on the margin of sample j is TRAK's (Park et al.,
    arXiv 2303.14186) without projection: ``g_j (G^T G + r I)^-1 g_i`` with G ``[N, P]``
    the gradients of the training margins, and r a thousandth of their mean square.
    TRAK's factor ``1 - p_i`` is left out: in a network that fits nearly all samples,
    only a handful of samples would have any influence.

    Args:
      config: study configuration.
      seed: seed of the originals.
      variables: variables of the originals, stacked.
      count: number of first originals to average over.

    Returns:
      The kernel ``[N, N]`` of the training margins, and the influences ``[N + Z, N]``,
      training samples first.
    """
    model, _, _, _ = setting(config, seed)
    pool = pool_of(config, seed)
    num_train = config.num_train
    kernels = []
    influences = []
    for m in range(count):
        params = replicas.unstack(variables.params, m)
        slopes = np.asarray(margin_gradients(model, params, pool), np.float64)
        train_slopes = slopes[:num_train]
        kernel = train_slopes @ train_slopes.T
        ridge = 1e-3 * np.trace(kernel) / num_train
        # (G^T G + r I)^-1 G^T = G^T (G G^T + r I)^-1
        dual = np.linalg.solve(
            kernel + ridge * np.eye(num_train), train_slopes @ slopes.T
        ).T
        influences.append(dual)
        kernels.append(kernel)
    return np.mean(kernels, 0), np.mean(influences, 0)


def forget_sets(
    config: Config, seed: int, models: Mapping[str, PyTree]
) -> dict[str, np.ndarray]:
    """Return the forget sets and their cross-influence norms.

    Args:
      config: study configuration.
      seed: seed of the sets.
      models: arrays of :func:`originals`.

    Returns:
      ``masks`` ``[S, N]``, with the sets in the order of :data:`SETS`, and ``norms``
      ``[S, 3]``, with the norms in the order of :data:`NORMS`.
    """
    _, samples, _, _ = setting(config, seed)
    rng = np.random.default_rng([seed, 1])
    count = config.num_forget
    num_train = config.num_train
    variables = jax.tree.map(jnp.asarray, variables_of(models["models"]))
    kernel, influence = attributions(config, seed, variables, min(5, config.num_models))
    on_test = influence[num_train:] - influence[num_train:].mean(1, keepdims=True)
    components = np.linalg.svd(on_test, full_matrices=False)[2][:2]
    # The longer tail of a component is its top.
    components *= np.sign((components**3).sum(1, keepdims=True))
    # differences of uint8 would wrap around
    pixels = np.asarray(to_float(samples.images)).reshape(num_train, -1)
    ranked = {
        "pc1-top": -components[0],
        "pc1-bottom": components[0],
        "pc2-top": -components[1],
    }
    masks = []
    for name in SETS:
        if name.startswith("random"):
            chosen = rng.choice(num_train, count, replace=False)
        elif name.startswith("nearest"):
            gaps = (pixels - pixels[rng.integers(num_train)]) ** 2
            chosen = np.argsort(gaps.sum(1))[:count]
        elif name == "one-class":
            members = np.arange(0)
            # The largest class has a tenth of all samples or more, and a set less.
            while len(members) < count:
                members = np.flatnonzero(np.asarray(samples.labels) == rng.integers(10))
            chosen = rng.choice(members, count, replace=False)
        else:
            chosen = np.argsort(ranked[name])[:count]
        masks.append(data.forget_indices(chosen, num_train))
    norms = [cross_norms(kernel, influence[:num_train], mask) for mask in masks]
    return {"masks": np.array(masks), "norms": np.array(norms)}


def cross_norms(
    kernel: np.ndarray, influence: np.ndarray, forget: np.ndarray
) -> list[float]:
    """Return the values of :data:`NORMS` for one forget set."""
    scaled = kernel / np.trace(kernel) * len(kernel)

    def block(rows: np.ndarray, columns: np.ndarray) -> jax.Array:
        return jnp.asarray(scaled[np.ix_(rows, columns)], jnp.float32)

    cross = block(~forget, forget)
    blocks = (block(~forget, ~forget), block(forget, forget))
    return [
        float(cross_influence_norm(cross)),
        float(cross_influence_norm(cross, *blocks)),
        float(np.linalg.norm(influence[np.ix_(~forget, forget)], 2)),
    ]


def unlearn_set(
    config: Config, seed: int, name: str, models: Mapping[str, PyTree], sets: Arrays
) -> dict[str, np.ndarray]:
    """Apply every run to a forget set and compare with two ensembles of oracles.

    Args:
      config: study configuration.
      seed: seed of the originals.
      name: name of the forget set, one of :data:`SETS`.
      models: arrays of :func:`originals`.
      sets: arrays of :func:`forget_sets`.

    Returns:
      ``klom`` and ``again`` ``[K + 2, N]``: KLoM of the original, of every run and of
      the other oracles, against the first and the second oracles. ``diverged`` ``[K]``:
      runs with values that are not finite. ``forget`` ``[N]``: the forget mask.
      ``accuracy`` ``[2, N]``: fractions of the originals and of the first oracles that
      are right on each sample.
    """
    forget = sets["masks"][SETS.index(name)]
    number = 1000 + 10 * SETS.index(name)
    first, second = (
        margins_of(config, seed, train_ensemble(config, seed, number + i, ~forget))
        for i in (0, 1)
    )
    variables = variables_of(models["models"])
    margins = unlearned_margins(config, seed, variables, forget)
    diverged = np.asarray(~np.isfinite(margins).all((1, 2)))
    # A model that diverged is wrong on every sample.
    margins = np.nan_to_num(margins, nan=-100.0, posinf=100.0, neginf=-100.0)
    runs = [models["margins"], *margins]
    klom = np.stack([audit.klom(run, first) for run in (*runs, second)])
    again = np.stack([audit.klom(run, second) for run in (*runs, first)])
    accuracy = [(side > 0).mean(0) for side in (models["margins"], first)]
    return {
        "klom": klom.astype(np.float32),
        "again": again.astype(np.float32),
        "diverged": diverged,
        "forget": forget,
        "accuracy": np.array(accuracy),
    }


def check(config: Config) -> None:
    """Raise on an unusable configuration.

    Raises:
      InputError: too few models, sets of the wrong size, a list that is empty or names
        something twice, or a number out of range.
    """
    check_distinct(seeds=config.seeds)
    if config.num_models < 2:
        raise InputError("ascent_digits needs two models: set --num-models 100")
    check_counts(
        num_epochs=config.num_epochs,
        width=config.width,
        num_tuning_epochs=config.num_tuning_epochs,
    )
    if not 2 <= config.num_forget <= config.num_train // 12 or config.num_train > 1700:
        raise InputError(
            f"{config.num_forget} forget samples of {config.num_train}: pass at most"
            " 1,700 training samples, and a twelfth of them or less to forget, so that"
            " one class holds them"
        )
    check_sizes(ga_epochs=config.ga_epochs)
    check_fractions(gda_alphas=config.gda_alphas)
    names = ("ga_rates", "gda_rates", "gda_alphas", "scrub_rates")
    rates = {name: getattr(config, name) for name in names}
    check_distinct(**rates)
    check_positive(**rates)


def make_artifacts(config: Config) -> list[Artifact]:
    """Return originals, forget sets, and unlearning of each set, for every seed.

    Raises:
      InputError: unusable configuration, see :func:`check`.
    """
    check(config)
    settings = dataclasses.asdict(config)
    settings.pop("seeds")
    base = {
        name: settings[name]
        for name in ("num_train", "num_models", "num_epochs", "width")
    }
    artifacts = []
    for seed in config.seeds:
        first = Artifact(
            name=f"originals-{seed}",
            settings={**base, "seed": seed},
            compute=partial(originals, config, seed),
        )
        second = Artifact(
            name=f"sets-{seed}",
            settings={**base, "seed": seed, "num_forget": config.num_forget},
            compute=partial(forget_sets, config, seed),
            inputs=(first,),
        )
        artifacts += [first, second]
        for name in SETS:
            artifacts.append(
                Artifact(
                    name=f"{name}-{seed}",
                    settings={**settings, "seed": seed, "set": name},
                    compute=partial(unlearn_set, config, seed, name),
                    inputs=(first, second),
                )
            )
    return artifacts


def kind_of(name: str) -> str:
    """Return the kind of a set, a key of :data:`KINDS`."""
    return next(kind for kind in KINDS if name.startswith(kind))


@dataclasses.dataclass(frozen=True)
class Findings:
    """Numbers of the page, for S forget sets and K runs.

    Rows are the original (0), the runs (1 to K) and the floor (K + 1).

    Attributes:
      kinds: ``[S]`` kind of each set, a key of :data:`KINDS`.
      factors: ``[S, 2]`` seed and number of each set, for the intervals.
      klom: ``[S, 2, K + 2, 3]`` mean KLoM over the samples of each of :data:`PARTS`,
        against the first and the second oracles.
      tails: ``[S, 2, K + 2, 3]``, the 95th percentile of KLoM instead of its mean.
      method: ``[K]`` method of each run, a key of :data:`METHODS`.
      norms: ``[S, 3]`` cross-influence norms, in the order of :data:`NORMS`.
      excess: ``[S, 2, K + 2]`` KLoM above the floor's, on the worst part.
      diverged: number of runs with models that are not finite.
    """

    kinds: np.ndarray
    factors: np.ndarray
    klom: np.ndarray
    tails: np.ndarray
    method: np.ndarray
    norms: np.ndarray
    excess: np.ndarray
    diverged: int

    def rows_of(self, *names: str) -> np.ndarray:
        """Return the rows of all runs of the given methods."""
        return 1 + np.flatnonzero(np.isin(self.method, names))

    def best(self, *names: str) -> np.ndarray:
        """Return each set's row ``[S]`` of the run with the smallest excess.

        The run is chosen by its excess against the first oracles.

        Args:
          *names: methods to choose from, keys of :data:`METHODS`.
        """
        rows = self.rows_of(*names)
        return rows[self.excess[:, 0, rows].argmin(1)]

    def remaining(self, *names: str) -> np.ndarray:
        """Return the best run's excess ``[S]`` as a fraction of the original's.

        Both are measured against the second oracles. The fraction is NaN where the
        original is nearer to the floor than :data:`NEAR`.

        Args:
          *names: methods to choose from, keys of :data:`METHODS`.
        """
        sets = np.arange(len(self.kinds))
        return self.excess[sets, 1, self.best(*names)] / self._original()[:, 1]

    def _original(self) -> np.ndarray:
        """Return the original's excess ``[S, 2]``, or NaN where it is at the floor."""
        excess = self.excess[..., 0]
        return np.where(excess > NEAR, excess, np.nan)

    def is_worse(self, *names: str) -> np.ndarray:
        """Return on which sets ``[S]`` the best run is no better than the original.

        Args:
          *names: methods to choose from, keys of :data:`METHODS`.
        """
        sets = np.arange(len(self.kinds))
        return self.excess[sets, 1, self.best(*names)] >= self.excess[:, 1, 0]

    def remaining_elsewhere(self, *names: str) -> np.ndarray | None:
        """Return the excess ``[S]`` of the run chosen on the sets of other seeds.

        It is a fraction of the original's excess.

        Args:
          *names: methods to choose from, keys of :data:`METHODS`.

        Returns:
          The fractions, as in :meth:`remaining`; None if there are no other seeds, or
          the original is at the floor on all of their sets.
        """
        seeds = self.factors[:, 0]
        rows = self.rows_of(*names)
        fractions = self.excess[:, :, rows] / self._original()[..., None]
        known = np.asarray(np.isfinite(fractions).all((1, 2)))
        if any(not known[seeds != seed].any() for seed in seeds):
            return None
        chosen = [
            fractions[known & (seeds != seed), 0].mean(0).argmin() for seed in seeds
        ]
        return fractions[np.arange(len(seeds)), 1, chosen]


def collect(config: Config, artifacts: common.Artifacts) -> Findings:
    """Return the numbers of all forget sets."""
    kinds = []
    factors = []
    klom = []
    tails = []
    norms = []
    diverged = 0
    for seed in config.seeds:
        for number, name in enumerate(SETS):
            part = artifacts[f"{name}-{seed}"]
            forget = np.zeros(part["klom"].shape[1], bool)
            forget[: config.num_train] = part["forget"]
            test = np.arange(len(forget)) >= config.num_train
            both = np.stack([part["klom"], part["again"]])
            masks = (forget, ~forget & ~test, test)
            klom.append(np.stack([both[..., mask].mean(-1) for mask in masks], -1))
            upper = [np.quantile(both[..., mask], 0.95, axis=-1) for mask in masks]
            tails.append(np.stack(upper, -1))
            kinds.append(kind_of(name))
            factors.append([seed, 100 * seed + number])
            norms.append(artifacts[f"sets-{seed}"]["norms"][number])
            diverged += int(part["diverged"].sum())
    values = np.array(klom, np.float64)
    excess = (values - values[:, :, -1:]).max(-1)
    return Findings(
        np.array(kinds),
        np.array(factors),
        values,
        np.array(tails, np.float64),
        methods_of(config),
        np.array(norms),
        excess,
        diverged,
    )
