"""Cross-validation by case: the whole chain, from the split to the fused test predictions.

A fold is a folder of bundles, named by all it depends on: one that is there is not run again, one
that was killed resumes. Models take the values of params.yaml and never those of a study, which has
seen the patients that another fold tests.
"""

import shutil
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from histofuse.core.artifacts import digest_file, digest_folder, digest_text, load_json, to_json
from histofuse.core.bundle import MANIFEST, open_bundle
from histofuse.core.code import digest_code
from histofuse.core.errors import InputError, collect_faults
from histofuse.core.naming import name_fusion
from histofuse.core.tables import read_table, write_table
from histofuse.data import splits
from histofuse.data.cohort import COHORT
from histofuse.data.crosswalk import find_linked_splits, is_empty, read_crosswalk, unite_cases
from histofuse.data.patches import load_index
from histofuse.data.splits import PATCH_SPLITS, PATIENT_SPLITS
from histofuse.features.embeddings import Embeddings, number_rows, write_embeddings
from histofuse.features.encoding import ENCODED, fit_encoder, join_splits, write_encoded
from histofuse.features.pairing import PAIRS, join_targets, make_pairs
from histofuse.features.specs import FEATURES, load_specs
from histofuse.models.backbones import load_image_model
from histofuse.models.tabular import MlpModel, load_tabular_model
from histofuse.params.crossval import CrossvalParams
from histofuse.params.ehr import EncodingParams
from histofuse.params.fusion import EncodersParams, FusionParams
from histofuse.params.image import SAFETENSORS, AnyImageParams, resolve_paths
from histofuse.params.pairing import AnyPairing, PairingParams
from histofuse.params.patients import AnyPatientParams
from histofuse.params.splits import ImageSplitParams
from histofuse.params.tabular import AnyTabularParams
from histofuse.training.fusion import load_pairs, train_fusion
from histofuse.training.image import apply_network, load_patch_data, train_image
from histofuse.training.recorder import Recorder
from histofuse.training.tabular import load_table, train_tabular

# Within the folder of a fold.
MODELS: Final = Path("models")
SPLITS: Final = Path("splits")
PATCHES: Final = SPLITS / "patches.parquet"
PATIENTS: Final = SPLITS / "patients.parquet"
_SCRATCH: Final = Path("scratch")
_STATE: Final = Path(".histofuse")


@dataclass(frozen=True)
class Sources:
    """The inputs of a fold."""

    patches: Path
    frames: Path
    cohort: Path
    features: Path
    crosswalk: Path
    linked: Path  # patients with tissue and record of their own

    def resolve(self) -> "Sources":
        """Make all paths absolute."""
        return Sources(**{name: path.resolve() for name, path in vars(self).items()})

    def digest(self) -> dict[str, str]:
        """Compute the digest of each."""
        digest = {True: digest_folder, False: digest_file}
        return {name: digest[path.is_dir()](path) for name, path in vars(self).items()}


@dataclass(frozen=True)
class Chain:
    """All params of the chain."""

    crossval: CrossvalParams
    images: Mapping[str, AnyImageParams]
    tabulars: Mapping[str, AnyTabularParams]
    pairings: Mapping[str, AnyPairing]
    patients: Mapping[str, AnyPatientParams]
    encoding: EncodingParams
    encoders: EncodersParams
    fusion: FusionParams
    seed: int

    @property
    def names(self) -> list[str]:
        """The models of a fold: on patches, on health records, fused."""
        return [*self.images, *self.tabulars, *map(name_fusion, self.pairings)]

    def to_dict(self) -> dict[str, Any]:
        """Render all that can change a fold."""
        groups = ("images", "tabulars", "pairings", "patients")
        many = {g: {n: p.model_dump() for n, p in getattr(self, g).items()} for g in groups}
        one = {s: getattr(self, s).model_dump() for s in ("encoding", "encoders", "fusion")}
        crossval = self.crossval.model_dump(exclude={"workers"})
        return many | one | {"crossval": crossval, "seed": self.seed}


