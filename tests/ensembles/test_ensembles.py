"""Ensembles: alone they are independent models, coupled they move apart; resumed, they
are what they were.
"""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unlearn_jax import attacks, ensembles, models, objectives, replicas, train
from unlearn_jax.layers import layers
from unlearn_jax.losses import cross_entropy, lotos_penalty, trs_penalty
from unlearn_jax.reuse import is_reusable
from unlearn_jax.spectral._fastclip import ClipRule, fastclip
from unlearn_jax.spectral._projection import state_shapes
from unlearn_jax.spectral.norms import spectral_norms
from unlearn_jax.spectral.operators import layer_map
from unlearn_jax.types import DivergedError, InputError, Variables

SAMPLE = jnp.zeros((1, 4, 4, 1))
RECIPE = train.Recipe(num_epochs=4, batch_size=20, tx=train.sgd(0.1))
ALL = np.ones(60, bool)


@pytest.fixture(scope="module")
def starts(tiny):
    """Two initial members of a kind."""
    return [tiny.init(k) for k in jax.random.split(jax.random.key(3))]


@pytest.fixture(scope="module")
def conv():
    """A small convolutional network without BatchNorm."""
    return models.build("cnn", (4, 4, 1), 3, widths=(4,))


def test_without_terms_members_are_trained_as_if_alone(tiny, blobs, key, starts):
    """Same order, same batches, same learning rate: the sum of the losses couples
    nothing.
    """
    ensemble = ensembles.Ensemble([tiny, tiny])
    mask = np.arange(60) % 4 != 0
    state, losses = ensembles.fit_ensemble(
        key, ensemble, blobs, mask, RECIPE, variables=starts
    )
    for j in range(2):
        alone, alone_losses = train.fit(
            jax.random.clone(key), tiny, blobs, mask, RECIPE, variables=starts[j]
        )
        chex.assert_trees_all_close(
            state.variables[j], alone.variables, rtol=1e-5, atol=1e-6
        )
        np.testing.assert_allclose(losses.members[:, j], alone_losses, rtol=1e-5)
    assert losses.members.shape == (4, 2)
    assert np.all(losses.lotos == 0)
    assert np.all(losses.trs == 0)
    assert not np.allclose(losses.members[:, 0], losses.members[:, 1])


@pytest.mark.parametrize("convention", ["sum", "mean"])
def test_one_step_is_the_gradient_of_the_total_loss(
    tiny, blobs, key, starts, convention
):
    """A step of plain SGD against autodiff of the sum written out: no term is lost on
    the way.
    """
    lotos = ensembles.Lotos(weight=0.3, max_length=0.2, which="all", init_iters=9)
    trs = ensembles.Trs(similarity=0.7, smoothness=0.05)
    ensemble = ensembles.Ensemble(
        [tiny, tiny], lotos=lotos, trs=trs, convention=convention
    )
    txs = (optax.sgd(1.0),) * 2
    batch = train.Batch(
        jnp.asarray(blobs.images[:9]), jnp.asarray(blobs.labels[:9]), jnp.arange(9)
    )
    begin = jax.jit(
        partial(ensembles.init_ensemble, ensemble=ensemble, txs=txs, sample=SAMPLE)
    )
    state = begin(jax.random.clone(key), variables=starts)
    after, losses = jax.jit(partial(ensembles.ensemble_step, ensemble, txs))(
        state, batch, key
    )

    def total(params):
        members = [Variables(p, {}) for p in params]
        own = [
            jnp.mean(cross_entropy(tiny.apply(m, batch.images), batch.labels))
            for m in members
        ]
        found = [layers(tiny.apply, m, SAMPLE) for m in members]
        maps = [
            [layer_map(layer).matvec for layer in row]
            for row in zip(*found, strict=True)
        ]
        apart = lotos_penalty(
            maps, after.lotos.vectors, max_length=0.2, convention=convention
        )
        slopes = [
            jax.vmap(
                jax.grad(lambda x, y, m=m: cross_entropy(tiny.apply(m, x[None])[0], y))
            )(batch.images, batch.labels)
            for m in members
        ]
        share = 1 if convention == "sum" else 2
        return (
            sum(own) / share
            + 0.3 * apart
            + trs_penalty(jnp.stack(slopes), similarity=0.7, smoothness=0.05)
        )

    expected = jax.jit(jax.grad(total))([s.params for s in starts])
    for j in range(2):
        moved = jax.tree.map(
            lambda old, new: old - new, starts[j].params, after.variables[j].params
        )
        chex.assert_trees_all_close(moved, expected[j], rtol=1e-4, atol=1e-5)
    assert losses.lotos > 0
    assert losses.trs > 0


