"""Adversarial examples raced against torchattacks on PyTorch and foolbox on JAX.

One radius, AMUN's search over radii, and the whole of AMUN. Command::

    pip install torch torchattacks foolbox
    python experiments/benchmarks/race_attack.py --rounds 5 --calls 1

Results: ``experiments/results/race_attack.json``

All attack the same trained CNN 16-32-64, with the same images, radii, steps and start
(ours climbs the log-odds, the others cross-entropy: for steps of a given length the
directions are the same). In the search, ours and PyTorch's continue with the unsolved
images, while foolbox attacks all images in all radii. The result is the fraction of
images whose class changed, or the mean radius. The whole of AMUN is the search for the
images to forget and a fine-tuning on all images and the examples. Its result is its
time over that of retraining by the same system, without compilation. The table has
images per second, for AMUN images to forget, as minimum / median / maximum over rounds.
"""

import copy
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contest import Work, contests

NUM_IMAGES = 128
NUM_STEPS = 50
RATIO = 0.1
EPSILON = 0.2
SEARCH_IMAGES = 32
EPSILON_INIT = 0.04
NUM_RADII = 12
RADII = [EPSILON_INIT * 2**k for k in range(NUM_RADII)]
WEIGHTS = "RACE_ATTACK_WEIGHTS"
NUM_TRAIN = 1024
NUM_FORGET = 64
NUM_EPOCHS = 12
BATCH = 64
RATE = 0.02
TUNING_EPOCHS = 2
TUNING_RATE = 0.01


def prepare() -> None:
    """Train the network and write it, with the images, to the file that rows read."""
    import jax

    from unlearn_jax import models, train
    from unlearn_jax.types import Dataset

    # The network fits noisy templates, so that radii differ between images.
    rng = np.random.default_rng(0)
    labels = np.arange(NUM_TRAIN) % 10
    templates = rng.uniform(0.3, 0.7, (10, 32, 32, 3))
    noise = rng.normal(0, 0.1, (NUM_TRAIN, 32, 32, 3))
    images = np.clip(templates[labels] + noise, 0, 1).astype(np.float32)
    state, losses = train.fit(
        jax.random.key(0),
        models.build("cnn", (32, 32, 3), 10, widths=(16, 32, 64)),
        Dataset(images, labels.astype(np.int32)),
        np.ones(NUM_TRAIN, bool),
        train.Recipe(NUM_EPOCHS, BATCH, train.sgd(RATE)),
    )
    assert losses[-1] < 0.01, losses  # a network at chance has nothing to attack
    flat = {
        f"{layer}/{name}": leaf
        for layer, leaves in state.variables.params.items()
        for name, leaf in leaves.items()
    }
    np.savez(
        os.environ[WEIGHTS],
        images=images,
        labels=labels,
        **flat,
    )


def read() -> tuple[np.ndarray, np.ndarray, dict[str, dict[str, np.ndarray]]]:
    """Return images NHWC, labels, and weights by layer."""
    with np.load(os.environ[WEIGHTS]) as file:
        names = [name.split("/") for name in file.files if "/" in name]
        params: dict[str, dict[str, np.ndarray]] = {layer: {} for layer, _ in names}
        for layer, name in names:
            params[layer][name] = file[f"{layer}/{name}"]
        return file["images"], file["labels"], params


def in_jax(count: int) -> tuple[Any, ...]:
    """Return the network's apply function and variables, images and labels."""
    import jax
    import jax.numpy as jnp

    from unlearn_jax import models
    from unlearn_jax.types import Variables

    images, labels, params = read()
    variables = Variables(jax.tree.map(jnp.asarray, params), {})
    model = models.build("cnn", (32, 32, 3), 10, widths=(16, 32, 64))
    return (
        model.apply,
        variables,
        jnp.asarray(images[:count]),
        jnp.asarray(labels[:count], jnp.int32),
    )


