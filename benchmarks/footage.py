"""Real pedestrians: cut people from surveillance footage and find them again later in the video.

    python benchmarks/footage.py cut vtest.avi --out crops          # OpenCV's HOG people detector, a manifest
    python benchmarks/footage.py search crops demo/run/last.safetensors --page docs/images/footage.jpg

`vtest.avi` ships with Debian's package opencv-doc. A detection joins the track whose last box overlaps it most; the
gallery holds each track's first half, the queries are crops of its second half. One colour camera: this shows that a
bundle works on real pictures, not that it works across modalities.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import track as progress_bar

import vireid
from imagenet import stripe_features
from vireid.data import open_dataset
from vireid.data.images import decode
from vireid.evaluation import rank_features
from vireid.records import Modality, Records

app = typer.Typer()
Box = tuple[int, int, int, int]


@dataclass
class Track:
    """One person's passage: (frame, box) in time order."""

    boxes: list[tuple[int, Box]] = field(default_factory=list)


def overlap(a: Box, b: Box) -> float:
    """Intersection over union of two (x, y, width, height) boxes."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    inside = max(0, width) * max(0, height)
    return inside / (a[2] * a[3] + b[2] * b[3] - inside)


def extend(tracks: list[Track], frame: int, boxes: list[Box], patience: int = 6) -> None:
    """Give each box to the live track that it overlaps most (at least 0.4), or start a track."""
    live = [t for t in tracks if frame - t.boxes[-1][0] <= patience]
    for box in boxes:
        best = max(live, key=lambda t: overlap(t.boxes[-1][1], box), default=None)
        if best is None or overlap(best.boxes[-1][1], box) < 0.4:
            best = Track()
            tracks.append(best)
        else:
            live.remove(best)
        best.boxes.append((frame, box))


@app.command()
def cut(
    video: Path,
    out: Annotated[Path, typer.Option()],
    stride: int = 2,
    scale: float = 1.5,
    shortest: int = 12,
) -> None:
    """Detect people in every `stride`-th frame, link them, write the tracks of `shortest` boxes or more."""
    detector = cv2.HOGDescriptor()
    detector.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())
    capture = cv2.VideoCapture(str(video))
    frames: list[NDArray[np.uint8]] = []
    tracks: list[Track] = []
    for number in progress_bar(range(int(capture.get(cv2.CAP_PROP_FRAME_COUNT))), "detecting"):
        found, image = capture.read()
        if not found:
            break
        frames.append(image)
        if number % stride:
            continue
        large = cv2.resize(image, None, fx=scale, fy=scale)
        boxes, weights = detector.detectMultiScale(large, winStride=(8, 8), scale=1.1, hitThreshold=0.3)
        kept = [tuple(int(v / scale) for v in b) for b, w in zip(boxes, np.ravel(weights), strict=True) if w > 0.5]
        extend(tracks, number, kept)
    chosen = [t for t in tracks if len(t.boxes) >= shortest]
    out.mkdir(parents=True)
    with (out / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "pid", "camid", "modality", "split", "timestamp"])
        for pid, found_track in enumerate(chosen):
            for i, (number, (x, y, w, h)) in enumerate(found_track.boxes):
                name = f"{pid:03d}_{number:05d}.png"
                cv2.imwrite(str(out / name), frames[number][max(y, 0) : y + h, max(x + w // 8, 0) : x + w - w // 8])
                split = "gallery" if i < len(found_track.boxes) / 2 else "query"
                writer.writerow([name, pid, 1, "visible", split, number / 10])
    Console().print(f"{len(chosen)} tracks, {sum(len(t.boxes) for t in chosen)} crops in {out}")


def imagenet_features(records: Records) -> NDArray[np.float32]:
    """Globally pooled ImageNet features of EfficientNet-Lite0, L2-normalised."""
    pixels = np.stack([decode(records.absolute(i), (128, 64))[0] for i in range(len(records))])
    features = stripe_features(pixels)[:, 0]
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def page(records: Records, query: Records, similarity: NDArray[np.float32], out: Path, rows: int = 8) -> None:
    """Draw one query a track and the five best tracks for it, one best crop each."""
    pids = np.unique(query.pid)
    chosen = [
        int(np.flatnonzero(query.pid == pid)[-1]) for pid in pids[np.linspace(0, len(pids) - 1, rows).astype(int)]
    ]
    figure = Figure(figsize=(6.6, 1.75 * rows), layout="constrained")
    axes = figure.subplots(rows, 6)
    for line, row in zip(axes, chosen, strict=True):
        best = np.array([similarity[row, records.pid == pid].max() for pid in pids])
        ranked = pids[np.argsort(-best)][:5]
        strip = [query.absolute(row)]
        strip += [
            records.absolute(int(np.flatnonzero(records.pid == p)[similarity[row, records.pid == p].argmax()]))
            for p in ranked
        ]
        for column, (axis, path) in enumerate(zip(line, strip, strict=True)):
            axis.imshow(Image.open(path).resize((64, 128)))
            axis.set_xticks([])
            axis.set_yticks([])
            hit = column and ranked[column - 1] == query.pid[row]
            colour = "black" if not column else "#1a7f37" if hit else "#8c959f"
            for spine in axis.spines.values():
                spine.set(color=colour, linewidth=3)
            seconds = f"{query.timestamp[row]:.0f} s" if not column else ("same track" if hit else "other track")
            axis.set_title(seconds, fontsize=8, color=colour)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


@app.command()
def search(crops: Path, bundle: Path, page_file: Annotated[Path | None, typer.Option("--page")] = None) -> None:
    """Rank each track's later crops against all earlier ones; print rank-1 beside ImageNet features alone."""
    records = open_dataset("manifest", crops)
    model = vireid.load(bundle)
    trained = model.embed([records.absolute(i) for i in range(len(records))], Modality.VISIBLE)
    asks, searched = records.mask(split="query"), records.mask(split="gallery")
    query, gallery = records.take(asks), records.take(searched)
    console = Console()
    console.print(f"{len(np.unique(query.pid))} tracks, {len(query)} queries, {len(gallery)} gallery crops, one camera")
    for name, features in (("ImageNet", imagenet_features(records)), (bundle.name, trained)):
        result = rank_features(features[asks], features[searched], query.pid, gallery.pid, query.camid, gallery.camid)
        values = {"rank-1": result.cmc[0], "mAP": result.mean_ap, "mINP": result.mean_inp}
        console.print(f"{name:24s} " + "  ".join(f"{key} {100 * value:.1f}" for key, value in values.items()))
    if page_file is not None:
        page(gallery, query, trained[asks] @ trained[searched].T, page_file)


if __name__ == "__main__":
    app()
