"""Section ``explain``: how much is explained, and how the explanations are tested."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from histofuse.params.base import Section

Count = Annotated[int, Field(ge=1)]
Length = Annotated[float, Field(gt=0)]


class ExplainParams(Section):
    """Sizes of galleries, reports and their tests.

    Attributes:
        shap_models: Models on health records to explain, by their names in section ``tabular``.
        gradcam_per_class: Overlays a class.
        empty_patches: Test patches among which empty maps are counted; all where there are fewer.
        faithfulness_per_class: Test patches a class on which maps are tested.
        faithfulness_steps: Steps in which a patch is taken away, or brought back.
        nucleus_radius_px: Of the disc about a patch's centre that stands for the annotated nucleus,
            in pixels of the patch. The annotation is a dot: there is no outline to measure by.
        blur_px: Standard deviation of the blur that stands for "taken away", in pixels of the
            patch.
        shap_background: Training rows that stand for "the feature is not known".
        shap_samples: Rows explained for the overview.
        kernel_shap_rows: Rows on which DeepSHAP is compared with KernelSHAP.
        case_cards: Cards of hits, and as many of misses, a class.
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
