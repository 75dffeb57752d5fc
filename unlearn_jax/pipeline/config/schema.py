"""Configurations: frozen values that a command line overrides and JSON stores."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from unlearn_jax import extensions, values
from unlearn_jax.audit import Discriminator, Features, Reading
from unlearn_jax.checks import check_counts, check_fractions, check_positive
from unlearn_jax.data import augmentation
from unlearn_jax.methods import AMUN, FineTune
from unlearn_jax.methods.base import check_method
from unlearn_jax.objectives import CrossEntropy, Objective
from unlearn_jax.replicas import Form
from unlearn_jax.types import InputError, UnlearnFn
from unlearn_jax.values import value

FORMAT = 3
"""Number of the format, part of every content key; it is increased when stored files
change meaning or when the bits of training change."""

RMIA_SIGNALS = ("taylor_softmax", "softmax_confidence", "soft_margin", "taylor")
"""Signals that are (nearly always) positive: RMIA divides one by another, which would
reverse the order of negative signals."""

TAYLOR_SIGNALS = ("taylor_softmax", "taylor")
"""Signals that change when a constant is added to a sample's logits."""

Architecture = Literal["mlp", "cnn", "resnet", "vgg", "densenet", "vit"]
"""Names of the networks."""

RESERVED_ROWS = ("original", "retrained", "retrained_again", "type", "array")
"""Rows that every table has, and names that mean something else in JSON."""

FOLLOWED = (
    "batch_size",
    "weight_decay",
    "momentum",
    "augment",
    "max_norm",
    "attack",
    "num_epochs",
    "learning_rate",
    "decay_every",
    "decay_factor",
)
"""Hyperparameters that a row may take from the run."""


def _check_seeds(**seeds: int | tuple[int, ...]) -> None:
    for name, given in seeds.items():
        for seed in given if isinstance(given, tuple) else (given,):
            if not 0 <= seed < 2**32:
                raise InputError(f"{name}: seeds must be between 0 and 4294967295")


