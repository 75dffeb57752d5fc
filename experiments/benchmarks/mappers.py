"""Training throughput of the mappers: many small CNNs, compared with PyTorch's loop.

Command: python experiments/benchmarks/mappers.py            (JAX rows)
         python experiments/benchmarks/mappers.py --torch    (adds PyTorch)
Results: ``experiments/results/mappers.json``

The work is a CNN 16-32-64 on 32x32x3 images, batch 128, SGD with momentum and weight
decay, one epoch of 4 steps per call, all data in memory, images gathered inside the
compiled program. Every row runs in a process of its own. img/s is summed over models;
it is the minimum / median / maximum of 3 calls after the first, which is shown
separately as compile + first call.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time

ROWS = [
    # mapper, devices, convolution
    ("loop", 1, "canonical"),
    ("map", 1, "canonical"),
    ("map", 1, "lax"),
    ("vmap", 1, "lax"),
    ("vmap", 1, "canonical"),
    ("map", 1, "onednn"),
    ("vmap", 1, "onednn"),
    ("loop", 2, "canonical"),
    ("map", 2, "canonical"),
    ("map", 2, "onednn"),
]
BATCH = 128
STEPS = 4
CALLS = 3
SHAPE = (32, 32, 3)
# these rows make one call of one step, and only for the fewest models
SLOW = {("map", "lax"), ("vmap", "lax"), ("vmap", "canonical")}


def data(steps):
    """Return random images and labels; speed does not depend on them."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (BATCH * steps, *SHAPE), dtype=np.uint8)
    return images, rng.integers(0, 10, BATCH * steps)


def jax_row(form: str, devices: int, conv: str, num_models: int) -> dict:
    """Return the times of one form of training many models."""
    import jax

    jax.config.update("jax_num_cpu_devices", devices)
    import numpy as np

    from unlearn_jax import models, replicas, train
    from unlearn_jax.types import Dataset

    images, labels = data(1 if (form, conv) in SLOW else STEPS)
    model = models.build("cnn", SHAPE, 10, widths=(16, 32, 64), conv=conv)
    recipe = train.Recipe(1, BATCH, train.sgd(0.05))
    member = np.ones((num_models, len(labels)), bool)
    mapper = replicas.mapper(form, num_models=num_models, devices=devices)
    dataset = Dataset(images, labels.astype(np.int32))

    def create(key: jax.Array, _: tuple[()]) -> train.TrainState:
        return train.init_state(key, model, recipe.tx)

    seconds = []
    for call in range(2 if (form, conv) in SLOW else 1 + CALLS):
        keys = jax.random.split(jax.random.key(call), num_models)
        state = replicas.map_models(mapper, create, keys, ())
        jax.block_until_ready(state)
        began = time.perf_counter()
        jax.block_until_ready(
            replicas.fit_many(
                keys, model, dataset, member, recipe, mapper=mapper, state=state
            )[0]
        )
        seconds.append(time.perf_counter() - began)
    return {
        "first": seconds[0],
        "seconds": seconds[1:],
        "images": num_models * len(labels),
        "versions": f"jax {jax.__version__}",
    }


def torch_row(channels_last: bool) -> dict:
    """Return the times of training one model after another in PyTorch."""
    import torch
    from torch import nn

    images, labels = data(STEPS)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(labels)

    def block(cin: int, cout: int) -> list:
        return [nn.Conv2d(cin, cout, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]

    net = nn.Sequential(
        *block(3, 16),
        *block(16, 32),
        *block(32, 64),
        nn.Flatten(),
        nn.Linear(64 * 16, 10),
    )
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4
    )
    loss_fn = nn.CrossEntropyLoss()
    seconds = []
    for _ in range(1 + CALLS):
        began = time.perf_counter()
        for index in torch.randperm(len(y)).split(BATCH):
            batch = x[index].float() / 255
            if channels_last:
                batch = batch.contiguous(memory_format=torch.channels_last)
            optimizer.zero_grad(set_to_none=True)
            loss_fn(net(batch), y[index]).backward()
            optimizer.step()
        seconds.append(time.perf_counter() - began)
    return {
        "first": seconds[0],
        "seconds": seconds[1:],
        "images": len(labels),
        "versions": f"torch {torch.__version__}",
    }


def one(arguments: list[str]) -> dict:
    """Return the measurement of a row, by a process of its own, with peak memory."""
    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def show(name: str, num_models: int, row: dict) -> None:
    """Print the speed of a row."""
    speed = sorted(row["images"] / s for s in row["seconds"])
    low = speed[0]
    middle = speed[len(speed) // 2]
    high = speed[-1]
    print(
        f"{name:34} {num_models:3} {low:9,.0f} {middle:9,.0f} {high:9,.0f}"
        f" {row['first']:8.1f} {row['peak_mb']:8.0f}",
        flush=True,
    )


def main() -> None:
    """Measure all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--models", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--row", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        kind, *rest = options.row
        row = (
            torch_row(rest[0] == "1")
            if kind == "torch"
            else jax_row(kind, int(rest[0]), rest[1], int(rest[2]))
        )
        print(
            json.dumps(
                {
                    **row,
                    "peak_mb": (
                        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
                    ),
                }
            )
        )
        return
    print(
        f"{os.cpu_count()} cores, {platform.machine()}, Python"
        f" {platform.python_version()}"
    )
    print(
        f"{'':34} {'M':>3} {'min':>9} {'median':>9} {'max':>9} {'first s':>8}"
        f" {'peak MB':>8}   (img/s, all models)"
    )
    versions = set()
    for num_models in options.models:
        for form, devices, conv in ROWS:
            if num_models > options.models[0] and (form, conv) in SLOW:
                continue  # takes minutes; the row with fewer models is enough
            row = one(["--row", form, str(devices), conv, str(num_models)])
            versions.add(row["versions"])
            prefix = f"pmap[{devices}] x " if devices > 1 else ""
            show(f"{prefix}{form}, {conv}", num_models, row)
        if options.torch and num_models == options.models[-1]:
            for channels_last in (0, 1):
                row = one(["--row", "torch", str(channels_last)])
                versions.add(row["versions"])
                show(
                    f"PyTorch, one at a time, {'NHWC' if channels_last else 'NCHW'}",
                    1,
                    row,
                )
    print(", ".join(sorted(versions)))


if __name__ == "__main__":
    main()
