"""The smallest run that passes through every stage."""

from unlearn_jax.methods import AMUN, FineTune
from unlearn_jax.pipeline import (
    AttackConfig,
    AuditConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    Row,
    RunConfig,
    TrainingConfig,
)
from unlearn_jax.pipeline.config.resolve import complete

TINY = complete(
    RunConfig(
        title="tiny",
        model=ModelConfig(name="mlp", widths=[8]),
        training=TrainingConfig(num_epochs=4, batch_size=16, learning_rate=0.1),
        forget=ForgetConfig(fraction=0.2, seeds=(1, 2)),
        replicas=ReplicasConfig(
            originals=(0, 1), references=6, group=4, checkpoint_seconds=0.0
        ),
        attack=AttackConfig(num_radii=8, num_steps=5, batch_size=8),
        audit=AuditConfig(num_bootstrap=20, mis_samples=20),
        rows={
            "finetune": Row(method=FineTune(num_epochs=2)),
            "amun": Row(method=AMUN(num_epochs=2), label="AMUN"),
        },
    )
)
