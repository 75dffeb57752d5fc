"""Every method: images that it may read, determinism, adapters, maps, values.

Numbers of single methods are compared with NumPy in files of their own.
"""

import dataclasses
import inspect
import json
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.method_checks import (
    FORGET,
    RETAIN,
    check_mapped,
    check_method,
    small_problem,
)

from unlearn_jax import methods, models
from unlearn_jax.attacks import PGD, Doubling
from unlearn_jax.methods import METHODS, SPACES
from unlearn_jax.optimizers import SGD
from unlearn_jax.spectral import spectral_norms
from unlearn_jax.types import InputError
from unlearn_jax.values import fields_of, from_json, is_traceable, replace, to_json

BOTH = FORGET | RETAIN
NEITHER = np.zeros(60, bool)
ATTACK = PGD(num_steps=5, search=Doubling(num_radii=4, batch_size=8))
UNSIR_SIZES = {"num_noise_images": 6, "num_noise_steps": 3, "num_noise_copies": 2}
L2UL_SIZES = {"num_steps": 3, "forget_batch_size": 4, "batch_size": 5}


def quick(name, **changes):
    """A registered method with settings for sixty tiny images."""
    method = METHODS[name]
    wanted = {
        "num_epochs": 2,
        "batch_size": 16,
        "learning_rate": 0.05,
        "attack": ATTACK,
        "num_samples": 8,
        "warn": False,
    }
    names = {field.name for field in dataclasses.fields(method)}
    settings = {field: wanted[field] for field in wanted if field in names}
    return replace(method, **{**settings, **changes})


def num_epochs_of(method):
    return getattr(method, "num_epochs", 0)


CASES = {
    # name: (method, images that it may read)
    "retrain": (quick("retrain"), RETAIN),
    "finetune": (quick("finetune"), RETAIN),
    "gradient_ascent": (quick("gradient_ascent"), FORGET),
    "neggrad_plus": (quick("neggrad_plus"), BOTH),
    "random_label": (quick("random_label"), BOTH),
    "boundary_shrink": (quick("boundary_shrink"), FORGET),
    "boundary_expand": (quick("boundary_expand"), FORGET),
    "l1_sparse": (quick("l1_sparse"), RETAIN),
    "salun": (quick("salun"), BOTH),
    "scrub": (quick("scrub"), BOTH),
    "scar": (quick("scar", num_repeats=1), BOTH),
    "uam": (quick("uam"), BOTH),
    "bad_teacher": (quick("bad_teacher"), BOTH),
    "ssd": (quick("ssd", alpha=1.0), BOTH),  # the published 10 selects no parameter
    "svd_projection": (
        quick("svd_projection", num_retain=20, num_forget=3, num_patches=60),
        BOTH,
    ),
    "unsir": (quick("unsir", num_retain=20, **UNSIR_SIZES), RETAIN),
    "l2ul": (quick("l2ul", num_adversarial=2, **L2UL_SIZES), FORGET),
    "delete": (quick("delete"), FORGET),
    "trw": (
        quick("trw", similarity="features", perturb="noise", noise=0.5),
        BOTH,
    ),
    "influence_target": (quick("influence_target"), BOTH),
    "influence": (
        quick("influence", alpha=0.3, damping=0.1, num_samples=7, batch_size=4),
        BOTH,
    ),
    "ntk_influence": (quick("ntk_influence", ridge=0.05), BOTH),
    "fisher": (quick("fisher"), RETAIN),
    "masked_small_gradients": (quick("masked_small_gradients"), BOTH),
    "convolution_transpose": (quick("convolution_transpose"), RETAIN),
    "amun": (quick("amun"), BOTH),
    "amun_salun": (quick("amun_salun"), BOTH),
    # variants
    "finetune frozen": (quick("finetune", batch_stats="freeze"), RETAIN),
    "gradient_ascent R": (quick("gradient_ascent", retain=True), BOTH),
    "neggrad_plus 4": (quick("neggrad_plus", forget_batch_size=4), BOTH),
    "random_label F": (
        quick("random_label", retain=False, labels="any", redraw="once"),
        FORGET,
    ),
    "random_label ordered": (
        quick("random_label", order="forget_first", redraw="once"),
        BOTH,
    ),
    "boundary_shrink frozen": (
        quick("boundary_shrink", batch_stats="freeze"),
        FORGET,
    ),
    "boundary_shrink R": (
        quick("boundary_shrink", retain=True, relabel="epoch", discretize=True),
        BOTH,
    ),
    "salun fraction": (quick("salun", learning_rate=0.013, fraction=0.3), BOTH),
    "salun F": (
        quick("salun", batch_size=4, learning_rate=0.013, retain=False, leak=True),
        FORGET,
    ),
    "scrub decay": (
        quick("scrub", forget_batch_size=4, num_max_epochs=1, decay_every=1),
        BOTH,
    ),
    "scar noise": (
        quick("scar", num_repeats=1, surrogate="noise", batch_stats="freeze"),
        BOTH,
    ),
    "uam frozen": (
        quick("uam", forget_batch_size=4, batch_stats="freeze"),
        BOTH,
    ),
    "scrub min": (quick("scrub", num_max_epochs=0), RETAIN),
    "bad_teacher F": (
        quick("bad_teacher", retain_fraction=0, optimizer=SGD(), reduction="element"),
        FORGET,
    ),
    "delete R": (quick("delete", retain=True), BOTH),
    "masked frozen": (
        quick("masked_small_gradients", kernels="all", batch_stats="freeze"),
        BOTH,
    ),
    "fisher batch": (
        quick("fisher", alpha=1e-4, information="batch", shared=True),
        RETAIN,
    ),
    "influence released": (
        quick("influence", alpha=0.3, inverse="released", num_samples=7),
        BOTH,
    ),
    "ssd low": (quick("ssd", alpha=1.2), BOTH),
    "ssd batch": (quick("ssd", alpha=1.2, importance="batch", batch_size=4), BOTH),
    "boundary_expand R": (
        quick("boundary_expand", retain=True, freeze_head=True),
        BOTH,
    ),
    "unsir clip": (quick("unsir", clip=True, optimizer=SGD(), **UNSIR_SIZES), RETAIN),
    "l2ul re-run": (
        quick(
            "l2ul",
            adversarial_weight=0.1,
            regularization=0.0,
            targets="any",
            adversarial_mode="evaluate",
            stop="never",
            **L2UL_SIZES,
        ),
        FORGET,
    ),
    "trw F": (quick("trw", retain=False, temperature=0.5), FORGET),
    "trw neighbors": (quick("trw", similarity="neighbors", perturb="permute"), BOTH),
    "influence_target F": (
        quick("influence_target", retain=False, mask=False, num_removal_steps=2),
        BOTH,
    ),
    # with the adversarial images of the problem
    "amun given": (quick("amun"), BOTH),
    "amun R+A": (quick("amun", forget=False), RETAIN),
    "amun F+A": (quick("amun", retain=False), FORGET),
    # one batch would make the order, and so the key, matter only by rounding
    "amun A": (quick("amun", retain=False, forget=False, batch_size=4), NEITHER),
}
DETERMINISTIC = ("ssd", "ssd low", "ntk_influence")
ATTACKED = ("amun given", "amun R+A", "amun F+A", "amun A")


