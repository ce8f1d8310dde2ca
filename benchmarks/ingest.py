"""Ingest of a video: frames a second of each step and of the whole, beside bare detection, and the crops that it keeps.

python benchmarks/ingest.py vtest.avi demo/run/last.safetensors --figure docs/images/ingest.png
"""

import io
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import typer
from matplotlib.figure import Figure
from PIL import Image

from measure import print_header
from vireid.gallery import Gallery
from vireid.ingest import Plan, Video, ingest, open_detector


def clocked(function, spent):
    """Wrap a function so that it adds its CPU seconds to `spent`."""

    def run(*arguments):
        began = time.process_time()
        result = function(*arguments)
        spent.append(time.process_time() - began)
        return result

    return run


def draw(gallery, out, columns=3, most=21):
    """Draw each track's crops, a strip a track."""
    tracks = sorted(gallery.tracks(limit=1000), key=lambda track: int(track.id.rsplit("/", 1)[1]))
    tracks = [track for track in tracks if track.items == 4][:most]
    rows = -(-len(tracks) // columns)
    figure = Figure(figsize=(2.9 * columns, 1.75 * rows), layout="constrained")
    for axis in figure.subplots(rows, columns).flat:
        axis.axis("off")
    for axis, track in zip(figure.axes, tracks, strict=False):
        strip = Image.new("RGB", (4 * 66, 128), "white")
        for column, item in enumerate(gallery.track_items(track.id)):
            strip.paste(Image.open(io.BytesIO(gallery.crop(item.id))).resize((64, 128)), (66 * column, 0))
        axis.imshow(strip)
        span = f"{track.start:%H:%M:%S} to {track.end:%H:%M:%S}"
        axis.set_title(f"track {track.id.rsplit('/', 1)[1]}, {span}", fontsize=8)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)
    Image.open(out).convert("RGB").quantize(256).save(out, optimize=True)


def main(video: Path, bundle: Path, detector: str = "hog", max_frames: int | None = None, figure: Path | None = None):
    """Print the table, draw the figure."""
    print_header()
    detecting, embedding = [], []
    with Video(video) as video:
        detect = clocked(open_detector(detector, min_height=max(48, video.height // 9)), detecting)
    plan = Plan.of(camera=("gate",), start="2026-05-03T12:00:00Z", max_frames=max_frames)
    with TemporaryDirectory() as folder, Gallery.create(Path(folder) / "g", bundle=bundle) as gallery:
        embed = clocked(gallery.embedder().embed, embedding)
        began = time.process_time()
        tally = ingest(gallery, video, plan, detector=detect, embed=embed).tally
        whole = time.process_time() - began
        if figure:
            draw(gallery, figure)
    print(tally)
    rest = whole - sum(detecting) - sum(embedding)
    for name, seconds in [("detect", sum(detecting)), ("embed", sum(embedding)), ("all else", rest), ("whole", whole)]:
        print(f"{name:10s} {seconds:8.1f} s of CPU, {tally.frames / seconds:8.1f} frames a second")


if __name__ == "__main__":
    typer.run(main)
