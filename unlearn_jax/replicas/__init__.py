"""Many models at once: mappers, and training and prediction of stacked models.

A stack of ``M`` models is a pytree whose leaves have a leading axis of length ``M``. A
*mapper* applies a pure function of one model to each model of a stack: in a Python
loop, with ``lax.map``, with ``vmap``, or over several devices, each with any of these.
If a model is too large for one device, its batches can be divided over several devices;
so can a data set. All mappers give the same result up to rounding; the fastest one
depends on the backend and on the model.
"""

from unlearn_jax.replicas._mappers import Form, Mapper, map_models, mapper, to_host
from unlearn_jax.replicas._models import (
    References,
    fit_many,
    fit_references,
    predict_many,
    stack,
    unstack,
)
from unlearn_jax.replicas._programs import (
    UnwantedError,
    clear_programs,
    is_rehearsal,
    rehearsal,
    repeats,
)

__all__ = [
    "Form",
    "Mapper",
    "References",
    "UnwantedError",
    "clear_programs",
    "fit_many",
    "fit_references",
    "is_rehearsal",
    "map_models",
    "mapper",
    "predict_many",
    "rehearsal",
    "repeats",
    "stack",
    "to_host",
    "unstack",
]
