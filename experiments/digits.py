"""AMUN on scikit-learn's digits: the whole pipeline in minutes on two CPU cores."""

from unlearn_jax.pipeline import ForgetConfig, ModelConfig, ReplicasConfig, RunConfig, TrainingConfig

PRESET = RunConfig(
    title="AMUN on digits",
    model=ModelConfig(name="mlp", fields={"widths": (256, 256)}),
    training=TrainingConfig(num_epochs=100, batch_size=64, learning_rate=0.05),
    forget=ForgetConfig(seeds=tuple(range(1, 11))),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=64),
    rows={  # learning rates from digits_tuning
        "finetune": {"label": "Fine-tuned (FT)", "method": "finetune", "learning_rate": 0.3, "decay_every": 5},
        "amun": {"label": "AMUN", "method": "amun", "learning_rate": 0.1},
        "amun_no_retain": {"label": "AMUN without D_R", "method": "amun", "retain": False, "learning_rate": 0.01},
    },
)
