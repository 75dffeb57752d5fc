"""Influence functions on digits, primal and dual: how near retraining, when not to believe them, what they cost.

Command::

    unlearn-jax run influence_digits --workdir runs/influence_digits

300 of scikit-learn's digits, 30 of each, three seeds of samples, forget sets and
networks; test outputs on 300 others. Errors are distances of the estimate to the
retrained model over the distance of the original ("do nothing", 1). Means over seeds,
95 % bootstrap intervals in brackets. Measured on 2 CPU cores (x86-64, AVX-512), Python
3.11, JAX 0.10.2, that several other jobs shared: 21 minutes in all; milliseconds below
are the shortest of five runs::

    linearized network (tanh, 64 units, ridge 0.01), float64
                           error of parameters          error of test outputs
      cross-entropy, 10 %  0.0278 [0.0213, 0.0333]      0.0531 [0.0360, 0.0785]
      cross-entropy, 50 %  0.107 [0.082, 0.125]         0.180 [0.138, 0.230]
      cross-entropy, 90 %  0.186 [0.171, 0.197]         0.290 [0.252, 0.322]
      squared, 10 %        below 4e-13                  below 4e-13             dual - primal: at most 3e-12

    networks as they are (penalty around the initialization, L-BFGS), 10 % removed
                           trusted  linearizability         parameters             outputs                    second retrain
      tanh, 512, 0.1       3 of 3   0.0812 [0.0689, 0.0948] 0.255 [0.244, 0.262]   0.0770 [0.0644, 0.0891]    3.97 [3.85, 4.11]
      tanh, 64, 0.1        3 of 3   0.286 [0.257, 0.336]    0.441 [0.434, 0.447]   0.229 [0.218, 0.247]       6.23 [6.06, 6.57]
      tanh, 64, 0.01       0 of 3   0.766 [0.698, 0.847]    0.649 [0.635, 0.661]   0.337 [0.293, 0.375]       2.81 [2.31, 3.33]
      tanh, 64, 0.0001     0 of 3   3.99 [3.47, 4.69]       0.943 [0.933, 0.951]   0.811 [0.705, 0.869]       1.42 [1.38, 1.48]
      relu, 64, 0.01       0 of 3   1.42 [1.14, 1.91]       0.882 [0.859, 0.908]   0.532 [0.498, 0.574]       3.47 [2.19, 4.83]

    targets for TRW, KL(retrained || target) on the forgotten images
                           digit 1                digit 3                digit 8
      renormalized         0.226 [0.218, 0.238]   0.160 [0.085, 0.203]   0.194 [0.137, 0.258]
      influence, head      0.170 [0.100, 0.240]   0.099 [0.044, 0.180]   0.123 [0.112, 0.130]
      influence, network   0.133 [0.112, 0.173]   0.140 [0.119, 0.179]   0.150 [0.115, 0.201]
      second retrain       0.042 [0.037, 0.048]   0.055 [0.015, 0.121]   0.048 [0.036, 0.058]

    milliseconds, 10 % removed (the kernel is computed once for all requests)
      outputs, parameters  kernel   dual, CG   primal, CG
      1, 1210              5.5      0.6        7.9
      1, 19210             346      1.1        54
      10, 1210             1020     400        3.4
      10, 19210            11000    204        38

What it says. Where the model is linear in its parameters the theory holds: both forms
are the same, squared loss is exact retraining, and cross-entropy comes 30 to 47 times
nearer than doing nothing in the parameters at 10 % (13 to 28 times in test outputs,
which count the directions that move most), 5 to 6 times at 90 %. Networks as they are
keep 6 to 87 % of the distance; the guard's linearizability orders them. ReLU networks
never came to rest, so that the guard warns for two reasons. The dual pays where the
samples' outputs are few beside the parameters: with one output, and 10 % removed, a
request takes less than a tenth of the primal's time; with ten it loses at this size,
and its kernel costs as much as some 300 primal requests. A retrained network from
another initialization is farther from the first than the original is: influence
predicts one training, not any.

The paper (arXiv 2605.11239) reports, for linearized networks of MNIST, relative
parameter errors of about 3e-5 to 5e-4 (not divided by those of doing nothing), and for
a nonlinear one with penalty 1e-4 errors above those of random noise.
"""

