"""What looks at queries and gallery together: re-ranking and joint refinement of a table of features."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from vireid.evaluation import PRESETS
from vireid.evaluation.evaluate import FeatureTable
from vireid.evaluation.refine import Refinement
from vireid.methods import build, cosine_distance
from vireid.records import Records

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


def evaluate(table, protocol, way):
    if way == "k-reciprocal":
        return table.evaluate(PRESETS[protocol], rerank=way)
    torch.manual_seed(0)
    refiner = build("nformer", num_classes=3, input_dim=16, layers=2, landmarks=3, neighbors=4, init="mean").eval()
    return replace(table, refinement=Refinement(refiner)).evaluate(PRESETS[protocol])


@pytest.mark.parametrize("way", WAYS)
def test_junk_takes_no_part(way):
    splits = ["query", *["gallery"] * SHOTS]
    results = [evaluate(people(splits, junk), "market1501", way).summary.as_dict() for junk in (0, 90)]
    assert results[0] == results[1]
    assert results[0]["num_gallery"] == [PEOPLE * SHOTS]
