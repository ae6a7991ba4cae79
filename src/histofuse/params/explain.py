"""Section ``explain``: sizes of the explanations and of their tests."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from histofuse.params.base import Count, Section

Length = Annotated[float, Field(gt=0)]


class ExplainParams(Section):
    """Sizes of galleries, reports and their tests.

    Attributes:
        shap_models: Models on health records to explain, by their names in section ``tabular``.
        gradcam_per_class: Overlays of each class.
        empty_patches: Number of test patches in which empty maps are counted; at most all.
        faithfulness_per_class: Test patches of each class on which maps are tested.
        faithfulness_steps: Steps in which a patch is blurred or restored.
        nucleus_radius_px: Radius of the disc around a patch's centre that stands for the annotated
            nucleus, in pixels of the patch. The annotation is a dot; there are no outlines.
        blur_px: Standard deviation of the blur that removes a cell, in pixels of the patch.
        shap_background: Training rows that stand for "the feature is not known".
        shap_samples: Rows explained for the overview.
        kernel_shap_rows: Rows on which DeepSHAP is compared with KernelSHAP.
        case_cards: Cards of hits of each class, and as many of misses.
    """

    shap_models: Annotated[list[str], Field(min_length=1)]
    gradcam_per_class: Count
    empty_patches: Count
    faithfulness_per_class: Count
    faithfulness_steps: Count
    nucleus_radius_px: Length
    blur_px: Length
    shap_background: Count
    shap_samples: Count
    kernel_shap_rows: Count
    case_cards: Count
