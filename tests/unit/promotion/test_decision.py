import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path

import pytest
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

from histofuse.core.errors import RegistryError
from histofuse.core.processes import describe_process
from histofuse.promotion.decision import Grounds, Production
from histofuse.promotion.log import LOG, read_log
from histofuse.tracking import publish
from histofuse.tracking.connection import DATABASE
from histofuse.tracking.lease import holding
from histofuse.tracking.local import rehome
from histofuse.tracking.names import CHAIN_TAG, INTENT_TAG, PROCESS_TAG, PROMOTION, WHEN_TAG
from histofuse.tracking.registry import list_models
from histofuse.tracking.store import Store, open_store

MLP = "histofuse-mlp"
GROUNDS = Grounds(
    checks=[
        {"name": "bundle", "passed": True, "detail": "verified"},
        {
            "name": "minimum[auroc/macro]",
            "passed": True,
            "detail": "0.8 above 0.5",
            "numbers": {"value": 0.8, "low": 0.7, "high": 0.9, "limit": 0.5, "groups": 9},
        },
    ],
    metrics={"test/auroc/macro": {"value": 0.8, "low": 0.7, "high": 0.9}},
    digests={"splits": "a" * 64},
)


def publish_all():
    """What the stage `publish` does: models first, then what was decided about them."""
    outcome = publish.publish_all()
    Production(open_store()).mend_all()
    return outcome


class Killed(BaseException):
    pass


@pytest.fixture(scope="session")
def template(tmp_path_factory):
    """Where the project with three versions is kept: publishing takes a second."""
    return tmp_path_factory.mktemp("three") / "project"


@pytest.fixture
def three(project, make, template, monkeypatch):
    """Three versions of one model."""
    # MLflow remembers by the run's id where its artifacts are; here one run is in many places.
    remembered = "mlflow.tracking._tracking_service.utils._artifact_repos_cache"
    monkeypatch.setattr(remembered, OrderedDict())
    if not template.exists():
        for weights in (b"1", b"2", b"3"):
            make.bundle("mlp", "tabular", weights=weights)
            publish_all()
        shutil.copytree(project, template)
    shutil.copytree(template, project, dirs_exist_ok=True)
    rehome(DATABASE)
    return open_store()


def find(store, number):
    return next(v for v in store.list_versions() if (v.name, v.number) == (MLP, number))


def promote(store, number, grounds=GROUNDS):
    production = Production(store)
    return production.promote(find(store, number), production.read(MLP).production, grounds)


def stand(store):
    status = store.read_status(MLP)
    stages = {n: s for n, s in status.stages.items() if s != "None"}
    return status.production, stages, status.tags.get(CHAIN_TAG)


def test_first_promotion_sets_alias_and_stage(three):
    promote(three, 1)
    assert stand(three) == (1, {1: "Production"}, "1")


def test_previous_version_goes_to_the_archive(three):
    promote(three, 1)
    promote(three, 3)
    assert stand(three) == (3, {1: "Archived", 3: "Production"}, "1,3")


def test_rollback_returns_step_by_step_and_ends_with_a_clear_error(three):
    for number in (1, 2, 3):
        promote(three, number)
    production = Production(three)

    assert production.rollback(MLP).version == 2
    assert stand(three) == (2, {1: "Archived", 2: "Production", 3: "Archived"}, "1,2")
    assert production.rollback(MLP, "as it was").version == 1
    with pytest.raises(RegistryError, match="version 1 is the first in production"):
        production.rollback(MLP)
    assert stand(three)[0] == 1


def test_version_promoted_again_returns_to_the_one_before_it(three):
    for number in (1, 2, 1):
        promote(three, number)
    assert Production(three).rollback(MLP).version == 2
    assert Production(three).rollback(MLP).version == 1
    with pytest.raises(RegistryError, match="the first in production"):
        Production(three).rollback(MLP)


def test_rollback_where_nothing_was_ever_promoted_says_so(three):
    with pytest.raises(RegistryError, match="no version was ever in production"):
        Production(three).rollback(MLP)


def test_version_in_production_is_not_promoted_again(three):
    promote(three, 1)
    assert promote(three, 1) is None
    assert len(read_log()) == 1


# --- the record ---------------------------------------------------------------------------------


