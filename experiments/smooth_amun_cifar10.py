"""Smooth AMUN: ResNet-18 held at norm 1 on CIFAR-10; accelerator.

Claim:   AMUN comes closer to retraining on smooth networks.
Command: unlearn-jax run smooth_amun_cifar10 --workdir runs/smooth_amun_cifar10
         --data.path DATA_DIR
Results: ``experiments/results/smooth_amun_cifar10.json``
"""

import dataclasses

from unlearn_jax.pipeline import RunConfig, presets

_BASE = presets.load("amun_tables_cifar10").variants["tenth"]


def _at(max_norm: float | None, title: str) -> RunConfig:
    return dataclasses.replace(
        _BASE,
        title=f"Smooth AMUN, ResNet-18 without BatchNorm on CIFAR-10: {title}",
        model=dataclasses.replace(_BASE.model, batch_norm=False),
        training=dataclasses.replace(_BASE.training, num_epochs=121, max_norm=max_norm),
        replicas=dataclasses.replace(_BASE.replicas, reference_epochs=121),
        audit=dataclasses.replace(_BASE.audit, norms=True, theory=True),
    )


STUDY = {"free": _at(None, "free layers"), "held": _at(1.0, "norms of at most 1")}