def select_models(chain: Chain) -> Chain:
    """Select the models that ``crossval`` names from those of all sections.

    Raises InputError with each name that is no model or rule, and each encoder that is not trained.
    """
    where, params, encoders = "params.yaml, crossval", chain.crossval, chain.encoders
    asked = (
        ("image_models", params.image_models, chain.images, encoders.image),
        ("tabular_models", params.tabular_models, chain.tabulars, encoders.patient),
        ("rules", params.rules, chain.pairings, None),
        ("patient_models", params.patient_models, chain.patients, None),
    )
    with collect_faults() as faults:
        for key, names, known, encoder in asked:
            for name in names:
                if name not in known:
                    faults.add(f"{where}.{key}", f"unknown {name!r}", f"one of {list(known)}")
            if encoder is not None and encoder not in names:
                problem = f"holds no {encoder!r}, which section encoders names"
                faults.add(f"{where}.{key}", problem, "the encoder among them")
        for side in ("image", "record") if params.patient_models else ():
            if side not in params.patient_models:
                problem = f"holds no {side!r}, which fusion is measured against"
                faults.add(f"{where}.patient_models", problem, "both sides alone among them")
    return replace(
        chain,
        images={n: chain.images[n] for n in params.image_models},
        tabulars={n: chain.tabulars[n] for n in params.tabular_models},
        pairings={n: chain.pairings[n] for n in params.rules},
        patients={n: chain.patients[n] for n in params.patient_models},
    )


def name_run(chain: Chain, sources: Sources, module: str = __name__) -> str:
    """Name a run by all that can change its folds: params, inputs, and the code of `module`."""
    files = {n: Path(p.weights) for n, p in chain.images.items() if p.weights.endswith(SAFETENSORS)}
    weights = {name: digest_file(path) for name, path in files.items()}
    parts = {"params": chain.to_dict(), "inputs": sources.digest(), "weights": weights}
    code = {"code": digest_code(module), "torch": torch.__version__}
    return digest_text(to_json({**parts, **code}))[:16]


def list_folds(chain: Chain, sources: Sources) -> range:
    """List the folds there are."""
    index = load_index(sources.patches)
    united = splits.unite(index, unite_cases(sources.crosswalk, index["case_id"]))
    return range(splits.count_folds(united, chain.crossval.folds))


# --- one fold -----------------------------------------------------------------------------------


def complete_fold(chain: Chain, sources: Sources, fold: int, run: Path) -> Path:
    """Run one fold, or resume one that was killed; return at once if it is there.

    `run` is the folder of the run, named by `name_run`; the fold's holds ``models/<name>`` and
    ``splits``.
    """
    done = find_fold(run, fold)
    if not done.exists():
        partial = done.with_suffix(".partial")
        partial.mkdir(parents=True, exist_ok=True)
        _run_chain(chain, sources.resolve(), fold, partial)
        partial.rename(done)
    return done


def find_fold(run: Path, fold: int) -> Path:
    """Name the folder of a fold; it is there once the fold is complete."""
    return run / f"fold_{fold}"


def _run_chain(chain: Chain, sources: Sources, fold: int, folder: Path) -> None:
    chain = replace(chain, images={n: resolve_paths(p) for n, p in chain.images.items()})
    # Checkpoints lie below the working directory: folds that run side by side have their own.
    with chdir(folder):
        split_fold(chain, sources, fold)
        _encode(chain, sources)
        _train(chain, sources)
        _embed(chain, sources)
        for rule, pairing in chain.pairings.items():
            _fuse(chain, sources, rule, PairingParams(pairing))
        for scratch in (_SCRATCH, _STATE):
            shutil.rmtree(scratch, ignore_errors=True)


