"""Clients: splits of a training set, drawn on the host, and their form for training.

A split is an array ``[N]`` with the client of each sample. :func:`gather_clients`
converts it into rows of positions, all of the same length, so that one compiled program
trains every client, whatever the number of its samples. Axis letters: ``K`` clients,
``P`` positions in a client's row, ``N`` samples.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import numpy.typing as npt

from unlearn_jax.checks import check_counts, check_fractions, check_positive
from unlearn_jax.data.splits import check_seed
from unlearn_jax.types import Array, InputError

_DRAWS = 1000


class Clients(NamedTuple):
    """The clients' samples as positions in one data set.

    Attributes:
      positions: ``[K, P]`` int32. A row holds the client's positions in ascending
        order, then repeats them as padding, so that no row points at another client's
        samples.
      sizes: ``[K]`` int32, number of samples of each client.
    """

    positions: Array
    sizes: Array


def iid_split(
    num_samples: int, num_clients: int, *, seed: int
) -> npt.NDArray[np.int64]:
    """Split the samples uniformly at random into parts of nearly equal size.

    Sizes differ by at most one.

    Args:
      num_samples: N.
      num_clients: K, in 1..N.
      seed: seed of the draw.

    Returns:
      ``[N]`` client of each sample, 0..K-1.

    Raises:
      InputError: fewer samples than clients, or no client.

    >>> np.bincount(iid_split(10, 3, seed=0)).tolist()
    [4, 3, 3]
    """
    _check_clients(num_clients, num_samples)
    check_seed(seed)
    return np.random.default_rng(seed).permutation(np.arange(num_samples) % num_clients)


def dirichlet_split(
    labels: npt.ArrayLike,
    num_clients: int,
    *,
    alpha: float = 0.3,
    min_samples: int = 1,
    seed: int,
) -> npt.NDArray[np.int64]:
    """Split each class among the clients in proportions from Dirichlet(alpha, ...).

    This is the split of the federated literature (Hsu et al., arXiv 1909.06335; PUF has
    alpha 0.3 for CIFAR-10 and 0.1 for CIFAR-100). Small alpha gives every class to few
    clients; large alpha approaches the uniform split. The whole draw is repeated until
    no client has fewer than ``min_samples``. Every sample goes to exactly one client.

    Args:
      labels: ``[N]`` integers.
      num_clients: K, in 1..N.
      alpha: concentration, above 0.
      min_samples: smallest number of samples of a client, at least 1.
      seed: seed of the draw.

    Returns:
      ``[N]`` client of each sample, 0..K-1.

    Raises:
      InputError: numbers out of range, labels that are not integers, or 1000 draws that
        all left a client with too few samples.

    >>> split = dirichlet_split(np.arange(100) % 5, 4, alpha=0.3, seed=0)
    >>> split.shape, np.unique(split).tolist()
    ((100,), [0, 1, 2, 3])
    """
    labels = _check_labels(labels)
    _check_clients(num_clients, labels.size)
    check_positive(alpha=alpha)
    check_counts(min_samples=min_samples)
    if not 1 <= min_samples <= labels.size // num_clients:
        raise InputError(
            f"min_samples must be in 1..{labels.size // num_clients} for {labels.size}"
            f" samples and {num_clients} clients, got {min_samples}"
        )
    check_seed(seed)
    rng = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        split = np.empty(labels.size, np.int64)
        for label in np.unique(labels):
            members = rng.permutation(np.flatnonzero(labels == label))
            proportions = rng.dirichlet(np.full(num_clients, alpha))
            ends = np.rint(np.cumsum(proportions) * members.size).astype(int)[:-1]
            for client, part in enumerate(np.split(members, ends)):
                split[part] = client
        if np.bincount(split, minlength=num_clients).min() >= min_samples:
            return split
    raise InputError(
        f"none of {_DRAWS} Dirichlet draws with alpha {alpha:g} gave all {num_clients}"
        f" clients {min_samples} samples: raise alpha, or choose fewer clients"
    )


def owner_split(
    labels: npt.ArrayLike,
    num_clients: int,
    owners: Mapping[int, int | Sequence[int]],
    *,
    seed: int,
) -> npt.NDArray[np.int64]:
    """Split the samples so that some clients own whole classes; the rest is random.

    This is the extreme non-IID case: retraining without an owner leaves no sample of
    the owner's classes.

    Args:
      labels: ``[N]`` integers.
      num_clients: K.
      owners: mapping from a client to its classes; no class twice.
      seed: seed of the draw.

    Returns:
      ``[N]`` client of each sample, 0..K-1.

    Raises:
      InputError: a client outside 0..K-1, a class without samples or with two owners,
        or a client left without samples.

    >>> owner_split([0, 0, 1, 1, 1, 1], 2, {1: 0}, seed=0)[:2].tolist()
    [1, 1]
    """
    labels = _check_labels(labels)
    _check_clients(num_clients, labels.size)
    if not isinstance(owners, Mapping):
        raise InputError(f"owners must be a dict client -> classes, got {owners!r}")
    owned = {client: np.atleast_1d(classes) for client, classes in owners.items()}
    for client in owned:
        is_integer = isinstance(client, int | np.integer)
        if not is_integer or not 0 <= client < num_clients:
            raise InputError(
                f"owner {client!r} is not a client: clients are 0..{num_clients - 1}"
            )
    classes = np.concatenate([np.empty(0, int), *owned.values()])
    if classes.size != np.unique(classes).size:
        raise InputError(
            f"a class has two owners: give each class to one client, got {dict(owners)}"
        )
    if missing := sorted(set(classes.tolist()) - set(labels.tolist())):
        raise InputError(f"no sample has class {missing[0]}, which a client should own")
    split = np.empty(labels.size, np.int64)
    shared = np.flatnonzero(~np.isin(labels, classes))
    check_seed(seed)
    split[shared] = np.random.default_rng(seed).permutation(
        np.arange(shared.size) % num_clients
    )
    for client, own_classes in owned.items():
        split[np.isin(labels, own_classes)] = client
    if (np.bincount(split, minlength=num_clients) == 0).any():
        raise InputError(
            "a client is left without samples: give fewer classes to owners, or choose"
            " fewer clients"
        )
    return split


def split_client(
    split: npt.ArrayLike, client: int, *, fraction: float = 0.5, seed: int
) -> npt.NDArray[np.int64]:
    """Move a random part of one client's samples to a new client K, to be forgotten.

    This is PUF's sample-level variant. The client keeps the rest, and the moved part
    alone produces the pseudo-gradient that is negated. The rest of the protocol is
    unchanged.

    Args:
      split: ``[N]`` client of each sample, 0..K-1.
      client: the owner of the samples.
      fraction: fraction of the client's samples to move, in (0, 1); the number is
        rounded, with at least one sample on each side.
      seed: seed of the draw.

    Returns:
      ``[N]`` client of each sample, K for the moved part.

    Raises:
      InputError: an unknown client, a client with fewer than two samples, or a fraction
        outside (0, 1).

    >>> split_client([0, 0, 0, 0, 1], 0, seed=0).tolist().count(2)
    2
    """
    split = _check_split(split)
    check_counts(0, client=client)
    check_fractions(fraction=fraction)
    members = np.flatnonzero(split == client)
    if members.size < 2:
        raise InputError(
            f"client {client} has {members.size} samples: splitting a client needs at"
            " least 2"
        )
    if not 0 < fraction < 1:
        raise InputError(
            "fraction, the part that leaves, must lie strictly between 0 and 1, got"
            f" {fraction}"
        )
    count = min(max(round(fraction * members.size), 1), members.size - 1)
    check_seed(seed)
    moved = np.random.default_rng(seed).choice(members, count, replace=False)
    divided = split.copy()
    divided[moved] = split.max() + 1
    return divided


def gather_clients(split: npt.ArrayLike, *, width: int | None = None) -> Clients:
    """Return a split as rows of positions, all of the same length.

    Args:
      split: ``[N]`` client of each sample, 0..K-1, each with at least one sample.
      width: P, for several splits of the same shape; the largest client's size if None.

    Returns:
      The clients.

    Raises:
      InputError: clients that are not integers from 0 on, a client without samples, or
        ``width`` below the largest client's size.

    >>> gather_clients([1, 0, 1, 1]).positions.tolist()
    [[1, 1, 1], [0, 2, 3]]
    """
    split = _check_split(split)
    sizes = np.bincount(split)
    width = int(sizes.max()) if width is None else width
    check_counts(width=width)
    if width < sizes.max():
        raise InputError(
            f"the largest client has {sizes.max()} samples: width must be at least"
            f" that, got {width}"
        )
    rows = [
        np.resize(np.flatnonzero(split == client), width)
        for client in range(sizes.size)
    ]
    return Clients(
        jnp.asarray(np.stack(rows), jnp.int32), jnp.asarray(sizes, jnp.int32)
    )


def _check_clients(num_clients: int, num_samples: int) -> None:
    check_counts(num_clients=num_clients, num_samples=num_samples)
    if not 1 <= num_clients <= num_samples:
        raise InputError(
            f"{num_samples} samples can be split among 1..{num_samples} clients, got"
            f" {num_clients}"
        )


def _check_labels(labels: npt.ArrayLike) -> npt.NDArray:
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu":
        raise InputError(
            f"labels are {labels.dtype} of shape {labels.shape}: pass [N] integers"
        )
    return labels


def _check_split(split: npt.ArrayLike) -> npt.NDArray[np.int64]:
    split = np.asarray(split)
    if (
        split.ndim != 1
        or split.size == 0
        or split.dtype.kind not in "iu"
        or split.min() < 0
    ):
        raise InputError(
            "a split is [N] integers from 0 on, the client of each sample; got"
            f" {split.dtype} {split.shape}"
        )
    if not np.bincount(split).all():
        raise InputError(
            f"client {int(np.argmin(np.bincount(split)))} has no sample: number the"
            " clients 0..K-1"
        )
    return split.astype(np.int64)
