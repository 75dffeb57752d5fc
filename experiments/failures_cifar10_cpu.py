"""AMUN where its search fails by itself: originals that hide their gradients; CPU.

Claim:   which policy keeps AMUN working where its search fails.
Command: unlearn-jax run failures_cifar10_cpu --workdir runs/failures_cifar10_cpu
         --data.path DATA_DIR
Results: ``experiments/results/failures_cifar10_cpu.json``
"""

import dataclasses

from unlearn_jax.methods import AMUN
from unlearn_jax.objectives import AdversarialTraining
from unlearn_jax.pipeline import (
    AttackConfig,
    Row,
    RunConfig,
    TrainingConfig,
    TuningConfig,
    presets,
)
from unlearn_jax.pipeline.config import rows

_TABLE = presets.load("amun_cifar10_cpu").variants["tenth"]
_EPOCHS = 5
_POLICIES = {
    "drop": "drop",
    "random_label": "random label",
    "runner_up": "runner-up class",
    "targeted": "targeted retry",
    "keep": "keep last iterate",
}
_AMUN = AMUN(num_epochs=_EPOCHS)
_ROWS = {
    name: rows.with_options(_TABLE.rows[name], num_epochs=_EPOCHS)
    for name in ("finetune", "random_label")
}
_ROWS |= {
    f"amun_{policy}": Row(
        label=f"AMUN, {label}", method=dataclasses.replace(_AMUN, failures=policy)
    )
    for policy, label in _POLICIES.items()
}
_ROWS |= {
    f"amun_no_retain_{policy}": Row(
        label=f"AMUN without D_R, {label}",
        method=dataclasses.replace(_AMUN, retain=False, failures=policy),
        search={"learning_rate": rows.SMALL_STEPS},
    )
    for policy, label in _POLICIES.items()
}


def _trained(title: str, training: TrainingConfig) -> RunConfig:
    """Return the table of one kind of originals."""
    return dataclasses.replace(
        _TABLE,
        title=f"Searches that fail on four classes of CIFAR-10 (JPEG): {title}",
        data=dataclasses.replace(_TABLE.data, num_train=6_000, num_test=2_000),
        training=training,
        forget=dataclasses.replace(_TABLE.forget, seeds=(1, 2)),
        attack=AttackConfig(epsilon_init=0.04, num_radii=6),
        replicas=dataclasses.replace(_TABLE.replicas, originals=(0, 1), references=16),
        tuning=TuningConfig(trials=3, seeds=(101,)),
        audit=dataclasses.replace(_TABLE.audit, theory=True),
        rows=_ROWS,
    )


# Originals are plain ones; trained on adversarial examples of a single large step;
# adversarially trained; or clipped. The radii are the published ones, 0.04 to 1.28: a
# sample without an adversarial example within them has failed. On the pilot's seed
# (100) that is one in four for all but plain originals; one-step training within 16/255
# reaches 48% test accuracy (8/255: 70%), clipping to 1 at a rate of 0.05 only chance.
_PLAIN = dataclasses.replace(_TABLE.training, num_epochs=25, augment="crop_flip")
_ONE_STEP = AdversarialTraining(epsilon=8 / 255, num_steps=1, step=10 / 255)
_ADVERSARIAL = AdversarialTraining(epsilon=4 / 255, num_steps=3, step=2 / 255)

STUDY = {
    "plain": _trained("plain originals", _PLAIN),
    "masked": _trained(
        "originals trained on single steps",
        dataclasses.replace(_PLAIN, objective=_ONE_STEP),
    ),
    "adversarial": _trained(
        "adversarially trained originals",
        dataclasses.replace(_PLAIN, objective=_ADVERSARIAL),
    ),
    "clipped": _trained(
        "clipped originals", dataclasses.replace(_PLAIN, max_norm=1.0, clip_period=50)
    ),
}
