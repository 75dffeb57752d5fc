"""Gradient ascent on digits: KLoM of every run of a grid, and predictors of failure."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from unlearn_jax import audit, data, methods, models, replicas, train
from unlearn_jax.influence import cross_influence_norm
from unlearn_jax.pipeline import Part
from unlearn_jax.types import Dataset, InputError, Model, Params, Problem, Variables
from unlearn_jax.values import replace

Arrays = Mapping[str, np.ndarray]


KINDS = {
    "random": "random",
    "pc1-top": "1st influence PC, top",
    "pc1-bottom": "1st influence PC, bottom",
    "pc2-top": "2nd influence PC, top",
    "nearest": "nearest to one sample",
    "one-class": "random within one class",
}
"""Kinds of forget sets by the name of their parts."""


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
"""Nats by which a run's worst part must move to count as helped or broken."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Ensembles of small perceptrons; every number of the grid."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each draws data, forget sets and models anew."""
    num_train: int = 600
    """Training samples of the 1,797 digits; the others are test samples."""
    num_forget: int = 30
    """Samples in each forget set."""
    num_models: int = 100
    """Originals, oracles and second oracles, each; fewer than 80 inflate KLoM."""
    num_epochs: int = 20
    """Of training, at a rate of 0.1 in batches of 50."""
    width: int = 64
    """Units of the hidden layer."""
    ga_rates: tuple[float, ...] = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
    """Learning rates of gradient ascent."""
    ga_epochs: tuple[int, ...] = (5, 20)
    """Steps of gradient ascent: the whole forget set is one batch."""
    gda_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    """Learning rates of descent-ascent and of fine-tuning."""
    gda_alphas: tuple[float, ...] = (0.95, 0.9, 0.8)
    """Weights of the retained samples in descent-ascent; fine-tuning has 1."""
    scrub_rates: tuple[float, ...] = (0.003, 0.01, 0.03, 0.06, 0.1)
    """Learning rates of SCRUB."""
    num_tuning_epochs: int = 5
    """Passes over the retained samples by descent-ascent, fine-tuning and SCRUB (3 of them with a max pass)."""


def grid(
    config: Config,
) -> list[tuple[str, tuple[tuple[str, int], ...], dict[str, list[float]]]]:
    """Programs to compile: method, static knobs, and lists of the knobs that are mapped over."""
    steps = (("batch_size", 50), ("num_epochs", config.num_tuning_epochs))
    pairs = [
        (rate, alpha)
        for alpha in (*config.gda_alphas, 1.0)
        for rate in config.gda_rates
    ]
    rates, alphas = map(list, zip(*pairs, strict=True))
    scrub = (*steps, ("forget_batch_size", config.num_forget), ("num_max_epochs", 3))
    return [
        *(
            (
                "gradient_ascent",
                (("batch_size", config.num_forget), ("num_epochs", n)),
                {"learning_rate": [*config.ga_rates]},
            )
            for n in config.ga_epochs
        ),
        (
            "neggrad_plus",
            (*steps, ("forget_batch_size", config.num_forget)),
            {"learning_rate": rates, "alpha": alphas},
        ),
        ("scrub", scrub, {"learning_rate": [*config.scrub_rates]}),
    ]


def runs_of(config: Config) -> list[tuple[str, dict[str, float]]]:
    """Every configuration in the order of the arrays: (method, knobs)."""
    names = {"gradient_ascent": "ga", "neggrad_plus": "gda", "scrub": "scrub"}
    found = []
    for method, static, mapped in grid(config):
        for values in zip(*mapped.values(), strict=True):
            knobs = dict(zip(mapped, values, strict=True)) | {
                k: v for k, v in static if k == "num_epochs"
            }
            found.append(
                ("finetune" if knobs.get("alpha") == 1 else names[method], knobs)
            )
    return found


@lru_cache
def setting(config: Config, seed: int) -> tuple[Model, Dataset, Dataset, train.Recipe]:
    """The network, training and test samples, and how it is trained."""
    splits = data.load_digits(num_train=config.num_train, seed=seed)
    model = models.build("mlp", (8, 8, 1), 10, widths=(config.width,))
    return (
        model,
        splits.train,
        splits.test,
        train.Recipe(config.num_epochs, 50, train.sgd(0.1)),
    )


def ensemble(config: Config, seed: int, purpose: int, member: np.ndarray) -> Variables:
    """``num_models`` networks trained on the same samples, with keys of their own."""
    model, samples, _, recipe = setting(config, seed)
    keys = jax.random.split(
        jax.random.fold_in(jax.random.key(seed), purpose), config.num_models
    )
    members = np.tile(member, (config.num_models, 1))
    batches = train.steps_per_epoch(config.num_train, recipe.batch_size)
    state, _ = replicas.fit_many(
        keys,
        model,
        samples,
        members,
        recipe,
        epochs_per_call=recipe.num_epochs,
        num_batches=batches,
    )
    return state.variables


