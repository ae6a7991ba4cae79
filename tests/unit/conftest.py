"""A whole project in miniature: data, splits and models trained on them, in a few seconds."""

import shutil
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from histofuse.core.artifacts import digest_file, load_json, write_json
from histofuse.core.bundle import open_bundle
from histofuse.core.tables import read_table, write_table
from histofuse.data.cohort import COHORT, DEMOGRAPHICS
from histofuse.data.patches import PATCH_INDEX
from histofuse.data.splits import PATCH_SPLITS, PATIENT_SPLITS
from histofuse.features.encoding import ENCODED, fit_encoder, join_splits, write_encoded
from histofuse.features.pairing import PAIRS, join_targets, make_pairs
from histofuse.features.specs import FEATURES, FeatureSpec, to_json_list
from histofuse.params.base import load_section, load_seed

ROOT = Path(__file__).parents[2]
CLASSES = ["mitosis", "tumour", "non_tumour"]
SPECS = [
    FeatureSpec(
        "age_years", "age", "continuous", "years", "demographics", "Age", False, 0.0, 120.0
    ),
    FeatureSpec("metastatic", "metastatic", "binary", "", "comorbidity", "Metastases"),
    FeatureSpec(
        "albumin", "albumin", "continuous", "g/dL", "laboratory", "Albumin", True, 0.3, 8.0
    ),
    FeatureSpec("insurance", "insurance", "categorical", "", "demographics", "Insurance"),
]
CASES, PATCHES_PER_CASE, PATIENTS = 30, 16, 600
PATCH_PX, MARGIN_PX, SHARD_PATCHES = 16, 2, 200


@dataclass(frozen=True)
class SmallProject:
    """Trains the models of the project in the working directory."""

    root: Path

    def train_image(self):
        from histofuse.params.image import ImageParams
        from histofuse.training.image import load_patch_data, train_image
        from histofuse.training.recorder import Recorder

        data = load_patch_data(Path("data/patches"), Path("data/splits/patches.parquet"))
        params = load_section(ImageParams, "image.simple_cnn").root
        train_image(data, params, load_seed(), Recorder(), Path("models/simple_cnn"))

    def train_tabular(self, name="logistic_regression", *, shuffled=False, **changes):
        """Train on the health records, or on targets that tell nothing."""
        from histofuse.models.tabular import name_table
        from histofuse.params.tabular import TabularParams
        from histofuse.training.recorder import Recorder
        from histofuse.training.tabular import EncodedTable, train_tabular

        params = load_section(TabularParams, f"tabular.{name}").root.model_copy(update=changes)
        path = Path(f"data/encoded/{name_table(params.kind)}.parquet")
        rows = read_table(path, ENCODED)
        if shuffled:
            rows["target"] = np.random.default_rng(3).permutation(rows["target"].to_numpy())
        table = EncodedTable(
            rows=rows,
            features=[column for column in rows.columns if column not in ENCODED.columns],
            encoder=Path("data/encoded/encoder.json"),
            target=load_json(Path("data/cohort/meta.json"))["target"],
            source=load_json(Path("data/cohort/meta.json"))["source"],
            digests={"encoded": digest_file(path)},
        )
        train_tabular(table, params, load_seed(), Recorder(), Path("models") / name)

    def encode(self):
        encode_patients()

    def pair(self):
        pair_patients()

    def embed(self):
        from histofuse.data.patches import load_index
        from histofuse.features.embeddings import Embeddings, number_rows, write_embeddings
        from histofuse.models.backbones import load_image_model
        from histofuse.models.tabular import load_tabular_model
        from histofuse.training.image import apply_network

        of_image, of_patient = (open_bundle(Path("models") / n) for n in ("simple_cnn", "mlp"))
        index = load_index(Path("data/patches"))
        model = load_image_model(of_image)
        patches = apply_network(model, Path("data/patches"), index).embeddings
        rows = read_table(Path("data/encoded/imputed.parquet"), ENCODED)
        patients = load_tabular_model(of_patient).embed(rows)
        encoders = {
            side: {"name": b.name, "registered": f"histofuse-{b.name}".replace("_", "-")}
            | {"digest": b.digest}
            for side, b in (("image", of_image), ("patient", of_patient))
        }
        meta = {"classes": CLASSES, "focus_class": "mitosis", "encoders": encoders}
        sources = {"image": of_image.config["source"], "patient": of_patient.config["source"]}
        meta["sources"] = sources
        embeddings = Embeddings(
            number_rows(index[["patch_id"]], patches),
            number_rows(rows[["subject_id", "hadm_id"]], patients),
            meta,
        )
        write_embeddings(embeddings, Path("data/embeddings"))

    def train_fusion(self, rule="label_blind", **changes):
        from histofuse.features.embeddings import load_embeddings
        from histofuse.params.fusion import FusionParams
        from histofuse.params.pairing import PairingParams
        from histofuse.training.fusion import PairedEmbeddings, train_fusion
        from histofuse.training.recorder import Recorder

        path = Path(f"data/pairs/{rule}.parquet")
        data = PairedEmbeddings(
            pairs=read_table(path, PAIRS),
            embeddings=load_embeddings(Path("data/embeddings")),
            pairing=load_section(PairingParams, f"pairing.{rule}"),
            digests={"pairs": digest_file(path)},
        )
        params = load_section(FusionParams, "fusion").model_copy(update=changes)
        path = Path("models") / f"fusion_{rule}"
        train_fusion(data, params, load_seed(), Recorder(), path)


