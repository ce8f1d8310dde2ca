"""The service: who may do what, what a search says and leaves behind, bounds, batches, the client."""

import asyncio
import io
import json
import re
import socket
import sqlite3
import threading
import time
import zipfile
from collections import Counter
from datetime import timedelta

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from PIL import Image
from rich.console import Console
from sqlalchemy.exc import DatabaseError
from starlette.testclient import TestClient

from serve_site import DAY, DIM, WHY, Colours, Site, await_until, encoded, serving
from vireid.client import Client, ServiceError
from vireid.errors import BusyError, InputError
from vireid.gallery import Camera, Filter, Gallery, NewItem, Role, Use, verify_lines
from vireid.gallery.keys import KeyRing
from vireid.records import Modality
from vireid.serve import Limits, create_app
from vireid.serve.auth import Sessions
from vireid.serve.batching import EmbeddingBatcher
from vireid.serve.limits import Buckets, Load, Refusal
from vireid.serve.run import is_loopback, serve


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = Site(tmp_path_factory.mktemp("serve") / "gallery")
    yield site
    site.app.state.service.close()


@pytest.fixture
def own_site(tmp_path):
    """A site that a test may change."""
    made = []

    def make(**limits):
        made.append(Site(tmp_path / f"gallery{len(made)}", **limits))
        return made[-1]

    yield make
    for site in made:
        site.app.state.service.close()


SEARCH = {"item": "c0/0-0", **WHY}
ROLES = [
    ("viewer", "POST", "/v1/search", SEARCH),
    ("viewer", "GET", "/v1/items", None),
    ("viewer", "GET", "/v1/items/c0/0-0", None),
    ("viewer", "GET", "/v1/images/c0/0-0", None),
    ("viewer", "GET", "/v1/tracks", None),
    ("viewer", "GET", "/v1/tracks/t0", None),
    ("viewer", "GET", "/v1/galleries", None),
    ("viewer", "GET", "/v1/cameras", None),
    ("viewer", "GET", "/v1/confirmations", None),
    ("operator", "POST", "/v1/items", {"items": []}),
    ("operator", "POST", "/v1/confirmations", {}),
    ("operator", "POST", "/v1/confirmations/x/confirm", {}),
    ("operator", "POST", "/v1/export", {}),
    ("operator", "GET", "/v1/searches/x/sheet", None),
    ("admin", "POST", "/v1/delete", {}),
    ("admin", "POST", "/v1/erase", {}),
    ("admin", "POST", "/v1/retain", {}),
    ("admin", "PUT", "/v1/cameras/c0", {"place": 7}),
    ("admin", "GET", "/v1/keys", None),
    ("admin", "POST", "/v1/keys", {}),
    ("admin", "DELETE", "/v1/keys/none", None),
    ("admin", "GET", "/v1/audit", None),
    ("admin", "GET", "/v1/audit/verify", None),
    ("admin", "GET", "/v1/audit/export", None),
]


@pytest.mark.parametrize(("role", "method", "path", "body"), ROLES)
def test_each_route_needs_its_role(site, role, method, path, body):
    assert site.ask(method, path, None, json=body).status_code == 401
    for user, has in (("vera", Role.VIEWER), ("olga", Role.OPERATOR), ("ada", Role.ADMIN)):
        answer = site.ask(method, path, user, json=body)
        if has.allows(Role(role)):
            assert answer.status_code in (200, 404, 422), answer.text
        else:
            assert answer.status_code == 403, answer.text


def test_no_route_is_without_key_by_mistake(site):
    open_paths = {"/healthz", "/metrics"}
    for path, operations in site.app.openapi()["paths"].items():
        for method, operation in operations.items():
            status = site.ask(method.upper(), path.replace("{decision}", "confirm"), None).status_code
            assert status == (200 if path in open_paths else 401), path
            assert bool(operation.get("security")) == (path not in open_paths), path


@pytest.mark.parametrize("header", ["Bearer", "Bearer ", "Bearer vireid_x_y", "Basic {key}", "{key}", "Bearer {key}x"])
def test_wrong_keys_are_unknown(site, header):
    headers = {"authorization": header.format(key=site.keys["ada"])}
    assert site.ask("GET", "/v1/items", None, headers=headers).status_code == 401


