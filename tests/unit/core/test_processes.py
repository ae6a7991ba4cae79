import os
import subprocess
import sys

from histofuse.core.processes import describe_process, is_dead


def test_only_ended_processes_of_this_machine_are_dead():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    host = describe_process().split(":")[0]
    assert is_dead(f"{host}:{ended.pid}")
    assert not is_dead(describe_process())
    assert not is_dead(f"elsewhere:{ended.pid}")
    assert not is_dead("")
    assert describe_process() == f"{host}:{os.getpid()}"
