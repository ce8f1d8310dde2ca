"""Old entries of the audit log can go, on record; the rest verifies, and a log cut short in any other way does not."""

import io
import json
import sqlite3
from datetime import timedelta

import pytest

from gallery_people import DIM, USE
from vireid.errors import InputError
from vireid.gallery import AuditLog, Gallery, verify_lines
from vireid.gallery.audit import KEEP_DAYS, audit_file
from vireid.gallery.types import utc_now

LATER = utc_now() + timedelta(days=400)
sqlite = pytest.mark.parametrize("location", ["sqlite"], indirect=True)


@pytest.fixture
def gallery(location):
    """A gallery whose log has five entries, all of now."""
    with Gallery.create(location, dim=DIM) as gallery:
        write(gallery.audit, "old", 4)
        yield gallery


def write(log, action, count):
    for number in range(count):
        log.append(action, USE, query=f"sha256:{action}-{number}")


def lines(log):
    stream = io.StringIO()
    log.export(stream)
    return stream.getvalue().splitlines()


def test_what_is_old_goes_and_the_rest_verifies(gallery):
    before = gallery.audit.verify()
    assert gallery.audit.prune(USE, KEEP_DAYS) is None
    entry = gallery.audit.prune(USE, 300, now=LATER)
    details = {"through": 5, "hash": before.head, "entries": 5, "days": 300}
    assert entry.entry | {"details": details, "user": "ada", "action": "prune"} == entry.entry
    assert entry.entry["gallery"]["id"] == gallery.settings.id
    assert [row.seq for row in gallery.audit.entries()] == [6]
    write(gallery.audit, "new", 2)
    after = gallery.audit.verify(before.head)
    assert (after.entries, after.pruned, after.broken, after.holds_noted) == (3, 5, None, True)
    again = gallery.audit.prune(USE, 300, now=LATER)
    assert (again.seq, again.entry["details"]["entries"]) == (9, 3)
    assert gallery.audit.verify().pruned == 8


def test_only_what_is_old_goes(gallery):
    rows = gallery.audit.entries()
    boundary = rows[2].entry["ended"]
    gallery.audit.prune(USE, 300, now=type(LATER).fromisoformat(boundary) + timedelta(days=300, milliseconds=1))
    kept = [row for row in rows if row.entry["ended"] > boundary]
    assert gallery.audit.entries()[:-1] == kept


@sqlite
def test_pruned_entries_leave_no_byte_and_the_log_stays_append_only(gallery):
    write(gallery.audit, "secret", 1)
    gallery.audit.prune(USE, 300, now=LATER)
    file = audit_file(gallery.location)
    data = b"".join(part.read_bytes() for part in file.parent.glob(f"{file.name}*"))
    assert b"sha256:secret" not in data
    with sqlite3.connect(file) as log, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        log.execute("DELETE FROM audit")


def test_a_log_is_pruned_after_its_gallery_was_deleted(gallery):
    known = gallery.settings.id
    Gallery.destroy(gallery.location, USE)
    log = AuditLog.beside(gallery.location)
    assert log.prune(USE, 300, now=LATER).entry["gallery"]["id"] == known
    assert log.verify().broken is None


@pytest.fixture
def pruned(gallery):
    """A pruned log of four entries: the one that says so and three after it."""
    gallery.audit.prune(USE, 300, now=LATER)
    write(gallery.audit, "new", 3)
    return lines(gallery.audit)


def renamed(line, **details):
    row = json.loads(line)
    return json.dumps(row | {"entry": row["entry"] | {"details": row["entry"]["details"] | details}})


@sqlite
@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (lambda log: log, None),
        (lambda log: log[:2], None),
        (lambda log: log[1:], 1),
        (lambda log: [log[0], *log[2:]], 7),
        (lambda log: [log[1], log[0], *log[2:]], 1),
        (lambda log: [*log[:3], log[3].replace("new", "old")], 9),
        (lambda log: [renamed(log[0], through=4), *log[1:]], 1),
        (lambda log: [renamed(log[0], hash="0" * 64), *log[1:]], 1),
        (lambda log: [renamed(log[0], days=1), *log[1:]], 6),
    ],
)
def test_a_log_may_begin_only_where_it_says_that_it_was_pruned(pruned, change, broken):
    assert verify_lines(change(pruned)).broken == broken


@sqlite
def test_a_broken_log_is_kept_whole(gallery):
    with sqlite3.connect(audit_file(gallery.location)) as file:
        file.execute("DROP TRIGGER audit_no_update")
        file.execute("UPDATE audit SET entry = replace(entry, 'old-1', 'old-9')")
    with pytest.raises(InputError, match="entry 3 of the audit log is broken: keep the log whole"):
        gallery.audit.prune(USE, 300, now=LATER)
    assert len(gallery.audit.entries()) == 5
