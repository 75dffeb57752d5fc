"""Device forms of the attacks equal the host's, jitted, mapped and sharded."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from support import oracles

from unlearn_jax import audit, replicas
from unlearn_jax.audit import device
from unlearn_jax.types import InputError, Model

# XLA flushes subnormal numbers to zero on a CPU; NumPy does not.
# Nor may a product with gamma become subnormal.
NORMAL = st.floats(allow_nan=False, allow_subnormal=False).filter(
    lambda number: number == 0 or abs(number) > 1e-300
)
TIED = st.sampled_from([-4, -2, -1, -0.0, 0, 0.5, 1, 2, 4])
RATIOS = arrays(np.float64, 12, elements=st.one_of(TIED, NORMAL))
GAMMAS = st.sampled_from([0.3, 0.5, 1.0, 2.0, 3.7])
RMIA_OPTIONS = [{}, {"trim": 0.2}, {"mode": "offline"}, {"mode": "offline", "gamma": 1}]
LIRA_OPTIONS = [
    {"variance": variance, "center": center, **mode}
    for variance, center, mode in itertools.product(
        ["per_sample", "fixed_centered", "fixed_global", "fixed_separate"],
        ["median", "mean"],
        [
            {"mode": "online"},
            {"mode": "offline"},
            {"mode": "offline", "offline_score": "cdf"},
        ],
    )
]


def option_name(options):
    return "-".join(map(str, options.values())) or "default"


@pytest.fixture
def bank():
    """``target [3, N]``, ``reference [M, N]`` and ``member [M, N]``, float64."""
    rng = np.random.default_rng(0)
    member = rng.random((10, 90)).argsort(0) < 5
    level = 0.3 + 0.4 * rng.random(90)
    reference = level + 0.1 * member + 0.05 * rng.normal(size=member.shape)
    target = level + 0.05 * rng.normal(size=(3, 90))
    return target, reference, member


@pytest.fixture
def scored():
    """Tied scores, two disjoint masks and counts."""
    rng = np.random.default_rng(1)
    scores = np.round(rng.normal(size=120), 1)
    positive = rng.random(120) < 0.4
    negative = ~positive & (rng.random(120) < 0.8)
    weights = rng.integers(0, 4, (20, 120))
    weights[3, positive] = 0
    weights[4, negative] = 0
    return scores, positive, negative, weights


@pytest.mark.parametrize("options", RMIA_OPTIONS, ids=option_name)
def test_rmia_equals_the_host_in_float64(bank, options):
    target, reference, member = bank
    with jax.enable_x64(True):
        scores = np.asarray(device.rmia(target, reference, member, **options))
    expected = audit.rmia(target, reference, member, **options)
    assert scores.dtype == np.float64
    assert np.allclose(scores, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("options", RMIA_OPTIONS, ids=option_name)
def test_rmia_in_float32_is_within_a_rounding(bank, options):
    target, reference, member = (np.asarray(x, np.float32) for x in bank)
    member = member.astype(bool)
    ratio_options = {name: x for name, x in options.items() if name != "gamma"}
    ratio = device.rmia_ratio(target, reference, member, **ratio_options)
    expected = audit.rmia_ratio(target, reference, member, **ratio_options)
    assert ratio.dtype == np.float32
    assert np.allclose(ratio, expected, rtol=3e-7, atol=0)
    # From equal ratios, the counts are equal.
    gamma = options.get("gamma", 2.0)
    scores = device.rmia(target, reference, member, **options)
    counts = np.rint(np.asarray(scores, np.float64) * (target.shape[1] - 1))
    exact = audit.dominated_fraction(np.asarray(ratio), gamma=gamma)
    assert np.array_equal(counts, np.rint(exact * (target.shape[1] - 1)))


def test_sums_over_many_models_lose_one_rounding():
    rng = np.random.default_rng(2)
    reference = rng.lognormal(sigma=3, size=(1000, 50)).astype(np.float32)
    member = np.arange(1000)[:, None] % 2 == np.zeros(50)
    ratio = device.rmia_ratio(np.ones(50, np.float32), reference, member)
    expected = audit.rmia_ratio(np.ones(50, np.float32), reference, member)
    assert np.allclose(ratio, expected, rtol=2e-7)


def test_rmia_with_a_population_and_zero_averages(bank):
    target, reference, member = bank
    population = {
        "population": target[:, :30] * 1.1,
        "reference_population": reference[:, :30],
    }
    with jax.enable_x64(True):
        scores = device.rmia(target, reference, member, **population)
        ratio = device.rmia_ratio(
            np.array([0.0, 0.5, -0.5]), np.zeros((2, 3)), np.eye(2, 3) > 0
        )
    expected = audit.rmia(target, reference, member, **population)
    assert np.allclose(scores, expected, rtol=0, atol=1e-12)
    assert ratio.tolist() == [1, np.inf, -np.inf]
    with pytest.raises(InputError, match="both or neither"):
        device.rmia(target, reference, member, population=target)
    with pytest.raises(InputError, match="'online' or 'offline'"):
        device.rmia(target, reference, member, mode="sideways")
    with pytest.raises(InputError, match="'product' or 'quotient'"):
        device.rmia(target, reference, member, comparison="ratio")


def test_offline_rmia_reads_only_references_without_the_sample(bank):
    target, reference, member = bank
    poisoned = np.where(member, np.nan, reference)
    scores = device.rmia(target, poisoned, member, mode="offline")
    clean = device.rmia(target, reference, member, mode="offline")
    assert np.array_equal(scores, clean)


@settings(deadline=None, max_examples=100)
@given(RATIOS, RATIOS, GAMMAS)
def test_dominated_fraction_is_exactly_pairwise(ratio, population, gamma):
    with np.errstate(over="ignore", under="ignore"), jax.enable_x64(True):
        for others in (None, population):
            expected = oracles.rmia_pairwise(ratio, others, gamma=gamma)
            fraction = device.dominated_fraction(ratio, others, gamma=gamma)
            assert np.array_equal(np.rint(fraction * 132), np.rint(expected * 132))
            assert np.allclose(fraction, expected, rtol=0, atol=2e-16)


def test_nan_ratios_give_nan_rows():
    ratio = np.array([[1.0, 3.0, 2.0], [1.0, np.nan, 2.0]])
    fraction = device.dominated_fraction(ratio)
    assert np.isnan(fraction[1]).all()
    assert np.array_equal(fraction[0], device.dominated_fraction(ratio[0]))


@pytest.mark.parametrize("options", LIRA_OPTIONS, ids=option_name)
def test_lira_equals_the_host_in_float64(bank, options):
    target, reference, member = bank
    with jax.enable_x64(True):
        scores = np.asarray(device.lira(target, reference, member, **options))
        others = device.lira_leave_one_out(reference, member, **options)
        others = np.asarray(others)
        unbalanced = np.asarray(
            device.lira_leave_one_out(reference, member, balance=False, **options)
        )
    assert scores.dtype == others.dtype == np.float64
    expected = audit.lira(target, reference, member, **options)
    assert np.allclose(scores, expected, rtol=1e-12, atol=1e-12)
    expected = audit.lira_leave_one_out(reference, member, **options)
    assert np.allclose(others, expected, rtol=1e-11, atol=1e-11)
    expected = audit.lira_leave_one_out(reference, member, balance=False, **options)
    assert np.allclose(unbalanced, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("options", LIRA_OPTIONS, ids=option_name)
def test_lira_in_float32_keeps_five_digits(bank, options):
    target, reference, member = bank
    target = target.astype(np.float32)
    reference = reference.astype(np.float32)
    scores = device.lira(target, reference, member, **options)
    expected = audit.lira(target, reference, member, **options)
    assert scores.dtype == np.float32
    scale = np.abs(expected).max()
    assert np.allclose(scores, expected, rtol=1e-5, atol=1e-5 * scale)


def test_lira_with_augmentations_and_constant_signals(bank):
    target, reference, member = bank
    targets = np.stack([target, target**2], -1)
    references = np.stack([reference, reference[:, ::-1]], -1)
    with jax.enable_x64(True):
        scores = device.lira(targets, references, member)
        alone = device.lira(targets[0], references, member)
        rows = device.lira_leave_one_out(references, member, variance="fixed")
        constant = device.lira(np.ones(90), np.ones((10, 90)), member)
    expected = audit.lira(targets, references, member)
    assert np.allclose(scores, expected, rtol=1e-11)
    assert np.allclose(alone, expected[0], rtol=1e-11)
    expected = audit.lira_leave_one_out(references, member, variance="fixed")
    assert np.allclose(rows, expected, rtol=1e-10)
    assert (np.asarray(constant) == 0).all()
    with pytest.raises(InputError, match="'median', 'mean'"):
        device.lira(target, reference, member, center="mode")


@pytest.mark.parametrize("num_models", [1, 2, 3, 8, 13])
def test_sorting_over_models_is_exact(num_models):
    from unlearn_jax.audit.device._reductions import sort_over_models

    values = np.random.default_rng(3).integers(-3, 4, (num_models, 40, 2)) / 2
    values[0, 0] = np.inf
    ordered = sort_over_models(jnp.asarray(values))
    assert np.array_equal(ordered, np.sort(values, axis=0))


def test_ulira_equals_the_host_in_float64_and_float32():
    rng = np.random.default_rng(4)
    target, reference = rng.normal(size=(2, 7, 50)) + np.array([[[0.4]], [[0.0]]])
    expected = audit.ulira(target, reference)
    with jax.enable_x64(True):
        result = device.ulira(target, reference)
    assert type(result) is type(expected)
    for name in expected._fields:
        values = getattr(expected, name)
        assert np.allclose(getattr(result, name), values, rtol=1e-12, atol=1e-12)
    narrow = device.ulira(target.astype(np.float32), reference.astype(np.float32))
    scale = np.abs(expected.target).max()
    assert narrow.target.dtype == np.float32
    assert np.allclose(narrow.target, expected.target, rtol=1e-5, atol=1e-5 * scale)
    assert np.allclose(narrow.accuracy, expected.accuracy, atol=1e-6)


def test_curves_equal_the_host(scored):
    scores, positive, _, _ = scored
    curve = audit.roc(scores, positive)
    with jax.enable_x64(True):
        points = jax.device_get(device.roc(scores, positive))
    assert np.isclose(points.auc, curve.auc, rtol=1e-14)
    assert np.array_equal(np.unique(points.thresholds)[::-1], curve.thresholds)
    assert points.balanced_accuracy == curve.balanced_accuracy
    for max_fpr in (0.0, 0.01, 0.2, 1.0):
        assert points.tpr_at_fpr(max_fpr) == curve.tpr_at_fpr(max_fpr)
    narrow = device.auc(scores.astype(np.float32), positive)
    assert np.isclose(narrow, curve.auc, rtol=0, atol=1e-6)
    rows = device.auc(np.stack([scores, -scores]), positive)
    assert np.allclose(rows, [curve.auc, 1 - curve.auc], atol=1e-6)
    assert np.isnan(device.auc(scores, np.ones(120, bool)))
    assert np.isnan(device.auc(np.where(positive, np.nan, scores), positive))


def test_batched_curves_give_one_number_per_curve(scored):
    scores, positive, _, _ = scored
    batch = np.stack([scores, -scores, scores**2]).astype(np.float32)
    alone = [audit.roc(row, positive) for row in batch]
    curves = jax.vmap(audit.roc, in_axes=(0, None))(batch, positive)
    nested = jax.vmap(jax.vmap(audit.roc, in_axes=(0, None)), in_axes=(0, None))
    for points in (curves, jax.device_get(curves)):
        for rate in (0.0, 0.01, 0.1, 0.5, 1.0):
            expected = [curve.tpr_at_fpr(rate) for curve in alone]
            assert np.allclose(points.tpr_at_fpr(rate), expected, rtol=1e-6)
        expected = [curve.balanced_accuracy for curve in alone]
        assert np.allclose(points.balanced_accuracy, expected, rtol=1e-6)
        assert str(points) == (
            "RocCurve of shapes fpr (3, 121), tpr (3, 121), thresholds (3, 121),"
            " auc (3,)"
        )
        with pytest.raises(InputError, match="pass a rate"):
            points.tpr_at_fpr(2.0)
    assert nested(batch[None], positive).tpr_at_fpr(0.1).shape == (1, 3)


def test_traced_curves_equal_concrete_ones(scored):
    scores, positive, _, _ = scored
    scores = scores.astype(np.float32)
    curve = audit.roc(scores, positive)
    texts = []

    @jax.jit
    def rates(scores, positive, max_fpr):
        points = audit.roc(scores, positive)
        texts.append(str(points))
        at_fixed = points.tpr_at_fpr(0.1)
        return at_fixed, points.tpr_at_fpr(max_fpr), points.balanced_accuracy

    at_fixed, at_traced, accuracy = rates(scores, positive, 0.2)
    assert np.isclose(at_fixed, curve.tpr_at_fpr(0.1), rtol=1e-6)
    assert np.isclose(at_traced, curve.tpr_at_fpr(0.2), rtol=1e-6)
    assert np.isclose(accuracy, curve.balanced_accuracy, rtol=1e-6)
    assert texts == [
        "RocCurve of shapes fpr (121,), tpr (121,), thresholds (121,), auc ()"
    ]
    assert np.isnan(rates(scores, positive, 2.0)[1])
    assert np.isnan(rates(scores, positive | True, 0.2)[0])
    assert np.isnan(rates(scores, positive & False, 0.2)[0])


def test_one_curve_gives_floats_and_the_step_of_a_sorted_search(scored):
    scores, positive, _, _ = scored
    curve = audit.roc(scores, positive)
    points = device.roc(scores, positive)
    for rate in (0.0, 0.001, 0.01, 0.1, 1.0):
        place = np.searchsorted(curve.fpr, rate, side="right") - 1
        assert curve.tpr_at_fpr(rate) == float(curve.tpr[place])
        assert type(curve.tpr_at_fpr(rate)) is type(points.tpr_at_fpr(rate)) is float
    assert type(curve.balanced_accuracy) is type(points.balanced_accuracy) is float
    assert str(points) == str(curve)
    assert str(curve).startswith("AUC 0.")


def test_fpr_of_a_tenth_allows_a_float32_rounding():
    scores = np.arange(20, 0, -1, dtype=np.float32)
    positive = np.arange(20) % 2 == 1
    assert audit.roc(scores, positive).tpr_at_fpr(0.1) == 0.1
    assert np.isclose(device.roc(scores, positive).tpr_at_fpr(0.1), 0.1)


def test_large_areas_keep_six_digits_in_float32():
    rng = np.random.default_rng(5)
    member = rng.random(100_000) < 0.3
    scores = (rng.normal(size=100_000) + member).astype(np.float32)
    area = float(device.auc(scores, member))
    assert abs(area - audit.auc(scores, member)) < 1e-6


@pytest.mark.parametrize("max_fpr", [0.0, 0.01, 0.25, 0.5, 1.0])
def test_weighted_statistics_equal_the_host(scored, max_fpr):
    scores, positive, _, weights = scored
    options = {"rtol": 1e-12, "equal_nan": True}
    with jax.enable_x64(True):
        areas = device.weighted_auc(*scored)
        rates = device.weighted_tpr(*scored, max_fpr=max_fpr)
        means = device.weighted_mean(scores, positive, weights)
    assert np.allclose(areas, audit.weighted_auc(*scored), **options)
    assert np.allclose(rates, audit.weighted_tpr(*scored, max_fpr=max_fpr), **options)
    expected = audit.weighted_mean(scores, positive, weights)
    assert np.allclose(means, expected, **options)
    assert np.isnan(areas[3:5]).all()
    narrow = device.weighted_tpr(*scored, max_fpr=max_fpr)
    assert np.allclose(narrow, rates, rtol=1e-6, equal_nan=True)


def test_sample_draws_are_multinomial_within_strata(key):
    strata = np.array([0] * 30 + [1] * 10 + [0] * 20 + [7])
    weights = np.asarray(device.sample_weights(key, 4000, strata))
    assert weights.shape == (4000, 61)
    assert weights.dtype == np.int32
    for stratum in (0, 1, 7):
        size = (strata == stratum).sum()
        assert (weights[:, strata == stratum].sum(1) == size).all()
    assert np.allclose(weights.mean(0), 1, atol=0.08)
    assert np.allclose(weights[:, strata == 1].var(0), 0.9, atol=0.12)
    first, second = weights[:, 30:32].T
    assert abs(np.cov(first, second)[0, 1] + 0.1) < 0.06
    repeated = device.sample_weights(jax.random.clone(key), 4000, strata)
    assert np.array_equal(repeated, weights)


def test_run_draws_are_products_of_level_counts(key):
    factors = np.array([[o, f] for o in (1, 10, 100) for f in (5, 6) for _ in range(2)])
    weights = np.asarray(device.run_weights(key, 3000, factors))
    assert weights.shape == (3000, 12)
    assert np.array_equal(weights[:, ::2], weights[:, 1::2])
    assert (weights.sum(1) == 12).all()
    assert np.allclose(weights.mean(0), 1, atol=0.12)
    table = weights[:, ::2].reshape(-1, 3, 2)
    diagonal = table[:, 0, 0] * table[:, 1, 1]
    assert np.array_equal(diagonal, table[:, 0, 1] * table[:, 1, 0])
    other_key = jax.random.key(1)
    one_original = device.run_weights(
        other_key, 100, np.array([[4, 0], [4, 1], [4, 2]])
    )
    assert (one_original.sum(1) == 3).all()
    assert one_original.std() > 0


def test_host_functions_are_jittable(bank, scored):
    target, reference, member = bank
    scores, positive, _, weights = scored
    calls = [
        (audit.rmia, bank),
        (audit.rmia_ratio, bank),
        (audit.dominated_fraction, (target,)),
        (audit.lira, bank),
        (audit.lira_leave_one_out, (reference, member)),
        (audit.ulira, (reference[:5], reference[5:])),
        (audit.roc, (scores, positive)),
        (audit.auc, (scores, positive)),
        (audit.weighted_auc, scored),
        (audit.weighted_mean, (scores, positive, weights)),
    ]
    with jax.enable_x64(True):
        for function, arguments in calls:
            traced = jax.jit(function)(*arguments)
            on_device = getattr(device, function.__name__)(*arguments)
            chex.assert_trees_all_close(traced, on_device, rtol=1e-12)
            if function is not audit.roc:
                chex.assert_trees_all_close(
                    jax.device_get(traced), function(*arguments), rtol=1e-10
                )
        jitted = jax.jit(lambda *arrays, **kw: audit.weighted_tpr(*arrays, **kw))
        rates = jitted(*scored, max_fpr=0.1)
        gammas = jnp.array([1.0, 2.0])
        by_gamma = jax.vmap(lambda gamma: audit.rmia(*bank, gamma=gamma))(gammas)
    expected = audit.weighted_tpr(*scored, max_fpr=0.1)
    assert np.allclose(rates, expected, equal_nan=True)
    assert np.allclose(by_gamma[1], audit.rmia(*bank), rtol=0, atol=1e-12)
    expected = audit.rmia(*bank, gamma=1.0)
    assert np.allclose(by_gamma[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: audit.lira(x[:3], np.ones((2, 3)), np.eye(2, 3) > 0),
        lambda x: audit.lira_leave_one_out(
            np.ones((4, 1)) * x[:1, None], np.arange(4)[:, None] < 2
        ),
        lambda x: audit.lira(
            x[:1], np.ones((2, 1)), [[True], [False]], variance="fixed"
        ),
        lambda x: audit.roc(x, [True, False] * 2).tpr_at_fpr(0.5),
        lambda x: audit.roc(x, [True, False] * 2).balanced_accuracy,
        lambda x: audit.dominated_fraction(np.ones(3), gamma=-x[0]),
        lambda x: audit.weighted_tpr(
            np.ones(2), [True, False], [False, True], np.ones((1, 2)), max_fpr=2 * x[0]
        ),
    ],
)
def test_traced_calls_give_nan_where_the_host_raises(call):
    x = np.array([1.0, 2.0, np.nan, 3.0])
    with pytest.raises(InputError):
        call(x)
    assert np.isnan(jax.jit(call)(x)).all()


def test_vmap_over_targets_runs_and_resamples(bank, scored):
    target, reference, member = bank
    weights = scored[3]
    over_targets = jax.vmap(device.rmia, in_axes=(0, None, None))
    assert np.array_equal(over_targets(*bank), device.rmia(*bank))
    runs = jax.vmap(device.lira)(
        np.stack([target, target + 0.1]),
        np.stack([reference, reference[::-1]]),
        np.stack([member, member[::-1]]),
    )
    assert np.allclose(runs[0], device.lira(*bank), rtol=1e-5, atol=1e-5)
    resampled = jax.vmap(lambda row: device.weighted_auc(*scored[:3], row[None])[0])
    areas = device.weighted_auc(*scored)
    assert np.allclose(resampled(weights), areas, rtol=1e-6, equal_nan=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda t, r, m: device.rmia(t[:, :5], r, m),
        lambda t, r, m: device.rmia(t, r, m[:3]),
        lambda t, r, m: device.rmia(t, r, m.astype(int)),
        lambda t, r, m: device.rmia(t, r[0], m[0]),
        lambda t, r, m: device.dominated_fraction(t, r),
        lambda t, r, m: device.lira(t[:, :5], r, m),
        lambda t, r, m: device.lira(t, r, m.astype(np.int32)),
        lambda t, r, m: device.ulira(r[:2], r[:2]),
        lambda t, r, m: device.ulira(r[:5], r[:4]),
        lambda t, r, m: device.auc(t[0], m[0].astype(int)),
        lambda t, r, m: device.weighted_auc(t[0], m[0], ~m[0], np.ones(90)),
        lambda t, r, m: device.weighted_mean(t[0], m[0], np.ones((2, 3))),
    ],
)
def test_shapes_are_asserted(bank, call):
    with pytest.raises((AssertionError, InputError)):
        call(*bank)


@pytest.fixture
def large_bank():
    """``target [16, 160]``, ``reference [8, 160]`` and ``member [8, 160]``, float32."""
    rng = np.random.default_rng(7)
    reference = rng.random((8, 160), np.float32)
    target = rng.random((16, 160), np.float32)
    return target, reference, rng.random((8, 160)).argsort(0) < 4


def sharded(bank, axis, *specs):
    """The bank on a mesh of all eight devices."""
    mesh = Mesh(np.array(jax.devices()), axis)
    shardings = [NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs]
    return [jax.device_put(*pair) for pair in zip(bank, shardings, strict=True)]


@pytest.mark.parametrize("function", [device.rmia, device.lira])
def test_targets_on_eight_devices_equal_one(large_bank, function):
    assert len(jax.devices()) == 8
    bank = sharded(large_bank, "targets", ("targets",), (), ())
    scores = function(*bank)
    assert len(scores.sharding.device_set) == 8
    assert np.array_equal(scores, function(*large_bank))
    program = function.lower(*bank).compile().as_text()
    assert "all-gather" not in program
    assert "all-reduce" not in program


@pytest.mark.parametrize("function", [device.rmia_ratio, device.lira])
def test_samples_on_eight_devices_equal_one(large_bank, function):
    bank = sharded(large_bank, "samples", *[(None, "samples")] * 3)
    assert np.array_equal(function(*bank), function(*large_bank))
    program = function.lower(*bank).compile().as_text()
    assert "all-gather" not in program
    assert "all-reduce" not in program


def test_rmia_by_pmap_equals_one_device(large_bank):
    target, *bank = large_bank
    expected = device.rmia(*large_bank)
    mapped = jax.pmap(lambda rows: device.rmia(rows, *bank))
    scores = mapped(target.reshape(8, 2, 160))
    assert np.array_equal(scores.reshape(16, 160), expected)
    mapper = replicas.mapper(num_models=16)
    assert mapper.name.startswith("pmap[8]")
    scores = replicas.map_models(
        mapper, lambda row, shared: device.rmia(row, *shared), target, bank
    )
    assert np.array_equal(scores, expected)


@pytest.fixture
def models():
    """``apply_fn``, four models' variables, images and labels."""
    rng = np.random.default_rng(6)
    variables = {"params": {"kernel": rng.normal(size=(4, 12, 3)).astype(np.float32)}}

    def apply_fn(variables, images):
        return images.reshape(len(images), -1) @ variables["params"]["kernel"]

    images = rng.integers(0, 256, (25, 2, 2, 3), dtype=np.uint8)
    return apply_fn, variables, images, rng.integers(0, 3, 25)


