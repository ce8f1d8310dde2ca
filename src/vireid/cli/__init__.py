"""The command line: parse, call, print."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from vireid import __version__
from vireid.cli.bundles import export, import_app
from vireid.cli.confirm import confirm, confirmations, reject
from vireid.cli.data import data_app, pose, synth
from vireid.cli.gallery import calibrate, gallery_app
from vireid.cli.guard import audit_app, cameras_app, keys_app
from vireid.cli.ingest import ingest
from vireid.cli.models import demo, doctor, embed, evaluate, methods, report, train
from vireid.cli.plots import plots_app
from vireid.cli.serve import serve
from vireid.errors import InputError
from vireid.files import explain

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
for command in (methods, doctor, synth, pose, train, evaluate, embed, report, demo, export, ingest, calibrate, serve):
    app.command()(command)
GROUPS = {
    "data": data_app,
    "import": import_app,
    "gallery": gallery_app,
    "audit": audit_app,
    "keys": keys_app,
    "plots": plots_app,
}
for name, group in GROUPS.items():
    app.add_typer(group, name=name)
for decision in (confirm, reject, confirmations):
    gallery_app.command()(decision)
gallery_app.add_typer(cameras_app, name="cameras")


def main() -> None:
    """Run the command line; a user's mistake prints one sentence and exits with code 2."""
    try:
        app()
    except (InputError, OSError, UnicodeEncodeError) as error:
        sentence = str(error) if isinstance(error, InputError) else explain(error)
        if sentence is None:
            raise
        errors = Console(stderr=True, soft_wrap=True, highlight=False, emoji=False)
        errors.print(f"[red]error:[/red] {escape(sentence)}")
        sys.exit(2)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def vireid(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="show the version and end")
    ] = False,
) -> None:
    """Visible-infrared person re-identification: nine methods, exact protocols, a searchable gallery."""
