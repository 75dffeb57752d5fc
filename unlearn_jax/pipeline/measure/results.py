"""Results of a run: audit, analyses, costs and provenance."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import targets
from unlearn_jax.attacks import certified_distance, status_counts
from unlearn_jax.audit import Estimate, Interval
from unlearn_jax.data import Splits
from unlearn_jax.pipeline.config.resolve import ResolvedAttack, with_convolutions
from unlearn_jax.pipeline.config.schema import digest
from unlearn_jax.pipeline.measure import records, sections
from unlearn_jax.pipeline.measure.classes import MIN_MODELS
from unlearn_jax.pipeline.measure.metrics import as_retrained
from unlearn_jax.pipeline.measure.pool import (
    AuditPool,
    ReferenceSignals,
    make_pool,
)
from unlearn_jax.pipeline.measure.records import Check, RowResult, RunResult
from unlearn_jax.pipeline.measure.rows import (
    ORIGINAL,
    RETRAINED,
    RETRAINED_AGAIN,
    Measurements,
    measure_rows,
)
from unlearn_jax.pipeline.measure.targets import target_distances
from unlearn_jax.pipeline.stages.models import attack_rows, row_logits
from unlearn_jax.pipeline.stages.plan import Plan
from unlearn_jax.pipeline.store import clock
from unlearn_jax.pipeline.store import folders as store
from unlearn_jax.pipeline.store.artifact import Stored
from unlearn_jax.pipeline.store.clock import Cost
from unlearn_jax.theory import log10_lipschitz_bound
from unlearn_jax.train import steps_per_epoch
from unlearn_jax.types import AttackResult, Status, to_float

LABELS = {
    ORIGINAL: "Original (unchanged)",
    RETRAINED: "Retrained (oracle)",
    RETRAINED_AGAIN: "Retrained again (seed floor)",
}
METHODS = {ORIGINAL: "nothing", RETRAINED: "retrain", RETRAINED_AGAIN: "retrain"}
MAX_LEFT = 10.0
"""Excess of FT AUC over retraining's above which adversarial sets failed, in points."""
MAX_LOST = 5.0
"""Loss of test accuracy above which adversarial sets failed, in points."""
MAX_TIED = 0.5
"""Fraction of equal scores above which the attack cannot rank samples."""
_MAX_MEASURED = 1000
"""Number of adversarial examples whose distances are compared with those of images."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of the adversarial examples' distances."""


