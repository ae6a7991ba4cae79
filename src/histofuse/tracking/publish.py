"""Bundles and reports -> MLflow runs and registered models; what is there already is kept.

Everything in MLflow can be rebuilt from what DVC holds. A bundle is identified by its digest, and a
run carries a digest of all that was logged to it, set last. Publishing that was interrupted is
completed the next time, and where nothing is new, nothing is written.
"""

import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pandas as pd

from histofuse.core.artifacts import (
    digest_file,
    digest_text,
    load_json,
    to_json,
    write_json,
    write_text,
)
from histofuse.core.bundle import HISTORY, MANIFEST, Bundle, list_bundles, open_bundle
from histofuse.core.naming import flatten, name_column, name_fusion, name_patient_model
from histofuse.core.privacy import may_show_patients
from histofuse.core.progress import report, track
from histofuse.params.base import load_keys, load_section
from histofuse.params.evaluation import EvaluationParams
from histofuse.tracking import names
from histofuse.tracking.lease import holding
from histofuse.tracking.model_card import describe_kind, write_card
from histofuse.tracking.names import Version, name_curve, name_params, name_registered
from histofuse.tracking.packaging import digest_files, digest_package, stage_model
from histofuse.tracking.provenance import (
    Stages,
    describe_revision,
    describe_stage,
    find_stage,
    read_revision,
    read_stages,
)
from histofuse.tracking.reports import SHOWN, read_reports
from histofuse.tracking.store import Store, open_store

if TYPE_CHECKING:
    from mlflow.entities import Run

MODELS: Final = Path("models")
REPORTS: Final = Path("reports")
# Keys of a bundle's config that are params of its run.
LOGGED_KEYS: Final = (
    "kind", "seed", "source", "cohort", "classes", "pairing", "leaky", "encoders", "architecture",
)  # fmt: skip
DOCUMENTS: Final = "documents"
PROVENANCE: Final = "provenance.json"
PUBLISHING: Final = "publishing"  # the lock: one process publishes at a time
# Tags on the origin of a version.
_ORIGIN: Final = frozenset({"histofuse.git_commit", "histofuse.git_dirty"})
# Increased when the same bundle and reports are logged differently.
FORMAT: Final = 4
NAMED: Final = 3  # differences in the name of a run


class Outcome(NamedTuple):
    """Names of the models or studies that were written or completed, and of the others."""

    written: list[str]
    unchanged: list[str]


@dataclass(frozen=True)
class Publication:
    """All that is logged of one bundle."""

    bundle: Bundle
    registered: str
    metrics: Mapping[str, float | None]  # final values; None where one is not defined
    figures: Mapping[str, Path]  # artifact path -> file, sorted
    documents: Mapping[str, str]  # file name -> Markdown, on the data and the whole run
    row_level: bool  # whether files with one row per patient may be uploaded
    left_out: Sequence[str]  # reports of another bundle of the same name

    @cached_property
    def config(self) -> dict[str, Any]:
        """The bundle's config."""
        return self.bundle.config

    @cached_property
    def card(self) -> str:
        """The model card."""
        return write_card(self.registered, self.bundle, self.metrics)

    @cached_property
    def content(self) -> str:
        """Digest of all that is logged, without times and users."""
        return digest_text(
            to_json(
                {
                    "format": FORMAT,
                    "bundle": self.bundle.digest,
                    "registered": self.registered,
                    "metrics": dict(self.metrics),
                    "figures": {name: digest_file(file) for name, file in self.figures.items()},
                    "documents": dict(self.documents),
                    "card": self.card,
                    "model": self.model_content,
                }
            )
        )

    @cached_property
    def model_content(self) -> str:
        """Digest of the files that are registered."""
        return digest_package(self.bundle, row_level=self.row_level)


