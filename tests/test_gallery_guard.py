"""Responsible by construction: log, keys, confirmations, retention, erasure, export, calibration."""

import io
import json
import os
import sqlite3
import zipfile
from datetime import timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError

from gallery_people import DIM, NOON, USE, make_people
from vireid.cli.gallery import maintain
from vireid.errors import BusyError, InputError
from vireid.gallery import (
    AuditLog,
    Camera,
    Filter,
    Gallery,
    NewItem,
    Query,
    Role,
    State,
    Use,
    calibrate,
    contact_sheet,
    export_subject,
    verify_lines,
)
from vireid.gallery.audit import audit_file
from vireid.gallery.calibration import fit_calibration, thin
from vireid.gallery.database import Database
from vireid.gallery.items import ids_digest, remove_items
from vireid.gallery.types import utc_now
from vireid.records import Records
from vireid.serve.models import CameraEntry

EVE = Use(user="eve", purpose="lost child", case=USE.case)


@pytest.fixture
def gallery(tmp_path):
    with Gallery.create(tmp_path / "station", dim=DIM, purpose="lost persons") as gallery:
        gallery.add(*make_people())
        yield gallery


@pytest.fixture
def query(gallery):
    return Query.from_vector(make_people()[1][0], "visible")


# ---- the log


def test_a_search_is_logged_before_it_answers(gallery, query):
    where = Filter(cameras=("yard",), start=NOON)
    result = gallery.search(query, use=USE, k=2, where=where)
    entry = gallery.audit.entries()[-1].entry
    assert entry | {"started": "", "ended": ""} == {
        "action": "search",
        "gallery": {"id": gallery.settings.id, "name": "station"},
        "user": "ada",
        "purpose": "lost child",
        "case": "2026-117",
        "started": "",
        "ended": "",
        "query": query.fingerprint,
        "filter": {"cameras": ["yard"], "start": "2026-05-03T12:00:00Z"},
        "results": [c.item.id for c in result.candidates],
        "details": {"search": result.id, "verdict": "not calibrated", "rerank": None, "k": 2},
    }
    assert entry["started"] <= entry["ended"]


def test_an_account_without_a_name_goes_by_its_number(monkeypatch):
    for error in (KeyError("uid not found"), OSError("no username set")):
        monkeypatch.setattr("getpass.getuser", lambda error=error: (_ for _ in ()).throw(error))
        assert Use(purpose="", case="").user == f"uid {os.getuid()}"


def test_nothing_is_done_without_the_log(gallery, query):
    key, secret = gallery.keys.create("ada", "operator")
    cameras = gallery.cameras.list()
    with sqlite3.connect(audit_file(gallery.location)) as file:
        file.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    for act in (
        lambda: gallery.search(query, use=USE),
        lambda: gallery.keys.create("eve", "admin"),
        lambda: gallery.keys.revoke(key.id),
        lambda: gallery.cameras.put(Camera(id="yard", place="behind the house")),
    ):
        with pytest.raises(IntegrityError, match="disk full"):
            act()
    assert (gallery.keys.verify(secret), gallery.keys.list(), gallery.cameras.list()) == (key, [key], cameras)


@pytest.mark.parametrize(
    ("purpose", "case", "sentence"),
    [("", "7", "give a purpose"), ("theft", " ", "give a case"), ("", "", "give a purpose and a case")],
)
def test_a_search_needs_purpose_and_case(gallery, query, purpose, case, sentence):
    use = Use(purpose=purpose, case=case)
    with pytest.raises(InputError, match=sentence):
        gallery.search(query, use=use)
    gallery.configure(require_purpose=False)
    assert gallery.search(query, use=use).candidates


def test_the_log_is_append_only_and_outlives_the_gallery(gallery):
    with sqlite3.connect(audit_file(gallery.location)) as file:
        forged = "INSERT OR REPLACE INTO audit VALUES (1, '', '', '{}')"
        for statement in ("DELETE FROM audit", "UPDATE audit SET entry = '{}'", forged):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                file.execute(statement)
    Gallery.destroy(gallery.location, USE)
    log = AuditLog.beside(gallery.location)
    assert [entry.entry["action"] for entry in log.entries()] == ["create", "add", "destroy", "destroy"]
    assert log.verify().broken is None
    with pytest.raises(InputError, match="there is no audit log"):
        AuditLog.beside(gallery.location.parent / "other")


