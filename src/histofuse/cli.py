"""The command line. Each command imports what it needs when it runs, so help is fast."""

import os
import signal
import sys
import threading
from importlib import metadata
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import typer
from typer import Argument, Option
from typer.core import TyperGroup

from histofuse.core.disk import naming_full_disk
from histofuse.core.errors import HistofuseError
from histofuse.core.naming import show_count

_WRONG_PLACES = (FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


class _Group(TyperGroup):
    """Shows an error that the user can fix as one message, without a traceback.

    A command that is terminated removes its temporary files, as one that is interrupted does.
    """

    def invoke(self, ctx: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            with naming_full_disk(Path.cwd()):
                return super().invoke(ctx)
        except HistofuseError as error:
            typer.echo(f"histofuse {ctx.invoked_subcommand}: {error}", err=True)
            sys.exit(1)
        except _WRONG_PLACES as error:
            path = error.filename2 or error.filename  # of a renamed file, its new name
            said = f"{path}: {error.strerror}" if path else str(error)
            typer.echo(f"histofuse {ctx.invoked_subcommand}: {said}", err=True)
            sys.exit(1)


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"histofuse {metadata.version('histofuse')}")
        raise typer.Exit
    return wanted


@app.callback()
def main(
    *,
    version: bool = Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
    ),
) -> None:
    """Fusion of histopathology patches with electronic health records."""


def _make_absolute(path: Path | None) -> Path | None:
    """Resolve a path before the command changes to the project's root."""
    return path and path.absolute()


def _make_folder_absolute(name: str | None) -> str | None:
    return str(Path(name).absolute()) if name and Path(name).is_dir() else name


def _path(text: str, default: Any = None) -> Any:
    return Option(default, help=text, callback=_make_absolute)


def _bundle(text: str, default: str | None = None) -> Any:
    return Option(default, help=text, callback=_make_folder_absolute)


OpenData = Literal["brecahad", "mimic-demo"]  # downloaded without an account
Orientation = Literal["refuse", "stored", "displayed"]
Kind = Literal["image", "tabular", "fusion", "patient", "detector"]
Form = Literal["table", "json", "csv"]
Model = Annotated[str, Argument(help="Registered model, such as fusion.")]
UserName = Annotated[str, Argument(help="Name of the user.")]
Host = Annotated[str, Option(help="Address to listen on.")]
Port = Annotated[int, Option(min=1, max=65535, help="Port to listen on.")]
Workers = Annotated[int, Option(min=1, help="Number of server processes.")]


@app.command()
def doctor() -> None:
    """Check the installation and suggest fixes."""
    from histofuse.commands.doctor import examine

    _enter_project()
    failed = False
    for check in examine():
        failed |= check.status == "fail"
        typer.echo(str(check))
    if failed:
        raise typer.Exit(1)


@app.command()
def fetch(
    data_set: OpenData,
    url: str | None = Option(None, help="URL of a mirror."),
    into: Path | None = _path("Target folder."),
) -> None:
    """Download, verify and unpack an open data set."""
    from histofuse.commands.fetch import DATA_SETS
    from histofuse.commands.fetch import fetch as fetch_data_set

    root = _enter_project()
    folder = fetch_data_set(data_set, url, into)
    shown = folder.relative_to(root) if folder.is_relative_to(root) else folder
    typer.echo(f"Set {DATA_SETS[data_set].key} to {shown} in params.yaml, then dvc repro.")


@app.command("describe-table")
def describe_table(file: Path = Argument(help="Table: .csv, .tsv, .txt or .parquet.")) -> None:
    """Draft the declaration of a table of health records."""
    from histofuse.data.declared.draft import draft_declaration

    typer.echo(draft_declaration(file), nl=False)


@app.command()
def publish() -> None:
    """Publish models/, reports/ and studies/ to MLflow."""
    from histofuse.commands.publish import publish as publish_new

    _enter_project()
    typer.echo("\n".join(publish_new()))


@app.command("report")
def write_page() -> None:
    """Write the report of the last run, one HTML page."""
    from histofuse.reporting.report import write_report

    _enter_project()
    page = write_report()
    typer.echo(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB): open it in a browser")


@app.command()
def registry(json: bool = Option(False, "--json", help="Print JSON, with full digests.")) -> None:
    """List registered models; * marks those in models/."""
    from histofuse.commands.registry import describe_registry

    _enter_project()
    typer.echo("\n".join(describe_registry(as_json=json)))


