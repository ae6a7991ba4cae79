"""The command line. Whatever a command needs is imported when it runs, so that help is instant."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from histofuse.core.errors import HistofuseError


class _Group(TyperGroup):
    """Shows a fault the user can mend as one message, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HistofuseError as error:
            typer.echo(f"histofuse {ctx.invoked_subcommand}: {error}", err=True)
            sys.exit(1)


app = typer.Typer(
    cls=_Group,
    help="Fusing histopathology patches with electronic health records.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


class OpenData(StrEnum):
    """Data sets that anyone may download."""

    brecahad = "brecahad"
    mimic_demo = "mimic-demo"


class Kind(StrEnum):
    """Kinds of models."""

    image = "image"
    tabular = "tabular"
    fusion = "fusion"


class Form(StrEnum):
    """What a list is printed as."""

    table = "table"
    json = "json"
    csv = "csv"


@app.command()
def doctor() -> None:
    """Check the set-up and say how to mend it."""
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
    url: Annotated[str | None, typer.Option(help="Another server to list it from.")] = None,
    into: Annotated[Path | None, typer.Option(help="Another folder to put it in.")] = None,
) -> None:
    """Download an open data set, verify and unpack it."""
    from histofuse.commands.fetch import DATA_SETS
    from histofuse.commands.fetch import fetch as fetch_data_set

    target = into.absolute() if into else None
    root = _enter_project()
    folder = fetch_data_set(data_set.value, url, target)
    shown = folder.relative_to(root) if folder.is_relative_to(root) else folder
    typer.echo(f"Set {DATA_SETS[data_set.value].key} to {shown} in params.yaml, then dvc repro.")


@app.command()
def publish() -> None:
    """Bring MLflow in line with models/ and reports/."""
    from histofuse.promotion.decision import Production
    from histofuse.reporting.report import find_documents
    from histofuse.tracking.publish import publish_all
    from histofuse.tracking.store import open_store
    from histofuse.tracking.studies import publish_studies

    _enter_project()
    outcome = publish_all(documents=find_documents())
    Production(open_store()).mend_all()
    for name in outcome.written:
        typer.echo(f"published {name}")
    typer.echo(f"{len(outcome.written)} written, {len(outcome.unchanged)} were there")
    written, unchanged = publish_studies()
    for name in written:
        typer.echo(f"published study {name}")
    typer.echo(f"{len(written)} studies written, {len(unchanged)} were there")


@app.command("report")
def write_page() -> None:
    """Write one page on what the last run left."""
    from histofuse.reporting.report import write_report

    _enter_project()
    page = write_report()
    typer.echo(f"wrote {page} ({page.stat().st_size / 1e6:.1f} MB): open it in a browser")


@app.command()
def registry(
    json: Annotated[bool, typer.Option("--json", help="As JSON, digests in full.")] = False,
) -> None:
    """List the registered models, a star where models/ has it."""
    from histofuse.commands.registry import describe_registry

    _enter_project()
    for line in describe_registry(as_json=json):
        typer.echo(line)


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="Such as histofuse-fusion, or fusion.")],
    *,
    version: Annotated[int | None, typer.Option(min=1, help="Its number.")] = None,
    digest: Annotated[str | None, typer.Option(help="First digits of its bundle's digest.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Override the gate, on record.")] = False,
    reason: Annotated[str, typer.Option(help="Why; needed with --force.")] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only ask the gate.")] = False,
) -> None:
    """Put a version into production, if the gate lets it."""
    from histofuse.commands.promote import Choice, Override
    from histofuse.commands.promote import promote as promote_version

    _enter_project()
    choice, override = Choice(model, version, digest), Override(force, reason)
    outcome = promote_version(choice, override, dry_run=dry_run)
    typer.echo("\n".join(outcome.lines))
    if outcome.refused:
        raise typer.Exit(1)


@app.command()
def rollback(
    model: Annotated[str, typer.Argument(help="Such as histofuse-fusion, or fusion.")],
    reason: Annotated[str, typer.Option(help="Why.")] = "",
) -> None:
    """Put the version back that was in production before."""
    from histofuse.commands.promote import rollback as roll_back

    _enter_project()
    for line in roll_back(model, reason):
        typer.echo(line)


@app.command("serve")
def serve_model(
    model: Annotated[str, typer.Argument(help="Such as fusion, or any models:/… address.")] = (
        "fusion"
    ),
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5001,
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 1,
) -> None:
    """Answer requests by the version of a model that is in production."""
    from histofuse.commands.serve import serve

    _enter_project()
    serve(model, host, port, workers)


