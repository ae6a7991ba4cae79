"""Section ``encoders``: the models whose embeddings are fused."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from histofuse.params.base import Section

ModelName = Annotated[str, Field(min_length=1)]


class EncodersParams(Section):
    """Names of models, as in the sections ``image`` and ``tabular``.

    Attributes:
        image: Embeds patches.
        patient: Embeds patients; of kind ``mlp``.
    """

    image: ModelName
    patient: ModelName
