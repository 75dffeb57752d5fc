"""What people bring: wrong arrays, odd models, numbers of the wrong sort.

Every function that takes images, labels or logits refuses the same faults by the same
words.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.refusals import refuses
from support.small import linear

from unlearn_jax import (
    attacks,
    audit,
    contrib,
    data,
    ensembles,
    filters,
    losses,
    methods,
    models,
    replicas,
    spectral,
    train,
    values,
)
from unlearn_jax.types import Dataset, InputError, Model, Status, Variables

SAMPLES = 12
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(size=(SAMPLES, 4, 4, 1)).astype(np.float32)
LABELS = (np.arange(SAMPLES) % 3).astype(np.int32)
WEIGHTS = jnp.asarray(RNG.normal(size=(16, 3)), jnp.float32)
MODEL = models.from_functions(lambda key: 0.1 * jax.random.normal(key, (16, 3)), linear)
EVERYONE = np.ones(SAMPLES, bool)
RECIPE = train.Recipe(2, 4, train.sgd(0.1))


def fit(images=IMAGES, labels=LABELS, *, model=MODEL, member=EVERYONE, **options):
    return train.fit(
        jax.random.key(0), model, Dataset(images, labels), member, RECIPE, **options
    )[1]


def fit_many(images=IMAGES, labels=LABELS, *, model=MODEL):
    keys = jax.random.split(jax.random.key(0), 2)
    member = np.ones((2, len(labels)), bool)
    return replicas.fit_many(keys, model, Dataset(images, labels), member, RECIPE)[1]


def make_problem(images=IMAGES, labels=LABELS, *, model=MODEL, **options):
    forget = np.arange(len(labels)) < 3
    variables = model.init(jax.random.key(0))
    train_set = Dataset(images, labels)
    return methods.make_problem(model, variables, train_set, forget, **options)


def fit_ensemble(images=IMAGES, labels=LABELS, *, model=MODEL):
    return ensembles.fit_ensemble(
        jax.random.key(0),
        ensembles.Ensemble([model] * 2),
        Dataset(images, labels),
        np.ones(len(labels), bool),
        RECIPE,
    )


def shadow_signals(images=IMAGES, labels=LABELS):
    return audit.shadow_signals(linear, WEIGHTS[None], images, labels)


TRAINING = (fit, fit_many, make_problem, fit_ensemble)
FAULTS = {
    "a label -1": (IMAGES, LABELS - 1, "lie in 0..2 for 3 classes, got -1 to 1"),
    "a label of no class": (IMAGES, LABELS + 1, "lie in 0..2 for 3 classes, got 1 to"),
    "one-hot labels": (IMAGES, np.eye(3)[LABELS], "one class index per image"),
    "fractions": (IMAGES, LABELS / 2, "labels must be integers, got float64"),
    "missing images": (IMAGES[:9], LABELS, "shape .N. = .9,., one class index"),
    "integer pixels": ((IMAGES * 255).astype(np.int32), LABELS, "uint8 in 0..255"),
    "0..255 as floats": (IMAGES * 255, LABELS, "undo any normalization"),
    "NaN": (np.where(IMAGES > 0.9, np.nan, IMAGES), LABELS, "contain NaN or infinity"),
    "lists": (IMAGES.tolist(), LABELS, "images must be an array, got list"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("door", TRAINING, ids=lambda door: door.__name__)
def test_training_takes_a_data_set_or_refuses_it(door, fault):
    images, labels, message = FAULTS[fault]
    with refuses(message):
        door(images, labels)


@pytest.mark.parametrize("fault", ["integer pixels", "0..255 as floats", "NaN"])
def test_prediction_refuses_the_same_images(fault):
    images, _, message = FAULTS[fault]
    with refuses(message):
        train.predict(linear, WEIGHTS, images)
    with refuses(message):
        replicas.predict_many(linear, WEIGHTS[None], images)
    with refuses(message):
        shadow_signals(images)


def test_samples_outside_the_mask_may_hold_anything():
    member = np.arange(SAMPLES) > 2
    images = np.where(member[:, None, None, None], IMAGES, np.nan)
    labels = np.where(member, LABELS, -1)
    assert np.array_equal(
        fit(images, labels, member=member), fit(member=member), equal_nan=False
    )


def test_checks_leave_training_to_jit_and_vmap():
    problem = make_problem()
    method = methods.FineTune(num_epochs=1, batch_size=4)
    direct = method(jax.random.key(0), problem)[0].params
    jitted = jax.jit(method)(jax.random.key(0), problem)[0].params
    np.testing.assert_allclose(direct, jitted, rtol=1e-6)
    attacked = jax.jit(
        jax.vmap(lambda w: attacks.PGD(num_steps=2)(linear, w, IMAGES, LABELS))
    )(WEIGHTS[None])
    assert attacked.status.shape == (1, SAMPLES)
    logits = jax.jit(lambda x: train.predict(linear, WEIGHTS, x))(jnp.asarray(IMAGES))
    np.testing.assert_allclose(logits, linear(WEIGHTS, IMAGES), rtol=1e-5)


def test_labels_are_refused_wherever_they_are_taken_alone():
    logits = jnp.zeros((SAMPLES, 3))
    probabilities = np.full((SAMPLES, 3), 1 / 3)
    for call in (
        lambda labels: losses.cross_entropy(logits, labels),
        lambda labels: losses.log_odds(logits, labels),
        lambda labels: audit.accuracy(logits, labels),
        lambda labels: audit.confusion_rows(logits, labels),
        lambda labels: filters.class_means(probabilities, labels),
        lambda labels: shadow_signals(labels=labels),
    ):
        for labels in (LABELS - 1, LABELS + 1):
            with refuses("labels must lie in 0..2 for 3 classes"):
                call(labels)
    for classes, labels in ((3, LABELS / 2), (1, LABELS)):
        with refuses("two classes or more and integer labels"):
            losses.log_odds(logits[:, :classes], labels)
    expected = losses.log_odds(logits, LABELS)
    np.testing.assert_array_equal(losses.log_odds(logits, LABELS.tolist()), expected)


def test_an_adversarial_set_of_no_class_is_refused():
    found = attacks.PGD(num_steps=2)(linear, WEIGHTS, IMAGES[:3], LABELS[:3])
    assert make_problem(adversarial=found).adversarial is found
    with refuses("adversarial set: labels must lie in 0..2"):
        make_problem(adversarial=found._replace(labels=jnp.full(3, -1)))


class Net(nn.Module):
    """Network whose output, mode and streams are its fields."""

    output: str = "logits"
    classes: int = 3
    stream: str = "dropout"

    def __call__(self, images, *, training):
        return self.compute(images, training)

    @nn.compact
    def compute(self, images, is_noisy):
        hidden = nn.relu(nn.Conv(4, (3, 3), strides=2)(images))
        if is_noisy:
            key = self.make_rng(self.stream)
            hidden = hidden * jax.random.bernoulli(key, 0.5, hidden.shape)
        logits = nn.Dense(self.classes)(hidden.reshape(len(images), -1))
        outputs = {
            "logits": logits,
            "tuple": (logits, hidden),
            "dict": {"logits": logits},
            "softmax": nn.softmax(logits),
            "sigmoid": nn.sigmoid(logits),
            "maps": hidden,
        }
        return outputs[self.output]


class Deterministic(Net):
    def __call__(self, images, *, deterministic):
        return self.compute(images, not deterministic)


class Positional(Net):
    def __call__(self, images, train=False):
        return self.compute(images, train)


class Modeless(Net):
    def __call__(self, images):
        return self.compute(images, False)


class NeedsMore(Net):
    def __call__(self, images, mask, train):
        return self.compute(images * mask, train)


class Sowing(Net):
    @nn.compact
    def __call__(self, images):
        logits = nn.Dense(3)(images.reshape(len(images), -1))
        self.sow("losses", "square", jnp.mean(logits**2))
        return logits


class NoisyAlways(Net):
    def __call__(self, images):
        return self.compute(images, True)


def adapt(module, **options):
    return models.from_linen(module, jnp.zeros((1, 4, 4, 1)), **options)


@pytest.mark.parametrize("module", [Net, Deterministic, Positional, Modeless])
@pytest.mark.parametrize("stream", ["dropout", "noise"])
def test_linen_modules_of_any_mode_and_stream_train(module, stream):
    model = adapt(module(stream=stream))
    variables = model.init(jax.random.key(0))
    first, second = (
        model.apply_train(variables, IMAGES, jax.random.key(seed))[0] for seed in (1, 2)
    )
    assert np.array_equal(first, second) == (module is Modeless)
    evaluated = model.apply(variables, IMAGES)
    assert np.array_equal(evaluated, model.apply(variables, IMAGES))
    assert np.isfinite(fit(model=model)).all()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (Net("tuple"), "the model returns a tuple: return the logits"),
        (Net("dict"), "the model returns a dict: return the logits"),
        (Net("maps"), r"the model returns shape \(1, 2, 2, 4\) for one image"),
        (Net(classes=1), "one output per image: return a logit for each"),
        (NeedsMore(), "needs mask besides images: give defaults"),
        (NoisyAlways(), "draws random numbers in evaluation"),
        (Sowing(), "changes the structure of its collection 'losses' at each call"),
    ],
)
def test_linen_modules_that_are_no_classifiers_are_refused(module, message):
    with refuses(message):
        adapt(module)


def constant(output):
    return Model(lambda key: Variables({"w": 0.0}, {}), lambda *_: output, lambda *_: 0)


@pytest.mark.parametrize(
    "door", [fit, fit_many, make_problem], ids=lambda door: door.__name__
)
def test_other_models_that_are_no_classifiers_are_refused(door):
    wrong = {
        "a tuple": (jnp.zeros((1, 3)), jnp.zeros((1, 8))),
        "one output per image": jnp.zeros((1, 1)),
        "shape \\(1,\\)": jnp.zeros(1),
    }
    for message, output in wrong.items():
        with refuses(message):
            door(model=constant(output))
    with refuses("a tuple"):
        train.predict(lambda v, x: (x, x), None, IMAGES)
    with refuses("one output per image"):
        attacks.PGD()(lambda v, x: x.sum((1, 2, 3))[:, None], None, IMAGES, LABELS)


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_probabilities_in_place_of_logits_are_warned_about(output):
    with pytest.warns(UserWarning, match=f"the model ends in a {output}"):
        adapt(Net(output))


def test_logits_that_are_probabilities_are_warned_about():
    rows = np.asarray(jax.nn.softmax(jnp.asarray(RNG.normal(size=(1, SAMPLES, 3)))))
    with pytest.warns(UserWarning, match="the logits are probabilities"):
        audit.model_signals("logit_margin", rows, LABELS)
    with pytest.warns(UserWarning, match="the logits are probabilities"):
        replicas.predict_many(
            lambda v, x: jax.nn.softmax(linear(v, x)), WEIGHTS[None], IMAGES
        )
    # one-hot and constant rows are logits of toys
    audit.model_signals("logit_margin", [np.eye(3)[LABELS]], LABELS)


class TinyNNX(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(16, 3, rngs=rngs)

    def __call__(self, images):
        return self.layer(images.reshape(len(images), -1))


@pytest.mark.parametrize("kind", ["linen", "nnx", "functions"])
def test_variables_of_another_model_are_named_by_both_shapes(kind):
    model = {"linen": adapt(Net()), "nnx": models.from_nnx(TinyNNX), "functions": MODEL}
    model = model[kind]
    right = model.init(jax.random.key(0))
    wide = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf], -1), right)
    for call in (
        lambda: fit(model=model, variables=wide),
        lambda: methods.make_problem(
            model, wide, Dataset(IMAGES, LABELS), np.arange(SAMPLES) < 3
        ),
        lambda: model.apply(wide, IMAGES),
    ):
        with refuses(r"params.* has shape \(.*[68],?\), the model's has \(.*[34],?\)"):
            call()
    if kind == "linen":
        state = {"batch_stats": {"seen": jnp.zeros(2)}}
        assert np.isfinite(model.apply(right._replace(state=state), IMAGES)).all()
        more = right._replace(params={**right.params, "extra": jnp.zeros(2)})
        with refuses("do not fit the model: it has no params/extra"):
            model.apply(more, IMAGES)
    if kind != "functions":
        with refuses("params/.* is missing"):
            model.apply(right._replace(params={}), IMAGES)


def gradient(model, images):
    """Gradient of a loss by the variables, and whether its program is the fast one."""
    variables = model.init(jax.random.key(0))

    def loss(variables):
        logits, _ = model.apply_train(variables, images, jax.random.key(1))
        return jnp.sum(jnp.sin(logits))

    program = str(jax.make_jaxpr(model.apply)(variables, images))
    return jax.grad(loss)(variables), "_canonical" in program or "onednn" in program


class Convolutions(nn.Module):
    """One convolution that is swapped, and those that are not."""

    @nn.compact
    def __call__(self, images, *, train):
        x = nn.Conv(4, (3, 3))(images)
        x = nn.Conv(4, (3, 3), kernel_dilation=2, padding="CIRCULAR")(nn.relu(x))
        x = nn.Conv(4, (3, 3), feature_group_count=2)(nn.relu(x))
        x = nn.Conv(4, (3,))(x.reshape(len(x), 16, 4))
        return nn.Dense(3)(x.reshape(len(x), -1))


def test_a_users_convolution_is_swapped_for_a_fast_one():
    fast, is_swapped = gradient(adapt(Convolutions()), IMAGES)
    plain, is_kept = gradient(adapt(Convolutions(), conv="lax"), IMAGES)
    assert is_swapped == (jax.default_backend() == "cpu")
    assert not is_kept
    for one, other in zip(jax.tree.leaves(fast), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5)
    with refuses("unknown convolution"):
        adapt(Net(), conv="quick")


class OwnConvolution(nn.Module):
    @nn.compact
    def __call__(self, images):
        mine = lambda *args, **options: (
            0 * jax.lax.conv_general_dilated(*args, **options)
        )
        return nn.Conv(3, (4, 4), padding="VALID", conv_general_dilated=mine)(
            images
        ).reshape(len(images), -1)


def test_a_convolution_that_a_layer_brings_is_kept():
    model = adapt(OwnConvolution())
    variables = model.init(jax.random.key(0))
    assert not model.apply(variables, IMAGES).any()


# attacks


CALLS = {
    "adversarial_set": lambda f, w, x, y: attacks.adversarial_set(
        f, w, x, y, num_radii=2, num_steps=2
    ),
    "grid": lambda f, w, x, y: attacks.adversarial_set(
        f, w, x, y, num_radii=2, num_steps=2, search="grid"
    ),
    "minimal": lambda f, w, x, y: attacks.adversarial_set(
        f, w, x, y, num_radii=2, num_steps=2, search="minimal"
    ),
    "pgd": lambda f, w, x, y: attacks.pgd(f, w, x, y, x, epsilon=0.5, num_steps=2),
    "apgd": lambda f, w, x, y: attacks.apgd(f, w, x, y, x, epsilon=0.5, num_steps=2),
    "autoattack": lambda f, w, x, y: attacks.autoattack_small(
        jax.random.key(0), f, w, x, y, epsilon=0.5, num_steps=2, num_targets=0
    ),
    "line": lambda f, w, x, y: attacks.fast_adversarial_set(
        jax.random.key(0), f, w, x, y, num_steps=2, num_restarts=1
    ),
    "legacy": lambda f, w, x, y: attacks.legacy_pgd(
        jax.random.key(0), f, w, x, y, mean=(0.5,), std=(0.5,), num_steps=2
    ),
}
X = jnp.asarray(IMAGES)
Y = jnp.argmax(linear(WEIGHTS, X), -1)


@pytest.mark.parametrize("name", CALLS)
def test_logits_that_are_not_finite_have_a_status_of_their_own(name):
    result = CALLS[name](linear, WEIGHTS * jnp.nan, X, Y)
    assert not result.success.any()
    assert list(result.status) == [Status.NOT_FINITE] * SAMPLES
    assert np.array_equal(result.labels, Y)
    assert attacks.status_counts(result)["not_finite"] == SAMPLES


def test_logits_that_are_not_finite_are_no_robustness():
    attack = attacks.PGD(search=attacks.FixedRadius(), num_steps=2)
    clean = attacks.robustness(
        jax.random.key(0), linear, WEIGHTS * jnp.nan, X, Y, attack=attack
    )
    assert not clean.right.any()
    assert not clean.robust.any()
    # finite at the clean images, NaN wherever the attack goes
    fragile = lambda w, x: linear(w, x) / jnp.all(x == X[:1], (1, 2, 3))[:, None]
    broken = attacks.robustness(
        jax.random.key(0), fragile, WEIGHTS, X[:1], Y[:1], attack=attack
    )
    assert broken.right.all()
    assert not broken.robust.any()
    outcome = attacks.transfer(
        jax.random.key(0), [(fragile, WEIGHTS)], None, X[:1], Y[:1], attack=attack
    )
    assert outcome.source_fooled.any()


def test_classes_ruled_out_by_minus_infinity_are_attacked():
    closed = lambda w, x: linear(w, x).at[:, 2].set(-jnp.inf)
    y = jnp.argmax(closed(WEIGHTS, X), -1)
    result = attacks.pgd(closed, WEIGHTS, X, y, X, epsilon=3.0, num_steps=20)
    assert result.success.any()
    assert not (result.status == Status.NOT_FINITE).any()


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (X, jnp.eye(3)[Y], "one class index per image"),
        (X, Y[:3], "one class index per image"),
        (X[:0], Y[:0], "there are no images"),
        (IMAGES.tolist(), Y, "images must be an array, got list"),
        (X, Y.tolist(), "labels must be an array, got list"),
        (X, Y.at[0].set(7), "lie in 0..2 for 3 classes, got 0 to 7"),
        (X, Y.at[0].set(-1), "lie in 0..2 for 3 classes, got -1 to"),
        (X * 2 - 1, Y, "undo any normalization"),
    ],
    ids=["one-hot", "short", "empty", "images", "labels", "7", "-1", "normalized"],
)
def test_attacks_refuse_what_cannot_be_attacked(name, images, labels, message):
    with refuses(message):
        CALLS[name](linear, WEIGHTS, images, labels)


@pytest.mark.parametrize("epsilon", [-1.0, np.nan, np.inf])
def test_radii_that_are_none_are_refused(epsilon):
    key = jax.random.key(0)
    for call in (
        lambda: attacks.pgd(linear, WEIGHTS, X, Y, X, epsilon=epsilon),
        lambda: attacks.pgd(
            linear, WEIGHTS, X, Y, X, epsilon=jnp.full(SAMPLES, epsilon)
        ),
        lambda: attacks.apgd(linear, WEIGHTS, X, Y, X, epsilon=epsilon),
        lambda: attacks.fast_gradient(linear, WEIGHTS, X, Y, epsilon=epsilon),
        lambda: attacks.pgd_curve(key, linear, WEIGHTS, X, Y, [0.1, epsilon]),
        lambda: attacks.legacy_pgd(
            key, linear, WEIGHTS, X, Y, mean=(0.5,), std=(1.0,), epsilon=epsilon
        ),
        lambda: attacks.random_start(key, X, epsilon=epsilon),
    ):
        with refuses("must be finite and not negative, got"):
            call()
    for call in (
        lambda: attacks.adversarial_set(linear, WEIGHTS, X, Y, epsilon_init=epsilon),
        lambda: attacks.FixedRadius(epsilon=epsilon),
        lambda: attacks.Doubling(epsilon_init=epsilon),
        lambda: attacks.LineSearch(epsilon_init=epsilon),
        lambda: attacks.PGD(step_ratio=epsilon),
    ):
        with refuses("must be positive"):
            call()


ODD_NUMBERS = {
    "num_steps": (1.5, "2", None, True, -1, np.nan),
    "num_linear": (1.5, 0, np.inf),
    "num_polish": (1.5, -1, False),
    "num_radii": (2.5, 0),
    "batch_size": (0, 1.5, True),
    "epsilon_init": (np.nan, np.inf, -1.0, 0, True, "0.1", None),
    "step_ratio": (np.nan, np.inf, -0.1),
    "overshoot": (np.nan, np.inf, 0.0),
    "depth": (np.nan, np.inf, -0.5, "deep"),
}


@pytest.mark.parametrize("name", ODD_NUMBERS)
def test_odd_numbers_of_an_attack_are_refused_at_every_door(name):
    is_of_minimal = name in {"num_linear", "num_polish", "overshoot", "depth"}
    search = "minimal" if is_of_minimal else "doubling"
    for number in ODD_NUMBERS[name]:
        options = {name: number}
        with refuses(f"{name} must be"):
            attacks.adversarial_set(linear, WEIGHTS, X, Y, search=search, **options)
        with refuses(f"{name} must"):
            values.replace(attacks.PGD(search=attacks.Minimal()), **options)
    if name in {"num_steps", "step_ratio", "batch_size"}:
        key = jax.random.key(0)
        for number in ODD_NUMBERS[name]:
            with refuses(f"{name} must be"):
                attacks.pgd_curve(key, linear, WEIGHTS, X, Y, [0.1], **{name: number})


def test_an_attack_that_cannot_move_ends_at_once():
    """Constant and undefined logits spend a gradient per radius, not per step."""

    def flat(_, images):
        return jnp.eye(1, 3) + 0 * images.sum((1, 2, 3))[:, None]

    def undefined(_, images):
        return jnp.nan * images.reshape(len(images), -1)[:, :3]

    labels = np.zeros(SAMPLES, np.int32)
    for search in ("minimal", "doubling"):
        for model, status in (
            (flat, Status.ZERO_GRADIENT),
            (undefined, Status.NOT_FINITE),
        ):
            result = attacks.adversarial_set(
                model, {}, X, labels, search=search, num_radii=3
            )
            assert (result.status == status).all()
            assert (result.num_gradients <= 4).all()
            assert np.array_equal(result.images, X)


def test_radius_zero_finds_nothing():
    result = attacks.pgd(linear, WEIGHTS, X, Y, X, epsilon=0.0, num_steps=3)
    assert not result.success.any()
    assert np.array_equal(result.images, X)


def test_bounds_other_than_zero_and_one_are_held():
    images = X * 2 - 1
    y = jnp.argmax(linear(WEIGHTS, images), -1)
    result = attacks.adversarial_set(
        linear, WEIGHTS, images, y, bounds=(-1.0, 1.0), num_radii=6, num_steps=5
    )
    assert result.success.any()
    assert jnp.abs(result.images).max() <= 1


def test_few_classes_have_a_loss_that_works():
    two = WEIGHTS[:, :2]
    y = jnp.argmax(linear(two, X), -1)
    with refuses("needs four classes, there are 2"):
        attacks.autoattack_small(jax.random.key(0), linear, two, X, y, epsilon=0.5)
    found = attacks.apgd(linear, two, X, y, X, epsilon=2.0, num_steps=20)
    assert found.success.any()


# numbers of the wrong sort


def test_one_output_is_no_accuracy():
    signs = np.where(LABELS == 1, 4.0, -4.0)[:, None]
    for call in (audit.accuracy, audit.confusion_rows):
        with refuses("at least two classes"):
            call(signs, LABELS % 2)


def test_filters_take_distributions():
    logits = 3 * RNG.normal(size=(4, 5))
    means = np.full((5, 5), 0.2)
    unnormalized = np.abs(logits)
    for rows in (logits, unnormalized, np.full((4, 5), np.nan)):
        for call in (
            lambda rows=rows: filters.masked_renormalization(rows, [0]),
            lambda rows=rows: filters.mpru(rows, means, [0]),
            lambda rows=rows: filters.MPRU()(rows, means, [0]),
            lambda rows=rows: filters.Mask()(rows, means, [0]),
        ):
            with refuses("probabilities has rows that are not distributions"):
                call()
    with refuses("class_means has rows that are not distributions"):
        filters.mpru(means, means - 0.5, [0])
    masked = jax.jit(lambda p: filters.masked_renormalization(p, [0]))(means)
    np.testing.assert_allclose(masked.sum(-1), 1, rtol=1e-6)


def test_rmia_refuses_signals_that_are_negative():
    member = data.membership_design(8, 400, seed=0)
    margin = RNG.normal(size=400) + 2 * member + 0.5 * RNG.normal(size=(8, 400))
    loss = -np.log1p(np.exp(-margin))
    for mode in ("online", "offline"):
        with refuses("negative for most samples: RMIA divides probabilities"):
            audit.rmia(loss[0], loss[1:], member[1:], mode=mode, check_design=False)
    scores = audit.rmia(
        np.exp(loss[0]), np.exp(loss[1:]), member[1:], check_design=False
    )
    assert audit.auc(scores, member[0]) > 0.7


def test_the_confidence_attack_takes_probabilities():
    with refuses("retain_train reaches from 2 to 3: pass probabilities"):
        audit.kodge_mia([2.0, 3.0], [0.1, 0.2], [0.1])


def test_channels_first_are_warned_about():
    images = RNG.integers(0, 255, (SAMPLES, 3, 8, 8)).astype(np.uint8)
    with pytest.warns(UserWarning, match="look as if channels came first"):
        data.load_arrays(images, LABELS, images, LABELS)
    model = models.from_functions(lambda key: jnp.zeros((192, 3)), linear)
    with pytest.warns(UserWarning, match="look as if channels came first"):
        fit(images, model=model)


def test_bytes_of_zero_and_one_are_warned_about():
    images = (IMAGES > 0.5).astype(np.uint8)
    with pytest.warns(UserWarning, match="nothing but 0 and 1"):
        data.load_arrays(images, LABELS, images, LABELS)
    with pytest.warns(UserWarning, match="nothing but 0 and 1"):
        fit(images)


def test_layers_of_zeros_have_norm_zero():
    class Zeros(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = nn.Dense(8)(x.reshape(len(x), -1))
            scale = nn.initializers.zeros
            x = nn.BatchNorm(use_running_average=not train, scale_init=scale)(x)
            return nn.Dense(3, kernel_init=nn.initializers.zeros)(nn.relu(x))

    sample = jnp.zeros((1, 4, 4, 1))
    model = models.from_linen(Zeros(), sample)
    variables = model.init(jax.random.key(0))
    norms = spectral.spectral_norms(model.apply, variables, sample)
    assert [float(norm) for norm in norms.values()] == [0.0, 0.0]
    clipped = spectral.clip(model.apply, variables, sample, max_norm=0.5)
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(clipped))


def test_clients_without_samples_are_refused():
    federated = contrib.federated
    nobody = np.array([False, False])
    for call in (
        lambda: federated.gather_clients(np.array([0, 0, 2, 2])),
        lambda: federated.fedavg_weights(
            federated.gather_clients(np.array([0, 0, 1])), nobody
        ),
        lambda: federated.iid_split(3, 5, seed=0),
        lambda: federated.dirichlet_split(np.arange(20) % 2, 5, alpha=1e-3, seed=0),
    ):
        with pytest.raises(InputError):
            call()


def test_a_problem_takes_a_data_set_not_a_pair():
    variables = MODEL.init(jax.random.key(0))
    with refuses("train must be a Dataset, got tuple"):
        methods.make_problem(MODEL, variables, (IMAGES, LABELS), np.arange(9) < 3)
