"""What strangers send: hostile files, bodies, paths and whatever Schemathesis makes up; none of it changes anything."""

import asyncio
import base64
import io
import json
import tempfile
import zlib

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from hypothesis import HealthCheck, given, settings
from PIL import Image
from pydantic import ValidationError

from serve_site import DIM, WHY, Site, encoded
from vireid.data.images import pixels_of
from vireid.records import Modality
from vireid.serve.models import AddRequest, SearchRequest
from vireid.serve.uploads import encode_crop, read_picture

NEW = {"item": {"id": "x", "camera": "c9", "modality": "visible"}, "vector": [1.0] + [0.0] * (DIM - 1)}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("uploads") / "gallery", rate=1e6, burst=10**6, failures=10**6)
    yield site
    site.app.state.service.close()


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"vector": [float("nan")] * DIM, **WHY}),
        json.dumps({"vector": [float("inf")] * DIM, **WHY}),
        '{"vector": [1e999], "purpose": "a", "case": "b"}',
        "[" * 100_000,
        '{"item": ',
        '{"item": "\\ud800", "purpose": "a", "case": "b"}',
        "\x00\xff",
    ],
)
def test_hostile_json_is_refused(site, text):
    answer = site.ask("POST", "/v1/search", content=text, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 422), answer.text
    assert set(answer.json()) == {"detail"}


MANY = {f"f{number}": 1 for number in range(1000)}


@pytest.mark.parametrize(
    ("model", "change", "sentence"),
    [
        (SearchRequest, MANY, "1,0.. fields, of which .* leave the others out"),
        (SearchRequest, {"where": MANY}, "1,000 fields"),
        (SearchRequest, {"vector": [""] * 30_000}, "valid number"),
        (AddRequest, {"items": [{"item": NEW["item"], "vector": [""] * 9}] * 1000}, "valid number"),
        (AddRequest, {"items": [{**NEW, "item": {**NEW["item"], **MANY}}]}, "1,003 fields"),
    ],
)
def test_a_body_full_of_mistakes_costs_one(model, change, sentence):
    why = {} if model is AddRequest else WHY
    with pytest.raises(ValidationError, match=sentence) as refused:
        model.model_validate({**why, **change})
    assert refused.value.error_count() == 1


def bomb(side=30_000):
    """A PNG file whose header promises side × side pixels."""
    data = bytearray(encoded("PNG", size=(8, 8)))
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


def animated():
    stream = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(stream, "WEBP", save_all=True, append_images=frames[1:])
    return stream.getvalue()


def grey_16():
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), 9000, np.uint16)).save(stream, "PNG")
    return stream.getvalue()


HOSTILE = {
    "empty": (b"", 415),
    "text": (b"<svg onload=alert(1)>", 415),
    "gif": (encoded("GIF"), 415),
    "tiff": (encoded("TIFF"), 415),
    "magic alone": (b"\xff\xd8\xff", 415),
    "truncated JPEG": (encoded(size=(200, 200))[:-300], 415),
    "truncated PNG": (encoded("PNG", size=(200, 200))[:-60], 415),
    "JPEG that says it is PNG": (b"\x89PNG\r\n\x1a\n" + encoded(), 415),
    "animated WebP": (animated(), 415),
    "16-bit grey PNG": (grey_16(), 415),
    "pixel bomb": (bomb(), 413),
    "monstrous bomb": (bomb(2**31 - 1), 413),
    "JPEG of many scans": (encoded() + b"\xff\xda" * 501, 415),
    "too many bytes": (encoded() + bytes(2**20), 413),
}


@pytest.fixture(scope="module")
def small_site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("serve") / "small", body_bytes=2**20, pixels=10**6)
    yield site
    site.app.state.service.close()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("route", ["/v1/search/image", "/v1/items/image"])
