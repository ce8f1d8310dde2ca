"""Synthetic people for the gallery's tests: vectors around one centre a person, tracks, cameras and times."""

from datetime import UTC, datetime, timedelta
from io import BytesIO

import numpy as np
from PIL import Image

from vireid.gallery import NewItem, Use

DIM = 16
NOON = datetime(2026, 5, 3, 12, tzinfo=UTC)
USE = Use(user="ada", purpose="lost child", case="2026-117")


def make_people(persons=6, tracks=2, items=3, seed=0):
    """Return items, unit vectors and JPEG crops: a person passes camera `gate` by day and `yard` by night."""
    rng = np.random.default_rng(seed)
    found, vectors, crops = [], [], []
    for person in range(persons):
        centre = rng.standard_normal(DIM)
        for track in range(tracks):
            infrared = track % 2
            for k in range(items):
                item = NewItem(
                    id=f"p{person}-t{track}-{k}",
                    camera="yard" if infrared else "gate",
                    modality="infrared" if infrared else "visible",
                    time=NOON + timedelta(hours=12 * infrared, minutes=person, seconds=k),
                    track=f"p{person}-t{track}",
                    box=(10, 20, 30, 60),
                    frame=25 * k,
                    source="film.mp4",
                    person=f"person {person}",
                )
                found.append(item)
                vectors.append(centre + rng.normal(0, 0.25, DIM))
                crops.append(make_jpeg(person * 40, f"{item.id} crop"))
    matrix = np.array(vectors)
    return found, (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32), crops


def make_jpeg(shade, comment):
    """Return a small JPEG whose bytes hold a comment that can be searched for."""
    stream = BytesIO()
    Image.new("RGB", (12, 30), (shade % 256, 90, 120)).save(stream, format="JPEG", comment=comment)
    return stream.getvalue()
