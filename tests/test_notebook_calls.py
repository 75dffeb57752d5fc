"""Functions as a notebook calls them: again and again, on bytes, in float64 mode."""

import dataclasses
import gc
import warnings
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unlearn_jax import (
    attacks,
    data,
    influence,
    layers,
    losses,
    methods,
    models,
    replicas,
    spectral,
    train,
)
from unlearn_jax import unlearn as run_method
from unlearn_jax.contrib import federated, testbeds
from unlearn_jax.methods import METHODS
from unlearn_jax.methods.random_label import random_labels
from unlearn_jax.types import Dataset, InputError, Model, Variables

pytestmark = pytest.mark.usefixtures("replay")
BYTES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 1)).astype(np.uint8)
FLOATS = jnp.asarray(BYTES, jnp.float32) / 255
LABELS = (np.arange(12) % 3).astype(np.int32)
FORGET = np.arange(12) < 4
ATTACKS = {
    "pgd": attacks.PGD(num_steps=3, search=attacks.Doubling(num_radii=3)),
    "fixed": attacks.PGD(num_steps=3, search=attacks.FixedRadius(epsilon=0.1)),
    "minimal": attacks.PGD(num_steps=3, search=attacks.Minimal(num_radii=3)),
    "line": attacks.LineSearch(num_steps=3, num_restarts=1),
    "apgd": attacks.APGD(num_steps=3),
    "legacy": attacks.LegacyPGD(mean=(0.5,), std=(0.5,), num_steps=3),
}
KEY = jax.random.key(0)
"""One key for all calls: their draws are not compared with one another."""
METHOD = methods.FineTune(num_epochs=1, batch_size=4)


@pytest.fixture(scope="module")
def variables(tiny):
    return tiny.init(jax.random.key(1))


@pytest.fixture(scope="module")
def problem(tiny, variables):
    return methods.make_problem(tiny, variables, Dataset(BYTES, LABELS), FORGET)


@pytest.fixture
def compiled():
    """Names of programs that are compiled during a test."""
    events = []

    def listen(event, duration, **kwargs):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield events
    jax.monitoring.unregister_event_duration_listener(listen)


CALLS = {
    "predict": lambda model, v: train.predict(model.apply, v, BYTES),
    "lotos": lambda model, v: TERM_OF(model).init(KEY, replicas.stack([v, v])),
    "foreign_stretch": lambda model, v: losses.foreign_stretch(
        model.apply, replicas.stack([v, v]), FLOATS, num_iters=2
    ),
    "remove": lambda model, v: influence.remove(
        model.apply, v, FLOATS, jnp.asarray(LABELS), FORGET, ridge=0.1, warn=False
    ),
}
for name, attack in ATTACKS.items():
    CALLS[name] = lambda model, v, attack=attack: attack(
        model.apply, v, FLOATS, LABELS, key=KEY
    )
TERMS = {}


def TERM_OF(model):
    """Return the LOTOS term of a model, made once."""
    if model not in TERMS:
        TERMS[model] = losses.lotos(model.apply, FLOATS, which="all", init_iters=2)
    return TERMS[model]


@pytest.mark.parametrize("name", CALLS)
def test_a_second_call_compiles_nothing(name, tiny, variables, compiled):
    call = CALLS[name]
    first = call(tiny, variables)
    compiled.clear()
    second = call(tiny, variables)
    assert compiled == []
    jax.tree.map(np.testing.assert_array_equal, first, second)


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_take_numpy_and_16_bits(name, tiny, variables):
    attack = ATTACKS[name]

    def distance(images):
        result = attack(tiny.apply, variables, images, LABELS, key=KEY)
        assert result.images.dtype == jnp.float32
        assert result.distance.dtype == jnp.float32
        return result.distance

    images = np.asarray(FLOATS)
    expected = distance(images)
    np.testing.assert_allclose(jax.jit(lambda: distance(images))(), expected, 1e-5)
    assert np.isfinite(distance(FLOATS.astype(jnp.bfloat16))).all()


@pytest.mark.parametrize("name", ["pgd", "fixed", "minimal", "apgd"])
def test_attacks_without_a_key_take_16_bits(name, tiny, variables):
    images = FLOATS.astype(jnp.float16)
    result = ATTACKS[name](tiny.apply, variables, images, LABELS)
    assert result.images.dtype == jnp.float32


