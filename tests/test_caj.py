"""CAJ: the worked numbers of its loss, its views, its consistency terms, and a run from the command line."""

import pytest
import torch

from batches import PLANE, PLANE_PIDS, make_batch, raw
from command_runs import command
from vireid.data.augment import Augment, ChannelExchange, ViewAugment
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.losses import (
    EnhancedSquaredDifference,
    WeightedRegularizedTriplet,
    distillation,
    soft_cross_entropy,
    weighted_distances,
)
from vireid.methods import Method, build
from vireid.recipe import load_recipe, packaged_recipe
from vireid.training.optim import lr_factor

RANDOM = {"name": "resnet18", "weights": "none"}


def three_views(**options):
    twin = ViewAugment(exchange=ChannelExchange(mode="rgb"))
    augment = Augment(pad=2, visible_twin=twin, **options)
    return augment(raw(make_batch(size=(32, 16))), (0.5,) * 3, (0.5,) * 3, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("gap", "value", "slope"),
    [
        (-3, 0.000123, 0.000740),
        (-1, 0.313262, 0.537883),
        (-0.5, 0.575939, 0.437823),
        (0, 0.693147, 0),
        (0.5, 0.825939, 0.562177),
        (1, 1.313262, 1.462117),
        (3, 9.000123, 5.999260),
        (9, 81.0, 18.0),
        (9.4, 88.0, 0),
        (20, 88.0, 0),
    ],
)
def test_enhanced_squared_difference_of_one_gap(gap, value, slope):
    mu = torch.tensor([float(gap)], requires_grad=True)
    loss = EnhancedSquaredDifference().penalty(mu)
    loss.backward()
    assert loss.item() == pytest.approx(value, abs=1e-6)
    assert float(mu.grad) == pytest.approx(slope, abs=1e-6)
    assert float(EnhancedSquaredDifference(clamp=None).penalty(torch.tensor([20.0]))) == pytest.approx(400)


def test_joint_toy_batch():
    f = torch.tensor([[0.0], [4], [0.5], [3.5], [1], [3]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([0, 1, 0, 1, 0, 1])
    p, n, _ = weighted_distances(f, y)
    assert p.tolist() == pytest.approx([0.660078, 0.660078, 0.383652, 0.383652, 0.660078, 0.660078], abs=1e-6)
    assert n.tolist() == pytest.approx([3.339888, 3.339888, 2.839904, 2.839904, 2.339913, 2.339913], abs=1e-6)
    assert EnhancedSquaredDifference(square=False)(f, y).item() == pytest.approx(0.106510, abs=1e-6)
    loss = EnhancedSquaredDifference()(f, y)
    loss.backward()
    assert loss.item() == pytest.approx(0.020316, abs=1e-6)
    assert (float(f.grad[0]), float(f.grad[4])) == pytest.approx((-0.019976, 0.085324), abs=1e-6)
    assert float(f.grad.sum()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.019419),
        ({"alpha": 2, "square": False}, 0.152519),
        ({"alpha": 2}, 0.061985),
        ({"gamma": 2, "square": False}, 0.014899),
        ({"gamma": 2}, 0.001271),
    ],
)
def test_plane_values(options, expected):
    assert float(EnhancedSquaredDifference(**options)(PLANE, PLANE_PIDS)) == pytest.approx(expected, abs=1e-6)


def test_positive_gap():
    x, y = torch.arange(4.0, dtype=torch.float64)[:, None], torch.tensor([0, 1, 0, 1])
    p, n, _ = weighted_distances(x, y)
    assert p.tolist() == pytest.approx([1.761593] * 4, abs=1e-6)
    assert n.tolist() == pytest.approx([1.238403, 0.999999, 0.999999, 1.238403], abs=1e-6)
    assert float(EnhancedSquaredDifference(square=False)(x, y)) == pytest.approx(1.066667, abs=1e-6)
    assert float(EnhancedSquaredDifference()(x, y)) == pytest.approx(0.931992, abs=1e-6)


