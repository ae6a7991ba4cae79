"""Section ``patches``: the window cut out around each nucleus."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from histofuse.params.base import Section

_ADDRESS = re.compile(r"(tcp|tls)://\S+:\d+")


class PatchParams(Section):
    """Size and preparation of patches.

    Attributes:
        patch_px: Side of the square the model sees.
        margin_px: Context stored on each side of it, for rotations and crops.
        shard_patches: Patches in a shard; the last holds fewer.
        patch_um: Side of that square in micrometres: frames and slides of another resolution are
            resampled to it; ``none``: pixels are taken as they are.
        stain_normalisation: ``macenko`` brings each frame to a reference stain.
        engine: ``threads``, ``processes``, or the address of a Dask scheduler. It and `workers`
            change no byte of the output.
        workers: Frames processed at a time; ``auto`` is one per processor, eight at most. A Dask
            cluster has its own number.
    """

    patch_px: Annotated[int, Field(ge=8, le=2048)]
    margin_px: Annotated[int, Field(ge=0, le=1024)]
    patch_um: Literal["none"] | Annotated[float, Field(gt=0, le=4096)]
    shard_patches: Annotated[int, Field(ge=1)]
    stain_normalisation: Literal["none", "macenko"]
    engine: str
    workers: Literal["auto"] | Annotated[int, Field(ge=1)]

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
