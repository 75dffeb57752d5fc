"""Runs: configuration, banks of trained models, unlearning, audit and report.

:func:`run` executes a :class:`RunConfig` in a working directory, :func:`dry_run`
estimates its cost, and :func:`open` reads a finished run. :func:`audit_models` and
:func:`audit_arrays` audit models and logits without a run. :func:`run_study` compares
several runs. :func:`run_experiment` computes an :class:`Experiment`, which is not a
run.
"""

from unlearn_jax.lazy import on_first_use

_NAMES = {
    "Artifact": "store.artifact",
    "AttackConfig": "config.schema",
    "AuditArrays": "arrays",
    "AuditConfig": "config.schema",
    "Check": "report.blocks",
    "Column": "measure.columns",
    "DataConfig": "config.schema",
    "Experiment": "experiment",
    "Figure": "report.blocks",
    "ForgetConfig": "config.schema",
    "Items": "store.artifact",
    "ModelConfig": "config.schema",
    "OpenedModels": "_open",
    "OpenedRow": "_open",
    "OpenedRun": "_open",
    "Page": "report.blocks",
    "Piece": "store.artifact",
    "ReplicasConfig": "config.schema",
    "Row": "config.schema",
    "RunConfig": "config.schema",
    "Section": "report.blocks",
    "Stored": "store.artifact",
    "Table": "report.blocks",
    "Text": "report.blocks",
    "TrainingConfig": "config.schema",
    "TuningConfig": "config.schema",
    "audit_arrays": "_audit",
    "audit_models": "_audit",
    "dry_run": "estimate",
    "dry_run_experiment": "experiment",
    "load_data": "config.resolve",
    "open": "_open",
    "run": "_run",
    "run_experiment": "experiment",
    "run_study": "study",
    "terminal_text": "report.tables",
}
"""Names of the package, by the module that defines them."""

__all__ = sorted(_NAMES)
__getattr__, __dir__ = on_first_use(__name__, _NAMES)
