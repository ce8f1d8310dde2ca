"""One suite for every vector engine: the NumPy reference, `flat`, and a real Milvus server where one can be started."""

import importlib
import sys
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gallery_oracle import COLUMNS, ReferenceEngine
from gallery_people import make_people
from milvus_server import Unavailable, milvus_uri
from vireid.errors import BusyError, InputError
from vireid.gallery import Filter, Gallery, Query, Use
from vireid.gallery.engines import NO_TIME, Rows, open_engine
from vireid.gallery.engines.columns import Columns
from vireid.gallery.engines.flat import MARGIN, WIDEST, FlatEngine
from vireid.gallery.types import EVERYTHING, to_milliseconds

DIM = 32
CAMERAS = ["gate", 'the "north" yard', "back\\slash", "Straße 'ä'"]
TRACKS = [f"track {i}" for i in range(12)]
PERSONS = ["", "17", "18"]
NOON = datetime(2026, 5, 3, 12, tzinfo=UTC)


class ShelvedFlat(FlatEngine):
    """The flat engine with a dictionary in place of the records."""

    def __init__(self):
        self.shelf = {}
        super().__init__(DIM, lambda keys: np.array([self.shelf[key] for key in keys]).reshape(len(keys), DIM))

    def add(self, rows):
        self.shelf.update(zip(rows.key.tolist(), rows.vector, strict=True))
        super().add(rows)


@pytest.fixture(scope="module")
def milvus():
    pytest.importorskip("pymilvus")
    try:
        with milvus_uri() as uri:
            yield uri
    except Unavailable as reason:
        pytest.skip(f"no Milvus here: {reason}")


@pytest.fixture(params=["reference", "flat", "milvus"])
def engine(request):
    if request.param == "milvus":
        uri = request.getfixturevalue("milvus")
        made = open_engine(f"milvus:{uri}", "test", DIM, None)
    else:
        made = ReferenceEngine() if request.param == "reference" else ShelvedFlat()
    yield made
    made.drop()
    made.close()


def make_rows(seed, keys):
    """Random rows; every fourth vector is a near-copy of its neighbour, closer than float16 can tell."""
    rng = np.random.default_rng(seed)
    keys = np.asarray(keys, np.int64)
    n = len(keys)
    vector = rng.standard_normal((n, DIM))
    vector[1::4] = vector[: len(vector[1::4]) * 4 : 4] + rng.normal(0, 1e-4, vector[1::4].shape)
    time = to_milliseconds(NOON) + rng.integers(-3_600_000, 3_600_000, n)
    return Rows(
        key=keys,
        vector=(vector / np.linalg.norm(vector, axis=1, keepdims=True)).astype(np.float32),
        camera=rng.choice(np.array(CAMERAS, object), n),
        modality=rng.integers(0, 2, n),
        time=np.where(rng.random(n) < 0.2, NO_TIME, time),
        track=rng.choice(np.array(TRACKS, object), n),
        person=rng.choice(np.array(PERSONS, object), n),
    )


def make_queries(seed, count):
    queries = np.random.default_rng(seed).standard_normal((count, DIM))
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def some(values):
    return st.none() | st.lists(st.sampled_from(values), min_size=1, max_size=3)


def instants():
    return st.none() | st.integers(-4000, 4000).map(lambda seconds: NOON + timedelta(seconds=seconds))


FILTERS = st.builds(
    Filter,
    cameras=some([*CAMERAS, "nowhere"]),
    modality=st.sampled_from([None, "visible", "infrared"]),
    start=instants(),
    end=instants(),
    tracks=some(TRACKS),
    persons=some(["17", "18", "19"]),
)


def assert_same_answer(engine, reference, queries, k, where=EVERYTHING):
    """Equal scores, and equal keys wherever the neighbouring scores are further apart than float32 rounds."""
    found, expected = engine.search(queries, k, where), reference.search(queries, k + 1, where)
    np.testing.assert_allclose(found.scores, expected.scores[:, :k], atol=2e-6)
    gaps = -np.diff(np.where(expected.keys < 0, -9, expected.scores), axis=1, prepend=9)
    distinct = np.minimum(gaps[:, :-1], gaps[:, 1:]) > 4e-6
    assert (found.keys == expected.keys[:, :k])[distinct].all()
    assert (found.tracks == expected.tracks[:, :k])[distinct].all()