@pytest.mark.parametrize("signal", ["taylor_softmax", "logit_margin", audit.entropy])
@pytest.mark.parametrize("form", [None, "loop", "map", "vmap"])
def test_shadow_signals_equal_one_model_at_a_time(models, signal, form):
    apply_fn, variables, images, labels = models
    mapper = replicas.mapper(form, num_models=4) if form else None
    signals = audit.shadow_signals(*models, signal=signal, mapper=mapper, batch_size=7)
    signal_fn = audit.SIGNALS[signal] if isinstance(signal, str) else signal
    single = replicas.mapper("loop", num_models=4, devices=1)
    alone = audit.shadow_signals(*models, signal=signal, mapper=single)
    assert np.allclose(signals, alone, rtol=1e-5, atol=1e-6)
    for m, row in enumerate(signals):
        one = jax.tree.map(lambda leaf, m=m: leaf[m], variables)
        logits = apply_fn(one, images.astype(np.float32) / 255)
        assert np.allclose(row, signal_fn(logits, labels), rtol=1e-4, atol=1e-4)


def test_shadow_signals_refuse_what_does_not_fit(models):
    apply_fn, variables, images, labels = models
    model = Model(lambda key: None, apply_fn, lambda v, x, key: (None, None))
    for arguments, options, message in (
        ((model, variables, images, labels), {}, "pass model.apply"),
        (models, {"signal": "loss"}, "unknown signal 'loss'"),
        ((apply_fn, {}, images, labels), {}, "leaves"),
        ((apply_fn, {"a": np.ones(3), "b": np.ones(4)}, images, labels), {}, "leaves"),
        ((apply_fn, variables, images, labels[:9]), {}, "one label per image"),
        ((apply_fn, variables, images[:0], labels[:0]), {}, "no images"),
        ((apply_fn, variables, images, labels + 9), {}, "labels must lie in 0..2"),
        ((apply_fn, variables, images, labels / 2), {}, "labels must be integers"),
        (models, {"mapper": "zz"}, "must be a replicas.Mapper"),
        (models, {"batch_size": 0}, "batch_size must be"),
    ):
        with pytest.raises(InputError, match=message):
            audit.shadow_signals(*arguments, **options)


def test_shadow_signals_check_labels_without_another_trace(models):
    apply_fn, variables, images, labels = models
    traces = []

    def counted(variables, images):
        traces.append(images.shape)
        return apply_fn(variables, images)

    first = audit.shadow_signals(counted, variables, images, labels)
    num_traces = len(traces)
    again = audit.shadow_signals(counted, variables, images, jnp.asarray(labels))
    assert np.array_equal(first, again)
    assert len(traces) == num_traces


def test_shadow_signals_of_one_output_take_any_integers(models):
    _, variables, images, labels = models

    def margin(variables, images):
        return images.reshape(len(images), -1) @ variables["params"]["kernel"][:, :1]

    def signed(logits, labels):
        return logits[:, 0] * labels

    signs = 2 * (labels > 0) - 1
    signals = audit.shadow_signals(margin, variables, images, signs, signal=signed)
    assert signals.shape == (4, 25)
