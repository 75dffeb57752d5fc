"""PyTorch weights as variables of this library's networks.

A ``state_dict`` is a mapping from names to arrays, so torch itself is needed for
``.pth`` files only. Kernels are rearranged because the two libraries lay out images
differently:

========================  =========================  =============================
PyTorch                   here                       change
========================  =========================  =============================
``conv.weight``           ``Conv_i/kernel``          ``OIHW`` to ``HWIO``
``linear.weight``         ``Dense_i/kernel``         transposed; after a flatten,
                                                     rows from ``[ch, H, W]`` to
                                                     ``[H, W, ch]``
``bn.weight``             ``BatchNorm_i/scale``      none
``bn.running_mean, _var`` ``BatchNorm_i/mean, var``  none
biases                    ``bias``                   none; the bias of a
                                                     convolution that has none
                                                     here is subtracted from
                                                     the mean of a BatchNorm
                                                     of its output
``num_batches_tracked``   none                       dropped
========================  =========================  =============================

Both libraries add 1e-5 to BatchNorm's variances; PyTorch's momentum 0.1 is Flax's 0.9.
In evaluation the logits are equal up to rounding.

**Running variances differ after training.** Both libraries normalize a batch by its
biased variance, over the ``n = batch * height * width`` values of a channel. Flax keeps
the running mean of this variance. PyTorch keeps the running mean of the unbiased
variance, which is ``n / (n - 1)`` times as large. So a model trained here (or
fine-tuned with ``batch_stats="update"``) has ``(n - 1) / n`` times the running
variances that PyTorch would store: 3.1% lower for batches of 8 with 2x2 positions
(n = 32), as in the last stage of a small network, and 0.05% lower for batches of 128
with 4x4 positions. Outputs in evaluation mode are larger by half of that; weights and
gradients are the same. ``batch_stats="freeze"`` keeps the imported statistics.
"""

import importlib
import os
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from unlearn_jax.checks import check_counts
from unlearn_jax.models.adapters import leaf_paths
from unlearn_jax.models.files import fit_leaves, read_leaves
from unlearn_jax.types import InputError, Model, PyTree

_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_SUFFIXES = (".pt", ".pth", ".bin")


def from_torch(
    weights: Mapping[str, ArrayLike] | str | os.PathLike[str],
    like: Model | PyTree,
    *,
    names: Mapping[str, str] | None = None,
    flattened_channels: int | None = None,
) -> Any:
    """Convert a PyTorch ``state_dict``.

    torchvision's ResNet-18 and 34 are ``build("resnet", ..., stem="imagenet")`` with
    blocks ``(2, 2, 2, 2)`` and ``(3, 4, 6, 3)``. ResNets with a 3x3 stem for CIFAR,
    whose shortcuts are named ``downsample`` or ``shortcut``, are
    ``build("resnet", ...)``. In sequential networks of convolutions, BatchNorm and
    linear layers, modules may have any name. They are matched in the order of the
    ``state_dict``; where this is the alphabet's, as in safetensors files, ``conv2``
    comes before ``conv10``. The plain CNN of 3x3 convolutions with padding 1, ReLU, 2x2
    pooling and one linear layer is ``build("cnn", ...)``, and a perceptron is
    ``build("mlp", ...)``.

    Args:
      weights: mapping from names to arrays or tensors, or a ``.pth``, ``.pt``, ``.bin``
        or ``.safetensors`` file. A prefix ``module.`` is dropped, and a dictionary
        ``{"state_dict": ...}`` is unwrapped.
      like: the model to convert for, or variables with its structure, which do not tell
        where to add the bias of a convolution that has none here.
      names: mapping from the path of a module here, such as ``Conv_0``, to the name of
        its counterpart, such as ``features.0``; needed for other networks only.
      flattened_channels: number of channels of the flattened input of the first linear
        layer; 1 for rows in the order ``[H, W, ch]``. None takes the output channels of
        the last convolution; without convolutions, those of the model's images. With
        ``names``, None leaves the rows as they are.

    Returns:
      Variables that fit ``like``.

    Raises:
      InputError: a file that cannot be read, weights that are missing, unexpected or of
        another shape (the message names them), or a number of channels that is not a
        positive integer or does not divide the inputs of that layer.

    >>> from unlearn_jax import models
    >>> mlp = models.build("mlp", (1, 2, 1), 2, widths=())
    >>> state = {"fc.weight": [[1.0, 2.0], [3.0, 4.0]], "fc.bias": [0.0, 0.5]}
    >>> variables = models.from_torch(state, like=mlp)
    >>> variables.params["Dense_0"]["kernel"].tolist()
    [[1.0, 3.0], [2.0, 4.0]]
    """
    is_given = flattened_channels is not None
    if is_given:
        check_counts(flattened_channels=flattened_channels)
    arrays = _state_dict(weights)
    norms: dict[str, str] = {}
    image_channels: int | None = None
    if isinstance(like, Model):
        norms, image_channels = _norms_and_channels(like)
        like = jax.eval_shape(like.init, jax.random.key(0))
    paths = leaf_paths(like)
    if names is None:
        modules = sorted({_module(path) for path in paths}, key=_natural)
        if any(module.startswith(_BLOCKS) for module in modules):
            names = _resnet_names(modules, arrays)
        else:
            names = _sequential_names(modules, arrays)
            if flattened_channels is None:
                flattened_channels = _last_channels(names, arrays) or image_channels
    converted: dict[str, np.ndarray] = {}
    used: set[str] = set()
    for path in paths:
        source = names.get(_module(path))
        if source is None:
            continue
        leaf = path.split("/")[-1]
        name = f"{source}.{_LEAVES.get(leaf, leaf)}"
        if name not in arrays:
            raise InputError(f"the weights lack {name}, for {path}")
        used.add(name)
        converted[path] = arrays[name]
        if leaf == "kernel" and arrays[name].ndim == 4:
            converted[path] = arrays[name].transpose(2, 3, 1, 0)
        elif leaf == "kernel":
            rows = arrays[name].T
            if is_given and flattened_channels and len(rows) % flattened_channels:
                raise InputError(
                    f"flattened_channels must divide the {len(rows)} inputs of"
                    f" {source}, got {flattened_channels}"
                )
            converted[path] = _rows_by_position(rows, flattened_channels)
            flattened_channels = None
    _subtract_biases(names, norms, arrays, converted, used)
    left = [
        name
        for name in arrays
        if name not in used and not name.endswith("num_batches_tracked")
    ]
    if left:
        raise InputError(
            f"the weights have {left[0]}, which the model does not have"
            + (f" (and {len(left) - 1} more)" if left[1:] else "")
        )
    return fit_leaves(converted, like, "the weights")


