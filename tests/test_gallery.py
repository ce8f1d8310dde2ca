"""Galleries: durable, idempotent, searched by track, followed by other processes; in SQLite and in PostgreSQL."""

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import NullPool, create_engine, event, inspect, text
from sqlalchemy.exc import IntegrityError

import vireid
from gallery_oracle import ReferenceEngine
from gallery_people import DIM, NOON, USE, make_jpeg, make_people
from vireid.errors import BusyError, InputError, StorageError
from vireid.gallery import Filter, Gallery, NewItem, Query, State, Use
from vireid.gallery.database import HEAD, forget_deletions
from vireid.gallery.engines.flat import FlatEngine
from vireid.gallery.schema import Base
from vireid.gallery.search import DEEPEST, MESSAGES
from vireid.gallery.settings import changed_settings, read_settings


@pytest.fixture
def gallery(location):
    with Gallery.create(location, dim=DIM, name="station", purpose="lost persons") as gallery:
        yield gallery


@pytest.fixture
def people(gallery):
    items, vectors, crops = make_people()
    gallery.add(items, vectors, crops)
    return items, vectors, crops


def test_what_was_added_comes_back(gallery, people, location):
    items, vectors, crops = people
    gallery.close()
    with Gallery.open(location) as again:
        stored = again.items(limit=1000)
        assert [NewItem(**item.model_dump(exclude={"added", "has_crop"})) for item in stored] == items
        np.testing.assert_array_equal(again.vectors([item.id for item in items]), vectors)
        assert [again.crop(item.id) for item in items] == crops
        assert again.count() == len(items)
        assert again.settings.purpose == "lost persons"


def test_a_retried_batch_changes_nothing_and_a_changed_item_is_replaced(gallery, people, monkeypatch):
    items, vectors, crops = people
    before = gallery.items(limit=1000)
    gallery.refresh()
    with monkeypatch.context() as patch:
        patch.setattr(FlatEngine, "add", lambda *_: pytest.fail("the engine is told of what did not change"))
        gallery.add(items, vectors, crops)
    assert gallery.items(limit=1000) == before
    moved = items[0].model_copy(update={"track": "another"})
    gallery.add([moved], vectors[5:6], [None])
    assert gallery.item(moved.id).track == "another"
    assert gallery.crop(moved.id) is None
    np.testing.assert_array_equal(gallery.vectors([moved.id]), vectors[5:6])
    assert gallery.track("p0-t0").items == 2
    assert gallery.count() == len(items)


def test_a_track_ends_with_its_last_item(gallery):
    vector = np.eye(1, DIM)
    gallery.add([NewItem(id="a", camera="c", modality=0, track="old")], vector)
    gallery.add([NewItem(id="a", camera="c", modality=0, track="new")], vector)
    assert [track.id for track in gallery.tracks()] == ["new"]


def test_a_batch_is_stored_whole_or_not_at_all(gallery):
    items = [NewItem(id=f"i{k}", camera="c", modality=k, track="one track") for k in range(2)]
    with pytest.raises(InputError, match=r"'one track' would lie before camera c \(visible\) and camera c \(infr"):
        gallery.add(items, np.eye(2, DIM), checkpoint=("film", {"frame": 9}))
    assert gallery.count() == 0
    assert gallery.checkpoint("film") is None
    gallery.add(items[:1], np.eye(1, DIM), checkpoint=("film", {"frame": 9}))
    assert gallery.checkpoint("film") == {"frame": 9}
    with pytest.raises(InputError, match="would lie before"):
        gallery.add(items[1:], np.eye(1, DIM))
    gallery.clear_checkpoint("film")
    assert gallery.checkpoint("film") is None


