"""Where an interrupted training is kept, and the key by which the same training finds it."""

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from histofuse.core.artifacts import digest_text, replacing_file, to_json

CHECKPOINTS: Final = Path(".histofuse/checkpoints")
LAST: Final = "last.ckpt"


def make_checkpoint_key(
    params: Mapping[str, Any], seed: int, inputs: Mapping[str, str], code: str
) -> str:
    """Name a run's state by all it depends on: params, seed, digests of the inputs, and code."""
    parts = {"params": params, "seed": seed, "inputs": inputs, "code": code}
    return digest_text(to_json({**parts, "torch": torch.__version__}))[:16]


@contextmanager
def resumable(name: str, key: str, root: Path = CHECKPOINTS) -> Iterator[Path]:
    """Yield the folder for a run's checkpoints; remove all under the name if the block succeeds.

    Write the bundle inside the block: if that fails, the next run resumes from the last epoch.
    """
    folder = root / name / key
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    shutil.rmtree(root / name, ignore_errors=True)


def save_checkpoint(state: Mapping[str, Any], folder: Path) -> None:
    """Replace the state of a run: killed at any moment, the folder holds the old or the new one."""
    with replacing_file(folder / LAST) as temporary:
        torch.save(state, temporary)


def load_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Load the state of a run onto the CPU, if it was saved."""
    if not (folder / LAST).is_file():
        return None
    return torch.load(folder / LAST, map_location="cpu", weights_only=True)
