"""What an ensemble is, and the terms that keep its members apart."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import jax

from unlearn_jax.losses.lotos import Convention
from unlearn_jax.train import LossFn, cross_entropy_loss
from unlearn_jax.types import InputError, Model

Form = Literal["auto", "loop", "vmap"]


@dataclasses.dataclass(frozen=True)
class Lotos:
    """Layers of different members must not amplify each other's top directions (:mod:`unlearn_jax.losses.lotos`).

    Attributes:
      weight: of the penalty, in the units of the ensemble's ``convention``; 0.05 in the
        released code for CIFAR-10 without BatchNorm, 0.01 for CIFAR-100 with it.
      max_length: mal, how long a foreign direction may become; 0.8 as published, for
        layers clipped to norm 1.
      num_vectors: k, directions per layer.
      which: ``"conv"``, all convolutions, as the released code; ``"all"``, dense layers
        too; ``"first"``, the first layer alone, all that members of different
        architectures have in common.
      composite: a layer followed by BatchNorm counts as one map, running statistics
        included; False takes its kernel alone, as the released code does.
      power_iters: warm iterations of PowerQR per step, at the parameters before the
        step.
      init_iters: iterations from random vectors before the first step.
      every: the term acts, and its directions follow, at every so many steps only, with
        its weight unchanged; 1 in the released code, 5 beside TRS.
    """

    weight: float = 0.05
    max_length: float = 0.8
    num_vectors: int = 1
    which: Literal["conv", "all", "first"] = "conv"
    composite: bool = True
    power_iters: int = 1
    init_iters: int = 100
    every: int = 1

    def __post_init__(self) -> None:
        counts = (self.num_vectors, self.power_iters, self.init_iters, self.every)
        if min(self.weight, self.max_length) < 0 or min(counts) < 1:
            raise InputError(
                "LOTOS: weight and max_length must not be negative, the counts at"
                " least 1"
            )
        if self.which not in ("conv", "all", "first"):
            raise InputError(
                f"LOTOS: unknown layers {self.which!r}; choose conv, all or first"
            )


@dataclasses.dataclass(frozen=True)
class Trs:
    """Input gradients of different members must not be parallel, and must be small (:mod:`unlearn_jax.losses.trs`).

    The gradients are an attacker's: of each sample's cross-entropy, with the members in
    evaluation mode.

    Attributes:
      similarity: weight of the mean ``|cos|``; 40 for CIFAR-10 by the authors' account.
      smoothness: weight of the mean squared length, per sample; see
        :func:`unlearn_jax.losses.trs.trs_penalty` for what their 2.5 means.
    """

    similarity: float = 40.0
    smoothness: float = 2.5

    def __post_init__(self) -> None:
        if min(self.similarity, self.smoothness) < 0:
            raise InputError("TRS: the weights must not be negative")


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """What is trained, and to which objective: everything but the data and the recipe.

    Attributes:
      models: the members' architectures, ``[model] * 3`` for three of a kind; any
        sequence.
      objective: ``model -> LossFn``, each member's own loss:
        ``unlearn_jax.train.cross_entropy_loss``, or one of ``unlearn_jax.objectives``
        with its knobs for adversarially trained members.
      lotos: the orthogonality term; None for none.
      trs: the gradient term; None for none.
      convention: ``"sum"`` adds the members' losses, so that each takes the steps it
        would take alone at the same learning rate, and LOTOS's terms, as the released
        code does; ``"mean"`` averages both, as the paper's equation 4 (see
        :func:`unlearn_jax.losses.lotos.lotos_penalty`).
      form: how the members' own losses are computed: ``"loop"`` one after the other in
        one program, ``"vmap"`` stacked (members of one architecture). ``"auto"`` is
        ``loop`` on CPU, where stacked convolutions are slow, and for different
        architectures, ``vmap`` elsewhere.

    Raises:
      InputError: no models, fewer than two with LOTOS or TRS, an unknown convention or
        form, or ``vmap`` of different architectures.
    """

    models: Sequence[Model]
    objective: Callable[[Model], LossFn] = cross_entropy_loss
    lotos: Lotos | None = None
    trs: Trs | None = None
    convention: Convention = "sum"
    form: Form = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "models", tuple(self.models))
        alike = len(set(self.models)) == 1
        if not self.models or (len(self.models) < 2 and (self.lotos or self.trs)):
            raise InputError(
                f"an ensemble of {len(self.models)}: give one member at least, two with"
                " LOTOS or TRS"
            )
        if self.convention not in ("sum", "mean") or self.form not in (
            "auto",
            "loop",
            "vmap",
        ):
            raise InputError(
                "the convention is 'sum' or 'mean', the form 'auto', 'loop' or 'vmap'"
            )
        if self.form == "vmap" and not alike:
            raise InputError(
                "members of different architectures cannot be stacked: choose"
                " form='loop'"
            )
        if self.form == "auto":
            stacked = alike and len(self.models) > 1 and jax.default_backend() != "cpu"
            object.__setattr__(self, "form", "vmap" if stacked else "loop")
