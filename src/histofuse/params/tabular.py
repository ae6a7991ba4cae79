"""Section ``tabular.<name>``: one model on encoded health records; ``kind`` says which.

Source: paper 3.2 and Appendix B.
"""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from histofuse.params.base import (
    BelowOne,
    Count,
    NonNegative,
    Positive,
    Rate,
    SectionOf,
    Several,
    Whole,
)
from histofuse.params.tune import ClassifierSection

Imbalance = Literal["none", "class_weights"]


class LogisticRegressionParams(ClassifierSection):
    """L2-penalised logistic regression; `c` is the inverse of the penalty."""

    kind: Literal["logistic_regression"]
    c: Positive
    imbalance: Imbalance


class GradientBoostingParams(ClassifierSection):
    """Gradient-boosted trees on imputed values; `rounds` is the most that validation may choose."""

    kind: Literal["gradient_boosting"]
    rounds: Count
    max_depth: Annotated[int, Field(ge=1, le=16)]
    learning_rate: Rate
    subsample: Rate
    early_stopping_rounds: Count


class MlpParams(ClassifierSection):
    """Multilayer perceptron; the last of `hidden` is the width of the patient embedding.

    `monitor` is the validation metric that chooses the epoch: the loss judges probabilities, AUROC
    and macro-F1 judge ranks and decisions, whatever becomes of the loss.
    """

    kind: Literal["mlp"]
    hidden: Annotated[list[Count], Field(min_length=1)]
    dropout: BelowOne
    learning_rate: Positive
    weight_decay: NonNegative
    batch_size: Several
    epochs: Count
    warmup_epochs: Whole
    step_epochs: Count
    step_factor: Rate
    patience: Count
    monitor: Literal["loss", "auroc", "macro_f1"]
    loss: Literal["bce", "cross_entropy"]
    imbalance: Literal["none", "class_weights", "balanced_sampling"]

    @model_validator(mode="after")
    def _warm_up_ends(self) -> "MlpParams":
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs below epochs ({self.epochs})")
        return self


class BoosterSection(ClassifierSection):
    """What XGBoost needs; `rounds` is the most that cross-validation may choose."""

    max_depth: Annotated[int, Field(ge=1, le=16)]
    learning_rate: Rate
    rounds: Count
    subsample: Rate
    colsample: Rate
    min_child_weight: NonNegative
    reg_lambda: NonNegative
    folds: Several
    early_stopping_rounds: Count
    imbalance: Imbalance


class XgboostParams(BoosterSection):
    """XGBoost on encoded health records."""

    kind: Literal["xgboost"]


AnyTabularParams = LogisticRegressionParams | GradientBoostingParams | MlpParams | XgboostParams


class TabularParams(SectionOf[Annotated[AnyTabularParams, Field(discriminator="kind")]]):
    """The section of one tabular model, whatever its kind."""


class AllTabularParams(
    SectionOf[dict[str, Annotated[AnyTabularParams, Field(discriminator="kind")]]]
):
    """Section ``tabular``: all models by name."""
