"""SHAP values of tabular models: which features raised or lowered each patient's logit.

TreeSHAP for XGBoost (exact), linear SHAP for logistic regression (exact for independent features),
DeepSHAP for the network (an approximation, additive like the others). All are in log-odds of the
uncalibrated model; the difference between their sum and the model's logit is reported.

Source: paper 3.2 and 4.4 (TreeSHAP for XGBoost, SHAP summaries for the MLP, Figure 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Float

from histofuse.core.artifacts import load_json, replacing_folder, write_json, write_text
from histofuse.core.bundle import Bundle
from histofuse.core.errors import Fault, InputError
from histofuse.core.progress import report
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.estimates import FAITHFULNESS, Estimate, render_estimates
from histofuse.explain.rows import spread
from histofuse.explain.shap_values import figures as shap_figures
from histofuse.explain.shap_values.faithfulness import (
    MEASURES,
    compare_with_kernel,
    explain_by_kernel,
    measure_stability,
)
from histofuse.explain.shap_values.feature_labels import FeatureLabel, label_features
from histofuse.explain.shap_values.variables import Variable, describe_variables, sum_columns
from histofuse.features.encoding import Encoder
from histofuse.features.specs import FeatureSpec
from histofuse.models.tabular import (
    ENCODER,
    AnyTabularModel,
    Kind,
    LinearModel,
    MlpModel,
    TreesModel,
    XgboostModel,
    load_tabular_model,
    name_table,
    select_features,
)
from histofuse.training.decision import load_decision
from histofuse.training.tabular import to_columns

SPLIT = "test"
EXPLAINED_KINDS: Final[tuple[Kind, ...]] = ("logistic_regression", "mlp", "xgboost")
TableName = Literal["imputed", "with_missing"]


@runtime_checkable
class ShapSizes(Protocol):
    """The part of the section ``explain`` that is read here."""

    @property
    def shap_background(self) -> int:
        """Training rows that stand for "the feature is not known"."""
        ...

    @property
    def shap_samples(self) -> int:
        """Rows explained."""
        ...

    @property
    def kernel_shap_rows(self) -> int:
        """Rows on which DeepSHAP is held against KernelSHAP."""
        ...


@dataclass(frozen=True)
class Attributions:
    """SHAP values of some rows.

    Attributes:
        values: Log-odds each feature adds.
        base: Log-odds before any feature is known.
        logits: The model's own, for the same rows.
        explainer: How they were computed.
    """

    values: Float[np.ndarray, "n features"]
    base: float
    logits: Float[np.ndarray, " n"]
    explainer: str

    @property
    def additivity_error(self) -> float:
        """The largest difference between a logit and what base and features add up to."""
        return float(np.abs(self.values.sum(axis=1) + self.base - self.logits).max(initial=0.0))


def compute_attributions(
    model: AnyTabularModel, rows: pd.DataFrame, background: pd.DataFrame
) -> Attributions:
    """Compute SHAP values of rows.

    Args:
        model: A tabular model.
        rows: Encoded rows to explain.
        background: Encoded training rows over which an unknown feature is averaged; XGBoost needs
            none, its trees remember how many training rows took each branch.

    Raises:
        InputError: If the model is not of one of `EXPLAINED_KINDS`.
    """
    x, reference = (select_features(part, model.features) for part in (rows, background))
    logits = model.logits(rows).astype(np.float64)
    match model:
        case XgboostModel():
            values, base, name = _explain_xgboost(model, x)
        case LinearModel():
            values = (x.astype(np.float64) - reference.mean(axis=0)) * model.coefficients
            base, name = float(model.logits(reference).mean()), "linear SHAP"
        case MlpModel():
            values, base, name = _explain_network(model, x, reference)
        case TreesModel():
            fault = Fault("explain", "gradient boosting", f"one of {', '.join(EXPLAINED_KINDS)}")
            raise InputError([fault])
    return Attributions(values.astype(np.float64), base, logits, name)


_Explained = tuple[np.ndarray, float, str]


def _explain_xgboost(model: XgboostModel, x: Float[np.ndarray, "n features"]) -> _Explained:
    from histofuse.models.trees import make_matrix

    contributions = model.booster.predict(make_matrix(x), pred_contribs=True)
    return contributions[:, :-1], float(contributions[0, -1]), "TreeSHAP, path-dependent"


def _explain_network(
    model: MlpModel,
    x: Float[np.ndarray, "n features"],
    reference: Float[np.ndarray, "m features"],
) -> _Explained:
    import shap
    import torch

    from histofuse.models.mlp import one_thread

    # SHAP hooks into the layers, so it gets a copy of its own, with gradients.
    network = model.network.copy_trainable()
    with one_thread():
        explainer = shap.DeepExplainer(network, torch.from_numpy(reference))
        found = explainer.shap_values(torch.from_numpy(x), check_additivity=False)
    values = np.asarray(found).reshape(*x.shape, -1)
    logit = values[..., 0] if values.shape[-1] == 1 else values[..., 1] - values[..., 0]
    return logit, float(model.logits(reference).astype(np.float64).mean()), "DeepSHAP"


# --- the report ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class ExplainedRows:
    """Rows, their SHAP values, and how to say what they hold.

    Attributes:
        attributions: SHAP values, a row each, a column a label.
        encoded: As the model read them, in the order of their logits.
        natural: In natural units, a column a label; NaN where nothing was measured.
        labels: What the columns are called.
        variables: What the columns add up to, in the order of `by_variable`.
        background: Encoded training rows over which an unknown feature was averaged.
    """

    attributions: Attributions
    encoded: pd.DataFrame
    natural: pd.DataFrame
    labels: Sequence[FeatureLabel]
    variables: Sequence[Variable]
    background: pd.DataFrame

    @property
    def by_variable(self) -> Float[np.ndarray, "n variables"]:
        """SHAP values, summed over the columns of each variable."""
        return self.sum_to_variables(self.attributions.values)

    def sum_to_variables(
        self, values: Float[np.ndarray, "n features"]
    ) -> Float[np.ndarray, "n variables"]:
        """Sum columns to variables, in their order."""
        sources = {label.column: v.name for v in self.variables for label in v.columns}
        columns = [label.column for label in self.labels]
        return sum_columns(values, columns, sources)[[v.name for v in self.variables]].to_numpy()

    def describe_values(self, row: int) -> list[str]:
        """Write a row's values, one a variable, with units."""
        natural, encoded = self.natural.iloc[row], self.encoded.iloc[row]
        return [variable.describe_value(natural, encoded) for variable in self.variables]


