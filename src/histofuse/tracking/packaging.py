"""A bundle as MLflow registers it, with all that is needed to answer requests.

A fusion model contains its frozen encoders, so that serving it needs neither the registry nor this
project's folder; their digests are in the model's config.
"""

import os
import shutil
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from histofuse.core.artifacts import digest_file, digest_text, to_json
from histofuse.core.bundle import MANIFEST, ROW_LEVEL, Bundle, open_bundle
from histofuse.core.errors import RegistryError
from histofuse.tracking.interface import describe_interface
from histofuse.tracking.names import BUNDLE_FOLDER, SCRATCH, VERSION_FILE, redact
from histofuse.tracking.store import Store

SERVING_SCRIPT: Final = Path(__file__).parents[1] / "serving" / "model.py"
# What a registered model needs in addition to histofuse; later versions read older bundles.
REQUIREMENTS: Final = (
    "captum", "jaxtyping", "matplotlib", "mlflow", "numpy", "pandas", "pillow", "pydantic",
    "safetensors", "scipy", "torch", "torchvision", "xgboost",
)  # fmt: skip
# Increased when the same bundle is registered with other files.
FORMAT: Final = 5
COMPILED: Final = "__pycache__"
# What MLflow and Python write next to a model when they load it from a local store.
ADDED: Final = frozenset({COMPILED, VERSION_FILE})


def digest_package(bundle: Bundle, *, row_level: bool) -> str:
    """Digest what `stage_model` writes of a bundle; its config has the encoders' digests."""
    parts = bundle.digest, str(row_level), digest_file(SERVING_SCRIPT), str(FORMAT)
    return digest_text("/".join(parts))


def digest_files(folder: Path) -> str:
    """Digest the files of a staged or registered model, without those that loading it adds."""
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    paths = [file.relative_to(folder) for file in files]
    kept = [path for path in paths if ADDED.isdisjoint(path.parts)]
    return digest_text(to_json({path.as_posix(): digest_file(folder / path) for path in kept}))


def stage_model(bundle: Bundle, store: Store, folder: Path, *, row_level: bool) -> None:
    """Write a bundle to a new folder as MLflow holds it.

    `store` supplies encoders that are not next to the bundle; `row_level` tells whether files with
    one row per patient are included. Raises RegistryError if an encoder is neither next to the
    bundle nor in the store; BundleError if an encoder was altered.
    """
    with TemporaryDirectory(prefix=SCRATCH) as scratch:
        root = Path(scratch)  # MLflow keeps the folders' own names
        artifacts = {"bundle": root / "bundle"}
        _copy(bundle.path, artifacts["bundle"], frozenset() if row_level else ROW_LEVEL)
        encoders = {
            side: _add_encoder(bundle, side, store, root / "encoders" / side)
            for side in bundle.config.get("encoders", {})
        }
        if encoders:
            artifacts["encoders"] = root / "encoders"
        interface = describe_interface(bundle, encoders)
        # Pinned to the installed versions, without local parts such as +cpu.
        pins = [f"{name}=={metadata.version(name).split('+')[0]}" for name in REQUIREMENTS]
        store.save_model(artifacts, SERVING_SCRIPT, pins, interface, folder)


def _add_encoder(bundle: Bundle, side: str, store: Store, target: Path) -> Bundle:
    facts = bundle.config["encoders"][side]
    neighbour = bundle.path.parent / facts["name"]
    registered, digest = facts["registered"], facts["digest"]
    if (neighbour / MANIFEST).is_file() and digest_file(neighbour / MANIFEST) == digest:
        _copy(neighbour, target, ROW_LEVEL)
    elif version := store.find_version(registered, digest):
        target.parent.mkdir(parents=True, exist_ok=True)
        store.fetch(version, BUNDLE_FOLDER, target)
        for name in ROW_LEVEL:
            (target / name).unlink(missing_ok=True)
    else:
        raise RegistryError(
            f"{bundle.name}: its encoder {registered} with digest {digest} is neither next to it "
            f"nor in the registry at {redact(store.uri)}. Run dvc repro, which trains both again."
        )
    return open_bundle(target, digest=digest, row_level=False)


def _copy(source: Path, target: Path, left_out: frozenset[str]) -> None:
    shutil.copytree(
        source, target, ignore=lambda _, names: left_out & set(names), copy_function=_link_or_copy
    )


def _link_or_copy(source: str, target: str) -> None:
    """Hard-link a file, or copy it where links are not possible."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
