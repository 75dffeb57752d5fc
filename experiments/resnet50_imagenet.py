"""ResNet-50 on ImageNet, unlearning of 1,024 images; accelerator.

Claim:   none yet; planned by its shapes alone, compiled and never run.
Command: unlearn-jax run resnet50_imagenet --workdir runs/resnet50_imagenet
         --data.path DATA_DIR
Results: ``experiments/results/resnet50_imagenet.json``
"""

from unlearn_jax.methods import AMUN, SCRUB, FineTune, RandomLabel
from unlearn_jax.pipeline import (
    AttackConfig,
    AuditConfig,
    DataConfig,
    ForgetConfig,
    ModelConfig,
    ReplicasConfig,
    Row,
    RunConfig,
    TrainingConfig,
)

PRESET = RunConfig(
    title="ResNet-50 on ImageNet",
    data=DataConfig(
        source="tfds",
        name="imagenet2012",
        # bytes at 224 x 224, decoded once into a file of 193 GB. As many as divide
        # evenly over up to 1,024 devices: the last 143 are left out
        train_split="train[:1281024]",
        test_split="validation",
        size=(224, 224),
    ),
    model=ModelConfig(
        name="resnet",
        blocks=(3, 4, 6, 3),
        block="bottleneck",
        stem="imagenet",
        width=64,
        # statistics, parameters and logits stay float32
        dtype="bfloat16",
    ),
    # He et al.'s recipe at four times the batch and the learning rate
    training=TrainingConfig(
        num_epochs=90,
        batch_size=1024,
        learning_rate=0.4,
        decay_every=30,
        weight_decay=1e-4,
        augment="crop_flip",
    ),
    forget=ForgetConfig(fraction=None, count=1024, seeds=(1,)),
    replicas=ReplicasConfig(
        originals=(1, 2),
        references=8,
        reference_epochs=30,
        # of 1.3 million images with 1,000 logits each
        keep_references="signals",
        # one model at a time, on all devices of a host; the images over them
        mapper="split",
        shard_data=True,
        group=1,
        checkpoint_seconds=600.0,
    ),
    attack=AttackConfig(epsilon_init=0.1, num_radii=8, num_steps=20),
    audit=AuditConfig(num_bootstrap=200, mis=False),
    rows={
        "amun": Row(method=AMUN(num_epochs=1, learning_rate=1e-3)),
        "finetune": Row(method=FineTune(num_epochs=1, learning_rate=1e-3)),
        "random_label": Row(method=RandomLabel(num_epochs=1, learning_rate=1e-3)),
        "scrub": Row(method=SCRUB(num_epochs=1, learning_rate=1e-3)),
    },
)