def check_names(kind: str, names: Iterable[Any], reserved: Sequence[str] = ()) -> None:
    """Raise on names that cannot be those of folders.

    Args:
      kind: what has the names, with its article.
      names: names to check.
      reserved: names that are not allowed.

    Raises:
      InputError: a name cannot be used.
    """
    for name in names:
        is_name = isinstance(name, str) and name not in reserved
        if not is_name or not re.fullmatch(r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*", name):
            but = f", and not {', '.join(reserved)}" if reserved else ""
            raise InputError(
                f"{kind} cannot be called {name!r}: use letters, digits and - _ . +, no"
                f" dot at the start{but}"
            )


@value
class DataConfig:
    """Data set of a run.

    Attributes:
      source: ``digits``, which is bundled; ``tfds``, a TFDS data set by name; ``npz``,
        a file of arrays; or ``folder``, images in class folders.
      name: name of the TFDS data set, such as ``cifar10`` or ``mnist:3.0.1``. For other
        sources, name of the data set whose known shapes are used for compiling.
      path: TFDS data_dir, ``.npz`` file or image folder.
      classes: classes to keep, by number or name, renumbered in this order; all if
        empty.
      num_train: number of training samples. With ``num_test``, train and test sets are
        merged and split at random, which makes forget and test samples exchangeable
        under retraining.
      num_test: number of test samples of that split.
      seed: seed of the random split.
      balanced: whether the random split has equally many samples of each class. Forget
        sets of classes then have equal sizes, so that methods are compiled once for all
        of them.
      size: height and width to which the images of a folder or a TFDS data set are
        resized; None if they all have the same size.
      train_split: TFDS split to train on, such as ``train[:80%]``.
      test_split: TFDS split to test on, such as ``train[80%:]`` or ``validation``.
      image_key: TFDS feature that holds the image.
      label_key: TFDS feature that holds the label.
    """

    source: Literal["digits", "tfds", "npz", "folder"] = "digits"
    name: str = ""
    path: str | None = None
    classes: tuple[int | str, ...] = ()
    num_train: int | None = None
    num_test: int | None = None
    seed: int = 0
    balanced: bool = False
    size: tuple[int, int] | None = None
    train_split: str = "train"
    test_split: str = "test"
    image_key: str = "image"
    label_key: str = "label"

    def __post_init__(self) -> None:
        """Raise on options that contradict each other."""
        _check_seeds(data_seed=self.seed)
        if (self.num_train is None) != (self.num_test is None):
            raise InputError(
                "data.num_train and data.num_test go together: give both, or neither"
                " to keep the data set's own split"
            )
        if self.size is not None and self.source in ("digits", "npz"):
            raise InputError(
                "data.size resizes the images of a folder or of TFDS, and"
                f" data.source={self.source} has images of one size: leave it out"
            )
        if self.path is not None and self.source == "digits":
            raise InputError(
                "data.path is for data.source=tfds, npz or folder, and data.source is"
                " digits: choose a source, or leave it out"
            )
        for name in ("train_split", "test_split", "image_key", "label_key"):
            usual = getattr(DataConfig, name)
            if self.source != "tfds" and getattr(self, name) != usual:
                raise InputError(
                    f"data.{name} is for data.source=tfds, but data.source is"
                    f" {self.source}: leave it at {usual}"
                )
        if self.balanced and self.num_train is None:
            raise InputError(
                "data.balanced needs data.num_train and data.num_test: it is an option"
                " of the random split"
            )
        if self.size is not None and min(self.size) < 1:
            raise InputError(
                f"data.size must be a positive height and width, got {self.size}"
            )

    def identity(self) -> dict[str, Any]:
        """Return plain values that determine the images; TFDS may lie anywhere."""
        plain = to_json(self)
        if self.source not in ("npz", "folder"):
            del plain["path"]
        return plain


@value
class ModelConfig:
    """Network of a run. None stands for the architecture's default of a field.

    Attributes:
      name: name of the architecture.
      conv: convolution form: auto, canonical, lax or onednn.
      dtype: compute type.
      widths: units of the hidden layers (mlp), channels of the stages (cnn).
      batch_norm: whether to normalize batches (cnn, resnet).
      blocks: number of blocks per stage (resnet, densenet).
      width: channels of the first stage (resnet), features of a token (vit).
      halve_projection: whether to halve the sum in blocks with a projection shortcut
        (resnet).
      stem: ``cifar``, or ``imagenet``, which reduces height and width to a quarter
        (resnet).
      block: ``basic``, or ``bottleneck`` as in ResNet-50 and deeper networks (resnet).
      remat: whether to recompute the inside of every block in the backward pass, which
        saves memory (resnet, vit).
      stages: channels of the layers, stage by stage (vgg).
      head: units of the hidden layers of the head, 0 for none (vgg).
      growth: channels that a layer adds (densenet).
      compression: fraction of the channels that a transition keeps (densenet).
      patch_size: side of a patch (vit).
      depth: number of blocks (vit).
      num_heads: number of attention heads (vit).
      mlp_ratio: ratio of hidden units to width (vit).
    """

    name: Architecture = "mlp"
    conv: str = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    widths: tuple[int, ...] | None = None
    batch_norm: bool | None = None
    blocks: tuple[int, ...] | None = None
    width: int | None = None
    halve_projection: bool | None = None
    stem: Literal["cifar", "imagenet"] | None = None
    block: Literal["basic", "bottleneck"] | None = None
    remat: bool | None = None
    stages: tuple[tuple[int, ...], ...] | None = None
    head: int | None = None
    growth: int | None = None
    compression: float | None = None
    patch_size: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    mlp_ratio: int | None = None

    def options(self) -> dict[str, Any]:
        """Return the fields to pass to :func:`unlearn_jax.models.build`."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        del fields["name"]
        return {name: held for name, held in fields.items() if held is not None}


@value
class TrainingConfig:
    """Training of originals, retrained models and references with SGD.

    Attributes:
      num_epochs: epochs of originals and retrained models.
      batch_size: samples per step.
      learning_rate: initial learning rate.
      decay_every: epochs between decays of the learning rate; 0 for a constant rate.
      decay_factor: factor of the learning rate at a decay.
      momentum: momentum of SGD, in [0, 1).
      weight_decay: coefficient of the L2 penalty, added to the gradient.
      augment: augmentation policy: ``none``, ``crop``, ``crop_flip`` ... (see
        ``unlearn-jax list``).
      max_norm: largest spectral norm of any layer (with the BatchNorm that follows it),
        enforced by FastClip in training and in the methods' fine-tuning; None for no
        bound.
      clip_period: training steps between two clips, if ``max_norm`` is set.
      objective: ``CrossEntropy()``, or ``AdversarialTraining()`` and ``TRADES()`` for
        adversarially trained models.
    """

    num_epochs: int = 100
    batch_size: int = 64
    learning_rate: float = 0.1
    decay_every: int = 0
    decay_factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: str = "none"
    max_norm: float | None = None
    clip_period: int = 100
    objective: Objective = CrossEntropy()

    def __post_init__(self) -> None:
        """Raise on values that training cannot use."""
        check_counts(num_epochs=self.num_epochs, batch_size=self.batch_size)
        check_counts(0, decay_every=self.decay_every)
        check_positive(learning_rate=self.learning_rate, decay_factor=self.decay_factor)
        if self.max_norm is not None:
            check_positive(max_norm=self.max_norm)
        if self.clip_period < 1:
            raise InputError("training.clip_period must be at least 1 step")
        if not 0 <= self.momentum < 1:
            raise InputError("training.momentum must be in [0, 1)")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError("training.weight_decay must be finite and not negative")
        if not values.is_value(self.objective) or not callable(self.objective):
            raise InputError(
                "training.objective must be a value such as CrossEntropy() or TRADES(),"
                f" got {self.objective!r}"
            )
        augmentation(self.augment)


HARD = ("memorized", "uncertain")
"""Kinds of forget sets that are chosen by the reference models."""


@value
class ForgetConfig:
    """Training samples to forget.

    Attributes:
      kind: random samples, whole classes, the samples in a file, or hard samples:
        ``memorized`` are those that the reference models memorize most, ``uncertain``
        those with the lowest confidence of the references not trained on them.
      fraction: fraction of the training set to forget (random, memorized, uncertain).
      count: number of samples to forget, instead of a fraction.
      seeds: seeds of the random forget sets, one set per seed.
      generator: random generator; ``legacy`` draws as AMUN's released code does, which
        gives its published forget sets.
      classes: classes to forget, by number or name; one forget set per class (class).
      together: whether the classes form a single forget set (class).
      path: file of indices or of a mask (file); positions refer to the run's training
        set, after any random split.
      requests: number of requests of equal size in which every set is forgotten, one
        after the other.
    """

    kind: Literal["random", "class", "file", "memorized", "uncertain"] = "random"
    fraction: float | None = 0.1
    count: int | None = None
    seeds: tuple[int, ...] = (1, 10, 100)
    generator: Literal["default", "legacy"] = "default"
    classes: tuple[int | str, ...] = (0,)
    together: bool = False
    path: str | None = None
    requests: int = 1

    def __post_init__(self) -> None:
        """Raise on unusable seeds or requests, or a file that is not read."""
        _check_seeds(forget_seeds=self.seeds)
        if self.requests < 1:
            raise InputError("forget.requests must be positive")
        if self.path is not None and self.kind != "file":
            raise InputError(
                f"forget.path is a file of samples, but forget.kind is {self.kind}: set"
                " forget.kind=file, or leave it out"
            )


@value
class ReplicasConfig:
    """Numbers of models, and the way to train many at once.

    Attributes:
      originals: seeds of the original models.
      repeats: unlearning runs per original and forget set.
      references: number of reference models of the membership attack (even); each
        sample is in the training sets of exactly half of them. Runs that forget classes
        may have 0: they then have no RMIA and no LiRA.
      reference_seed: seed of the references and of their membership design.
      reference_generator: random generator of the design; ``legacy`` draws as the
        released code of LiRA and AMUN does.
      reference_epochs: epochs of the references; 0 for as many as the originals.
      keep_references: part of the references to store: ``logits`` over the pool;
        ``models`` and their logits, although no stage reads the models again; or only
        the ``signals`` that the audit reads, three numbers per sample, if logits of
        many classes would fill the disk.
      mapper: form of computing many models on one device; ``split`` instead trains one
        model after another, with each batch divided over all devices.
      devices: number of devices to spread models over; all if None.
      split: number of these devices that train one model together, each with its part
        of every batch; 1 unless a model fills a device.
      shard_data: whether training divides the images over these devices, instead of
        storing all images on each; None to do so only if the images would take more
        than a quarter of a device's memory.
      across_hosts: whether all processes compute every piece together, over one mesh of
        all their devices, instead of dividing the pieces; for models and data sets that
        do not fit on one host.
      group: largest number of models trained and stored at a time.
      checkpoint_seconds: shortest time between checkpoints inside a group, in seconds.
    """

    originals: tuple[int, ...] = (0, 1, 2)
    repeats: int = 1
    references: int = 64
    reference_seed: int = 0
    reference_generator: Literal["default", "legacy"] = "default"
    reference_epochs: int = 0
    keep_references: Literal["models", "logits", "signals"] = "logits"
    mapper: Form = "auto"
    devices: int | None = None
    split: int = 1
    shard_data: bool | None = None
    across_hosts: bool = False
    group: int = 16
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Raise on numbers of models that a run cannot use."""
        _check_seeds(originals=self.originals, reference_seed=self.reference_seed)
        if not self.checkpoint_seconds >= 0:
            raise InputError(
                "replicas.checkpoint_seconds must be 0 or more, got"
                f" {self.checkpoint_seconds}"
            )
        check_counts(repeats=self.repeats, group=self.group, split=self.split)
        check_counts(
            0, references=self.references, reference_epochs=self.reference_epochs
        )
        if self.across_hosts and self.devices is not None:
            raise InputError(
                "replicas.across_hosts takes the devices of all processes: leave"
                " replicas.devices out"
            )
        if not self.originals or len(set(self.originals)) < len(self.originals):
            raise InputError("replicas.originals must be one or more different seeds")


@value
class AttackConfig:
    """Search for AMUN's adversarial sets.

    Attributes:
      norm: norm of the ball.
      search: the paper's search over radii (auto is doubling on CPU and grid
        elsewhere), or minimal, which approaches the closest example with a tenth of the
        gradients.
      epsilon_init: smallest radius.
      num_radii: number of radii, each twice the one before.
      num_steps: gradient steps per radius.
      depth: distance of the example beyond the closest one, as a fraction of the
        closest one's distance (minimal search only); 0 for the closest example.
      step_ratio: ratio of the step length to the radius.
      batch_size: samples attacked at a time.
      restart: whether each radius starts from the clean image (the paper) rather than
        from the last iterate (the released code).
      keep: misclassified iterate to keep, the first or the last.
      kind: projected gradient descent, or the weak attack along one gradient from
        AMUN's ablation.
      source: model to attack: the original to unlearn from, or the next original of the
        run, whose examples are then transferred.
      failures: fraction of the forget samples for which the attack is made to fail, by
        a cap on the distance.
    """

    norm: Literal["l2", "linf"] = "l2"
    search: Literal["auto", "grid", "doubling", "minimal"] = "auto"
    epsilon_init: float = 0.04
    num_radii: int = 12
    num_steps: int = 50
    depth: float = 0.0
    step_ratio: float = 0.1
    batch_size: int = 128
    restart: bool = True
    keep: Literal["first", "last"] = "first"
    kind: Literal["pgd", "fast"] = "pgd"
    source: Literal["own", "other"] = "own"
    failures: float = 0.0

    def __post_init__(self) -> None:
        """Raise on searches that cannot work."""
        check_positive(epsilon_init=self.epsilon_init, step_ratio=self.step_ratio)
        check_counts(
            num_radii=self.num_radii,
            num_steps=self.num_steps,
            batch_size=self.batch_size,
        )
        if not 0 <= self.failures < 1:
            raise InputError("attack.failures must be in [0, 1)")
        if self.search == "grid" and not self.restart:
            raise InputError(
                "attack.search=grid attacks all radii at once: attack.restart=False"
                " needs attack.search=doubling"
            )
        if self.search == "minimal" and (self.keep == "last" or not self.restart):
            raise InputError(
                "attack.search=minimal keeps the closest example: attack.keep=last and"
                " attack.restart=False need attack.search=doubling"
            )
        is_depth = 0 <= self.depth < math.inf
        if not is_depth or (self.depth and self.search != "minimal"):
            raise InputError(
                "attack.depth must be finite and not negative, and is an option of"
                f" attack.search=minimal only; got {self.depth}"
            )


@value
class AuditConfig:
    """Measures of forgetting.

    Attributes:
      signal: RMIA's signal: taylor_softmax, softmax_confidence, soft_margin or taylor;
        or your own, by ``package.module:function`` or an entry point of
        ``unlearn_jax.signals``.
      columns: additional columns of your own: names of
        :class:`unlearn_jax.pipeline.Column` values, ``package.module:attribute`` or
        entry points of ``unlearn_jax.columns``.
      soft_margin: whether to add FT AUC by the soft margin, which does not change when
        a constant is added to a sample's logits. ``auto`` adds it if ``signal`` is a
        Taylor form, which does change, and some row's method is not a fine-tuning
        method (or the methods are not known).
      mode: RMIA's reference models: those trained with and those trained without a
        sample, or only those trained without it.
      gamma: RMIA's threshold on the ratio.
      comparison: RMIA's comparison of ratios; ``quotient`` divides them as AMUN's
        released code does, which reverses the comparison with a negative ratio (see
        :func:`unlearn_jax.audit.dominated_fraction`).
      offline_a: RMIA's offline coefficient.
      mis: whether to add the older SVC confidence attack.
      lira: whether to add LiRA, online or offline by ``mode``.
      ulira: whether to add U-LiRA if classes are forgotten. Its shadow models are the
        run's own unlearned and retrained models; it needs three or more originals.
      mia_nn: whether to add MIA-NN if classes are forgotten.
      discriminators: discriminators of MIA-NN, one column each; they differ in their
        features. The first one finds the nearest class for all. On ``logits`` with the
        older attacks' kernel width, retrained models and even originals score about 0
        if logits are large: use ``gamma="scale"`` there.
      readings: readings of MIA-NN, one column for each reading and discriminator.
      targets: whether to measure how close the targets of class unlearning are to
        retrained models.
      mis_samples: samples per side of the SVC.
      refits: number of replicates in which the SVC attacks (MIS, MIA of Kodge et al.)
        and MIA-NN are fitted again, for their intervals; 200 are enough, and 0 omits
        the intervals. Each replicate takes one fit per run and row.
      max_fpr: false positive rate at which the true positive rate is reported.
      num_bootstrap: number of bootstrap replicates.
      level: coverage of the intervals.
      seed: seed of the bootstrap and of the SVC's subsamples.
      klom: whether to add KLoM, the distance between the margins of an ensemble of
        unlearned models and those of an ensemble of retrained models; it needs many
        originals (20 or more) and one forget set.
      norms: whether to add the spectral norm of every layer (with the BatchNorm that
        follows it) for the models of every row.
      theory: whether to add the terms of AMUN's Theorem 4.1 for the rows that use
        adversarial examples.
    """

    signal: str = "taylor_softmax"
    soft_margin: Literal["auto", "always", "never"] = "auto"
    columns: tuple[str, ...] = ()
    mode: Literal["online", "offline"] = "online"
    gamma: float = 2.0
    comparison: Literal["product", "quotient"] = "product"
    offline_a: float = 0.3
    mis: bool = True
    lira: bool = False
    ulira: bool = True
    mia_nn: bool = True
    discriminators: tuple[Discriminator, ...] = (
        Discriminator(features="probabilities"),
    )
    readings: tuple[Reading, ...] = ("neighbor_against_rest",)
    targets: bool = False
    mis_samples: int = 2000
    refits: int = 0
    max_fpr: float = 0.01
    num_bootstrap: int = 1000
    level: float = 0.95
    seed: int = 0
    klom: bool = False
    norms: bool = False
    theory: bool = False

    def __post_init__(self) -> None:
        """Raise on values that an audit cannot use."""
        _check_seeds(audit_seed=self.seed)
        check_positive(gamma=self.gamma)
        check_counts(mis_samples=self.mis_samples, num_bootstrap=self.num_bootstrap)
        check_fractions(max_fpr=self.max_fpr, offline_a=self.offline_a)
        if not 0 <= self.refits <= self.num_bootstrap:
            raise InputError(
                f"audit.refits is {self.refits}: choose 0 to audit.num_bootstrap, such"
                " as 200"
            )
        if not 0 < self.level < 1:
            raise InputError("audit.level must be between 0 and 1")
        known = self.signal in RMIA_SIGNALS or ":" in self.signal
        if not known and self.signal not in extensions.names("signals"):
            raise InputError(
                f"unknown audit.signal {self.signal!r}; RMIA takes ratios of a positive"
                f" signal: {', '.join(RMIA_SIGNALS)}"
            )
        features = [machine.features for machine in self.discriminators]
        for name, given, allowed in (
            ("audit.discriminators", features, get_args(Features)),
            ("audit.readings", self.readings, get_args(Reading)),
        ):
            if not given or len(set(given)) < len(given) or set(given) - set(allowed):
                raise InputError(
                    f"{name} must be one or more of {', '.join(allowed)}, each once"
                )

    def mia_nn_columns(self) -> dict[str, tuple[Discriminator, Reading]]:
        """Return the variants of MIA-NN by the name of their column."""
        if not self.mia_nn:
            return {}
        columns = {}
        for machine in self.discriminators:
            for reading in self.readings:
                name = "mia_nn"
                if machine.features == "logits":
                    name += "_logits"
                if reading == "neighbor_against_forgotten":
                    name += "_forgotten"
                columns[name] = (machine, reading)
        return columns

    def wants_soft_margin(self, *, is_gradient_free: bool) -> bool:
        """Return whether the table has FT AUC by the soft margin.

        Args:
          is_gradient_free: whether some method of the table is not a fine-tuning
            method.
        """
        if self.soft_margin != "auto":
            return self.soft_margin == "always"
        return is_gradient_free and self.signal in TAYLOR_SIGNALS


@value
class TuningConfig:
    """Search for the methods' hyperparameters on problems that no table reports.

    Attributes:
      trials: number of settings to try per hyperparameter that a row searches, so that
        a method with two of them still tries enough learning rates; 0 for no search.
      originals: seeds of the originals to tune on, two or more: a learning rate that
        suits one original may break the next.
      seeds: seeds of the forget sets to tune on.
      classes: classes to forget while tuning, by number or name, if the run forgets
        classes; reported classes are not allowed. If empty, the first two other
        classes, or as many as are forgotten together.
    """

    trials: int = 0
    originals: tuple[int, ...] = (101, 102)
    seeds: tuple[int, ...] = (101, 102)
    classes: tuple[int | str, ...] = ()

    def __post_init__(self) -> None:
        """Raise on a search without originals or forget sets to tune on."""
        _check_seeds(tuning_originals=self.originals, tuning_seeds=self.seeds)
        if self.trials < 0:
            raise InputError("tuning.trials must not be negative")
        if self.trials and len(set(self.originals)) < 2:
            raise InputError(
                "tuning.originals must name two seeds or more: a rate that suits one"
                " original may break the next"
            )
        if self.trials and not self.seeds:
            raise InputError("tuning.seeds must name one seed or more")
        for name, seeds in (("originals", self.originals), ("seeds", self.seeds)):
            if self.trials and len(set(seeds)) < len(seeds):
                raise InputError(f"tuning.{name} must be different seeds, got {seeds}")


@value
class Row:
    """Method to run, with the pipeline's options for it.

    Attributes:
      method: value such as ``AMUN(retain=False)``, or
        ``filtered(Identity(), Mask())``, an output filter that forgets classes.
      label: label in tables; the row's name if empty.
      search: hyperparameters to tune, in the form of
        :data:`unlearn_jax.methods.SPACES`; a range without ``published`` starts at the
        method's own value. None for the method's entry there, ``{}`` for no search. A
        hyperparameter is left out if the method sets it to other than its usual value,
        or if the command line sets it to any value.
      attack: name of the attack, one of the run's ``attacks``, that makes the method's
        adversarial sets; the run's own attack if empty.
      adaptive: whether to recompute the adversarial set on the current model before
        every request.
      follow: fields of the method with values from the run's training and attack. None
        for ``batch_size``, ``weight_decay``, ``momentum``, ``augment``, ``max_norm``
        and ``attack``, each only if the method leaves it at the default shared by
        fine-tuning methods; ``()`` leaves the method as it is.
      baseline: name of another row to compare the row with: the table then has their
        paired differences. Empty for no comparison.
    """

    method: UnlearnFn
    label: str = ""
    search: Mapping[str, Any] | None = None
    attack: str = ""
    adaptive: bool = False
    follow: tuple[str, ...] | None = None
    baseline: str = ""

    def __post_init__(self) -> None:
        """Raise on options that do not fit the method; turn lists into tuples."""
        check_method(self.method)
        if self.search is not None:
            search = {
                name: tuple(levels) if isinstance(levels, list) else levels
                for name, levels in self.search.items()
            }
            object.__setattr__(self, "search", search)
        if (self.attack or self.adaptive) and not takes_attack(self.method):
            raise InputError(
                f"method {self.method!r} is given no adversarial examples, so its row"
                " has no attack"
            )
        for name in self.follow or ():
            if name not in FOLLOWED:
                raise InputError(
                    f"a row cannot follow {name!r}; choose from {', '.join(FOLLOWED)}"
                )


def takes_attack(method: UnlearnFn) -> bool:
    """Return whether a method takes adversarial sets: it has a field ``attack``."""
    return values.is_value(method) and "attack" in values.fields_of(method)


def _default_rows() -> dict[str, Row]:
    return {
        "finetune": Row(label="Fine-tuned (FT)", method=FineTune()),
        "amun": Row(label="AMUN", method=AMUN()),
        "amun_no_retain": Row(label="AMUN without D_R", method=AMUN(retain=False)),
    }


@value
class RunConfig:
    """Configuration of a whole run.

    Attributes:
      title: heading of the report.
      data: data set.
      model: network.
      training: training of originals, retrained models and references.
      forget: samples to forget.
      replicas: numbers of models, and the way to train many at once.
      attack: attack that makes the adversarial sets.
      attacks: other attacks by name, for rows that name one.
      tuning: search for hyperparameters.
      audit: measures of forgetting.
      rows: methods to run, by name.
      only: names of the rows to run; all if empty.
      bank: folder of trained models that runs share; ``banks`` next to the working
        directory if None.
    """

    title: str = "AMUN on digits"
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    forget: ForgetConfig = ForgetConfig()
    replicas: ReplicasConfig = ReplicasConfig()
    attack: AttackConfig = AttackConfig()
    attacks: Mapping[str, AttackConfig] = dataclasses.field(default_factory=dict)
    tuning: TuningConfig = TuningConfig()
    audit: AuditConfig = AuditConfig()
    rows: Mapping[str, Row] = dataclasses.field(default_factory=_default_rows)
    only: tuple[str, ...] = ()
    bank: str | None = None

    def __post_init__(self) -> None:
        """Raise on unusable or unknown names."""
        check_names("a row", self.rows, RESERVED_ROWS)
        check_names("an attack", self.attacks, RESERVED_ROWS)
        for name, row in self.rows.items():
            attack = self.attack_named(row.attack)
            if row.adaptive and (attack.kind, attack.source, attack.failures) != (
                "pgd",
                "own",
                0.0,
            ):
                raise InputError(
                    f"row {name!r}: adaptive needs an attack of kind pgd, with source"
                    " own and no failures"
                )
            if row.baseline == name or row.baseline not in {"", *self.rows}:
                raise InputError(
                    f"row {name!r}: the baseline {row.baseline!r} is not another row;"
                    f" rows are {', '.join(self.rows)}"
                )
        for name in self.only:
            if name not in self.rows:
                raise InputError(
                    f"only names the unknown row {name!r}; rows are"
                    f" {', '.join(self.rows)}"
                )

    def attack_named(self, name: str) -> AttackConfig:
        """Return an attack of the run.

        Args:
          name: one of ``attacks``, or empty for the run's own.

        Raises:
          InputError: an unknown name.
        """
        if name and name not in self.attacks:
            raise InputError(
                f"unknown attack {name!r}: name one of the run's attacks"
                f" ({', '.join(self.attacks) or 'it has none'})"
            )
        return self.attacks[name] if name else self.attack


def to_json(config: Any) -> Any:
    """Return a (nested) configuration as plain values, to store, print and hash."""
    return json.loads(json.dumps(values.to_json(config)))


def digest(*parts: Any) -> str:
    """Return the SHA-256 digest of (plain) values and of the format's number."""
    text = json.dumps(
        [FORMAT, *map(values.to_json, parts)], sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(text.encode()).hexdigest()
