"""Similarities of classes to forget samples: the scores of Tilted ReWeighting.

The published similarity compares classes: it is the cosine of the last layer's weights,
the same for all samples of a class. Similarities of individual samples are an open
question of arXiv 2512.06993. All similarities use the original model in evaluation mode
and images without augmentation.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax import linalg
from unlearn_jax.checks import check_choice
from unlearn_jax.filters import class_means
from unlearn_jax.layers import features, head_kernel
from unlearn_jax.losses.tilted import class_similarity, cosine, sharpen
from unlearn_jax.methods.base import forget_rows
from unlearn_jax.methods.gradients import batches_of, members
from unlearn_jax.train import predict
from unlearn_jax.types import Array, InputError, Problem, to_float
from unlearn_jax.values import Real

_LEAST = 1e-12  # lower bound of a probability inside a logarithm

Similarity = Literal["weights", "centroids", "features", "neighbors", "fitted"]
Coefficients = tuple[float, float, float]
"""Weights of the three descriptors of :func:`pair_descriptors`."""
Perturbation = Literal["none", "noise", "permute", "flip", "swap"]


def excluded_classes(problem: Problem, num_classes: int) -> Array:
    """Return the classes that must get no probability of a forget sample.

    These are the sample's own class and the classes without retained samples, which are
    being forgotten or were forgotten by earlier requests. If that excludes every class,
    as for two classes of which one is forgotten, a sample of the other class may stay
    in its own.

    Args:
      problem: gives labels and masks; no image is read.
      num_classes: number of classes, C.

    Returns:
      ``[C, C]`` bool; row ``f`` is for samples labeled ``f``.
    """
    retained = jnp.where(problem.retain, problem.train.labels, num_classes)
    is_absent = jnp.ones(num_classes, bool).at[retained].set(False, mode="drop")
    is_absent = jnp.broadcast_to(is_absent, (num_classes, num_classes))
    excluded = is_absent | jnp.eye(num_classes, dtype=bool)
    return jnp.where(jnp.all(excluded, -1, keepdims=True), is_absent, excluded)


def similarity_scores(
    key: Array,
    problem: Problem,
    excluded: Array,
    *,
    kind: Similarity,
    num_components: int | None = None,
    center: bool = True,
    temperature: Real | None = None,
    num_neighbors: int = 10,
    perturb: Perturbation = "none",
    noise: Real = 0.0,
    coefficients: Coefficients = (0.0, 0.0, 0.0),
    batch_size: int = 128,
) -> Array:
    """Return the similarity of every class to each forget sample.

    ==============  ==========  ======================================================
    ``kind``        reads       the score of class ``k`` for a sample ``x`` of class
                                ``f``
    ==============  ==========  ======================================================
    ``weights``     no image    cosine of the last layer's weights of ``f`` and ``k``
                                (the paper's)
    ``centroids``   D_F, D_R    cosine of the mean feature of D_F's class ``f`` and
                                that of D_R's class ``k``
    ``features``    D_F, D_R    cosine of the feature of ``x`` and the mean feature of
                                D_R's class ``k``
    ``neighbors``   D_F, D_R    fraction of class ``k`` among the samples of D_R, not
                                of class ``f``, whose features have the largest
                                cosines with that of ``x``
    ``fitted``      D_F, D_R    ``coefficients`` times the descriptors of ``f`` and
                                ``k`` (:func:`pair_descriptors`); :func:`fit_tilt`
                                learns them from other classes' retrained models
    ==============  ==========  ======================================================

    Features are the inputs of the last layer. The scores of ``features`` and
    ``neighbors`` are perturbed sample by sample. The other scores form a table of
    classes, which is perturbed once for all samples.

    Args:
      key: PRNG key of random perturbations; consumed.
      problem: gives the model and the samples.
      excluded: ``[C, C]`` bool, result of :func:`excluded_classes`.
      kind: a row of the table.
      num_components: number of principal components, as in
        :func:`unlearn_jax.losses.tilted.class_similarity`; for ``weights`` only.
      center: first subtract the mean over classes of the weights, or the mean over D_R
        of the features.
      temperature: temperature of a softmax over the classes that are not excluded,
        which replaces the scores (:func:`unlearn_jax.losses.tilted.sharpen`); None for
        none.
      num_neighbors: number of neighbors for ``neighbors``, at most the number of
        retained samples.
      perturb: a row of the table of :func:`perturb_similarity`; applied last.
      noise: scale of ``perturb="noise"``.
      coefficients: coefficients of the descriptors, for ``fitted``.
      batch_size: samples at a time; changes memory, not values.

    Returns:
      ``[F, C]``, forget samples in ascending order. Entries of excluded classes are
      arbitrary.

    Raises:
      InputError: a model without a last linear layer; more neighbors than retained
        samples, or more components than the classes allow.
    """
    labels = problem.train.labels[forget_rows(problem)]
    if kind == "weights":
        image = jnp.zeros((1, *problem.train.images.shape[1:]))
        kernel = head_kernel(problem.model.apply, problem.variables, image)
        scores = class_similarity(
            kernel.astype(jnp.float32), num_components=num_components, center=center
        )
    elif kind == "fitted":
        descriptors = pair_descriptors(problem, excluded, batch_size=batch_size)
        scores = linalg.product(descriptors, jnp.asarray(coefficients))
    else:
        scores = _feature_scores(
            problem,
            len(excluded),
            kind=kind,
            center=center,
            num_neighbors=num_neighbors,
            batch_size=batch_size,
        )
    is_by_class = kind in ("weights", "centroids", "fitted")
    mask = excluded if is_by_class else excluded[labels]
    if temperature is not None:
        scores = sharpen(scores, mask, temperature=temperature)
    scores = perturb_similarity(key, scores, mask, kind=perturb, scale=noise)
    return scores[labels] if is_by_class else scores


def pair_descriptors(
    problem: Problem, excluded: Array, *, batch_size: int = 128
) -> Array:
    """Return descriptors of pairs of classes, computed from the original.

    The three descriptors of a pair ``f, k`` are the cosine of the last layer's weights,
    the cosine of the mean features (both centered), and the logarithm of the mean
    prediction of class ``k`` on the forget samples of class ``f``, renormalized without
    the excluded classes.

    Args:
      problem: gives the model and the samples.
      excluded: ``[C, C]`` bool, result of :func:`excluded_classes`.
      batch_size: samples at a time; changes memory, not values.

    Returns:
      ``[C, C, 3]``. Rows ``f`` of classes without forget samples are arbitrary, and so
      are the entries of excluded classes.

    Raises:
      InputError: a model without a last linear layer.
    """
    image = jnp.zeros((1, *problem.train.images.shape[1:]))
    kernel = head_kernel(problem.model.apply, problem.variables, image)
    rows = forget_rows(problem)
    labels = problem.train.labels[rows]
    logits = predict(
        problem.model.apply,
        problem.variables,
        problem.train.images[rows],
        batch_size=batch_size,
    )
    renormalized = jax.nn.softmax(jnp.where(excluded[labels], -jnp.inf, logits))
    mean = class_means(renormalized, labels, num_classes=len(excluded))
    centroids = _feature_scores(
        problem,
        len(excluded),
        kind="centroids",
        center=True,
        num_neighbors=1,
        batch_size=batch_size,
    )
    return jnp.stack(
        [
            class_similarity(kernel.astype(jnp.float32)),
            centroids,
            jnp.log(jnp.maximum(mean, _LEAST)),
        ],
        -1,
    )


def fit_tilt(
    truth: Array,
    logits: Array,
    excluded: Array,
    descriptors: Array,
    *,
    num_steps: int = 30,
) -> Array:
    """Fit the coefficients of a tilt to forget sets whose retrained models exist.

    Minimizes ``mean_n KL(truth_n || softmax(mask(z_n) + descriptors_n c))``, which is
    convex in ``c``, by Newton's method with halved steps. Coefficients of 0 give the
    target of DELETE.

    Args:
      truth: ``[N, C]`` predictions of the retrained models on forget samples.
      logits: ``[N, C]``, logits ``z`` of the originals.
      excluded: ``[N, C]`` bool, classes that get probability 0.
      descriptors: ``[N, C, K]``, rows of :func:`pair_descriptors` for each sample's
        class.
      num_steps: number of steps of Newton's method.

    Returns:
      ``[K]`` coefficients.
    """
    # the truth's probability of excluded classes is lost for all coefficients
    weights = jnp.where(excluded, 0.0, truth)
    known = jnp.where(excluded[..., None], 0.0, descriptors)

    def objective(coefficients: Array) -> Array:
        scores = linalg.product(known, coefficients)
        tilted = jnp.where(excluded, -jnp.inf, logits + scores)
        log_probs = jnp.where(excluded, 0.0, jax.nn.log_softmax(tilted))
        ridge = 1e-6 * jnp.sum(coefficients**2)  # for uninformative descriptors
        return ridge - jnp.mean(jnp.sum(weights * log_probs, -1))

    def step(coefficients: Array, _: None) -> tuple[Array, None]:
        slope = jax.grad(objective)(coefficients)
        direction = linalg.solve(jax.hessian(objective)(coefficients), slope)
        sizes = 0.5 ** jnp.arange(12.0)
        tried = coefficients[None] - sizes[:, None] * direction[None]
        tried = jnp.concatenate([tried, coefficients[None]])
        return tried[jnp.argmin(jax.vmap(objective)(tried))], None

    start = jnp.zeros(descriptors.shape[-1])
    return lax.scan(step, start, None, length=num_steps)[0]


def _feature_scores(
    problem: Problem,
    num_classes: int,
    *,
    kind: Similarity,
    center: bool,
    num_neighbors: int,
    batch_size: int,
) -> Array:
    """Return scores from features, ``[C, C]`` for ``centroids``, else ``[F, C]``."""
    forget = forget_rows(problem)
    forget_labels = problem.train.labels[forget]
    forget_features = sample_features(problem, forget, batch_size)
    retain = members(problem.retain, problem.num_retain)
    retain_labels = problem.train.labels[retain]
    retain_features = sample_features(problem, retain, batch_size)
    if center:
        mean = jnp.mean(retain_features, 0, keepdims=True)
        forget_features = forget_features - mean
        retain_features = retain_features - mean
    if kind == "neighbors":
        return neighbor_fractions(
            forget_features,
            forget_labels,
            retain_features,
            retain_labels,
            num_classes,
            num_neighbors=num_neighbors,
            batch_size=batch_size,
        )
    if kind == "centroids":
        forget_features = class_means(
            forget_features, forget_labels, num_classes=num_classes
        )
    centroids = class_means(retain_features, retain_labels, num_classes=num_classes)
    return cosine(forget_features, centroids)


def neighbor_fractions(
    features: Array,
    labels: Array,
    others: Array,
    other_labels: Array,
    num_classes: int,
    *,
    num_neighbors: int,
    batch_size: int,
) -> Array:
    """Return the classes of each sample's nearest neighbors from other classes.

    Args:
      features: ``[F, D]``, features of the samples.
      labels: ``[F]``, their labels.
      others: ``[N, D]``, features of the candidate neighbors, compared by cosine.
      other_labels: ``[N]``, their labels.
      num_classes: number of classes, C.
      num_neighbors: number of neighbors; of equally near samples the first ones count.
      batch_size: samples at a time; memory grows with ``batch_size * N``.

    Returns:
      ``[F, C]`` fractions with sum 1. If there are fewer than ``num_neighbors`` samples
      of other classes, samples of the sample's own class fill the rest.

    Raises:
      InputError: more neighbors than samples.
    """
    if num_neighbors > len(others):
        raise InputError(
            f"num_neighbors must be at most the {len(others)} retained samples, got"
            f" {num_neighbors}"
        )

    def fractions(item: tuple[Array, Array]) -> Array:
        feature, label = item
        nearness = jnp.where(other_labels == label, -jnp.inf, cosine(feature, others))
        _, index = lax.top_k(nearness, num_neighbors)
        return jnp.mean(jax.nn.one_hot(other_labels[index], num_classes), 0)

    size = min(batch_size, len(labels))
    return lax.map(fractions, (features, labels), batch_size=size)


def perturb_similarity(
    key: Array,
    similarity: Array,
    excluded: Array,
    *,
    kind: Perturbation,
    scale: Real = 0.0,
) -> Array:
    """Perturb similarities, to measure how much of their effect remains.

    ===========  ===================================================================
    ``kind``     a row ``s``, its excluded classes left out, becomes
    ===========  ===================================================================
    ``none``     ``s``
    ``noise``    ``s + scale * std(s) * normal``
    ``permute``  its entries in random order
    ``flip``     ``-s``
    ``swap``     ``s`` with the two largest entries exchanged
    ===========  ===================================================================

    Args:
      key: PRNG key; consumed. Each row gets its own key.
      similarity: ``[..., C]`` similarities.
      excluded: ``[C]`` or ``[..., C]`` bool, entries that are ignored and do not
        change.
      kind: a row of the table.
      scale: scale of ``noise``, in standard deviations of the row; unused otherwise.

    Returns:
      ``[..., C]``.

    Raises:
      InputError: unknown kind.
    """
    check_choice("perturb", kind, tuple(_CHANGES))
    num_classes = similarity.shape[-1]
    rows = similarity.reshape(-1, num_classes)
    masks = jnp.broadcast_to(excluded, similarity.shape).reshape(-1, num_classes)
    change = _CHANGES[kind]
    changed = jax.vmap(lambda key, row, mask: change(key, row, mask, scale))(
        jax.random.split(key, len(rows)), rows, masks
    )
    return jnp.where(masks, rows, changed).reshape(similarity.shape)


def _none(key: Array, row: Array, mask: Array, scale: Real) -> Array:
    del key, mask, scale
    return row


def _flip(key: Array, row: Array, mask: Array, scale: Real) -> Array:
    del key, mask, scale
    return -row


def _noise(key: Array, row: Array, mask: Array, scale: Real) -> Array:
    return row + scale * jnp.std(row, where=~mask) * jax.random.normal(key, row.shape)


def _permute(key: Array, row: Array, mask: Array, scale: Real) -> Array:
    del scale
    # both sorts put the included classes first, so only these are permuted
    positions = jnp.argsort(mask)
    order = jnp.argsort(jnp.where(mask, 2.0, jax.random.uniform(key, row.shape)))
    return row.at[positions].set(row[order])


def _swap(key: Array, row: Array, mask: Array, scale: Real) -> Array:
    del key, scale
    largest, index = lax.top_k(jnp.where(mask, -jnp.inf, row), 2)
    swapped = row.at[index].set(row[index[::-1]])
    return jnp.where(jnp.isfinite(largest[1]), swapped, row)


_CHANGES = {
    "none": _none,
    "noise": _noise,
    "permute": _permute,
    "flip": _flip,
    "swap": _swap,
}


def sample_features(problem: Problem, index: Array, batch_size: int) -> Array:
    """Return the inputs of the original's last layer, batch by batch in one program.

    Args:
      problem: gives the model, in evaluation mode, and the images.
      index: ``[B]`` positions of samples.
      batch_size: samples at a time.

    Returns:
      ``[B, D]`` float32.
    """

    def batch(position: Array) -> Array:
        images = to_float(problem.train.images[position])
        return features(problem.model.apply, problem.variables, images)

    rows = lax.map(batch, batches_of(index, batch_size).position).astype(jnp.float32)
    return rows.reshape(-1, rows.shape[-1])[: len(index)]