def test_saturation_of_the_reference_form():
    features = (10 * PLANE).float().requires_grad_()
    loss = EnhancedSquaredDifference()(features, PLANE_PIDS)
    loss.backward()
    assert loss.item() == 88.0
    assert not features.grad.any()
    assert float(EnhancedSquaredDifference(form="exact")(10 * PLANE, PLANE_PIDS)) < 1e-6


def test_without_the_square_it_is_the_weighted_regularised_triplet():
    torch.manual_seed(0)
    features, pids, order = torch.randn(24, 8), torch.arange(24) % 6, torch.randperm(24)
    for form in ("reference", "exact"):
        plain = EnhancedSquaredDifference(square=False, form=form)
        assert torch.equal(plain(features, pids), WeightedRegularizedTriplet(form)(features, pids))
        squared = EnhancedSquaredDifference(form=form)
        assert torch.allclose(squared(features, pids), squared(features[order], pids[order]))
    alone = torch.randn(3, 2, requires_grad=True)
    EnhancedSquaredDifference(form="exact")(alone, torch.zeros(3)).backward()
    assert not alone.grad.any()


def test_consistency_values_and_gradients():
    student = torch.tensor([[2.0, 0, 0]], requires_grad=True)
    target = torch.tensor([[0.0, 1, 0]], requires_grad=True)
    loss = soft_cross_entropy(student, target)
    loss.backward()
    assert loss.item() == pytest.approx(1.815662, abs=1e-6)
    assert student.grad[0].tolist() == pytest.approx([0.5750, -0.4696, -0.1054], abs=1e-4)
    assert target.grad is None
    same = torch.tensor([[1.0, 2, 0.5]], requires_grad=True)
    entropy = soft_cross_entropy(same, same)
    entropy.backward()
    assert entropy.item() == pytest.approx(0.905959, abs=1e-6)
    assert same.grad.abs().max() < 1e-6
    assert distillation(student, target).item() == pytest.approx(0.821950, abs=1e-5)


def test_three_views_take_their_stems_and_both_learn():
    batch = three_views()
    assert (batch.modality == 0).sum() == 8
    assert torch.equal(batch.pid[:4], batch.pid[4:8])
    caj = build("caj", num_classes=2, backbone=RANDOM)
    seen = {}
    for number, stem in enumerate(caj.network.specific):
        stem.register_forward_hook(lambda _, inputs, __, number=number: seen.update({number: len(inputs[0])}))
    terms = caj.losses(batch)
    assert seen == {0: 8, 1: 4}
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and p.grad.any() for stem in caj.network.specific for p in stem[0].parameters())


def test_the_network_is_agws_and_the_default_loss_has_two_terms():
    caj, agw = (build(name, num_classes=3, backbone=RANDOM) for name in ("caj", "agw"))
    assert {k: v.shape for k, v in caj.state_dict().items()} == {k: v.shape for k, v in agw.state_dict().items()}
    caj.load_state_dict(agw.state_dict())
    batch = three_views()
    plain = caj.losses(batch)
    f, _, logits = caj(batch.images, batch.modality)
    assert set(plain) == {"id", "triplet"}
    assert torch.equal(plain["id"], torch.nn.functional.cross_entropy(logits, batch.pid))
    assert torch.equal(plain["triplet"], EnhancedSquaredDifference()(f, batch.pid))
    assert float(caj.statistics()["gap"]) >= 0
    assert 0 <= float(caj.statistics()["clamped"]) <= 1


