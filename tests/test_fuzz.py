"""Any input at all: audit functions give finite values in their range, or the
documented one-line error.

``FUZZ_EXAMPLES=5000 python tests/test_fuzz.py`` runs a long campaign and prints, for
every function, how many cases were answered and how many refused; arguments go to
pytest (``-k "rmia or lira"``).
"""

import sys

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import oracles
from support.fuzzing import (
    LEVELS,
    anything,
    call,
    campaign,
    check,
    fractions,
    fuzz,
    mask,
    mostly,
    real,
    sizes,
    with_fields,
)

from unlearn_jax import audit

SIGNALS = (
    audit.taylor_softmax,
    audit.softmax_confidence,
    audit.soft_margin,
    audit.taylor,
    audit.logit_margin,
    audit.correctness,
    audit.loss_signal,
    audit.entropy,
    audit.modified_entropy,
)


@st.composite
def references(draw, augmented=False):
    """``target [N]``, ``reference [M, N]`` and ``member [M, N]``, often a usable
    design.
    """
    usable = draw(st.booleans())
    models = draw(st.sampled_from([4, 6] if usable else [2, 5, 4, 1, 0]))
    samples, hard = (
        draw(st.integers(2, 7) if usable else sizes),
        not usable and draw(st.booleans()),
    )
    own = (
        (samples, draw(st.integers(0, 2)))
        if augmented and draw(st.booleans())
        else (samples,)
    )
    lead = (draw(st.integers(0, 2)),) if augmented and draw(st.booleans()) else ()
    target, reference = (
        draw(real((*lead, *own), hard)),
        draw(real((models, *own), hard)),
    )
    if models and (usable or draw(st.booleans())):
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        member = np.argsort(rng.random((models, samples)), 0) < models // 2
    else:
        member = draw(mask((models, samples)))
    if draw(st.booleans()):
        target, reference = np.abs(target), np.abs(reference)
    return target, reference, member


@st.composite
def two_sides(draw):
    """Two sets of models on the same samples."""
    usable = draw(st.booleans())
    samples, models = (
        (draw(st.integers(1, 7)), draw(st.integers(3, 5)))
        if usable
        else (draw(sizes), draw(st.integers(0, 5)))
    )
    hard, others = (
        not usable and draw(st.booleans()),
        (models if usable else draw(st.integers(0, 5))),
    )
    return draw(real((models, samples), hard)), draw(real((others, samples), hard))


@st.composite
def labeled(draw):
    """``logits [N, C]`` of few shapes, since each is compiled, and labels, some of them
    out of range.
    """
    samples, classes = (
        draw(st.sampled_from([0, 1, 4])),
        draw(st.sampled_from([0, 1, 2, 5])),
    )
    odd = st.sampled_from([2**31, 2**32, 2**32 + 1, -(2**31), 2**62])
    labels = draw(
        arrays(np.int64, samples, elements=st.integers(-1, max(classes, 1)) | odd)
    )
    if draw(st.booleans()):
        labels = labels % max(classes, 1)
    return draw(real((samples, classes), draw(st.booleans()))), labels


@st.composite
def class_logits(draw):
    """``[R, N, C]`` of retrained and ``[S, N, C]`` of unlearned models, labels, a
    class, another one.
    """
    usable = draw(st.booleans())
    classes, repeats = (
        draw(st.integers(3, 4) if usable else st.integers(1, 4)),
        draw(st.integers(2 * usable, 3)),
    )
    samples, models = classes * repeats, st.integers(2 * usable, 3)
    labels = np.repeat(np.arange(classes), repeats)
    if samples and not usable:
        labels = draw(arrays(np.int64, samples, elements=st.integers(-1, classes)))
    sides = [draw(real((draw(models), samples, classes), not usable)) for _ in range(2)]
    if usable:
        return *sides, labels, draw(st.integers(0, classes - 1)), []
    return (
        *sides,
        labels,
        draw(st.integers(-1, classes)),
        draw(st.lists(st.integers(0, classes), max_size=1)),
    )


