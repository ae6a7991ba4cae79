"""Sections ``crossval`` and ``protocol``: evidence beyond the one split of ``dvc repro``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import Count, Section

Name = Annotated[str, Field(min_length=1)]


class CrossvalParams(Section):
    """Cross-validation by case, the whole chain in each fold.

    Attributes:
        folds: Each case, and each patient, is tested in one of them; of fewer cases than folds each
            is a fold.
        validation_unit: What stays whole between training and inner validation; test is by case.
        classes_required: Classes that each split of each fold must hold.
        image_models: Keys of the section ``image``; the image encoder is among them.
        tabular_models: Keys of the section ``tabular``; the patient encoder is among them.
        rules: Keys of the section ``pairing`` under which fusion is trained; the first stands for
            fusion.
        workers: Folds at a time; ``auto`` is as many as the processors hold.
        threads: Of each fold. The order of summation depends on it, so it is fixed, and
            the number of workers changes no bit.
    """

    folds: Annotated[int, Field(ge=2)]
    validation_unit: Literal["case", "frame"]
    classes_required: list[Name]
    image_models: Annotated[list[Name], Field(min_length=1)]
    tabular_models: Annotated[list[Name], Field(min_length=1)]
    rules: Annotated[list[Name], Field(min_length=1)]
    workers: Literal["auto"] | Count
    threads: Count


class ProtocolParams(Section):
    """The paper's protocol: patches dealt to training and validation by chance.

    Attributes:
        folds: One of as many parts is the validation set that results are reported on.
    """

    folds: Annotated[int, Field(ge=2)]
