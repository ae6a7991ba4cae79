import json
import shutil
from itertools import compress

import numpy as np
import pandas as pd
import pytest
import torch

from histofuse.core.artifacts import write_json
from histofuse.core.bundle import writing_bundle
from histofuse.core.errors import BundleError, HistofuseError, InputError
from histofuse.features.encoding import encode
from histofuse.serving.predict import open_predictor
from histofuse.training.distance import load_distance

CLASSES = ["mitosis", "tumour", "non_tumour"]
PROBABILITIES = [f"probability_{name}" for name in CLASSES]


def add_margin(patches):
    return np.pad(patches, ((0, 0), (16, 16), (16, 16), (0, 0)), mode="reflect")


def calibrate(bundle, logits):
    """Divide by the temperature, add biases, take the softmax, with nothing of the package."""
    found = json.loads((bundle.path / "calibrator.json").read_text())
    scaled = np.asarray(logits, dtype=np.float64) / found["temperature"]
    powers = np.exp(scaled + np.array(found["biases"]))
    return powers / powers.sum(axis=1, keepdims=True)


def fuse(fusion, patches, patients):
    """Compute fused logits of all rows at once, with nothing of serving."""
    network, mlp, encoder = fusion.image.model, fusion.patient.model, fusion.patient.encoder
    with torch.inference_mode():
        embedded = network.embed(network.prepare(torch.from_numpy(add_margin(patches))))
        rows = torch.from_numpy(mlp.embed(encode(encoder, patients)))
        return fusion.model(embedded, rows).numpy()


# --- one side -----------------------------------------------------------------------------------


def test_records_in_natural_units_become_calibrated_probabilities(tabular, patients):
    table = open_predictor(tabular.path).predict(patients)

    logits = tabular.model.logits(encode(tabular.encoder, patients))
    expected = calibrate(tabular, np.column_stack([np.zeros_like(logits), logits]))[:, 1]
    np.testing.assert_allclose(table["probability_death"], expected, rtol=1e-6)
    np.testing.assert_allclose(table["probability_no_death"], 1 - expected, rtol=1e-6)
    threshold = json.loads((tabular.path / "threshold.json").read_text())["values"][1]
    called = np.where(expected >= threshold, "death", "no_death")
    assert table["prediction"].tolist() == called.tolist()


def test_rows_keep_their_index_whatever_the_order_of_the_columns(tabular, patients):
    predictor = open_predictor(tabular.path)
    shuffled = patients[patients.columns[::-1]].set_axis([7, 8, 8, 10])
    table = predictor.predict(shuffled)
    assert table.index.tolist() == [7, 8, 8, 10]
    np.testing.assert_array_equal(table.to_numpy(), predictor.predict(patients).to_numpy())


SPELT = {"insurance": ["MEDICARE", " other", "Medicare ", None]}


def test_categories_are_read_as_hospitals_spell_them(tabular, patients):
    predictor = open_predictor(tabular.path)
    expected = predictor.predict(patients)
    pd.testing.assert_frame_equal(predictor.predict(patients.assign(**SPELT)), expected)
    assert expected["warnings"].tolist() == [""] * 4


def test_a_number_beyond_what_the_model_was_trained_on_is_said(tabular, patients):
    patients["albumin"] = [0.4, 3.9, None, 7.9]  # in its range, as others are in another unit
    said = open_predictor(tabular.path).predict(patients)["warnings"].tolist()
    told = "is beyond what the model was trained on"
    assert said == [f"albumin 0.4 {told}", "", "", f"albumin 7.9 {told}"]


def test_a_category_the_model_does_not_know_is_said(tabular, fusion, patches, patients):
    patients["insurance"] = ["Tricare", None, "Medicare", "x" * 1000]
    table = open_predictor(tabular.path).predict(patients)
    said = table["warnings"].tolist()
    assert said[:3] == ["insurance 'Tricare' is unknown to the model", "", ""]
    assert len(said[3]) < 100
    fused = open_predictor(fusion.path, fusion.encoders)
    patients.loc[1] = None
    answer = fused.predict({"image": patches, "patient": patients})
    assert answer["warnings"].tolist() == said