def test_directions_are_the_top_singular_vectors(conv, key):
    """After the first power iterations, for a convolution as one matrix."""
    ensemble = ensembles.Ensemble([conv] * 2, lotos=ensembles.Lotos(init_iters=300))
    state = jax.jit(
        lambda k: ensembles.init_ensemble(k, ensemble, (optax.sgd(0.1),) * 2, SAMPLE)
    )(key)
    assert len(state.lotos.vectors) == 1
    for variables, vectors in zip(state.variables, state.lotos.vectors[0], strict=True):
        layer, _ = layers(conv.apply, variables, SAMPLE)
        linear = layer_map(layer)
        matrix = (
            jax.vmap(linear.matvec)(jnp.eye(16).reshape(16, 4, 4, 1)).reshape(16, -1).T
        )
        assert vectors.shape == (1, 4, 4, 1)
        np.testing.assert_allclose(
            jnp.linalg.norm(matrix @ vectors.reshape(16)),
            np.linalg.norm(matrix, 2),
            rtol=1e-4,
        )


def test_lotos_turns_members_apart_while_they_learn(conv, blobs, key):
    last = {}
    for name, weight in (("plain", 0.0), ("apart", 0.5)):
        ensemble = ensembles.Ensemble(
            [conv] * 2, lotos=ensembles.Lotos(weight=weight, max_length=0.3)
        )
        recipe = train.Recipe(num_epochs=12, batch_size=20, tx=train.sgd(0.1))
        state, losses = ensembles.fit_ensemble(
            jax.random.clone(key), ensemble, blobs, ALL, recipe, epochs_per_call=12
        )
        last[name] = losses.lotos[-1]
        assert np.all(losses.members[-1] < losses.members[0])
        assert [block.shape for block in state.lotos.vectors[0]] == [(1, 4, 4, 1)] * 2
    assert last["apart"] < 0.3 * last["plain"]


def test_lotos_at_every_third_step_is_zero_between(tiny, blobs, key, starts):
    """An active step equals one with LOTOS at every step, the others one without."""
    often, seldom = (
        ensembles.Lotos(weight=0.5, max_length=0.1, which="all", every=n)
        for n in (1, 3)
    )
    txs = (optax.sgd(0.1),) * 2
    batch = train.Batch(
        jnp.asarray(blobs.images[:9]), jnp.asarray(blobs.labels[:9]), jnp.arange(9)
    )
    step = {
        name: jax.jit(
            partial(
                ensembles.ensemble_step,
                ensembles.Ensemble([tiny] * 2, lotos=lotos),
                txs,
            )
        )
        for name, lotos in (("often", often), ("seldom", seldom), ("never", None))
    }
    begin = partial(
        ensembles.init_ensemble,
        ensemble=ensembles.Ensemble([tiny] * 2, lotos=seldom),
        txs=txs,
    )
    state, first = (
        jax.jit(partial(begin, sample=SAMPLE))(jax.random.clone(key), variables=starts),
        None,
    )
    for number in range(4):
        after, losses = step["seldom"](state, batch, jax.random.fold_in(key, number))
        active = number % 3 == 0
        expected, _ = step["often" if active else "never"](
            state, batch, jax.random.fold_in(key, number)
        )
        chex.assert_trees_all_close(after.variables, expected.variables, rtol=1e-6)
        assert (losses.lotos > 0) == active
        first = losses.lotos if number == 0 else first
        same = jax.tree.map(
            lambda a, b: bool(np.array_equal(a, b)),
            state.lotos.vectors,
            after.lotos.vectors,
        )
        assert all(jax.tree.leaves(same)) != active
        assert int(after.step) == number + 1
        state = after
    still = train.Recipe(num_epochs=1, batch_size=20, tx=optax.sgd(0.0))
    resting = ensembles.Ensemble([tiny] * 2, lotos=seldom)
    epoch = ensembles.fit_ensemble(
        jax.random.clone(key), resting, blobs, ALL, still, variables=starts
    )[1]
    np.testing.assert_allclose(
        epoch.lotos, first, rtol=0.02
    )  # a mean over the steps that act, not over all three


