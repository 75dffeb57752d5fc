"""What a run is: frozen dataclasses of plain values, so that a configuration can be overridden, printed and hashed."""

import dataclasses
import hashlib
import json
from typing import Any, Literal

from unlearn_jax.audit import Discriminator

FORMAT = 2
"""Raised when stored files change meaning, or training its bits; part of every content key."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the images come from."""

    source: Literal["digits", "tfds", "npz", "folder"] = "digits"
    """``digits`` is bundled; ``tfds`` a TFDS data set by name; ``npz`` a file of arrays; ``folder`` images in class
    folders."""
    name: str = ""
    """Name of the TFDS data set, such as ``cifar10`` or ``mnist:3.0.1``."""
    path: str | None = None
    """TFDS data_dir, ``.npz`` file or image folder."""
    num_train: int | None = None
    """Training samples; with ``num_test``, a fresh random split of train and test together, which makes forget and test
    samples exchangeable under retraining."""
    num_test: int | None = None
    """Test samples, see ``num_train``."""
    seed: int = 0
    """Seed of the random split."""
    balanced: bool = False
    """The random split has equally many samples of each class. Forget sets of classes are then of one size, so that
    methods are compiled once for all of them."""
    size: tuple[int, int] | None = None
    """Height and width that the images of a folder are resized to; None if they all have one size."""
    train_split: str = "train"
    """TFDS split to train on, such as ``train[:80%]``."""
    test_split: str = "test"
    """TFDS split to test on, such as ``train[80%:]`` or ``validation``."""
    image_key: str = "image"
    """TFDS feature that holds the image."""
    label_key: str = "label"
    """TFDS feature that holds the label."""


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which network."""

    name: str = "mlp"
    """``mlp``, ``cnn``, ``resnet``, ``vgg`` or ``densenet``."""
    fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Its fields, such as widths, blocks, batch_norm, halve_projection."""
    conv: str = "auto"
    """Convolution form: auto, canonical, im2col or lax."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Compute type."""


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How originals, retrained models and references are trained: SGD."""

    num_epochs: int = 100
    """Epochs of originals and retrained models."""
    batch_size: int = 64
    """Samples per step."""
    learning_rate: float = 0.1
    """Initial learning rate."""
    decay_every: int = 0
    """Epochs between decays of the learning rate; 0 for a constant rate."""
    decay_factor: float = 0.1
    """Factor of a decay."""
    momentum: float = 0.9
    """Momentum."""
    weight_decay: float = 5e-4
    """L2 decay, added to the gradient."""
    augment: str = "none"
    """``none``, ``crop``, ``crop_flip`` ... (see ``unlearn-jax list``); also used by methods on training samples."""
    max_norm: float | None = None
    """Largest spectral norm of any layer (with the BatchNorm behind it), held by FastClip while training and while
    methods fine-tune; None leaves the layers alone."""
    clip_period: int = 100
    """Training steps between two clips, with ``max_norm``."""
    objective: str = "cross_entropy"
    """``cross_entropy``, or ``adversarial`` and ``trades`` for adversarially trained models."""
    objective_fields: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Its knobs, such as beta and epsilon of ``trades``."""


@dataclasses.dataclass(frozen=True)
class ForgetConfig:
    """Which training samples are forgotten."""

    kind: Literal["random", "class", "file", "memorized", "uncertain"] = "random"
    """Random samples, whole classes, the indices in a file, or hard ones: the samples that the reference models
    memorize most, or those that the references which did not train on them are least
    sure of."""
    fraction: float | None = 0.1
    """Share of the training set (random, memorized, uncertain)."""
    count: int | None = None
    """Number of samples instead of a share."""
    seeds: tuple[int, ...] = (1, 10, 100)
    """One random forget set per seed."""
    generator: Literal["default", "legacy"] = "default"
    """``legacy`` draws as AMUN's released code does, which gives its published forget sets."""
    classes: tuple[int, ...] = (0,)
    """One forget set per class (class)."""
    together: bool = False
    """The classes make one forget set (class)."""
    path: str | None = None
    """Index or mask file (file); positions count in the training set as the run has it, after any random split."""
    requests: int = 1
    """Forget every set in this many requests of equal size, one after the other."""


@dataclasses.dataclass(frozen=True)
class ReplicasConfig:
    """How many models, and how they are trained side by side."""

    originals: tuple[int, ...] = (0, 1, 2)
    """Seeds of the original models."""
    repeats: int = 1
    """Unlearning runs per original and forget set."""
    references: int = 64
    """Reference models of the membership attack (even); each sample is in exactly half of them. Runs that forget
    classes can do without (0): they then have no RMIA and no LiRA."""
    reference_seed: int = 0
    """Seed of the references and of their membership design."""
    reference_generator: Literal["default", "legacy"] = "default"
    """``legacy`` draws the design as the released LiRA and AMUN codes do."""
    reference_epochs: int = 0
    """Epochs of the references; 0 for as many as the originals."""
    mapper: Literal["auto", "loop", "map", "vmap", "split"] = "auto"
    """How to go through many models on one device; ``split`` instead trains one after another, each batch divided over
    all devices."""
    devices: int | None = None
    """Devices to spread models over; all of them if None."""
    group: int = 16
    """Models trained and stored at a time (at most)."""
    checkpoint_seconds: float = 60.0
    """Least time between checkpoints inside a group."""