def test_equal_top_k_on_random_filters(engine):
    reference, rows = ReferenceEngine(), make_rows(0, range(3, 603, 2))
    for part in (engine, reference):
        part.add(rows)

    examples = 8 if engine.shared else 30  # a strongly consistent Milvus takes 0.2 s an answer

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(where=FILTERS, k=st.integers(1, 40), seed=st.integers(0, 99), count=st.integers(1, 4))
    def check(where, k, seed, count):
        assert_same_answer(engine, reference, make_queries(seed, count).astype(np.float32), k, where)

    check()


def test_a_retried_batch_changes_nothing_and_a_changed_row_replaces_the_old_one(engine):
    rows, changed = make_rows(1, range(50)), make_rows(2, range(10, 20))
    engine.add(rows)
    engine.add(rows)
    assert engine.count() == 50
    engine.add(changed)
    reference = ReferenceEngine()
    reference.add(rows)
    reference.add(changed)
    assert_same_rows(engine, reference, rows.vector[5:15])


def test_deleted_rows_are_in_no_answer(engine):
    rows, reference = make_rows(3, range(100)), ReferenceEngine()
    for part in (engine, reference):
        part.add(rows)
        part.delete([5, 6, 7, 400])
        part.maintain()
    assert_same_rows(engine, reference, rows.vector[3:9])
    engine.delete()
    assert engine.count() == 0
    assert (engine.search(rows.vector[:1], 1, EVERYTHING).keys == -1).all()


def assert_same_rows(engine, reference, queries):
    """Equal numbers of rows, and every column tells them apart alike."""
    assert engine.count() == reference.count()
    by_column = [Filter(modality=modality) for modality in ("visible", "infrared")]
    by_column += [Filter(cameras=[camera], end=NOON) for camera in CAMERAS]
    by_column += [Filter(persons=[person], tracks=TRACKS[:6]) for person in PERSONS[1:]]
    for where in (EVERYTHING, *by_column):
        assert_same_answer(engine, reference, queries, reference.count(), where)


CHANGES = st.lists(st.tuples(st.sampled_from(["add", "delete"]), st.integers(0, 30), st.integers(1, 9)), max_size=12)


@settings(max_examples=60)
@given(changes=CHANGES)
def test_columns_after_any_changes_are_those_of_a_fresh_build(changes):
    """Codes of texts that are gone are used again, and nothing of such a text is kept."""
    engine, reference = ShelvedFlat(), ReferenceEngine()
    for seed, (change, start, count) in enumerate(changes):
        for part in (engine, reference):
            if change == "add":
                part.add(make_rows(seed, range(start, start + count)))
            else:
                part.delete(list(range(start, start + count)))
    fresh, columns = Columns(), engine._columns
    stored = sorted(reference.rows)
    fresh.append(Rows(**{name: np.array([reference.rows[key][name] for key in stored]) for name in COLUMNS}))
    order = np.argsort(columns["key"])
    for name in ("camera", "track", "person"):
        codes, built = columns._codes[name], fresh._codes[name]
        assert columns.text(name, order).tolist() == fresh.text(name, np.arange(len(fresh))).tolist()
        assert sorted(filter(None, codes._texts)) == sorted(filter(None, built._texts))
        assert {text: codes._rows[code] for text, code in codes._code.items()} == {
            text: built._rows[code] for text, code in built._code.items()
        }
        assert len(codes._texts) == len(codes._code) + len(codes._free)


def test_an_answer_is_padded_where_rows_are_few(engine):
    queries = make_queries(5, 2).astype(np.float32)
    assert (engine.search(queries, 3, EVERYTHING).keys == -1).all()
    engine.add(make_rows(5, [7, 8]))
    hits = engine.search(queries, 3, EVERYTHING)
    assert (np.sort(hits.keys, axis=1) == [-1, 7, 8]).all()
    assert np.isneginf(hits.scores[:, 2]).all()
    assert (hits.tracks[:, 2] == "").all()


def test_equal_similarities_rank_by_key(engine):
    rows = make_rows(6, [4, 11, 2, 7])
    rows.vector[:] = rows.vector[0]
    engine.add(rows)
    assert engine.search(rows.vector[:1], 4, EVERYTHING).keys.tolist() == [[2, 4, 7, 11]]


