"""Every error that attacks, spectral clipping, training and mappers document: the call
that meets it.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from support.refusals import missed, refusal, sites

from unlearn_jax import attacks, checks, models, replicas, spectral, train, values
from unlearn_jax.optimizers import SGD
from unlearn_jax.pipeline import DataConfig
from unlearn_jax.types import AttackResult, Dataset, Variables
from unlearn_jax.values import value


@value
class Pair:
    first: SGD = SGD()
    second: SGD = SGD()


ROOMS = (
    "attacks",
    "checks.py",
    "spectral",
    "train.py",
    "replicas",
    "values.py",
)
X, Y = np.full((2, 2, 2, 1), 0.5, np.float32), np.array([0, 1])
WEIGHTS = {"w": np.zeros((4, 3), np.float32)}
POOL = Dataset(X, Y)


@dataclasses.dataclass(frozen=True)
class Typed:
    type: int = 3


def key():
    return jax.random.key(0)


def linear(weights, images):
    return images.reshape(len(images), -1) @ weights["w"]


def linear_of_params(variables, images):
    return linear(variables.params, images)


def dilated(variables, images):
    convolved = lax.conv_general_dilated(
        images,
        variables.params["k"],
        (1, 1),
        "SAME",
        rhs_dilation=(2, 2),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return convolved.reshape(len(images), -1)


def trained(**params):
    return Variables(params, {})


def attack(function, *rest, x=X, y=Y, **options):
    return lambda: function(linear, WEIGHTS, x, y, *rest, **options)


def keyed(function, **options):
    return lambda: function(
        key(), linear, WEIGHTS, jnp.asarray(X), jnp.asarray(Y), **options
    )


def result():
    return AttackResult(*[jnp.zeros(2)] * 6)


def update_without_weights():
    transform = spectral.projection(
        linear, X, spectral.gouk(), spectral.Targets(), period=1
    )
    return transform.update(WEIGHTS, None)


def initialize_over_params_alone():
    transform = spectral.projection(
        linear_of_params, X, spectral.gouk(), spectral.Targets(), period=1
    )
    return transform.init(WEIGHTS)


def model():
    return models.from_functions(lambda _: WEIGHTS, linear)


def fit(member, tx=None, **options):
    recipe = train.Recipe(2, 2, tx or train.sgd(0.1))
    return train.fit(key(), model(), POOL, member, recipe, **options)


def fit_many(member, **options):
    recipe = train.Recipe(2, 2, train.sgd(0.1))
    return replicas.fit_many(key()[None], model(), POOL, member, recipe, **options)


def fit_many_from_three_models():
    state = train.init_state(key(), model(), train.sgd(0.1))
    return fit_many(np.ones((1, 2), bool), state=replicas.stack([state] * 3))


def fit_many_over_three_devices():
    how = replicas.mapper("split", num_models=1, devices=3)
    return replicas.fit_many(
        key()[None],
        model(),
        POOL,
        np.ones((1, 2), bool),
        train.Recipe(1, 2, train.sgd(0.1)),
        mapper=how,
    )


def add(item, shared):
    return jax.tree.map(lambda leaf: leaf + shared, item)


REFUSED = [
    (
        lambda: train.predict(linear, WEIGHTS, X, batch_size=0),
        "batch_size must be a positive integer, got 0",
    ),
    # values
    (lambda: values.to_json(linear), "cannot be stored as JSON"),
    (lambda: values.to_json(Typed()), "Typed has a field 'type'"),
    (lambda: DataConfig(name=3), "name must be a string, got 3"),
    (lambda: DataConfig(size=(1, 2, 3)), "size must have 2 items"),
    (
        lambda: values.from_json({"type": "attacks.PGD", "steps": 3}),
        "PGD has no field 'steps'",
    ),
    (
        lambda: values.from_json({"type": "attacks.pgd"}),
        "'attacks.pgd' is not a type of values: it is not a dataclass",
    ),
    (
        lambda: values.from_json({"type": "attacks.PDG"}),
        "there is no type 'attacks.PDG' of values",
    ),
    (lambda: SGD(nesterov=1), "nesterov must be True or False, got 1"),
    (lambda: attacks.PGD(norm="l1"), "unknown norm 'l1': choose l2 or linf"),
    (lambda: attacks.PGD(bounds=1.0), "bounds must be a tuple, got 1.0"),
    (lambda: attacks.PGD(step_ratio="a"), "step_ratio must be a number, got 'a'"),
    (lambda: attacks.PGD(num_steps=2.5), "num_steps must be an integer, got 2.5"),
    (lambda: attacks.PGD(num_steps=True), "num_steps must be an integer, got True"),
    (lambda: values.replace(SGD(), rate=1), "SGD has no field 'rate'; it has"),
    (
        lambda: values.replace(SGD(), **{"rate.first": 1}),
        "SGD has no field 'rate.first'",
    ),
    (
        lambda: values.replace(Pair(), momentum=0.5),
        "'momentum' could mean first.momentum or second.momentum: choose one",
    ),
    # attacks
    (
        attack(attacks.adversarial_set, x=np.zeros((2, 2, 2, 1), np.uint8)),
        "attacks take float images in \\[0.0, 1.0\\]",
    ),
    (
        attack(attacks.adversarial_set, x=3 * X),
        "attack: float images must lie in \\[0, 1\\], got 1.5 to 1.5",
    ),
    (
        lambda: attacks.random_start(key(), X, epsilon=-1.0),
        "epsilon must be finite and not negative, got -1.0",
    ),
    (
        attack(attacks.adversarial_set, search="fast"),
        "unknown search 'fast': choose 'grid', 'doubling' or 'minimal'",
    ),
    (
        attack(attacks.adversarial_set, search="grid", restart=False),
        "the grid search attacks all radii at once",
    ),
    (
        attack(attacks.adversarial_set, search="minimal", keep="last"),
        "the minimal search keeps the closest example: use keep='first'",
    ),
    (
        attack(attacks.adversarial_set, search="minimal", num_linear=0),
        "num_linear must be a positive integer, got 0",
    ),
    (
        attack(attacks.adversarial_set, search="minimal", overshoot=0.0),
        "overshoot must be positive and finite, got 0.0",
    ),
    (
        attack(attacks.adversarial_set, search="minimal", depth=-0.5),
        "depth must be finite and not negative, got -0.5",
    ),
    (
        attack(attacks.adversarial_set, num_radii=0),
        "num_radii must be a positive integer, got 0",
    ),
    (
        attack(attacks.apgd, X, epsilon=1.0, num_steps=0),
        "num_steps must be a positive integer, got 0",
    ),
    (
        keyed(attacks.autoattack_small, epsilon=0.0),
        "epsilon must be positive and finite, got 0.0",
    ),
    (
        keyed(attacks.autoattack_small, epsilon=0.1),
        "the targeted DLR loss needs four classes, there are 3",
    ),
    (
        keyed(attacks.fast_adversarial_set, num_restarts=-1),
        "num_restarts must be an integer, 0 or more, got -1",
    ),
    (
        lambda: attacks.Transfer(*[jnp.ones((1, 2), bool)] * 4).counted("all"),
        "unknown condition 'all': choose 'fooled'",
    ),
    (
        keyed(attacks.legacy_pgd),
        "images have 1 channels: give a mean and a dev",
    ),
    (
        attack(attacks.cap_failures, result(), fraction=2),
        "fraction must be in \\[0, 1\\], got 2",
    ),
    (
        attack(attacks.target_runner_up, result(), num_steps=0),
        "num_steps must be a positive integer, got 0",
    ),
    (
        lambda: attacks.PGD(bounds=(1.0, 0.0)),
        "bounds must be the least and the largest pixel, got \\(1.0, 0.0\\)",
    ),
    (
        attack(attacks.LineSearch()),
        "LineSearch draws random numbers: pass key=jax.random.key\\(0\\)",
    ),
    (
        lambda: attacks.FixedRadius(epsilon=0.0),
        "epsilon must be positive and finite, got 0.0",
    ),
    (
        lambda: attacks.PGD(num_steps=0),
        "num_steps must be a positive integer, got 0",
    ),
    (
        attack(attacks.adversarial_set, norm="l2"),
        "norm must be attacks.l2, attacks.linf or another attacks.Norm, got 'l2'",
    ),
    (
        attack(attacks.adversarial_set, loss="dlr"),
        "loss must be a function \\(logits \\[B, C\\], labels \\[B\\]\\)",
    ),
    (
        lambda: attacks.LegacyPGD(mean=(0.5,), std=(1.0, 1.0)),
        "mean and std must be finite numbers, one of each per channel",
    ),
    (
        attack(attacks.correct, x=np.zeros((2, 2, 2, 1), np.uint8)),
        r"attacks take float images in \[0.0, 1.0\], not uint8",
    ),
    (
        attack(attacks.correct, y=Y[:, None]),
        r"attack: labels must have shape \[N\] = \(2,\)",
    ),
    (
        attack(attacks.correct, y=Y / 2),
        "attack: labels must be integers, got float64",
    ),
    (
        lambda: attacks.transfer(key(), [], None, X, Y, attack=attacks.PGD()),
        "transfer takes at least one source and one target",
    ),
    (
        lambda: attacks.PGD(search="grid"),
        "search must be attacks.Doubling\\(...\\), attacks.Grid",
    ),
    (
        lambda: attacks.PGD(keep="last", search=attacks.Minimal()),
        "the minimal search keeps the closest example: use keep='first'",
    ),
    (
        lambda: attacks.APGD(num_steps=0),
        "num_steps must be a positive integer, got 0",
    ),
    (
        lambda: attacks.APGD(batch_size=0),
        "batch_size must be a positive integer, got 0",
    ),
    (
        lambda: attacks.LegacyPGD(num_steps=0),
        "num_steps must be a positive integer, got 0",
    ),
    # spectral norms and clipping
    (lambda: spectral.gouk(num_iters=0), "num_iters must be a positive integer, got 0"),
    (
        lambda: spectral.frequency_blocks(jnp.ones((3, 3, 1, 1)), (2, 2)),
        "a torus of 2 x 2 must hold the 3 x 3 kernel",
    ),
    (
        lambda: spectral.delattre_bound(jnp.ones((3, 3, 1, 1)), num_iters=0),
        "num_iters must be a positive integer, got 0",
    ),
    (
        lambda: spectral.project(
            dilated,
            trained(k=jnp.ones((3, 3, 1, 1))),
            X,
            spectral.sedghi(),
            spectral.Targets(),
        ),
        "over two axes without groups or dilation, unlike 'params/k'",
    ),
    (
        lambda: spectral.power_qr(lambda x: x, jnp.ones((1, 3)), num_iters=0),
        "num_iters must be a positive integer, got 0",
    ),
    (
        lambda: spectral.power_qr(
            lambda x: x, jnp.ones((1, 3)), num_iters=1, shift=-1.0
        ),
        "shift must be finite and not negative, got -1.0",
    ),
    (
        lambda: spectral.power_qr(lambda x: x, jnp.ones((4, 3)), num_iters=1),
        "a map of 3 inputs has fewer than 4 singular vectors; ask for fewer",
    ),
    (
        lambda: spectral.lanczos(lambda x: x, jnp.ones(3), num_iters=0),
        "num_iters must be a positive integer, got 0",
    ),
    (
        lambda: spectral.Targets(max_norm=0),
        "max_norm must be positive and finite, got 0",
    ),
    (
        lambda: spectral.Targets(max_norm=None),
        "max_norm must be positive and finite, got None",
    ),
    (
        lambda: spectral.Targets("1"),
        "max_norm must be positive and finite, got '1'",
    ),
    (
        lambda: spectral.Targets(jnp.ones(2)),
        r"max_norm must have shape \[\], got \(2,\)",
    ),
    (
        lambda: spectral.Targets(max_norms={"w": -1.0}),
        "max_norm of 'w' must be positive and finite, got -1.0",
    ),
    (
        lambda: spectral.clip(linear, {"w": np.full((4, 3), np.nan, "f4")}, X),
        "weights of w are not finite: clip needs finite weights",
    ),
    (
        lambda: spectral.project(
            linear_of_params,
            trained(**WEIGHTS),
            X,
            spectral.gouk(),
            spectral.Targets(max_norms={"v": 1.0}),
        ),
        "max_norms names 'v', which is not a layer; layers are .*w",
    ),
    (
        lambda: spectral.projection(
            linear, X, spectral.gouk(), spectral.Targets(), period=0
        ),
        "period must be a positive integer, got 0",
    ),
    (
        lambda: spectral.fastclip(linear, X, period=1.5),
        "period must be a positive integer, got 1.5",
    ),
    (
        lambda: spectral.fastclip(linear, X, num_steps=-1),
        "num_steps must be a positive integer, got -1",
    ),
    (
        update_without_weights,
        "this transformation moves weights: call update\\(updates, state, params\\)",
    ),
    (
        initialize_over_params_alone,
        "apply_fn cannot be applied to the parameters alone"
        " \\(.*params.*\\): close over",
    ),
    (
        lambda: spectral.spectral_norms(lambda v, x: x, {}, X),
        "the model has no affine layer",
    ),
    (
        lambda: spectral.spectral_norms(linear, WEIGHTS, X, method="svd"),
        "unknown method 'svd'; choose ",
    ),
    (
        lambda: spectral.top_spectrum(linear, WEIGHTS, X, num_vectors=0),
        "num_vectors must be a positive integer, got 0",
    ),
    (
        lambda: spectral.top_spectrum(linear, WEIGHTS, X, warm={}),
        "warm has no array of vectors of 'w': pass spectrum.vectors",
    ),
    (
        lambda: spectral.top_spectrum(linear, WEIGHTS, X, warm={"w": np.ones((1, 3))}),
        r"warm vectors of 'w' must have shape \[any, 4\], got \(1, 3\)",
    ),
    (
        lambda: spectral.gram_bound(jnp.ones((3, 3, 1, 1)), (4, 4), num_iters=-1),
        "num_iters must be an integer, 0 or more, got -1",
    ),
    (
        lambda: spectral.ClipRule(num_rounds=0),
        "num_rounds must be a positive integer, got 0",
    ),
    (
        lambda: spectral.ClipRule(tolerance=np.nan),
        "tolerance must be finite and not negative, got nan",
    ),
    (
        lambda: spectral.ClipRule(step="long"),
        "unknown step 'long': choose line_search or reference",
    ),
    # arrays and models
    (
        attack(attacks.adversarial_set, x=[[0.5]]),
        "attack: images must be an array, got list; convert with numpy.asarray",
    ),
    (
        attack(attacks.adversarial_set, x=X[:0]),
        "attack: there are no images \\(shape \\(0, 2, 2, 1\\)\\)",
    ),
    (
        lambda: train.predict(linear, WEIGHTS, X.astype(int)),
        "images must be uint8 in 0..255 or floating in \\[0, 1\\], got int64",
    ),
    (
        attack(attacks.adversarial_set, x=X * np.nan),
        "attack: images contain NaN or infinity",
    ),
    (
        attack(attacks.adversarial_set, y=Y[:1]),
        "attack: labels must have shape \\[N\\] = \\(2,\\)",
    ),
    (
        attack(attacks.adversarial_set, y=Y / 2),
        "attack: labels must be integers, got float64",
    ),
    (
        attack(attacks.adversarial_set, y=Y - 1),
        "attack: labels must lie in 0..2 for 3 classes, got -1 to 0",
    ),
    (
        lambda: train.predict(lambda v, x: (x, x), {}, X),
        "the model returns a tuple: return the logits \\[B, C\\] alone",
    ),
    (
        lambda: attacks.PGD()(lambda v, x: x, {}, X, Y),
        "the model returns shape \\(1, 2, 2, 1\\) for one image",
    ),
    (
        lambda: attacks.PGD()(lambda v, x: x[:, 0, 0], {}, X, Y),
        "the model returns one output per image",
    ),
    # training and mappers
    (
        lambda: train.fit(0, model(), POOL, [True, True], None),
        r"key must be a typed key, got int: pass jax.random.key\(0\)",
    ),
    (
        lambda: train.fit(key(), linear, POOL, [True, True], None),
        "model must be a Model, got function: adapt a network by models.from_linen",
    ),
    (
        lambda: train.fit(key(), model(), (X, Y), [True, True], None),
        "data must be a Dataset, got tuple: pass types.Dataset",
    ),
    (
        lambda: train.fit(key(), model(), POOL, [True, True], None),
        "recipe must be a Recipe, got NoneType: pass train.Recipe",
    ),
    (
        lambda: fit([True, True], loss_fn=3),
        r"loss_fn must be a function \(variables, batch, key\), got int",
    ),
    (
        lambda: train.sgd(np.nan),
        "learning_rate must be finite and not negative, got nan",
    ),
    (
        lambda: train.sgd(0.1, momentum=1.5),
        r"momentum must be in \[0, 1\), got 1.5",
    ),
    (
        lambda: train.sgd(0.1, weight_decay=-1),
        "weight_decay must be finite and not negative, got -1",
    ),
    (
        lambda: train.step_decay(np.nan, every=1),
        "learning_rate must be finite and not negative, got nan",
    ),
    (
        lambda: train.Recipe(1, True, train.sgd(0.1)),
        "batch_size must be a positive integer, got True",
    ),
    (
        lambda: fit([True]),
        "a mask must be bool of length 2, one entry per sample; got bool \\(1,\\)",
    ),
    (
        lambda: fit([False, False]),
        "a mask selects no sample: there is nothing to train on",
    ),
    (
        lambda: fit([True, True], optax.scale(jnp.nan)),
        "training diverged: the loss was not finite in epoch 2",
    ),
    (
        lambda: replicas.mapper("fast", num_models=2),
        "unknown mapper 'fast': choose auto, loop, map, vmap or split",
    ),
    (
        lambda: replicas.mapper(num_models=2, devices=99),
        "99 devices asked for, 8 present: choose 1 to 8",
    ),
    (
        lambda: replicas.mapper(num_models=2, devices=2, across_hosts=True),
        "a mesh across hosts takes all devices of all processes: leave out devices",
    ),
    (
        lambda: train.predict(linear, WEIGHTS, X, batch_size=0),
        "batch_size must be a positive integer, got 0",
    ),
    (
        lambda: replicas.mapper(num_models=2, devices=3, split=2),
        "3 devices do not divide into parts of split=2: choose a divisor",
    ),
    (
        lambda: replicas.mapper("split", num_models=2, split=3),
        "the form 'split' divides each batch over all devices: leave out split=3",
    ),
    (
        lambda: replicas.mapper(num_models=2.5),
        "num_models must be a positive integer, got 2.5",
    ),
    (
        lambda: replicas.mapper(num_models=2, devices=1.0),
        "devices must be a positive integer, got 1.0",
    ),
    (
        lambda: replicas.mapper(num_models=2, split=0),
        "split must be a positive integer, got 0",
    ),
    *[
        (
            lambda form=form, items=items: replicas.map_models(
                replicas.mapper(form, num_models=2, devices=1), add, items, X
            ),
            message,
        )
        for form in ("loop", "map")
        for items, message in (
            ((np.ones(3), np.ones(2)), r"items must have leaves \[M, ...\]"),
            (np.ones(()), r"items must have leaves \[M, ...\]"),
            (np.ones((0, 2)), "items has no model: pass at least one"),
        )
    ],
    (
        lambda: checks.check_sizes(widths=4),
        "widths must be a sequence of positive integers, got 4",
    ),
    (lambda: checks.check_finite(start=np.inf), "start must be finite, got inf"),
    (
        lambda: checks.check_shape("start", np.zeros(3), (2,)),
        r"start must have shape \[2\], got \(3,\)",
    ),
    (
        lambda: checks.check_mask("mask", np.zeros(3), 3),
        r"mask must be bool of length 3, got float64 \(3,\)",
    ),
    (
        lambda: checks.check_keys("keys", np.zeros(3)),
        r"keys must be typed keys \[S\], as .* gives, got float64 of shape \(3,\)",
    ),
    (
        fit_many_over_three_devices,
        "a batch of 2 samples does not divide evenly over 3 devices",
    ),
    (
        lambda: attacks.difference_of_logits_ratio(jnp.ones((1, 2)), jnp.zeros(1, int)),
        "the DLR loss compares three logits, got 2: take loss='log_odds'",
    ),
    (
        lambda: attacks.targeted_difference_of_logits_ratio(
            jnp.ones((1, 3)), jnp.zeros(1, int), jnp.ones(1, int)
        ),
        "the targeted DLR loss compares four logits, got 3: take loss='log_odds'",
    ),
    (
        lambda: train.Recipe(1, 4, SGD()),
        r"tx must be an optax transformation, got SGD: pass train.sgd\(0.1\)",
    ),
    (
        lambda: train.Recipe(1, 4, train.sgd(0.1), "crop"),
        r"augment must be a function \(keys, images\), got 'crop'",
    ),
    (
        lambda: fit(np.ones((2, 2), bool)),
        r"fit trains one model, by a mask \[N\], got \(2, 2\): use fit_many",
    ),
    (
        lambda: fit(np.ones(2, bool), variables={"params": {}}),
        "variables must be a Variables, got dict: start from model.init",
    ),
    (
        lambda: fit_many(np.ones((3, 2), bool)),
        r"1 keys need a mask \[1, 2\], one row per model; got \(3, 2\)",
    ),
    (
        lambda: fit_many(np.ones((1, 2), bool), num_batches=0),
        "num_batches must be a positive integer, got 0",
    ),
    (
        lambda: fit_many(np.ones((1, 2), bool), num_batches=1.5),
        "num_batches must be a positive integer, got 1.5",
    ),
    (
        lambda: fit_many(np.ones((1, 2), bool), loss_fn="ce"),
        r"loss_fn must be a function \(variables, batch, key\), got str",
    ),
    (
        lambda: fit_many(np.ones((1, 2), bool), mapper="map"),
        r"mapper must be a Mapper, got str: pass replicas\.mapper\('map', num_models",
    ),
    (
        lambda: fit_many(np.ones((1, 2), bool), state=trained(**WEIGHTS)),
        "state must be a TrainState, got Variables: pass the state that fit_many",
    ),
    (
        lambda: replicas.map_models("map", add, np.ones(2), X),
        "mapper must be a Mapper, got str",
    ),
    (
        lambda: replicas.stack([WEIGHTS, {"w": jnp.zeros((4, 3), jnp.bfloat16)}]),
        "stack takes one or more models .* same shapes and types: got 2 models",
    ),
    (fit_many_from_three_models, "1 keys need a state of as many models, got 3"),
    (
        lambda: replicas.predict_many(
            linear, {"w": np.ones((2, 4, 3))}, X, batch_size=0
        ),
        "batch_size must be a positive integer, got 0",
    ),
    (
        lambda: replicas.stack([]),
        "stack takes one or more models of one architecture.*got 0 models",
    ),
    (
        lambda: replicas.stack([WEIGHTS, {"w": np.ones((4, 2))}]),
        "stack takes one or more models of one architecture.*got 2 models",
    ),
    (
        lambda: replicas.predict_many(linear, (np.ones((2, 3)), np.ones(3)), X),
        r"variables must have leaves \[M, ...\], the models along the first axis",
    ),
    (
        lambda: replicas.predict_many(linear, np.ones((0, 3, 2)), X),
        "variables has no model: pass at least one",
    ),
    (
        lambda: replicas.unstack(np.ones((3, 2)), 7),
        "the stack has 3 models, numbered from 0: there is no model 7",
    ),
]


@pytest.mark.parametrize(
    ("call", "message"), REFUSED, ids=[message[:40] for _, message in REFUSED]
)
def test_every_error_is_one_line(call, message):
    file, _ = refusal(call, message)
    assert file.startswith(ROOMS)


def test_table_covers_every_error():
    assert missed(ROOMS, REFUSED, {}) == {}
    assert len(sites(*ROOMS)) > 30