def test_a_revoked_key_ends_at_once_and_a_key_opens_its_own_gallery_only(own_site, tmp_path):
    site = own_site()
    other = Gallery.create(tmp_path / "other", dim=DIM)
    _, foreign = other.keys.create("eve", "admin")
    app = create_app([site.gallery, other])
    http = TestClient(app)
    names = {}
    for user, secret in (("ada", site.keys["ada"]), ("eve", foreign)):
        described = http.get("/v1/galleries", headers={"authorization": f"Bearer {secret}"}).json()
        names[user] = [entry["settings"]["name"] for entry in described]
    assert names == {"ada": ["station"], "eve": ["other"]}
    answer = http.get("/v1/items/c0/0-0", headers={"authorization": f"Bearer {foreign}"})
    assert answer.status_code == 404
    site.gallery.keys.revoke(site.key_ids["ada"])
    assert http.get("/v1/items", headers={"authorization": f"Bearer {site.keys['ada']}"}).status_code == 401
    Gallery.destroy(site.gallery.location, Use(**WHY))
    answers = [http.get("/v1/items", headers={"authorization": f"Bearer {s}"}) for s in (foreign, site.keys["olga"])]
    assert [answer.status_code for answer in answers] == [200, 401]
    assert http.get("/metrics").status_code == 200
    app.state.service.close()


def test_one_gallery_s_failure_is_its_own(own_site, tmp_path, caplog, monkeypatch):
    site = own_site()
    other = Gallery.create(tmp_path / "other", dim=DIM)
    _, secret = other.keys.create("eve", "admin")
    app = create_app([site.gallery, other])
    http = TestClient(app, raise_server_exceptions=False)
    assert http.get("/v1/items", headers={"authorization": f"Bearer {site.keys['olga']}"}).status_code == 200
    Gallery.destroy(site.gallery.location, Use(**WHY))
    Gallery.create(site.gallery.location, dim=DIM).close()  # what was opened before reads files that are gone
    for key, status in ((secret, 200), (secret, 200), (site.keys["olga"], 500)):
        assert http.get("/v1/items", headers={"authorization": f"Bearer {key}"}).status_code == status
    asked, claim = [], KeyRing.claim
    monkeypatch.setattr(KeyRing, "claim", lambda ring, secret: asked.append(ring) or claim(ring, secret))
    assert http.get("/v1/items", headers={"authorization": f"Bearer {secret}"}).status_code == 200
    assert asked == [other.keys]  # the gallery that fails was not waited for
    assert " 0.0" in http.get("/metrics").text.partition(f'vireid_items{{gallery="{other.settings.id}"')[2]
    assert caplog.text.count("cannot be read") == 1
    app.state.service.close()


def test_damaged_records_are_the_log_s_business_not_the_client_s(own_site, monkeypatch, caplog):
    site = own_site()
    reason = DatabaseError("SELECT", {}, sqlite3.DatabaseError("database disk image is malformed"))
    monkeypatch.setattr("vireid.gallery.catalogue.store.select_items", lambda *_: (_ for _ in ()).throw(reason))
    answer = site.ask("GET", "/v1/items/c0/0-0")
    assert (answer.status_code, "log says why" in answer.json()["detail"]) == (500, True)
    assert "records.sqlite3 is damaged" in caplog.text


NEW_KEY = '{"user": "eve", "role": "admin"}'
DECISION = "csrf={csrf}&query=item:c0/0-0&track=t1&purpose=x&case=1&decision=confirm"


