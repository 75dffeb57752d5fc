"""AMUN on scikit-learn's digits: the whole pipeline in minutes on two CPU cores.

Command:   unlearn-jax run digits --workdir runs/digits
Published: none at this scale; the paper's Table 1 is ``amun_tables_cifar10``.
Measured:  TO BE MEASURED
"""

from unlearn_jax.pipeline import (
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    RunConfig,
    TrainingConfig,
    TuningConfig,
    rows,
)

PRESET = RunConfig(
    title="AMUN on digits",
    model=ModelConfig(name="mlp", fields={"widths": (256, 256)}),
    training=TrainingConfig(num_epochs=100, batch_size=64, learning_rate=0.05),
    forget=ForgetConfig(seeds=tuple(range(1, 11))),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=64),
    tuning=TuningConfig(trials=12),
    rows={
        "finetune": {"label": "Fine-tuned (FT)", "method": "finetune"},
        "amun": {"label": "AMUN", "method": "amun"},
        "amun_no_retain": rows.without_retain()["amun_no_retain"],
    },
)
