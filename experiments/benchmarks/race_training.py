"""Training raced against a PyTorch loop on the same CPU: one model, and banks of models.

Command:  python experiments/benchmarks/race_training.py --rounds 3 --calls 1
          (PyTorch must be installed)

The same work: architecture, images (random around an image per class; the digits for
the MLP), batches of 128, SGD with momentum 0.9 and weight decay 5e-4, as many steps,
all data in memory as uint8. "result" is the mean loss of the last epoch: chance is
2.303. PyTorch runs the loop its users write, one model after another; ours is
``train.fit`` for one model and ``replicas.fit_many`` with the default mapper for
several, on as many devices as cores, as the command line has it. Rates are images per
second over all models.

Measured on 2 CPU cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2, PyTorch 2.13, the
machine to itself, ``--rounds 3``; minimum, median and maximum:

CNN 16-32-64, one model

| | images/s | ours is faster by | first call s | peak MB | result |
|---|---|---|---|---|---|
| ours | 2,998 / 3,043 / 3,176 | 1 / 1 / 1 | 8.19 | 630 | 2.146 |
| PyTorch, NCHW | 2,737 / 3,038 / 3,759 | 0.798 / 1.05 / 1.11 | 2.65 | 382 | 2.293 |
| ours, batches split over cores | 2,046 / 2,300 / 2,650 | 1.2 / 1.3 / 1.49 | 13.06 | 720 | 2.039 |
| PyTorch, NHWC | 3,181 / 3,366 / 3,753 | 0.846 / 0.904 / 0.942 | 2.76 | 386 | 2.293 |

CNN 16-32-64, 16 models

| | images/s | ours is faster by | first call s | peak MB | result |
|---|---|---|---|---|---|
| ours | 4,613 / 5,399 / 5,881 | 1 / 1 / 1 | 9.25 | 652 | 2.322 |
| PyTorch, NCHW | 4,014 / 4,411 / 4,640 | 0.994 / 1.22 / 1.47 | 4.62 | 382 | 2.304 |
| PyTorch, NHWC | 5,454 / 6,193 / 6,804 | 0.745 / 0.793 / 1.08 | 4.25 | 390 | 2.304 |

MLP 256-256 on digits, 32 models

| | images/s | ours is faster by | first call s | peak MB | result |
|---|---|---|---|---|---|
| ours | 269,986 / 273,929 / 278,734 | 1 / 1 / 1 | 4.34 | 667 | 0.08778 |
| PyTorch | 113,834 / 126,868 / 133,246 | 2.09 / 2.13 / 2.41 | 4.38 | 563 | 0.1469 |

ResNet-18 of width 64, one model

| | images/s | ours is faster by | first call s | peak MB | result |
|---|---|---|---|---|---|
| ours | 27.8 / 32.5 / 38.3 | 1 / 1 / 1 | 28.35 | 2,616 | 2.213 |
| PyTorch, NCHW | 29.9 / 35.5 / 42.4 | 0.904 / 0.917 / 0.932 | 12.19 | 1,370 | 2.257 |
| PyTorch, NHWC | 43.3 / 49.5 / 50.3 | 0.642 / 0.647 / 0.775 | 9.85 | 1,314 | 2.257 |
| ours, bfloat16 | 30.3 / 32.8 / 33.5 | 0.918 / 0.993 / 1.14 | 25.73 | 2,074 | 2.21 |
| PyTorch, NCHW, bfloat16 | 83.6 / 84.8 / 100 | 0.328 / 0.382 / 0.389 | 5.79 | 1,049 | 2.257 |
| PyTorch, NHWC, bfloat16 | 94.6 / 97.7 / 109 | 0.294 / 0.333 / 0.35 | 5.13 | 1,046 | 2.257 |

ResNet-18 of width 16, one model

| | images/s | ours is faster by | first call s | peak MB | result |
|---|---|---|---|---|---|
| ours | 333 / 344 / 357 | 1 / 1 / 1 | 21.70 | 1,237 | 2.073 |
| PyTorch, NCHW | 410 / 430 / 455 | 0.773 / 0.784 / 0.838 | 3.28 | 677 | 2.241 |
| ours, batches split over cores | 218 / 231 / 249 | 1.43 / 1.49 / 1.53 | 24.50 | 1,454 | 2.123 |
| PyTorch, NHWC | 500 / 538 / 604 | 0.568 / 0.619 / 0.713 | 2.83 | 585 | 2.241 |

ResNet-18 of width 16, 4 models

| | images/s | ours is faster by | first call s | peak MB | result |
|---|---|---|---|---|---|
| ours | 476 / 513 / 521 | 1 / 1 / 1 | 30.74 | 1,685 | 2.167 |
| PyTorch, NCHW | 426 / 464 / 491 | 1.03 / 1.06 / 1.2 | 8.88 | 662 | 2.241 |
| PyTorch, NHWC | 530 / 531 / 610 | 0.854 / 0.898 / 0.967 | 6.95 | 619 | 2.241 |

So banks of models are faster than PyTorch's loop in its default layout, and slower than
in its NHWC layout by a tenth (ResNet-18 of width 16) to a fifth (the CNN). A single
ResNet-18 is slower than either: oneDNN's convolutions use both cores for one batch, and
its bfloat16 ones the processor's own instructions for it, which XLA's do not (bfloat16
saves time on accelerators only). Batches split over forced devices cost more than they
bring on two cores. The few steps of each contest leave losses near chance; "result"
shows that both sides train, not how well. PyTorch's networks begin from its own initial
weights.

Old against new convolutions, a training step on one device, processor time, in turns,
the machine to itself: CNN 51.6 and 71.5 against 43.8 and 59.8 ms; ResNet-18 of width 16
647 and 740 against 596 and 508 ms, of width 64 9.6 against 6.2 s. Measured on 2 CPU
cores (x86-64, AVX-512), Python 3.11, JAX 0.10.2, with the machine to itself: one
ResNet-18 of width 16 trains at 337 images/s with weight gradients in parts alone, at
365 with Winograd's form for layers of 64 channels and more and at 390 from 32 channels
on. One process each, best of 3 calls of 4 steps; two processes of one program (width
64) differed by 12%.

Tried, by processor time of a whole training step with other jobs running alongside, and
kept: pooling whose gradient is written once, by windows (small CNN: 0.79 of the
time); weight gradients a few images at a time (ResNet-18: 0.68 at width 64, 0.81 at
16); Winograd's form, a few images at a time, for wide layers (0.87 to 0.96 at width 64,
0.90 at 16); the first layer as a product over columns (small CNN: 0.93). Tried and
dropped: Winograd's form of the weight gradient (no faster than in parts), the plain
convolution in parts (no change), columns for other small layers (1.3 to 2.8 of the
layer's time), parts four times as large or as small (1.03; 1.06), the first layer's
channels padded to 4, 8 or 16 (1.07, 0.91, 1.5 of the layer's time), matrix products
for the sums of BatchNorm (1.0 to 1.8 of the sums' time).
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
from contest import Work, contests

BATCH = 128
SHAPES = {"digits": (8, 8, 1), "cifar": (32, 32, 3)}


def samples(shape: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noise around an image per class, or the digits where they fit."""
    rng = np.random.default_rng(0)
    count = steps * BATCH
    if shape == "digits":
        from unlearn_jax.data import load_digits

        return load_digits(num_train=count).train
    labels = rng.integers(0, 10, count).astype(np.int32)
    centers = rng.integers(64, 192, (10, *SHAPES[shape]))
    images = centers[labels] + rng.normal(0, 40, (count, *SHAPES[shape]))
    return images.clip(0, 255).astype(np.uint8), labels