@pytest.mark.parametrize(
    ("path", "kind", "text"),
    [
        ("/v1/keys", "application/json", NEW_KEY),
        ("/verification", "application/x-www-form-urlencoded", DECISION),
    ],
)
def test_a_key_that_is_revoked_while_the_body_comes_does_nothing(own_site, path, kind, text):
    site = own_site()
    site.http.post("/login", data={"key": site.keys["ada"]})
    csrf = re.search(r'name="csrf" value="([^"]+)"', site.http.get("/").text)[1]

    def body():
        site.gallery.keys.revoke(site.key_ids["ada"])
        yield text.replace("{csrf}", csrf).encode()

    answer = site.ask("POST", path, content=body(), headers={"content-type": kind})
    assert answer.status_code == 401
    assert "this key has been revoked" in answer.text.lower()
    assert site.gallery.audit.entries()[-1].entry["action"] == "revoke key"


def test_a_body_must_arrive_in_time(own_site):
    site = own_site(body_seconds=0.2)
    headers = ("POST /v1/keys HTTP/1.1", "host: x", f"authorization: Bearer {site.keys['ada']}", "content-length: 9")
    with (
        serving(site.app) as (server, _),
        socket.create_connection(server.servers[0].sockets[0].getsockname(), 20) as connection,
    ):
        connection.sendall("\r\n".join((*headers, "", "{")).encode())
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"within 0.2 seconds" in answer


@pytest.mark.parametrize("by", ["item", "vector", "image"])
def test_a_search_ranks_tracks_and_is_in_the_log_with_its_reason(site, by):
    picture = encoded(colour=(0, 255, 0))
    if by == "image":
        form = {**WHY, "modality": "visible", "k": "3", "where": '{"cameras": ["c0"]}'}
        answer = site.ask("POST", "/v1/search/image", "vera", data=form, files={"image": ("../../x.jpg", picture)})
    else:
        vector = Colours().embed([Image.open(io.BytesIO(picture))], "visible")[0].tolist()
        query = {"item": "c1/1-0"} if by == "item" else {"vector": vector, "modality": "visible"}
        body = {**query, **WHY, "k": 3, "where": {"cameras": ["c0"]}}
        answer = site.ask("POST", "/v1/search", "vera", json=body)
    assert answer.status_code == 200, answer.text
    result = answer.json()
    assert [c["rank"] for c in result["candidates"]] == [1, 2, 3]
    assert {c["item"]["camera"] for c in result["candidates"]} == {"c0"}
    assert [c["track"]["id"] for c in result["candidates"]][:2] == ["t0", "t2"]
    entry = site.gallery.audit.entries(after=0)[-1].entry
    assert {k: entry[k] for k in ("action", "user", "purpose", "case", "query")} == {
        "action": "search",
        "user": "vera",
        "query": result["query"],
        **WHY,
    }
    assert entry["results"] == [c["item"]["id"] for c in result["candidates"]]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/items/%00"),
        ("GET", "/v1/images/%00"),
        ("GET", "/v1/tracks/%00"),
        ("DELETE", "/v1/keys/%00"),
        ("POST", "/v1/confirmations/%00/confirm"),
        ("GET", "/v1/confirmations?case=%00"),
        ("GET", "/v1/searches/%00/sheet"),
        ("GET", "/crop?id=%00"),
        ("GET", "/verification?case=%00"),
        ("POST", "/login"),
    ],
)
def test_a_null_byte_reaches_no_database(site, method, path):
    if not path.startswith("/v1"):
        site.http.post("/login", data={"key": site.keys["olga"]})
    sent = {"json": WHY} if "confirmations" in path else {"data": {"key": "vireid_\0_x"}}
    answer = site.ask(method, path, **(sent if method == "POST" else {}))
    assert answer.status_code == 422
    assert "is blank or holds control characters" in answer.text


