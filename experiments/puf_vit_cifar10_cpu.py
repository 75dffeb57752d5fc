"""Federated unlearning of CIFAR-10 by PUF: a small vision transformer; CPU.

Claim:   PUF forgets a client's samples as retraining does, in transformers too.
Command: unlearn-jax run puf_vit_cifar10_cpu --workdir runs/puf_vit_cifar10_cpu
         --data.path DATA_DIR
Results: ``experiments/results/puf_vit_cifar10_cpu.json``
"""

import dataclasses

from unlearn_jax.pipeline import ModelConfig, presets

_RESNET = presets.load("puf_cifar10_cpu").experiment
assert _RESNET is not None

EXPERIMENT = dataclasses.replace(
    _RESNET,
    title="Federated unlearning on CIFAR-10 (JPEG), small vision transformer",
    config=dataclasses.replace(
        _RESNET.config,
        model=ModelConfig(
            name="vit", patch_size=4, width=48, depth=3, num_heads=4, mlp_ratio=2
        ),
        optimizer="adam",
        learning_rate=1e-3,
    ),
)