def test_cut_and_resumed_runs_give_the_same_bits(normed, blobs, key):
    """With BatchNorm, augmentation and warm directions in the state."""
    ensemble = ensembles.Ensemble(
        [normed, normed], lotos=ensembles.Lotos(max_length=0.2)
    )
    noise = lambda keys, images: (
        images + 0.01 * jax.vmap(lambda k: jax.random.normal(k, (4, 4, 1)))(keys)
    )
    recipe = train.Recipe(num_epochs=3, batch_size=30, tx=train.sgd(0.1), augment=noise)
    run = lambda **options: ensembles.fit_ensemble(
        jax.random.clone(key), ensemble, blobs, ALL, recipe, **options
    )
    kept = []
    whole, losses = run(callback=lambda state, _: kept.append(state))
    chunks, same = run(epochs_per_call=3)
    chex.assert_trees_all_equal(whole, chunks)
    chex.assert_trees_all_equal(losses, same)
    resumed, rest = run(state=jax.tree.map(jnp.copy, kept[0]))
    chex.assert_trees_all_equal(whole, resumed)
    np.testing.assert_array_equal(rest.lotos, losses.lotos[1:])
    assert int(resumed.epoch) == 3
    moved = jax.tree.map(
        lambda a, b: jnp.max(jnp.abs(a - b)), kept[0].lotos.vectors, whole.lotos.vectors
    )
    assert max(jax.tree.leaves(moved)) > 0, "directions must follow the weights"


def test_stacked_members_take_the_same_steps(normed, blobs, key):
    runs = [
        ensembles.fit_ensemble(
            jax.random.clone(key),
            ensembles.Ensemble([normed] * 2, form=form),
            blobs,
            ALL,
            RECIPE,
            epochs_per_call=4,
        )
        for form in ("loop", "vmap")
    ]
    chex.assert_trees_all_close(
        runs[0][0].variables, runs[1][0].variables, rtol=1e-3, atol=1e-4
    )


def test_members_of_different_architectures_share_their_first_layer(conv, blobs, key):
    other = models.build("cnn", (4, 4, 1), 3, widths=(6, 5))
    recipe = train.Recipe(num_epochs=1, batch_size=60, tx=optax.sgd(0.1))
    with pytest.raises(InputError, match="which='first'"):
        ensembles.fit_ensemble(
            jax.random.clone(key),
            ensembles.Ensemble([conv, other], lotos=ensembles.Lotos()),
            blobs,
            ALL,
            recipe,
        )
    ensemble = ensembles.Ensemble(
        [conv, other], lotos=ensembles.Lotos(which="first", max_length=0.1)
    )
    state, losses = ensembles.fit_ensemble(key, ensemble, blobs, ALL, recipe)
    assert losses.lotos[0] > 0
    assert len(state.lotos.vectors) == 1
    assert ensembles.ensemble_apply([conv, other])(
        state.variables, jnp.asarray(blobs.images[:2])
    ).shape == (2, 3)


