"""Section ``patients.<name>``: one method of fusion at patient level; ``kind`` says which."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from histofuse.params.base import Count, SectionOf
from histofuse.params.tabular import BoosterSection
from histofuse.params.tune import ClassifierSection

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Aggregator = Literal["mean", "max", "spread", "distribution"]


class PatientSection(ClassifierSection):
    """What every method's section holds.

    Attributes:
        aggregators: How a patient's nuclei become one vector; several are joined.
    """

    aggregators: Annotated[list[Aggregator | Literal["attention"]], Field(min_length=1)]

    @field_validator("aggregators")
    @classmethod
    def _refuse_repeats(cls, names: list[str]) -> list[str]:
        if len(set(names)) != len(names):
            raise ValueError("each aggregator once")
        return names


class FixedSection(PatientSection):
    """Methods without a network, whose aggregators are not learnt."""

    aggregators: Annotated[list[Aggregator], Field(min_length=1)]  # pyright: ignore[reportIncompatibleVariableOverride]


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
    """A logistic regression a side, whose log-odds are combined.

    Attributes:
        combine: ``mean`` of the log-odds; ``stacked`` weighs them by a logistic regression on
            log-odds that are cross-fitted over `folds` of the train patients.
    """

    kind: Literal["late"]
    c: Positive
    combine: Literal["mean", "stacked"]
    folds: Annotated[int, Field(ge=2)]


class NetworkSection(PatientSection):
    """What the sections of networks hold.

    Attributes:
        width: Of each side's vector.
        modality_dropout: Share of training rows, drawn anew in each epoch, that lack one side; a
            learnt vector stands for it.
        components: Principal components of the embeddings that attention sees of a nucleus.
        attention_units: Of the attention that pools nuclei.
        patience: Epochs without a lower validation loss after which training stops.
        most_nuclei: Larger bags are thinned evenly.
    """

    width: Count
    dropout: Share
    modality_dropout: Share
    components: Count
    attention_units: Count
    learning_rate: Positive
    weight_decay: Annotated[float, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]
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
