"""Rows that several presets share: every method, with and without retained samples."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from unlearn_jax.filters import MPRU, Mask
from unlearn_jax.methods import (
    AMUN,
    DELETE,
    L2UL,
    METHODS,
    SCRUB,
    SPACES,
    SSD,
    TRW,
    UNSIR,
    BadTeacher,
    BoundaryExpand,
    BoundaryShrink,
    ConvolutionTranspose,
    FineTune,
    FisherForgetting,
    GradientAscent,
    Identity,
    Influence,
    InfluenceTarget,
    L1Sparse,
    MaskedSmallGradients,
    NegGradPlus,
    RandomLabel,
    SVDProjection,
    filtered,
)
from unlearn_jax.pipeline.config.resolve import followed
from unlearn_jax.pipeline.config.schema import Row
from unlearn_jax.values import replace

SMALL_STEPS = {"low": 1e-4, "high": 0.03}
"""Learning rates to search without retained samples, which would hold the model in
place."""
LARGE_STEPS = {"low": 3e-3, "high": 1.0}
"""Learning rates to search where a model forgets a class only by training on the
retained samples."""
SHRINK_STEPS = {"low": 1e-5, "high": 1e-2}
"""Learning rates to search for boundary shrink on a whole class."""
LARGE_DAMPENING = {"low": 0.1, "high": 100.0}
"""Values of SSD's ``alpha`` to search for a whole class."""
BUDGET = 10
"""Epochs of every method that trains, as in AMUN's tables, not in its own paper."""


def within(name: str, option: str, limits: Mapping[str, float]) -> dict[str, Any]:
    """Return a method's search space with other limits for one hyperparameter.

    The published value stays.

    Args:
      name: method's name.
      option: hyperparameter with the range.
      limits: new limits ``low`` and ``high``.
    """
    space = SPACES[name]
    return {**space, option: {**space[option], **limits}}


def with_options(row: Row, **changes: Any) -> Row:
    """Return a row with other hyperparameters of its method.

    Args:
      row: row to change.
      **changes: new hyperparameters by name.
    """
    return dataclasses.replace(row, method=replace(row.method, **changes))


def augmented(
    row: Row, augment: str, label: str = "augmented", *, baseline: str = ""
) -> Row:
    """Return a row with its own augmentation instead of the run's.

    Args:
      row: row to change.
      augment: augmentation policy, as in :func:`unlearn_jax.data.augmentation`.
      label: text to append to the row's label.
      baseline: name of the row without augmentation, to compare with; none if empty.
    """
    follow = tuple(name for name in followed(row) if name != "augment")
    return dataclasses.replace(
        row,
        label=f"{row.label}, {label}",
        method=replace(row.method, augment=augment),
        follow=follow,
        baseline=baseline,
    )


def with_retain() -> dict[str, Row]:
    """Return a row for every method, as in AMUN's Table 1.

    The hyperparameters are to be tuned.
    """
    # no augmentation, as in the only source of these methods
    unaugmented = ("weight_decay", "momentum", "max_norm")
    return {
        "finetune": Row(label="Fine-tuned (FT)", method=FineTune(num_epochs=BUDGET)),
        "random_label": Row(
            label="Random label (RL)", method=RandomLabel(num_epochs=BUDGET)
        ),
        "gradient_ascent": Row(
            label="Gradient ascent (GA)",
            method=GradientAscent(retain=True, num_epochs=BUDGET),
        ),
        "neggrad_plus": Row(label="NegGrad+", method=NegGradPlus(num_epochs=BUDGET)),
        "boundary_shrink": Row(
            label="Boundary shrink (BS)",
            method=BoundaryShrink(retain=True, num_epochs=BUDGET),
        ),
        "l1_sparse": Row(label="l1-sparse", method=L1Sparse(num_epochs=BUDGET)),
        "salun": Row(
            label="SalUn", method=replace(METHODS["salun"], num_epochs=BUDGET)
        ),
        "scrub": Row(label="SCRUB", method=SCRUB(num_max_epochs=3, num_epochs=BUDGET)),
        "bad_teacher": Row(label="Bad teacher", method=BadTeacher(num_epochs=BUDGET)),
        "ssd": Row(label="SSD", method=SSD()),
        "influence": Row(label="Influence (WoodFisher)", method=Influence()),
        "fisher": Row(label="Fisher forgetting", method=FisherForgetting()),
        "masked_small_gradients": Row(
            label="Masked small gradients",
            method=MaskedSmallGradients(num_epochs=BUDGET),
            follow=unaugmented,
        ),
        "convolution_transpose": Row(
            label="Convolution transpose",
            method=ConvolutionTranspose(num_epochs=BUDGET),
            follow=unaugmented,
        ),
        "amun": Row(label="AMUN", method=AMUN(num_epochs=BUDGET)),
        "amun_salun": Row(
            label="AMUN+SalUn",
            method=replace(METHODS["amun_salun"], num_epochs=BUDGET),
        ),
    }