@pytest.mark.parametrize(
    ("ids", "vectors", "crops", "sentence"),
    [
        (["a"], np.eye(1, DIM + 1), None, rf"takes \(1, {DIM}\)"),
        (["a"], np.full((1, DIM), np.nan), None, "vector 0 of the batch is not of norm 1 or holds NaN"),
        (["a", "b"], np.eye(2, DIM) * [[1], [3]], None, "vector 1 of the batch"),
        (["a", "a"], np.eye(2, DIM), None, "'a' stands twice"),
        (["a"], np.eye(1, DIM), [b"GIF89a"], "no JPEG"),
        (["a"], np.eye(1, DIM), [], "0 crops for 1 items"),
    ],
)
def test_a_bad_batch_is_refused(tmp_path, ids, vectors, crops, sentence):
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery:
        with pytest.raises(InputError, match=sentence):
            gallery.add([NewItem(id=i, camera="c", modality=0) for i in ids], vectors, crops)
        assert gallery.count() == 0


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (Filter(cameras=("gate",)), lambda item: item.camera == "gate"),
        (Filter(modality="infrared"), lambda item: item.modality == 1),
        (Filter(start=NOON + timedelta(hours=12)), lambda item: item.camera == "yard"),
        (Filter(end=NOON + timedelta(minutes=1)), lambda item: item.time <= NOON + timedelta(minutes=1)),
        (Filter(tracks=("p0-t0", "p1-t1")), lambda item: item.track in ("p0-t0", "p1-t1")),
        (Filter(persons=("person 3",), modality="visible"), lambda item: item.track == "p3-t0"),
        (Filter(persons=("nobody",)), lambda item: False),
    ],
)
def test_filters_mean_the_same_in_records_and_in_search(gallery, people, where, expected):
    gallery.add([NewItem(id="timeless", camera="hall", modality=0)], np.eye(1, DIM))
    wanted = [item.id for item in people[0] if expected(item)]
    assert [item.id for item in gallery.items(where, limit=1000)] == wanted
    assert gallery.count(where) == len(wanted)
    keys = gallery.nearest(people[1][:1], 100, where).keys
    assert (keys >= 0).sum() == len(wanted)
    assert [item.id for batch, _ in gallery.scan(where, batch=4) for item in batch] == wanted


def test_search_ranks_tracks_by_their_most_similar_item(gallery, people):
    items, vectors, _ = people
    query = vectors[0] + 0.1
    result = gallery.search(Query.from_vector(query, "visible"), use=USE, k=4, where=Filter(modality="infrared"))
    similarity = vectors @ (query / np.linalg.norm(query))
    best = {}
    for item, _ in sorted(zip(items, similarity, strict=True), key=lambda pair: -pair[1]):
        if item.camera == "yard":
            best.setdefault(item.track, item.id)
    assert [(c.track.id, c.item.id) for c in result.candidates] == list(best.items())[:4]
    assert [c.rank for c in result.candidates] == [1, 2, 3, 4]
    track = result.candidates[0].track
    assert (track.items, track.end - track.start) == (3, timedelta(seconds=2))


