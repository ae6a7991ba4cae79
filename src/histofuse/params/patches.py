"""Section ``patches``: the window cut out around each nucleus."""

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from histofuse.params.base import Count, Section

_ADDRESS = re.compile(r"(tcp|tls)://\S+:\d+")


class PatchParams(Section):
    """Size and preparation of patches."""

    patch_px: Annotated[int, Field(ge=8, le=2048)]  # side of the square the model sees
    margin_px: Annotated[int, Field(ge=0, le=1024)]
    patch_um: Literal["none"] | Annotated[float, Field(gt=0, le=4096)]
    shard_patches: Count  # patches in a shard
    stain_normalisation: Literal["none", "macenko"]
    engine: str
    workers: Literal["auto"] | Count

    @field_validator("engine")
    @classmethod
    def _check_engine(cls, engine: str) -> str:
        if engine not in ("threads", "processes") and not _ADDRESS.fullmatch(engine):
            raise ValueError("expected threads, processes or an address such as tcp://host:8786")
        return engine

    @property
    def mpp(self) -> float | None:
        """Micrometres per pixel of a patch; None if pixels are taken as they are."""
        return None if self.patch_um == "none" else self.patch_um / self.patch_px

    @property
    def stored_px(self) -> int:
        """Side of a stored patch."""
        return self.patch_px + 2 * self.margin_px
