"""Patches on disk: uint8 shards, their index and ``meta.json``, and how to read them."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from histofuse.core.artifacts import load_json
from histofuse.core.errors import InputError
from histofuse.core.naming import show_count
from histofuse.core.tables import Contract, parse_columns, read_table

PATCH_INDEX = Contract(
    name="patch index",
    columns=parse_columns(
        "patch_id frame_id case_id x_px:float y_px:float label shard:int row:int"
    ),
    key=("patch_id",),
)
INDEX = "index.parquet"
META = "meta.json"

Patches = NDArray[np.uint8]  # (n, side, side, 3) RGB


@dataclass(frozen=True)
class PatchMeta:
    """The content of ``meta.json``, next to the shards."""

    patch_px: int  # side of the square the model sees
    margin_px: int  # context stored on each side of it
    stored_px: int  # side of a stored patch
    classes: list[str]  # in the order of the model's outputs
    source: str  # ``simulated`` or ``brecahad``
    stain_normalisation: str  # ``none`` or ``macenko``
    # side of that square in micrometres; None if the resolution is not known
    patch_um: float | None = None
    reduction: float = 1.0  # most pixels of a frame, along a side, that became one of a patch

    @property
    def window_px(self) -> int:
        """Side in pixels of a frame of the largest window, margin included."""
        return math.ceil(self.stored_px * self.reduction)


class ShardReader:
    """Patches of a folder of shards, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.meta = load_meta(folder)
        self._shards: dict[int, Patches] = {}

    def read(self, shards: ArrayLike, rows: ArrayLike) -> Patches:
        """Read patches by the columns ``shard`` and ``row`` of the index, in the order given.

        Raises InputError if a shard is missing, is no array of patches, or is too short.
        """
        shards, rows = np.asarray(shards), np.asarray(rows)
        side = self.meta.stored_px
        patches = np.empty((len(rows), side, side, 3), np.uint8)
        for shard in np.unique(shards):
            wanted = np.flatnonzero(shards == shard)
            # In the order of the file, so that the disk is read forwards.
            wanted = wanted[np.argsort(rows[wanted], kind="stable")]
            source = self._open(int(shard))
            first, last = rows[wanted[0]], rows[wanted[-1]]
            if first < 0 or last >= len(source):
                held = show_count(source, "patches")
                problem = f"holds {held}, not row {first if first < 0 else last}"
                raise _shard_error(self._path(int(shard)), problem)
            patches[wanted] = source[rows[wanted]]
        return patches

    def _path(self, shard: int) -> Path:
        return self.folder / shard_name(shard)

    def _open(self, shard: int) -> Patches:
        if shard not in self._shards:
            path, side = self._path(shard), self.meta.stored_px
            try:
                array = np.lib.format.open_memmap(path, mode="r")
            except (OSError, ValueError) as error:
                raise _shard_error(path, f"not readable ({error})") from None
            if array.dtype != np.uint8 or array.shape[1:] != (side, side, 3):
                raise _shard_error(path, f"holds {array.dtype} {array.shape}")
            self._shards[shard] = array
        return self._shards[shard]


def read_patches(folder: Path, index: pd.DataFrame) -> Patches:
    """Read the patches of some rows of the index, (n, stored_px, stored_px, 3), in their order."""
    return ShardReader(folder).read(index["shard"], index["row"])


def load_index(folder: Path) -> pd.DataFrame:
    """Load the `PATCH_INDEX` table of a folder of shards."""
    return read_table(folder / INDEX, PATCH_INDEX)


def load_meta(folder: Path) -> PatchMeta:
    """Load ``meta.json`` of a folder of shards; InputError if it is missing, or not as it must."""
    values: Any = load_json(folder / META)
    try:
        meta = PatchMeta(**values)
        if meta.margin_px < 0 or meta.stored_px != meta.patch_px + 2 * meta.margin_px:
            raise TypeError("stored_px is not patch_px and a margin on each side")
        return meta
    except TypeError as error:
        expected = f"the keys {', '.join(PatchMeta.__dataclass_fields__)}"
        raise InputError.of(
            folder / META, f"wrong content ({error})", expected, "Run dvc repro patches."
        ) from None


def crop_margin(patches: Patches, margin_px: int) -> Patches:
    """Take the margin off stored patches: (n, stored_px, ...) -> (n, patch_px, ...)."""
    end = patches.shape[1] - margin_px
    return patches[:, margin_px:end, margin_px:end]


def shard_name(shard: int) -> str:
    """Name the file of a shard."""
    return f"shard-{shard:05d}.npy"


def _shard_error(path: Path, problem: str) -> InputError:
    return InputError.of(path, problem, "the patches the index names", "Run dvc repro patches.")
