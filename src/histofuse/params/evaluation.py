"""Section ``evaluation``: what tables and figures show."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from histofuse.core.ids import Split
from histofuse.params.base import Section


class EvaluationParams(Section):
    """What is reported.

    Attributes:
        split: The split tables and figures are about; ``metrics.json`` holds all.
        primary_rule: The pairing whose fusion model stands for fusion; first among its kind in
            tables and figures.
    """

    split: Split
    primary_rule: Annotated[str, Field(min_length=1)]
