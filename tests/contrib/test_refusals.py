"""What people bring to the rooms of contrib: refused in one line, by name."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.refusals import refuses
from support.small import linear

from unlearn_jax import models
from unlearn_jax.contrib import coresets, diffusion, federated, testbeds
from unlearn_jax.types import Dataset

NAN = float("nan")
INF = float("inf")
IMAGES = np.full((8, 2, 2, 1), 0.5, np.float32)
LABELS = np.arange(8) % 2
NOBODY = np.zeros(8, bool)


def key(seed=0):
    return jax.random.key(seed)


# core-sets

OUTPUTS = jnp.zeros((8, 2))


def worlds(**options):
    given = {"num_classes": 2, "ridge": 0.1, "num_features": 4} | options
    keys = given.pop("keys", jax.random.split(jax.random.key(0), 2))
    images = given.pop("images", IMAGES)
    return coresets.seed_worlds(keys, images, LABELS, [0, 1], **given)


CORESETS = [
    (lambda: coresets.margins(OUTPUTS, LABELS[:3]), "labels must have shape"),
    (lambda: coresets.margins(OUTPUTS, LABELS + 1), "labels must lie in 0..1"),
    (lambda: coresets.margins(OUTPUTS, LABELS / 2), "labels must be integers"),
    (lambda: coresets.margins(jnp.zeros(2), LABELS), "outputs have shape"),
    (lambda: coresets.mean_margin(jnp.zeros((0, 2)), LABELS[:0]), "outputs have shape"),
    (lambda: coresets.forget_accuracy(OUTPUTS, LABELS - 1), "labels must lie in 0..1"),
    (lambda: coresets.suppressed(0.5, tolerance=NAN), "tolerance is nan"),
    (lambda: coresets.tian_pearl_bounds(NAN, 0.5), "nan is not a probability"),
    (lambda: worlds(ridge=NAN), "ridge must be positive and finite, got nan"),
    (lambda: worlds(ridge=INF), "ridge must be positive and finite, got inf"),
    (lambda: worlds(num_features=0), "num_features must be a positive integer"),
    (lambda: worlds(num_classes=2.5), "num_classes must be a positive integer"),
    (lambda: worlds(keys=np.arange(2)), r"keys of worlds must be typed keys \[S\]"),
    (lambda: worlds(images=IMAGES * NAN), "images contain NaN or infinity"),
    (lambda: worlds(images=np.ones((8, 4), np.int32)), "must be uint8 in 0..255"),
    (lambda: coresets.find_core_set(OUTPUTS, LABELS), "pass what seed_worlds returns"),
    (
        lambda: coresets.rank_by_influence(worlds(), [0, 1], knowledge="margin"),
        "knowledge must be a function",
    ),
    (lambda: coresets.forward_greedy(worlds(), [0, 2]), "labels must lie in 0..1"),
    (
        lambda: coresets.suppression_without(
            worlds(images=np.random.default_rng(0).random((8, 4))),
            [0, 1],
            np.zeros((0, 2), bool),
        ),
        r"pass \[Q, 2\] bool",
    ),
]

# federated

CLIENTS = federated.gather_clients(LABELS)
MODEL = models.from_functions(lambda _: jnp.zeros((4, 2)), linear)
STATE = federated.init_server(MODEL.init(None))


def group(images=IMAGES, labels=LABELS):
    return federated.Federation(
        MODEL, federated.LocalTraining(), Dataset(images, labels), CLIENTS
    )


GROUP = group()


def training(**options):
    return lambda: federated.LocalTraining(**options)


def federated_round(weights, group=GROUP):
    return lambda: federated.federated_round(key(), group, STATE, jnp.asarray(weights))


def until(**options):
    given = {"evaluate": lambda _: jnp.zeros(()), "target": 0.5} | options
    return lambda: federated.run_until(key(), GROUP, STATE, jnp.ones(2), **given)


SHORT = GROUP.data._replace(labels=LABELS[:5], images=IMAGES[:5])
RUNS = dict.fromkeys(("retrained", "original"), np.zeros((1, 2)))
RUNS |= dict.fromkeys(("natural", "special"), np.zeros((1, 3, 2)))
STYLE = {"background": (0.0, 0.0, 0.0), "foreground": (1.0, 1.0, 1.0)}

FEDERATED = [
    (lambda: federated.iid_split(10, 2.5, seed=0), "num_clients must be a positive"),
    (lambda: federated.iid_split(10.5, 2, seed=0), "num_samples must be a positive"),
    (lambda: federated.dirichlet_split(LABELS, 2, alpha=NAN, seed=0), "alpha must be"),
    (lambda: federated.dirichlet_split(LABELS, 2, alpha="1", seed=0), "alpha must be"),
    (
        lambda: federated.dirichlet_split(LABELS, 2, min_samples=1.5, seed=0),
        "min_samples must be a positive integer",
    ),
    (
        lambda: federated.owner_split(LABELS, 2, {0.5: 1}, seed=0),
        "owner 0.5 is not a client",
    ),
    (lambda: federated.owner_split(LABELS, 2, [0], seed=0), "owners must be a dict"),
    (lambda: federated.split_client(LABELS, 0.5, seed=0), "client must be an integer"),
    (lambda: federated.split_client(LABELS, 0, fraction=NAN, seed=0), "fraction must"),
    (lambda: federated.gather_clients(LABELS, width=4.5), "width must be a positive"),
    (training(learning_rate=NAN), "learning_rate must be positive and finite, got nan"),
    (training(learning_rate=INF), "learning_rate must be positive and finite, got inf"),
    (training(weight_decay=-1.0), "weight_decay must be finite and not negative"),
    (training(decay=1.5), r"decay must be in \[0, 1\]"),
    (training(objective="mse"), "objective must be a function"),
    (
        lambda: federated.init_server((), num_rounds=1.5),
        "num_rounds must be an integer",
    ),
    (lambda: federated.init_server((), num_rounds=-1), "num_rounds must be an integer"),
    (
        lambda: federated.client_update(key(), GROUP, STATE.variables, 2, 0.1),
        "clients: labels must lie in 0..1",
    ),
    (federated_round([1.0, NAN]), "weights must be finite"),
    (
        federated_round(
            [1.0, 1.0], federated.Federation(MODEL, GROUP.training, SHORT, CLIENTS)
        ),
        "positions of clients",
    ),
    (federated_round([1.0, 1.0], group(labels=LABELS + 1)), "labels must lie in 0..1"),
    (federated_round([1.0, 1.0], group(labels=LABELS / 2)), "labels must be integers"),
    (federated_round([1.0, 1.0], group(images=IMAGES * 255)), "float images must lie"),
    (federated_round([1.0, 1.0], group(images=IMAGES * NAN)), "NaN or infinity"),
    (
        lambda: federated.run_rounds(
            key(), group(images=IMAGES * NAN), STATE, jnp.ones(2), num_rounds=1
        ),
        "NaN or infinity",
    ),
    (
        lambda: federated.client_update(
            key(), group(images=IMAGES * NAN), STATE.variables, 0, 0.1
        ),
        "NaN or infinity",
    ),
    (
        lambda: federated.projected_ascent(
            key(), group(labels=LABELS - 1), STATE, np.array([True, False])
        ),
        "labels must lie in 0..1",
    ),
    (until(num_rounds=0), "num_rounds must be a positive integer"),
    (until(target=NAN), "target must be finite, got nan"),
    (until(evaluate=lambda _: jnp.zeros(2)), "what evaluate returns must have shape"),
    (
        lambda: federated.run_rounds(key(), GROUP, STATE, jnp.ones(2), num_rounds=-1),
        "num_rounds must be an integer",
    ),
    (lambda: federated.puf_weights(CLIENTS, [True, False], eta_u=INF), "eta_u must be"),
    (
        lambda: federated.puf_weights(
            CLIENTS, np.array([True, False]), eta_u=np.ones(2)
        ),
        "eta_u must have shape",
    ),
    (lambda: federated.ProjectedAscent(learning_rate=NAN), "learning_rate must be"),
    (lambda: federated.ProjectedAscent(momentum=-0.5), "momentum must be in"),
    (lambda: federated.ProjectedAscent(momentum=1.0), "momentum must be in"),
    (lambda: federated.ProjectedAscent(radius=-1.0), "radius must be finite"),
    (lambda: federated.ProjectedAscent(max_distance=NAN), "max_distance must not"),
    (lambda: federated.mean_over(jnp.ones(3), jnp.ones(4, bool)), "a mask of values"),
    (lambda: federated.mean_over(jnp.ones(3), jnp.ones(3)), "must be bool of length 3"),
    (
        lambda: federated.yeom(
            jnp.array([NAN, 1.0]), jnp.array([True, False]), jnp.array([False, True])
        ),
        "losses contain NaN",
    ),
    (
        lambda: federated.overlap(
            jnp.zeros((1, 2, 2), int), jnp.full((1, 2, 2), -1), 2
        ),
        "labels must lie in 0..1",
    ),
    (
        lambda: federated.overlap(jnp.zeros((1, 2, 2)), jnp.zeros((1, 2, 2), int), 2),
        "predicted are float32",
    ),
    (
        lambda: federated.overlap(
            jnp.zeros((1, 2, 2), int), jnp.zeros((1, 2, 2), int), 2, jnp.ones(2, bool)
        ),
        "a mask of images must be bool of length 1",
    ),
    (lambda: federated.rounds_to_reach([[0.5]], [0.1, 0.2]), "target must have shape"),
    (lambda: federated.rounds_to_reach([0.5], NAN), "a target is NaN"),
    (lambda: federated.RecoveryRuns([], ["test"]), "at least one seed"),
    (
        lambda: federated.RecoveryRuns([{"original": np.zeros((1, 2))}], ["a", "b"]),
        "no measures of the retrained model",
    ),
    (
        lambda: federated.RecoveryRuns([RUNS, RUNS | {"original": []}], ["a", "b"]),
        "all seeds must have the same models",
    ),
    (lambda: federated.RecoveryRuns([RUNS], ["a"]), r"pass \[L, 1\]"),
    (
        lambda: federated.RecoveryRuns(
            [RUNS | {"special": RUNS["original"]}], ["a", "b"]
        ),
        r"the special model have shape \(1, 2\): pass \[L, 1 \+ rounds, 2\]",
    ),
    (
        lambda: federated.RecoveryRuns([RUNS], ["a", "b"]).final("original+"),
        r"unknown model 'original\+': choose 'retrained'",
    ),
    (
        lambda: federated.RecoveryRuns([RUNS], ["a", "b"]).final("puf"),
        "unknown model 'puf'",
    ),
    (
        lambda: federated.RecoveryRuns([RUNS], ["test", "forget"]).gap("same", "loss"),
        "unknown measure 'loss': choose 'test' or 'forget'",
    ),
    (
        lambda: federated.RecoveryRuns([RUNS], ["a", "b"]).summary(np.ones(3)),
        r"values must have shape \[1, 1\]",
    ),
    (lambda: federated.draw_styles(1.5, seed=0), "num_styles must be a positive"),
    (lambda: federated.Style(**STYLE, noise=-1.0), "noise must be finite"),
    (
        lambda: federated.Style(**STYLE | {"background": (2, 0, 0)}),
        "background must",
    ),
    (lambda: federated.Style(**STYLE | {"background": (1, 0)}), "background must have"),
    (lambda: federated.shape_images(1, "blue", seed=0), "style must be a Style"),
    (
        lambda: federated.shape_images(1.5, federated.Style(**STYLE), seed=0),
        "num_images must be a positive integer",
    ),
]

# test-beds

RBM = testbeds.init_rbm(key(), jnp.full(3, 0.5), 2)
VISIBLE = jnp.zeros((4, 3))
EVEN = jnp.full(4, 0.25)
TX = optax.sgd(0.1)
SIZES = testbeds.Sizes(10, 5, 2, 0.1)


def path(**options):
    given = {"learning_rate": 0.1, "num_steps": 2, "force": [1.0, 1.0], "ridge": 0.1}
    given |= options
    first = given.pop("force")
    ridge = given.pop("ridge")
    return lambda: testbeds.gradient_path(first, np.eye(2), ridge, [0.0, 0.0], **given)


def minima(counts=(1, 1, 1, 1), **options):
    return lambda: testbeds.trap_minima(counts, **options)


def trap(start=(0.0, 0.0), counts=(1, 1, 1, 1), **options):
    given = {"num_steps": 4} | options
    return lambda: testbeds.trap_path(start, counts, **given)


def likelihood(**options):
    return lambda: testbeds.bound_log_likelihood(
        key(), RBM, jnp.zeros(3), options.pop("visible", VISIBLE), **options
    )


def fit_pcd(visible=VISIBLE, weights=EVEN, **options):
    given = {"num_steps": 1, "num_sweeps": 1, "batch_size": 2} | options
    state = testbeds.init_pcd(key(), RBM, TX, num_chains=2)
    return lambda: testbeds.fit_pcd(key(), state, visible, weights, tx=TX, **given)


def table(shifts=(0.0,), levels=(1.0,)):
    rng = np.random.default_rng(0)
    design = testbeds.TableDesign(num_train=8, num_test=4, num_forget=2)
    return lambda: testbeds.simulate_table(rng, design, shifts, levels)


TESTBEDS = [
    (lambda: testbeds.Sizes(1.5, 5, 1, 0.1), "num_retain must be a positive integer"),
    (lambda: testbeds.Sizes(10, 5, 11, 0.1), "must not exceed num_retain"),
    (lambda: testbeds.Sizes(10, 5, 1, NAN), "ridge must be positive and finite"),
    (lambda: testbeds.forces(SIZES, "much"), "alpha must be finite"),
    (lambda: testbeds.shared_minimizers(SIZES, -1.0), "alpha must be at least 0"),
    (lambda: testbeds.alpha_limit(SIZES, 1.0), "correlation must be in"),
    (lambda: testbeds.alpha_limit(SIZES, 1 - 1e-9), "correlation must be in"),
    (lambda: testbeds.ordering_holds(SIZES, 0.1, tolerance=NAN), "tolerance must be"),
    (path(num_steps=1.5), "num_steps must be an integer"),
    (path(learning_rate=NAN), "learning_rate must be positive"),
    (path(force=[NAN, 1.0]), "force must be finite"),
    (path(ridge=-1.0), "ridge must be finite and not negative"),
    (lambda: testbeds.distances(jnp.zeros((3, 2)), [0.0]), "a point must have shape"),
    (lambda: testbeds.trap_output(jnp.zeros(3)), "pass .*2. and .P."),
    (trap(start=(0.0,)), "start must have shape"),
    (trap(num_steps=4.0), "num_steps must be an integer"),
    (trap(learning_rate=-0.1), "learning_rate must be positive"),
    (trap(counts=(1, 1, 1, NAN)), "counts must be finite"),
    (minima(counts=(1, 1, 1, -1)), "counts must be finite and not negative"),
    (minima(ridge=INF), "ridge must be positive and finite"),
    (minima(starts_per_axis=2.5), "starts_per_axis must be a positive integer"),
    (minima(low=(NAN, 0.0)), "low must be finite"),
    (lambda: testbeds.init_rbm(key(), [0.5, NAN], 2), r"means must lie in \[0, 1\]"),
    (lambda: testbeds.init_rbm(key(), [0.5], 1.5), "num_hidden must be a positive"),
    (lambda: testbeds.init_rbm(key(), [0.5], 1, scale=NAN), "scale must be finite"),
    (lambda: testbeds.dilute(RBM, [[True]]), "pass bool"),
    (lambda: testbeds.random_mask(key(), (2, 2), NAN), r"fraction must be in \[0, 1\]"),
    (lambda: testbeds.smallest_mask(jnp.array([[NAN]]), 0.5), "weights must be finite"),
    (lambda: testbeds.energy(RBM, VISIBLE[:, :2], VISIBLE), "has 3 visible units"),
    (lambda: testbeds.free_energy(RBM, VISIBLE[:, :2]), "has 3 visible units"),
    (lambda: testbeds.free_energy(RBM, VISIBLE - 1), "visible states must lie in"),
    (lambda: testbeds.log_likelihood(RBM, VISIBLE * NAN), "visible states must lie in"),
    (lambda: testbeds.moments(RBM, VISIBLE + 2, EVEN), r"samples must lie in \[0, 1\]"),
    (lambda: testbeds.visible_means(VISIBLE * NAN, EVEN), "samples must lie in"),
    (
        lambda: testbeds.fit_exact(
            RBM, np.asarray(VISIBLE) - 1, EVEN, tx=TX, num_steps=1
        ),
        "samples must lie in",
    ),
    (fit_pcd(visible=VISIBLE * NAN), "samples must lie in"),
    (lambda: testbeds.hidden_probs(RBM, VISIBLE[:, :2]), "has 3 visible units"),
    (lambda: testbeds.visible_probs(RBM, VISIBLE), "has 2 hidden units"),
    (lambda: testbeds.log_likelihood(RBM, VISIBLE[:, :2]), "has 3 visible units"),
    (lambda: testbeds.gibbs(key(), RBM, VISIBLE, num_sweeps=-1), "num_sweeps must be"),
    (lambda: testbeds.gibbs(key(), RBM, VISIBLE[:, 1:], num_sweeps=1), "visible units"),
    (lambda: testbeds.independent_states(key(), jnp.zeros(2), -1), "count must be"),
    (lambda: testbeds.all_states(2.5), "num_units must be a positive integer"),
    (lambda: testbeds.bars_and_stripes(2.5), "size must be a positive integer"),
    (likelihood(num_chains=0), "num_chains must be a positive integer"),
    (likelihood(visible=VISIBLE[:, 1:]), "samples must have shape"),
    (likelihood(visible=VISIBLE * NAN), r"samples must lie in \[0, 1\]"),
    (
        lambda: testbeds.estimate_log_partition(key(), RBM, [0.0, 0.0, NAN]),
        "base_bias must be finite",
    ),
    (
        lambda: testbeds.estimate_log_partition(key(), RBM, jnp.zeros(3), num_sweeps=0),
        "num_sweeps must be a positive integer",
    ),
    (lambda: testbeds.deletion_weights([1, 0]), "pass a bool mask"),
    (
        lambda: testbeds.deletion_weights([True, False], ascent=NAN),
        "ascent must be finite and not negative",
    ),
    (lambda: testbeds.visible_means(VISIBLE, 0 * EVEN), "no sample has a positive"),
    (lambda: testbeds.visible_means(VISIBLE, EVEN[:2]), "samples must have shape"),
    (lambda: testbeds.moments(RBM, VISIBLE, EVEN * NAN), "weights must be finite"),
    (
        lambda: testbeds.fit_exact(RBM, VISIBLE, EVEN, tx=TX, num_steps=-1),
        "num_steps must be an integer",
    ),
    (fit_pcd(visible=VISIBLE[:2]), "samples must have shape"),
    (fit_pcd(weights=EVEN * NAN), "weights must be finite"),
    (fit_pcd(batch_size=1.5), "batch_size must be a positive integer"),
    (lambda: testbeds.TableDesign(originals=0), "originals must be a positive integer"),
    (lambda: testbeds.TableDesign(num_forget=200), "cannot be forgotten"),
    (lambda: testbeds.TableDesign(hardness=1.5), r"hardness must be in \[0, 1\]"),
    (lambda: testbeds.TableDesign(run_std=NAN), "run_std must be finite"),
    (table(shifts=()), "0 shifts"),
    (table(shifts=(NAN,)), "shifts must be finite"),
    (
        lambda: testbeds.expected_auc(testbeds.TableDesign(), NAN),
        "shift must be",
    ),
    (
        lambda: testbeds.expected_accuracy(testbeds.TableDesign(), INF),
        "level must be finite",
    ),
    (
        lambda: testbeds.level_of_accuracy(testbeds.TableDesign(), 1.0),
        r"must be in \(0, 1\)",
    ),
]

# diffusion

DENOISER = models.build_denoiser((2, 2, 1), 2, width=4, depth=1, embedding=2)
WEIGHTS = DENOISER.init(jax.random.key(0))
PROCESS = diffusion.Process(num_steps=10)
PROBLEM = diffusion.ConceptProblem(
    DENOISER, PROCESS, WEIGHTS, Dataset(IMAGES, LABELS), jnp.asarray(1)
)


def denoise(images=IMAGES, labels=LABELS, member=~NOBODY, **options):
    given = {"num_epochs": 1} | options
    return lambda: diffusion.train_denoiser(
        key(), DENOISER, PROCESS, Dataset(images, labels), member, **given
    )


def sample(condition=None, **options):
    condition = jnp.zeros((1, 2)) if condition is None else condition
    return lambda: diffusion.sample(
        key(), DENOISER, WEIGHTS, PROCESS, condition, **{"num_steps": 2} | options
    )


def recover(images=IMAGES, concept=1, **options):
    given = {"radius": 1.0, "num_steps": 1} | options
    return lambda: diffusion.recover_concept(
        key(), DENOISER, WEIGHTS, PROCESS, images, concept, **given
    )


def judge(images=IMAGES, concept=1, **options):
    return lambda: diffusion.denoising_judge(
        key(), DENOISER, WEIGHTS, PROCESS, images, concept, **options
    )


def erase(method, images=IMAGES, labels=LABELS, concept=1):
    problem = diffusion.ConceptProblem(
        DENOISER, PROCESS, WEIGHTS, Dataset(images, labels), concept
    )
    return lambda: method(key(), problem)


STEER = diffusion.SteerAway(num_steps=1)
RETRAIN = diffusion.RetrainDenoiser(num_epochs=1, num_batches=1)

DIFFUSION = [
    *((erase(STEER, concept=c), "concept: labels must lie in") for c in (-1, 2, 5)),
    (erase(RETRAIN, concept=2), "concept: labels must lie in 0..1"),
    (erase(STEER, labels=LABELS + 1), "labels must lie in 0..1"),
    (erase(STEER, labels=LABELS * 0 + 1), "every training image has the concept 1"),
    (erase(STEER, images=IMAGES * 255), "float images must lie in"),
    (erase(STEER, images=IMAGES[:, :1]), "the denoiser takes images of shape"),
    (
        erase(
            diffusion.RandomCondition(num_steps=1),
            images=np.where(LABELS[:, None, None, None] == 1, NAN, IMAGES),
        ),
        "images of a concept: images contain NaN",
    ),
    (denoise(labels=LABELS + 1), "labels must lie in 0..1"),
    (denoise(labels=LABELS[:3]), "labels must have shape"),
    (denoise(images=IMAGES * 255), "float images must lie in"),
    (denoise(images=IMAGES * NAN), "NaN or infinity"),
    (denoise(images=IMAGES[..., 0]), "the denoiser takes images of shape"),
    (denoise(member=NOBODY), "selects no sample"),
    (denoise(member=NOBODY[:3]), "a mask must be bool of length 8"),
    (denoise(learning_rate=NAN), "learning_rate must be positive"),
    (denoise(num_epochs=1.5), "num_epochs must be a positive integer"),
    (denoise(drop=NAN), r"drop must be in \[0, 1\]"),
    (sample(guidance=NAN), "guidance must be finite"),
    (sample(num_steps=2.5), "num_steps must be a positive integer"),
    (sample(num_steps=11), "the sampler takes num_steps in 1..10, got 11"),
    (sample(condition=jnp.zeros(2)), r"conditions have shape \(2,\)"),
    (lambda: diffusion.LatentPGD(radius=INF), "radius must be positive and finite"),
    (judge(concept=2), "concept: labels must lie in 0..1"),
    (judge(concept=0.5), "a concept is one integer class"),
    (judge(images=IMAGES * NAN), "NaN or infinity"),
    (judge(images=(IMAGES * 255).astype(np.uint8)), "divide uint8 images by 255"),
    (judge(num_levels=1.5), "num_levels must be a positive integer"),
    (recover(radius=NAN), "radius must be finite and not negative"),
    (recover(step_ratio=NAN), "step_ratio must be positive"),
    (recover(concept=-1), "concept: labels must lie in 0..1"),
    (lambda: diffusion.latent_attack("mine", 0, (1, 2)), "a judge is a function"),
    (lambda: diffusion.latent_attack(len, 0, (1,)), "a latent attack moves"),
    (lambda: diffusion.SteerAway(drop=1.5), r"drop must be in \[0, 1\]"),
    (lambda: diffusion.SteerAway(guidance=NAN), "guidance must be finite"),
    (
        lambda: diffusion.LatentAdversarial(num_levels=0),
        "num_levels must be",
    ),
    (
        lambda: diffusion.RetrainDenoiser(num_epochs=0, num_batches=1),
        "num_epochs must be a positive integer",
    ),
    (
        lambda: (
            diffusion.KeepOriginal()(key(), PROBLEM)
            and diffusion.concept_images(key(), PROBLEM, 0)
        ),
        "count must be a positive integer",
    ),
    (
        lambda: diffusion.concept_images(
            key(),
            diffusion.ConceptProblem(
                DENOISER,
                PROCESS,
                WEIGHTS,
                Dataset(IMAGES, LABELS * 0),
                jnp.asarray(1),
            ),
            2,
        ),
        "no training image has the concept",
    ),
    (lambda: diffusion.concept_rate([1, 2], 1.5), "concept must be an integer"),
    (
        lambda: diffusion.frechet_distance([["a"], ["b"]], [[0.0], [1.0]]),
        "features must be numbers",
    ),
]


@pytest.mark.parametrize(
    ("call", "message"), [*CORESETS, *FEDERATED, *TESTBEDS, *DIFFUSION]
)
def test_bad_input_is_refused_in_one_line(call, message):
    with refuses(message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_what_is_not_read_may_hold_anything():
    images = np.where(LABELS[:, None, None, None] == 0, IMAGES, NAN)
    labels = np.where(LABELS == 0, LABELS, -1)
    run = denoise(images=images, labels=labels, member=LABELS == 0, batch_size=4)
    assert np.isfinite(run()[1]).all()


@pytest.mark.parametrize("client", [0, 1])
def test_samples_of_clients_of_weight_0_may_hold_anything(client):
    is_read = client == LABELS
    data = group(
        np.where(is_read[:, None, None, None], IMAGES, NAN),
        np.where(is_read, LABELS, -1),
    )
    weights = np.arange(2) == client
    state = federated_round(weights.astype(float), data)()
    assert np.isfinite(state.variables.params).all()
    regular = federated.federated_round(key(), GROUP, STATE, weights.astype(float))
    np.testing.assert_array_equal(state.variables.params, regular.variables.params)


def test_checks_leave_the_functions_to_jit():
    weights = jax.jit(lambda w: federated.federated_round(key(), GROUP, STATE, w))
    direct = federated.federated_round(key(), GROUP, STATE, jnp.ones(2))
    np.testing.assert_allclose(
        weights(jnp.ones(2)).variables.params, direct.variables.params, rtol=1e-6
    )