def everything(config: Config, seed: int) -> Dataset:
    """Training, then test samples."""
    _, samples, test, _ = setting(config, seed)
    return Dataset(*(np.concatenate(pair) for pair in zip(samples, test, strict=True)))


def margins_of(config: Config, seed: int, variables: Variables) -> np.ndarray:
    """``[M, N]`` logit margins on all samples."""
    model, pool = setting(config, seed)[0], everything(config, seed)
    logits = replicas.predict_many(model.apply, variables, pool.images)
    return np.asarray(
        audit.logit_margin(logits, np.broadcast_to(pool.labels, logits.shape[:2]))
    )


def originals(config: Config, seed: int) -> dict[str, np.ndarray]:
    """The models that are to forget: parameters ``[M, P]`` and margins ``[M, N]``."""
    variables = ensemble(config, seed, 0, np.ones(config.num_train, bool))
    vectors = jax.vmap(lambda params: ravel_pytree(params)[0])(variables.params)
    return {
        "vectors": np.asarray(vectors),
        "margins": margins_of(config, seed, variables),
    }


def stacked(config: Config, seed: int, vectors: np.ndarray) -> Variables:
    """The inverse of what :func:`originals` stores."""
    template = jax.eval_shape(setting(config, seed)[0].init, jax.random.key(0)).params
    unravel = ravel_pytree(
        jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), template)
    )[1]
    return Variables(jax.vmap(unravel)(jnp.asarray(vectors)), {})


@lru_cache
def runner(
    model: Model,
    method: str,
    static: tuple[tuple[str, int], ...],
    names: tuple[str, ...],
    num_forget: int,
) -> Callable:
    """``((key, params), shared) -> margins [K, N]`` of one original unlearned with K settings of the mapped knobs."""

    def run(item: tuple, shared: tuple) -> jax.Array:
        (key, params), (samples, forget, pool, knobs) = item, shared
        problem = Problem(model, Variables(params, {}), samples, forget, num_forget)

        def one(pair: tuple) -> jax.Array:
            mapped = dict(zip(names, pair[1], strict=True))
            unlearn = replace(methods.METHODS[method], **dict(static), **mapped)
            variables, _ = unlearn(pair[0], problem)
            return audit.logit_margin(
                train.predict(model.apply, variables, pool.images), pool.labels
            )

        return jax.lax.map(one, (jax.random.split(key, len(knobs[0])), knobs))

    return run


def unlearned_margins(
    config: Config, seed: int, vectors: np.ndarray, forget: np.ndarray
) -> np.ndarray:
    """``[K, M, N]``: every configuration applied to every original."""
    model, samples, _, _ = setting(config, seed)
    variables, found = stacked(config, seed, vectors), []
    how = replicas.mapper(num_models=config.num_models)
    for number, (method, static, mapped) in enumerate(grid(config)):
        keys = jax.random.split(
            jax.random.fold_in(jax.random.key(seed), 100 + number), config.num_models
        )
        run = runner(model, method, static, tuple(mapped), config.num_forget)
        knobs = tuple(np.array(values, np.float32) for values in mapped.values())
        shared = (samples, forget, everything(config, seed), knobs)
        margins = replicas.map_models(how, run, (keys, variables.params), shared)
        found.append(np.asarray(margins).transpose(1, 0, 2))
    return np.concatenate(found)


@partial(jax.jit, static_argnums=0)
def margin_gradients(model: Model, params: Params, pool: Dataset) -> jax.Array:
    """``[N, P]`` gradients of the margins by all parameters."""

    def one(image: jax.Array, label: jax.Array) -> jax.Array:
        margin = lambda p: audit.logit_margin(
            model.apply(Variables(p, {}), image[None]), label[None]
        )[0]
        return ravel_pytree(jax.grad(margin)(params))[0]

    return jax.lax.map(
        lambda pair: one(*pair), (pool.images, pool.labels), batch_size=200
    )


