"""Section ``explain``: how much is explained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from histofuse.params.base import Section

Count = Annotated[int, Field(ge=1)]


class ExplainParams(Section):
    """Sizes of the galleries.

    Attributes:
        shap_models: Models on health records to explain, by their names in section ``tabular``.
        gradcam_per_class: Overlays a class.
        minimum_map_px: Coarsest map accepted; at 64 px the last block of a ResNet has 2 x 2.
        shap_background: Training rows that stand for "the feature is not known".
        shap_samples: Rows explained for the overview.
    """

    shap_models: Annotated[list[str], Field(min_length=1)]
    gradcam_per_class: Count
    minimum_map_px: Count
    shap_background: Count
    shap_samples: Count
