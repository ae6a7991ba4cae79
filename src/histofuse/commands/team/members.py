"""Users of a team's MLflow server, managed through its REST interface."""

import re
import secrets
from dataclasses import dataclass
from typing import Any, Final

from histofuse.core.errors import HistofuseError, shorten

ADMIN: Final = "admin"
MEMBERS: Final = "histofuse-members"  # the role that may write; every user may read
WORKSPACE: Final = "default"
WRITABLE: Final = ("experiment", "registered_model")
SECONDS: Final = 30
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_USERS: Final = "2.0/mlflow/users"
_ROLES: Final = "3.0/mlflow/roles"


@dataclass(frozen=True)
class Team:
    """A running server and its administrator's login."""

    address: str  # URL
    password: str
    secrets_file: str  # which the password was read from, for messages

    def add(self, name: str, *, may_write: bool) -> str:
        """Add a user and return the password; `HistofuseError` if the name cannot be used."""
        if not _NAME.fullmatch(name):
            expected = "at most 64 letters, digits and . _ @ -, a letter or digit first"
            raise HistofuseError(f"{shorten(repr(name))}: not a user name; expected {expected}")
        password = secrets.token_urlsafe(18)
        if name in self.names():
            raise HistofuseError(
                f"{name}: this user exists already at {self.address}. For a new password: "
                f"histofuse users password {name}"
            )
        role = (self._find_role() or self._create_role()) if may_write else None
        self._ask("POST", f"{_USERS}/create", {"username": name, "password": password})
        if role is not None:
            self._ask("POST", f"{_ROLES}/assign", {"username": name, "role_id": role})
        return password

    def set_password(self, name: str) -> str:
        """Give a user a new password and return it."""
        self._require(name)
        password = secrets.token_urlsafe(18)
        self._ask("PATCH", f"{_USERS}/update-password", {"username": name, "password": password})
        return password

    def remove(self, name: str) -> None:
        """Remove a user; their runs stay."""
        self._require(name)
        if name == ADMIN:
            raise HistofuseError(f"{ADMIN}: the server needs its administrator")
        self._ask("DELETE", f"{_USERS}/delete", {"username": name})

    def names(self) -> list[str]:
        """List the users."""
        return sorted(user["username"] for user in self._ask("GET", f"{_USERS}/list", {})["users"])

    def _find_role(self) -> int | None:
        roles = self._ask("GET", f"{_ROLES}/list", {"workspace": WORKSPACE})["roles"]
        return next((role["id"] for role in roles if role["name"] == MEMBERS), None)

    def _create_role(self) -> int:
        created = self._ask("POST", f"{_ROLES}/create", {"workspace": WORKSPACE, "name": MEMBERS})
        role = created["role"]["id"]
        for kind in WRITABLE:
            grant = {"resource_type": kind, "resource_pattern": "*", "permission": "MANAGE"}
            self._ask("POST", f"{_ROLES}/permissions/add", {"role_id": role, **grant})
        return role

    def _require(self, name: str) -> None:
        names = self.names()
        if name not in names:
            known = ", ".join(names)
            shown = shorten(repr(name))
            raise HistofuseError(f"{shown}: no such user at {self.address}; known users: {known}")

    def _ask(self, method: str, path: str, values: dict[str, Any]) -> dict[str, Any]:
        import requests

        sent: dict[str, Any] = {"params": values} if method == "GET" else {"json": values}
        try:
            answer = requests.request(
                method,
                f"{self.address}/api/{path}",
                auth=(ADMIN, self.password),
                timeout=SECONDS,
                **sent,
            )
        except requests.RequestException as error:
            raise HistofuseError(
                f"{self.address}: no answer ({type(error).__name__}). Start histofuse server first."
            ) from None
        if answer.status_code == 401:
            raise HistofuseError(
                f"{self.address}: refuses the administrator's password in {self.secrets_file}. The "
                "database holds another one: restore that file from the server's earlier folder."
            )
        if not answer.ok:
            text = answer.text[:300]
            raise HistofuseError(f"{self.address}: {path} answers {answer.status_code}: {text}")
        return answer.json() if answer.content else {}
