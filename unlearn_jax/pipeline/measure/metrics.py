"""Metrics of the two tables, for forgotten samples and for forgotten classes."""

import dataclasses
from collections.abc import Mapping

from unlearn_jax.pipeline.measure.records import Metric


@dataclasses.dataclass(frozen=True)
class Table:
    """Kind of table.

    Attributes:
      metrics: columns of the table.
      gaps: metrics whose distances to the retrained models a gap averages, by gap.
      headline: metrics that decide the verdict on a method.
      compared: metrics whose paired differences are stored, headline metrics first.
    """

    metrics: tuple[Metric, ...]
    gaps: Mapping[str, tuple[str, ...]]
    headline: tuple[str, ...]
    compared: tuple[str, ...]

    @property
    def trial(self) -> tuple[str, ...]:
        """Metrics that a search stores for every trial."""
        return (*self.gaps["avg_gap"], "avg_gap")


_SAMPLE_METRICS = (
    Metric(
        "unlearn_accuracy",
        "Unlearn acc",
        "%",
        "retrained",
        "Accuracy on the forget set. Good: equal to the retrained model's, neither"
        " higher nor lower.",
    ),
    Metric(
        "retain_accuracy",
        "Retain acc",
        "%",
        "retrained",
        "Accuracy on the retained training samples. Good: equal to the retrained"
        " model's.",
    ),
    Metric(
        "test_accuracy",
        "Test acc",
        "%",
        "retrained",
        "Accuracy on samples no model was trained on. Good: equal to the retrained"
        " model's.",
    ),
    Metric(
        "ft_auc",
        "FT AUC",
        "%",
        "50",
        "AUC of RMIA, forget samples against test samples. Good: 50, a coin toss.",
    ),
    Metric(
        "ft_auc_soft",
        "FT AUC (soft margin)",
        "%",
        "50",
        "FT AUC by the soft margin. A constant added to a sample's logits, which no"
        " prediction contains, moves the Taylor form of the other columns and not this"
        " one: read it for methods without gradients, which move the constant. Good:"
        " 50.",
    ),
    Metric(
        "fr_auc",
        "FR AUC",
        "%",
        "retrained",
        "AUC of RMIA, retained samples against forget samples. Good: equal to the"
        " retrained model's.",
    ),
    Metric(
        "rt_auc",
        "RT AUC",
        "%",
        "retrained",
        "AUC of RMIA, retained samples against test samples: the power of the attack on"
        " this model.",
    ),
    Metric(
        "ft_tpr",
        "FT TPR",
        "%",
        "retrained",
        "Fraction of forget samples found, by RMIA's ratio, at the stated fraction of"
        " test samples falsely accused.",
    ),
    Metric(
        "rt_tpr",
        "RT TPR",
        "%",
        "retrained",
        "The same for retained samples: the price of unlearning for the privacy of"
        " those who stay. Good: not above the original's.",
    ),
    Metric(
        "lira_auc",
        "LiRA AUC",
        "%",
        "50",
        "AUC of LiRA, forget samples against test samples (below 64 references, with"
        " one variance for all samples). Good: 50.",
    ),
    Metric(
        "mis",
        "MIS",
        "%",
        "retrained",
        "Fraction of forget samples that the older SVC confidence attack calls"
        " non-members.",
    ),
    Metric(
        "avg_gap",
        "Avg Gap",
        "points",
        "0",
        "Mean distance to the retrained models' mean in unlearn, retain and test"
        " accuracy and FT AUC. Good: as low as the second retrained model's, which is"
        " the effect of a change of seed alone.",
    ),
    Metric(
        "avg_gap_mis",
        "Avg Gap (MIS)",
        "points",
        "0",
        "The same with MIS in the place of FT AUC.",
    ),
)
SAMPLES = Table(
    _SAMPLE_METRICS,
    {
        "avg_gap": ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "ft_auc"),
        "avg_gap_mis": ("unlearn_accuracy", "retain_accuracy", "test_accuracy", "mis"),
    },
    headline=("ft_auc",),
    compared=("ft_auc", "unlearn_accuracy", "test_accuracy", "avg_gap"),
)


def _mia_nn_metrics() -> list[Metric]:
    """Return the metrics of every variant of MIA-NN and of its gap."""
    metrics = []
    for reading, label, text in (
        (
            "",
            "",
            "Fraction of the forgotten classes' test samples that a discriminator of"
            " their nearest class, trained on the model's own {outputs}, claims.",
        ),
        (
            "_forgotten",
            " against forgotten",
            "Balanced accuracy of a discriminator of the forgotten classes' test"
            " samples and those of their nearest class, trained on the half of the"
            " model's own {outputs} that it does not judge.",
        ),
    ):
        for features, outputs in (("", "probabilities"), ("_logits", "logits")):
            words = " on logits" if features else ""
            score = Metric(
                f"mia_nn{features}{reading}",
                f"MIA-NN{label}{words}",
                "%",
                "retrained",
                text.format(outputs=outputs) + " Good: equal to the retrained model's.",
            )
            gap = Metric(
                f"{score.key}_gap",
                f"{score.label} gap",
                "points",
                "0",
                "Its distance from the retrained models' mean for the same classes,"
                " themselves included. Good: as the retrained rows'.",
            )
            metrics += [score, gap]
    return metrics


