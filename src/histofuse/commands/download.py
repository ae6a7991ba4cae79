"""Downloads that resume after an interruption and are verified by checksum."""

import hashlib
import lzma
import shutil
import stat
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PurePosixPath
from typing import Final

from tqdm import tqdm

from histofuse.core.artifacts import replacing_folder
from histofuse.core.disk import naming_full_disk, require_space
from histofuse.core.errors import HistofuseError
from histofuse.core.progress import report, track

TIMEOUT_SECONDS: Final = 30
TRIES: Final = 4
CHUNK: Final = 1 << 20
LISTING_BYTES: Final = 1 << 24
_NAME_BYTES: Final = 240  # with an ending such as .part, what file systems take
_SHOWN: Final = 5  # names that cannot be trusted
_AWAY: Final = "Move it away, or choose another folder with --into."


class DownloadError(HistofuseError):
    """A download failed or its content is not the expected one."""


@dataclass(frozen=True)
class Remote:
    """A file to download."""

    path: str  # relative to the target folder
    url: str  # http or https
    algorithm: str  # md5 or sha256
    digest: str  # in hex
    size: int | None = None  # bytes; None if unknown


def resolve_inside(folder: Path, names: Iterable[str]) -> list[Path]:
    """Resolve the file names of a listing or an archive, before anything is touched.

    Raises DownloadError if any leads out of the folder, is no plain name, or stands in the way of
    another.
    """
    root, paths = folder.resolve(), {}
    problems = []
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        path = folder.joinpath(*parts)
        if not all(map(_is_plain, parts)) or not parts or name.endswith(("/", "\\")):
            problems.append(f"{name!r} leads out of {folder}, or is no plain file name")
        elif not path.resolve().is_relative_to(root):
            problems.append(f"{name!r} leads out of {folder} through a link")
        elif (key := tuple(map(str.casefold, parts))) in paths:
            problems.append(f"{name!r} is there twice")
        else:
            paths[key] = path
    for key, path in paths.items():
        if any(key[:depth] in paths for depth in range(1, len(key))):
            problems.append(f"{path.relative_to(folder).as_posix()!r} lies in a file")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        shown = "; ".join(problems[:_SHOWN])
        raise DownloadError(f"{shown}{more}: the listing cannot be trusted, nothing was changed.")
    return list(paths.values())


def _is_plain(part: str) -> bool:
    """Tell whether a name means the same on every system, and leads nowhere else."""
    short = len(part.encode()) <= _NAME_BYTES
    return part.isprintable() and short and bool(part.strip(". ")) and not set(":/") & set(part)


def read_text(url: str) -> str:
    """Read a small text file."""
    try:
        with _open(url, {}) as response:
            text = response.read(LISTING_BYTES + 1)
            if len(text) > LISTING_BYTES:
                raise DownloadError(f"{url}: more than {LISTING_BYTES >> 20} MiB: not a listing")
            return text.decode("utf-8")
    except (OSError, HTTPException, UnicodeDecodeError) as error:
        raise explain(url, error) from None


