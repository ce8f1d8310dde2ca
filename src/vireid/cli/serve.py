"""The command `vireid serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vireid.errors import InputError


def serve(
    gallery: Annotated[list[str], typer.Option("--gallery", help="folder or postgresql:// URL; may be repeated")],
    host: Annotated[str, typer.Option(help="address to bind to")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="TCP port", min=1, max=65535)] = 8000,
    refine: Annotated[Path | None, typer.Option(help="bundle of a refiner such as nformer, to re-rank with")] = None,
    bounds: Annotated[list[str] | None, typer.Option("--set", help="bound=value, such as rate=20")] = None,
) -> None:
    """Serve galleries: an HTTP API and a web page, for holders of an API key.

    Examples: `vireid serve --gallery galleries/station --port 8000`,
    `vireid serve --gallery galleries/station --set rate=20 --set searches=8`
    """
    try:
        from vireid import serve as service
    except ModuleNotFoundError as error:
        raise InputError(f"serving needs {error.name}: pip install '.[gallery,serve]' in the checkout") from error

    service.serve(gallery, host=host, port=port, refine=refine, limits=service.Limits.parse(bounds or []))
