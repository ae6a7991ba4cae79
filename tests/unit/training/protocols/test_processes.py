import subprocess
import sys
import time

import pytest

from histofuse.core.errors import HistofuseError
from histofuse.training.protocols.processes import count_workers, run_processes

WATCH = "from histofuse.training.protocols.processes import end_with_parent; end_with_parent();"


def make_command(code):
    return [sys.executable, "-c", code]


def test_no_more_than_the_workers_run_at_a_time(tmp_path):
    code = (
        "import pathlib, time, uuid; f = pathlib.Path(r'{0}') / uuid.uuid4().hex; f.touch();"
        "time.sleep(0.4); print(len(list(pathlib.Path(r'{0}').iterdir()))); f.unlink()"
    )
    seen = tmp_path / "seen"
    seen.mkdir()
    done = []

    run_processes(
        {f"fold_{k}": make_command(code.format(seen)) for k in range(5)},
        tmp_path / "logs",
        workers=2,
        threads=1,
        done=lambda name, _: done.append(name),
    )

    assert sorted(done) == [f"fold_{k}" for k in range(5)]
    counts = [int((tmp_path / "logs" / f"fold_{k}.log").read_text()) for k in range(5)]
    assert max(counts) == 2


def test_threads_are_told_to_each(tmp_path):
    code = "import os; print(os.environ['OMP_NUM_THREADS'])"
    command = {"fold_0": make_command(code)}
    run_processes(command, tmp_path, workers=1, threads=3, done=lambda *_: None)
    assert (tmp_path / "fold_0.log").read_text().strip() == "3"


def test_a_failure_is_shown_and_ends_the_others(tmp_path):
    late = tmp_path / "late"
    commands = {
        "fold_0": make_command("import sys; sys.exit('no such split')"),
        "fold_1": make_command(f"import time; time.sleep(2); open(r'{late}', 'w')"),
    }
    with pytest.raises(HistofuseError, match=r"(?s)fold_0 exited 1:.*no such split"):
        run_processes(commands, tmp_path, workers=2, threads=1, done=lambda *_: None)
    time.sleep(2.2)
    assert not late.exists()


def test_a_fold_ends_with_the_process_that_started_it(tmp_path):
    beat = tmp_path / "beat"
    code = f"{WATCH} import time\nwhile True: open(r'{beat}', 'a').write('.'); time.sleep(0.05)"
    parent = (
        "from pathlib import Path\n"
        "from histofuse.training.protocols.processes import run_processes;"
        f"run_processes({{'fold_0': {make_command(code)!r}}}, Path(r'{tmp_path}'), workers=1,"
        " threads=1, done=print)"
    )
    process = subprocess.Popen(make_command(parent))
    deadline = time.monotonic() + 20
    while not beat.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)

    process.kill()
    process.wait()

    time.sleep(0.5)
    size = beat.stat().st_size
    time.sleep(0.5)
    assert beat.stat().st_size == size


def test_a_fold_that_watches_ends_by_itself_too(tmp_path):
    done = []
    command = {"fold_0": make_command(f"{WATCH} import time; time.sleep(0.3)")}
    run_processes(command, tmp_path, workers=1, threads=1, done=lambda *_: done.append(1))
    assert done == [1]


def test_workers_fill_the_processors():
    assert count_workers(3, threads=1) == 3
    assert count_workers("auto", threads=10_000) == 1
    assert count_workers("auto", threads=1) >= 1
