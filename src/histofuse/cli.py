"""The command line. Each command imports what it needs when it runs, so help is fast."""

from __future__ import annotations

import os
import signal
import sys
import threading
from importlib import metadata
from pathlib import Path
from shlex import quote
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from histofuse.core.disk import naming_full_disk
from histofuse.core.errors import HistofuseError


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
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Fusion of histopathology patches with electronic health records."""


OpenData = Literal["brecahad", "mimic-demo"]  # downloaded without an account
Orientation = Literal["refuse", "stored", "displayed"]
Kind = Literal["image", "tabular", "fusion", "patient"]
Form = Literal["table", "json", "csv"]
Model = Annotated[str, typer.Argument(help="Registered model, such as fusion.")]
UserName = Annotated[str, typer.Argument(help="Name of the user.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
Workers = Annotated[int, typer.Option(min=1, help="Number of server processes.")]


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
    url: Annotated[str | None, typer.Option(help="URL of a mirror.")] = None,
    into: Annotated[Path | None, typer.Option(help="Target folder.")] = None,
) -> None:
    """Download, verify and unpack an open data set."""
    from histofuse.commands.fetch import DATA_SETS
    from histofuse.commands.fetch import fetch as fetch_data_set

    target = into.absolute() if into else None
    root = _enter_project()
    folder = fetch_data_set(data_set, url, target)
    shown = folder.relative_to(root) if folder.is_relative_to(root) else folder
    typer.echo(f"Set {DATA_SETS[data_set].key} to {shown} in params.yaml, then dvc repro.")


@app.command("describe-table")
def describe_table(
    file: Annotated[Path, typer.Argument(help="Table: .csv, .tsv, .txt or .parquet.")],
) -> None:
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
def registry(
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with full digests.")] = False,
) -> None:
    """List registered models; * marks those in models/."""
    from histofuse.commands.registry import describe_registry

    _enter_project()
    typer.echo("\n".join(describe_registry(as_json=json)))


@app.command()
def verify(
    model: Annotated[str, typer.Argument(help="Registered model or models:/… URI.")] = "fusion",
) -> None:
    """Compare a model's files with what was registered, before others load it."""
    from histofuse.commands.registry import verify_model

    _enter_project()
    typer.echo("\n".join(verify_model(model)))


@app.command()
def promote(
    model: Model,
    *,
    version: Annotated[int | None, typer.Option(min=1, help="Version number.")] = None,
    digest: Annotated[str | None, typer.Option(help="First digits of its digest.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Override the gate, on record.")] = False,
    reason: Annotated[str, typer.Option(help="Reason, required with --force.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only run the checks.")] = False,
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
def rollback(
    model: Model, reason: Annotated[str, typer.Option(help="Reason, recorded with it.")] = ""
) -> None:
    """Return to the previous production version."""
    from histofuse.commands.promote import rollback as roll_back

    _enter_project()
    typer.echo("\n".join(roll_back(model, reason)))


@app.command("serve")
def serve_model(
    model: Annotated[str, typer.Argument(help="Registered model or models:/… URI.")] = "fusion",
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
    database: Annotated[
        str | None, typer.Option(help="postgresql://user@host/name. Default: SQLite.")
    ] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="Folder or s3://… Default: mlruns/server.")
    ] = None,
    allowed_hosts: Annotated[
        str, typer.Option(help="Host names that users enter, comma-separated.")
    ] = "",
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
    name: UserName,
    *,
    read_only: Annotated[bool, typer.Option("--read-only", help="Read-only access.")] = False,
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
    frames: Annotated[
        Path | None, typer.Argument(help="Folder in BreCaHAD's layout, or with TIFF files.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="Output file, .parquet or .csv; of slides a folder.")],
    slide: Annotated[
        Path | None, typer.Option(help="Whole slide, or a folder of them: nuclei are found.")
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(help="CSV of frame_id,x_px,y_px, or QuPath GeoJSON."),
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="Raw features by subject_id[,hadm_id], .parquet or .csv.")
    ] = None,
    crosswalk: Annotated[
        Path | None, typer.Option(help="CSV of case_id,subject_id[,hadm_id].")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Registered model, models:/… URI, or bundle folder.")
    ] = "histofuse-fusion",
    orientation: Annotated[
        Orientation | None, typer.Option(help="Frames with an orientation tag: what points mean.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option(min=8, max=16, help="Bits of the camera in 16-bit frames.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="µm per pixel of frames and slides that do not say.")
    ] = None,
    detector: Annotated[
        str, typer.Option(help="Finds nuclei without points: bundle folder or registered model.")
    ] = "models/detector",
    engine: Annotated[
        str, typer.Option(help="Of slides: threads, or a Dask scheduler such as tcp://host:8786.")
    ] = "threads",
    batch: Annotated[int, typer.Option(min=1, help="Batch size, in patches.")] = 256,
    overlay: Annotated[
        Path | None, typer.Option(help="Folder for a drawing of each frame, dots by class.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Folder for a page of each case: pictures, counts, maps.")
    ] = None,
    geojson: Annotated[
        Path | None, typer.Option(help="Folder for the nuclei of each frame, to open in QuPath.")
    ] = None,
) -> None:
    """Predict nuclei of frames, or rows of a patient table.

    Cases without a health record are predicted from the image alone. The output keeps the input's
    identifiers of patients and frames.
    """
    from histofuse.commands.prediction.predict import Request
    from histofuse.commands.prediction.predict import predict as run

    if slide:
        from histofuse.commands.prediction.slides import predict_slides as run

    given = [path and path.absolute() for path in (frames, points, patients, crosswalk)]
    model, detector = (
        str(Path(name).absolute()) if Path(name).is_dir() else name for name in (model, detector)
    )
    _enter_project()
    how = {"batch": batch, "orientation": orientation, "bits": bits}
    how |= {"slide": slide and slide.absolute(), "mpp": mpp, "detector": detector}
    how |= {"engine": engine, "report": report and report.absolute()}
    how |= {"overlay": overlay and overlay.absolute(), "geojson": geojson and geojson.absolute()}
    typer.echo(run(Request(*given, model=model, out=out.absolute(), **how)))