import dataclasses
import time
from collections.abc import Mapping
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure as Drawing
from sklearn.datasets import load_digits

from unlearn_jax import audit, influence, methods, models, train
from unlearn_jax.losses import cross_entropy
from unlearn_jax.methods.influence_target import influence_targets
from unlearn_jax.pipeline import Check, Experiment, Figure, Page, Part, Table
from unlearn_jax.pipeline.report.figures.style import COLORS, INK, dress
from unlearn_jax.types import Dataset, InputError, Variables

ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}
LOSSES = {"cross-entropy": cross_entropy, "squared": influence.squared_error}


@dataclasses.dataclass(frozen=True)
class Config:
    """Digits are removed from linearized and from real perceptrons of one layer, which are retrained for comparison."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of samples, forget sets and networks."""
    num_samples: int = 300
    """Training images, equally many of each digit; 300 others are test images."""
    width: int = 64
    """Units of the linearized network."""
    ridge: float = 1e-2
    """Penalty of the linearized network."""
    fractions: tuple[float, ...] = (0.1, 0.5, 0.9)
    """Shares of the training images that are removed."""
    networks: tuple[str, ...] = (
        "tanh-512-0.1",
        "tanh-64-0.1",
        "tanh-64-0.01",
        "tanh-64-0.0001",
        "relu-64-0.01",
    )
    """Networks that are trained as they are: activation, units, penalty."""
    num_steps: int = 500
    """Steps of L-BFGS for these."""
    widths: tuple[int, ...] = (16, 64, 256)
    """Units of the networks whose removal is timed."""
    classes: tuple[int, ...] = (1, 3, 8)
    """Digits that are forgotten whole, for the targets."""


def make_data(config: Config, seed: int) -> tuple[np.ndarray, ...]:
    """Training images ``[N, 8, 8, 1]``, labels, test images, labels; float64."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(labels))
    images, labels = (
        images[order].reshape(-1, 8, 8, 1) / 16,
        labels[order].astype(np.int32),
    )
    rank = np.array(
        [np.sum(labels[:i] == label) for i, label in enumerate(labels)]
    )  # among its digit's images
    chosen = rank < config.num_samples // 10
    return images[chosen], labels[chosen], images[~chosen][:300], labels[~chosen][:300]


@cache
def perceptron(activation: str, width: int):
    """One hidden layer, as the library's MLP, in whatever precision its parameters have: ``(init, apply)``."""

    def init(key):
        a, b = jax.random.split(key)
        first, last = (
            jax.random.normal(a, (64, width)) / 8,
            jax.random.normal(b, (width, 10)) / width**0.5,
        )
        return {
            "first": first,
            "shift": jnp.zeros(width),
            "last": last,
            "bias": jnp.zeros(10),
        }

    def apply(params, images):
        hidden = (
            images.reshape(len(images), -1) @ params["first"] + params["shift"][None]
        )
        return ACTIVATIONS[activation](hidden) @ params["last"] + params["bias"][None]

    return init, apply


NTK = jax.jit(influence.ntk, static_argnums=0, static_argnames="batch_size")
FIT = jax.jit(influence.fit_dual, static_argnames=("loss", "num_steps"))
REMOVE = jax.jit(
    influence.remove,
    static_argnums=0,
    static_argnames=("num_forget", "warn", "batch_size"),
)
DUAL = jax.jit(influence.dual_change, static_argnames=("loss", "num_forget", "solver"))
PRIMAL = jax.jit(
    influence.primal_change,
    static_argnums=0,
    static_argnames=("loss", "num_forget", "batch_size"),
)
TARGETS = jax.jit(
    influence_targets, static_argnames=("linearized", "num_fit_steps", "num_cg_steps")
)


def distance(left, right) -> float:
    """Between two parameter trees."""
    return float(optax.tree.norm(optax.tree.sub(left, right)))


def draw(seed: int, count: int, removed: int) -> np.ndarray:
    """A random forget mask."""
    return np.random.default_rng(1000 + seed).permutation(count) < removed


