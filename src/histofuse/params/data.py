"""Sections ``data`` and ``classes``: the folders of the data sets, and the classes of nuclei."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from histofuse.params.base import Section, SectionOf, Text

ClassName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Annotations = Literal["brecahad", "geojson", "csv"]


class FrameParams(Section):
    """How the pixels of frames and slides are understood where their files leave it open."""

    orientation: Literal["refuse", "stored", "displayed"]
    bits: Literal["file"] | Annotated[int, Field(ge=8, le=16)]


class RecordsParams(Section):
    """Where the health records are."""

    kind: Literal["mimiciv", "table"]
    path: Text


class DataParams(Section):
    """Folders of the two data sets, absolute or from the project's root."""

    brecahad: Text  # holds images/ and groundTruth/
    annotations: Annotations
    class_names: dict[ClassName, list[str]]
    images_restricted: bool
    records: RecordsParams  # the health records
    crosswalk: Text
    mpp: Literal["none"] | Annotated[float, Field(ge=0.05, le=2.0)]
    frames: FrameParams  # how frames are understood

    @field_validator("class_names")
    @classmethod
    def _check_names(cls, class_names: dict[str, list[str]]) -> dict[str, list[str]]:
        names = [fold_name(name) for named in class_names.values() for name in named]
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise ValueError(
                f"each name in one class only, but {', '.join(repeated)} is in several"
            )
        return class_names

    def map_names(self, classes: "ClassesParams") -> dict[str, str]:
        """Map each name of a class, as `fold_name` has it, to the class."""
        own = {fold_name(name): name for name in classes.names}
        return own | {fold_name(n): c for c, names in self.class_names.items() for n in names}


def fold_name(name: str) -> str:
    """Reduce a class's name to what is compared: no upper case, single blanks."""
    return " ".join(name.casefold().split())


# Source: the keys of the published JSON files.
ANNOTATION_KEYS = (
    "mitosis",
    "non_mitosis",
    "apoptosis",
    "tumor",
    "non_tumor",
    "lumen",
    "non_lumen",
)
# Source: the data set's README, which documents these in place of the keys the files have.
KEY_ALIASES: Mapping[str, str] = MappingProxyType({"tubule": "lumen", "non_tubule": "non_lumen"})


class ClassesParams(SectionOf[dict[ClassName, list[str]]]):
    """Class name to the keys folded into it, in the order of the model's outputs.

    Keys that no class names are left out of the annotations.
    """

    @property
    def names(self) -> list[str]:
        """The classes in order."""
        return list(self.root)

    @property
    def class_of_key(self) -> dict[str, str]:
        """BreCaHAD key, spelt as in the published files, to class."""
        return {KEY_ALIASES.get(key, key): name for name, keys in self.root.items() for key in keys}

    @model_validator(mode="after")
    def _check_keys(self) -> "ClassesParams":
        if len(self.root) < 2:
            raise ValueError("at least two classes")
        if empty := [name for name, keys in self.root.items() if not keys]:
            raise ValueError(f"at least one key for {', '.join(empty)}")
        keys = [KEY_ALIASES.get(key, key) for keys in self.root.values() for key in keys]
        if unknown := [key for key in keys if key not in ANNOTATION_KEYS]:
            known = ", ".join((*ANNOTATION_KEYS, *KEY_ALIASES))
            raise ValueError(f"keys of the format, which {', '.join(unknown)} is not: {known}")
        if repeated := [key for key, count in Counter(keys).items() if count > 1]:
            raise ValueError(f"each key in one class only, but {', '.join(repeated)} is in several")
        return self