def test_hostile_files_are_refused_and_change_nothing(small_site, name, route):
    data, status = HOSTILE[name]
    before = small_site.state()
    item = {"id": "evil", "camera": "c0", "modality": "visible"}
    form = {**WHY, "modality": "visible"} if "search" in route else {"item": json.dumps(item)}
    answer = small_site.ask("POST", route, data=form, files={"image": ("../../../tmp/a.jpg", data, "image/jpeg")})
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"detail"}
    assert small_site.state() == before


@pytest.mark.parametrize(("charset", "status"), [("punycode", 415), ("UTF-8", 422)])
def test_forms_are_in_utf_8(small_site, charset, status):
    kind = {"content-type": f"multipart/form-data; boundary=x; charset={charset}"}
    body = b'--x\r\nContent-Disposition: form-data; name="modality"\r\n\r\nvisible\r\n--x--\r\n'
    answer = small_site.ask("POST", "/v1/search/image", content=body, headers=kind)
    assert answer.status_code == status, answer.text


def test_a_body_without_declared_length_is_cut_off(small_site):
    taken, sent = 0, []

    async def endless():
        nonlocal taken
        taken += 1
        assert taken <= 64
        return {"type": "http.request", "body": bytes(2**16), "more_body": True}

    async def keep(message):
        sent.append(message)

    headers = {"authorization": f"Bearer {small_site.keys['ada']}", "content-type": "application/json"}
    scope = {"type": "http", "method": "POST", "path": "/v1/search", "query_string": b"", "http_version": "1.1"}
    scope["headers"] = [(name.encode(), value.encode()) for name, value in headers.items()]
    asyncio.run(small_site.app(scope, endless, keep))
    assert sent[0]["status"] == 413
    assert taken == 17  # 16 are as many bytes as a body may have


BAD_ITEMS = [
    ({"vector": [1.0] * 3}, 409),
    ({"vector": [1.0] * DIM}, 409),
    ({"vector": [0.0] * DIM}, 409),
    ({"vector": None}, 422),
    ({"crop": "not base64!"}, 422),
    ({"crop": "AAAA"}, 415),
    ({"item": {"id": "", "camera": "c", "modality": "visible"}}, 422),
    ({"item": {"id": "x" * 201, "camera": "c", "modality": "visible"}}, 422),
    ({"item": {"id": "x", "camera": "c", "modality": "sonar"}}, 422),
    ({"item": {"id": "x", "camera": "c0", "modality": "visible", "track": "t1"}}, 409),
    ({"item": {"id": "x", "camera": "c0", "modality": "visible", "time": "2026-05-03"}}, 422),
    ({"item": {"id": "x", "camera": "c0", "modality": "visible", "time": "0001-01-01T00:00:00+14:00"}}, 422),
    ({"item": {"id": "x", "camera": "c0", "modality": "visible", "frame": 2**63}}, 422),
]


@pytest.mark.parametrize(("change", "status"), BAD_ITEMS)
def test_a_batch_with_one_bad_item_stores_nothing(site, change, status):
    good = NEW
    before = site.state()
    batch = {"items": [{**good, "item": {**good["item"], "id": "good"}}, {**good, **change}]}
    answer = site.ask("POST", "/v1/items", "olga", json=batch)
    assert answer.status_code == status, answer.text
    assert site.state() == before


@pytest.mark.parametrize(("side", "count", "status"), [(500, 4, 201), (500, 5, 413), (1001, 1, 413)])
def test_the_pixels_of_a_request_are_bounded(small_site, side, count, status):
    crop = base64.b64encode(encoded("PNG", size=(side, side))).decode()
    entries = [{**NEW, "item": {**NEW["item"], "id": f"x{i}"}, "crop": crop} for i in range(count)]
    answer = small_site.ask("POST", "/v1/items", json={"items": entries})
    assert answer.status_code == status, answer.text
    assert status == 201 or answer.json()["detail"].startswith("the pictures have more than 1,000,000 pixels together")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/images/../nothing",
        "/v1/images/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/images/%2e%2e%2f%2e%2e%2frecords.sqlite3",
        "/v1/images/",
        "/v1/items/%00",
        "/v1/tracks/t0%0d%0aSet-Cookie:x",
        "/static/..%2fapp.py",
        "/static/%2e%2e/%2e%2e/app.py",
        "/v1/nowhere",
    ],
)
def test_path_tricks_find_nothing(site, path):
    assert site.ask("GET", path).status_code in (404, 422)


