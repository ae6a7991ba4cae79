"""``histofuse fetch``: downloads, verifies and unpacks open data sets."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from histofuse.commands.download import (
    DownloadError,
    Remote,
    download,
    read_text,
    resolve_inside,
    unpack,
)
from histofuse.core.artifacts import load_json, parse_json, write_json
from histofuse.core.disk import require_space
from histofuse.core.naming import show_count
from histofuse.core.progress import report

MARKER: Final = "FETCHED.json"
ZIP: Final = ".zip"


@dataclass(frozen=True)
class DataSet:
    """An open data set."""

    url: str  # base of its file listing
    list_files: Callable[[str], list[Remote]]  # from the base URL
    into: Path  # the default target folder
    layout: tuple[str, ...]  # folders that its root contains
    key: str  # in params.yaml, for its path
    page: str  # for a manual download
    terms: str  # licence and source


def fetch(name: str, url: str | None = None, into: Path | None = None) -> Path:
    """Download a data set of `DATA_SETS`, or from a mirror, unless it is complete already.

    Returns the folder to set in params.yaml. Raises DownloadError with the host, and how to
    download it manually.
    """
    data_set = DATA_SETS[name]
    folder = into or data_set.into
    if (known := _find_fetched(folder, name)) is not None:
        report(f"{name} is already in {known}")
        return known
    report(f"{name}: {data_set.terms}")
    try:
        files = data_set.list_files((url or data_set.url).rstrip("/"))
        _download_all(files, folder)
    except DownloadError as error:
        raise DownloadError(
            f"{error}\n  Manually: download it from {data_set.page} and unpack it, so that "
            f"{' and '.join(f'{folder}/{part}/' for part in data_set.layout)} exist."
        ) from None
    found = _find_layout(folder, data_set)
    digests = {f.path: f"{f.algorithm}:{f.digest}" for f in files}
    write_json({"data_set": name, "files": digests}, folder / MARKER)
    return found


def _download_all(files: list[Remote], folder: Path) -> None:
    zipped = [f.path for f in files if f.path.endswith(ZIP)]
    # Before anything is touched, also what the archives are unpacked to.
    resolve_inside(folder, [f.path for f in files])
    unpacked = resolve_inside(folder, [path.removesuffix(ZIP) for path in zipped])
    require_space(sum(f.size or 0 for f in files), folder)
    for number, remote in enumerate(files, start=1):
        new = download(remote, folder)
        report(f"{number}/{len(files)} {remote.path}: {'downloaded' if new else 'exists already'}")
    archives = resolve_inside(folder, zipped)
    for archive, into in zip(archives, unpacked, strict=True):
        count = unpack(archive, into)
        report(f"unpacked {show_count(count, 'files')} of {archive.name}")
    # Archives are kept until all are unpacked, so that an interrupted run can resume.
    for archive in archives:
        archive.unlink()


def _find_fetched(folder: Path, name: str) -> Path | None:
    marker = load_json(folder / MARKER) if (folder / MARKER).is_file() else None
    if not isinstance(marker, dict) or marker.get("data_set") != name:
        return None
    with suppress(DownloadError):
        return _find_layout(folder, DATA_SETS[name])
    return None


def _find_layout(folder: Path, data_set: DataSet) -> Path:
    """Find the folder with the data set's layout: the target folder or one inside it."""
    for candidate in (folder, *sorted(p for p in folder.rglob("*") if p.is_dir())):
        if all((candidate / part).is_dir() for part in data_set.layout):
            return candidate
    expected = " and ".join(f"{part}/" for part in data_set.layout)
    raise DownloadError(f"{folder}: the download contains no folder with {expected}")


FIGSHARE_ARTICLE: Final = 7379186


def list_figshare(base: str) -> list[Remote]:
    """List the files of BreCaHAD's figshare article, with MD5 checksums."""
    url = f"{base}/articles/{FIGSHARE_ARTICLE}"
    try:
        return [
            Remote(
                path=entry["name"],
                url=entry["download_url"],
                algorithm="md5",
                digest=entry.get("computed_md5") or entry["supplied_md5"],
                size=int(entry["size"]),
            )
            for entry in parse_json(read_text(url))["files"]
            if not entry.get("is_link_only")
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise DownloadError(f"{url}: not a figshare listing ({error!r})") from None


def list_physionet(base: str) -> list[Remote]:
    """List the files of a PhysioNet project from its SHA256SUMS.txt."""
    url = f"{base}/SHA256SUMS.txt"
    lines = [line.split(maxsplit=1) for line in read_text(url).splitlines() if line.strip()]
    if not lines or any(len(line) != 2 or len(line[0]) != 64 for line in lines):
        raise DownloadError(f"{url}: not a list of SHA-256 checksums")
    return [Remote(path, f"{base}/{path}", "sha256", sha256) for sha256, path in lines]


DATA_SETS: Final = {
    "brecahad": DataSet(
        url="https://api.figshare.com/v2",
        list_files=list_figshare,
        into=Path("data/brecahad"),
        layout=("images", "groundTruth"),
        key="data.brecahad",
        page=f"https://doi.org/10.6084/m9.figshare.{FIGSHARE_ARTICLE}",
        terms="Aksac et al., BMC Research Notes 2019;12:82, CC BY 4.0",
    ),
    "mimic-demo": DataSet(
        url="https://physionet.org/files/mimic-iv-demo/2.2",
        list_files=list_physionet,
        into=Path("data/mimic-iv-demo"),
        layout=("hosp",),
        key="data.records.path",
        page="https://physionet.org/content/mimic-iv-demo/2.2/",
        terms="MIMIC-IV Clinical Database Demo 2.2, ODbL 1.0",
    ),
}
