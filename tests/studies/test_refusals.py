"""Configurations of the studies: those that are refused, and those that keep keys."""

import dataclasses

import numpy as np
import pytest

from unlearn_jax.pipeline import DataConfig
from unlearn_jax.studies import common
from unlearn_jax.studies.ascent import digits as ascent
from unlearn_jax.studies.ascent import theory
from unlearn_jax.studies.coresets import digits as coresets
from unlearn_jax.studies.ensembles import artifacts as ensembles
from unlearn_jax.studies.ensembles.config import AttackPlan, ClipConfig, EnsembleConfig
from unlearn_jax.studies.federated import images, shapes
from unlearn_jax.studies.influence import digits as influence
from unlearn_jax.studies.latent import concepts
from unlearn_jax.studies.norms import artifacts as norms
from unlearn_jax.studies.rbm import bars
from unlearn_jax.studies.rbm import digits as rbm
from unlearn_jax.studies.references import resnet18
from unlearn_jax.types import InputError

CONFIGS = {
    ascent: ascent.Config(),
    theory: theory.Config(),
    coresets: coresets.Config(),
    ensembles: EnsembleConfig(overhead_steps=0),
    images: images.Config(settings=("iid",)),
    shapes: shapes.Config(),
    influence: influence.Config(),
    concepts: concepts.Config(),
    norms: norms.NormConfig(),
    bars: bars.Config(),
    rbm: rbm.Config(),
    resnet18: resnet18.Config(),
}

REFUSED = [
    (ascent, {"seeds": (0, 0)}, "seeds must have"),
    (ascent, {"ga_rates": (-1.0,)}, "ga_rates must be positive"),
    (ascent, {"gda_alphas": (2.0,)}, "gda_alphas must be in"),
    (ascent, {"scrub_rates": ()}, "scrub_rates must have"),
    (ascent, {"width": 0}, "width must be a positive integer"),
    (theory, {"seeds": (0, 0)}, "seeds must have"),
    (theory, {"learning_rate": -1.0}, "learning_rate must be positive"),
    (coresets, {"curve": ()}, "curve must ascend"),
    (coresets, {"cluster_classes": (), "random_sets": 0}, "sets must have"),
    (coresets, {"cluster_classes": (12,)}, "cluster_classes: labels must lie"),
    (coresets, {"num_train": 8, "random_sets": 0}, "too few for clusters"),
    (coresets, {"num_train": 5000}, "num_train"),
    (coresets, {"judge_seeds": (10, 10, 10)}, "judge_seeds must have"),
    (coresets, {"random_orders": 0}, "random_orders must be"),
    (coresets, {"random_size": 0}, "random_size must be"),
    (coresets, {"random_size": 900}, "random_size is 900 of 900"),
    (coresets, {"tolerance": 1.5}, "must be less than 1"),
    (coresets, {"delta": 1.0}, "must be less than 1"),
    (ensembles, {"attack": AttackPlan(radii=())}, "radii must be positive"),
    (ensembles, {"clip": ClipConfig(period=0)}, "clip.period must be"),
    (images, {"seeds": (0, 0)}, "seeds must have"),
    (images, {"strengths": (-1.0,)}, "strengths must be positive"),
    (images, {"num_clients": 1}, "num_clients must be 2 or more"),
    (shapes, {"seeds": (0, 0)}, "seeds must have"),
    (influence, {"seeds": (0, 0)}, "seeds must have"),
    (influence, {"networks": ()}, "networks must have"),
    (influence, {"networks": ("tanh-x-0.1",)}, "activation-units-penalty"),
    (influence, {"networks": ("tanh-64-0",)}, "activation-units-penalty"),
    (influence, {"widths": ()}, "widths must have"),
    (influence, {"classes": (12,)}, "classes: labels must lie"),
    (influence, {"fractions": (0.99,), "num_samples": 20}, "remove at least one"),
    (influence, {"fractions": (0.01,), "num_samples": 20}, "remove at least one"),
    (concepts, {"seeds": (0, 0)}, "seeds must have"),
    (concepts, {"learning_rates": ()}, "learning_rates must have"),
    (concepts, {"overshoots": ()}, "overshoots must have"),
    (concepts, {"radii": (-1.0,)}, "radii must be positive"),
    (norms, {"seeds": (0, 0)}, "seeds must have"),
    (norms, {"num_slopes": 0}, "num_slopes must be"),
    (norms, {"period": 0}, "period must be"),
    (bars, {"fractions": (0.5, 0.5)}, "fractions must ascend"),
    (bars, {"learning_rate": -1.0}, "learning_rate must be positive"),
    (rbm, {"classes": (1, 1)}, "classes must have"),
    (rbm, {"fractions": (0.9, 0.1)}, "fractions must ascend"),
]


@pytest.mark.parametrize(("study", "changes", "message"), REFUSED)
def test_a_configuration_that_fails_later_is_refused_at_once(study, changes, message):
    with pytest.raises(InputError, match=message):
        study.make_artifacts(dataclasses.replace(CONFIGS[study], **changes))


@pytest.mark.parametrize("num_clients", [2, 3])
def test_two_clients_are_as_wide_as_the_larger_one(num_clients):
    config = dataclasses.replace(
        CONFIGS[images], settings=("dirichlet",), num_clients=num_clients, alpha=0.1
    )
    assert images.make_artifacts(config)


@pytest.mark.parametrize("study", [norms, resnet18, ensembles, rbm, concepts])
def test_a_file_is_the_data_and_a_folder_of_tfds_is_not(study):
    def keys(**data):
        config = dataclasses.replace(CONFIGS[study], data=DataConfig(**data))
        return {artifact.key for artifact in study.make_artifacts(config)}

    assert not keys(source="npz", path="/a.npz") & keys(source="npz", path="/b.npz")
    mnist = {"source": "tfds", "name": "mnist"}
    assert keys(**mnist) == keys(**mnist, path="/elsewhere")


def test_cells_of_runs_that_diverged_or_have_no_interval():
    runs = np.array([1.0, 2.0, 3.0])
    assert common.summarize_finite(np.array([1.0, np.nan, np.inf])) == (
        "diverged 2 of 3"
    )
    assert common.summarize_finite(runs).mean == 2
    assert common.summarize_distance(runs).low == 0
    negative = common.summarize_distance(np.array([-0.3, 0.1]))
    assert negative.low == negative.mean == pytest.approx(-0.1)
    assert common.in_words(common.summarize_finite(runs), "+.1f") == "+2.0 [-0.5, +4.5]"
    assert common.in_words(common.summarize_finite(runs[:1]), ".0f") == "1"
    assert common.is_above_zero(runs + 1)
    assert not common.is_above_zero(np.array([np.nan, 1.0]))
