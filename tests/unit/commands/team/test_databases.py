import pytest

from histofuse.commands.team.databases import check_database
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