def test_a_value_no_patient_has_is_refused_with_its_unit(tabular, patients):
    patients["albumin"] = [None, 41.0, 3.2, 44.0]
    patients["age_years"] = [40.0, 22_645.0, 60.0, None]
    with pytest.raises(InputError) as error:
        open_predictor(tabular.path).predict(patients)
    told = {(f.where, f.problem, f.expected) for f in error.value.faults}
    assert told == {
        (
            "the record, row 1, albumin",
            "is 41.0 (2 such rows)",
            "a finite number from 0.3 to 8 g/dL, or null",
        ),
        (
            "the record, row 1, age_years",
            "is 22645.0",
            "a finite number from 0 to 120 years, or null",
        ),
    }


def test_values_beyond_training_move_a_probability_no_further(tabular, patients):
    predictor = open_predictor(tabular.path)
    same = patients.iloc[[0] * 4].reset_index(drop=True)
    answers = predictor.predict(same.assign(age_years=[70.0, 80.0, 119.0, 120.0]))
    assert answers["probability_death"].nunique() == 1


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_no_answer(tabular, patients, monkeypatch, value):
    predictor = open_predictor(tabular.path)
    monkeypatch.setattr(
        type(predictor.model), "logits", lambda self, rows: np.full(len(rows), value)
    )
    with pytest.raises(HistofuseError, match="not finite"):
        predictor.predict(patients)


def test_patches_with_and_without_margin(image, patches):
    predictor = open_predictor(image.path)
    stored = add_margin(patches)

    table = predictor.predict(stored)

    logits = image.model(image.model.prepare(torch.from_numpy(stored))).detach().numpy()
    named = ["prediction", "prediction_set", "model", "trained_on", "distance", "warnings"]
    assert list(table) == [*PROBABILITIES, *named]
    np.testing.assert_allclose(table[PROBABILITIES], calibrate(image.bundle, logits), atol=1e-6)
    pd.testing.assert_frame_equal(table, predictor.predict(patches))


def test_an_answer_says_what_cannot_be_ruled_out_and_how_far_from_training_it_is(image, patches):
    predictor = open_predictor(image.path)
    table = predictor.predict(patches)
    limits = predictor.decision.thresholds.sets
    for _, row in table.iterrows():
        inside = [1 - row[name] <= q + 1e-8 for name, q in zip(PROBABILITIES, limits, strict=True)]
        assert row["prediction_set"] == ", ".join(compress(CLASSES, inside))
    embedded = predictor.embed_patches(predictor.read(patches))
    expected = load_distance(image.path).measure(embedded)
    np.testing.assert_allclose(table["distance"], expected, atol=6e-4)
    assert (table["distance"] > 0).all()


def test_a_bundle_of_before_has_neither_sets_nor_distances(image, patches, tmp_path):
    old = tmp_path / "old"
    with writing_bundle(old, "old") as folder:
        for file in image.path.iterdir():
            if file.name not in ("manifest.json", "distance.safetensors"):
                shutil.copy(file, folder)
        values = json.loads((folder / "threshold.json").read_text())
        del values["sets"]
        write_json(values, folder / "threshold.json")
    table = open_predictor(old).predict(patches)
    assert table["distance"].isna().all()
    assert table["prediction_set"].isna().all()
    assert (table["prediction"] == open_predictor(image.path).predict(patches)["prediction"]).all()


def test_a_patch_alone_gets_the_bits_it_gets_among_many(image, patches):
    predictor = open_predictor(image.path)
    many = predictor.predict(patches)
    alone = pd.concat([predictor.predict(patches[i : i + 1]) for i in range(4)], ignore_index=True)
    pd.testing.assert_frame_equal(alone, many, check_exact=True)
    with torch.inference_mode():
        stored = torch.from_numpy(add_margin(patches))
        logits = image.model(image.model.prepare(stored)).float().numpy()
    np.testing.assert_array_equal(
        many[PROBABILITIES], predictor.decision.calibrator.probabilities(logits)
    )


# --- fusion -------------------------------------------------------------------------------------


def test_fusion_answers_both_forms_of_input_alike(fusion, patches, patients):
    predictor = open_predictor(fusion.path, fusion.encoders)

    table = predictor.predict({"image": patches, "patient": patients})

    expected = calibrate(fusion.bundle, fuse(fusion, patches, patients))
    np.testing.assert_allclose(table[PROBABILITIES], expected, atol=1e-6)
    assert set(table["answered_by"]) == {"fusion"}
    digests = (fusion.image.bundle.digest[:12], fusion.patient.bundle.digest[:12])
    assert set(table["embedding_version"]) == {"+".join(digests)}
    together = patients.assign(image=patches.tolist())
    pd.testing.assert_frame_equal(predictor.predict(together), table)