# --- linearized: the theory holds
# ----------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("apply", "loss", "ridge", "num_forget"))
def convex_removal(
    apply, params, images, targets, forget, fit, kernel, *, loss, ridge, num_forget
):
    """The estimates and the truth for one forget set: parameter changes by dual and primal, and retrained ones."""
    knobs = {"ridge": ridge, "loss": LOSSES[loss], "num_forget": num_forget}
    dual = influence.dual_change(kernel, fit.outputs, targets, forget, **knobs)
    pull = partial(influence.pull, apply, params)
    trained = jax.tree.map(jnp.add, params, pull(images, fit.alpha))
    linear = influence.linearize(apply, params)
    primal = influence.primal_change(
        linear,
        trained,
        images,
        targets,
        forget,
        anchor=params,
        solver=influence.CG(tol=1e-12),
        batch_size=len(images),
        **knobs,
    )
    kept = jnp.nonzero(~forget, size=len(images) - num_forget)[0]
    again = influence.fit_dual(
        influence.kernel_block(kernel, kept, kept),
        targets[kept],
        ridge=ridge,
        offsets=apply(params, images[kept]),
        start=fit.alpha[kept],
        loss=LOSSES[loss],
        num_steps=10,
    )
    retrained = jax.tree.map(jnp.add, params, pull(images[kept], again.alpha))
    return (
        trained,
        pull(images, dual.change),
        primal.params,
        retrained,
        again.stationarity,
    )


def convex(config: Config, seed: int) -> dict[str, np.ndarray]:
    """Errors of removing from the linearized network, in float64; 1 is doing nothing."""
    rows = []
    with jax.enable_x64(True):
        x, y, test, _ = map(jnp.asarray, make_data(config, seed))
        init, apply = perceptron("tanh", config.width)
        params = init(jax.random.key(seed))
        kernel = NTK(apply, params, x)
        for loss, targets in (("cross-entropy", y), ("squared", jax.nn.one_hot(y, 10))):
            knobs = {"ridge": config.ridge, "loss": LOSSES[loss], "num_steps": 12}
            fit = FIT(kernel, targets, offsets=apply(params, x), **knobs)
            for fraction in (
                config.fractions if loss == "cross-entropy" else config.fractions[:1]
            ):
                removed = round(fraction * len(x))
                forget = jnp.asarray(draw(seed, len(x), removed))
                knobs = {"loss": loss, "ridge": config.ridge, "num_forget": removed}
                trained, dual, primal, retrained, floor = convex_removal(
                    apply, params, x, targets, forget, fit, kernel, **knobs
                )
                rows.append(
                    _errors(apply, params, test, trained, dual, primal, retrained)
                    | {
                        "fraction": fraction,
                        "squared": loss == "squared",
                        "floor": float(floor),
                    }
                )
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _errors(apply, params, test, trained, dual, primal, retrained) -> dict[str, float]:
    linear = influence.linearize(apply, params)
    outputs = lambda tree: linear(tree, test)
    new = jax.tree.map(jnp.add, trained, dual)
    far, wrong = (
        outputs(trained) - outputs(retrained),
        outputs(new) - outputs(retrained),
    )
    return {
        "forms": distance(dual, primal) / float(optax.tree.norm(dual)),
        "moved": (
            distance(trained, retrained)
            / float(optax.tree.norm(optax.tree.sub(retrained, params)))
        ),
        "params": distance(new, retrained) / distance(trained, retrained),
        "outputs": float(jnp.linalg.norm(wrong) / jnp.linalg.norm(far)),
    }


# --- networks as they are: the guard
# -------------------------------------------------------------------------------


@partial(jax.jit, static_argnames=("apply", "num_steps"))
def lbfgs(apply, start, anchor, images, labels, *, ridge, num_steps):
    """Trains to stationarity, as far as that goes: ``mean CE + ridge/2 |theta - anchor|^2``."""

    def risk(params):
        away = optax.tree.norm(optax.tree.sub(params, anchor), squared=True)
        return jnp.mean(cross_entropy(apply(params, images), labels)) + ridge / 2 * away

    tx = optax.lbfgs(memory_size=20)
    value_and_grad = optax.value_and_grad_from_state(risk)

    def step(carry, _):
        params, state = carry
        value, slope = value_and_grad(params, state=state)
        updates, state = tx.update(
            slope, state, params, value=value, grad=slope, value_fn=risk
        )
        return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, (start, tx.init(start)), None, length=num_steps)[0][0]


