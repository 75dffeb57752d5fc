"""Class unlearning on CIFAR-10 at the scale of two CPU cores: every method, tuned alike, beside retraining.

Command:   unlearn-jax run class_cifar10_cpu --workdir runs/class_cifar10_cpu --data.path DATA_DIR
Published: none at this scale; the full-scale preset is ``class_tables``.
Measured:  mean over 9 runs (3 originals x 3 classes of 150 samples), 95% interval of the mean, in percent and points;
           cost: gradients of single samples over a retraining's

                              ACC_r             TV forget         U-LiRA               MIA-NN gap       Avg Gap           cost
  Original                    38.5 [35.4,41.4]  63.0 [56.3,70.2]  91.0 [87.6,94.0]     13.7 [4.5,22.5]  28.5 [24.2,35.0]  –
  Retrained (oracle)          40.7 [37.3,43.6]  45.4 [39.0,53.3]  59.6 [45.2,71.8]     11.6 [4.5,23.9]  1.8 [0.0,2.4]     1.00
  Retrained again (floor)     40.8 [38.0,43.5]  45.4 [39.0,53.3]  59.6 [45.2,71.8]     13.2 [5.6,20.0]  2.6 [1.2,4.0]     1.00
  Fine-tuned (FT)             40.8 [37.8,43.9]  48.5 [37.6,58.9]  83.0 [73.6,89.4]     10.0 [3.8,19.0]  3.8 [2.6,5.8]     0.25
  Gradient ascent (GA)        38.3 [35.3,41.2]  52.0 [45.0,58.8]  85.1 [78.5,90.4]     19.4 [8.3,38.7]  8.9 [4.5,17.9]    0.03
  NegGrad+                    40.0 [36.7,43.1]  47.6 [39.2,57.0]  52.2 [47.1,57.5]     13.3 [5.9,22.7]  3.6 [2.8,4.9]     0.50
  Random label (RL)           38.4 [35.1,41.6]  50.3 [44.5,55.7]  66.1 [56.9,76.6]     10.9 [2.2,26.3]  2.2 [1.5,4.1]     0.27
  Boundary shrink (BS)        34.6 [31.1,38.5]  54.7 [45.1,65.9]  70.3 [59.5,79.9]     20.3 [7.6,35.5]  7.2 [3.7,11.8]    0.04
  Boundary expand (BE)        35.6 [32.0,39.9]  58.1 [51.0,66.4]  88.3 [82.5,92.9]     13.4 [3.5,32.3]  6.6 [4.0,9.5]     0.03
  l1-sparse                   40.6 [37.5,43.7]  47.6 [38.7,56.9]  83.6 [73.6,90.4]     13.4 [5.0,28.2]  3.3 [2.1,4.9]     0.25
  SalUn                       39.5 [36.3,42.7]  47.5 [40.9,52.7]  51.9 [43.1,63.6]     11.3 [2.1,35.1]  1.9 [1.4,3.0]     0.28
  SVD projection (Kodge)      40.2 [36.7,43.4]  49.2 [44.2,53.9]  90.9 [87.1,94.0]     13.6 [5.5,30.1]  7.0 [3.9,13.6]    0.04
  SCRUB                       38.8 [28.1,44.8]  48.8 [39.0,61.3]  70.5 [59.3,84.2]     12.4 [5.6,19.8]  4.4 [1.6,12.1]    0.27
  Bad teacher                 39.2 [35.4,42.7]  50.4 [45.5,55.5]  90.0 [85.8,93.2]     14.4 [4.5,30.1]  6.2 [3.6,10.8]    0.14
  UNSIR                       27.9 [22.2,32.2]  57.4 [52.2,64.3]  81.6 [74.0,88.4]     17.7 [8.8,28.6]  13.4 [9.3,19.0]   0.50
  SSD                         38.7 [36.0,41.7]  50.8 [42.3,61.9]  87.4 [82.1,92.2]     7.3 [2.5,14.3]   7.3 [2.1,20.6]    0.06
  L2UL                        31.6 [26.3,36.3]  58.9 [50.4,66.5]  56.0 [45.8,66.8]     17.3 [6.7,32.7]  9.3 [4.8,14.5]    0.11
  DELETE                      39.7 [36.4,43.2]  46.4 [37.8,52.8]  65.7 [53.3,77.3]     11.7 [2.7,30.1]  2.6 [1.4,4.2]     0.03
  DELETE with D_R             38.8 [35.9,41.6]  50.5 [43.8,57.7]  48.1 [38.0,57.3]     15.7 [5.9,29.3]  2.7 [1.8,4.4]     0.27
  TRW without D_R             39.1 [35.6,42.4]  46.1 [38.5,52.0]  56.1 [49.0,68.2]     12.5 [2.7,30.2]  2.5 [1.3,4.5]     0.03
  TRW                         39.7 [36.3,43.6]  48.2 [40.7,55.8]  55.7 [45.9,65.9]     11.2 [3.6,18.8]  2.2 [1.7,3.7]     0.27
  TRW, by sample              38.8 [35.9,41.7]  49.6 [42.0,56.9]  49.1 [42.9,55.4]     15.3 [4.3,33.1]  2.3 [1.6,4.2]     0.27
  Influence target            37.7 [34.6,40.5]  49.5 [42.2,56.2]  48.9 [41.2,55.8]     13.5 [4.1,28.3]  2.8 [2.1,4.2]     0.27
  Influence target, refitted  37.4 [34.4,40.5]  49.1 [42.3,55.0]  53.4 [45.9,61.3]     13.7 [5.6,21.8]  2.4 [1.4,4.4]     0.27
  Masked output               40.6 [37.3,43.5]  46.1 [38.7,52.5]  100.0 [100.0,100.0]  13.1 [2.7,32.7]  1.9 [1.3,3.3]     0.00
  MPRU (output filter)        40.5 [37.4,43.5]  47.7 [40.9,53.8]  100.0 [100.0,100.0]  14.5 [4.4,34.0]  1.9 [1.2,3.3]     0.00

Chosen:    Fine-tuned (FT): learning_rate 0.0208, decay_every 0; Gradient ascent (GA): learning_rate 0.000226;
           NegGrad+: learning_rate 0.0208, alpha 0.999; Random label (RL): learning_rate
           0.0448, decay_every 0; Boundary shrink (BS): learning_rate 0.001, bound 0.5;
           Boundary expand (BE): learning_rate 0.000518; l1-sparse: learning_rate
           0.0208, gamma 0.001; SalUn: learning_rate 0.0448, share 0.1; SVD projection
           (Kodge): alpha_retain 215, alpha_forget 100; SCRUB: learning_rate 0.001,
           alpha 0.001; Bad teacher: learning_rate 0.000518; UNSIR: learning_rate
           0.00448, repair_rate 0.03; SSD: alpha 100, importance batch; L2UL:
           learning_rate 0.0005; DELETE: learning_rate 0.00193; DELETE with D_R:
           learning_rate 0.0448, decay_every 0; TRW without D_R: learning_rate 0.00448,
           beta 0.5; TRW: learning_rate 0.0448, beta 0.5; TRW, by sample: learning_rate
           0.0448, beta 30; Influence target: learning_rate 0.0588; Influence target,
           refitted: learning_rate 0.0588

Reading:   with 1,500 images and 40% accuracy, two retrained models differ by 45 points of total variation on the
           forgotten class, and U-LiRA's interval on them runs from 45 to 72: U-LiRA
           tells FT, l1-sparse, GA, boundary expand, SVD projection, the bad teacher,
           UNSIR, SSD and the filters from retraining, and not the others, TRW (55.7),
           DELETE (65.7, with D_R 48.1) and the influence target (48.9) among them. In
           TV and MIA-NN nothing but L2UL's and boundary expand's means stands out: no
           claim about targets follows.
Time:      12 minutes with other jobs beside; peak memory 2.0 GB.
Device:    2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2.

``cifar10_jpeg`` holds CIFAR-10's images recompressed as JPEG, ordered by class: numbers
come close to CIFAR-10's, and are not equal to them. With the original images:
--data.name=cifar10.
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

_ROWS = rows.for_classes(small=True)
for _row in _ROWS.values():
    if "num_epochs" in _row:
        _row["num_epochs"] = 5

PRESET = RunConfig(
    title="Class unlearning on CIFAR-10 (JPEG), small CNN",
    data=DataConfig(
        source="tfds", name="cifar10_jpeg", num_train=1500, num_test=1000, balanced=True
    ),
    model=ModelConfig(name="cnn", fields={"widths": (8, 16)}),
    training=TrainingConfig(num_epochs=20, batch_size=64, learning_rate=0.02),
    forget=ForgetConfig(kind="class", classes=(1, 3, 8)),
    replicas=ReplicasConfig(originals=(0, 1, 2), references=0),
    tuning=TuningConfig(trials=8, classes=(0,)),
    audit=AuditConfig(num_bootstrap=500),
    rows=_ROWS,
)
