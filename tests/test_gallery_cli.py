"""The gallery's commands: one path through all of them, and what they say."""

import json
from datetime import timedelta

import pytest
from PIL import Image
from typer.testing import CliRunner

from gallery_people import DIM, make_jpeg, make_people
from vireid.cli import app
from vireid.errors import InputError
from vireid.gallery import Camera, Filter, Gallery, Query, Use
from vireid.gallery.audit import AuditLog
from vireid.gallery.types import utc_now
from vireid.ingest import Outcome, Tally

USE = ["--purpose", "lost child", "--case", "7"]


def call(*arguments):
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_from_crops_to_an_answer_and_back_to_nothing(run, manifest, tmp_path, monkeypatch):
    monkeypatch.setattr("vireid.cli.options.console.width", 200)
    monkeypatch.setattr("socket.socket.connect", lambda *address: pytest.fail(f"a request to {address}"))
    place = ["--gallery", tmp_path / "station"]
    bundle = run / "last.safetensors"
    added = call("gallery", "add", manifest, *place, "--bundle", bundle, "--camera", "1=gate").output
    assert "96 items" in added
    call("gallery", "cameras", "describe", "gate", *place, "--place", "north", "--purpose", "p", "--legal-basis", "l")
    stats = call("gallery", "stats", *place).output
    assert "96 items (48 infrared, 48 visible), 96 tracks" in stats
    assert "not calibrated" in stats
    ranked = call("gallery", "search", manifest / "infrared_3_0.jpg", *place, *USE, "--top", 1).output
    assert "strangers" not in ranked
    table = call("calibrate", *place, "--root", manifest, "--target-fpr", 0.01, "--figure", tmp_path / "roc.png").output
    assert "infrared-visible" in table
    with Image.open(tmp_path / "roc.png") as figure:
        assert figure.width > 400
    sheet = tmp_path / "sheet.html"
    query = ["gallery", "search", manifest / "infrared_3_0.jpg", *place, "--among", "visible"]
    found = call(*query, *USE, "--top", 5, "--below", "--sheet", sheet).output
    assert "gate" in found
    assert "strangers" in found
    assert sheet.exists()
    with Gallery.open(tmp_path / "station") as gallery:
        item = gallery.items(Filter(modality="infrared"), limit=1)[0]
    assert item.id not in call("gallery", "search", "--item", item.id, *place, *USE, "--below").output
    call("gallery", "export", "--track", item.track, *place, *USE, "--out", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["items"][0]["id"] == item.id
    call("gallery", "erase", "--track", item.track, *place, *USE)
    key = call("keys", "create", *place, "--user", "ada", "--role", "operator").output.split()[2]
    assert "ada" in call("keys", "list", *place).output
    call("keys", "revoke", key, *place)
    for command, option, file, sentence in (
        (["delete", "--camera", "gate"], "--receipt", tmp_path, "is a folder"),
        (["search", "--item", "none"], "--sheet", "x.jpg", "a contact sheet is a .png or .html file"),
    ):
        with pytest.raises(InputError, match=sentence):
            call("gallery", *command, *place, *USE, option, file)
    call("gallery", "delete", *place, "--camera", "gate", *USE, "--receipt", tmp_path / "receipt.json")
    assert json.loads((tmp_path / "receipt.json").read_text())["items"] == 48
    call("gallery", "retain", *place)
    call("gallery", "maintain", *place)
    call("gallery", "delete", *place, "--everything", *USE)
    assert not (tmp_path / "station").exists()
    call("audit", "export", *place, "--out", tmp_path / "audit.jsonl")
    entries = [json.loads(line)["entry"]["action"] for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert entries[:3] == ["create", "add", "ingest"]
    assert (entries.count("search"), entries.count("export")) == (3, 2)
    assert {"create key", "revoke key", "describe camera", "calibrate", "erase", "delete", "retain", "destroy"} < set(
        entries
    )
    for log in (place, ["--file", tmp_path / "audit.jsonl"]):
        assert f"{len(entries)} entries in order" in call("audit", "verify", *log).output


def test_adding_prints_no_password(tmp_path, monkeypatch):
    gallery = Gallery.create(tmp_path / "station", dim=DIM)
    monkeypatch.setattr(Gallery, "open", lambda *_, **__: gallery)
    monkeypatch.setattr("vireid.ingest.ingest", lambda *_, **__: Outcome(Tally(items=3), []))
    added = call("gallery", "add", tmp_path, "--gallery", "postgresql://ada:secret@db/station").output
    assert "3 items in postgresql://ada:***@db/station" in added


@pytest.mark.parametrize(
    ("source", "options", "sentence"),
    [
        ("nowhere", ["--camera", "gate"], "there is no file or folder"),
        ("empty", ["--camera", "gate"], "no images under"),
        ("empty", [], "0 cameras given"),
        ("rows.csv", [], "is empty; its first line must be"),
        ("text.avi", ["--camera", "gate"], "cannot be opened as a video"),
        ("empty", ["--camera", "gate", "--start", "noon"], "is no ISO 8601 time"),
    ],
)
def test_what_cannot_be_added_makes_no_gallery(tmp_path, source, options, sentence):
    (tmp_path / "empty").mkdir()
    for name in ("rows.csv", "text.avi"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=sentence):
        call("gallery", "add", tmp_path / source, "--gallery", tmp_path / "made", "--bundle", "vireid-lite0", *options)
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "rows.csv", "text.avi"}


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (["--place", "south"], {"place": "south"}),
        (["--retention-days", "7"], {"retention_days": 7}),
        (["--retention-days", "none", "--purpose", "theft"], {"retention_days": None, "purpose": "theft"}),
    ],
)
def test_describing_a_camera_again_keeps_what_is_not_given(tmp_path, options, changed):
    gate = Camera(id="gate", place="north", purpose="lost persons", legal_basis="consent", retention_days=3)
    with Gallery.create(tmp_path / "station", dim=DIM) as gallery:
        gallery.cameras.put(gate)
    call("gallery", "cameras", "describe", "gate", "--gallery", tmp_path / "station", *options)
    with Gallery.open(tmp_path / "station") as gallery:
        assert gallery.cameras.list() == [gate.model_copy(update=changed)]
        details = gallery.audit.entries()[-1].entry["details"]
    assert details == {**gate.model_dump(), **changed, "before": gate.model_dump()}


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (["--retention-days", "7", "--name", "yard"], {"retention_days": 7, "name": "yard"}),
        (["--retention-days", "none", "--purpose", "theft"], {"retention_days": None, "purpose": "theft"}),
        (["--no-require-purpose"], {"require_purpose": False}),
    ],
)
def test_configuring_changes_what_is_given_only(tmp_path, options, changed):
    with Gallery.create(tmp_path / "station", dim=DIM, purpose="lost persons", retention_days=3) as gallery:
        before = gallery.settings
    call("gallery", "configure", "--gallery", tmp_path / "station", *options)
    with Gallery.open(tmp_path / "station") as gallery:
        assert gallery.settings == before.model_copy(update=changed)
        assert gallery.audit.entries()[-1].entry["details"].keys() == changed.keys()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["search", "--item", "p0-t0-0"], "give a purpose and a case"),
        (["search", "--item", "nobody", *USE], "there is no item 'nobody'"),
        (["search", "--item", "p0-t0-0", *USE, "--top", 0], "ask for 1 to 1000"),
        (
            ["search", "--item", "p0-t0-0", *USE, "--rerank", "magic"],
            "unknown re-ranking 'magic': use k-reciprocal, parts",
        ),
        (["maintain"], None),
    ],
)
def test_vectors_are_read_only_for_a_search_that_can_be_made(tmp_path, monkeypatch, words, sentence):
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery:
        gallery.add(*make_people())
    monkeypatch.setattr("vireid.gallery.follow.Follower.catch_up", lambda *_: pytest.fail("vectors are read"))
    if sentence is None:
        assert "MB on disk" in call("gallery", *words, "--gallery", tmp_path / "g").output
    else:
        with pytest.raises(InputError, match=sentence):
            call("gallery", *words, "--gallery", tmp_path / "g")


