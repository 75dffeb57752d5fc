"""Made-up results with the shapes of a real run, and a strict reader of pages."""

import html.parser

import numpy as np

METRICS = [
    ("unlearn_accuracy", "Unlearn acc", "%", "retrained", 95.0), ("retain_accuracy", "Retain", "%", "retrained", 99.0),
    ("test_accuracy", "Test accuracy", "%", "retrained", 94.0), ("ft_auc", "FT AUC", "%", "50", 50.0),
    ("fr_auc", "FR AUC", "%", "retrained", 62.0), ("rt_auc", "RT AUC", "%", "retrained", 62.0),
    ("ft_tpr", "TPR at 1 % FPR", "%", "1", 1.2), ("mis", "MIS", "%", "retrained", 14.0),
    ("avg_gap", "Avg Gap", "pp", "0", 0.8), ("avg_gap_mis", "Avg Gap (MIS)", "pp", "0", 1.1),
]  # fmt: skip
METHODS = [
    "AMUN",
    "AMUN without D_R",
    "Fine-tune",
    "Random labels",
    "Gradient ascent",
    "L1-sparse",
    "SalUn",
]


def make_rows(num_methods, num_runs, rng):
    """Rows of three kinds and ``num_methods`` methods, the further down the less unlearned."""
    heads = [("original", "Original", "original"), ("retrain", "Retrained", "oracle")]
    heads += [("retrain_again", "Retrained again", "second_oracle")]
    names = [
        METHODS[i % len(METHODS)] + " again" * (i // len(METHODS))
        for i in range(num_methods)
    ]
    heads += [(f"method{i}", name, "method") for i, name in enumerate(names)]
    rows = []
    for position, (key, label, kind) in enumerate(heads):
        leak = {"original": 12.0, "oracle": 0.0, "second_oracle": 0.0}.get(
            kind, 1.1 * (position - 3) ** 1.2
        )
        metrics = {}
        for name, *_, center in METRICS:
            shift = leak * (0.3 if name.endswith("accuracy") else 1.0)
            spread = 0.4 + center / 200
            values = np.clip(
                center + shift + spread * rng.normal(size=num_runs), 0, 100
            )
            mean, half = values.mean(), 0.3 + 1.5 * spread / np.sqrt(num_runs)
            metrics[name] = {
                "mean": float(mean), "std": float(values.std(ddof=1)) if num_runs > 1 else None,
                "low": float(mean - half), "high": float(min(mean + half, 100)), "num_runs": num_runs,
                "values": values.tolist(),
            }  # fmt: skip
        if kind == "oracle":
            metrics["avg_gap"] = metrics["avg_gap_mis"] = None
        cost = (
            {"gradients": 900 * position, "relative": 0.011 * position, "seconds": 1.5}
            if position
            else None
        )
        rows.append(
            {
                "key": key,
                "label": label,
                "kind": kind,
                "method": key,
                "knobs": {"epochs": 10},
                "cost": cost,
            }
        )
        rows[-1]["metrics"] = metrics
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
        arrays[f"scores/{row['key']}"] = (
            1 / (1 + np.exp(-1.5 * (noise + member)))
        ).astype(np.float32)
        arrays[f"margin/{row['key']}"] = (
            difficulty - 1 + 2 * member + 0.5 * noise
        ).astype(np.float32)
    radius = rng.choice(
        [0.04, 0.08, 0.16, 0.32, 0.64, 1.28],
        size=(3, num_forget),
        p=[0.1, 0.15, 0.3, 0.3, 0.1, 0.05],
    )
    status = rng.choice(4, size=radius.shape, p=[0.93, 0.04, 0.02, 0.01])
    arrays["epsilon"] = np.where(status == 1, 0, radius)
    arrays["distance"] = arrays["epsilon"] * rng.uniform(0.6, 1, radius.shape)
    arrays["status"] = status
    return arrays


def make_attack(arrays):
    found = arrays["status"] == 0
    names = ("found", "already_wrong", "not_found", "zero_gradient")
    return {
        "norm": "l2",
        "status": {
            name: int((arrays["status"] == i).sum()) for i, name in enumerate(names)
        },
        "radii": (
            np.stack(
                np.unique(arrays["epsilon"][found], return_counts=True), 1
            ).tolist()
        ),
        "distance_quantiles": {
            str(q): float(np.quantile(arrays["distance"][found], q))
            for q in (0.05, 0.5, 0.95)
        },
    }


def make(num_methods=3, num_runs=6, num_train=300, num_test=80, num_forget=30):
    """``(results, arrays)`` of a made-up run."""
    rng = np.random.default_rng(1)
    rows = make_rows(num_methods, num_runs, rng)
    arrays = make_arrays(rows, num_runs, num_train, num_test, num_forget, rng)
    results = {
        "unlearn_jax": "0.1.0", "preset": "digits", "title": "AMUN on digits", "created": "2026-01-01T00:00:00Z",
        "config": {"data": {"name": "digits", "note": "a < b & c"}, "attack": {"epsilon_init": 0.04}},
        "config_hash": "0f" * 32, "command": "unlearn-jax run digits --workdir runs/digits",
        "environment": {"python": "3.11", "jax": "0.10", "devices": "cpu"},
        "data": {"name": "digits", "num_train": num_train, "num_test": num_test, "num_classes": 10,
                 "image_shape": [8, 8, 1], "digest": "ab" * 32},
        "design": {"originals": 1, "forget_sets": num_runs, "repeats": 1, "runs": num_runs,
                   "num_forget": num_forget, "references": 64},
        "metrics": [
            {"key": key, "name": name, "unit": unit, "target": target, "help": f"What {name} is."}
            for key, name, unit, target, _ in METRICS
        ],
        "rows": rows,
        "runs": [{"original": 0, "forget_set": i, "repeat": 0} for i in range(num_runs)],
        "attack": make_attack(arrays),
        "stages": [{"name": "bank", "seconds": 0.1, "compile_seconds": 0.0, "peak_memory_mb": None, "cached": True}],
        "level": 0.95, "num_bootstrap": 1000,
        "notes": ["The references share the architecture of the audited models."],
        "checks": [{"name": f"check {passed}", "passed": passed, "detail": "why"} for passed in (True, False)],
    }  # fmt: skip
    return results, arrays


class Page(html.parser.HTMLParser):
    """Elements, text and attributes of a page; fails where tags are not balanced."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.words = " ".join("".join(self.text).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.text += [" "] if tag in ("td", "th", "small") else []
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)
