"""LiRA equals TF-Privacy's published numbers, a slow loop, and theory; leaving a model
out equals removing it.
"""

import itertools
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small import half_design

from unlearn_jax.audit import auc, auc_interval, lira, lira_leave_one_out
from unlearn_jax.types import InputError

VARIANCES = ["per_sample", "fixed_centered", "fixed_global", "fixed_separate"]
MODES = [
    {"mode": "online"},
    {"mode": "offline"},
    {"mode": "offline", "offline_score": "cdf"},
]
OPTIONS = [
    {"variance": variance, "center": center, **mode}
    for variance, center, mode in itertools.product(
        VARIANCES, ["median", "mean"], MODES
    )
]


def log_normal(x, mean, std):
    return -(((x - mean) / std) ** 2) / 2 - math.log(std) - math.log(2 * math.pi) / 2


def fixed_std(lists, variance, average):
    """One standard deviation of a side's lists of values, one list per sample."""
    origin = [
        average(values) if variance == "fixed_centered" else 0.0 for values in lists
    ]
    return np.std(
        [
            value - zero
            for values, zero in zip(lists, origin, strict=True)
            for value in values
        ]
    )


def lira_loop(
    target,
    ins,
    outs,
    *,
    mode="online",
    variance="per_sample",
    center="median",
    offline_score="density",
):
    """LiRA sample by sample from lists of values; ``target [N]``, one augmentation."""
    average = {"median": np.median, "mean": np.mean}[center]
    scores = []
    for x, inside, outside in zip(target, ins, outs, strict=True):
        if variance == "per_sample":
            std_in, std_out = np.std(inside), np.std(outside)
        else:
            std_in, std_out = (
                fixed_std(side, variance, average) for side in (ins, outs)
            )
        if mode == "online":
            std_out = std_in if variance == "fixed_global" else std_out
            score = log_normal(x, average(inside), std_in) - log_normal(
                x, average(outside), std_out
            )
        elif offline_score == "density":
            score = -log_normal(x, average(outside), std_out)
        else:
            score = math.log(
                math.erfc(-(x - average(outside)) / std_out / math.sqrt(2)) / 2
            )
        scores.append(score)
    return np.array(scores)


def split(reference, member, without=(), balance=False):
    """Lists of IN and of OUT values per sample, one model taken out; balanced, also the
    other side's last.
    """
    ins, outs = [], []
    for values, trained in zip(reference.T, member.T, strict=True):
        both = [
            [(m, v) for m, v in enumerate(values) if trained[m] == side]
            for side in (True, False)
        ]
        kept = [[v for m, v in pairs if m not in without] for pairs in both]
        for values_kept, pairs in zip(kept, both, strict=True):
            if balance and len(values_kept) == len(pairs):
                values_kept.pop()
        ins.append(kept[0])
        outs.append(kept[1])
    return ins, outs


@pytest.fixture
def case():
    """A small bank in which training on a sample raises its signal."""
    rng = np.random.default_rng(0)
    member = half_design(rng, 8, 30)
    reference = rng.normal(size=(8, 30)) + 2 * rng.normal(size=30) + member
    return rng.normal(size=30), reference.astype(np.float32), member


# TF-Privacy's unit tests (advanced_mia_test.py): its scores are low for members, ours
# are minus its. OUT = -IN.
TFP_TARGET = [1.0, 0.0, 0.0]
TFP_IN = np.array([[-1.0, 0.0, 0.0], [1.0, 2.0, 20.0]])
TFP_OUT_ONLY = {
    "per_sample": [-1.41893853, -1.41893853, -3.72152363],
    "fixed": [-2.69682468, -2.69682468, -4.15270703],
}
FIRST_TWO = np.arange(4)[:, None] < 2


@pytest.mark.parametrize("center", ["median", "mean"])
@pytest.mark.parametrize("variance", TFP_OUT_ONLY)
def test_tf_privacy_numbers(variance, center):
    reference, member = (
        np.concatenate([TFP_IN, -TFP_IN]),
        np.repeat(FIRST_TWO, 3, axis=1),
    )
    options = {"variance": variance, "center": center}
    out_only = lira(TFP_TARGET, reference, member, mode="offline", **options)
    assert np.allclose(-out_only, TFP_OUT_ONLY[variance], atol=1e-7)
    in_only = -lira(
        TFP_TARGET, reference, ~member, mode="offline", **options
    )  # log Pr(IN): high for members
    assert np.allclose(-in_only, -np.array(TFP_OUT_ONLY[variance]), atol=1e-7)
    assert np.allclose(lira(TFP_TARGET, reference, member, **options), 0, atol=1e-12)


