"""Memorization equals its definition, its standard error is right, and it finds what
only members know.
"""

import math
import statistics

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusals import assert_refused
from support.small import half_design

from unlearn_jax.audit import (
    correctness,
    memorization,
    out_confidence,
    softmax_confidence,
)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.sampled_from([2, 4, 7, 16]), st.booleans())
def test_equals_the_definition(seed, models, binary):
    rng = np.random.default_rng(seed)
    member = rng.random((models, 6)).argsort(0) < rng.integers(1, models, 6)
    values = (
        rng.integers(0, 2, member.shape)
        if binary
        else rng.random(member.shape).astype(np.float32)
    )
    result = memorization(values, member)
    for sample in range(6):
        inside = [
            float(v)
            for v, m in zip(values[:, sample], member[:, sample], strict=True)
            if m
        ]
        outside = [
            float(v)
            for v, m in zip(values[:, sample], member[:, sample], strict=True)
            if not m
        ]
        means = statistics.fmean(inside), statistics.fmean(outside)
        assert np.allclose((result.mean_in[sample], result.mean_out[sample]), means)
        assert math.isclose(result.value[sample], means[0] - means[1], abs_tol=1e-9)
        if min(len(inside), len(outside)) > 1:
            square = statistics.variance(inside) / len(inside) + statistics.variance(
                outside
            ) / len(outside)
            assert math.isclose(
                result.standard_error[sample], math.sqrt(square), abs_tol=1e-9
            )
        else:
            assert np.isnan(result.standard_error[sample])
    assert np.array_equal(out_confidence(values, member), result.mean_out)
    assert np.allclose(memorization(values, ~member).value, -result.value)


def test_samples_and_models_have_no_order_and_jax_arrays_pass():
    rng = np.random.default_rng(0)
    member, values = half_design(rng, 8, 20), rng.random((8, 20)).astype(np.float32)
    result = memorization(values, member)
    samples, models = rng.permutation(20), rng.permutation(8)
    shuffled = memorization(values[models][:, samples], member[models][:, samples])
    assert np.allclose(shuffled.value, result.value[samples])
    on_device = memorization(jnp.asarray(values), jnp.asarray(member))
    assert np.array_equal(on_device.value, result.value)


def test_finds_the_samples_that_only_members_get_right():
    rng = np.random.default_rng(1)
    member = half_design(rng, 40, 30)
    labels = np.arange(30) % 5
    strength = np.where(
        np.arange(30) < 10, 6.0 * member, 6.0
    )  # the first ten are known to members only
    logits = np.zeros((40, 30, 5), np.float32)
    np.put_along_axis(
        logits,
        np.broadcast_to(labels, (40, 30))[..., None],
        strength[..., None] - 1,
        axis=-1,
    )
    exact = memorization(correctness(logits, labels), member)
    assert exact.value.tolist() == [1.0] * 10 + [0.0] * 20
    assert exact.standard_error.max() == 0
    confidence = softmax_confidence(logits, labels)
    smooth = memorization(confidence, member)
    assert set(np.argsort(-smooth.value)[:10]) == set(range(10))
    hardest = np.argsort(out_confidence(confidence, member))[:10]
    assert set(hardest) == set(range(10))
    expected = math.exp(-1) / (math.exp(-1) + 4)
    assert np.allclose(out_confidence(confidence, member)[:10], expected, rtol=1e-5)


def test_standard_error_is_the_spread_over_banks():
    rng = np.random.default_rng(2)
    member = half_design(rng, 64, 4000)
    correct = rng.random((64, 4000)) < np.where(member, 0.9, 0.6)
    result = memorization(correct, member)
    errors = (result.value - 0.3) / result.standard_error
    assert abs(errors.mean()) < 0.1
    assert abs(errors.std() - 1) < 0.1


def test_the_error_quoted_in_the_docstring():
    right = (
        np.arange(128) % 2 == 0
    )  # correct in half the models of each side: the largest variance
    worst = memorization(right[:, None], np.arange(128)[:, None] < 64).standard_error[0]
    assert 0.085 < worst < 0.09


TWO = np.array([[True], [False]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: memorization(np.ones(2), TWO), "2 axes"),
        (lambda: memorization([[1.0], [np.nan]], TWO), "NaN or infinite"),
        (lambda: memorization(np.ones((2, 1)), TWO.astype(int)), "boolean"),
        (lambda: memorization(np.ones((2, 1)), TWO[:1]), "member has shape"),
        (
            lambda: memorization(np.ones((2, 1)), TWO & False),
            "1 samples are in no model",
        ),
        (lambda: memorization(np.ones((2, 1)), TWO | True), "in every model"),
        (lambda: out_confidence(np.ones((2, 1)), TWO | True), "in every model"),
    ],
)
def test_bad_input_is_one_line(call, message):
    assert_refused(call, message)


def test_confidence_without_members_is_a_plain_mean():
    assert out_confidence(
        [[0.2, 0.4], [0.6, 0.8]], np.zeros((2, 2), bool)
    ).tolist() == pytest.approx([0.4, 0.6])
