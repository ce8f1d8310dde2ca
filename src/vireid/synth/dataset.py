"""Write a synthetic data set: the same definition gives the same bytes, whatever the number of processes."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from vireid.errors import InputError
from vireid.files import alone, require_utf8
from vireid.progress import progress_bar
from vireid.records import RENDERED
from vireid.synth.difficulty import PRESETS, Difficulty, Preset
from vireid.synth.layouts import LAYOUTS, Item
from vireid.synth.shot import take

VERSION = 2
"""Raised when the same definition would render other pixels."""

_CHUNK = 48


class _Written(NamedTuple):
    digest: str
    keypoints: NDArray[np.float32]


def write_dataset(
    out: str | Path,
    *,
    layout: str = "manifest",
    preset: str = "synthetic-v1",
    ids: int | None = None,
    seed: int | None = None,
    difficulty: Difficulty | None = None,
    workers: int | None = None,
    console: Console | None = None,
) -> Path:
    """Render a data set into a new folder, or reuse the folder if it already holds this very data set.

    Args:
        out: folder to make; it appears when it is complete.
        layout: `manifest`, `sysu_mm01`, `regdb` or `llcm`.
        preset: name in `PRESETS`: counts and difficulty.
        ids: identities in all; default the preset's (for the other layouts the real data set's).
        seed: default the preset's.
        difficulty: replaces the preset's.
        workers: processes; default one per core.
        console: where the progress bar goes; None shows none.

    Returns:
        The folder.

    Raises:
        InputError: for an unknown layout or preset, too few identities, a seed or a number of workers that cannot be,
            a folder that holds something else, or one whose name is not UTF-8.
    """
    require_utf8(out)
    folder = Path(out).expanduser()
    if folder.name in ("", ".."):
        raise InputError(f"--out {out}: name a new folder, such as {folder / 'synthetic'}")
    if seed is not None and seed < 0:
        raise InputError(f"--seed {seed}: use 0 or more")
    if workers is not None and workers < 1:
        raise InputError(f"--workers {workers}: use 1 or more")
    chosen = _preset(layout, preset, seed, difficulty)
    shares = LAYOUTS[layout].proportions or chosen
    if ids is not None and ids < 4:
        raise InputError(f"a synthetic data set of {ids} identities cannot be split: ask for --ids 4 or more")
    splits = {split: pids for split, pids in shares.split_ids(ids).items() if len(pids)}
    counts = {split: len(pids) for split, pids in splits.items()}
    card = {"version": VERSION, "layout": layout, "preset": preset, "ids": counts, "definition": asdict(chosen)}
    digest = hashlib.sha256(json.dumps(card, sort_keys=True).encode()).hexdigest()[:16]
    card["hash"] = digest
    if _holds(folder, digest):
        return folder
    items = list(LAYOUTS[layout].plan(chosen, splits))
    with alone(folder.parent, waiting=f"another process renders into {folder.parent}: waiting for it") as held:
        for left in folder.parent.glob(f".{glob.escape(folder.name)}.*.tmp") if held else ():
            shutil.rmtree(left, ignore_errors=True)
        if not _holds(folder, digest):
            _write(folder, items, layout, chosen, card, workers or os.cpu_count() or 1, console)
    return folder


def _preset(layout: str, name: str, seed: int | None, difficulty: Difficulty | None) -> Preset:
    if layout not in LAYOUTS:
        raise InputError(f"unknown layout {layout!r}: use {', '.join(LAYOUTS)}")
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: use {', '.join(PRESETS)}")
    preset = PRESETS[name]
    return replace(
        preset,
        seed=preset.seed if seed is None else seed,
        difficulty=preset.difficulty if difficulty is None else difficulty,
    )


def _holds(folder: Path, digest: str) -> bool:
    """Tell whether the folder already holds the data set; True, False when it is free to write.

    Raises:
        InputError: when it holds anything else.
    """
    if not folder.exists():
        return False
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder to write the synthetic data set to")
    if not any(folder.iterdir()):
        return False
    try:
        found = json.loads((folder / RENDERED).read_text(encoding="utf-8")).get("hash")
    except (OSError, ValueError, AttributeError):
        found = None
    if found == digest:
        return True
    what = "another synthetic data set" if found else "other files"
    raise InputError(f"{folder} holds {what}: name a new folder, or delete this one first")


def _write(
    folder: Path,
    items: Sequence[Item],
    layout: str,
    preset: Preset,
    card: dict[str, Any],
    workers: int,
    console: Console | None,
) -> None:
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        for parent in sorted({Path(item.path).parent for item in items}):
            (temporary / parent).mkdir(parents=True, exist_ok=True)
        written = list(_render(items, temporary, preset, workers, console))
        keypoints = np.stack([one.keypoints for one in written])
        np.savez_compressed(temporary / "keypoints.npz", path=[item.path for item in items], kpts=keypoints)
        LAYOUTS[layout].index(temporary, items, preset.seed)
        content = hashlib.sha256("".join(one.digest for one in written).encode()).hexdigest()[:16]
        text = json.dumps({**card, "images": len(items), "content": content}, indent=1)
        (temporary / RENDERED).write_text(text + "\n", encoding="utf-8")
        try:
            temporary.replace(folder)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST) or not _holds(folder, card["hash"]):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _render(
    items: Sequence[Item], folder: Path, preset: Preset, workers: int, console: Console | None
) -> Iterator[_Written]:
    chunks = [items[start : start + _CHUNK] for start in range(0, len(items), _CHUNK)]
    work = partial(_write_chunk, folder=folder, seed=preset.seed, difficulty=preset.difficulty)
    with progress_bar("rendering people", console) as show:
        finished = 0
        for written in _mapped(work, chunks, workers):
            finished += len(written)
            show(finished, len(items))
            yield from written


def _mapped(work: partial[list[_Written]], chunks: list[Sequence[Item]], workers: int) -> Iterator[list[_Written]]:
    """Map in order over processes; they are spawned, since a fork of a process with threads can hang."""
    if workers == 1 or len(chunks) == 1:
        yield from map(work, chunks)
        return
    with ProcessPoolExecutor(min(workers, len(chunks)), get_context("spawn"), _end_with_parent) as pool:
        yield from pool.map(work, chunks)


def _end_with_parent() -> None:
    """Let a worker end when its parent has been killed, which cannot tell it to."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _write_chunk(items: Sequence[Item], folder: Path, seed: int, difficulty: Difficulty) -> list[_Written]:
    return [_write_item(item, folder, seed, difficulty) for item in items]


def _write_item(item: Item, folder: Path, seed: int, difficulty: Difficulty) -> _Written:
    photo = take(item.shot, seed, difficulty)
    file = folder / item.path
    image = Image.fromarray(photo.pixels)
    if file.suffix == ".jpg":
        image.save(file, quality=photo.quality)
    else:
        image.save(file)
    digest = hashlib.sha256(photo.pixels.tobytes() + bytes([photo.quality])).hexdigest()[:16]
    return _Written(digest, photo.keypoints)
