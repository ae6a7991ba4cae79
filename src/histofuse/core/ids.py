"""Identifiers, by the field's own names, and what makes two spellings of one the same."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final, Literal, NewType

CaseId = NewType("CaseId", str)  # "Case_10": one patient's slide in BreCaHAD
FrameId = NewType("FrameId", str)  # "Case_10-03": one image of a case

Split = Literal["train", "validation", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")

_WHOLE_NUMBER: Final = re.compile(r"(\d+)\.0*")
# A range, and the minus sign.
_DASHES: Final = "\u2010-\u2015\u2212"
# Numbers, words, and every sign that is not a mere separator.
_PARTS: Final = re.compile(rf"\d+|[^\W\d_]+|[^\w\s.\-{_DASHES}]")


def case_of_frame(frame_id: FrameId) -> CaseId:
    """Name the case of a frame: "Case_10-03" -> "Case_10"."""
    return CaseId(frame_id.rsplit("-", 1)[0].rstrip())


def identify(name: str) -> str:
    """Reduce the name of a case or frame to what it means, whatever its spelling.

    Case, Unicode's variants of a character, blanks, separators and leading zeros do not matter, nor
    does a number written as a float: "Case_10", "CASE 010" and "case-10" are one, "10" and "10.0".
    """
    text = unicodedata.normalize("NFKC", str(name)).casefold()
    shown = (sign for sign in text if unicodedata.category(sign) != "Cf")
    text = "".join(str(unicodedata.decimal(sign, sign)) for sign in shown).strip()
    if number := _WHOLE_NUMBER.fullmatch(text):
        text = number[1]
    parts = (p.lstrip("0") or p[:1] for p in _PARTS.findall(text))
    return "_".join(parts) or text


def unify_names(names: Iterable[str]) -> dict[str, str]:
    """Map each name to the one spelling that stands for all with its meaning, the first sorted."""
    first: dict[str, str] = {}
    return {name: first.setdefault(identify(name), name) for name in sorted(set(names))}


def list_spellings(names: Iterable[str]) -> list[list[str]]:
    """List the names that are spelt in several ways, each with all its spellings."""
    groups: dict[str, list[str]] = {}
    for name, chosen in unify_names(names).items():
        groups.setdefault(chosen, []).append(name)
    return [spellings for spellings in groups.values() if len(spellings) > 1]
