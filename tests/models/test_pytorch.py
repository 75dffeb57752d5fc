"""PyTorch weights: equal logits, by a slow formula and by torch if installed."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from unlearn_jax import models, spectral
from unlearn_jax.types import InputError


def draw_like(shapes, seed=0):
    rng = np.random.default_rng(seed)
    draw = {}
    for name, shape in shapes.items():
        if name.endswith("running_var"):
            draw[name] = rng.uniform(0.5, 2.0, shape).astype("f4")
        else:
            draw[name] = rng.normal(0, 0.3, shape).astype("f4")
    return draw


def conv(state, name, x, stride=1):
    """PyTorch's convolution, NCHW and OIHW, with padding that keeps the size."""
    kernel = state[f"{name}.weight"]
    pad = kernel.shape[-1] // 2
    out = lax.conv(x, kernel, (stride, stride), [(pad, pad)] * 2)
    if f"{name}.bias" in state:
        out = out + state[f"{name}.bias"][None, :, None, None]
    return out


def norm(state, name, x):
    leaves = ("weight", "bias", "running_mean", "running_var")
    scale, bias, mean, var = (
        state[f"{name}.{leaf}"][None, :, None, None] for leaf in leaves
    )
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def pool(x, size, stride, pad):
    pads = ((0, 0), (0, 0), (pad, pad), (pad, pad))
    window = (1, 1, size, size)
    return lax.reduce_window(x, -jnp.inf, lax.max, window, (1, 1, stride, stride), pads)


def linear(state, name, x):
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"][None]


def norm_shapes(name, width):
    leaves = ("weight", "bias", "running_mean", "running_var")
    shapes = {f"{name}.{leaf}": (width,) for leaf in leaves}
    return shapes | {f"{name}.num_batches_tracked": ()}


def conv_shapes(name, *shape, bias=False):
    shapes = {f"{name}.weight": shape}
    return shapes | ({f"{name}.bias": shape[:1]} if bias else {})


def linear_shapes(name, out, width):
    return {f"{name}.weight": (out, width), f"{name}.bias": (out,)}


@pytest.mark.parametrize("batch_norm", [False, True])
def test_a_plain_cnn_gives_the_logits_of_the_formula(batch_norm, key):
    """Height and width differ, so that a wrong order of a flatten shows."""
    shapes = conv_shapes("0", 4, 2, 3, 3, bias=True)
    shapes |= conv_shapes("10", 6, 4, 3, 3, bias=True)
    if batch_norm:
        shapes |= norm_shapes("1", 4) | norm_shapes("11", 6)
    shapes |= linear_shapes("13", 3, 6 * 2 * 3)
    state = draw_like(shapes)
    x = jax.random.uniform(key, (5, 2, 8, 12))
    hidden = x
    for name in ("0", "10"):
        hidden = conv(state, name, hidden)
        if batch_norm:
            hidden = norm(state, str(int(name) + 1), hidden)
        hidden = pool(jnp.maximum(hidden, 0), 2, 2, 0)
    expected = linear(state, "13", hidden.reshape(5, -1))
    options = {"widths": (4, 6), "batch_norm": batch_norm}
    model = models.build("cnn", (8, 12, 2), 3, **options)
    variables = models.from_torch(state, like=model)
    got = model.apply(variables, x.transpose(0, 2, 3, 1))
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-4)


SIDES = {"basic": (3, 3), "bottleneck": (1, 3, 1)}


def resnet_shapes(stem, shortcut, block):
    size = 7 if stem == "imagenet" else 3
    shapes = conv_shapes("conv1", 4, 3, size, size) | norm_shapes("bn1", 4)
    inputs = 4
    for layer, width in enumerate((4, 8), 1):
        name = f"layer{layer}.0"
        outputs = 4 * width if block == "bottleneck" else width
        made = inputs
        for number, side in enumerate(SIDES[block], 1):
            is_last = number == len(SIDES[block])
            wide = outputs if is_last else width
            shapes |= conv_shapes(f"{name}.conv{number}", wide, made, side, side)
            shapes |= norm_shapes(f"{name}.bn{number}", wide)
            made = wide
        if inputs != outputs:
            shapes |= conv_shapes(f"{name}.{shortcut}.0", outputs, inputs, 1, 1)
            shapes |= norm_shapes(f"{name}.{shortcut}.1", outputs)
        inputs = outputs
    return shapes


