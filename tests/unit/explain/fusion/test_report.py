"""A fused decision decomposed by hand, and the cards of a small project."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from histofuse.core.artifacts import load_json, write_json
from histofuse.core.bundle import open_bundle
from histofuse.core.errors import InputError
from histofuse.core.tables import read_table
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.fusion.cards import load_conformal, make_cards, write_cards
from histofuse.explain.fusion.explainers import FusionNetworks
from histofuse.explain.fusion.modalities import Typical, decompose
from histofuse.explain.fusion.report import open_fused_cases, write_modalities
from histofuse.explain.maps.gallery import write_gallery
from histofuse.features.embeddings import load_embeddings
from histofuse.features.encoding import ENCODED
from histofuse.features.specs import FeatureSpec
from histofuse.models.fusion import FusionHead
from histofuse.models.mlp import Mlp
from histofuse.models.tabular import MlpModel
from histofuse.params.base import load_section
from histofuse.params.explain import ExplainParams
from histofuse.params.intervals import IntervalParams
from histofuse.training.fusion import FUSION_PREDICTIONS

BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=100, confidence=0.95, method="percentile", fewest_groups=10), seed=1
)
SPECS = [
    FeatureSpec("age_years", "age", "continuous", "years", "demographics", "Age"),
    FeatureSpec("metastatic", "metastatic", "binary", "", "comorbidity", "Metastases"),
    FeatureSpec("albumin", "albumin", "continuous", "g/dL", "laboratory", "Albumin", True),
    FeatureSpec("insurance", "insurance", "categorical", "", "demographics", "Insurance"),
]
CLASSES = ["mitosis", "tumour", "non_tumour"]
CONFORMAL = {
    "classes": CLASSES,
    "score": "lac",
    "coverage_asked": 0.9,
    "quantile": dict.fromkeys(CLASSES, 0.7),
}


@pytest.fixture(scope="module")
def fused():
    torch.manual_seed(0)
    patient = Mlp(4, [8, 5], 1, 0.0)
    patient.train()
    patient(torch.randn(64, 4))
    patient.eval().requires_grad_(False)
    head = FusionHead(6, 5, [8], 3, 0.0).eval().requires_grad_(False)
    features = list("abcd")
    networks = FusionNetworks(MlpModel(features, patient), head)
    rng = np.random.default_rng(0)
    return {
        "networks": networks,
        "typical": Typical(
            rng.normal(size=6).astype(np.float32),
            pd.DataFrame(rng.normal(size=(1, 4)).astype(np.float32), columns=features),
        ),
        "image": rng.normal(size=(9, 6)).astype(np.float32),
        "rows": pd.DataFrame(rng.normal(size=(9, 4)).astype(np.float32), columns=features),
        "decided": np.arange(9) % 3,
    }


def test_shares_are_the_shapley_values_of_two_players(fused):
    found = decompose(**fused)
    networks, typical = fused["networks"], fused["typical"]

    def margin(image, row, decided, rival):
        with torch.inference_mode():
            embedded = networks.patient.network.embed(torch.tensor(row)[None])
            logits = networks.head(torch.tensor(image)[None], embedded)[0].double().numpy()
        return logits[decided] - logits[rival], logits

    mean, usual = typical.image, typical.patient.to_numpy()[0]
    for n, decided in enumerate(fused["decided"]):
        patch, row = fused["image"][n], fused["rows"].to_numpy()[n]
        rival = found.rivals[n]
        whole, logits = margin(patch, row, decided, rival)
        assert rival == max((k for k in range(3) if k != decided), key=lambda k: logits[k])
        nothing, _ = margin(mean, usual, decided, rival)
        patch_only, _ = margin(patch, usual, decided, rival)
        row_only, _ = margin(mean, row, decided, rival)
        of_patch = ((patch_only - nothing) + (whole - row_only)) / 2
        of_record = ((row_only - nothing) + (whole - patch_only)) / 2
        assert found.image[n] == pytest.approx(of_patch, abs=1e-5)
        assert found.record[n].sum() == pytest.approx(of_record, abs=1e-4)
        share = abs(of_patch) / (abs(of_patch) + abs(of_record))
        assert found.image_share[n] == pytest.approx(share, abs=1e-3)
    assert found.additivity_error < 1e-4


def test_a_typical_record_adds_nothing_and_has_no_share(fused):
    rows = pd.concat([fused["typical"].patient] * 9, ignore_index=True)
    found = decompose(**(fused | {"rows": rows}))
    np.testing.assert_allclose(found.record, 0, atol=1e-6)
    np.testing.assert_allclose(found.image_share, 1, atol=1e-5)


@pytest.fixture
def cases(small_project):
    bundle = open_bundle(small_project.root / "models" / "fusion_label_blind")
    names = {"image": "simple_cnn", "patient": "mlp"}
    encoded = {
        name: read_table(small_project.root / f"data/encoded/{name}.parquet", ENCODED)
        for name in ("imputed", "with_missing")
    }
    return open_fused_cases(
        bundle,
        {side: open_bundle(small_project.root / "models" / name) for side, name in names.items()},
        load_embeddings(small_project.root / "data/embeddings"),
        encoded=encoded,
        specs=SPECS,
        predictions=read_table(bundle.path / "predictions.parquet", FUSION_PREDICTIONS),
    )


@pytest.fixture
def params(small_project):
    small = {"gradcam_per_class": 2, "faithfulness_per_class": 4}
    small |= {"nucleus_radius_px": 4.0}
    return load_section(ExplainParams, "explain").model_copy(update=small)


def test_the_margin_is_that_of_the_predictions(cases):
    rows = cases.predictions.head(20)
    found, _ = cases.decompose(rows)
    logits = rows[[f"logit_{name}" for name in CLASSES]].to_numpy()
    decided = [CLASSES.index(name) for name in rows["prediction"]]
    expected = logits[range(20), decided] - logits[range(20), found.rivals]
    np.testing.assert_allclose(found.margin, expected, atol=1e-4)
    assert found.additivity_error < 1e-3


def test_cards_show_the_models_answer_and_add_up(cases, params, small_project):
    patches = cases.make_patches(small_project.root / "data/patches")
    rows = cases.predictions.head(3).assign(number=1)
    for (_, card), (_, row) in zip(
        make_cards(cases, patches, rows, CONFORMAL), rows.iterrows(), strict=True
    ):
        assert card.probabilities == {c: pytest.approx(row[f"probability_{c}"]) for c in CLASSES}
        inside = [c for c in CLASSES if row[f"probability_{c}"] >= 0.3]
        assert card.prediction_set == inside
        total = card.base + card.image + card.record.sum()
        expected = row[f"logit_{row['prediction']}"] - row[f"logit_{card.rival}"]
        assert total == pytest.approx(expected, abs=1e-3)
        assert card.names == ["Age", "Metastases", "Albumin", "Insurance"]
        record = read_table(small_project.root / "data/encoded/with_missing.parquet", ENCODED)
        own = record[record["hadm_id"] == row["hadm_id"]].iloc[0]
        assert card.texts[1] == ("yes" if own["metastatic"] else "no")
        assert card.texts[0].endswith("years")


def test_cards_and_shares_are_written_and_the_same_twice(cases, params, small_project, tmp_path):
    patches = cases.make_patches(small_project.root / "data/patches")
    assessment = tmp_path / "assessment.json"
    assessed = {"conformal": CONFORMAL, "digest": cases.bundle.digest}
    write_json({"models": {"fusion_label_blind": assessed}}, assessment)
    files = []
    for out in (tmp_path / "a", tmp_path / "b"):
        write_gallery(patches, out, params, BOOTSTRAP)
        write_modalities(cases, out, params, BOOTSTRAP)
        names = write_cards(cases, patches, assessment, out, params)
        files.append({f.name: f.read_bytes() for f in out.rglob("*.*")})
    assert files[0] == files[1]
    assert names
    assert all(name.startswith("case_card_") and name in files[0] for name in names)
    shares = json.loads(files[0]["modalities.json"])
    assert 0 < shares["image_share"]["value"] < 1
    found, _ = cases.decompose(cases.predictions)
    assert shares["additivity_error"] <= found.additivity_error + 1e-6
    assert load_json(tmp_path / "a" / "summary.json")["model"] == "fusion_label_blind"
    for name in ("summary.json", "faithfulness.json", "modalities.json"):
        assert load_json(tmp_path / "a" / name)["digest"] == cases.bundle.digest


def test_a_model_without_prediction_sets_is_refused(tmp_path):
    write_json({"models": {}}, tmp_path / "assessment.json")
    with pytest.raises(InputError, match=r"models\.fusion\.conformal: missing"):
        load_conformal(tmp_path / "assessment.json", "fusion", "ab" * 32)


def test_prediction_sets_of_another_bundle_are_refused(tmp_path):
    assessed = {"conformal": CONFORMAL, "digest": "cd" * 32}
    write_json({"models": {"fusion": assessed}}, tmp_path / "assessment.json")
    assert load_conformal(tmp_path / "assessment.json", "fusion", "cd" * 32) == CONFORMAL
    with pytest.raises(InputError, match=r"models\.fusion\.digest: is of another bundle"):
        load_conformal(tmp_path / "assessment.json", "fusion", "ab" * 32)
