"""Explanations of a fusion model: maps through its head, shares of both sides, case cards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from torch import Tensor

from histofuse.core.artifacts import load_json, write_json
from histofuse.core.bundle import Bundle
from histofuse.core.errors import Fault, InputError
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.estimates import Measure, estimate_means, render_estimates
from histofuse.explain.fusion.card_figure import Card, draw_card
from histofuse.explain.fusion.explainers import FusionNetworks, encode_typical
from histofuse.explain.fusion.modalities import Decomposed, Typical, decompose
from histofuse.explain.maps.figures import write_figure
from histofuse.explain.maps.gallery import Patches, choose_sample, rank_by_confidence
from histofuse.explain.maps.mappers import map_through_fusion
from histofuse.explain.shap_values.feature_labels import label_features
from histofuse.explain.shap_values.report import TableName, name_in_figure, read_natural
from histofuse.explain.shap_values.variables import describe_variables, name_variables, sum_columns
from histofuse.features.embeddings import Embeddings, select_pairs
from histofuse.features.encoding import Encoder
from histofuse.features.specs import FeatureSpec
from histofuse.models.backbones import ImageModel, load_image_model
from histofuse.models.fusion import load_fusion_model
from histofuse.models.tabular import ENCODER, MlpModel, load_tabular_model
from histofuse.params.explain import ExplainParams
from histofuse.training.decision import load_decision

MODALITIES: Final = "modalities.json"
CARD: Final = "case_card_{}_{}_{}.png"
_KEY: Final = ["subject_id", "hadm_id"]
_SHARE: Final = Measure(
    "Share of the patch in |patch| + |record|, the Shapley values of both sides of the margin"
    " between the class decided on and the likeliest other"
)


@dataclass(frozen=True)
class FusedCases:
    """A fusion model, its test rows, and all that is needed to explain them.

    Attributes:
        bundle: Of the fusion model.
        image: Its image encoder.
        networks: Its patient encoder and head.
        encoder: Of the records.
        embeddings: What the networks made of patches and records.
        encoded: Both encoded tables.
        specs: Names, units and groups of the features before encoding.
        predictions: Rows of the split that is explained.
        typical: What stands for "not known".
    """

    bundle: Bundle
    image: ImageModel
    networks: FusionNetworks
    encoder: Encoder
    embeddings: Embeddings
    encoded: Mapping[TableName, pd.DataFrame]
    specs: list[FeatureSpec]
    predictions: pd.DataFrame
    typical: Typical

    @property
    def classes(self) -> list[str]:
        """In the order of the logits."""
        return self.bundle.config["classes"]

    def make_patches(self, folder: Path) -> Patches:
        """Join the patches with their patients, for maps through the fusion head."""
        mapper = map_through_fusion(self.bundle.name, self.image, self.networks.head)
        calibrator, _ = load_decision(self.bundle.path)
        return Patches(
            mapper,
            folder,
            self.predictions,
            self._find_patients,
            calibrator.probabilities,
        )

    def _find_patients(self, rows: pd.DataFrame) -> tuple[Tensor, ...]:
        return (torch.from_numpy(np.array(select_pairs(self.embeddings, rows)[1])),)

    def decompose(self, rows: pd.DataFrame) -> tuple[Decomposed, pd.DataFrame]:
        """Take decisions apart; with them come the encoded records, in the order of `rows`."""
        encoded = self.encoded["imputed"]
        records = rows[_KEY].merge(encoded, on=_KEY, how="left", validate="m:1")
        image: Float32[np.ndarray, "n image"] = np.array(select_pairs(self.embeddings, rows)[0])
        decided = pd.Index(self.classes).get_indexer(rows["prediction"].to_numpy(dtype=object))
        found = decompose(self.networks, self.typical, image, records, decided.astype(np.int64))
        return found, records


def open_fused_cases(
    bundle: Bundle,
    encoders: Mapping[str, Bundle],
    embeddings: Embeddings,
    *,
    encoded: Mapping[TableName, pd.DataFrame],
    specs: list[FeatureSpec],
    predictions: pd.DataFrame,
) -> FusedCases:
    """Load a fusion model with its encoders.

    Args:
        bundle: Of the fusion model.
        encoders: ``image`` and ``patient``, verified to be those it was trained on.
        embeddings: Of all patches and patients.
        encoded: Both encoded tables.
        specs: Of the features before encoding.
        predictions: Of all splits: unknown patches are the mean of those it was trained on.
    """
    patient = load_tabular_model(encoders["patient"])
    assert isinstance(patient, MlpModel)
    head = load_fusion_model(bundle).network
    encoder = Encoder.from_dict(load_json(encoders["patient"].path / ENCODER))
    train = predictions[predictions["split"] == "train"]
    mean = np.asarray(select_pairs(embeddings, train)[0], dtype=np.float64).mean(axis=0)
    return FusedCases(
        bundle=bundle,
        image=load_image_model(encoders["image"]),
        networks=FusionNetworks(patient, head),
        encoder=encoder,
        embeddings=embeddings,
        encoded=encoded,
        specs=specs,
        predictions=predictions[predictions["split"] == "test"],
        typical=Typical(mean.astype(np.float32), encode_typical(encoder)),
    )


def write_modalities(
    cases: FusedCases, folder: Path, params: ExplainParams, bootstrap: Bootstrap
) -> None:
    """Write ``modalities.json``: the patch's share of decisions, over all and by class decided on.

    Holds ``image_share`` and ``image_share/<class>`` as `estimates.render_estimates` has them (None
    for a class never decided on) and ``additivity_error``. The rows are those on which maps are
    tested, of each true class as many.
    """
    rows = choose_sample(cases.predictions, cases.classes, params.faithfulness_per_class)
    if rows.empty:
        write_json({}, folder / MODALITIES)
        return
    found, _ = cases.decompose(rows)
    share, decided = found.image_share, rows["prediction"].to_numpy(dtype=object)
    scores = {"image_share": share}
    for name in cases.classes:
        scores[f"image_share/{name}"] = np.where(decided == name, share, np.nan)
    groups = np.unique(rows["case_id"].to_numpy(dtype=str), return_inverse=True)[1]
    estimates = estimate_means(scores, groups, bootstrap)
    rendered: dict[str, Any] = dict(render_estimates(estimates, {"image_share": _SHARE}))
    rendered["additivity_error"] = round(found.additivity_error, 6)
    write_json(rendered, folder / MODALITIES)


# --- case cards ---------------------------------------------------------------------------------


def write_cards(
    cases: FusedCases, patches: Patches, assessment: Path, folder: Path, params: ExplainParams
) -> list[str]:
    """Write ``case_card_<true class>_<hit or miss>_<number>.png``; they show single patients.

    Args:
        cases: The model and its rows.
        patches: Its maps.
        assessment: ``assessment.json``, for the prediction sets.
        folder: To write to.
        params: How many.

    Returns:
        The names of the files.

    Raises:
        InputError: If the assessment holds no prediction sets of this model.
    """
    rows = choose_cards(cases.predictions, cases.classes, params.case_cards)
    conformal = load_conformal(assessment, cases.bundle.name)
    names = []
    if rows.empty:
        return names
    for number, card in make_cards(cases, patches, rows, conformal):
        kind = "hit" if card.example.is_hit else "miss"
        names.append(CARD.format(card.example.label, kind, number))
        write_figure(draw_card(card, params.nucleus_radius_px), folder / names[-1])
    return names


def choose_cards(predictions: pd.DataFrame, classes: list[str], count: int) -> pd.DataFrame:
    """Choose the surest hits and the surest misses of each true class; ``number`` counts them."""
    parts = []
    for name in classes:
        rows = rank_by_confidence(predictions[predictions["label"] == name])
        for kind in (True, False):
            chosen = rows[(rows["prediction"] == name) == kind].head(count)
            parts.append(chosen.assign(number=np.arange(1, len(chosen) + 1)))
    return pd.concat(parts, ignore_index=True)


def load_conformal(path: Path, model: str) -> Mapping[str, Any]:
    """Load what makes the prediction sets of a model.

    Raises:
        InputError: If the file is missing or holds none of it.
    """
    found = load_json(path).get("models", {}).get(model, {}).get("conformal")
    if not found:
        expected = "the quantiles of its prediction sets"
        fault = Fault(f"{path}, models.{model}.conformal", "missing", expected, "Run dvc repro.")
        raise InputError([fault])
    return found


def make_cards(
    cases: FusedCases, patches: Patches, rows: pd.DataFrame, conformal: Mapping[str, Any]
) -> list[tuple[int, Card]]:
    """Gather all that the cards of some rows show, with each row's number."""
    from histofuse.evaluation.assessment.conformal import predict_set

    found, records = cases.decompose(rows)
    labels = label_features(cases.encoder, cases.specs)
    columns = [labels[feature] for feature in cases.networks.patient.features]
    natural = pd.concat(
        [
            read_natural(records.iloc[[n]], cases.encoded["with_missing"], columns)
            for n in range(len(records))
        ],
        ignore_index=True,
    )
    variables = describe_variables(cases.encoder, cases.specs)
    sources = name_variables(cases.encoder, cases.specs)
    summed = sum_columns(found.record, cases.networks.patient.features, sources)[[*variables]]
    cards = []
    for n, example in enumerate(patches.explain(rows)):
        row = rows.iloc[n]
        probabilities = {name: float(row[f"probability_{name}"]) for name in cases.classes}
        card = Card(
            example=example,
            probabilities=probabilities,
            prediction_set=predict_set(list(probabilities.values()), conformal),
            coverage=conformal["coverage_asked"],
            rival=cases.classes[found.rivals[n]],
            base=float(found.base[n]),
            image=float(found.image[n]),
            image_share=float(found.image_share[n]),
            record=summed.iloc[n].to_numpy(),
            names=[name_in_figure(variable) for variable in variables.values()],
            texts=[v.describe_value(natural.iloc[n], records.iloc[n]) for v in variables.values()],
            model=cases.bundle.name,
            pairing=cases.bundle.config["pairing"]["rule"],
            source=cases.bundle.config["source"],
        )
        cards.append((int(row["number"]), card))
    return cards
