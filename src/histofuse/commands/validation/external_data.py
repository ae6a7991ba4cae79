"""Another data set, made ready for a model as the stages make their own: nothing is fitted."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import pandas as pd

from histofuse.core.artifacts import write_json
from histofuse.core.errors import Fault, InputError
from histofuse.core.ids import identify
from histofuse.core.naming import name_pairing, show_count
from histofuse.core.tables import write_table
from histofuse.data import brecahad
from histofuse.data.annotations import read_annotations
from histofuse.data.cohort import COHORT, build_cohort
from histofuse.data.crosswalk import SPELT
from histofuse.data.cutting import write_patches
from histofuse.data.declared.cohort import build_declared_cohort
from histofuse.data.declared.table import DECLARATION, read_declared
from histofuse.data.images.resolution import find_factors
from histofuse.data.mimic import identify_source, load_hospital
from histofuse.data.patches import load_index, load_meta
from histofuse.data.splits import PATCH_SPLITS, PATIENT_SPLITS
from histofuse.features.declared import build_declared_features
from histofuse.features.ehr import build_features
from histofuse.features.pairing import PAIRS, join_targets, make_pairs
from histofuse.features.ranges import Range
from histofuse.features.specs import FEATURES, KEY
from histofuse.features.stain import find_normaliser
from histofuse.params.base import load_section
from histofuse.params.data import ClassesParams, DataParams
from histofuse.params.ehr import CohortParams, EhrFeaturesParams
from histofuse.params.pairing import PairingParams
from histofuse.params.patches import PatchParams
from histofuse.promotion.scoring import SPLIT, TestData
from histofuse.serving.case_records import count_ignored, screen_records

TRAINED_ON: Final = Path("data")


@dataclass
class External:
    """Another data set below a folder, all of it in the split that is scored."""

    data: TestData
    sources: dict[str, str] = field(default_factory=dict)  # of images and records, if there are any
    notes: list[str] = field(default_factory=list)  # what was left out
    names: dict[Any, str] = field(default_factory=dict)  # patient or case to its spelling

    def add_records(self, folder: Path) -> None:
        """Read and label records: a folder with ``records.yaml``, or with ``hosp/``."""
        facts: dict[str, Any]
        if (folder / DECLARATION).is_file():
            declared = read_declared(folder)
            cohort = build_declared_cohort(declared)
            features = build_declared_features(declared, cohort.table)
            facts, source = cohort.describe(), declared.declaration.access
            if cohort.censored:
                rows = show_count(cohort.censored, "rows")
                self.notes.append(f"{rows} censored before the horizon left out")
        else:
            cohort = build_cohort(
                load_hospital(folder), load_section(CohortParams, "cohort"), folder
            )
            params = load_section(EhrFeaturesParams, "ehr_features")
            built = (cohort.table, folder, params, cohort.target, cohort.prediction_time)
            features = build_features(*built)
            facts, source = cohort.describe(), identify_source(folder)
        table, root = cohort.table, self.data.root
        write_table(table, root / "cohort" / "cohort.parquet", COHORT)
        write_json(facts, root / "cohort" / "meta.json")
        write_table(features.table, root / "ehr" / "features.parquet", FEATURES)
        splits = table[list(KEY)].assign(split=SPLIT).astype({"split": "str"})
        write_table(splits, root / "splits" / "patients.parquet", PATIENT_SPLITS)
        self.sources["records"] = source
        spelt = table[SPELT[0]] if SPELT[0] in table else table[KEY[0]].astype(str)
        self.names |= dict(zip(table[KEY[0]], spelt, strict=True))

    def add_frames(self, folder: Path) -> None:
        """Read frames with their dots and cut patches as those of training were cut."""
        params = load_section(DataParams, "data").model_copy(update={"brecahad": str(folder)})
        settings = load_section(PatchParams, "patches")
        found = read_annotations(params, load_section(ClassesParams, "classes"))
        self.sources["images"] = brecahad.identify_source(params)
        files = dict(zip(found.frames["frame_id"], found.frames["file"], strict=True))
        mpp = None if params.mpp == "none" else params.mpp
        factors = find_factors({f: folder / file for f, file in files.items()}, settings.mpp, mpp)
        write_patches(
            found.annotations,
            found.frames,
            folder,
            self.data.patches,
            meta=replace(load_meta(TRAINED_ON / "patches"), source=self.sources["images"]),
            reading=params.frames,
            shard_patches=settings.shard_patches,
            factors=factors,
            normalise=find_normaliser(settings.stain_normalisation),
            workers=settings.workers,
        )
        index = load_index(self.data.patches)
        splits = index[["patch_id", "frame_id", "case_id", "label"]].assign(split=SPLIT)
        splits = splits.astype({"split": "str"})
        write_table(splits, self.data.root / "splits" / "patches.parquet", PATCH_SPLITS)
        self.notes += found.notes
        self.names |= {case: case for case in splits["case_id"]}

    def pair(self, model: str, crosswalk: Path) -> None:
        """Give each case the record of its own patient."""
        root = self.data.root
        patches, splits, cohort = (
            pd.read_parquet(root / f"{name}.parquet")
            for name in ("splits/patches", "splits/patients", "cohort/cohort")
        )
        linked = PairingParams.model_validate({"rule": "linked"})
        pairs = make_pairs(patches, join_targets(splits, cohort), linked, 0, crosswalk)
        if alone := patches["case_id"].nunique() - pairs["case_id"].nunique():
            self.notes.append(f"{show_count(alone, 'cases')} of tissue without a patient left out")
        write_table(pairs, root / "pairs" / f"{name_pairing(model)}.parquet", PAIRS)

    def screen(self, ranges: Mapping[str, Range]) -> None:
        """Take values outside the ranges of the model's features as missing, as `predict` does."""
        path = self.data.root / "ehr" / "features.parquet"
        screened = screen_records(self.data.read_features(), ranges)
        self.notes += count_ignored(screened.outside, {}, ranges)
        write_table(screened.table, path, FEATURES)

    def find_named(self, path: Path) -> set[Any]:
        """Read ids of patients or cases, one a line."""
        known = {identify(name): key for key, name in self.names.items()}
        if not path.is_file():
            raise InputError.of(path, "no such file", "ids of patients or cases, one a line")
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
        named = {n: line for n, line in enumerate(lines, start=1) if line}
        faults = [
            Fault(f"{path}, line {n}", f"{name!r} is not in the data", "a patient or case of it")
            for n, name in named.items()
            if identify(name) not in known
        ]
        if faults or not named:
            raise InputError(faults or [Fault(path, "no ids", "at least one")])
        return {known[identify(name)] for name in named.values()}
