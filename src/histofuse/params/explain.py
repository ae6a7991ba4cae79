"""Section ``explain``: sizes of the explanations and of their tests, and how maps are chosen."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import Count, Section

Length = Annotated[float, Field(gt=0)]


class MapParams(Section):
    """How the maps of image networks are computed, compared and judged.

    Attributes:
        methods: Compared on validation patches when a network is trained. Its bundle names the one
            with the highest mean gain of deletion and insertion over a random order, of those that
            keep to `most_empty` and `most_alike`, or of all if none does; of equal ones the first.
        per_class: Validation patches of each class on which they are compared, at most.
        masks: Of Score-CAM, at most; each is a pass through the network.
        steps: Steps in which a patch is blurred or restored.
        blur_px: Standard deviation of the blur that removes a cell, in pixels of the patch.
        most_empty: Highest share of empty maps.
        random_heads: Heads of random weights, each with its negative, over which the first of the
            correlations below is averaged.
        most_alike: Highest rank correlation of a map with that of the same network after its head,
            or all of it, got random weights.
        centre_margin: How much less than an order from the centre outwards the order of a map may
            gain in deletion and insertion.
    """

    methods: Annotated[
        list[Literal["gradcam", "hirescam", "layercam", "scorecam"]], Field(min_length=1)
    ]
    per_class: Count
    masks: Annotated[int, Field(ge=2)]
    steps: Annotated[int, Field(ge=2)]
    blur_px: Length
    most_empty: Annotated[float, Field(ge=0, lt=1)]
    random_heads: Count
    most_alike: Annotated[float, Field(gt=0, lt=1)]
    centre_margin: Annotated[float, Field(ge=0, lt=1)]


class ExplainParams(Section):
    """Sizes of galleries, reports and their tests.

    Attributes:
        shap_models: Models on health records to explain, by their names in section ``tabular``.
        gradcam_per_class: Overlays of each class.
        empty_patches: Number of test patches in which empty maps are counted; at most all.
        faithfulness_per_class: Test patches of each class on which maps are tested.
        nucleus_radius_px: Radius of the disc around a patch's centre that stands for the annotated
            nucleus, in pixels of the patch. The annotation is a dot; there are no outlines.
        maps: How maps are chosen and judged.
        shap_background: Training rows that stand for "the feature is not known".
        shap_samples: Rows explained for the overview.
        kernel_shap_rows: Rows on which DeepSHAP is compared with KernelSHAP.
        case_cards: Cards of hits of each class, and as many of misses.
    """

    shap_models: Annotated[list[str], Field(min_length=1)]
    gradcam_per_class: Count
    empty_patches: Count
    faithfulness_per_class: Count
    nucleus_radius_px: Length
    maps: MapParams
    shap_background: Count
    shap_samples: Count
    kernel_shap_rows: Count
    case_cards: Count
