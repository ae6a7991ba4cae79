"""Reading and writing files: atomic writes (a temporary name, then a rename), JSON, digests."""

import codecs
import glob
import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from histofuse.core.disk import naming_full_disk
from histofuse.core.errors import InputError
from histofuse.core.processes import is_running

_DECIMALS: Final = 6  # beyond them two machines may differ

_LONGEST_NAME: Final = 230  # bytes; the temporary name is longer, and file systems take 255


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to `path` if the block succeeds.

    Raises DiskFullError if the disk is full; `path` is left as it was.
    """
    with making_folder(path.parent):
        temporary = _name_temporary(path)
        try:
            with naming_full_disk(path, temporary):
                yield temporary
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder; replace `path` with it if the block succeeds."""
    with making_folder(path.parent):
        temporary = _name_temporary(path)
        temporary.mkdir()
        try:
            with naming_full_disk(path, temporary):
                yield temporary
                shutil.rmtree(path, ignore_errors=True)
                temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def making_folder(path: Path) -> Iterator[None]:
    """Make a folder and its parents; of these, those that stay empty are removed at the end."""
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):  # the first that is not empty ends it
            for folder in made:
                folder.rmdir()


def _name_temporary(path: Path) -> Path:
    """Name a temporary path next to `path`; remove those that killed processes left there.

    Raises InputError if the name is too long for it.
    """
    if (length := len(path.name.encode())) > _LONGEST_NAME:
        expected = f"at most {_LONGEST_NAME} bytes: names of outputs follow those of inputs"
        raise InputError.of(path.parent, f"a name of {length} bytes ({path.name})", expected)
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = leftover.suffixes[-2].removeprefix(".")
        if not pid.isdigit() or int(pid) == os.getpid() or not is_running(int(pid)):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def render(value: Any) -> Any:
    """Make a value ready for JSON: records by their fields, arrays as lists, numbers rounded."""
    if is_dataclass(value):
        return {field.name: render(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: render(item) for key, item in value.items()}
    if hasattr(value, "tolist"):  # of NumPy
        return render(value.tolist())
    if isinstance(value, list | tuple):
        return [render(item) for item in value]
    return round_number(value) if isinstance(value, float) else value


def round_number(value: float | None) -> float | None:
    """Round for JSON; None where not defined."""
    return None if value is None or not math.isfinite(value) else round(float(value), _DECIMALS)


def to_json(value: Any) -> str:
    """Render a value as JSON with sorted keys, the same bytes for the same value."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(value: Any, path: Path) -> None:
    """Write a value as JSON with sorted keys; ValueError if it holds NaN or infinity."""
    write_text(to_json(value), path)


def write_text(text: str, path: Path) -> None:
    """Write UTF-8 text."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def load_json(path: Path, *, parse_number: Callable[[str], float] | None = None) -> Any:
    """Read a JSON file, as `parse_json` does.

    Raises InputError if it is missing or is not such JSON; names the line and column, or the key.
    """
    try:
        return parse_json(path.read_bytes(), parse_number=parse_number)
    except FileNotFoundError:
        raise InputError.of(path, "no such file", "a JSON file") from None
    except json.JSONDecodeError as error:
        raise InputError.of(path, f"not JSON ({error})", "a JSON document") from None
    except ValueError as error:
        expected = "JSON in UTF-8, each key once in its object, finite numbers"
        raise InputError.of(path, str(error), expected) from None


def parse_json(text: str | bytes, *, parse_number: Callable[[str], float] | None = None) -> Any:
    """Parse JSON that means one thing: UTF-8, each key once in its object, finite numbers.

    `parse_number` replaces the reader of decimals, NaN and infinity. ValueError says what is wrong.
    """
    parse = parse_number or _parse_finite
    try:
        return json.loads(
            decode_text(text) if isinstance(text, bytes) else text,
            object_pairs_hook=_join_pairs,
            parse_float=parse,
            parse_int=_parse_int,
            parse_constant=parse,
        )
    except RecursionError:
        raise ValueError("objects or lists nested too deeply") from None


def decode_text(raw: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark; ValueError names another encoding."""
    if raw.startswith(b"\x1f\x8b"):
        raise ValueError("is compressed by gzip, but not named .gz")
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw[:4]:
        raise ValueError("is UTF-16 text, not UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text ({error.reason} at byte {error.start})") from None


def _join_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    joined = dict(pairs)
    if len(joined) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = ", ".join(repr(key[:60]) for key, count in counts.items() if count > 1)
        raise ValueError(f"key {repeated} more than once in one object")
    return joined


def _parse_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text[:60]}… is a number of too many digits") from None


def _parse_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:60]} is not a finite number")
    return number


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
