"""Names of models, classes, metrics and checks as people read them, and values with intervals."""

import re
from collections.abc import Mapping, Sized
from typing import Any, Final, SupportsIndex

NOT_DEFINED: Final = "–"

_FUSION: Final = "fusion_"
_PATIENT: Final = "patient_"
_MODELS: Final[Mapping[str, str]] = {
    "simple_cnn": "Simple CNN",
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "resnet50": "ResNet-50",
    "logistic_regression": "Logistic regression",
    "gradient_boosting": "Gradient boosting",
    "mlp": "MLP",
    "xgboost": "XGBoost",
}
_METRICS: Final[Mapping[str, str]] = {"auprc": "AUPRC", "auroc": "AUROC", "f1": "F1", "ece": "ECE"}
_CURVES: Final[Mapping[str, str]] = {"macro_f1": "f1/macro", "auroc": "auroc/macro"}
_MAP_METHODS: Final[Mapping[str, str]] = {
    "gradcam": "Grad-CAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "scorecam": "Score-CAM",
}
_SINGULARS: Final[Mapping[str, str]] = {
    "analyses": "analysis",
    "axes": "axis",
    "batches": "batch",
    "boxes": "box",
    "classes": "class",
    "copies": "copy",
    "entries": "entry",
    "indices": "index",
    "mitoses": "mitosis",
    "nuclei": "nucleus",
    "patches": "patch",
    "processes": "process",
    "studies": "study",
}
_CHECKS: Final[Mapping[str, str]] = {"validation_test_gap": "validation-test gap"}


def name_fusion(pairing: str) -> str:
    """Name the fusion model of a pairing: "label_blind" -> "fusion_label_blind"."""
    return _FUSION + pairing


def is_fusion(model: str) -> bool:
    """Whether a model is a fusion model, by its name."""
    return model.startswith(_FUSION)


def name_pairing(model: str) -> str:
    """Name the pairing of a fusion model: "fusion_label_blind" -> "label_blind"."""
    return model.removeprefix(_FUSION)


def name_patient_model(method: str) -> str:
    """Name the model at patient level of a method: "gated" -> "patient_gated"."""
    return _PATIENT + method


def name_model(name: str) -> str:
    """Name a model: "resnet18" -> "ResNet-18", "fusion_label_blind" -> "Fusion, label-blind"."""
    if is_fusion(name):
        return f"Fusion, {name_pairing(name).replace('_', '-')}"
    if name.startswith(_PATIENT):
        method = name.removeprefix(_PATIENT)
        alone = " alone" if method in {"image", "record"} else ""
        return f"Patients, {method.replace('_', ' ')}{alone}"
    return _MODELS.get(name, name)


def name_map_method(method: str) -> str:
    """Name a method of maps: "scorecam" -> "Score-CAM"."""
    return _MAP_METHODS.get(method, method)


def show_name(name: str) -> str:
    """Spell a class, target or column: "non_tumour" -> "non-tumour"."""
    return name.replace("non_", "non-").replace("_", " ")


def name_ranking(focus: str, *, on_patches: bool) -> str:
    """Name the metric that ranks models: of rare mitoses "auprc/mitosis", of targets "auroc/…"."""
    return f"{'auprc' if on_patches else 'auroc'}/{focus}"


def name_metric(metric: str) -> str:
    """Name a metric: "auprc/mitosis" -> "Mitosis AUPRC"."""
    score, _, of = metric.partition("/")
    return f"{show_name(of).capitalize()} {_METRICS.get(score, score)}".strip()


def name_column(column: str, *, cross_validated: bool = False) -> str:
    """Name a column of ``history.csv`` as a metric: "train_macro_f1" -> "train/f1/macro"."""
    if cross_validated:
        return "cv/" + column.replace("_", "/", 1)
    if column.startswith("learning_rate_"):
        return column.replace("learning_rate_", "learning_rate/", 1)
    split, _, metric = column.partition("_")
    return f"{split}/{_CURVES.get(metric, metric)}"


def spell_metrics(text: str) -> str:
    """Spell the metrics within a text: "auprc/mitosis +0.01" -> "mitosis AUPRC +0.01"."""
    return re.sub(
        r"\b(auprc|auroc|recall|precision|f1|ece)/(\w+)",
        lambda match: f"{show_name(match[2])} {_METRICS.get(match[1], match[1])}",
        text,
    )


def name_check(name: str) -> str:
    """Name an alarm check: "shared_rows" -> "shared rows", "feature[x]" -> "feature (x)"."""
    check, _, of = name.partition("[")
    shown = _CHECKS.get(check, show_name(check))
    return f"{shown} ({spell_metrics(of.rstrip(']'))})" if of else shown


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Flatten nested values to dotted names and text: {"a": {"b": 1}} -> {"a.b": "1"}."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = str(value)
    return flat


def show_count(counted: SupportsIndex | Sized, of: str = "") -> str:
    """Write a count, or the length of what is counted, with separators: "1,204 frames", "1 frame".

    `of` is a plural, whose last word is in `_SINGULARS` or ends with an s.
    """
    number = len(counted) if isinstance(counted, Sized) else int(counted)
    if not of:
        return f"{number:,}"
    before, blank, noun = of.rpartition(" ")
    one = before + blank + _SINGULARS.get(noun, noun.removesuffix("s"))
    return f"{number:,} {one if number == 1 else of}"


def show_percent(share: float) -> str:
    """Write a share as a percentage with one decimal."""
    return f"{100 * share:.1f} %"


def show_value(value: Any, decimals: int = 3, sign: str = "") -> str:
    """Write a value; None is "–". With ``sign="+"`` a positive number shows its sign."""
    if value is None:
        return NOT_DEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:{sign}.{decimals}f}" if isinstance(value, float) else str(value)


def show_ends(low: float | None, high: float | None, sign: str = "") -> str:
    """Write an interval: "[0.364, 0.761]"; empty where it is not defined."""
    if low is None or high is None:
        return ""
    return f"[{low:{sign}.3f}, {high:{sign}.3f}]"


def show_interval(
    value: float | None, low: float | None = None, high: float | None = None, sign: str = ""
) -> str:
    """Write a value with its interval: "0.459 [0.364, 0.761]"; see `show_value`."""
    ends = "" if value is None else show_ends(low, high, sign)
    return f"{show_value(value, sign=sign)} {ends}".rstrip()
