"""Section ``explain``: sizes of the explanations and of their tests, and how maps are chosen."""

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import BelowOne, Count, InnerShare, Positive, Section, Several


class MapParams(Section):
    """How the maps of image networks are computed, compared and judged."""

    methods: Annotated[
        list[Literal["gradcam", "hirescam", "layercam", "scorecam"]], Field(min_length=1)
    ]
    per_class: Count
    masks: Several  # of Score-CAM, at most
    steps: Several
    blur_px: Positive
    most_empty: BelowOne
    random_heads: Count
    most_alike: InnerShare
    centre_margin: BelowOne


class ExplainParams(Section):
    """Sizes of galleries, reports and their tests."""

    # Models on health records to explain, by their names in section tabular.
    shap_models: Annotated[list[str], Field(min_length=1)]
    gradcam_per_class: Count
    empty_patches: Count
    faithfulness_per_class: Count
    nucleus_radius_px: Positive
    maps: MapParams  # how maps are chosen and judged
    shap_background: Count  # training rows that stand for "the feature is not known"
    shap_samples: Count  # rows explained for the overview
    kernel_shap_rows: Count
    case_cards: Count
