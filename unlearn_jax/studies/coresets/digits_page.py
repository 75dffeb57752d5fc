"""Page of the study of core-sets on digits."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Drawing

from unlearn_jax import audit
from unlearn_jax.contrib import coresets
from unlearn_jax.figures.style import COLORS, INK, MUTED, dress
from unlearn_jax.pipeline import Check, Figure, Page, Table
from unlearn_jax.studies.common import PERCENT, in_words, legend
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


def estimate(
    values: Sequence[np.ndarray], bounds: tuple[float, float] | None = None
) -> audit.Estimate:
    """Return the mean over forget sets and seeds, from values ``[S]`` per set."""
    return audit.summarize_runs(np.stack(values), bounds=bounds)


def rate(events: np.ndarray) -> str:
    """Return a probability with its exact binomial interval."""
    events = np.ravel(events)
    low, high = audit.clopper_pearson(int(events.sum()), events.size)
    return f"{events.mean():.2f} [{low:.2f}, {high:.2f}]"


def kernel_table(config: Config, artifacts: Mapping[str, Arrays]) -> Table:
    """Return the table of PS, PN and PNS of core-sets and subsets of their size."""
    suppressed = partial(coresets.suppressed, tolerance=config.tolerance)
    rows = []
    for name in set_names(config):
        part = artifacts[f"search-{name}"]
        size = part["subsets"][0].sum()
        count = len(part["index"])
        left = suppressed(part["one_left_shares"]).mean(0)
        one_left = f"{left.mean():.2f} ({left.min():.2f} to {left.max():.2f})"
        subsets = ([0], [1], list(range(2, len(part["subsets"]))))
        for label, which in zip(WAYS, subsets, strict=True):
            shares = part["shares"][:, which]
            is_enough = suppressed(shares)
            is_rest_enough = suppressed(part["rest_shares"][:, which])
            causes = coresets.causes(is_enough.ravel(), is_rest_enough.ravel())
            low, high = causes.bounds
            rows.append(
                [
                    f"{name}: {label}",
                    f"{size} of {count} ({100 * size / count:.0f}%)",
                    f"{shares.mean():.2f} ± {shares.mean(1).std(ddof=1):.2f}",
                    rate(is_enough),
                    rate(~is_rest_enough),
                    rate(is_enough & ~is_rest_enough),
                    f"{low:.2f} to {high:.2f}",
                    one_left if which == [0] else None,
                ]
            )
    return Table(
        f"Kernel models: {config.judge_worlds} seeds not used by the search",
        [
            "removed from",
            "samples",
            "suppressed fraction",
            "PS",
            "PN",
            "PNS",
            "Tian-Pearl bounds",
            "PS with one member left in",
        ],
        rows,
        "Exact removal from kernel ridge regressions. S(C) holds within"
        f" {config.tolerance:g} of the oracle's fraction of 1. PNS grows with the"
        " number of samples (all of F would have 1): compare the three rows of a forget"
        " set, which remove equally many. ± is the standard deviation over seeds;"
        f" brackets are exact binomial intervals, for the {config.random_orders} random"
        " subsets as if their runs were independent. Last column: mean over members"
        " (least to largest); on the seeds of the search all are below"
        f" {1 - config.delta:g}, as every member is necessary there.",
    )


def size_table(config: Config, artifacts: Mapping[str, Arrays]) -> Table:
    """Return the table of sizes of sufficient removals, by tolerance and model."""
    suppressed = partial(coresets.suppressed, tolerance=config.tolerance)
    rows = []
    for name in set_names(config):
        part = artifacts[f"search-{name}"]
        count = len(part["index"])
        passed = suppressed(part["top_shares"]).mean(0) >= 1 - config.delta - 1e-9
        sizes = [part["subsets"][0].sum(), *part["sizes_elsewhere"]]
        sizes.append(np.argmax(passed) + 1)
        networks = enough(config, artifacts[f"curve-{name}"]["shares"])
        rows.append(
            [
                name,
                count,
                *(f"{100 * size / count:.0f}%" for size in sizes),
                *(f"{100 * s:.0f}%" for s in networks),
            ]
        )
    tolerances = [config.tolerance, *config.other_tolerances]
    return Table(
        "Fraction of the forget set that must be removed",
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
        f" {len(config.seeds)} seeds, within {config.tolerance:g}; 100% where no point"
        " before does. Points:"
        f" {', '.join(f'{100 * share:.0f}%' for share in config.curve)}.",
    )


def network_table(
    config: Config, artifacts: Mapping[str, Arrays], kind: str, names: list[str]
) -> Table:
    """Return the table of networks' suppression for one kind of forget set.

    The networks are trained with new seeds.
    """
    judged = [artifacts[f"judge-{name}"] for name in names]
    shares = np.stack([shares_of(part) for part in judged])
    is_suppressed = coresets.suppressed(shares, tolerance=config.tolerance)
    rows = []
    for label, column, rest in network_rows():
        is_enough = is_suppressed[..., column]
        is_rest_enough = is_suppressed[..., rest]
        again = column == AGAIN
        accuracies = []
        for name in ("accuracy", "test_accuracy"):
            values = [100 * part[name][:, column] for part in judged]
            accuracies.append(estimate(values, PERCENT))
        removed = np.mean([mask.mean() for mask in removed_by(judged, column)])
        rows.append(
            [
                label,
                f"{100 * removed:.0f}%",
                estimate(list(shares[..., column])),
                rate(is_enough),
                None if again else rate(~is_rest_enough),
                None if again else rate(is_enough & ~is_rest_enough),
                *accuracies,
            ]
        )
    return Table(
        f"{KINDS[kind]}: networks of {len(config.judge_seeds)} new seeds",
        [
            "removed",
            "of F",
            "suppressed fraction",
            "PS",
            "PN",
            "PNS",
            "forget acc. (%)",
            "test acc. (%)",
        ],
        rows,
        f"Mean over {len(names)} forget sets x {len(config.judge_seeds)} seeds, all"
        " counterfactuals on the same seeds; brackets: 95% interval over forget sets"
        " and seeds, for probabilities exact binomial as if runs were independent. PS:"
        " removing these samples suppresses the knowledge of all of F; PN: removing all"
        " others of F instead does not; PNS: both.",
    )


def removed_by(judged: list[Arrays], column: int) -> list[np.ndarray]:
    """Return, for each forget set, the mask of the samples removed in a column."""
    return [part["among"][ALL if column == AGAIN else column] for part in judged]


def membership_table(config: Config, artifacts: Mapping[str, Arrays]) -> Table:
    """Return the table of U-LiRA's AUC on single samples of the forget sets."""
    columns = []
    cases = [row for row in network_rows() if row[1] != AGAIN]
    rows: list[list[Any]] = [[label] for label, _, _ in cases]
    for kind, names in kinds_of(config).items():
        judged = [artifacts[f"judge-{name}"] for name in names]
        title = KINDS[kind].lower()
        columns += [f"{title}: left in (%)", f"{title}: removed (%)"]
        for row, (_, column, _) in zip(rows, cases, strict=True):
            row.append(ulira_auc(judged, column, removed=False))
            row.append(ulira_auc(judged, column, removed=True))
    return Table(
        "Members left out of the core-set: U-LiRA's AUC",
        ["removed", *columns],
        rows,
        "Networks of a row against networks retrained without F on other seeds, by the"
        " samples of F that were left in and by those removed: 50 is no trace"
        " (as all of F removed shows), 100 certainty. " + coresets.CAVEAT,
    )


