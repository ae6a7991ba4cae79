"""Patches -> folders of PNG files, one folder a class, as torchvision's ImageFolder reads them."""

from pathlib import Path

import pandas as pd

from histofuse.core.artifacts import replacing_folder
from histofuse.core.errors import InputError
from histofuse.core.naming import show_count
from histofuse.core.progress import track
from histofuse.data.patches import ShardReader, crop_margin, load_index

_BATCH = 256


def export_imagefolder(patches: Path, splits: pd.DataFrame | None, out: Path) -> int:
    """Write each patch, without its margin, as ``<split>/<class>/<patch_id>.png``; count them.

    The slash of a patch id becomes an underscore. Without splits the class folders lie directly in
    `out`, which appears only when complete. Raises InputError if `out` is a file or holds files, or
    the splits are not of these patches.
    """
    import imagecodecs

    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        problem = "is a file" if out.is_file() else "is not empty"
        raise InputError.of(out, problem, "a new folder", "Name another, or empty it.")
    index = load_index(patches)
    paths = _name_files(index, splits, patches)
    reader = ShardReader(patches)
    with replacing_folder(out) as folder:
        for parent in sorted({folder / path.parent for path in paths}):
            parent.mkdir(parents=True)
        for first in track(range(0, len(index), _BATCH), "writing PNG files"):
            rows = index.iloc[first : first + _BATCH]
            images = crop_margin(reader.read(rows["shard"], rows["row"]), reader.meta.margin_px)
            for path, image in zip(paths[first : first + _BATCH], images, strict=True):
                (folder / path).write_bytes(imagecodecs.png_encode(image.copy()))
    return len(index)


def _name_files(index: pd.DataFrame, splits: pd.DataFrame | None, patches: Path) -> list[Path]:
    names = [f"{patch.replace('/', '_')}.png" for patch in index["patch_id"]]
    folders = [Path(label) for label in index["label"]]
    if splits is not None:
        split_of = splits.set_index("patch_id")["split"].reindex(index["patch_id"])
        if missing := int(split_of.isna().sum()):
            problem = f"{show_count(missing, 'patches')} without a split"
            remedy = "Run dvc repro split_patches."
            raise InputError.of(patches, problem, "the splits of these patches", remedy)
        folders = [Path(split) / label for split, label in zip(split_of, folders, strict=True)]
    return [folder / name for folder, name in zip(folders, names, strict=True)]
