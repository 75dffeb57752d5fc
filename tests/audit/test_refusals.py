"""Every error that the audit documents: the call that meets it, and what it says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.fuzzing import with_fields
from support.refusals import missed, refusal, sites

from unlearn_jax import audit
from unlearn_jax.audit import device

NAN, INF = np.nan, np.inf
ONES, MASK = np.ones(4), np.array([True, False, True, False])
BANK, DESIGN = np.ones((4, 3)), np.arange(4)[:, None] < [2, 2, 2]
LOGITS, LABELS = np.eye(3)[[0, 1, 2, 0, 1, 2]], np.arange(6) % 3
RETRAINED = np.stack([LOGITS, LOGITS])
RNG = np.random.default_rng(0)


def rmia(target=ONES[:3], bank=BANK, member=DESIGN, **chosen):
    return lambda: audit.rmia(target, bank, member, **chosen)


def lira(target=ONES[:3], bank=BANK, member=DESIGN, **chosen):
    return lambda: audit.lira(target, bank, member, **chosen)


def shadow(variables=BANK, images=LOGITS, labels=LABELS, **options):
    return lambda: audit.shadow_signals(
        lambda variables, images: images, variables, images, labels, **options
    )


def mia_nn(retrained=RETRAINED, unlearned=LOGITS, labels=LABELS, forgotten=0, **chosen):
    return lambda: with_fields(audit.mia_nn)(
        retrained, unlearned, labels, forgotten, **chosen
    )


def weighted(
    function, scores=ONES, positive=MASK, negative=~MASK, weights=ONES[None], **chosen
):
    return lambda: function(scores, positive, negative, weights, **chosen)


auc, tpr = audit.weighted_auc, audit.weighted_tpr

REFUSED = [
    (
        lambda: audit.Ranking(ONES, {"a": MASK, "b": ~MASK}).weighted(np.ones((1, 3))),
        "weights have shape \\(1, 3\\): pass \\[B, 4\\], one weight per sample",
    ),
    # how arrays are read
    (
        lambda: jax.jit(audit.softmax)(LOGITS),
        "logits is traced: this function runs on the host, call it outside jit",
    ),
    (
        lambda: jax.jit(lambda mask: audit.accuracy(LOGITS, LABELS, mask))(LABELS > 0),
        "mask is traced: this function runs on the host",
    ),
    (
        lambda: audit.roc(np.ones((2, 2)), MASK),
        "scores has shape \\(2, 2\\): pass an array with 1 axes",
    ),
    (lambda: audit.softmax([]), "logits has shape \\(0,\\): pass at least one element"),
    (lambda: audit.softmax([1j]), "logits has dtype complex128: pass real numbers"),
    (
        lambda: audit.roc(ONES, [0, 1, 0, 1]),
        "is_member has dtype int64: pass a boolean mask",
    ),
    (
        lambda: audit.roc(ONES, [True]),
        "is_member has shape \\(1,\\): pass a boolean mask of shape \\(4,\\)",
    ),
    (lambda: audit.roc([NAN, 1, NAN, 1], MASK), "scores has 2 NaN: drop those samples"),
    (lambda: audit.softmax([NAN, INF]), "logits has 2 values that are NaN or infinite"),
    (
        lambda: audit.auc_interval(ONES, MASK, level=1),
        "level is 1: pass a confidence level between 0 and 1",
    ),
    (
        lambda: audit.auc_interval(ONES, MASK, num_replicates=10.5),
        "num_replicates must be a positive integer, got 10.5",
    ),
    (
        lambda: audit.auc_interval(ONES, MASK, num_replicates=1),
        "num_replicates is 1: a variance takes at least 2, usually 1000",
    ),
    (
        lambda: audit.auc_interval(ONES, MASK, seed=-1),
        "seed is -1: pass a number of at least 0",
    ),
    (
        lambda: audit.auc_interval(ONES, MASK, seed=0.5),
        "seed is 0.5: pass an integer",
    ),
    # ROC
    (
        lambda: audit.roc(ONES, MASK).tpr_at_fpr(2),
        "max_fpr is 2: pass a rate in \\[0, 1\\]",
    ),
    (lambda: audit.clopper_pearson(3, 2), "3 of 2 is not a rate"),
    (
        lambda: audit.clopper_pearson(1.5, 3),
        "count must be an integer, 0 or more, got 1.5",
    ),
    (lambda: audit.roc(ONES, MASK | True), "is_member has only one class"),
    # SVC attacks
    (
        lambda: audit.mis(ONES, ONES, ONES, max_samples=0),
        "max_samples must be a positive integer, got 0",
    ),
    (
        lambda: audit.mis(ONES, -1e101 * ONES, ONES),
        r"test holds -1e\+101: pass probabilities",
    ),
    (
        lambda: audit.kodge_mia(ONES, ONES, ONES, max_samples=0),
        "max_samples must be a positive integer, got 0",
    ),
    # KLoM
    (
        lambda: audit.klom(BANK[:1], BANK),
        "target has 1 model: pass an ensemble",
    ),
    (
        lambda: audit.klom(BANK, BANK[:, :2]),
        "have 3 and 2 samples: pass margins of the same samples",
    ),
    (
        lambda: audit.klom(BANK, BANK, num_bins=0),
        "num_bins must be a positive integer, got 0",
    ),
    (
        lambda: audit.klom(BANK, BANK, max_margin=INF),
        "max_margin must be positive and finite, got inf",
    ),
    (
        lambda: audit.klom(BANK, BANK, floor=1),
        "floor is 1: pass a number between 0 and 1",
    ),
    (
        lambda: audit.klom_summary(ONES, bounds=(0, INF)),
        r"bounds are \(0, inf\): pass the smallest and largest value",
    ),
    (lambda: audit.klom_summary(ONES, MASK & False), "mask is empty"),
    # U-LiRA
    (lambda: audit.pair_influences([0.5]), "accuracy has fewer than 2 pairs"),
    # rank correlations
    (lambda: audit.rank_correlation([1, 2], [1]), "x has 2 values and y 1"),
    (lambda: audit.rank_correlation([1, 2], [1, 2], [0]), r"groups have shape \(1,\)"),
    (
        lambda: audit.ulira(BANK, BANK, min_std=0),
        "min_std is 0: pass a positive standard deviation",
    ),
    (lambda: audit.ulira(BANK[:2], BANK), "target has 2 models: pass at least 3"),
    (
        lambda: audit.ulira_kodge(BANK, BANK[:3]),
        "target has shape \\(4, 3\\) and reference \\(3, 3\\)",
    ),
    # bootstrap
    (
        lambda: audit.summarize_runs([95, 96, 97], bounds=(0, 1)),
        r"the estimate 96 is not within the bounds \(0, 1\): pass the smallest and the",
    ),
    (
        lambda: audit.mean_interval(
            0.5, audit.MeanVariance(0.01, 0.0, 2.0), bounds=(1, 0)
        ),
        r"the estimate 0.5 is not within the bounds \(1, 0\)",
    ),
    (
        lambda: audit.agreeing_interval(2.0, 10, (0, 1)),
        r"the estimate 2 is not within the bounds \(0, 1\)",
    ),
    (
        lambda: audit.summarize_runs(ONES, factors=[[0], [1]]),
        "2 rows of factors for 4 values: pass one row per value",
    ),
    (
        lambda: audit.sample_weights(RNG, 2, ONES),
        "strata are float64 of shape \\(4,\\): pass one integer per sample",
    ),
    (
        lambda: audit.sample_weights(RNG, 0, LABELS),
        "num_replicates must be a positive integer, got 0",
    ),
    (
        lambda: audit.run_weights(RNG, 2, LABELS),
        "factors are int64 of shape \\(6,\\): pass \\[R, 2\\] integers",
    ),
    (weighted(auc, negative=MASK), "positive and negative overlap"),
    (weighted(tpr, negative=MASK, max_fpr=0.1), "positive and negative overlap"),
    (weighted(tpr, max_fpr=NAN), "max_fpr is nan: pass a rate in \\[0, 1\\]"),
    (
        weighted(auc, weights=ONES),
        "weights are float64 of shape \\(4,\\): pass \\[B, 4\\] numbers",
    ),
    (weighted(auc, weights=-ONES[None]), "weights are infinite, negative or NaN"),
    (weighted(auc, weights=[[1, INF, 1, 1]]), "weights are infinite, negative or NaN"),
    (
        weighted(auc, positive=MASK & False),
        "positive is empty: mark at least one sample on each side",
    ),
    (lambda: audit.weighted_mean(ONES, MASK & False, ONES[None]), "mask is empty"),
    (
        lambda: audit.Ranking(ONES, {"forget": MASK}, steps=ONES[:3]),
        "steps have shape \\(3,\\) and scores \\(4,\\): pass one of each per sample",
    ),
    (
        lambda: audit.model_signals("margin", [LOGITS], LABELS),
        "unknown signal 'margin': choose taylor_softmax",
    ),
    (
        lambda: audit.model_signals("correctness", iter([]), LABELS),
        "logits has no models: pass those of at least one model",
    ),
    (
        lambda: audit.model_signals("correctness", [LOGITS, LOGITS[:3]], LABELS[:1]),
        "signal 'correctness' gives float32 .* for one model and float32 .* for",
    ),
    (
        lambda: audit.model_signals("operator:getitem", [LOGITS], LABELS),
        "signal 'operator:getitem' gives shape \\(6, 3\\) for logits of shape",
    ),
    (
        lambda: audit.model_signals("operator:matmul", [LOGITS], LABELS[:2]),
        "signal 'operator:matmul' fails: TypeError: ",
    ),
    (lambda: audit.interval(ONES, NAN), "the estimate is NaN"),
    (lambda: audit.interval([1, INF], 1), "the estimate or a replicate is infinite"),
    (
        lambda: audit.summarize(ONES, BANK),
        "replicates have shape \\(4, 3\\): pass \\[B, 4\\], one column per value",
    ),
    # metrics
    (
        lambda: audit.accuracy(LOGITS, LABELS[:2]),
        "labels are int64 of shape \\(2,\\): pass 6 integers",
    ),
    (lambda: audit.accuracy(LOGITS, LABELS, LABELS > 9), "mask is empty"),
    (
        lambda: audit.forget_aucs(ONES, MASK, ~MASK, MASK & False),
        "test is empty: mark at least one sample",
    ),
    (
        lambda: audit.forget_aucs(ONES, MASK, ~MASK, MASK),
        "forget, retain and test overlap",
    ),
    (
        lambda: audit.avg_gap(BANK, BANK[:, :2]),
        "values have 3 columns and reference 2: pass the same metrics",
    ),
    # predictions
    (
        lambda: audit.kl_divergence([1.0], [1.0], floor=0),
        "floor is 0: pass a small positive number",
    ),
    (lambda: audit.total_variation([1.0], [0.5, 0.5]), "p has 1 classes and q 2"),
    (
        lambda: audit.total_variation([[1.0]] * 2, [[1.0]] * 3),
        "p of shape \\(2, 1\\) and q of shape \\(3, 1\\)",
    ),
    (
        lambda: audit.total_variation([2.0], [1.0]),
        "p has rows that are not distributions",
    ),
    (
        lambda: audit.confusion_rows(LOGITS, LABELS[:2]),
        "labels are int64 of shape \\(2,\\): pass 6 integers, one per row",
    ),
    (
        lambda: audit.confusion_rows(LOGITS, LABELS + 1),
        "labels must lie in 0..2 for 3 classes, got 1 to 3",
    ),
    (
        lambda: audit.accuracy(np.ones((6, 1)), LABELS),
        "logits have shape \\(6, 1\\): pass \\[N, C\\] with at least two",
    ),
    (
        lambda: audit.kodge_mia([0.5], [0.5], [0.5], seed=1.5),
        "seed is 1.5: pass an integer",
    ),
    (
        lambda: audit.kodge_mia([2.0], [0.5], [0.5]),
        "retain_train reaches from 2 to 2: pass probabilities",
    ),
    (
        lambda: audit.reference_average(-BANK - 9, DESIGN),
        "the references' signals are negative for most samples",
    ),
    # LiRA
    (
        lira(target=ONES),
        "target \\(4,\\) does not fit reference \\(4, 3\\): pass the same samples",
    ),
    (lira(variance="both"), "variance is 'both': pass one of 'per_sample', 'fixed'"),
    (lira(min_std=0), "min_std is 0: pass a positive number"),
    (
        lira(member=DESIGN | True),
        (
            "3 samples have fewer than 2 OUT models, the first is 0: leave them out,"
            " add models or"
        ),
    ),
    (
        lira(ONES[:1], BANK[:2, :1], [[True], [False]], variance="fixed"),
        "the IN models are too few for a fixed variance: add reference models",
    ),
    # memorization
    (
        lambda: audit.memorization(BANK, DESIGN & False),
        "3 samples are in no model, the first of them sample 0",
    ),
    # signals
    (
        lambda: audit.entropy(LOGITS, ONES),
        "labels have dtype float64: pass integer class numbers",
    ),
    (
        lambda: audit.entropy(jnp.ones((2, 1)), [0, 0]),
        "logits have shape \\(2, 1\\): pass \\[..., C\\] with at least two",
    ),
    (
        lambda: audit.entropy(LOGITS, LABELS[:2]),
        "labels of shape \\(2,\\) do not broadcast to the logits' \\(6,\\)",
    ),
    (
        lambda: audit.soft_margin(LOGITS, LABELS, temperature=0),
        "temperature is 0: pass a positive number",
    ),
    (
        lambda: audit.taylor(LOGITS, LABELS, order=1),
        "order is 1: the series needs at least 2 terms",
    ),
    # RMIA
    (rmia(population=ONES), "population and reference_population belong together"),
    (
        rmia(population=ONES, reference_population=BANK[:2]),
        "reference_population has 2 models and reference 4",
    ),
    (rmia(target=ONES), "reference has 3 samples and target 4: pass the same samples"),
    (
        lambda: audit.ratio_to_average(ONES[:3], ONES),
        "average has 4 samples and target 3: pass the same samples",
    ),
    (rmia(bank=BANK[:1], member=DESIGN[:1]), "RMIA needs at least 2 reference models"),
    (rmia(mode="offline", trim=0.1), "trim applies to mode='online' only"),
    (rmia(mode="both"), "mode is 'both': pass 'online' or 'offline'"),
    (rmia(gamma=0), "gamma is 0: pass a positive number"),
    (
        rmia(comparison="ratio"),
        "comparison is 'ratio': pass 'product' or 'quotient'",
    ),
    (
        rmia(ONES[:1], BANK[:, :1], DESIGN[:, :1]),
        "a single sample has no others to compare with",
    ),
    (
        lambda: audit.dominated_fraction(ONES, BANK),
        "population ratios \\(4, 3\\) do not fit ratios \\(4,\\)",
    ),
    (
        rmia(bank=BANK[:3], member=DESIGN[:3]),
        "no sample can be in exactly half of 3 references",
    ),
    (
        rmia(member=DESIGN & False),
        "3 samples are not in exactly half of the 4 references \\(sample 0 is in 0\\)",
    ),
    (rmia(trim=0.5), "trim is 0.5: pass a fraction in \\[0, 0.5\\)"),
    (rmia(mode="offline", offline_a=2), "offline_a is 2: pass a number in \\[0, 1\\]"),
    (rmia(mode="offline", member=DESIGN | True), "sample 0 is in every reference"),
    # vulnerability
    (
        lambda: audit.vulnerability(BANK, DESIGN, MASK[:3], max_fpr=2),
        "max_fpr is 2: pass a rate in \\[0, 1\\]",
    ),
    (lambda: audit.vulnerability(BANK, DESIGN, DESIGN), "forget and test overlap"),
    (lambda: audit.vulnerability(BANK, DESIGN & False, DESIGN), "forget is empty"),
    (
        lambda: audit.vulnerability(BANK, DESIGN, DESIGN & False),
        "run 0 has no test sample",
    ),
    (
        lambda: audit.most_vulnerable(audit.Vulnerability(*[ONES] * 5), num_samples=0),
        "num_samples must be a positive integer, got 0",
    ),
    # MIA-NN
    (mia_nn(kernel="poly"), "unknown kernel 'poly': choose 'rbf' or 'linear'"),
    (
        mia_nn(gamma="wide"),
        "unknown gamma 'wide': choose 'auto' or 'scale'",
    ),
    (mia_nn(C=0), "C must be positive and finite, got 0"),
    (mia_nn(max_samples=0), "max_samples must be a positive integer, got 0"),
    (
        mia_nn(unlearned=LOGITS[:2]),
        "target and reference logits are \\(2, 3\\) and \\(6, 3\\)",
    ),
    (mia_nn(RETRAINED[:1]), "reference_logits has 1 model: pass at least 2"),
    (mia_nn(max_samples=2.5), "max_samples must be a positive integer, got 2.5"),
    (mia_nn(forgotten=1.7), "forgotten must be an integer, 0 or more, got 1.7"),
    (mia_nn(neighbor=2.5), "neighbor must be an integer, 0 or more, got 2.5"),
    (mia_nn(reading="aloud"), "unknown reading 'aloud'"),
    (
        mia_nn(
            RETRAINED[:, :3],
            LOGITS[:3],
            LABELS[:3],
            reading="neighbor_against_forgotten",
        ),
        "neighbor_against_forgotten needs at least 2 samples of both classes",
    ),
    (
        mia_nn(labels=LABELS[:2]),
        "labels are int64 of shape \\(2,\\): pass 6 integers, one per sample",
    ),
    (mia_nn(labels=LABELS + 1), "labels must lie in 0..2 for 3 classes, got 1 to 3"),
    (
        mia_nn(forgotten=3),
        "forgotten classes are \\[3\\]: pass different classes in 0..2",
    ),
    (
        mia_nn(also_forgotten=[1]),
        "1 of 3 classes are retained: MIA-NN needs at least 2",
    ),
    (
        mia_nn(labels=LABELS % 2),
        "class 2 has no sample: pass test samples of all classes",
    ),
    (mia_nn(neighbor=0), "neighbor is 0: pass a retained class in 0..2"),
    (shadow(signal="loss"), "unknown signal 'loss': choose taylor_softmax"),
    (shadow(variables={}), "stacked_variables must have leaves \\[M, ...\\]"),
    (shadow(labels=LABELS[:3]), "labels have shape \\(3,\\) and images"),
    (shadow(images=LOGITS[:0], labels=LABELS[:0]), "there are no images"),
    (shadow(labels=LABELS + 9), "labels must lie in 0..2 for 3 classes, got 9 to 11"),
    (shadow(labels=LABELS - 1), "labels must lie in 0..2 for 3 classes, got -1 to 1"),
    (shadow(labels=LABELS / 2), "labels must be integers, got float64"),
    (
        shadow(mapper="zz"),
        "mapper must be a replicas.Mapper, such as replicas.mapper\\(num_models=M\\)",
    ),
    (shadow(batch_size=0), "batch_size must be a positive integer, got 0"),
    (shadow(variables=np.ones((0, 2))), "stacked_variables has no model"),
    (
        lambda: device.rmia(ONES[:3], BANK, DESIGN, population=ONES[:3]),
        "population and reference_population belong together",
    ),
    (
        lambda: device.rmia(ONES[:3], BANK, DESIGN, mode="live"),
        "mode is 'live': pass 'online' or 'offline'",
    ),
    (
        lambda: device.rmia(ONES[:3], BANK, DESIGN, comparison="ratio"),
        "comparison is 'ratio': pass 'product' or 'quotient'",
    ),
    (
        lambda: device.rmia(ONES[:3], BANK, DESIGN, trim=-0.5),
        r"trim is -0.5: pass a fraction in \[0, 0.5\)",
    ),
    (
        lambda: jax.jit(lambda target: rmia(target, gamma=-1)())(ONES[:3]),
        "gamma is -1: pass a positive number",
    ),
    (
        lambda: jax.jit(lambda scores: weighted(tpr, scores, max_fpr=2)())(ONES),
        r"max_fpr is 2: pass a rate in \[0, 1\]",
    ),
    (
        lambda: jax.jit(lambda side: audit.ulira(side, BANK, min_std=0))(BANK),
        "min_std is 0: pass a positive standard deviation",
    ),
    (
        lambda: device.lira(ONES[:3], BANK, DESIGN, center="mode"),
        "center is 'mode': pass one of 'median', 'mean'",
    ),
]


@pytest.mark.parametrize(
    ("call", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED]
)
def test_every_error_is_one_line(call, message):
    file, _ = refusal(call, message)
    assert file.startswith(("audit/", "checks.py"))


def test_table_covers_every_error_of_the_audit():
    assert missed(["audit"], REFUSED, {}) == {}
    assert len(sites("audit")) > 80