def _state_dict(
    weights: Mapping[str, ArrayLike] | str | os.PathLike[str],
) -> dict[str, np.ndarray]:
    """Return weights as NumPy arrays, without the prefix of parallel training."""
    if isinstance(weights, str | os.PathLike):
        path = pathlib.Path(os.path.expanduser(weights))
        if not path.is_file():
            raise InputError(f"no weights at {path}")
        content: Any = (
            _torch_load(path) if path.suffix in _SUFFIXES else read_leaves(path)
        )
    else:
        content = weights
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise InputError(
            f"the weights are a {type(content).__name__}: pass model.state_dict()"
        )
    arrays = {}
    for name, value in content.items():
        if hasattr(value, "detach"):
            value = value.detach().cpu()
            # NumPy has no bfloat16
            is_bfloat16 = str(value.dtype) == "torch.bfloat16"
            value = (value.float() if is_bfloat16 else value).numpy()
        array = np.asarray(value)
        if array.dtype == jnp.bfloat16:
            array = array.astype(np.float32)
        if array.dtype.kind not in "fiub":
            raise InputError(f"the weights' {name} is not an array: pass a state_dict")
        arrays[str(name).removeprefix("module.")] = array
    return arrays


def _torch_load(path: pathlib.Path) -> Any:
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise InputError(
            f"{path} needs torch: install it, or store the state_dict as safetensors"
        ) from None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # torch raises pickle's, zipfile's and its own types
    except Exception as error:
        line = str(error).strip().split("\n")[0]
        raise InputError(f"cannot read {path} as PyTorch weights: {line}") from None


_BLOCKS = ("BasicBlock_", "BottleneckBlock_")


def _module(path: str) -> str:
    """Return the path of a leaf's module, without the collection.

    >>> _module("state/batch_stats/BasicBlock_0/BatchNorm_1/mean")
    'BasicBlock_0/BatchNorm_1'
    """
    parts = [p for p in path.split("/") if p not in ("params", "state", "batch_stats")]
    return "/".join(parts[:-1])


def _natural(name: str) -> list[Any]:
    """Return a sort key that orders ``conv2`` before ``conv10``."""
    pieces = re.split(r"(\d+)", name)
    return [int(piece) if piece.isdigit() else piece for piece in pieces]


