"""SHAP values add up, mean what they say, and are written with real names."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xgboost
from sklearn.ensemble import GradientBoostingClassifier

from histofuse.core.bundle import open_bundle
from histofuse.core.errors import InputError
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.shap_values.attributions import compute_attributions
from histofuse.explain.shap_values.report import (
    choose_rows,
    explain_rows,
    summarise,
    write_shap_report,
)
from histofuse.explain.shap_values.variables import describe_variables, list_columns
from histofuse.features.encoding import encode_table, fit_encoder
from histofuse.features.specs import FeatureSpec
from histofuse.models.mlp import Mlp
from histofuse.models.tabular import LinearModel, MlpModel, TreesModel, XgboostModel
from histofuse.models.trees import extract_trees, make_matrix
from histofuse.params.ehr import EncodingParams
from histofuse.params.explain import ExplainParams
from histofuse.params.intervals import IntervalParams
from histofuse.params.tabular import LogisticRegressionParams, XgboostParams
from histofuse.training.recorder import Recorder
from histofuse.training.tabular import EncodedTable, train_tabular

FEATURES = [f"f{i}" for i in range(5)]
SIZES = ExplainParams.model_construct(shap_background=40, shap_samples=30, kernel_shap_rows=4)
BOOTSTRAP = Bootstrap(
    IntervalParams(resamples=200, confidence=0.95, method="percentile", fewest_groups=10), seed=1
)
SPECS = [
    FeatureSpec("age_years", "age_years", "continuous", "years", "demographics", "Age"),
    FeatureSpec("sex", "sex", "categorical", "", "demographics", "Sex"),
    FeatureSpec("albumin_mean", "albumin", "continuous", "g/dL", "laboratory", "Albumin", True),
    FeatureSpec("g_csf", "g_csf", "binary", "", "treatment", "Granulocyte stimulation"),
]


def make_rows(n=60, seed=0, missing=0.0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    x[rng.random(x.shape) < missing] = np.nan
    return pd.DataFrame(x, columns=FEATURES)


@pytest.fixture(scope="module")
def booster():
    rows = make_rows(300, missing=0.2)
    x = rows.to_numpy()
    target = (np.nan_to_num(x[:, 0]) - np.nan_to_num(x[:, 1]) > 0).astype(int)
    settings = {"objective": "binary:logistic", "max_depth": 3, "seed": 0}
    return XgboostModel(FEATURES, xgboost.train(settings, make_matrix(x, target), 10))


def make_network(outputs):
    torch.manual_seed(0)
    network = Mlp(5, [16, 8], outputs, dropout=0.5)
    network.train()
    for _ in range(5):
        network(torch.randn(64, 5) * 2)
    return MlpModel(FEATURES, network.eval().requires_grad_(False))


def test_tree_shap_adds_up_and_finds_the_features_that_matter(booster):
    rows = make_rows(50, seed=1, missing=0.2)
    found = compute_attributions(booster, rows, make_rows())
    assert found.additivity_error < 1e-5
    share = np.abs(found.values).mean(axis=0)
    assert set(np.argsort(-share)[:2]) == {0, 1}
    known = rows["f1"].notna().to_numpy()
    # Of the second feature a high value lowers the logit.
    assert np.corrcoef(rows["f1"][known], found.values[known, 1])[0, 1] < -0.7


@pytest.mark.parametrize("outputs", [1, 2])
def test_deep_shap_adds_up_and_leaves_the_network_alone(outputs):
    model = make_network(outputs)
    before = {k: v.clone() for k, v in model.network.state_dict().items()}
    found = compute_attributions(model, make_rows(20, seed=1), make_rows(40))
    assert found.additivity_error < 1e-4
    assert np.abs(found.values).max() > 0.01
    for name, tensor in model.network.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert not any(p.requires_grad for p in model.network.parameters())
    assert not model.network.output._forward_hooks


def test_deep_shap_is_close_to_shapley_values_by_brute_force():
    model = make_network(1)
    background, rows = make_rows(30), make_rows(12, seed=2)
    found = compute_attributions(model, rows, background)
    exact = np.array([brute_force(model, r, background.to_numpy()) for r in rows.to_numpy()])
    assert np.corrcoef(found.values.ravel(), exact.ravel())[0, 1] > 0.85


def brute_force(model, row, background):
    """Shapley values over all 32 sets of known features."""
    from itertools import combinations
    from math import factorial

    worth = {}
    for size in range(6):
        for known in combinations(range(5), size):
            mixed = background.copy()
            mixed[:, list(known)] = row[list(known)]
            worth[known] = float(model.logits(mixed).mean())
    values = np.zeros(5)
    for i in range(5):
        for known, value in worth.items():
            if i not in known:
                more = tuple(sorted((*known, i)))
                weight = factorial(len(known)) * factorial(4 - len(known)) / factorial(5)
                values[i] += weight * (worth[more] - value)
    return values


def test_linear_shap_is_coefficient_times_distance_from_the_mean():
    model = LinearModel(FEATURES, np.array([1.0, -2.0, 0.0, 0.5, 3.0]), 0.3)
    rows, background = make_rows(10, seed=1), make_rows(40)
    found = compute_attributions(model, rows, background)
    expected = (rows.to_numpy() - background.to_numpy().mean(axis=0)) * model.coefficients
    np.testing.assert_allclose(found.values, expected, atol=1e-6)
    assert found.additivity_error < 1e-6


def test_gradient_boosting_is_refused_with_what_can_be_explained():
    x = make_rows(40).to_numpy()
    peer = GradientBoostingClassifier(n_estimators=2).fit(x, x[:, 0] > 0)
    model = TreesModel(FEATURES, extract_trees(peer))
    with pytest.raises(InputError, match="one of logistic_regression, mlp, xgboost"):
        compute_attributions(model, make_rows(5), make_rows(5))


def test_chosen_rows_run_from_the_lowest_to_the_highest_logit():
    model = LinearModel(FEATURES, np.array([1.0, 0, 0, 0, 0]), 0.0)
    table = make_rows(100).assign(split="test", subject_id=range(100), hadm_id=range(100))
    table.loc[:9, "split"] = "train"
    chosen = choose_rows(model, table, 7)
    test = table[table["split"] == "test"]
    assert len(chosen) == 7
    assert chosen["f0"].is_monotonic_increasing
    assert (chosen["f0"].min(), chosen["f0"].max()) == (test["f0"].min(), test["f0"].max())
    with pytest.raises(InputError, match="no test rows"):
        choose_rows(model, table.assign(split="train"), 7)


# --- the report ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def joined():
    rng = np.random.default_rng(0)
    n = 200
    albumin = rng.normal(3.8, 0.5, n).round(1)
    age = rng.integers(30, 90, n).astype(float)
    risk = 1 / (1 + np.exp(-((3.8 - albumin) * 4 + (age - 60) / 20 - 0.5)))
    return pd.DataFrame(
        {
            "subject_id": np.arange(n) + 10_000_000,
            "hadm_id": np.arange(n) + 20_000_000,
            "split": np.resize(["train"] * 3 + ["validation", "test"], n),
            "target": (rng.random(n) < risk).astype(np.int64),
            "age_years": age,
            "sex": rng.choice(["F", "M"], n),
            "albumin_mean": np.where(rng.random(n) < 0.3, np.nan, albumin),
            "g_csf": rng.integers(0, 2, n),
        }
    )


@pytest.fixture(scope="module")
def case(joined, tmp_path_factory):
    """A logistic regression and an XGBoost bundle with the tables they were trained on."""
    folder = tmp_path_factory.mktemp("shap")
    params = EncodingParams(
        maximum_missing=0.8, strata=["sex"], indicator_minimum_missing=0.05, fewest_patients=1
    )
    encoder = fit_encoder(joined[joined["split"] == "train"], SPECS, params)
    (folder / "encoder.json").write_text(json.dumps(encoder.to_dict()))
    tables = {
        name: encode_table(encoder, joined, impute=impute)
        for name, impute in (("imputed", True), ("with_missing", False))
    }
    decision = {"calibration": "platt", "threshold": "youden_j", "study": "none"}
    kinds = {
        "imputed": LogisticRegressionParams(
            kind="logistic_regression", c=1.0, imbalance="none", **decision
        ),
        "with_missing": XgboostParams(
            kind="xgboost",
            max_depth=3,
            learning_rate=0.3,
            rounds=10,
            subsample=1.0,
            colsample=1.0,
            min_child_weight=1.0,
            reg_lambda=1.0,
            folds=2,
            early_stopping_rounds=5,
            imbalance="none",
            **decision,
        ),
    }
    bundles = {}
    for name, chosen in kinds.items():
        table = EncodedTable(
            tables[name], encoder.feature_order, folder / "encoder.json", "death", "simulated", {}
        )
        train_tabular(table, chosen, 1, Recorder(), folder / chosen.kind)
        bundles[chosen.kind] = open_bundle(folder / chosen.kind)
    return SimpleNamespace(encoder=encoder, tables=tables, bundles=bundles)


def test_features_without_a_spec_are_named(case):
    with pytest.raises(InputError, match="albumin_mean"):
        describe_variables(case.encoder, SPECS[:2])


@pytest.mark.parametrize("kind", ["logistic_regression", "xgboost"])
def test_values_are_those_of_the_record_and_missing_where_it_is(case, joined, kind):
    rows = explain_rows(case.bundles[kind], case.tables, SPECS, SIZES)
    record = joined.set_index("hadm_id").loc[rows.encoded["hadm_id"]]
    for column in ("age_years", "albumin_mean", "g_csf"):
        np.testing.assert_allclose(rows.natural[column], record[column], atol=1e-4, err_msg=column)
    np.testing.assert_array_equal(rows.natural["sex=F"], record["sex"] == "F")
    assert rows.natural["albumin_mean"].isna().any()


def test_values_are_written_with_unit_or_with_what_replaces_a_missing_one(case):
    labels = list_columns(case.encoder)
    albumin = labels["albumin_mean"]
    assert albumin.describe_value(3.25, 0.0) == "3.25 g/dL"
    assert albumin.describe_value(np.nan, np.nan) == "not known"
    assert albumin.describe_value(np.nan, 0.0) == f"not known, read as {albumin.mean:.2f} g/dL"
    assert labels["age_years"].describe_value(71.0, 0.0) == "71 years"
    assert labels["g_csf"].describe_value(1.0, 1.0) == "yes"
    assert labels["sex=F"].describe_value(0.0, 0.0) == "no"


@pytest.mark.parametrize("kind", ["logistic_regression", "xgboost"])
def test_categories_and_indicators_are_summed_before_they_are_ranked(case, kind):
    rows = explain_rows(case.bundles[kind], case.tables, SPECS, SIZES)
    column = rows.model.features.index
    values = rows.attributions.values
    expected = {
        "age_years": values[:, column("age_years")],
        "sex": values[:, column("sex=F")] + values[:, column("sex=M")],
        "albumin": values[:, column("albumin_mean")] + values[:, column("albumin_missing")],
        "g_csf": values[:, column("g_csf")],
    }
    names = [variable.name for variable in rows.variables]
    assert names == list(expected)
    np.testing.assert_allclose(rows.by_variable, np.column_stack(list(expected.values())))
    summary = summarise(rows).set_index("feature")
    for name, own in expected.items():
        assert summary.loc[name, "mean_abs_shap"] == pytest.approx(np.abs(own).mean()), name


def test_a_row_is_described_by_value_unit_and_category(case, joined):
    rows = explain_rows(case.bundles["logistic_regression"], case.tables, SPECS, SIZES)
    record = joined.set_index("hadm_id").loc[rows.encoded["hadm_id"]]
    n = int(np.flatnonzero(record["albumin_mean"].notna())[0])
    texts = dict(zip([v.name for v in rows.variables], rows.describe_values(n), strict=True))
    assert texts["sex"] == record["sex"].iloc[n]
    assert texts["albumin"] == f"{record['albumin_mean'].iloc[n]:g} g/dL"
    assert texts["age_years"] == f"{record['age_years'].iloc[n]:g} years"
    gap = int(np.flatnonzero(record["albumin_mean"].isna())[0])
    assert rows.describe_values(gap)[2].startswith("not known, read as 3.")


def test_direction_tells_which_way_a_feature_pushes(case):
    summary = summarise(explain_rows(case.bundles["xgboost"], case.tables, SPECS, SIZES))
    found = summary.set_index("feature")
    assert set(summary["feature"][:2]) == {"albumin", "age_years"}
    assert found.loc["albumin", "direction"] < -0.7
    assert np.isnan(found.loc["sex", "direction"])  # categories have no order
    assert found.loc["age_years", "direction"] > 0.6
    assert summary["mean_abs_shap"].is_monotonic_decreasing


@pytest.mark.parametrize("row_level", [True, False])
def test_patients_are_drawn_only_where_that_is_allowed(case, tmp_path, row_level, capsys):
    out = tmp_path / "xgboost"
    facts = write_shap_report(
        case.bundles["xgboost"],
        case.tables,
        SPECS,
        out,
        SIZES,
        bootstrap=BOOTSTRAP,
        row_level=row_level,
    )
    written = {f.name for f in out.iterdir()}
    overview = {"mean_abs_shap.png", "mean_abs_shap.csv", "shap.json", "faithfulness.json"}
    patients = {"beeswarm.png", "waterfall_high_risk.png", "waterfall_low_risk.png"}
    assert written == overview | (patients if row_level else set())
    assert facts["additivity_error"] < 1e-5
    assert json.loads((out / "shap.json").read_text()) == facts
    listed = pd.read_csv(out / "mean_abs_shap.csv")["feature"]
    assert sorted(listed) == ["age_years", "albumin", "g_csf", "sex"]
    written = json.loads((out / "faithfulness.json").read_text())
    assert facts["digest"] == written["digest"] == case.bundles["xgboost"].digest
    tested = written["scores"]
    assert set(tested) == {"additivity_error", "rank_stability", "top_10_overlap"}
    assert tested["additivity_error"]["value"] == pytest.approx(facts["additivity_error"], abs=1e-6)
    assert "additivity error" in capsys.readouterr().err


def test_same_values_same_figures(case, tmp_path):
    files = []
    for name in ("a", "b"):
        out = tmp_path / name
        write_shap_report(
            case.bundles["xgboost"],
            case.tables,
            SPECS,
            out,
            SIZES,
            bootstrap=BOOTSTRAP,
            row_level=True,
        )
        files.append({f.name: f.read_bytes() for f in out.iterdir()})
    assert files[0] == files[1]
