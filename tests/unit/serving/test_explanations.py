import base64
import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from histofuse.explain.maps.methods import compute_maps, enlarge
from histofuse.features.encoding import encode
from histofuse.serving.predict import open_predictor

LAYER = "backbone.features.2"
CLASSES = ["mitosis", "tumour", "non_tumour"]


def read_map(text):
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert image.mode == "L"
        return np.array(image) / 255


def embed(predictor, patches):
    return predictor.embed_patches(predictor.read(patches))


def test_maps_of_an_image_network_are_those_of_its_gallery(image, patches):
    table = open_predictor(image.path).predict(patches, gradcam=True)

    network = image.model
    stored = np.pad(patches, ((0, 0), (16, 16), (16, 16), (0, 0)), mode="reflect")
    targets = torch.tensor([CLASSES.index(name) for name in table["prediction"]])
    prepared = network.prepare(torch.from_numpy(stored))
    layer, method = network.gradcam_layer, network.map_method
    maps = compute_maps(network, prepared, targets, layer=layer, method=method)
    for text, heat in zip(table["gradcam"], maps, strict=True):
        np.testing.assert_allclose(read_map(text), enlarge(heat, 64), atol=0.003)


def test_maps_of_fusion_follow_the_fused_logit(fusion, patches, patients):
    predictor = open_predictor(fusion.path, fusion.encoders)
    patients.loc[3] = None
    table = predictor.predict({"image": patches, "patient": patients}, gradcam=True)
    alone = open_predictor(fusion.image.path).predict(patches, gradcam=True)

    assert table["gradcam"].iloc[3] == alone["gradcam"].iloc[3]
    # By hand: the gradient of the fused margin at the layer, averaged over it, weighs its channels.
    network, row = predictor.image.model, 0
    layer = network.get_submodule(LAYER)
    kept = []
    hook = layer.register_forward_hook(lambda _, __, out: kept.append(out.requires_grad_()))
    stored = torch.from_numpy(predictor.image.read(patches).stored[row : row + 1])
    record = torch.from_numpy(
        fusion.patient.model.embed(encode(fusion.patient.encoder, patients.iloc[[row]]))
    )
    logits = predictor.model.network(network.embed(network.prepare(stored)), record)
    hook.remove()
    decided = CLASSES.index(table["prediction"].iloc[row])
    margin = logits[0, decided] - max(logits[0, k] for k in range(3) if k != decided)
    (gradient,) = torch.autograd.grad(margin, kept[0])
    heat = (gradient.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1).relu()[0].detach()
    expected = enlarge((heat / heat.max().clamp(min=1e-30)).numpy(), 64)
    np.testing.assert_allclose(read_map(table["gradcam"].iloc[row]), expected, atol=0.003)


@pytest.mark.parametrize("kind", ["tabular", "mlp"])
def test_shap_values_add_up_to_the_log_odds(request, kind, patients):
    made = request.getfixturevalue(kind)
    table = open_predictor(made.path).predict(patients, shap=True)

    logits = made.model.logits(encode(made.encoder, patients))
    sums = [
        base + sum(v.values()) for base, v in zip(table["shap_base"], table["shap"], strict=True)
    ]
    np.testing.assert_allclose(sums, logits, atol=1e-5)
    names = {"age_years", "metastatic", "albumin", "insurance", "albumin_missing"}
    assert {*table["shap"].iloc[0]} == names


def test_shap_values_of_a_linear_model_are_distances_to_the_typical_patient(tabular, patients):
    table = open_predictor(tabular.path).predict(patients, shap=True)
    weight = dict(zip(tabular.model.features, tabular.model.coefficients, strict=True))
    ages = patients["age_years"]
    std, median = ages.std(ddof=0), ages.median()
    assert table["shap"].iloc[0]["age_years"] == pytest.approx(
        (40 - median) / std * weight["age_years"], abs=1e-5
    )
    assert table["shap"].iloc[3]["age_years"] == pytest.approx(0, abs=1e-6)  # not known
    assert table["shap"].iloc[0]["albumin_missing"] == pytest.approx(weight["albumin_missing"])
    swap = weight["insurance=other"] - weight["insurance=medicare"]
    assert table["shap"].iloc[1]["insurance"] == pytest.approx(swap, abs=1e-5)


def test_shap_values_of_the_network_are_those_of_deepshap_with_one_reference(mlp, patients):
    import shap

    from histofuse.explain.fusion.explainers import encode_typical, explain_record

    rows, typical = encode(mlp.encoder, patients), encode_typical(mlp.encoder)
    found = explain_record(mlp.model, rows, typical)
    network = mlp.model.network.copy_trainable()
    reference, x = (torch.from_numpy(part.to_numpy(copy=True)) for part in (typical, rows))
    explainer = shap.DeepExplainer(network, reference)
    expected = explainer.shap_values(x, check_additivity=False).reshape(x.shape)
    np.testing.assert_allclose(found.values, expected, atol=1e-5)


def test_shap_values_of_fusion_add_up_to_the_fused_logit(fusion, patches, patients):
    predictor = open_predictor(fusion.path, fusion.encoders)
    patients.loc[2] = None
    table = predictor.predict({"image": patches, "patient": patients}, shap=True)

    assert table["shap"].iloc[2] is None
    assert table["shap_base"].iloc[2] is None
    with torch.inference_mode():
        rows = encode(fusion.patient.encoder, patients)
        embedded = torch.from_numpy(embed(predictor.image, patches))
        logits = fusion.model(embedded, torch.from_numpy(fusion.patient.model.embed(rows)))
    for row in (0, 1, 3):
        explained = table.iloc[row]
        logit = logits[row, CLASSES.index(explained["prediction"])].item()
        total = explained["shap_base"] + sum(explained["shap"].values())
        assert total == pytest.approx(logit, abs=1e-4)
    assert table["shap"].iloc[3]["age_years"] == pytest.approx(0, abs=1e-6)  # not known


def test_the_typical_patient_lacks_nothing(mlp):
    typical = open_predictor(mlp.path).encoder
    from histofuse.explain.fusion.explainers import encode_typical

    encoded = encode_typical(typical)
    assert encoded["albumin_missing"].tolist() == [0.0]
    assert not encoded.isna().any(axis=None)
    assert pd.Series(encoded.columns).tolist() == typical.feature_order


def test_each_row_is_explained_for_its_own_class(fusion, patches, patients):
    from histofuse.explain.fusion.explainers import (
        FusionNetworks,
        encode_typical,
        explain_fused_record,
    )

    patient = fusion.patient
    rows, typical = encode(patient.encoder, patients), encode_typical(patient.encoder)
    embedded = embed(open_predictor(fusion.image.path), patches)
    targets = np.array([0, 1, 2, 1])
    networks = FusionNetworks(patient.model, fusion.model)
    found = explain_fused_record(networks, rows, typical, embedded, targets)
    with torch.inference_mode():
        of_patient = torch.from_numpy(patient.model.embed(rows))
        logits = fusion.model(torch.from_numpy(embedded), of_patient).numpy()
    totals = found.base + found.values.sum(axis=1)
    np.testing.assert_allclose(totals, logits[np.arange(4), targets], atol=1e-4)