@pytest.mark.parametrize("writable", [True, False])
def test_a_log_is_checked_without_writing(gallery, monkeypatch, writable):
    gallery.close()
    file = audit_file(gallery.location)
    before = file.read_bytes()
    monkeypatch.setattr("os.access", lambda *_: writable)
    monkeypatch.setattr(Database, "write", lambda _: pytest.fail("the log was opened for writing"))
    log = AuditLog.beside(gallery.location)
    assert log.verify().entries == log.export(io.StringIO()) == 2
    assert file.with_name(f"{file.name}-wal").exists() is writable
    log.close()
    assert file.read_bytes() == before


def test_a_database_without_a_log_is_no_empty_log(tmp_path):
    sqlite3.connect(tmp_path / "g.audit.sqlite3").close()
    with pytest.raises(InputError, match=r"there is no audit log in .*/g.audit.sqlite3"):
        AuditLog.beside(tmp_path / "g")


def make_log(gallery, count=4):
    for k in range(count):
        gallery.audit.append("note", USE, details={"k": k, "text": "ä\u2028"})
    stream = io.StringIO()
    assert gallery.audit.export(stream) == count + 1
    return stream.getvalue().split("\n")[:-1]


CHANGES = ["edit", "remove", "swap", "rehash", "garble", "nan", "half", "deep"]


@settings(max_examples=40)
@given(row=st.integers(0, 4), change=st.sampled_from(CHANGES))
def test_verify_names_the_first_broken_entry(lines, row, change):
    changed = list(lines)
    if change == "edit":
        changed[row] = changed[row].replace('"started":"2', '"started":"1')
    elif change == "remove":
        del changed[row]
    elif change == "swap":
        changed[row], changed[row - 1] = changed[row - 1], changed[row]
    elif change == "rehash":
        entry = json.loads(changed[row])
        changed[row] = json.dumps(entry | {"hash": "0" * 64})
    elif change in ("nan", "half", "deep"):
        value = {"nan": "NaN", "half": r'"\ud800"', "deep": "[" * 100_000}[change]
        changed[row] = changed[row].replace('"ended":"', f'"x":{value},"ended":"')
    else:
        changed[row] = changed[row][:-3]
    first = min(row, (row - 1) % 5) if change == "swap" else row
    expected = None if change == "remove" and row == 4 else first + 1
    assert verify_lines(changed).broken == expected


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    with Gallery.create(tmp_path_factory.mktemp("log") / "g", dim=DIM) as gallery:
        return make_log(gallery)


def test_a_log_cut_short_shows_against_a_noted_head(lines):
    whole = verify_lines(lines)
    assert (whole.entries, whole.broken, whole.head) == (5, None, json.loads(lines[-1])["hash"])
    cut = verify_lines(lines[:-1], whole.head)
    assert (cut.broken, cut.holds_noted) == (None, False)
    assert verify_lines(lines, cut.head).holds_noted


# ---- keys


def test_a_key_is_shown_once_and_hashed_at_rest(gallery):
    key, secret = gallery.keys.create("ada", "operator")
    gallery.close()
    files = [path.read_bytes() for path in gallery.location.parent.rglob("*") if path.is_file()]
    assert not any(secret[-20:].encode() in data for data in files)
    with Gallery.open(gallery.location) as again:
        assert again.keys.verify(secret) == key
        assert again.keys.verify(secret) == key
        for wrong in (secret[:-1], secret + "x", f"vireid_{key.id}_", "vireid_nobody_abc", "", "ö"):
            assert again.keys.verify(wrong) is None
        assert again.keys.list() == [key]