@pytest.mark.parametrize(
    ("stem", "shortcut", "head", "block"),
    [
        ("imagenet", "downsample", "fc", "basic"),
        ("cifar", "shortcut", "linear", "basic"),
        ("imagenet", "downsample", "fc", "bottleneck"),
    ],
)
def test_a_resnet_gives_the_logits_of_the_formula(stem, shortcut, head, block, key):
    features = 32 if block == "bottleneck" else 8
    shapes = resnet_shapes(stem, shortcut, block)
    state = draw_like(shapes | linear_shapes(head, 5, features))
    x = jax.random.uniform(key, (2, 3, 20, 24))
    hidden = conv(state, "conv1", x, 2 if stem == "imagenet" else 1)
    hidden = jnp.maximum(norm(state, "bn1", hidden), 0)
    if stem == "imagenet":
        hidden = pool(hidden, 3, 2, 1)
    for layer in (1, 2):
        name = f"layer{layer}.0"
        inner = hidden
        for number in range(1, len(SIDES[block]) + 1):
            # torchvision's stride is that of the first 3x3 convolution
            is_strided = number == len(SIDES[block]) - 1
            step = layer if is_strided else 1
            inner = conv(state, f"{name}.conv{number}", inner, step)
            inner = norm(state, f"{name}.bn{number}", inner)
            if number < len(SIDES[block]):
                inner = jnp.maximum(inner, 0)
        if f"{name}.{shortcut}.0.weight" in state:
            hidden = conv(state, f"{name}.{shortcut}.0", hidden, layer)
            hidden = norm(state, f"{name}.{shortcut}.1", hidden)
        hidden = jnp.maximum(inner + hidden, 0)
    expected = linear(state, head, hidden.mean((2, 3)))
    options = {"blocks": (1, 1), "width": 4, "stem": stem, "block": block}
    model = models.build("resnet", (20, 24, 3), 5, **options)
    parallel = {f"module.{name}": array for name, array in state.items()}
    variables = models.from_torch({"state_dict": parallel}, like=model)
    got = model.apply(variables, x.transpose(0, 2, 3, 1))
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-4)


def test_layers_behind_the_large_stem_are_found(key):
    model = models.build(
        "resnet", (20, 24, 3), 5, blocks=(1,), width=4, stem="imagenet"
    )
    variables = model.init(key)
    norms = spectral.spectral_norms(model.apply, variables, jnp.ones((1, 20, 24, 3)))
    assert len(norms) == 4
    with pytest.raises(InputError, match="stem"):
        models.build("resnet", (8, 8, 3), 5, stem="large").init(jax.random.key(1))


def test_other_networks_take_names(key):
    model = models.build("mlp", (2, 2, 3), 2, widths=(5,))
    shapes = linear_shapes("head.fc", 5, 12) | linear_shapes("out", 2, 5)
    state = draw_like(shapes)
    names = {"Dense_0": "head.fc", "Dense_1": "out"}
    variables = models.from_torch(state, like=model, names=names, flattened_channels=3)
    x = jax.random.uniform(key, (4, 3, 2, 2))
    hidden = jnp.maximum(linear(state, "head.fc", x.reshape(4, -1)), 0)
    expected = linear(state, "out", hidden)
    got = model.apply(variables, x.transpose(0, 2, 3, 1))
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match=r"divide the 12 inputs of head\.fc, got 5"):
        models.from_torch(state, like=model, names=names, flattened_channels=5)


