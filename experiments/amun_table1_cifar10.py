"""AMUN Tables 1 and 2 at full scale: ResNet-18 on CIFAR-10, 10% forgotten (for an accelerator).

Command:  unlearn-jax prepare cifar10 --archive cifar-10-binary.tar.gz --data-dir DATA
          unlearn-jax run amun_table1_cifar10 --workdir runs/amun10 --data.path DATA
          and for 50%:  --forget.fraction 0.5 --workdir runs/amun50   (the banks of originals and references are shared)

3 originals x 3 forget sets x 3 runs = 27 per method, 128 references, as in the paper (arXiv 2503.00917). Forget sets
are the published ones (legacy NumPy generator, seeds 1, 10, 100 over the official order of the 50,000 training images).

Published, 10%, mean ± std over 27 runs (unlearn / retain / test accuracy, FT AUC, Avg Gap):

    Retrain              94.49±0.20   100.0±0.00   94.33±0.18   50.00±0.42   0
    FT                   95.16±0.29   96.64±0.25   92.21±0.27   52.08±0.34   2.06±0.10
    AMUN                 95.45±0.19   99.57±0.00   93.45±0.22   50.18±0.36   0.62±0.05
    AMUN without D_R     94.28±0.37   97.47±0.10   91.67±0.04   52.24±0.23   1.94±0.13

Measured: not yet; it needs an accelerator (about 150 ResNet-18 trainings). Selected hyper-parameters are not published;
learning rate 0.01 divided by 10 after every epoch is the released code's example for AMUN with D_R at 10%.
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
)

PRESET = RunConfig(
    title="AMUN, Tables 1 and 2: ResNet-18 on CIFAR-10",
    data=DataConfig(source="tfds", name="cifar10"),
    model=ModelConfig(name="resnet", fields={"blocks": (2, 2, 2, 2), "width": 64, "halve_projection": True}),
    training=TrainingConfig(num_epochs=200, batch_size=128, learning_rate=0.1, decay_every=40, augment="crop_flip"),
    forget=ForgetConfig(fraction=0.1, seeds=(1, 10, 100), generator="legacy"),
    replicas=ReplicasConfig(
        originals=(1, 10, 100), repeats=3, references=128, reference_epochs=161, group=8, mapper="map"
    ),
    attack=AttackConfig(epsilon_init=0.04, num_steps=50),
    audit=AuditConfig(num_bootstrap=200, mis_samples=10_000),
    rows={
        "finetune": {"label": "FT", "method": "finetune", "learning_rate": 0.01},
        "amun": {"label": "AMUN", "method": "amun", "learning_rate": 0.01, "decay_every": 1},
        "amun_adversarial": {
            "label": "AMUN, D_R and D_A",
            "method": "amun",
            "forget": False,
            "learning_rate": 0.01,
            "decay_every": 1,
        },
        "amun_no_retain": {
            "label": "AMUN without D_R",
            "method": "amun",
            "retain": False,
            "learning_rate": 0.01,
            "decay_every": 1,
        },
        "amun_adversarial_only": {
            "label": "AMUN, D_A only",
            "method": "amun",
            "retain": False,
            "forget": False,
            "learning_rate": 0.01,
            "decay_every": 1,
        },
    },
)