def test_revocation_works_at_once_in_every_process(gallery):
    key, secret = gallery.keys.create("ada", Role.ADMIN)
    with Gallery.open(gallery.location) as other:
        assert other.keys.verify(secret) == key
        gallery.keys.revoke(key.id)
        assert other.keys.verify(secret) is None
    with pytest.raises(InputError, match="there is no key 'none'"):
        gallery.keys.revoke("none")
    with pytest.raises(InputError, match="unknown role 'root': use viewer, operator, admin"):
        gallery.keys.create("eve", "root")


def test_each_role_may_do_what_the_ones_before_it_may():
    allowed = [[role.allows(needed) for needed in Role] for role in Role]
    assert allowed == [[True, False, False], [True, True, False], [True, True, True]]


# ---- confirmations


def test_two_people_confirm(gallery, query):
    found = gallery.confirmations.propose(query.fingerprint, "p0-t1", USE)
    assert gallery.confirmations.propose(query.fingerprint, "p0-t1", EVE) == found
    once = gallery.confirmations.confirm(found.id, USE)
    assert (once.state, once.verified_by) == (State.CONFIRMED_ONCE, ("ada",))
    with pytest.raises(InputError, match="ada has verified this candidate already: a second person must"):
        gallery.confirmations.confirm(found.id, USE)
    twice = gallery.confirmations.confirm(found.id, EVE)
    assert (twice.state, twice.verified_by) == (State.CONFIRMED, ("ada", "eve"))
    for decide in (gallery.confirmations.confirm, gallery.confirmations.reject):
        with pytest.raises(InputError, match="was confirmed already: that decision is final"):
            decide(found.id, Use(user="third", purpose="lost child", case=USE.case))
    entry = gallery.audit.entries()[-1].entry
    assert (entry["action"], entry["verified_by"], entry["query"]) == ("confirm", ["ada", "eve"], query.fingerprint)


@pytest.mark.parametrize("decision", ["confirm", "reject"])
def test_a_candidate_is_decided_in_its_own_case(gallery, query, decision):
    found = gallery.confirmations.propose(query.fingerprint, "p0-t1", USE)
    with pytest.raises(InputError, match="another case than 'burglary': name its own case"):
        getattr(gallery.confirmations, decision)(found.id, Use(user="eve", purpose="lost child", case="burglary"))
    assert gallery.confirmations.get(found.id) == found


@pytest.mark.parametrize("confirmed_first", [False, True])
def test_one_person_rejects(gallery, query, confirmed_first):
    found = gallery.confirmations.propose(query.fingerprint, "p0-t1", USE)
    if confirmed_first:
        gallery.confirmations.confirm(found.id, USE)
    rejected = gallery.confirmations.reject(found.id, EVE)
    assert (rejected.state, rejected.rejected_by) == (State.REJECTED, "eve")
    with pytest.raises(InputError, match="was rejected already"):
        gallery.confirmations.confirm(found.id, EVE)
    assert gallery.confirmations.list(state="rejected") == [rejected] == gallery.confirmations.list(track="p0-t1")
    assert gallery.confirmations.list(case="another") == []


def test_confirmation_errors(gallery):
    with pytest.raises(InputError, match="there is no track 'p9-t9'"):
        gallery.confirmations.propose("sha256:0", "p9-t9", USE)
    gallery.confirmations.propose("item:p0-t0-0", "p1-t1", USE)
    gallery.erase(USE, person="person 0")
    with pytest.raises(InputError, match="there is no item 'p0-t0-0'"):
        gallery.confirmations.propose("item:p0-t0-0", "p1-t1", USE)
    proposed = gallery.confirmations.propose("sha256:0", "p1-t1", USE)
    decisions = (gallery.confirmations.confirm, gallery.confirmations.reject)
    for decide in (*decisions, lambda _, use: gallery.confirmations.propose("sha256:1", "p1-t1", use)):
        with pytest.raises(InputError, match="give a purpose and a case"):
            decide(proposed.id, Use(purpose=" ", case=""))
    for call in (gallery.confirmations.get, lambda i: gallery.confirmations.confirm(i, USE)):
        with pytest.raises(InputError, match="there is no confirmation 'x'"):
            call("x")


