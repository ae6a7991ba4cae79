"""Section ``patches``: the window cut out around each nucleus."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import Section


class PatchParams(Section):
    """Size and preparation of patches.

    Attributes:
        patch_px: Side of the square the model sees.
        margin_px: Context stored on each side of it, for rotations and crops.
        shard_patches: Patches in a shard; the last holds fewer.
        stain_normalisation: ``macenko`` brings each frame to a reference stain.
    """

    patch_px: Annotated[int, Field(ge=8, le=2048)]
    margin_px: Annotated[int, Field(ge=0, le=1024)]
    shard_patches: Annotated[int, Field(ge=1)]
    stain_normalisation: Literal["none", "macenko"]

    @property
    def stored_px(self) -> int:
        """Side of a stored patch."""
        return self.patch_px + 2 * self.margin_px
