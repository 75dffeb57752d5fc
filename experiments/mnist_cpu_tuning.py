"""mnist_cpu: learning rates of the fine-tuning methods, chosen on an original and forget sets that no table reports.

Command:  unlearn-jax run mnist_cpu_tuning --workdir runs/mnist_cpu_tuning --data.path DATA

The rule: of the log-spaced grid, the value with the lowest Avg Gap. ``mnist_cpu`` reports other originals and forget
sets.
"""

from unlearn_jax.pipeline import presets

PRESET = presets.tuning_grid(
    presets.load("mnist_cpu").config,
    originals=(101,),
    forget_seeds=(101, 102, 103),
    learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3),
)
