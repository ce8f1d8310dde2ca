"""The worked numbers of AGW's losses."""

import math

import pytest
import torch

from batches import PLANE, PLANE_PIDS, make_batch
from vireid.losses import CenterLoss, WeightedRegularizedTriplet, batch_hard_triplet, weighted_distances
from vireid.losses.triplet import _exact_weights, _reference_weights
from vireid.methods import build
from vireid.nn.neck import IdentityClassifier
from vireid.nn.stripes import StripeClassifier

LINE = torch.tensor([[0.0], [1], [3], [5]], dtype=torch.float64)
LINE_PIDS = torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("features", "pids", "form", "expected"),
    [
        (LINE, LINE_PIDS, "reference", 0.207020),
        (LINE, LINE_PIDS, "exact", 0.255487),
        (PLANE, PLANE_PIDS, "reference", 0.103632),
        (PLANE, PLANE_PIDS, "exact", 0.118113),
        (10 * PLANE, PLANE_PIDS, "reference", 21.50575),
        (10 * PLANE, PLANE_PIDS, "softmax", 1.45035e-05),
        (LINE[:3], torch.zeros(3), "reference", 2.393951),
        (LINE[:3], torch.zeros(3), "exact", 0.0),
    ],
)
def test_weighted_regularized_triplet(features, pids, form, expected):
    assert float(WeightedRegularizedTriplet(form)(features, pids)) == pytest.approx(expected, rel=5e-6, abs=1e-9)


def test_weighted_distances_of_every_anchor():
    p, n, valid = weighted_distances(LINE, LINE_PIDS, "reference")
    assert p.tolist() == pytest.approx([0.731058, 0.731058, 1.761593, 1.761593], abs=1e-6)
    assert n.tolist() == pytest.approx([3.238349, 2.238391, 2.268929, 4.268771], abs=1e-6)
    assert valid.all()
    p, n, _ = weighted_distances(LINE, LINE_PIDS, "exact")
    assert p.tolist() == pytest.approx([1, 1, 2, 2])
    assert n.tolist() == pytest.approx([3.238406, 2.238406, 2.268941, 4.268941], abs=1e-6)
    p, n, _ = weighted_distances(PLANE, PLANE_PIDS, "reference")
    assert (float(p[0]), float(n[0])) == pytest.approx((1.575209, 4.648605), abs=1e-6)


@pytest.mark.parametrize("weights", [_reference_weights, _exact_weights])
def test_weights_of_the_negatives_of_an_anchor(weights):
    found = weights(-torch.cdist(PLANE, PLANE), PLANE_PIDS[:, None] != PLANE_PIDS)[0]
    assert found.tolist() == pytest.approx([0, 0, 0, 0.5977, 0.2802, 0.1221], abs=1e-4)


@pytest.mark.parametrize(
    ("distance", "expected", "slope"),
    [(10, 9.996068, 0.9957), (15.1885, None, 0.0), (20, 2.069608, -1.75196), (25, 0.019428, None)],
)
def test_reference_negatives_collapse_and_their_gradient_turns(distance, expected, slope):
    """56 negatives at one distance from row 0: beyond 15.19 the public code's weights pull them in."""
    scale = torch.tensor(float(distance), dtype=torch.float64, requires_grad=True)
    features = torch.cat([torch.zeros(1, 56, dtype=torch.float64), torch.eye(56, dtype=torch.float64) * scale])
    for form in ("reference", "exact"):
        _, n, _ = weighted_distances(features, torch.arange(57), form)
        (gradient,) = torch.autograd.grad(n[0], scale, retain_graph=True)
        if form == "exact":
            assert (n[0].item(), gradient.item()) == pytest.approx((distance, 1.0), abs=1e-6)
            continue
        if expected is not None:
            assert n[0].item() == pytest.approx(expected, abs=1e-6)
        if slope is not None:
            assert gradient.item() == pytest.approx(slope, abs=1e-3)


def test_triplet_invariances_and_degenerate_batches():
    torch.manual_seed(0)
    features, pids = torch.randn(12, 5, dtype=torch.float64), torch.arange(12) % 4
    rotation, _ = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64))
    order = torch.randperm(12)
    for form in ("reference", "exact"):
        loss = WeightedRegularizedTriplet(form)
        value = loss(features, pids)
        assert torch.allclose(loss(features + 3, pids), value)
        assert torch.allclose(loss(features @ rotation, pids), value)
        assert torch.allclose(loss(features[order], pids[order]), value)
        same = torch.ones(4, 3, requires_grad=True)
        ln2 = loss(same, torch.tensor([0, 0, 1, 1]))
        ln2.backward()
        assert ln2.item() == pytest.approx(math.log(2), abs=1e-5)
        assert same.grad.abs().max() < 1e-5


def test_triplet_is_finite_far_out_and_in_half_precision():
    features = (1000 * PLANE).float().requires_grad_()
    loss = WeightedRegularizedTriplet()(features, PLANE_PIDS)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()
    half = WeightedRegularizedTriplet()(PLANE.bfloat16(), PLANE_PIDS)
    assert half.dtype == torch.float32
    assert float(half) == pytest.approx(0.103632, abs=1e-5)


def test_batch_hard_triplet():
    features = torch.tensor([[0.0], [2], [1], [1.5]])
    assert float(batch_hard_triplet(features, torch.tensor([0, 0, 1, 1]), 0.3)) == pytest.approx(0.85)
    alone = torch.randn(3, 2, requires_grad=True)
    batch_hard_triplet(alone, torch.zeros(3)).backward()
    assert torch.equal(alone.grad, torch.zeros(3, 2))


def test_center_loss_moves_centers_by_the_unweighted_gradient():
    features = torch.tensor([[1.0, 0], [0, 2]], requires_grad=True)
    loss = CenterLoss(3, 2, weight=0.0005)
    loss.centers.data = torch.tensor([[0.0, 0], [1, 1], [5, 5]])
    value = loss(features, torch.tensor([0, 1]))
    assert float(value) / 0.0005 == pytest.approx(1.5)
    value.backward()
    moved = loss.centers.data - 0.5 * loss.centers.grad
    assert moved.tolist() == [[0.5, 0], [0.5, 1.5], [5, 5]]
    assert features.grad.abs().max() < 1e-3


@pytest.mark.parametrize(("smoothing", "expected"), [(0.0, 0.1698), (0.1, 0.3365)])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("agw", {}),
        ("cmlspge", {"stripes": 1, "stripe_dim": 8}),
        ("cmtr", {"vit": {"image_size": (64, 32), "hybrid": {"dim": 32, "depth": 1, "heads": 2}}}),
    ],
)
def test_label_smoothing_reaches_every_identity_loss(name, options, smoothing, expected, monkeypatch):
    for kind in (IdentityClassifier, StripeClassifier):
        monkeypatch.setattr(kind, "forward", lambda _, x: torch.tensor([2.0, 0, -1]).expand(*x.shape[:-1], 3))
    method = build(name, num_classes=3, backbone={"weights": "none"}, label_smoothing=smoothing, **options)
    terms = method.losses(make_batch([0] * 4, [0, 1] * 2))
    found = {term: float(value) for term, value in terms.items() if term.startswith("id")}
    assert found == pytest.approx(dict.fromkeys(found, expected), abs=1e-4)
    assert found
