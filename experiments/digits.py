"""AMUN on scikit-learn's digits: the whole pipeline in minutes on two CPU cores.

Command:   unlearn-jax run digits --workdir runs/digits
Published: none at this scale; the paper's Table 1 is ``amun_tables_cifar10``.
Measured:  mean ± std over 30 runs (3 originals x 10 forget sets of 90), 95% interval of the mean, in percent and
           points; 64 references; cost: gradients of single samples over a retraining's,
           the adversarial set's as an upper bound

                           unlearn acc              test acc              FT AUC                Avg Gap            cost
  Original (do nothing)    100.0±0.0 [100.0,100.0]  98.0±0.1 [97.1,98.8]  58.6±2.8 [54.8,62.5]  3.2±0.7 [2.0,4.6]  –
  Retrained (oracle)       96.3±1.8 [94.0,98.2]     97.9±0.2 [97.1,98.7]  49.6±2.8 [46.2,52.9]  1.0±0.4 [0.8,1.9]  1.00
  Retrained again (floor)  96.7±2.0 [94.4,98.5]     97.9±0.3 [97.0,98.7]  50.1±2.7 [46.9,53.5]  1.0±0.5 [0.8,2.0]  1.00
  Fine-tuned (FT)          97.0±1.8 [95.1,98.5]     97.5±0.5 [96.5,98.2]  49.6±2.4 [46.2,53.0]  1.1±0.5 [1.0,2.1]  0.10
  AMUN                     100.0±0.0 [100.0,100.0]  97.5±0.3 [96.5,98.4]  48.5±2.6 [44.8,52.3]  1.6±0.4 [1.3,2.6]  0.40
  AMUN without D_R         99.9±0.3 [99.6,100.0]    96.6±0.6 [95.5,97.5]  47.6±2.8 [43.9,51.2]  1.9±0.6 [1.5,3.0]  0.30

Chosen:    Fine-tuned (FT): learning_rate 0.3, decay_every 5; AMUN: learning_rate 0.0306, decay_every 5; AMUN without
           D_R: learning_rate 0.03, decay_every 5

Time:      about 4 minutes with other jobs beside; peak memory 1.2 GB.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.
"""

from unlearn_jax.pipeline import (
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    RunConfig,
    TrainingConfig,
    TuningConfig,
)
from unlearn_jax.pipeline.config import rows

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
