"""The team server's database: whether it answers."""

from typing import Any, Final

from histofuse.core.errors import HistofuseError
from histofuse.tracking.names import redact

DRIVER: Final = "postgresql+psycopg"
CONNECT_SECONDS: Final = 10
EXAMPLE: Final = "postgresql://user@host:5432/database"

# Part of the message of PostgreSQL's client -> what to do.
_REMEDIES: Final = {
    "password authentication failed": (
        "Correct the user or the password; if the URL holds none, PGPASSWORD and ~/.pgpass are "
        "read."
    ),
    "no password supplied": "Set PGPASSWORD, or add a line to ~/.pgpass (mode 0600).",
    "does not exist": "Create it on that server: createdb NAME (and createuser NAME).",
    "no pg_hba.conf entry": "Allow this machine in that server's pg_hba.conf.",
}
_UNREACHABLE: Final = "Start PostgreSQL there, or correct host and port."


def check_database(address: str) -> str:
    """Make sure that a PostgreSQL database answers and lets us create tables.

    Returns its URL, with the driver that is installed. Raises HistofuseError if it is not
    PostgreSQL, does not answer, or tables cannot be created.
    """
    url = _parse(address)
    shown = redact(address)
    import psycopg

    try:
        with psycopg.connect(
            url.set(drivername="postgresql").render_as_string(hide_password=False),
            connect_timeout=CONNECT_SECONDS,
        ) as connection:
            query = "SELECT current_schema(), has_schema_privilege(current_schema(), 'CREATE')"
            schema, may_create = connection.execute(query).fetchone() or (None, None)
    except psycopg.Error as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = redact(lines[0]) if lines else type(error).__name__
        remedies = (remedy for part, remedy in _REMEDIES.items() if part in str(error))
        raise HistofuseError(f"{shown}: {reason}. {next(remedies, _UNREACHABLE)}") from None
    if not may_create:
        raise HistofuseError(
            f"{shown}: its user may not create tables in the schema {schema or 'public'}. As the "
            f"owner: GRANT CREATE ON SCHEMA {schema or 'public'} TO {url.username or 'that user'};"
        )
    return url.set(drivername=DRIVER).render_as_string(hide_password=False)


def _parse(address: str) -> Any:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        url = None
    if url is None or url.get_backend_name() not in {"postgresql", "postgres"} or not url.database:
        raise HistofuseError(
            f"{redact(address)}: not the URL of a PostgreSQL database; expected {EXAMPLE}"
        )
    return url
