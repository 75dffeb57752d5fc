"""Loops that a user writes with optax, in at most 20 lines: losses in Linen and NNX."""

import ast
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from unlearn_jax import losses


class LinenNet(nn.Module):
    """Two dense layers."""

    @nn.compact
    def __call__(self, images):
        hidden = nn.relu(nn.Dense(16)(images.reshape(len(images), -1)))
        return nn.Dense(3)(hidden)


class NNXNet(nnx.Module):
    """Two dense layers."""

    def __init__(self, rngs):
        self.hidden = nnx.Linear(16, 16, rngs=rngs)
        self.head = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, images):
        return self.head(nnx.relu(self.hidden(images.reshape(len(images), -1))))


def trw_linen(images, labels):
    net = LinenNet()
    teacher = variables = net.init(jax.random.key(0), images)
    forget = jnp.arange(3) == 0
    kernel = variables["params"]["Dense_1"]["kernel"]
    similarity = losses.class_similarity(kernel)[0]

    def loss_fn(variables):
        args = (net.apply(teacher, images), forget, similarity)
        tilted = losses.tilted_loss(net.apply(variables, images), *args, beta=5.0)
        plain = losses.cross_entropy(net.apply(variables, images), labels)
        return jnp.mean(jnp.where(labels == 0, tilted, plain))

    tx = optax.adam(0.02)
    opt_state, history = tx.init(variables), []
    step = jax.jit(jax.value_and_grad(loss_fn))
    for _ in range(60):
        loss, gradient = step(variables)
        updates, opt_state = tx.update(gradient, opt_state)
        variables = optax.apply_updates(variables, updates)
        history.append(loss)
    return history, jax.nn.softmax(net.apply(variables, images))


def trw_nnx(images, labels):
    net, teacher = NNXNet(nnx.Rngs(0)), NNXNet(nnx.Rngs(0))
    forget = jnp.arange(3) == 0
    similarity = losses.class_similarity(net.head.kernel[...])[0]

    def loss_fn(net):
        logits = net(images)
        args = (teacher(images), forget, similarity)
        tilted = losses.tilted_loss(logits, *args, beta=5.0)
        plain = losses.cross_entropy(logits, labels)
        return jnp.mean(jnp.where(labels == 0, tilted, plain))

    optimizer = nnx.Optimizer(net, optax.adam(0.02), wrt=nnx.Param)
    step, history = nnx.jit(nnx.value_and_grad(loss_fn)), []
    for _ in range(60):
        loss, gradient = step(net)
        optimizer.update(net, gradient)
        history.append(loss)
    return history, jax.nn.softmax(net(images))


def lotos_linen(images, labels):
    net = LinenNet()
    members = [net.init(key, images) for key in jax.random.split(jax.random.key(0), 3)]
    term = losses.lotos([net.apply] * 3, images, which="all", max_length=0.5)
    state = term.init(jax.random.key(1), members)

    def loss_fn(members, state):
        logits = jnp.stack([net.apply(one, images) for one in members])
        penalty, state = term.update(members, state)
        loss = jnp.sum(
            jnp.mean(losses.cross_entropy(logits, jnp.stack([labels] * 3)), -1)
        )
        return loss + 0.3 * penalty, (loss, penalty, state)

    tx = optax.adam(0.02)
    opt_state, history = tx.init(members), []
    step = jax.jit(jax.grad(loss_fn, has_aux=True))
    for _ in range(60):
        gradient, (loss, penalty, state) = step(members, state)
        updates, opt_state = tx.update(gradient, opt_state)
        members = optax.apply_updates(members, updates)
        history.append((loss, penalty))
    return history


def lotos_nnx(images, labels):
    nets = nnx.List([NNXNet(nnx.Rngs(seed)) for seed in range(3)])
    apply = lambda state, x: nnx.merge(nnx.graphdef(nets[0]), state)(x)
    term = losses.lotos([apply] * 3, images, which="all", max_length=0.5)
    memory = term.init(jax.random.key(1), [nnx.state(net) for net in nets])

    def loss_fn(nets, memory):
        logits = jnp.stack([net(images) for net in nets])
        penalty, memory = term.update([nnx.state(net) for net in nets], memory)
        loss = jnp.sum(
            jnp.mean(losses.cross_entropy(logits, jnp.stack([labels] * 3)), -1)
        )
        return loss + 0.3 * penalty, (loss, penalty, memory)

    optimizer = nnx.Optimizer(nets, optax.adam(0.02), wrt=nnx.Param)
    step, history = nnx.jit(nnx.grad(loss_fn, has_aux=True)), []
    for _ in range(60):
        gradient, (loss, penalty, memory) = step(nets, memory)
        optimizer.update(nets, gradient)
        history.append((loss, penalty))
    return history


SCRIPTS = (trw_linen, trw_nnx, lotos_linen, lotos_nnx)


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_have_at_most_twenty_lines(script):
    (function,) = ast.parse(inspect.getsource(script)).body
    lines = inspect.getsource(script).splitlines()[1:]
    assert function.end_lineno == len(lines) + 1
    assert sum(bool(line.strip()) for line in lines) <= 20


@pytest.mark.parametrize("script", [trw_linen, trw_nnx])
def test_trw_in_a_users_loop(script, blobs):
    history, probabilities = script(
        jnp.asarray(blobs.images), jnp.asarray(blobs.labels)
    )
    assert history[-1] < 0.6 * history[0]
    is_forgotten = blobs.labels == 0
    assert jnp.mean(probabilities[is_forgotten, 0]) < 0.1
    retained = jnp.argmax(probabilities[~is_forgotten], -1)
    assert jnp.mean(retained == blobs.labels[~is_forgotten]) > 0.9


@pytest.mark.parametrize("script", [lotos_linen, lotos_nnx])
def test_lotos_in_a_users_loop(script, blobs):
    history = script(jnp.asarray(blobs.images), jnp.asarray(blobs.labels))
    loss, penalty = map(jnp.stack, zip(*history, strict=True))
    assert loss[-1] < 0.5 * loss[0]
    assert penalty[-1] < 0.3 * penalty[0]
