"""Seeds and batch sizes: refused in one line, or seeds with a stream of their own."""

import numpy as np
import optax
import pytest
from support.refusals import refuses

from unlearn_jax import audit, data, train, values
from unlearn_jax.contrib import federated
from unlearn_jax.methods import METHODS
from unlearn_jax.pipeline import (
    AuditConfig,
    DataConfig,
    ForgetConfig,
    ReplicasConfig,
    TuningConfig,
)

LABELS = np.arange(60) % 3
MEMBER = np.arange(60) < 30
STREAMS = {
    "forget_random": lambda s: data.forget_random(100, fraction=0.3, seed=s),
    "membership_design": lambda s: data.membership_design(4, 50, seed=s),
    "load_digits": lambda s: data.load_digits(num_train=100, seed=s).train.labels,
    "iid_split": lambda s: federated.iid_split(50, 4, seed=s),
    "dirichlet_split": lambda s: federated.dirichlet_split(
        LABELS, 3, alpha=5.0, seed=s
    ),
    "owner_split": lambda s: federated.owner_split(LABELS, 3, {1: 0}, seed=s),
    "split_client": lambda s: federated.split_client(LABELS, 0, seed=s),
    "auc_interval": lambda s: np.asarray(
        audit.auc_interval(np.sin(np.arange(60) ** 2), MEMBER, seed=s)
    ),
}


@pytest.mark.parametrize("name", STREAMS)
def test_seeds_are_integers_and_not_truncated(name):
    call = STREAMS[name]
    for seed in (-1, 1.5, "1", None, np.nan):
        with refuses("(?i)seed"):
            call(seed)
    assert not np.array_equal(call(1), call(1 + 2**40))
    np.testing.assert_array_equal(call(1), call(np.int64(1)))


@pytest.mark.parametrize("seed", [-1, 2**32, 1.5, "1", True])
@pytest.mark.parametrize(
    "config",
    [
        lambda s: DataConfig(seed=s),
        lambda s: ForgetConfig(seeds=(s,)),
        lambda s: ReplicasConfig(originals=(s,)),
        lambda s: ReplicasConfig(reference_seed=s),
        lambda s: TuningConfig(seeds=(s,)),
        lambda s: AuditConfig(seed=s),
    ],
)
def test_seeds_of_configurations(config, seed):
    with refuses("seed|originals"):
        config(seed)


@pytest.mark.parametrize("size", [0, -1, 2.5, None])
def test_batches_have_samples(size):
    with refuses("batch_size must be a positive integer"):
        train.Recipe(1, size, optax.sgd(0.1))
    with refuses("batch_size must be a positive integer"):
        train.predict(lambda _, x: x, (), np.zeros((2, 3)), batch_size=size)
    for method in METHODS.values():
        if size is not None and "batch_size" in values.fields_of(method):
            with refuses("batch_size"):
                values.replace(method, batch_size=size)
