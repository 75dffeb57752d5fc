"""FastClip raced against its released PyTorch code: one clip, one period of training.

Command::

    pip install torch torchvision matplotlib
    git clone https://github.com/Ali-E/FastClip
    export FASTCLIP=FastClip
    python experiments/benchmarks/race_fastclip.py --rounds 5 --calls 1

Results: ``experiments/results/race_fastclip.json``

For each layer of ResNet-18, a clip is ten iterations from warm vectors, one gradient
step on the kernel, and ten more iterations. The result is the distance that the clip
moves the weights, averaged over layers. The number of iterations is the same for all,
but the result is not: ours moves the weights further (it iterates on two vectors, and
has another line search), and the exact line search moves them much further. Seconds are
minimum / median / maximum over rounds.
"""

import copy
import importlib.util
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from contest import Work, contests

WIDTH = "RACE_FASTCLIP_WIDTH"
SIDE = 32
PERIOD = 50
ITERS = 10
MAX_NORM = 1.0
STEP = 0.35


def kernels() -> list[tuple[str, np.ndarray, int, int]]:
    """Return ResNet-18's layers without BatchNorm: name, weight, stride, input side.

    Weights are drawn as at the start of training and doubled, so that every layer has
    to be clipped.
    """
    rng = np.random.default_rng(0)
    width = int(os.environ.get(WIDTH, 64))
    shapes = [("stem", (3, 3, 3, width), 1, SIDE)]
    into = width
    for stage, out in enumerate(width * 2**stage for stage in range(4)):
        side = SIDE // 2**stage
        for block in range(2):
            stride = 2 if stage and not block else 1
            shapes.append(
                (f"{stage}.{block}.a", (3, 3, into, out), stride, side * stride)
            )
            shapes.append((f"{stage}.{block}.b", (3, 3, out, out), 1, side))
            if stride == 2:
                shapes.append(
                    (
                        f"{stage}.{block}.shortcut",
                        (1, 1, into, out),
                        stride,
                        side * stride,
                    )
                )
            into = out
    shapes.append(("head", (into, 10), 1, 1))
    bound = lambda shape: 2 / np.sqrt(np.prod(shape[:-1]))
    return [
        (
            name,
            rng.uniform(-bound(shape), bound(shape), shape).astype(np.float32),
            stride,
            side,
        )
        for name, shape, stride, side in shapes
    ]


# --- ours ---