BAD_SEARCHES = [
    ({"item": "c0/0-0", "purpose": "  ", "case": "1"}, 422, "purpose: is blank"),
    ({"item": "c0/0-0", "purpose": "x", "case": "\t"}, 422, "case: is blank"),
    (WHY, 422, "give exactly one of item, vector"),
    ({**SEARCH, "vector": [1.0]}, 422, "give exactly one of item, vector"),
    ({**SEARCH, "item": "../../etc/passwd"}, 404, "../../etc/passwd"),
    ({**SEARCH, "item": "a\u0000b"}, 422, "item: is blank or holds control characters"),
    ({**SEARCH, "case": "a\u0000b"}, 422, "case: is blank or holds control characters"),
    ({**SEARCH, "k": 0}, 422, "k:"),
    ({**SEARCH, "k": 10**30}, 422, "k:"),
    ({**SEARCH, "rerank": "magic"}, 422, "rerank:"),
    ({**SEARCH, "where": {"expression": "1=1"}}, 422, "where.expression: unknown field"),
    ({**SEARCH, "where": {"start": "2026-05-03T09:00:00"}}, 422, "where.start:"),
    ({**SEARCH, "where": {"start": "20260503"}}, 422, "where.start: has no zone and hour"),
    ({**SEARCH, "where": {"end": "9999-12-31T23:59:59-14:00"}}, 422, "where.end: lies outside the years 1 to 9999"),
    ({"vector": [0.0] * DIM, **WHY}, 409, "zero"),
    ({"vector": [1e39] * DIM, **WHY}, 409, "not finite"),
    ({"vector": ["x"] * DIM, **WHY}, 422, "vector.0:"),
    ({**SEARCH, "where": {"cameras": ["c"] * 1001}}, 422, "where.cameras:"),
    ([1, 2], 422, ""),
]


@pytest.mark.parametrize(("body", "status", "sentence"), BAD_SEARCHES)
def test_bad_searches_are_refused_in_one_sentence(site, body, status, sentence):
    answer = site.ask("POST", "/v1/search", json=body)
    assert answer.status_code == status
    assert set(answer.json()) == {"detail"}
    assert sentence in answer.json()["detail"]


def test_simultaneous_pictures_share_a_forward_pass():
    model, seen, gate = Colours(), [], threading.Event()

    def load():
        gate.wait(10)
        return model

    batcher = EmbeddingBatcher(load, size=4, wait=0.0, observe=seen.append)
    pictures = [Image.new("RGB", (8, 8), (20 * i, 0, 0)) for i in range(10)]
    futures = [batcher.submit(picture, Modality(i % 5 == 0)) for i, picture in enumerate(pictures)]
    gate.set()
    vectors = np.stack([future.result(10) for future in futures])
    batcher.close()
    np.testing.assert_array_equal(vectors, Colours().embed(pictures, "visible"))
    assert sum(seen) == 10
    assert max(seen) > 1
    assert all(size <= 4 for size in seen)


@pytest.mark.parametrize(
    ("name", "failure", "bundle", "status"),
    [("embed", RuntimeError, None, 500), ("embedder", InputError, "/x", 500), ("embedder", InputError, None, 409)],
)
def test_a_failing_model_fails_the_requests_that_wait(own_site, monkeypatch, name, failure, bundle, status):
    site = own_site()
    site.gallery.settings = site.gallery.settings.model_copy(update={"bundle": bundle})

    def broken(*_, **__):
        raise failure("/secret/path of the server")

    monkeypatch.setattr(Gallery if name == "embedder" else site.model, name, broken)
    form = {**WHY, "modality": "visible"}
    answer = site.ask("POST", "/v1/search/image", data=form, files={"image": ("a", encoded())})
    assert answer.status_code == status
    assert "secret" not in answer.text
    assert answer.headers["content-security-policy"]


def test_what_is_busy_can_be_asked_again(site, monkeypatch):
    def busy(*_, **__):
        raise BusyError("another process has been writing")

    monkeypatch.setattr(KeyRing, "revoke", busy)
    answer = site.ask("DELETE", "/v1/keys/x")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert site.ask("GET", "/v1/items?start=0001-01-01T00:00:00%2B14:00").status_code == 422


def test_sessions_of_a_key_are_bounded():
    sessions = Sessions(hours=1)
    other = sessions.open("other")
    tokens = [sessions.open("key") for _ in range(1001)]
    assert sessions.get(other)
    assert [sessions.get(token) is not None for token in tokens] == [False] * 981 + [True] * 20


