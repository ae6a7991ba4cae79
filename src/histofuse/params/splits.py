"""Sections ``splits.images`` and ``splits.patients``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from histofuse.params.base import Section

Unit = Literal["case", "frame", "patch"]
Share = Annotated[float, Field(gt=0, lt=1)]


class ImageSplitParams(Section):
    """How patches are split.

    Attributes:
        unit: What stays whole between test and the rest: ``case``, ``frame`` or ``patch``. Patches
            overlap, so ``patch`` shares pixels between splits and is declared leaky.
        validation_unit: What stays whole between validation and train. With few cases, ``frame``
            leaves mitoses in each split; test is still separated by `unit`.
        folds: Number of folds; test is one of them, validation one of as many of what is left.
        test_fold: Which fold is the test split.
        validation_fold: Which fold of the rest is the validation split.
        classes_required: Classes each split must hold.
    """

    unit: Unit
    validation_unit: Unit
    folds: Annotated[int, Field(ge=2)]
    test_fold: Annotated[int, Field(ge=0)]
    validation_fold: Annotated[int, Field(ge=0)]
    classes_required: list[str]

    @model_validator(mode="after")
    def _check(self) -> ImageSplitParams:
        if max(self.test_fold, self.validation_fold) >= self.folds:
            raise ValueError(f"test_fold and validation_fold count from 0 to {self.folds - 1}")
        order = ("case", "frame", "patch")
        if order.index(self.validation_unit) < order.index(self.unit):
            raise ValueError("validation_unit cannot be coarser than unit")
        return self


class PatientSplitParams(Section):
    """Shares of patients; they add up to 1."""

    train: Share
    validation: Share
    test: Share

    @model_validator(mode="after")
    def _check(self) -> PatientSplitParams:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test add up to {total:g}, not to 1")
        return self