def write_shap_report(
    bundle: Bundle,
    encoded: Mapping[TableName, pd.DataFrame],
    specs: Sequence[FeatureSpec],
    out_dir: Path,
    params: ShapSizes,
    *,
    bootstrap: Bootstrap,
    row_level: bool,
) -> dict[str, Any]:
    """Explain a tabular model on test rows and write figures, tables and ``faithfulness.json``.

    Everything is by variable: columns are summed before they are ranked. Writes
    ``mean_abs_shap.csv``, ``shap.json``, ``beeswarm.png``, ``mean_abs_shap.png``,
    ``faithfulness.json`` (see `estimates.render_estimates`) and, only if `row_level`,
    ``waterfall_high_risk.png`` and ``waterfall_low_risk.png`` of the test rows with the highest and
    the lowest logit.

    Args:
        bundle: The model.
        encoded: Both encoded tables; the one with missing values tells what was measured.
        specs: Names, units and groups of the features before encoding.
        out_dir: Replaced as a whole.
        params: How many rows.
        bootstrap: Draws patients, for the intervals.
        row_level: Whether single patients may be shown.

    Returns:
        What ``shap.json`` holds.

    Raises:
        InputError: If there are no test rows, or the tables do not hold the same admissions.
    """
    rows = explain_rows(bundle, encoded, specs, params)
    facts = _collect_facts(bundle, rows)
    subject = _describe(bundle, rows)
    summary = summarise(rows)
    with replacing_folder(out_dir) as folder:
        write_text(summary.to_csv(index=False, float_format="%.6g"), folder / "mean_abs_shap.csv")
        write_json(facts, folder / "shap.json")
        write_json(check_values(bundle, rows, params, bootstrap), folder / FAITHFULNESS)
        shap_figures.draw_importance(summary, subject, folder / "mean_abs_shap.png")
        shap_figures.draw_beeswarm(
            rows.by_variable,
            [variable.read_natural(rows.natural) for variable in rows.variables],
            [name_in_figure(variable) for variable in rows.variables],
            subject,
            folder / "beeswarm.png",
        )
        if row_level:
            _draw_patients(bundle, rows, subject, folder)
    report(
        f"wrote {out_dir}: {facts['explainer']} of {facts['rows']} {SPLIT} rows,"
        f" additivity error {facts['additivity_error']:.1e}"
    )
    return facts


def explain_rows(
    bundle: Bundle,
    encoded: Mapping[TableName, pd.DataFrame],
    specs: Sequence[FeatureSpec],
    params: ShapSizes,
) -> ExplainedRows:
    """Choose test rows, explain them and look up what their features are called."""
    model = load_tabular_model(bundle)
    table = encoded[name_table(bundle.config["architecture"]["kind"])]
    chosen = choose_rows(model, table, params.shap_samples)
    background = choose_background(table, params.shap_background)
    found = compute_attributions(model, chosen, background)
    encoder = Encoder.from_dict(load_json(bundle.path / ENCODER))
    names = label_features(encoder, specs)
    labels = [names[feature] for feature in model.features]
    natural = read_natural(chosen, encoded["with_missing"], labels)
    variables = list(describe_variables(encoder, specs).values())
    return ExplainedRows(found, chosen, natural, labels, variables, background)


