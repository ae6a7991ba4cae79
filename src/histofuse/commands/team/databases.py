"""A PostgreSQL database named by an address: is it there, and may one make tables in it."""

from __future__ import annotations

from typing import Any, Final

from histofuse.core.errors import HistofuseError
from histofuse.tracking.names import redact

DRIVER: Final = "postgresql+psycopg"
CONNECT_SECONDS: Final = 10
EXAMPLE: Final = "postgresql://user@host:5432/database"

# What PostgreSQL's client says -> what to do.
_REMEDIES: Final = {
    "password authentication failed": (
        "Correct the user or the password; without one in the address, PGPASSWORD and ~/.pgpass "
        "are read."
    ),
    "no password supplied": "Set PGPASSWORD, or add a line to ~/.pgpass (mode 0600).",
    "does not exist": "Make it: createdb NAME (and createuser NAME), on that server.",
    "no pg_hba.conf entry": "Let this machine in, in that server's pg_hba.conf.",
}
_UNREACHABLE: Final = "Start PostgreSQL there, or correct host and port."


def check_database(address: str) -> str:
    """Make sure that a database answers and takes tables.

    Returns:
        The address with the driver that is installed.

    Raises:
        HistofuseError: If it is no PostgreSQL, does not answer, or lets nobody make tables.
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
        raise HistofuseError(_explain(shown, error)) from None
    if not may_create:
        raise HistofuseError(
            f"{shown}: its user may not make tables in the schema {schema or 'public'}. As its "
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
            f"{redact(address)}: not the address of a PostgreSQL database; expected {EXAMPLE}"
        )
    return url


def _explain(shown: str, error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = redact(lines[0]) if lines else type(error).__name__
    found = (remedy for said, remedy in _REMEDIES.items() if said in str(error))
    return f"{shown}: {reason}. {next(found, _UNREACHABLE)}"
