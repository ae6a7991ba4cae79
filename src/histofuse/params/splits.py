"""Sections ``splits.images`` and ``splits.patients``."""

from typing import Literal

from pydantic import model_validator

from histofuse.params.base import InnerShare, Section, Several, Whole

Unit = Literal["case", "frame", "patch"]


class ImageSplitParams(Section):
    """How patches are split."""

    unit: Unit
    validation_unit: Unit
    folds: Several
    test_fold: Whole  # which fold is the test split
    validation_fold: Whole  # which fold of the rest is the validation split
    classes_required: list[str]

    @model_validator(mode="after")
    def _check(self) -> "ImageSplitParams":
        if max(self.test_fold, self.validation_fold) >= self.folds:
            raise ValueError(f"test_fold and validation_fold count from 0 to {self.folds - 1}")
        order = ("case", "frame", "patch")
        if order.index(self.validation_unit) < order.index(self.unit):
            raise ValueError("validation_unit cannot be coarser than unit")
        return self


class PatientSplitParams(Section):
    """Shares of patients; they add up to 1."""

    train: InnerShare
    validation: InnerShare
    test: InnerShare

    @model_validator(mode="after")
    def _check(self) -> "PatientSplitParams":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train, validation and test add up to {total:g}, not to 1")
        return self
