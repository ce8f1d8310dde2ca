"""AGW as a whole: shapes, sizes, gradient routes."""

import pytest
import torch

from batches import make_batch
from vireid.errors import InputError
from vireid.methods import build
from vireid.nn import NonLocalBlock

RANDOM = {"weights": "none"}


def test_parameter_count_and_shape_of_the_published_form():
    agw = build("agw", num_classes=395, backbone={"name": "resnet50", "weights": "none"})
    assert sum(p.numel() for p in agw.parameters() if p.requires_grad) == 24_357_263
    assert sum(p.numel() for p in agw.parameters()) == 24_359_311
    blocks = [m for m in agw.modules() if isinstance(m, NonLocalBlock)]
    assert len(blocks) == 5
    assert sum(p.numel() for block in blocks for p in block.parameters()) == 28_687
    agw.eval()
    with torch.no_grad():
        assert agw.network(torch.rand(1, 3, 288, 144), torch.tensor([1])).shape == (1, 2048, 18, 9)


def test_features_are_unit_vectors_and_do_not_need_the_head():
    agw = build("agw", num_classes=4, backbone=RANDOM).eval()
    images, modality = torch.rand(3, 3, 64, 32), torch.tensor([0, 1, 1])
    with torch.no_grad():
        features = agw.features(images, modality)
        agw.head.classifier.weight.zero_()
        again = agw.features(images, modality)
    assert set(features) == {"global", "pooled"}
    for name, value in features.items():
        assert torch.allclose(value.norm(dim=1), torch.ones(3), atol=1e-5)
        assert torch.equal(value, again[name])
    distances = agw.distance(features, features)
    assert torch.allclose(distances.diagonal(), torch.zeros(3), atol=1e-5)


def test_gradient_routes():
    agw = build("agw", num_classes=2, backbone=RANDOM)
    batch = make_batch()
    terms = agw.losses(batch)
    assert set(terms) == {"id", "triplet"}
    gap = agw.statistics()
    assert gap["positive"] > 0 < gap["negative"]
    terms["triplet"].backward(retain_graph=True)
    assert agw.head.neck.weight.grad is None
    assert agw.head.classifier.weight.grad is None
    terms["id"].backward()
    assert agw.head.neck.bias.grad is None
    for stem in agw.network.specific:
        assert all(p.grad is not None for p in stem.parameters())


def test_baseline_and_single_modality_forms():
    baseline = build("agw", num_classes=2, backbone=RANDOM, non_local=False, pool="average", triplet="batch_hard")
    assert set(baseline.losses(make_batch())) == {"id", "triplet"}
    assert not any(isinstance(m, NonLocalBlock) for m in baseline.modules())
    single = build(
        "agw",
        num_classes=2,
        backbone=RANDOM,
        specific_until="none",
        gem_learn="scalar",
        center_weight=5e-4,
    )
    assert len(single.network.specific) == 0
    assert set(single.losses(make_batch())) == {"id", "triplet", "center"}
    assert {group.name for group in single.parameter_groups()} == {"backbone", "head", "centers"}
    grouped = [p for group in single.parameter_groups() for p in group.params]
    assert len({id(p) for p in grouped}) == len(grouped) == len(list(single.parameters()))


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        ("nope", {}, "unknown method 'nope': choose one of"),
        ("agw", {"wrtt": "exact"}, "wrtt: unknown option"),
        ("agw", {"gem_p": -1}, "gem_p"),
        ("agw", {"backbone": {"weight": "none"}}, "backbone: weight: unknown option"),
    ],
)
def test_build_errors(name, options, sentence):
    with pytest.raises(InputError, match=sentence):
        build(name, num_classes=2, **options)
