"""Numbers and combinations that no run could use, refused with one line before anything is trained or written."""

import math
from collections.abc import Sequence
from typing import Any

from unlearn_jax.audit import Discriminator
from unlearn_jax.pipeline.config.resolve import attack_config
from unlearn_jax.pipeline.config.schema import RunConfig
from unlearn_jax.replicas import mapper
from unlearn_jax.types import InputError

RMIA_SIGNALS = ("taylor_softmax", "softmax_confidence", "soft_margin", "taylor")
"""Signals that are (all but) positive: RMIA divides one by another, which turns a negative signal upside down."""


def check_settings(config: RunConfig) -> None:
    """Refuses numbers that no run could use.

    Raises:
      InputError: naming the field.
    """
    _check_classes(config)
    replicas, audit, training = config.replicas, config.audit, config.training
    seeds = (
        config.data.seed,
        replicas.reference_seed,
        audit.seed,
        *config.forget.seeds,
        *replicas.originals,
    )
    seeds += config.tuning.seeds + config.tuning.originals
    positive = (audit.gamma, training.learning_rate, training.decay_factor)
    counts = (
        *(
            replicas.repeats,
            replicas.group,
            audit.num_bootstrap,
            audit.mis_samples,
            training.num_epochs,
        ),
        training.batch_size,
    )
    rules = [
        (
            all(0 <= seed < 2**32 for seed in seeds),
            "seeds must be between 0 and 4294967295",
        ),
        (
            min(counts) >= 1
            and min(training.decay_every, replicas.reference_epochs) >= 0,
            (
                "numbers of epochs, samples, repeats, groups and replicates must be"
                " positive"
            ),
        ),
        (
            all(value > 0 and math.isfinite(value) for value in positive),
            (
                "audit.gamma, training.learning_rate and training.decay_factor must be"
                " positive and finite"
            ),
        ),
        (
            training.max_norm is None or 0 < training.max_norm < math.inf,
            "training.max_norm must be positive and finite, or None",
        ),
        (training.clip_period >= 1, "training.clip_period must be at least 1 step"),
        (0 <= training.momentum < 1, "training.momentum must be in [0, 1)"),
        (
            0 <= training.weight_decay < math.inf,
            "training.weight_decay must be finite and not negative",
        ),
        (audit.mode in ("online", "offline"), "audit.mode must be online or offline"),
        (config.tuning.trials >= 0, "tuning.trials must not be negative"),
        (config.forget.requests >= 1, "forget.requests must be positive"),
        (
            not config.tuning.trials
            or (config.tuning.originals and config.tuning.seeds),
            "tuning.originals and tuning.seeds must each name one seed or more",
        ),
        (
            not audit.klom or (replicas.repeats == 1 and len(replicas.originals) > 1),
            (
                "audit.klom compares ensembles of different models: give many"
                " replicas.originals, and replicas.repeats=1"
            ),
        ),
        (0 < audit.level < 1, "audit.level must be between 0 and 1"),
        (
            0 <= audit.max_fpr <= 1 and 0 <= audit.offline_a <= 1,
            "audit.max_fpr and audit.offline_a must be in [0, 1]",
        ),
        (
            audit.signal in RMIA_SIGNALS,
            (
                f"unknown audit.signal {audit.signal!r}; RMIA takes ratios of a"
                f" positive signal: {', '.join(RMIA_SIGNALS)}"
            ),
        ),
        *_attack_rules(config),
    ]
    how = mapper(replicas.mapper, num_models=1024, devices=replicas.devices)
    rules.append(
        (
            training.batch_size % how.shards == 0,
            (
                "replicas.mapper=split divides training.batch_size"
                f" ({training.batch_size}) over {how.shards} devices: choose a multiple"
            ),
        )
    )
    _refuse(rules)


def _attack_rules(config: RunConfig) -> list[tuple[Any, str]]:
    """What holds of every attack of the run."""
    attacks = [attack_config(config, name) for name in ("", *config.attacks)]
    return [
        *((0 <= a.failures < 1, "attack.failures must be in [0, 1)") for a in attacks),
        *(
            (
                a.source == "own" or len(config.replicas.originals) > 1,
                "attack.source=other needs two or more originals",
            )
            for a in attacks
        ),
        *(
            (
                a.search != "grid" or a.restart,
                (
                    "attack.search=grid attacks all radii at once: attack.restart=False"
                    " needs attack.search=doubling"
                ),
            )
            for a in attacks
        ),
    ]


def _refuse(rules: Sequence[tuple[Any, str]]) -> None:
    for holds, message in rules:
        if not holds:
            raise InputError(message)


def _check_classes(config: RunConfig) -> None:
    """What is asked for where whole classes are forgotten, and only there."""
    replicas, classes = config.replicas, config.forget.kind == "class"
    _refuse(
        [
            (
                replicas.references
                or (classes and config.forget.requests == 1 and not config.audit.klom),
                (
                    "replicas.references=0 leaves no membership attack: only a run that"
                    " forgets classes, in one request and without KLoM, can do without"
                ),
            ),
            (
                replicas.references or not config.audit.lira,
                "audit.lira needs reference models: replicas.references of at least 4",
            ),
            (
                not classes
                or not replicas.references
                or config.audit.signal in ("softmax_confidence", "soft_margin"),
                (
                    "forget.kind=class with references needs"
                    " audit.signal=softmax_confidence: the Taylor signals are negative"
                    " on forgotten classes, and RMIA divides by them"
                ),
            ),
            (
                not classes or replicas.repeats == 1,
                (
                    "forget.kind=class compares ensembles of different models: give"
                    " more replicas.originals, and replicas.repeats=1"
                ),
            ),
            (
                classes or not config.audit.targets,
                "audit.targets is about forgotten classes: forget.kind=class",
            ),
            *(
                (
                    classes or not row.get("filter"),
                    (
                        f"row {name!r}: an output filter forgets classes:"
                        " forget.kind=class"
                    ),
                )
                for name, row in config.rows.items()
            ),
        ]
    )
    try:
        Discriminator(**config.audit.mia_nn_fields)
    except TypeError as error:
        raise InputError(f"audit.mia_nn_fields: {error}") from error