def test_search_fills_its_tracks_past_a_crowded_one(gallery):
    """One track of 300 near-copies must not crowd out the others."""
    rng = np.random.default_rng(0)
    vectors = np.concatenate([np.eye(1, DIM) + rng.normal(0, 1e-3, (300, DIM)), rng.standard_normal((5, DIM))])
    tracks = ["crowded"] * 300 + [f"t{k}" for k in range(5)]
    items = [NewItem(id=str(i), camera="c", modality=0, track=track) for i, track in enumerate(tracks)]
    gallery.add(items, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    result = gallery.search(Query.from_vector(np.eye(1, DIM)[0]), use=USE, k=6)
    assert {c.track.id for c in result.candidates} == set(tracks)
    assert result.candidates[0].track.id == "crowded"


def test_a_search_never_asks_an_engine_for_more_than_the_deepest(gallery, people, monkeypatch):
    asked = []
    monkeypatch.setattr(gallery, "nearest", lambda *args: (asked.append(args[1]), Gallery.nearest(gallery, *args))[1])
    gallery.items_per_track = 64  # as a crowded track leaves it
    assert len(gallery.search(Query.from_vector(people[1][0]), use=USE, k=1000).candidates) == 12
    assert asked == [DEEPEST]


def test_a_stored_item_does_not_find_its_own_track(gallery, people):
    result = gallery.search(Query.from_item(gallery, "p2-t0-1"), use=USE, k=20)
    assert result.query == "item:p2-t0-1"
    assert result.candidates[0].track.id == "p2-t1"
    assert "p2-t0" not in {c.track.id for c in result.candidates}


def test_reranking_reorders_the_head_only(gallery, people):
    class Backwards:
        name = "backwards"

        def rerank_top(self, query, head):
            return -(head.vectors @ query.vector)

    query = Query.from_vector(people[1][0], "visible")
    plain = [c.track.id for c in gallery.search(query, use=USE).candidates]
    turned = gallery.search(query, use=USE, rerank=Backwards(), rerank_top=3)
    assert turned.rerank == "backwards"
    assert [c.track.id for c in turned.candidates] == [*plain[2::-1], *plain[3:]]
    reciprocal = gallery.search(query, use=USE, rerank="k-reciprocal")
    assert reciprocal.candidates[0].track.id == "p0-t0"
    assert {c.track.id for c in reciprocal.candidates} == set(plain)
    with pytest.raises(InputError, match="unknown re-ranking 'nformer'"):
        gallery.search(query, use=USE, rerank="nformer")


def test_several_queries_get_the_answers_of_single_ones(gallery, people):
    queries = [Query.from_vector(vector, "visible") for vector in people[1][::7]]
    together = gallery.search_many(queries, use=USE, k=3)
    for query, result in zip(queries, together, strict=True):
        alone = gallery.search(query, use=USE, k=3)
        assert result.candidates == alone.candidates
    assert gallery.search_many([], use=USE) == []


def test_nothing_to_search(gallery):
    result = gallery.search(Query.from_vector(np.ones(DIM)), use=USE)
    assert (result.verdict, result.candidates) == ("nothing to search", ())
    assert result.message == MESSAGES["nothing to search"]


@pytest.mark.parametrize(
    ("vector", "sentence"),
    [(np.zeros(DIM), "is zero"), (np.full(DIM, np.nan), "not finite"), (np.ones((1, DIM)), "no single row")],
)
def test_a_query_is_one_direction(vector, sentence):
    with pytest.raises(InputError, match=sentence):
        Query.from_vector(vector)


def test_a_query_of_another_width_or_too_many_candidates_is_refused(gallery, people):
    with pytest.raises(InputError, match=rf"queries of shape \(1, 9\), expected \(Q, {DIM}\)"):
        gallery.search(Query.from_vector(np.ones(9)), use=USE)
    with pytest.raises(InputError, match="ask for 1 to 1000"):
        gallery.search(Query.from_vector(np.ones(DIM)), use=USE, k=0)


def test_another_process_s_changes_are_seen_before_the_next_search(location, gallery, people):
    query = Query.from_vector(people[1][0], "visible")
    with Gallery.open(location) as other:
        assert other.search(query, use=USE, k=1).candidates[0].track.id == "p0-t0"
        gallery.erase(USE, track="p0-t0")
        assert other.search(query, use=USE, k=1).candidates[0].track.id == "p0-t1"
        gallery.add([NewItem(id="new", camera="gate", modality=0)], people[1][:1])
        assert other.search(query, use=USE, k=1).candidates[0].item.id == "new"
        gallery.add([NewItem(id="new", camera="gate", modality=0)], people[1][9:10])
        assert other.search(query, use=USE, k=1).candidates[0].item.id != "new"
        gallery.delete(USE, ids=["new"])
        gallery.configure(name="renamed")
        gallery.maintain()  # forgets the deletion: the other starts anew
        assert other.refresh() == gallery.count()
        assert other.settings.name == "renamed"


def test_a_shared_engine_takes_in_what_a_killed_writer_left(gallery, people, location, monkeypatch):
    """As a server does, the engine outlives its clients; its position is kept in the records."""
    server = ReferenceEngine()
    server.shared = True
    query = Query.from_vector(people[1][0], "visible")
    monkeypatch.setattr("vireid.gallery.gallery.open_engine", lambda *_: server)
    with Gallery.open(location) as first:
        assert first.refresh() == 36
        gallery.erase(USE, track="p0-t0")  # never told to the server
        gallery.add([NewItem(id="new", camera="gate", modality=0)], people[1][:1])
    with Gallery.open(location) as second:
        pushed = []
        server.add = lambda rows: (pushed.append(len(rows)), ReferenceEngine.add(server, rows))
        assert second.search(query, use=USE, k=1).candidates[0].item.id == "new"
        assert (second.refresh(), pushed) == (34, [1])
        server.drop()
    with Gallery.open(location) as third:
        assert (third.refresh(), pushed) == (34, [1, 34])
        third.delete(USE, ids=["new"])


def test_maintaining_does_not_make_a_shared_engine_start_anew(gallery, people, location, monkeypatch):
    server = ReferenceEngine()
    server.shared = True
    monkeypatch.setattr("vireid.gallery.gallery.open_engine", lambda *_: server)
    with Gallery.open(location) as first, Gallery.open(location) as second:
        assert first.refresh() == second.refresh() == 36

        def meanwhile(database, **named):
            gallery.erase(USE, track="p0-t0")  # never told to the server
            forget_deletions(database, **named)

        monkeypatch.setattr("vireid.gallery.gallery.db.forget_deletions", meanwhile)
        first.maintain()
        server.delete = lambda keys=None: ReferenceEngine.delete(server, keys) if keys is not None else 1 / 0
        assert second.refresh() == len(server.rows) == 33


def test_a_first_push_that_was_killed_leaves_nothing_of_what_is_erased_then(gallery, people, location, monkeypatch):
    server = ReferenceEngine()
    server.shared = True
    monkeypatch.setattr("vireid.gallery.gallery.open_engine", lambda *_: server)
    server.add = lambda rows: (ReferenceEngine.add(server, rows), 1 / 0)
    with Gallery.open(location) as first, pytest.raises(ZeroDivisionError):
        first.refresh()
    del server.add
    with Gallery.open(location) as second:
        second.erase(USE, person="person 0")
        assert second.refresh() == len(server.rows) == second.count() == 30


def test_a_reader_beside_a_writer(gallery, people):
    """Searches in threads while batches arrive: no error, and every acknowledged item is found at once."""
    rng, errors, done = np.random.default_rng(1), [], threading.Event()

    def read():
        try:
            while not done.is_set():
                gallery.search(Query.from_vector(people[1][0], "visible"), use=USE, k=3)
        except Exception as error:
            errors.append(error)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for batch in range(5):
        vectors = rng.standard_normal((4, DIM))
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        gallery.add([NewItem(id=f"{batch}.{k}", camera="c", modality=0) for k in range(4)], vectors)
        result = gallery.search(Query.from_vector(vectors[3]), use=USE, k=1)
        assert result.candidates[0].item.id == f"{batch}.3"
    done.set()
    for reader in readers:
        reader.join()
    assert errors == []
    assert gallery.audit.verify().broken is None


def test_pages_tracks_and_counts(gallery, people):
    ids = [item.id for item in people[0]]
    first, following = gallery.page(limit=20)
    second, end = gallery.page(limit=20, after=following)
    assert ([item.id for item in first + second], end) == (ids, None)
    assert [t.id for t in gallery.tracks(Filter(cameras=("yard",)), limit=2, after="p1-t1")] == ["p2-t1", "p3-t1"]
    assert [item.id for item in gallery.track_items("p1-t0")] == ["p1-t0-0", "p1-t0-1", "p1-t0-2"]
    assert gallery.known(["p0-t0-0", "nothing"]) == {"p0-t0-0": first[0]}
    stats = gallery.stats()
    assert (stats.items, stats.tracks, stats.crops, stats.persons) == (36, 12, 36, 6)
    assert stats.by_modality == {"visible": 18, "infrared": 18}
    yard = stats.cameras[1]
    assert (yard.camera.id, yard.items, yard.tracks, yard.first) == ("yard", 18, 6, NOON + timedelta(hours=12))
    assert stats.bytes_on_disk > 0


def test_pages_go_on_when_the_last_item_of_one_is_deleted(gallery, people):
    ids = [item.id for item in people[0]]
    first, following = gallery.page(limit=20)
    gallery.delete(USE, ids=[first[-1].id, ids[20]])
    assert [item.id for item in gallery.page(limit=20, after=following)[0]] == ids[21:]


@pytest.mark.parametrize("call", ["item", "crop", "track", "track_items"])
def test_what_is_not_there_is_named(tmp_path, call):
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery, pytest.raises(InputError, match=r"there is no .* 'x\"y'"):
        getattr(gallery, call)('x"y')


def test_ids_of_any_script_and_lists_of_any_length(gallery):
    names = ["Straße 'ä'", '"; DROP TABLE items; --', "%_\\", "夜"]
    items = [NewItem(id=name, camera=name, modality=0, track=name, person=name) for name in names]
    gallery.add(items, np.eye(4, DIM))
    for name in names:
        where = Filter(cameras=(name,), tracks=(name,), persons=(name,))
        assert [item.id for item in gallery.items(where)] == [name]
        assert (gallery.nearest(np.eye(1, DIM), 4, where).keys >= 0).sum() == 1
    assert set(gallery.known([*names, *map(str, range(70_000))])) == set(names)


def test_float16_halves_the_vectors(tmp_path):
    items, vectors, _ = make_people()
    with Gallery.create(tmp_path / "g", dim=DIM, dtype="float16") as gallery:
        gallery.add(items, vectors)
        np.testing.assert_array_equal(gallery.vectors([i.id for i in items]), vectors.astype(np.float16))
    with sqlite3.connect(tmp_path / "g" / "records.sqlite3") as file:
        assert file.execute("SELECT max(length(vector)) FROM vectors").fetchone() == (2 * DIM,)


def test_sqlite_is_durable_and_overwrites(tmp_path):
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery, gallery.database.read() as records:
        found = [
            records.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
        ]
    assert found == ["wal", 2, 1, 1]


def test_an_acknowledged_batch_survives_a_kill(tmp_path):
    """The writer is killed right after `add` returned; what it acknowledged is there, whole."""
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(__file__.rsplit("/", 1)[0])!r})
from gallery_oracle import ReferenceEngine
from gallery_people import make_people
from vireid.gallery import Gallery
gallery = Gallery.create({str(tmp_path / "g")!r}, dim={DIM})
gallery.add(*make_people(), checkpoint=("film", {{"frame": 7}}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.checkpoint("film") == {"frame": 7}
        assert gallery.refresh() == gallery.count() == 36
        assert gallery.audit.verify().broken is None


def test_migrations_make_the_tables_of_the_schema(gallery):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    ours = Base.metadata.tables.keys()
    with gallery.database.engine.connect() as connection:
        options = {"include_object": lambda thing, name, kind, *_: kind != "table" or name in ours}
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata)
    assert differences == []
    migrations = Path(vireid.__file__).parent / "gallery" / "migrations"
    assert ScriptDirectory(str(migrations)).get_current_head() == HEAD


def test_a_gallery_of_a_newer_version_is_left_alone(location, gallery):
    with gallery.database.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match=r"a newer vireid \(schema 9999\) wrote the gallery at .*: upgrade vireid"):
        Gallery.open(location)