def _sequential_names(
    modules: list[str], arrays: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Match layers of each kind in the order of the mapping."""
    kinds: dict[str, list[str]] = {"Conv": [], "BatchNorm": [], "Dense": []}
    for name in arrays:
        module, _, leaf = name.rpartition(".")
        if leaf == "running_mean":
            kinds["BatchNorm"].append(module)
        elif leaf == "weight" and arrays[name].ndim == 4:
            kinds["Conv"].append(module)
        elif leaf == "weight" and arrays[name].ndim == 2:
            kinds["Dense"].append(module)
    names = {}
    for kind, sources in kinds.items():
        targets = [module for module in modules if module.startswith(f"{kind}_")]
        if len(targets) != len(sources):
            raise InputError(
                f"the weights have {len(sources)} {kind} layers, the model"
                f" {len(targets)}: build the model that the weights belong to"
            )
        if sources == sorted(sources):
            sources.sort(key=_natural)
        names |= dict(zip(targets, sources, strict=True))
    return names


def _resnet_names(
    modules: list[str], arrays: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Match torchvision's names of a ResNet."""
    heads = [name for name in ("fc", "linear") if f"{name}.weight" in arrays]
    blocks = {
        match[0] for match in map(re.compile(r"layer\d+\.\d+").match, arrays) if match
    }
    ordered = sorted(blocks, key=_natural)
    names = {}
    for module in modules:
        block, _, layer = module.rpartition("/")
        kind, _, number = layer.partition("_")
        position = int(number) + 1
        part = "conv" if kind == "Conv" else "bn"
        if not block:
            is_head = kind == "Dense"
            names[module] = (heads or ["fc"])[0] if is_head else f"{part}{position}"
            continue
        index = int(block.partition("_")[2])
        if index >= len(ordered):
            raise InputError(
                f"the weights have {len(ordered)} blocks, the model has more: build"
                " the model that the weights belong to"
            )
        # the shortcut's convolution comes after the block's other convolutions
        if position < (3 if block.startswith("BasicBlock_") else 4):
            names[module] = f"{ordered[index]}.{part}{position}"
            continue
        is_downsample = f"{ordered[index]}.downsample.0.weight" in arrays
        shortcut = "downsample" if is_downsample else "shortcut"
        names[module] = f"{ordered[index]}.{shortcut}.{0 if kind == 'Conv' else 1}"
    return names


def _last_channels(
    names: Mapping[str, str], arrays: Mapping[str, np.ndarray]
) -> int | None:
    """Return the output channels of the last convolution."""
    kernels = [arrays.get(f"{source}.weight") for source in names.values()]
    channels = [len(one) for one in kernels if one is not None and one.ndim == 4]
    return channels[-1] if channels else None


def _rows_by_position(kernel: np.ndarray, channels: int | None) -> np.ndarray:
    """Reorder the rows of a matrix from ``[ch, H, W]`` to ``[H, W, ch]``."""
    if channels is None or len(kernel) % channels:
        return kernel
    by_channel = kernel.reshape(channels, -1, kernel.shape[1])
    return by_channel.swapaxes(0, 1).reshape(kernel.shape)


def _norms_and_channels(model: Model) -> tuple[dict[str, str], int | None]:
    """Return the BatchNorm of each convolution's output, and the images' channels.

    The model's initialization is traced, which calls every layer.

    Returns:
      Paths of BatchNorms by that of the convolution; the channels of the images, or
      None for a network that is not Linen's.
    """
    from flax import linen as nn

    outputs: list[tuple[str, Any]] = []
    norms: dict[str, str] = {}
    channels: list[int] = []

    def watch(call: Callable[..., Any], args: Any, options: Any, context: Any) -> Any:
        result = call(*args, **options)
        path = "/".join(context.module.path)
        if not path and args:
            channels.append(args[0].shape[-1])
        if isinstance(context.module, nn.Conv):
            outputs.append((path, result))
        elif isinstance(context.module, nn.BatchNorm):
            norms.update({source: path for source, out in outputs if out is args[0]})
        return result

    with nn.intercept_methods(watch):
        # a new function, because a trace of init itself may be stored
        jax.eval_shape(lambda key: model.init(key), jax.random.key(0))
    return norms, channels[0] if channels else None


def _subtract_biases(
    names: Mapping[str, str],
    norms: Mapping[str, str],
    arrays: Mapping[str, np.ndarray],
    converted: dict[str, np.ndarray],
    used: set[str],
) -> None:
    """Move the biases of convolutions into the running means of their BatchNorm.

    In evaluation, BatchNorm of ``x + b`` with mean ``m`` equals BatchNorm of ``x`` with
    mean ``m - b``. In training, subtracting the batch's mean removes the bias.
    """
    for module, norm in norms.items():
        name = f"{names.get(module)}.bias"
        mean = f"state/batch_stats/{norm}/mean"
        if name in arrays and name not in used and mean in converted:
            converted[mean] = converted[mean] - arrays[name]
            used.add(name)
