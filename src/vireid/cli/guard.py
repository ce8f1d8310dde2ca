"""`vireid audit`, `vireid keys`, `vireid gallery cameras`: who may do what, and who has done what."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from vireid.cli.options import Case, GalleryOption, Purpose, console, plain, use_of
from vireid.errors import InputError
from vireid.options import checked

audit_app = typer.Typer(help="Read and check the audit log of a gallery.", no_args_is_help=True)
keys_app = typer.Typer(help="API keys of a gallery's service.", no_args_is_help=True)
cameras_app = typer.Typer(help="The camera register of a gallery.", no_args_is_help=True)


@audit_app.command("verify")
def audit_verify(
    gallery: Annotated[str | None, typer.Option("--gallery", help="gallery, also one that was deleted")] = None,
    file: Annotated[Path | None, typer.Option(help="an exported log in place of a gallery's")] = None,
    noted: Annotated[str | None, typer.Option(help="a hash noted earlier, which the log must still hold")] = None,
) -> None:
    """Check that no entry was changed, removed or reordered; exit code 1 names the first broken entry.

    Example: `vireid audit verify --gallery station --noted 81d297…`
    """
    from vireid.gallery import AuditLog, verify_lines

    if (gallery is None) == (file is None):
        raise InputError("name a gallery by --gallery or an exported log by --file, one of the two")
    result = AuditLog.beside(gallery).verify(noted) if gallery else verify_lines(_lines(file), noted)
    if result.broken is not None:
        console.print(f"[red]entry {result.broken} is broken[/red]: the {result.entries} before it are in order")
        raise typer.Exit(1)
    if not result.holds_noted:
        console.print(
            f"[red]cut short[/red]: none of {result.entries} entries has the hash {escape(str(noted))}", soft_wrap=True
        )
        raise typer.Exit(1)
    pruned = f", {result.pruned} older ones pruned" if result.pruned else ""
    console.print(f"[green]{result.entries} entries in order[/green]{pruned}, head {result.head}", soft_wrap=True)


@audit_app.command("export")
def audit_export(
    gallery: GalleryOption,
    out: Annotated[Path | None, typer.Option("--out", help="file of JSON lines; default: standard output")] = None,
) -> None:
    """Write the log as JSON lines, one entry per line, with its hashes.

    Example: `vireid audit export --gallery station --out audit.jsonl`
    """
    from vireid.files import replacing
    from vireid.gallery import AuditLog

    log = AuditLog.beside(gallery)
    if out is None:
        log.export(sys.stdout)
        return
    with replacing(out, private=True) as temporary, temporary.open("w", encoding="utf-8") as stream:
        count = log.export(stream)
    console.print(f"{count} entries in {escape(str(out))}", soft_wrap=True)


@audit_app.command("begin")
def audit_begin(gallery: GalleryOption, purpose: Purpose = "", case: Case = "") -> None:
    """Begin a log anew for a gallery whose log is lost; its first entry says so, and which entry is missing.

    Example: `vireid audit begin --gallery station --purpose "disk 2 failed"`
    """
    from vireid.gallery import Gallery

    with Gallery.open(gallery, log_lost=use_of(purpose, case)) as opened:
        head = opened.audit.verify().head
    console.print(f"the log goes on, head {head}", soft_wrap=True, highlight=False)


@audit_app.command("prune")
def audit_prune(
    gallery: GalleryOption,
    days: Annotated[float, typer.Option(help="keep the entries of so many days, 184 or more")],
    purpose: Purpose = "retention",
    case: Case = "",
) -> None:
    """Delete the log's oldest entries; an entry says so, and the rest still verifies. Export the log before.

    Example: `vireid audit prune --gallery station --days 400`
    """
    from vireid.gallery import AuditLog

    entry = AuditLog.beside(gallery).prune(use_of(purpose, case), days)
    if entry is None:
        console.print(f"no entry is older than {days:g} days")
        return
    count = entry.entry["details"]["entries"]
    console.print(f"{count} entries pruned, audit entry {entry.hash}", soft_wrap=True, highlight=False)


@keys_app.command("create")
def keys_create(
    gallery: GalleryOption,
    user: Annotated[str, typer.Option(help="the person who will hold the key")],
    role: Annotated[str, typer.Option(help="viewer, operator or admin")] = "viewer",
) -> None:
    """Make a key; it is shown once.

    Example: `vireid keys create --gallery station --user "A. Meyer" --role operator`
    """
    from vireid.gallery import Gallery

    with Gallery.open(gallery) as opened:
        key, secret = opened.keys.create(user, role)
    console.print(f"{key.role} key {key.id} for {escape(user)}; note it now, it is not shown again:", soft_wrap=True)
    console.print(secret, soft_wrap=True, highlight=False)


@keys_app.command("list")
def keys_list(gallery: GalleryOption) -> None:
    """List the keys, without their secrets.

    Example: `vireid keys list --gallery station`
    """
    from vireid.gallery import Gallery

    table = Table("key", "user", "role", "created, UTC", "revoked, UTC")
    with Gallery.open(gallery) as opened:
        for key in opened.keys.list():
            revoked = f"{key.revoked:%Y-%m-%d %H:%M}" if key.revoked else ""
            table.add_row(key.id, plain(key.user), key.role, f"{key.created:%Y-%m-%d %H:%M}", revoked)
    console.print(table)


@keys_app.command("revoke")
def keys_revoke(
    gallery: GalleryOption, key: Annotated[str, typer.Argument(help="id of the key, see `vireid keys list`")]
) -> None:
    """End a key at once and for good.

    Example: `vireid keys revoke 29a89cabb9d8 --gallery station`
    """
    from vireid.gallery import Gallery

    with Gallery.open(gallery) as opened:
        revoked = opened.keys.revoke(key)
    console.print(f"key {revoked.id} of {plain(revoked.user)} is revoked", soft_wrap=True)


@cameras_app.command("list")
def cameras_list(gallery: GalleryOption) -> None:
    """Show the camera register.

    Example: `vireid gallery cameras list --gallery station`
    """
    from vireid.gallery import Gallery

    table = Table("camera", "place", "purpose", "legal basis", "retention")
    with Gallery.open(gallery) as opened:
        for camera in opened.cameras.list():
            days = "the gallery's" if camera.retention_days is None else f"{camera.retention_days:g} days"
            missing = "[yellow]describe it[/yellow]"
            texts = (plain(text) or missing for text in (camera.place, camera.purpose, camera.legal_basis))
            table.add_row(plain(camera.id), *texts, days)
    console.print(table)


@cameras_app.command("describe")
def cameras_describe(
    camera: Annotated[str, typer.Argument(help="id of the camera")],
    gallery: GalleryOption,
    place: Annotated[str | None, typer.Option(help="where it stands")] = None,
    purpose: Annotated[str | None, typer.Option(help="what it films for")] = None,
    legal_basis: Annotated[str | None, typer.Option(help="on what legal basis")] = None,
    retention_days: Annotated[str | None, typer.Option(help="days, or none: as long as the gallery's")] = None,
) -> None:
    """Enter a camera in the register, or change what is said of it; what is left out stays as it is.

    Example: `vireid gallery cameras describe gate --gallery station --place "north gate" --purpose "lost persons"
    --legal-basis "GDPR Art. 6(1)(e)" --retention-days 3`
    """
    from vireid.gallery import Camera, Gallery

    told = {"place": place, "purpose": purpose, "legal_basis": legal_basis, "retention_days": retention_days}
    given: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    if retention_days == "none":
        given["retention_days"] = None
    with Gallery.open(gallery) as opened:
        known = next((entry.model_dump() for entry in opened.cameras.list() if entry.id == camera), {"id": camera})
        opened.cameras.put(checked(Camera, known | given, "cannot use"))
    console.print(f"camera {escape(camera)} is in the register", soft_wrap=True)


def _lines(file: Path | None) -> Iterator[str]:
    if file is None or not file.is_file():
        raise InputError(f"there is no exported log {file}: check the path")
    with file.open(encoding="utf-8") as lines:
        try:
            yield from lines
        except UnicodeDecodeError:
            raise InputError(f"{file} is no exported log: name a file of vireid audit export") from None
