"""Section ``data``: where the data lie."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from histofuse.params.base import Section

Path = Annotated[str, Field(min_length=1)]


class DataParams(Section):
    """Folders of the two data sets, absolute or from the project's root.

    Attributes:
        brecahad: Holds ``images/`` and ``groundTruth/``.
        mimiciv: Holds ``hosp/``.
        crosswalk: CSV of ``case_id``, ``subject_id`` and, where a patient has several index
            admissions, ``hadm_id``; without rows where the two data sets share no patient.
    """

    brecahad: Path
    mimiciv: Path
    crosswalk: Path
