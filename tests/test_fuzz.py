"""Any input at all: audit and data functions give finite values in their range, or the documented one-line error.

``FUZZ_EXAMPLES=5000 pytest tests/test_fuzz.py`` runs a long campaign; every test counts what was answered and refused.
"""

import os
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unlearn_jax import audit, data
from unlearn_jax.types import Dataset, InputError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
FUZZ = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=EXAMPLES < 1000
)

HARD = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-38, 1e-45, 88.0, -104.0, 1e4, 3.4e38, -3.4e38, np.inf, -np.inf, np.nan]
DTYPES = st.sampled_from([np.float32, np.float64, np.float16, np.int32, np.int64, np.uint8, np.bool_])


def real(shape, hard=True):
    """Numbers of a shape: ordinary ones, extreme ones, all equal."""
    with np.errstate(over="ignore"):
        element = st.one_of(st.floats(-30, 30, width=32), st.sampled_from(HARD if hard else HARD[:9]))
        return st.one_of(
            arrays(np.float32, shape, elements=element.map(lambda x: float(np.float32(x)))),
            element.map(lambda x: np.full(shape, x, np.float32)),
            arrays(np.float64, shape, elements=st.floats(-5, 5)),
        )


def mask(shape):
    return st.one_of(arrays(np.bool_, shape), st.booleans().map(lambda b: np.full(shape, b)))


def anything():
    """Arrays of any small shape and type, empty ones included."""
    shapes = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    return st.tuples(shapes, DTYPES).flatmap(lambda pair: arrays(pair[1], pair[0]))


sizes = st.integers(0, 7)


@st.composite
def references(draw):
    """``target [N]``, ``reference [M, N]`` and ``member [M, N]``, often a usable design."""
    models, samples = draw(st.integers(0, 6)), draw(sizes)
    hard = draw(st.booleans())
    target, reference = draw(real(samples, hard)), draw(real((models, samples), hard))
    if draw(st.booleans()) and models:
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
    samples, hard = draw(sizes), draw(st.booleans())
    return draw(real((draw(st.integers(0, 5)), samples), hard)), draw(real((draw(st.integers(0, 5)), samples), hard))


@st.composite
def labelled(draw):
    """``logits [N, C]`` and labels, some of them out of range."""
    samples, classes = draw(sizes), draw(st.integers(0, 5))
    labels = draw(arrays(np.int64, samples, elements=st.integers(-1, max(classes, 1))))
    return draw(real((samples, classes), draw(st.booleans()))), labels


def scored():
    """``scores [N]`` and a mask."""
    return sizes.flatmap(lambda n: st.tuples(real(n), mask(n)))


@st.composite
def with_masks(draw):
    """``scores [R, N]``, ``forget [R, N]``, ``test [N]``."""
    runs, samples = draw(st.integers(0, 4)), draw(sizes)
    return draw(real((runs, samples))), draw(mask((runs, samples))), draw(mask(samples))


