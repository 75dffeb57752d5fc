"""Counts of operations against counts by hand, and peaks that are known or not, never
guessed.
"""

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from support.convolutions import NATIVE

from unlearn_jax import models
from unlearn_jax.models.flops import forward_flops, program_flops, training_flops
from unlearn_jax.types import InputError


@pytest.mark.parametrize("conv", ["canonical", "lax", NATIVE])
def test_resnet18_is_counted_as_by_hand(conv):
    model = models.build("resnet", (32, 32, 3), 10, conv=conv)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    stem, head = 9 * 3 * 64 * 32**2, 512 * 10
    products = stem + 4 * 9 * 64 * 64 * 32**2 + head
    for width, side in ((128, 16), (256, 8), (512, 4)):
        first, shortcut = 9 * (width // 2) * width, (width // 2) * width
        products += (first + 3 * 9 * width * width + shortcut) * side**2
    assert products == 555_422_720  # the published 0.56 billion
    assert forward_flops(model.apply, variables, image) == 2 * 2 * products
    assert training_flops(model.apply, variables, image) == 3 * 2 * 2 * products


def test_vit_is_counted_as_by_hand():
    model = models.build("vit", (32, 32, 3), 10)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    tokens, width = 64, 64
    block = 4 * tokens * width**2 + 2 * tokens**2 * width + 8 * tokens * width**2
    products = tokens * 48 * width + 4 * block + width * 10
    assert forward_flops(model.apply, variables, image) == 2 * 2 * products


def test_training_is_three_forward_passes_but_for_the_first_layers_inputs():
    model = models.build("cnn", (8, 8, 2), 3, widths=(4, 5), conv="lax")
    variables, image = (
        jax.eval_shape(model.init, jax.random.key(0)),
        jax.ShapeDtypeStruct((6, 8, 8, 2), jnp.float32),
    )
    loss = lambda params, x: jnp.sum(
        model.apply(variables._replace(params=params), x) ** 2
    )
    counted = forward_flops(jax.grad(loss), variables.params, image)
    first = 2 * 6 * 8 * 8 * 9 * 2 * 4
    assert counted == training_flops(model.apply, variables, image) - first


@pytest.mark.parametrize("conv", ["canonical", "lax", NATIVE])
@pytest.mark.parametrize("stride", [1, 2])
def test_both_gradients_of_a_convolution_cost_as_much_as_it(conv, stride):
    convolve = models.convolution(conv)
    images, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))
    layout = ("NHWC", "HWIO", "NHWC")
    apply = lambda kernel, images: jnp.sum(
        convolve(images, kernel, (stride, stride), "SAME", dimension_numbers=layout)
    )
    forward = 2 * 2 * (8 // stride) ** 2 * 9 * 3 * 5
    assert forward_flops(apply, kernel, images) == forward
    assert forward_flops(jax.grad(apply, (0, 1)), kernel, images) == 3 * forward


def test_loops_branches_and_groups():
    square = jnp.ones((4, 4))
    product = 2 * 4**3
    looped = lambda w, x: lax.fori_loop(0, 7, lambda _, y: y @ w, x)
    assert forward_flops(looped, square, square) == 7 * product
    branch = lambda w, x: lax.cond(x[0, 0] > 0, lambda y: y @ w @ w, lambda y: y @ w, x)
    assert forward_flops(jax.jit(branch), square, square) == 2 * product
    unknown = lambda w, x: lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ w, x)
    with pytest.raises(InputError, match="while loop"):
        forward_flops(unknown, square, square)
    grouped = lambda k, x: lax.conv_general_dilated(
        x,
        k,
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=2,
    )
    # a 2x2 result of 6 channels, each of 3x3 positions and the 2 inputs of its group
    assert forward_flops(
        grouped, jnp.ones((3, 3, 2, 6)), jnp.ones((1, 4, 4, 4))
    ) == 2 * (2 * 2 * 6) * (9 * 2)


def test_programs_are_counted_by_type_and_at_least():
    def program(w, x):
        half = x.astype(jnp.bfloat16) @ w.astype(jnp.bfloat16)
        return lax.fori_loop(0, 3, lambda _, y: y @ w, x + half)

    square = jnp.ones((4, 4))
    product = 2 * 4**3
    found = program_flops(jax.jit(program).trace(square, square).jaxpr.jaxpr)
    assert (found.bfloat16, found.float32) == (product, 3 * product)
    assert found.is_exact
    branch = lambda w, x: lax.cond(x[0, 0] > 0, lambda y: y @ w @ w, lambda y: y @ w, x)
    found = program_flops(jax.jit(branch).trace(square, square).jaxpr.jaxpr)
    assert found.float32 == product
    assert not found.is_exact
    unknown = lambda w, x: lax.while_loop(lambda y: y[0, 0] < 9, lambda y: y @ w, x)
    found = program_flops(jax.jit(unknown).trace(square, square).jaxpr.jaxpr)
    assert found.float32 == product
    assert not found.is_exact