def network_rows() -> list[tuple[str, int, int]]:
    """Return the label, column and complement's column of each row of a table."""
    return [
        ("nothing", NOTHING, ALL),
        ("kernel's core-set", FROM_KERNEL, FROM_KERNEL + 3),
        (WAYS[1], FROM_KERNEL + 1, FROM_KERNEL + 4),
        (WAYS[2], FROM_KERNEL + 2, FROM_KERNEL + 5),
        ("core-set, sized on networks", SIZED, SIZED + 3),
        (WAYS[1], SIZED + 1, SIZED + 4),
        (WAYS[2], SIZED + 2, SIZED + 5),
        ("all of F (oracle)", ALL, NOTHING),
        ("all of F, another seed (floor)", AGAIN, NOTHING),
    ]


def ulira_auc(
    judged: list[Arrays], column: int, *, removed: bool
) -> audit.Estimate | None:
    """Return U-LiRA's AUC in percent against the oracle of other seeds.

    Args:
      judged: arrays of each forget set.
      column: column of the networks.
      removed: True for the AUC on samples that were removed, False for the AUC on
        samples left in.

    Returns:
      The estimate over the forget sets that have such samples; None if no set has any.
    """
    areas = []
    for part, mask in zip(judged, removed_by(judged, column), strict=True):
        signals = part["signals"][:, :, mask == removed]
        if signals.size:
            areas.append(100 * audit.ulira(signals[:, column], signals[:, AGAIN]).auc)
    if not areas:
        return None
    values = np.stack(areas)
    influences = audit.pair_influences(values.T).T
    return audit.summarize(
        values.ravel(),
        None,
        np.indices(values.shape).reshape(2, -1).T,
        bounds=PERCENT,
        influences=influences.ravel(),
    )


