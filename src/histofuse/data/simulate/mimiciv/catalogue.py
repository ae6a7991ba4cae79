"""What the simulated hospital records: conditions with their codes, laboratory tests and drugs.

The entries are in ``catalogue.json``. Codes, titles, item numbers, labels and reference ranges are
those in use. How often a test is missing was measured on the MIMIC-IV demo (275 admissions); other
frequencies are plausible, not measured.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Panel = Literal["blood_count", "chemistry", "minerals", "liver", "coagulation", "marker", "text"]


@dataclass(frozen=True)
class Code:
    """One condition in both code versions."""

    icd9: str  # undotted
    icd10: str  # undotted
    title9: str  # long title; `title10` is empty where it is the same
    title10: str = ""


@dataclass(frozen=True)
class Condition:
    """A lasting condition or an acute event."""

    name: str  # in the risk model
    codes: tuple[Code, ...]  # codes of which a patient carries one
    logit: float  # log-odds of having it at age 60 and average frailty
    per_decade: float = 0.0  # added per ten years of age
    frailty: float = 0.0  # added per standard deviation of frailty
    acute: bool = False  # drawn at each admission; otherwise kept for life


@dataclass(frozen=True)
class Lab:
    """A laboratory test."""

    itemid: int
    label: str
    category: str
    panel: Panel  # tests of a panel are drawn together
    unit: str  # ``labevents.valueuom``; empty for none
    low: float  # of the reference range
    high: float
    decimals: int  # printed
    centre: float  # median of the population, in `unit`
    spread: float  # standard deviation between admissions; of the logarithm where `skewed`
    noise: float  # standard deviation between draws of an admission, likewise
    # share of admissions at which it is never ordered; 0 for tumour markers, which are ordered draw
    # by draw
    missing: float
    frailty: float = 0.0  # added per standard deviation of frailty, likewise
    metastatic: float = 0.0  # added if the cancer has spread, likewise
    skewed: bool = False  # log-normal rather than normal
    other_unit: str = ""  # a unit some results come in instead; from `unit` to it
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
    """A line of the formulary."""

    name: str  # ``prescriptions.drug``
    use: str  # what decides whether it is ordered
    probability: float  # share of the admissions with that use that get it
    formulary: str  # ``formulary_drug_cd``
    gsn: str  # generic sequence number, zeros leading; empty where the release has none
    ndc: str  # national drug code; "0" where the release has none
    strength: str  # ``prod_strength``
    dose: list[str]  # ``dose_val_rx, dose_unit_rx``
    dispensed: list[str]  # ``form_val_disp, form_unit_disp``
    per_day: int  # ``doses_per_24_hrs``; 0 for none
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
