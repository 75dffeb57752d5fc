"""How similar every class is to a forget sample, or to its class: the scores that Tilted ReWeighting tilts by.

The published similarity is one of classes: cosines of the last layer's weights, the
same for all samples of a class. Similarities of the single sample are an open question
of arXiv 2512.06993. All look at the original model in evaluation mode, and at images
without augmentation.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from unlearn_jax.layers import features, head_kernel
from unlearn_jax.losses.tilted import class_similarity, cosine, sharpen
from unlearn_jax.methods.gradients import batches_of, members
from unlearn_jax.train import to_float
from unlearn_jax.types import Array, InputError, Problem

Similarity = Literal["weights", "centroids", "features", "neighbors"]
Perturbation = Literal["none", "noise", "permute", "flip", "swap"]


def excluded_classes(problem: Problem, num_classes: int) -> Array:
    """Where the probability of a forget sample must not go: to its own class, and to classes without retained samples.

    The latter are the classes being forgotten and those that earlier requests forgot.
    Where no other class would be left, as with two classes one of which is forgotten, a
    sample of the other may stay in its own.

    Args:
      problem: whose labels and masks are read; no image is.
      num_classes: C.

    Returns:
      ``[C, C]`` bool; row ``f`` is for samples labeled ``f``.
    """
    kept = jnp.where(problem.retain, problem.train.labels, num_classes)
    gone = jnp.ones(num_classes, bool).at[kept].set(False, mode="drop")
    gone = jnp.broadcast_to(gone, (num_classes, num_classes))
    excluded = gone | jnp.eye(num_classes, dtype=bool)
    return jnp.where(jnp.all(excluded, -1, keepdims=True), gone, excluded)


def similarity_scores(
    key: Array,
    problem: Problem,
    excluded: Array,
    *,
    kind: Similarity,
    num_components: int | None = None,
    center: bool = True,
    temperature: float | Array | None = None,
    num_neighbors: int = 10,
    perturb: Perturbation = "none",
    noise: float | Array = 0.0,
    batch_size: int = 128,
) -> Array:
    """The similarity of every class to each forget sample.

    ==============  ============  =====================================================================================
    ``kind``        reads         the score of class ``k`` for a sample ``x`` of class ``f``
    ==============  ============  =====================================================================================
    ``weights``     no image      cosine of the last layer's weights of ``f`` and ``k`` (the paper's)
    ``centroids``   D_F, D_R      cosine of the mean feature of D_F's class ``f`` and that of D_R's class ``k``
    ``features``    D_F, D_R      cosine of the feature of ``x`` and the mean feature of D_R's class ``k``
    ``neighbors``  D_F, D_R      share of class ``k`` among the samples of D_R, not of class ``f``, whose features have
                                  the largest cosines with that of ``x``
    ==============  ============  =====================================================================================

    Features are the inputs of the last layer. The scores of the first two are a table
    of classes, which is perturbed once for all samples; those of the last two are
    perturbed sample by sample.

    Args:
      key: consumed; read by random perturbations only.
      problem: gives the model and the samples.
      excluded: ``[C, C]`` bool, see :func:`excluded_classes`.
      kind: see above.
      num_components: of :func:`unlearn_jax.losses.tilted.class_similarity`; for
        ``weights`` only.
      center: subtract the mean over classes of the weights, or the mean over D_R of the
        features, first.
      temperature: replaces the scores by their softmax over the classes that are not
        excluded, :func:`unlearn_jax.losses.tilted.sharpen`.
      num_neighbors: of ``neighbors``, at most all retained samples.
      perturb: see :func:`perturb_similarity`; comes last.
      noise: its scale.
      batch_size: samples at a time; changes memory, not values.

    Returns:
      ``[F, C]``, forget samples ascending. Entries of excluded classes mean nothing.

    Raises:
      InputError: a model without a last linear layer; more neighbors than retained
        samples, or components than classes allow.
    """
    rows = members(problem.forget, problem.num_forget)
    labels, num_classes = problem.train.labels[rows], len(excluded)
    if kind == "weights":
        image = jnp.zeros((1, *problem.train.images.shape[1:]))
        kernel = head_kernel(problem.model.apply, problem.variables, image)
        scores = class_similarity(
            kernel.astype(jnp.float32), num_components=num_components, center=center
        )
    else:
        kept = members(problem.retain, problem.num_retain)
        own, others = (
            sample_features(problem, index, batch_size) for index in (rows, kept)
        )
        if center:
            mean = jnp.mean(others, 0, keepdims=True)
            own, others = own - mean, others - mean
        kept_labels = problem.train.labels[kept]
        if kind == "neighbors":
            scores = neighbor_shares(
                own,
                labels,
                others,
                kept_labels,
                num_classes,
                num_neighbors=num_neighbors,
                batch_size=batch_size,
            )
        else:
            own = class_means(own, labels, num_classes) if kind == "centroids" else own
            scores = cosine(own, class_means(others, kept_labels, num_classes))
    by_class = kind in ("weights", "centroids")
    mask = excluded if by_class else excluded[labels]
    scores = (
        scores
        if temperature is None
        else sharpen(scores, mask, temperature=temperature)
    )
    scores = perturb_similarity(key, scores, mask, kind=perturb, scale=noise)
    return scores[labels] if by_class else scores


def class_means(features: Array, labels: Array, num_classes: int) -> Array:
    """Mean of each class's ``features`` ``[N, D]``: ``[C, D]``, 0 for a class without samples."""
    is_class = jax.nn.one_hot(labels, num_classes)
    sums = jnp.matmul(is_class.T, features, precision=lax.Precision.HIGHEST)
    return sums / jnp.maximum(jnp.sum(is_class, 0), 1.0)[:, None]


