"""What the simulated hospital records: conditions with their codes, laboratory tests and drugs.

The entries are in ``catalogue.json``.

Codes, titles, item numbers, labels and reference ranges are those in use (ICD-9-CM, ICD-10-CM and
``d_labitems``); fields named as a published column hold what it holds. How often a laboratory test
is missing was measured on the MIMIC-IV demo (275 admissions); other frequencies are plausible, not
measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Panel = Literal["blood_count", "chemistry", "minerals", "liver", "coagulation", "marker", "text"]


@dataclass(frozen=True)
class Code:
    """One condition in both code versions.

    Attributes:
        icd9, icd10: Undotted codes of ICD-9-CM and ICD-10-CM.
        title9, title10: Their long titles; `title10` is empty where it is that of ICD-9.
    """

    icd9: str
    icd10: str
    title9: str
    title10: str = ""


@dataclass(frozen=True)
class Condition:
    """A lasting condition or an acute event.

    Attributes:
        name: Its name in the risk model.
        codes: Codes of which a patient carries one.
        logit: Log-odds of having it at age 60 and average frailty.
        per_decade, frailty: Added per ten years of age, and per standard deviation of frailty.
        acute: Drawn at each admission; otherwise kept for life.
    """

    name: str
    codes: tuple[Code, ...]
    logit: float
    per_decade: float = 0.0
    frailty: float = 0.0
    acute: bool = False


@dataclass(frozen=True)
class Lab:
    """A laboratory test.

    Attributes:
        panel: Tests of a panel are drawn together.
        unit: ``labevents.valueuom``; empty for none.
        low, high: Ends of the reference range.
        decimals: Decimals printed.
        centre: Median of the population, in `unit`.
        spread: Standard deviation between admissions; of the logarithm where `skewed`.
        noise: Standard deviation between draws of an admission, likewise.
        frailty: Added per standard deviation of frailty, likewise.
        metastatic: Added if the cancer has spread, likewise.
        missing: Share of admissions at which it is never ordered; 0 for tumour markers, which are
            ordered draw by draw.
        skewed: Log-normal rather than normal.
        other_unit, other_factor: A unit some results come in instead; from `unit` to it.
    """

    itemid: int
    label: str
    category: str
    panel: Panel
    unit: str
    low: float
    high: float
    decimals: int
    centre: float
    spread: float
    noise: float
    missing: float
    frailty: float = 0.0
    metastatic: float = 0.0
    skewed: bool = False
    other_unit: str = ""
    other_factor: float = 1.0


@dataclass(frozen=True)
class TextLab:
    """A test with its results in words: no ``valuenum``, only ``comments``."""

    itemid: int
    label: str
    fluid: str
    category: str
    comments: list[str]


@dataclass(frozen=True)
class Drug:
    """A line of the formulary.

    Attributes:
        name: ``prescriptions.drug``.
        use: What decides whether it is ordered.
        probability: Share of the admissions with that use that get it.
        formulary: ``formulary_drug_cd``.
        gsn: Generic sequence number, zeros leading; empty where the release has none.
        ndc: National drug code; "0" where the release has none.
        strength: ``prod_strength``.
        dose, dispensed: ``dose_val_rx, dose_unit_rx`` and ``form_val_disp, form_unit_disp``.
        per_day: ``doses_per_24_hrs``; 0 for none.
    """

    name: str
    use: str
    probability: float
    formulary: str
    gsn: str
    ndc: str
    strength: str
    dose: list[str]
    dispensed: list[str]
    per_day: int
    route: str


def _list_codes(codes: list[dict[str, str]]) -> tuple[Code, ...]:
    return tuple(Code(**code) for code in codes)


_TABLES: Final = json.loads((Path(__file__).parent / "catalogue.json").read_text("utf-8"))

BREAST_FEMALE: Final = _list_codes(_TABLES["breast_female"])
BREAST_MALE: Final = _list_codes(_TABLES["breast_male"])
METASTASES: Final = _list_codes(_TABLES["metastases"])
OTHER_CANCERS: Final = _list_codes(_TABLES["other_cancers"])
CONDITIONS: Final = tuple(
    Condition(**c | {"codes": _list_codes(c["codes"])}) for c in _TABLES["conditions"]
)
LABS: Final = tuple(Lab(**lab) for lab in _TABLES["labs"])
TEXT_LABS: Final = tuple(TextLab(**lab) for lab in _TABLES["text_labs"])
DRUGS: Final = tuple(Drug(**drug) for drug in _TABLES["drugs"])
# Name to share.
RACES: Final[dict[str, float]] = _TABLES["races"]
ADMISSION_TYPES: Final[dict[str, float]] = _TABLES["admission_types"]
LOCATIONS: Final[dict[str, float]] = _TABLES["locations"]
DESTINATIONS: Final[list[str]] = _TABLES["destinations"]
MARITAL: Final[list[str]] = _TABLES["marital"]
# Levels that conditions move: condition -> itemid -> shift (of the logarithm if skewed).
LAB_EFFECTS: Final[dict[str, dict[str, float]]] = _TABLES["lab_effects"]