def scored():
    """``scores [N]`` and a mask, half of them usable."""
    usable = st.integers(2, 7).flatmap(lambda n: st.tuples(real(n, False), mask(n)))
    return usable | sizes.flatmap(lambda n: st.tuples(real(n), mask(n)))


@st.composite
def with_masks(draw):
    """``scores [R, N]``, ``forget [R, N]``, ``test [N]``."""
    usable = draw(st.booleans())
    runs, samples = (
        (draw(st.integers(1, 4)), draw(st.integers(2, 7)))
        if usable
        else (draw(st.integers(0, 4)), draw(sizes))
    )
    scores, forget, test = (
        draw(real((runs, samples), not usable)),
        draw(mask((runs, samples))),
        draw(mask(samples)),
    )
    if usable:
        test[0], forget = True, forget & ~test
    return scores, forget, test


@st.composite
def weighted(draw):
    """``values [N]``, two masks that may overlap, ``weights [B, N]``."""
    usable = draw(st.booleans())
    samples, rows = (
        (draw(st.integers(2, 7)), draw(st.integers(1, 3)))
        if usable
        else (draw(sizes), draw(st.integers(0, 3)))
    )
    counts = arrays(
        np.int32, (rows, samples), elements=st.integers(0, 2), fill=st.nothing()
    )
    first = draw(mask(samples))
    if usable:
        return draw(real(samples, False)), first, ~first, draw(counts)
    return (
        draw(real(samples)),
        first,
        draw(mask(samples)),
        draw(counts | real((2, samples))),
    )


@fuzz()
@given(
    references(),
    st.sampled_from(["online", "offline"]),
    mostly([2.0, 1.0, 0.5], [0.0, np.nan]),
    mostly([0.0, 0.0, 0.2, 0.49], [0.5]),
)
def test_rmia(given_, mode, gamma, trim):
    scores = call(audit.rmia, *given_, mode=mode, gamma=gamma, trim=trim)
    ratio = call(audit.rmia_ratio, *given_, mode=mode, trim=trim)
    if scores is not None:
        assert scores.shape == given_[0].shape
        check(scores, 0, 1)
        np.testing.assert_array_equal(scores, oracles.rmia_pairwise(ratio, gamma=gamma))
    average = call(audit.reference_average, *given_[1:], mode=mode, trim=trim)
    if ratio is not None:
        assert not np.isnan(ratio).any()
        again = call(audit.ratio_to_average, given_[0], average)
        np.testing.assert_array_equal(again, ratio)


@fuzz()
@given(real(4), st.integers(3, 4).flatmap(real))
def test_ratio_to_an_average(target, average):
    ratio = call(audit.ratio_to_average, target, average)
    if ratio is not None:
        assert ratio.shape == target.shape
        assert not np.isnan(ratio).any()


@fuzz()
@given(
    references(),
    st.integers(0, 4).flatmap(lambda z: st.tuples(real(z), real((4, z)))),
    st.booleans(),
)
def test_rmia_with_a_population(given_, others, fits):
    target, reference, member = given_
    population, their = others
    their = (
        np.resize(their, (len(reference), len(population)))
        if fits and their.size
        else their
    )
    scores = call(
        audit.rmia,
        target,
        reference,
        member,
        population=population,
        reference_population=their,
        check_design=False,
    )
    if scores is not None:
        check(scores, 0, 1)


@fuzz()
@given(
    real(5) | real((2, 3)),
    st.none() | real(3) | real((2, 2)),
    mostly([0.5, 2.0], [0.0, np.inf]),
)
def test_dominated_fraction(ratio, others, gamma):
    found = call(audit.dominated_fraction, ratio, others, gamma=gamma)
    if found is not None:
        assert found.shape == ratio.shape
        check(found, 0, 1)