def test_expired_sessions_leave_no_secret_behind(monkeypatch):
    sessions, now = Sessions(hours=1), time.monotonic()
    for hours, secret in ((0, "first"), (0.9, "second"), (1.1, "third")):
        monkeypatch.setattr(time, "monotonic", lambda hours=hours: now + 3600 * hours)
        sessions.open(secret)
    assert [session.secret for session in sessions._sessions.values()] == ["second", "third"]


def test_token_buckets_refill():
    now = [0.0]
    buckets = Buckets(rate=2, burst=3, clock=lambda: now[0])
    assert [buckets.take("a") for _ in range(4)] == [True, True, True, False]
    assert buckets.take("b")
    now[0] = 1.0
    assert [buckets.take("a") for _ in range(3)] == [True, True, False]


@pytest.mark.parametrize(
    ("limits", "keys", "status", "reason"),
    [
        ({"requests_per_key": 2}, ["a", "a", "a"], 429, "share"),
        ({"requests": 2}, ["a", "b", "c"], 503, "busy"),
        ({"burst": 2, "rate": 0.001}, ["a", "a", "a"], 429, "rate"),
    ],
)
def test_load_is_bounded(limits, keys, status, reason):
    load = Load(Limits(**limits))
    first, second = load.admit(keys[0]), load.admit(keys[1])
    with first, second, pytest.raises(Refusal) as refusal, load.admit(keys[2]):
        pass
    assert (refusal.value.status, refusal.value.reason) == (status, reason)
    assert load.requests == 0


def test_strangers_are_bounded_by_address_and_take_nothing_from_keys(own_site):
    site = own_site(burst=3, rate=0.001, requests=1)
    sign_in = {"key": "vireid_x_y", "padding": "x" * 4096}
    assert site.http.post("/login", data=sign_in).status_code == 413
    assert site.http.post("/login", data={"key": "vireid_x_y"}).status_code == 401
    with site.app.state.service.strangers.admit("elsewhere"):
        assert site.http.get("/login").status_code == 503
        assert site.ask("GET", "/v1/cameras").status_code == 200
    refused = site.http.get("/openapi.json")
    assert (refused.status_code, refused.json()["detail"][:12]) == (429, "this address")
    assert [site.http.request(method, "/healthz").status_code for method in ("GET", "HEAD")] == [200, 200]
    style = site.http.get("/static/page.css")
    assert (style.status_code, style.headers["cache-control"]) == (200, "no-cache")
    assert site.http.get("/static/page.css", headers={"if-none-match": style.headers["etag"]}).status_code == 304


def test_items_are_counted_for_metrics_every_few_seconds_only(own_site, monkeypatch):
    site, counted, count = own_site(), [], Gallery.count
    monkeypatch.setattr(Gallery, "count", lambda self: counted.append(1) or count(self))
    pages = [site.http.get("/metrics").text for _ in range(3)]
    assert all(" 18.0" in page.partition("vireid_items{")[2] for page in pages)
    assert len(counted) == 1


def test_a_camera_s_place_is_text(site):
    assert site.ask("PUT", "/v1/cameras/c0", json={"place": "a\u0000b"}).status_code == 422
    assert site.ask("PUT", "/v1/cameras/c0", json={"retention_days": 1e6}).status_code == 422


def test_refusals_say_when_to_come_back(own_site):
    site = own_site(burst=2, rate=0.001, failures=2)
    assert [site.ask("GET", "/v1/cameras").status_code for _ in range(3)] == [200, 200, 429]
    refused = site.ask("GET", "/v1/cameras")
    assert int(refused.headers["retry-after"]) >= 1
    assert "slow down" in refused.json()["detail"]
    wrong = {"authorization": "Bearer vireid_no_key"}
    assert [site.ask("GET", "/v1/keys", None, headers=wrong).status_code for _ in range(3)] == [401, 401, 429]
    assert 'vireid_refused_total{reason="failures"} 1.0' in site.http.get("/metrics").text


