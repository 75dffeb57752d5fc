"""Tables, figures and the HTML report, on made-up results with the shapes of a real run."""

import copy
import csv
import html.parser
import io
import re
import sys

import matplotlib
import numpy as np
import pytest

from unlearn_jax.pipeline import plots, report, tables
from unlearn_jax.types import InputError

METRICS = [
    ("unlearn_accuracy", "Unlearn accuracy", "%", "retrained", "Accuracy on the forget samples."),
    ("retain_accuracy", "Retain accuracy", "%", "retrained", "Accuracy on the samples that are kept."),
    ("test_accuracy", "Test accuracy", "%", "retrained", "Accuracy on unseen samples."),
    ("ft_auc", "FT AUC", "%", "50", "Area under the ROC curve of RMIA, forget against test."),
    ("fr_auc", "FR AUC", "%", "retrained", "Retain against forget; higher when forget samples look unlike members."),
    ("rt_auc", "RT AUC", "%", "retrained", "Retain against test: the power of the attack on this model."),
    ("ft_tpr", "TPR at 1 % FPR", "%", "1", "Share of forget samples found while 1 % of test samples are accused."),
    ("mis", "MIS", "%", "retrained", "Share of forget samples an SVC on the confidence calls non-members."),
    ("avg_gap", "Avg Gap", "pp", "0", "Mean distance to the retrained row over the accuracies and FT AUC."),
    ("avg_gap_mis", "Avg Gap (MIS)", "pp", "0", "The same with MIS in place of FT AUC."),
]
METHODS = ["AMUN", "AMUN without D_R", "Fine-tune", "Random labels", "Gradient ascent", "L1-sparse", "SalUn"]
CENTRES = {
    "unlearn_accuracy": 95.0, "retain_accuracy": 99.0, "test_accuracy": 94.0, "ft_auc": 50.0, "fr_auc": 62.0,
    "rt_auc": 62.0, "ft_tpr": 1.2, "mis": 14.0, "avg_gap": 0.8, "avg_gap_mis": 1.1,
}  # fmt: skip


def make_rows(num_methods, num_runs, rng):
    """Rows of three kinds and ``num_methods`` methods, the further down the less unlearned."""
    heads = [("original", "Original", "original"), ("retrain", "Retrained", "oracle")]
    heads += [("retrain_again", "Retrained again", "second_oracle")]
    names = [
        METHODS[i % len(METHODS)] + (f" {i // len(METHODS) + 1}" if i >= len(METHODS) else "")
        for i in range(num_methods)
    ]
    heads += [(f"method{i}", name, "method") for i, name in enumerate(names)]
    rows = []
    for position, (key, label, kind) in enumerate(heads):
        leak = {"original": 12.0, "oracle": 0.0, "second_oracle": 0.0}.get(kind, 1.1 * (position - 3) ** 1.2)
        metrics = {}
        for name, centre in CENTRES.items():
            shift = leak * (0.3 if name.endswith("accuracy") else 1.0)
            spread = 0.4 + centre / 200
            values = np.clip(centre + shift + spread * rng.normal(size=num_runs), 0, 100)
            mean, half = values.mean(), 0.3 + 1.5 * spread / np.sqrt(num_runs)
            metrics[name] = {
                "mean": float(mean), "std": float(values.std(ddof=1)) if num_runs > 1 else None,
                "low": float(mean - half), "high": float(min(mean + half, 100)), "num_runs": num_runs,
                "values": values.tolist(),
            }  # fmt: skip
        if kind == "oracle":
            metrics["avg_gap"] = metrics["avg_gap_mis"] = None
        cost = {"gradients": 90 * 10 * (position + 1), "relative": 0.011 * (position + 1), "seconds": 1.5}
        rows.append(
            {"key": key, "label": label, "kind": kind, "method": key, "knobs": {"learning_rate": 0.01, "epochs": 10},
             "metrics": metrics, "cost": None if kind == "original" else cost}
        )  # fmt: skip
    return rows