@fuzz()
@given(
    references(augmented=True),
    st.sampled_from(["online", "offline"]),
    st.sampled_from(["per_sample", "fixed", "fixed_global", "fixed_separate"]),
    st.sampled_from(["median", "mean"]),
    st.sampled_from(["density", "cdf"]),
)
def test_lira(given_, mode, variance, center, offline_score):
    options = {
        "mode": mode,
        "variance": variance,
        "center": center,
        "offline_score": offline_score,
    }
    scores = call(audit.lira, *given_, **options)
    if scores is not None:
        assert scores.shape[-1] == given_[2].shape[1]
        check(scores)
    scores = call(audit.lira_leave_one_out, given_[1], given_[2], **options)
    if scores is not None:
        assert scores.shape == given_[2].shape
        check(scores)


@fuzz()
@given(two_sides(), mostly([1e-3, 1.0], [0.0, np.inf]))
def test_ulira(sides, min_std):
    result = call(audit.ulira, *sides, min_std=min_std)
    if result is not None:
        check([result.auc, result.accuracy], 0, 1)
        check(result.target)
    result = call(audit.ulira_kodge, *sides)
    if result is not None:
        check(list(result)[:3], 0, 1)
        assert not np.isnan(result.threshold)


@fuzz()
@given(two_sides(), mostly([1, 20], [0]), mostly([100.0, 1e-3], [np.inf]))
def test_klom(sides, num_bins, max_margin):
    values = call(audit.klom, *sides, num_bins=num_bins, max_margin=max_margin)
    if values is not None:
        assert values.shape == (sides[0].shape[1],)
        check(values, -num_bins * 1e-5, -np.log(1e-5))


@fuzz()
@given(scored(), st.booleans(), LEVELS, mostly([(0.0, 11.52)], [(1.0, 0.0)]))
def test_klom_summary(given_, all_of_them, level, bounds):
    values, kept = given_
    summary = call(
        audit.klom_summary,
        values,
        None if all_of_them else kept,
        level=level,
        bounds=bounds,
    )
    if summary is not None:
        values = values if all_of_them else values[kept]
        check([summary.mean, summary.median, summary.p95], values.min(), values.max())
        assert summary.mean_interval.low <= summary.mean <= summary.mean_interval.high


@fuzz()
@given(st.floats(0, 1), mostly([1, 2, 90], [0, -3]), LEVELS)
def test_agreeing_interval(value, num_samples, level):
    found = call(audit.agreeing_interval, value, num_samples, (0, 1), level=level)
    if found is not None:
        check([found.low, value, found.high], -1e-12, 1 + 1e-12)
        assert found.low <= value <= found.high


@fuzz()
@given(sizes.flatmap(lambda n: st.tuples(real((n,)), real((n,)))), LEVELS)
def test_rank_correlation(pairs, level):
    found = call(audit.rank_correlation, *pairs, level=level)
    if found is not None and not np.isnan(found.mean):
        check(found.mean, -1 - 1e-9, 1 + 1e-9)
        assert np.isnan(found.low) or -1 <= found.low <= found.high <= 1


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda function: function.__name__)
@fuzz(0.5)
@given(labeled(), st.booleans())
def test_signals(signal, given_, wide):
    logits, labels = given_
    logits = logits if wide else logits.astype(np.float32)
    scores = call(signal, logits, labels)
    if scores is not None:
        scores = np.asarray(scores)
        assert scores.shape == labels.shape
        name = signal.__name__
        if name in audit.SIGNALS:
            both = call(audit.model_signals, name, iter([logits, logits]), labels)
            np.testing.assert_array_equal(both, [scores, scores])
        out = (labels < 0) | (labels >= logits.shape[-1])
        assert np.isnan(scores[out]).all(), (
            "a label out of range is NaN, which the attacks refuse"
        )
        usable = (np.abs(logits) < 1e3).all(-1) & ~out
        check(scores[usable])