def call(function, *args, **knobs):
    """Calls; a documented error is None. Warnings are errors, so none slips through as a wrong value."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return function(*args, **knobs)
    except InputError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    return None


def check(value, low=-np.inf, high=np.inf):
    """Finite, and in range."""
    value = np.asarray(value)
    assert np.isfinite(value).all(), value
    assert (value >= low - 1e-9).all(), value
    assert (value <= high + 1e-9).all(), value


@FUZZ
@given(references(), st.sampled_from(["online", "offline"]), st.sampled_from([0.5, 1.0, 2.0, 0.0, np.nan]))
def test_rmia(given_, mode, gamma):
    scores = call(audit.rmia, *given_, mode=mode, gamma=gamma)
    if scores is not None:
        assert scores.shape == given_[0].shape
        check(scores, 0, 1)


@FUZZ
@given(
    references(),
    st.sampled_from(["online", "offline"]),
    st.sampled_from(["per_sample", "fixed", "fixed_global", "fixed_separate"]),
    st.sampled_from(["median", "mean"]),
)
def test_lira(given_, mode, variance, center):
    scores = call(audit.lira, *given_, mode=mode, variance=variance, center=center)
    if scores is not None:
        assert scores.shape == given_[0].shape
        check(scores)


@FUZZ
@given(references(), st.sampled_from(["online", "offline"]))
def test_lira_leave_one_out(given_, mode):
    scores = call(audit.lira_leave_one_out, given_[1], given_[2], mode=mode)
    if scores is not None:
        check(scores)


@FUZZ
@given(two_sides())
def test_ulira(sides):
    result = call(audit.ulira, *sides)
    if result is not None:
        check([result.auc, result.accuracy], 0, 1)
        check(result.unlearned)


@FUZZ
@given(two_sides(), st.sampled_from([0, 1, 20]), st.sampled_from([100.0, 1e-3, np.inf]))
def test_klom(sides, num_bins, max_margin):
    values = call(audit.klom, *sides, num_bins=num_bins, max_margin=max_margin)
    if values is not None:
        assert values.shape == (sides[0].shape[1],)
        check(values, -num_bins * 1e-5, -np.log(1e-5))
        if len(values):
            summary = call(audit.klom_summary, values, num_replicates=5)
            check([summary.mean, summary.median, summary.p95])


@FUZZ
@given(labelled(), st.sampled_from(sorted(audit.SIGNALS)))
def test_signals(given_, name):
    logits, labels = given_
    scores = call(audit.SIGNALS[name], logits, labels)
    if scores is not None:
        scores = np.asarray(scores)
        assert scores.shape == labels.shape
        usable = np.isfinite(logits).all(-1) & (labels >= 0) & (labels < logits.shape[-1])
        check(scores[usable])
        out = (labels < 0) | (labels >= logits.shape[-1])
        assert np.isnan(scores[out]).all(), "a label out of range is NaN, which the attacks refuse"


@FUZZ
@given(labelled())
def test_accuracy_and_predictions(given_):
    found = call(audit.accuracy, *given_)
    if found is not None:
        check(found, 0, 1)
    shares = call(audit.confusion_rows, *given_)
    if shares is not None:
        assert np.nanmin(shares, initial=0) >= 0
        assert np.nanmax(shares, initial=0) <= 1
    chances = call(audit.softmax, given_[0])
    if chances is not None and chances.size:
        check(chances, 0, 1)
        np.testing.assert_allclose(chances.sum(-1), 1, rtol=1e-6)
        check(audit.total_variation(chances, chances[::-1]), 0, 1)
        check(audit.kl_divergence(chances, chances[::-1]), -1e-6)


@FUZZ
@given(scored())
def test_roc(given_):
    curve = call(audit.roc, *given_)
    area = call(audit.auc, *given_)
    assert (curve is None) == (area is None)
    if curve is not None:
        check(area, 0, 1)
        assert curve.auc == pytest.approx(area)
        check([curve.tpr_at_fpr(rate) for rate in (0.0, 0.01, 1.0)], 0, 1)
        estimate = call(audit.auc_interval, *given_, num_replicates=5)
        assert 0 <= estimate.low <= estimate.high <= 1


@FUZZ
@given(with_masks(), st.sampled_from([0.0, 0.05, 1.0, np.nan, -1.0]))
def test_vulnerability(given_, max_fpr):
    result = call(audit.vulnerability, *given_, max_fpr=max_fpr)
    if result is not None:
        some = result.num_runs > 0
        check(result.share[some], 0, 1)
        assert np.isnan(result.share[~some]).all()
        order = call(audit.most_vulnerable, result, num_samples=1)
        assert order is not None


@FUZZ
@given(references())
def test_memorisation(given_):
    _, values, member = given_
    result = call(audit.memorisation, values, member)
    if result is not None:
        check(result.value)
        check(call(audit.out_confidence, values, member))


@FUZZ
@given(sizes.flatmap(lambda n: st.tuples(real(n), mask(n), mask(n), mask(n))))
def test_forget_aucs(given_):
    result = call(audit.forget_aucs, *given_)
    if result is not None:
        check(list(result), 0, 1)


@FUZZ
@given(scored(), st.integers(0, 4))
def test_bootstrap(given_, replicates):
    scores, positive = given_
    weights = call(audit.sample_weights, np.random.default_rng(0), replicates, positive)
    if weights is not None:
        found = call(audit.weighted_auc, scores, positive, ~positive, weights)
        if found is not None:
            check(found, 0, 1)
        rates = call(audit.weighted_tpr, scores, positive, ~positive, weights, max_fpr=0.1)
        if rates is not None:
            check(rates, 0, 1)


ANYTHING = {
    "rmia": lambda a, b, c: audit.rmia(a, b, c),
    "lira": lambda a, b, c: audit.lira(a, b, c),
    "ulira": lambda a, b, c: audit.ulira(a, b),
    "klom": lambda a, b, c: audit.klom(a, b),
    "roc": lambda a, b, c: audit.roc(a, b),
    "accuracy": lambda a, b, c: audit.accuracy(a, b),
    "logit_margin": lambda a, b, c: audit.logit_margin(a, b),
    "memorisation": lambda a, b, c: audit.memorisation(a, b),
    "vulnerability": lambda a, b, c: audit.vulnerability(a, b, c),
    "forget_aucs": lambda a, b, c: audit.forget_aucs(a, b, b, c),
    "mia_nn": lambda a, b, c: audit.mia_nn(a, b, c, 0),
    "confusion_rows": lambda a, b, c: audit.confusion_rows(a, b),
    "weighted_auc": lambda a, b, c: audit.weighted_auc(a, b, b, c),
    "run_weights": lambda a, b, c: audit.run_weights(np.random.default_rng(0), 2, a),
    "forget_indices": lambda a, b, c: data.forget_indices(a, 5),
    "check_forget_mask": lambda a, b, c: data.check_forget_mask(a, 5),
    "forget_class": lambda a, b, c: data.forget_class(a, 1),
    "load_arrays": lambda a, b, c: data.load_arrays(a, b, a, b),
}


@pytest.mark.parametrize("name", ANYTHING)
@FUZZ
@given(anything(), anything(), anything())
def test_arrays_of_any_shape_and_type(name, a, b, c):
    call(ANYTHING[name], a, b, c)


@FUZZ
@given(
    st.integers(-2, 40), st.integers(-2, 12), st.one_of(st.none(), st.floats(allow_nan=True)), st.integers(0, 2**32 - 1)
)
def test_random_forget_sets(num_samples, count, fraction, seed):
    found = call(data.forget_random, num_samples, count=count, fraction=fraction, seed=seed)
    if found is not None:
        assert found.shape == (num_samples,)
        assert 0 < found.sum() < num_samples


@FUZZ
@given(st.integers(-2, 9), st.integers(-2, 9), st.integers(0, 99), st.sampled_from(["default", "legacy"]))
def test_membership_designs(num_models, num_samples, seed, generator):
    member = call(data.membership_design, num_models, num_samples, seed=seed, generator=generator)
    if member is not None:
        assert member.shape == (num_models, num_samples)
        assert (member.sum(0) == num_models // 2).all()


@FUZZ
@given(st.data())
def test_resplit(draw):
    samples = draw.draw(st.integers(2, 12))
    labels = draw.draw(arrays(np.int32, samples, elements=st.integers(0, 2)))
    images = np.linspace(0, 1, samples * 4, dtype=np.float32).reshape(samples, 2, 2, 1)
    splits = call(data.load_arrays, images, labels, images, labels)
    if splits is not None:
        sizes_ = {"num_train": draw.draw(st.integers(-1, 13)), "num_test": draw.draw(st.integers(-1, 13))}
        again = call(data.resplit, splits, **sizes_, seed=0, balanced=draw.draw(st.booleans()))
        if again is not None:
            assert len(again.train.labels) == sizes_["num_train"]
            assert isinstance(again.train, Dataset)
