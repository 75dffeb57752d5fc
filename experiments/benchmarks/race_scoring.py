r"""Membership scores raced against Privacy Meter, PrivacyGuard and TensorFlow Privacy.

Command::

    pip install pandas scipy
    pip install --no-deps tensorflow-empirical-privacy privacyguard-platform
    git clone https://github.com/privacytrustlab/ml_privacy_meter
    git clone https://github.com/tensorflow/privacy
    PRIVACY_METER=ml_privacy_meter TF_PRIVACY=privacy \
        python experiments/benchmarks/race_scoring.py --rounds 5 --calls 1

Results: ``experiments/results/race_scoring.json``

RMIA and LiRA score the same arrays, in the form that each library needs and prepared
before the clock starts. The result is the AUC. Seconds are minimum / median / maximum
over rounds.
"""

import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contest import Work, contests

NUM_SAMPLES = 60_000
NUM_POPULATION = 10_000
NUM_MODELS = 128


def signals() -> tuple[np.ndarray, ...]:
    """Return confidences ``[1 + M, N]`` and ``[1 + M, Z]``, memberships and margins.

    References come in complementary pairs, so each sample is in half of them.
    """
    rng = np.random.default_rng(0)
    half = rng.random((NUM_MODELS // 2, NUM_SAMPLES)) < 0.5
    member = np.concatenate(
        [
            rng.random((1, NUM_SAMPLES)) < 0.5,
            np.stack([half, ~half], 1).reshape(-1, NUM_SAMPLES),
        ]
    )
    level = rng.normal(2, 1, NUM_SAMPLES)
    other = rng.normal(2, 1, NUM_POPULATION)
    margin = level + 0.5 * member + rng.normal(0, 0.5, member.shape)
    outside = other + rng.normal(0, 0.5, (len(member), NUM_POPULATION))
    return 1 / (1 + np.exp(-margin)), 1 / (1 + np.exp(-outside)), member, margin


def area(member: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return a function from scores, high for members, to their AUC."""
    from unlearn_jax.audit import auc

    return lambda scores: auc(np.asarray(scores), member)


def clone(variable: str, file: str) -> Any:
    """Import and return a module of the clone that an environment variable names."""
    if not os.environ.get(variable):
        raise ModuleNotFoundError(name=f"the clone that {variable} names")
    spec = importlib.util.spec_from_file_location(
        variable.lower(), Path(os.environ[variable]) / file
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- RMIA, offline, gamma 1 ---


def rmia_ours(*, all_others: bool = False) -> Work:
    """Run ``audit.rmia``; with ``all_others`` all other samples are the population."""
    from unlearn_jax import audit

    signal, others, member, _ = signals()
    population = (
        {}
        if all_others
        else {"population": others[0], "reference_population": others[1:]}
    )
    score = partial(
        audit.rmia,
        signal[0],
        signal[1:],
        member[1:],
        mode="offline",
        gamma=1.0,
        **population,
    )
    return Work(score, 1, ("numpy",), area(member[0]))


def rmia_privacy_meter() -> Work:
    """Run ``attacks.run_rmia``, which leaves out a partner of the target."""
    meter = clone("PRIVACY_METER", "attacks.py")
    signal, others, member, _ = signals()
    first = np.r_[0, 0 : len(signal)]
    arrays = [
        np.ascontiguousarray(values[first].T) for values in (signal, others, member)
    ]
    score = partial(meter.run_rmia, 0, *arrays, NUM_MODELS // 2, 0.3)
    return Work(score, 1, ("numpy",), area(member[0]))


def rmia_privacy_guard() -> Work:
    """Run ``RmiaAttack.run_attack`` on data frames that are prepared before."""
    import pandas
    from privacy_guard.analysis.mia.aggregate_analysis_input import AggregationType
    from privacy_guard.attacks.rmia_attack import RmiaAttack

    signal, others, member, _ = signals()

    def frame(signal: np.ndarray, member: np.ndarray) -> Any:
        scores = pandas.DataFrame(
            signal[1:].T.copy(), columns=[f"score_ref_{i}" for i in range(NUM_MODELS)]
        )
        members = pandas.DataFrame(
            member[1:].T.copy(), columns=[f"member_ref_{i}" for i in range(NUM_MODELS)]
        )
        scores_frame = pandas.DataFrame(
            {"user_id": np.arange(len(scores)), "score_orig": signal[0]}
        )
        return pandas.concat([scores_frame, scores, members], axis=1)

    train, test = (
        frame(signal[:, rows], member[:, rows]) for rows in (member[0], ~member[0])
    )
    attack = RmiaAttack(
        train, test, frame(others, np.zeros(others.shape, bool)), AggregationType.NONE
    )

    def call() -> np.ndarray:
        outcome = attack.run_attack()
        scores = np.empty(NUM_SAMPLES)
        scores[member[0]] = outcome.df_train_user["score"]
        scores[~member[0]] = outcome.df_test_user["score"]
        return scores

    return Work(call, 1, ("numpy", "pandas", "privacyguard-platform"), area(member[0]))


# --- LiRA, online, medians, a variance per sample ---


def lira_ours(*, leave_one_out: bool = False) -> Work:
    """Run ``audit.lira``; ``leave_one_out`` audits every reference by the others."""
    from unlearn_jax import audit

    _, _, member, margin = signals()
    if leave_one_out:
        return Work(
            partial(audit.lira_leave_one_out, margin[1:], member[1:]),
            1,
            ("numpy",),
            lambda scores: float(
                np.mean(
                    [area(m)(s) for s, m in zip(scores[:8], member[1:], strict=False)]
                )
            ),
        )
    return Work(
        partial(audit.lira, margin[0], margin[1:], member[1:]),
        1,
        ("numpy",),
        area(member[0]),
    )


def lira_tf_privacy() -> Work:
    """Run ``compute_score_lira`` on prepared lists of arrays; low for members."""
    from tensorflow_privacy.privacy.privacy_tests.membership_inference_attack import (
        advanced_mia,
    )

    _, _, member, margin = signals()
    lists = [
        [margin[1:][side[:, n], n][:, None] for n in range(NUM_SAMPLES)]
        for side in (member[1:], ~member[1:])
    ]
    score = partial(advanced_mia.compute_score_lira, margin[0][:, None], *lists)
    packages = ("numpy", "scipy", "tensorflow-empirical-privacy")
    return Work(score, 1, packages, lambda scores: area(member[0])(-scores))


def lira_papers() -> Work:
    """Run ``generate_ours`` of ``mi_lira_2021``, the published code."""
    os.environ.setdefault("MPLBACKEND", "agg")
    script = clone("TF_PRIVACY", "research/mi_lira_2021/plot.py")
    _, _, member, margin = signals()
    score = partial(
        script.generate_ours,
        member[1:],
        margin[1:, :, None],
        member[:1],
        margin[:1, :, None],
    )
    return Work(
        score,
        1,
        ("numpy", "scipy"),
        lambda scores: area(member[0])(-np.array(scores[0])),
    )


TABLES: dict[str, dict[str, Callable[[], Work]]] = {
    "RMIA offline, 60,000 samples, 128 references, population 10,000": {
        "ours": rmia_ours,
        "ours, all 59,999 others": partial(rmia_ours, all_others=True),
        "Privacy Meter": rmia_privacy_meter,
        "PrivacyGuard": rmia_privacy_guard,
    },
    "LiRA online, 60,000 samples, 128 shadow models": {
        "ours": lira_ours,
        "ours, 128 targets by leaving one out": partial(lira_ours, leave_one_out=True),
        "TensorFlow Privacy": lira_tf_privacy,
        "mi_lira_2021": lira_papers,
    },
}

if __name__ == "__main__":
    contests(TABLES, unit="seconds", first="ours")
