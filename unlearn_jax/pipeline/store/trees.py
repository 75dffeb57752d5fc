"""Pytrees on disk, in Orbax's own format, which ``StandardCheckpointer`` opens."""

import hashlib
import logging
import os
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax import replicas
from unlearn_jax.types import PyTree, is_key


def _is_informative(record: logging.LogRecord) -> bool:
    """Return False for Orbax's messages on metadata and on errors that it raises."""
    raised = r"raised|Failed to run .* Commit|Finalize thread .* failed"
    metadata = "Metadata file|Failed to (write|update) metadata=|ArrayMetadata"
    return not re.search(f"{raised}|{metadata}", record.getMessage())


logging.getLogger("absl").addFilter(_is_informative)


def save_tree(path: pathlib.Path, tree: PyTree) -> None:
    """Write a pytree of arrays as a checkpoint folder.

    Args:
      path: checkpoint folder, which must not exist.
      tree: pytree whose leaves are arrays or typed keys; the latter are stored as their
        key data.

    Raises:
      OSError: the disk is full or not writable.
    """
    from unlearn_jax.pipeline.store import _orbax

    try:
        with _orbax.checkpointer() as checkpointer:
            checkpointer.save(path.absolute(), jax.tree.map(to_host, tree))
    except ValueError as error:
        # TensorStore reports the system's errors as text
        number = re.search(r"os_error_code='(\d+)'", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from error


def to_host(leaf: Any) -> np.ndarray:
    """Return a leaf as a NumPy array; typed keys become their key data.

    A leaf on the devices of several processes is gathered; all of them must call this.
    """
    return replicas.to_host(plain(leaf))


def plain(leaf: Any) -> Any:
    """Return a leaf, or the key data of typed keys."""
    return jax.random.key_data(leaf) if is_key(leaf) else leaf


def typed(data: Any, like: Any) -> Any:
    """Convert a leaf's :func:`plain` data to typed keys if ``like`` holds keys."""
    if not is_key(like):
        return data
    return jax.random.wrap_key_data(jnp.asarray(data), impl=jax.random.key_impl(like))


def blank(leaf: Any) -> np.ndarray:
    """Return zeros of the shape and type of a leaf's :func:`plain` data."""
    data = plain(leaf)
    return np.zeros(data.shape, data.dtype)


def load_tree(path: pathlib.Path, like: PyTree | None = None) -> PyTree:
    """Read a checkpoint folder as NumPy arrays.

    Args:
      path: checkpoint folder.
      like: pytree of arrays or shapes; the result has its structure, its typed keys and
        its types. If None, the result is nested dictionaries and lists.

    Raises:
      ValueError: the leaves, types or shapes differ from those of ``like``; leading
        axes may differ.
      Exception: the folder is damaged; Orbax raises errors of various types.
    """
    from unlearn_jax.pipeline.store import _orbax

    with _orbax.checkpointer() as checkpointer:
        stored = checkpointer.restore(path.absolute())
    if like is None:
        return stored
    by_name = {}
    for place, leaf in jax.tree.leaves_with_path(stored):
        by_name[_name(place)] = leaf
    places, treedef = jax.tree.flatten_with_path(like)
    if {_name(place) for place, _ in places} != set(by_name):
        raise ValueError(f"{path} has other leaves than expected")
    leaves = []
    for place, leaf in places:
        array = typed(by_name[_name(place)], leaf)
        if array.shape[1:] != leaf.shape[1:] or array.dtype != leaf.dtype:
            raise ValueError(f"{path} has other shapes or types than expected")
        leaves.append(array)
    return jax.tree.unflatten(treedef, leaves)


def _name(place: tuple[Any, ...]) -> tuple[str, ...]:
    """Return a path in a pytree as names, equal for named tuples and dictionaries."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in place)


def tree_digest(tree: PyTree) -> str:
    """Return the SHA-256 of all leaves, with their paths, types and shapes.

    Args:
      tree: pytree of NumPy arrays.
    """
    checksum = hashlib.sha256()
    for place, leaf in jax.tree.leaves_with_path(tree):
        name = jax.tree_util.keystr(place)
        checksum.update(f"{name} {leaf.dtype} {leaf.shape}".encode())
        values = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        checksum.update(values.data)
    return checksum.hexdigest()