@app.command()
def validate(
    model: Annotated[str, typer.Argument(help="Name in models/, registered model, or bundle.")],
    *,
    name: Annotated[str, typer.Option(help="What the other data set is called.")],
    frames: Annotated[
        Path | None, typer.Option(help="Folder of annotated frames, as data.brecahad.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(help="Folder with hosp/, or a table and its records.yaml.")
    ] = None,
    crosswalk: Annotated[
        Path | None, typer.Option(help="CSV of case_id,subject_id[,hadm_id], for fusion.")
    ] = None,
    recalibrate_on: Annotated[
        Path | None, typer.Option(help="Ids of a part to recalibrate on, one a line.")
    ] = None,
) -> None:
    """Measure a model on another data set; nothing is refitted."""
    from histofuse.commands.validation.validate import Request
    from histofuse.commands.validation.validate import validate as run

    given = [path and path.absolute() for path in (frames, records, crosswalk, recalibrate_on)]
    model = str(Path(model).absolute()) if Path(model).is_dir() else model
    _enter_project()
    typer.echo("\n".join(run(Request(model, *given, name=name))))


@app.command()
def runs(
    kind: Annotated[Kind | None, typer.Option(help="Only runs of this kind.")] = None,
    sort: Annotated[str | None, typer.Option(help="Metric or parameter, best first.")] = None,
    columns: Annotated[
        str, typer.Option(help="Comma-separated metrics; {focus} is the class in focus.")
    ] = "",
    *,
    current: Annotated[bool, typer.Option("--current", help="Only the models in models/.")] = False,
    form: Annotated[Form, typer.Option("--format", help="Output format.")] = "table",
) -> None:
    """Compare published runs."""
    from histofuse.commands.runs import describe_runs

    _enter_project()
    named = [name.strip() for name in columns.split(",") if name.strip()]
    typer.echo(describe_runs(kind=kind, sort=sort, columns=named, current=current, form=form))


@app.command()
def tune(
    name: Annotated[str, typer.Argument(help="Study: a key under tune in params.yaml.")],
    *,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes on this machine.")] = 1,
    storage: Annotated[
        str | None, typer.Option(help="Journal file or database URL that workers share.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Finished trials in total.")] = None,
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
    out: Annotated[Path, typer.Argument(help="New or empty folder.")],
    splits: Annotated[bool, typer.Option(help="One folder per split above the classes.")] = True,
) -> None:
    """Export patches as class folders for ImageFolder."""
    from histofuse.core.tables import read_table
    from histofuse.data.imagefolder import export_imagefolder as export
    from histofuse.data.splits import PATCH_SPLITS

    target = out.absolute()
    _enter_project()
    table = read_table(Path("data/splits/patches.parquet"), PATCH_SPLITS) if splits else None
    count = export(Path("data/patches"), table, target)
    typer.echo(f"wrote {count:,} patches to {target}")


def _enter_project() -> Path:
    """Change to the project's root from any folder inside it.

    Raises:
        HistofuseError: If no folder here or above is a project.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            os.chdir(folder)
            return folder
    raise HistofuseError(f"{here}: no params.yaml here or above. Run this inside the project.")
