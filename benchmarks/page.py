"""Fill a gallery with synthetic people, serve it, and photograph the web page in headless Chromium.

Needs the bundle that `vireid demo` trains, Chromium and Playwright: `pip install playwright`.
"""

import io
import shutil
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import uvicorn
from PIL import Image
from playwright.sync_api import sync_playwright

from vireid.gallery import Camera, Gallery, NewItem, calibrate
from vireid.records import Modality, Records
from vireid.serve import create_app
from vireid.synth.difficulty import PRESETS
from vireid.synth.shot import Shot, take

SEED = 11
PLACES = {1: "Main gate", 2: "Platform 2", 3: "Platform 2", 4: "Ticket hall", 5: "Car park", 6: "Car park"}
CAMERAS = {"visible": (1, 2, 4, 5), "nir": (3, 6)}
MODALITIES = {"visible": "visible", "nir": "infrared"}
OPENING = datetime(2026, 5, 3, 8, tzinfo=UTC)
SIZES = {"light": (1360, 860, "light", 1), "dark": (1360, 860, "dark", 1), "phone": (390, 844, "light", 2)}


def jpeg(pid, spectrum, index, camid):
    """Return one photograph of a synthetic person, encoded."""
    photo = take(Shot(pid, spectrum, index, camid), SEED, PRESETS["demo"].difficulty)
    stream = io.BytesIO()
    Image.fromarray(photo.pixels).save(stream, "JPEG", quality=photo.quality)
    return stream.getvalue()


def passages(pids, shots):
    """Yield (item, picture): each person passes two colour cameras by day and one infrared camera at night."""
    rng = np.random.default_rng(SEED)
    for pid in pids:
        for spectrum, count in (("visible", 2), ("nir", 1)):
            for camid in rng.choice(CAMERAS[spectrum], count, replace=False).tolist():
                start = OPENING + timedelta(hours=13 * (spectrum == "nir"), seconds=int(rng.integers(0, 8 * 3600)))
                for shot in range(shots):
                    track = f"{spectrum}-{camid}-{pid}"
                    item = NewItem(
                        id=f"{track}-{shot}",
                        camera=f"cam-{camid}",
                        modality=MODALITIES[spectrum],
                        track=track,
                        time=start + timedelta(seconds=2 * shot),
                    )
                    yield item, jpeg(pid, spectrum, 10 * camid + shot, camid)


def fill(folder, bundle, people, shots):
    """Make and calibrate the gallery."""
    name = "Station (synthetic people)"
    gallery = Gallery.create(folder / "station", bundle=bundle, name=name, purpose="lost persons")
    model = gallery.embedder()
    items, crops = zip(*passages(range(people), shots), strict=True)
    for modality in MODALITIES.values():
        rows = [row for row, item in enumerate(items) if str(item.modality) == modality]
        pictures = [Image.open(io.BytesIO(crops[row])) for row in rows]
        gallery.add([items[row] for row in rows], model.embed(pictures, modality), [crops[row] for row in rows])
    for camid, place in PLACES.items():
        gallery.cameras.put(Camera(id=f"cam-{camid}", place=place, purpose="lost persons", legal_basis="demonstration"))
    calibrate(gallery, sample(folder / "sample", range(people, people + 60)), target_fpr=1e-3)
    return gallery


def sample(folder, pids):
    """Write a labelled sample of people who are not in the gallery."""
    folder.mkdir()
    rows = [(pid, spectrum, camid) for pid in pids for spectrum in CAMERAS for camid in CAMERAS[spectrum]]
    for pid, spectrum, camid in rows:
        (folder / f"{pid}-{camid}.jpg").write_bytes(jpeg(pid, spectrum, 10 * camid, camid))
    return Records.build(
        folder,
        [f"{pid}-{camid}.jpg" for pid, _, camid in rows],
        [pid for pid, _, _ in rows],
        [camid for _, _, camid in rows],
        [Modality.parse(MODALITIES[spectrum]) for _, spectrum, _ in rows],
    )


def serving(gallery):
    """Serve a gallery in a thread; return the server and its address."""
    server = uvicorn.Server(uvicorn.Config(create_app([gallery]), port=0, log_level="warning"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.05)
    return server, f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


def search(page, url, key, picture):
    """Sign in and search by a picture among the colour cameras."""
    page.goto(url)
    page.fill("#key", key)
    page.click("form button")
    page.fill("#purpose", "lost child, platform 2")
    page.fill("#case", "2026-117")
    page.set_input_files("#image", str(picture))
    page.select_option("#kind", "visible")
    page.click(".go button")
    page.wait_for_selector(".verdict")
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(600)


def photograph(gallery, url, pictures, out):
    """Write page_light, page_dark, page_phone and page_no_match."""
    key = gallery.keys.create("anna", "operator")[1]
    second = gallery.keys.create("ben", "operator")[1]
    with sync_playwright() as play:
        options = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox", "--disable-dev-shm-usage"]}
        browser = play.chromium.launch(**options)
        for name, (width, height, scheme, scale) in SIZES.items():
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=scheme, device_scale_factor=scale
            )
            search(page, url, second if name == "dark" else key, pictures["known"])
            if name == "light":
                page.click("#state-1 [value=confirm]")
                page.click("#state-3 [value=reject]")
                page.wait_for_selector("#state-3 .rejected")
                page.mouse.move(0, 0)
            page.screenshot(path=out / f"page_{name}.png")
            page.close()
        page = browser.new_page(viewport={"width": 1360, "height": 620})
        search(page, url, key, pictures["absent"])
        page.screenshot(path=out / "page_no_match.png")
        browser.close()


def main(
    bundle: Annotated[Path, typer.Argument(help="such as demo/run/best.safetensors")],
    out: Path = Path("docs/images"),
    people: int = 40,
    shots: Annotated[int, typer.Option(help="pictures of a passage")] = 5,
    known: Annotated[int, typer.Option(help="number of the person searched for")] = 34,
    absent: Annotated[int, typer.Option(help="number of a person who is not in the gallery")] = 1002,
):
    """Write the pictures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pictures = {"known": folder / "known.jpg", "absent": folder / "absent.jpg"}
        pictures["known"].write_bytes(jpeg(known, "nir", 90, 3))
        pictures["absent"].write_bytes(jpeg(absent, "nir", 90, 3))
        gallery = fill(folder, bundle, people, shots)
        server, url = serving(gallery)
        photograph(gallery, url, pictures, out)
        server.should_exit = True


if __name__ == "__main__":
    typer.run(main)