def ours(
    network: str,
    shape: str,
    steps: int,
    epochs: int,
    models: int = 1,
    rate: float = 0.05,
    form: str = "auto",
    **options,
) -> Work:
    """``train.fit`` of one model, ``replicas.fit_many`` of several, with defaults."""
    import os

    import jax

    jax.config.update("jax_num_cpu_devices", os.cpu_count())  # as the command line does
    from unlearn_jax import models as networks
    from unlearn_jax import replicas, train
    from unlearn_jax.types import Dataset

    data = Dataset(*samples(shape, steps))
    model = networks.build(network, SHAPES[shape], 10, **options)
    recipe = train.Recipe(epochs, BATCH, train.sgd(rate))
    member = np.ones((models, len(data.labels)), bool)

    def call() -> float:
        if models == 1 and form == "auto":
            state, losses = train.fit(jax.random.key(0), model, data, member[0], recipe)
        else:
            mapper = replicas.mapper(form, num_models=models)
            keys = jax.random.split(jax.random.key(0), models)
            state, losses = replicas.fit_many(
                keys, model, data, member, recipe, mapper=mapper
            )
        jax.block_until_ready(state)
        return float(losses[..., -1].mean())

    return Work(call, models * epochs * len(data.labels), result=float)


def theirs(
    network: str,
    shape: str,
    steps: int,
    epochs: int,
    models: int = 1,
    rate: float = 0.05,
    nhwc: bool = False,
    bf16: bool = False,
    **options,
) -> Work:
    """The loop that PyTorch users write, one model after another, all data in memory."""
    import torch
    from torch import nn

    images, labels = samples(shape, steps)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(labels).long()
    loss_fn = nn.CrossEntropyLoss()

    def fit() -> float:
        net = torch_network(network, **options)
        if nhwc:
            net = net.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4
        )
        for _ in range(epochs):
            losses = []
            for index in torch.randperm(len(y)).split(BATCH):
                batch = x[index].float() / 255
                if nhwc:
                    batch = batch.contiguous(memory_format=torch.channels_last)
                optimizer.zero_grad(set_to_none=True)
                with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                    loss = loss_fn(net(batch), y[index])
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
        return float(np.mean(losses))

    def call() -> float:
        torch.manual_seed(0)
        return float(np.mean([fit() for _ in range(models)]))

    return Work(call, models * epochs * len(y), ("torch",), float)