@pytest.mark.parametrize(
    ("target", "pairs"), [("strong", [(0, 1)]), ("strong_all", [(0, 1), (2, 1)]), ("weak", [(1, 0)])]
)
def test_consistency_pairs_the_views(target, pairs):
    caj = build("caj", num_classes=2, backbone=RANDOM, consistency_weight=2.0, co_target=target, kl_weight=0.5)
    batch = three_views()
    terms = caj.losses(batch)
    logits = caj(batch.images, batch.modality)[2].split(4)
    expected = 2 * sum(soft_cross_entropy(logits[s], logits[t]) for s, t in pairs)
    assert torch.allclose(terms["consistency"], expected)
    assert torch.allclose(terms["kl"], 0.5 * distillation(logits[0], logits[2]))
    with pytest.raises(InputError, match=r"options\.consistency_weight pairs 4 rows of a batch with 0"):
        caj.losses(batch.take(batch.view == 0))


def test_first_epochs_with_agws_triplet_and_one_modality():
    caj = build("caj", num_classes=2, backbone=RANDOM, wrt_epochs=1)
    batch = three_views()
    batch = batch.take(batch.modality == 1)
    f = caj(batch.images, batch.modality)[0]
    for epoch, loss in enumerate((WeightedRegularizedTriplet(), EnhancedSquaredDifference())):
        caj.on_epoch_start(epoch)
        assert torch.equal(caj.losses(batch)["triplet"], loss(f, batch.pid))


class Corner(Method):
    """Its feature is (1, 0) for images brighter on the left, (0.6, 0.8) for the others."""

    mean, std = (0.0,) * 3, (1.0,) * 3

    def features(self, images, modality):
        left, right = images.mean((1, 2)).chunk(2, dim=1)
        bright = (left.sum(1) > right.sum(1))[:, None]
        unit = torch.where(bright, torch.tensor([1.0, 0]), torch.tensor([0.6, 0.8]))
        return {"global": unit, "stripes": 5 * unit[:, None]}


def test_flip_fusion_is_the_mean_direction_of_vectors_and_the_mean_of_stripes():
    batch = raw(make_batch(size=(32, 16)))
    batch.images[:] = 0
    batch.images[0, ..., 0] = 200
    features = Embedder(Corner(0, None, None), (32, 16)).features(batch, flip=True)
    assert features["global"][0].tolist() == pytest.approx([0.894427, 0.447214], abs=1e-6)
    assert features["global"][1].tolist() == pytest.approx([0.6, 0.8], abs=1e-6)
    assert features["stripes"][:2, 0].flatten().tolist() == pytest.approx([4, 2, 3, 4])


def test_the_clamp_is_of_squares_only():
    gaps = torch.tensor([20.0, -20.0, 1.0])
    for options, expected in (
        ({}, [True, True, False]),
        ({"square": False}, [False] * 3),
        ({"clamp": None}, [False] * 3),
    ):
        assert EnhancedSquaredDifference(**options).clamped(gaps).tolist() == expected


def test_schedule_and_views_of_the_published_recipe():
    recipe = load_recipe(packaged_recipe("caj", "sysu_mm01"))
    rates = {e: 0.1 * lr_factor(recipe.schedule, e, recipe.epochs) for e in (0, 5, 9, 10, 19, 20, 49, 50, 99)}
    expected = {0: 0.01, 5: 0.06, 9: 0.1, 10: 0.1, 19: 0.1, 20: 0.01, 49: 0.01, 50: 0.001, 99: 0.001}
    assert rates == pytest.approx(expected)
    assert recipe.epochs == 100
    assert recipe.optimizers["main"].lr_scale == {"backbone": 0.1}
    assert recipe.augment.visible.exchange.mode == "none"
    assert recipe.validation.flip


@pytest.mark.parametrize("data", ["sysu_mm01", "synthetic"])
def test_finite_in_half_precision(data):
    options = load_recipe(packaged_recipe("caj", data)).options.model_dump()
    caj = build("caj", num_classes=2, backbone=RANDOM, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = torch.stack(list(caj.losses(three_views()).values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in caj.parameters() if p.grad is not None)


def test_run_from_the_command_line(method_run):
    out, _ = method_run("caj")
    columns = (out / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"id", "triplet", "consistency"} <= set(columns)
    command("evaluate", out, "--flip")