def test_a_patch_without_a_record_is_answered_by_the_image_encoder(fusion, patches, patients):
    predictor = open_predictor(fusion.path, fusion.encoders)
    patients.loc[[0, 2]] = None

    rows = patients.assign(image=list(patches)).set_axis([5, 3, 9, 1])
    table = predictor.predict(rows)

    assert table.index.tolist() == [5, 3, 9, 1]
    assert table["answered_by"].tolist() == ["image", "fusion", "image", "fusion"]
    alone = open_predictor(fusion.image.path).predict(patches)
    by_image = table.iloc[[0, 2]]
    np.testing.assert_array_equal(by_image[PROBABILITIES], alone.iloc[[0, 2]][PROBABILITIES])
    assert by_image["prediction"].tolist() == alone["prediction"].iloc[[0, 2]].tolist()
    assert set(by_image["embedding_version"]) == {fusion.image.bundle.digest[:12]}
    fused = calibrate(fusion.bundle, fuse(fusion, patches, patients))
    np.testing.assert_allclose(table.iloc[[1, 3]][PROBABILITIES], fused[[1, 3]], atol=1e-6)


@pytest.mark.parametrize("absent", ["None", "columns"])
def test_no_records_at_all(fusion, patches, absent):
    predictor = open_predictor(fusion.path, fusion.encoders)
    nothing = {"image": patches, "patient": None}
    table = predictor.predict(nothing if absent == "None" else pd.DataFrame({"image": [*patches]}))
    assert table["answered_by"].tolist() == ["image"] * 4


def test_a_record_that_lacks_a_column_is_refused_and_not_answered_by_the_image(fusion, patches):
    predictor = open_predictor(fusion.path, fusion.encoders)
    with pytest.raises(InputError, match="albumin") as error:
        predictor.predict(pd.DataFrame({"image": [patches[0]], "age_years": [50.0]}))
    assert "metastatic" in str(error.value)


def test_faults_of_patches_and_records_are_listed_together(fusion, patches, patients):
    rows = patients.astype({"age_years": object}).assign(image=[*patches[:3], None])
    rows.loc[1, "age_years"] = "fifty"
    with pytest.raises(InputError) as error:
        open_predictor(fusion.path, fusion.encoders).predict(rows)
    assert [str(fault.where) for fault in error.value.faults] == [
        "row 3, image",
        "the record, row 1, age_years",
    ]


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        (lambda patches, patients: patients, "no column 'image'"),
        (lambda patches, patients: {"patient": patients}, "no column 'image'"),
        (lambda patches, patients: patches, "is a ndarray"),
        (lambda patches, patients: {"image": patches[:2], "patient": patients}, "one record for"),
    ],
    ids=["records", "patient", "patches", "unequal"],
)
def test_what_fusion_cannot_answer(fusion, patches, patients, inputs, named):
    with pytest.raises(InputError, match=named):
        open_predictor(fusion.path, fusion.encoders).predict(inputs(patches, patients))


def test_without_a_folder_the_encoders_come_from_the_registry(fusion, patches, monkeypatch):
    bundles = {
        f"histofuse-{made.bundle.name.replace('_', '-')}": made.bundle
        for made in (fusion.image, fusion.patient)
    }
    asked = []

    def pull(name, digest):
        asked.append((name, digest))
        return bundles[name]

    monkeypatch.setattr("histofuse.tracking.registry.pull_bundle", pull)
    table = open_predictor(fusion.path).predict({"image": patches, "patient": None})
    assert asked == [(name, bundle.digest) for name, bundle in bundles.items()]
    assert len(table) == 4


# --- bundles ------------------------------------------------------------------------------------


def test_altered_bundle_is_not_served(tabular):
    (tabular.path / "threshold.json").write_text("{}")
    with pytest.raises(BundleError, match=r"threshold\.json"):
        open_predictor(tabular.path)


def test_another_encoder_than_the_one_trained_with_is_not_served(fusion, image, tmp_path):
    (fusion.encoders / "patient").unlink()
    (fusion.encoders / "patient").symlink_to(image.path)
    with pytest.raises(BundleError, match=r"digest is .*, expected"):
        open_predictor(fusion.path, fusion.encoders)
