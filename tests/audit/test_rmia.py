"""RMIA equals the pairwise definition exactly, ties, zeros and negative ratios
included.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import oracles
from support.small import half_design

from unlearn_jax import audit
from unlearn_jax.audit import auc, dominated_fraction, rmia, rmia_ratio
from unlearn_jax.types import InputError

# Few distinct values, powers of two and their negatives: every kind of tie,
# self-comparisons included.
TIED = arrays(
    np.float64,
    st.integers(2, 25),
    elements=st.sampled_from([-4, -2, -1, -0.0, 0, 0.5, 1, 2, 4]),
)
WILD = arrays(np.float64, st.integers(2, 25), elements=st.floats(allow_nan=False))
GAMMAS = st.sampled_from([0.3, 0.5, 1.0, 2.0, 3.7])


@pytest.fixture
def case():
    """Signals that are multiples of 1/64, so that every mean is exact in whatever order
    it is summed.
    """
    rng = np.random.default_rng(0)
    target = rng.integers(1, 64, 50).astype(np.float32) / 64
    reference = rng.integers(1, 64, (8, 50)).astype(np.float32) / 64
    return target, reference, half_design(rng, 8, 50)


@settings(deadline=None, max_examples=200)
@given(st.one_of(TIED, WILD), GAMMAS)
def test_fraction_of_others_matches_pairwise_comparison(ratio, gamma):
    with np.errstate(over="ignore", under="ignore"):
        expected = oracles.rmia_pairwise(ratio, gamma=gamma)
        assert np.array_equal(dominated_fraction(ratio, gamma=gamma), expected)


@settings(deadline=None, max_examples=200)
@given(st.one_of(TIED, WILD), st.one_of(TIED, WILD), GAMMAS)
def test_fraction_of_a_population_matches_pairwise_comparison(ratio, population, gamma):
    with np.errstate(over="ignore", under="ignore"):
        expected = oracles.rmia_pairwise(ratio, population, gamma=gamma)
        assert np.array_equal(
            dominated_fraction(ratio, population, gamma=gamma), expected
        )


@settings(deadline=None, max_examples=100)
@given(TIED, GAMMAS, st.randoms(use_true_random=False))
def test_dominated_fraction_is_invariant_to_order_and_scale(ratio, gamma, random):
    share = dominated_fraction(ratio, gamma=gamma)
    order = random.sample(range(ratio.size), ratio.size)
    assert np.array_equal(dominated_fraction(ratio[order], gamma=gamma), share[order])
    assert np.array_equal(dominated_fraction(ratio * 2.0**-5, gamma=gamma), share)
    against_all = dominated_fraction(ratio, ratio, gamma=gamma)
    assert (np.diff(against_all[np.argsort(ratio)]) >= 0).all()


def test_zero_and_negative_ratios_follow_the_strict_inequality():
    # dividing by 0 gives the same
    assert dominated_fraction([1.0, 0.0, -1.0], [0.0]).tolist() == [1, 0, 0]
    # above 2 * -1, strictly
    scores = dominated_fraction([1.0, -1.0, -2.0, -3.0], [-1.0])
    assert scores.tolist() == [1, 1, 0, 0]
    # each is above twice the other, never itself
    assert dominated_fraction([-1.0, -1.0]).tolist() == [1, 1]
    assert dominated_fraction([np.inf, np.inf, -np.inf]).tolist() == [0.5, 0.5, 0]


def test_positive_ratios_agree_with_the_papers_quotient():
    ratio = np.random.default_rng(0).lognormal(size=300)
    for gamma in (1.0, 2.0):
        expected = oracles.rmia_pairwise_quotient(ratio, gamma=gamma)
        assert np.allclose(dominated_fraction(ratio, gamma=gamma), expected, atol=1e-12)


# Powers of two: the division is exact, and 0 has one sign.
EXACT = arrays(
    np.float64,
    st.integers(2, 25),
    elements=st.sampled_from([-4.0, -2.0, -1.0, 0.0, 0.5, 1.0, 2.0, 4.0]),
)


@settings(deadline=None, max_examples=100)
@given(EXACT, EXACT, st.sampled_from([0.5, 1.0, 2.0]))
def test_the_quotient_is_the_released_codes_division(ratio, population, gamma):
    with np.errstate(divide="ignore", invalid="ignore"):
        own = oracles.rmia_pairwise_quotient(ratio, gamma=gamma)
        of_others = oracles.rmia_pairwise_quotient(ratio, population, gamma=gamma)
    options = {"gamma": gamma, "comparison": "quotient"}
    assert np.array_equal(dominated_fraction(ratio, **options), own)
    assert np.array_equal(dominated_fraction(ratio, population, **options), of_others)
    on_device = audit.device.dominated_fraction
    np.testing.assert_allclose(on_device(ratio, **options), own, atol=1e-6)
    np.testing.assert_allclose(
        on_device(ratio, population, **options), of_others, atol=1e-6
    )


def test_the_quotient_rewards_a_more_negative_ratio_and_the_product_does_not():
    population = [-1.0]
    ratio = [-0.5, -3.0]
    assert dominated_fraction(ratio, population).tolist() == [1, 0]
    quotient = dominated_fraction(ratio, population, comparison="quotient")
    assert quotient.tolist() == [0, 1]
    positive = np.random.default_rng(0).lognormal(size=100)
    assert np.array_equal(
        dominated_fraction(positive),
        dominated_fraction(positive, comparison="quotient"),
    )
    with pytest.raises(InputError, match="pass 'product' or 'quotient'"):
        dominated_fraction(ratio, comparison="ratio")


@pytest.mark.parametrize(
    "options",
    [{}, {"trim": 0.2}, {"mode": "offline"}, {"mode": "offline", "offline_a": 0.6}],
)
def test_equals_the_oracle(case, options):
    target, reference, member = case
    ratio = target / oracles.rmia_average(reference, member, **options)
    assert np.allclose(
        rmia_ratio(target, reference, member, **options), ratio, rtol=1e-14
    )
    scores = rmia(target, reference, member, **options)
    assert scores.dtype == np.float64
    assert np.array_equal(
        scores, oracles.rmia_pairwise(rmia_ratio(target, reference, member, **options))
    )
    as_jax = rmia(
        jnp.asarray(target), jnp.asarray(reference), jnp.asarray(member), **options
    )
    assert np.array_equal(as_jax, scores)


@pytest.mark.parametrize("options", [{}, {"mode": "offline", "gamma": 1.0}])
def test_equals_the_oracle_with_a_population(case, options):
    target, reference, member = case
    rng = np.random.default_rng(1)
    population, others = (
        rng.integers(-64, 65, 30) / 64,
        rng.integers(1, 64, (8, 30)) / 64,
    )
    mode = {"mode": options.get("mode", "online")}
    z = population / oracles.rmia_average(others, np.zeros((8, 30), bool), **mode)
    x = target / oracles.rmia_average(reference, member, **mode)
    scores = rmia(
        target,
        reference,
        member,
        population=population,
        reference_population=others,
        **options,
    )
    assert np.array_equal(
        scores, oracles.rmia_pairwise(x, z, gamma=options.get("gamma", 2.0))
    )


def test_many_targets_are_scored_as_one_by_one(case):
    target, reference, member = case
    targets = np.stack([target, target[::-1], target**2])
    alone = [rmia(t, reference, member) for t in targets]
    assert np.array_equal(rmia(targets, reference, member), alone)
    pool = {"population": targets[:, :9], "reference_population": reference[:, :9]}
    alone = [
        rmia(t, reference, member, **pool | {"population": t[:9]}) for t in targets
    ]
    assert np.array_equal(rmia(targets, reference, member, **pool), alone)


def test_samples_models_and_units_do_not_matter(case):
    target, reference, member = case
    rng = np.random.default_rng(2)
    scores = rmia(target, reference, member)
    samples, models = rng.permutation(50), rng.permutation(8)
    assert np.array_equal(
        rmia(target[samples], reference[:, samples], member[:, samples]),
        scores[samples],
    )
    assert np.array_equal(rmia(target, reference[models], member[models]), scores)
    unit = np.float32(2.0) ** rng.integers(
        -3, 4, 50
    )  # a sample's own unit cancels in its ratio
    assert np.array_equal(rmia(target * unit, reference * unit, member), scores)


def test_offline_reads_only_references_without_the_sample(case):
    target, reference, member = case
    poisoned = np.where(member, 1000.0, reference)
    offline = {"mode": "offline"}
    assert np.array_equal(
        rmia(target, poisoned, member, **offline),
        rmia(target, reference, member, **offline),
    )
    assert not np.array_equal(
        rmia(target, reference, ~member, **offline),
        rmia(target, reference, member, **offline),
    )


def test_members_score_higher_and_equal_treatment_scores_alike():
    rng = np.random.default_rng(3)
    member = half_design(rng, 16, 600)
    hardness = rng.random(600)
    signal = np.clip(
        hardness + 0.3 * member + 0.05 * rng.normal(size=member.shape), 0.01, None
    )
    target_member = rng.random(600) < 0.5
    target = np.clip(
        hardness + 0.3 * target_member + 0.05 * rng.normal(size=600), 0.01, None
    )
    for mode in ("online", "offline"):
        assert (
            auc(rmia(target, signal, member, mode=mode, gamma=1.0), target_member) > 0.9
        )
    assert (
        abs(auc(rmia(hardness, signal, member, gamma=1.0), target_member) - 0.5) < 0.07
    )


def test_a_reference_average_of_zero():
    reference = np.zeros((2, 3))
    member = np.array([[True, True, False], [False, False, True]])
    assert rmia_ratio(np.array([0.0, 0.5, -0.5]), reference, member).tolist() == [
        1,
        np.inf,
        -np.inf,
    ]
    assert rmia(np.array([0.0, 0.5, -0.5]), reference, member).tolist() == [0.5, 1, 0]


def test_a_design_that_is_not_half_can_be_accepted(case):
    target, reference, _ = case
    member = np.zeros((7, 50), bool)
    with pytest.raises(InputError, match="even number"):
        rmia(target, reference[:7], member)
    assert rmia(target, reference[:7], member, check_design=False).shape == (50,)


def _broken(change):
    rng = np.random.default_rng(0)
    arguments = {
        "target": rng.random(6),
        "reference": rng.random((4, 6)),
        "member": half_design(rng, 4, 6),
    }
    return rmia(**arguments | change(arguments))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"target": np.ones((1, 2, 3))}, "1 or 2 axes"),
        (lambda a: {"target": np.ones(5)}, "same samples"),
        (lambda a: {"target": np.full(6, np.nan)}, "NaN or infinite"),
        (lambda a: {"target": np.array(["a"] * 6)}, "real numbers"),
        (lambda a: {"reference": np.ones(6)}, "2 axes"),
        (
            lambda a: {"reference": a["reference"][:1], "member": a["member"][:1]},
            "at least 2 reference",
        ),
        (
            lambda a: {"reference": a["reference"] * [1, 1, np.nan, 1, 1, 1]},
            "average has 1 values",
        ),
        (lambda a: {"member": a["member"].astype(int)}, "boolean mask"),
        (lambda a: {"member": a["member"][:2]}, "shape"),
        (lambda a: {"member": np.ones((4, 6), bool)}, "exactly half"),
        (
            lambda a: {"member": np.ones((4, 6), bool), "mode": "offline"},
            "every reference",
        ),
        (lambda a: {"mode": "sideways"}, "'online' or 'offline'"),
        (lambda a: {"gamma": 0.0}, "gamma"),
        (lambda a: {"gamma": np.nan}, "gamma"),
        (lambda a: {"trim": 0.5}, "trim"),
        (lambda a: {"trim": 0.2, "mode": "offline"}, "trim applies"),
        (lambda a: {"offline_a": 1.5, "mode": "offline"}, "offline_a"),
        (lambda a: {"population": np.ones(3)}, "both or neither"),
        (
            lambda a: {
                "population": np.ones(3),
                "reference_population": np.ones((3, 3)),
            },
            "same models",
        ),
        (
            lambda a: {
                "population": np.ones((2, 3)),
                "reference_population": np.ones((4, 3)),
            },
            "one row per target",
        ),
        (lambda a: {k: a[k][..., :1] for k in a}, "pass a population"),
    ],
)
def test_bad_input_is_one_line(change, message):
    with pytest.raises(InputError, match=message):
        _broken(change)


def test_ratios_must_be_numbers():
    with pytest.raises(InputError, match="1 NaN"):
        dominated_fraction([1.0, np.nan])
    with pytest.raises(InputError, match="1 NaN"):
        dominated_fraction([1.0], [np.nan])
    with pytest.raises(InputError, match="at least one element"):
        dominated_fraction([], [1.0])


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_the_references_average_serves_any_number_of_targets(mode):
    rng = np.random.default_rng(0)
    reference = rng.random((6, 40)).astype(np.float32)
    member = rng.random((6, 40)).argsort(axis=0) < 3
    target = rng.random((2, 40)).astype(np.float32)
    average = audit.reference_average(reference, member, mode=mode, offline_a=0.4)
    expected = []
    for n in range(40):
        values = reference[:, n] if mode == "online" else reference[~member[:, n], n]
        mean = np.mean(values.astype(float))
        expected.append(mean if mode == "online" else (1.4 * mean + 0.6) / 2)
    assert np.allclose(average, expected, rtol=1e-14)
    ratio = audit.ratio_to_average(target, average)
    options = {"mode": mode, "offline_a": 0.4}
    assert np.array_equal(ratio, audit.rmia_ratio(target, reference, member, **options))
    assert np.array_equal(ratio[1], audit.ratio_to_average(target[1], average))
    zeros = audit.ratio_to_average(np.zeros(3), np.array([0.0, 1.0, -2.0]))
    assert zeros.tolist() == [1.0, 0.0, 0.0]