def torch_network(network: str, widths: tuple[int, ...] = (), width: int = 64):
    """The library's architectures, in PyTorch."""
    import torch
    from torch import nn

    if network == "mlp":
        sizes = (64, *widths)
        hidden = [
            layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())
        ]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(sizes[-1], 10))
    if network == "cnn":
        sizes = (3, *widths)
        layers = [
            layer
            for a, b in pairwise(sizes)
            for layer in (nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        ]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(sizes[-1] * 16, 10))

    def conv_norm(a: int, b: int, size: int, stride: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(a, b, size, stride, size // 2, bias=False), nn.BatchNorm2d(b)
        )

    class Block(nn.Module):
        def __init__(self, a: int, b: int, stride: int) -> None:
            super().__init__()
            self.main = nn.Sequential(
                conv_norm(a, b, 3, stride), nn.ReLU(), conv_norm(b, b, 3, 1)
            )
            self.shortcut = (
                nn.Identity() if stride == 1 and a == b else conv_norm(a, b, 1, stride)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.main(x) + self.shortcut(x))

    sizes = [width * 2**stage for stage in range(4)]
    blocks = []
    last = width
    for stage, size in enumerate(sizes):
        blocks += [Block(last, size, 2 if stage else 1), Block(size, size, 1)]
        last = size
    stem = (conv_norm(3, width, 3, 1), nn.ReLU())
    return nn.Sequential(
        *stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, 10)
    )


def rows(
    *, layouts: bool = True, split: bool = False, **work
) -> dict[str, Callable[[], Work]]:
    """The contestants of one kind of work."""
    contestants = {
        "ours": partial(ours, **work),
        "PyTorch, NCHW": partial(theirs, **work),
    }
    if not layouts:
        return {"ours": contestants["ours"], "PyTorch": contestants["PyTorch, NCHW"]}
    if split:
        contestants["ours, batches split over cores"] = partial(
            ours, form="split", **work
        )
    return {**contestants, "PyTorch, NHWC": partial(theirs, nhwc=True, **work)}


CNN = {"network": "cnn", "shape": "cifar", "widths": (16, 32, 64)}
RESNET = {"network": "resnet", "shape": "cifar", "rate": 0.02}
WIDE = {**RESNET, "width": 64, "steps": 3, "epochs": 1}
NARROW = {**RESNET, "width": 16, "steps": 6, "epochs": 1}
TABLES = {
    "CNN 16-32-64, one model": rows(**CNN, steps=16, epochs=2, split=True),
    "CNN 16-32-64, 16 models": rows(**CNN, steps=8, epochs=1, models=16),
    "MLP 256-256 on digits, 32 models": rows(
        network="mlp",
        shape="digits",
        widths=(256, 256),
        steps=10,
        epochs=10,
        models=32,
        layouts=False,
    ),
    "ResNet-18 of width 64, one model": {
        **rows(**WIDE),
        "ours, bfloat16": partial(ours, dtype="bfloat16", **WIDE),
        "PyTorch, NCHW, bfloat16": partial(theirs, bf16=True, **WIDE),
        "PyTorch, NHWC, bfloat16": partial(theirs, bf16=True, nhwc=True, **WIDE),
    },
    "ResNet-18 of width 16, one model": rows(**NARROW, split=True),
    "ResNet-18 of width 16, 4 models": rows(**NARROW, models=4),
}

if __name__ == "__main__":
    contests(TABLES, unit="images/s", first="ours")
