"""Identifiers, by the field's own names."""

from __future__ import annotations

from typing import Final, Literal, NewType

CaseId = NewType("CaseId", str)  # "Case_10": one patient's slide in BreCaHAD
FrameId = NewType("FrameId", str)  # "Case_10-03": one image of a case
PatchId = NewType("PatchId", str)  # "Case_10-03/0042": one window around a nucleus

Split = Literal["train", "validation", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")


def case_of_frame(frame_id: FrameId) -> CaseId:
    """Name the case of a frame: "Case_10-03" -> "Case_10"."""
    return CaseId(frame_id.rsplit("-", 1)[0])
