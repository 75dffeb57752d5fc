"""What the report's further sections show: rows of text for its tables, a figure, and what to be warned of.

Each function returns what the template needs, or None where the results have no such
section.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from unlearn_jax.pipeline.report import search as report_search
from unlearn_jax.pipeline.report.figures import sections as plots_sections
from unlearn_jax.pipeline.report.figures.run import Arrays
from unlearn_jax.pipeline.report.figures.style import to_svg
from unlearn_jax.pipeline.report.tables import (
    MISSING,
    Results,
    cell_of,
    format_interval,
    format_number,
    known,
    rows_with,
)
from unlearn_jax.pipeline.report.verdict import find_row, join

STATUSES = {
    "found": "an input within the radius gets another label",
    "already_wrong": "the clean image was misclassified to begin with",
    "not_found": "still classified correctly after the last radius",
    "zero_gradient": "the loss gave no direction to search in",
}
TERMS = {
    "num_samples": (
        "samples",
        "that have an adversarial example and only finite terms",
    ),
    "delta": ("δ", "L2 distance of the adversarial example; smaller is better"),
    "original_clean": (
        "ℓ(f_o(x), y)",
        "loss of the original model on the clean sample; near 0 by assumption",
    ),
    "original_adversarial": (
        "ℓ(f_o(x_adv), y)",
        "how strong the attack is; larger is better",
    ),
    "unlearned_adversarial": (
        "ℓ(f′(x_adv), y_adv)",
        "small where the adversarial set is overfitted; larger is better",
    ),
    "retrained_clean": (
        "ℓ(f_u(x), y)",
        "how well retraining generalizes; smaller is better",
    ),
    "retrained_adversarial": (
        "ℓ(f_u(x_adv), y_adv)",
        "small where the adversarial set transfers; smaller is better",
    ),
    "combination": (
        "C",
        "the second and third loss less the fourth and fifth; larger is better",
    ),
    "transfer": (
        "transfer",
        "share of examples that the retrained model gives the label y_adv, too",
    ),
    "slope": (
        "slope",
        "rise of the loss over δ: a lower bound on the Lipschitz constant L",
    ),
    "excess": (
        "L δ − C",
        (
            "with L read off the slope; negative: the theorem promises a step towards"
            " retraining"
        ),
    ),
    "log10_lipschitz_bound": (
        "log_10 of a bound on L",
        (
            "sum over the original model's layers of the logarithms of their norms; a"
            " loose upper bound"
        ),
    ),
    "original_distance": (
        "‖θ_o − θ_u‖",
        "distance of the original model's weights from the retrained model's",
    ),
    "unlearned_distance": (
        "‖θ′ − θ_u‖",
        "distance of the unlearned model's weights from the retrained model's",
    ),
    "approach": (
        "approach",
        "the first squared less the second squared; positive: unlearning came nearer",
    ),
}
"""Name and meaning of each term, an underscore before a subscript."""
MANY_MODELS = 50
"""KLoM of fewer models is mostly its own bias."""
_PARTS = ("forget", "retain", "test")


def make_sections(results: Results, arrays: Arrays) -> dict[str, Any]:
    """All further sections by name.

    Args:
      results: of a run.
      arrays: of the same run; ``vulnerability/<row>`` says how often each sample is
        found.
    """
    return {
        "attacks": attacks(results),
        "requests": requests(results),
        "vulnerability": vulnerability(results, arrays),
        "targets": targets(results),
        "klom": klom(results),
        "norms": norms(results),
        "theory": theory(results),
        "tuning": report_search.tuning(results),
    }


def _percent(share: Any, digits: int = 1) -> str:
    return f"{format_number(100 * share, digits)} %" if known(share) else MISSING


def vulnerability(results: Results, arrays: Arrays) -> dict[str, Any] | None:
    """How often single samples are found: a line per row, and every row's most exposed samples."""
    found = results.get("vulnerability")
    if not found or not found["rows"]:
        return None
    beside = {
        row["kind"]: arrays[f"vulnerability/{row['key']}"].ravel()
        for row in results["rows"]
        if row["kind"] in ("original", "oracle")
        and f"vulnerability/{row['key']}" in arrays
    }
    rows = []
    for row in rows_with(results, found["rows"]):
        one = found["rows"][row["key"]]
        rows.append(
            {
                "label": row["label"],
                "kind": row["kind"],
                "mean": _percent(one["mean"]),
                "always": one["always"],
                "samples": one["samples"],
                "most": [_exposed(sample, beside) for sample in one["most"]],
            }
        )
    alt = "Mean share found: " + ", ".join(
        f"{row['label']} {row['mean']}" for row in rows
    )
    return {
        "rate": _percent(found["max_fpr"], 0),
        "rows": rows,
        "means": {row["kind"]: row["mean"] for row in rows},
        "svg": to_svg(
            plots_sections.vulnerability_plot(results, arrays), "vulnerability", alt
        ),
    }