def test_a_function_that_is_not_a_models_is_called_anew(variables):
    """It may depend on values that change, or be an object that cannot be hashed."""
    scale = {"value": 1.0}

    def logits(weights, images):
        return scale["value"] * images.reshape(len(images), -1) @ weights

    @dataclasses.dataclass
    class Network:
        width: int = 3

        def __call__(self, weights, images):
            return logits(weights, images)

    weights = jax.random.normal(jax.random.key(3), (16, 3))
    for function in (logits, Network()):
        scale["value"] = 1.0
        first = train.predict(function, weights, FLOATS)
        scale["value"] = 2.0
        np.testing.assert_allclose(
            train.predict(function, weights, FLOATS), 2 * first, rtol=1e-5
        )
        attack = ATTACKS["fixed"]
        result = attack(function, weights, FLOATS, LABELS)
        scale["value"] = -1.0
        other = attack(function, weights, FLOATS, LABELS)
        assert not np.array_equal(result.labels, other.labels)


def test_programs_of_models_do_not_outlive_many_others():
    """A cache without bound would keep every model of a notebook."""

    def model():
        return models.from_functions(
            lambda key: jnp.ones((16, 3)), lambda w, x: x.reshape(len(x), -1) @ w
        )

    first = model()
    train.predict(first.apply, first.init(KEY), FLOATS)
    alive = weakref.ref(first.apply)
    del first
    for _ in range(17):
        other = model()
        train.predict(other.apply, other.init(KEY), FLOATS)
    gc.collect()
    assert alive() is None


def test_stretches_keep_the_order_of_the_layers():
    weights = {"z": jnp.ones((16, 4)), "a": jnp.ones((4, 3))}

    def apply(variables, images):
        w = variables.params
        return jax.nn.relu(images.reshape(len(images), -1) @ w["z"]) @ w["a"]

    model = Model(None, apply, None)
    pair = replicas.stack([Variables(weights, {}), Variables(weights, {})])
    stretches = losses.foreign_stretch(model.apply, pair, FLOATS, num_iters=2)
    assert list(stretches) == ["params/z", "params/a"]


def test_keys_of_the_older_kind_train_many_models(tiny):
    samples = Dataset(BYTES, LABELS)
    recipe = train.Recipe(1, 4, train.sgd(0.1))
    member = np.ones((2, 12), bool)
    keys = jax.random.split(jax.random.key(4), 2)
    expected, _ = replicas.fit_many(keys, tiny, samples, member, recipe)
    raw = jax.random.key_data(jax.random.split(jax.random.key(4), 2))
    state, _ = replicas.fit_many(raw, tiny, samples, member, recipe)
    jax.tree.map(np.testing.assert_array_equal, state.variables, expected.variables)


def test_influence_and_features_take_bytes_as_training_does(tiny, variables):
    apply = tiny.apply
    of_bytes = influence.ntk(apply, variables, BYTES)
    of_floats = influence.ntk(apply, variables, FLOATS)
    np.testing.assert_allclose(of_bytes, of_floats, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        layers.features(apply, variables, BYTES),
        layers.features(apply, variables, FLOATS),
        rtol=1e-5,
    )


def test_states_of_a_boltzmann_machine_may_be_bytes():
    rbm = testbeds.Rbm(jnp.ones((2, 3)), jnp.ones(2), jnp.ones(3), jnp.ones((2, 3)))
    states = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    expected = testbeds.free_energy(rbm, states.astype(np.float32))
    energy = testbeds.free_energy(rbm, states.astype(np.uint8))
    np.testing.assert_allclose(energy, expected)


def test_labels_of_eight_bits_do_not_overflow():
    labels = jnp.full(2000, 99, jnp.int8)
    drawn = random_labels(KEY, labels, 100, kind="wrong")
    assert drawn.dtype == jnp.int8
    assert set(np.asarray(drawn).tolist()) == set(range(99))


@pytest.mark.parametrize("name", ["forget", "removed"])
def test_a_mask_has_the_number_of_samples_that_the_problem_says(name, problem):
    mask = jnp.asarray(np.arange(12) == 11)
    other = dataclasses.replace(problem, **{name: mask})
    with pytest.raises(InputError, match=f"'{name}' has 1 samples where num_{name}"):
        run_method(KEY, METHOD, other)