def publish_all(
    models: Path = MODELS, reports: Path = REPORTS, documents: Mapping[str, str] | None = None
) -> Outcome:
    """Publish every bundle with its metrics, figures and documents, if the store lacks them."""
    rule = load_section(EvaluationParams, "evaluation").primary_rule
    bundles = [open_bundle(path) for path in list_models(models)]
    store = open_store()
    wanted = [collect(bundle, reports, rule, documents) for bundle in bundles]
    for p in wanted:
        for fault in p.left_out:
            report(f"left out of {p.registered}: {fault}. Make it again: dvc repro publish")
    return write_missing(wanted, store)


def list_models(models: Path) -> list[Path]:
    """List the trained models that params.yaml names; others are left from earlier params."""
    fused = map(name_fusion, load_keys("pairing"))
    patients = map(name_patient_model, load_keys("patients"))
    wanted = [*load_keys("image"), *load_keys("tabular"), *fused, *patients, "detector"]
    held = {path.name: path for path in list_bundles(models)}
    return [held[name] for name in wanted if name in held]


def collect(
    bundle: Bundle,
    folder: Path,
    primary_rule: str | None = None,
    documents: Mapping[str, str] | None = None,
) -> Publication:
    """Collect what is logged of a bundle: itself, and the reports below a folder that name it.

    Of a restricted source, files with one row per patient or patch are left out, and all figures
    but those of many patients.
    """
    row_level = may_show_patients([bundle.config["source"]])
    primary = primary_rule is not None and bundle.name == name_fusion(primary_rule)
    reports = read_reports(folder, bundle, primary=primary, row_level=row_level)
    return Publication(
        bundle=bundle,
        registered=name_registered(bundle.name, primary_rule),
        metrics=reports.metrics,
        figures=reports.figures,
        documents=documents or {},
        row_level=row_level,
        left_out=reports.left_out,
    )


def write_missing(publications: Iterable[Publication], store: Store) -> Outcome:
    """Write the publications that the store does not hold completely."""
    wanted = list(publications)
    with store.locked():
        store.end_abandoned()
        missing = _find_missing(wanted, store)
        if missing:
            with holding(store, PUBLISHING) as confirm:
                # The process that held the lock before may have written them.
                missing = missing if store.database else _find_missing(missing, store)
                stages = read_stages()
                complete = {version.run_id: version.files for version in store.list_versions()}
                for p in track(missing, "publishing", len(missing)):
                    confirm()
                    _write(p, store, stages, complete)
    written = [p.registered for p in missing]
    return Outcome(written, [p.registered for p in wanted if p.registered not in written])


def _find_missing(publications: Iterable[Publication], store: Store) -> list[Publication]:
    held = {(v.name, v.digest, v.content) for v in store.list_versions()}
    return [p for p in publications if (p.registered, p.bundle.digest, p.content) not in held]


def _write(
    p: Publication, store: Store, stages: Stages, complete: Mapping[str, str | None]
) -> None:
    """Log a publication and register it, with as few requests to the server as possible.

    `complete` has the runs of registered versions, with the digest of their files.
    """
    registered = store.find_version(p.registered, p.bundle.digest)
    run = _adopt_run(p, store, registered)
    run_id, known = run.info.run_id, run.data
    params = name_params(p.config.get("params", {}))
    params |= flatten({key: p.config[key] for key in LOGGED_KEYS if key in p.config})
    store.log_batch(
        run_id,
        params={name: value for name, value in params.items() if name not in known.params},
        rows=[*_find_new_curves(p, store, run), (0, _find_changed(p.metrics, known.metrics))],
        tags={names.CONTENT_TAG: ""},
    )
    store.log_inputs(run_id, p.config.get("inputs", {}))
    fresh = run_id in complete and known.tags.get(names.MODEL_TAG) == p.model_content
    files = _write_artifacts(p, store, run_id, stages, fresh=fresh) or complete[run_id]
    provenance = _describe_provenance(p, known.tags, stages)
    origin = {k: v for k, v in known.tags.items() if k in _ORIGIN} | provenance
    number = _register(p, store, run_id, registered, origin | {names.FILES_TAG: files or ""})
    tags = provenance | describe_run(p, number)
    name = p.bundle.name
    if difference := _describe_difference(p, run, params, store):
        tags[names.DIFFERENCE_TAG], name = difference, f"{name} ({difference})"
    if name != run.info.run_name or run.info.status != "FINISHED":
        store.end_run(run_id, "FINISHED", name=name)
    # Last: the content tag marks the run as complete.
    tags |= {
        "mlflow.note.content": p.card,
        names.MODEL_TAG: p.model_content,
        names.CONTENT_TAG: p.content,
    }
    store.log_batch(run_id, tags=tags)


