"""Labeled images in memory, forget sets, membership designs and augmentations.

* Sources return :class:`Splits`: :func:`load_digits` (bundled), :func:`load_arrays`,
  :func:`load_npz`, :func:`load_folder`, :func:`load_tfds`, and :func:`from_iterable`
  and :func:`from_huggingface` of what is in memory; :func:`prepare` makes a TFDS data
  set of an official archive, :func:`resplit` redraws training and test set,
  :func:`select_classes` keeps some classes, :func:`validate` is the check they all
  pass.
* Forget sets are masks ``[N]``: :func:`forget_random`, :func:`forget_class`,
  :func:`forget_indices`, :func:`forget_file`, all checked by :func:`check_forget_mask`;
  :func:`membership_design` is ``[M, N]``. :func:`pool` joins training and test set for
  an audit, and :func:`pool_mask` places masks of the training set on it.
* Augmentation is array code with one key per image, chosen by name with
  :func:`augmentation` from the parts in :data:`AUGMENTATIONS`: crops and flips, and the
  policies :func:`trivial_augment`, :func:`rand_augment`, :func:`auto_augment`,
  :func:`aug_mix` and :func:`random_erasing`.

Importing this package imports none of TensorFlow Datasets, scikit-learn and Pillow; the
loaders that need them do.
"""

from unlearn_jax.data._pool import pool, pool_mask
from unlearn_jax.data._prepare import prepare
from unlearn_jax.data.augment import (
    AUGMENTATIONS,
    Augmentation,
    augmentation,
    crop,
    crop_flip,
    identity,
    random_crop,
    random_flip,
)
from unlearn_jax.data.augment_policies import (
    aug_mix,
    auto_augment,
    rand_augment,
    random_erasing,
    trivial_augment,
)
from unlearn_jax.data.iterables import from_huggingface, from_iterable
from unlearn_jax.data.sources import (
    Splits,
    load_arrays,
    load_digits,
    load_folder,
    load_npz,
    resplit,
    select_classes,
    validate,
)
from unlearn_jax.data.splits import (
    check_forget_mask,
    forget_class,
    forget_file,
    forget_indices,
    forget_random,
    legacy_indices,
    membership_design,
)
from unlearn_jax.data.tfds_reader import load_tfds

__all__ = [
    "AUGMENTATIONS",
    "Augmentation",
    "Splits",
    "aug_mix",
    "augmentation",
    "auto_augment",
    "check_forget_mask",
    "crop",
    "crop_flip",
    "forget_class",
    "forget_file",
    "forget_indices",
    "forget_random",
    "from_huggingface",
    "from_iterable",
    "identity",
    "legacy_indices",
    "load_arrays",
    "load_digits",
    "load_folder",
    "load_npz",
    "load_tfds",
    "membership_design",
    "pool",
    "pool_mask",
    "prepare",
    "rand_augment",
    "random_crop",
    "random_erasing",
    "random_flip",
    "resplit",
    "select_classes",
    "trivial_augment",
    "validate",
]