def write_params():
    """Write the project's own params, less the models that take long."""
    yaml = YAML(typ="safe")
    params = yaml.load(ROOT / "params.yaml")
    cnn = params["image"]["simple_cnn"] | {"input_px": 32, "epochs": 4, "batch_size": 32}
    tabular = {name: params["tabular"][name] for name in ("logistic_regression", "mlp")}
    tabular["mlp"] |= {"hidden": [16, 8], "epochs": 10}
    params |= {
        "image": {"simple_cnn": cnn},
        "tabular": tabular,
        "encoders": {"image": "simple_cnn", "patient": "mlp"},
        "pairing": {rule: params["pairing"][rule] for rule in ("label_blind", "label_aligned")},
    }
    params["fusion"] |= {"epochs": 40, "learning_rate": 1e-3, "hidden": [16]}
    params["promotion"] |= {"resamples": 200}
    yaml.dump(params, Path("params.yaml"))


def deal_splits(count):
    return np.array(["train", "train", "train", "validation", "test"] * count)[:count]


def write_patches():
    """Write patches whose class shows in their shade, not always."""
    rng = np.random.default_rng(1)
    count = CASES * PATCHES_PER_CASE
    case = np.repeat(np.arange(CASES), PATCHES_PER_CASE)
    label = np.arange(count) % 3
    place = np.arange(count)
    index = pd.DataFrame(
        {
            "patch_id": [f"Case_{c}-01/{n:04d}" for n, c in enumerate(case)],
            "frame_id": [f"Case_{c}-01" for c in case],
            "case_id": [f"Case_{c}" for c in case],
            "x_px": place.astype(float),
            "y_px": place.astype(float),
            "label": [CLASSES[k] for k in label],
            "shard": place // SHARD_PATCHES,
            "row": place % SHARD_PATCHES,
        }
    )
    side = PATCH_PX + 2 * MARGIN_PX
    shade = np.clip(90 + 40 * label + rng.normal(0, 28, count), 70, 225)  # neither black nor white
    noise = rng.normal(0, 12, (count, side, side, 3))
    patches = np.clip(shade[:, None, None, None] + noise, 0, 255).astype(np.uint8)
    folder = Path("data/patches")
    write_table(index, folder / "index.parquet", PATCH_INDEX)
    for shard in range(-(-count // SHARD_PATCHES)):
        rows = patches[shard * SHARD_PATCHES : (shard + 1) * SHARD_PATCHES]
        np.save(folder / f"shard-{shard:05d}.npy", rows)
    meta = {"patch_px": PATCH_PX, "margin_px": MARGIN_PX, "stored_px": side, "classes": CLASSES}
    meta |= {"source": "simulated", "stain_normalisation": "none"}
    write_json(meta, folder / "meta.json")
    splits = index[["patch_id", "frame_id", "case_id", "label"]]
    splits = splits.assign(split=deal_splits(CASES)[case])
    write_table(splits, Path("data/splits/patches.parquet"), PATCH_SPLITS)
    write_audit("case")


def write_audit(unit):
    pairs = ("train-validation", "train-test", "validation-test")
    forbidden = ["cases"] if unit == "case" else []
    audit = {"unit": unit, "validation_unit": unit, "leaky": unit == "patch"}
    audit["shared"] = {pair: {"cases": 0 if unit == "case" else 3} for pair in pairs}
    audit["forbidden"] = dict.fromkeys(pairs, forbidden)
    write_json(audit, Path("data/splits/patches_audit.json"))


def write_patients():
    """Write records from which the outcome can be told, not always."""
    rng = np.random.default_rng(2)
    key = {"subject_id": np.arange(PATIENTS) + 10, "hadm_id": np.arange(PATIENTS) + 90_000}
    metastatic, age = rng.integers(0, 2, PATIENTS), rng.uniform(30, 90, PATIENTS)
    albumin = rng.normal(4 - metastatic, 0.5)
    log_odds = 3.0 * metastatic + 0.05 * (age - 60) - 2.2
    target = (rng.uniform(size=PATIENTS) < 1 / (1 + np.exp(-log_odds))).astype(int)
    albumin[rng.uniform(size=PATIENTS) < 0.2] = np.nan
    insurance = rng.choice(["Medicare", "Other"], PATIENTS)
    values = {"age_years": age, "metastatic": metastatic, "albumin": albumin}
    features = pd.DataFrame({**key, **values, "insurance": insurance})
    times = dict.fromkeys(("admittime", "dischtime", "prediction_time"), pd.Timestamp("2150-01-01"))
    texts = dict.fromkeys(DEMOGRAPHICS, "x")
    cohort = pd.DataFrame({**key, **times, "target": target, "age_years": age, **texts})
    splits = pd.DataFrame({**key, "split": deal_splits(PATIENTS)})
    write_table(features, Path("data/ehr/features.parquet"), FEATURES)
    write_json(to_json_list(SPECS), Path("data/ehr/features.json"))
    write_table(cohort[list(COHORT.columns)], Path("data/cohort/cohort.parquet"), COHORT)
    write_table(splits, Path("data/splits/patients.parquet"), PATIENT_SPLITS)
    write_json({"target": "mortality_1y", "source": "simulated"}, Path("data/cohort/meta.json"))
    pairs = ("train-validation", "train-test", "validation-test")
    audit = {"leaky": False, "shared": {pair: {"patients": 0} for pair in pairs}}
    audit["forbidden"] = {pair: ["patients"] for pair in pairs}
    write_json(audit, Path("data/splits/patients_audit.json"))


def encode_patients():
    from histofuse.params.ehr import EncodingParams

    joined = join_splits(
        read_table(Path("data/ehr/features.parquet"), FEATURES),
        read_table(Path("data/splits/patients.parquet"), PATIENT_SPLITS),
        read_table(Path("data/cohort/cohort.parquet"), COHORT),
    )
    train = joined[joined["split"] == "train"]
    encoder = fit_encoder(train, SPECS, load_section(EncodingParams, "encoding"))
    write_encoded(encoder, joined, Path("data/encoded"))


def pair_patients():
    from histofuse.params.pairing import PairingParams

    patches = read_table(Path("data/splits/patches.parquet"), PATCH_SPLITS)
    splits = read_table(Path("data/splits/patients.parquet"), PATIENT_SPLITS)
    patients = join_targets(splits, read_table(Path("data/cohort/cohort.parquet"), COHORT))
    for rule in ("label_blind", "label_aligned"):
        params = load_section(PairingParams, f"pairing.{rule}")
        pairs = make_pairs(patches, patients, params, load_seed())
        write_table(pairs, Path(f"data/pairs/{rule}.parquet"), PAIRS)


@pytest.fixture(scope="session")
def small_template(tmp_path_factory):
    """The project with its data, and with encoders and two fusion models trained on them."""
    root = tmp_path_factory.mktemp("small") / "project"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        write_params()
        write_patches()
        write_patients()
        encode_patients()
        pair_patients()
        project = SmallProject(root)
        project.train_image()
        project.train_tabular()
        project.train_tabular("mlp")
        project.embed()
        for rule in ("label_blind", "label_aligned"):
            project.train_fusion(rule)
    return root


@pytest.fixture(scope="session")
def published_template(small_template, tmp_path_factory):
    """The same project with its models published."""
    from histofuse.tracking.publish import publish_all

    root = tmp_path_factory.mktemp("published") / "project"
    shutil.copytree(small_template, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        publish_all()
    return root


def enter_copy(template, tmp_path, monkeypatch):
    root = tmp_path / "project"
    shutil.copytree(template, root)
    monkeypatch.chdir(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return SmallProject(root)


@pytest.fixture
def small_project(small_template, tmp_path, monkeypatch):
    """The working directory of a copy of the small project, nothing published."""
    return enter_copy(small_template, tmp_path, monkeypatch)


@pytest.fixture
def published(published_template, tmp_path, monkeypatch):
    """The working directory of a copy of the small project, everything published."""
    from histofuse.tracking.connection import DATABASE
    from histofuse.tracking.local import rehome

    # MLflow remembers by the run's id where its artifacts are; here one run is in many places.
    remembered = "mlflow.tracking._tracking_service.utils._artifact_repos_cache"
    monkeypatch.setattr(remembered, OrderedDict())
    project = enter_copy(published_template, tmp_path, monkeypatch)
    rehome(DATABASE)
    return project
