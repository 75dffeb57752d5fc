"""Smooth AMUN: small CNNs held at two norms by FastClip; MNIST.

Claim:   AMUN comes closer to retraining on smooth networks.
Command: unlearn-jax run smooth_amun_mnist --workdir runs/smooth_amun_mnist --data.path
         DATA_DIR
Results: ``experiments/results/smooth_amun_mnist.json``
"""

import dataclasses

from unlearn_jax.pipeline import RunConfig, presets

_BASE = presets.load("methods_mnist").config
_ROWS = ("finetune", "random_label", "amun", "random_label_no_retain", "amun_no_retain")


def _at(max_norm: float | None, title: str, gamma: float = 2.0) -> RunConfig:
    return dataclasses.replace(
        _BASE,
        title=f"Smooth AMUN on MNIST: {title}",
        training=dataclasses.replace(_BASE.training, max_norm=max_norm, clip_period=50),
        audit=dataclasses.replace(
            _BASE.audit, norms=True, theory=True, mis=False, gamma=gamma
        ),
        rows={name: _BASE.rows[name] for name in _ROWS},
    )


STUDY = {
    "free": _at(None, "free layers"),
    "norm-2": _at(2.0, "norms of at most 2"),
    # predictions are so uncertain that no ratio is twice another
    "norm-1": _at(1.0, "norms of at most 1", gamma=1.0),
}