_CLASS_METRICS = (
    Metric(
        "unlearn_accuracy",
        "Unlearn acc",
        "%",
        "retrained",
        "Accuracy on the training samples of the forgotten classes. Good: equal to the"
        " retrained model's, 0.",
    ),
    Metric(
        "retain_accuracy",
        "Retain acc",
        "%",
        "retrained",
        "Accuracy on the retained training samples. Good: equal to the retrained"
        " model's.",
    ),
    Metric(
        "acc_r",
        "ACC_r",
        "%",
        "retrained",
        "Accuracy on test samples of the retained classes. Good: equal to the retrained"
        " model's.",
    ),
    Metric(
        "acc_f",
        "ACC_f",
        "%",
        "retrained",
        "Accuracy on test samples of the forgotten classes. Good: equal to the"
        " retrained model's, 0.",
    ),
    Metric(
        "mia_kodge",
        "MIA (Kodge)",
        "%",
        "retrained",
        "Fraction of the forgotten classes' test samples that an SVC on the true"
        " class's probability, trained on retained against forgotten training samples,"
        " calls non-members. It separates little: any model that takes the probability"
        " down scores 100.",
    ),
    Metric(
        "mis",
        "MIA (SalUn)",
        "%",
        "retrained",
        "Fraction of forgotten training samples that the SVC confidence attack, trained"
        " on retained training samples against test samples of retained classes, calls"
        " non-members.",
    ),
    Metric(
        "tv_forget",
        "TV forget",
        "points",
        "0",
        "Total variation between the outputs and the retrained model's, on test samples"
        " of the forgotten classes. Good: as low as the retrained rows', which is the"
        " effect of a change of seed alone.",
    ),
    Metric(
        "kl_forget",
        "KL forget",
        "nats",
        "0",
        "KL(retrained || unlearned) on the same samples; probabilities below 1e-12"
        " count as that.",
    ),
    Metric(
        "tv_retain",
        "TV retain",
        "points",
        "0",
        "Total variation on test samples of the retained classes.",
    ),
    Metric(
        "kl_retain",
        "KL retain",
        "nats",
        "0",
        "KL(retrained || unlearned) on test samples of the retained classes.",
    ),
    Metric(
        "ulira",
        "U-LiRA",
        "%",
        "50",
        "Balanced accuracy of separating unlearned from retrained models by the"
        " forgotten class's log-odds on its training samples, with a Gaussian per"
        " sample, every pair of models held out once. Good: 50, a coin toss.",
    ),
    *_mia_nn_metrics(),
    Metric(
        "ft_auc",
        "FT AUC",
        "%",
        "50",
        "AUC of RMIA, training samples of the forgotten classes against their test"
        " samples. Good: 50.",
    ),
    Metric(
        "ft_auc_soft",
        "FT AUC (soft margin)",
        "%",
        "50",
        "FT AUC by the soft margin. A constant added to a sample's logits, which no"
        " prediction contains, moves the Taylor form of FT AUC and not this"
        " one: read it for methods without gradients, which move the constant. Good:"
        " 50.",
    ),
    Metric(
        "lira_auc",
        "LiRA AUC",
        "%",
        "50",
        "AUC of LiRA on the same samples (below 64 references, with one variance for"
        " all samples). Good: 50.",
    ),
    Metric(
        "avg_gap",
        "Avg Gap",
        "points",
        "0",
        "Mean distance to the retrained models' mean in unlearn, retain, ACC_r and"
        " ACC_f accuracy and in TV forget. The search minimizes it; U-LiRA and MIA-NN"
        " have no part in it.",
    ),
)
CLASSES = Table(
    _CLASS_METRICS,
    {
        "avg_gap": (
            "unlearn_accuracy",
            "retain_accuracy",
            "acc_r",
            "acc_f",
            "tv_forget",
        )
    },
    headline=("tv_forget", "ulira"),
    compared=("tv_forget", "ulira", "mia_nn_gap", "acc_r", "avg_gap"),
)


def as_retrained(metric: Metric) -> Metric:
    """Return an AUC's metric for hard forget sets, where 50 is not the good value."""
    about = metric.description.partition(" Good:")[0]
    return dataclasses.replace(
        metric, direction="retrained", description=f"{about} Good: as retrained."
    )