@fuzz()
@given(labeled(), st.booleans())
def test_accuracy_and_predictions(given_, masked):
    logits, labels = given_
    found = call(
        audit.accuracy, logits, labels, np.arange(len(labels)) > 1 if masked else None
    )
    if found is not None:
        check(found, 0, 1)
        rows = range(2 if masked else 0, len(labels))
        assert found == pytest.approx(
            np.mean(
                [logits[i].tolist().index(max(logits[i])) == labels[i] for i in rows]
            )
        )
    rates = call(audit.confusion_rows, logits, labels)
    if rates is not None:
        check(rates, 0, 1)
    chances = call(audit.softmax, logits)
    if chances is not None:
        check(chances, 0, 1)
        np.testing.assert_allclose(chances.sum(-1), 1, rtol=1e-6)
        check(call(audit.total_variation, chances, chances[::-1]), 0, 1)
        check(call(audit.kl_divergence, chances, chances[::-1]), -1e-6)


@fuzz()
@given(
    fractions((2, 3)),
    fractions((2, 3)) | fractions(3),
    st.booleans(),
    st.sampled_from([1e-12, 0.5, 0.0, 1.0, np.nan]),
)
def test_distances(p, q, normal, floor):
    with np.errstate(all="ignore"):
        p, q = (x / x.sum(-1, keepdims=True) if normal else x for x in (p, q))
    for found, high in (
        (call(audit.total_variation, p, q), 1),
        (
            call(audit.kl_divergence, p, q, floor=floor),
            -np.log(floor) if 0 < floor < 1 else 0,
        ),
    ):
        if found is not None:
            assert found.shape == (2,)
            check(found, 0, high)


@fuzz()
@given(
    scored(), LEVELS, mostly([0.0, 0.01, 1.0], [-1.0, np.nan]), mostly([0, 1, 2], [-1])
)
def test_roc(given_, level, rate, seed):
    curve = call(audit.roc, *given_)
    area = call(audit.auc, *given_)
    assert (curve is None) == (area is None)
    if curve is not None:
        check(area, 0, 1)
        assert curve.auc == area == pytest.approx(oracles.mann_whitney(*given_))
        found = call(curve.tpr_at_fpr, rate)
        if found is not None:
            check(found, 0, 1)
        estimate = call(
            audit.auc_interval, *given_, num_replicates=5, level=level, seed=seed
        )
        assert estimate is None or 0 <= estimate.low <= area <= estimate.high <= 1


@fuzz()
@given(
    st.integers(-1, 9) | st.integers(0, 10**9),
    st.integers(-2, 9) | st.integers(0, 10**9),
    LEVELS,
)
def test_clopper_pearson(count, more, level):
    total = count + more
    found = call(audit.clopper_pearson, count, total, level=level)
    if found is not None:
        check(found[:2], 0, 1)
        assert found.low <= count / total <= found.high


@fuzz()
@given(
    with_masks(),
    mostly([0.0, 0.05, 1.0], [np.nan, -1.0]),
    LEVELS,
    mostly([1, 2, 9], [0]),
)
def test_vulnerability(given_, max_fpr, level, num_samples):
    result = call(audit.vulnerability, *given_, max_fpr=max_fpr, level=level)
    if result is not None:
        some = result.num_runs > 0
        check(result.fraction[some], 0, 1)
        assert (result.low[some] <= result.fraction[some]).all()
        assert (result.fraction[some] <= result.high[some]).all()
        assert np.isnan(result.fraction[~some]).all()
        order = call(audit.most_vulnerable, result, num_samples=num_samples)
        assert order is None or (some[order].all() and len(order) <= num_samples)


@fuzz()
@given(references())
def test_memorization(given_):
    _, values, member = given_
    result = call(audit.memorization, values, member)
    if result is not None:
        check(result.value)
        assert (np.isnan(result.standard_error) | (result.standard_error >= 0)).all()
        check(call(audit.out_confidence, values, member))