def test_each_optimizer_sees_its_own_member_and_its_statistics(normed, blobs, key):
    """An optimizer like FastClip: last in the chain, it reads parameters and BatchNorm
    statistics.
    """
    seen = []

    def watcher(name):
        def update(updates, state, params, *, model_state, **_):
            jax.debug.callback(
                lambda mean: seen.append((name, float(mean))),
                jax.tree.leaves(model_state)[0][0],
            )
            chex.assert_trees_all_equal_shapes(updates, params)
            return updates, state

        return optax.GradientTransformationExtraArgs(
            lambda params: optax.EmptyState(), update
        )

    txs = [optax.chain(optax.sgd(rate), watcher(rate)) for rate in (0.0, 0.1)]
    recipe = train.Recipe(num_epochs=1, batch_size=60, tx=optax.sgd(9.0))
    begin = [normed.init(k) for k in jax.random.split(jax.random.key(5))]
    state, _ = ensembles.fit_ensemble(
        key,
        ensembles.Ensemble([normed] * 2),
        blobs,
        ALL,
        recipe,
        txs=txs,
        variables=begin,
    )
    jax.effects_barrier()
    chex.assert_trees_all_equal(state.variables[0].params, begin[0].params)
    assert not np.allclose(
        *(one.params["Dense_0"]["kernel"] for one in (state.variables[1], begin[1]))
    )
    statistics = {
        rate: float(jax.tree.leaves(one.state)[0][0])
        for rate, one in zip((0.0, 0.1), state.variables, strict=True)
    }
    assert dict(seen) == pytest.approx(statistics)


def test_fastclip_last_in_the_chain_bounds_every_member(conv, blobs, key):
    """Together with LOTOS: both hold at once."""
    clipped = optax.chain(
        train.sgd(0.1),
        fastclip(
            conv.apply,
            SAMPLE,
            max_norm=0.7,
            period=1,
            rule=ClipRule(num_vectors=3),
            model_state=state_shapes(conv),
        ),
    )
    lotos = ensembles.Lotos(weight=0.5, max_length=0.4)
    recipe = train.Recipe(num_epochs=30, batch_size=60, tx=clipped)
    ensemble = ensembles.Ensemble([conv] * 2, lotos=lotos)
    state, losses = ensembles.fit_ensemble(
        key, ensemble, blobs, ALL, recipe, epochs_per_call=30
    )
    assert losses.lotos[-1] < 0.05
    for variables in state.variables:
        norms = spectral_norms(conv.apply, variables, SAMPLE)
        assert len(norms) == 2
        assert max(norms.values()) < 0.73
        assert max(norms.values()) > 0.6, "training must press against the bound"


def test_adversarially_trained_members(tiny, blobs, key, starts):
    """TRADES as every member's own loss: one member alone gives the same."""
    trades = objectives.TRADES(beta=2.0, epsilon=0.05, num_steps=2, step=0.03)
    recipe = train.Recipe(num_epochs=2, batch_size=60, tx=train.sgd(0.1))
    plain, robust = (
        ensembles.fit_ensemble(
            jax.random.clone(key),
            ensembles.Ensemble([tiny] * 2, **options),
            blobs,
            ALL,
            recipe,
            variables=starts,
        )[1]
        for options in ({}, {"objective": trades})
    )
    assert np.all(robust.members > plain.members)


def test_log_mean_softmax_by_hand_and_under_attack(tiny, blobs, starts):
    x = jnp.asarray(blobs.images[:12])
    apply = ensembles.ensemble_apply([tiny, tiny])
    assert apply is ensembles.ensemble_apply((tiny, tiny))
    logits = np.stack([tiny.apply(one, x) for one in starts]).astype(np.float64)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(apply(starts, x), np.log(probs.mean(0)), rtol=1e-5)
    stacked = replicas.stack(starts)
    np.testing.assert_allclose(
        ensembles.ensemble_apply(tiny)(stacked, x), apply(starts, x), rtol=1e-5
    )
    predicted = jnp.argmax(apply(starts, x), -1)
    result = attacks.pgd(
        apply, starts, x, predicted, x, epsilon=1.0, num_steps=10, norm=attacks.linf
    )
    np.testing.assert_array_equal(
        result.labels, np.argmax(apply(starts, result.images), -1)
    )
    assert np.any(result.success)
    confident = models.from_functions(
        lambda key: jnp.zeros(()), lambda scale, x: scale * jnp.array([[1e4, 0.0, 1.0]])
    )
    pair = [Variables(jnp.array(scale), {}) for scale in (1.0, -1.0)]
    assert np.all(np.isfinite(ensembles.ensemble_apply([confident] * 2)(pair, x[:1])))