def test_a_perceptron_of_colored_images_gives_the_logits_of_the_formula(key):
    """In the order of the mapping, which is not that of the names."""
    model = models.build("mlp", (2, 2, 3), 3, widths=(12, 12))
    shapes = linear_shapes("layer_in", 12, 12) | linear_shapes("body", 12, 12)
    state = draw_like(shapes | linear_shapes("head", 3, 12))
    x = jax.random.uniform(key, (4, 3, 2, 2))
    hidden = jnp.maximum(linear(state, "layer_in", x.reshape(4, -1)), 0)
    hidden = jnp.maximum(linear(state, "body", hidden), 0)
    expected = linear(state, "head", hidden)
    got = model.apply(models.from_torch(state, like=model), x.transpose(0, 2, 3, 1))
    chex.assert_trees_all_close(got, expected, rtol=1e-5, atol=1e-5)


def test_names_of_the_alphabets_order_are_counted():
    model = models.build("mlp", (2, 1, 1), 2, widths=(2,) * 10)
    state = draw_like({f"fc{i}.weight": (2, 2) for i in range(11)})
    state |= draw_like({f"fc{i}.bias": (2,) for i in range(11)})
    variables = models.from_torch(dict(sorted(state.items())), like=model)
    kernel = variables.params["Dense_2"]["kernel"]
    np.testing.assert_array_equal(kernel, state["fc2.weight"].T)


class Modules(nn.Module):
    """A 1x1 convolution without bias, BatchNorm and a head, in a given order."""

    order: tuple[str, ...]

    @nn.compact
    def __call__(self, images, train):
        hidden = images
        for name in self.order:
            if name == "conv":
                hidden = nn.Conv(4, (1, 1), use_bias=False)(hidden)
            elif name == "relu":
                hidden = nn.relu(hidden)
            else:
                hidden = nn.BatchNorm(use_running_average=not train)(hidden)
        return nn.Dense(3)(hidden.mean((1, 2)))


def test_a_bias_goes_only_into_the_norm_of_its_convolution(key):
    sample = jax.random.uniform(key, (2, 5, 6, 4))
    shapes = conv_shapes("c", 4, 4, 1, 1, bias=True) | norm_shapes("b", 4)
    state = draw_like(shapes | linear_shapes("d", 3, 4))
    model = models.from_linen(Modules(("conv", "norm")), sample)
    variables = models.from_torch(state, like=model)
    hidden = norm(state, "b", conv(state, "c", sample.transpose(0, 3, 1, 2)))
    expected = linear(state, "d", hidden.mean((2, 3)))
    got = model.apply(variables, sample)
    chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-4)
    for order in (("norm", "conv"), ("conv", "relu", "norm")):
        other = models.from_linen(Modules(order), sample)
        with pytest.raises(InputError, match=r"have c\.bias, which the model does not"):
            models.from_torch(state, like=other)
    with pytest.raises(InputError, match=r"have c\.bias, which the model does not"):
        models.from_torch(state, like=variables)


CNN = conv_shapes("0", 4, 1, 3, 3, bias=True) | linear_shapes("1", 3, 16)
REFUSED = {
    "the weights lack 0.bias": lambda s: s.pop("0.bias"),
    "the weights have extra": lambda s: s.update(extra=np.ones(2)),
    "2 Conv layers, the model 1": lambda s: s.update(
        {"2.weight": np.ones((4, 4, 3, 3))}
    ),
    "Conv_0/bias has shape (5,), the model's has (4,)": lambda s: s.update(
        {"0.bias": np.ones(5, "f4")}
    ),
    "the weights' 0.bias is not an array": lambda s: s.update({"0.bias": "bias"}),
}


@pytest.mark.parametrize("message", REFUSED)
def test_weights_that_do_not_fit_are_named(message):
    model = models.build("cnn", (4, 4, 1), 3, widths=(4,))
    state = draw_like(CNN)
    models.from_torch(state, like=model)
    REFUSED[message](state)
    with pytest.raises(InputError, match=re.escape(message)):
        models.from_torch(state, like=model)


def test_norms_without_scales_and_channels_of_no_flatten_are_refused():
    options = {"widths": (4,), "batch_norm": True}
    model = models.build("cnn", (4, 4, 1), 3, **options)
    state = draw_like(CNN | norm_shapes("2", 4))
    for name in ("2.weight", "2.bias"):
        state.pop(name)
    with pytest.raises(InputError, match=r"the weights lack 2\.(weight|bias), for"):
        models.from_torch(state, like=model)
    with pytest.raises(InputError, match="flattened_channels must be a positive"):
        models.from_torch(state, like=model, flattened_channels=0)