def neighbor_shares(
    features: Array,
    labels: Array,
    others: Array,
    other_labels: Array,
    num_classes: int,
    *,
    num_neighbors: int,
    batch_size: int,
) -> Array:
    """The classes of each sample's nearest neighbors, by cosine, among samples of other classes than its own.

    Args:
      features: ``[F, D]``.
      labels: ``[F]``.
      others: ``[N, D]``, where to look.
      other_labels: ``[N]``.
      num_classes: C.
      num_neighbors: how many; the first of equally near samples.
      batch_size: samples at a time: the memory is ``batch_size * N``.

    Returns:
      ``[F, C]`` shares, sum 1. Where there are fewer others, the rest counts for the
      sample's own class, or any.

    Raises:
      InputError: more neighbors than samples.
    """
    if num_neighbors > len(others):
        raise InputError(
            f"num_neighbors must be at most the {len(others)} retained samples, got"
            f" {num_neighbors}"
        )

    def shares(item: tuple[Array, Array]) -> Array:
        feature, label = item
        near = jnp.where(other_labels == label, -jnp.inf, cosine(feature, others))
        _, index = lax.top_k(near, num_neighbors)
        return jnp.mean(jax.nn.one_hot(other_labels[index], num_classes), 0)

    return lax.map(shares, (features, labels), batch_size=min(batch_size, len(labels)))


def perturb_similarity(
    key: Array,
    similarity: Array,
    forgotten: Array,
    *,
    kind: Perturbation,
    scale: float | Array = 0.0,
) -> Array:
    """Spoils similarities, to see how much of what they do survives.

    ===========  ===================================================================
    ``kind``     what becomes of a row ``s``, its forgotten classes left aside
    ===========  ===================================================================
    ``none``     stays
    ``noise``    ``s + scale * std(s) * normal``
    ``permute``  its entries in random order
    ``flip``     ``-s``
    ``swap``     the two largest entries change places
    ===========  ===================================================================

    Args:
      key: consumed; each row draws for itself.
      similarity: ``[..., C]``.
      forgotten: ``[C]`` or ``[..., C]`` bool, entries that take no part and stay as
        they are.
      kind: see above.
      scale: of ``noise``, in standard deviations of the row; the others do not read it.

    Returns:
      ``[..., C]``.

    Raises:
      InputError: unknown kind.
    """
    if kind not in ("none", "noise", "permute", "flip", "swap"):
        raise InputError(
            f"unknown perturb {kind!r}: choose none, noise, permute, flip or swap"
        )
    num_classes = similarity.shape[-1]
    rows = similarity.reshape(-1, num_classes)
    masks = jnp.broadcast_to(forgotten, similarity.shape).reshape(-1, num_classes)
    change = {
        "none": _none,
        "noise": _noise,
        "permute": _permute,
        "flip": _flip,
        "swap": _swap,
    }[kind]
    changed = jax.vmap(lambda key, row, mask: change(key, row, mask, scale))(
        jax.random.split(key, len(rows)), rows, masks
    )
    return jnp.where(masks, rows, changed).reshape(similarity.shape)


def _none(key: Array, row: Array, mask: Array, scale: float | Array) -> Array:
    del key, mask, scale
    return row


def _flip(key: Array, row: Array, mask: Array, scale: float | Array) -> Array:
    del key, mask, scale
    return -row


def _noise(key: Array, row: Array, mask: Array, scale: float | Array) -> Array:
    return row + scale * jnp.std(row, where=~mask) * jax.random.normal(key, row.shape)


def _permute(key: Array, row: Array, mask: Array, scale: float | Array) -> Array:
    del scale
    places = jnp.argsort(
        mask
    )  # stable: the classes that stay first, both here and below
    order = jnp.argsort(jnp.where(mask, 2.0, jax.random.uniform(key, row.shape)))
    return row.at[places].set(row[order])


def _swap(key: Array, row: Array, mask: Array, scale: float | Array) -> Array:
    del key, scale
    largest, index = lax.top_k(jnp.where(mask, -jnp.inf, row), 2)
    return jnp.where(jnp.isfinite(largest[1]), row.at[index].set(row[index[::-1]]), row)


def sample_features(problem: Problem, index: Array, batch_size: int) -> Array:
    """What the original's head sees of some samples: ``[len(index), D]`` float32, batch by batch inside one program."""

    def batch(position: Array) -> Array:
        return features(
            problem.model.apply,
            problem.variables,
            to_float(problem.train.images[position]),
        )

    rows = lax.map(batch, batches_of(index, batch_size).position).astype(jnp.float32)
    return rows.reshape(-1, rows.shape[-1])[: len(index)]