def network(config: Config, seed: int, name: str) -> dict[str, np.ndarray]:
    """10 % removed from a network: the guard, and errors beside doing nothing."""
    activation, width, ridge = name.split("-")
    x, y, test, _ = (
        jnp.asarray(array, "i4" if array.ndim == 1 else "f4")
        for array in make_data(config, seed)
    )
    init, apply = perceptron(activation, int(width))
    removed = round(0.1 * len(x))
    forget = jnp.asarray(draw(seed, len(x), removed))
    start, other = (init(key) for key in jax.random.split(jax.random.key(seed)))
    fit = partial(lbfgs, apply, ridge=float(ridge), num_steps=config.num_steps)
    original, retrained = (
        fit(start, start, x, y),
        fit(start, start, x[~forget], y[~forget]),
    )
    second = fit(other, other, x[~forget], y[~forget])
    warm = fit(original, start, x[~forget], y[~forget])
    knobs = {
        "num_forget": removed,
        "ridge": float(ridge),
        "warn": False,
        "batch_size": len(x),
    }
    change, guard = REMOVE(apply, original, x, y, forget, anchor=start, **knobs)
    predicted = jax.tree.map(jnp.add, original, change)
    outputs = lambda params: np.asarray(apply(params, test))
    away = lambda params: np.linalg.norm(outputs(params) - outputs(retrained))
    return {
        "params": np.array(
            distance(predicted, retrained) / distance(original, retrained)
        ),
        "outputs": np.array(away(predicted) / away(original)),
        "warm": np.array(away(warm) / away(original)),
        "second": np.array(away(second) / away(original)),
        **{field: np.asarray(value) for field, value in guard._asdict().items()},
    }


# --- cost
# ----------------------------------------------------------------------------------------------------------