def download(remote: Remote, folder: Path) -> bool:
    """Download a file unless it exists already; return whether anything was downloaded.

    An interrupted download is kept as ``<name>.part``, and the next call resumes it. Raises
    DownloadError if the server cannot be reached, or the checksum does not match.
    """
    (target,) = resolve_inside(folder, [remote.path])
    if target.exists():
        if target.is_file() and matches(target, remote):
            return False
        raise DownloadError(
            f"{target}: exists already, and is not the file of {remote.url}. {_AWAY}"
        )
    part = target.with_name(f"{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    resumed = part.is_file() and part.stat().st_size > 0
    _receive(remote, part)
    if resumed and not matches(part, remote):
        report(f"{remote.path}: the partial download is of another file; starting again")
        part.unlink()
        _receive(remote, part)
    if not matches(part, remote):
        actual = digest(part, remote.algorithm)
        part.unlink()
        raise DownloadError(
            f"{remote.url}: {remote.algorithm} is {actual}, expected {remote.digest}. The file was "
            "removed. Try again; if it happens again, the server's copy differs from the published "
            "one."
        )
    part.replace(target)
    return True


def matches(path: Path, remote: Remote) -> bool:
    """Compare a file's size and checksum with the expected ones."""
    if remote.size is not None and path.stat().st_size != remote.size:
        return False
    return digest(path, remote.algorithm) == remote.digest.lower()


def digest(path: Path, algorithm: str) -> str:
    """Compute a checksum in hex."""
    with path.open("rb") as file:
        new = hashlib.new(algorithm, usedforsecurity=False)
        return hashlib.file_digest(file, lambda: new).hexdigest()


def _receive(remote: Remote, part: Path) -> None:
    """Download the rest of a partial file, with retries after network errors."""
    for left in reversed(range(TRIES)):
        try:
            _receive_once(remote, part)
            break
        except (OSError, HTTPException) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code < 500
            if refused or not left or not part.is_file():
                raise explain(remote.url, error) from None


def _receive_once(remote: Remote, part: Path) -> None:
    have = part.stat().st_size if part.is_file() else 0
    if have and have == remote.size:
        return
    try:
        response = _open(remote.url, {"Range": f"bytes={have}-"} if have else {})
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink()
        have, response = 0, _open(remote.url, {})
    with response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            have = 0
        _append(response, part, have, remote)


def _append(response: HTTPResponse, part: Path, have: int, remote: Remote) -> None:
    length = response.headers.get("Content-Length")
    total = remote.size or (have + int(length) if length else None)
    bar = tqdm(
        desc=f"  {remote.path}", initial=have, total=total, unit="B", unit_scale=True,
        leave=False, disable=None,
    )  # fmt: skip
    with bar, part.open("ab" if have else "wb") as file:
        while block := response.read(CHUNK):
            with naming_full_disk(part):
                file.write(block)
            bar.update(len(block))
            if remote.size is not None and file.tell() > remote.size:
                raise DownloadError(f"{remote.url}: longer than the {remote.size:,} bytes listed")
    if total is not None and part.stat().st_size < total:
        raise ConnectionError(f"stopped at {part.stat().st_size:,} of {total:,} bytes")


def _open(url: str, headers: dict[str, str]) -> HTTPResponse:
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"{url}: expected a URL that starts with https:// or http://")
    request = urllib.request.Request(url, headers={"User-Agent": "histofuse", **headers})
    return urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)


def explain(url: str, error: Exception) -> DownloadError:
    """Turn a network or server error into a message that says what to do."""
    host = urllib.parse.urlsplit(url).hostname
    if isinstance(error, urllib.error.HTTPError):
        return DownloadError(f"{url}: {host} answers {error.code} {error.reason}.")
    reason = getattr(error, "reason", error)
    return DownloadError(
        f"{url}: cannot reach {host} ({reason}). Check the connection, or set HTTPS_PROXY if this "
        "machine uses a proxy. Run the same command again to resume."
    )


def unpack(archive: Path, folder: Path) -> int:
    """Unpack a zip file into a new folder, completely or not at all; return the number of files.

    A folder that was unpacked from it before is left as it is. Raises DownloadError if it is no zip
    file that can be trusted, or the folder holds anything else; DiskFullError if it does not fit on
    the disk.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = [m for m in zipped.infolist() if not m.is_dir()]
            targets = resolve_inside(folder, [m.filename for m in members])
            for member in members:
                if stat.S_ISLNK(member.external_attr >> 16):
                    problem = "is a link: the archive cannot be trusted"
                    raise DownloadError(f"{member.filename!r} {problem}")
            if folder.exists():
                _require_unpacked(folder, dict(zip(targets, members, strict=True)))
                return len(members)
            require_space(sum(m.file_size for m in members), folder)
            with replacing_folder(folder) as temporary:
                pairs = zip(targets, members, strict=True)
                for target, member in track(pairs, f"unpacking {archive.name}", len(members)):
                    path = temporary / target.relative_to(folder)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with zipped.open(member) as source, path.open("wb") as file:
                        shutil.copyfileobj(source, file, CHUNK)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        problem = f"not a zip file ({error}); remove it and fetch again"
        raise DownloadError(f"{archive}: {problem}") from None
    return len(members)


def _require_unpacked(folder: Path, members: Mapping[Path, zipfile.ZipInfo]) -> None:
    """Refuse a folder that is not what the members give."""
    held = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    if held != {path: member.file_size for path, member in members.items()}:
        raise DownloadError(f"{folder}: exists already, with other files in it. {_AWAY}")
