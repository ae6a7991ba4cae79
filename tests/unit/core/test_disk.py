"""Full disks: one line, and what was there before stays."""

import errno
import shutil

import numpy as np
import pandas as pd
import pytest
from full_disk import limited_file_size
from safetensors.numpy import save_file

from histofuse.core.artifacts import replacing_file, replacing_folder, write_json
from histofuse.core.disk import DiskFullError, naming_full_disk, require_space
from histofuse.core.errors import HistofuseError
from histofuse.core.tables import Contract, write_table
from histofuse.serving.pictures.writer import open_writer

LARGE = np.random.default_rng(0).random(100_000)  # 800 kB
LIMIT = 50_000


def write_parquet(path):
    write_table(pd.DataFrame({"x": LARGE}), path, Contract("numbers", {"x": "float"}, ("x",)))


def write_rows(path):
    with open_writer(path) as write:
        for _ in range(3):
            write(pd.DataFrame({"x": LARGE}))


def write_array(path):
    with replacing_file(path) as temporary, temporary.open("wb") as file:
        np.save(file, LARGE)


def write_weights(path):
    with replacing_file(path) as temporary:
        save_file({"x": LARGE}, temporary)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("out.parquet", write_parquet),
        ("rows.parquet", write_rows),
        ("rows.csv", write_rows),
        ("out.npy", write_array),
        ("weights.safetensors", write_weights),
        ("out.json", lambda path: write_json(LARGE.tolist(), path)),
    ],
)
def test_a_file_that_does_not_fit_is_named_in_one_line_and_the_old_one_stays(name, write, tmp_path):
    path = tmp_path / name
    path.write_text("before")
    with limited_file_size(LIMIT), pytest.raises(DiskFullError) as error:
        write(path)
    line = str(error.value)
    assert line.startswith(f"{path}: the disk is full")
    assert "MB were written so far" in line
    assert "are free" in line
    assert f"{name} is as it was before." in line
    assert "\n" not in line
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_the_folder_that_is_written_is_named(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").touch()
    with (
        limited_file_size(LIMIT),
        pytest.raises(DiskFullError, match=rf"^{tmp_path}/out/part\.parquet: the disk is full"),
        replacing_folder(tmp_path / "out") as folder,
    ):
        write_parquet(folder / "part.parquet")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


class OtherError(Exception):
    """As a library's own."""


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("4096 requested and 12 written"),
        OtherError("I/O error: No space left on device (os error 28)"),
        OtherError("database or disk is full"),
    ],
)
def test_errors_of_full_disks_are_known(error, tmp_path):
    with pytest.raises(DiskFullError, match="the disk is full"), naming_full_disk(tmp_path):
        raise error
    with pytest.raises(DiskFullError), naming_full_disk(tmp_path):
        try:
            raise error
        except type(error):
            raise OtherError("closing failed")  # noqa: B904


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), KeyError("x"), HistofuseError()])
def test_other_errors_stay_as_they_are(error, tmp_path):
    with pytest.raises(type(error)) as caught, replacing_file(tmp_path / "out"):
        raise error
    assert caught.value is error


def test_any_error_of_a_writer_on_a_disk_without_space_is_named(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DiskFullError, match=r"\(odd\)"), replacing_file(tmp_path / "out"):
        raise OtherError("odd")


def test_space_is_asked_for_before_writing(tmp_path):
    require_space(1000, tmp_path / "new" / "folder")
    with pytest.raises(DiskFullError, match=r"new: needs 1000000000\.0 GB, .* are free"):
        require_space(10**18, tmp_path / "new")
