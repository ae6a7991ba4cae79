"""The artifacts of a run that the report reads."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import digest_text, load_json
from histofuse.core.bundle import MANIFEST
from histofuse.core.errors import collect_faults
from histofuse.core.naming import name_fusion
from histofuse.reporting.blocks import Grid
from histofuse.reporting.markdown_tables import read_grids
from histofuse.tracking.row_level import may_show_patients


@dataclass(frozen=True)
class Artifact:
    """A file or folder that the report reads.

    Attributes:
        path: Relative to the project's root.
        command: The command that makes it.
        mandatory: Whether the report needs it.
    """

    path: str
    command: str = "dvc repro"
    mandatory: bool = True


EVIDENCE: Final = "make evidence"
ARTIFACTS: Final[Mapping[str, Artifact]] = {
    "params": Artifact("params.yaml", "git checkout params.yaml"),
    "lock": Artifact("dvc.lock"),
    "metrics": Artifact("reports/metrics.json", "dvc repro evaluate"),
    "tables": Artifact("reports/tables", "dvc repro evaluate"),
    "figures": Artifact("reports/figures", "dvc repro evaluate"),
    "cohort": Artifact("data/cohort/meta.json", "dvc repro cohort"),
    "patients": Artifact("data/cohort/cohort.parquet", "dvc repro cohort"),
    "attrition": Artifact("data/cohort/attrition.csv", "dvc repro cohort"),
    "patches": Artifact("data/patches/meta.json", "dvc repro patches"),
    "patch_index": Artifact("data/patches/index.parquet", "dvc repro patches"),
    "patch_splits": Artifact("data/splits/patches.parquet", "dvc repro split_patches"),
    "patch_audit": Artifact("data/splits/patches_audit.json", "dvc repro split_patches"),
    "patient_splits": Artifact("data/splits/patients.parquet", "dvc repro split_patients"),
    "patient_audit": Artifact("data/splits/patients_audit.json", "dvc repro split_patients"),
    "features": Artifact("data/ehr/features.json", "dvc repro ehr_features"),
    "feature_table": Artifact("data/ehr/features.parquet", "dvc repro ehr_features"),
    "masked": Artifact("data/ehr/masked.json", "dvc repro ehr_features"),
    "lab_quality": Artifact("data/ehr/lab_quality.csv", "dvc repro ehr_features"),
    "encoder": Artifact("data/encoded/encoder.json", "dvc repro encode_ehr"),
    "explain": Artifact("reports/explain", "dvc repro publish", mandatory=False),
    "assessment": Artifact(
        "reports/assessment/assessment.json", "dvc repro assess", mandatory=False
    ),
    "alarms": Artifact("reports/alarms.json", "dvc repro alarms", mandatory=False),
    "controls": Artifact("reports/controls/controls.json", "dvc repro controls", mandatory=False),
    "crossval": Artifact("evidence/crossval/crossval.json", EVIDENCE, mandatory=False),
    "protocol": Artifact("evidence/protocol/protocol.json", EVIDENCE, mandatory=False),
    "licence": Artifact("LICENSE", "git checkout LICENSE", mandatory=False),
}


@dataclass(frozen=True)
class Run:
    """The artifacts of one run.

    Attributes:
        root: The project's root.
        present: Names of the artifacts that exist.
    """

    root: Path
    present: frozenset[str]

    def locate(self, name: str) -> Path:
        """Return the path of an artifact."""
        return self.root / ARTIFACTS[name].path

    def command(self, name: str) -> str:
        """Return the command that makes an artifact."""
        return ARTIFACTS[name].command

    def read(self, name: str) -> Any:
        """Read a JSON artifact; None if it does not exist."""
        return load_json(self.locate(name)) if name in self.present else None

    def read_rows(self, name: str) -> list[dict[str, str]]:
        """Read a CSV artifact."""
        with self.locate(name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """``metrics.json``."""
        return self.read("metrics")

    @cached_property
    def cohort(self) -> dict[str, Any]:
        """``meta.json`` of the cohort."""
        return self.read("cohort")

    @cached_property
    def patches(self) -> dict[str, Any]:
        """``meta.json`` of the patches."""
        return self.read("patches")

    @cached_property
    def tables(self) -> dict[str, Grid]:
        """The tables of ``evaluate``."""
        return read_grids(self.locate("tables"))

    @cached_property
    def params(self) -> dict[str, Any]:
        """``params.yaml``, unvalidated, for display only."""
        from ruamel.yaml import YAML

        return YAML(typ="safe").load(self.locate("params"))

    @property
    def split(self) -> str:
        """The reported split."""
        return str(self.params["evaluation"]["split"])

    @property
    def primary(self) -> str:
        """The fusion model of the primary pairing."""
        return name_fusion(self.params["evaluation"]["primary_rule"])

    @property
    def sources(self) -> tuple[str, str]:
        """Sources of the images and the patients."""
        return self.patches["source"], self.cohort["source"]

    @property
    def simulated(self) -> bool:
        """Whether any of the data is simulated."""
        return "simulated" in self.sources

    @property
    def shows_patients(self) -> bool:
        """Whether single patients may be shown."""
        return may_show_patients([self.cohort["source"]])

    @cached_property
    def digests(self) -> dict[str, str]:
        """Model name to bundle digest, for the evaluated models whose bundle exists."""
        manifests = {n: self.root / "models" / n / MANIFEST for n in self.metrics["models"]}
        return {
            name: digest_text(path.read_text(encoding="utf-8"))
            for name, path in manifests.items()
            if path.is_file()
        }


def find_run(root: Path = Path()) -> Run:
    """Find the artifacts of a run.

    Raises:
        InputError: Listing every missing artifact and the command that makes it.
    """
    present = {name for name, a in ARTIFACTS.items() if (root / a.path).exists()}
    with collect_faults() as faults:
        for name, artifact in ARTIFACTS.items():
            if artifact.mandatory and name not in present:
                remedy = f"Run {artifact.command}."
                faults.add(artifact.path, "no such file or folder", "an output of the run", remedy)
    return Run(root, frozenset(present))
