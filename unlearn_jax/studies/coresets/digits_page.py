"""Page of core-sets of digits."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from unlearn_jax import audit
from unlearn_jax.contrib import coresets
from unlearn_jax.pipeline import Check, Figure, Page, Table
from unlearn_jax.pipeline.report.figures.style import COLORS, INK, MUTED, dress
from unlearn_jax.studies.coresets.digits import (
    AGAIN,
    ALL,
    FROM_KERNEL,
    KINDS,
    NOTHING,
    ORDERS,
    SIZED,
    WAYS,
    Arrays,
    Config,
    enough,
    kinds_of,
    set_names,
    shares_of,
)


def intervals(names: Sequence[Any], seeds: Sequence[int]) -> np.ndarray:
    """Weights of a bootstrap over forget sets and seeds, ``[1000, R]``, runs ordered by forget set."""
    runs = np.array([[i, seed] for i in range(len(names)) for seed in seeds])
    return audit.run_weights(np.random.default_rng(0), 1000, runs)


def estimate(values: list[np.ndarray], weights: np.ndarray) -> audit.Estimate:
    """Mean over forget sets and seeds with its interval; one array ``[S]`` per forget set."""
    flat = np.concatenate(values)
    return audit.summarize(flat, np.broadcast_to(flat, weights.shape), weights)


def rate(events: np.ndarray) -> str:
    """A probability with its exact binomial interval."""
    events = np.ravel(events)
    low, high = audit.clopper_pearson(int(events.sum()), events.size)
    return f"{events.mean():.2f} [{low:.2f}, {high:.2f}]"


def kernel_table(config: Config, found: Mapping[str, Arrays]) -> Table:
    """PS, PN and PNS of each core-set and of subsets of its size, on worlds that the search did not see."""
    rows = []
    for name in set_names(config):
        part = found[f"search-{name}"]
        size, count = part["subsets"][0].sum(), len(part["index"])
        one_left = coresets.suppressed(
            part["one_left_shares"], tolerance=config.tolerance
        ).mean(0)
        for label, which in zip(
            WAYS, ([0], [1], list(range(2, len(part["subsets"])))), strict=True
        ):
            enough = coresets.suppressed(
                part["shares"][:, which], tolerance=config.tolerance
            )
            rest = coresets.suppressed(
                part["rest_shares"][:, which], tolerance=config.tolerance
            )
            low, high = coresets.causes(enough.ravel(), rest.ravel()).bounds
            rows.append(
                [
                    f"{name}: {label}",
                    f"{size} of {count} ({100 * size / count:.0f} %)",
                    (
                        f"{part['shares'][:, which].mean():.2f} ±"
                        f" {part['shares'][:, which].mean(1).std(ddof=1):.2f}"
                    ),
                    rate(enough),
                    rate(~rest),
                    rate(enough & ~rest),
                    f"{low:.2f} to {high:.2f}",
                    (
                        None
                        if which != [0]
                        else (
                            f"{one_left.mean():.2f} ({one_left.min():.2f} to"
                            f" {one_left.max():.2f})"
                        )
                    ),
                ]
            )
    return Table(
        f"Kernel models: {config.judge_worlds} seeds that the search did not see",
        [
            "removed from",
            "samples",
            "share suppressed",
            "PS",
            "PN",
            "PNS",
            "Tian-Pearl bounds",
            "PS with one member left in",
        ],
        rows,
        "Exact removal from kernel ridge regressions. S(C) holds within"
        f" {config.tolerance:g} of the oracle's share of 1. PNS grows with the number"
        " of samples (all of F would have 1): compare the three rows of a forget set,"
        " which remove equally many. ± is the standard deviation over seeds; brackets"
        f" are exact binomial intervals, for the {config.random_orders} random subsets"
        " as if their runs were independent. Last column: mean over members (least to"
        f" largest); on the seeds of the search all are below {1 - config.delta:g}, as"
        " every member is necessary there.",
    )


def size_table(config: Config, found: Mapping[str, Arrays]) -> Table:
    """How many samples must go, by tolerance and model."""
    rows = []
    for name in set_names(config):
        part, count = found[f"search-{name}"], len(found[f"search-{name}"]["index"])
        passed = (
            coresets.suppressed(part["top_shares"], tolerance=config.tolerance).mean(0)
            >= 1 - config.delta - 1e-9
        )
        sizes = [
            part["subsets"][0].sum(),
            *part["sizes_elsewhere"],
            np.argmax(passed) + 1,
        ]
        networks = enough(config, found[f"curve-{name}"]["shares"])
        rows.append(
            [
                name,
                count,
                *(f"{100 * size / count:.0f} %" for size in sizes),
                *(f"{100 * s:.0f} %" for s in networks),
            ]
        )
    tolerances = [config.tolerance, *config.other_tolerances]
    return Table(
        "How much of the forget set must go",
        [
            "forget set",
            "samples",
            *(f"core-set, within {t:g}" for t in tolerances),
            f"top influence, within {config.tolerance:g}",
            *(f"networks: {order}" for order in ORDERS),
        ],
        rows,
        "Kernel models first, on the seeds of the search; then the first point of the"
        f" networks' curve at which PS is at least {1 - config.delta:g} over"
        f" {len(config.seeds)} seeds, within {config.tolerance:g}; 100 % where no point"
        " before does. Points:"
        f" {', '.join(f'{100 * share:.0f} %' for share in config.curve)}.",
    )


def network_table(
    config: Config, found: Mapping[str, Arrays], kind: str, names: list[str]
) -> Table:
    """What networks of new seeds know of the forget sets of one kind."""
    judged = [found[f"judge-{name}"] for name in names]
    weights = intervals(names, config.judge_seeds)
    shares = [shares_of(part) for part in judged]
    rows = []
    for label, column, rest in network_rows():
        enough = np.array(
            [
                coresets.suppressed(share[:, column], tolerance=config.tolerance)
                for share in shares
            ]
        )
        others = np.array(
            [
                coresets.suppressed(share[:, rest], tolerance=config.tolerance)
                for share in shares
            ]
        )
        again = column == AGAIN
        rows.append(
            [
                label,
                (
                    f"{100 * np.mean([mask.mean() for mask in removed_by(judged, column)]):.0f} %"
                ),
                estimate([share[:, column] for share in shares], weights),
                rate(enough),
                None if again else rate(~others),
                None if again else rate(enough & ~others),
                estimate(
                    [100 * part["accuracy"][:, column] for part in judged], weights
                ),
                estimate(
                    [100 * part["test_accuracy"][:, column] for part in judged], weights
                ),
            ]
        )
    return Table(
        f"{KINDS[kind]}: networks of {len(config.judge_seeds)} new seeds",
        [
            "removed",
            "of F",
            "share suppressed",
            "PS",
            "PN",
            "PNS",
            "forget acc. (%)",
            "test acc. (%)",
        ],
        rows,
        f"Mean over {len(names)} forget sets x {len(config.judge_seeds)} seeds, all"
        " counterfactuals on the same seeds; brackets: 95 % interval over forget sets"
        " and seeds, for probabilities exact binomial as if runs were independent. PS:"
        " removing these samples suppresses what the network knows of all of F; PN:"
        " removing all others of F instead does not; PNS: both.",
    )


def removed_by(judged: list[Arrays], column: int) -> list[np.ndarray]:
    """Masks over each forget set of what a column of networks went without."""
    return [part["among"][ALL if column == AGAIN else column] for part in judged]


def membership_table(config: Config, found: Mapping[str, Arrays]) -> Table:
    """Whether single samples of F can still be told to have been trained on."""
    kinds, columns = kinds_of(config), []
    rows = [[label] for label, column, _ in network_rows() if column != AGAIN]
    for kind, names in kinds.items():
        judged = [found[f"judge-{name}"] for name in names]
        columns += [
            f"{KINDS[kind].lower()}: {part} (%)" for part in ("left in", "removed")
        ]
        for row, (_, column, _) in zip(rows, network_rows(), strict=False):
            row += [
                told_apart(config, judged, column, removed=removed)
                for removed in (False, True)
            ]
    return Table(
        "Members left out of the core-set: U-LiRA's AUC",
        ["removed", *columns],
        rows,
        "Tells the networks of a row from networks retrained without F on other seeds,"
        " by the samples of F that were left in and by those removed: 50 is no trace"
        " (as all of F removed shows), 100 certainty. " + coresets.CAVEAT,
    )


def network_rows() -> list[tuple[str, int, int]]:
    """Label, column and column of the complement of each row of a network table."""
    rows = [("nothing", NOTHING, ALL)]
    rows += [
        (f"kernel's {way}" if i == 0 else way, FROM_KERNEL + i, FROM_KERNEL + 3 + i)
        for i, way in enumerate(WAYS)
    ]
    rows += [
        (f"{way}" if i else "core-set, sized on networks", SIZED + i, SIZED + 3 + i)
        for i, way in enumerate(WAYS)
    ]
    return [
        *rows,
        ("all of F (oracle)", ALL, NOTHING),
        ("all of F, another seed (floor)", AGAIN, NOTHING),
    ]


def told_apart(
    config: Config, judged: list[Arrays], column: int, *, removed: bool
) -> audit.Estimate | None:
    """U-LiRA's AUC in percent on the samples of F that a column went without, or on the others; None without any.

    Against the oracle of other seeds. Forget sets that have no such samples are left
    out.
    """
    areas = []
    for part, mask in zip(judged, removed_by(judged, column), strict=True):
        signals = part["signals"][:, :, mask == removed]
        if signals.size:
            areas.append(100 * audit.ulira(signals[:, column], signals[:, AGAIN]).auc)
    return estimate(areas, intervals(areas, config.judge_seeds)) if areas else None


def curve_figure(config: Config, found: Mapping[str, Arrays]) -> tuple[Drawing, str]:
    """Size against suppression for three orders: kernel models above, networks below, a column per kind of forget set."""
    figure = Drawing(figsize=(9.2, 6.4), layout="constrained")
    panels, told = (
        figure.subplots(
            2, len(kinds_of(config)), sharex=True, sharey=True, squeeze=False
        ),
        [],
    )
    for column, (kind, names) in enumerate(kinds_of(config).items()):
        title, kernels = KINDS[kind], [found[f"search-{name}"] for name in names]
        places = np.mean([part["curve_sizes"] for part in kernels], 0)
        weights = intervals(names, range(config.judge_worlds))
        below = intervals(names, config.seeds)
        for row, word in enumerate(("kernel models", "networks")):
            dress(panels[row, column], f"{title}, {word}", grid="both", size=10)
            panels[row, column].axhspan(
                1 - config.tolerance,
                1 + config.tolerance,
                color=MUTED,
                alpha=0.18,
                lw=0,
            )
        for j, (label, color) in enumerate(zip(ORDERS, COLORS, strict=False)):
            curves = [
                part["curve"][:, j] if j < 2 else part["curve"][:, 2:].mean(1)
                for part in kernels
            ]
            points = [
                estimate([curve[:, i] for curve in curves], weights)
                for i in range(len(places))
            ]
            upper, lower = panels[0, column], panels[1, column]
            upper.plot(
                [0, *places],
                [0, *(p.mean for p in points)],
                color=color,
                lw=1.8,
                label=label,
            )
            upper.fill_between(
                places,
                [p.low for p in points],
                [p.high for p in points],
                color=color,
                alpha=0.2,
                lw=0,
            )
            trained = [found[f"curve-{name}"]["shares"][:, j] for name in names]
            points = [
                estimate([curve[:, i] for curve in trained], below)
                for i in range(len(config.curve))
            ]
            means = np.array([p.mean for p in points])
            errors = [means - [p.low for p in points], [p.high for p in points] - means]
            lower.plot(
                [0, *config.curve, 1], [0, *means, 1], color=color, lw=1.2, ls="--"
            )
            beside = np.array(config.curve) + 0.01 * (
                j - 1
            )  # bars of equal curves side by side
            lower.errorbar(
                beside, means, errors, color=color, fmt="o", ms=4.5, capsize=2.5, lw=1.2
            )
            middle = int(np.argmin(abs(np.array(config.curve) - 0.4)))
            told.append(
                f"{title}, {label}: {means[middle]:.2f} in networks at"
                f" {100 * config.curve[middle]:.0f} %"
            )
    for axes in panels[:, 0]:
        axes.set_ylabel("share suppressed", fontsize=10, color=INK)
    for axes in panels[1]:
        axes.set_xlabel("share of the forget set removed", fontsize=10, color=INK)
    lines, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        lines,
        labels,
        loc="outside upper left",
        ncols=3,
        frameon=False,
        labelcolor=INK,
        fontsize=9.5,
    )
    return figure, "; ".join(told)


def attack_check(config: Config, found: Mapping[str, Arrays]) -> Check:
    """The attack finds nothing where there is nothing to find."""
    auc = told_apart(
        config,
        [found[f"judge-{name}"] for name in set_names(config)],
        ALL,
        removed=True,
    )
    assert auc is not None
    detail = (
        f"AUC {auc.mean:.0f} % [{auc.low:.0f}, {auc.high:.0f}] without F against other"
        " seeds without F"
    )
    return Check(
        "U-LiRA finds no trace where all of F is removed",
        auc.low <= 50 <= auc.high,
        detail,
    )


def make_page(config: Config, found: Mapping[str, Arrays]) -> Page:
    """Tables, picture and checks; the summary is made from the numbers."""
    figure, alt = curve_figure(config, found)
    gap = float(found["ridge"]["gap"])
    return Page(
        summary=summary(config, found),
        blocks=[
            *(
                network_table(config, found, kind, names)
                for kind, names in kinds_of(config).items()
            ),
            membership_table(config, found),
            kernel_table(config, found),
            size_table(config, found),
            Figure(
                "Size against suppression",
                figure,
                alt,
                "0 is a model trained on everything, 1 the oracle of the same seed,"
                " the gray band what counts as suppressed; bands and bars are 95 %"
                " intervals over forget sets and seeds. Random orders are means over"
                f" {config.random_orders} draws above, one draw below.",
            ),
            Check(
                "Removal from kernel models is exact",
                gap < 1e-10,
                f"outputs differ from refitting by {gap:.0e}",
            ),
            attack_check(config, found),
        ],
    )


def summary(config: Config, found: Mapping[str, Arrays]) -> str:
    """What came out, in sentences."""
    told = []
    for kind, names in kinds_of(config).items():
        sizes = [found[f"search-{name}"]["subsets"][0].mean() for name in names]
        networks = np.mean(
            [enough(config, found[f"curve-{name}"]["shares"]) for name in names], 0
        )
        told.append(
            f"{KINDS[kind]}: the core-sets of kernel models hold"
            f" {100 * np.mean(sizes):.0f} % of the forget set; in networks"
            f" {100 * networks[0]:.0f} % of it is enough in the order of the search,"
            f" {100 * networks[1]:.0f} % by influence alone and {100 * networks[2]:.0f}"
            " % at random."
        )
    told.append(coresets.CAVEAT)
    for kind, names in kinds_of(config).items():
        judged = [found[f"judge-{name}"] for name in names]
        ours, random = (
            told_apart(config, judged, FROM_KERNEL + i, removed=False) for i in (0, 2)
        )
        if ours is not None and random is not None:
            told.append(
                "U-LiRA tells the networks from retrained ones by them with an AUC of"
                f" {ours.mean:.0f} % [{ours.low:.0f}, {ours.high:.0f}]"
                f" ({KINDS[kind].lower()}); by as many left out at random with"
                f" {random.mean:.0f} % [{random.low:.0f}, {random.high:.0f}]."
            )
    return " ".join(told)