@pytest.mark.parametrize("center", ["median", "mean"])
def test_tf_privacy_numbers_with_two_augmentations(center):
    inside = np.array([[[-1.0, 0.0]], [[1.0, 20.0]]])
    reference, target = np.concatenate([inside, -inside]), [[1.0, 0.0]]
    assert np.allclose(lira(target, reference, FIRST_TWO, center=center), 0, atol=1e-12)
    assert np.allclose(
        lira(target, reference, FIRST_TWO, mode="offline", center=center),
        2.57023108,
        atol=1e-8,
    )


@pytest.mark.parametrize("options", OPTIONS, ids=lambda k: "-".join(k.values()))
def test_equals_the_loop(case, options):
    target, reference, member = case
    expected = lira_loop(
        target, *split(reference.astype(np.float64), member), **options
    )
    scores = lira(target, reference, member, **options)
    assert scores.dtype == np.float64
    assert np.allclose(scores, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("balance", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda k: "-".join(k.values()))
def test_leave_one_out_equals_removing_the_model(case, options, balance):
    _, reference, member = case
    scores = lira_leave_one_out(reference, member, balance=balance, **options)
    for m, row in enumerate(scores):
        ins, outs = split(
            reference.astype(np.float64), member, without=(m,), balance=balance
        )
        assert np.allclose(
            row,
            lira_loop(reference[m].astype(np.float64), ins, outs, **options),
            rtol=1e-8,
            atol=1e-8,
        )
        if not balance:
            alone = lira(
                reference[m],
                np.delete(reference, m, axis=0),
                np.delete(member, m, axis=0),
                **options,
            )
            assert np.allclose(row, alone, rtol=1e-9, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(6, 11),
    st.integers(1, 6),
    st.integers(0, 2),
    st.sampled_from(OPTIONS),
)
def test_leave_one_out_with_ties_odd_sizes_and_augmentations(
    seed, models, samples, augmentations, options
):
    rng = np.random.default_rng(seed)
    shape = (models, samples, augmentations)[: 2 + bool(augmentations)]
    reference = rng.integers(-2, 3, shape) / 2
    member = rng.random((models, samples)).argsort(0) < 3
    scores = lira_leave_one_out(
        reference, member, balance=False, min_std=0.1, **options
    )
    rest = [np.delete(np.arange(models), m) for m in range(models)]
    slow = [
        lira(reference[m], reference[others], member[others], min_std=0.1, **options)
        for m, others in enumerate(rest)
    ]
    assert np.allclose(scores, slow, rtol=1e-8, atol=1e-8)


def test_scores_do_not_depend_on_the_block_size(case, monkeypatch):
    _, reference, member = case
    whole = lira_leave_one_out(reference, member, variance="fixed")
    monkeypatch.setattr(
        sys.modules[lira.__module__], "_BLOCK", 60
    )  # 7 samples, or 2 models
    assert np.allclose(
        lira_leave_one_out(reference, member, variance="fixed"), whole, rtol=1e-12
    )


def test_augmentations_are_averaged(case):
    target, reference, member = case
    targets, references = (
        np.stack([target, target**2], -1),
        np.stack([reference, reference[:, ::-1]], -1),
    )
    one, other = (
        lira(target, reference, member),
        lira(target**2, reference[:, ::-1], member),
    )
    assert np.allclose(lira(targets, references, member), (one + other) / 2, rtol=1e-12)
    many = lira(np.stack([targets, targets + 1]), references, member)
    assert np.array_equal(
        many, [lira(targets, references, member), lira(targets + 1, references, member)]
    )


def test_many_targets_and_jax_arrays(case):
    target, reference, member = case
    targets = np.stack([target, target**2, -target])
    alone = [lira(t, reference, member, variance="fixed") for t in targets]
    assert np.array_equal(lira(targets, reference, member, variance="fixed"), alone)
    as_jax = lira(
        targets, jnp.asarray(reference), jnp.asarray(member), variance="fixed_centered"
    )
    assert np.array_equal(as_jax, alone)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda k: "-".join(k.values()))
