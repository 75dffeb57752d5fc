"""The library's own architectures by name."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from unlearn_jax.checks import check_choice, check_counts, check_sizes
from unlearn_jax.models.adapters import adapt_linen
from unlearn_jax.models.cnn import CNN
from unlearn_jax.models.conv import CONVOLUTIONS, convolution
from unlearn_jax.models.densenet import DenseNet
from unlearn_jax.models.mlp import MLP
from unlearn_jax.models.resnet import ResNet
from unlearn_jax.models.vgg import VGG
from unlearn_jax.models.vit import ViT
from unlearn_jax.types import InputError, Model

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "mlp": MLP,
    "cnn": CNN,
    "resnet": ResNet,
    "vgg": VGG,
    "densenet": DenseNet,
    "vit": ViT,
}
COMPUTE_TYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build(
    name: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    conv: str = "auto",
    dtype: str = "float32",
    **options: Any,
) -> Model:
    """Build one of the library's own architectures.

    Args:
      name: a key of ``ARCHITECTURES``.
      image_shape: ``(H, W, ch)``.
      num_classes: C, the number of logits.
      conv: convolution form, see :func:`unlearn_jax.models.convolution_form`; ignored
        by networks without convolutions.
      dtype: compute type, ``float32`` or ``bfloat16``; parameters and logits stay
        float32.
      **options: fields of the architecture, such as ``widths`` or ``blocks``.

    Returns:
      The model.

    Raises:
      InputError: an unknown architecture, form, compute type or option, an image shape
        that is not three positive integers, fewer than two classes, or an option that
        the architecture refuses.

    >>> model = build("mlp", (8, 8, 1), 10, widths=(32,))
    >>> import jax
    >>> variables = model.init(jax.random.key(0))
    >>> model.apply(variables, jax.numpy.zeros((2, 8, 8, 1))).shape
    (2, 10)
    """
    check_choice("model", name, tuple(sorted(ARCHITECTURES)))
    check_choice("convolution", conv, ("auto", *sorted(CONVOLUTIONS)))
    check_choice("compute type", dtype, tuple(COMPUTE_TYPES))
    check_sizes(image_shape=image_shape)
    if len(image_shape) != 3:
        raise InputError(f"image_shape must be (H, W, channels), got {image_shape}")
    check_counts(num_classes=num_classes)
    if num_classes < 2:
        raise InputError("a classifier needs at least 2 classes, got 1")
    fields = set(ARCHITECTURES[name].__dataclass_fields__)  # pyright: ignore[reportFunctionMemberAccess]
    known = fields - {"parent", "name", "num_classes", "dtype", "conv"}
    if unknown := set(options) - known:
        raise InputError(
            f"model {name!r} has no field {sorted(unknown)[0]!r}; it has"
            f" {', '.join(sorted(known))}"
        )
    if "conv" in fields:
        options["conv"] = convolution(conv)
    module = ARCHITECTURES[name](
        num_classes=num_classes, dtype=COMPUTE_TYPES[dtype], **options
    )
    return adapt_linen(module, jnp.zeros((1, *image_shape)))