def test_ensembles_refuse_bad_input(tiny, conv, blobs, key, starts):
    with pytest.raises(InputError, match="two with LOTOS or TRS"):
        ensembles.Ensemble([tiny], trs=ensembles.Trs())
    with pytest.raises(InputError, match="'sum' or 'mean'"):
        ensembles.Ensemble([tiny], convention="total")
    with pytest.raises(InputError, match="cannot be stacked"):
        ensembles.Ensemble([tiny, conv], form="vmap")
    with pytest.raises(InputError, match="must be a positive integer"):
        ensembles.Lotos(num_vectors=0)
    with pytest.raises(InputError, match="must be a positive integer"):
        ensembles.Lotos(every=0)
    with pytest.raises(
        InputError, match="unknown which 'last': choose conv, all or first"
    ):
        ensembles.Lotos(which="last")
    for bad in (-1.0, float("nan"), float("inf")):
        for make, name in (
            (ensembles.Lotos, "weight"),
            (ensembles.Lotos, "max_length"),
            (ensembles.Trs, "similarity"),
            (ensembles.Trs, "smoothness"),
        ):
            with pytest.raises(InputError, match=f"{name} must be finite and not neg"):
                make(**{name: bad})
    with pytest.raises(InputError, match="models must be a sequence"):
        ensembles.Ensemble(tiny)
    with pytest.raises(InputError, match="unknown form 'scan'"):
        ensembles.Ensemble([tiny], form="scan")
    with pytest.raises(InputError, match="each of the models must be a Model"):
        ensembles.Ensemble([None])
    pair = ensembles.Ensemble([tiny] * 2)
    given = {
        "key": key,
        "ensemble": pair,
        "data": blobs,
        "member": ALL,
        "recipe": RECIPE,
    }
    for name, wrong in (
        ("key", 0),
        ("key", jax.random.PRNGKey(0)),
        ("ensemble", [tiny] * 2),
        ("data", tuple(blobs)),
        ("recipe", None),
        ("variables", [starts[0].params] * 2),
    ):
        with pytest.raises(InputError, match=f"^{name}.* must be an? .*, got"):
            ensembles.fit_ensemble(**(given | {name: wrong}))
    single = ensembles.init_ensemble(
        jax.random.key(0), ensembles.Ensemble([tiny]), [RECIPE.tx], blobs.images[:1]
    )
    with pytest.raises(
        InputError, match="as many optimizers and variables, in a state"
    ):
        ensembles.fit_ensemble(key, pair, blobs, ALL, RECIPE, state=single)
    with pytest.raises(InputError, match="member must have shape"):
        ensembles.fit_ensemble(key, pair, blobs, np.stack([ALL] * 2), RECIPE)
    with pytest.raises(InputError, match="as many optimizers"):
        ensembles.fit_ensemble(
            key,
            ensembles.Ensemble([tiny] * 2),
            blobs,
            ALL,
            RECIPE,
            variables=starts[:1],
        )
    with pytest.raises(InputError, match="choose which='all'"):
        ensembles.fit_ensemble(
            jax.random.clone(key),
            ensembles.Ensemble([tiny] * 2, lotos=ensembles.Lotos()),
            blobs,
            ALL,
            RECIPE,
        )
    huge = train.Recipe(num_epochs=2, batch_size=60, tx=optax.sgd(1e30))
    with pytest.raises(DivergedError, match="epoch"):
        ensembles.fit_ensemble(
            jax.random.clone(key), ensembles.Ensemble([tiny] * 2), blobs, ALL, huge
        )


def test_predictions_of_an_ensemble_reuse_a_program(tiny):
    for members in ([tiny] * 2, tiny):
        apply_fn = ensembles.ensemble_apply(members)
        assert is_reusable(apply_fn, jnp.zeros(1))
        assert apply_fn is ensembles.ensemble_apply(members)