def measure_run(
    plan: Plan,
    unlearned: Mapping[str, Stored],
    adversarial: Mapping[str | None, Stored],
    stages: Sequence[Cost],
    *,
    tuning: records.Tuning | None = None,
    preset: str = "",
    workdir: str = "",
) -> tuple[RunResult, dict[str, np.ndarray]]:
    """Audit a run and assemble its results.

    Args:
      plan: plan of the run.
      unlearned: every row's unlearned models.
      adversarial: adversarial sets, by name of the attack.
      stages: costs of the stages so far; the audit's is added.
      tuning: search of the hyperparameters, if any.
      preset: name of the preset, for the report; empty for a run from Python.
      workdir: name of the working directory.

    Returns:
      The results, and the arrays of the figures. These are the arrays of
      :class:`~unlearn_jax.pipeline.measure.rows.Measurements`, the fractions
      ``vulnerability/ROW [1, N_train]``, and the outcomes ``epsilon``, ``distance``,
      ``status`` and ``num_gradients``, ``[1, total]`` each, of the run's own attack on
      all samples.
    """
    with clock.stopwatch("audit") as watch:
        pool = plan_pool(plan)
        measured = audit_rows(plan, pool, unlearned)
        analyses = sections.analyze_rows(pool, measured.arrays, plan.splits.class_names)
        model_analyses = _analyze_models(plan, unlearned, adversarial)
    arrays = {**measured.arrays, **analyses.arrays}
    if "" in adversarial:
        outcomes = _outcomes(adversarial[""])
        arrays |= {name: outcome[None] for name, outcome in outcomes.items()}
    stages = (*stages, watch.cost)
    costs = row_costs(plan, stages, unlearned, adversarial)
    rows = tuple(_about(plan, row, costs.get(row.key)) for row in measured.rows)
    is_exchangeable = plan.forgetting.kind == "random"
    origin = store.provenance()
    device = origin.device
    if isinstance(plan.model_id, list):
        device = with_convolutions(device, plan.model_id[0])
    result = RunResult(
        title=plan.title,
        preset=preset,
        command=origin.command or "unlearn_jax.pipeline.run(...)",
        date=origin.date,
        workdir=workdir,
        versions=origin.versions,
        device=device,
        config=plan.settings,
        config_digest=digest(plan.settings),
        data=_summarize_data(plan.splits),
        design=_summarize_design(plan),
        banks={
            bank.name: bank.artifact.key
            for bank in (plan.originals, plan.oracles, plan.references)
        },
        level=plan.audit.level,
        num_bootstrap=plan.audit.num_bootstrap,
        metrics=tuple(
            as_retrained(metric)
            if plan.is_hard and metric.key in ("ft_auc", "ft_auc_soft")
            else metric
            for metric in measured.metrics
        ),
        rows=rows,
        runs=tuple(
            records.RunName(
                original=plan.seeds[o],
                forget_set=plan.forget_names[s],
                repeat=int(repeat),
            )
            for o, s, repeat in plan.runs
        ),
        stages=stages,
        checks=tuple(
            make_checks(pool, rows, measured.arrays, is_exchangeable=is_exchangeable)
        ),
        notes=tuple(make_notes(plan, tuning)),
        faults=tuple(pool.faults.values()),
        attacks={
            name: summarize_attack(plan, chosen, adversarial[name])
            for name, chosen in plan.attacks.items()
        },
        tuning=tuning,
        vulnerability=analyses.vulnerability,
        confusion=analyses.confusion,
        klom=analyses.klom,
        targets=model_analyses.targets,
        requests=model_analyses.requests,
        norms=model_analyses.norms,
        theory=model_analyses.theory,
    )
    return result, arrays


class _ModelAnalyses(NamedTuple):
    """Analyses that need the models of a run; None where they are not requested."""

    requests: records.Requests | None
    targets: records.Targets | None
    norms: records.Norms | None
    theory: records.Theory | None


def _analyze_models(
    plan: Plan,
    unlearned: Mapping[str, Stored],
    adversarial: Mapping[str | None, Stored],
) -> _ModelAnalyses:
    """Return the analyses of the models that the run's options request."""
    requests = None
    if plan.num_requests > 1:
        samples = plan_pool(plan, by_class=False)
        requests = sections.request_scores(plan, samples, unlearned)
    distances = target_distances(plan) if plan.audit.targets else None
    norms = sections.norms(plan, unlearned) if plan.audit.norms else None
    theory = None
    if plan.audit.theory:
        theory = sections.theory(plan, unlearned, adversarial)
    return _ModelAnalyses(requests, distances, norms, theory)


def _summarize_data(splits: Splits) -> records.DataSummary:
    """Return the sizes and the digest of a run's data."""
    train = splits.train
    return records.DataSummary(
        name=splits.name,
        num_train=len(train.labels),
        num_test=len(splits.test.labels),
        num_classes=splits.num_classes,
        image_shape=tuple(train.images.shape[1:]),
        digest=splits.digest,
        class_names=splits.class_names,
    )


def _summarize_design(plan: Plan) -> records.Design:
    """Return the numbers of a run's models and forget sets."""
    return records.Design(
        forget_kind=plan.forgetting.kind,
        originals=len(plan.seeds),
        forget_sets=len(plan.forget),
        repeats=plan.repeats,
        runs=len(plan.runs),
        num_forget=int(plan.forget.sum(1).max()),
        references=plan.num_references,
    )


