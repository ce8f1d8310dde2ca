"""What an answer rests on: no match that another pair of modalities hides, no evidence that changes without a trace."""

import hashlib
import sqlite3
from datetime import timedelta

import numpy as np
import pytest
from sqlalchemy.exc import IntegrityError

from gallery_people import DIM, USE, make_people
from vireid.errors import InputError
from vireid.gallery import Calibration, Filter, Gallery, NewItem, PairCalibration, Query, export_subject
from vireid.gallery.audit import audit_file
from vireid.gallery.types import utc_now


class Plain:
    name = "plain"

    def rerank_top(self, query, head):
        return head.vectors @ query.vector


def calibration(**thresholds):
    known = {"tpr": 1, "fpr": 0, "eer": 0, "num_genuine": 9, "num_impostor": 9, "slope": 10}
    curve = {"similarity": (0, 1), "roc_fpr": (1, 0), "roc_tpr": (1, 0)}
    pairs = {
        name.replace("_", "-"): PairCalibration(threshold=t, intercept=-10 * t, **known, **curve)
        for name, t in thresholds.items()
    }
    return Calibration(target_fpr=0.1, bundle_sha256="", made=utc_now(), pairs=pairs)


@pytest.mark.parametrize("options", [{"k": 20}, {"k": 1}, {"k": 1, "rerank": Plain()}])
@pytest.mark.parametrize("below", [False, True])
def test_strangers_below_their_threshold_hide_no_match_above_its_own(tmp_path, options, below):
    """30 infrared strangers at 0.80 (threshold 0.90) and the person in colour at 0.60 (threshold 0.50)."""
    away = np.random.default_rng(0).standard_normal((31, DIM - 1))
    away /= np.linalg.norm(away, axis=1, keepdims=True)
    cosine = np.array([0.8] * 30 + [0.6])[:, None]
    vectors = np.concatenate([cosine, np.sqrt(1 - cosine**2) * away], axis=1)
    items = [NewItem(id=f"stranger {i}", camera="yard", modality="infrared") for i in range(30)]
    with Gallery.create(tmp_path / "g", dim=DIM) as gallery:
        gallery.add([*items, NewItem(id="the person", camera="gate", modality="visible")], vectors)
        gallery.store_calibration(calibration(infrared_infrared=0.9, infrared_visible=0.5))
        query = Query.from_vector(np.eye(DIM)[0], "infrared")
        found = gallery.search(query, use=USE, include_below=below, **options)
        assert (found.verdict, found.candidates[0].item.id) == ("candidates", "the person")
        assert len(found.candidates) == (options["k"] if below else 1)
        strangers = gallery.search(query, use=USE, where=Filter(modality="infrared"), **options)
        assert strangers.verdict == "no match above the threshold"


@pytest.fixture
def gallery(tmp_path):
    with Gallery.create(tmp_path / "station", dim=DIM) as gallery:
        gallery.add(*make_people())
        yield gallery


def last_details(gallery, action):
    entry = gallery.audit.entries()[-1].entry
    assert (entry["action"], entry["user"]) == (action, "ada")
    return entry["details"]


def test_what_is_added_and_replaced_is_in_the_log(gallery):
    items, vectors, crops = make_people()
    gallery.add(items[:2], vectors[:2], crops[:2], use=USE)
    ids = hashlib.sha256(b"p0-t0-0\np0-t0-1").hexdigest()
    assert last_details(gallery, "add") == {"items": 2, "items_sha256": ids, "replaced": {}}
    gallery.add(items[:2], vectors[:2], [crops[5], crops[1]], use=USE)
    assert last_details(gallery, "add")["replaced"] == {"p0-t0-0": hashlib.sha256(crops[0]).hexdigest()}
    gallery.add(items[:2], vectors[1:3], [None, None], use=USE)
    old = {item.id: hashlib.sha256(crop).hexdigest() for item, crop in zip(items, [crops[5], crops[1]], strict=False)}
    assert last_details(gallery, "add")["replaced"] == old


