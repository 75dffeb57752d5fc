"""An exact generative test-bed: bars and stripes in a diluted restricted Boltzmann machine, 512 states all written out.

Command:   unlearn-jax run rbm_bars
Source:    inspired by Diaz-Faloh and Mulet, "Diluting Restricted Boltzmann Machines" (arXiv 2511.00648), whose abstract
           says that retraining after pruning ends below training the pruned network
           from scratch. Deletion, the patterns and all numbers are this library's;
           nothing here is a claim of that paper, and its 80 % are out of reach of 12
           hidden units.
Measured:  mean ± standard deviation over 10 seeds, 95% interval of the mean; nothing is estimated but these. Forgetting
           2 of 14 patterns; forgotten mass over its uniform share; KL(oracle || model)
           in nats, and in doing nothing's

                                      retained log-lik       forgotten mass        KL                      times nothing
  retrained (oracle)                  -2.51 [-2.51, -2.51]   0.002 [0.001, 0.003]  –                       –
  do nothing                          -2.66 [-2.66, -2.66]   0.984 [0.981, 0.986]  0.169 [0.163, 0.177]    1
  second retrain (seed floor)         -2.51 [-2.51, -2.50]   0.002 [0.001, 0.004]  0.016 [0.011, 0.021]    0.09
  fine-tune, 50 steps                 -2.52 [-2.53, -2.51]   0.075 [0.040, 0.112]  0.030 [0.022, 0.039]    0.18
  fine-tune, 500 steps                -2.50 [-2.50, -2.50]   0.020 [0.008, 0.037]  0.021 [0.014, 0.030]    0.12
  descent-ascent, 5 steps             -8.46 [-10.35, -6.46]  0.000 [0.000, 0.001]  5.96 [3.96, 7.85]       35 [24, 46]
  descent-ascent, 20 steps            -73 [-95, -50]         0                     71 [47, 93]             422
  descent-ascent, 60 steps            -397 [-525, -264]      0                     394 [262, 523]          2364
  these 60, then fine-tune, 500       -2.95 [-3.17, -2.73]   0.000 [0.000, 0.000]  0.472 [0.292, 0.661]    2.8 [1.7, 3.9]
  descent-0.1 ascent, 60 steps        -2.79 [-2.99, -2.64]   0.003 [0.000, 0.007]  0.295 [0.142, 0.495]    1.8 [0.8, 3.0]
  descent-0.02 ascent, 60 steps       -2.52 [-2.53, -2.51]   0.033 [0.010, 0.059]  0.028 [0.020, 0.037]    0.17

           Random connections removed: mean log-likelihood of the 14 patterns (best
           -2.639), T = 1500 steps

           before training  before, 2T  after training  after, + T/3  after, + T  before, 2T - after, + T
  30%      -2.68            -2.66       -10.97          -2.79         -2.68       0.027 [0.024, 0.029]
  50%      -2.81            -2.74       -13.00          -3.79         -3.43       0.69 [0.32, 1.12]
  80%      -5.37            -5.35       -12.78          -5.78         -5.64       0.30 [0.14, 0.46]

Reading:   the forget score of descent-ascent is perfect after 5 steps, when it is 1.5 to 55 times as far from the oracle
           as doing nothing, and it never stops: with the two sets' weights equal, Z
           drops out of the objective. After 60 steps one state has nearly all the mass;
           in 6 of 10 seeds that is none of the patterns. Fine-tuning then repairs most,
           and ends worse than fine-tuning alone. Ascent of weight 0.02 is where
           fine-tuning is after 60 steps (0.028 both), and further away after 500
           (0.035, fine-tuning 0.021). Training again after dilution stays below a
           machine that had the same mask from the start and as many steps: at every
           share for random connections; for the smallest weights, from 30% to 80% (at
           90% the interval touches 0). Compared at T instead of 2T steps the smallest
           weights at 10 to 30% show the opposite: that is the additional training.
Chosen:    the optimizer, by the training likelihood of dense machines with other seeds; nothing else.
Time:      68 seconds of processor time.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2; other jobs ran beside.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unlearn_jax import replicas
from unlearn_jax.audit import Estimate, run_weights, summarize
from unlearn_jax.contrib.testbeds import rbm as machines
from unlearn_jax.contrib.testbeds import rbm_training as training
from unlearn_jax.pipeline import Check, Experiment, Page, Part, Picture, Table
from unlearn_jax.pipeline.report.figures.style import COLORS, INK, MUTED, dress
from unlearn_jax.types import Array, InputError

Arrays = Mapping[str, np.ndarray]
ROWS = {
    "nothing": "do nothing",
    "second": "second retrain (seed floor)",
    "tune-50": "fine-tune, 50 steps",
    "tune-500": "fine-tune, 500 steps",
    "ascent-5": "descent-ascent, 5 steps",
    "ascent-20": "descent-ascent, 20 steps",
    "ascent-60": "descent-ascent, 60 steps",
    "ascent-tune": "60 of these, then fine-tune, 500 steps",
    "gentle-20": "descent-0.1 ascent, 20 steps",
    "gentle-60": "descent-0.1 ascent, 60 steps",
    "gentlest-60": "descent-0.02 ascent, 60 steps",
}
PATHS = {"tune": 0.0, "gentlest": 0.02, "gentle": 0.1, "ascent": 1.0}
DILUTED = {
    "before": "before training",
    "twice": "before, 2T",
    "after": "after training",
    "third": "after, + T/3",
    "full": "after, + T",
}
MASKS = {"random": "random connections", "smallest": "smallest weights"}
SHOWN = ("retrained", "nothing", "tune-500", "ascent-5", "ascent-60")
TOP = 12


@dataclasses.dataclass(frozen=True)
class Config:
    """Bars and stripes of 3x3 pixels in a machine whose 512 states are all written out."""

    seeds: tuple[int, ...] = tuple(range(10))
    """Seeds: of the machines, the two patterns to forget, and the masks."""
    num_hidden: int = 12
    """Hidden units."""
    num_steps: int = 1500
    """Full-batch steps of exact gradient, of every training."""
    learning_rate: float = 0.1
    """Of gradient descent with momentum 0.9; training and unlearning alike."""
    num_forget: int = 2
    """Patterns to forget, of 14."""
    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    """Shares of connections removed."""


def fitted(
    config: Config, rbm: machines.Rbm, weights: Array, num_steps: int
) -> machines.Rbm:
    """Exact training on the patterns."""
    tx = optax.sgd(config.learning_rate, momentum=0.9)
    return training.fit_exact(
        rbm, machines.bars_and_stripes(3), weights, tx=tx, num_steps=num_steps
    )


def fresh(config: Config, key: Array, weights: Array) -> machines.Rbm:
    """A machine that was trained on nothing."""
    means = training.visible_means(machines.bars_and_stripes(3), weights)
    return machines.init_rbm(key, means, config.num_hidden, scale=0.1)


def forget_one_seed(config: Config, key: Array) -> dict[str, Array]:
    """Every row's log-likelihood on retained patterns, mass on forgotten ones and distance to the oracle; paths."""
    patterns = machines.bars_and_stripes(3)
    count = len(patterns)
    key_forget, *keys = jax.random.split(key, 4)
    forget = jnp.argsort(jax.random.uniform(key_forget, (count,))) < config.num_forget
    keep = training.deletion_weights(forget)
    weights = [jnp.full(count, 1 / count), keep, keep]
    starts = replicas.stack(
        [fresh(config, k, w) for k, w in zip(keys, weights, strict=True)]
    )
    train = jax.vmap(lambda rbm, w: fitted(config, rbm, w, config.num_steps))
    trained = train(starts, jnp.stack(weights))
    original, oracle, second = (replicas.unstack(trained, i) for i in range(3))
    machine_of = {"retrained": oracle, "nothing": original, "second": second}
    out: dict[str, Array] = {}
    for name, ascent in PATHS.items():
        path, out[f"path-{name}"] = walk(
            config, original, oracle, training.deletion_weights(forget, ascent=ascent)
        )
        for step in (5, 20, 50, 60, 500):
            if f"{name}-{step}" in ROWS:
                machine_of[f"{name}-{step}"] = replicas.unstack(path, step - 1)
    machine_of["ascent-tune"] = fitted(config, machine_of["ascent-60"], keep, 500)
    for name, rbm in machine_of.items():
        scores = machines.log_likelihood(rbm, patterns)
        retained = jnp.sum(jnp.where(forget, 0.0, scores)) / jnp.sum(~forget)
        mass = (
            jnp.sum(jnp.where(forget, jnp.exp(scores), 0.0)) * count / jnp.sum(forget)
        )
        out[name] = jnp.stack([retained, mass, machines.exact_kl(oracle, rbm)])
        out[f"states-{name}"] = machines.log_distribution(rbm)
    joint = -machines.energy(original, *map(jnp.asarray, grid(9, config.num_hidden)))
    return out | {
        "forget": forget,
        "log-z": jnp.stack([machines.log_partition(original), jax.nn.logsumexp(joint)]),
    }


