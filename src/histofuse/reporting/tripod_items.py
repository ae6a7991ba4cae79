"""The items of TRIPOD+AI, paraphrased, and what of a run answers each.

Source: Collins et al., BMJ 2024;385:e078378: 27 items, 52 with their parts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Item:
    """One item of the checklist.

    Attributes:
        number: As in the checklist.
        asks: What it asks for, in short.
        sections: Anchors of the page that answer it; empty where nothing in a run can.
        needs: Artifacts that must all be there for it to be answered.
    """

    number: str
    asks: str
    sections: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


def _item(number: str, asks: str, sections: str = "", needs: str = "") -> Item:
    return Item(number, asks, tuple(sections.split()), tuple(needs.split()))


ITEMS: Final[tuple[Item, ...]] = (
    _item("1", "Title: a prediction model is developed or evaluated, in whom, for what outcome"),
    _item("2", "Structured abstract", "summary", "metrics"),
    _item("3a", "Clinical context and why the model is needed", "question", "metrics"),
    _item("3b", "Target population, intended use and users", "question", "cohort"),
    _item("3c", "Known health inequalities between groups"),
    _item("4", "Objectives: development, evaluation, or both", "question", "metrics"),
    _item("5a", "Sources of the data, why these, how representative", "sheets", "cohort patches"),
    _item("5b", "Dates of the data: accrual and end of follow-up"),
    _item("6a", "Setting: level of care, number and place of centres", "sheets", "cohort"),
    _item("6b", "Who was eligible", "data-patients", "attrition"),
    _item("6c", "Treatments received, and how they were dealt with", "sheets", "features"),
    _item("7", "Preparation of the data and checks of quality", "sheets", "lab_quality encoder"),
    _item("8a", "Outcome: definition, horizon, how and when assessed", "data-patients", "cohort"),
    _item("8b", "Who judged an outcome that needs judgement, with what training"),
    _item("8c", "Blinding of the assessment of the outcome"),
    _item("9a", "How the initial predictors were chosen", "sheets", "features masked"),
    _item("9b", "Definition of all predictors, how and when measured", "sheets", "features"),
    _item("9c", "Who judged predictors that need judgement"),
    _item("10", "How the size of the study was arrived at"),
    _item("11", "How missing data were handled", "data-patients", "encoder feature_table"),
    _item("12a", "How the data were used and partitioned", "split", "patch_audit patient_audit"),
    _item("12b", "How predictors were transformed and scaled", "sheets", "encoder"),
    _item(
        "12c", "Type of model, building, tuning, internal validation", "provenance", "params lock"
    ),
    _item("12d", "Heterogeneity between clusters", "crossval-results", "crossval"),
    _item(
        "12e",
        "Measures and plots of performance, comparison of models",
        "results use",
        "metrics assessment",
    ),
    _item(
        "12f", "Updating of the model after evaluation, such as recalibration", "use", "assessment"
    ),
    _item("12g", "How predictions were calculated in the evaluation", "provenance", "metrics lock"),
    _item(
        "13",
        "Class imbalance: methods, and recalibration after them",
        "use-calibration",
        "params assessment",
    ),
    _item("14", "Fairness: approaches and their rationale", "use-subgroups", "assessment"),
    _item(
        "15", "Output of the model; how thresholds were set", "use-operating_points", "assessment"
    ),
    _item(
        "16",
        "Differences between development and evaluation data",
        "data-patients",
        "patients patient_splits",
    ),
    _item("17", "Ethical approval and consent"),
    _item("18a", "Funding and the role of funders"),
    _item("18b", "Conflicts of interest"),
    _item("18c", "Where the protocol of the study can be found"),
    _item("18d", "Registration of the study"),
    _item("18e", "Availability of the data", "sheets", "cohort patches"),
    _item("18f", "Availability of the code", "provenance", "licence lock"),
    _item("19", "Involvement of patients and the public"),
    _item(
        "20a",
        "Flow of participants, with and without the outcome",
        "data-patients",
        "attrition cohort",
    ),
    _item(
        "20b",
        "Characteristics of participants, predictors, events, missing data",
        "data-patients",
        "patients feature_table",
    ),
    _item(
        "20c",
        "Evaluation against development data: distribution of predictors",
        "data-patients",
        "patients patient_splits",
    ),
    _item(
        "21", "Participants and events in each analysis", "results data-tissue", "metrics tables"
    ),
    _item("22", "The full model, so that others can predict with it", "provenance", "models"),
    _item(
        "23a",
        "Performance with intervals, subgroups included",
        "results use-subgroups",
        "metrics assessment",
    ),
    _item("23b", "Heterogeneity of performance between clusters", "crossval-results", "crossval"),
    _item("24", "Results of updating the model", "use-calibration", "assessment"),
    _item(
        "25",
        "Interpretation, fairness included, beside earlier studies",
        "summary paper",
        "metrics controls assessment",
    ),
    _item("26", "Limitations", "limitations", "metrics"),
    _item("27a", "What to do with poor or missing input when the model is used"),
    _item("27b", "What users must do and know"),
    _item("27c", "Next steps: applicability and generalisability"),
)
