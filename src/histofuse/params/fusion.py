"""Sections ``encoders`` and ``fusion``: what is fused, and the head on joined embeddings.

Source: paper 3.3 and Appendix B.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import Count, Section
from histofuse.params.tune import ClassifierSection


class FusionParams(ClassifierSection):
    """How the fusion head is built and trained.

    Attributes:
        hidden: Widths of the layers between the joined embeddings and the logits.
        standardise: Whether each dimension of the image embedding is brought to mean 0 and variance
            1, fitted on training patches and kept with the weights. The paper does not say so.
        image_components: Principal components of the image embedding that the head takes in its
            place, fitted on training patches after `standardise`; ``none`` takes it as it is.
        patience: Epochs without a better validation macro-F1 after which training stops.
    """

    hidden: Annotated[list[Count], Field(min_length=1)]
    standardise: bool
    image_components: Count | Literal["none"]
    dropout: Annotated[float, Field(ge=0, lt=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    batch_size: Annotated[int, Field(ge=2)]
    epochs: Count
    patience: Count
    imbalance: Literal["none", "class_weights"]

    @property
    def components(self) -> int | None:
        """How many, if any."""
        return None if self.image_components == "none" else self.image_components


ModelName = Annotated[str, Field(min_length=1)]


class EncodersParams(Section):
    """Names of models, as in the sections ``image`` and ``tabular``.

    Attributes:
        image: Embeds patches.
        patient: Embeds patients; of kind ``mlp``.
    """

    image: ModelName
    patient: ModelName
