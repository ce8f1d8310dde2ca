"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vireid.errors import InputError

Root = Annotated[Path | None, typer.Option("--root", help="folder of the data set, as distributed")]
DataOption = Annotated[str, typer.Option("--data", help="data set: see `vireid data list`")]


def figure_option(help: str, *names: str) -> Any:
    """Return a Typer option for a `.png` or `.svg` file, checked before a long command begins."""
    return typer.Option(*names, help=help, callback=_checked)


def _checked(file: Path | None) -> Path | None:
    if file is not None and file.suffix not in (".png", ".svg"):
        raise InputError(f"a figure is a .png or .svg file, not {file}: name it so")
    return file
