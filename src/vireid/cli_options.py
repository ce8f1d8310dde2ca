"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from vireid.errors import InputError
from vireid.files import replacing, require_file_place

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Root = Annotated[Path | None, typer.Option("--root", help="folder of the data set, as distributed")]
JsonFile = Annotated[
    Path | None, typer.Option("--json", help="write the result here", callback=lambda file: writable(file))
]
DataOption = Annotated[str, typer.Option("--data", help="data set: see `vireid data list`")]


def figure_option(help: str, *names: str) -> Any:
    """Return a Typer option for a `.png` or `.svg` file, checked before a long command begins."""
    return typer.Option(*names, help=help, callback=_checked)


def _checked(file: Path | None) -> Path | None:
    if file is not None and file.suffix not in (".png", ".svg"):
        raise InputError(f"a figure is a .png or .svg file, not {file}: name it so")
    return writable(file)


def writable(file: Path | None) -> Path | None:
    """Refuse a file that cannot be written, before a command's work; the callback of an option."""
    if file is not None:
        require_file_place(file)
    return file


def plain(text: str) -> str:
    """Return a text that others have stored for the terminal: no markup, and nothing that a terminal obeys."""
    return escape("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))


def write_figure(figure: Figure, file: Path) -> None:
    """Write a figure as its file's ending says, whole or not at all."""
    with replacing(file) as temporary:
        figure.savefig(temporary, format=file.suffix[1:], dpi=150)