@dataclasses.dataclass(frozen=True)
class AttackConfig:
    """How AMUN's adversarial set is made."""

    norm: Literal["l2", "linf"] = "l2"
    """Norm of the ball."""
    search: Literal["auto", "grid", "doubling"] = "auto"
    """Search over radii; auto is doubling on CPU and grid elsewhere."""
    epsilon_init: float = 0.04
    """Smallest radius."""
    num_radii: int = 12
    """Number of doubled radii."""
    num_steps: int = 50
    """Gradient steps per radius."""
    step_ratio: float = 0.1
    """Step length over radius."""
    batch_size: int = 128
    """Samples attacked at a time."""
    restart: bool = True
    """Each radius starts from the clean image (the paper) rather than from the last iterate (the released code)."""
    keep: Literal["first", "last"] = "first"
    """Which misclassified iterate is kept."""
    kind: Literal["pgd", "fast"] = "pgd"
    """Projected gradient descent, or the weak attack along one gradient of AMUN's ablation."""
    source: Literal["own", "other"] = "own"
    """Whose adversarial examples: of the original to unlearn from, or of the next original of the run (transferred)."""
    failures: float = 0.0
    """Share of the forget samples that is made to fail, by a cap on the distance."""


@dataclasses.dataclass(frozen=True)
class AuditConfig:
    """How forgetting is measured."""

    signal: str = "taylor_softmax"
    """Membership signal of RMIA: taylor_softmax, softmax_confidence, soft_margin or taylor."""
    mode: Literal["online", "offline"] = "online"
    """RMIA's references: in and out, or out only."""
    gamma: float = 2.0
    """RMIA's threshold on the ratio."""
    offline_a: float = 0.3
    """RMIA's offline coefficient."""
    mis: bool = True
    """Also the older SVC confidence attack."""
    lira: bool = False
    """Also LiRA, online or offline as ``mode`` says."""
    ulira: bool = True
    """U-LiRA, where classes are forgotten: the run's own unlearned and retrained models are its shadow models; wants
    three or more originals."""
    mia_nn: bool = True
    """MIA-NN, where classes are forgotten."""
    mia_nn_fields: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {
            **dataclasses.asdict(Discriminator()),
            "features": "probabilities",
        }
    )
    """Its options, such as features, kernel and columns. On ``logits``, with the older attacks' kernel width, retrained
    models score about 0 where logits are large, and original models too: nothing could
    be told from that."""
    targets: bool = False
    """Also how near the targets of class unlearning are to retrained models, with their similarities spoiled."""
    mis_samples: int = 2000
    """Samples per side of the SVC."""
    max_fpr: float = 0.01
    """False positive rate at which the true positive rate is reported."""
    num_bootstrap: int = 1000
    """Bootstrap replicates."""
    level: float = 0.95
    """Coverage of the intervals."""
    seed: int = 0
    """Seed of bootstrap and SVC subsamples."""
    klom: bool = False
    """Also KLoM, the distance between the margins of an ensemble of unlearned models and one of retrained models; wants
    many originals (20 or more) and one forget set."""
    norms: bool = False
    """Also the spectral norm of every layer (with the BatchNorm behind it), of the models of every row."""
    theory: bool = False
    """Also the terms of AMUN's Theorem 4.1, for the rows that use adversarial examples."""


@dataclasses.dataclass(frozen=True)
class TuningConfig:
    """How the knobs of the methods are chosen: on originals and forget sets that the table does not report."""

    trials: int = 0
    """Settings tried per row, equally many for every method; 0 takes the rows as they are."""
    originals: tuple[int, ...] = (101,)
    """Seeds of originals to tune on."""
    seeds: tuple[int, ...] = (101, 102, 103)
    """Seeds of forget sets to tune on."""
    classes: tuple[int, ...] = ()
    """Classes to forget while tuning, where classes are forgotten; none that is reported. If empty, the first two of
    the others, or as many as are forgotten together."""


def _default_rows() -> dict[str, dict[str, Any]]:
    return {
        "finetune": {
            "label": "Fine-tuned (FT)",
            "method": "finetune",
            "learning_rate": 0.01,
        },
        "amun": {"label": "AMUN", "method": "amun", "learning_rate": 0.01},
        "amun_no_retain": {
            "label": "AMUN without D_R",
            "method": "amun",
            "retain": False,
            "learning_rate": 0.01,
        },
    }


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A whole run."""

    title: str = "AMUN on digits"
    """Heading of the report."""
    data: DataConfig = DataConfig()
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    training: TrainingConfig = TrainingConfig()
    forget: ForgetConfig = ForgetConfig()
    replicas: ReplicasConfig = ReplicasConfig()
    attack: AttackConfig = AttackConfig()
    attacks: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    """Other attacks by name, as changes to ``attack``; a row names the one it wants as its ``attack``."""
    tuning: TuningConfig = TuningConfig()
    audit: AuditConfig = dataclasses.field(default_factory=AuditConfig)
    rows: dict[str, dict[str, Any]] = dataclasses.field(default_factory=_default_rows)
    """The methods to run: row name to ``{"method": ..., "label": ..., knob: value, ...}``; further keys are ``search``,
    the knobs to tune, ``attack``, one of ``attacks``, ``adaptive``, which recomputes
    the adversarial set at every request, and ``filter``, an output filter that forgets
    classes (``mask``, ``mpru``, ``mpru_direct``)."""
    only: tuple[str, ...] = ()
    """Run these rows only; all if empty."""
    bank: str | None = None
    """Folder of trained models that runs share; ``banks`` beside the working directory if None."""


def to_json(config: Any) -> Any:
    """Plain values of a (nested) configuration: what is stored, printed and hashed."""
    return json.loads(json.dumps(_plain(config)))


def digest(*parts: Any) -> str:
    """SHA-256 over JSON-able values and configurations, together with the file format's number."""
    text = json.dumps(
        [FORMAT, *map(_plain, parts)], sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(part: Any) -> Any:
    return (
        dataclasses.asdict(part)
        if dataclasses.is_dataclass(part) and not isinstance(part, type)
        else part
    )