def test_samples_models_shift_and_unit_do_not_matter(case, options):
    target, reference, member = case
    rng = np.random.default_rng(1)
    scores = lira(target, reference, member, **options)
    n, m = rng.permutation(30), rng.permutation(8)
    assert np.allclose(
        lira(target[n], reference[:, n], member[:, n], **options), scores[n], rtol=1e-9
    )
    assert np.allclose(
        lira(target, reference[m], member[m], **options), scores, rtol=1e-9
    )
    unit = (
        3 * target + 5,
        3 * reference.astype(np.float64) + 5,
    )  # a density is in units of the signal
    offset = (
        math.log(3)
        if options["mode"] == "offline" and "offline_score" not in options
        else 0
    )
    assert np.allclose(lira(*unit, member, **options), scores + offset, rtol=1e-6)


def gaussian_bank(rng, distance, samples=6000):
    """Targets N(mu + d, 1) for members and N(mu, 1) for others, and references with
    exactly these moments.
    """
    mu, is_member = 3 * rng.normal(size=samples), rng.random(samples) < 0.5
    reference = mu + np.array([distance - 1, distance + 1, -1.0, 1.0])[:, None]
    return (
        mu + distance * is_member + rng.normal(size=samples),
        reference,
        np.repeat(FIRST_TWO, samples, 1),
        is_member,
    )


@pytest.mark.parametrize("distance", [0.5, 1.5])
def test_auc_matches_that_of_two_gaussians(distance):
    target, reference, member, is_member = gaussian_bank(
        np.random.default_rng(2), distance
    )
    expected = 0.5 * math.erfc(-distance / 2)  # Phi(d / sqrt 2)
    for options in (
        {},
        {"variance": "fixed"},
        {"mode": "offline", "offline_score": "cdf"},
    ):
        scores = lira(target, reference, member, **options)
        low, high = auc_interval(scores, is_member, level=0.99, num_replicates=200)
        assert low < expected < high
        assert high - low < 0.04
    exact = (
        distance * (target - reference[2:].mean(0)) - distance**2 / 2
    )  # the likelihood ratio itself
    assert np.allclose(lira(target, reference, member), exact, atol=1e-9)


def test_one_number_for_both_sides_does_not_change_the_order(case):
    target, reference, member = case
    ins, outs = (
        np.median(side, axis=1) for side in map(np.array, split(reference, member))
    )
    margin = (ins - outs) * (target - (ins + outs) / 2)
    scores = lira(target, reference, member, variance="fixed_global")
    assert np.array_equal(np.argsort(scores), np.argsort(margin))
    assert not np.array_equal(
        np.argsort(lira(target, reference, member)), np.argsort(margin)
    )


def test_lira_is_zero_for_equal_member_and_nonmember_signals():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(5, 40))
    reference, member = (
        np.concatenate([values, values]),
        np.repeat(np.arange(10)[:, None] < 5, 40, axis=1),
    )
    for variance in VARIANCES:
        assert (
            lira(rng.normal(size=40), reference, member, variance=variance) == 0
        ).all()


@pytest.mark.parametrize("options", OPTIONS, ids=lambda k: "-".join(k.values()))
def test_exchangeable_signals_give_an_area_of_one_half(options):
    rng = np.random.default_rng(4)
    hardness = 3 * rng.normal(size=3000)
    reference, target = (
        hardness + rng.normal(size=(6, 3000)),
        hardness + rng.normal(size=3000),
    )
    member, is_member = half_design(rng, 6, 3000), rng.random(3000) < 0.5
    low, high = auc_interval(
        lira(target, reference, member, **options),
        is_member,
        level=0.999,
        num_replicates=200,
    )
    assert low < 0.5 < high
    scores = lira_leave_one_out(reference, member, **options)
    assert (
        abs(np.mean([auc(s, m) for s, m in zip(scores, member, strict=True)]) - 0.5)
        < 0.02
    )


def test_unbalanced_leave_one_out_leaks_the_number_of_members():
    rng = np.random.default_rng(5)
    reference, member = rng.normal(size=(6, 3000)), half_design(rng, 6, 3000)
    scores = lira_leave_one_out(reference, member, balance=False)
    assert np.mean([auc(s, m) for s, m in zip(scores, member, strict=True)]) < 0.4


def test_offline_reads_only_models_without_the_sample(case):
    target, reference, member = case
    poisoned = np.where(member, np.nan, reference)
    for variance in VARIANCES:
        offline = {"mode": "offline", "variance": variance}
        assert np.array_equal(
            lira(target, poisoned, member, **offline),
            lira(target, reference, member, **offline),
        )
    with pytest.raises(InputError, match="reference has 120 values"):
        lira(target, poisoned, member)