@fuzz()
@given(
    sizes.flatmap(
        lambda n: st.tuples(
            real(n),
            arrays(np.int8, n, elements=st.integers(0, 3), fill=st.nothing()),
            mask(n),
        )
    )
)
def test_forget_aucs(given_):
    scores, part, extra = given_
    part[:3] = [0, 1, 2][: len(part)]
    result = call(audit.forget_aucs, scores, part == 0, part == 1, part == 2)
    if result is not None:
        check(list(result), 0, 1)
        kept = (part == 0) | (part == 2)
        assert result.ft == pytest.approx(
            oracles.mann_whitney(scores[kept], part[kept] == 0)
        )
    call(audit.forget_aucs, scores, part == 0, part == 1, extra)


@fuzz()
@given(
    st.tuples(st.integers(0, 3), st.integers(0, 4)).flatmap(
        lambda s: st.tuples(real(s, False), real(s))
    ),
    st.booleans(),
)
def test_avg_gap(pair, swapped):
    values, oracle = pair[::-1] if swapped else pair
    found = call(audit.avg_gap, values, oracle)
    if found is not None:
        assert found.shape == (len(values),)
        check(found, 0)
        expected = [
            oracles.avg_gap(run, oracle.astype(float).tolist())
            for run in values.astype(float).tolist()
        ]
        np.testing.assert_allclose(
            found, expected, rtol=1e-4, atol=1e-6 * np.abs(oracle).max()
        )


@fuzz()
@given(weighted(), mostly([0.0, 0.1, 1.0], [np.nan]))
def test_weighted(given_, max_fpr):
    scores, positive, negative, weights = given_
    found = call(audit.weighted_auc, *given_)
    if found is not None:
        check(found[~np.isnan(found)], 0, 1)
        if weights.dtype == np.int32:
            expected = [
                oracles.repeated_auc(scores, positive, negative, row) for row in weights
            ]
            np.testing.assert_allclose(found, expected)
    rates = call(audit.weighted_tpr, *given_, max_fpr=max_fpr)
    if rates is not None:
        check(rates[~np.isnan(rates)], 0, 1)
    ranking = call(audit.Ranking, scores, {"positive": positive, "negative": negative})
    if ranking is not None and found is not None:
        curves = call(ranking.weighted, weights)
        np.testing.assert_array_equal(curves.auc("positive", "negative"), found)
    if ranking is not None and rates is not None:
        curves = call(ranking.weighted, weights)
        again = curves.tpr("positive", "negative", max_fpr=max_fpr)
        np.testing.assert_array_equal(again, rates)
    means = call(audit.weighted_mean, scores, positive, weights)
    if means is not None:
        kept = scores[positive]
        check(
            means[~np.isnan(means)],
            kept.min() - 1e-6 * abs(kept.min()),
            kept.max() + 1e-6 * abs(kept.max()),
        )


@fuzz()
@given(scored(), st.integers(-1, 4), st.integers(0, 3))
def test_weights_of_samples_and_runs(given_, replicates, factors):
    _, strata = given_
    weights = call(audit.sample_weights, np.random.default_rng(0), replicates, strata)
    if weights is not None:
        assert (weights.sum(1) == len(strata)).all()
        assert (weights[:, strata].sum(1) == strata.sum()).all()
    rng = np.random.default_rng(0)
    blocks = call(audit.SampleWeights, rng, replicates, strata)
    assert (blocks is None) == (weights is None)
    if blocks is not None:
        drawn = np.concatenate([block for _, block in blocks])
        np.testing.assert_array_equal(drawn, weights)
    levels = np.arange(len(strata) * factors).reshape(len(strata), factors) % 3
    runs = call(audit.run_weights, np.random.default_rng(0), replicates, levels)
    if runs is not None:
        assert runs.shape == (replicates, len(strata))
        assert (runs >= 0).all()


