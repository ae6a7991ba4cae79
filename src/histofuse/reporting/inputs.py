"""The artifacts of a run that the report reads."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from histofuse.core.artifacts import digest_file, load_json
from histofuse.core.bundle import MANIFEST
from histofuse.core.errors import collect_faults
from histofuse.core.naming import name_fusion
from histofuse.core.privacy import may_show_patients
from histofuse.evaluation.metrics.sides import Rules
from histofuse.reporting.blocks import Grid
from histofuse.reporting.markdown_tables import read_grids
from histofuse.reporting.small_cells import hide_small_rows


@dataclass(frozen=True)
class Artifact:
    """A file or folder that the report reads."""

    path: str  # relative to the project's root
    command: str = "dvc repro"  # the command that makes it
    mandatory: bool = True  # whether the report needs it


ARTIFACTS: Final[Mapping[str, Artifact]] = {
    name: Artifact(**entry)
    for name, entry in load_json(Path(__file__).with_name("artifacts.json")).items()
}


@dataclass(frozen=True)
class Run:
    """The artifacts of one run."""

    root: Path  # the project's root
    present: frozenset[str]  # names of the artifacts that exist

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
    def rules(self) -> Rules:
        """Rules of the verdicts."""
        controls = self.params["controls"]
        fewest = self.params["intervals"]["fewest_groups"]
        return Rules(controls["gain_margin"], controls["chance_margin"], fewest)

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
        """Whether single patients and their tissue may be shown."""
        return may_show_patients(self.sources)

    def guard(self, grid: Grid) -> Grid:
        """Hide counts of few patients, if single patients may not be shown."""
        return grid if self.shows_patients else hide_small_rows(grid)

    @cached_property
    def digests(self) -> dict[str, str]:
        """Model name to bundle digest, for the evaluated models whose bundle exists."""
        manifests = {n: self.root / "models" / n / MANIFEST for n in self.metrics["models"]}
        return {name: digest_file(path) for name, path in manifests.items() if path.is_file()}


def find_run(root: Path = Path()) -> Run:
    """Find the artifacts of a run; InputError lists every missing one and how to make it."""
    present = {name for name, a in ARTIFACTS.items() if (root / a.path).exists()}
    with collect_faults() as faults:
        for name, artifact in ARTIFACTS.items():
            if artifact.mandatory and name not in present:
                remedy = f"Run {artifact.command}."
                faults.add(artifact.path, "no such file or folder", "an output of the run", remedy)
    return Run(root, frozenset(present))