def test_density_and_tail_differ_below_the_out_models():
    reference, member = np.array([[-1.0] * 3, [1.0] * 3]), np.zeros((2, 3), bool)
    density, tail = (
        lira([-4.0, 0.0, 4.0], reference, member, mode="offline", offline_score=s)
        for s in ("density", "cdf")
    )
    assert density[0] == density[2] > density[1]
    assert tail[0] < tail[1] < tail[2] < 0


def test_constant_signals_stay_finite():
    reference, member = np.ones((6, 2)), np.repeat(np.arange(6)[:, None] < 3, 2, axis=1)
    for options in OPTIONS:
        assert np.isfinite(lira([1.0, 1e30], reference, member, **options)).all()
        assert np.isfinite(lira_leave_one_out(reference, member, **options)).all()
    reference = reference + (~member) * 2.0
    assert lira([1.0, 3.0], reference, member, min_std=0.5).tolist() == [
        8,
        -8,
    ]  # (2 / 0.5)^2 / 2


def _broken(change):
    rng = np.random.default_rng(0)
    arguments = {
        "target": rng.random(6),
        "reference": rng.random((4, 6)),
        "member": half_design(rng, 4, 6),
    }
    return lira(**arguments | change(arguments))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: {"target": np.ones(5)}, "same samples"),
        (lambda a: {"target": np.ones((2, 3, 6))}, "1 or 2 axes"),
        (
            lambda a: {"target": np.ones((6, 2)), "reference": np.ones((4, 6, 3))},
            "same samples",
        ),
        (lambda a: {"target": np.full(6, np.nan)}, "target has 6"),
        (lambda a: {"target": np.full(6, -np.inf)}, "target has 6"),
        (lambda a: {"reference": np.ones(6)}, "2 or 3 axes"),
        (
            lambda a: {"reference": a["reference"] * [1, 1, np.nan, 1, 1, 1]},
            "reference has 4",
        ),
        (lambda a: {"member": a["member"].astype(int)}, "boolean mask"),
        (lambda a: {"member": a["member"][:2]}, "shape"),
        (
            lambda a: {"member": np.zeros((4, 6), bool), "variance": "fixed"},
            "fewer than 1 IN",
        ),
        (
            lambda a: {"member": np.ones((4, 6), bool), "variance": "fixed"},
            "fewer than 1 OUT",
        ),
        (
            lambda a: {"member": np.ones((4, 6), bool), "mode": "offline"},
            "fewer than 2 OUT",
        ),
        (
            lambda a: {k: a[k][:2] for k in ("reference", "member")},
            "6 samples have fewer than 2 .* fixed variance",
        ),
        (
            lambda a: {
                "reference": np.ones((2, 6)),
                "member": np.eye(2, 6, dtype=bool)[:, [0, 1, 0, 1, 0, 1]],
            },
            "than 2",
        ),
        (
            lambda a: {
                "reference": np.ones((2, 6)),
                "member": np.eye(2, dtype=bool)[:, [0, 1] * 3],
                "variance": "fixed",
            },
            "too few for a fixed",
        ),
        (lambda a: {"mode": "sideways"}, "'online', 'offline'"),
        (lambda a: {"variance": "global"}, "'fixed_separate'"),
        (lambda a: {"center": "mode"}, "'median', 'mean'"),
        (lambda a: {"offline_score": "pdf"}, "'density', 'cdf'"),
        (lambda a: {"min_std": 0.0}, "min_std"),
        (lambda a: {"min_std": np.nan}, "min_std"),
    ],
)
def test_bad_input_is_one_line(change, message):
    with pytest.raises(InputError, match=message) as error:
        _broken(change)
    assert "\n" not in str(error.value)


def test_leaving_one_out_needs_one_more():
    rng = np.random.default_rng(0)
    reference, member = rng.random((4, 6)), half_design(rng, 4, 6)
    with pytest.raises(InputError, match="6 samples have fewer than 3 IN"):
        lira_leave_one_out(reference, member)
    with pytest.raises(InputError, match="too few for a fixed"):
        lira_leave_one_out(reference, member, variance="fixed")
    assert lira_leave_one_out(reference, member, variance="fixed_global").shape == (
        4,
        6,
    )
    with pytest.raises(InputError, match="reference has 1"):
        lira_leave_one_out(
            np.where(np.arange(6) + np.arange(4)[:, None], reference, np.nan),
            member,
            mode="offline",
        )