@app.command()
def verify(model: str = Argument("fusion", help="Registered model or models:/… URI.")) -> None:
    """Compare a model's files with what was registered, before others load it."""
    from histofuse.commands.registry import verify_model

    _enter_project()
    typer.echo("\n".join(verify_model(model)))


@app.command()
def promote(
    model: Model,
    *,
    version: int | None = Option(None, min=1, help="Version number."),
    digest: str | None = Option(None, help="First digits of its digest."),
    force: bool = Option(False, "--force", help="Override the gate, on record."),
    reason: str = Option("", help="Reason, required with --force."),
    dry_run: bool = Option(False, "--dry-run", help="Only run the checks."),
) -> None:
    """Promote a version to production if the gate accepts it."""
    from histofuse.commands.promote import promote as promote_version

    _enter_project()
    outcome = promote_version(
        model, version=version, digest=digest, forced=force, reason=reason, dry_run=dry_run
    )
    typer.echo("\n".join(outcome.lines))
    if outcome.refused:
        raise typer.Exit(1)


@app.command()
def rollback(model: Model, reason: str = Option("", help="Reason, recorded with it.")) -> None:
    """Return to the previous production version."""
    from histofuse.commands.promote import rollback as roll_back

    _enter_project()
    typer.echo("\n".join(roll_back(model, reason)))


@app.command("serve")
def serve_model(
    model: str = Argument("fusion", help="Registered model or models:/… URI."),
    *,
    host: Host = "127.0.0.1",
    port: Port = 5001,
    workers: Workers = 1,
) -> None:
    """Serve the production version of a model over HTTP."""
    from histofuse.commands.serve import serve

    _enter_project()
    serve(model, host, port, workers)


@app.command()
def ui(port: Port = 5000) -> None:
    """Open MLflow's web UI on runs and registered models."""
    from histofuse.commands.ui import serve

    _enter_project()
    serve(port)


@app.command()
def server(
    *,
    host: Host = "127.0.0.1",
    port: Port = 5000,
    database: str | None = Option(None, help="postgresql://user@host/name. Default: SQLite."),
    artifacts: str | None = Option(None, help="Folder or s3://… Default: mlruns/server."),
    allowed_hosts: str = Option("", help="Host names that users enter, comma-separated."),
    workers: Workers = 2,
) -> None:
    """Serve MLflow to a team, with users and passwords."""
    from histofuse.commands.team.server import Settings, serve

    _enter_project()
    hosts = tuple(name.strip() for name in allowed_hosts.split(",")) if allowed_hosts else ()
    serve(Settings(host, port, database, artifacts, hosts, workers))


users = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(users, name="users", help="Manage the users of the server that runs here.")


@users.command("add")
def add_user(
    name: UserName, *, read_only: bool = Option(False, "--read-only", help="Read-only access.")
) -> None:
    """Add a user and print the login."""
    team = _open_team()
    _show_login(team.address, name, team.add(name, may_write=not read_only))


@users.command("password")
def set_password(name: UserName) -> None:
    """Set a new password and print the login."""
    team = _open_team()
    _show_login(team.address, name, team.set_password(name))


@users.command("remove")
def remove_user(name: UserName) -> None:
    """Remove a user; their runs stay."""
    _open_team().remove(name)


@users.command("list")
def list_users() -> None:
    """List users."""
    typer.echo("\n".join(_open_team().names()))


def _open_team() -> Any:
    from histofuse.commands.team.server import open_team

    _enter_project()
    return open_team()


def _show_login(address: str, name: str, password: str) -> None:
    for key, value in (("URI", address), ("USERNAME", name), ("PASSWORD", password)):
        typer.echo(f"export MLFLOW_TRACKING_{key}={quote(value)}")


