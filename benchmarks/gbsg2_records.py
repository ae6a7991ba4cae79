"""GBSG2 as records alone: recurrence within two years, against scikit-learn on the same folds.

The table ships inside lifelines (MIT): `pip install --no-deps lifelines`, or give the path of its
gbsg2.csv. Five folds by patient, three seeds; each row is predicted once a seed by models that
never saw it. Logistic regression of scikit-learn is fitted on all other folds, ours on those
without the one that calibrates. Scores are weighted for the rows that were censored.

    python benchmarks/gbsg2_records.py [gbsg2.csv]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import logit
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from histofuse.core.artifacts import write_json
from histofuse.data.declared.cohort import build_declared_cohort
from histofuse.data.declared.table import DECLARATION, DeclaredTable, read_declared
from histofuse.data.splits import fold_patients
from histofuse.features.declared import build_declared_features
from histofuse.features.ehr import EhrFeatures
from histofuse.features.encoding import fit_encoder, join_splits, write_encoded
from histofuse.params.base import load_section
from histofuse.params.ehr import EncodingParams
from histofuse.params.tabular import TabularParams
from histofuse.training.recorder import Recorder
from histofuse.training.tabular import load_table, train_tabular

FOLDS, SEEDS, RESAMPLES = 5, range(3), 1000
MODELS = ("logistic_regression", "gradient_boosting", "xgboost")
DOCS = Path(__file__).parents[1] / "docs" / "records.md"
PEER = "scikit-learn logistic regression"


def find_table() -> Path:
    if sys.argv[1:]:
        return Path(sys.argv[1])
    spec = find_spec("lifelines")
    if spec is None or spec.origin is None:
        sys.exit("lifelines is not installed: pip install --no-deps lifelines, or name gbsg2.csv")
    return Path(spec.origin).parent / "datasets" / "gbsg2.csv"


def declare(folder: Path) -> DeclaredTable:
    """Read the table with the declaration that the documentation shows, here weighted."""
    shutil.copy(find_table(), folder / "gbsg2.csv")
    text = DOCS.read_text("utf-8").split("```yaml\n")[1].split("```")[0]
    (folder / DECLARATION).write_text(text.replace("censoring: left_out", "censoring: weighted"))
    return read_declared(folder)


def predict_ours(joined: pd.DataFrame, features: EhrFeatures, folder: Path) -> pd.DataFrame:
    params = load_section(EncodingParams, "encoding")
    encoder = fit_encoder(joined[joined["split"] == "train"], features.specs, params)
    write_encoded(encoder, joined, folder / "encoded")
    found = {}
    for name in MODELS:
        section = load_section(TabularParams, f"tabular.{name}").root
        table = load_table(folder / "encoded", folder / "meta.json", section.kind)
        train_tabular(table, section, 0, Recorder(), folder / name)
        rows = pd.read_parquet(folder / name / "predictions.parquet").set_index("subject_id")
        found[name] = rows.loc[rows["split"] == "test", "probability"]
    return pd.DataFrame(found)


def predict_peer(joined: pd.DataFrame, weights: pd.Series) -> pd.Series:
    texts = ["hormone_therapy", "menopause"]
    keys = ["subject_id", "hadm_id", "split", "target"]
    numbers = [name for name in joined if name not in (*texts, *keys)]
    columns = make_column_transformer(
        (StandardScaler(), numbers), (OneHotEncoder(drop="first"), texts)
    )
    rest, test = joined[joined["split"] != "test"], joined[joined["split"] == "test"]
    peer = make_pipeline(columns, LogisticRegression())
    peer.fit(rest, rest["target"], logisticregression__sample_weight=weights[rest["subject_id"]])
    return pd.Series(peer.predict_proba(test)[:, 1], test["subject_id"])


def score(target: np.ndarray, p: np.ndarray, weight: np.ndarray) -> list[float]:
    """AUROC, Brier score, calibration slope, and mean predicted less observed."""
    odds = logit(p.clip(1e-6, 1 - 1e-6))[:, None]
    line = LogisticRegression(C=np.inf).fit(odds, target, weight)
    excess = np.average(p - target, weights=weight)
    brier = np.average((p - target) ** 2, weights=weight)
    return [roc_auc_score(target, p, sample_weight=weight), brier, line.coef_[0, 0], excess]


def main() -> None:
    runs = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = declare(folder)
        cohort = build_declared_cohort(source)
        features = build_declared_features(source, cohort.table)
        write_json(cohort.describe() | {"source": "published"}, folder / "meta.json")
        cohort.table.to_parquet(folder / "cohort.parquet")
        print(cohort.describe() | {"attrition": str(cohort.attrition)})
        known = cohort.table.set_index("subject_id")
        for seed in SEEDS:
            for fold in range(FOLDS):
                splits = fold_patients(cohort.table, FOLDS, fold, seed)
                joined = join_splits(features.table, splits, cohort.table)
                rows = predict_ours(joined, features, folder)
                runs.append(rows.assign(**{PEER: predict_peer(joined, known["weight"])}))
    rows = pd.concat(runs).groupby(level=0).mean()  # over seeds
    target, weight = (known.loc[rows.index, c].to_numpy() for c in ("target", "weight"))
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, len(rows), len(rows)) for _ in range(RESAMPLES)]
    scores = {
        name: np.array(
            [
                score(target[d], rows[name].to_numpy()[d], weight[d])
                for d in [np.arange(len(rows)), *drawn]
            ]
        )
        for name in rows
    }
    for name, of in scores.items():
        gain = of[:, 0] - scores[PEER][:, 0]
        parts = [
            ("AUROC", of[:, 0]),
            ("Brier", of[:, 1]),
            ("slope", of[:, 2]),
            ("excess", of[:, 3]),
        ]
        shown = ", ".join(show(label, values) for label, values in [*parts, ("gain", gain)])
        print(f"{name}: {shown}")


def show(label: str, values: np.ndarray) -> str:
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return f"{label} {values[0]:.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main()
