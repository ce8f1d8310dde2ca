"""`vireid gallery`, `vireid calibrate`: parse, call, print."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from vireid.cli.options import (
    Case,
    DataOption,
    GalleryOption,
    Purpose,
    console,
    figure_option,
    plain,
    use_of,
    writable,
    write_figure,
)
from vireid.errors import BusyError, InputError
from vireid.files import write_text
from vireid.options import checked
from vireid.progress import progress_bar

if TYPE_CHECKING:
    from vireid.gallery import Receipt, SearchResult

gallery_app = typer.Typer(help="Make, fill, search and clear a gallery of person crops.", no_args_is_help=True)

BundleOption = Annotated[Path | None, typer.Option("--bundle", help="bundle that embeds its pictures")]
Cameras = Annotated[list[str] | None, typer.Option("--camera", help="camera, repeated for several")]
Tracks = Annotated[list[str] | None, typer.Option("--track", help="track, repeated for several")]
Persons = Annotated[list[str] | None, typer.Option("--person", help="person label, repeated for several")]
Start = Annotated[str | None, typer.Option(help="earliest time, ISO 8601 with zone")]
End = Annotated[str | None, typer.Option(help="latest time, ISO 8601 with zone")]
ReceiptOption = Annotated[
    Path | None, typer.Option("--receipt", help="also write the receipt to this JSON file", callback=writable)
]


@gallery_app.command()
def create(
    gallery: GalleryOption,
    bundle: BundleOption = None,
    dim: Annotated[int | None, typer.Option(help="length of the vectors, in place of a bundle")] = None,
    name: Annotated[str | None, typer.Option(help="for people; default: the folder's name")] = None,
    purpose: Annotated[str, typer.Option(help="what the gallery is for")] = "",
    retention_days: Annotated[float | None, typer.Option(help="delete older items at `retain`; default: keep")] = None,
    dtype: Annotated[str, typer.Option(help="float32 or float16, which halves the space")] = "float32",
    engine: Annotated[str, typer.Option(help="flat, or milvus:URI")] = "flat",
    require_purpose: Annotated[bool, typer.Option(help="refuse searches without purpose and case")] = True,
) -> None:
    """Make an empty gallery in a folder, or in PostgreSQL.

    Example: `vireid gallery create --gallery station --bundle best.safetensors --retention-days 3`
    """
    from vireid.gallery import Gallery
    from vireid.gallery.database import shown

    options: dict[str, Any] = {"dtype": dtype, "engine": engine, "require_purpose": require_purpose}
    options |= {"purpose": purpose, "retention_days": retention_days, "name": name}
    with Gallery.create(gallery, bundle=bundle, dim=dim, **options) as made:
        console.print(
            escape(f"gallery {made.settings.name} at {shown(gallery)}, vectors of {made.settings.dim}"), soft_wrap=True
        )
    console.print(f"next: vireid ingest VIDEO --camera gate --gallery {escape(shown(gallery))}", soft_wrap=True)


@gallery_app.command()
def configure(
    gallery: GalleryOption,
    name: Annotated[str | None, typer.Option(help="for people")] = None,
    purpose: Annotated[str | None, typer.Option(help="what the gallery is for")] = None,
    retention_days: Annotated[str | None, typer.Option(help="days until `retain` deletes, or none: keep")] = None,
    require_purpose: Annotated[bool | None, typer.Option(help="refuse searches without purpose and case")] = None,
) -> None:
    """Change a gallery's settings; what is left out stays, and the audit log keeps what changed.

    A bundle that has moved is named by `vireid gallery add --bundle`.

    Example: `vireid gallery configure --gallery station --retention-days 3`
    """
    from vireid.gallery import Gallery

    told = {"name": name, "purpose": purpose, "retention_days": retention_days, "require_purpose": require_purpose}
    given: dict[str, Any] = {setting: value for setting, value in told.items() if value is not None}
    if not given:
        raise InputError("say what to change: --name, --purpose, --retention-days or --require-purpose")
    if retention_days == "none":
        given["retention_days"] = None
    with Gallery.open(gallery) as opened:
        changed = opened.configure(**given)
    console.print(f"gallery {plain(changed.name)} is configured", soft_wrap=True, highlight=False)


@gallery_app.command()
def add(
    source: Annotated[Path, typer.Argument(help="folder of person crops, or a manifest")],
    gallery: GalleryOption,
    bundle: BundleOption = None,
    camera: Annotated[list[str] | None, typer.Option(help="name of the camera; for a manifest CAMID=NAME")] = None,
    modality: Annotated[str, typer.Option(help="visible, infrared, or auto: by whether the channels differ")] = "auto",
    start: Annotated[str | None, typer.Option(help="ISO 8601 time with zone of the pictures")] = None,
) -> None:
    """Store pictures that are cut out already, one person each; `--bundle` makes the gallery where there is none.

    Example: `vireid gallery add crops/ --gallery station --bundle best.safetensors --camera gate --modality visible`
    """
    from vireid.gallery import Gallery
    from vireid.gallery.database import shown

    try:
        from vireid.ingest import Plan, check_source, ingest
    except ModuleNotFoundError as error:
        raise InputError(f"gallery add needs {error.name}: pip install '.[video]' in the checkout") from error
    plan = Plan.of(camera=tuple(camera or ()), modality=modality, start=start)
    if bundle is not None and not Gallery.exists(gallery):
        check_source(source, plan)
        Gallery.create(gallery, bundle=bundle).close()
    with Gallery.open(gallery) as target, progress_bar("embedding", console) as report:
        if bundle is not None:
            target.configure(bundle=bundle)
        outcome = ingest(target, source, plan, report=lambda done, total, _: report(done, total))
    for notice in outcome.notices:
        console.print(f"[yellow]note:[/yellow] {escape(notice)}", soft_wrap=True, highlight=False)
    counts = outcome.tally
    console.print(f"{counts.items} items in {escape(shown(gallery))}, {counts.damaged} files skipped", soft_wrap=True)


@gallery_app.command()
def search(
    gallery: GalleryOption,
    image: Annotated[Path | None, typer.Argument(help="picture of one person, cut out")] = None,
    item: Annotated[str | None, typer.Option(help="search with a stored item in place of a picture")] = None,
    modality: Annotated[str | None, typer.Option(help="sensor of the picture, infrared by default")] = None,
    top: Annotated[int, typer.Option(help="tracks to show")] = 20,
    purpose: Purpose = "",
    case: Case = "",
    camera: Cameras = None,
    among: Annotated[str | None, typer.Option(help="only visible, or only infrared items")] = None,
    start: Start = None,
    end: End = None,
    person: Persons = None,
    rerank: Annotated[str | None, typer.Option(help="k-reciprocal, or parts: the method's own distance")] = None,
    refine: Annotated[Path | None, typer.Option(help="bundle of a refiner such as nformer, to re-rank with")] = None,
    rerank_top: Annotated[int | None, typer.Option(help="tracks that are re-ranked, 100 by default")] = None,
    below: Annotated[bool, typer.Option("--below", help="also show candidates below the threshold")] = False,
    sheet: Annotated[Path | None, typer.Option(help="contact sheet to write, .png or .html")] = None,
) -> None:
    """Rank the tracks that resemble a person: candidates for people to check, never an identification.

    Example: `vireid gallery search night.jpg --gallery station --modality infrared --top 20
    --purpose "lost child" --case 2026-117 --among visible --sheet sheet.html`
    """
    from vireid.gallery import Filter, Gallery, NFormerReranker, Query, contact_sheet, require_sheet_place
    from vireid.gallery.search import SearchOptions
    from vireid.gallery.types import check_use

    if sheet is not None:
        require_sheet_place(sheet)
    if (image is None) == (item is None):
        raise InputError("search with a picture or with --item ID, one of the two")
    if rerank is not None and refine is not None:
        raise InputError("--refine re-ranks already: leave --rerank out")
    if item is not None and modality is not None:
        raise InputError("--modality is of a picture, a stored item has its own: leave it out")
    if rerank_top is not None and rerank is None and refine is None:
        raise InputError("--rerank-top would do nothing without --rerank or --refine: leave it out")
    conditions = {"cameras": camera, "modality": among, "start": start, "end": end, "persons": person}
    where, use = checked(Filter, conditions, "cannot use"), use_of(purpose, case)
    options = SearchOptions(top, where, rerank, SearchOptions.rerank_top if rerank_top is None else rerank_top, below)
    with Gallery.open(gallery) as opened:
        check_use(use, opened.settings.require_purpose)
        if item is not None:
            query = Query.from_item(opened, item)
        else:
            query = Query.from_image(str(image), modality or "infrared", opened.embedder())
        if refine is not None:
            options = replace(options, rerank=NFormerReranker.open(refine, opened))
        with progress_bar("reading vectors", console) as report:
            opened.refresh(report)
        (result,) = opened.search_many([query], use=use, **vars(options))
        if sheet is not None:
            contact_sheet(opened, result, sheet, use)
    _print_candidates(result)


@gallery_app.command()
def delete(
    gallery: GalleryOption,
    item: Annotated[list[str] | None, typer.Option(help="item, repeated for several")] = None,
    camera: Cameras = None,
    track: Tracks = None,
    person: Persons = None,
    start: Start = None,
    end: End = None,
    everything: Annotated[bool, typer.Option("--everything", help="the whole gallery; the audit log stays")] = False,
    purpose: Purpose = "",
    case: Case = "",
    receipt: ReceiptOption = None,
) -> None:
    """Delete items by id, or those that meet every given condition, or with `--everything` the gallery itself.

    Example: `vireid gallery delete --gallery station --camera gate --end 2026-05-01T00:00:00Z --purpose expired`
    """
    from vireid.gallery import Filter, Gallery

    conditions = {"cameras": camera, "tracks": track, "persons": person, "start": start, "end": end}
    where, use = checked(Filter, conditions, "cannot use"), use_of(purpose, case)
    if everything and (item or not where.is_empty):
        raise InputError("--everything deletes the gallery: leave the conditions out, or --everything")
    if item and not where.is_empty:
        raise InputError("--item names what to delete: leave the other conditions out, or --item")
    if everything:
        _print_receipt(Gallery.destroy(gallery, use), receipt)
        return
    with Gallery.open(gallery) as opened:
        which: dict[str, Any] = {"ids": item} if item else {"where": where}
        _print_receipt(opened.delete(use, **which), receipt)


@gallery_app.command()
def erase(
    gallery: GalleryOption,
    person: Annotated[str | None, typer.Option(help="person label")] = None,
    track: Annotated[str | None, typer.Option(help="track")] = None,
    camera: Annotated[str | None, typer.Option(help="camera")] = None,
    purpose: Purpose = "",
    case: Case = "",
    receipt: ReceiptOption = None,
) -> None:
    """Delete all that is stored of one person, track or camera, and give a receipt.

    Example: `vireid gallery erase --gallery station --person 17 --case "request 4" --receipt receipt.json`
    """
    from vireid.gallery import Gallery

    with Gallery.open(gallery) as opened:
        _print_receipt(opened.erase(use_of(purpose, case), person=person, track=track, camera=camera), receipt)


@gallery_app.command()
def retain(gallery: GalleryOption, receipt: ReceiptOption = None) -> None:
    """Delete what is past its retention; run it daily.

    Example: `vireid gallery retain --gallery station`
    """
    from vireid.gallery import Gallery, Use

    with Gallery.open(gallery) as opened:
        _print_receipt(opened.retain(Use(purpose="retention", case="")), receipt)


@gallery_app.command()
def export(
    gallery: GalleryOption,
    out: Annotated[Path, typer.Option("--out", help="new folder, or .zip file")],
    person: Annotated[str | None, typer.Option(help="person label")] = None,
    track: Annotated[str | None, typer.Option(help="track")] = None,
    purpose: Purpose = "",
    case: Case = "",
) -> None:
    """Write all that is stored of one person or track; tracks are candidates until two people have confirmed them.

    Example: `vireid gallery export --gallery station --person 17 --out 17.zip --purpose access --case "request 4"`
    """
    from vireid.gallery import Gallery, export_subject

    with Gallery.open(gallery) as opened:
        written = export_subject(opened, out, use_of(purpose, case), person=person, track=track)
    console.print(f"exported to {escape(str(written))}", soft_wrap=True)


@gallery_app.command()
def stats(gallery: GalleryOption) -> None:
    """Show what a gallery holds.

    Example: `vireid gallery stats --gallery station`
    """
    from vireid.gallery import Gallery

    with Gallery.open(gallery) as opened:
        found, settings, calibration = opened.stats(), opened.settings, opened.calibration
    table = Table("camera", "items", "tracks", "first, UTC", "last, UTC", "in the register")
    for entry in found.cameras:
        times = (f"{time:%Y-%m-%d %H:%M}" if time else "unknown" for time in (entry.first, entry.last))
        known = "yes" if entry.camera.described else "[yellow]describe it[/yellow]"
        table.add_row(plain(entry.camera.id), str(entry.items), str(entry.tracks), *times, known)
    console.print(table)
    modalities = ", ".join(f"{count} {name}" for name, count in sorted(found.by_modality.items()))
    console.print(
        f"{found.items} items ({modalities or 'none'}), {found.tracks} tracks, {found.persons} labelled persons, "
        f"{found.bytes_on_disk / 1e6:.1f} MB, engine {escape(settings.engine)}, "
        f"{'calibrated' if calibration else 'not calibrated'}",
        soft_wrap=True,
        highlight=False,
    )


@gallery_app.command()
def maintain(gallery: GalleryOption) -> None:
    """Give the space of deleted items back to the disk, and remove what they left in the files.

    Example: `vireid gallery maintain --gallery station`
    """
    from vireid.gallery import Gallery

    with Gallery.open(gallery) as opened:
        purged = opened.maintain()
        console.print(f"{opened.stats().bytes_on_disk / 1e6:.1f} MB on disk")
    if not purged:
        raise BusyError(
            "another process held the files, which may still hold what was deleted: maintain it again later"
        )


def calibrate(
    gallery: GalleryOption,
    root: Annotated[Path, typer.Option("--root", help="labelled pictures: several people before several cameras")],
    data: DataOption = "manifest",
    target_fpr: Annotated[float, typer.Option(help="share of pairs of two people that may pass")] = 1e-3,
    figure: Annotated[Path | None, figure_option("draw the ROC into this .png or .svg")] = None,
) -> None:
    """Learn from labelled pictures what a gallery's similarities mean, and when to say that there is no match.

    Pictures of the split `train` are left out.

    Example: `vireid calibrate --gallery station --root labelled/ --target-fpr 0.001 --figure roc.png`
    """
    from vireid.data import open_dataset
    from vireid.gallery import Gallery
    from vireid.gallery import calibrate as fit
    from vireid.gallery.figures import roc_figure

    with Gallery.open(gallery) as opened, progress_bar("embedding", console) as report:
        result = fit(opened, open_dataset(data, root), target_fpr=target_fpr, progress=report)
    table = Table("pair", "genuine", "impostor", "EER", f"found at {target_fpr:g} false")
    for name, pair in sorted(result.pairs.items()):
        table.add_row(name, str(pair.num_genuine), str(pair.num_impostor), f"{pair.eer:.1%}", f"{pair.tpr:.1%}")
    console.print(table)
    if figure is not None:
        write_figure(roc_figure(result), figure)


def _print_candidates(result: SearchResult) -> None:
    from vireid.gallery.wording import probability, strangers, when

    console.print(result.message, soft_wrap=True)
    if not result.candidates:
        return
    scored = any(c.score is not None for c in result.candidates)
    scores = ("score", "strangers as alike") if scored else ()
    table = Table("rank", *scores, "camera", "time", Column("track, item", overflow="fold"), "verified")
    for c in result.candidates:
        score = "not calibrated" if c.score is None else probability(c.score)
        alike = "" if c.false_positive_rate is None else strangers(c.false_positive_rate)
        camera = f"{plain(c.item.camera)}, {c.item.modality}"
        ids = plain("\n".join(dict.fromkeys((c.track.id, c.item.id))))
        table.add_row(str(c.rank), *((score, alike) if scored else ()), camera, when(c.item.time), ids, c.state)
    console.print(table)


def _print_receipt(receipt: Receipt, file: Path | None) -> None:
    console.print(
        f"{receipt.items} items, {receipt.crops} crops and {receipt.tracks} tracks deleted; {receipt.remarks}\n"
        f"audit entry {receipt.entry}",
        soft_wrap=True,
        highlight=False,
    )
    if file is not None:
        write_text(file, receipt.model_dump_json(indent=1), private=True)
