"""Models and results are named by the program of a user's objective."""

import dataclasses

import pytest
from support.runs import TINY

from unlearn_jax.objectives import TRADES
from unlearn_jax.pipeline._run import results_key
from unlearn_jax.pipeline.stages.plan import make_plan
from unlearn_jax.train import cross_entropy_loss
from unlearn_jax.values import value


@value
class Scaled:
    """An objective of a user, whose code is the function in ``CODE``."""

    def __call__(self, model):
        return lambda variables, batch, key: CODE[0](model, variables, batch, key)


def once(model, variables, batch, key):
    return cross_entropy_loss(model)(variables, batch, key)


def twice(model, variables, batch, key):
    mean, state = cross_entropy_loss(model)(variables, batch, key)
    return 2 * mean, state


CODE = [once]


@pytest.fixture
def keys(splits, tmp_path):
    def of(objective):
        training = dataclasses.replace(TINY.training, objective=objective)
        config = dataclasses.replace(TINY, training=training)
        plan = make_plan(config, tmp_path, splits=splits, check=False)
        return plan.originals.artifact.key, results_key(plan, "")

    return of


def test_another_code_of_an_objective_is_another_key(keys, monkeypatch):
    first = keys(Scaled())
    assert keys(Scaled()) == first
    monkeypatch.setattr(f"{__name__}.CODE", [twice])
    second = keys(Scaled())
    assert first[0] != second[0], "of the models"
    assert first[1] != second[1], "of the results"


def test_an_objective_of_the_package_is_named_by_its_value(keys):
    assert keys(TRADES(beta=2.0)) == keys(TRADES(beta=2.0))
    assert keys(TRADES(beta=2.0))[0] != keys(TRADES(beta=3.0))[0]