def test_slow_records_keep_no_other_key_waiting(own_site, monkeypatch):
    site, claim, gate = own_site(), KeyRing.claim, threading.Event()

    def slow(ring, secret):
        if secret == "slow":
            gate.wait(10)
        return claim(ring, secret)

    async def ask():
        verify = site.app.state.service.verify_from
        waiting = asyncio.create_task(verify("10.0.0.8", "slow"))
        caller = await asyncio.wait_for(verify("10.0.0.9", site.keys["vera"]), 5)
        gate.set()
        return caller.key.user, await waiting

    monkeypatch.setattr(KeyRing, "claim", slow)
    assert asyncio.run(ask()) == ("vera", None)


def test_wrong_keys_that_come_together_are_counted_one_by_one(own_site):
    site = own_site(failures=3)
    verify, wrong = site.app.state.service.verify_from, f"vireid_{site.key_ids['ada']}_x"

    async def guess():
        return await asyncio.gather(*(verify("10.0.0.9", wrong) for _ in range(6)), return_exceptions=True)

    assert Counter(type(answer) for answer in asyncio.run(guess())) == {type(None): 3, Refusal: 3}


def listens(address):
    try:
        socket.create_connection(address, 20).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_running_request_is_finished_before_the_service_ends(own_site):
    site = own_site()
    entered, release, embed = threading.Event(), threading.Event(), site.model.embed

    def slow(images, *rest):
        entered.set()
        release.wait(20)
        return embed(images, *rest)

    site.model.embed = slow
    answers = []
    with serving(site.app) as (server, url), Client(url, site.keys["vera"]) as client:
        thread = threading.Thread(target=lambda: answers.append(client.search(encoded(), "visible", **WHY)))
        thread.start()
        assert entered.wait(20)
        address = server.servers[0].sockets[0].getsockname()
        server.should_exit = True
        await_until(lambda: not listens(address))
        release.set()
        thread.join(20)
    assert len(answers[0].candidates) == 6


def test_the_client_speaks_every_route(own_site, tmp_path):
    site = own_site()
    with (
        serving(site.app) as (_, url),
        Client(url, site.keys["ada"]) as admin,
        Client(url, site.keys["olga"]) as olga,
        Client(url, site.keys["otto"]) as otto,
    ):
        assert admin.gallery().stats.items == 18
        assert [item.id for item in admin.items(page=7)] == [item.id for item in site.gallery.items(limit=100)]
        assert [item.id for item in admin.items(Filter(tracks=("t3",)))] == ["c1/3-0", "c1/3-1", "c1/3-2"]
        assert admin.item("c1/3-1").time == DAY + timedelta(minutes=3, seconds=1)
        assert admin.image("c1/3-1") == site.gallery.crop("c1/3-1")
        assert admin.track("t3").track.items == 3

        result = olga.search(encoded(colour=(0, 255, 0)), "visible", k=2, where=Filter(cameras=("c0",)), **WHY)
        assert [c.track.id for c in result.candidates] == ["t0", "t2"]
        assert olga.search_item("c0/0-0", rerank="k-reciprocal", **WHY).rerank == "k-reciprocal"
        with pytest.raises(ServiceError, match="vireid serve --refine"):
            olga.search_item("c0/0-0", rerank="nformer", **WHY)
        assert olga.search(encoded(), "visible", where=None, rerank=None, **WHY).candidates
        assert olga.search_item("c0/0-0", where=None, k=None, **WHY).candidates
        assert olga.search_vector(np.ones(DIM), "visible", **WHY).verdict == "not calibrated"
        assert b"data:image/jpeg" in olga.contact_sheet(result)

        proposed = olga.propose(result, "t0", **WHY)
        once = olga.decide(proposed.id, "confirm", **WHY)
        assert once.state == "confirmed once"
        with pytest.raises(ServiceError, match="second person") as refused:
            olga.decide(proposed.id, "confirm", **WHY)
        assert refused.value.status == 409
        assert otto.decide(proposed.id, "confirm", **WHY).verified_by == ("olga", "otto")
        assert [c.id for c in otto.confirmations(case=WHY["case"], state="confirmed")] == [proposed.id]
        with zipfile.ZipFile(io.BytesIO(olga.export(track="t0", **WHY))) as archive:
            states = [track["state"] for track in json.loads(archive.read("manifest.json"))["tracks"]]
        assert states == ["confirmed"]

        new = NewItem(id="new/1", camera="c7", modality="infrared", time=DAY)
        assert olga.add([new], np.eye(1, DIM), [encoded()]) == ["new/1"]
        assert olga.add_image(NewItem(id="new/2", camera="c7", modality="infrared"), encoded()) == "new/2"
        with pytest.raises(ServiceError, match="role admin") as refused:
            olga.erase(camera="c7", **WHY)
        assert refused.value.status == 403
        described = Camera(id="c7", place="roof", purpose="safety", legal_basis="consent", retention_days=3)
        assert admin.put_camera(described) in admin.cameras()
        assert admin.delete(ids=["new/2"], **WHY).items == 1
        assert admin.retain(**WHY).items == 1
        assert admin.erase(person="p5", **WHY).tracks == 1
        with pytest.raises(ServiceError, match="search again"):
            olga.contact_sheet(result)

        made = admin.create_key("nina", "viewer")
        assert made.secret.startswith("vireid_")
        assert admin.revoke_key(made.id).revoked
        assert max(admin.keys(), key=lambda key: key.created).user == "nina"

        assert admin.verify_audit().broken is None
        log = tmp_path / "audit.jsonl"
        with log.open("w") as stream:
            admin.export_audit(stream)
        checked = verify_lines(log.read_text().splitlines())
        assert checked == admin.verify_audit()
        actions = [entry.entry["action"] for entry in admin.audit(limit=1000)]
        assert {"search", "add", "propose", "confirm", "export", "delete", "erase", "retain"} <= set(actions)
        assert {"describe camera", "create key", "revoke key"} <= set(actions)