def in_torch(count: int, *, nhwc: bool = False) -> tuple[Any, ...]:
    """Return the network without gradients for its weights, NCHW images, and labels."""
    import torch
    from torch import nn

    images, labels, params = read()

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList(
                nn.Conv2d(a, b, 3, padding=1) for a, b in ((3, 16), (16, 32), (32, 64))
            )
            self.head = nn.Linear(1024, 10)

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            for conv in self.convs:
                hidden = nn.functional.max_pool2d(torch.relu(conv(hidden)), 2)
            return self.head(hidden.flatten(1))

    net = Network().eval().requires_grad_(False)
    for i, conv in enumerate(net.convs):
        conv.weight.copy_(
            torch.from_numpy(params[f"Conv_{i}"]["kernel"]).permute(3, 2, 0, 1)
        )
        conv.bias.copy_(torch.from_numpy(params[f"Conv_{i}"]["bias"]))
    head = torch.from_numpy(params["Dense_0"]["kernel"]).reshape(
        4, 4, 64, 10
    )  # rows in the order of NHWC
    net.head.weight.copy_(head.permute(3, 2, 0, 1).flatten(1))
    net.head.bias.copy_(torch.from_numpy(params["Dense_0"]["bias"]))
    batch = torch.from_numpy(images[:count]).permute(0, 3, 1, 2).contiguous()
    if nhwc:
        net = net.to(memory_format=torch.channels_last)
        batch = batch.contiguous(memory_format=torch.channels_last)
    return net, batch, torch.from_numpy(labels[:count])


# --- one radius, all steps taken ---


def ours(keep: str = "last") -> Work:
    """Race ``attacks.pgd``, jitted."""
    import jax

    from unlearn_jax import attacks

    apply_fn, variables, images, labels = in_jax(NUM_IMAGES)

    @jax.jit
    def run(variables: Any, images: Any, labels: Any) -> Any:
        return attacks.pgd(
            apply_fn,
            variables,
            images,
            labels,
            images,
            epsilon=EPSILON,
            num_steps=NUM_STEPS,
            step_ratio=RATIO,
            keep=keep,
        )

    def call() -> Any:
        return jax.block_until_ready(run(variables, images, labels))

    return Work(call, NUM_IMAGES, result=lambda result: float(result.success.mean()))


def torchattacks_pgd() -> Work:
    """Race torchattacks' ``PGDL2`` as shipped."""
    import torchattacks

    net, x, y = in_torch(NUM_IMAGES)
    options = {
        "eps": EPSILON,
        "alpha": RATIO * EPSILON,
        "steps": NUM_STEPS,
        "random_start": False,
    }
    attack = torchattacks.PGDL2(net, **options)
    wrong = lambda images: float((net(images).argmax(1) != y).float().mean())
    return Work(lambda: attack(x, y), NUM_IMAGES, ("torch", "torchattacks"), wrong)


def torch_pgd(*, nhwc: bool = False, compiled: bool = False) -> Work:
    """Race the same loop written out, for layouts that torchattacks refuses.

    torchattacks calls ``view``, which needs contiguous images.
    """
    import torch

    net, x, y = in_torch(NUM_IMAGES, nhwc=nhwc)
    forward = torch.compile(net) if compiled else net
    ends: dict[str, Any] = {}

    def call() -> Any:
        ends["images"] = torch_loop(torch, forward, x, y, EPSILON)
        return ends["images"]

    wrong = lambda images: float((net(images).argmax(1) != y).float().mean())
    return Work(call, NUM_IMAGES, ("torch",), wrong)


def torch_loop(torch: Any, forward: Any, x: Any, y: Any, epsilon: float) -> Any:
    """Attack in PyTorch by a loop over steps, and return the images."""
    images = x.clone()
    for _ in range(NUM_STEPS):
        images.requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(forward(images), y, reduction="sum")
        gradient = torch.autograd.grad(loss, images)[0]
        with torch.no_grad():
            length = (
                torch.linalg.vector_norm(gradient, dim=(1, 2, 3), keepdim=True) + 1e-10
            )
            delta = images + RATIO * epsilon * gradient / length - x
            size = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
            images = (x + delta * (epsilon / size).clamp(max=1)).clamp(0, 1)
    return images


def foolbox_pgd(*, jitted: bool) -> Work:
    """Race foolbox's ``L2PGD`` on a ``JAXModel`` of an eager or a jitted function."""
    import foolbox
    import jax

    apply, variables, x, y = in_jax(NUM_IMAGES)
    forward = partial(apply, variables)
    model = foolbox.JAXModel(jax.jit(forward) if jitted else forward, bounds=(0, 1))
    attack = foolbox.attacks.L2PGD(
        rel_stepsize=RATIO, steps=NUM_STEPS, random_start=False
    )

    def call() -> Any:
        return jax.block_until_ready(attack(model, x, y, epsilons=EPSILON)[2])

    return Work(
        call, NUM_IMAGES, ("jax", "foolbox"), lambda success: float(success.mean())
    )


