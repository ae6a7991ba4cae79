"""Full disks: said in one line, before writing where the size is known."""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from histofuse.core.errors import HistofuseError

_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Of libraries that raise errors of their own: Rust's, SQLite's, NumPy's.
_SAID: Final = re.compile(
    r"No space left on device|File too large|Disk quota exceeded|disk is full|"
    r"\d+ requested and \d+ written"
)
_NOTHING_BYTES: Final = 2**16
_REMEDY: Final = "Free some space there, or choose a folder on another disk"


class DiskFullError(HistofuseError):
    """A file does not fit on its disk."""


@contextmanager
def naming_full_disk(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Turn a full disk, met in the block, into one line: `DiskFullError`.

    `path` is what the block writes, or the folder that it works in; `temporary` the name under
    which it writes `path` before it replaces it.
    """
    try:
        yield
    except DiskFullError as error:  # of a file in a folder that is written under another name
        raise DiskFullError(str(error).replace(str(temporary), str(path))) from None
    except Exception as error:
        free = _find_free(path)
        full = _is_full(error) or (temporary is not None and free < _NOTHING_BYTES)
        if isinstance(error, HistofuseError) or not full:
            raise
        reason = (str(error) or type(error).__name__).splitlines()[0]
        written = f"{_show(_measure(temporary))} were written so far, " if temporary else ""
        intact = f" {path.name} is as it was before." if temporary else ""
        raise DiskFullError(
            f"{path}: the disk is full, or a quota or limit of file size is reached ({reason}): "
            f"{written}{_show(free)} are free. {_REMEDY}.{intact}"
        ) from None


def require_space(size: int, folder: Path) -> None:
    """Make sure that files of a total size, in bytes, fit on the disk.

    Raises DiskFullError if they do not.
    """
    if size > (free := _find_free(folder)):
        raise DiskFullError(f"{folder}: needs {_show(size)}, {_show(free)} are free. {_REMEDY}.")


def _is_full(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it came of, is that of a full disk."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or _SAID.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _find_free(path: Path) -> int:
    existing = next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())
    return shutil.disk_usage(existing).free


def _measure(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


def _show(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
