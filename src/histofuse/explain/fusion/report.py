"""A fusion model with its test rows, and how much of its decisions each side accounts for."""

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
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.estimates import Measure, estimate_means, render_estimates
from histofuse.explain.fusion.explainers import FusionNetworks, encode_typical
from histofuse.explain.fusion.modalities import Decomposed, Typical, decompose
from histofuse.explain.maps.mappers import map_through_fusion
from histofuse.explain.maps.patches import Patches
from histofuse.explain.sampling import choose_sample
from histofuse.explain.shap_values.report import TableName
from histofuse.features.embeddings import Embeddings, select_pairs
from histofuse.features.encoding import Encoder
from histofuse.features.specs import FeatureSpec
from histofuse.models.backbones import ImageModel, load_image_model
from histofuse.models.fusion import load_fusion_model
from histofuse.models.tabular import ENCODER, MlpModel, load_tabular_model
from histofuse.params.explain import ExplainParams
from histofuse.training.decision import load_decision

MODALITIES: Final = "modalities.json"
_KEY: Final = ["subject_id", "hadm_id"]
_SHARE: Final = Measure(
    "Share of the patch in |patch| + |record|, the Shapley values of both sides of the margin"
    " between the decided class and the most likely other class"
)


@dataclass(frozen=True)
class FusedCases:
    """A fusion model, its test rows, and what is needed to explain them.

    `encoder` and `specs` are of the records, `predictions` on the test split.
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

        def find_patients(rows: pd.DataFrame) -> Tensor:
            return torch.from_numpy(np.array(select_pairs(self.embeddings, rows)[1]))

        calibrate, digest = calibrator.probabilities, self.bundle.digest
        return Patches(mapper, digest, folder, self.predictions, calibrate, find_patients)

    def decompose(self, rows: pd.DataFrame) -> tuple[Decomposed, pd.DataFrame]:
        """Decompose decisions; also return the encoded records, in the order of `rows`."""
        encoded = self.encoded["imputed"]
        records = rows[_KEY].merge(encoded, on=_KEY, how="left", validate="m:1")
        image: Float32[np.ndarray, "n image"] = np.array(select_pairs(self.embeddings, rows)[0])
        decided = np.array([self.classes.index(name) for name in rows["prediction"]])
        return decompose(self.networks, self.typical, image, records, decided), records


def open_fused_cases(
    bundle: Bundle,
    encoders: Mapping[str, Bundle],
    embeddings: Embeddings,
    *,
    encoded: Mapping[TableName, pd.DataFrame],
    specs: list[FeatureSpec],
    predictions: pd.DataFrame,
) -> FusedCases:
    """Load a fusion model with its encoders, verified to be those it was trained on.

    `predictions` are of all splits; an unknown patch is the mean training patch.
    """
    patient = load_tabular_model(encoders["patient"])
    assert isinstance(patient, MlpModel)
    encoder = Encoder.from_dict(load_json(encoders["patient"].path / ENCODER))
    train = predictions[predictions["split"] == "train"]
    mean = np.asarray(select_pairs(embeddings, train)[0], dtype=np.float64).mean(axis=0)
    return FusedCases(
        bundle=bundle,
        image=load_image_model(encoders["image"]),
        networks=FusionNetworks(patient, load_fusion_model(bundle).network),
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
    """Write ``modalities.json``: the patch's share of decisions, overall and by decided class.

    Contains ``digest`` of the bundle, ``image_share`` and ``image_share/<class>`` as
    `estimates.render_estimates` gives them (None for a class that was never decided) and
    ``additivity_error``. The rows are those on which maps are tested.
    """
    rows = choose_sample(cases.predictions, cases.classes, params.faithfulness_per_class)
    if rows.empty:
        write_json({"digest": cases.bundle.digest}, folder / MODALITIES)
        return
    parts, _ = cases.decompose(rows)
    share, decided = parts.image_share, rows["prediction"].to_numpy(dtype=object)
    scores = {"image_share": share}
    for name in cases.classes:
        scores[f"image_share/{name}"] = np.where(decided == name, share, np.nan)
    estimates = estimate_means(scores, rows["case_id"].to_numpy(dtype=str), bootstrap)
    fewest = bootstrap.params.fewest_groups
    rendered: dict[str, Any] = dict(render_estimates(estimates, {"image_share": _SHARE}, fewest))
    rendered["digest"] = cases.bundle.digest
    rendered["additivity_error"] = round(parts.additivity_error, 6)
    write_json(rendered, folder / MODALITIES)