# --- the smallest radius of every image ---


def search() -> Work:
    """Race ``attacks.PGD`` with its search."""
    import jax

    from unlearn_jax import attacks

    apply_fn, variables, images, labels = in_jax(SEARCH_IMAGES)
    attack = attacks.PGD(
        num_steps=NUM_STEPS,
        step_ratio=RATIO,
        search=attacks.Doubling(epsilon_init=EPSILON_INIT, num_radii=NUM_RADII),
    )

    @jax.jit
    def run(variables: Any, images: Any, labels: Any) -> Any:
        return attack(apply_fn, variables, images, labels)

    def call() -> Any:
        return jax.block_until_ready(run(variables, images, labels))

    return Work(call, SEARCH_IMAGES, result=lambda result: float(result.epsilon.mean()))


def torch_search(*, package: bool, nhwc: bool = False) -> Work:
    """Race a PyTorch search that tries radii in turn on the unsolved images."""
    import torch

    net, x, y = in_torch(SEARCH_IMAGES, nhwc=nhwc)
    if package:
        import torchattacks

    def attack(images: Any, labels: Any, epsilon: float) -> Any:
        if not package:
            return torch_loop(torch, net, images, labels, epsilon)
        options = {
            "eps": epsilon,
            "alpha": RATIO * epsilon,
            "steps": NUM_STEPS,
            "random_start": False,
        }
        return torchattacks.PGDL2(net, **options)(images, labels)

    def call() -> float:
        unsolved = torch.arange(len(x))
        smallest = torch.full((len(x),), RADII[-1])
        for radius in RADII:
            moved = (
                net(attack(x[unsolved], y[unsolved], radius)).argmax(1) != y[unsolved]
            )
            smallest[unsolved[moved]] = radius
            unsolved = unsolved[~moved]
            if not len(unsolved):
                break
        return float(smallest.mean())

    return Work(
        call, SEARCH_IMAGES, ("torch", "torchattacks") if package else ("torch",), float
    )


def foolbox_search() -> Work:
    """Race foolbox's search with a jitted function: all radii for all images."""
    import foolbox
    import jax

    apply, variables, x, y = in_jax(SEARCH_IMAGES)
    model = foolbox.JAXModel(jax.jit(partial(apply, variables)), bounds=(0, 1))
    attack = foolbox.attacks.L2PGD(
        rel_stepsize=RATIO, steps=NUM_STEPS, random_start=False
    )

    def call() -> float:
        success = np.asarray(attack(model, x, y, epsilons=RADII)[2])
        return float(np.array(RADII)[success.argmax(0)].mean())

    return Work(call, SEARCH_IMAGES, ("jax", "foolbox"), float)


# --- the whole of AMUN ---


def amun(*, minimal: bool = False) -> Work:
    """Race ``methods.AMUN`` with its attack, jitted, against our own retraining."""
    import jax

    from unlearn_jax import attacks, methods, models, train
    from unlearn_jax.types import Dataset

    _, variables, images, labels = in_jax(NUM_TRAIN)
    model = models.build("cnn", (32, 32, 3), 10, widths=(16, 32, 64))
    data = Dataset(images, labels)
    forget = np.arange(NUM_TRAIN) < NUM_FORGET
    kind = attacks.Minimal if minimal else attacks.Doubling
    attack = attacks.PGD(
        num_steps=NUM_STEPS,
        step_ratio=RATIO,
        search=kind(epsilon_init=EPSILON_INIT, num_radii=NUM_RADII),
    )
    method = jax.jit(
        methods.AMUN(
            num_epochs=TUNING_EPOCHS,
            batch_size=BATCH,
            learning_rate=TUNING_RATE,
            attack=attack,
        )
    )
    problem = methods.make_problem(model, variables, data, forget)
    recipe = train.Recipe(NUM_EPOCHS, BATCH, train.sgd(RATE))

    def retrain() -> Any:
        state, _ = train.fit(jax.random.key(1), model, data, ~forget, recipe)
        return jax.block_until_ready(state.variables)

    def call() -> Any:
        return jax.block_until_ready(method(jax.random.key(2), problem))

    return over_retraining(call, retrain, ("jax",))


