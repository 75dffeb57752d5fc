"""Training raced against a PyTorch loop on the same CPU: one model, and banks.

Command: unlearn-jax doctor --build-onednn
         python experiments/benchmarks/race_training.py --rounds 3 --calls 1
         (PyTorch must be installed)
Results: ``experiments/results/race_training.json``

The work is the same for both: architecture, images (random around an image per class;
the digits for the MLP), batches of 128, SGD with momentum 0.9 and weight decay 5e-4,
number of steps, all data in memory as uint8. "result" is the mean loss of the last
epoch; chance is 2.303. PyTorch runs the loop that its users write, one model after
another. Ours is ``train.fit`` for one model and ``replicas.fit_many`` with the default
mapper for several, on as many devices as cores, like the command line. "ours" uses
oneDNN's convolutions where they were built; "without oneDNN" is the form that needs no
build. Rates are images per second over all models.
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
    """Run ``train.fit`` for one model, ``replicas.fit_many`` for several."""
    import jax

    from unlearn_jax.pipeline.store.folders import num_cores

    # the same devices as in the command line
    jax.config.update("jax_num_cpu_devices", num_cores())
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
    """Run the loop that PyTorch users write, one model after another."""
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
    """Return one of the library's architectures in PyTorch."""
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
    """Return the contestants of one kind of work."""
    if not layouts:
        return {"ours": partial(ours, **work), "PyTorch": partial(theirs, **work)}
    contestants = {
        "ours": partial(ours, **work),
        "ours, without oneDNN": partial(ours, conv="canonical", **work),
        "PyTorch, NCHW": partial(theirs, **work),
    }
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