def test_a_gallery_is_made_once_and_opened_where_it_is(location, gallery):
    with pytest.raises(InputError, match=r"there is a gallery at .* already"):
        Gallery.create(location, dim=DIM)
    assert Gallery.exists(location)


@pytest.mark.parametrize(
    ("place", "options", "sentence"),
    [
        ("g", {}, "give a new gallery a bundle, or the dim"),
        ("g", {"dim": 4, "bundle": "x"}, "one of the two"),
        ("g", {"dim": 0}, "dim"),
        ("g", {"dim": 4, "dtype": "int8"}, "dtype"),
        ("g", {"dim": 4, "retention_days": -1}, "retention_days"),
        ("g", {"bundle": "none.safetensors"}, "there is no bundle none.safetensors"),
        ("mysql://host/db", {"dim": 4}, "in a folder or in PostgreSQL, not in mysql"),
        (
            "postgresql://x:secret@127.0.0.1:1/no",
            {"dim": 4},
            r"gallery at postgresql://x:\*\*\*@127.0.0.1:1/no: (?!.*secret)",
        ),
        ("postgresql://host:port/db", {"dim": 4}, "cannot read the gallery's URL"),
    ],
)
def test_create_errors(tmp_path, place, options, sentence):
    with pytest.raises(InputError, match=sentence):
        Gallery.create(place if "://" in place else tmp_path / place, **options)
    assert not (tmp_path / "g" / "records.sqlite3").exists()


