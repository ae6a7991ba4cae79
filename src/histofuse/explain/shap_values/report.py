"""The SHAP report of a tabular model: figures, tables and tests, by variable."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from histofuse.core.artifacts import load_json, replacing_folder, write_json, write_text
from histofuse.core.bundle import Bundle
from histofuse.core.errors import InputError
from histofuse.core.progress import report
from histofuse.core.tables import to_csv
from histofuse.evaluation.metrics.bootstrap import Bootstrap
from histofuse.explain.estimates import (
    FAITHFULNESS,
    correlate_ranks,
    render_estimates,
    write_scores,
)
from histofuse.explain.sampling import spread
from histofuse.explain.shap_values import faithfulness, figures
from histofuse.explain.shap_values.attributions import Attributions, compute_attributions
from histofuse.explain.shap_values.variables import (
    Column,
    Variable,
    describe_variables,
    list_columns,
    sum_columns,
)
from histofuse.features.encoding import Encoder
from histofuse.features.specs import FeatureSpec
from histofuse.models import tabular
from histofuse.models.tabular import AnyTabularModel, MlpModel, load_tabular_model
from histofuse.params.explain import ExplainParams
from histofuse.training.decision import load_decision
from histofuse.training.tabular import to_columns

SPLIT: Final = "test"
_KEY: Final = ["subject_id", "hadm_id"]
TableName = Literal["imputed", "with_missing"]


@dataclass(frozen=True)
class ExplainedRows:
    """Rows with their SHAP values and descriptions, one column for each label.

    `encoded` is in the order of the logits; `natural` in natural units, NaN where nothing was
    measured; `background` are the training rows over which an unknown feature was averaged.
    """

    model: AnyTabularModel
    attributions: Attributions
    encoded: pd.DataFrame
    natural: pd.DataFrame
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
        sources = {column.name: v.name for v in self.variables for column in v.columns}
        return sum_columns(values, self.model.features, sources)[
            [v.name for v in self.variables]
        ].to_numpy()

    def describe_values(self, row: int) -> list[str]:
        """Describe the value of each variable in a row, with units."""
        natural, encoded = self.natural.iloc[row], self.encoded.iloc[row]
        return [variable.describe_value(natural, encoded) for variable in self.variables]


def write_shap_report(
    bundle: Bundle,
    encoded: Mapping[TableName, pd.DataFrame],
    specs: Sequence[FeatureSpec],
    out_dir: Path,
    params: ExplainParams,
    *,
    bootstrap: Bootstrap,
    row_level: bool,
) -> dict[str, Any]:
    """Explain a tabular model on test rows; write figures, tables and ``faithfulness.json``.

    Columns are summed to variables before they are ranked. Writes ``mean_abs_shap.csv`` and
    ``.png``, ``shap.json``, whose content is returned, ``faithfulness.json`` and, only if
    `row_level`, ``beeswarm.png``, which has a dot for each patient, and ``waterfall_high_risk.png``
    and ``waterfall_low_risk.png`` of the test rows with the highest and the lowest logit. Raises
    InputError if there are no test rows, or the tables do not hold the same admissions.
    """
    rows = explain_rows(bundle, encoded, specs, params)
    summary = {
        "explainer": rows.attributions.explainer,
        "rows": len(rows.encoded),
        "split": SPLIT,
        "base_log_odds": rows.attributions.base,
        "additivity_error": rows.attributions.additivity_error,
        "source": bundle.config["source"],
        "digest": bundle.digest,
    }
    subject = _describe(bundle, rows)
    importance = summarise(rows)
    with replacing_folder(out_dir) as folder:
        write_text(to_csv(importance, float_format="%.6g"), folder / "mean_abs_shap.csv")
        write_json(summary, folder / "shap.json")
        write_scores(check_values(rows, params, bootstrap), bundle.digest, folder / FAITHFULNESS)
        figures.draw_importance(importance, subject, folder / "mean_abs_shap.png")
        if row_level:
            figures.draw_beeswarm(
                rows.by_variable,
                [variable.read_natural(rows.natural) for variable in rows.variables],
                [name_in_figure(variable) for variable in rows.variables],
                subject,
                folder / "beeswarm.png",
            )
            _draw_patients(bundle, rows, subject, folder)
    report(
        f"wrote {out_dir}: {summary['explainer']} of {summary['rows']} {SPLIT} rows,"
        f" additivity error {summary['additivity_error']:.1e}"
    )
    return summary


def explain_rows(
    bundle: Bundle,
    encoded: Mapping[TableName, pd.DataFrame],
    specs: Sequence[FeatureSpec],
    params: ExplainParams,
) -> ExplainedRows:
    """Choose test rows, explain them and look up the names of their features."""
    model = load_tabular_model(bundle)
    table = encoded[tabular.name_table(bundle.config["architecture"]["kind"])]
    chosen = choose_rows(model, table, params.shap_samples)
    background = choose_background(table, params.shap_background)
    attributions = compute_attributions(model, chosen, background)
    encoder = Encoder.from_dict(load_json(bundle.path / tabular.ENCODER))
    columns = list_columns(encoder)
    used = [columns[feature] for feature in model.features]
    natural = read_natural(chosen, encoded["with_missing"], used)
    variables = list(describe_variables(encoder, specs).values())
    return ExplainedRows(model, attributions, chosen, natural, variables, background)


def check_values(
    rows: ExplainedRows, params: ExplainParams, bootstrap: Bootstrap
) -> dict[str, Any]:
    """Test SHAP values, those of a network also against KernelSHAP; see `faithfulness`."""
    n, error = len(rows.encoded), rows.attributions.additivity_error
    scores = {"additivity_error": faithfulness.estimate_maximum(error, n)}
    scores |= faithfulness.measure_stability(rows.by_variable, bootstrap)
    if isinstance(model := rows.model, MlpModel):
        chosen = spread(n, params.kernel_shap_rows)
        x, reference = (
            tabular.select_features(part, model.features)
            for part in (rows.encoded.iloc[chosen], rows.background)
        )
        kernel = faithfulness.explain_by_kernel(model.logits, x, reference, bootstrap.seed)
        pair = rows.by_variable[chosen], rows.sum_to_variables(kernel)
        scores |= faithfulness.compare_with_kernel(*pair, bootstrap)
    return render_estimates(scores, faithfulness.MEASURES, bootstrap.params.fewest_groups)


def choose_rows(model: AnyTabularModel, table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Choose test rows evenly along their logits, including lowest and highest, in order."""
    rows = table[table["split"] == SPLIT].sort_values(_KEY)
    if rows.empty:
        raise InputError.of("data/encoded", f"no {SPLIT} rows", "rows to explain")
    order = np.argsort(model.logits(rows), kind="stable")
    return rows.iloc[order[spread(len(rows), count)]]


