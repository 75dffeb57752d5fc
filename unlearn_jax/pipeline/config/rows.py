"""Rows that several presets share: every method, with and without the retained samples."""

from typing import Any

from unlearn_jax.methods import METHODS, SPACES
from unlearn_jax.values import fields_of

Rows = dict[str, dict[str, Any]]
SMALL_STEPS = {"low": 1e-4, "high": 0.03}
"""Learning rates to search where no retained sample holds the model in place."""
LARGE_STEPS = {"low": 3e-3, "high": 1.0}
"""Learning rates to search where nothing but training on the rest makes a model forget a class."""


def with_retain() -> Rows:
    """Every method, as in AMUN's Table 1: the retained samples are at hand. Knobs are to be tuned, or given.

    All train for 10 epochs, AMUN's budget for every method, whatever their authors'
    defaults.
    """
    found: Rows = {
        "finetune": {"label": "Fine-tuned (FT)", "method": "finetune"},
        "random_label": {"label": "Random label (RL)", "method": "random_label"},
        "gradient_ascent": {
            "label": "Gradient ascent (GA)",
            "method": "gradient_ascent",
            "retain": True,
        },
        "neggrad_plus": {"label": "NegGrad+", "method": "neggrad_plus"},
        "boundary_shrink": {
            "label": "Boundary shrink (BS)",
            "method": "boundary_shrink",
            "retain": True,
        },
        "l1_sparse": {"label": "l1-sparse", "method": "l1_sparse"},
        "salun": {"label": "SalUn", "method": "salun"},
        "scrub": {"label": "SCRUB", "method": "scrub", "num_max_epochs": 3},
        "bad_teacher": {"label": "Bad teacher", "method": "bad_teacher"},
        "ssd": {"label": "SSD", "method": "ssd"},
        "influence": {"label": "Influence (WoodFisher)", "method": "influence"},
        "fisher": {"label": "Fisher forgetting", "method": "fisher"},
        "masked_small_gradients": {
            "label": "Masked small gradients",
            "method": "masked_small_gradients",
        },
        "convolution_transpose": {
            "label": "Convolution transpose",
            "method": "convolution_transpose",
        },
        "amun": {"label": "AMUN", "method": "amun"},
        "amun_salun": {"label": "AMUN+SalUn", "method": "amun_salun"},
    }
    for name in (
        "masked_small_gradients",
        "convolution_transpose",
    ):  # as their only source
        found[name]["augment"] = "none"
    return _with_budget(found)


def _with_budget(found: Rows) -> Rows:
    for row in found.values():
        if "num_epochs" in fields_of(METHODS[row["method"]]):
            row["num_epochs"] = 10
    return found


def for_classes(*, small: bool = False) -> Rows:
    """Every method that forgets whole classes, with the output filters beside; knobs are to be tuned, or given.

    All that train do so for 10 epochs, except for UNSIR, which is two passes by
    definition.

    Args:
      small: a thousand or two of small images instead of tens of thousands: the methods
        whose published batches and distances would leave a handful of steps, or reach
        across the whole image, get smaller ones.
    """
    found: Rows = {
        "finetune": {"label": "Fine-tuned (FT)", "method": "finetune"},
        "gradient_ascent": {
            "label": "Gradient ascent (GA)",
            "method": "gradient_ascent",
        },
        "neggrad_plus": {"label": "NegGrad+", "method": "neggrad_plus"},
        "random_label": {"label": "Random label (RL)", "method": "random_label"},
        "boundary_shrink": {
            "label": "Boundary shrink (BS)",
            "method": "boundary_shrink",
        },
        "boundary_expand": {
            "label": "Boundary expand (BE)",
            "method": "boundary_expand",
        },
        "l1_sparse": {"label": "l1-sparse", "method": "l1_sparse"},
        "salun": {"label": "SalUn", "method": "salun"},
        "svd_projection": {
            "label": "SVD projection (Kodge)",
            "method": "svd_projection",
        },
        "scrub": {"label": "SCRUB", "method": "scrub", "num_max_epochs": 3},
        "bad_teacher": {"label": "Bad teacher", "method": "bad_teacher"},
        "unsir": {"label": "UNSIR", "method": "unsir"},
        "ssd": {"label": "SSD", "method": "ssd"},
        "l2ul": {"label": "L2UL", "method": "l2ul"},
        "delete": {"label": "DELETE", "method": "delete"},
        "delete_retain": {
            "label": "DELETE with D_R",
            "method": "delete",
            "retain": True,
        },
        "trw_no_retain": {"label": "TRW without D_R", "method": "trw", "retain": False},
        "trw": {"label": "TRW", "method": "trw"},
        "trw_features": {
            "label": "TRW, by sample",
            "method": "trw",
            "similarity": "features",
        },
        "influence_target": {"label": "Influence target", "method": "influence_target"},
        "influence_refit": {
            "label": "Influence target, refitted",
            "method": "influence_target",
            "num_removal_steps": 20,
        },
    }
    for name, search in _class_searches().items():
        found[name]["search"] = search
    found = _with_budget(found)
    del found["unsir"]["num_epochs"]
    if small:
        found["unsir"] |= {"batch_size": 64, "num_noise_copies": 4}
        found["l2ul"] |= {
            "num_adversarial": 5,
            "batch_size": 64,
            "num_steps": 20,
            "epsilon": 2.0,
        }
    filters: Rows = {
        "mask": {"label": "Masked output", "method": "identity", "filter": "mask"},
        "mpru": {
            "label": "MPRU (output filter)",
            "method": "identity",
            "filter": "mpru",
        },
    }
    return found | filters


def _class_searches() -> dict[str, dict[str, Any]]:
    """Searches that differ from those for random samples: a class is harder to forget than a few samples of each."""
    large = {
        name: {**SPACES[name], "learning_rate": LARGE_STEPS}
        for name in ("finetune", "neggrad_plus", "l1_sparse")
    }
    return large | {
        "gradient_ascent": {"learning_rate": SMALL_STEPS},
        "trw_no_retain": {**SPACES["trw"], "learning_rate": SMALL_STEPS},
        "delete_retain": SPACES["finetune"],
        # the published bound of 0.1 leaves most samples of a class of small images in
        # their class
        "boundary_shrink": {
            "learning_rate": {"low": 1e-5, "high": 1e-2},
            "bound": {"low": 0.1, "high": 0.5},
        },
        "ssd": {**SPACES["ssd"], "alpha": {"low": 0.1, "high": 100.0}},
    }


def without_retain() -> Rows:
    """The methods that need no retained sample, as in AMUN's Table 2."""
    found: Rows = {
        "random_label_no_retain": {"label": "RL without D_R", "method": "random_label"},
        "gradient_ascent_no_retain": {
            "label": "GA without D_R",
            "method": "gradient_ascent",
        },
        "boundary_shrink_no_retain": {
            "label": "BS without D_R",
            "method": "boundary_shrink",
        },
        "salun_no_retain": {"label": "SalUn without D_R", "method": "salun"},
        "amun_no_retain": {"label": "AMUN without D_R", "method": "amun"},
        "amun_salun_no_retain": {
            "label": "AMUN+SalUn without D_R",
            "method": "amun_salun",
        },
    }
    for row in found.values():
        row["retain"] = False
        if row["method"] not in ("gradient_ascent", "boundary_shrink"):
            row["search"] = {**SPACES[row["method"]], "learning_rate": SMALL_STEPS}
    return _with_budget(found)
