"""What looks at queries and gallery together: re-ranking and joint refinement of a table of features."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from rerank_oracle import plain_rerank_set
from vireid.errors import InputError
from vireid.evaluation import PRESETS, rank_metrics
from vireid.evaluation.evaluate import FeatureTable
from vireid.evaluation.refine import Refinement
from vireid.methods import build, cosine_distance
from vireid.records import Records
from vireid.report import sections
from vireid.report.results import Checkpoint

PEOPLE, SHOTS = 30, 4
WAYS = ["k-reciprocal", "joint"]


def people(splits, junk=0):
    """Return a table of noisy features of people, an image of each split a person, and junk in the gallery."""
    generator = np.random.default_rng(0)
    centre = generator.standard_normal((PEOPLE, 16))
    pid, camid = np.repeat(np.arange(PEOPLE), len(splits)), np.tile(np.arange(len(splits)), PEOPLE)
    known = centre[pid] + 1.5 * generator.standard_normal((len(pid), 16))
    unknown = centre[generator.integers(0, PEOPLE, junk)] + generator.standard_normal((junk, 16))
    features = np.concatenate([known, unknown])
    records = Records.build(
        ".",
        [f"{row:04d}.jpg" for row in range(len(features))],
        [*pid, *[-1] * junk],
        [*camid, *[0] * junk],
        [0] * len(features),
        [*splits * PEOPLE, *["gallery"] * junk],
    )
    stamp = {"flip": False, "precision": "32", "checkpoint": "last"}
    return FeatureTable(records, {"global": normalize(torch.from_numpy(features).float())}, cosine_distance, stamp)


def refiner():
    torch.manual_seed(0)
    return build("nformer", num_classes=3, input_dim=16, layers=2, landmarks=3, neighbors=4, init="mean").eval()


def evaluate(table, protocol, way):
    if way == "k-reciprocal":
        return table.evaluate(PRESETS[protocol], rerank=way)
    return replace(table, refinement=Refinement(refiner())).evaluate(PRESETS[protocol])


@pytest.mark.parametrize("way", WAYS)
def test_junk_takes_no_part(way):
    splits = ["query", *["gallery"] * SHOTS]
    results = [evaluate(people(splits, junk), "market1501", way).summary.as_dict() for junk in (0, 90)]
    assert results[0] == results[1]
    assert results[0]["num_gallery"] == [PEOPLE * SHOTS]


@pytest.mark.parametrize("way", WAYS)
def test_an_image_that_asks_and_is_searched_stands_once_in_the_set(way):
    """Within one modality the two sides are the same rows, or share those of the split `test`."""
    for splits in (["test"] * 3, ["test", "test", "query", "gallery"]):
        table = people(splits)
        records, features = table.records, table.features["global"]
        rows = np.argsort(records.split == "gallery", kind="stable")  # a set: queries, then what is only searched
        query, gallery = (np.flatnonzero(np.isin(records.split[rows], ["test", side])) for side in ("query", "gallery"))
        if way == "k-reciprocal":
            distances = plain_rerank_set(features[rows].numpy())
        else:
            zeros = torch.zeros(len(rows), dtype=torch.int64)
            unit = refiner().refine(features[rows], zeros, torch.Generator().manual_seed(0)).detach()
            distances = (1 - unit @ unit.T).numpy()
        labels = (column[rows[side]] for column in (records.pid, records.camid) for side in (query, gallery))
        once = rank_metrics(distances[query][:, gallery], *labels, hide="same_id_and_camera")
        assert evaluate(table, "intra-vis", way).summary.mean() == pytest.approx(once.as_dict())


def test_roc_is_of_the_distance_that_ranks():
    """Its own distance turned round turns the errors round; re-ranked distances are of no two images."""
    table, protocol = people(["query", *["gallery"] * SHOTS]), PRESETS["market1501"]
    plain = table.evaluate(protocol, roc=True).roc
    own = replace(table, distance=lambda q, g: -cosine_distance(q, g)).evaluate(protocol, roc=True).roc
    assert plain.eer < 0.4
    assert own.eer == pytest.approx(1 - plain.eer, abs=0.02)
    with pytest.raises(InputError, match="--roc does not go with --rerank"):
        table.evaluate(protocol, rerank="k-reciprocal", roc=True)


def test_the_report_s_plane_is_of_refined_features(monkeypatch):
    monkeypatch.setattr(sections, "TSNE", lambda **_: SimpleNamespace(fit_transform=lambda features: features))
    monkeypatch.setattr(sections.plots, "embedding_figure", lambda points, *_: points)
    monkeypatch.setattr(sections.plots, "to_svg", lambda points: points)
    table = people(["test"] * 3, junk=5)
    refined_table = replace(table, refinement=Refinement(refiner()))
    drawn = sections.embedding_svg(Checkpoint("last", None, refined_table, ()), "global")
    known = table.features["global"][: 3 * PEOPLE]
    zeros = torch.zeros(len(known), dtype=torch.int64)
    refined = refiner().refine(known, zeros, torch.Generator().manual_seed(0)).detach()
    np.testing.assert_allclose(drawn, refined, atol=1e-6)