def _exposed(
    sample: Mapping[str, Any], beside: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """A sample as a row sees it, and as the original and the retrained models see the same one."""
    shares = {kind: float(values[sample["sample"]]) for kind, values in beside.items()}
    return {
        **sample,
        "share": _percent(sample["share"], 0),
        "interval": f"[{100 * sample['low']:.0f}, {100 * sample['high']:.0f}]",
        "original": _percent(shares.get("original"), 0),
        "oracle": _percent(shares.get("oracle"), 0),
    }


def targets(results: Results) -> dict[str, Any] | None:
    """Distances of the targets from retrained models; those below what no tilt gives are marked."""
    section = results.get("targets")
    if not section:
        return None
    floor = next(
        row["values"][0] for row in section["rows"] if row["name"].startswith("no tilt")
    )
    rows = [
        {
            "name": row["name"],
            "cells": [
                {
                    "text": format_number(value, 3),
                    "interval": f"{format_number(low, 3)}–{format_number(high, 3)}",
                    "better": value < floor,
                }
                for value, low, high in zip(
                    row["values"], row["low"], row["high"], strict=True
                )
            ],
        }
        for row in section["rows"]
    ]
    return {"betas": [f"{beta:g}" for beta in section["betas"]], "rows": rows}


def klom(results: Results) -> dict[str, Any] | None:
    """KLoM on forget, retain and test samples."""
    found = results.get("klom")
    if not found:
        return None
    rows = []
    for row in rows_with(results, found["rows"]):
        cells = []
        for part in _PARTS:
            one = found["rows"][row["key"]][part]
            mean = {
                "text": format_number(one["mean"]),
                "interval": format_interval(one),
            }
            cells += [
                mean,
                *(
                    {"text": format_number(one[key]), "interval": ""}
                    for key in ("median", "p95")
                ),
            ]
        rows.append({"label": row["label"], "kind": row["kind"], "cells": cells})
    floor = find_row(results, "second_oracle")
    return {
        "parts": _PARTS,
        "rows": rows,
        "models": found["models"],
        "few": found["models"] < MANY_MODELS,
        "floor": floor["label"] if floor else None,
    }


def requests(results: Results) -> dict[str, Any] | None:
    """The score of every request, and both its parts."""
    found = results.get("requests")
    if not found:
        return None
    names = {
        "score": "Score: FR AUC − FT AUC (points)",
        "fr_auc": "FR AUC (%)",
        "ft_auc": "FT AUC (%)",
    }
    rows = rows_with(results, found["rows"])
    groups = [
        {
            "name": name,
            "rows": [
                {
                    "label": row["label"],
                    "kind": row["kind"],
                    "cells": [
                        cell_of(request[key]) for request in found["rows"][row["key"]]
                    ],
                }
                for row in rows
            ],
        }
        for key, name in names.items()
    ]
    said = [
        f"{row['label']} {', '.join(cell['text'] for cell in row['cells'])}"
        for row in groups[0]["rows"]
    ]
    return {
        "count": found["count"],
        "size": found["size"],
        "groups": groups,
        "svg": to_svg(
            plots_sections.requests_plot(results),
            "requests",
            "Score of each request. " + "; ".join(said),
        ),
    }


def norms(results: Results) -> dict[str, Any] | None:
    """Spectral norms: a line per row, a column per layer; the largest over the models in small print."""
    found = results.get("norms")
    if not found:
        return None
    layers = list(next(iter(found["rows"].values())))
    limit = found["max_norm"]
    rows = []
    for row in rows_with(results, found["rows"]):
        values = [found["rows"][row["key"]].get(layer) for layer in layers]
        cells = [
            {
                "text": format_number(v and v["mean"], 3),
                "interval": (
                    f"{format_number(v['low'], 3)} to {format_number(v['high'], 3)}"
                    if v
                    else ""
                ),
                "over": bool(limit and v and v["high"] > 1.01 * limit),
            }
            for v in values
        ]
        rows.append({**row, "cells": cells})
    return {
        "layers": [layer.removeprefix("params/") for layer in layers],
        "max_norm": limit,
        "rows": rows,
        "unfound": ", ".join(found["unfound"]),
    }


def theory(results: Results) -> dict[str, Any] | None:
    """The terms of AMUN's Theorem 4.1, a line per term, a column per row of the table."""
    found = (results.get("theory") or {}).get("rows")
    if not found:
        return None
    rows = rows_with(results, found)
    terms = []
    for key, (name, meaning) in TERMS.items():
        cells = [found[row["key"]].get(key) or {} for row in rows]
        if any(cells):
            terms.append(
                {
                    "name": name,
                    "meaning": meaning,
                    "cells": [_significant(cell) for cell in cells],
                }
            )
    return {"labels": [row["label"] for row in rows], "terms": terms}


def _significant(cell: Mapping[str, Any]) -> dict[str, str]:
    """Mean and spread to four and two digits, since the terms differ by many powers of ten."""
    if not known(cell.get("mean")):
        return {"text": MISSING, "spread": ""}
    return {
        "text": f"{cell['mean']:.4g}",
        "spread": f"± {cell['std']:.2g}" if known(cell.get("std")) else "",
    }


def attacks(results: Results) -> dict[str, Any] | None:
    """Outcomes of every adversarial search, a column for each: the run's own first, then the named ones."""
    config = results["config"]
    found = {"": results["attack"]} if results.get("attack") else {}
    found |= {
        name: attack
        for name, attack in (results.get("attacks") or {}).items()
        if attack
    }
    if not found:
        return None
    columns = []
    for name, attack in found.items():
        total = max(sum(attack["status"].values()), 1)
        used = [
            row["label"]
            for row in results["rows"]
            if name and (row.get("knobs") or {}).get("attack") == name
        ]
        median: Any = (attack.get("distance_quantiles") or {}).get("0.5")
        columns.append(
            {
                "name": name or ("the run's own" if len(found) > 1 else "samples"),
                "settings": report_search.format_knobs(
                    (config.get("attacks") or {}).get(name) or {}
                ),
                "used": join(used) if used else "",
                "counts": {
                    key: (f"{n:,}", f"{100 * n / total:.1f} %")
                    for key, n in attack["status"].items()
                },
                "median": f"{median:.3g}" if known(median) else MISSING,
            }
        )
    outcomes = list(
        dict.fromkeys(key for column in columns for key in column["counts"])
    )
    return {
        "columns": columns,
        "outcomes": [
            {
                "name": key.replace("_", " "),
                "meaning": STATUSES.get(key, ""),
                "cells": [
                    column["counts"].get(key, (MISSING, "")) for column in columns
                ],
            }
            for key in outcomes
        ],
    }
