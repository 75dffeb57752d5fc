"""Models trained elsewhere, which replace a run's originals."""

import os
from collections.abc import Sequence

import jax
import numpy as np

from unlearn_jax.models.files import MisfitError, fit_variables, load
from unlearn_jax.types import InputError, Model, Variables

Given = Variables | str | os.PathLike[str]
"""Variables of a trained model, or the path of its file or folder."""


def stack_given(original: Given | Sequence[Given], model: Model) -> Variables:
    """Return trained models as stacked variables of a network.

    Args:
      original: one model or several.
      model: network whose weights they are.

    Returns:
      Variables with NumPy leaves ``[M, ...]``.

    Raises:
      InputError: a file cannot be read, or variables do not fit the network.
    """
    is_one = isinstance(original, Variables | str | os.PathLike)
    several = [original] if is_one else list(original)
    if not several:
        raise InputError("original holds no model: pass the variables of one or more")
    models = []
    for number, one in enumerate(several):
        try:
            if isinstance(one, str | os.PathLike):
                models.append(load(one, like=model))
            else:
                models.append(fit_variables(one, model, f"original {number}"))
        except MisfitError as error:
            raise InputError(
                f"{error}: choose the network that was trained, by --model.name and its"
                " options or the preset's make_model"
            ) from None
    return jax.tree.map(lambda *leaves: np.stack(leaves), *models)
