"""`vireid gallery confirm|reject|confirmations`: people decide whether a candidate is the person asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Column, Table

from vireid.cli.options import Case, GalleryOption, Purpose, console, plain, use_of
from vireid.errors import InputError

Track = Annotated[str, typer.Argument(help="track of the candidate, as `vireid gallery search` shows it")]
Picture = Annotated[Path | None, typer.Argument(help="picture that was searched with")]
Stored = Annotated[str | None, typer.Option("--item", help="stored item that was searched with")]


def confirm(
    track: Track,
    gallery: GalleryOption,
    image: Picture = None,
    item: Stored = None,
    purpose: Purpose = "",
    case: Case = "",
) -> None:
    """Say that a candidate of a search shows the person asked for; it is confirmed when a second person says so too.

    Example: `vireid gallery confirm 'vtest.avi#2b91c9461614/5' night.jpg --gallery station
    --purpose "lost child" --case 2026-117`
    """
    _decide("confirm", gallery, track, image, item, purpose, case)


def reject(
    track: Track,
    gallery: GalleryOption,
    image: Picture = None,
    item: Stored = None,
    purpose: Purpose = "",
    case: Case = "",
) -> None:
    """Say that a candidate of a search shows somebody else, for good.

    Example: `vireid gallery reject 'vtest.avi#2b91c9461614/5' night.jpg --gallery station
    --purpose "lost child" --case 2026-117`
    """
    _decide("reject", gallery, track, image, item, purpose, case)


def confirmations(
    gallery: GalleryOption,
    case: Annotated[str | None, typer.Option(help="only those of this case")] = None,
    state: Annotated[
        Literal["candidate", "confirmed once", "confirmed", "rejected"] | None, typer.Option(help="only those so far")
    ] = None,
) -> None:
    """List the candidates that people have looked at, and what they said.

    Example: `vireid gallery confirmations --gallery station --case 2026-117 --state confirmed`
    """
    from vireid.gallery import Gallery

    table = Table("case", Column("track", overflow="fold"), "state", "confirmed by", "rejected by", "changed")
    with Gallery.open(gallery) as opened:
        for found in opened.confirmations.list(case=case, state=state):
            people = (", ".join(found.verified_by), found.rejected_by or "")
            texts = map(plain, (found.case, found.track, found.state, *people))
            table.add_row(*texts, f"{found.changed:%Y-%m-%d %H:%M}")
    console.print(table)


def _decide(
    decision: Literal["confirm", "reject"],
    gallery: str,
    track: str,
    image: Path | None,
    item: str | None,
    purpose: str,
    case: str,
) -> None:
    from vireid.gallery import Gallery, Query, image_fingerprint

    if (image is None) == (item is None):
        raise InputError("name the picture that was searched with, or --item ID, one of the two")
    use = use_of(purpose, case)
    with Gallery.open(gallery) as opened:
        query = image_fingerprint(image) if image else Query.from_item(opened, str(item)).fingerprint
        proposed = opened.confirmations.propose(query, track, use)
        decided = getattr(opened.confirmations, decision)(proposed.id, use)
    people = " and ".join(decided.verified_by) if decision == "confirm" else decided.rejected_by
    rest = ": a second person must confirm it" if decided.state == "confirmed once" else ""
    console.print(f"track {plain(track)} is {decided.state}, by {plain(people)}{rest}", soft_wrap=True)
