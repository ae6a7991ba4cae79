"""Sections ``encoders`` and ``fusion``: what is fused, and the head on joined embeddings.

Source: paper 3.3 and Appendix B.
"""

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import BelowOne, Count, NonNegative, Positive, Section, Several, Text
from histofuse.params.tune import ClassifierSection


class FusionParams(ClassifierSection):
    """How the fusion head is built and trained."""

    # Widths of the layers between the joined embeddings and the logits.
    hidden: Annotated[list[Count], Field(min_length=1)]
    # in_sample: rows that the encoders were fitted to; their embeddings are better than those of a
    # new case. held_out: the validation split, in folds that choose the number of epochs and give
    # the logits for calibration and thresholds.
    head_rows: Literal["held_out", "in_sample"]
    standardise: bool
    dropout: BelowOne
    learning_rate: Positive
    weight_decay: NonNegative
    batch_size: Several
    epochs: Count
    patience: Count
    imbalance: Literal["none", "class_weights"]


class EncodersParams(Section):
    """Names of models, as in the sections ``image`` and ``tabular``."""

    image: Text  # embeds patches
    patient: Text  # embeds patients
