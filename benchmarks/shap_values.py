"""Exact SHAP values of boosted trees for 10,000 patients, against shap's Python path.

Ours is what `explain` uses: TreeSHAP inside XGBoost, all rows in one matrix. The peer is the Python
implementation of the same algorithm that comes with shap (`shap.explainers.pytree`), on some rows,
for it is slow. `shap.TreeExplainer` is timed too, but is no peer: for a booster it asks XGBoost for
the same values in the same way. The limit is predicting the same rows.
Run: python benchmarks/shap_values.py [--short]
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from claims import Claim, best_seconds, main
from histofuse.explain.shap_values.attributions import compute_attributions
from histofuse.models.tabular import XgboostModel
from histofuse.params.base import load_section
from histofuse.params.tabular import TabularParams, XgboostParams
from histofuse.training.boosting import fit_booster
from histofuse.training.rows import LabelledRows

PATIENTS, FEATURES, ROUNDS, SEED = 10_000, 90, 200, 7
BAR, TOLERANCE = 5.0, 1e-5
NAMES = [f"f{i}" for i in range(FEATURES)]


def make_rows(patients: int) -> LabelledRows:
    """Make rows of which a third is missing, with a target that a few columns explain in part."""
    rng = np.random.default_rng(SEED)
    x = rng.normal(size=(patients, FEATURES)).astype(np.float32)
    logit = x[:, 0] + x[:, 1] * x[:, 2] + np.abs(x[:, 3]) - 2.5
    target = (rng.random(patients) < 1 / (1 + np.exp(-logit))).astype(np.int64)
    x[rng.random(x.shape) < 1 / 3] = np.nan
    return LabelledRows(x, target, np.arange(patients))


def fit(rows: LabelledRows) -> XgboostModel:
    params = load_section(TabularParams, "tabular.xgboost").root
    assert isinstance(params, XgboostParams)
    return XgboostModel(NAMES, fit_booster(rows, params, ROUNDS, SEED))


def explain_in_python(model: XgboostModel, x: np.ndarray) -> np.ndarray:
    """Follow every path of every tree for every row, in Python."""
    from shap import TreeExplainer
    from shap.explainers import pytree

    read = TreeExplainer(model.booster).model
    names = ("children_left", "children_right", "children_default", "features", "thresholds")
    names = (*names, "values", "node_sample_weight")
    trees = [
        SimpleNamespace(**{name: getattr(read, name)[number] for name in names})
        for number in range(len(read.values))
    ]
    # Its constructor knows no XGBoost of its own; what it needs for its paths is room.
    explainer = object.__new__(pytree.TreeExplainer)
    room = (read.max_depth + 2) * (read.max_depth + 3)
    explainer.feature_indexes = np.zeros(room, dtype=np.int32)
    for name in ("zero_fractions", "one_fractions", "pweights"):
        setattr(explainer, name, np.zeros(room))
    values = np.zeros((len(x), x.shape[1] + 1, 1))
    for row, found in zip(x, values, strict=True):
        for tree in trees:
            explainer.tree_shap(tree, row, np.isnan(row), found)
    return values[:, :-1, 0]


def measure(short: bool) -> list[Claim]:
    import shap

    some, delegated = (5, 1_000) if short else (50, 10_000)
    rows = make_rows(PATIENTS)
    model, table = fit(rows), pd.DataFrame(rows.x, columns=NAMES)
    found, values = [], []
    seconds = best_seconds(
        lambda: found.append(compute_attributions(model, table, table.head(1))), repeats=2
    )
    limit = best_seconds(lambda: model.logits(table))
    peer = best_seconds(lambda: values.append(explain_in_python(model, rows.x[:some])), repeats=1)
    explainer = shap.TreeExplainer(model.booster)
    same = best_seconds(lambda: values.append(explainer(rows.x[:delegated]).values), repeats=1)
    error = max(np.abs(found[0].values[: len(v)] - v).max() for v in values)
    assert error <= TOLERANCE, f"the values differ by {error:.1e}"
    assert np.abs(values[0]).max() > 0.1, "nothing is explained: nothing to compare"
    ratio = (peer / some) / (seconds / PATIENTS)
    return [
        Claim(
            number=7,
            work=f"exact SHAP of {PATIENTS:,} patients, {ROUNDS} trees, {FEATURES} features",
            ours=f"{seconds:.2f} s, {PATIENTS / seconds:,.0f} patients/s",
            peer=f"shap's Python path {some / peer:.2f} patients/s ({some} patients)",
            limit=f"predicting them {PATIENTS / limit:,.0f} patients/s",
            ratio=ratio,
            bar=f"≥ {BAR:.0f} × the peer",
            holds=ratio >= BAR,
            note=f"Largest difference of a value {error:.1e}. shap.TreeExplainer, which asks"
            f" XGBoost too, {delegated / same:,.0f} patients/s.",
        )
    ]


if __name__ == "__main__":
    main(measure)
