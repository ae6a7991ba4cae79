import json
import os
import statistics
import subprocess
import sys

import pytest

from histofuse.commands.team.logins import (
    FREE_ATTEMPTS,
    LONGEST_PAUSE_SECONDS,
    REMEMBERED_SECONDS,
    Attempts,
)


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_pauses_grow_and_end_with_a_success_or_in_time():
    clock = Clock()
    attempts = Attempts(clock)
    pauses = []
    for _ in range(FREE_ATTEMPTS + 8):
        attempts.fail("alice")
        pauses.append(attempts.find_pause("alice"))
    assert pauses[: FREE_ATTEMPTS - 1] == [0.0] * (FREE_ATTEMPTS - 1)
    assert pauses[FREE_ATTEMPTS - 1 :][:4] == [1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS
    assert attempts.find_pause("bob") == 0

    clock.now += LONGEST_PAUSE_SECONDS + 1
    assert attempts.find_pause("alice") == 0
    attempts.fail("alice")
    assert attempts.find_pause("alice") == LONGEST_PAUSE_SECONDS
    attempts.succeed("alice")
    assert attempts.find_pause("alice") == 0

    for _ in range(FREE_ATTEMPTS):
        attempts.fail("alice")
    clock.now += REMEMBERED_SECONDS + 1
    attempts.fail("alice")
    assert attempts.find_pause("alice") == 0


def test_names_of_any_length_take_the_same_memory():
    attempts = Attempts()
    for number in range(10_100):
        attempts.fail("x" * 1000 + str(number))
    assert len(attempts._failed) == 10_000
    assert {len(key) for key in attempts._failed} == {32}


SERVER = """
import json, sys, time
from flask import Flask
from mlflow.server import auth
auth.store.init_db(sys.argv[1])
auth.store.create_user("alice", "correct horse battery")
from histofuse.commands.team import logins
app = Flask("x")
def ask(name, password):
    with app.test_request_context(headers={"Authorization": auth_header(name, password)}):
        began = time.perf_counter()
        answer = logins.authenticate()
        return getattr(answer, "status_code", 200) or 200, time.perf_counter() - began
def auth_header(name, password):
    import base64
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()
found = {"first": ask("alice", "correct horse battery")[0], "known": [], "unknown": []}
logins.FREE_ATTEMPTS = 10**6
for n in range(9):
    found["known"].append(ask("alice", "wrong")[1])
    found["unknown"].append(ask("nobody", "wrong")[1])
logins.FREE_ATTEMPTS = 5
found["locked"] = [ask("mallory", "wrong")[0] for _ in range(7)]
found["guessed"] = [ask("alice", "wrong")[0] for _ in range(7)]
found["works"] = ask("alice", "correct horse battery")[0]
print(json.dumps(found))
"""


def test_unknown_users_take_as_long_and_guessing_is_paused(tmp_path):
    config = tmp_path / "auth.ini"
    database = f"sqlite:///{tmp_path}/auth.db"
    config.write_text(
        f"[mlflow]\ndefault_permission = READ\ndatabase_uri = {database}\nadmin_username = admin\n"
        "admin_password = password1234\nauth_cache_ttl_seconds = 60\n"
    )
    environment = os.environ | {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "x",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-c", SERVER, database]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr

    found = json.loads(done.stdout.splitlines()[-1])
    assert found["first"] == 200
    known, unknown = (statistics.median(found[name]) for name in ("known", "unknown"))
    assert unknown == pytest.approx(known, rel=0.35)
    assert found["locked"] == [401] * 5 + [429] * 2
    assert found["guessed"][-1] == 429
    assert found["works"] == 200, "who works already is not locked out"
