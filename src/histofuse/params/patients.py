"""Section ``patients.<name>``: one method of fusion at patient level; ``kind`` says which."""

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import (
    BelowOne,
    Count,
    Distinct,
    NonNegative,
    Positive,
    SectionOf,
    Several,
)
from histofuse.params.tabular import BoosterSection
from histofuse.params.tune import ClassifierSection

PatientCohortKind = Literal["simulated", "crosswalk"]
Aggregator = Literal["mean", "max", "spread", "distribution"]


class PatientSection(ClassifierSection):
    """What every method's section holds."""

    # How a patient's nuclei become one vector.
    aggregators: Annotated[list[Aggregator | Literal["attention"]], Field(min_length=1), Distinct]


class FixedSection(PatientSection):
    """Methods without a network, whose aggregators are not learnt."""

    aggregators: Annotated[list[Aggregator], Field(min_length=1), Distinct]  # pyright: ignore[reportIncompatibleVariableOverride]


class SideParams(FixedSection):
    """Logistic regression on one side alone; `c` is the inverse of the penalty."""

    kind: Literal["side"]
    side: Literal["image", "record"]
    c: Positive


class EarlyLogisticParams(FixedSection):
    """Logistic regression on aggregated embedding and record, joined."""

    kind: Literal["early_logistic"]
    c: Positive


class EarlyXgboostParams(FixedSection, BoosterSection):
    """XGBoost on aggregated embedding and record, joined; missing values stay missing.

    Where one side is given, a logistic regression of penalty 1 / `c` answers.
    """

    kind: Literal["early_xgboost"]
    c: Positive


class LateParams(FixedSection):
    """A logistic regression a side, whose log-odds are combined."""

    kind: Literal["late"]
    c: Positive
    combine: Literal["mean", "stacked"]
    folds: Several


class NetworkSection(PatientSection):
    """What the sections of networks hold."""

    width: Count
    dropout: BelowOne
    modality_dropout: BelowOne
    components: Count
    attention_units: Count  # of the attention that pools nuclei
    learning_rate: Positive
    weight_decay: NonNegative
    batch_size: Several
    epochs: Count
    patience: Count
    most_nuclei: Count
    imbalance: Literal["none", "class_weights"]

    @property
    def reads_nuclei(self) -> bool:
        """Whether the network sees single nuclei, not only fixed aggregates."""
        return "attention" in self.aggregators


class IntermediateParams(NetworkSection):
    """Both vectors joined, then layers of the widths `hidden`.

    Source: paper 3.3.
    """

    kind: Literal["intermediate"]
    hidden: Annotated[list[Count], Field(min_length=1)]


class GatedParams(NetworkSection):
    """A gate, computed from both sides, weighs each unit of one against the other.

    Source: Arevalo et al. 2017, Gated Multimodal Units for Information Fusion.
    """

    kind: Literal["gated"]


class BilinearParams(NetworkSection):
    """All products of a unit of one side and a unit of the other, by a tensor of low rank.

    Source: Liu et al. 2018, Efficient Low-rank Multimodal Fusion with Modality-Specific Factors.
    """

    kind: Literal["bilinear"]
    rank: Count


class CrossAttentionParams(NetworkSection):
    """Values of the record attend to nuclei; each is a token."""

    kind: Literal["cross_attention"]
    heads: Count

    @property
    def reads_nuclei(self) -> bool:
        """Whether the network sees single nuclei: always."""
        return True


AnyNetworkParams = IntermediateParams | GatedParams | BilinearParams | CrossAttentionParams
AnyPatientParams = (
    SideParams | EarlyLogisticParams | EarlyXgboostParams | LateParams | AnyNetworkParams
)
_Kinds = Annotated[AnyPatientParams, Field(discriminator="kind")]


class PatientParams(SectionOf[_Kinds]):
    """The section of one method, whatever its kind."""


class AllPatientParams(SectionOf[dict[str, _Kinds]]):
    """Section ``patients``: all methods by name."""


class PatientCohortParams(SectionOf[PatientCohortKind]):
    """Section ``patient_cohort``: whom models at patient level are trained on."""