def test_requests_of_a_sequence_are_checked(problem):
    requests = np.zeros((2, 12), bool)
    requests[0, :3] = True
    requests[1, 3] = True
    with pytest.raises(InputError, match="disjoint, of 2 samples each"):
        run_method(KEY, methods.sequence(METHOD, requests), problem)


def test_a_diverged_model_is_warned_of(problem):
    method = methods.GradientAscent(learning_rate=1e4, num_epochs=20, batch_size=4)
    with pytest.warns(UserWarning, match="GradientAscent diverged"):
        _, info = run_method(KEY, method, problem)
    assert not np.isfinite(info.losses).all()


@pytest.mark.parametrize(
    ("faulty", "match"),
    [
        (lambda: train.Recipe(-3, 4, train.sgd(0.1)), "num_epochs must be"),
        (lambda: train.Recipe(2.0, 4, train.sgd(0.1)), "num_epochs must be"),
        (lambda: train.step_decay(0.1, every=0), "every must be"),
        (lambda: train.step_decay(0.1, every=5, factor=0.0), "factor must be"),
        (lambda: data.forget_random(9, count=3.0, seed=0), "count must be"),
    ],
)
def test_wrong_numbers_are_refused_at_once(faulty, match):
    with pytest.raises(InputError, match=match):
        faulty()


def test_numbers_and_keys_of_trainings_are_checked(tiny):
    samples = Dataset(BYTES, LABELS)
    recipe = train.Recipe(1, 4, train.sgd(0.1))
    everyone = np.ones((2, 12), bool)
    with pytest.raises(InputError, match="typed keys"):
        replicas.fit_many(KEY, tiny, samples, everyone, recipe)
    with pytest.raises(InputError, match="epochs_per_call"):
        train.fit(KEY, tiny, samples, everyone[0], recipe, epochs_per_call=-1)


def test_the_last_model_of_a_stack_is_minus_one(variables):
    pair = replicas.stack([jax.tree.map(jnp.zeros_like, variables), variables])
    last = replicas.unstack(pair, -1)
    jax.tree.map(np.testing.assert_array_equal, last, variables)
    both = replicas.unstack(pair, slice(2))
    jax.tree.map(np.testing.assert_array_equal, both, pair)


def test_weights_of_clients_may_be_integers(tiny, variables):
    federation = federated.Federation(
        tiny,
        federated.LocalTraining(batch_size=4, form="map"),
        Dataset(jnp.asarray(BYTES), jnp.asarray(LABELS)),
        federated.gather_clients(np.arange(12) % 3),
    )
    state = federated.init_server(variables)
    state = federated.federated_round(KEY, federation, state, [1, 0, 1])
    assert np.isfinite(jax.tree.leaves(state.variables)[0]).all()


@pytest.mark.parametrize("name", METHODS)
def test_methods_trace_in_float64_mode(name, problem):
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes, info = jax.eval_shape(METHODS[name], KEY, problem)
    kinds = {leaf.dtype for leaf in jax.tree.leaves(shapes)}
    assert kinds == {jnp.dtype("float32")}
    assert info.num_gradients.shape == ()


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_trace_in_float64_mode(name, tiny, variables):
    with jax.enable_x64(True):
        result = jax.eval_shape(
            lambda images: ATTACKS[name](
                tiny.apply, variables, images, jnp.asarray(LABELS), key=KEY
            ),
            FLOATS,
        )
    assert result.images.dtype == result.distance.dtype == jnp.float32


@pytest.mark.parametrize("name", sorted(set(data.AUGMENTATIONS) - {"none"}))
def test_augmentations_trace_in_float64_mode(name):
    augment = data.augmentation(name)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    with jax.enable_x64(True):
        keys = jax.random.split(KEY, 2)
        assert jax.eval_shape(augment, keys, images).dtype == jnp.float32


def test_spectral_norms_trace_in_float64_mode(tiny, variables):
    with jax.enable_x64(True):
        norms = jax.eval_shape(
            lambda v: spectral.spectral_norms(tiny.apply, v, FLOATS[:1]), variables
        )
    assert {norm.shape for norm in norms.values()} == {()}
