"""Start the service and end it gracefully."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import uvicorn
from rich.console import Console
from rich.markup import escape

from vireid.errors import InputError
from vireid.gallery import Gallery, NFormerReranker
from vireid.gallery.database import shown
from vireid.progress import progress_bar
from vireid.serve.app import create_app
from vireid.serve.limits import Limits

_CONNECTIONS = 1000
_GRACE = 30
_PLAIN = "where keys and pictures travel unencrypted: put a proxy with TLS in front"


def serve(
    locations: Sequence[str | Path],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    refine: Path | None = None,
    limits: Limits | None = None,
    console: Console | None = None,
) -> None:
    """Serve galleries until SIGTERM or Ctrl-C; running requests are finished first.

    Args:
        locations: of galleries; each is read into memory before the first request.
        host: address to bind to.
        port: TCP port.
        refine: bundle of a refiner such as NFormer, trained on the features of the galleries' bundle.
        limits: bounds of what is accepted.
        console: where progress, the address and warnings are printed.

    Raises:
        InputError: for a location that holds no gallery, a gallery without any key, or a refiner of another bundle.
    """
    out = console or Console()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with ExitStack() as opened:
        galleries = [opened.enter_context(Gallery.open(location)) for location in locations]
        for location, gallery in zip(locations, galleries, strict=True):
            _require_key(location, gallery)
            out.print(f"gallery {escape(gallery.settings.name)}: {_load(gallery, out):,} items")
        refiners = {} if refine is None else {g.settings.id: NFormerReranker.open(refine, g) for g in galleries}
        if not is_loopback(host):
            out.print(f"[yellow]warning:[/yellow] {host} is reached from outside, {_PLAIN}")
        name = escape(f"[{host}]") if ":" in host else host
        out.print(f"http://{name}:{port}  (Ctrl-C ends)")
        uvicorn.run(
            create_app(galleries, limits, refiners),
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE,
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _load(gallery: Gallery, out: Console) -> int:
    with progress_bar("reading vectors", out) as report:
        return gallery.refresh(report)


def _require_key(location: str | Path, gallery: Gallery) -> None:
    if all(key.revoked for key in gallery.keys.list()):
        command = f"vireid keys create --gallery {shown(location)} --user NAME --role admin"
        raise InputError(f"gallery {shown(location)} has no API key: make one by {command}")