def attributions(
    config: Config, seed: int, vectors: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Averages over the first ``count`` originals: the kernel ``[N, N]`` of training margins, and influences.

    The influence of training sample i on the margin of sample j is TRAK's (Park et al.,
    arXiv 2303.14186) without projection: ``g_j (G^T G + r I)^-1 g_i`` with G ``[N, P]``
    the gradients of the training margins, and r a thousandth of their mean square;
    ``[N + Z, N]``, training samples first. TRAK's factor ``1 - p_i`` is left out: in a
    network that fits nearly all samples it leaves influence to a handful of them.
    """
    model, pool, num_train = (
        setting(config, seed)[0],
        everything(config, seed),
        config.num_train,
    )
    kernels, influences = [], []
    for params in (
        replicas.unstack(stacked(config, seed, vectors).params, m) for m in range(count)
    ):
        slopes = np.asarray(margin_gradients(model, params, pool), np.float64)
        own = slopes[:num_train]
        kernel = own @ own.T
        ridge = 1e-3 * np.trace(kernel) / num_train
        # (G^T G + r I)^-1 G^T = G^T (G G^T + r I)^-1
        dual = np.linalg.solve(kernel + ridge * np.eye(num_train), own @ slopes.T).T
        influences.append(dual)
        kernels.append(kernel)
    return np.mean(kernels, 0), np.mean(influences, 0)


def forget_sets(config: Config, seed: int, found: Arrays) -> dict[str, np.ndarray]:
    """Masks ``[S, N]`` in the order of :data:`SETS`, and the three cross-influence norms of each ``[S, 3]``."""
    _, samples, _, _ = setting(config, seed)
    rng, count, num_train = (
        np.random.default_rng([seed, 1]),
        config.num_forget,
        config.num_train,
    )
    kernel, influence = attributions(
        config, seed, found["vectors"], min(5, config.num_models)
    )
    on_test = influence[num_train:] - influence[num_train:].mean(1, keepdims=True)
    components = np.linalg.svd(on_test, full_matrices=False)[2][:2]
    components *= np.sign(
        (components**3).sum(1, keepdims=True)
    )  # "top" is the longer tail
    pixels = np.asarray(samples.images).reshape(num_train, -1)
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
            chosen = np.argsort(
                ((pixels - pixels[rng.integers(num_train)]) ** 2).sum(1)
            )[:count]
        elif name == "one-class":
            chosen = rng.choice(
                np.flatnonzero(np.asarray(samples.labels) == rng.integers(10)),
                count,
                replace=False,
            )
        else:
            chosen = np.argsort(ranked[name])[:count]
        masks.append(data.forget_indices(chosen, num_train))
    norms = [cross_norms(kernel, influence[:num_train], mask) for mask in masks]
    return {"masks": np.array(masks), "norms": np.array(norms)}


def cross_norms(
    kernel: np.ndarray, influence: np.ndarray, forget: np.ndarray
) -> list[float]:
    """The values of :data:`NORMS` for one forget set."""
    parts = [
        kernel[np.ix_(a, b)]
        for a, b in ((~forget, forget), (~forget, ~forget), (forget, forget))
    ]
    parts = [
        jnp.asarray(part / np.trace(kernel) * len(kernel), jnp.float32)
        for part in parts
    ]
    proper = np.linalg.norm(influence[np.ix_(~forget, forget)], 2)
    return [
        float(cross_influence_norm(parts[0])),
        float(cross_influence_norm(*parts)),
        float(proper),
    ]


def unlearn_set(
    config: Config, seed: int, name: str, found: Arrays, sets: Arrays
) -> dict[str, np.ndarray]:
    """KLoM ``[K + 2, N]`` of doing nothing, of the second oracles, and of every configuration, against both oracles."""
    forget = sets["masks"][SETS.index(name)]
    number = 1000 + 10 * SETS.index(name)
    oracles = [
        margins_of(config, seed, ensemble(config, seed, number + i, ~forget))
        for i in (0, 1)
    ]
    runs = unlearned_margins(config, seed, found["vectors"], forget)
    broken = np.asarray(~np.isfinite(runs).all((1, 2)))
    runs = np.nan_to_num(
        runs, nan=-100.0, posinf=100.0, neginf=-100.0
    )  # a model that is lost answers nothing right
    runs = [found["margins"], *runs]
    return {
        "klom": (
            np.stack(
                [audit.klom(run, oracles[0]) for run in (*runs, oracles[1])]
            ).astype(np.float32)
        ),
        "again": (
            np.stack(
                [audit.klom(run, oracles[1]) for run in (*runs, oracles[0])]
            ).astype(np.float32)
        ),
        "diverged": broken,
        "forget": forget,
        "accuracy": np.array(
            [(side > 0).mean(0) for side in (found["margins"], oracles[0])]
        ),
    }


def check(config: Config) -> None:
    """Refuses a configuration that cannot be measured."""
    if not config.seeds or config.num_models < 2:
        raise InputError(
            "ascent_digits needs at least one seed and two models: set --seeds 0 1 2"
            " --num-models 100"
        )
    if not 2 <= config.num_forget <= config.num_train // 12 or config.num_train > 1700:
        raise InputError(
            f"{config.num_forget} forget samples of {config.num_train}: pass at most"
            " 1,700 training samples, and a twelfth of them or less to forget, so that"
            " one class holds them"
        )
    if not (
        config.ga_rates
        and config.ga_epochs
        and config.gda_rates
        and config.gda_alphas
        and config.scrub_rates
    ):
        raise InputError(
            "every list of rates, epochs and alphas needs at least one value"
        )


def make_artifacts(config: Config) -> dict[str, Part]:
    check(config)
    settings = dataclasses.asdict(config)
    settings.pop("seeds")
    base = {
        name: settings[name]
        for name in ("num_train", "num_models", "num_epochs", "width")
    }
    parts = {}
    for seed in config.seeds:
        first, second = f"originals-{seed}", f"sets-{seed}"
        parts[first] = Part({**base, "seed": seed}, partial(originals, config, seed))
        parts[second] = Part(
            {**base, "seed": seed, "num_forget": config.num_forget},
            partial(forget_sets, config, seed),
            (first,),
        )
        for name in SETS:
            compute = partial(unlearn_set, config, seed, name)
            parts[f"{name}-{seed}"] = Part(
                {**settings, "seed": seed, "set": name}, compute, (first, second)
            )
    return parts


def kind_of(name: str) -> str:
    """The kind of a set, a key of :data:`KINDS`."""
    return next(kind for kind in KINDS if name.startswith(kind))


@dataclasses.dataclass(frozen=True)
class Found:
    """What the page is made from; ``S`` forget sets, ``K`` configurations, rows 0 nothing, 1..K runs, K + 1 the floor.

    Attributes:
      kinds: of each set, a key of :data:`KINDS`.
      factors: ``[S, 2]`` seed and number of each set, for the bootstrap.
      klom: ``[S, 2, K + 2, 3]`` mean KLoM over the samples of each of :data:`PARTS`,
        against the first and second oracles.
      tails: the same of the 95th percentile.
      method: ``[K]`` keys of :data:`METHODS`.
      norms: ``[S, 3]``.
      excess: ``[S, 2, K + 2]`` the worst part's KLoM above the floor's.
      diverged: runs whose models were not finite.
    """

    kinds: np.ndarray
    factors: np.ndarray
    klom: np.ndarray
    tails: np.ndarray
    method: np.ndarray
    norms: np.ndarray
    excess: np.ndarray
    diverged: int

    def best(self, methods_: tuple[str, ...]) -> np.ndarray:
        """``[S]`` row of the run with the least excess against the first oracles."""
        rows = 1 + np.flatnonzero(np.isin(self.method, methods_))
        return rows[self.excess[:, 0, rows].argmin(1)]

    def left(self, methods_: tuple[str, ...]) -> np.ndarray:
        """``[S]`` excess of that run over doing nothing's, both against the second oracles."""
        sets = np.arange(len(self.kinds))
        return self.excess[sets, 1, self.best(methods_)] / self.excess[:, 1, 0]

    def left_elsewhere(self, methods_: tuple[str, ...]) -> np.ndarray | None:
        """``[S]`` as :meth:`left`, of the setting with the least mean over the other seeds' sets; None for a single seed."""
        rows, seeds = (
            1 + np.flatnonzero(np.isin(self.method, methods_)),
            self.factors[:, 0],
        )
        shares = self.excess[:, :, rows] / self.excess[:, :, :1]
        if len(set(seeds)) < 2:
            return None
        chosen = [shares[seeds != seed, 0].mean(0).argmin() for seed in seeds]
        return shares[np.arange(len(seeds)), 1, chosen]


