"""Attacks against foolbox on JAX and torchattacks on PyTorch: same weights and steps.

Skipped where they are absent; ``pip install foolbox torch torchattacks``. Passed with
foolbox 3.3.4, torchattacks 3.5.1 on PyTorch 2.13.0, JAX 0.10.2. Where they differ from
us by a defect of theirs, a test says so.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import attacks, models
from unlearn_jax.losses import cross_entropy

pytestmark = pytest.mark.filterwarnings("ignore")  # those packages are not ours to mend

SHAPE, NUM_CLASSES, NUM_STEPS, RATIO = (8, 8, 3), 5, 10, 0.2
EPSILON = {"l2": 0.1, "linf": 0.01}
NORMS = {"l2": attacks.l2, "linf": attacks.linf}


@pytest.fixture(scope="module")
def network():
    """A small network that predicts every class, images, and its predictions."""
    model = models.build("cnn", SHAPE, NUM_CLASSES, widths=(6, 8))
    variables = jax.tree.map(
        lambda leaf: 2 * leaf, jax.jit(model.init)(jax.random.key(1))
    )
    x = jnp.asarray(np.random.default_rng(0).uniform(0, 1, (40, *SHAPE)), jnp.float32)
    variables.params["Dense_0"]["bias"] -= model.apply(variables, x).mean(0)
    return (
        model,
        variables,
        x,
        jnp.argmax(model.apply(variables, x), -1).astype(jnp.int32),
    )


@pytest.fixture(scope="module")
def ours(network):
    """Our last iterates by norm, on cross-entropy as theirs."""
    model, variables, x, y = network

    @jax.jit
    def attack(variables):
        options = {
            "num_steps": NUM_STEPS,
            "step_ratio": RATIO,
            "keep": "last",
            "loss": cross_entropy,
        }
        return {
            name: attacks.pgd(
                model.apply,
                variables,
                x,
                y,
                x,
                epsilon=EPSILON[name],
                norm=norm,
                **options,
            )
            for name, norm in NORMS.items()
        }

    return attack(variables)


def same_attack(name, result, theirs, labels, x):
    """Images to rounding, successes exactly, no image outside its ball.

    In L-infinity a step is a sign, which rounding may turn where the gradient is about
    0: such pixels must be few.
    """
    apart = np.abs(np.asarray(result.images) - theirs)
    if name == "l2":
        assert apart.max() < 2e-5
    else:
        assert (apart > 1e-5).mean() < 2e-3
    np.testing.assert_array_equal(result.labels, labels)
    size = np.array(
        [float(NORMS[name].measure(delta)) for delta in theirs - np.asarray(x)]
    )
    np.testing.assert_allclose(
        result.distance, size, rtol=1e-3 if name == "linf" else 1e-4
    )
    assert (np.asarray(result.distance) <= EPSILON[name]).all()
    assert 0.2 < np.asarray(result.success).mean() < 1, (
        "some must fail and some succeed"
    )


# --- foolbox, in JAX ---


@pytest.fixture
def foolbox(network):
    """The package, and the network as its model; it promotes ranks everywhere."""
    package = pytest.importorskip("foolbox")
    model, variables, _, _ = network
    with jax.numpy_rank_promotion("allow"):
        yield (
            package,
            package.JAXModel(
                jax.jit(lambda images: model.apply(variables, images)), bounds=(0, 1)
            ),
        )


@pytest.mark.parametrize("name", NORMS)
def test_pgd_matches_foolbox(network, ours, foolbox, name):
    package, wrapped = foolbox
    model, variables, x, y = network
    kind = {"l2": package.attacks.L2PGD, "linf": package.attacks.LinfPGD}[name]
    attack = kind(rel_stepsize=RATIO, steps=NUM_STEPS, random_start=False)
    _, theirs, success = attack(wrapped, x, y, epsilons=EPSILON[name])
    labels = jnp.argmax(model.apply(variables, theirs), -1)
    same_attack(name, ours[name], np.asarray(theirs), labels, x)
    np.testing.assert_array_equal(ours[name].success, success)


@pytest.mark.parametrize("name", NORMS)
def test_fast_gradient_matches_foolbox(network, foolbox, name):
    package, wrapped = foolbox
    model, variables, x, y = network
    kind = {
        "l2": package.attacks.L2FastGradientAttack,
        "linf": package.attacks.LinfFastGradientAttack,
    }[name]
    _, theirs, success = kind(random_start=False)(wrapped, x, y, epsilons=EPSILON[name])
    options = {"epsilon": EPSILON[name], "norm": NORMS[name]}
    result = jax.jit(lambda v: attacks.fast_gradient(model.apply, v, x, y, **options))(
        variables
    )
    np.testing.assert_allclose(result.images, theirs, atol=1e-5)
    np.testing.assert_array_equal(result.success, success)


# --- torchattacks, in PyTorch ---


@pytest.fixture(scope="module")
def torched(network):
    """The package, PyTorch, and the network in it with the same weights."""
    torch, package = pytest.importorskip("torch"), pytest.importorskip("torchattacks")
    _, variables, x, y = network
    weights = jax.tree.map(
        lambda leaf: torch.from_numpy(np.array(leaf)), variables.params
    )

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.anchor = torch.nn.Parameter(torch.zeros(()))  # its device is asked for

        def forward(self, hidden):
            for name in ("Conv_0", "Conv_1"):
                kernel = weights[name]["kernel"].permute(3, 2, 0, 1)
                hidden = torch.conv2d(hidden, kernel, weights[name]["bias"], padding=1)
                hidden = torch.max_pool2d(torch.relu(hidden), 2)
            flat = hidden.permute(0, 2, 3, 1).flatten(1)
            return flat @ weights["Dense_0"]["kernel"] + weights["Dense_0"]["bias"]

    net, images = (
        Network().eval(),
        torch.from_numpy(np.array(x)).permute(0, 3, 1, 2).contiguous(),
    )
    return package, torch, net, images, torch.from_numpy(np.array(y, np.int64))


def test_network_matches_pytorch(network, torched):
    model, variables, x, _ = network
    _, _, net, images, _ = torched
    np.testing.assert_allclose(
        model.apply(variables, x), net(images).detach().numpy(), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("name", NORMS)
def test_pgd_matches_torchattacks(ours, network, torched, name):
    package, _, net, images, labels = torched
    kind = {"l2": package.PGDL2, "linf": package.PGD}[name]
    options = {
        "eps": EPSILON[name],
        "alpha": RATIO * EPSILON[name],
        "steps": NUM_STEPS,
        "random_start": False,
    }
    theirs = kind(net, **options)(images, labels)
    same_attack(
        name,
        ours[name],
        theirs.permute(0, 2, 3, 1).numpy(),
        net(theirs).argmax(1).numpy(),
        np.asarray(network[2]),
    )


def test_cross_entropy_stalls_on_confident_samples_but_log_odds_do_not(
    network, torched, foolbox
):
    """Their defect: float32 cross-entropy is flat where the model is confident."""
    package, torch, net, images, labels = torched
    model, variables, x, y = network
    options = {"eps": 2.0, "alpha": 0.4, "steps": NUM_STEPS, "random_start": False}

    class Sure(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, hidden):
            return 1e3 * self.net(hidden)

    torched_moves = (
        (package.PGDL2(Sure().eval(), **options)(images, labels) - images)
        .abs()
        .amax((1, 2, 3))
    )
    wrapped = foolbox[0].JAXModel(
        lambda images: 1e3 * model.apply(variables, images), bounds=(0, 1)
    )
    attack = foolbox[0].attacks.L2PGD(
        rel_stepsize=RATIO, steps=NUM_STEPS, random_start=False
    )
    _, _, foolbox_success = attack(wrapped, x, y, epsilons=2.0)
    result = jax.jit(
        lambda v: attacks.pgd(
            lambda v, images: 1e3 * model.apply(v, images),
            v,
            x,
            y,
            x,
            epsilon=2.0,
            num_steps=NUM_STEPS,
            step_ratio=RATIO,
        )
    )(variables)
    assert (torched_moves == 0).sum() > 10
    assert float(foolbox_success.mean()) < 0.8
    assert np.asarray(result.success).all()


def test_torchattacks_l2_start_is_not_uniform_in_the_ball(network, torched, key):
    """Their defect: uniform lengths put half of the starts within half the radius.

    Points uniform in a ball of 192 dimensions have lengths near the radius, as ours do.
    """
    package, torch, net, images, labels = torched
    middle = torch.full_like(images, 0.5)
    torch.manual_seed(0)
    theirs = (
        (package.PGDL2(net, eps=0.3, steps=0)(middle, labels) - middle)
        .flatten(1)
        .norm(dim=1)
        .numpy()
    )
    start = attacks.random_start(key, jnp.full((40, *SHAPE), 0.5), epsilon=0.3)
    lengths = np.linalg.norm(np.asarray(start - 0.5).reshape(40, -1), axis=1)
    dimensions = np.prod(SHAPE)
    assert lengths.mean() == pytest.approx(
        0.3 * dimensions / (dimensions + 1), abs=0.002
    )
    assert theirs.mean() == pytest.approx(0.15, abs=0.05)
