"""`vireid ingest`: parse, call, print."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from vireid.cli.options import Case, GalleryOption, console, use_of
from vireid.errors import InputError

if TYPE_CHECKING:
    from vireid.ingest import Report, Tally


def ingest(
    source: Annotated[Path, typer.Argument(help="video, folder of crops, or manifest")],
    gallery: GalleryOption,
    camera: Annotated[
        list[str] | None, typer.Option("--camera", help="name of the camera; for a manifest CAMID=NAME, repeated")
    ] = None,
    modality: Annotated[str, typer.Option(help="visible, infrared, or auto: by whether the channels differ")] = "auto",
    start: Annotated[str | None, typer.Option(help="ISO 8601 time with zone of the first frame")] = None,
    detector: Annotated[str, typer.Option(help="hog, torchvision:MODEL, or an .onnx file")] = "hog",
    weights: Annotated[Path | None, typer.Option(help="weights of a torchvision detector")] = None,
    min_height: Annotated[int | None, typer.Option(help="smallest person in pixels; default: a ninth")] = None,
    every: Annotated[int, typer.Option(help="look at each n-th frame only")] = 1,
    crops_per_track: Annotated[int, typer.Option(help="pictures to keep of a passage")] = 4,
    max_frames: Annotated[int | None, typer.Option(help="stop after so many frames")] = None,
    with_persons: Annotated[bool, typer.Option("--with-persons", help="keep a manifest's pids as persons")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="forget how far an earlier run came")] = False,
    purpose: Annotated[str | None, typer.Option(help="for the audit log; default: the gallery's")] = None,
    case: Case = "",
) -> None:
    """Find the persons in a video, follow them, and store the best pictures of each; killed, it goes on where it was.

    Examples: `vireid ingest vtest.avi --camera gate --modality visible --gallery station`,
    `vireid ingest night.mp4 --camera yard --start 2026-05-03T21:00:00+02:00 --detector yolo.onnx --gallery station`,
    `vireid ingest crops/ --camera gate --modality infrared --gallery station`
    """
    from vireid.gallery import Gallery
    from vireid.gallery.database import shown

    try:
        from vireid.ingest import Plan
        from vireid.ingest import ingest as run
    except ModuleNotFoundError as error:
        raise InputError(f"ingest needs {error.name}: pip install '.[video]' in the checkout") from error

    began = time.monotonic()
    with Gallery.open(gallery) as target:
        plan = Plan.of(
            camera=tuple(camera or ()),
            modality=modality,
            start=start,
            detector=detector,
            weights=weights,
            min_height=min_height,
            every=every,
            crops_per_track=crops_per_track,
            max_frames=max_frames,
            with_persons=with_persons,
            restart=restart,
            use=use_of(target.settings.purpose if purpose is None else purpose, case),
        )
        with _progress() as report:
            outcome = run(target, source, plan, report=report)
    for notice in outcome.notices:
        console.print(f"[yellow]note:[/yellow] {escape(notice)}", soft_wrap=True, highlight=False)
    console.print(_summary(outcome.tally, time.monotonic() - began))
    console.print(f"next: vireid serve --gallery {escape(shown(gallery))}", soft_wrap=True, highlight=False)


def _summary(tally: Tally, seconds: float) -> Table:
    columns = {
        "frames or files": tally.frames,
        "damaged": tally.damaged,
        "detections": tally.detections,
        "tracks": tally.tracks,
        "crops kept": tally.items,
        "a second": f"{tally.frames / seconds:.1f}",
    }
    table = Table(*columns)
    table.add_row(*map(str, columns.values()))
    return table


@contextmanager
def _progress() -> Iterator[Report]:
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    counts = "{task.fields[found][0]} tracks, {task.fields[found][1]} crops, {task.fields[found][2]} damaged"
    with Progress(TextColumn("ingest"), *columns, TextColumn(counts), console=console, transient=True) as progress:
        task = progress.add_task("ingest", total=None, found=(0, 0, 0))

        def report(done: int, total: int, tally: Tally) -> None:
            found = (tally.tracks, tally.items, tally.damaged)
            progress.update(task, completed=done, total=total or None, found=found)

        yield report