def _describe_difference(
    p: Publication, run: "Run", params: Mapping[str, str], store: Store
) -> str:
    """Describe in what a run differs from the one of this model before it; empty of the first.

    That of a registered run stays: "epochs 12".
    """
    if names.VERSION_TAG in run.data.tags:
        return run.data.tags.get(names.DIFFERENCE_TAG, "")
    runs = store.find_runs(names.MODEL_NAME_TAG, p.bundle.name)
    earlier = [other for other in runs if other.info.run_id != run.info.run_id]
    if not earlier:
        return ""
    known = earlier[-1].data.params
    changed = [f"{k} {_shorten(v)}" for k, v in sorted(params.items()) if known.get(k) != v]
    more = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
    return f"{', '.join(changed[:NAMED]) or 'other data or code'}{more}"


def _shorten(value: str) -> str:
    return value[: names.SHOWN_DIGITS] if re.fullmatch(r"[0-9a-f]{64}", value) else value


def _describe_provenance(
    p: Publication, known: Mapping[str, str], stages: Stages
) -> dict[str, str]:
    """Describe the model's origin; tags that training set are kept."""
    found = find_stage(stages, p.bundle.path)
    of_stage = describe_stage(*found) if found else {}
    of_sources = describe_revision(read_revision())
    return of_stage | {k: v for k, v in of_sources.items() if k not in known}


def _adopt_run(p: Publication, store: Store, registered: Version | None) -> "Run":
    """Find the run of the registered version, or the one that training began, or create one."""
    runs = store.find_runs(names.DIGEST_TAG, p.bundle.digest)
    behind = [run for run in runs if registered and run.info.run_id == registered.run_id]
    if found := behind or runs:
        return found[0]
    tags = {names.DIGEST_TAG: p.bundle.digest, "histofuse.kind": str(p.config.get("kind", ""))}
    return store.create_run(p.bundle.name, tags)


def _find_new_curves(
    p: Publication, store: Store, run: "Run"
) -> list[tuple[int, dict[str, float]]]:
    """Read the curves from history.csv, without what training logged live."""
    rows = read_curves(p.bundle)
    known, run_id = run.data.metrics, run.info.run_id
    curves = {name for _, row in rows for name in row}
    steps = {n: store.read_steps(run_id, n) if n in known else set() for n in curves}
    return [(step, {n: v for n, v in row.items() if step not in steps[n]}) for step, row in rows]


def read_curves(bundle: Bundle) -> list[tuple[int, dict[str, float]]]:
    """Read ``history.csv`` as the curves that training reports live: (step, name to value)."""
    path = bundle.path / HISTORY
    if not path.is_file():
        return []
    table: Any = pd.read_csv(path)
    steps = table.get("epoch", table.get("round", table.index + 1))
    cross_validated = any(column.endswith("_sd") for column in table)
    values = table[[c for c in table if c not in {"epoch", "round"} and not c.endswith("_sd")]]
    values = values.rename(
        columns=lambda c: name_curve(name_column(c, cross_validated=cross_validated))
    )
    return [
        (int(step), {name: value for name, value in row.items() if math.isfinite(value)})
        for step, row in zip(steps, values.to_dict("records"), strict=True)
    ]


