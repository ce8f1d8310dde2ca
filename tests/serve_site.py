"""A gallery of coloured rectangles, its keys, and the service over it; shared by the tests of the service."""

import io
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from vireid.gallery import Gallery, NewItem
from vireid.serve import Limits, create_app

DIM = 16
DAY = datetime(2026, 5, 3, 9, tzinfo=UTC)
WHY = {"purpose": "lost child", "case": "2026-117"}


class Colours:
    """Stands for a bundle: embeds a picture by its colours, and remembers how many came together."""

    image_size = (64, 32)

    def __init__(self):
        self.batches = []

    def embed(self, images, modality, batch_size=64):
        self.batches.append(len(images))
        pixels = np.stack([np.asarray(image.resize((4, 4)), np.float32).ravel()[:DIM] + 1 for image in images])
        return pixels / np.linalg.norm(pixels, axis=1, keepdims=True)


def encoded(kind="JPEG", size=(32, 64), colour=(200, 40, 40), **options):
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, kind, **options)
    return stream.getvalue()


def fill(gallery, tracks=6, shots=3):
    """Store tracks of pictures, one colour a track."""
    model = Colours()
    items, crops = [], []
    for track in range(tracks):
        for shot in range(shots):
            crops.append(encoded(colour=(40 * track, 255 - 40 * track, 10 * shot)))
            items.append(
                NewItem(
                    id=f"c{track % 2}/{track}-{shot}",
                    camera=f"c{track % 2}",
                    modality="visible",
                    track=f"t{track}",
                    time=DAY + timedelta(minutes=track, seconds=shot),
                    person=f"p{track}",
                )
            )
    gallery.add(items, model.embed([Image.open(io.BytesIO(crop)) for crop in crops], "visible"), crops)


class Site:
    """A gallery, its keys and an application with a client."""

    def __init__(self, folder, **limits):
        self.gallery = Gallery.create(folder, dim=DIM, name="station")
        self.model = self.gallery.__dict__["_embedder"] = Colours()
        fill(self.gallery)
        users = [("vera", "viewer"), ("olga", "operator"), ("otto", "operator"), ("ada", "admin")]
        made = {user: self.gallery.keys.create(user, role) for user, role in users}
        self.keys = {user: secret for user, (_, secret) in made.items()}
        self.key_ids = {user: key.id for user, (key, _) in made.items()}
        self.app = create_app([self.gallery], Limits(**limits))
        self.http = TestClient(self.app, raise_server_exceptions=False, follow_redirects=False)

    def ask(self, method, path, user="ada", **request):
        headers = {"authorization": f"Bearer {self.keys[user]}"} if user else {}
        return self.http.request(method, path, headers=headers | request.pop("headers", {}), **request)

    def state(self):
        """What a refused request must leave as it was."""
        items = self.gallery.items(limit=1000)
        return [item.model_dump() for item in items], self.gallery.crop(items[0].id), len(self.gallery.keys.list())


def await_until(holds, patience=60):
    """Return once `holds()`, which a busy machine delays."""
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, f"not within {patience} seconds"
        time.sleep(0.01)


@contextmanager
def serving(app):
    """Serve on a real socket; yields the server and its address, and stops it gracefully."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        await_until(lambda: server.started)
        yield server, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
