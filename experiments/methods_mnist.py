"""Every method on MNIST at the scale of two CPU cores, each tuned with the same number of trials; a small CNN.

Command:   unlearn-jax run methods_mnist --workdir runs/methods_mnist --data.path DATA_DIR
Published: none at this scale; the paper's Tables 1 and 2 are ``amun_tables_cifar10``.
Measured:  mean ± std over 9 runs (3 originals x 3 forget sets of 150), 95% interval of the mean, in percent and
           points; 64 references; cost: gradients of single samples over a retraining's,
           the adversarial set's as an upper bound

                           unlearn acc              test acc              FT AUC                Avg Gap            cost
  Original (do nothing)    100.0±0.0 [100.0,100.0]  95.0±0.2 [93.9,96.0]  54.4±1.3 [50.8,57.9]  3.1±0.3 [1.9,4.6]  –
  Retrained (oracle)       92.9±1.8 [88.8,96.0]     94.9±0.4 [93.8,95.8]  49.3±1.6 [45.8,53.0]  0.8±0.3 [0.3,1.6]  1.00
  Retrained again (floor)  93.3±1.3 [89.5,96.1]     94.8±0.3 [93.7,95.9]  48.9±1.3 [45.6,52.3]  0.6±0.2 [0.6,1.8]  1.00
  Fine-tuned (FT)          98.4±2.6 [94.7,100.0]    94.5±1.0 [93.0,95.7]  52.9±2.0 [49.4,56.7]  2.6±0.5 [1.7,3.9]  0.40
  Random label (RL)        98.2±0.7 [96.6,99.5]     93.8±0.4 [92.6,94.9]  46.1±0.9 [42.6,50.0]  2.5±0.4 [1.5,3.7]  0.44
  Gradient ascent (GA)     99.6±0.7 [98.6,100.0]    94.8±0.3 [93.8,95.8]  53.5±1.4 [49.8,57.1]  2.8±0.5 [1.7,4.2]  0.45
  NegGrad+                 100.0±0.0 [100.0,100.0]  94.9±0.2 [93.9,96.0]  53.6±1.5 [49.8,57.1]  2.9±0.4 [1.8,4.4]  0.80
  Boundary shrink (BS)     97.4±1.8 [94.6,99.6]     93.9±0.4 [92.8,95.0]  50.2±2.0 [46.3,53.7]  1.8±0.5 [1.1,3.5]  0.46
  l1-sparse                100.0±0.0 [100.0,100.0]  95.0±0.2 [93.9,96.0]  53.7±1.5 [49.9,57.1]  2.9±0.4 [1.8,4.4]  0.40
  SalUn                    96.9±1.7 [93.6,98.9]     93.2±0.9 [91.8,94.6]  48.4±1.7 [44.6,52.8]  2.0±0.5 [1.4,3.2]  0.44
  SCRUB                    94.4±6.3 [87.3,100.0]    92.7±3.1 [88.9,95.0]  51.4±2.6 [47.1,55.4]  3.2±2.6 [1.6,6.3]  0.41
  Bad teacher              100.0±0.0 [100.0,100.0]  95.0±0.2 [93.9,96.0]  54.3±1.5 [50.7,57.8]  3.1±0.4 [1.9,4.6]  0.22
  SSD                      91.6±4.4 [85.6,96.3]     89.5±2.3 [86.6,91.8]  51.1±1.7 [47.3,54.8]  4.2±1.8 [2.9,7.1]  0.05
  Influence (WoodFisher)   94.4±6.1 [86.6,99.1]     92.3±3.8 [88.1,95.0]  51.6±1.9 [47.6,54.9]  3.2±2.2 [1.8,6.0]  0.57
  Fisher forgetting        99.0±0.9 [97.8,99.8]     93.8±0.8 [92.4,95.0]  52.7±1.6 [49.2,56.3]  2.8±0.6 [1.8,4.2]  0.38
  Masked small gradients   92.8±2.3 [88.8,95.8]     94.1±0.5 [92.9,95.2]  50.6±2.1 [47.1,54.5]  1.1±0.4 [0.7,2.4]  0.41
  Convolution transpose    93.1±1.0 [90.0,95.9]     93.2±0.4 [91.9,94.4]  49.5±1.6 [45.8,53.2]  1.2±0.3 [1.1,2.6]  0.40
  AMUN                     100.0±0.0 [100.0,100.0]  94.1±0.6 [92.9,95.2]  49.2±1.6 [45.1,53.0]  2.3±0.3 [1.7,3.6]  1.40
  AMUN+SalUn               98.1±0.8 [96.5,99.5]     93.7±0.8 [92.4,95.0]  49.1±1.9 [45.0,52.9]  2.0±0.4 [1.2,3.5]  1.40
  RL without D_R           100.0±0.0 [100.0,100.0]  94.9±0.3 [94.0,96.0]  54.1±1.7 [50.4,57.7]  3.0±0.4 [1.9,4.5]  0.05
  GA without D_R           –                        –                     –                     –                  0.05
  BS without D_R           97.0±2.9 [92.9,99.5]     93.3±1.1 [91.8,94.7]  51.1±1.9 [47.2,54.7]  2.4±0.6 [1.6,3.9]  0.06
  SalUn without D_R        100.0±0.0 [100.0,100.0]  94.8±0.3 [93.8,95.9]  53.4±2.3 [49.3,57.3]  2.9±0.6 [1.8,4.5]  0.06
  AMUN without D_R         100.0±0.0 [100.0,100.0]  94.7±0.4 [93.6,95.8]  51.9±1.7 [47.7,55.4]  2.5±0.4 [1.6,4.0]  1.02
  AMUN+SalUn without D_R   100.0±0.0 [100.0,100.0]  94.7±0.4 [93.6,95.7]  51.8±1.6 [47.8,55.2]  2.5±0.3 [1.7,3.9]  1.02

Chosen:    Fine-tuned (FT): learning_rate 0.0959, decay_every 0; Random label (RL): learning_rate 0.00313, decay_every
           0; Gradient ascent (GA): learning_rate 0.01; NegGrad+: learning_rate 0.0448,
           alpha 0.999; Boundary shrink (BS): learning_rate 0.000811; l1-sparse:
           learning_rate 0.0448, gamma 1e-06; SalUn: learning_rate 0.00669, share 0.1;
           SCRUB: learning_rate 0.01, alpha 0.0316; Bad teacher: learning_rate 1e-05;
           SSD: alpha 0.1, importance sample; Influence (WoodFisher): alpha 100; Fisher
           forgetting: alpha 3.51e-06; Masked small gradients: learning_rate 0.3,
           init_rate 0.9; Convolution transpose: learning_rate 0.0377; AMUN:
           learning_rate 0.0959, decay_every 5; AMUN+SalUn: learning_rate 0.0448, share
           0.9; RL without D_R: learning_rate 0.0001, decay_every 5; GA without D_R:
           learning_rate 0.01; BS without D_R: learning_rate 0.000351; SalUn without
           D_R: learning_rate 0.0001, share 0.1; AMUN without D_R: learning_rate
           0.00306, decay_every 0; AMUN+SalUn without D_R: learning_rate 0.00448, share
           0.3

Diverged:  GA without D_R, which the search left at 0.01, ends in numbers that are not finite in at least one of the
           nine runs.
Time:      24 minutes with other jobs beside, references (11 more) from the bank; peak memory 1.9 GB.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.
"""

from unlearn_jax.pipeline import (
    AttackConfig,
    AuditConfig,
    DataConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    RunConfig,
    TrainingConfig,
    TuningConfig,
)
from unlearn_jax.pipeline.config import rows

PRESET = RunConfig(
    title="Methods on MNIST, small CNN",
    data=DataConfig(source="tfds", name="mnist", num_train=1500, num_test=1500),
    model=ModelConfig(name="cnn", fields={"widths": (8, 16)}),
    training=TrainingConfig(num_epochs=25, batch_size=64, learning_rate=0.05),
    forget=ForgetConfig(seeds=(1, 2, 3)),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=64),
    attack=AttackConfig(epsilon_init=0.16),
    tuning=TuningConfig(trials=12, seeds=(101, 102)),
    audit=AuditConfig(num_bootstrap=500),
    rows=rows.with_retain() | rows.without_retain(),
)
