"""A run as stages with a working directory: configuration, banks of trained models, unlearning, audit, report."""

from unlearn_jax.pipeline.config import (
    AttackConfig,
    AuditConfig,
    DataConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    RunConfig,
    TrainingConfig,
    TuningConfig,
)
from unlearn_jax.pipeline.estimate import dry_run
from unlearn_jax.pipeline.run import run
from unlearn_jax.pipeline.study import run_study

__all__ = [
    "AttackConfig",
    "AuditConfig",
    "DataConfig",
    "ForgetConfig",
    "ModelConfig",
    "ReplicasConfig",
    "RunConfig",
    "TrainingConfig",
    "TuningConfig",
    "dry_run",
    "run",
    "run_study",
]
