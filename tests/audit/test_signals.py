"""Signals equal their formulas, follow the labels, and stay finite where probabilities
saturate.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import oracles
from support.refusals import assert_refused

from unlearn_jax import audit
from unlearn_jax.audit import signals

LOGITS = np.array(
    [[2, 1, -1], [0.5, -0.3, 3], [10, -2, -4], [-3, 6, 1], [1, 1, 1]], np.float32
)
LABELS = np.array([0, 2, 0, 1, 2])

GOLDEN = {  # independently computed, see the formulas in each docstring
    "softmax T=1": [
        0.7053845127,
        0.8936804731,
        0.9999930243,
        0.9931854006,
        0.3333333333,
    ],
    "soft margin T=1": [
        0.5678469178,
        0.8218452166,
        0.9999872895,
        0.9876521679,
        0.2153205942,
    ],
    "cubic T=1": [0.5612324493, 0.7824739449, 1.0320837314, 0.9860794031, 0.218444705],
    "quartic T=1": [0.5645460451, 0.8066252957, 0.989815198, 0.9529226756, 0.215930365],
    "softmax T=2": [
        0.5465493873,
        0.676336152,
        0.9966208234,
        0.9147507253,
        0.3333333333,
    ],
    "soft margin T=2": [
        0.3981302881,
        0.5341927352,
        0.9938597968,
        0.854839287,
        0.2153205942,
    ],
    "cubic T=2": [0.3985029407, 0.530841803, 1.0, 0.834018849, 0.2156161881],
    "quartic T=2": [
        0.3981202447,
        0.5336096274,
        0.9844673053,
        0.8383386151,
        0.2153496937,
    ],
    "taylor": [0.6785714286, 0.8449056522, 1.0270676692, 0.9891891892, 0.3333333333],
    "phi": [0.873071989, 2.1288993341, 11.873071989, 4.9818500721, -0.6931471806],
    "entropy": [0.71386576, 0.40457521, 0.00009235, 0.04140120, 1.09861229],
    "modified entropy": [0.18203912, 0.01864481, 0.0, 0.00009155, 1.00271826],
}
COMPUTED = {
    "softmax T=1": lambda z, y: signals.softmax_confidence(z, y),
    "soft margin T=1": lambda z, y: signals.soft_margin(z, y, temperature=1.0),
    "cubic T=1": lambda z, y: signals.taylor_softmax(z, y, temperature=1.0),
    "quartic T=1": lambda z, y: signals.taylor_softmax(z, y, temperature=1.0, order=5),
    "softmax T=2": lambda z, y: signals.softmax_confidence(z, y, temperature=2.0),
    "soft margin T=2": lambda z, y: signals.soft_margin(z, y),
    "cubic T=2": lambda z, y: signals.taylor_softmax(z, y),
    "quartic T=2": lambda z, y: signals.taylor_softmax(z, y, order=5),
    "taylor": signals.taylor,
    "phi": signals.logit_margin,
    "entropy": signals.entropy,
    "modified entropy": signals.modified_entropy,
}
ORACLES = {
    "taylor_softmax": oracles.sm_taylor_softmax,
    "taylor": lambda z, y: oracles.sm_taylor_softmax(z, y, temperature=1.0, margin=0.0),
    "softmax_confidence": lambda z, y: oracles.softmax(z)[y],
    "soft_margin": oracles.soft_margin,
    "logit_margin": oracles.logit_margin,
    "correctness": lambda z, y: float(np.argmax(z) == y),
    "negative_cross_entropy": lambda z, y: np.log(oracles.softmax(z)[y]),
    "negative_entropy": lambda z, y: -oracles.entropy(z),
    "negative_modified_entropy": lambda z, y: -oracles.modified_entropy(z, y),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_table(name):
    assert np.allclose(
        COMPUTED[name](LOGITS, LABELS), GOLDEN[name], rtol=3e-6, atol=2e-8
    )


def test_every_signal_has_an_oracle():
    assert set(signals.SIGNALS) == set(ORACLES)


@pytest.mark.parametrize("name", ORACLES)
def test_equals_the_oracle_for_many_models_at_once(name):
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=1.5, size=(4, 30, 5)).astype(np.float32)
    labels = rng.integers(5, size=30)
    expected = [
        [ORACLES[name](z, y) for z, y in zip(model, labels, strict=True)]
        for model in logits
    ]
    for as_array in (np.asarray, jnp.asarray):
        value = signals.SIGNALS[name](as_array(logits), as_array(labels))
        assert value.shape == (4, 30)
        assert value.dtype == jnp.float32
        assert np.allclose(value, expected, rtol=2e-4, atol=1e-6)
    jitted = jax.jit(jax.vmap(signals.SIGNALS[name], in_axes=(0, None)))
    assert np.allclose(jitted(logits, labels), expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(set(ORACLES) - {"negative_entropy"}))
def test_labels_matter_and_samples_are_independent(name):
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(40, 3)).astype(np.float32)
    labels = rng.integers(3, size=40)
    signal = signals.SIGNALS[name]
    value = np.asarray(signal(logits, labels))
    order = rng.permutation(40)
    assert np.array_equal(signal(logits[order], labels[order]), value[order])
    moved = np.asarray(signal(logits, (labels + 1) % 3))
    assert (value != moved).mean() > 0.5
    assert (
        moved[logits.argmax(1) == labels].mean()
        < value[logits.argmax(1) == labels].mean()
    )


@pytest.mark.parametrize("gap", [30.0, 200.0, 1e4])
def test_saturated_logits_stay_finite_and_accurate(gap):
    logits = np.array([[gap, 0, 0]], np.float32)
    for label, phi in ((0, gap - np.log(2)), (1, -np.logaddexp(gap, 0))):
        for name, signal in signals.SIGNALS.items():
            assert np.isfinite(signal(logits, np.array([label]))).all(), name
        assert np.allclose(
            signals.logit_margin(logits, np.array([label])), phi, rtol=1e-6
        )
    assert np.allclose(
        signals.loss_signal(logits, np.array([0])),
        2 * np.exp(-gap),
        rtol=1e-4,
        atol=1e-40,
    )
    assert np.allclose(
        signals.modified_entropy(logits, np.array([1])), 2 * gap - np.log(2), rtol=1e-5
    )


def test_taylor_softmax_leaves_the_unit_interval_only_for_even_orders():
    logits = np.linspace(-20, 20, 81, dtype=np.float32)[:, None] * np.array(
        [1, 0, -1], np.float32
    )
    cubic = np.asarray(signals.taylor_softmax(logits, np.zeros(81, int)))
    quartic = np.asarray(signals.taylor_softmax(logits, np.zeros(81, int), order=5))
    assert cubic.min() < 0
    assert cubic.max() > 1
    assert quartic.min() > 0
    assert quartic.max() < 1


@settings(deadline=None, max_examples=25)
@given(
    arrays(np.float32, (6, 4), elements=st.floats(-1000, 1000, width=32)),
    st.integers(0, 3),
)
def test_bounded_signals_respect_their_range(logits, label):
    labels = np.full(6, label)
    assert ((value := np.asarray(signals.soft_margin(logits, labels))) >= 0).all()
    assert (value <= 1).all()
    assert (np.asarray(signals.modified_entropy(logits, labels)) >= 0).all()
    assert (np.asarray(signals.loss_signal(logits, labels)) >= 0).all()
    assert np.isfinite(signals.logit_margin(logits, labels)).all()
    ranked = np.argsort(signals.logit_margin(logits, labels))
    assert (
        np.diff(np.asarray(signals.softmax_confidence(logits, labels))[ranked]) >= 0
    ).all()


def test_narrow_dtypes_are_computed_in_float32():
    half = jnp.asarray(LOGITS, jnp.bfloat16)
    assert signals.logit_margin(half, LABELS).dtype == jnp.float32
    assert np.allclose(
        signals.logit_margin(jnp.asarray([[2, 1, -1]]), jnp.uint8(0)),
        0.873071989,
        rtol=1e-6,
    )


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_outside_the_classes_gives_nan(name, label):
    value = np.asarray(signals.SIGNALS[name](LOGITS, np.array([0, 0, label, 0, 0])))
    assert np.isnan(value).tolist() == [False, False, True, False, False]


def test_correctness_of_nan_is_nan():
    logits = np.array([[np.nan, np.nan], [1, np.nan], [1, 0]])
    assert np.isnan(signals.correctness(logits, [0, 0, 0])).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: signals.logit_margin(np.float32(1), 0), "at least two classes"),
        (
            lambda: signals.logit_margin(np.ones((3, 1)), np.zeros(3, int)),
            "at least two classes",
        ),
        (lambda: signals.entropy(LOGITS, np.zeros(5)), "integer class numbers"),
        (lambda: signals.correctness(LOGITS, np.zeros(4, int)), "one per sample"),
        (
            lambda: signals.softmax_confidence(LOGITS, LABELS, temperature=0),
            "positive number",
        ),
        (
            lambda: signals.taylor_softmax(LOGITS, LABELS, temperature=-1),
            "positive number",
        ),
        (lambda: signals.taylor(LOGITS, LABELS, order=1), "at least 2 terms"),
    ],
)
def test_bad_input_is_one_line(call, message):
    assert_refused(call, message)


def test_a_constant_in_a_samples_logits_lowers_an_attack_by_taylors_form_only():
    """Members and others with the same predictions as before, and a constant each."""
    rng = np.random.default_rng(0)
    num_models, num_samples, num_classes = 32, 600, 10
    labels = rng.integers(0, num_classes, num_samples)
    hot = np.eye(num_classes)[labels]
    member = rng.random((num_models, num_samples)) < 0.5
    easy = rng.normal(3.0, 1.5, (num_samples, 1))
    noise = rng.normal(size=(num_models, num_samples, num_classes))
    logits = hot * (easy + 1.2 * member[..., None]) + noise
    constant = rng.normal(0, 2.0, (num_samples, 1))

    def auc_of(signal, target):
        values = signals.model_signals(signal, [target, *logits[1:]], labels)
        average = audit.reference_average(values[1:], member[1:], check_design=False)
        ratio = audit.ratio_to_average(values[0], average)
        return 100 * audit.auc(ratio, member[0])

    plain, moved = logits[0], logits[0] + constant
    np.testing.assert_allclose(jax.nn.softmax(plain), jax.nn.softmax(moved), atol=1e-6)
    assert auc_of("soft_margin", plain) == pytest.approx(
        auc_of("soft_margin", moved), abs=0.01
    )
    assert auc_of("taylor_softmax", plain) - auc_of("taylor_softmax", moved) > 3
    # at equal constants the two forms attack alike
    assert auc_of("taylor_softmax", plain) == pytest.approx(
        auc_of("soft_margin", plain), abs=2
    )


def test_a_signal_may_be_a_function():
    logits = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    labels = np.array([0, 1, 2, 3, 0])
    by_name = signals.model_signals("correctness", logits, labels)
    given = signals.model_signals(signals.SIGNALS["correctness"], logits, labels)
    np.testing.assert_array_equal(by_name, given)