def test_a_database_that_does_not_answer_is_given_up(monkeypatch):
    pytest.importorskip("psycopg")
    monkeypatch.setattr("vireid.gallery.database._REACHABLE", {"connect_timeout": "2"})
    with socket.create_server(("127.0.0.1", 0)) as mute:
        place = f"postgresql://x@127.0.0.1:{mute.getsockname()[1]}/no"
        with pytest.raises(InputError, match=r"cannot open the gallery at .*timeout"):
            Gallery.exists(place)


@pytest.mark.parametrize("step", ["AuditLog.beside", "AuditLog.append", "insert"])
def test_a_creation_that_is_cut_short_leaves_no_gallery(location, monkeypatch, step):
    def killed(*_, **__):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(f"vireid.gallery.gallery.{step}", killed)
        with pytest.raises(ZeroDivisionError):
            Gallery.create(location, dim=DIM)
    assert not Gallery.exists(location)
    with Gallery.create(location, dim=DIM) as gallery:
        assert gallery.refresh() == 0
        assert {entry.entry["action"] for entry in gallery.audit.entries()} == {"create"}


def test_open_errors(tmp_path):
    with pytest.raises(InputError, match=r"there is no gallery at .*: make one with vireid gallery create"):
        Gallery.open(tmp_path / "nowhere")
    (tmp_path / "records.sqlite3").write_bytes(b"this is no database at all" * 100)
    with pytest.raises(InputError, match="file is not a database"):
        Gallery.open(tmp_path)


