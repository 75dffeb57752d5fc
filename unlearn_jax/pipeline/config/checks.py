"""Checks that reject unusable combinations of options before anything is trained."""

import jax
import jax.numpy as jnp

from unlearn_jax.data import Splits
from unlearn_jax.methods import Filtered
from unlearn_jax.pipeline.config.schema import HARD, ForgetConfig, RunConfig
from unlearn_jax.replicas import mapper
from unlearn_jax.types import InputError, Model


def check_settings(config: RunConfig) -> None:
    """Raise on options of different parts that do not fit together.

    Each part checks its own options when it is constructed.

    Args:
      config: configuration of the run.

    Raises:
      InputError: the options do not fit together; the message names the field.
    """
    replicas = config.replicas
    audit = config.audit
    is_class = config.forget.kind == "class"
    is_one = replicas.repeats == 1
    has_many = len(replicas.originals) > 1

    attacks = [config.attack, *config.attacks.values()]
    if any(attack.source == "other" for attack in attacks) and not has_many:
        raise InputError("attack.source=other needs two or more originals")
    if audit.klom and not (is_one and has_many):
        raise InputError(
            "audit.klom compares ensembles of different models: give many"
            " replicas.originals, and replicas.repeats=1"
        )
    if replicas.references == 0:
        if not is_class or config.forget.requests > 1 or audit.klom:
            raise InputError(
                "replicas.references=0 leaves no membership attack: it is allowed only"
                " in a run that forgets classes, in one request and without KLoM"
            )
        if audit.lira:
            raise InputError(
                "audit.lira needs reference models: replicas.references of at least 4"
            )
    if config.forget.kind in HARD and replicas.keep_references == "signals":
        raise InputError(
            f"forget.kind={config.forget.kind} reads the references' logits:"
            " set replicas.keep_references=logits"
        )
    if audit.lira and replicas.references < 4:
        raise InputError(
            "audit.lira needs replicas.references of at least 4: for every sample, two"
            " trained with it and two without"
        )
    if is_class:
        _check_classes(config)
    else:
        _check_no_classes(config)
    form = mapper(
        replicas.mapper,
        num_models=1024,
        devices=replicas.devices,
        split=replicas.split,
        across_hosts=replicas.across_hosts,
    )
    if config.training.batch_size % form.shards:
        raise InputError(
            f"training.batch_size ({config.training.batch_size}) does not divide over"
            f" {form.shards} devices (replicas.mapper=split, or replicas.split): choose"
            " a multiple"
        )


def _check_no_classes(config: RunConfig) -> None:
    """Raise on options of classes where samples are forgotten."""
    default = ForgetConfig()
    given = {
        "forget.classes": config.forget.classes != default.classes,
        "forget.together": config.forget.together != default.together,
        "tuning.classes": bool(config.tuning.classes),
    }
    for name, is_given in given.items():
        if is_given:
            raise InputError(
                f"{name} is for forgotten classes, but forget.kind is"
                f" {config.forget.kind}: set forget.kind=class, or leave it out"
            )
    if config.audit.targets:
        raise InputError("audit.targets needs forgotten classes: set forget.kind=class")
    for name, row in config.rows.items():
        if isinstance(row.method, Filtered):
            raise InputError(
                f"row {name!r}: an output filter forgets classes: set forget.kind=class"
            )


def _check_classes(config: RunConfig) -> None:
    """Raise on options that cannot be combined with forgetting whole classes."""
    replicas = config.replicas
    signals = ("softmax_confidence", "soft_margin")
    if replicas.references and config.audit.signal not in signals:
        raise InputError(
            "forget.kind=class with references needs audit.signal=softmax_confidence:"
            " the Taylor signals are negative on forgotten classes, and RMIA divides by"
            " them"
        )
    if replicas.repeats != 1:
        raise InputError(
            "forget.kind=class compares ensembles of different models: give more"
            " replicas.originals, and replicas.repeats=1"
        )


def check_logits(model: Model, splits: Splits) -> None:
    """Raise on a network whose logits do not fit the data.

    Args:
      model: the network.
      splits: the data.

    Raises:
      InputError: the logits do not have one column per class.
    """
    images = jax.ShapeDtypeStruct((2, *splits.train.images.shape[1:]), jnp.float32)
    logits = jax.eval_shape(
        model.apply, jax.eval_shape(model.init, jax.random.key(0)), images
    )
    if logits.shape != (2, splits.num_classes):
        raise InputError(
            f"the model gives logits {logits.shape} for 2 images of"
            f" {splits.num_classes} classes: it must give (2, {splits.num_classes})"
        )