def read(config: Config, found: Mapping[str, Arrays]) -> Found:
    """Collects the parts' arrays."""
    kinds, factors, klom, tails, norms, diverged = [], [], [], [], [], 0
    for seed in config.seeds:
        for number, name in enumerate(SETS):
            part = found[f"{name}-{seed}"]
            forget = np.zeros(part["klom"].shape[1], bool)
            forget[: config.num_train] = part["forget"]
            test = np.arange(len(forget)) >= config.num_train
            both = np.stack([part["klom"], part["again"]])
            masks = (forget, ~forget & ~test, test)
            klom.append(np.stack([both[..., mask].mean(-1) for mask in masks], -1))
            tails.append(
                np.stack(
                    [np.quantile(both[..., mask], 0.95, axis=-1) for mask in masks], -1
                )
            )
            kinds.append(kind_of(name))
            factors.append([seed, 100 * seed + number])
            norms.append(found[f"sets-{seed}"]["norms"][number])
            diverged += int(part["diverged"].sum())
    values = np.array(klom, np.float64)
    excess = (values - values[:, :, -1:]).max(-1)
    method = np.array([name for name, _ in runs_of(config)])
    return Found(
        np.array(kinds),
        np.array(factors),
        values,
        np.array(tails, np.float64),
        method,
        np.array(norms),
        excess,
        diverged,
    )
