import hashlib
import os
import subprocess

import pytest

from histofuse.core.artifacts import (
    digest_file,
    load_json,
    making_folder,
    replacing_file,
    replacing_folder,
    to_json,
    write_json,
)
from histofuse.core.errors import InputError


def test_file_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "out.txt"
    target.write_text("before")

    with pytest.raises(RuntimeError), replacing_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError

    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_name_too_long_for_the_file_system_is_said(tmp_path):
    for replacing in (replacing_file, replacing_folder):
        expected = r"a name of 244 bytes \(x+…? ?.*at most 230 bytes"
        with pytest.raises(InputError, match=expected), replacing(tmp_path / ("x" * 244)):
            pass


def test_what_fails_leaves_no_new_folder(tmp_path):
    (tmp_path / "old").mkdir()
    for replacing in (replacing_file, replacing_folder):
        for target in (tmp_path / "new" / "inner" / "out", tmp_path / "old" / "out"):
            with pytest.raises(RuntimeError), replacing(target):
                raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["old"]

    with pytest.raises(RuntimeError), making_folder(tmp_path / "new" / "inner"):
        (tmp_path / "new" / "kept").touch()
        raise RuntimeError
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["kept"]


def test_folder_is_replaced_as_one(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()

    with replacing_folder(target) as folder:
        (folder / "new").touch()
        assert (target / "old").exists()

    assert [f.name for f in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_failed_folder_leaves_the_old_one(tmp_path):
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()

    with pytest.raises(RuntimeError), replacing_folder(target) as folder:
        (folder / "new").touch()
        raise RuntimeError

    assert [f.name for f in target.iterdir()] == ["old"]
    assert list(tmp_path.iterdir()) == [target]


def test_json_has_the_same_bytes_whatever_the_order_of_keys():
    assert to_json({"b": 1, "a": [1.5, None]}) == to_json({"a": [1.5, None], "b": 1})


def test_json_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json({"auroc": float("nan")}, tmp_path / "metrics.json")
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"a": {"mitosis": [1], "tumor": [], "mitosis": [2]}}', "key 'mitosis' more than once"),
        (b'{"a": NaN}', "NaN is not a finite number"),
        (b'{"a": -Infinity}', "-Infinity is not a finite number"),
        (b'{"a": 1e999}', "1e999 is not a finite number"),
        (b"[" * 100_000, "nested too deeply"),
        ('{"a": 1}'.encode("utf-16"), "is UTF-16 text"),
        (b'{"\xff": 1}', "is not UTF-8 text"),
        (b'{"a": 1' + b"0" * 6_000 + b"}", "digits"),
    ],
)
def test_json_that_could_mean_several_things_is_refused_with_its_name(tmp_path, text, problem):
    path = tmp_path / "input.json"
    path.write_bytes(text)
    with pytest.raises(InputError, match=problem) as error:
        load_json(path)
    assert error.value.faults[0].where == path


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "input.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert load_json(path) == {"a": 1}


def test_json_fault_names_file_and_line(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"a": 1,\n "b": }')
    with pytest.raises(InputError, match=r"broken\.json: not JSON .*line 2"):
        load_json(path)


def test_digest_is_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"histofuse" * 1000)
    assert digest_file(path) == hashlib.sha256(b"histofuse" * 1000).hexdigest()


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_stay(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    (tmp_path / f".out.{dead.pid}.tmp").mkdir()
    (tmp_path / f".out.{os.getppid()}.tmp").mkdir()

    with replacing_folder(tmp_path / "out"):
        pass

    assert {f.name for f in tmp_path.iterdir()} == {"out", f".out.{os.getppid()}.tmp"}