def test_audit_verify_fails_loudly(tmp_path):
    with Gallery.create(tmp_path / "g", dim=4) as gallery:
        gallery.configure(name="h")
    log = tmp_path / "log.jsonl"
    call("audit", "export", "--gallery", tmp_path / "g", "--out", log)
    noted = call("audit", "verify", "--file", log, "--noted", "0" * 64)
    assert (noted.exit_code, "cut short" in noted.output) == (1, True)
    log.write_text(log.read_text().replace("create", "search"))
    broken = call("audit", "verify", "--file", log)
    assert (broken.exit_code, "entry 1 is broken" in broken.output) == (1, True)
    log.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is no exported log"):
        call("audit", "verify", "--file", log)


def test_two_people_decide(tmp_path, monkeypatch):
    monkeypatch.setattr("vireid.cli.options.console.width", 200)
    place = ["--gallery", tmp_path / "station"]
    picture = tmp_path / "night.jpg"
    picture.write_bytes(make_jpeg(9, "query"))
    with Gallery.create(tmp_path / "station", dim=DIM) as gallery:
        gallery.add(*make_people())
    asked = [*place, *USE]

    def say(user, decision, *about):
        monkeypatch.setenv("LOGNAME", user)
        return " ".join(call("gallery", decision, *about, *asked).output.split())

    once = say("ada", "confirm", "p0-t1", picture)
    assert once == "track p0-t1 is confirmed once, by ada: a second person must confirm it"
    with pytest.raises(InputError, match="ada has verified this candidate already"):
        say("ada", "confirm", "p0-t1", picture)
    assert say("eve", "confirm", "p0-t1", picture) == "track p0-t1 is confirmed, by ada and eve"
    assert say("eve", "reject", "p1-t1", "--item", "p0-t0-0") == "track p1-t1 is rejected, by eve"
    with Gallery.open(tmp_path / "station") as gallery:
        query = Query.from_item(gallery, "p0-t0-0")
        found = gallery.search(query, use=Use(purpose="lost child", case="7")).candidates
        assert {c.track.id: c.state for c in found}["p1-t1"] == "rejected"
    listed = call("gallery", "confirmations", *place, "--case", "7", "--state", "confirmed").output
    assert "ada, eve" in listed
    assert "p1-t1" not in listed


def test_the_log_is_pruned_and_says_so(tmp_path, monkeypatch):
    place = ["--gallery", tmp_path / "station"]
    Gallery.create(tmp_path / "station", dim=DIM).close()
    assert "no entry is older than 400 days" in call("audit", "prune", *place, "--days", 400).output
    prune = AuditLog.prune
    later = utc_now() + timedelta(days=500)
    monkeypatch.setattr(AuditLog, "prune", lambda *given: prune(*given, now=later))
    assert "1 entries pruned, audit entry" in call("audit", "prune", *place, "--days", 400).output
    assert "1 entries in order, 1 older ones pruned" in call("audit", "verify", *place).output
    (tmp_path / "station.audit.sqlite3").unlink()
    assert "the log goes on, head" in call("audit", "begin", *place, "--purpose", "disk failed").output
