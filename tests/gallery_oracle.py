"""A vector engine in plain Python and NumPy, one row at a time: what every engine must agree with."""

from dataclasses import fields

import numpy as np

from vireid.gallery.engines import NO_TIME, Hits, Rows
from vireid.gallery.types import to_milliseconds
from vireid.records import Modality

COLUMNS = [field.name for field in fields(Rows)]


class ReferenceEngine:
    shared = False

    def __init__(self):
        self.rows = {}

    def add(self, rows):
        for i in range(len(rows)):
            row = {name: getattr(rows, name)[i] for name in COLUMNS}
            self.rows[int(row["key"])] = row

    def search(self, queries, k, where):
        hits = Hits.none(len(queries), k)
        for i, query in enumerate(np.asarray(queries, np.float64)):
            scored = [(-float(query @ row["vector"]), row["key"], row["track"]) for row in self._meeting(where)]
            for j, (score, key, track) in enumerate(sorted(scored)[:k]):
                hits.keys[i, j], hits.scores[i, j], hits.tracks[i, j] = key, -score, track
        return hits

    def delete(self, keys=None):
        for key in list(self.rows) if keys is None else keys:
            self.rows.pop(int(key), None)

    def count(self):
        return len(self.rows)

    def maintain(self):
        pass

    def drop(self):
        self.rows = {}

    def close(self):
        pass

    def _meeting(self, where):
        return [self.rows[key] for key in sorted(self.rows) if meets(self.rows[key], where)]


def meets(row, where):
    for name, wanted in (("camera", where.cameras), ("track", where.tracks), ("person", where.persons)):
        if wanted is not None and row[name] not in wanted:
            return False
    if where.modality is not None and Modality(row["modality"]) is not where.modality:
        return False
    if where.start is None and where.end is None:
        return True
    if row["time"] == NO_TIME:
        return False
    after = where.start is None or row["time"] >= to_milliseconds(where.start)
    return after and (where.end is None or row["time"] <= to_milliseconds(where.end))