def described() -> tuple[list[Any], list[np.ndarray]]:
    """Return the library's descriptions of the layers, and their weights."""
    import jax
    import jax.numpy as jnp

    from unlearn_jax.layers import layers
    from unlearn_jax.models.conv import canonical_conv

    made = []
    weights = []
    for name, kernel, stride, side in kernels():
        pad = (kernel.shape[0] // 2,) * 2

        def apply(
            leaves: Any,
            images: Any,
            name: str = name,
            stride: int = stride,
            pad: Any = pad,
        ) -> Any:
            if leaves[name].ndim == 2:
                return images.reshape(len(images), -1) @ leaves[name]
            return canonical_conv(
                images, leaves[name], (stride, stride), (pad, pad)
            ).mean((1, 2))

        shape = (
            (1, 1, 1, kernel.shape[0])
            if kernel.ndim == 2
            else (1, side, side, kernel.shape[2])
        )
        made.append(layers(apply, {name: jax.device_put(kernel)}, jnp.zeros(shape))[0])
        weights.append(kernel)
    return made, weights


def distance(moved: list[np.ndarray]) -> float:
    """Return the mean distance that a clip moved the weights, to compare clips."""
    return float(
        np.mean(
            [
                np.linalg.norm(new - old)
                for new, (_, old, _, _) in zip(moved, kernels(), strict=True)
            ]
        )
    )


def ours(**options: Any) -> Work:
    """Clip all layers: ten Lanczos iterations before and after a step."""
    import dataclasses

    import jax

    from unlearn_jax.spectral import ClipRule

    made, weights = described()
    rule = ClipRule(num_iters=ITERS, **{"num_rounds": 1, **options})

    @jax.jit
    def event(weights: Any, states: Any) -> Any:
        layers = [
            dataclasses.replace(layer, kernel=kernel)
            for layer, kernel in zip(made, weights, strict=True)
        ]
        return rule.update(layers, [MAX_NORM] * len(layers), states)

    states = [rule.init(layer) for layer in made]
    warm: list[Any] = []

    def call() -> Any:
        if not warm:
            warm.append(jax.block_until_ready(event(weights, states))[1])
        return jax.block_until_ready(event(weights, warm[0]))[0]

    return Work(
        call, 1, result=lambda moved: distance([np.asarray(kernel) for kernel in moved])
    )


# --- the released code ---


def toolbox() -> Any:
    """Import and return ``models/clip_toolbox.py`` of a clone."""
    if not os.environ.get("FASTCLIP"):
        raise ModuleNotFoundError(name="the clone that FASTCLIP names")
    os.environ.setdefault("MPLBACKEND", "agg")
    path = Path(os.environ["FASTCLIP"]) / "models/clip_toolbox.py"
    spec = importlib.util.spec_from_file_location("clip_toolbox", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_torch() -> tuple[list[Any], list[Any]]:
    """Return PyTorch's layers with those weights, and an input for each layer."""
    import torch

    torch.manual_seed(0)
    made = []
    starts = []
    for _, kernel, stride, side in kernels():
        if kernel.ndim == 2:
            layer = torch.nn.Linear(*kernel.shape, bias=False)
            weight = torch.from_numpy(kernel).T
            start = torch.randn(1, kernel.shape[0])
        else:
            size, _, into, out = kernel.shape
            layer = torch.nn.Conv2d(into, out, size, stride, size // 2, bias=False)
            weight = torch.from_numpy(kernel).permute(3, 2, 0, 1)
            start = torch.randn(1, into, side, side)
        with torch.no_grad():
            layer.weight.copy_(weight)
        made.append(layer)
        starts.append(start)
    return made, starts


def back(moved: list[Any]) -> float:
    """Return :func:`distance` of PyTorch's weights."""
    axes = {2: (1, 0), 4: (2, 3, 1, 0)}
    return distance([weight.numpy().transpose(axes[weight.ndim]) for weight in moved])


def released(*, period: int = 0) -> Work:
    """Run ``deflate_model_multi`` per layer, as released, and ten more iterations.

    With a period, that many single iterations come first, because its wrapper does one
    at every training step.
    """
    import torch

    tools = toolbox()
    (made, starts) = in_torch()
    first = [copy.deepcopy(layer.weight.data) for layer in made]
    warm = [
        track(tools, layer, start, ITERS)
        for layer, start in zip(made, starts, strict=True)
    ]

    def call() -> Any:
        for layer, weight, vector in zip(made, first, warm, strict=True):
            layer.weight.data.copy_(weight)
            for _ in range(period):
                vector = track(tools, layer, vector, 1)
            clip = {
                "clip": MAX_NORM,
                "epochs": 1,
                "deflate_iter": 1,
                "pqr_iters": ITERS,
                "step_size": STEP,
            }
            tools.deflate_model_multi(layer, vector, device="cpu", **clip)
            track(tools, layer, torch.rand_like(vector), ITERS)
        return [layer.weight.detach().clone() for layer in made]

    return Work(call, 1, ("torch",), back)


def track(tools: Any, layer: Any, vector: Any, iters: int) -> Any:
    """Follow the largest singular value of a layer in PyTorch."""
    import torch

    def linear(x: Any) -> Any:
        return layer(x) - layer(torch.zeros_like(x))

    vector, _ = tools.power_qr(
        linear, vector.detach().clone(), n_iters=iters, x0_out=True
    )
    layer.zero_grad()
    return vector


def rewritten(*, period: int = 0, nhwc: bool = False) -> Work:
    """Run the released computation without autograd, second pass or QR of a vector."""
    import torch

    made, starts = in_torch()
    if nhwc:
        made = [
            (
                layer.to(memory_format=torch.channels_last)
                if layer.weight.ndim == 4
                else layer
            )
            for layer in made
        ]
        starts = [
            x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
            for x in starts
        ]
    first = [layer.weight.data.clone() for layer in made]

    def iterate(layer: Any, x: Any, iters: int) -> Any:
        for _ in range(iters):
            y = layer(x)
            if isinstance(layer, torch.nn.Linear):
                x = x + y @ layer.weight
            else:
                options = {"stride": layer.stride, "padding": layer.padding}
                x = x + torch.nn.grad.conv2d_input(x.shape, layer.weight, y, **options)
            x = x / x.norm()
        return x

    def step(layer: Any, x: Any) -> None:
        y = layer(x)
        sigma = y.norm()
        residual = (1 - MAX_NORM / sigma) * y
        if isinstance(layer, torch.nn.Linear):
            layer.weight -= 2 * STEP * residual.T @ x
            return
        options = {"stride": layer.stride, "padding": layer.padding}
        gradient = torch.nn.grad.conv2d_weight(
            x, layer.weight.shape, residual, **options
        )
        layer.weight -= 2 * STEP / y.shape[-1] * gradient

    with torch.no_grad():
        warm = [
            iterate(layer, start, ITERS)
            for layer, start in zip(made, starts, strict=True)
        ]

    def call() -> Any:
        with torch.no_grad():
            for layer, weight, vector in zip(made, first, warm, strict=True):
                layer.weight.copy_(weight)
                vector = iterate(layer, vector, period + ITERS)
                step(layer, vector)
                iterate(layer, torch.rand_like(vector), ITERS)
            return [layer.weight.clone() for layer in made]

    return Work(call, 1, ("torch",), back)


def miyato() -> Work:
    """Run PyTorch's ``spectral_norm``: one power iteration on the reshaped kernel."""
    import torch

    made, _ = in_torch()
    for layer in made:
        torch.nn.utils.parametrizations.spectral_norm(layer)

    def call() -> Any:
        with torch.no_grad():
            for _ in range(PERIOD):
                moved = [layer.weight for layer in made]
        return moved

    return Work(call, 1, ("torch",))


def of_width(width: int, contestant: Callable[[], Work]) -> Work:
    """Return the work on a ResNet-18 of another width, set for the whole process."""
    os.environ[WIDTH] = str(width)
    return contestant()


CLIPS: dict[str, Callable[[], Work]] = {
    "ours": partial(ours, two_sided=True, step="reference"),
    "ours, exact line search": ours,
    "PyTorch, released FastClip": released,
    "PyTorch, rewritten": rewritten,
    "PyTorch, rewritten, channels last": partial(rewritten, nhwc=True),
}
TABLES: dict[str, dict[str, Callable[[], Work]]] = {
    "one clip of 21 layers": CLIPS,
    "width 16, one clip of 21 layers": {
        name: partial(of_width, 16, contestant) for name, contestant in CLIPS.items()
    },
    "a period of 50 training steps, their spectral part alone": {
        "ours": partial(ours, two_sided=True, step="reference"),
        "PyTorch, released FastClip": partial(released, period=PERIOD),
        "PyTorch, rewritten": partial(rewritten, period=PERIOD),
        "PyTorch, spectral_norm (Miyato)": miyato,
    },
}

if __name__ == "__main__":
    contests(TABLES, unit="seconds", first="ours")
