"""Who may do what on the team server: the authorization function of MLflow's basic-auth app.

MLflow lets every user create experiments and registered models, and choose where an experiment's
files are stored. It also offers what this project does not use: webhooks, a gateway, traces, jobs,
an assistant that runs commands. Here users may do only what is listed below, and locations are the
server's alone. MLflow then checks its own permissions.
"""

import json
import re
from typing import TYPE_CHECKING, Final

from histofuse.commands.team.logins import authenticate
from histofuse.commands.team.members import MEMBERS

if TYPE_CHECKING:
    from flask import Response
    from werkzeug.datastructures import Authorization

AUTHORIZE: Final = f"{__name__}:authorize"
# Sources of model versions that the server accepts; MLflow checks that they belong to their run.
SOURCES: Final = "^mlflow-artifacts:/[^/]"

_READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_PAGES: Final = re.compile(
    r"/|/static-files/.*|/build/.*|/version|/get-artifact|/model-versions/get-artifact"
)
_API: Final = re.compile(r"/(?:ajax-)?api/\d\.0/(mlflow|mlflow-artifacts)/([^/]+)(?:/(.*))?")
# Parts of the API that members write.
_WRITTEN: Final = frozenset(
    {"artifacts", "experiments", "logged-models", "model-versions", "registered-models", "runs"}
)
# Parts that every user reads; the others of them are asked for by MLflow's pages.
_READ: Final = _WRITTEN | {
    "datasets", "issues", "jobs", "label-schemas", "metrics", "prompt-optimization",
    "review-queues", "roles", "scorers", "server-info", "traces", "ui-telemetry", "users",
    "workspaces",
}  # fmt: skip
# Requests that change nothing although they have a body.
_SEARCHES: Final = frozenset(
    {
        ("artifacts", "presigned-download-url"),
        ("experiments", "search"),
        ("experiments", "search-datasets"),
        ("logged-models", "search"),
        ("registered-models", "get-latest-versions"),
        ("runs", "search"),
        ("traces", "metrics"),
        ("traces", "search"),
    }
)
_OWN_PASSWORD: Final = ("users", "update-password")  # MLflow refuses that of another user
_PROMPTS: Final = ("runs", "create-promptlab-run")
_NEW_EXPERIMENT: Final = ("experiments", "create")


def authorize() -> "Authorization | Response":
    """Authenticate a request, and refuse what its user may not do; MLflow calls this."""
    from flask import Response, g, request
    from mlflow.server import auth

    if "histofuse_login" in g:  # MLflow calls it several times a request
        return g.histofuse_login
    login = authenticate()
    if isinstance(login, Response):
        return login
    user = auth.store.get_user(str(login.username))
    member = any(role.name == MEMBERS for role in auth.store.list_user_roles(user.id))
    if not user.is_admin and not may_do(request.method, request.path, member=member):
        only = "the administrator" if member else "a user who may write, or the administrator"
        message = f"{request.method} {request.path}: only {only} may do this on this server"
        return _refuse(403, "PERMISSION_DENIED", message)
    call = _API.fullmatch(request.path)
    if call and call.group(2, 3) == _NEW_EXPERIMENT and _names_location():
        message = "artifact_location: only the server chooses where files are stored; leave it out"
        return _refuse(400, "INVALID_PARAMETER_VALUE", message)
    g.histofuse_login = login
    return login


def may_do(method: str, path: str, *, member: bool) -> bool:
    """Tell whether a user who is not the administrator may make a request."""
    reads = method in _READING
    match = _API.fullmatch(path)
    if match is None:  # GraphQL has no mutations here
        return path == "/graphql" or (reads and _PAGES.fullmatch(path) is not None)
    family, part, call = match.groups()
    if family == "mlflow-artifacts":
        return reads or member
    if reads:
        return part in _READ
    writes = member and part in _WRITTEN and (part, call) != _PROMPTS
    return writes or (part, call) in _SEARCHES or (part, call) == _OWN_PASSWORD


def _names_location() -> bool:
    """Tell whether the request for a new experiment names a location, as MLflow will read it."""
    from mlflow.protos.service_pb2 import CreateExperiment
    from mlflow.server.handlers import _get_request_message

    return bool(_get_request_message(CreateExperiment()).artifact_location)


def _refuse(status: int, code: str, message: str) -> "Response":
    from flask import Response

    body = json.dumps({"error_code": code, "message": message})
    return Response(body, status, mimetype="application/json")