def test_records_that_cannot_be_written_are_said_without_what_was_to_be_written(gallery):
    if not gallery.database.is_sqlite:
        pytest.skip("PostgreSQL has rights of its own")
    event.listen(gallery.database.engine, "checkout", lambda raw, *_: raw.execute("PRAGMA query_only = ON"))
    with pytest.raises(InputError, match=r"records.sqlite3 can be read but not written: work as the account"):
        gallery.add(*make_people())
    with pytest.raises(IntegrityError) as error, gallery.audit._database.write() as session:
        session.execute(text("INSERT INTO audit VALUES (1, :secret, 'b', 'c')"), {"secret": "person 0"})
    assert "person 0" not in str(error.value)


@pytest.mark.parametrize(
    ("call", "holder", "error", "sentence"),
    [
        (Gallery.stats, None, StorageError, r"records.sqlite3 is damaged \(.*malformed\): check the disk"),
        (Gallery.maintain, "BEGIN IMMEDIATE", BusyError, "another process has been writing"),
        (lambda g: g.add(*make_people(60)), "PRAGMA max_page_count = 1", BusyError, "the disk of the gallery is full"),
    ],
)
def test_what_stands_in_the_way_of_the_files_is_said(tmp_path, monkeypatch, call, holder, error, sentence):
    monkeypatch.setattr("vireid.gallery.database._PATIENCE", 0.1)
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery:
        gallery.add(*make_people())
        file = tmp_path / "g" / "records.sqlite3"
        other = sqlite3.connect(file, isolation_level=None)
        if holder is None:
            gallery.database.purge()
            pages = file.read_bytes()
            file.write_bytes(pages[: len(pages) // 8] + b"\xff" * (len(pages) * 7 // 8))
        elif holder.startswith("BEGIN"):
            other.execute(holder)
        else:
            event.listen(gallery.database.engine, "checkout", lambda raw, *_: raw.execute(holder))
        with pytest.raises(error, match=sentence):
            call(gallery)
        assert other.execute("PRAGMA temp_store_directory").fetchall() == []
        other.close()


def test_what_is_made_is_for_its_owner_alone_even_the_copy_that_maintain_makes(tmp_path):
    with Gallery.create(tmp_path / "it's mine", dim=DIM) as gallery:
        assert gallery.location.stat().st_mode & 0o777 == 0o700
        crops = [make_jpeg(0, "") + bytes([k]) * 400_000 for k in range(12)]
        gallery.add([NewItem(id=f"{k}", camera="c", modality=0) for k in range(12)], np.eye(12, DIM), crops)
        assert {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()} == {0o600}
        temporary = set()

        def look():
            found = (os.path.realpath(file) for file in Path("/proc/self/fd").iterdir())
            temporary.update(Path(name).parent for name in found if "etilqs" in name)

        event.listen(gallery.database.engine, "checkout", lambda raw, *_: raw.set_progress_handler(look, 20))
        gallery.maintain()
    assert temporary == {tmp_path / "it's mine"}


def test_settings_that_are_fixed(tmp_path):
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery:
        with pytest.raises(InputError, match="dim is fixed when a gallery is made"):
            gallery.configure(dim=3)
        with pytest.raises(InputError, match="has no bundle to embed with"):
            gallery.embedder()
        assert gallery.configure(retention_days=3).retention_days == 3
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.settings.retention_days == 3


def test_settings_of_another_process_hold_without_a_search(gallery, people, location):
    gallery.refresh()
    with Gallery.open(location) as other:
        other.configure(retention_days=30, require_purpose=False)
        assert gallery.configure(purpose="theft").retention_days == 30
        other.configure(retention_days=36_000, require_purpose=True)
    with pytest.raises(InputError, match="give a purpose and a case"):
        gallery.search(Query.from_vector(people[1][0]), use=Use(purpose="", case=""))
    with Gallery.open(location) as other:
        other.configure(retention_days=1)
    assert gallery.retain(USE, now=NOON + timedelta(days=9)).items == len(people[0])


def test_settings_that_two_processes_change_at_once_are_both_kept(gallery, location, monkeypatch):
    """One is held between reading and writing until the other has had time to write."""
    with Gallery.open(location) as other:
        thread = threading.Thread(target=lambda: other.configure(retention_days=30))

        def changed(*arguments):
            if threading.current_thread() is not thread:
                thread.start()
                thread.join(0.5)
            return changed_settings(*arguments)

        monkeypatch.setattr("vireid.gallery.gallery.changed_settings", changed)
        gallery.configure(purpose="theft")
        thread.join()
    found = read_settings(gallery.database, location)
    assert (found.purpose, found.retention_days) == ("theft", 30)


def test_the_bundle_is_checked(run, tmp_path):
    bundle = tmp_path / "model.safetensors"
    bundle.write_bytes((run / "last.safetensors").read_bytes())
    with Gallery.create(tmp_path / "g", bundle=bundle) as gallery:
        assert gallery.embedder().method.embedding_dim == gallery.settings.dim
        with pytest.raises(InputError, match="is not the bundle that gallery g was made with"):
            gallery.configure(bundle=run / "best.safetensors")
    bundle.unlink()
    own = tmp_path / "moved" / "records.safetensors"
    for name in ("g", "g.audit.sqlite3"):
        (tmp_path / name).rename(tmp_path / name.replace("g", "moved", 1))
    assert (own.stat().st_mode & 0o777, own.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    with Gallery.open(own.parent) as gallery:
        assert gallery.embedder().method.embedding_dim == gallery.settings.dim
    own.unlink()  # as in a gallery made when bundles were not copied
    with Gallery.open(own.parent) as gallery:
        with pytest.raises(InputError, match=r"records.safetensors of gallery g is gone"):
            gallery.embedder()
        gallery.configure(bundle=run / "last.safetensors")
        image = make_jpeg(20, "query")
        query = Query.from_image(image, "infrared", gallery.embedder())
        assert query.fingerprint.startswith("sha256:")
        assert gallery.search(query, use=USE).verdict == "nothing to search"
        assert gallery.settings.bundle == str(own)
        with pytest.raises(InputError, match="the query picture sent cannot be read"):
            Query.from_image(image[:40], "infrared", gallery.embedder())
    Gallery.destroy(own.parent, USE)
    assert not own.parent.exists()


def test_states_of_candidates_belong_to_the_case(gallery, people):
    query = Query.from_vector(people[1][0], "visible")
    found = gallery.confirmations.propose(query.fingerprint, "p0-t1", USE)
    gallery.confirmations.confirm(found.id, USE)

    def state(case):
        use = Use(user="ada", purpose="lost child", case=case)
        candidates = gallery.search(query, use=use, k=20).candidates
        return next(c.state for c in candidates if c.track.id == "p0-t1")

    assert (state(USE.case), state("another")) == (State.CONFIRMED_ONCE, State.CANDIDATE)


def test_destroy_leaves_the_log_only(location, gallery, people):
    gallery.close()
    receipt = Gallery.destroy(location, USE)
    assert (receipt.action, receipt.items, receipt.crops, receipt.tracks) == ("destroy", 36, 36, 12)
    assert not Gallery.exists(location)
    if "://" in str(location):
        engine = create_engine(location.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
        assert inspect(engine).get_table_names() == ["audit"]
    else:
        assert not location.exists()
