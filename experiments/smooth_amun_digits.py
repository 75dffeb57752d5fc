"""Smooth AMUN: forgetting from networks whose layers FastClip holds, at several norms, on digits; minutes on a CPU.

Command:   unlearn-jax run smooth_amun_digits --workdir runs/smooth_amun_digits
Paper:     arXiv 2503.00917, Tables 3 and 6 and Figure 3 (ResNet-18 without BatchNorm on CIFAR-10, every layer at 1; AMUN
           without D_R on a tenth: FT AUC 49.55, FR AUC 54.01, test accuracy 87.55 of 89.01), and more than 97 % of the
           adversarial examples farther from their sample on clipped than on free networks
Measured:  not yet
"""

import dataclasses

from unlearn_jax.pipeline import RunConfig, presets

_BASE = presets.load("digits").config


def _at(max_norm: float | None, title: str) -> RunConfig:
    return dataclasses.replace(
        _BASE,
        title=f"Smooth AMUN on digits: {title}",
        training=dataclasses.replace(_BASE.training, max_norm=max_norm, clip_period=50),
        audit=dataclasses.replace(_BASE.audit, norms=True, theory=True),
    )


STUDY = {
    "free": _at(None, "free layers"),
    "norm-4": _at(4.0, "norms of at most 4"),
    "norm-2": _at(2.0, "norms of at most 2"),
    "norm-1": _at(1.0, "norms of at most 1"),
}
