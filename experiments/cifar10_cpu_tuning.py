"""cifar10_cpu: learning rates of the fine-tuning methods, chosen on an original and forget sets that no table reports.

Command:  unlearn-jax run cifar10_cpu_tuning --workdir runs/cifar10_cpu_tuning --data.path DATA

The rule: of the log-spaced grid, the value with the lowest Avg Gap. ``cifar10_cpu`` reports other originals and
forget sets.
"""

from unlearn_jax.pipeline import presets

PRESET = presets.tuning_grid(
    presets.load("cifar10_cpu").config,
    originals=(101,),
    forget_seeds=(101, 102, 103),
    learning_rates=(0.001, 0.003, 0.01, 0.03, 0.1),
)
