"""Reliable machine unlearning in JAX: make a classifier forget, and audit the result.

Subpackages and the most common names are imported on first use::

    import unlearn_jax as uj

    problem = uj.make_problem(model, variables, train, forget)
    unlearned, info = uj.unlearn(key, uj.AMUN(learning_rate=0.01), problem)

Data flows one way through the subpackages::

    data -> models -> losses, attacks -> train -> replicas -> methods, audit -> pipeline

Three rules hold everywhere. A model is ``(apply_fn, variables)``, first in every
signature. Functions that draw random numbers take a typed ``key`` if they run on a
device, and a ``seed`` or a ``numpy.random.Generator`` if they run on the host.
Hyperparameters are fields of frozen dataclasses that are called like functions.

Importing the package imports neither JAX nor Flax; nothing in it needs TensorFlow or
torch.
"""

from unlearn_jax.lazy import on_first_use

__version__ = "0.2.0.dev0"

_SUBPACKAGES = (
    "attacks",
    "audit",
    "contrib",
    "data",
    "ensembles",
    "figures",
    "filters",
    "influence",
    "layers",
    "losses",
    "methods",
    "models",
    "objectives",
    "onednn",
    "optimizers",
    "pipeline",
    "replicas",
    "spectral",
    "studies",
    "theory",
    "train",
    "transforms",
    "types",
    "values",
)

_NAMES = {
    "AMUN": "methods",
    "DELETE": "methods",
    "FineTune": "methods",
    "METHODS": "methods",
    "RandomLabel": "methods",
    "Retrain": "methods",
    "SCRUB": "methods",
    "Saliency": "methods",
    "TRW": "methods",
    "constrained": "methods",
    "filtered": "methods",
    "make_problem": "methods",
    "masked": "methods",
    "sequence": "methods",
    "unlearn": "methods",
    "Doubling": "attacks",
    "PGD": "attacks",
    "adversarial_set": "attacks",
    "pgd": "attacks",
    "auc_interval": "audit",
    "lira": "audit",
    "rmia": "audit",
    "roc": "audit",
    "ulira": "audit",
    "shadow_signals": "audit",
    "load_digits": "data",
    "load_tfds": "data",
    "from_functions": "models",
    "from_linen": "models",
    "from_nnx": "models",
    "clip": "spectral",
    "fastclip": "spectral",
    "spectral_norms": "spectral",
    "lotos": "losses",
    "tilted_loss": "losses",
    "Adam": "optimizers",
    "SGD": "optimizers",
    "Recipe": "train",
    "fit": "train",
    "predict": "train",
    "AuditArrays": "pipeline",
    "audit_arrays": "pipeline",
    "audit_models": "pipeline",
    "open": "pipeline",
    "terminal_text": "pipeline",
    "fit_many": "replicas",
    "fit_references": "replicas",
    "predict_many": "replicas",
    "Dataset": "types",
    "InputError": "types",
    "Model": "types",
    "Problem": "types",
    "Variables": "types",
    "replace": "values",
    "value": "values",
}
"""Top-level names, each with the subpackage that defines it."""

__all__ = [*sorted([*_NAMES, *_SUBPACKAGES]), "__version__"]
__getattr__, __dir__ = on_first_use(__name__, dict.fromkeys(_SUBPACKAGES, "") | _NAMES)
