"""Which files show single patients, and whether they may be shown: in MLflow and the report."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath
from typing import Final

# Sources whose rows are public: simulated or openly published.
OPEN_SOURCES: Final = frozenset({"simulated", "mimic-iv-demo"})
_FOLDER: Final = "row_level"
_FILES: Final = ("waterfall", "case_card")


def may_show_patients(sources: Iterable[str]) -> bool:
    """Tell whether single patients of all these sources may be shown; an unknown source may not."""
    return OPEN_SOURCES.issuperset(sources)


def shows_patients(file: PurePath) -> bool:
    """Tell whether a file shows single patients, by its name and folders."""
    return _FOLDER in file.parts[:-1] or file.name.startswith(_FILES)
