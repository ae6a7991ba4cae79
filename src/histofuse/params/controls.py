"""Section ``controls``: runs that must come out at chance if all is well."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import Section, SectionOf
from histofuse.params.promotion import MetricName
from histofuse.params.tabular import AnyTabularParams


class ControlParams(Section):
    """How controls are run.

    Attributes:
        repeats: Shuffles, each with a head of its own; one may lie off chance by chance.
        metrics: What is compared, the one that counts most first.
        tabular: The model of the health record that is trained on shuffled targets.
    """

    repeats: Annotated[int, Field(ge=3)]
    metrics: Annotated[list[MetricName], Field(min_length=1)]
    tabular: Literal["logistic_regression", "xgboost"]


class AllTabularParams(
    SectionOf[dict[str, Annotated[AnyTabularParams, Field(discriminator="kind")]]]
):
    """Section ``tabular``: all models by name."""