def grid(num_visible: int, num_hidden: int) -> tuple[Array, Array]:
    """Every pair of a visible and a hidden state, for brute force."""
    return (
        machines.all_states(num_visible)[:, None],
        machines.all_states(num_hidden)[None],
    )


def walk(
    config: Config,
    start: machines.Rbm,
    oracle: machines.Rbm,
    weights: Array,
    num_steps: int = 500,
) -> tuple[machines.Rbm, Array]:
    """The machine after every step from ``start``, and its distance to the oracle."""
    tx = optax.sgd(config.learning_rate, momentum=0.9)

    def step(
        state: training.ExactState, _: None
    ) -> tuple[training.ExactState, tuple[machines.Rbm, Array]]:
        state = training.update_exact(
            state, machines.bars_and_stripes(3), weights, tx=tx
        )
        return state, (state.rbm, machines.exact_kl(oracle, state.rbm))

    return jax.lax.scan(step, training.init_exact(start, tx), None, length=num_steps)[1]


def dilute_one_seed(config: Config, key: Array) -> dict[str, Array]:
    """Mean log-likelihood of all patterns, for each share, of the machines diluted before and after training."""
    patterns = machines.bars_and_stripes(3)
    even = jnp.full(len(patterns), 1 / len(patterns))
    key_init, key_mask = jax.random.split(key)
    start = fresh(config, key_init, even)
    dense = fitted(config, start, even, config.num_steps)
    draws = jax.random.uniform(key_mask, dense.weights.shape)
    score = lambda rbm: jnp.mean(machines.log_likelihood(rbm, patterns))

    def at(share: Array) -> dict[str, Array]:
        masks = jnp.stack(
            [machines.smallest_mask(order, share) for order in (draws, dense.weights)]
        )

        def diluted(mask: Array) -> tuple[dict[str, Array], Array]:
            before, after = machines.dilute(start, mask), machines.dilute(dense, mask)
            pair = jax.vmap(
                lambda rbm: fitted(config, rbm, even, config.num_steps // 3)
            )(replicas.stack([before, after]))
            third = replicas.unstack(pair, 1)
            full = jax.vmap(lambda rbm: fitted(config, rbm, even, config.num_steps))(
                replicas.stack([before, after])
            )
            twice = fitted(config, replicas.unstack(full, 0), even, config.num_steps)
            values = {
                "twice": twice,
                "before": replicas.unstack(full, 0),
                "after": after,
                "third": third,
                "full": replicas.unstack(full, 1),
            }
            leak = jnp.max(jnp.where(mask[None], 0.0, jnp.abs(full.weights)))
            return {name: score(rbm) for name, rbm in values.items()}, leak

        values, leak = jax.vmap(diluted)(masks)
        return {
            f"{mask}-{name}": values[name][i]
            for i, mask in enumerate(MASKS)
            for name in DILUTED
        } | {"leak": jnp.max(leak)}

    return jax.lax.map(at, jnp.asarray(config.shares)) | {"dense": score(dense)}


def compute(
    config: Config, one_seed: Callable[[Config, Array], dict[str, Array]], purpose: int
) -> dict[str, np.ndarray]:
    """All seeds side by side."""
    run = jax.jit(
        jax.vmap(
            lambda seed: one_seed(
                config, jax.random.fold_in(jax.random.key(seed), purpose)
            )
        )
    )
    return jax.tree.map(np.asarray, run(jnp.asarray(config.seeds)))


def make_parts(config: Config) -> dict[str, Part]:
    """Deletion, and dilution."""
    if len(set(config.seeds)) < 2 or len(set(config.seeds)) != len(config.seeds):
        raise InputError(
            f"seeds are {config.seeds}: give two different ones or more, intervals need"
            " them"
        )
    if (
        not config.shares
        or not all(0 < share < 1 for share in config.shares)
        or config.num_steps < 3
    ):
        raise InputError(
            "shares must lie between 0 and 1, at least one, and num_steps be 3 or more"
        )
    if not 1 <= config.num_forget <= 13 or not 1 <= config.num_hidden <= 12:
        raise InputError(
            "num_forget must be 1 to 13, of 14 patterns, and num_hidden 1 to 12 for the"
            " brute-force check"
        )
    settings = dataclasses.asdict(config)
    shared = {
        name: settings[name]
        for name in ("seeds", "num_hidden", "num_steps", "learning_rate")
    }
    return {
        "deletion": Part(
            shared | {"num_forget": config.num_forget},
            functools.partial(compute, config, forget_one_seed, 0),
        ),
        "dilution": Part(
            shared | {"shares": config.shares},
            functools.partial(compute, config, dilute_one_seed, 1),
        ),
    }


def estimate(values: np.ndarray) -> Estimate:
    """Mean over seeds, with a 95% bootstrap interval."""
    weights = run_weights(
        np.random.default_rng(0), 2000, np.arange(len(values))[:, None]
    )
    return summarize(values, np.broadcast_to(values, weights.shape), weights)


def deletion_table(config: Config, found: Arrays) -> Table:
    """A row per way to forget."""
    labels = {"retrained": "retrained (oracle)"} | ROWS
    rows = [
        [
            label,
            estimate(found[name][:, 0]),
            estimate(found[name][:, 1].round(3)),
            estimate(found[name][:, 2]) if name != "retrained" else None,
            (
                estimate(found[name][:, 2] / found["nothing"][:, 2])
                if name != "retrained"
                else None
            ),
        ]
        for name, label in labels.items()
    ]
    best = -np.log(14 - config.num_forget)
    return Table(
        title=f"Forgetting {config.num_forget} of 14 patterns",
        columns=[
            "model",
            "log-likelihood of retained",
            "forgotten mass",
            "KL(oracle || model)",
            "times doing nothing",
        ],
        rows=rows,
        caption=(
            "All exact, in nats; the best possible log-likelihood of a retained"
            f" pattern is {best:.3f}. Forgotten mass: probability of the forgotten"
            " patterns over their uniform share (1: remembered, 0: gone). Mean ±"
            f" standard deviation over {len(config.seeds)} seeds, 95% interval of the"
            " mean."
        ),
    )


def dilution_table(config: Config, found: Arrays, mask: str) -> Table:
    """A row per share."""
    rows = []
    for i, share in enumerate(config.shares):
        values = [found[f"{mask}-{name}"][:, i] for name in DILUTED]
        rows.append(
            [
                f"{share:.0%}",
                *map(estimate, values),
                estimate(values[0] - values[4]),
                estimate(values[1] - values[4]),
            ]
        )
    return Table(
        title=f"Diluted: {MASKS[mask]} removed",
        columns=["removed", *DILUTED.values(), "before - retrained", "at equal steps"],
        rows=rows,
        caption=(
            f"Mean log-likelihood of the 14 patterns, exact, in nats: {-np.log(14):.3f}"
            f" is best, {found['dense'].mean():.3f} has the dense machine and"
            f" {-9 * np.log(2):.3f} one that knows nothing. T = {config.num_steps}"
            " steps; all columns of a row have the same masks. Differences are paired,"
            " of before training and of before, 2T, with after, + T: above 0, training"
            " the diluted machine from scratch is better than retraining the one"
            " diluted after training."
        ),
    )


def path_picture(config: Config, found: Arrays) -> Picture:
    """Distance to the oracle along every path."""
    figure = Figure(figsize=(9.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    dress(axes, "Distance to the retrained machine, step by step", grid="both")
    names = {
        "tune": "fine-tuning",
        "gentlest": "ascent weight 0.02",
        "gentle": "ascent weight 0.1",
        "ascent": "ascent weight 1",
    }
    for color, (name, label) in zip(COLORS, names.items(), strict=False):
        steps = np.arange(1, found[f"path-{name}"].shape[1] + 1)
        for line in found[f"path-{name}"]:
            axes.plot(steps, line, color=color, lw=0.7, alpha=0.35)
        axes.plot(
            steps, np.median(found[f"path-{name}"], 0), color=color, lw=2.2, label=label
        )
    for name, label, color in (
        ("nothing", "do nothing", MUTED),
        ("second", "second retrain", INK),
    ):
        axes.axhline(
            found[name][:, 2].mean(), color=color, lw=1.6, ls=(0, (5, 2)), label=label
        )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="steps after the original",
        ylabel="KL(oracle || model), nats",
    )
    legend = figure.legend(
        loc="outside right upper", frameon=False, labelcolor=INK, fontsize=9.5
    )
    legend.set_title("median (bold), every seed")
    legend.get_title().set(color=INK, fontsize=9.5, fontweight="bold")
    ends = ", ".join(
        f"{label} {np.median(found[f'path-{name}'][:, -1]):.3g}"
        for name, label in names.items()
    )
    return Picture(
        "Ascent leaves the oracle behind",
        figure,
        alt=(
            f"KL from the oracle over 500 steps; medians at the end: {ends}; doing"
            f" nothing {found['nothing'][:, 2].mean():.3g}, second retrain"
            f" {found['second'][:, 2].mean():.3g}"
        ),
        caption=(
            "At weight 1 the weights of the samples sum to 0, the partition function"
            " drops out of the objective, and the distance grows without bound. Both"
            " axes are logarithmic."
        ),
    )


def dilution_picture(config: Config, found: Arrays) -> Picture:
    """Log-likelihood over the share removed."""
    figure = Figure(figsize=(9.2, 6.2), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey="row")
    for column, (mask, title) in enumerate(MASKS.items()):
        for axes, shown in zip(
            panels[:, column], ("the upper lines", "all"), strict=True
        ):
            dress(axes, f"{title} removed, {shown}".capitalize(), grid="both")
            for color, (name, label) in zip(COLORS, DILUTED.items(), strict=False):
                if shown != "all" and name == "after":
                    continue
                values = found[f"{mask}-{name}"]
                axes.fill_between(
                    config.shares,
                    values.min(0),
                    values.max(0),
                    color=color,
                    alpha=0.15,
                    lw=0,
                )
                axes.plot(
                    config.shares,
                    values.mean(0),
                    color=color,
                    lw=1.8,
                    marker="o",
                    ms=4,
                    label=label,
                )
            axes.axhline(
                -9 * np.log(2),
                color=MUTED,
                lw=1.4,
                ls=(0, (5, 2)),
                label="knows nothing",
            )
        panels[1, column].set(xlabel="share of connections removed")
    for axes in panels[:, 0]:
        axes.set_ylabel("mean log-likelihood, nats")
    handles = panels[1, 0].get_legend_handles_labels()
    figure.legend(
        *handles,
        loc="outside lower center",
        ncols=3,
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
    )
    half = int(np.argmin(np.abs(np.asarray(config.shares) - 0.5)))
    return Picture(
        "Diluting before and after training",
        figure,
        alt=(
            f"At {config.shares[half]:.0%} removed at random: before training"
            f" {found['random-before'][:, half].mean():.2f}, after training"
            f" {found['random-after'][:, half].mean():.2f}, retrained"
            f" {found['random-full'][:, half].mean():.2f}"
        ),
        caption="Mean over seeds, and their range.",
    )


def states_picture(found: Arrays) -> Picture:
    """The most probable states of the first seed's machines."""
    labels = {"retrained": "retrained (oracle)"} | ROWS
    figure = Figure(
        figsize=(9.2, 6.4)
    )  # by hand: a constrained layout makes room for titles longer than their panels
    panels = figure.subplots(len(SHOWN), TOP)
    figure.subplots_adjust(
        left=0.01, right=0.99, bottom=0.04, top=0.96, wspace=0.1, hspace=0.6
    )
    patterns = np.asarray(machines.bars_and_stripes(3))
    forgotten = patterns[found["forget"][0]]
    states = np.asarray(machines.all_states(9))
    for line, name in zip(panels, SHOWN, strict=True):
        probs = np.exp(found[f"states-{name}"][0])
        for axes, index in zip(line, np.argsort(-probs)[:TOP], strict=True):
            draw_state(axes, states[index], patterns, forgotten)
            axes.set_xlabel(
                f"{probs[index]:.3f}" if probs[index] >= 5e-4 else "<0.001",
                fontsize=8,
                color=INK,
            )
        line[0].set_title(
            labels[name], loc="left", fontsize=9.5, fontweight="bold", color=INK
        )
    worst = np.exp(found["states-ascent-60"][0]).max()
    return Picture(
        "What the machines generate",
        figure,
        alt=(
            f"The {TOP} most probable of 512 states and their probabilities; after 60"
            f" steps of descent-ascent one single state has probability {worst:.3f}"
        ),
        caption=(
            f"The {TOP} most probable of 512 states of seed 0, with their"
            " probabilities. Blue: a retained pattern. Orange: a forgotten pattern."
            " Gray: no pattern at all."
        ),
    )


def draw_state(
    axes: Axes, state: np.ndarray, patterns: np.ndarray, forgotten: np.ndarray
) -> None:
    """One 3x3 state, in the color of what it is."""
    is_in = lambda some: bool((some == state).all(1).any())
    color = COLORS[1] if is_in(forgotten) else COLORS[0] if is_in(patterns) else MUTED
    for row, column in itertools.product(range(3), range(3)):
        alpha = 0.95 if state[3 * row + column] else 0.1
        axes.fill(
            [column, column + 1, column + 1, column],
            [-row, -row, -row - 1, -row - 1],
            color=color,
            alpha=alpha,
            lw=0,
        )
    axes.set(
        xlim=(-0.1, 3.1),
        ylim=(-3.1, 0.1),
        aspect="equal",
        xticks=[],
        yticks=[],
        facecolor="none",
    )
    for spine in axes.spines.values():
        spine.set_color(color)


def make_checks(config: Config, forgotten: Arrays, diluted: Arrays) -> list[Check]:
    """What must hold, and the two findings."""
    gap = np.abs(forgotten["log-z"][:, 0] - forgotten["log-z"][:, 1]).max()
    ratio = forgotten["ascent-5"][:, 2] / forgotten["nothing"][:, 2]
    mass = forgotten["ascent-5"][:, 1].max()
    half = [i for i, share in enumerate(config.shares) if abs(share - 0.5) < 1e-9]
    margins = (diluted["random-twice"] - diluted["random-full"])[:, half]
    checks = [
        Check("log Z by enumeration equals the sum over all visible and hidden states", bool(gap < 1e-4),
              f"largest difference {gap:.1e} nats, {len(config.seeds)} machines"),
        Check("removed connections are exactly 0 after training", bool(diluted["leak"].max() == 0),
              f"largest weight {diluted['leak'].max():g}"),
        Check("5 steps of descent-ascent forget, and end further from the oracle than doing nothing, in every seed",
              bool(mass < 0.01 and ratio.min() > 1),
              f"forgotten mass at most {mass:.1e}; {ratio.min():.1f} to {ratio.max():.0f} times as far"),
    ]  # fmt: skip
    if half:
        gap = estimate(margins[:, 0])
        checks.append(
            Check(
                "half of the connections removed at random: retraining stays below"
                " dilution before training, at equal steps (interval)",
                bool(gap.low > 0),
                f"by {gap.mean:.2f} [{gap.low:.2f}, {gap.high:.2f}] nats, in"
                f" {(margins > 0).sum()} of {margins.size} seeds",
            )
        )
    return checks


def make_page(config: Config, found: Mapping[str, Arrays]) -> Page:
    """The report."""
    forgotten, diluted = found["deletion"], found["dilution"]
    ratio = {
        name: np.median(forgotten[name][:, 2] / forgotten["nothing"][:, 2])
        for name in ROWS
    }
    below = {
        mask: ", ".join(
            f"{share:.0%}"
            for i, share in enumerate(config.shares)
            if estimate(
                diluted[f"{mask}-twice"][:, i] - diluted[f"{mask}-full"][:, i]
            ).low
            > 0
        )
        for mask in MASKS
    }
    summary = (
        "An exact test-bed, inspired by a paper on sparsity (arXiv 2511.00648) and no"
        " claim of it. Descent-ascent drives the forgotten patterns to probability"
        f" {forgotten['ascent-5'][:, 1].mean() * config.num_forget / 14:.1e} in 5"
        f" steps, and is then {ratio['ascent-5']:.0f} times as far from the retrained"
        f" machine as doing nothing (median of {len(config.seeds)} seeds),"
        f" {ratio['ascent-60']:,.0f} times after 60; 500 steps of fine-tuning are at"
        f" {ratio['tune-500']:.2f}, a second retraining at {ratio['second']:.2f}. A"
        " machine that is diluted after training and trained again stays below one"
        " that had its mask from the start and as many steps, with interval above 0:"
        f" random connections removed, at {below['random'] or 'no share'}; smallest"
        f" weights, at {below['smallest'] or 'no share'}."
    )
    return Page(
        summary=summary,
        tables=[
            deletion_table(config, forgotten),
            *(dilution_table(config, diluted, mask) for mask in MASKS),
        ],
        pictures=[
            path_picture(config, forgotten),
            states_picture(forgotten),
            dilution_picture(config, diluted),
        ],
        checks=make_checks(config, forgotten, diluted),
    )


EXPERIMENT = Experiment(
    title="Exact generative test-bed: bars and stripes",
    config=Config(),
    artifacts=make_parts,
    page=make_page,
)
