"""Trained models on disk: Orbax folders, safetensors and msgpack files.

Leaves are matched by their paths in the file and in the model, such as
``params/Dense_0/kernel``. The first part of a path is optional if it is ``params`` or
``state``. :func:`load` therefore reads a bare tree of parameters, the variables of
Linen (``{"params": ..., "batch_stats": ...}``), a ``TrainState``, and the files of
:func:`save`.
"""

import contextlib
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from unlearn_jax.models.adapters import leaf_paths
from unlearn_jax.types import InputError, Model, PyTree, Variables, is_key

ModelFormat = Literal["orbax", "safetensors", "msgpack"]
FORMATS: dict[ModelFormat, str] = {
    "orbax": "",
    "safetensors": ".safetensors",
    "msgpack": ".msgpack",
}
"""Suffixes by format."""
_TORCH = frozenset({".pt", ".pth", ".bin"})
IGNORED = frozenset({"opt_state", "step"})
"""Parts of a training state that do not belong to the model."""
_SHOWN = 3


class MisfitError(InputError):
    """Error for variables of another network."""


_Read = TypeVar("_Read")


def save(
    path: str | os.PathLike[str],
    variables: PyTree,
    *,
    format: ModelFormat | None = None,
) -> pathlib.Path:
    """Write a model's variables to a new file or folder.

    Other programs can read the result without this library: a folder with Orbax's
    ``StandardCheckpointer``, a file with ``safetensors.numpy.load_file`` or
    ``flax.serialization.msgpack_restore``.

    Args:
      path: path of the file, or of the folder for Orbax; it must not exist.
      variables: :class:`unlearn_jax.types.Variables`, or any pytree of arrays.
      format: format of the file; if None, ``safetensors`` or ``msgpack`` by the suffix
        of ``path``, and ``orbax`` for any other suffix.

    Returns:
      The path.

    Raises:
      InputError: a path that exists, an unknown format, two leaves with one path, a
        leaf whose path is another's folder, typed keys, or safetensors if it is not
        installed.
    """
    path = pathlib.Path(os.path.expanduser(path)).absolute()
    chosen = known_format(format or _format_of(path))
    if path.exists():
        raise InputError(f"{path} exists: choose another path")
    leaves = jax.tree.leaves(variables)
    arrays: dict[str, np.ndarray] = {}
    for name, leaf in zip(leaf_paths(variables), leaves, strict=True):
        if name in arrays:
            raise InputError(
                f"two leaves have the path {name}: rename one, without a slash"
            )
        if is_key(leaf):
            raise InputError(
                f"{name} holds keys: save their jax.random.key_data instead"
            )
        arrays[name] = np.asarray(leaf, order="C")
    for name in arrays:
        if any(other.startswith(f"{name}/") for other in arrays):
            raise InputError(
                f"the path {name} is a leaf and a folder: rename one, without a slash"
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    if chosen == "safetensors":
        safetensors().save_file(arrays, path)
    elif chosen == "msgpack":
        from flax import serialization

        path.write_bytes(serialization.msgpack_serialize(_nested(arrays)))
    else:
        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(path, _nested(arrays))
    return path


def known_format(format: str) -> ModelFormat:
    """Return a format, or raise if it is unknown.

    Args:
      format: a name in :data:`FORMATS`.

    Raises:
      InputError: an unknown format, or safetensors if it is not installed.
    """
    if format not in FORMATS:
        raise InputError(f"unknown format {format!r}: choose {', '.join(FORMATS)}")
    if format == "safetensors":
        safetensors()
    return cast(ModelFormat, format)


def load(path: str | os.PathLike[str], like: Model | PyTree) -> Any:
    """Read the variables of a trained model.

    Args:
      path: an Orbax folder, a ``.safetensors`` file, or a msgpack file of
        ``flax.serialization``.
      like: the model that the variables are for, or variables with its structure:
        arrays or ``jax.ShapeDtypeStruct``.

    Returns:
      The file's values in the structure and types of ``like``.

    Raises:
      InputError: a path that does not exist, a file that cannot be read, or leaves that
        are missing, unexpected, of another shape or not finite; the message names them.

    >>> import jax, tempfile
    >>> from unlearn_jax import models
    >>> model = models.build("mlp", (8, 8, 1), 10, widths=(4,))
    >>> variables = model.init(jax.random.key(0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = models.save(f"{folder}/model.msgpack", variables)
    ...     loaded = models.load(path, like=model)
    >>> bool((loaded.params["Dense_0"]["kernel"] ==
    ...       variables.params["Dense_0"]["kernel"]).all())
    True
    """
    path = pathlib.Path(os.path.expanduser(path)).absolute()
    if not path.exists():
        raise InputError(f"no model at {path}")
    return fit_leaves(read_leaves(path), like, str(path))


def fit_variables(
    variables: PyTree, like: Model | PyTree, what: str = "the variables"
) -> Any:
    """Return variables in the structure of a model's.

    Args:
      variables: a pytree of arrays in any layout that :func:`load` reads from a file.
      like: model or variables, as in :func:`load`.
      what: name of the variables in messages.

    Returns:
      Variables that fit ``like``.

    Raises:
      InputError: leaves that are missing, unexpected, of another shape, or not finite.
    """
    names = leaf_paths(variables)
    leaves = map(np.asarray, jax.tree.leaves(variables))
    return fit_leaves(dict(zip(names, leaves, strict=True)), like, what)


def read_leaves(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Return every array of a file or folder by its path in the stored tree.

    Args:
      path: file or folder, as in :func:`load`.

    Returns:
      NumPy arrays by path.

    Raises:
      InputError: a file or folder that cannot be read.
    """
    readers: dict[str, Callable[[pathlib.Path], PyTree]] = {
        "orbax": _read_orbax,
        "safetensors": lambda file: dict(safetensors().load_file(file)),
        "msgpack": _read_msgpack,
    }
    if path.suffix in _TORCH:
        raise InputError(
            f"{path} is a file of PyTorch: convert it by models.from_torch(path,"
            " like=model), and save what that returns by models.save"
        )
    chosen = "orbax" if path.is_dir() else _format_of(path, "msgpack")
    tree = _reading(readers[chosen], path, chosen)
    if not isinstance(tree, Mapping):
        raise InputError(
            f"{path} holds a {type(tree).__name__}: store a tree of arrays"
        )
    return {
        name: np.asarray(leaf)
        for name, leaf in zip(leaf_paths(tree), jax.tree.leaves(tree), strict=True)
    }


def fit_leaves(
    stored: Mapping[str, np.ndarray], like: Model | PyTree, what: str
) -> Any:
    """Return named arrays in the structure of a model's variables.

    Args:
      stored: arrays by path.
      like: model or variables, as in :func:`load`.
      what: name of the source in messages.

    Returns:
      Variables that fit ``like``.

    Raises:
      InputError: leaves that are missing, unexpected, of another shape or kind, or not
        finite.
    """
    if isinstance(like, Model):
        like = jax.eval_shape(like.init, jax.random.key(0))
    names = leaf_paths(like)
    is_stored_alike = all(name in stored for name in names)
    key = str if is_stored_alike else _short
    wanted = {key(name): name for name in names}
    given: dict[str, np.ndarray] = {}
    for name, array in stored.items():
        if name.split("/")[0] in IGNORED and key(name) not in wanted:
            continue
        if key(name) in given:
            raise InputError(f"{what} has two leaves {key(name)}: store one model")
        given[key(name)] = array
    missing = [name for short, name in wanted.items() if short not in given]
    unexpected = [name for name in given if name not in wanted]
    if missing or unexpected:
        faults = []
        if missing:
            faults.append(f"it lacks {_listed(missing)}")
        if unexpected:
            faults.append(f"the model has no {_listed(unexpected)}")
        raise MisfitError(f"{what}: {'; '.join(faults)}")
    leaves = []
    for name, leaf in zip(names, jax.tree.leaves(like), strict=True):
        array = given[key(name)]
        if array.shape != np.shape(leaf):
            raise MisfitError(
                f"{what}: {name} has shape {array.shape}, the model's has"
                f" {np.shape(leaf)}"
            )
        dtype = jnp.result_type(leaf)
        is_real = jnp.issubdtype(dtype, jnp.floating)
        if jnp.issubdtype(array.dtype, jnp.floating) != is_real:
            raise InputError(
                f"{what}: {name} has dtype {array.dtype}, the model's has {dtype}"
            )
        with np.errstate(over="ignore"):
            is_finite = not is_real or np.isfinite(array.astype(dtype)).all()
        if not is_finite:
            raise InputError(
                f"{what}: {name} has NaN or infinity: the training diverged"
            )
        leaves.append(jnp.asarray(array, dtype))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def safetensors() -> Any:
    """Return the module ``safetensors.numpy``.

    Raises:
      InputError: safetensors is not installed.
    """
    with contextlib.suppress(ImportError):
        from safetensors import numpy

        return numpy
    raise InputError(
        "safetensors is not installed: pip install 'unlearn-jax[exchange]'"
    )


def _format_of(path: pathlib.Path, default: ModelFormat = "orbax") -> ModelFormat:
    for name, suffix in FORMATS.items():
        if suffix and path.suffix == suffix:
            return name
    return default


def _reading(
    read: Callable[[pathlib.Path], _Read], path: pathlib.Path, format: str
) -> _Read:
    """Read a file with ``read``, and raise its errors as one line."""
    try:
        return read(path)
    except InputError:
        raise
    # Readers raise ValueError, KeyError, msgpack's and Rust's own types on bad files.
    except Exception as error:
        line = str(error).strip().split("\n")[0] or type(error).__name__
        raise InputError(f"cannot read {path} as {format}: {line}") from None


def _read_msgpack(path: pathlib.Path) -> PyTree:
    from flax import serialization

    return serialization.msgpack_restore(path.read_bytes())


def _read_orbax(path: pathlib.Path) -> PyTree:
    import orbax.checkpoint as ocp

    if not (path / "_METADATA").is_file():
        if (path / "results.json").is_file():
            raise InputError(
                f"{path} is a run, not a model: export one by unlearn-jax export {path}"
                " original --to DIR, and pass DIR/run-000"
            )
        steps = sorted(path.glob("**/_METADATA"))
        if not steps:
            raise InputError(f"{path} is not an Orbax folder: it has no _METADATA")
        raise InputError(
            f"{path} holds {len(steps)} Orbax folders: pass one, such as"
            f" {steps[-1].parent}"
        )
    if not _has_data(path):
        raise InputError(
            f"{path} lacks data files, or they are damaged: copy the whole folder again"
        )
    with ocp.PyTreeCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(path).item_metadata
        assert metadata is not None
        # as NumPy arrays, because the devices of the training may be absent
        as_numpy = ocp.RestoreArgs(restore_type=np.ndarray)
        kinds = jax.tree.map(lambda _: as_numpy, metadata.tree)
        return checkpointer.restore(path, restore_args=kinds)


def _has_data(path: pathlib.Path) -> bool:
    """Return whether the index of an Orbax folder can be read.

    This check comes first because Orbax reads all leaves at once: after the first that
    fails, a background thread prints a traceback for each of the others.
    """
    import tensorstore

    if not (path / "manifest.ocdbt").is_file():
        # without OCDBT, every leaf has its own folder
        return any(path.glob("*/.zarray")) or any(path.glob("*/zarr.json"))
    base = {"driver": "file", "path": f"{path}/"}
    try:
        store = tensorstore.KvStore.open({"driver": "ocdbt", "base": base}).result()
        return bool(store.list().result())
    except ValueError:
        return False


def _nested(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return leaves that are named by paths as a tree of dictionaries."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *folders, last = name.split("/")
        node = tree
        for part in folders:
            node = node.setdefault(part, {})
        node[last] = array
    return tree


def _short(name: str) -> str:
    """Return a path without the parts that depend on the way a model is stored.

    >>> _short("params/Dense_0/kernel"), _short("conv/kernel/value")
    ('Dense_0/kernel', 'conv/kernel')
    """
    head, _, rest = name.partition("/")
    short = rest if rest and head in Variables._fields else name
    return short.removesuffix("/value")  # as NNX states store their variables


def _listed(names: list[str]) -> str:
    """Return text of the first few names and the number of the others."""
    shown = ", ".join(names[:_SHOWN])
    more = len(names) - _SHOWN
    return shown if more <= 0 else f"{shown} and {more} more"