@app.command()
def predict(
    frames: Path | None = Argument(
        None, help="Folder in BreCaHAD's layout, or with TIFF files.", callback=_make_absolute
    ),
    *,
    out: Path = _path("Output file, .parquet or .csv; of slides a folder.", ...),
    slide: Path | None = _path("Whole slide, or a folder of them: nuclei are found."),
    points: Path | None = _path("CSV of frame_id,x_px,y_px, or QuPath GeoJSON."),
    patients: Path | None = _path("Raw features by subject_id[,hadm_id], .parquet or .csv."),
    crosswalk: Path | None = _path("CSV of case_id,subject_id[,hadm_id]."),
    model: str = _bundle("Registered model, models:/… URI, or bundle folder.", "histofuse-fusion"),
    orientation: Orientation | None = Option(
        None, help="Frames with an orientation tag: what points mean."
    ),
    bits: int | None = Option(None, min=8, max=16, help="Bits of the camera in 16-bit frames."),
    mpp: float | None = Option(None, help="µm per pixel of frames and slides that do not say."),
    detector: str | None = _bundle(
        "Finds nuclei without points: bundle or registered model. Default: models/detector."
    ),
    engine: str = Option(
        "threads", help="Of slides: threads, or a Dask scheduler such as tcp://host:8786."
    ),
    batch: int = Option(256, min=1, help="Batch size, in patches."),
    overlay: Path | None = _path("Folder for a drawing of each frame, dots by class."),
    report: Path | None = _path("Folder for a page of each case: what was found, and why."),
    geojson: Path | None = _path("Folder for the nuclei of each frame, to open in QuPath."),
) -> None:
    """Predict nuclei of frames, or rows of a patient table.

    Cases without a health record are predicted from the image alone. The output keeps the input's
    identifiers of patients and frames.
    """
    options = dict(locals())  # as the fields of Request
    from histofuse.commands.prediction.predict import Request
    from histofuse.commands.prediction.predict import predict as run

    if slide:
        from histofuse.commands.prediction.slides import predict_slides as run

    _enter_project()
    typer.echo(run(Request(**options)))


@app.command()
def validate(
    model: str = Argument(
        help="Name in models/, registered model, or bundle.", callback=_make_folder_absolute
    ),
    *,
    name: str = Option(help="What the other data set is called."),
    frames: Path | None = _path("Folder of annotated frames, as data.brecahad."),
    records: Path | None = _path("Folder with hosp/, or a table and its records.yaml."),
    crosswalk: Path | None = _path("CSV of case_id,subject_id[,hadm_id], for fusion."),
    recalibrate_on: Path | None = _path("Ids of a part to recalibrate on, one a line."),
) -> None:
    """Measure a model on another data set; nothing is refitted."""
    options = dict(locals())  # as the fields of Request
    from histofuse.commands.validation.validate import Request
    from histofuse.commands.validation.validate import validate as run

    _enter_project()
    typer.echo("\n".join(run(Request(**options))))


@app.command()
def runs(
    kind: Kind | None = Option(None, help="Only runs of this kind."),
    sort: str | None = Option(None, help="Metric or parameter, best first."),
    columns: str = Option("", help="Comma-separated metrics; {focus} is the class in focus."),
    *,
    current: bool = Option(False, "--current", help="Only the models in models/."),
    form: Form = Option("table", "--format", help="Output format."),
) -> None:
    """Compare published runs."""
    from histofuse.commands.runs import describe_runs

    _enter_project()
    named = [name.strip() for name in columns.split(",") if name.strip()]
    typer.echo(describe_runs(kind=kind, sort=sort, columns=named, current=current, form=form))


@app.command()
def tune(
    name: str = Argument(help="Study: a key under tune in params.yaml."),
    *,
    workers: int = Option(1, min=1, help="Worker processes on this machine."),
    storage: str | None = Option(None, help="Journal file or database URL that workers share."),
    trials: int | None = Option(None, min=1, help="Finished trials in total."),
) -> None:
    """Run or resume a hyperparameter study."""
    from histofuse.commands.tune import tune as run

    _enter_project()
    run(name, workers, storage, trials)


@app.command("next")
def show_next() -> None:
    """Print the main results and what to open next."""
    from histofuse.commands.headline import describe_results

    _enter_project()
    typer.echo("\n".join(describe_results()))


@app.command("export-imagefolder")
def export_imagefolder(
    out: Path = Argument(help="New or empty folder.", callback=_make_absolute),
    splits: bool = Option(True, help="One folder per split above the classes."),
) -> None:
    """Export patches as class folders for ImageFolder."""
    from histofuse.core.tables import read_table
    from histofuse.data.imagefolder import export_imagefolder as export
    from histofuse.data.splits import PATCH_SPLITS

    _enter_project()
    table = read_table(Path("data/splits/patches.parquet"), PATCH_SPLITS) if splits else None
    count = export(Path("data/patches"), table, out)
    typer.echo(f"wrote {show_count(count, 'patches')} to {out}")


def _enter_project() -> Path:
    """Change to the project's root from any folder inside it.

    Raises HistofuseError if no folder here or above is a project.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            os.chdir(folder)
            return folder
    raise HistofuseError(f"{here}: no params.yaml here or above. Run this inside the project.")