def test_weights_in_bfloat16_keep_their_values():
    model = models.build("cnn", (4, 4, 1), 3, widths=(4,))
    state = {name: jnp.bfloat16(one) for name, one in draw_like(CNN).items()}
    single = {name: np.asarray(one, "f4") for name, one in state.items()}
    expected = models.from_torch(single, like=model)
    chex.assert_trees_all_equal(models.from_torch(state, like=model), expected)
    chex.assert_trees_all_equal_dtypes(models.from_torch(state, like=model), expected)
    torch = pytest.importorskip("torch")
    tensors = {n: torch.from_numpy(one).bfloat16() for n, one in single.items()}
    chex.assert_trees_all_equal(models.from_torch(tensors, like=model), expected)


def test_files_of_weights(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    model = models.build("cnn", (4, 4, 1), 3, widths=(4,))
    state = draw_like(CNN)
    safetensors.save_file(state, tmp_path / "w.safetensors")
    loaded = models.from_torch(tmp_path / "w.safetensors", like=model)
    chex.assert_trees_all_equal(loaded, models.from_torch(state, like=model))
    with pytest.raises(InputError, match="no weights at"):
        models.from_torch(tmp_path / "absent.pth", like=model)


def torch_logits(network, images):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        x = torch.from_numpy(np.array(images).transpose(0, 3, 1, 2))
        return network.eval()(x).numpy()


def stir(network):
    """Random statistics, as a trained network has."""
    torch = pytest.importorskip("torch")
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.randn_like(buffer) * 0.1)
        elif name.endswith("running_var"):
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    return network


def test_torchvisions_resnet18_gives_the_same_logits(key):
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    network = stir(torchvision.models.resnet18(num_classes=10))
    images = jax.random.uniform(key, (2, 65, 64, 3))
    model = models.build("resnet", (65, 64, 3), 10, stem="imagenet")
    variables = models.from_torch(network.state_dict(), like=model)
    got = model.apply(variables, images)
    expected = torch_logits(network, images)
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


def test_a_pth_file_of_a_plain_cnn_gives_the_same_logits(key, tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    nn = torch.nn
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)),
        *(nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12 * 2 * 3, 4)),
    )
    torch.save(stir(network).state_dict(), tmp_path / "cnn.pth")
    model = models.build("cnn", (8, 12, 3), 4, widths=(8, 12), batch_norm=True)
    variables = models.from_torch(tmp_path / "cnn.pth", like=model)
    images = jax.random.uniform(key, (3, 8, 12, 3))
    got = model.apply(variables, images)
    expected = torch_logits(network, images)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    (tmp_path / "bad.pth").write_bytes(b"no weights")
    with pytest.raises(InputError, match="cannot read"):
        models.from_torch(tmp_path / "bad.pth", like=model)


@pytest.mark.parametrize(("batch", "side", "percent"), [(8, 2, 3.1), (128, 4, 0.05)])
def test_running_variances_are_those_of_pytorch_times_a_known_factor(
    batch, side, percent, key
):
    norm = nn.BatchNorm(use_running_average=False, momentum=0.9)
    images = jax.random.normal(key, (50, batch, side, side, 3))
    state = norm.init(key, images[0])
    stats = state["batch_stats"]
    unbiased = np.ones(3)
    for image in images:
        _, new = norm.apply(
            {**state, "batch_stats": stats}, image, mutable="batch_stats"
        )
        stats = new["batch_stats"]
        drawn = np.asarray(image, np.float64).reshape(-1, 3)
        unbiased = 0.9 * unbiased + 0.1 * drawn.var(0, ddof=1)
    num_values = batch * side**2
    start = 0.9 ** len(images)  # the initial 1 is in both
    expected = start + (unbiased - start) * (num_values - 1) / num_values
    np.testing.assert_allclose(stats["var"], expected, rtol=1e-5)
    lower = 100 * (1 - np.mean(np.asarray(stats["var"]) / unbiased))
    assert lower == pytest.approx(percent, rel=0.05)
