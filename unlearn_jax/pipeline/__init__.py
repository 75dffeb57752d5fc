"""Runs: configuration, banks of trained models, unlearning, audit and report."""

from unlearn_jax.pipeline._audit import audit_arrays, audit_models
from unlearn_jax.pipeline._open import OpenedModels, OpenedRow, OpenedRun, open
from unlearn_jax.pipeline._run import run
from unlearn_jax.pipeline.arrays import AuditArrays
from unlearn_jax.pipeline.config.resolve import load_data
from unlearn_jax.pipeline.config.schema import (
    AttackConfig,
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
from unlearn_jax.pipeline.estimate import dry_run
from unlearn_jax.pipeline.experiment import (
    Experiment,
    dry_run_experiment,
    run_experiment,
)
from unlearn_jax.pipeline.report.blocks import (
    Check,
    Figure,
    Page,
    Section,
    Table,
    Text,
)
from unlearn_jax.pipeline.report.run import terminal_text
from unlearn_jax.pipeline.store.artifact import Artifact, Items, Piece, Stored
from unlearn_jax.pipeline.study import run_study

__all__ = [
    "Artifact",
    "AttackConfig",
    "AuditArrays",
    "AuditConfig",
    "Check",
    "DataConfig",
    "Experiment",
    "Figure",
    "ForgetConfig",
    "Items",
    "ModelConfig",
    "OpenedModels",
    "OpenedRow",
    "OpenedRun",
    "Page",
    "Piece",
    "ReplicasConfig",
    "Row",
    "RunConfig",
    "Section",
    "Stored",
    "Table",
    "Text",
    "TrainingConfig",
    "TuningConfig",
    "audit_arrays",
    "audit_models",
    "dry_run",
    "dry_run_experiment",
    "load_data",
    "open",
    "run",
    "run_experiment",
    "run_study",
    "terminal_text",
]