@fuzz()
@given(sizes.flatmap(real), real(()), LEVELS)
def test_interval(replicates, point, level):
    found = call(audit.interval, replicates, float(point), level=level)
    if found is not None:
        assert np.isnan(found.low) == np.isnan(replicates).all()
        assert np.isnan(found.low) or found.low <= point <= found.high


@fuzz()
@given(
    st.integers(0, 4).flatmap(
        lambda n: st.tuples(
            real(n),
            real((3, n)),
            st.none() | arrays(np.int32, (n, 2), elements=st.integers(0, 2)),
        )
    ),
    LEVELS,
)
def test_summarize(given_, level):
    found = call(audit.summarize, *given_, level=level)
    if found is not None:
        check(found.mean)
        assert found.num_dropped <= 3
        assert np.isnan(found.low) or found.low <= found.mean <= found.high
    variance = call(audit.mean_variance, *given_)
    if variance is not None:
        assert np.isnan(variance.total) or variance.total >= variance.samples >= 0
        mean = float(np.mean(given_[0]))
        bounded = call(
            audit.mean_interval, mean, variance, level=level, bounds=(-10, 10)
        )
        if bounded is not None and not np.isnan(bounded.low):
            assert bounded.low <= bounded.high


@fuzz()
@given(
    sizes.flatmap(lambda n: real((n,)) | real((n, 2), hard=False)),
    st.none() | arrays(np.int32, (4, 2), elements=st.integers(-1, 2)),
    LEVELS,
)
def test_summarize_runs(values, factors, level):
    found = call(audit.summarize_runs, values, factors=factors, level=level)
    if found is not None:
        check(found.mean)
        assert np.isnan(found.low) or found.low <= found.mean <= found.high


@fuzz(0.5)
@given(
    *[sizes.flatmap(fractions)] * 3,
    st.sampled_from([None, None, 1, 3, 0]),
    st.sampled_from([0, 1, 2, 3, -1]),
)
def test_confidence_attacks(one, two, three, max_samples, seed):
    for attack in (audit.mis, audit.kodge_mia):
        result = call(attack, one, two, three, max_samples=max_samples, seed=seed)
        if result is not None:
            check(result.fraction, 0, 1)
            assert result.fraction == pytest.approx(1 - result.called_member.mean())
            assert result.called_member.shape == three.shape


@fuzz(fraction=0.3)
@given(
    st.sampled_from([0, 1, 3]),
    st.sampled_from([0, 1, 4]),
    st.sampled_from(["logit_margin", "taylor_softmax", "other"]),
    mostly([1, 512], [0]),
)
def test_shadow_signals(num_models, num_samples, signal, batch_size):
    variables = {"scale": np.linspace(0.5, 1, num_models, dtype=np.float32)}
    images = np.linspace(0, 1, 3 * num_samples, dtype=np.float32).reshape(-1, 3)
    labels = np.arange(num_samples) % 3
    signals = call(
        audit.shadow_signals,
        scale,
        variables,
        images,
        labels,
        signal=signal,
        batch_size=batch_size,
    )
    if signals is not None:
        assert signals.shape == (num_models, num_samples)
        check(signals)


def scale(variables, images):
    """Logits of a model with one number."""
    return variables["scale"] * images