# ---- deletion


def on_disk(gallery, *needles):
    """Return which byte strings are anywhere in the gallery's files, its write-ahead log included."""
    data = b"".join(path.read_bytes() for path in gallery.location.rglob("*") if path.is_file())
    return [needle in data for needle in needles]


def test_erasing_a_person_leaves_no_byte_of_it(gallery, query):
    _, vectors, crops = make_people()
    gallery.search(query, use=USE)
    found = gallery.confirmations.propose(query.fingerprint, "p0-t1", USE)
    asked = [gallery.confirmations.propose(f"item:{item}", "p1-t1", USE) for item in ("p0-t0-0", "p5-t0-0")]
    needles = (vectors[0].tobytes(), crops[0], b"p0-t0-0", b"person 0", found.id.encode(), asked[0].id.encode())
    others = (vectors[-1].tobytes(), crops[-1], b"p5-t1-2", b"person 5")
    assert all(on_disk(gallery, *needles, *others))
    with Gallery.open(gallery.location) as reader:
        reader.refresh()
        receipt = gallery.erase(USE, person="person 0")
        assert reader.refresh() == 30
    assert on_disk(gallery, *needles) == [False] * len(needles)
    assert all(on_disk(gallery, *others))
    assert (receipt.items, receipt.crops, receipt.tracks, receipt.purged) == (6, 6, 2, True)
    assert gallery.search(query, use=USE).candidates[0].item.person != "person 0"
    last = gallery.audit.entries()[-2]
    assert last.hash == receipt.entry
    assert last.entry["details"]["receipt"]["items_sha256"] == receipt.items_sha256
    assert gallery.confirmations.list() == asked[1:]


def test_erased_labels_leave_no_copy_in_pages_that_were_split(tmp_path):
    """Labels that come in another order than the items make pages overflow; the halves keep copies of each other."""
    rng, count = np.random.default_rng(2), 1200
    order = rng.permutation(count)
    items = [NewItem(id=f"item {code:06d}", camera="c", modality=0) for code in order]
    with Gallery.create(tmp_path / "g", dim=4) as gallery:
        gallery.add(items, np.tile(np.eye(1, 4), (count, 1)))
        for some in np.split(order, 12):
            labelled = [items[i].model_copy(update={"person": f"person {i % 60:02d}"}) for i in some]
            gallery.add(labelled, np.tile(np.eye(1, 4), (len(some), 1)))
        left = []
        for number in range(10):
            gallery.erase(USE, person=f"person {number:02d}")
            needles = [f"person {number:02d}", *(item.id for item in items[number::60])]
            left.append(on_disk(gallery, *(needle.encode() for needle in needles)))
    assert not np.any(left)


def test_a_purge_that_another_process_keeps_from_the_files_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("vireid.gallery.database._PATIENCE", 0.1)
    place = tmp_path / "station"
    with Gallery.create(place, dim=DIM) as gallery:
        gallery.add(*make_people())
        readers = [
            sqlite3.connect(file, isolation_level=None) for file in (place / "records.sqlite3", audit_file(place))
        ]
        for reader, table in zip(readers, ("items", "audit"), strict=True):
            reader.execute("BEGIN")
            reader.execute(f"SELECT count(*) FROM {table}").fetchone()
        receipt = gallery.erase(USE, person="person 0")
        assert (receipt.purged, "run `vireid gallery maintain` later" in receipt.remarks) == (False, True)
        with pytest.raises(BusyError, match="maintain it again later"):
            maintain(str(place))
        assert gallery.audit.entries()[-1].entry["details"] == {"purged": False}
        with pytest.raises(BusyError, match="prune again later"):
            gallery.audit.prune(USE, 300, now=utc_now() + timedelta(days=400))
        destroyed = Gallery.destroy(place, USE)
        assert (destroyed.purged, "maintain" in destroyed.remarks) == (False, False)
        for reader in readers:
            reader.close()
        assert gallery.audit.prune(USE, 300) is None