@app.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Browse runs and registered models."""
    from histofuse.commands.ui import serve

    _enter_project()
    serve(port)


@app.command()
def server(
    *,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    database: Annotated[
        str | None, typer.Option(help="postgresql://user@host/name; else one of its own.")
    ] = None,
    artifacts: Annotated[
        str | None, typer.Option(help="A folder or s3://…; else below mlruns/server.")
    ] = None,
    allowed_hosts: Annotated[
        str, typer.Option(help="Names by which others reach it, with commas between.")
    ] = "",
    workers: Annotated[int, typer.Option(min=1, help="Processes that answer.")] = 2,
) -> None:
    """Serve MLflow to a team, on PostgreSQL and with users."""
    from histofuse.commands.team.server import Settings, serve

    _enter_project()
    hosts = tuple(name.strip() for name in allowed_hosts.split(",")) if allowed_hosts else ()
    serve(Settings(host, port, database, artifacts, hosts, workers))


users = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)
app.add_typer(users, name="users", help="Let people use the server that runs here.")


@users.command("add")
def add_user(
    name: str,
    *,
    read_only: Annotated[bool, typer.Option("--read-only", help="May look, not log.")] = False,
) -> None:
    """Add a user and show the password made for it."""
    from histofuse.commands.team.server import open_team

    _enter_project()
    team = open_team()
    typer.echo(_describe_login(team.address, name, team.add(name, may_write=not read_only)))


@users.command("password")
def set_password(name: str) -> None:
    """Give a user a new password and show it."""
    from histofuse.commands.team.server import open_team

    _enter_project()
    team = open_team()
    typer.echo(_describe_login(team.address, name, team.set_password(name)))


@users.command("remove")
def remove_user(name: str) -> None:
    """Remove a user; what it has logged stays."""
    from histofuse.commands.team.server import open_team

    _enter_project()
    open_team().remove(name)


@users.command("list")
def list_users() -> None:
    """List the users."""
    from histofuse.commands.team.server import open_team

    _enter_project()
    for name in open_team().names():
        typer.echo(name)


def _describe_login(address: str, name: str, password: str) -> str:
    values = {"URI": address, "USERNAME": name, "PASSWORD": password}
    return "\n".join(f"export MLFLOW_TRACKING_{key}={value}" for key, value in values.items())


@app.command()
def predict(
    frames: Annotated[
        Path | None, typer.Argument(help="Folder in BreCaHAD's layout, or of TIFF files.")
    ] = None,
    *,
    out: Annotated[Path, typer.Option(help="A .parquet or .csv file.")],
    points: Annotated[
        Path | None, typer.Option(help="CSV of frame_id,x_px,y_px, in place of groundTruth/.")
    ] = None,
    patients: Annotated[
        Path | None, typer.Option(help="Raw features by subject_id[,hadm_id]: .parquet or .csv.")
    ] = None,
    crosswalk: Annotated[
        Path | None, typer.Option(help="CSV of case_id,subject_id[,hadm_id].")
    ] = None,
    model: Annotated[
        str, typer.Option(help="A registered model, models:/... address, or a bundle's folder.")
    ] = "histofuse-fusion",
    batch: Annotated[int, typer.Option(min=1, help="Patches the network gets at once.")] = 256,
) -> None:
    """Predict the nuclei of frames, or a table of patients.

    A case without a record is answered by the image alone. The answer names patients and frames as
    the input does.
    """
    from histofuse.commands.predict import Request
    from histofuse.commands.predict import predict as run

    given = [path and path.absolute() for path in (frames, points, patients, crosswalk)]
    model = str(Path(model).absolute()) if Path(model).is_dir() else model
    _enter_project()
    typer.echo(run(Request(*given, model=model, out=out.absolute(), batch=batch)))


@app.command()
def runs(
    kind: Annotated[Kind | None, typer.Option(help="Only runs of this kind.")] = None,
    sort: Annotated[str | None, typer.Option(help="Metric or param; best first.")] = None,
    columns: Annotated[
        str, typer.Option(help="Metrics and params, by commas; {focus} is the class in focus.")
    ] = "",
    *,
    current: Annotated[bool, typer.Option("--current", help="Only models in models/.")] = False,
    form: Annotated[Form, typer.Option("--format", help="table, json or csv.")] = Form.table,
) -> None:
    """Compare the published runs, mitosis first."""
    from histofuse.commands.runs import describe_runs

    _enter_project()
    named = [name.strip() for name in columns.split(",") if name.strip()]
    chosen = kind.value if kind else None
    typer.echo(
        describe_runs(kind=chosen, sort=sort, columns=named, current=current, form=form.value)
    )


@app.command()
def tune(
    name: Annotated[str, typer.Argument(help="A study of params.yaml: a key below tune.")],
    *,
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 1,
    storage: Annotated[
        str | None, typer.Option(help="A journal file or a URL; several machines may share one.")
    ] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Finished trials, in all.")] = None,
) -> None:
    """Run a hyperparameter study, or go on with it."""
    from histofuse.commands.tune import tune as run

    _enter_project()
    run(name, workers, storage, trials)


@app.command("next")
def show_next() -> None:
    """Show the headline results and what to open."""
    from histofuse.commands.headline import describe_results

    _enter_project()
    for line in describe_results():
        typer.echo(line)


@app.command("export-imagefolder")
def export_imagefolder(
    out: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    splits: Annotated[bool, typer.Option(help="One folder a split above those of classes.")] = True,
) -> None:
    """Write patches as class folders, for ImageFolder."""
    from histofuse.core.tables import read_table
    from histofuse.data.imagefolder import export_imagefolder as export
    from histofuse.data.splits import PATCH_SPLITS

    target = out.absolute()
    _enter_project()
    table = read_table(Path("data/splits/patches.parquet"), PATCH_SPLITS) if splits else None
    count = export(Path("data/patches"), table, target)
    typer.echo(f"wrote {count:,} patches to {target}")


def _enter_project() -> Path:
    """Go to the project's root, from anywhere inside it.

    Raises:
        HistofuseError: If there is no project here.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "params.yaml").is_file():
            os.chdir(folder)
            return folder
    raise HistofuseError(f"{here}: no params.yaml here or above. Run it inside the project.")