def test_every_method_has_a_case():
    assert set(METHODS) - set(CASES) == {"identity"}


@pytest.fixture(scope="module")
def problems(normed, blobs):
    """A problem without and one with adversarial images."""
    plain = small_problem(normed, blobs)
    attacked = methods.attack_forget_set(plain, ATTACK)
    return {
        False: plain,
        True: dataclasses.replace(plain, adversarial=attacked),
    }


@pytest.mark.parametrize("name", CASES)
def test_results_depend_on_the_key_and_the_allowed_images(name, problems, key):
    method, allowed = CASES[name]
    problem = problems[name in ATTACKED]
    is_random = name not in DETERMINISTIC
    variables, info = check_method(method, allowed, problem, key, is_random=is_random)
    assert info.losses.shape == (num_epochs_of(method),)
    if num_epochs_of(method) == 0:
        chex.assert_trees_all_equal(variables.state, problem.variables.state)


def test_identity_reads_nothing_and_returns_the_original(problems, key):
    problem = problems[False]
    images = jnp.full_like(problem.train.images, jnp.nan)
    unread = dataclasses.replace(problem, train=problem.train._replace(images=images))
    variables, info = jax.jit(methods.Identity())(key, unread)
    chex.assert_trees_all_equal(variables, problem.variables)
    assert info.num_gradients == 0


@pytest.mark.parametrize(
    "name",
    [
        "gradient_ascent R",
        "neggrad_plus",
        "random_label",
        "boundary_shrink R",
        "l1_sparse",
        "salun fraction",
        "scrub decay",
        "scar",
        "uam",
        "bad_teacher",
        "svd_projection",
        "boundary_expand",
        "unsir",
        "l2ul",
        "trw neighbors",
        "influence_target",
        "ntk_influence",
    ],
)
def test_maps_over_forget_sets(name, blobs, key):
    check_mapped(CASES[name][0], blobs, key)


def own_model(adapter):
    """A linear model of a user; the other tests run models of Linen."""
    if adapter == "functions":  # parameters are a bare array
        return models.from_functions(
            lambda key: jax.random.normal(key, (16, 3)) * 0.1,
            lambda w, images: images.reshape(len(images), -1) @ w,
        )
    return models.from_nnx(
        lambda rngs: nnx.Sequential(
            lambda x: x.reshape(len(x), -1), nnx.Linear(16, 3, rngs=rngs)
        )
    )


