"""Sections ``crossval`` and ``protocol``: evidence beyond the one split of ``dvc repro``."""

from typing import Annotated, Literal

from pydantic import Field

from histofuse.params.base import Count, Section, Several, Text


class CrossvalParams(Section):
    """Cross-validation by case, the whole chain in each fold."""

    folds: Several
    validation_unit: Literal["case", "frame"]
    classes_required: list[Text]
    image_models: Annotated[list[Text], Field(min_length=1)]  # keys of the section image
    tabular_models: Annotated[list[Text], Field(min_length=1)]  # keys of the section tabular
    # Keys of the section pairing under which fusion is trained.
    rules: Annotated[list[Text], Field(min_length=1)]
    # Keys of the section patients; without "image" and "record" there is nothing to compare with.
    patient_models: list[Text]
    workers: Literal["auto"] | Count
    threads: Count


class ProtocolParams(Section):
    """The paper's protocol: patches dealt to training and validation by chance."""

    folds: Several
