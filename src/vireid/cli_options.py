"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vireid.errors import InputError
from vireid.files import replacing, require_file_place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Root = Annotated[Path | None, typer.Option("--root", help="folder of the data set, as distributed")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="write the result here", callback=lambda file: _writable(file))
]
DataOption = Annotated[str, typer.Option("--data", help="data set: see `vireid data list`")]


def figure_option(help: str, *names: str) -> Any:
    """Return a Typer option for a `.png` or `.svg` file, checked before a long command begins."""
    return typer.Option(*names, help=help, callback=_checked)


def _checked(file: Path | None) -> Path | None:
    if file is not None and file.suffix not in (".png", ".svg"):
        raise InputError(f"a figure is a .png or .svg file, not {file}: name it so")
    return _writable(file)


def _writable(file: Path | None) -> Path | None:
    if file is not None:
        require_file_place(file)
    return file


def write_figure(figure: Figure, file: Path) -> None:
    """Write a figure as its file's ending says, whole or not at all."""
    with replacing(file) as temporary:
        figure.savefig(temporary, format=file.suffix[1:], dpi=150)
