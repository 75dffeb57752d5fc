"""Digits: learning rates of the fine-tuning methods, chosen on originals and forget sets that no table reports.

Command:  unlearn-jax run digits_tuning --workdir runs/digits_tuning

The grid is log-spaced; a method's value is the one with the lowest Avg Gap here. ``digits`` takes it over, with other
original models (seeds 0, 1, 2 there; 100, 101 here) and other forget sets (seeds 1 to 10 there; 101 to 104 here).
"""

from unlearn_jax.pipeline import ForgetConfig, ModelConfig, ReplicasConfig, RunConfig, TrainingConfig

RATES = (0.003, 0.01, 0.03, 0.1)
METHODS = {
    "finetune": {"method": "finetune"},
    "amun": {"method": "amun"},
    "amun_no_retain": {"method": "amun", "retain": False},
}

PRESET = RunConfig(
    title="Learning rates on digits",
    model=ModelConfig(name="mlp", fields={"widths": (256, 256)}),
    training=TrainingConfig(num_epochs=100, batch_size=64, learning_rate=0.05),
    forget=ForgetConfig(seeds=(101, 102, 103, 104)),
    replicas=ReplicasConfig(originals=(100, 101), references=64),
    rows={
        f"{name}@{rate:g}/{decay}".replace("@", "-").replace("/", "-decay"): {
            **row,
            "label": f"{name}, rate {rate:g}" + (f", /10 every {decay} epochs" if decay else ""),
            "learning_rate": rate,
            "decay_every": decay,
        }
        for name, row in METHODS.items()
        for rate in RATES
        for decay in (0, 5)
    },
)
