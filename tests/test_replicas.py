"""Replicas: every mapper trains the same models, one by one as ``fit`` does."""

import contextlib
import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from unlearn_jax import models, onednn, replicas, targets, train
from unlearn_jax.replicas import _models
from unlearn_jax.types import InputError

RECIPE = train.Recipe(num_epochs=3, batch_size=16, tx=train.sgd(0.1))
EXACT = [("loop", 1), ("map", 1), ("loop", 2), ("map", 8), ("map", 4)]
CLOSE = [("vmap", 1), ("vmap", 2), ("split", 8), ("split", 1)]


@pytest.fixture(scope="module")
def design():
    return np.random.default_rng(3).random((5, 60)) < 0.5


@pytest.fixture(scope="module")
def reference(normed, blobs, design):
    keys = jax.random.split(jax.random.key(5), 5)
    return replicas.fit_many(
        keys,
        normed,
        blobs,
        design,
        RECIPE,
        mapper=replicas.mapper("loop", num_models=5, devices=1),
    )


@pytest.mark.parametrize(("form", "devices"), EXACT + CLOSE)
def test_mappers_train_the_same_models(form, devices, normed, blobs, design, reference):
    mapper = replicas.mapper(form, num_models=5, devices=devices)
    keys = jax.random.split(jax.random.key(5), 5)
    with jax.debug_key_reuse(
        form != "vmap"
    ):  # the checker counts a batched fold_in in a scan as a use of the key
        state, losses = replicas.fit_many(
            keys, normed, blobs, design, RECIPE, mapper=mapper, epochs_per_call=2
        )
    assert losses.shape == (5, 3)
    if form == "map":
        # The flags of these tests round a loop's body in another way;
        # test_determinism compiles as users do, and compares bits.
        chex.assert_trees_all_close(
            state.variables, reference[0].variables, rtol=2e-6, atol=2e-7
        )
    elif (form, devices) in EXACT:
        chex.assert_trees_all_equal(state, reference[0])
    else:
        chex.assert_trees_all_close(
            state.variables, reference[0].variables, rtol=1e-3, atol=1e-4
        )
    logits = replicas.predict_many(
        normed.apply, state.variables, blobs.images, mapper=mapper
    )
    one = train.predict(
        normed.apply,
        replicas.unstack(reference[0].variables, 4),
        jnp.asarray(blobs.images),
    )
    np.testing.assert_allclose(logits[4], one, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("form", "devices", "split"), [("map", 8, 2), ("vmap", 8, 4), ("loop", 4, 2)]
)
def test_a_mesh_of_models_and_batches_trains_the_same_models(
    form, devices, split, normed, blobs, design, reference
):
    mapper = replicas.mapper(form, num_models=5, devices=devices, split=split)
    assert mapper.name == f"pmap[{devices // split}] x {form} x split[{split}]"
    keys = jax.random.split(jax.random.key(5), 5)
    # the checker counts a batched fold_in in a scan as a use of the key
    with jax.debug_key_reuse(form != "vmap"):
        state, losses = replicas.fit_many(
            keys, normed, blobs, design, RECIPE, mapper=mapper
        )
    chex.assert_trees_all_close(
        state.variables, reference[0].variables, rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(losses, reference[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("form", "devices", "split"),
    [("map", 8, 1), ("loop", 2, 1), ("vmap", 4, 1), ("map", 8, 2), ("split", 4, 1)],
)
def test_a_sharded_data_set_trains_the_same_models(
    form, devices, split, normed, blobs, design, reference
):
    """Sixty samples over eight devices: the last ones hold padding."""
    options = {"num_models": 5, "devices": devices, "split": split}
    mapper = replicas.mapper(form, shard_data=True, **options)
    assert mapper.name.endswith(" x shards")
    used = 5 if (form, devices, split) == ("map", 8, 1) else devices
    placed = mapper.place_data(blobs)
    held = {shard.data.shape[0] for shard in placed.images.addressable_shards}
    assert held == {-(-60 // used)}
    keys = jax.random.split(jax.random.key(5), 5)
    # the checker counts a batched fold_in in a scan as a use of the key
    with jax.debug_key_reuse(form != "vmap"):
        state, losses = replicas.fit_many(
            keys, normed, blobs, design, RECIPE, mapper=mapper
        )
    if (form, split) == ("loop", 1):
        chex.assert_trees_all_equal(state, reference[0])
    chex.assert_trees_all_close(
        state.variables, reference[0].variables, rtol=1e-3, atol=1e-4
    )
    np.testing.assert_allclose(losses, reference[1], rtol=1e-3, atol=1e-4)
    logits = replicas.predict_many(
        normed.apply, state.variables, blobs.images, mapper=mapper
    )
    one = replicas.unstack(state.variables, 4)
    expected = train.predict(normed.apply, one, jnp.asarray(blobs.images))
    np.testing.assert_allclose(logits[4], expected, rtol=1e-3, atol=1e-3)
    parts = devices if form == "split" else split
    on_device = mapper.place(blobs.images).addressable_shards[0].data
    assert len(on_device) == 60 // parts


def test_predictions_in_parts_are_those_of_all(normed, blobs, reference, monkeypatch):
    variables = reference[0].variables
    whole = replicas.predict_many(normed.apply, variables, blobs.images, batch_size=8)
    # three batches of eight images at a time
    monkeypatch.setattr(_models, "PART_BYTES", 25 * blobs.images[0].nbytes)
    parts = replicas.predict_many(normed.apply, variables, blobs.images, batch_size=8)
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


def test_a_mesh_divides_batches_and_not_models(normed, blobs, design):
    """Of a model, only gradients and statistics go between the devices of a batch."""
    mapper = replicas.mapper("map", num_models=4, devices=8, split=2)
    programs = []

    def watch(jitted, _, shapes):
        traced = jitted.trace(*shapes)
        programs.append((jitted.__name__, traced.lower().compile().as_text()))
        return traced.out_info

    with replicas.rehearsal(watch):
        keys = jax.random.split(jax.random.key(5), 4)
        replicas.fit_many(keys, normed, blobs, design[:4], RECIPE, mapper=mapper)
    text = dict(programs)["train_models"]
    found = targets.read_hlo(text).collectives
    assert "all-reduce" in found
    groups = set(re.findall(r"replica_groups=(\S+?),? ", text))
    assert groups
    for group in groups:
        assert re.search(r"\{\{0,1\},\{2,3\}|\[4,2\]", group), group


@pytest.mark.parametrize("kind", ["tiny", "normed"])
def test_one_replica_equals_fit(kind, blobs, request):
    model = request.getfixturevalue(kind)
    mask = np.arange(60) % 3 > 0
    many, losses = replicas.fit_many(
        jax.random.split(jax.random.key(9), 1), model, blobs, mask[None], RECIPE
    )
    single, own = train.fit(
        jax.random.split(jax.random.key(9), 1)[0], model, blobs, mask, RECIPE
    )
    chex.assert_trees_all_equal(replicas.unstack(many, 0), single)
    np.testing.assert_array_equal(losses[0], own)


def test_split_divides_batches_over_the_devices(normed, blobs, design):
    mapper = replicas.mapper("split", num_models=1)
    seen = []
    read = train.fetch_from()

    def watched(data, index, key):
        batch = mapper.fetch(read)(data, index, key)
        jax.debug.inspect_array_sharding(batch.images, callback=seen.append)
        return batch

    jax.jit(watched)(mapper.place(blobs), jnp.arange(16), jax.random.key(0))
    assert seen[0].shard_shape((16, 4, 4, 1)) == (2, 4, 4, 1)
    bad = train.Recipe(1, 12, RECIPE.tx)
    with pytest.raises(
        InputError, match="12 samples does not divide evenly over 8 devices"
    ):
        replicas.fit_many(
            jax.random.split(jax.random.key(5), 5),
            normed,
            blobs,
            design,
            bad,
            mapper=mapper,
        )


@pytest.mark.parametrize("channels", [3, 32])
def test_divided_batches_exchange_gradients_only(channels, monkeypatch):
    """Of a batch that is divided, only gradients go between devices."""
    monkeypatch.setattr("unlearn_jax.models.conv.PART", 2**13)
    k_x, k_k = jax.random.split(jax.random.key(0))
    image, kernel = (
        jax.random.normal(k_x, (32, 16, 16, channels)),
        jax.random.normal(k_k, (3, 3, channels, 32)),
    )

    def loss(kernel, image):
        return jnp.sum(
            models.canonical_conv(
                jnp.tanh(image * kernel.mean()), kernel, (1, 1), "SAME"
            )
            ** 2
        )

    expected = jax.jit(jax.grad(loss))(kernel, image)
    mesh = jax.sharding.Mesh(np.array(jax.local_devices()[:4]), "batch")
    place = lambda array, *axes: jax.device_put(
        array, NamedSharding(mesh, PartitionSpec(*axes))
    )
    with jax.set_mesh(mesh):
        step, placed = jax.jit(jax.grad(loss)), (place(kernel), place(image, "batch"))
        program, got = step.lower(*placed).compile().as_text(), step(*placed)
    np.testing.assert_allclose(got, expected, atol=1e-5 * np.abs(expected).max())
    assert "all-reduce" in program
    assert not re.findall("all-gather|all-to-all|collective-permute", program)


@pytest.mark.parametrize("name", ["batch", "data"])
@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
@pytest.mark.parametrize("is_set", [False, True])
@pytest.mark.parametrize("form", ["canonical", "onednn"])
def test_a_batch_divided_over_any_axis_gives_the_same_gradients(
    form, is_set, kind, name
):
    if form == "onednn" and onednn.native().reason:
        pytest.skip(onednn.native().reason)
    k_x, k_k = jax.random.split(jax.random.key(0))
    image = jax.random.normal(k_x, (8, 5, 4, 2))
    kernel = jax.random.normal(k_k, (3, 3, 2, 3))

    def loss(conv, kernel, image):
        return jnp.sum(jnp.tanh(conv(image, kernel, (1, 1), "SAME")))

    def gradients(conv):
        return jax.jit(jax.grad(partial(loss, conv), (0, 1)))

    axis_type = getattr(jax.sharding.AxisType, kind)
    mesh = jax.make_mesh((4,), (name,), axis_types=(axis_type,))
    place = lambda array, *axes: jax.device_put(
        array, NamedSharding(mesh, PartitionSpec(*axes))
    )
    with jax.set_mesh(mesh) if is_set else contextlib.nullcontext():
        got = gradients(models.CONVOLUTIONS[form])(place(kernel), place(image, name))
    expected = gradients(models.canonical_conv)(kernel, image)
    chex.assert_trees_all_close(
        jax.device_get(got), jax.device_get(expected), atol=1e-5
    )


def test_resumed_equals_uninterrupted(normed, blobs, design, reference):
    keys = jax.random.split(jax.random.key(5), 5)
    short = train.Recipe(1, RECIPE.batch_size, RECIPE.tx)
    half, _ = replicas.fit_many(keys, normed, blobs, design, short)
    stored = jax.tree.map(np.asarray, half)
    rest, losses = replicas.fit_many(
        keys, normed, blobs, design, RECIPE, state=jax.tree.map(jnp.asarray, stored)
    )
    assert losses.shape == (5, 2)
    chex.assert_trees_all_equal(rest, reference[0])


def test_replicas_differ_by_key_and_mask(reference):
    leaf = np.asarray(jax.tree.leaves(reference[0].variables.params)[0])
    assert all(not np.allclose(leaf[0], other) for other in leaf[1:])


@pytest.mark.parametrize(("form", "devices"), EXACT + CLOSE)
def test_map_models_pads_and_orders(form, devices):
    mapper = replicas.mapper(form, num_models=5, devices=devices)
    out = replicas.map_models(
        mapper,
        lambda item, shared: {"y": item * shared},
        jnp.arange(5.0),
        np.float32(3),
    )
    np.testing.assert_array_equal(out["y"], 3 * np.arange(5.0))


@pytest.mark.parametrize("first", [1, 2, 8])
def test_results_of_one_mapper_are_items_of_another(first):
    """Whatever devices hold them: fewer models than before have fewer devices."""
    add = lambda item, shared: item[1] + shared + 0 * jax.random.bits(item[0])
    far = lambda seed, count: jax.device_put(
        jax.random.split(jax.random.key(seed), count), jax.devices()[-1]
    )
    mapper = replicas.mapper("map", num_models=8, devices=first)
    values = replicas.map_models(mapper, add, (far(0, 8), jnp.arange(8.0)), 1.0)
    for second in (1, 2, 4):
        mapper = replicas.mapper("map", num_models=5, devices=second)
        found = replicas.map_models(mapper, add, (far(second, 5), values[:5]), 1.0)
        np.testing.assert_array_equal(found, np.arange(5.0) + 2)


def test_shared_data_of_other_devices_is_moved_to_the_first(tiny, tiny_variables):
    images = jnp.full((4, 4, 4, 1), 0.5)
    wanted = np.asarray(tiny.apply(tiny_variables, images))
    four = replicas.mapper("map", num_models=4)
    spread = replicas.map_models(four, lambda item, one: item * one, images, 1.0)
    far = jax.device_put(images, jax.devices()[1])
    stacked = replicas.stack([tiny_variables])
    for moved in (spread, far):
        logits = replicas.predict_many(tiny.apply, stacked, moved)
        np.testing.assert_allclose(logits[0], wanted, rtol=1e-5, atol=1e-6)


def test_a_default_device_lasts_as_long_as_its_context():
    double = lambda item, shared: 2 * item
    mapper = replicas.mapper("vmap", num_models=3, devices=1)
    items = np.arange(3.0, dtype=np.float32)
    third = jax.devices()[2]
    far = jax.device_put(items, jax.devices()[1])
    with jax.default_device(third):
        for given in (items, far):
            result = replicas.map_models(mapper, double, given, ())
            assert result.devices() == {third}
    result = replicas.map_models(mapper, double, items, ())
    assert result.devices() == {jax.devices()[0]}


def test_keys_stay_keys_on_the_host():
    keys = jax.random.split(jax.random.key(0), 2)
    fetched = replicas.to_host({"keys": keys, "count": 3})
    assert jax.random.key_impl(fetched["keys"]) == jax.random.key_impl(keys)
    np.testing.assert_array_equal(
        jax.random.key_data(fetched["keys"]), jax.random.key_data(keys)
    )


def test_logits_have_32_bits_at_least():
    product = lambda weights, images: images.reshape(len(images), -1) @ weights
    narrow = lambda weights, images: product(weights, images).astype(jnp.bfloat16)
    logits = replicas.predict_many(narrow, jnp.ones((2, 4, 2)), jnp.ones((3, 2, 2, 1)))
    assert logits.dtype == np.float32


def test_true_is_position_one_as_in_a_list():
    assert replicas.unstack(np.ones((3, 2)), True).shape == (2,)


def test_models_of_different_devices_are_stacked():
    double = lambda item, shared: {"w": 2 * item}
    many, few = (
        replicas.map_models(
            replicas.mapper("map", num_models=n), double, jnp.arange(n), ()
        )
        for n in (8, 3)
    )
    one = replicas.unstack(few, 2)
    assert one["w"].devices() == {jax.local_devices()[0]}, (
        "what follows runs once, not on every device"
    )
    np.testing.assert_array_equal(
        replicas.stack([replicas.unstack(many, 7), one])["w"], [14, 4]
    )


def test_mapper_refuses_bad_arguments():
    with pytest.raises(InputError, match="unknown mapper"):
        replicas.mapper("fast", num_models=2)
    with pytest.raises(InputError, match="9 devices asked for, 8 present"):
        replicas.mapper("map", num_models=20, devices=9)
    with pytest.raises(InputError, match="8 devices do not divide into parts of"):
        replicas.mapper("map", num_models=3, split=3)
    assert replicas.mapper("map", num_models=3).name == "pmap[3] x map"
    assert replicas.mapper("map", num_models=1).name == "map"