@pytest.mark.parametrize("adapter", ["functions", "nnx"])
@pytest.mark.parametrize("name", METHODS)
def test_every_adapter_runs_every_method(adapter, name, blobs, key):
    """Numbers are those of one linear model: one adapter computes, the other traces."""
    model = own_model(adapter)
    k_init, k_run = jax.random.split(key)
    problem = methods.make_problem(model, jax.jit(model.init)(k_init), blobs, FORGET)
    method = quick(name)
    if num_epochs_of(method):
        method = replace(method, num_epochs=1)
    if adapter == "nnx":
        variables, info = jax.eval_shape(method, k_run, problem)
    else:
        variables, info = jax.jit(method)(k_run, problem)
        chex.assert_tree_all_finite(variables)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, problem.variables)
    assert info.losses.shape == (num_epochs_of(method),)


@pytest.mark.parametrize(
    "name", ["boundary_expand", "convolution_transpose", "masked_small_gradients"]
)
def test_constraints_hold_where_training_starts_elsewhere(name, normed, blobs, key):
    problem = small_problem(normed, blobs)
    k_masked, k_constrained = jax.random.split(key)
    options = {"kernels": "all"} if name == "masked_small_gradients" else {}
    method = quick(name, **options)
    saliency = methods.Saliency(fraction=0.3)
    masked, info = jax.jit(methods.masked(method, saliency))(k_masked, problem)
    mask = methods.saliency_mask(problem, fraction=0.3)
    chex.assert_trees_all_equal(
        masked.params,
        jax.tree.map(jnp.where, mask, masked.params, problem.variables.params),
    )
    assert any(
        np.any(new != old)
        for new, old in zip(
            jax.tree.leaves(masked.params),
            jax.tree.leaves(problem.variables.params),
            strict=True,
        )
    )
    assert info.num_gradients > problem.num_forget
    bounded, _ = jax.jit(methods.constrained(method, 0.5))(k_constrained, problem)
    norms = spectral_norms(normed.apply, bounded, blobs.images)
    assert max(map(float, norms.values())) <= 1.01 * 0.5


@pytest.mark.parametrize("name", METHODS)
def test_equal_methods_hash_alike_and_survive_json(name):
    method = METHODS[name]
    copy = dataclasses.replace(method)
    assert method == copy
    assert hash(method) == hash(copy)
    assert from_json(json.loads(json.dumps(to_json(method)))) == method
    leaves, structure = jax.tree.flatten(method)
    assert jax.tree.unflatten(structure, leaves) == method
    assert all(isinstance(leaf, float) for leaf in leaves)


@pytest.mark.parametrize("name", METHODS)
def test_every_field_of_a_method_is_documented(name):
    declared = type(METHODS[name])
    attributes = inspect.getdoc(declared).partition("Attributes:")[2]
    documented = set(re.findall(r"^ +(\w+): ", attributes, re.MULTILINE))
    own = set(vars(declared).get("__annotations__", {}))
    fields = {field.name for field in dataclasses.fields(declared)}
    assert own & fields <= documented


@pytest.mark.parametrize("name", SPACES)
def test_search_spaces_hold_fields_and_ranges_of_traceable_ones(name):
    method = METHODS[name]
    for field, candidates in SPACES[name].items():
        assert field in fields_of(method)
        assert is_traceable(method, field) == isinstance(candidates, dict)
    for field, levels in methods.draw_levels(SPACES[name], 20).items():
        for level in levels:
            searched = replace(method, **{field: level})
            assert fields_of(searched)[field] == level


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"published": float("nan")}, "a's published must be positive and finite"),
        ({"published": -3}, "a's published must be positive"),
        ({"published": "x"}, "a's published must be positive"),
        ({"low": "x"}, "a's low must be positive"),
        ({"low": 3}, "needs low and high with 0 < low <= high"),
    ],
)
def test_unusable_ranges_are_refused(limits, message):
    with pytest.raises(InputError, match=message):
        methods.draw_levels({"a": {"low": 1, "high": 2, **limits}}, 3)


def test_stacked_methods_map_over_all_their_floats(normed, blobs, key):
    """The float fields are leaves: stacked methods are one method to ``vmap``."""
    problem = small_problem(normed, blobs)
    several = [
        replace(quick("salun"), learning_rate=rate, weight_decay=decay, momentum=0.5)
        for rate, decay in [(0.01, 0.0), (0.05, 0.1), (0.1, 0.01)]
    ]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *several)

    def run(method):
        return method(jax.random.clone(key), problem)

    with jax.debug_key_reuse(False):  # as in method_checks.check_mapped
        mapped = jax.jit(jax.vmap(run))(stacked)
    for i, method in enumerate(several):
        chex.assert_trees_all_close(
            jax.tree.map(lambda leaf, i=i: leaf[i], mapped),
            methods.unlearn(jax.random.clone(key), method, problem),
            rtol=1e-4,
            atol=1e-5,
        )
