"""Digits: learning rates of the fine-tuning methods, chosen on originals and forget sets that no table reports.

Command:  unlearn-jax run digits_tuning --workdir runs/digits_tuning

The rule: of the log-spaced grid, the value with the lowest Avg Gap. ``digits`` reports other originals and forget sets.
"""

from unlearn_jax.pipeline import presets

PRESET = presets.tuning_grid(
    presets.load("digits").config,
    originals=(100, 101),
    forget_seeds=(101, 102, 103, 104),
    learning_rates=(0.003, 0.01, 0.03, 0.1, 0.3, 0.6),
)
