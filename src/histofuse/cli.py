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
    from histofuse.tracking.publish import publish_all

    _enter_project()
    outcome = publish_all()
    for name in outcome.written:
        typer.echo(f"published {name}")
    typer.echo(f"{len(outcome.written)} written, {len(outcome.unchanged)} were there")


@app.command()
def registry() -> None:
    """List the registered models, a star where models/ has it."""
    from histofuse.tracking.registry import list_models

    _enter_project()
    for line in list_models():
        typer.echo(line)


@app.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Browse runs and registered models."""
    from histofuse.commands.ui import serve

    _enter_project()
    serve(port)


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
