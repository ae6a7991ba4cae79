from pathlib import Path

import pytest

from histofuse.commands.team.databases import check_database, refuse_old_cluster
from histofuse.core.errors import HistofuseError
from histofuse.tracking.names import redact


def test_good_address_comes_back_with_the_driver_that_is_installed(postgres):
    address = postgres.make_database("checked")
    for given in (
        address,
        address.replace("+psycopg", ""),
        address.replace("+psycopg", "+psycopg2"),
    ):
        assert check_database(given) == address


FAULTS = {
    "password authentication failed.*pgpass": "postgresql://histofuse:guess@/checked?host={at}",
    'database "absent" does not exist.*createdb': "postgresql://{login}@/absent?host={at}",
    "refused.*Start PostgreSQL": "postgresql://{login}@127.0.0.1:1/checked",
    "correct host and port": "postgresql://{login}@host.invalid/checked",
    "not the URL of a PostgreSQL.*expected": "mysql://{login}@127.0.0.1/checked",
    "not the URL of a Postgre": "postgresql://{login}@127.0.0.1",
    "not the URL of a": "checked",
}


@pytest.mark.parametrize("reason", FAULTS)
def test_each_fault_is_named_without_the_password(postgres, reason):
    postgres.make_database("checked")
    login = f"{postgres.user}:{postgres.password}"
    address = FAULTS[reason].format(login=login, at=postgres.socket)
    with pytest.raises(HistofuseError, match=reason) as error:
        check_database(address)
    assert postgres.password not in str(error.value)
    assert ":guess@" not in str(error.value)


def test_user_who_may_not_create_tables_is_told_what_to_grant(postgres):
    postgres.make_database("guarded")
    with postgres.connect() as connection:
        connection.execute("DROP ROLE IF EXISTS guest")
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'welcome'")
    address = f"postgresql://guest:welcome@/guarded?host={postgres.socket}"
    with pytest.raises(HistofuseError, match="GRANT CREATE ON SCHEMA public TO guest"):
        check_database(address)


def leave_old_cluster(folder):
    data = folder / "postgres/data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    (folder / "postgres/access.json").write_text('{"password": "hidden", "port": 54329}')
    return data


def test_cluster_of_an_older_version_is_refused_with_the_commands_that_copy_it(tmp_path):
    refuse_old_cluster(tmp_path)
    data = leave_old_cluster(tmp_path)
    with pytest.raises(HistofuseError) as error:
        refuse_old_cluster(tmp_path)
    message = str(error.value)
    assert "PostgreSQL 15" in message
    assert f"pg_ctl start --wait -D {data}" in message
    assert f"PGPASSFILE={tmp_path}/pgpass" in message
    assert "127.0.0.1:54329/mlflow > mlflow.sql" in message
    assert "127.0.0.1:54329/studies > studies.sql" in message
    assert "hidden" not in message


def test_files_of_another_user_are_started_as_that_user(tmp_path, monkeypatch):
    leave_old_cluster(tmp_path)
    monkeypatch.setattr(Path, "owner", lambda _: "postgres")
    with pytest.raises(HistofuseError, match="runuser -u postgres -- pg_ctl start"):
        refuse_old_cluster(tmp_path)


def test_old_cluster_without_its_port_is_still_refused(tmp_path):
    leave_old_cluster(tmp_path)
    (tmp_path / "postgres/access.json").unlink()
    with pytest.raises(HistofuseError, match=r"127\.0\.0\.1:PORT/mlflow"):
        refuse_old_cluster(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:p@ss/word@host:5432/db",
        'could not connect to "http://user:p@ss/word@host/"',
        "postgresql://host/db?user=u&password=p@ss/word",
    ],
)
def test_passwords_with_at_signs_and_slashes_are_hidden_completely(text):
    shown = redact(text).replace("password=", "")
    assert "ss" not in shown
    assert "word" not in shown
    assert "host" in shown
