"""Audits against programs written elsewhere: Privacy Meter, PrivacyGuard, TensorFlow
Privacy, scikit-learn.

scikit-learn is always there. The others are skipped where they are absent; to have
them::

    pip install --no-deps tensorflow-empirical-privacy privacyguard-platform
    pip install pandas
    git clone https://github.com/privacytrustlab/ml_privacy_meter
    git clone https://github.com/tensorflow/privacy

with PRIVACY_METER and TF_PRIVACY set to the paths of the clones.

Passed with Privacy Meter e384af8 (2025-04-26), PrivacyGuard 0.0.2,
tensorflow-empirical-privacy 0.1.0 (which needs no TensorFlow here), mi_lira_2021 of
tensorflow/privacy 03035d5 (2026-04-06), scikit-learn 1.9.1, pandas 3.1.1. Where they
differ from us by a defect of theirs, a test says so.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score, roc_curve
from sklearn.svm import SVC

from unlearn_jax.audit import (
    lira,
    logit_margin,
    loss_signal,
    mis,
    rmia,
    rmia_ratio,
    roc,
    softmax_confidence,
)

NUM_PAIRS, NUM_SAMPLES, NUM_POPULATION = 5, 300, 400


def from_clone(variable, file):
    """A module of a clone that an environment variable names; skips without."""
    if not os.environ.get(variable):
        pytest.skip(f"set {variable} to a clone")
    spec = importlib.util.spec_from_file_location(
        variable.lower(), Path(os.environ[variable]) / file
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def case():
    """Confidences of ten models in complementary pairs, the target first: Privacy
    Meter's design.
    """
    rng = np.random.default_rng(0)
    half = rng.random((NUM_PAIRS, NUM_SAMPLES)) < 0.5
    member = np.stack([half, ~half], 1).reshape(2 * NUM_PAIRS, NUM_SAMPLES)
    level = rng.normal(1, 1, NUM_SAMPLES)
    signal = 1 / (1 + np.exp(-(level + member + rng.normal(0, 0.5, member.shape))))
    others = 1 / (
        1
        + np.exp(
            -(
                rng.normal(1, 1, NUM_POPULATION)
                + rng.normal(0, 0.5, (10, NUM_POPULATION))
            )
        )
    )
    return member, signal, others


# --- RMIA ---


@pytest.mark.parametrize("offline_a", [0.0, 0.3, 1.0])
def test_rmia_matches_privacy_meter(case, offline_a):
    """Theirs averages a population sample over its largest half of OUT signals only;
    given those, all scores agree.
    """
    meter = from_clone("PRIVACY_METER", "attacks.py")
    member, signal, others = case
    theirs = meter.run_rmia(0, signal.T, others.T, member.T, NUM_PAIRS - 1, offline_a)
    largest = np.sort(others[2:], 0)[-(NUM_PAIRS - 1) :]
    options = {
        "mode": "offline",
        "gamma": 1.0,
        "offline_a": offline_a,
        "population": others[0],
    }
    ours = rmia(
        signal[0],
        signal[2:],
        member[2:],
        reference_population=np.tile(largest, (2, 1)),
        **options,
    )
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12)
    assert np.unique(theirs).size > 50
    assert roc(ours, member[0]).auc == pytest.approx(
        roc_auc_score(member[0], theirs), abs=1e-12
    )


def test_privacy_meters_population_average_is_too_high(case):
    """A defect of theirs: a population sample is OUT for all models, yet only its
    largest half of signals is averaged.

    Its ratios come out too small, so every sample dominates too many.
    """
    meter = from_clone("PRIVACY_METER", "attacks.py")
    member, signal, others = case
    theirs = meter.run_rmia(0, signal.T, others.T, member.T, NUM_PAIRS - 1, 0.3)
    options = {
        "mode": "offline",
        "gamma": 1.0,
        "offline_a": 0.3,
        "population": others[0],
    }
    ours = rmia(
        signal[0], signal[2:], member[2:], reference_population=others[2:], **options
    )
    assert (theirs >= ours).all()
    assert theirs.mean() > ours.mean() + 0.02
    kept = meter.get_rmia_out_signals(
        others.T, np.zeros(others.T.shape, bool), 0, NUM_PAIRS - 1
    )
    assert (kept.mean(1) > others[2:].mean(0)).all()


def guard_scores(case, **options):
    """PrivacyGuard's scores of all samples, the target being the first model."""
    attack = pytest.importorskip("privacy_guard.attacks.rmia_attack")
    analysis = pytest.importorskip(
        "privacy_guard.analysis.mia.aggregate_analysis_input"
    )
    pandas = pytest.importorskip("pandas")
    member, signal, others = case

    def frame(signal, member):
        columns = {f"score_ref_{i}": row for i, row in enumerate(signal[2:])}
        columns |= {f"member_ref_{i}": row for i, row in enumerate(member[2:])}
        return pandas.DataFrame(
            {"user_id": np.arange(signal.shape[1]), "score_orig": signal[0], **columns}
        )

    train, test = (
        frame(signal[:, rows], member[:, rows]) for rows in (member[0], ~member[0])
    )
    population = frame(others, np.zeros(others.shape, bool))
    rows = analysis.AggregationType.NONE
    found = attack.RmiaAttack(
        train, test, population, row_aggregation=rows, **options
    ).run_attack()
    scores = np.empty(NUM_SAMPLES)
    scores[member[0]], scores[~member[0]] = (
        found.df_train_user["score"],
        found.df_test_user["score"],
    )
    return scores