def test_record_says_who_when_from_to_and_why(three, artifacts_of):
    promote(three, 1)
    forced = Grounds(
        reason="the clinic waits",
        forced=True,
        checks=[*GROUNDS.checks, {"name": "leakage", "passed": False, "detail": "label_aligned"}],
        metrics=GROUNDS.metrics,
        digests=GROUNDS.digests,
    )
    record = promote(three, 2, forced)

    tags = three.read_status(MLP).version_tags[2]
    digests = {v.number: v.digest for v in three.list_versions() if v.name == MLP}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", tags[WHEN_TAG])
    assert {k.removeprefix(PROMOTION): v for k, v in tags.items() if k.startswith(PROMOTION)} == {
        "event": "promote",
        "when": record.entry.when,
        "until": "",
        "replaced_by": "",
        "by": os.environ.get("USER") or record.entry.by,
        "reason": "the clinic waits",
        "forced": "true",
        "gate": "leakage",
        "from": f"{digests[1][:12]} (version 1)",
        "metrics": "test/auroc/macro 0.800 [0.700, 0.900]",
        "record": record.artifact,
        "dvc_lock": "",
        "git_commit": "",
        "git_dirty": "false",
        "restores": "",
        "digest.splits": "a" * 64,
    }
    before = three.read_status(MLP).version_tags[1]
    assert before[f"{PROMOTION}until"] == record.entry.when
    assert before[f"{PROMOTION}replaced_by"] == f"{digests[2][:12]} (version 2)"
    assert record.artifact in artifacts_of(three, record.run_id)
    folder = Path("mlruns/artifacts") / record.run_id / "artifacts"
    written = json.loads((folder / record.artifact).read_text())
    assert written["grounds"]["checks"][2]["detail"] == "label_aligned"
    assert written["entry"]["digest"] == digests[2]


def test_the_log_holds_the_numbers_of_the_gate_and_the_state_of_the_tree(three):
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init",), ("add", "params.yaml"), ("commit", "-m", "first")):
        subprocess.run([*git, *command], check=True, capture_output=True)
    promote(three, 1)
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "# changed\n")
    promote(three, 2)

    first, second = read_log()
    assert second.git_dirty
    assert first.git_commit == second.git_commit
    assert first.checks == {
        "minimum[auroc/macro]": {
            "passed": True, "value": 0.8, "low": 0.7, "high": 0.9, "limit": 0.5,
        }
    }  # fmt: skip
    assert first.metrics == GROUNDS.metrics


def test_a_rollback_keeps_the_record_of_what_it_puts_back(three):
    first = promote(three, 1).entry
    promote(three, 2)
    Production(three).rollback(MLP, "too many alarms")

    last = read_log()[-1]
    assert (last.event, last.reason, last.gate) == ("rollback", "too many alarms", "passed")
    assert (last.checks, last.metrics) == (first.checks, first.metrics)
    assert last.restores == {"id": first.id, "when": first.when, "by": first.by}
    tags = three.read_status(MLP).version_tags[1]
    assert tags[f"{PROMOTION}gate"] == "passed"
    assert tags[f"{PROMOTION}metrics"] == "test/auroc/macro 0.800 [0.700, 0.900]"
    assert tags[f"{PROMOTION}restores"] == f"{first.when} by {first.by}"
    assert tags[f"{PROMOTION}reason"] == "too many alarms"


def test_records_of_one_version_are_kept_side_by_side(three, artifacts_of):
    first, _, again = (promote(three, number) for number in (1, 2, 1))
    assert first.run_id == again.run_id
    kept = [f for f in artifacts_of(three, first.run_id) if f.startswith("promotion/")]
    assert sorted(kept) == sorted([first.artifact, again.artifact])
    tags = three.read_status(MLP).version_tags[1]
    assert tags[f"{PROMOTION}until"] == ""


def test_publishing_anew_keeps_the_records(three, make, artifacts_of):
    record = promote(three, 3)
    make.reports(auroc=0.7)
    assert MLP in publish_all().written
    assert record.artifact in artifacts_of(three, record.run_id)
    assert stand(three)[0] == 3


# --- cut short ----------------------------------------------------------------------------------

