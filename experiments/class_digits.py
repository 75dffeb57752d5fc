"""Class unlearning on scikit-learn's digits: every method, tuned alike, beside retraining; minutes on two CPU cores.

Command:   unlearn-jax run class_digits --workdir runs/class_digits
Published: none at this scale; the full-scale presets are ``class_tables`` and
``class_tables_tiny_imagenet``.
Measured:  mean over 20 runs (5 originals x 4 classes of 120 samples), 95% interval of the mean, in percent and
           points; cost: gradients of single samples over a retraining's

                              ACC_r             TV forget         U-LiRA               MIA-NN gap        Avg Gap           cost
  Original                    97.9 [96.6,99.1]  94.4 [89.5,98.4]  100.0 [100.0,100.0]  42.1 [30.3,57.5]  55.7 [53.2,58.1]  –
  Retrained (oracle)          98.2 [96.9,99.2]  12.0 [6.9,18.1]   50.4 [38.4,59.6]     3.1 [0.7,8.3]     0.6 [0.2,1.0]     1.00
  Retrained again (floor)     98.2 [97.0,99.2]  12.0 [6.9,18.1]   50.4 [38.4,59.6]     3.6 [0.7,8.9]     0.6 [0.2,1.0]     1.00
  Fine-tuned (FT)             97.9 [96.7,98.9]  26.1 [20.9,31.1]  95.5 [90.6,98.7]     9.5 [5.1,16.8]    3.0 [2.1,3.9]     0.17
  Gradient ascent (GA)        –                 –                 –                    –                 –                 0.02
  NegGrad+                    96.4 [94.3,97.9]  26.2 [19.0,33.8]  97.5 [93.1,99.4]     11.5 [5.7,20.1]   3.4 [2.5,4.9]     0.33
  Random label (RL)           96.4 [94.5,98.1]  42.1 [37.3,47.9]  99.0 [97.8,99.8]     24.1 [15.5,34.9]  7.6 [6.4,9.2]     0.19
  Boundary shrink (BS)        95.4 [92.9,97.4]  29.6 [23.5,36.4]  82.6 [70.8,93.2]     12.6 [6.6,22.3]   4.5 [3.3,6.0]     0.02
  Boundary expand (BE)        92.2 [87.2,95.6]  53.2 [41.6,64.0]  88.9 [84.3,93.6]     29.0 [17.0,45.0]  10.6 [7.4,13.7]   0.02
  l1-sparse                   95.7 [93.8,97.4]  28.1 [21.4,35.8]  98.3 [95.8,99.8]     12.6 [4.9,23.5]   4.2 [3.1,5.2]     0.17
  SalUn                       97.3 [95.9,98.6]  52.2 [46.5,58.7]  98.1 [95.7,99.8]     36.1 [23.4,51.4]  8.3 [6.4,10.3]    0.19
  SVD projection (Kodge)      96.5 [94.8,98.1]  33.9 [26.0,42.3]  97.5 [93.6,100.0]    9.3 [3.5,19.4]    7.9 [5.0,12.6]    0.02
  SCRUB                       97.9 [96.7,99.0]  29.1 [20.0,39.9]  99.8 [99.5,100.0]    12.2 [5.6,21.4]   7.9 [3.7,14.0]    0.17
  Bad teacher                 96.1 [93.8,97.9]  49.2 [42.5,57.1]  93.5 [89.6,97.1]     29.6 [17.4,44.3]  8.4 [6.2,11.3]    0.08
  UNSIR                       93.1 [91.1,94.7]  38.9 [30.5,46.7]  82.2 [74.6,90.5]     14.1 [8.0,21.6]   7.4 [5.9,8.8]     0.21
  SSD                         91.2 [85.0,96.1]  38.9 [25.8,52.9]  96.4 [90.7,99.1]     14.9 [8.2,24.4]   8.0 [3.4,13.8]    0.02
  L2UL                        49.7 [36.8,65.6]  50.6 [36.7,63.5]  96.2 [93.1,98.5]     42.1 [29.3,54.5]  27.2 [18.5,34.1]  0.04
  DELETE                      97.6 [96.3,98.7]  24.1 [19.1,29.3]  95.2 [90.7,98.7]     6.7 [3.8,13.4]    2.6 [1.6,3.9]     0.02
  DELETE with D_R             98.3 [97.3,99.2]  26.4 [19.8,34.6]  83.9 [76.3,91.6]     12.2 [4.5,21.6]   3.0 [1.4,4.8]     0.19
  TRW without D_R             97.4 [95.9,98.8]  33.8 [26.1,44.1]  81.5 [74.7,85.6]     17.0 [8.6,29.1]   4.6 [2.5,7.2]     0.02
  TRW                         98.1 [96.9,99.1]  29.5 [21.6,37.0]  81.4 [74.6,87.1]     14.4 [6.5,23.0]   3.5 [1.7,5.4]     0.19
  TRW, by sample              97.9 [96.7,99.0]  28.2 [22.3,35.6]  74.7 [65.8,80.6]     8.0 [2.8,19.6]    3.3 [1.6,5.6]     0.19
  Influence target            98.1 [96.8,99.2]  21.6 [16.3,27.5]  77.0 [66.6,87.6]     8.3 [3.9,15.7]    2.0 [1.2,2.9]     0.19
  Influence target, refitted  98.3 [97.2,99.2]  20.4 [14.4,25.6]  72.5 [61.4,83.1]     6.6 [2.5,13.0]    1.7 [0.8,2.9]     0.19
  Masked output               98.2 [97.1,99.2]  25.2 [18.4,31.8]  100.0 [100.0,100.0]  11.2 [4.6,20.2]   2.8 [1.3,4.4]     0.00
  MPRU (output filter)        98.2 [97.1,99.2]  45.0 [38.3,52.5]  100.0 [100.0,100.0]  28.1 [18.6,40.6]  6.7 [4.7,8.7]     0.00

Chosen:    Fine-tuned (FT): learning_rate 0.313, decay_every 5; Gradient ascent (GA): learning_rate 0.0179; NegGrad+:
           learning_rate 0.144, alpha 0.999; Random label (RL): learning_rate 0.001,
           decay_every 5; Boundary shrink (BS): learning_rate 0.001, bound 0.224;
           Boundary expand (BE): learning_rate 0.000658; l1-sparse: learning_rate 0.144,
           gamma 0.001; SalUn: learning_rate 0.00669, share 0.1; SVD projection (Kodge):
           alpha_retain 215, alpha_forget 10; SCRUB: learning_rate 0.01, alpha 1; Bad
           teacher: learning_rate 0.000811; UNSIR: learning_rate 0.00448, repair_rate
           0.03; SSD: alpha 25.1, importance batch; L2UL: learning_rate 0.0102; DELETE:
           learning_rate 0.000351; DELETE with D_R: learning_rate 0.0959, decay_every 0;
           TRW without D_R: learning_rate 0.000669, beta 3.87; TRW: learning_rate
           0.00669, beta 3.87; TRW, by sample: learning_rate 0.00669, beta 30; Influence
           target: learning_rate 0.179; Influence target, refitted: learning_rate 0.106

Diverged:  GA: the search leaves it at the only rate that forgets at all, and that one ends in numbers that are not
           finite in at least one run.
Reading:   the influence-predicted target (refitted) comes nearest to retraining in TV and Avg Gap; TRW with the
           published similarity is no nearer in TV than DELETE, its target without a
           tilt. U-LiRA: TRW 81, by sample 75, influence targets 73 to 77, the best
           other method 82 (UNSIR, boundary shrink), retrained 50: all intervals of
           these overlap, and none holds 50. MIA-NN gap: influence, refitted, and DELETE
           7, TRW 14, retrained 3 to 4. The older attacks call nearly every method
           perfect (100, as retrained), and RMIA and LiRA find no trace of single
           samples in any.
Time:      6 minutes with other jobs beside; peak memory 1.8 GB.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.
"""

from unlearn_jax.pipeline import (
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
    title="Class unlearning on digits",
    data=DataConfig(num_train=1200, num_test=500, balanced=True),
    model=ModelConfig(name="mlp", fields={"widths": (256, 256)}),
    training=TrainingConfig(num_epochs=60, batch_size=64, learning_rate=0.05),
    forget=ForgetConfig(kind="class", classes=(1, 3, 5, 8)),
    replicas=ReplicasConfig(originals=(0, 1, 2, 3, 4), references=64),
    tuning=TuningConfig(trials=12),
    audit=AuditConfig(num_bootstrap=500, signal="softmax_confidence", lira=True),
    rows=rows.for_classes(small=True),
)