@pytest.mark.filterwarnings("ignore")
def test_rmia_matches_privacy_guard(case):
    member, signal, others = case
    options = {"population": others[0], "gamma": 1.0}
    online = guard_scores(case, online=True, num_reference_models=2 * NUM_PAIRS - 2)
    ours = rmia(
        signal[0], signal[2:], member[2:], reference_population=others[2:], **options
    )
    np.testing.assert_allclose(ours, online, rtol=0, atol=1e-12)
    offline = guard_scores(case, alpha_coefficient=0.4)
    largest = np.tile(np.sort(others[2:], 0)[-(NUM_PAIRS - 1) :], (2, 1))
    options |= {"mode": "offline", "offline_a": 0.4}
    ours = rmia(
        signal[0], signal[2:], member[2:], reference_population=largest, **options
    )
    np.testing.assert_allclose(ours, offline, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore")
def test_privacy_guards_default_averages_the_larger_half_online(case):
    """A defect of theirs: asked for half as many references as it has (its default), it
    keeps the largest signals.

    Among them are hardly any OUT models, so a sample's own memberships decide what it
    is divided by.
    """
    member, signal, others = case
    theirs = guard_scores(case, online=True)
    ours = rmia(
        signal[0],
        signal[2:],
        member[2:],
        population=others[0],
        reference_population=others[2:],
        gamma=1.0,
    )
    assert np.abs(theirs - ours).mean() > 0.01
    largest = np.sort(signal[2:], 0)[-(NUM_PAIRS - 1) :].mean(0)
    assert (largest > rmia_average(signal, member)).all()


def rmia_average(signal, member):
    return signal[0] / rmia_ratio(signal[0], signal[2:], member[2:])


# --- LiRA ---


@pytest.fixture(scope="module")
def margins():
    """Two augmentations of forty samples, under twelve models, half with each."""
    rng = np.random.default_rng(1)
    member = rng.random((12, 40)).argsort(0) < 6
    reference = (
        rng.normal(0, 2, (40, 2)) + member[:, :, None] + rng.normal(0, 1, (12, 40, 2))
    )
    return rng.normal(0, 3, (3, 40, 2)), reference, member


def tf_privacy():
    package = "tensorflow_privacy.privacy.privacy_tests"
    name = f"{package}.membership_inference_attack.advanced_mia"
    return pytest.importorskip(name, exc_type=ImportError)


def lists(reference, member):
    return [
        [reference[side[:, n], n] for n in range(side.shape[1])]
        for side in (member, ~member)
    ]


@pytest.mark.parametrize("center", ["median", "mean"])
@pytest.mark.parametrize("fixed", [False, True])
def test_lira_matches_tf_privacy(margins, center, fixed):
    target, reference, member = margins
    inside, outside = lists(reference, member)
    options = {
        "center": center,
        "variance": "fixed_centered" if fixed else "per_sample",
    }
    theirs = {"fix_variance": fixed, "median_or_mean": center}
    score = tf_privacy().compute_score_lira
    for row in target:  # theirs is low for members
        both = -score(row, inside, outside, option="both", **theirs)
        np.testing.assert_allclose(
            lira(row, reference, member, **options), both, rtol=1e-9, atol=1e-9
        )
        out = -score(row, inside, outside, option="out", **theirs)
        np.testing.assert_allclose(
            lira(row, reference, member, mode="offline", **options),
            out,
            rtol=1e-9,
            atol=1e-9,
        )


def test_lira_stays_finite_where_tf_privacys_explodes(margins):
    """A defect of theirs: a constant signal has a standard deviation of 1e-30, and a
    miss by 0.01 scores 1e56.
    """
    _, reference, member = margins
    constant = np.broadcast_to(reference[:1], reference.shape)
    near = reference[0] + 0.01
    theirs = -tf_privacy().compute_score_lira(
        near, *lists(constant, member), option="out"
    )
    assert np.median(theirs) > 1e50
    ours = lira(near, constant, member, mode="offline")
    assert np.isfinite(ours).all()
    assert ours.max() < 1e9


def test_signals_match_tf_privacy():
    statistic = tf_privacy().calculate_statistic
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(0, 2, (50, 7)).astype("f4"), rng.integers(0, 7, 50)
    for option, ours in {
        "logit": logit_margin,
        "conf with prob": softmax_confidence,
        "xe": loss_signal,
    }.items():
        theirs = statistic(logits, labels, option=option)
        np.testing.assert_allclose(
            ours(logits, labels), theirs, rtol=1e-5, atol=1e-5, err_msg=option
        )


def test_lira_matches_the_papers_code(margins, monkeypatch):
    """``mi_lira_2021``: medians, a variance per sample or one for all, fitted without
    the audited model.
    """
    monkeypatch.setenv("MPLBACKEND", "agg")
    script = from_clone("TF_PRIVACY", "research/mi_lira_2021/plot.py")
    target, reference, member = margins
    for fixed, variance in ((False, "per_sample"), (True, "fixed_global")):
        for generate, mode in (
            (script.generate_ours, "online"),
            (script.generate_ours_offline, "offline"),
        ):
            theirs, _ = generate(
                member, reference, member[:3], target, fix_variance=fixed
            )
            ours = lira(target, reference, member, mode=mode, variance=variance)
            np.testing.assert_allclose(
                ours.ravel(), -np.array(theirs), rtol=1e-9, atol=1e-9
            )


@pytest.mark.filterwarnings("ignore")
def test_lira_matches_privacy_guard(margins):
    """Theirs is given the moments."""
    attack = pytest.importorskip("privacy_guard.attacks.lira_attack")
    analysis = pytest.importorskip(
        "privacy_guard.analysis.mia.aggregate_analysis_input"
    )
    pandas = pytest.importorskip("pandas")
    target, reference, member = margins
    target, reference = target[0, :, 0], reference[:, :, 0]
    columns = {"user_id": np.arange(40), "score_orig": target}
    for name, side in (("in", member), ("out", ~member)):
        columns[f"score_mean_{name}"] = reference.mean(0, where=side)
        columns[f"score_std_{name}"] = reference.std(0, where=side)
    frame = pandas.DataFrame(columns)
    rows = analysis.AggregationType.NONE
    found = attack.LiraAttack(
        frame[:20].copy(), frame[20:].copy(), row_aggregation=rows, online_attack=True
    )
    found = found.run_attack()
    theirs = np.concatenate([found.df_train_user["score"], found.df_test_user["score"]])
    np.testing.assert_allclose(
        lira(target, reference, member, center="mean"), theirs, rtol=1e-9, atol=1e-9
    )


# --- curves and the confidence attack ---


@pytest.mark.parametrize("levels", [5, 10**6])
def test_roc_curve_matches_scikit_learn(levels):
    """Many ties, and hardly any."""
    rng = np.random.default_rng(3)
    is_member = rng.random(2000) < 0.3
    scores = rng.integers(0, levels, 2000) + 0.3 * levels * is_member * rng.integers(
        0, 2, 2000
    )
    curve = roc(scores, is_member)
    fpr, tpr, thresholds = roc_curve(is_member, scores, drop_intermediate=False)
    np.testing.assert_allclose(curve.fpr, fpr, rtol=0, atol=1e-15)
    np.testing.assert_allclose(curve.tpr, tpr, rtol=0, atol=1e-15)
    np.testing.assert_array_equal(curve.thresholds, thresholds)
    assert curve.auc == pytest.approx(roc_auc_score(is_member, scores), abs=1e-12)
    for max_fpr in (0, 0.001, 0.01, 0.1, 1):
        assert curve.tpr_at_fpr(max_fpr) == tpr[fpr <= max_fpr].max()
    best = thresholds[np.argmax(tpr - fpr)]
    theirs = balanced_accuracy_score(is_member, scores >= best)
    assert curve.balanced_accuracy == pytest.approx(theirs, abs=1e-12)


def test_confidence_attack_matches_scikit_learns_svc():
    rng = np.random.default_rng(4)
    retain, test, forget = rng.beta(5, 1, 150), rng.beta(3, 1, 150), rng.beta(4, 1, 100)
    machine = SVC(C=3, gamma="auto", kernel="rbf")
    machine.fit(np.concatenate([test, retain])[:, None], np.repeat([0, 1], 150))
    expected = machine.predict(forget[:, None]).astype(bool)
    result = mis(retain, test, forget, max_samples=None)
    np.testing.assert_array_equal(result.called_member, expected)
    assert result.fraction == 1 - expected.mean()
    assert 0 < result.fraction < 1