def make_arrays(rows, num_runs, num_train, num_test, num_forget, rng):
    """Scores and margins that leak as much as a row's FT AUC says."""
    forget = np.zeros((num_runs, num_train), bool)
    for mask in forget:
        mask[rng.choice(num_train, num_forget, replace=False)] = True
    arrays = {"forget": forget}
    difficulty = rng.gamma(2.0, 2.0, num_train + num_test)
    for row in rows:
        leak = (row["metrics"]["ft_auc"]["mean"] - 50) / 25
        member = np.zeros((num_runs, num_train + num_test))
        member[:, :num_train] = np.where(forget, leak, 0.5)
        noise = rng.normal(size=member.shape)
        arrays[f"scores/{row['key']}"] = (1 / (1 + np.exp(-1.5 * (noise + member)))).astype(np.float32)
        arrays[f"margin/{row['key']}"] = (difficulty - 1 + 2 * member + 0.5 * noise).astype(np.float32)
    radius = rng.choice([0.04, 0.08, 0.16, 0.32, 0.64, 1.28], size=(3, num_forget), p=[0.1, 0.15, 0.3, 0.3, 0.1, 0.05])
    status = rng.choice(4, size=radius.shape, p=[0.93, 0.04, 0.02, 0.01])
    arrays["epsilon"] = np.where(status == 1, 0, radius)
    arrays["distance"] = arrays["epsilon"] * rng.uniform(0.6, 1, radius.shape)
    arrays["status"] = status
    return arrays


def make_attack(arrays):
    epsilon, counts = np.unique(arrays["epsilon"][arrays["status"] == 0], return_counts=True)
    names = ("found", "already_wrong", "not_found", "zero_gradient")
    found = arrays["distance"][arrays["status"] == 0]
    return {
        "status": {name: int((arrays["status"] == i).sum()) for i, name in enumerate(names)},
        "radii": [[float(e), int(c)] for e, c in zip(epsilon, counts, strict=True)],
        "distance_quantiles": {str(q): float(np.quantile(found, q)) for q in (0.05, 0.5, 0.95)},
        "norm": "l2",
    }


def make(num_methods=3, num_runs=6, num_train=300, num_test=80, num_forget=30):
    """``(results, arrays)`` of a made-up run."""
    rng = np.random.default_rng(1)
    rows = make_rows(num_methods, num_runs, rng)
    arrays = make_arrays(rows, num_runs, num_train, num_test, num_forget, rng)
    environment = ["python", "jax", "jaxlib", "flax", "optax", "numpy", "platform", "devices"]
    results = {
        "unlearn_jax": "0.1.0", "preset": "digits", "title": "AMUN on digits", "created": "2026-01-01T00:00:00Z",
        "config": {"data": {"name": "digits", "note": "a < b & c"}, "attack": {"epsilon_init": 0.04}},
        "config_hash": "0f" * 32, "command": "unlearn-jax run digits --workdir runs/digits",
        "environment": dict.fromkeys(environment, "1.2.3"),
        "data": {"name": "digits", "num_train": num_train, "num_test": num_test, "num_classes": 10,
                 "image_shape": [8, 8, 1], "digest": "ab" * 32},
        "design": {"originals": 1, "forget_sets": num_runs, "repeats": 1, "runs": num_runs,
                   "num_forget": num_forget, "references": 64},
        "metrics": [dict(zip(("key", "name", "unit", "target", "help"), m, strict=True)) for m in METRICS],
        "rows": rows,
        "runs": [{"original": 0, "forget_set": i, "repeat": 0} for i in range(num_runs)],
        "attack": make_attack(arrays),
        "stages": [
            {"name": "originals", "seconds": 12.3, "compile_seconds": 4.5, "peak_memory_mb": 812.0, "cached": False},
            {"name": "bank", "seconds": 0.1, "compile_seconds": 0.0, "peak_memory_mb": None, "cached": True},
        ],
        "level": 0.95, "num_bootstrap": 1000,
        "notes": ["The references share the architecture of the audited models."],
        "checks": [
            {"name": "the attack is valid: the original leaks", "passed": True, "detail": "FT AUC 62 %"},
            {"name": "the oracle is not found", "passed": False, "detail": "an example of a failure"},
        ],
    }  # fmt: skip
    return results, arrays