def _find_changed(
    metrics: Mapping[str, float | None], known: Mapping[str, float]
) -> dict[str, float]:
    """Find final values that are new or have changed; one no longer defined becomes NaN."""
    values = {name: value for name, value in metrics.items() if value is not None}
    gone = {
        name: math.nan
        for name, value in known.items()
        if not name.startswith("curve/") and name not in values and not math.isnan(value)
    }
    return gone | {name: value for name, value in values.items() if known.get(name) != value}


def _write_artifacts(
    p: Publication, store: Store, run_id: str, stages: Stages, *, fresh: bool
) -> str | None:
    """Replace the figures, and the model if it is not `fresh`; return the digest of its files."""
    with TemporaryDirectory(prefix=names.SCRATCH) as scratch:
        folder = Path(scratch)
        if not fresh:
            stage_model(p.bundle, store, folder / names.MODEL_FOLDER, row_level=p.row_level)
        for name, file in p.figures.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / name)
        for name, text in p.documents.items():
            write_text(text, folder / DOCUMENTS / name)
        found = find_stage(stages, p.bundle.path)
        stage = {"stage": found[0], **found[1]} if found else None
        write_json({"dvc": stage, "inputs": p.config.get("inputs", {})}, folder / PROVENANCE)
        replaced = (*SHOWN, DOCUMENTS, *(() if fresh else (names.MODEL_FOLDER,)))
        store.log_folder(run_id, folder, replaced)
        return None if fresh else digest_files(folder / names.MODEL_FOLDER)


def _register(
    p: Publication, store: Store, run_id: str, registered: Version | None, tags: Mapping[str, str]
) -> int:
    """Register what a run holds, unless it is registered, and return the version's number."""
    if registered is None:
        tags = {**tags, "histofuse.source": str(p.config.get("source", ""))}
        return store.create_version(
            p.registered,
            run_id,
            p.bundle.digest,
            description=p.card,
            about=describe_kind(p.config),
            tags={name: value for name, value in tags.items() if value},
        )
    store.client.update_model_version(p.registered, str(registered.number), p.card)
    if tags[names.FILES_TAG]:
        store.tag_version(p.registered, registered.number, {names.FILES_TAG: tags[names.FILES_TAG]})
    return registered.number


def describe_run(p: Publication, number: int) -> dict[str, str]:
    """Tag a run for filtering and grouping."""
    config = p.config
    pairing = config.get("pairing", {})
    tags = {
        "histofuse.kind": config.get("kind", ""),
        names.MODEL_NAME_TAG: p.bundle.name,
        "histofuse.source": config.get("source", ""),
        "histofuse.pairing": pairing.get("rule", "") if isinstance(pairing, Mapping) else pairing,
        "histofuse.leaky": str(bool(config.get("leaky"))).lower(),
        names.FOCUS_TAG: config.get("focus_class", ""),
        names.REGISTERED_TAG: p.registered,
        names.VERSION_TAG: str(number),
        # MLflow's table of runs looks up the versions of runs with this tag alone.
        "mlflow.log-model.history": "[]",
    }
    return {name: str(value) for name, value in tags.items() if value != ""}


def find_in_models(models: Path, registered: str, primary_rule: str | None = None) -> Path | None:
    """Find the bundle below a folder that is registered under a name."""
    for path in list_bundles(models):
        if name_registered(load_json(path / MANIFEST)["name"], primary_rule) == registered:
            return path
    return None


def ensure_registered(bundle: Bundle, store: Store) -> Version:
    """Find a bundle in the registry; it is published first if it is not there.

    Only for encoders: the name of a fusion model depends on its pairing rule.
    """
    registered = name_registered(bundle.name)
    with store.locked():
        version = find_version(store, registered, bundle.digest)
        if version is None:
            write_missing([collect(bundle, REPORTS / "none")], store)
            version = find_version(store, registered, bundle.digest)
    assert version is not None
    return version


def find_version(store: Store, registered: str, digest: str) -> Version | None:
    """Find the first complete version of a registered model that holds a bundle."""
    versions = (v for v in store.list_versions(registered) if v.digest == digest)
    return next(versions, None)