@pytest.mark.parametrize("state", ["candidate", "confirmed once", "rejected"])
@pytest.mark.parametrize("change", ["vector", "crop", "track", "time", "id"])
def test_what_people_have_looked_at_is_not_replaced(gallery, state, change):
    items, vectors, crops = make_people()
    proposed = gallery.confirmations.propose("sha256:0", "p0-t0", USE)
    if state != "candidate":
        (gallery.confirmations.reject if state == "rejected" else gallery.confirmations.confirm)(proposed.id, USE)
    fields = {"track": "another", "time": items[5].time + timedelta(days=1), "id": "one more"}
    other = (
        items[0].model_copy(update={change: fields[change]} if change in fields else {}),
        vectors[5 if change == "vector" else 0],
        crops[5 if change == "crop" else 0],
    )
    belongs = f"'{other[0].id}' belongs to track 'p0-t0', which people are verifying"
    sentence = f"{belongs}: store the new picture under another id"
    with pytest.raises(InputError, match=sentence):
        gallery.add([other[0]], other[1][None], [other[2]])
    assert gallery.crop("p0-t0-0") == crops[0]
    gallery.add(items, vectors, crops)
    gallery.erase(USE, track="p0-t0")
    gallery.add([other[0]], other[1][None], [other[2]])


def test_what_was_searched_with_is_not_replaced_under_the_answer(gallery):
    items, vectors, crops = make_people()
    gallery.confirmations.propose("item:p0-t0-0", "p0-t1", USE)
    sentence = "'p0-t0-0' belongs to track 'p0-t0', and people are verifying a search by it: store the new picture"
    with pytest.raises(InputError, match=sentence):
        gallery.add(items[:2], vectors[20:22], crops[20:22])
    gallery.add(items[1:2], vectors[20:21], crops[20:21])
    gallery.erase(USE, track="p0-t0")
    gallery.add(items[:1], vectors[20:21], crops[20:21])


def test_nothing_is_decided_or_handed_out_without_the_log(gallery, tmp_path):
    found = gallery.confirmations.propose("sha256:0", "p0-t1", USE)
    with sqlite3.connect(audit_file(gallery.location)) as file:
        file.execute("CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    for call in (
        lambda: gallery.confirmations.propose("sha256:1", "p0-t1", USE),
        lambda: gallery.confirmations.confirm(found.id, USE),
        lambda: gallery.confirmations.reject(found.id, USE),
        lambda: export_subject(gallery, tmp_path / "out.zip", USE, person="person 0"),
    ):
        with pytest.raises(IntegrityError, match="disk full"):
            call()
    assert gallery.confirmations.list() == [found]
    assert not (tmp_path / "out.zip").exists()


def test_settings_and_calibrations_are_in_the_log(gallery):
    gallery.configure(retention_days=3, name="station", use=USE)
    assert last_details(gallery, "configure") == {"retention_days": {"before": None, "after": 3}}
    gallery.store_calibration(calibration(infrared_visible=0.5), use=USE)
    pairs = {"infrared-visible": {"threshold": 0.5, "num_genuine": 9, "num_impostor": 9}}
    assert last_details(gallery, "calibrate")["pairs"] == pairs


@pytest.mark.parametrize("change", ["renamed", "deleted", "cut short"])
def test_a_gallery_misses_its_log(gallery, change):
    place, log = gallery.location, audit_file(gallery.location)
    gallery.close()
    Gallery.open(place).close()
    if change == "renamed":
        place = place.rename(place.with_name("other"))
    elif change == "deleted":
        log.unlink()
    else:
        with sqlite3.connect(log) as file:
            file.execute("DROP TRIGGER audit_no_delete")
            file.execute("DELETE FROM audit WHERE seq = 2")
    with pytest.raises(InputError, match="does not hold entry 2 of this gallery: bring the log back"):
        Gallery.open(place)
    assert audit_file(place).exists() == (change == "cut short")
    with Gallery.open(place, log_lost=USE) as opened:
        assert last_details(opened, "begin")["lost"]["seq"] == 2
    Gallery.open(place).close()
