"""Labeled images in memory, forget sets, membership designs and augmentations.

* Sources return :class:`Splits`: :func:`load_digits` (bundled), :func:`load_arrays`,
  :func:`load_npz`, :func:`load_folder`, :func:`load_tfds`, and for data in memory
  :func:`from_iterable` and :func:`from_huggingface`. :func:`validate` checks the images
  and labels of every source. :func:`prepare` converts an official archive into a TFDS
  data set, :func:`resplit` redraws the training and test sets, and
  :func:`select_classes` keeps some of the classes.
* Forget sets are masks ``[N]``: :func:`forget_random`, :func:`forget_class`,
  :func:`forget_indices` and :func:`forget_file`, all checked by
  :func:`check_forget_mask`. :func:`membership_design` returns masks ``[M, N]``.
  :func:`pool` joins training and test set for an audit, and :func:`pool_mask` extends
  masks of the training set to the pool.
* Augmentation is array code with one key per image. :func:`augmentation` selects it by
  name from the parts in :data:`AUGMENTATIONS`: crops and flips, and the policies
  :func:`trivial_augment`, :func:`rand_augment`, :func:`auto_augment`, :func:`aug_mix`
  and :func:`random_erasing`.

Importing this package does not import TensorFlow Datasets, scikit-learn or Pillow. A
loader imports them when it needs them.
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