STEPS = [
    "set_alias", "put_in_production_stage", "tag_model", "log_text", "untag_version",
]  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_promotion_killed_between_two_steps_is_completed_by_the_next_call(
    three, monkeypatch, step, after
):
    promote(three, 1)
    original = getattr(Store, step)

    def die(self, *values, **named):
        if after:
            original(self, *values, **named)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Store, step, die)
        with pytest.raises(Killed):
            promote(three, 2)

    with pytest.raises(RegistryError, match="first in production"):
        # The rollback first completes the promotion, then undoes it; the second has none left.
        assert Production(three).rollback(MLP).from_version == 2
        Production(three).rollback(MLP)
    assert stand(three) == (1, {1: "Production", 2: "Archived"}, "1")
    assert [entry.event for entry in read_log()] == ["promote", "promote", "rollback"]
    assert not three.read_status(MLP).cut_short


def test_promotion_killed_half_way_is_seen_in_the_list_and_completed_by_publish(three, monkeypatch):
    promote(three, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put_in_production_stage", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            promote(three, 2)
    assert stand(three) == (2, {1: "Production"}, "1")
    assert [one.cut_short for one in list_models() if one.model == MLP] == [
        False, True, False,
    ]  # fmt: skip

    publish_all()

    assert stand(three) == (2, {1: "Archived", 2: "Production"}, "1,2")
    assert not any(one.cut_short for one in list_models())
    assert INTENT_TAG not in three.read_status(MLP).version_tags[2]


def test_promotion_killed_before_it_was_decided_never_was(three, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Store, "tag_version", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            promote(three, 2)
    publish_all()
    assert stand(three) == (None, {}, None)
    assert not LOG.exists()


# --- two at once --------------------------------------------------------------------------------

PROMOTER = """
import sys, time
from histofuse.core.errors import RegistryError
from histofuse.tracking import connection, store
from histofuse.promotion.decision import Grounds, Production
if {server}:
    # A server as far as the registry goes: no file to lock, everything by MLflow's client.
    connection.find_database = lambda uri: None
registry = store.Store(connection.name_store())
production, number = Production(registry), int(sys.argv[1])
decided = 0
while decided < 4:
    version = next(
        v for v in registry.list_versions() if (v.name, v.number) == ("histofuse-mlp", number)
    )
    try:
        before = production.read("histofuse-mlp").production
        production.promote(version, before, Grounds())
        decided += 1
    except RegistryError as error:
        if "was put into production while" not in str(error):
            raise
"""


@pytest.mark.parametrize("server", [False, True], ids=["local", "server"])
def test_processes_that_promote_at_once_leave_one_consistent_state(three, server):
    script = PROMOTER.format(server=server)
    running = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(number)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in (1, 2)
    ]
    failed = [error for p in running if (error := p.communicate(timeout=120)[1]) and p.returncode]

    assert failed == []
    current, stages, chain = stand(three)
    assert stages == {current: "Production", 3 - current: "Archived"}
    steps = [int(number) for number in chain.split(",")]
    assert steps[-1] == current
    assert len(steps) == len(read_log()) >= 2
    # No step was made from a state that was no longer true.
    assert all(a != b for a, b in itertools.pairwise(steps))
    digests = {find(three, n).digest: n for n in (1, 2)}
    assert [digests[entry.digest] for entry in read_log()] == steps
    assert [digests.get(entry.from_digest) for entry in read_log()] == [None, *steps[:-1]]
    names = {model.name for model in three.client.search_registered_models()}
    assert names == {MLP, "histofuse-resnet18"}


def test_decision_on_a_state_that_has_changed_is_not_carried_out(three):
    promote(three, 1)
    with pytest.raises(RegistryError, match="version 1 was put into production while nothing"):
        Production(three).promote(find(three, 2), None, GROUNDS)
    assert stand(three)[0] == 1


@pytest.fixture
def server(three, monkeypatch):
    """The same registry as a server's: no file to lock."""
    monkeypatch.setattr("histofuse.tracking.connection.find_database", lambda _: None)
    return Store(three.uri)


def test_lock_of_a_killed_process_is_taken_away(server):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    process = describe_process().replace(f":{os.getpid()}", f":{ended.pid}")
    server.create_lock(f"lock.{MLP}", {PROCESS_TAG: process, "histofuse.lock": "theirs"})
    promote(server, 1)
    assert stand(server)[0] == 1
    assert server.read_lock(f"lock.{MLP}") is None


def test_lock_of_another_machine_is_taken_away_once_it_stands_still(server, monkeypatch, capsys):
    monkeypatch.setattr("histofuse.tracking.lease.STALE_SECONDS", 1.0)
    tags = {PROCESS_TAG: "elsewhere:1", "histofuse.lock": "theirs"}
    server.create_lock(f"lock.{MLP}", tags)
    promote(server, 1)
    assert stand(server)[0] == 1
    assert "waiting for another process to finish: unknown, process elsewhere:1" in (
        capsys.readouterr().err
    )


def test_lock_that_is_renewed_forever_has_an_end(server, monkeypatch):
    monkeypatch.setattr("histofuse.tracking.lease.LONGEST_SECONDS", 2.0)
    monkeypatch.setattr("histofuse.tracking.lease.LOOK_SECONDS", 0.2)
    monkeypatch.setattr("histofuse.tracking.lease.POLL_SECONDS", 0.1)
    lock, ended = f"lock.{MLP}", threading.Event()
    server.create_lock(lock, {PROCESS_TAG: "elsewhere:1", "histofuse.lock": "theirs"})

    def beat():
        while not ended.wait(0.1):
            with contextlib.suppress(RegistryError):  # once it is gone
                server.tag_model(lock, "histofuse.lock.beat", str(time.monotonic()))

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        promote(server, 1)
    finally:
        ended.set()
        thread.join()
    assert stand(server)[0] == 1
    assert {model.name for model in server.client.search_registered_models()} == {
        MLP,
        "histofuse-resnet18",
    }


def test_lock_that_others_take_again_and_again_is_reported_with_its_holder(server, monkeypatch):
    monkeypatch.setattr("histofuse.tracking.lease.LONGEST_SECONDS", 0.5)
    monkeypatch.setattr("histofuse.tracking.lease.LOOK_SECONDS", 0.0)
    monkeypatch.setattr("histofuse.tracking.lease.POLL_SECONDS", 0.1)
    monkeypatch.setattr(Store, "measure_lock", lambda *_: 0.1)
    tags = {PROCESS_TAG: "elsewhere:1", "histofuse.lock": "x", "histofuse.lock.user": "mallory"}
    server.create_lock(f"lock.{MLP}", tags)
    with pytest.raises(RegistryError, match=r"now by mallory, process elsewhere:1"):
        promote(server, 1)


def test_holder_that_lives_keeps_its_lock_while_its_time_lasts(server, monkeypatch):
    monkeypatch.setattr("histofuse.tracking.lease.STALE_SECONDS", 0.6)
    monkeypatch.setattr("histofuse.tracking.lease.BEAT_SECONDS", 0.1)
    monkeypatch.setattr("histofuse.tracking.lease.POLL_SECONDS", 0.1)
    order = []

    def wait():
        with holding(server, MLP):
            order.append("second")

    second = threading.Thread(target=wait)
    with holding(server, MLP) as confirm:
        second.start()
        time.sleep(3)
        confirm()
        order.append("first")
    second.join()
    assert order == ["first", "second"]


def test_lock_given_back_just_when_it_was_in_the_way_is_waited_for(server, monkeypatch):
    lock, look = f"lock.{MLP}", SqlAlchemyStore.get_registered_model

    def look_too_late(store, name):
        store.delete_registered_model(name)
        return look(store, name)

    server.create_lock(lock, {"histofuse.lock": "theirs"})
    with monkeypatch.context() as patch:
        patch.setattr(SqlAlchemyStore, "get_registered_model", look_too_late)
        assert not server.create_lock(lock, {"histofuse.lock": "ours"})
    assert server.create_lock(lock, {"histofuse.lock": "ours"})
    assert server.read_lock(lock) == {"histofuse.lock": "ours"}


def test_holder_whose_lock_was_taken_away_decides_nothing(server):
    with pytest.raises(RegistryError, match="another process took"), holding(server, MLP) as c:
        server.delete_lock(f"lock.{MLP}")
        server.create_lock(f"lock.{MLP}", {"histofuse.lock": "theirs"})
        c()
    assert server.read_lock(f"lock.{MLP}") == {"histofuse.lock": "theirs"}


# --- stages and warnings ------------------------------------------------------------------------


def test_promotion_works_where_the_client_knows_no_stages(three, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delattr(MlflowClient, "transition_model_version_stage")
    promote(three, 1)
    promote(three, 2)
    assert stand(three) == (2, {}, "1,2")
    assert Production(three).rollback(MLP).version == 1
    assert stand(three) == (1, {}, "1")


@pytest.mark.parametrize("code", [1001, 1010, 1005, None], ids=str)
def test_promotion_works_where_the_server_refuses_stages(three, monkeypatch, code):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def refuse(*_, **__):
        if code is None:
            raise MlflowException("Method 'transition…' is unsupported for models in the Catalog")
        raise MlflowException("no such endpoint", error_code=code)

    monkeypatch.setattr(MlflowClient, "transition_model_version_stage", refuse)
    promote(three, 1)
    assert stand(three) == (1, {}, "1")


def test_server_that_fails_is_not_taken_for_one_without_stages(three, monkeypatch):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    def fail(*_, **__):
        raise MlflowException("the database went away")

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "transition_model_version_stage", fail)
        with pytest.raises(RegistryError, match="the database went away"):
            promote(three, 1)
    publish_all()
    assert stand(three) == (1, {1: "Production"}, "1")


@pytest.mark.filterwarnings("error")
def test_stages_that_are_deprecated_stop_nobody_who_takes_warnings_for_errors(three):
    promote(three, 1)
    promote(three, 2)
    Production(three).rollback(MLP)
    assert stand(three) == (1, {1: "Production", 2: "Archived"}, "1")


def test_alias_moved_by_hand_is_taken_at_its_word(three):
    promote(three, 1)
    promote(three, 2)
    three.set_alias(MLP, "production", 3)
    publish_all()
    assert stand(three)[0] == 3
    assert Production(three).rollback(MLP).version == 2
    assert stand(three) == (2, {1: "Archived", 2: "Production"}, "1,2")


# --- a registry made anew -----------------------------------------------------------------------


def test_new_registry_learns_from_the_log_what_is_in_production(three, clone, make):
    promote(three, 1)
    promote(three, 3)
    digest = find(three, 3).digest
    clone()
    assert open_store().list_versions() == []

    publish_all()

    store = open_store()
    (only,) = [v for v in store.list_versions() if v.name == MLP]
    assert only.digest == digest
    assert stand(store) == (1, {1: "Production"}, "1")
    tags = store.read_status(MLP).version_tags[1]
    assert tags[WHEN_TAG] == read_log()[-1].when
    assert len(read_log()) == 2
    assert tags[f"{PROMOTION}metrics"] == "test/auroc/macro 0.800 [0.700, 0.900]"
    # Version 1 of old is not in this registry, but the log knows it.
    earlier = find(three, 1).digest[:12]
    with pytest.raises(RegistryError, match=f"{earlier}, which .* Restore it with dvc pull"):
        Production(store).rollback(MLP)
    make.bundle("mlp", "tabular", weights=b"1")
    publish_all()
    assert Production(store).rollback(MLP).entry.digest[:12] == earlier


def test_version_that_is_not_here_is_not_replaced_by_another(three, clone, make, capsys):
    promote(three, 1)
    clone()
    publish_all()
    assert stand(open_store()) == (None, {}, None)
    message = capsys.readouterr().err
    assert find(three, 1).digest[:12] in message
    assert "dvc pull" in message


def test_alias_taken_off_by_hand_is_not_given_back(three):
    promote(three, 1)
    three.client.delete_registered_model_alias(MLP, "production")
    three.client.transition_model_version_stage(MLP, "1", "None")
    publish_all()
    assert three.read_status(MLP).production is None


def test_publish_without_news_reads_no_mlflow_where_there_is_a_log(three):
    promote(three, 3)
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys\nfrom histofuse.promotion.decision import Production\n"
            "from histofuse.tracking.store import open_store\n"
            "Production(open_store()).mend_all()\nprint('mlflow' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_rollback_to_a_version_that_was_altered_is_refused(three):
    promote(three, 1)
    promote(three, 2)
    source = Path(find(three, 1).source)
    (source / "artifacts/bundle/weights.safetensors").write_bytes(b"altered")
    with pytest.raises(RegistryError, match=r"version 1.*weights\.safetensors has sha256"):
        Production(three).rollback(MLP)
    assert stand(three)[0] == 2
