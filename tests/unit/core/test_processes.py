import os
import signal
import subprocess
import sys
import time

import pytest

from histofuse.core.processes import ChildError, call_in_child, describe_process, is_dead


def test_only_ended_processes_of_this_machine_are_dead():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = describe_process().split(":")[0]
    assert is_dead(f"{host}:{ended.pid}")
    assert not is_dead(describe_process())
    assert not is_dead(f"elsewhere:{ended.pid}")
    assert not is_dead("")
    assert describe_process() == f"{host}:{os.getpid()}"


def double(number):
    return 2 * number


def crash():
    os.kill(os.getpid(), signal.SIGSEGV)


def leave():
    os._exit(3)


def test_child_answers():
    assert call_in_child(double, 21, seconds=60.0) == 42


@pytest.mark.parametrize(
    ("function", "reason"), [(crash, "was ended by SIGSEGV"), (leave, "ended with 3")]
)
def test_child_that_dies_is_reported(function, reason):
    with pytest.raises(ChildError, match=reason):
        call_in_child(function, seconds=60.0)


def test_child_that_hangs_is_ended():
    with pytest.raises(ChildError, match=r"did not end within 0\.5 seconds"):
        call_in_child(time.sleep, 60, seconds=0.5)
