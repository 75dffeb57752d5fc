"""AMUN on scikit-learn's digits: the main job, in minutes on a laptop.

Claim:   AMUN brings scores of forgotten samples to those of unseen ones.
Command: unlearn-jax run digits --workdir runs/digits
Results: ``experiments/results/digits.json``
"""

from unlearn_jax.methods import AMUN, FineTune
from unlearn_jax.pipeline import (
    AttackConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    Row,
    RunConfig,
    TrainingConfig,
    TuningConfig,
)
from unlearn_jax.pipeline.config import rows

PRESET = RunConfig(
    title="AMUN on digits",
    model=ModelConfig(name="mlp", widths=(256, 256)),
    training=TrainingConfig(num_epochs=100, batch_size=64, learning_rate=0.05),
    forget=ForgetConfig(seeds=tuple(range(1, 11))),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=64),
    attack=AttackConfig(search="minimal"),
    tuning=TuningConfig(trials=8),
    rows={
        "finetune": Row(label="Fine-tuned (FT)", method=FineTune()),
        "amun": Row(label="AMUN", method=AMUN()),
        "amun_no_retain": rows.without_retain()["amun_no_retain"],
    },
)
