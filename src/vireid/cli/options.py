"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from vireid.errors import InputError
from vireid.files import replacing, require_file_place
from vireid.options import checked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from vireid.gallery import Use

console = Console(emoji=False)


def writable(file: Path | None) -> Path | None:
    """Refuse a file that cannot be written, before a command's work; the callback of an option."""
    if file is not None:
        require_file_place(file)
    return file


Root = Annotated[Path | None, typer.Option("--root", help="folder of the data set, as distributed")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="write the result here", callback=writable)]
DataOption = Annotated[str, typer.Option("--data", help="data set: see `vireid data list`")]
GalleryOption = Annotated[str, typer.Option("--gallery", help="folder or postgresql:// URL of the gallery")]
Purpose = Annotated[str, typer.Option(help="what this is done for; the audit log keeps it")]
Case = Annotated[str, typer.Option(help="case reference; the audit log keeps it")]


def use_of(purpose: str, case: str) -> Use:
    """Return the use of whoever is logged in.

    Raises:
        InputError: for a text that the audit log cannot keep.
    """
    from vireid.gallery import Use

    return checked(Use, {"purpose": purpose, "case": case}, "cannot use")


def figure_option(help: str, *names: str) -> Any:
    """Return a Typer option for a `.png` or `.svg` file, checked before a long command begins."""
    return typer.Option(*names, help=help, callback=_checked)


def _checked(file: Path | None) -> Path | None:
    if file is not None and file.suffix not in (".png", ".svg"):
        raise InputError(f"a figure is a .png or .svg file, not {file}: name it so")
    return writable(file)


def plain(text: str) -> str:
    """Return a text that others have stored for the terminal: no markup, and nothing that a terminal obeys."""
    return escape("".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text))


def write_figure(figure: Figure, file: Path) -> None:
    """Write a figure as its file's ending says, whole or not at all."""
    with replacing(file) as temporary:
        figure.savefig(temporary, format=file.suffix[1:], dpi=150)