def torch_amun() -> Work:
    """Race AMUN in PyTorch, in its best layout: a search, and training loops."""
    import torch

    trained, x, y = in_torch(NUM_TRAIN, nhwc=True)
    start = {name: leaf.clone() for name, leaf in trained.state_dict().items()}
    like = torch.channels_last

    def fit(net: Any, x: Any, y: Any, epochs: int, rate: float) -> Any:
        net.train().requires_grad_(True)
        optimizer = torch.optim.SGD(
            net.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4
        )
        for _ in range(epochs):
            for index in torch.randperm(len(y)).split(BATCH):
                batch = x[index].contiguous(memory_format=like)
                optimizer.zero_grad(set_to_none=True)
                loss = torch.nn.functional.cross_entropy(net(batch), y[index])
                loss.backward()
                optimizer.step()
        return net

    def retrain() -> Any:
        net = copy.deepcopy(trained)
        for layer in (*net.convs, net.head):
            layer.reset_parameters()
        return fit(net, x[NUM_FORGET:], y[NUM_FORGET:], NUM_EPOCHS, RATE)

    def call() -> Any:
        trained.load_state_dict(start)
        trained.eval().requires_grad_(False)
        images = x[:NUM_FORGET].clone()
        unsolved = torch.arange(NUM_FORGET)
        for radius in RADII:
            moved = torch_loop(torch, trained, x[unsolved], y[unsolved], radius)
            is_wrong = trained(moved).argmax(1) != y[unsolved]
            images[unsolved[is_wrong]] = moved[is_wrong]
            unsolved = unsolved[~is_wrong]
            if not len(unsolved):
                break
        chosen = trained(images).argmax(1)
        net = copy.deepcopy(trained)
        joined = torch.cat([x, images]), torch.cat([y, chosen])
        return fit(net, *joined, TUNING_EPOCHS, TUNING_RATE)

    return over_retraining(call, retrain, ("torch",))


def over_retraining(
    call: Callable[[], Any], retrain: Callable[[], Any], packages: tuple[str, ...]
) -> Work:
    """Return the work of unlearning; its result is its time over that of retraining."""

    def seconds(function: Callable[[], Any]) -> float:
        began = time.perf_counter()
        function()
        return time.perf_counter() - began

    spent: list[float] = []

    def timed() -> None:
        spent.append(seconds(call))

    def ratio(_: None) -> float:
        retrain()  # compiles
        return min(spent) / min(seconds(retrain) for _ in range(2))

    return Work(timed, NUM_FORGET, packages, ratio)


TABLES: dict[str, dict[str, Callable[[], Work]]] = {
    "L2, 50 steps, one radius, 128 images": {
        "ours": ours,
        "ours, stopping at the boundary": partial(ours, "first"),
        "PyTorch, torchattacks": torchattacks_pgd,
        "PyTorch, channels last": partial(torch_pgd, nhwc=True),
        "PyTorch, torch.compile": partial(torch_pgd, compiled=True),
        "foolbox on JAX": partial(foolbox_pgd, jitted=False),
        "foolbox on JAX, jitted model": partial(foolbox_pgd, jitted=True),
    },
    "search over 12 radii, 32 images": {
        "ours": search,
        "PyTorch, torchattacks": partial(torch_search, package=True),
        "PyTorch, channels last": partial(torch_search, package=False, nhwc=True),
        "foolbox on JAX, jitted model": foolbox_search,
    },
    "AMUN, 64 of 1,024 images, 2 epochs for 12": {
        "ours": amun,
        "ours, minimal search": partial(amun, minimal=True),
        "PyTorch, channels last": torch_amun,
    },
}

if __name__ == "__main__":
    if sys.argv[1:] == ["--prepare"]:
        prepare()
    elif "--row" in sys.argv:
        contests(TABLES, unit="images/s", first="ours")
    else:
        with tempfile.TemporaryDirectory() as folder:
            os.environ[WEIGHTS] = str(Path(folder) / "weights.npz")
            subprocess.run(
                [sys.executable, sys.argv[0], "--prepare"], check=True
            )  # in its own process, whose memory rows do not count
            contests(TABLES, unit="images/s", first="ours")
