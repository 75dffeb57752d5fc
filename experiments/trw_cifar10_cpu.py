"""TRW against its rivals on CIFAR-10, at the scale of a CPU.

Claim:   TRW comes nearest to retraining under U-LiRA and MIA-NN (arXiv 2512.06993).
Command: unlearn-jax run trw_cifar10_cpu --workdir runs/trw_cifar10_cpu --data.path
         DATA_DIR
Results: ``experiments/results/trw_cifar10_cpu.json``
"""

import dataclasses

from unlearn_jax.audit import Discriminator
from unlearn_jax.methods import (
    DELETE,
    METHODS,
    SCAR,
    TRW,
    UAM,
    FineTune,
    InfluenceTarget,
)
from unlearn_jax.pipeline import (
    AuditConfig,
    DataConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    Row,
    RunConfig,
    TrainingConfig,
    TuningConfig,
)
from unlearn_jax.pipeline.config.rows import LARGE_STEPS
from unlearn_jax.values import replace

# Semantic neighbors (automobile and truck, cat and dog, ship and airplane), crops and
# flips, and 500 test samples of every class: what MIA-NN and a similarity of classes
# need. pilot and targets only train models and measure the targets before any training,
# pilot on the classes of the search: FITTED has the coefficients that it prints.
AUTOMOBILE = 1
CAT = 3
SHIP = 8
AIRPLANE = 0
DOG = 5
EPOCHS = 5
FITTED = (-1.4982, 1.2029, -0.3131)
"""Coefficients of the fitted tilt, of the variant ``pilot``; all 0, there is no tilt.
"""

_RATES = {"learning_rate": {"low": 1e-3, "high": 0.1, "published": 0.01}}
_ROWS = {
    "finetune": Row(
        label="Fine-tuned (FT)",
        method=FineTune(num_epochs=EPOCHS),
        search={"learning_rate": LARGE_STEPS},
    ),
    "salun": Row(
        label="SalUn",
        method=replace(METHODS["salun"], num_epochs=EPOCHS),
        search=_RATES,
    ),
    "uam": Row(
        label="UAM",
        method=UAM(num_epochs=EPOCHS),
        search={
            "learning_rate": {"low": 0.01, "high": 0.05, "published": 0.01},
            "rho": {"low": 0.1, "high": 1.0, "published": 0.1},
        },
    ),
    "scar": Row(
        label="SCAR",
        method=SCAR(num_epochs=EPOCHS, batch_size=128),
        search={"learning_rate": {"low": 5e-4, "high": 5e-3, "published": 5e-4}},
    ),
    "delete": Row(label="DELETE", method=DELETE(num_epochs=EPOCHS)),
    "trw_0": Row(
        label="TRW without a tilt",
        method=TRW(beta=0.0, num_epochs=EPOCHS),
        search=_RATES,
    ),
    "trw_published": Row(
        label="TRW as published (PCA, cosine, sharp softmax, beta 10)",
        method=TRW(num_components=3, temperature=0.1, num_epochs=EPOCHS),
        search=_RATES,
    ),
    "trw_published_1": Row(
        label="TRW as published, beta 1",
        method=TRW(num_components=3, temperature=0.1, beta=1.0, num_epochs=EPOCHS),
        search=_RATES,
    ),
    "trw_cosine": Row(
        label="TRW, cosines, beta 10", method=TRW(num_epochs=EPOCHS), search=_RATES
    ),
    "trw_searched": Row(
        label="TRW, searched",
        method=TRW(num_epochs=EPOCHS),
        search={**_RATES, "beta": {"low": 0.5, "high": 10.0, "published": 10.0}},
    ),
    "trw_fitted": Row(
        label="TRW, fitted tilt",
        method=TRW(
            similarity="fitted", coefficients=FITTED, beta=1.0, num_epochs=EPOCHS
        ),
        search=_RATES,
    ),
    "trw_features": Row(
        label="TRW, by sample",
        method=TRW(similarity="features", num_epochs=EPOCHS),
        search={**_RATES, "beta": {"low": 0.5, "high": 10.0, "published": 10.0}},
    ),
    "influence_target": Row(
        label="Influence target",
        method=InfluenceTarget(num_epochs=EPOCHS),
        search=_RATES,
    ),
}
_METHODS = RunConfig(
    title="Class unlearning on CIFAR-10 (JPEG), small CNN",
    data=DataConfig(
        source="tfds",
        name="cifar10_jpeg",
        num_train=20_000,
        num_test=5_000,
        balanced=True,
    ),
    model=ModelConfig(name="cnn", widths=(16, 32, 64)),
    training=TrainingConfig(
        num_epochs=25,
        batch_size=64,
        learning_rate=0.05,
        decay_every=15,
        augment="crop_flip",
    ),
    forget=ForgetConfig(kind="class", classes=(AUTOMOBILE, CAT, SHIP)),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=0),
    tuning=TuningConfig(trials=3, classes=(AIRPLANE, DOG)),
    audit=AuditConfig(
        num_bootstrap=500,
        discriminators=(
            Discriminator(features="probabilities"),
            Discriminator(features="logits", gamma="scale"),
        ),
        readings=("neighbor_against_rest", "neighbor_against_forgotten"),
    ),
    rows=_ROWS,
)
_TARGETS = dataclasses.replace(
    _METHODS,
    rows={},
    tuning=TuningConfig(),
    audit=dataclasses.replace(_METHODS.audit, targets=True),
)

STUDY = {
    "pilot": dataclasses.replace(
        _TARGETS,
        forget=ForgetConfig(kind="class", classes=_METHODS.tuning.classes),
        replicas=ReplicasConfig(originals=_METHODS.tuning.originals, references=0),
    ),
    "targets": _TARGETS,
    "methods": _METHODS,
}
