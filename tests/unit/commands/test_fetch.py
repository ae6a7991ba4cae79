"""Against a server on this machine; no test reaches the network."""

import hashlib
import io
import json
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from full_disk import limited_file_size

from histofuse.commands import fetch as module
from histofuse.commands.download import DownloadError, Remote, download, unpack
from histofuse.commands.fetch import fetch
from histofuse.core.disk import DiskFullError


class Server(ThreadingHTTPServer):
    """Serves `files`, with ranges; sends only `break_after` bytes of the first answers."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.break_after: list[int] = []
        self.ranges = True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.asked.append((self.path, wanted))
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        first = int(wanted[6:-1]) if wanted and self.server.ranges else 0
        if first >= len(body) > 0:
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        cut = self.server.break_after.pop(0) if self.server.break_after else None
        self.wfile.write(body[first:][:cut])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def zip_of(**members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return stream.getvalue()


def serve_brecahad(server, archive=None, md5=None):
    archive = archive or zip_of(BreCaHAD__images__a="tif", BreCaHAD__groundTruth__b="json")
    server.files["/file/1"] = archive
    entry = {
        "name": "BreCaHAD.zip",
        "size": len(archive),
        "download_url": f"{server.url}/file/1",
        "computed_md5": md5 or hashlib.md5(archive).hexdigest(),
    }
    listing = {"files": [entry]}
    server.files[f"/articles/{module.FIGSHARE_ARTICLE}"] = json.dumps(listing).encode()
    return archive


def serve_demo(server):
    files = {"hosp/patients.csv.gz": b"patients", "LICENSE.txt": b"licence"}
    sums = "".join(f"{hashlib.sha256(v).hexdigest()} {k}\n" for k, v in files.items())
    server.files |= {f"/{k}": v for k, v in files.items()}
    server.files["/SHA256SUMS.txt"] = sums.encode()


def remote(server, body=b"0123456789" * 1000):
    server.files["/f"] = body
    return Remote("f", f"{server.url}/f", "sha256", hashlib.sha256(body).hexdigest(), len(body))


def test_brecahad_is_unpacked_and_its_folder_found(server, tmp_path):
    serve_brecahad(server)
    found = fetch("brecahad", server.url, tmp_path)
    assert found == tmp_path / "BreCaHAD" / "BreCaHAD"
    assert (found / "images" / "a").read_text() == "tif"
    assert not (tmp_path / "BreCaHAD.zip").exists()


def test_second_call_asks_for_nothing(server, tmp_path):
    serve_demo(server)
    assert fetch("mimic-demo", server.url, tmp_path) == tmp_path
    assert (tmp_path / "hosp/patients.csv.gz").read_bytes() == b"patients"
    asked = len(server.asked)
    assert fetch("mimic-demo", server.url, tmp_path) == tmp_path
    assert len(server.asked) == asked


def test_files_that_are_there_are_not_asked_for_again(server, tmp_path):
    serve_demo(server)
    (tmp_path / "hosp").mkdir()
    (tmp_path / "hosp/patients.csv.gz").write_bytes(b"patients")
    fetch("mimic-demo", server.url, tmp_path)
    assert "/hosp/patients.csv.gz" not in [path for path, _ in server.asked]


def test_broken_download_resumes(server, tmp_path):
    server.break_after = [4000, 3000]
    assert download(remote(server), tmp_path)
    assert (tmp_path / "f").read_bytes() == b"0123456789" * 1000
    assert [wanted for _, wanted in server.asked] == [None, "bytes=4000-", "bytes=7000-"]


def test_next_call_resumes_a_partial_download(server, tmp_path):
    server.break_after = [1000] + [0] * 10
    with pytest.raises(DownloadError, match="again to resume"):
        download(remote(server), tmp_path)
    assert (tmp_path / "f.part").stat().st_size == 1000
    server.break_after = []
    server.asked.clear()
    assert download(remote(server), tmp_path)
    assert server.asked == [("/f", "bytes=1000-")]


def test_server_without_ranges_is_read_from_the_start(server, tmp_path):
    server.ranges = False
    server.break_after = [1000]
    download(remote(server), tmp_path)
    assert (tmp_path / "f").read_bytes() == b"0123456789" * 1000


def test_partial_download_of_another_file_is_discarded(server, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * 500)
    download(remote(server), tmp_path)
    assert (tmp_path / "f").read_bytes() == b"0123456789" * 1000


def test_wrong_checksum_is_refused_and_leaves_nothing(server, tmp_path):
    archive = serve_brecahad(server, md5="0" * 32)
    with pytest.raises(DownloadError) as error:
        fetch("brecahad", server.url, tmp_path)
    assert hashlib.md5(archive).hexdigest() in str(error.value)
    assert "expected " + "0" * 32 in str(error.value)
    assert list(tmp_path.iterdir()) == []


# Names that lead out of a folder, or mean something else than a file in it on some system.
EVIL = [
    "../evil", "/etc/evil", "a/../../evil", "a/../evil", "C:\\evil", "..\\evil", "a\\..\\..\\evil",
    "\\\\host\\share", "a:stream", "", ".", "..", "...", ". .", "a/..", "a/", "a//..//..",
    "a/... /b", "new\nline", "bell\a", "\x1b[2Jevil", "nul\0", "x" * 300,
]  # fmt: skip
NOT_IN_ARCHIVES = {"", "a/", "nul\0"}  # folders, which are not unpacked, and what zip files cut
EVIL_ARCHIVES = ["...zip", "..zip", ".zip", "a/.zip", "a/...zip", "a\\...zip", "../evil.zip"]


@pytest.fixture
def target(tmp_path):
    """A target folder among files of the user that must stay."""
    for name in ("beside.txt", "target/own.txt", "target/a/own.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    return tmp_path / "target"


def list_all(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", [name for name in EVIL if name not in NOT_IN_ARCHIVES])
def test_archive_that_leads_out_of_its_folder_is_refused(tmp_path, name):
    archive = tmp_path / "a.zip"
    archive.write_bytes(zip_of(**{"images__a": "x"}))
    with zipfile.ZipFile(archive, "a") as zipped:
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        zipped.writestr(info, "evil")
    assert zipfile.ZipFile(archive).infolist()[1].filename == name
    with pytest.raises(DownloadError, match="leads out of"):
        unpack(archive, tmp_path / "into")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zip"]


@pytest.mark.parametrize("name", [*EVIL, *EVIL_ARCHIVES])
def test_listing_that_leads_out_of_its_folder_is_refused_before_anything_is_touched(
    server, target, name
):
    before = list_all(target.parent)
    archive = serve_brecahad(server)
    entry = {
        "name": name,
        "size": len(archive),
        "download_url": f"{server.url}/file/1",
        "computed_md5": hashlib.md5(archive).hexdigest(),
    }
    listing = {"files": [entry | {"name": "good.zip"}, entry]}
    server.files[f"/articles/{module.FIGSHARE_ARTICLE}"] = json.dumps(listing).encode()
    with pytest.raises(DownloadError, match="nothing was changed"):
        fetch("brecahad", server.url, target)
    assert list_all(target.parent) == before
    assert [path for path, _ in server.asked] == [f"/articles/{module.FIGSHARE_ARTICLE}"]


def test_checksums_that_lead_out_of_their_folder_are_refused_together(server, tmp_path):
    lines = [f"{'0' * 64} {name}\n" for name in ("../evil", "a/b", "A/B", "c", "c/d", "/e")]
    server.files["/SHA256SUMS.txt"] = "".join(lines).encode()
    with pytest.raises(DownloadError) as error:
        fetch("mimic-demo", server.url, tmp_path)
    said = str(error.value)
    assert all(part in said for part in ("'../evil' leads", "'A/B' is there twice", "'/e' leads"))
    assert "'c/d' lies in a file" in said


def test_links_that_lead_out_of_the_target_are_not_followed(server, target):
    serve_demo(server)
    (target.parent / "elsewhere").mkdir()
    (target / "hosp").symlink_to(target.parent / "elsewhere")
    with pytest.raises(DownloadError, match=r"leads out of .* through a link"):
        fetch("mimic-demo", server.url, target)
    assert list((target.parent / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("own", ["BreCaHAD.zip", "BreCaHAD/thesis.txt"])
def test_files_of_the_user_in_the_target_stay(server, target, own):
    serve_brecahad(server)
    (target / own).parent.mkdir(exist_ok=True)
    (target / own).write_text("mine")
    with pytest.raises(DownloadError, match=r"exists already.*Move it away"):
        fetch("brecahad", server.url, target)
    assert (target / own).read_text() == "mine"


def test_what_was_unpacked_before_an_interruption_is_kept(server, target):
    archive = serve_brecahad(server)
    (target / "BreCaHAD.zip").write_bytes(archive)
    unpack(target / "BreCaHAD.zip", target / "BreCaHAD")
    found = fetch("brecahad", server.url, target)
    assert (found / "images" / "a").read_text() == "tif"


def test_a_stream_longer_than_listed_is_cut(server, tmp_path):
    listed = replace(remote(server), size=100)
    with pytest.raises(DownloadError, match="longer than the 100 bytes listed"):
        download(listed, tmp_path)
    assert not (tmp_path / "f").exists()


def test_a_full_disk_is_no_network_error(server, tmp_path):
    with limited_file_size(2000), pytest.raises(DiskFullError, match=r"f\.part: the disk is full"):
        download(remote(server), tmp_path)


@pytest.mark.parametrize("content", [b"PK broken", b""])
def test_a_broken_archive_is_named(tmp_path, content):
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DownloadError, match=r"a\.zip: not a zip file"):
        unpack(tmp_path / "a.zip", tmp_path / "into")


def test_archives_that_cannot_be_read_are_named(tmp_path):
    whole = bytearray(zip_of(readme="x"))
    for place in (whole.index(b"PK\x03\x04") + 6, whole.index(b"PK\x01\x02") + 8):
        whole[place] |= 1  # says that it is encrypted
    (tmp_path / "a.zip").write_bytes(whole)
    with pytest.raises(DownloadError, match=r"a\.zip: .*encrypted"):
        unpack(tmp_path / "a.zip", tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_link_in_an_archive_is_refused(tmp_path):
    archive = tmp_path / "a.zip"
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(link, "/etc/passwd")
    with pytest.raises(DownloadError, match="is a link"):
        unpack(archive, tmp_path / "into")


def test_offline_names_the_host_and_the_manual_download(tmp_path):
    with pytest.raises(DownloadError) as error:
        fetch("mimic-demo", "http://127.0.0.1:9", tmp_path / "demo")
    message = str(error.value)
    assert "cannot reach 127.0.0.1" in message
    assert "physionet.org/content/mimic-iv-demo/2.2" in message
    assert f"{tmp_path}/demo/hosp/" in message


def test_file_that_the_server_lacks_is_named(server, tmp_path):
    with pytest.raises(DownloadError, match="answers 404"):
        fetch("mimic-demo", server.url, tmp_path)


def test_archive_without_the_data_set_is_refused(server, tmp_path):
    serve_brecahad(server, zip_of(readme="x"))
    with pytest.raises(DownloadError, match="no folder with images/ and groundTruth/"):
        fetch("brecahad", server.url, tmp_path)