@fuzz(0.5)
@given(
    class_logits(),
    st.sampled_from([None, None, None, 0, 1, 2, -1]),
    st.sampled_from(["neighbor_against_rest", "neighbor_against_forgotten"]),
    st.fixed_dictionaries(
        {
            "columns": st.sampled_from(["all", "retained", "neighbor"]),
            "features": st.sampled_from(["logits", "probabilities"]),
            "gamma": st.sampled_from(
                ["auto", "auto", "scale", "scale", 1e-3, 1.0, 0.0]
            ),
            "balance": st.booleans(),
            "seed": st.sampled_from([0, 1, 2, 3, -1]),
        }
    ),
)
def test_mia_nn(given_, neighbor, reading, options):
    retrained, unlearned, labels, forgotten, also = given_
    result = call(
        with_fields(audit.mia_nn),
        *given_[:4],
        also_forgotten=also,
        neighbor=neighbor,
        reading=reading,
        **options,
    )
    if result is not None:
        check(result.scores, 0, 1)
        check(result.reference_scores, 0, 1)
        assert result.scores.shape == (len(unlearned),)
        assert result.called.shape == (len(unlearned), (labels == forgotten).sum())
    nearest = call(
        with_fields(audit.nearest_neighbor),
        retrained,
        labels,
        forgotten,
        also_forgotten=also,
        **options,
    )
    if nearest is not None:
        check(nearest.fractions, 0, 1)
        assert nearest.neighbor not in (forgotten, *also)
        called = call(
            with_fields(audit.discriminator_calls),
            retrained[0],
            labels,
            nearest.neighbor,
            forgotten,
            also_forgotten=also,
            **options,
        )
        assert called.mean() == nearest.fractions[0, nearest.neighbor]
        credits = call(
            with_fields(audit.neighbor_credits),
            retrained[0],
            labels,
            nearest.neighbor,
            forgotten,
            also_forgotten=also,
            **options,
        )
        assert np.nanmean(credits) == pytest.approx(called.mean())


ANYTHING = [
    *(
        (signal, "ab")
        for signal in (audit.logit_margin, audit.entropy, audit.taylor_softmax)
    ),
    (audit.rmia, "abc"),
    (audit.rmia_ratio, "abc"),
    (audit.dominated_fraction, "ab"),
    (audit.lira, "abc"),
    (audit.lira_leave_one_out, "ab"),
    (audit.ulira, "ab"),
    (audit.ulira_kodge, "ab"),
    (audit.pair_influences, "a"),
    (audit.klom, "ab"),
    (audit.klom_summary, "ab"),
    (audit.roc, "ab"),
    (audit.auc, "ab"),
    (audit.auc_interval, "ab"),
    (audit.accuracy, "abc"),
    (audit.avg_gap, "ab"),
    (audit.memorization, "ab"),
    (audit.out_confidence, "ab"),
    (audit.vulnerability, "abc"),
    (audit.forget_aucs, "abbc"),
    (audit.mia_nn, "abc1"),
    (audit.nearest_neighbor, "ab1"),
    (audit.discriminator_calls, "ab01"),
    (audit.mis, "abc"),
    (audit.kodge_mia, "abc"),
    (audit.softmax, "a"),
    (audit.total_variation, "ab"),
    (audit.kl_divergence, "ab"),
    (audit.confusion_rows, "ab"),
    (audit.weighted_auc, "abbc"),
    (audit.weighted_mean, "abc"),
    (audit.summarize, "abc"),
    (audit.interval, "a1"),
]


@pytest.mark.parametrize(
    ("function", "names"), ANYTHING, ids=lambda value: getattr(value, "__name__", value)
)
@fuzz()
@given(anything(), anything(), anything())
def test_arrays_of_any_shape_and_type(function, names, a, b, c):
    """What is answered, if anything, is a number; what signals answer is looked at
    above.
    """
    given_ = {"a": a, "b": b, "c": c, "0": 0, "1": 1}
    result = call(function, *(given_[name] for name in names))
    for leaf in jax.tree.leaves(result) if function not in SIGNALS else ():
        assert not np.isnan(np.asarray(leaf, float)).any(), result


@fuzz()
@given(anything(), anything(), st.integers(-1, 3))
def test_weights_of_any_shape_and_type(a, b, replicates):
    for function in (audit.sample_weights, audit.run_weights):
        call(function, np.random.default_rng(0), replicates, a)
    call(audit.weighted_tpr, a, b, b, a, max_fpr=0.1)


if __name__ == "__main__":
    sys.exit(campaign(__file__))