def test_a_reader_beside_a_writer_sees_whole_rows_only(engine):
    rows = make_rows(7, range(400))
    engine.add(take(rows, slice(0, 100)))
    errors = []

    def read():
        while not done.is_set():
            hits = engine.search(rows.vector[:2], 20, EVERYTHING)
            exact = (rows.vector[hits.keys] * rows.vector[:2, None]).sum(2)
            if (hits.keys < 0).any() or np.abs(exact - hits.scores).max() > 1e-5:
                errors.append(hits)

    done = threading.Event()
    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for start in range(100, 400, 50):
        engine.add(take(rows, slice(start, start + 50)))
        engine.delete([start])
    done.set()
    for reader in readers:
        reader.join()
    assert not errors
    assert engine.count() == 394


def take(rows, part):
    return Rows(**{name: getattr(rows, name)[part] for name in COLUMNS})


def test_a_gallery_on_milvus(milvus, tmp_path):
    items, vectors, crops = make_people()
    place, use = tmp_path / "g", Use(purpose="test", case="1")
    with Gallery.create(place, dim=vectors.shape[1], engine=f"milvus:{milvus}") as gallery:
        gallery.add(items, vectors, crops)
    with Gallery.open(place) as gallery, Gallery.open(place) as other:
        query = Query.from_vector(vectors[0], "visible")
        found = other.search(query, use=use, k=2, where=Filter(modality="infrared"))
        assert [c.track.id for c in found.candidates][:1] == ["p0-t1"]
        gallery.erase(use, person="person 0")
        assert other.refresh() == 30
        assert other.search(query, use=use, k=1).candidates[0].item.person != "person 0"
    Gallery.destroy(place, use)
    assert not place.exists()


CALLS = [
    lambda e: e.add(make_rows(0, [1])),
    lambda e: e.search(make_queries(0, 1), 1, EVERYTHING),
    lambda e: e.delete([1]),
    lambda e: e.delete(),
    lambda e: e.count(),
    lambda e: e.maintain(),
    lambda e: e.drop(),
]


@pytest.mark.parametrize("kind", ["MilvusException", "RpcError"])
def test_a_milvus_that_fails_is_one_sentence(monkeypatch, kind):
    """A stand-in for the library: it is not everywhere, and a server does not fail at will."""
    failures = {name: type(name, (Exception,), {}) for name in ("MilvusException", "RpcError")}
    fails = Mock(side_effect=failures[kind]("lost\nmore"))
    names = ("upsert", "search", "delete", "query", "query_iterator", "flush", "compact", "drop_collection")
    client = Mock(return_value=Mock(**dict.fromkeys(names, fails)))
    library = {"DataType": Mock(), "MilvusClient": client, "MilvusException": failures["MilvusException"]}
    for name, content in (("pymilvus", library), ("grpc", {"RpcError": failures["RpcError"]})):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(**content))
    monkeypatch.delitem(sys.modules, "vireid.gallery.engines.milvus", raising=False)
    engine = importlib.import_module("vireid.gallery.engines.milvus").MilvusEngine("uri", "test", DIM)
    monkeypatch.delitem(sys.modules, "vireid.gallery.engines.milvus")
    for call in CALLS:
        with pytest.raises(BusyError, match=r"Milvus server has failed \(lost\): try again"):
            call(engine)


def test_flat_is_exact_among_near_copies():
    """Float16 cannot order them: the head is widened until the float32 order is certain."""
    engine, reference = ShelvedFlat(), ReferenceEngine()
    rows = make_rows(8, range(2 * MARGIN * 8))
    noise = np.random.default_rng(8).normal(0, 2e-5, rows.vector.shape)
    rows.vector[:] = (rows.vector[0] + noise) / np.linalg.norm(rows.vector[0] + noise, axis=1, keepdims=True)
    for part in (engine, reference):
        part.add(rows)
    assert len(rows) < WIDEST
    queries = make_queries(8, 3).astype(np.float32)
    found, expected = (part.search(queries, 10, EVERYTHING) for part in (engine, reference))
    np.testing.assert_allclose(found.scores, expected.scores, atol=3e-7)


@pytest.mark.parametrize(
    ("queries", "sentence"),
    [(np.zeros((1, DIM + 1)), "queries of shape"), (np.full((1, DIM), np.nan), "NaN or infinity")],
)
def test_flat_refuses_bad_queries(queries, sentence):
    with pytest.raises(InputError, match=sentence):
        ShelvedFlat().search(queries, 3, EVERYTHING)


@pytest.mark.parametrize("spec", ["hnsw", "milvus", "milvus:", "flat:x"])
def test_unknown_engines_are_named(spec):
    with pytest.raises(InputError, match="use flat, or milvus:URI"):
        open_engine(spec, "test", DIM, None)