def seconds(call) -> float:
    """The shortest of five runs, after one that compiles."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - began)
    return min(taken)


def cost(config: Config, width: int, outputs: int) -> dict[str, np.ndarray]:
    """Seconds and bytes of both forms, by the number of removed samples; one output tells 8 from the other digits."""
    x, y, _, _ = (
        jnp.asarray(array, "i4" if array.ndim == 1 else "f4")
        for array in make_data(config, 0)
    )
    init, whole = perceptron("tanh", width)
    params = init(jax.random.key(0))
    apply = (
        (lambda params, images: whole(params, images)[:, 8:9])
        if outputs == 1
        else whole
    )
    targets = jnp.where(y == 8, 1.0, -1.0)[:, None] if outputs == 1 else y
    knobs = {
        "ridge": config.ridge,
        "loss": influence.squared_error if outputs == 1 else cross_entropy,
    }
    make = partial(NTK, apply, params, x, batch_size=100)
    kernel, size = make(), sum(leaf.size for leaf in jax.tree.leaves(params))
    fit = FIT(kernel, targets, offsets=apply(params, x), num_steps=8, **knobs)
    linear = influence.linearize(apply, params)
    trained = jax.tree.map(jnp.add, params, influence.pull(apply, params, x, fit.alpha))
    found = {
        "kernel": [seconds(make)],
        "parameters": [size],
        "dense": [],
        "cg": [],
        "primal": [],
        "gap": [],
        "bytes": [],
    }
    for fraction in config.fractions:
        removed = round(fraction * len(x))
        request = {"num_forget": removed, **knobs}
        forget = jnp.asarray(draw(0, len(x), removed))
        dual = partial(DUAL, kernel, fit.outputs, targets, forget, **request)
        primal = partial(
            PRIMAL,
            linear,
            trained,
            x,
            targets,
            forget,
            anchor=params,
            batch_size=len(x),
            **request,
        )
        solvers = {"dense": influence.Dense(), "cg": influence.CG()}
        for name, solver in solvers.items():
            found[name].append(seconds(partial(dual, solver=solver)))
        found["primal"].append(seconds(primal))
        step = influence.pull(apply, params, x, dual(solver=influence.CG()).change)
        found["gap"].append(
            distance(step, primal().params) / float(optax.tree.norm(step))
        )
        kept = (len(x) - removed) * outputs
        found["bytes"].append(
            [
                4 * ((len(x) * outputs) ** 2 + kept**2),
                4 * (6 * size + 4 * len(x) * width),
            ]
        )
    return {name: np.asarray(value, float) for name, value in found.items()}


# --- targets
# -------------------------------------------------------------------------------------------------------


def targets(config: Config, seed: int) -> dict[str, np.ndarray]:
    """KL(retrained || target) in nats on a forgotten class: targets of TRW and of influence, and a second retraining."""
    x, y, _, _ = make_data(config, seed)
    data = Dataset(x.astype("f4"), y)
    model, decay = models.build("mlp", (8, 8, 1), 10, widths=(config.width,)), 1e-3
    recipe = train.Recipe(100, 90, train.sgd(0.1, weight_decay=decay))
    fit = lambda key, keep: (
        train.fit(key, model, data, keep, recipe, epochs_per_call=100)[0].variables
    )
    keys = jax.random.split(jax.random.key(seed), 3)
    original, found = fit(keys[0], np.ones(len(y), bool)), []
    for label in config.classes:
        forget = y == label
        retrained, second = fit(keys[1], ~forget), fit(keys[2], ~forget)
        problem = methods.make_problem(model, Variables(*original), data, forget)
        truth, again, plain = (
            np.asarray(jax.nn.softmax(model.apply(v, data.images[forget])))
            for v in (retrained, second, original)
        )
        plain = plain * (np.arange(10) != label)
        network, head = (
            np.asarray(
                TARGETS(
                    problem,
                    linearized=kind,
                    ridge=decay,
                    num_fit_steps=8,
                    num_cg_steps=60,
                )
            )
            for kind in ("network", "head")
        )
        answers = (plain / plain.sum(1, keepdims=True), head, network, again)
        found.append(
            [
                audit.kl_divergence(truth, answer, floor=1e-6).mean()
                for answer in answers
            ]
        )
    return {"kl": np.array(found)}


# --- the page
# ------------------------------------------------------------------------------------------------------


def make_parts(config: Config) -> dict[str, Part]:
    """One part per seed and question."""
    if not config.seeds or config.num_samples not in range(20, 1401, 10):
        raise InputError(
            "influence_digits needs at least one seed, and 20 to 1400 training images,"
            " a multiple of 10"
        )
    if (
        not config.fractions
        or not all(0 < f < 1 for f in config.fractions)
        or config.ridge <= 0
    ):
        raise InputError(
            "fractions must lie between 0 and 1, and the ridge must be positive"
        )
    for name in config.networks:
        kind, *numbers = name.split("-")
        if kind not in ACTIVATIONS or len(numbers) != 2:
            raise InputError(
                "a network is named activation-units-penalty, such as tanh-64-0.01;"
                f" got {name!r}"
            )
    common = {"num_samples": config.num_samples}
    shared = common | {"ridge": config.ridge, "fractions": config.fractions}
    parts = {}
    for seed in config.seeds:
        own = {"seed": seed, "width": config.width}
        parts[f"convex-{seed}"] = Part(shared | own, partial(convex, config, seed))
        parts[f"targets-{seed}"] = Part(
            common | own | {"classes": config.classes}, partial(targets, config, seed)
        )
        for name in config.networks:
            settings = common | {
                "seed": seed,
                "network": name,
                "num_steps": config.num_steps,
            }
            parts[f"network-{name}-{seed}"] = Part(
                settings, partial(network, config, seed, name)
            )
    for width in config.widths:
        for outputs in (1, 10):
            settings = shared | {"width": width, "outputs": outputs}
            parts[f"cost-{width}-{outputs}"] = Part(
                settings, partial(cost, config, width, outputs)
            )
    return parts


def estimate(values) -> audit.Estimate:
    """Mean over seeds, bootstrap interval."""
    values = np.asarray(values, float)
    drawn = audit.run_weights(
        np.random.default_rng(0), 2000, [(i,) for i in range(len(values))]
    )
    return audit.summarize(values, np.tile(values, (len(drawn), 1)), drawn)


def small(values) -> audit.Estimate | str:
    """An estimate, or how small it is where nothing but rounding is left."""
    return (
        f"below {np.max(values) * 1.05:.0e}"
        if np.max(values) < 1e-3
        else estimate(values)
    )


def make_page(config: Config, found: Mapping[str, dict[str, np.ndarray]]) -> Page:
    """Tables, pictures and checks."""
    linear = {
        name: np.stack([found[f"convex-{s}"][name] for s in config.seeds])
        for name in found[f"convex-{config.seeds[0]}"]
    }
    squared = linear["squared"][0].astype(bool)
    first = linear["params"][:, 0]
    guards = {
        name: {
            key: np.array([found[f"network-{name}-{s}"][key] for s in config.seeds])
            for key in found[f"network-{name}-{config.seeds[0]}"]
        }
        for name in config.networks
    }
    trusted = [run["outputs"][run["trusted"].astype(bool)] for run in guards.values()]
    others = [run["outputs"][~run["trusted"].astype(bool)] for run in guards.values()]
    trusted, others = np.concatenate(trusted), np.concatenate(others)
    forms, exact = linear["forms"].max(), linear["params"][:, squared].max()
    small = [name for name in config.networks if float(name.split("-")[2]) <= 1e-3]
    checks = [
        Check(
            "dual equals primal",
            bool(forms < 1e-8),
            f"largest relative difference {forms:.1e}, float64",
        ),
        Check(
            "squared loss is exact retraining",
            bool(exact < 1e-8),
            f"largest error beside doing nothing {exact:.1e}",
        ),
        Check(
            "cross-entropy at 10 % is 20 times nearer than doing nothing",
            bool(config.fractions[0] > 0.1 or first.max() < 1 / 20),
            f"{1 / first.max():.0f} to {1 / first.min():.0f} times, at"
            f" {100 * config.fractions[0]:g} %",
        ),
        Check(
            "the guard warns where the penalty is small",
            all(not guards[name]["trusted"].any() for name in small),
            ", ".join(
                f"{name}: linearizability {guards[name]['linearizability'].min():.2g}"
                " and more"
                for name in small
            ),
        ),
    ]
    summary = (
        f"On linearized networks removing {100 * config.fractions[0]:g} % of the images"
        f" lands {1 / first.max():.0f} to {1 / first.min():.0f} times nearer to the"
        " retrained parameters than doing nothing, and the two forms agree to"
        f" {forms:.0e}. On networks as they are the estimate leaves"
        f" {100 * min(trusted, default=np.nan):.0f} to"
        f" {100 * max(trusted, default=np.nan):.0f} % of the distance of the outputs"
        f" where the guard trusts it, and {100 * min(others, default=np.nan):.0f} to"
        f" {100 * max(others, default=np.nan):.0f} % where it warns."
    )
    tables = [
        _convex_table(linear, squared),
        _network_table(guards),
        _target_table(config, found),
        _cost_table(config, found),
    ]
    figures = [
        _convex_picture(config, linear, squared),
        _guard_picture(guards),
        _cost_picture(config, found),
    ]
    return Page(summary, [*tables, *figures, *checks])


def _convex_table(linear, squared) -> Table:
    rows = []
    for i, fraction in enumerate(linear["fraction"][0]):
        loss = "squared" if squared[i] else "cross-entropy"
        cells = [small(linear[key][:, i]) for key in ("moved", "params", "outputs")]
        rows.append(
            [
                f"{loss}, {100 * fraction:g} %",
                *cells,
                f"{linear['forms'][:, i].max():.0e}",
                f"{linear['floor'][:, i].max():.0e}",
            ]
        )
    columns = [
        "removed",
        "do nothing",
        "error of parameters",
        "error of outputs",
        "dual - primal",
        "gradient left",
    ]
    caption = (
        "Linearized tanh network. Do nothing: |original - retrained| / |retrained -"
        " initial|. Errors: distance of the estimate to the retrained model over that"
        " of the original, of parameters and of test outputs. The last two: largest"
        " over seeds, the oracle's own gradient relative to that of its loss."
    )
    return Table("Linearized network: how near retraining", columns, rows, caption)


def _network_table(guards) -> Table:
    rows = []
    for name, run in guards.items():
        kind, width, ridge = name.split("-")
        cells = [
            estimate(run[key])
            for key in (
                "stationarity",
                "linearizability",
                "params",
                "outputs",
                "warm",
                "second",
            )
        ]
        rows.append(
            [
                f"{kind}, {width} units, {ridge}",
                f"{run['trusted'].sum()} of {len(run['trusted'])}",
                *cells,
            ]
        )
    columns = [
        "network, penalty",
        "trusted",
        "stationarity",
        "linearizability",
        "parameters",
        "outputs",
        "trained on",
        "second retrain",
    ]
    caption = (
        "10 % removed. Error of parameters and of test outputs beside doing nothing"
        " (1). Trained on: test outputs of the original after training on what stays."
        " Second retrain: from another initialization, which ends farther away than the"
        " original is."
    )
    return Table(
        "Networks as they are: when the guard trusts the estimate",
        columns,
        rows,
        caption,
    )


def _target_table(config: Config, found) -> Table:
    values = np.stack(
        [found[f"targets-{seed}"]["kl"] for seed in config.seeds]
    )  # [S, classes, 4]
    names = (
        "renormalized (TRW, beta 0)",
        "influence, head",
        "influence, network",
        "second retrain",
    )
    rows = [
        [name, *(estimate(values[:, c, i]) for c in range(len(config.classes)))]
        for i, name in enumerate(names)
    ]
    caption = (
        "KL(retrained || target) in nats on the forgotten training images, mean over"
        " seeds."
    )
    return Table(
        "Targets for TRW",
        ["target", *(f"digit {c}" for c in config.classes)],
        rows,
        caption,
    )


def _cost_table(config: Config, found) -> Table:
    rows = []
    for outputs in (1, 10):
        for width in config.widths:
            run = found[f"cost-{width}-{outputs}"]
            times = [
                run["kernel"][0],
                *(run[form][i] for i in (0, -1) for form in ("dense", "cg", "primal")),
            ]
            sizes = [f"{value / 1e6:.1f}" for value in run["bytes"][0]]
            rows.append(
                [
                    f"{outputs}, {int(run['parameters'][0])}",
                    *(f"{1000 * t:.3g}" for t in times),
                    *sizes,
                ]
            )
    low, high = (f"{100 * f:g} %" for f in (config.fractions[0], config.fractions[-1]))
    forms = ("dual dense", "dual CG", "primal")
    columns = [
        "outputs, parameters",
        "kernel",
        *(f"{form}, {f}" for f in (low, high) for form in forms),
    ]
    gap = max(
        found[f"cost-{w}-{o}"]["gap"].max() for w in config.widths for o in (1, 10)
    )
    caption = (
        "Milliseconds for one request on linearized tanh networks, float32; conjugate"
        " gradients to 1e-6. The kernel is computed once for all requests. Memory in"
        " MB: matrices and vectors held, by arithmetic. In single precision the forms"
        f" differed by at most {gap:.0e}."
    )
    return Table(
        "Cost of one request", [*columns, "dual (MB)", "primal (MB)"], rows, caption
    )


def _convex_picture(config: Config, linear, squared) -> Figure:
    figure = Drawing(figsize=(9.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "Error beside doing nothing", grid="both")
    share, means = 100 * linear["fraction"][0][~squared], []
    for key, color, label in (
        ("params", COLORS[0], "parameters"),
        ("outputs", COLORS[1], "test outputs"),
    ):
        for run in linear[key][:, ~squared]:
            axes.plot(share, run, color=color, lw=0.8, alpha=0.5)
        means.append(linear[key][:, ~squared].mean(0))
        axes.plot(share, means[-1], color=color, lw=2, marker="o", label=label)
    axes.axhline(1, color=INK, lw=1, ls=":")
    axes.annotate(
        "do nothing",
        (share[0], 1),
        xytext=(0, -12),
        textcoords="offset points",
        color=INK,
        fontsize=9,
    )
    axes.set(
        yscale="log",
        xlabel="removed (% of the training images)",
        ylabel="|estimate - retrained| / |original - retrained|",
    )
    axes.legend(frameon=False, labelcolor=INK, fontsize=9.5, loc="lower right")
    alt = "Errors of parameters by share removed: " + ", ".join(
        f"{s:g} %: {m:.3f}" for s, m in zip(share, means[0], strict=True)
    )
    return Figure(
        "Linearized network, cross-entropy",
        figure,
        alt,
        "Thin lines are seeds, thick ones their means.",
    )


def _guard_picture(guards) -> Figure:
    figure = Drawing(figsize=(9.2, 3.6), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "Every run: what the guard says, and what is true", grid="both")
    for color, (name, run) in zip(COLORS, guards.items(), strict=False):
        kind, width, ridge = name.split("-")
        axes.scatter(
            run["linearizability"],
            run["outputs"],
            color=color,
            s=36,
            label=f"{kind}, {width}, {ridge}",
        )
    axes.axvline(0.5, color=INK, lw=1, ls="--")
    axes.annotate(
        "the guard warns",
        (0.5, 0),
        xytext=(6, 4),
        textcoords="offset points",
        color=INK,
        fontsize=9,
    )
    axes.axhline(1, color=INK, lw=1, ls=":")
    axes.set(
        xscale="log",
        ylim=(0, None),
        xlabel="linearizability",
        ylabel="error of test outputs / doing nothing",
    )
    figure.legend(
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
        loc="outside right upper",
        title="network, penalty",
    ).get_title().set(color=INK, fontsize=9.5)
    alt = "; ".join(
        f"{n}: {r['linearizability'].mean():.2g} and {r['outputs'].mean():.2g}"
        for n, r in guards.items()
    )
    caption = (
        "Left of the dashed line, and where the network is stationary too, the guard"
        " trusts the estimate. Dotted: doing nothing."
    )
    return Figure(
        "Networks as they are",
        figure,
        f"Linearizability and error of outputs: {alt}",
        caption,
    )


def _cost_picture(config: Config, found) -> Figure:
    figure = Drawing(figsize=(9.2, 3.8), layout="constrained")
    panels = figure.subplots(1, 2)
    removed = np.round(np.array(config.fractions) * config.num_samples)
    for axes, outputs in zip(panels, (1, 10), strict=True):
        dress(
            axes,
            f"{outputs} output{'s' if outputs > 1 else ''}, {config.num_samples}"
            " images",
            grid="both",
        )
        runs = [found[f"cost-{width}-{outputs}"] for width in config.widths]
        for color, run in zip(COLORS, runs, strict=False):
            axes.plot(
                removed,
                run["primal"],
                color=color,
                lw=2,
                marker="o",
                label=f"primal, {int(run['parameters'][0])}",
            )
        for dashes, form in (("--", "dense"), (":", "cg")):
            times = np.median([run[form] for run in runs], 0)
            axes.plot(
                removed,
                times,
                color=INK,
                lw=1.8,
                ls=dashes,
                marker="s",
                ms=4,
                label=f"dual, {form}",
            )
        axes.set(yscale="log", xlabel="removed images")
    panels[0].set_ylabel("seconds per request")
    lines, names = panels[0].get_legend_handles_labels()
    figure.legend(
        lines,
        names,
        frameon=False,
        labelcolor=INK,
        fontsize=9,
        loc="outside lower center",
        ncols=5,
    )
    told = [
        f"{o} outputs, {w} units: "
        + ", ".join(
            f"{form} {found[f'cost-{w}-{o}'][form][0]:.4f} s"
            for form in ("primal", "dense", "cg")
        )
        for o in (1, 10)
        for w in config.widths
    ]
    caption = (
        "Primal by number of parameters; dual without the kernel, the median over"
        " networks, whose size does not matter to it. The kernel is computed once, see"
        " the table."
    )
    return Figure(
        "When the dual wins",
        figure,
        f"At the smallest share: {'; '.join(told)}",
        caption,
    )


EXPERIMENT = Experiment(
    "Influence functions: near retraining where their assumptions hold",
    Config(),
    make_parts,
    make_page,
)