def test_maintaining_is_logged_and_removes_what_could_not_be_purged(gallery):
    assert gallery.maintain(use=USE)
    entry = gallery.audit.entries()[-1].entry
    assert (entry["action"], entry["user"], entry["details"]) == ("maintain", "ada", {"purged": True})


def test_replacing_an_item_overwrites_it(gallery):
    items, vectors, crops = make_people()
    gallery.add([items[0].model_copy(update={"person": None})], vectors[1:2], [None])
    gallery.database.purge()
    assert on_disk(gallery, vectors[0].tobytes(), crops[0], crops[1]) == [False, False, True]


@pytest.mark.parametrize(
    ("call", "left"),
    [
        (lambda g: g.erase(USE, track="p0-t0"), 33),
        (lambda g: g.erase(USE, camera="yard"), 18),
        (lambda g: g.delete(USE, ids=["p0-t0-0", "p0-t0-1", "nothing"]), 34),
        (lambda g: g.delete(USE, where=Filter(end=NOON + timedelta(seconds=1))), 34),
        (lambda g: g.erase(USE, person="nobody"), 36),
    ],
)
def test_what_is_deleted_is_gone_from_records_and_search(gallery, query, call, left):
    assert gallery.refresh() == 36
    receipt = call(gallery)
    assert gallery.count() == gallery.refresh() == left == 36 - receipt.items
    assert (gallery.nearest(query.vector[None], 100).keys >= 0).sum() == left


def test_a_deletion_goes_in_batches_and_on_after_a_crash(gallery, monkeypatch):
    sizes = []

    def killed_at_the_third(session, revision, *where):
        if len(sizes) == 2:
            raise ZeroDivisionError
        removed = remove_items(session, revision, *where)
        sizes.append(len(removed.ids))
        return removed

    ids = [item.id for item in gallery.items(Filter(cameras=("yard",)))]
    before = gallery.stats().revision
    monkeypatch.setattr("vireid.gallery.removal.BATCH", 7)
    with monkeypatch.context() as patch:
        patch.setattr("vireid.gallery.removal.remove_items", killed_at_the_third)
        with pytest.raises(ZeroDivisionError):
            gallery.erase(USE, camera="yard")
    assert (sizes, gallery.stats().revision - before, gallery.count()) == ([7, 7], 2, 22)
    assert gallery.audit.entries()[-1].entry["details"] == {"begin": True, "scope": {"camera": "yard"}}
    assert gallery.erase(USE, camera="yard").items_sha256 == ids_digest(ids[14:])
    receipt = gallery.erase(USE, camera="gate")
    assert (receipt.items, receipt.crops, receipt.tracks, gallery.refresh()) == (18, 18, 6, 0)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda g: g.delete(USE), "say what to delete"),
        (lambda g: g.delete(USE, where=Filter()), "at least one condition"),
        (lambda g: g.delete(USE, ids=["a"], where=Filter(cameras=("c",))), "say what to delete"),
        (lambda g: g.erase(USE), "name one person, one track or one camera"),
        (lambda g: g.erase(USE, person="a", track="b"), "name one person, one track or one camera"),
    ],
)
def test_a_deletion_says_what(gallery, call, sentence):
    with pytest.raises(InputError, match=sentence):
        call(gallery)
    assert gallery.count() == 36


def test_retention_of_the_gallery_and_of_a_camera(gallery):
    now = NOON + timedelta(days=2)
    gallery.add([NewItem(id="timeless", camera="hall", modality=0)], np.eye(1, DIM))
    assert gallery.retain(USE, now=now).items == 0
    gallery.cameras.put(Camera(id="yard", retention_days=1))
    assert gallery.retain(USE, now=now).items == 18
    gallery.cameras.put(Camera(id="gate", retention_days=30))
    gallery.configure(retention_days=1)
    assert gallery.retain(USE, now=now).items == 0
    gallery.cameras.put(Camera(id="gate"))
    assert gallery.retain(USE, now=now).items == 18
    added = gallery.item("timeless").added
    gallery.add([NewItem(id="ahead", camera="hall", modality=0, time=added + timedelta(days=9000))], np.eye(1, DIM))
    assert gallery.retain(USE, now=added).items == 0
    assert gallery.retain(USE, now=added + timedelta(days=1, minutes=1)).items == 2