def split_fold(chain: Chain, sources: Sources, fold: int) -> None:
    """Split patches by case, and patients, for one fold; linked patients follow their cases."""
    index, params = load_index(sources.patches), chain.crossval
    same_patient = unite_cases(sources.crosswalk, index["case_id"])
    count = splits.count_folds(splits.unite(index, same_patient), params.folds)
    split_params = ImageSplitParams(
        unit="case",
        validation_unit=params.validation_unit,
        folds=count,
        test_fold=fold,
        validation_fold=0,
        classes_required=params.classes_required,
    )
    patches = splits.split_patches(index, split_params, chain.seed, same_patient)
    cohort, linked = read_table(sources.cohort / "cohort.parquet", COHORT), None
    if not is_empty(sources.crosswalk):
        links = read_crosswalk(sources.crosswalk, patches, cohort)
        linked = find_linked_splits(links, patches)
    patients = splits.fold_patients(cohort, count, fold, chain.seed, linked)
    write_table(patches, PATCHES, PATCH_SPLITS)
    write_table(patients, PATIENTS, PATIENT_SPLITS)


def _encode(chain: Chain, sources: Sources) -> None:
    chain.encoding.check_source(load_json(sources.cohort / "meta.json")["source"])
    joined = join_splits(
        read_table(sources.features / "features.parquet", FEATURES),
        read_table(PATIENTS, PATIENT_SPLITS),
        read_table(sources.cohort / "cohort.parquet", COHORT),
    )
    specs = load_specs(sources.features / "features.json")
    encoder = fit_encoder(joined[joined["split"] == "train"], specs, chain.encoding)
    write_encoded(encoder, joined, _SCRATCH)


def _is_trained(name: str) -> bool:
    return (MODELS / name / MANIFEST).is_file()


def _train(chain: Chain, sources: Sources) -> None:
    data = load_patch_data(sources.patches, PATCHES)
    for name, params in chain.images.items():
        if not _is_trained(name):
            train_image(data, params, chain.seed, Recorder(), MODELS / name)
    for name, params in chain.tabulars.items():
        if not _is_trained(name):
            table = load_table(_SCRATCH, sources.cohort / "meta.json", params.kind)
            train_tabular(table, params, chain.seed, Recorder(), MODELS / name)


def _embed(chain: Chain, sources: Sources) -> None:
    image, patient = (
        open_bundle(MODELS / n) for n in (chain.encoders.image, chain.encoders.patient)
    )
    index, rows = load_index(sources.patches), read_table(_SCRATCH / "imputed.parquet", ENCODED)
    model = load_tabular_model(patient)
    if not isinstance(model, MlpModel):
        where, problem = "params.yaml, encoders.patient", "has no embedding"
        raise InputError.of(where, problem, "a model of kind mlp")
    sides = {"image": image, "patient": patient}
    meta = {
        "classes": image.config["classes"],
        "focus_class": image.config["focus_class"],
        "sources": {side: bundle.config["source"] for side, bundle in sides.items()},
        "encoders": {s: {"name": b.name, "digest": b.digest} for s, b in sides.items()},
    }
    patches = apply_network(load_image_model(image), sources.patches, index).embeddings
    of_patches = number_rows(index[["patch_id"]], patches)
    of_patients = number_rows(rows[["subject_id", "hadm_id"]], model.embed(rows))
    write_embeddings(Embeddings(of_patches, of_patients, meta), _SCRATCH / "embeddings")


def _fuse(chain: Chain, sources: Sources, rule: str, pairing: PairingParams) -> None:
    cohort = read_table(sources.cohort / "cohort.parquet", COHORT)
    patients = join_targets(read_table(PATIENTS, PATIENT_SPLITS), cohort)
    patches = read_table(PATCHES, PATCH_SPLITS)
    pairs = make_pairs(patches, patients, pairing, chain.seed, sources.crosswalk)
    path = _SCRATCH / f"{rule}.parquet"
    write_table(pairs, path, PAIRS)
    data = load_pairs(path, _SCRATCH / "embeddings", pairing)
    name = name_fusion(rule)
    if not _is_trained(name):
        train_fusion(data, chain.fusion, chain.seed, Recorder(), MODELS / name)