def plan_pool(plan: Plan, *, by_class: bool = True) -> AuditPool:
    """Return the pool of a run whose banks are trained.

    Args:
      plan: plan of the run.
      by_class: whether to measure forgotten classes as such; False measures their
        samples one by one.
    """
    mapper = None
    # on CPUs NumPy sorts faster than XLA
    if targets.platform() != "cpu":
        mapper = plan.mapper(len(plan.runs), is_audit=True)
    return make_pool(
        plan.audit,
        plan.pool.labels,
        plan.forget[plan.runs[:, 1]],
        plan.runs,
        _references(plan),
        plan.references.member,
        oracles=oracle_logits(plan) if by_class and plan.is_class else None,
        mapper=mapper,
    )


def _references(plan: Plan) -> ReferenceSignals | None:
    """Return the reference signals that the audit needs; None without references."""
    if not plan.num_references:
        return None
    signal = plan.references.signals(plan.audit.signal)
    margin = plan.references.signals("logit_margin") if plan.audit.lira else None
    soft = plan.references.signals("soft_margin") if plan.has_soft_margin else None
    return ReferenceSignals(signal, margin, soft)


def oracle_logits(plan: Plan) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return logits over the pool of each run's first and second retrained model."""
    oracles = plan.oracles.logits()
    first = [oracles[pair] for pair in plan.pair_of_run]
    second = [oracles[len(plan.pairs) + pair] for pair in plan.pair_of_run]
    return first, second


def audit_rows(
    plan: Plan, pool: AuditPool, unlearned: Mapping[str, Stored]
) -> Measurements:
    """Measure the original, the retrained and all unlearned models of a run."""
    originals = plan.originals.logits()
    retrained, again = oracle_logits(plan)
    logits = {
        ORIGINAL: [originals[o] for o in plan.runs[:, 0]],
        RETRAINED: retrained,
        RETRAINED_AGAIN: again,
    }
    for name, parts in unlearned.items():
        logits[name] = row_logits(plan, name, parts)
    baselines = {name: plan.rows[name].baseline for name in unlearned}
    return measure_rows(pool, logits, baselines)


def _about(plan: Plan, row: RowResult, cost: records.RowCost | None) -> RowResult:
    """Return a measured row with its label, its method and its cost."""
    if row.key in LABELS:
        return dataclasses.replace(
            row, label=LABELS[row.key], method=METHODS[row.key], cost=cost
        )
    chosen = plan.rows[row.key]
    others = ("attack", "adaptive", "filter")
    options = {key: one for key, one in chosen.settings.items() if key not in others}
    return dataclasses.replace(
        row,
        label=chosen.label,
        method=chosen.name,
        options=options,
        attack=chosen.attack,
        adaptive=chosen.adaptive,
        filter=chosen.filter_name,
        baseline=chosen.baseline,
        cost=cost,
    )


def _outcomes(parts: Stored) -> dict[str, np.ndarray]:
    """Return an attack's outcomes for all samples, ``[total]``, without the images."""
    outcomes = {}
    for name in ("epsilon", "distance", "status", "num_gradients"):
        rows = attack_rows(parts, name)
        outcomes[name] = np.concatenate([np.ravel(part) for part in rows])
    return outcomes


def summarize_attack(
    plan: Plan, chosen: ResolvedAttack, parts: Stored
) -> records.AttackSummary:
    """Summarize the outcomes of the adversarial search of one attack."""
    outcomes = _outcomes(parts)
    empty = np.zeros(0)
    result = AttackResult(empty, empty, **outcomes)  # pyright: ignore[reportArgumentType]
    is_success = outcomes["status"] <= Status.ALREADY_WRONG
    radii, counts = np.unique(outcomes["epsilon"][is_success], return_counts=True)
    distances = outcomes["distance"][is_success]
    quantiles = {}
    if is_success.any():
        quantiles = {str(q): float(np.quantile(distances, q)) for q in QUANTILES}
    settings = plan.settings["attack"]
    over_norm, over_neighbor = _relative_distances(plan, parts, is_success)
    return records.AttackSummary(
        norm=chosen.attack.norm,
        settings={
            option: value
            for option, value in chosen.settings.items()
            if value != settings.get(option)
        },
        status=status_counts(result),
        radii=tuple(float(f"{radius:.6g}") for radius in radii),
        counts=tuple(int(count) for count in counts),
        distance_quantiles=quantiles,
        gradients=float(np.mean(outcomes["num_gradients"])),
        lower_bound=_lower_bound(plan, chosen, is_success),
        over_norm=over_norm,
        over_neighbor=over_neighbor,
    )