@pytest.mark.parametrize("days", [0, 36_501, float("inf"), float("nan")])
def test_no_retention_that_the_calendar_does_not_hold(gallery, days):
    with pytest.raises(InputError, match="retention_days"):
        gallery.configure(retention_days=days)
    for model, values in ((Camera, {"id": "gate"}), (CameraEntry, {})):
        with pytest.raises(ValidationError, match="retention_days"):
            model(retention_days=days, **values)
    gallery.cameras.put(Camera(id="gate", retention_days=36_500))
    assert gallery.retain(USE).items == 0


def test_unknown_cameras_enter_the_register_to_be_described(gallery):
    assert [(camera.id, camera.described) for camera in gallery.cameras.list()] == [("gate", False), ("yard", False)]
    gate = Camera(id="gate", place="north", purpose="lost persons", legal_basis="GDPR Art. 6(1)(e)")
    gallery.cameras.put(gate)
    gallery.add(*make_people())
    assert gallery.cameras.get("gate") == gate
    assert gate.described
    with pytest.raises(InputError, match="there is no camera 'roof'"):
        gallery.cameras.get("roof")


# ---- export


@pytest.mark.parametrize("name", ["out.zip", "out"])
def test_export_says_candidate_until_two_people_confirmed(gallery, query, tmp_path, name):
    def exported(target):
        out = export_subject(gallery, target, USE, person="person 0")
        if out.suffix != ".zip":
            return {str(p.relative_to(out).as_posix()): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        with zipfile.ZipFile(out) as archive:
            return {file: archive.read(file) for file in archive.namelist()}

    items, vectors, crops = make_people()
    found = gallery.confirmations.propose(query.fingerprint, "p0-t1", USE)
    gallery.confirmations.confirm(found.id, USE)
    elsewhere = Use(user="ada", purpose="theft", case="another")
    other = gallery.confirmations.propose(query.fingerprint, "p0-t0", elsewhere)
    asked = [gallery.confirmations.propose(f"item:{item}", "p1-t1", elsewhere) for item in ("p0-t0-0", "p5-t0-0")]
    files = exported(tmp_path / name)
    manifest = json.loads(files["manifest.json"])
    kept = [[c["id"] for c in track["confirmations"]] for track in manifest["tracks"]]
    assert kept == [[other.id], [found.id]]
    assert [c["id"] for c in manifest["searched"]] == [asked[0].id]
    written = [path for path in (tmp_path / name, *(tmp_path / name).rglob("*")) if path.is_file()]
    assert all(path.stat().st_mode & 0o77 == 0 for path in (tmp_path / name, *written))
    assert [track["state"] for track in manifest["tracks"]] == ["candidate", "candidate"]
    assert [item["id"] for item in manifest["items"]] == [item.id for item in items[:6]]
    assert [files[item["crop"]] for item in manifest["items"]] == crops[:6]
    np.testing.assert_array_equal(np.load(io.BytesIO(files["vectors.npy"])), vectors[:6])
    assert gallery.audit.entries()[-1].entry["results"] == [item.id for item in items[:6]]
    gallery.confirmations.confirm(found.id, EVE)
    manifest = json.loads(exported(tmp_path / f"second-{name}")["manifest.json"])
    assert [track["state"] for track in manifest["tracks"]] == ["candidate", "confirmed"]
    with pytest.raises(InputError, match="exists already"):
        exported(tmp_path / name)


def test_export_errors(gallery, tmp_path):
    with pytest.raises(InputError, match="name one person or one track"):
        export_subject(gallery, tmp_path / "a", USE)
    with pytest.raises(InputError, match="nothing is stored of track 'x'"):
        export_subject(gallery, tmp_path / "a", USE, track="x")
    for label in ("", "x" * 201, "\udcff"):
        with pytest.raises(InputError, match="cannot use persons"):
            export_subject(gallery, tmp_path / "a", USE, person=label)
    with pytest.raises(InputError, match="give a purpose and a case"):
        export_subject(gallery, tmp_path / "a", Use(purpose="", case=""), track="p0-t0")


def test_contact_sheets(gallery, query, tmp_path):
    result = gallery.search(query, use=USE, k=8)
    with Image.open(contact_sheet(gallery, result, tmp_path / "sheet.png", USE)) as sheet:
        assert sheet.height > sheet.width / 2
        shades = np.unique(np.asarray(sheet)[..., 0])
    assert len(shades) > 6
    assert (tmp_path / "sheet.png").stat().st_mode & 0o77 == 0
    page = contact_sheet(gallery, result, tmp_path / "sheet.html", USE).read_text()
    assert page.count("data:image/jpeg;base64,") == 8
    assert "not calibrated" in page
    assert "http" not in page
    with pytest.raises(InputError, match=r"a \.png or \.html file"):
        contact_sheet(gallery, result, tmp_path / "sheet.gif", USE)
    gallery.erase(USE, track=result.candidates[0].track.id)
    late = contact_sheet(gallery, result, tmp_path / "late.html", USE).read_text()
    assert (late.count("data:image/jpeg;base64,"), ">1. candidate<" in page, ">1. candidate<" in late) == (
        7,
        True,
        False,
    )
    assert gallery.audit.entries()[-1].entry["results"] == [c.item.id for c in result.candidates[1:]]


# ---- calibration


def make_labelled(persons=40, spread=0.35, seed=3):
    items, vectors, _ = make_people(persons, tracks=4, items=2, seed=seed)
    return Records.build(
        ".",
        path=[item.id for item in items],
        pid=[int(item.person.split()[1]) for item in items],
        camid=[int(item.track[-1]) for item in items],
        modality=[int(item.modality) for item in items],
    ), vectors


def test_pairs_within_a_modality_count_once_and_a_thin_pair_of_modalities_is_left_out():
    records, vectors = make_labelled()
    rows = np.sort(np.concatenate([np.flatnonzero(records.modality == 0), np.flatnonzero(records.modality == 1)[:2]]))
    sample = records.take(rows)
    visible = np.flatnonzero(sample.modality == 0)
    first, second = (visible[side] for side in np.triu_indices(len(visible), 1))
    same, near = sample.pid[first] == sample.pid[second], sample.camid[first] == sample.camid[second]
    with pytest.warns(UserWarning, match="not calibrated: .* infrared-visible pairs .* cannot show"):
        calibration = fit_calibration(sample, vectors[rows], 1e-3, "digest")
    assert list(calibration.pairs) == ["visible-visible"]
    pair = calibration.pairs["visible-visible"]
    assert (pair.num_genuine, pair.num_impostor) == ((same & ~near).sum(), (~same).sum())


def test_calibration_keeps_the_target_and_means_what_it_says():
    records, vectors = make_labelled()
    calibration = fit_calibration(records, vectors, 1e-2, "digest")
    assert set(calibration.pairs) == {"infrared-visible", "visible-visible", "infrared-infrared"}
    pair = calibration.pairs["infrared-visible"]
    similarity = vectors[records.modality == 1] @ vectors[records.modality == 0].T
    same = records.pid[records.modality == 1][:, None] == records.pid[records.modality == 0]
    stranger = similarity[~same]
    assert (stranger >= pair.threshold).mean() == pytest.approx(pair.fpr)
    assert pair.fpr <= 1e-2
    assert (similarity[same] >= pair.threshold).mean() == pytest.approx(pair.tpr)
    for value in np.quantile(stranger, [0.2, 0.9, 0.99, 0.999]):
        assert pair.false_positive_rate(value) == pytest.approx((stranger >= value).mean(), rel=0.15)
    assert pair.false_positive_rate(2) == 1 / (pair.num_impostor + 1)
    scores = [pair.score(value) for value in np.linspace(-1, 1, 9)]
    assert scores == sorted(scores)
    assert 0 <= scores[0] < 0.05
    assert 0.95 < scores[-1] <= 1
    assert calibration.of(None, 0) is None


def test_a_calibrated_gallery_says_no_match(gallery, query):
    records, vectors = make_labelled()
    gallery.store_calibration(fit_calibration(records, vectors, 1e-3, ""))
    found = gallery.search(query, use=USE, k=5, where=Filter(modality="infrared"))
    assert found.verdict == "candidates"
    assert found.candidates[0].track.id == "p0-t1"
    assert all(c.above_threshold and 0.5 < c.score <= 1 and c.false_positive_rate < 0.01 for c in found.candidates)
    gallery.erase(USE, person="person 0")
    empty = gallery.search(query, use=USE, k=5)
    assert (empty.verdict, empty.message, empty.candidates) == (
        "no match above the threshold",
        "No match above the threshold.",
        (),
    )
    shown = gallery.search(query, use=USE, k=5, include_below=True)
    assert shown.verdict == "no match above the threshold"
    assert [c.above_threshold for c in shown.candidates] == [False] * 5
    scores = [c.score for c in shown.candidates]
    assert scores == sorted(scores, reverse=True)


def test_without_the_query_s_modality_nothing_is_calibrated(gallery, query):
    gallery.store_calibration(fit_calibration(*make_labelled(), 1e-3, ""))
    result = gallery.search(Query.from_vector(query.vector), use=USE, k=2)
    assert result.verdict == "not calibrated"
    assert [(c.score, c.false_positive_rate, c.above_threshold) for c in result.candidates] == [(None, None, None)] * 2


def test_calibration_is_stored_for_other_processes(gallery):
    with Gallery.open(gallery.location) as other:
        assert other.calibration is None
        calibration = fit_calibration(*make_labelled(), 1e-2, "digest")
        gallery.store_calibration(calibration)
        other.refresh()
        assert other.calibration == calibration


@pytest.mark.parametrize(
    ("records", "target", "sentence"),
    [
        (lambda r: r, 0, "between 0 and 1"),
        (lambda r: r, 1e-9, "cannot show a false positive rate of 1e-09"),
        (lambda r: r.take(r.pid < 10), 1e-9, "or ask for 0.002 or more"),
        (lambda r: r.take(r.pid == 0), 0.1, "calibrate on a sample of several people"),
        (lambda r: r.take(r.camid == 0), 0.1, "each before at least two cameras"),
    ],
)
def test_calibration_errors(records, target, sentence):
    sample, vectors = make_labelled()
    chosen = records(sample)
    rows = np.isin(sample.path, chosen.path)
    with pytest.raises(InputError, match=sentence):
        fit_calibration(chosen, vectors[rows], target, "")


@pytest.mark.parametrize("end", [20260501, "20260501000000", "2026", "1.5", "2026-05-01"])
def test_a_number_is_no_time(end):
    """Of seconds since 1970 the first would be in August of that year, the second in the year 2612."""
    with pytest.raises(ValueError, match="write the time as 2026-05-03T21:00:00"):
        Filter(end=end)


def test_a_large_sample_is_thinned_evenly():
    records = make_labelled()[0]
    few = thin(records, 10)
    assert [(few.modality == m).sum() for m in (0, 1)] == [10, 10]
    assert few.pid.min() == 0
    assert few.pid.max() == 39
    assert len(thin(records)) == len(records)


def test_calibrate_embeds_with_the_gallery_s_bundle(run, manifest, tmp_path):
    from vireid.data import open_dataset

    with Gallery.create(tmp_path / "g", bundle=run / "last.safetensors") as gallery:
        result = calibrate(gallery, open_dataset("manifest", manifest), target_fpr=0.1)
        assert result == gallery.calibration
        assert result.bundle_sha256 == gallery.settings.bundle_sha256
        assert list(result.pairs) == ["infrared-visible"]
        assert result.pairs["infrared-visible"].num_genuine == 4 * 4 * 4  # of the four people who are not in `train`
        with pytest.raises(InputError, match="all 64 labelled images are in the split `train`"):
            calibrate(gallery, open_dataset("manifest", manifest).where(split="train"), target_fpr=0.1)
