"""Embeddings of patches and patients by frozen encoders, computed once and looked up by key."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float32

from histofuse.core.artifacts import load_json, replacing_folder, write_json
from histofuse.core.errors import InputError, collect_faults
from histofuse.core.naming import show_count
from histofuse.core.tables import Contract, read_table, write_table

IMAGE_ROWS: Final = Contract(
    name="rows of image embeddings", columns={"patch_id": "str", "row": "int"}, key=("patch_id",)
)
PATIENT_ROWS: Final = Contract(
    name="rows of patient embeddings",
    columns={"subject_id": "int", "hadm_id": "int", "row": "int"},
    key=("subject_id", "hadm_id"),
)
META: Final = "meta.json"
_ROWS_AT_ONCE: Final = 8192


@dataclass(frozen=True)
class Embedded:
    """Embeddings of one modality."""

    rows: pd.DataFrame  # key and ``row``: `IMAGE_ROWS` or `PATIENT_ROWS`
    values: Float32[np.ndarray, "n dim"]  # one row an item, at the place its ``row`` says

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self.values.shape[1]


@dataclass(frozen=True)
class Embeddings:
    """Embeddings of both modalities."""

    image: Embedded
    patient: Embedded
    # ``classes`` of the image encoder in order and its ``focus_class``, ``encoders`` (name,
    # registered name and digest of each), ``dims`` and ``sources`` by modality
    meta: dict[str, Any]


def number_rows(keys: pd.DataFrame, values: Float32[np.ndarray, "n dim"]) -> Embedded:
    """Pair keys with the embeddings computed in their order; InputError if one is not finite."""
    parts = np.array_split(values, 1 + len(values) // _ROWS_AT_ONCE)
    bad = sum(np.count_nonzero(~np.isfinite(part)) for part in parts)
    if len(keys) != len(values) or bad:
        problem = f"{len(values)} embeddings, {bad} values not finite"
        where, expected = ", ".join(keys.columns), f"{len(keys)} finite embeddings"
        raise InputError.of(where, problem, expected)
    rows = keys.reset_index(drop=True).assign(row=np.arange(len(keys)))
    return Embedded(rows, np.ascontiguousarray(values, dtype=np.float32))


def write_embeddings(embeddings: Embeddings, folder: Path) -> None:
    """Write arrays, key tables and ``meta.json`` in the place of `folder`."""
    dims = {"image": embeddings.image.dim, "patient": embeddings.patient.dim}
    with replacing_folder(folder) as temporary:
        _write(embeddings.image, temporary, "image", IMAGE_ROWS)
        _write(embeddings.patient, temporary, "patient", PATIENT_ROWS)
        write_json(embeddings.meta | {"dims": dims}, temporary / META)


def _write(part: Embedded, folder: Path, name: str, contract: Contract) -> None:
    np.save(folder / f"{name}.npy", part.values, allow_pickle=False)
    write_table(part.rows, folder / f"{name}.parquet", contract)


def write_image_embeddings(image: Embedded, origin: Mapping[str, str], folder: Path) -> None:
    """Write what one encoder made of patches in the place of `folder`, with the digests of both."""
    with replacing_folder(folder) as temporary:
        _write(image, temporary, "image", IMAGE_ROWS)
        write_json(dict(origin), temporary / META)


def find_image_embeddings(origin: Mapping[str, str], folder: Path) -> Embedded | None:
    """Load what `write_image_embeddings` wrote; None if there is none, or of another origin."""
    if not (folder / META).is_file() or load_json(folder / META) != origin:
        return None
    return _load(folder, "image", IMAGE_ROWS)


def load_embeddings(folder: Path) -> Embeddings:
    """Load what `write_embeddings` wrote, the arrays memory-mapped.

    Raises InputError if a file is missing or not readable, or a table points beyond its array.
    """
    image = _load(folder, "image", IMAGE_ROWS)
    return Embeddings(image, _load(folder, "patient", PATIENT_ROWS), load_json(folder / META))


def _load(folder: Path, name: str, contract: Contract) -> Embedded:
    path = folder / f"{name}.npy"
    rows = read_table(folder / f"{name}.parquet", contract)
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError.of(
            path, f"not readable ({error})", "an array", "Run dvc repro embed."
        ) from None
    if values.ndim != 2 or values.dtype != np.float32 or rows["row"].max() >= len(values):
        problem = f"holds {values.dtype} {values.shape}"
        raise InputError.of(path, problem, f"float32, {len(rows)} rows")
    return Embedded(rows, values)


def select_pairs(
    embeddings: Embeddings, pairs: pd.DataFrame
) -> tuple[Float32[np.ndarray, "n image"], Float32[np.ndarray, "n patient"]]:
    """Look up the embeddings of pairs by key, in their order; InputError if some have none."""
    matches = []
    with collect_faults() as faults:
        for part, contract in ((embeddings.image, IMAGE_ROWS), (embeddings.patient, PATIENT_ROWS)):
            key = list(contract.key)
            rows = pairs[key].merge(part.rows, on=key, how="left", validate="m:1")["row"]
            missing = rows.isna()
            if missing.any():
                example = pairs.loc[missing.to_numpy(), key].iloc[0].to_dict()
                lost = show_count(missing.sum(), "pairs")
                problem = f"{lost} without an embedding, such as {example}"
                faults.add(contract.name, problem, "one for each pair", "Run dvc repro embed.")
            matches.append((part.values, rows))
    image, patient = (values[rows.to_numpy(dtype=np.int64)] for values, rows in matches)
    return image, patient
