"""What `vireid ingest` does: whatever the source is, into the gallery and into its log."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from vireid.data.tree import IMAGE_SUFFIXES
from vireid.errors import InputError
from vireid.files import require_utf8
from vireid.gallery import Gallery, Use
from vireid.gallery.types import utc_now
from vireid.ingest.detect import Detector
from vireid.ingest.folder import folder_sources, ingest_folder, ingest_manifest, manifest_sources
from vireid.ingest.footage import ingest_video, open_video
from vireid.ingest.plan import Outcome, Plan, Report
from vireid.ingest.writer import Embed


def check_source(source: Path, plan: Plan) -> None:
    """Refuse what cannot be ingested, before anything is made for it.

    Raises:
        InputError: for a source that is missing or cannot be read, or options that do not fit it.
    """
    _require_source(source)
    if _is_manifest(source):
        manifest_sources(source, plan)
    elif source.is_dir():
        folder_sources(source, plan)
    else:
        with open_video(source, plan):
            pass


def ingest(
    gallery: Gallery,
    source: Path,
    plan: Plan,
    *,
    detector: Detector | None = None,
    embed: Embed | None = None,
    report: Report | None = None,
) -> Outcome:
    """Store the persons that a source shows, and log the run, also one that fails on its way.

    Killed at any moment and run again with the same options, it stores what an undisturbed run would have stored.

    Args:
        gallery: where to.
        source: a video; a folder of crops; a manifest, or the folder that holds it as `manifest.csv`.
        plan: how.
        detector: in place of the plan's.
        embed: in place of the gallery's bundle.
        report: told of progress.

    Returns:
        the counts, and what the user should know.

    Raises:
        InputError: for a source, an option or a gallery that does not fit.
    """
    _require_source(source)
    use = plan.use or Use(purpose=gallery.settings.purpose, case="")
    started, outcome = utc_now(), None
    try:
        if _is_manifest(source):
            outcome = ingest_manifest(gallery, source, plan, embed=embed, report=report)
        elif source.is_dir():
            outcome = ingest_folder(gallery, source, plan, embed=embed, report=report)
        else:
            outcome = ingest_video(gallery, source, plan, detector=detector, embed=embed, report=report)
    finally:
        counts = {} if outcome is None else asdict(outcome.tally)
        gallery.audit.append(
            "ingest", use, started=started, details={"source": str(source), "complete": outcome is not None, **counts}
        )
    return outcome


def _require_source(source: Path) -> None:
    if not source.exists():
        raise InputError(f"there is no file or folder {source} to ingest: check the path")
    require_utf8(source.resolve())
    if source.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(f"{source} is a single picture: name the folder that it lies in, or a video")


def _is_manifest(source: Path) -> bool:
    return source.suffix.lower() == ".csv" or (source / "manifest.csv").is_file()