def choose_background(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Choose training rows evenly along their keys, which are unrelated to the patients."""
    rows = table[table["split"] == "train"].sort_values(_KEY)
    return rows.iloc[spread(len(rows), count)]


def read_natural(
    chosen: pd.DataFrame, with_missing: pd.DataFrame, columns: Sequence[Column]
) -> pd.DataFrame:
    """Read the chosen rows in natural units, NaN where nothing was measured."""
    rows = chosen[_KEY].merge(with_missing, on=_KEY, how="left", validate="m:1", indicator=True)
    if (rows["_merge"] != "both").any():
        problem = f"{(rows['_merge'] != 'both').sum()} admissions are in one table only"
        raise InputError.of("data/encoded", problem, "the same rows in both tables")
    return pd.DataFrame({c.name: c.to_natural(rows[c.name].to_numpy()) for c in columns})


def summarise(explained: ExplainedRows) -> pd.DataFrame:
    """Tabulate mean |SHAP| by variable, largest first.

    ``direction`` is the rank correlation between a variable's value and its SHAP value: near 1,
    high values raise the risk; empty where either never changes, and for categories.
    """
    rows = [
        {
            "feature": variable.name,
            "meaning": variable.meaning,
            "unit": variable.unit,
            "group": variable.group,
            "columns": len(variable.columns),
            "mean_abs_shap": float(np.abs(values).mean()),
            "direction": _correlate_ranks(variable.read_natural(explained.natural), values),
        }
        for variable, values in zip(explained.variables, explained.by_variable.T, strict=True)
    ]
    order = {"by": ["mean_abs_shap", "feature"], "ascending": [False, True]}
    table = pd.DataFrame(rows).sort_values(**order, ignore_index=True)
    table.insert(0, "rank", np.arange(1, len(table) + 1))
    return table


def name_in_figure(variable: Variable) -> str:
    """Name a variable by its clinical meaning, up to a semicolon."""
    return variable.meaning.partition(";")[0]


def _correlate_ranks(natural: np.ndarray, values: np.ndarray) -> float:
    known = ~np.isnan(natural)
    if known.sum() < 3:
        return float("nan")
    return float(correlate_ranks(natural[None, known], values[None, known])[0])


def _describe(bundle: Bundle, rows: ExplainedRows) -> str:
    sources = {"simulated": "simulated data", "mimic-iv-demo": "MIMIC-IV demo"}
    source = sources.get(bundle.config["source"], "patients' records")
    target = bundle.config["classes"][1].replace("_", " ")
    explained = f"{len(rows.encoded)} {SPLIT} admissions"
    return " · ".join((bundle.name, rows.attributions.explainer, target, explained, source))


def _draw_patients(bundle: Bundle, rows: ExplainedRows, subject: str, folder: Path) -> None:
    calibrator, _ = load_decision(bundle.path)
    risks = calibrator.probabilities(to_columns(rows.attributions.logits))[:, 1]
    for name, row in (("low", 0), ("high", len(rows.encoded) - 1)):
        patient = figures.Patient(
            values=rows.by_variable[row],
            base=rows.attributions.base,
            names=[name_in_figure(variable) for variable in rows.variables],
            texts=rows.describe_values(row),
        )
        title = f"{name.capitalize()}-risk patient: calibrated risk {risks[row]:.1%}"
        path = folder / f"waterfall_{name}_risk.png"
        figures.draw_waterfall(patient, title, subject, path)