def _relative_distances(
    plan: Plan, parts: Stored, is_success: np.ndarray
) -> tuple[float | None, float | None]:
    """Return median L2 distances relative to images' norms and to nearest neighbors.

    At most 1,000 successful samples are used, evenly spaced in their order.
    """
    chosen = np.flatnonzero(is_success)
    if not chosen.size:
        return None, None
    chosen = chosen[:: -(-chosen.size // _MAX_MEASURED)]
    index = []
    images = []
    start = 0
    for (_, s), examples in zip(plan.pairs, attack_rows(parts, "images"), strict=True):
        places = chosen[(chosen >= start) & (chosen < start + len(examples))] - start
        index.append(np.flatnonzero(plan.forget[s])[places])
        images.append(np.asarray(examples[places], np.float64).reshape(len(places), -1))
        start += len(examples)
    index = np.concatenate(index)
    examples = np.concatenate(images)
    train = plan.splits.train.images

    def flat(samples: slice | np.ndarray) -> np.ndarray:
        images = np.asarray(to_float(jnp.asarray(train[samples])), np.float64)
        return images.reshape(len(images), -1)

    clean = flat(index)
    distance = np.linalg.norm(examples - clean, axis=1)
    norms = np.linalg.norm(clean, axis=1)
    nearest = np.full(len(clean), np.inf)
    for start in range(0, len(train), 2048):
        others = flat(slice(start, start + 2048))
        squares = (norms**2)[:, None] + (others**2).sum(1) - 2 * clean @ others.T
        is_own = index[:, None] == np.arange(start, start + len(others))
        squares[is_own] = np.inf
        nearest = np.minimum(nearest, np.maximum(squares, 0).min(1))
    rows = []
    for scale in (norms, np.sqrt(nearest)):
        # An image with a copy has no distance to its neighbor, a black image no norm.
        is_known = (scale > 1e-6) & np.isfinite(scale)
        ratio = distance[is_known] / scale[is_known]
        rows.append(float(np.median(ratio)) if ratio.size else None)
    return rows[0], rows[1]


def _lower_bound(
    plan: Plan, chosen: ResolvedAttack, is_success: np.ndarray
) -> float | None:
    """Return the median certified distance of the successful samples, if known.

    The product of bounds on the layers' norms is a Lipschitz bound only for chains of
    affine maps, ReLU and pooling.
    """
    # A user's own network has a digest in place of its configuration.
    model = plan.model_id[0] if isinstance(plan.model_id, list) else {}
    is_chain = model.get("name") in ("mlp", "cnn") and not model["batch_norm"]
    is_own = chosen.source == "own" and chosen.attack.norm == "l2"
    if not is_chain or not is_own or not is_success.any():
        return None
    params = plan.originals.variables().params
    bounds = jax.jit(jax.vmap(log10_lipschitz_bound))(params)
    logits = plan.originals.logits()
    labels = np.asarray(plan.splits.train.labels)
    certified = []
    for o, s in plan.pairs:
        index = np.flatnonzero(plan.forget[s])
        certified.append(
            certified_distance(
                jnp.asarray(logits[o][index]),
                jnp.asarray(labels[index]),
                log10_lipschitz=bounds[o],
            )
        )
    return float(np.median(np.concatenate(certified)[is_success]))


def row_costs(
    plan: Plan,
    stages: Sequence[Cost],
    unlearned: Mapping[str, Stored],
    adversarial: Mapping[str | None, Stored],
) -> dict[str, records.RowCost]:
    """Return the cost of one model of each row, absolute and relative to retraining."""
    seconds_of = {
        stage.name.split(" (")[0]: stage.seconds - stage.compile_seconds
        for stage in stages
    }
    retraining = seconds_of.get("retrained", 0.0) / (2 * len(plan.pairs))
    recipe = plan.oracles.recipe
    num_retained = int(plan.oracles.member.sum(1).max())
    num_steps = recipe.num_epochs * steps_per_epoch(num_retained, recipe.batch_size)
    all_gradients = num_steps * recipe.batch_size
    retrain = records.RowCost(
        gradients=all_gradients,
        relative_gradients=1.0,
        seconds=round(retraining, 4),
    )
    costs = {RETRAINED: retrain, RETRAINED_AGAIN: retrain}
    for name, row in plan.rows.items():
        seconds = seconds_of.get(f"unlearn: {name}", 0.0) / len(plan.runs)
        counts = [np.sum(count) for count in unlearned[name].each("num_gradients")]
        gradients = float(np.mean([int(count) for count in counts]))
        if row.attack is not None:
            spent = attack_rows(adversarial[row.attack], "num_gradients")
            gradients += float(np.mean([int(np.sum(one)) for one in spent]))
            stage = "adversarial sets" + (f": {row.attack}" if row.attack else "")
            seconds += seconds_of.get(stage, 0.0) / len(plan.pairs)
        costs[name] = records.RowCost(
            gradients=gradients,
            relative_gradients=round(gradients / all_gradients, 4),
            seconds=round(seconds, 4),
        )
    return costs


def make_notes(plan: Plan, tuning: records.Tuning | None) -> list[str]:
    """Return the caveats about a run's numbers."""
    options = plan.audit
    if plan.is_class:
        notes = [
            "Every row is compared with the retrained models of its own runs, the"
            " retrained row with the second ones."
        ]
        if options.ulira and len(plan.seeds) >= MIN_MODELS:
            notes.append(
                "U-LiRA's shadow models are the run's own: every original unlearned by"
                " the method under test, and every retrained model; a pair is held out"
                " at a time."
            )
        elif options.ulira:
            notes.append(
                f"U-LiRA is left out: it needs {MIN_MODELS} originals or more."
            )
        names = "MIA (Kodge) and MIA (SalUn)"
        if options.mia_nn:
            names = "MIA (Kodge), MIA (SalUn) and MIA-NN"
    else:
        notes = [
            "FT TPR and RT TPR are at a false positive rate of at most"
            f" {100 * options.max_fpr:g}%."
        ]
        names = "MIS" if options.mis else ""
    svc = (
        f"{names}: a machine is fitted to every model; without refits in the bootstrap"
        " (audit.refits, 200 are enough) no interval is printed."
    )
    if options.refits > 1:
        svc = (
            f"{names}: the machines are fitted again in each of {options.refits}"
            " replicates. On simulated tables of one run the 95% intervals of MIS and"
            " MIA-NN cover 97 to 100%, those of MIA (Kodge) 86%."
        )
    notes += [
        "Intervals are for other samples, originals and forget sets than these, where"
        " the run has several; with few originals they are wide on purpose.",
        *([svc] if names else []),
        "Cost is the counted number of gradients of single samples per model, over a"
        " retraining's; it does not depend on the machine. Those that the"
        " adversarial set spent are part of it; the search is not.",
    ]
    if any("D_R" in row.label for row in plan.rows.values()):
        notes.append("D_R is the retained part of the training set.")
    if plan.repeats > 1:
        notes.append(
            "Repeats share their original and retrained models, which count once per"
            " repeat in those rows."
        )
    if plan.is_hard:
        notes.append(
            "The references that chose the hard samples also audit them, so FT AUC of"
            " retrained models is not 50: compare every row with the retrained one."
        )
    if tuning is not None and plan.is_class:
        notes.append(
            "Hyperparameters were chosen on other originals and other forgotten"
            " classes. Test samples of the classes that both retain are shared, and"
            " intervals take the choice as given."
        )
    elif tuning is not None:
        notes.append(
            "Hyperparameters were chosen on other originals and other forget sets;"
            f" {100 * tuning.shared:.0f}% of the samples of those sets are also in a"
            " reported one. Test samples and references are shared, and intervals take"
            " the choice as given."
        )
    return notes


def make_checks(
    pool: AuditPool,
    rows: Sequence[RowResult],
    arrays: Mapping[str, np.ndarray],
    *,
    is_exchangeable: bool,
) -> list[Check]:
    """Test whether the numbers can be trusted, on models with known answers.

    Args:
      pool: pool of the table.
      rows: rows of the table; checks of original and retrained models need their rows.
      arrays: arrays of the rows (see :class:`Measurements`).
      is_exchangeable: whether the forget set and the test samples have the same
        distribution, so that no attack separates them on retrained models. For whole
        classes and hard samples this is False: their goal is the retrained models'
        value instead of 50.
    """
    metrics = {row.key: row.metrics for row in rows}
    original = metrics.get(ORIGINAL, {})
    retrained = metrics.get(RETRAINED, {})
    again = metrics.get(RETRAINED_AGAIN, {})
    level = pool.config.level
    checks = []
    if pool.classes is not None:
        checks += _coin_and_power(
            level,
            again.get("ulira"),
            original.get("ulira"),
            "U-LiRA is fair: it cannot separate two retrained models",
            "U-LiRA has power: it separates original from retrained models",
            "U-LiRA of {}",
        )
        for name in pool.config.mia_nn_columns():
            if name in again and name in retrained:
                checks.append(_mia_nn_check(pool, rows, name))
    elif is_exchangeable:
        checks += _coin_and_power(
            level,
            retrained.get("ft_auc"),
            original.get("ft_auc"),
            "the attack is fair: it cannot separate forget from test samples on models"
            " trained on neither",
            "the attack has power: it separates them on the original models",
            "FT AUC of {}",
        )
    else:
        by_key = {row.key: row.differences.get("ft_auc", {}) for row in rows}
        more = by_key.get(ORIGINAL, {}).get("oracle")
        name = (
            "the attack has power: it finds more on the original models than on"
            " retrained ones"
        )
        if more:
            shown = Interval(more.low, more.high)
            detail = (
                f"FT AUC of originals less retrained: {more.mean:.1f} {shown:.1f}"
                f" ({100 * level:g}%); the interval should lie above 0"
            )
            checks.append(Check(name=name, passed=more.low > 0, detail=detail))
        elif "ft_auc" in original and "ft_auc" in retrained:
            detail = "FT AUC of originals and retrained models do not differ"
            checks.append(Check(name=name, passed=False, detail=detail))
    if pool.classes is None:
        checks += _signature_checks(rows)
        if f"scores/{ORIGINAL}" in arrays:
            checks.append(_tie_check(pool, arrays[f"scores/{ORIGINAL}"]))
    return checks


def _tie_check(pool: AuditPool, scores: np.ndarray) -> Check:
    """Check that the attack can rank samples at all.

    RMIA's score is the fraction of samples that a sample's ratio exceeds by a factor
    gamma. Where predictions are so uncertain that no ratio differs from another by as
    much, all scores are 0 and every AUC is 50%, whatever the models have memorized.

    Args:
      pool: pool of the table.
      scores: ``[R, N]`` scores of the original models.
    """
    counts = [np.unique(row, return_counts=True)[1].max() for row in scores]
    fraction = float(np.mean(counts)) / scores.shape[1]
    advice = f"; audit.gamma is {pool.config.gamma:g}: try a smaller one, such as 1"
    return Check(
        name="the attack's scores tell samples apart",
        passed=fraction <= MAX_TIED,
        detail=f"{100 * fraction:.0f}% of the scores of the originals are equal"
        f"{advice if fraction > MAX_TIED else ''}",
    )


def _signature_checks(rows: Sequence[RowResult]) -> list[Check]:
    """Check rows with adversarial sets for the signatures of failed forgetting.

    In the papers the signature is an FT AUC above 60, where retrained models have 50.
    Controls that train on other data in place of the set are left out.
    """
    by_key = {row.key: row.metrics for row in rows}
    original = by_key.get(ORIGINAL, {}).get("test_accuracy")
    oracle = by_key.get(RETRAINED, {}).get("ft_auc")
    left = {}
    lost = {}
    for row in rows:
        is_control = row.options.get("replace", "none") != "none"
        if row.attack is None or is_control or not row.metrics:
            continue
        if oracle:
            left[row.label] = row.metrics["ft_auc"].mean - oracle.mean
        if original:
            lost[row.label] = original.mean - row.metrics["test_accuracy"].mean
    checks = []
    for values, largest, name, words in (
        (
            left,
            MAX_LEFT,
            f"adversarial sets make forget: FT AUC at most {MAX_LEFT:g} points above"
            " retraining's",
            "points of FT AUC above retraining's",
        ),
        (
            lost,
            MAX_LOST,
            f"adversarial sets cost at most {MAX_LOST:g} points of test accuracy",
            "points of test accuracy lost",
        ),
    ):
        if values:
            worst = max(values, key=lambda label: values[label])
            failed = [label for label, one in values.items() if one > largest]
            detail = f"largest: {worst}, {values[worst]:.1f} {words}"
            if failed:
                detail += f"; above: {', '.join(failed)}"
            checks.append(Check(name=name, passed=not failed, detail=detail))
    return checks


def _coin_and_power(
    level: float,
    retrained: Estimate | None,
    original: Estimate | None,
    fair: str,
    power: str,
    subject: str,
) -> list[Check]:
    """Check an attack: 50 on retrained models, above 50 on original models."""
    checks = []
    if retrained:
        shown = f"{subject.format('retrained models')}: {_in_words(level, retrained)}"
        is_coin = retrained.low <= 50 <= retrained.high
        detail = f"{shown}; the interval should hold 50"
        checks.append(Check(name=fair, passed=is_coin, detail=detail))
    if original:
        shown = f"{subject.format('originals')}: {_in_words(level, original)}"
        detail = f"{shown}; the interval should lie above 50"
        checks.append(Check(name=power, passed=original.low > 50, detail=detail))
    return checks


def _mia_nn_check(pool: AuditPool, rows: Sequence[RowResult], key: str) -> Check:
    """Check that two retrained models score the same.

    The tolerance is the standard deviation of the values about the mean of their own
    forget set, pooled over sets and both rows.
    """
    title = next(one.label for one in pool.table.metrics if one.key == key)
    by_key = {row.key: row for row in rows}
    first = by_key[RETRAINED]
    second = by_key[RETRAINED_AGAIN]
    values = np.array([first.values[key], second.values[key]])
    assert pool.classes is not None
    squares = []
    for one in pool.classes.sets:
        group = values[:, list(one.runs)]
        squares.append(np.sum((group - group.mean()) ** 2))
    spread = np.sqrt(np.sum(squares) / max(values.size - len(squares), 1))
    means = (first.metrics[key].mean, second.metrics[key].mean)
    shown = [_in_words(pool.config.level, row.metrics[key]) for row in (first, second)]
    return Check(
        name=f"{title} is fair: two retrained models score the same, within their"
        " spread",
        passed=bool(abs(means[0] - means[1]) <= spread and means[0] > 0),
        detail=f"{shown[0]} and {shown[1]}; a score of 0 would say nothing",
    )


def _in_words(level: float, estimate: Estimate) -> str:
    if not np.isfinite(estimate.low):
        return f"{estimate.mean:.1f}, without an interval"
    return (
        f"{estimate.mean:.1f} [{estimate.low:.1f}, {estimate.high:.1f}]"
        f" ({100 * level:g}%)"
    )