def for_classes(*, small: bool = False) -> dict[str, Row]:
    """Return a row for every method that forgets whole classes and for output filters.

    UNSIR makes two passes by definition, whatever the budget of the other methods.

    Args:
      small: whether the data set has one or two thousand small images instead of tens
        of thousands. If so, batches and distances are smaller for the methods whose
        published ones would leave a handful of steps or reach across the whole image.
    """
    large = {
        name: within(name, "learning_rate", LARGE_STEPS)
        for name in ("finetune", "neggrad_plus", "l1_sparse")
    }
    unsir = UNSIR(batch_size=64, num_noise_copies=4) if small else UNSIR()
    l2ul = L2UL(num_epochs=BUDGET)
    if small:
        l2ul = replace(
            l2ul, num_adversarial=5, batch_size=64, num_steps=20, epsilon=2.0
        )
    return {
        "finetune": Row(
            label="Fine-tuned (FT)",
            method=FineTune(num_epochs=BUDGET),
            search=large["finetune"],
        ),
        "gradient_ascent": Row(
            label="Gradient ascent (GA)",
            method=GradientAscent(num_epochs=BUDGET),
            search=within("gradient_ascent", "learning_rate", SMALL_STEPS),
        ),
        "neggrad_plus": Row(
            label="NegGrad+",
            method=NegGradPlus(num_epochs=BUDGET),
            search=large["neggrad_plus"],
        ),
        "random_label": Row(
            label="Random label (RL)", method=RandomLabel(num_epochs=BUDGET)
        ),
        "boundary_shrink": Row(
            label="Boundary shrink (BS)",
            method=BoundaryShrink(num_epochs=BUDGET),
            # the published bound of 0.1 leaves most samples of a class of small images
            # in their class
            search={
                **within("boundary_shrink", "learning_rate", SHRINK_STEPS),
                "bound": {"low": 0.1, "high": 0.5, "published": 0.1},
            },
        ),
        "boundary_expand": Row(
            label="Boundary expand (BE)", method=BoundaryExpand(num_epochs=BUDGET)
        ),
        "l1_sparse": Row(
            label="l1-sparse",
            method=L1Sparse(num_epochs=BUDGET),
            search=large["l1_sparse"],
        ),
        "salun": Row(
            label="SalUn", method=replace(METHODS["salun"], num_epochs=BUDGET)
        ),
        "svd_projection": Row(label="SVD projection (Kodge)", method=SVDProjection()),
        "scrub": Row(label="SCRUB", method=SCRUB(num_max_epochs=3, num_epochs=BUDGET)),
        "bad_teacher": Row(label="Bad teacher", method=BadTeacher(num_epochs=BUDGET)),
        "unsir": Row(label="UNSIR", method=unsir),
        "ssd": Row(
            label="SSD",
            method=SSD(),
            search=within("ssd", "alpha", LARGE_DAMPENING),
        ),
        "l2ul": Row(label="L2UL", method=l2ul),
        "delete": Row(label="DELETE", method=DELETE(num_epochs=BUDGET)),
        "delete_retain": Row(
            label="DELETE with D_R",
            method=DELETE(retain=True, num_epochs=BUDGET),
            search={
                **within("delete", "learning_rate", {"low": 1e-4, "high": 0.3}),
                "decay_every": SPACES["finetune"]["decay_every"],
            },
        ),
        "trw_no_retain": Row(
            label="TRW without D_R",
            method=TRW(retain=False, num_epochs=BUDGET),
            search=within("trw", "learning_rate", SMALL_STEPS),
        ),
        "trw": Row(label="TRW", method=TRW(num_epochs=BUDGET)),
        "trw_features": Row(
            label="TRW, by sample",
            method=TRW(similarity="features", num_epochs=BUDGET),
        ),
        "influence_target": Row(
            label="Influence target", method=InfluenceTarget(num_epochs=BUDGET)
        ),
        "influence_refit": Row(
            label="Influence target, refitted",
            method=InfluenceTarget(num_removal_steps=20, num_epochs=BUDGET),
        ),
        "mask": Row(label="Masked output", method=filtered(Identity(), Mask())),
        "mpru": Row(label="MPRU (output filter)", method=filtered(Identity(), MPRU())),
    }


def without_retain() -> dict[str, Row]:
    """Return rows for the methods without retained samples, as in AMUN's Table 2."""
    names = {
        "random_label": "RL without D_R",
        "gradient_ascent": "GA without D_R",
        "boundary_shrink": "BS without D_R",
        "salun": "SalUn without D_R",
        "amun": "AMUN without D_R",
        "amun_salun": "AMUN+SalUn without D_R",
    }
    rows = {}
    for name, label in names.items():
        search = within(name, "learning_rate", SMALL_STEPS)
        rows[f"{name}_no_retain"] = Row(
            label=label,
            method=replace(METHODS[name], retain=False, num_epochs=BUDGET),
            search=None if name in ("gradient_ascent", "boundary_shrink") else search,
        )
    return rows
