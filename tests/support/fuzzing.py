"""What the fuzz tests share: arrays of every kind, and a call that counts what was
answered and what was refused.
"""

import collections
import dataclasses
import functools
import os
import signal
import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from unlearn_jax.audit import Discriminator
from unlearn_jax.types import UnlearnError

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
COUNTS = collections.Counter()
"""Cases by ``(function, "answered" or "refused")``."""

HARD = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1e-38,
    1e-45,
    88.0,
    -104.0,
    1e4,
    3.4e38,
    -3.4e38,
    np.inf,
    -np.inf,
    np.nan,
]


def mostly(usable, refused):
    """Values of a option, five of six times a usable one."""
    return st.sampled_from(
        5 * len(refused) * list(usable) + len(usable) * list(refused)
    )


DTYPES = st.sampled_from(
    [np.float32, np.float64, np.float16, np.int32, np.int64, np.uint8, np.bool_]
)
LEVELS = mostly([0.95, 0.5, 1e-9], [0.0, 1.0, np.nan])
sizes = st.sampled_from([4, 7, 5, 3, 2, 1, 0])


def fuzz(fraction=1.0):
    """Hypothesis' settings: the same few cases every time, or a long campaign of new
    ones.
    """
    return settings(
        max_examples=max(1, int(fraction * EXAMPLES)),
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=EXAMPLES < 1000,
        database=None,
    )


def real(shape, hard=True):
    """Numbers of a shape: ordinary ones, extreme ones, all equal."""
    with np.errstate(over="ignore"):
        ordinary, large = st.floats(-30, 30, width=32), st.sampled_from(HARD[:9])
        extreme = st.sampled_from([float(np.float32(x)) for x in HARD]) | ordinary
        return st.one_of(
            arrays(
                np.float32,
                shape,
                elements=ordinary | large.map(lambda x: float(np.float32(x))),
            ),
            arrays(np.float64, shape, elements=st.floats(-5, 5), fill=st.nothing()),
            (extreme if hard else ordinary).map(
                lambda x: np.full(shape, x, np.float32)
            ),
            arrays(np.float32, shape, elements=extreme if hard else ordinary),
        )


def fractions(shape):
    """Numbers in [0, 1], ties among them; sometimes anything."""
    few = st.sampled_from([0.0, 1e-30, 0.25, 0.5, 1.0])
    return st.one_of(
        arrays(np.float32, shape, elements=st.floats(0, 1, width=32) | few), real(shape)
    )


def mask(shape):
    """Masks, often all the same."""
    return st.one_of(
        *[arrays(np.bool_, shape, fill=st.nothing())] * 3,
        st.booleans().map(lambda b: np.full(shape, b)),
    )


def anything():
    """Arrays of any small shape and type, empty ones included."""
    shapes = array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
    return st.tuples(shapes, DTYPES).flatmap(lambda pair: arrays(pair[1], pair[0]))


def call(function, *args, **chosen):
    """Calls; a documented error is None.

    Warnings are errors, so none slips through as a wrong value.
    """
    name = getattr(function, "__name__", str(function))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            # images that are read, and may be meant
            warnings.filterwarnings("ignore", ".*(nothing but 0 and 1|came first)")
            result = function(*args, **chosen)
        COUNTS[name, "answered"] += 1
        return result
    except UnlearnError as error:
        said = str(error)
    COUNTS[name, "refused"] += 1
    assert len(said.splitlines()) == 1
    return None


def with_fields(function):
    """An MIA-NN function that takes the discriminator's fields as its own options."""
    names = {field.name for field in dataclasses.fields(Discriminator)}

    @functools.wraps(function)
    def wrapped(*args, **options):
        fields = {name: options.pop(name) for name in names & options.keys()}
        return function(*args, discriminator=Discriminator(**fields), **options)

    return wrapped


def check(value, low=-np.inf, high=np.inf):
    """Finite, and in range."""
    value = np.asarray(value)
    assert np.isfinite(value).all(), value
    assert (value >= low - 1e-9).all(), value
    assert (value <= high + 1e-9).all(), value


def campaign(*files):
    """Runs fuzz tests in this process with the command line's arguments for pytest, and
    prints the counts.

    A run that is ended before its time prints what it counted.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    imported = (  # this module was imported before pytest began
        "ignore::pytest.PytestAssertRewriteWarning"
    )
    status = pytest.main(
        [*files, "-W", imported, "-p", "no:cacheprovider", *sys.argv[1:]]
    )
    print(f"\n{'function':24} {'answered':>10} {'refused':>10}")
    for name in sorted({name for name, _ in COUNTS}):
        print(f"{name:24} {COUNTS[name, 'answered']:10,} {COUNTS[name, 'refused']:10,}")
    answered, refused = (
        sum(n for (_, kind), n in COUNTS.items() if kind == k)
        for k in ("answered", "refused")
    )
    print(f"{'all':24} {answered:10,} {refused:10,}   {answered + refused:,} cases")
    return status