def test_pictures_are_turned_upright_and_lose_their_metadata(site):
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "SecretCamera"
    picture = encoded(size=(60, 20), exif=exif, comment=b"SecretComment")
    item = {"id": "n", "camera": "c0", "modality": "infrared"}
    answer = site.ask("POST", "/v1/items/image", data={"item": json.dumps(item)}, files={"image": ("a", picture)})
    assert answer.json() == {"ids": ["n"]}
    stored = site.ask("GET", "/v1/images/n")
    assert stored.headers["content-type"] == "image/jpeg"
    assert b"Secret" not in stored.content
    assert Image.open(io.BytesIO(stored.content)).size == (20, 60)


def test_of_a_phone_s_several_pictures_the_first_is_taken():
    stream = io.BytesIO()
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pictures[0].save(stream, "MPO", save_all=True, append_images=pictures[1:])
    assert read_picture(stream.getvalue(), 100).getpixel((4, 4))[0] > 240


def test_crops_are_bounded_and_clean():
    picture = read_picture(encoded("PNG", size=(3000, 1500)), 10**7)
    assert Image.open(io.BytesIO(encode_crop(picture))).size == (1024, 512)
    assert picture.info == {}


@pytest.mark.parametrize("modality", ["visible", "infrared"])
def test_an_upload_waits_as_small_as_the_bundle_sees_it(site, monkeypatch, modality):
    seen, embed = [], site.model.embed
    monkeypatch.setattr(site.model, "embed", lambda images, *rest: seen.extend(images) or embed(images, *rest))
    noise = np.random.default_rng(0).integers(0, 255, (1200, 300, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    item = {"id": f"small/{modality}", "camera": "c0", "modality": modality}
    for path, form in (("search", {**WHY, "modality": modality}), ("items", {"item": json.dumps(item)})):
        answer = site.ask("POST", f"/v1/{path}/image", data=form, files={"image": ("a", stream.getvalue())})
        assert answer.status_code in (200, 201), answer.text
    size, kind = site.model.image_size, Modality.parse(modality)
    for picture in seen:
        assert picture.size == size[::-1]
        np.testing.assert_array_equal(pixels_of(picture, size, kind), pixels_of(noise, size, kind))
    assert Image.open(io.BytesIO(site.gallery.crop(item["id"]))).size == (256, 1024)
    assert len(seen) == 2


def test_uploads_never_touch_the_disk(site, monkeypatch):
    def fail(self):
        raise AssertionError("an upload was written to disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", fail)
    noise = np.random.default_rng(0).integers(0, 255, (1200, 1000, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG")
    assert stream.tell() > 3 * 2**20
    form = {**WHY, "modality": "visible"}
    answer = site.ask("POST", "/v1/search/image", data=form, files={"image": ("a", stream.getvalue())})
    assert answer.status_code == 200


PICTURES = {"/v1/search/image", "/v1/items/image", "/v1/items"}
"""A schema says no more than "bytes" of a picture: these routes rightly refuse what fits it, see `HOSTILE`."""


def test_schemathesis_finds_nothing(site):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    schemathesis.checks.load_all_checks()
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    def attack(operation):
        @given(case=operation.as_strategy())
        @settings(max_examples=10, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        def send(case):
            excluded = [positive_data_acceptance] if operation.path in PICTURES else []
            case.call_and_validate(headers={"Authorization": f"Bearer {site.keys['ada']}"}, excluded_checks=excluded)

        send()

    operations = [
        found.ok() for found in schemathesis.openapi.from_asgi("/openapi.json", site.app).get_all_operations()
    ]
    for operation in operations:
        attack(operation)
    assert len(operations) == sum(map(len, site.app.openapi()["paths"].values()))
    assert site.gallery.audit.verify().broken is None