def curve_figure(
    config: Config, artifacts: Mapping[str, Arrays]
) -> tuple[Drawing, str]:
    """Draw suppression by size for three orders, and describe it in words.

    Kernel models are in the top row, networks in the bottom row, with a column per kind
    of forget set.
    """
    figure = Drawing(figsize=(9.2, 6.4), layout="constrained")
    kinds = kinds_of(config)
    panels = figure.subplots(2, len(kinds), sharex=True, sharey=True, squeeze=False)
    spoken = []
    for column, (kind, names) in enumerate(kinds.items()):
        title = KINDS[kind]
        kernels = [artifacts[f"search-{name}"] for name in names]
        places = np.mean([part["curve_sizes"] for part in kernels], 0)
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
                estimate(column) for column in np.moveaxis(np.stack(curves), -1, 0)
            ]
            upper = panels[0, column]
            lower = panels[1, column]
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
            trained = [artifacts[f"curve-{name}"]["shares"][:, j] for name in names]
            points = [
                estimate(column) for column in np.moveaxis(np.stack(trained), -1, 0)
            ]
            means = np.array([p.mean for p in points])
            errors = [means - [p.low for p in points], [p.high for p in points] - means]
            lower.plot(
                [0, *config.curve, 1], [0, *means, 1], color=color, lw=1.2, ls="--"
            )
            # Shift the curves, so that bars of equal curves do not cover each other.
            shifted = np.array(config.curve) + 0.01 * (j - 1)
            lower.errorbar(
                shifted,
                means,
                errors,
                color=color,
                fmt="o",
                ms=4.5,
                capsize=2.5,
                lw=1.2,
            )
            middle = int(np.argmin(abs(np.array(config.curve) - 0.4)))
            spoken.append(
                f"{title}, {label}: {means[middle]:.2f} in networks at"
                f" {100 * config.curve[middle]:.0f}%"
            )
    for axes in panels[:, 0]:
        axes.set_ylabel("suppressed fraction", fontsize=10, color=INK)
    for axes in panels[1]:
        axes.set_xlabel("fraction of the forget set removed", fontsize=10, color=INK)
    legend(figure, panels[0, 0], size=9.5)
    return figure, "; ".join(spoken)


def attack_check(config: Config, artifacts: Mapping[str, Arrays]) -> Check:
    """Return the check that the attack finds nothing after all of F was removed."""
    judged = [artifacts[f"judge-{name}"] for name in set_names(config)]
    auc = ulira_auc(judged, ALL, removed=True)
    assert auc is not None
    detail = (
        f"AUC in percent {in_words(auc, '.0f')} without F against other seeds without F"
    )
    return Check(
        "U-LiRA finds no trace where all of F is removed",
        auc.low <= 50 <= auc.high,
        detail,
    )


def make_page(config: Config, artifacts: Mapping[str, Arrays]) -> Page:
    """Return the page: networks, members left in, kernel models and sizes."""
    figure, alt = curve_figure(config, artifacts)
    gap = float(artifacts["ridge"]["gap"])
    return Page(
        summary=summary(config, artifacts),
        blocks=[
            *(
                network_table(config, artifacts, kind, names)
                for kind, names in kinds_of(config).items()
            ),
            membership_table(config, artifacts),
            kernel_table(config, artifacts),
            size_table(config, artifacts),
            Figure(
                "Size against suppression",
                figure,
                alt,
                "0 is a model trained on everything, 1 the oracle of the same seed,"
                " the gray band what counts as suppressed; bands and bars are 95%"
                " intervals over forget sets and seeds. Random orders are means over"
                f" {config.random_orders} draws above, one draw below.",
            ),
            Check(
                "Removal from kernel models is exact",
                gap < 1e-10,
                f"outputs differ from refitting by {gap:.0e}",
            ),
            attack_check(config, artifacts),
        ],
    )


def summary(config: Config, artifacts: Mapping[str, Arrays]) -> str:
    """Return the findings in sentences."""
    sentences = []
    for kind, names in kinds_of(config).items():
        sizes = [artifacts[f"search-{name}"]["subsets"][0].mean() for name in names]
        curves = [artifacts[f"curve-{name}"]["shares"] for name in names]
        networks = np.mean([enough(config, curve) for curve in curves], 0)
        sentences.append(
            f"{KINDS[kind]}: the core-sets of kernel models hold"
            f" {100 * np.mean(sizes):.0f}% of the forget set; in networks"
            f" {100 * networks[0]:.0f}% of it is enough in the order of the search,"
            f" {100 * networks[1]:.0f}% by influence alone and"
            f" {100 * networks[2]:.0f}% at random."
        )
    sentences.append(coresets.CAVEAT)
    for kind, names in kinds_of(config).items():
        judged = [artifacts[f"judge-{name}"] for name in names]
        ours = ulira_auc(judged, FROM_KERNEL, removed=False)
        random = ulira_auc(judged, FROM_KERNEL + 2, removed=False)
        if ours is not None and random is not None:
            sentences.append(
                "Members left out of the core-set give U-LiRA an AUC of"
                f" {in_words(ours, '.0f')}% ({KINDS[kind].lower()}); as many left in"
                f" at random one of {in_words(random, '.0f')}%."
            )
    return " ".join(sentences)
