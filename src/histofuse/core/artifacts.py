"""Reading and writing files: atomic writes (a temporary name, then a rename), JSON, digests."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from histofuse.core.errors import Fault, InputError


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` if the block succeeds."""
    temporary = _name_temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; replace `path` with it if the block succeeds."""
    temporary = _name_temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _name_temporary(path: Path) -> Path:
    """Name a temporary path next to `path`; remove those that killed processes left there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if not _is_alive(leftover.suffixes[-2]):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _is_alive(suffix: str) -> bool:
    """Tell whether another process, named by the suffix ``.<pid>``, still runs."""
    try:
        os.kill(pid := int(suffix[1:]), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return pid != os.getpid()


def to_json(value: Any) -> str:
    """Render a value as JSON with sorted keys, the same bytes for the same value."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(value: Any, path: Path) -> None:
    """Write a value as JSON with sorted keys.

    Raises:
        ValueError: If the value holds NaN or infinity; write None for an undefined value.
    """
    write_text(to_json(value), path)


def write_text(text: str, path: Path) -> None:
    """Write UTF-8 text."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: If the file is missing or is not JSON; names the line and column.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError([Fault(path, "no such file", "a JSON file")]) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError([Fault(path, f"not JSON ({error})", "a JSON document")]) from None


def digest_file(path: Path) -> str:
    """Compute the SHA-256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(folder: Path) -> str:
    """Compute the SHA-256 over the names and bytes of all files below a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return digest_text(to_json({f.relative_to(folder).as_posix(): digest_file(f) for f in files}))


def digest_text(text: str) -> str:
    """Compute the SHA-256 of a text's UTF-8 bytes, as 64 hex digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
