"""Slow definitions in plain NumPy and Python, written from the papers' formulas.

Nothing here imports the library. Loops are deliberate: each function should be readable
against its formula.
"""

import itertools
import math

import numpy as np


def softmax(logits):
    """``[C] -> [C]`` in float64."""
    exps = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return exps / exps.sum()


def sm_taylor_softmax(logits, label, *, temperature=2.0, margin=0.6, order=4):
    """SM-Taylor-softmax of one sample; ``order`` terms, powers 0..order-1."""

    def series(u):
        return sum(u**k / math.factorial(k) for k in range(order))

    scaled = [float(z) / temperature for z in logits]
    own = series(scaled[label] - margin)
    return own / (own + sum(series(u) for j, u in enumerate(scaled) if j != label))


def soft_margin(logits, label, *, temperature=2.0, margin=0.6):
    """Soft-margin softmax of one sample."""
    exps = np.exp(np.asarray(logits, np.float64) / temperature)
    own = exps[label] * math.exp(-margin)
    return own / (own + exps.sum() - exps[label])


def logit_margin(logits, label):
    """``log p_y - log(1 - p_y)`` of one sample, from probabilities (moderate logits
    only).
    """
    probs = softmax(logits)
    return math.log(probs[label]) - math.log(
        sum(p for j, p in enumerate(probs) if j != label)
    )


def entropy(logits):
    """Shannon entropy of one prediction."""
    return -sum(p * math.log(p) for p in softmax(logits))


def modified_entropy(logits, label):
    """Song and Mittal's modified entropy of one sample, from probabilities (moderate
    logits only).
    """
    probs = softmax(logits)
    wrong = sum(p * math.log(1 - p) for j, p in enumerate(probs) if j != label)
    return -(1 - probs[label]) * math.log(probs[label]) - wrong


def rmia_average(reference, member, *, mode="online", offline_a=0.3, trim=0.0):
    """``Pr(x)`` per sample, ``[M, N] -> [N]``."""
    averages = []
    for signals, inside in zip(
        np.asarray(reference, np.float64).T, np.asarray(member).T, strict=True
    ):
        if mode == "online":
            cut = int(trim * len(signals))
            averages.append(np.mean(np.sort(signals)[cut : len(signals) - cut]))
        else:
            averages.append(
                0.5 * ((1 + offline_a) * np.mean(signals[~inside]) + (1 - offline_a))
            )
    return np.array(averages)


def rmia_pairwise(ratio, population_ratio=None, *, gamma=2.0):
    """Share of z with ``ratio(x) > gamma * ratio(z)``, pair by pair; without a
    population, of all other x.
    """
    scores = []
    for i, own in enumerate(ratio):
        others = np.delete(ratio, i) if population_ratio is None else population_ratio
        scores.append(sum(bool(own > gamma * other) for other in others) / len(others))
    return np.array(scores)


def rmia_pairwise_quotient(ratio, population_ratio=None, *, gamma=2.0):
    """The paper's wording, ``ratio(x) / ratio(z) > gamma``, as AMUN's code divides."""
    scores = []
    for i, own in enumerate(ratio):
        others = np.delete(ratio, i) if population_ratio is None else population_ratio
        scores.append(np.mean(own / others > gamma))
    return np.array(scores)


def mann_whitney(scores, is_member):
    """P(member's score > non-member's) + P(equal) / 2 over all pairs."""
    members = [s for s, m in zip(scores, is_member, strict=True) if m]
    others = [s for s, m in zip(scores, is_member, strict=True) if not m]
    wins = sum((a > b) + 0.5 * (a == b) for a, b in itertools.product(members, others))
    return wins / (len(members) * len(others))


def rates(scores, is_member, threshold):
    """``(fpr, tpr)`` of calling every score of at least ``threshold`` a member."""
    called = np.array([s >= threshold for s in scores])
    is_member = np.asarray(is_member)
    return called[~is_member].mean(), called[is_member].mean()


def repeated_auc(scores, positive, negative, counts):
    """AUC after repeating sample i ``counts[i]`` times; NaN if a side is empty then."""
    kept = [
        i
        for i, count in enumerate(counts)
        for _ in range(count)
        if positive[i] or negative[i]
    ]
    sides = {bool(positive[i]) for i in kept}
    return (
        mann_whitney([scores[i] for i in kept], [positive[i] for i in kept])
        if len(sides) == 2
        else math.nan
    )


def balanced_accuracy(scores, is_member):
    """Largest mean of the two classes' accuracies over thresholds."""
    thresholds = [*scores, math.inf]
    return max(
        (tpr + 1 - fpr) / 2
        for fpr, tpr in (rates(scores, is_member, t) for t in thresholds)
    )


def binomial_tail(count, total, rate):
    """P(at least ``count`` successes in ``total``)."""
    return sum(
        math.comb(total, k) * rate**k * (1 - rate) ** (total - k)
        for k in range(count, total + 1)
    )


def avg_gap(run, oracle_runs):
    """AMUN's Avg Gap of one run."""
    means = [sum(column) / len(column) for column in zip(*oracle_runs, strict=True)]
    return sum(abs(value - mean) for value, mean in zip(run, means, strict=True)) / len(
        run
    )