def check_values(
    bundle: Bundle, rows: ExplainedRows, params: ShapSizes, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Test SHAP values, those of a network also against KernelSHAP; see `shap_faithfulness`."""
    n, error = len(rows.encoded), rows.attributions.additivity_error
    found = {"additivity_error": Estimate(error, None, None, n, n, "a maximum has no interval")}
    found |= measure_stability(rows.by_variable, bootstrap)
    model = load_tabular_model(bundle)
    if isinstance(model, MlpModel):
        chosen = spread(n, params.kernel_shap_rows)
        x, reference = (
            select_features(part, model.features)
            for part in (rows.encoded.iloc[chosen], rows.background)
        )
        kernel = explain_by_kernel(model.logits, x, reference, bootstrap.seed)
        by_variable = rows.sum_to_variables(kernel)
        found |= compare_with_kernel(rows.by_variable[chosen], by_variable, bootstrap)
    return render_estimates(found, MEASURES)


def _collect_facts(bundle: Bundle, rows: ExplainedRows) -> dict[str, Any]:
    return {
        "explainer": rows.attributions.explainer,
        "rows": len(rows.encoded),
        "split": SPLIT,
        "base_log_odds": rows.attributions.base,
        "additivity_error": rows.attributions.additivity_error,
        "source": bundle.config["source"],
    }


def choose_rows(model: AnyTabularModel, table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Choose test rows evenly along their logits, the lowest and the highest among them.

    Returns:
        Rows in the order of their logits.

    Raises:
        InputError: If there are no test rows.
    """
    rows = table[table["split"] == SPLIT].sort_values(["subject_id", "hadm_id"])
    if rows.empty:
        raise InputError([Fault("data/encoded", f"no {SPLIT} rows", "rows to explain")])
    order = np.argsort(model.logits(rows), kind="stable")
    return rows.iloc[order[spread(len(rows), count)]]


def choose_background(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Choose training rows evenly along their keys, which say nothing of a patient."""
    rows = table[table["split"] == "train"].sort_values(["subject_id", "hadm_id"])
    return rows.iloc[spread(len(rows), count)]


def read_natural(
    chosen: pd.DataFrame, with_missing: pd.DataFrame, labels: Sequence[FeatureLabel]
) -> pd.DataFrame:
    """Read the chosen rows in natural units, NaN where nothing was measured."""
    keys = ["subject_id", "hadm_id"]
    rows = chosen[keys].merge(with_missing, on=keys, how="left", validate="1:1", indicator=True)
    if (rows["_merge"] != "both").any():
        problem = f"{(rows['_merge'] != 'both').sum()} admissions are in one table only"
        raise InputError([Fault("data/encoded", problem, "the same rows in both tables")])
    columns = {label.column: label.to_natural(rows[label.column].to_numpy()) for label in labels}
    return pd.DataFrame(columns)


def summarise(explained: ExplainedRows) -> pd.DataFrame:
    """Table mean |SHAP| by variable, the largest first.

    ``direction`` is the rank correlation between a variable's value and its SHAP value: near 1,
    high values raise the risk; near -1, low ones do; empty where either never changes, and for
    categories, which have no order.
    """
    rows = [
        {
            "feature": variable.name,
            "label": variable.text,
            "meaning": variable.meaning,
            "unit": variable.unit,
            "group": variable.group,
            "columns": len(variable.columns),
            "mean_abs_shap": float(np.abs(values).mean()),
            "direction": _correlate_ranks(variable.read_natural(explained.natural), values),
        }
        for variable, values in zip(explained.variables, explained.by_variable.T, strict=True)
    ]
    table = pd.DataFrame(rows).sort_values(
        ["mean_abs_shap", "feature"], ascending=[False, True], ignore_index=True
    )
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def name_in_figure(variable: Variable) -> str:
    """Name a variable by its clinical meaning, without what stands behind a semicolon."""
    return variable.meaning.partition(";")[0]


def _correlate_ranks(natural: np.ndarray, values: np.ndarray) -> float:
    known = ~np.isnan(natural)
    a, b = (pd.Series(v[known]).rank().to_numpy() for v in (natural, values))
    if known.sum() < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def _describe(bundle: Bundle, rows: ExplainedRows) -> str:
    config = bundle.config
    origin = {"simulated": "simulated data", "mimic-iv-demo": "MIMIC-IV demo"}
    source = origin.get(config["source"], "MIMIC-IV")
    target = config["classes"][1].replace("_", " ")
    explainer = rows.attributions.explainer
    parts = (bundle.name, explainer, target, f"{len(rows.encoded)} {SPLIT} admissions", source)
    return " · ".join(parts)


def _draw_patients(bundle: Bundle, rows: ExplainedRows, subject: str, folder: Path) -> None:
    calibrator, _ = load_decision(bundle.path)
    risks = calibrator.probabilities(to_columns(rows.attributions.logits))[:, 1]
    for name, row in (("low", 0), ("high", len(rows.encoded) - 1)):
        patient = shap_figures.Patient(
            values=rows.by_variable[row],
            base=rows.attributions.base,
            names=[name_in_figure(variable) for variable in rows.variables],
            texts=rows.describe_values(row),
        )
        title = f"{name.capitalize()}-risk patient: calibrated risk {risks[row]:.1%}"
        path = folder / f"waterfall_{name}_risk.png"
        shap_figures.draw_waterfall(patient, title, subject, path)
