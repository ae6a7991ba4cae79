"""Section ``slides``: whole slides in ``histofuse predict``."""

from typing import Annotated

from pydantic import Field

from histofuse.params.base import Section


class SlideParams(Section):
    """How whole slides are read and what is counted on them."""

    region_px: Annotated[int, Field(ge=256, le=4096, multiple_of=64)]
    hot_spot_mm2: Annotated[float, Field(gt=0, le=100)]  # area of the circle with most mitoses
    field_diameter_mm: Annotated[float, Field(ge=0.3, le=0.8)]
