"""Case cards of a fusion model: single predictions, chosen, explained and written."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

from histofuse.core.artifacts import load_json
from histofuse.core.errors import collect_faults
from histofuse.evaluation.assessment.conformal import predict_set
from histofuse.evaluation.drawing import write_figure
from histofuse.explain.fusion.card_figure import Card, draw_card
from histofuse.explain.fusion.report import FusedCases
from histofuse.explain.maps.figures import DPI
from histofuse.explain.maps.gallery import explain_rows
from histofuse.explain.maps.patches import Patches
from histofuse.explain.sampling import choose_cards
from histofuse.explain.shap_values.report import name_in_figure, read_natural
from histofuse.explain.shap_values.variables import (
    describe_variables,
    list_columns,
    name_variables,
    sum_columns,
)
from histofuse.params.explain import ExplainParams

CARD: Final = "case_card_{}_{}_{}.png"


def write_cards(
    cases: FusedCases, patches: Patches, assessment: Path, folder: Path, params: ExplainParams
) -> list[str]:
    """Write ``case_card_<true class>_<hit or miss>_<number>.png``, of single patients.

    Returns the names of the files. `assessment` is ``assessment.json``, for the prediction sets.
    Raises InputError if the assessment contains no prediction sets of this model.
    """
    rows = choose_cards(cases.predictions, cases.classes, params.case_cards)
    conformal = load_conformal(assessment, cases.bundle.name, cases.bundle.digest)
    names: list[str] = []
    for number, card in make_cards(cases, patches, rows, conformal) if len(rows) else ():
        kind = "hit" if card.example.is_hit else "miss"
        names.append(CARD.format(card.example.label, kind, number))
        write_figure(draw_card(card, params.nucleus_radius_px), folder / names[-1], DPI)
    return names


def load_conformal(path: Path, model: str, digest: str) -> Mapping[str, Any]:
    """Load the conformal quantiles of a model."""
    assessed = load_json(path).get("models", {}).get(model, {})
    where, remedy = f"{path}, models.{model}", "Run dvc repro."
    with collect_faults() as faults:
        if not assessed.get("conformal"):
            expected = "the quantiles of its prediction sets"
            faults.add(f"{where}.conformal", "missing", expected, remedy)
        elif assessed.get("digest") != digest:
            faults.add(f"{where}.digest", "is of another bundle", digest, remedy)
    return assessed["conformal"]


def make_cards(
    cases: FusedCases, patches: Patches, rows: pd.DataFrame, conformal: Mapping[str, Any]
) -> list[tuple[int, Card]]:
    """Collect the contents of the cards of rows, with each row's number."""
    parts, records = cases.decompose(rows)
    encoded, features = list_columns(cases.encoder), cases.networks.patient.features
    columns = [encoded[feature] for feature in features]
    natural = read_natural(records, cases.encoded["with_missing"], columns)
    variables = describe_variables(cases.encoder, cases.specs)
    sources = name_variables(cases.encoder, cases.specs)
    summed = sum_columns(parts.record, features, sources)[[*variables]]
    cards = []
    for n, example in enumerate(explain_rows(patches, rows)):
        row = rows.iloc[n]
        probabilities = {name: float(row[f"probability_{name}"]) for name in cases.classes}
        card = Card(
            example=example,
            probabilities=probabilities,
            prediction_set=predict_set(list(probabilities.values()), conformal),
            coverage=conformal["coverage_asked"],
            rival=cases.classes[parts.rivals[n]],
            base=float(parts.base[n]),
            image=float(parts.image[n]),
            image_share=float(parts.image_share[n]),
            record=summed.iloc[n].to_numpy(),
            names=[name_in_figure(variable) for variable in variables.values()],
            texts=[v.describe_value(natural.iloc[n], records.iloc[n]) for v in variables.values()],
            model=cases.bundle.name,
            pairing=cases.bundle.config["pairing"]["rule"],
            source=cases.bundle.config["source"],
        )
        cards.append((int(row["number"]), card))
    return cards
