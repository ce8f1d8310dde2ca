"""kill -9 amid searches and an ingest: what was acknowledged is there. `benchmarks/service_faults.py` does more."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from service_faults import Ledger, faults, run
from vireid.gallery import Gallery, NewItem


def test_nothing_acknowledged_is_lost_by_two_kills(tmp_path):
    ledger, wrong = run(tmp_path, kills=2, clients=3, items=200, pause=(0.3, 1.0), seed=0)
    assert wrong == []
    assert ledger.acknowledged
    assert ledger.searches
    assert ledger.cut


def test_the_inspection_sees_what_is_missing(tmp_path):
    with Gallery.create(tmp_path / "g", dim=2) as gallery:
        gallery.add([NewItem(id="a", camera="c", modality="visible")], [[1.0, 0.0]])
    ledger = Ledger(acknowledged=["a", "b"], searches=["never logged"])
    assert faults(tmp_path / "g", ledger, []) == [
        "1 acknowledged items are missing",
        "1 items are stored that nobody sent",
        "1 answered searches are not logged",
    ]
