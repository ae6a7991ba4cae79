"""Files that hold a password: readable by their owner alone from their first byte on."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from histofuse.core.artifacts import replacing_file
from histofuse.core.errors import HistofuseError

OWNER_ONLY = 0o600


def write_private(text: str, path: Path) -> None:
    """Write a file whole, mode 0600."""
    with replacing_file(path) as temporary:
        opened = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, OWNER_ONLY)
        with os.fdopen(opened, "w", encoding="utf-8") as file:
            file.write(text)


def read_private(path: Path) -> str:
    """Read a file that nobody else can have read or altered.

    Raises:
        HistofuseError: If its mode lets others at it.
    """
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        raise HistofuseError(
            f"{path}: holds a password and has mode {mode:04o}; expected 0600. Change the "
            f"password if others use this machine, and chmod 600 {path}."
        )
    return path.read_text(encoding="utf-8")
