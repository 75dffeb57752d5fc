"""Hyperparameters of joint training: the ensemble, and the terms between members."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

from jax.typing import ArrayLike

from unlearn_jax import targets
from unlearn_jax.checks import check_choice, check_counts, check_not_negative
from unlearn_jax.losses import LossTerm, lotos
from unlearn_jax.losses._lotos import Convention, Which
from unlearn_jax.train import LossFn, check_type, cross_entropy_loss
from unlearn_jax.types import ApplyFn, InputError, Model
from unlearn_jax.values import value

Form = Literal["auto", "loop", "vmap"]


@value
class Lotos:
    """Penalty on layers that amplify each other's top directions.

    See :func:`unlearn_jax.losses.lotos`.

    Attributes:
      weight: weight of the penalty, in the units of the ensemble's ``convention``; 0.05
        in the released code for CIFAR-10 without BatchNorm, 0.01 for CIFAR-100 with it.
      max_length: mal in the paper, the length up to which a foreign direction is
        tolerated; 0.8 as published, for layers clipped to norm 1.
      num_vectors: k in the paper, the number of directions per layer.
      which: layers that are penalized: ``"conv"`` for all convolutions, as in the
        released code; ``"all"`` for dense layers too; ``"first"`` for the first layer
        alone, the only one that members of different architectures have in common.
      composite: whether a layer followed by BatchNorm counts as one map, running
        statistics included. False takes its kernel alone, as the released code does.
      num_iters: warm-started PowerQR iterations per step, at the parameters before the
        step.
      init_iters: PowerQR iterations from random vectors before the first step.
      every: period in steps. Only every ``every``-th step updates the directions and
        adds the penalty, with the weight unchanged; 1 in the released code, 5 in
        combination with TRS.

    Raises:
      InputError: a weight or length that is negative or not finite, or a count below 1.
    """

    weight: float = 0.05
    max_length: float = 0.8
    num_vectors: int = 1
    which: Which = "conv"
    composite: bool = True
    num_iters: int = 1
    init_iters: int = 100
    every: int = 1

    def __post_init__(self) -> None:
        """Raise on values out of range."""
        check_not_negative(weight=self.weight, max_length=self.max_length)
        check_counts(
            num_vectors=self.num_vectors,
            num_iters=self.num_iters,
            init_iters=self.init_iters,
            every=self.every,
        )

    def term(
        self, apply_fns: Sequence[ApplyFn], sample: ArrayLike, convention: Convention
    ) -> LossTerm:
        """Return the term without its weight.

        Args:
          apply_fns: apply functions, one per member.
          sample: ``[B, ...]`` images; only the shape of a single image is read.
          convention: convention of the sum over pairs.
        """
        return lotos(
            apply_fns,
            sample,
            num_vectors=self.num_vectors,
            max_length=self.max_length,
            which=self.which,
            composite=self.composite,
            num_iters=self.num_iters,
            init_iters=self.init_iters,
            convention=convention,
            every=self.every,
        )


@value
class Trs:
    """Penalty on members' input gradients that are parallel to each other or large.

    The gradients are those that an attacker would use: of each sample's cross-entropy,
    with the members in evaluation mode. See :mod:`unlearn_jax.losses.trs`.

    Attributes:
      similarity: weight of the mean ``|cos|``; 40 for CIFAR-10 according to the
        authors.
      smoothness: weight of the mean squared length, per sample, in the units of
        :func:`unlearn_jax.losses.trs.trs_penalty`, not in those of the released code.

    Raises:
      InputError: a weight that is negative or not finite.
    """

    similarity: float = 40.0
    smoothness: float = 2.5

    def __post_init__(self) -> None:
        """Raise on values out of range."""
        check_not_negative(similarity=self.similarity, smoothness=self.smoothness)


@dataclasses.dataclass(frozen=True)
class Ensemble:
    """Members and objective of joint training, without the data and the recipe.

    Attributes:
      models: sequence of the members' architectures, such as ``[model] * 3`` for three
        members of one architecture.
      objective: ``model -> LossFn``, each member's own loss:
        ``unlearn_jax.train.cross_entropy_loss``, or one of ``unlearn_jax.objectives``
        for adversarially trained members.
      lotos: orthogonality term; None to train without it.
      trs: gradient term; None to train without it.
      convention: ``"sum"`` adds the members' losses, and adds LOTOS's terms, as the
        released code does; each member then takes the steps that it would take alone at
        the same learning rate. ``"mean"`` averages both, as in the paper's equation 4
        (see :func:`unlearn_jax.losses.lotos_penalty`).
      form: computation of the members' own losses: ``"loop"`` computes them one after
        the other in one program, ``"vmap"`` computes them for stacked members of one
        architecture. ``"auto"`` is ``vmap`` on TPUs for members of one architecture and
        ``loop`` otherwise: stacked convolutions become grouped ones, which are slow on
        CPUs and GPUs.

    Raises:
      InputError: no models or one that is not a model, fewer than two with LOTOS or
        TRS, an unknown convention or form, or ``vmap`` with different architectures.
    """

    models: Sequence[Model]
    objective: Callable[[Model], LossFn] = cross_entropy_loss
    lotos: Lotos | None = None
    trs: Trs | None = None
    convention: Convention = "sum"
    form: Form = "auto"

    def __post_init__(self) -> None:
        """Raise on members that cannot be trained together, and choose the form."""
        if isinstance(self.models, Model):
            raise InputError("models must be a sequence: pass [model] * 3, say")
        object.__setattr__(self, "models", tuple(self.models))
        for model in self.models:
            check_type("each of the models", model, Model)
        is_uniform = len(set(self.models)) == 1
        if not self.models or (len(self.models) < 2 and (self.lotos or self.trs)):
            raise InputError(
                f"the ensemble has {len(self.models)} members: give at least one, and"
                " two with LOTOS or TRS"
            )
        check_choice("convention", self.convention, ("sum", "mean"))
        check_choice("form", self.form, ("auto", "loop", "vmap"))
        if self.form == "vmap" and not is_uniform:
            raise InputError(
                "members of different architectures cannot be stacked: choose"
                " form='loop'"
            )
        if self.form == "auto":
            is_stacked = (
                is_uniform and len(self.models) > 1 and targets.platform() == "tpu"
            )
            object.__setattr__(self, "form", "vmap" if is_stacked else "loop")

    def lotos_term(self, sample: ArrayLike) -> LossTerm | None:
        """Return the orthogonality term of these members; None without LOTOS.

        Args:
          sample: ``[B, ...]`` images; only the shape of a single image is read.
        """
        if self.lotos is None:
            return None
        apply_fns = [model.apply for model in self.models]
        return self.lotos.term(apply_fns, sample, self.convention)