def test_nothing_personal_or_secret_is_measured_or_logged(own_site, caplog):
    site = own_site()
    caplog.set_level("INFO", "vireid.serve")
    site.ask("POST", "/v1/search", "vera", json={**SEARCH, "where": {"persons": ["p3"]}})
    site.ask("GET", "/v1/items?persons=p3", "vera")
    metrics = site.http.get("/metrics").text
    assert 'vireid_searches_total{verdict="not calibrated"} 1.0' in metrics
    assert "POST /v1/search 200" in caplog.text
    for text in (metrics, caplog.text):
        for private in ("vera", "p3", "lost child", "2026-117", "c0/0-0", site.keys["vera"], "station"):
            assert private not in text


def test_openapi_is_complete(site):
    schema = site.http.get("/openapi.json").json()
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert operation["description"], path
            for status, response in operation["responses"].items():
                if status.startswith("4"):
                    assert response["content"]["application/json"]["schema"]["$ref"].endswith("/Error"), (path, status)
    assert "404" not in schema["paths"]["/v1/erase"]["post"]["responses"]  # nothing found is a receipt over nothing
    assert schema["components"]["schemas"]["SearchRequest"]["properties"]["purpose"]["examples"]


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("10.0.0.7", False), ("box", False)],
)
def test_addresses_that_others_reach_are_known(host, local):
    assert is_loopback(host) is local


def test_serving_names_galleries_as_they_are_called(tmp_path, monkeypatch):
    with Gallery.create(tmp_path / "g", dim=DIM, name="east [/wing]") as gallery:
        gallery.keys.create("ada", "admin")
    monkeypatch.setattr("uvicorn.run", lambda app, **_: None)
    console = Console(file=io.StringIO())
    serve([tmp_path / "g"], host="fe80::1", console=console)
    assert "gallery east [/wing]: 0 items" in console.file.getvalue()
    assert "http://[fe80::1]:8000 " in console.file.getvalue()


def test_serving_needs_a_gallery_with_a_key(tmp_path):
    with pytest.raises(InputError, match="at least one gallery"):
        create_app([])
    Gallery.create(tmp_path / "g", dim=DIM).close()
    with pytest.raises(InputError, match="has no API key: make one by vireid keys create"):
        serve([tmp_path / "g"])


def test_bounds_are_read_from_the_command_line():
    assert Limits.parse(["rate=2.5", "searches=8"]) == Limits(rate=2.5, searches=8)
