"""What reports say of one bundle: its metrics and figures; those of another bundle are left out.

A report names the digest of each bundle it is of. After a bundle was trained again, the reports on
disk may still be of the one before.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from histofuse.core.artifacts import digest_file, load_json
from histofuse.core.bundle import MANIFEST, Bundle
from histofuse.core.privacy import is_aggregate
from histofuse.explain.estimates import FAITHFULNESS, read_scores
from histofuse.tracking.names import SHOWN_DIGITS, name_end

COMPARISON: Final = "comparison"  # figures of several models, logged with the primary fusion model
# Folders of a run with figures.
SHOWN: Final = ("figures", "explain", "assessment")
Metrics = dict[str, float | None]


class Reports(NamedTuple):
    """What is logged of a bundle besides itself."""

    metrics: Metrics  # final values; None where one is not defined
    figures: dict[str, Path]  # artifact path -> file
    left_out: list[str]  # reports of another bundle


class _Part(NamedTuple):
    """A report on one model."""

    source: Path  # the file or folder that names its bundles
    folder: Path  # of its figures
    shown_as: str  # the same folder in the run
    stale: str  # which other bundle it is of; empty if of this one
    metrics: Metrics


def read_reports(root: Path, bundle: Bundle, *, primary: bool, row_level: bool) -> Reports:
    """Read the reports below a folder that name this bundle.

    `primary` adds the figures that compare models, `row_level` those of single patients or patches.
    """
    metrics: Metrics = {}
    figures: dict[str, Path] = {}
    left_out = []
    for part in _list_parts(root, bundle, primary=primary):
        if part.stale:
            left_out.append(f"{part.source}: {part.stale}")
            continue
        metrics |= part.metrics
        for file in sorted(f for f in part.folder.rglob("*") if f.is_file()):
            if row_level or is_aggregate(file.relative_to(root)):
                figures[f"{part.shown_as}/{file.relative_to(part.folder).as_posix()}"] = file
    return Reports(metrics, figures, list(dict.fromkeys(left_out)))


def _list_parts(root: Path, bundle: Bundle, *, primary: bool) -> Iterator[_Part]:
    name = bundle.name
    own = {"patient": "patients", "detector": "detection"}.get(bundle.config.get("kind", ""), "")
    path, folder = root / own / "metrics.json", root / "figures"
    if own == "detection":
        folder = root / own / "figures"
    known = load_json(path) if path.is_file() else {}
    declared = known.get("declared", {})
    if name in known.get("models", {}) or (folder / name).is_dir():
        stale = _find_other(bundle, declared.get(name))
        yield _Part(path, folder / name, "figures", stale, _read_metrics(known, name))
    if primary and (folder / COMPARISON).is_dir():
        stale = _find_stale_pair(bundle, known.get("paired", {}), declared)
        yield _Part(path, folder / COMPARISON, "figures", stale, {})
    path, folder = root / "assessment" / "assessment.json", root / "assessment" / "figures" / name
    if folder.is_dir():
        assessed = load_json(path).get("models", {}) if path.is_file() else {}
        yield _Part(path, folder, "assessment", _find_other(bundle, assessed.get(name)), {})
    for folder in sorted((root / "explain").glob(f"*/{name}/")):
        facts = [load_json(file) for file in sorted(folder.glob("*.json"))]
        stale = next(filter(None, (_find_other(bundle, f) for f in facts or [None])), "")
        scores = folder / FAITHFULNESS
        metrics = _read_faithfulness(scores) if scores.is_file() and not stale else {}
        yield _Part(folder, folder, f"explain/{folder.parent.name}", stale, metrics)


def _find_other(bundle: Bundle, facts: Mapping[str, Any] | None) -> str:
    """Say of which other bundle a report is; empty if it names this one."""
    named = (facts or {}).get("digest")
    if named == bundle.digest:
        return ""
    of = f"is of bundle {named[:SHOWN_DIGITS]}" if named else "names no bundle"
    return f"{of}, not {bundle.digest[:SHOWN_DIGITS]}"


def _find_stale_pair(bundle: Bundle, paired: Mapping[str, Any], declared: Mapping[str, Any]) -> str:
    """Say which of the models compared has been trained again since; empty if none has."""
    compared = {*paired, *(pair["image_model"] for pair in paired.values())}
    for name in sorted(compared):
        manifest = bundle.path.parent / name / MANIFEST
        digest = declared.get(name, {}).get("digest")
        if not manifest.is_file() or digest_file(manifest) != digest:
            return f"compares another bundle of {name}"
    return "" if compared else "names no bundles that it compares"


def _read_metrics(known: Mapping[str, Any], name: str) -> Metrics:
    """Read a model's metrics and their intervals.

    The ends of an interval are metrics of their own, so that the UI shows and sorts them.
    """
    metrics: Metrics = dict(known.get("models", {}).get(name, {}))
    for metric, interval in known.get("intervals", {}).get("models", {}).get(name, {}).items():
        metrics |= _name_ends(metric, interval)
    return metrics


def _read_faithfulness(path: Path) -> Metrics:
    """Read the faithfulness of a model's explanations, with intervals."""
    metrics: Metrics = {}
    for metric, interval in read_scores(path).items():
        named = f"faithfulness/{metric}"
        metrics |= {named: interval["value"]} | _name_ends(named, interval)
    return metrics


def _name_ends(metric: str, interval: Mapping[str, Any]) -> Metrics:
    low, high = interval["low"], interval["high"]
    if low is None or high is None:
        return {}
    return {name_end(metric, "low"): low, name_end(metric, "high"): high}
