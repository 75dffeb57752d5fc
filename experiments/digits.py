"""AMUN on scikit-learn's digits: the whole pipeline in minutes on two CPU cores.

Command:   unlearn-jax run digits --workdir runs/digits
Published: none at this scale; the paper's Table 1 is ``amun_table1_cifar10``.
Measured:  mean ± std over 30 runs (3 originals x 10 forget sets), 95% interval of the mean, in percent and points

                               unlearn acc            test acc               FT AUC                 Avg Gap
  Original (do nothing)        100.0±0.0 [100.0, 100.0] 98.0±0.1 [97.1, 98.8]  58.6±2.8 [54.8, 62.5]  3.2±0.7 [2.0, 4.6]
  Retrained (oracle)           96.3±1.8 [94.0, 98.2]  97.9±0.2 [97.1, 98.7]  49.6±2.8 [46.2, 52.9]  1.0±0.4 [0.8, 1.9]
  Retrained again (seed floor) 96.7±2.0 [94.4, 98.5]  97.9±0.3 [97.0, 98.7]  50.1±2.7 [46.9, 53.5]  1.0±0.5 [0.8, 2.0]
  Fine-tuned (FT)              97.0±1.8 [95.1, 98.5]  97.5±0.5 [96.5, 98.2]  49.6±2.4 [46.2, 53.0]  1.1±0.5 [1.0, 2.1]
  AMUN                         96.7±3.1 [94.5, 98.5]  95.5±1.7 [94.2, 96.7]  45.9±2.7 [42.7, 49.2]  2.4±1.1 [1.9, 3.6]
  AMUN without D_R             100.0±0.0 [100.0, 100.0] 97.1±0.4 [96.1, 98.0]  49.3±2.9 [45.6, 53.1]  1.7±0.5 [1.3, 2.8]

Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.
Time:      1 min 56 s with the machine to itself; peak memory 0.9 GB.
"""

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
