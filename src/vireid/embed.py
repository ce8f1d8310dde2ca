"""What `vireid embed` does: files in, a Parquet table of vectors out, by parts that outlive a killed run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vireid.data.images import Progress
from vireid.data.tree import IMAGE_SUFFIXES
from vireid.embed_parts import Engine, Job, Part, model_file, on_threads
from vireid.errors import InputError
from vireid.files import alone, file_digest, replacing, require_file_place, write_text
from vireid.records import Modality

PART = 4096
"""Images of a part, which is the most that a killed process loses."""
_PARTS, _PLAN = "part-*.parquet", "plan.json"


def find_images(places: Iterable[Path]) -> list[Path]:
    """Return image files: files as given, folders searched below, sorted.

    Raises:
        InputError: for a place that does not exist, or when there is no image at all.
    """
    places = list(places)
    found: list[Path] = []
    for place in places:
        if place.is_dir():
            found += sorted(path for path in _files(place) if path.suffix.lower() in IMAGE_SUFFIXES)
        elif place.exists():
            found.append(place)
        else:
            raise InputError(f"{place}: no such file or folder, check the path")
    if not found:
        named, endings = ", ".join(map(str, places)), ", ".join(IMAGE_SUFFIXES)
        raise InputError(f"no images under {named}: name some that end in {endings}")
    return found


def _files(folder: Path) -> Iterator[Path]:
    """Walk below a folder, through links but no folder twice; what is hidden stays out."""
    seen = set[str]()
    for place, folders, names in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(place, name) for name in names if not name.startswith("."))


def embed_files(
    job: Job, places: Iterable[Path], out: Path, engine: Engine = on_threads, progress: Progress | None = None
) -> tuple[int, list[str]]:
    """Embed image files into a Parquet file with columns `path`, `modality`, `embedding` (float32 list of D).

    Parts of it lie in `OUT.parts` until all are there, and the same call goes on from them.

    Args:
        job: the model and how to run it.
        places: image files and folders.
        out: the Parquet file; files that cannot be read are listed in `OUT.skipped.csv`.
        engine: what embeds.
        progress: called with (images done, images in all).

    Returns:
        the number of embeddings written, and a sentence for each file that could not be read.

    Raises:
        InputError: when `out` is no place for a file, no file could be read, or `OUT.parts` belongs to another call
            or to one that still runs.
    """
    if out.is_dir():
        raise InputError(f"{out} is a folder: name a Parquet file in it, such as {out / 'vectors.parquet'}")
    require_file_place(out)
    paths = find_images(places)
    folder = out.with_name(f"{out.name}.parts")
    plan = _plan(job, paths)
    starts = range(0, len(paths), PART)
    parts = [Part(folder / f"part-{i:06d}.parquet", paths[start : start + PART]) for i, start in enumerate(starts)]
    with alone(folder, busy=f"another process is writing {folder}: wait for it, or name another --out"):
        try:
            _claim(folder, plan)
            pending = [part for part in parts if not part.file.is_file()]
            done = len(paths) - sum(len(part.paths) for part in pending)
            for count in engine(job, pending) if pending else ():
                done += count
                if progress is not None:
                    progress(done, len(paths))
        except BaseException:
            if not any(folder.glob(_PARTS)):
                _discard(folder)
            raise
        bad = _skipped(parts)
        if len(bad) < len(paths):
            _join(parts, job.modality, out)
            _list_skipped(out.with_name(f"{out.name}.skipped.csv"), bad)
        _discard(folder)
    if len(bad) == len(paths):
        raise InputError(f"none of {len(paths)} files could be read; the first: {bad[0]['reason']}")
    return len(paths) - len(bad), [row["reason"] for row in bad]


def _plan(job: Job, paths: list[Path]) -> dict[str, Any]:
    model = model_file(job)
    if not model.is_file():
        raise InputError(f"there is no model {model}: check the path")
    images = hashlib.sha256(os.fsencode(Path.cwd()))  # where relative paths start
    for path in paths:
        images.update(b"\0" + os.fsencode(path) + _state(path))
    return {
        "images": images.hexdigest(),
        "model": file_digest(model),
        "modality": str(job.modality),
        "batch size": job.batch_size,
        "precision": job.precision,
        "images per part": PART,
    }


def _state(path: Path) -> bytes:
    """Return what changes when a file does."""
    with suppress(OSError):  # whoever reads it says so
        status = path.stat()
        return f"\0{status.st_size} {status.st_mtime_ns}".encode()
    return b""


def _discard(folder: Path) -> None:
    """Delete the parts, and the folder unless it holds files that are not ours."""
    for pattern in (_PARTS, f".{_PARTS}.*.tmp", _PLAN):
        for file in folder.glob(pattern):
            file.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    """Begin in the folder, or go on with a run of the same plan; parts without a plan are not trusted."""
    file = folder / _PLAN
    if not file.is_file() or not any(folder.glob(_PARTS)):
        for part in folder.glob(_PARTS):
            part.unlink()
        write_text(file, json.dumps(plan, indent=2) + "\n")
        return
    other = json.loads(file.read_text(encoding="utf-8"))
    if changed := [name for name, value in plan.items() if other.get(name) != value]:
        raise InputError(
            f"{folder} holds an unfinished run with another {', another '.join(changed)}: "
            "repeat its command to finish it, or delete the folder to start over"
        )


def _skipped(parts: Sequence[Part]) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for part in parts:
        rows += pq.read_table(part.file, columns=["path", "reason"], filters=pc.field("reason").is_valid()).to_pylist()
    return rows


def _join(parts: Sequence[Part], modality: Modality, out: Path) -> None:
    embedding = pq.read_schema(parts[0].file).field("embedding")
    schema = pa.schema([("path", pa.string()), ("modality", pa.string()), embedding])
    with replacing(out) as temporary, pq.ParquetWriter(temporary, schema, use_dictionary=["modality"]) as writer:
        for part in parts:
            table = pq.read_table(part.file)
            good = table.filter(pc.is_null(table["reason"]))
            kinds = pa.array([str(modality)] * len(good), pa.string())
            writer.write_table(pa.table([good["path"], kinds, good["embedding"]], schema=schema))


def _list_skipped(file: Path, bad: list[dict[str, str]]) -> None:
    if not bad:
        file.unlink(missing_ok=True)
        return
    text = io.StringIO()
    table = csv.DictWriter(text, ["path", "reason"], lineterminator="\n")
    table.writeheader()
    table.writerows(bad)
    write_text(file, text.getvalue())
