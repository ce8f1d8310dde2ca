"""CMTR: the card's numbers, the ViT and its hybrid, folded export, gradient routes, one tiny training."""

import math
import shlex
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from batches import make_batch, raw
from command_runs import HYBRID, command
from vireid.attention import draw_attention
from vireid.bundle import BundleCard, load_bundle, save_bundle
from vireid.data.augment import Augment
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.losses import WeightedRegularizedTriplet, full_precision, weighted_distances
from vireid.methods import build
from vireid.methods.cmtr import CMTROptions, modality_aware_center
from vireid.nn import BackboneOptions, ViTOptions, build_vit
from vireid.nn.vit import resize_positions
from vireid.precision import Precision
from vireid.recipe import load_recipe, packaged_recipe, packaged_recipes
from vireid.records import Modality
from vireid.training.module import TrainingModule
from vireid.training.optim import build_optimizers, lr_factor

TINY_VIT = {"name": "vit_tiny_patch16_224", "weights": "none"}
F = torch.tensor([[1.0, 0], [3, 0], [0, 2], [0, 4]])
PIDS, MODALITY = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 1, 1])
SQUARED = (1.25, 3.25, 0.25, 4.25)
LN2 = math.log(2)
NAMES = ("backbone", "head", "tokens", "classifier")
BATCH = make_batch([0, 0, 1, 1, 0, 1], [0, 1, 0, 1, 1, 0])


def hybrid(**options):
    torch.manual_seed(0)
    return build("cmtr", num_classes=3, backbone={"weights": "none"}, **{"vit": HYBRID, **options})


@pytest.fixture(scope="module")
def plain():
    torch.manual_seed(0)
    return build("cmtr", num_classes=3, backbone=TINY_VIT, vit={"image_size": (64, 32), "drop_path": 0.0}).eval()


def mac(phi=((0.0, 0), (0, 0)), features=F, pids=PIDS, modality=MODALITY, **options):
    """L_MAC of features after a removal that is given for each modality, and its gradient to the removal."""
    removal = torch.tensor(phi, dtype=features.dtype, requires_grad=True)
    loss = modality_aware_center(
        features - removal[modality], pids, modality, CMTROptions(**{"mae_reduction": "sum", **options})
    )
    return loss, torch.autograd.grad(loss, removal)[0]


@pytest.mark.parametrize(
    ("phi", "options", "expected"),
    [
        (((1.0, 0), (0, 1)), {}, 6.511672),
        (((1.0, 0), (0, 1)), {"mae_reduction": "mean"}, 1.627918),
        (((1.0, 0), (0, 1)), {"center": "cross"}, 9.848351),
        (((1.0, 0), (0, 1)), {"center": "same"}, 5.253047),
        (((0.0, 0), (0, 0)), {}, 8.439294),
        (((2.0, 0), (0, 3)), {}, 5.253047),
        (((1.0, 0), (0, 1)), {"center": "same", "mac_distance": "squared"}, 5.253047),
        (
            ((1.0, 0), (0, 1)),
            {"mac_distance": "squared"},
            sum(math.log1p(math.exp(d)) for d in (1.25, 3.25, 0.25, 4.25)),
        ),
    ],
)
def test_center_term(phi, options, expected):
    assert mac(phi, **options)[0].item() == pytest.approx(expected, abs=2e-6)


def test_gradient_reaches_phi_through_the_joint_centre_only():
    joint = mac(((1.0, 0), (0, 1)))[1]
    assert joint[0].tolist() == pytest.approx([-0.607444, 1.005444], abs=1e-5)
    assert torch.allclose(joint[0], -joint[1], atol=1e-6)
    assert mac(((5.0, -2), (0.3, 1)), center="same")[1].abs().max() < 1e-6
    assert mac(((1.0, 0), (0, 1)), center="cross")[1].abs().min() > 0.1
    held = mac(((1.0, 0), (0, 1)), detach_center=True)[1]
    assert not torch.allclose(held[0], joint[0], atol=1e-2)


def test_center_term_invariances():
    generator = torch.Generator().manual_seed(1)
    f = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    modality = torch.tensor([0, 1, 1, 1])
    phi, both, each = ([[0.4, -1], [2, 0.3]], [[3.0, -4], [3.0, -4]], [[0.7, 2], [-3, 1.5]])
    value, gradient = mac(phi, f, modality=modality)
    added = torch.tensor(phi) + torch.tensor(both)
    assert mac(added.tolist(), f, modality=modality)[0].item() == pytest.approx(value.item())
    moved = torch.tensor(phi) + torch.tensor(each)
    assert mac(moved.tolist(), f + torch.tensor(each)[modality], modality=modality)[0].item() == pytest.approx(
        value.item(), abs=1e-6
    )
    assert gradient.sum(0).abs().max() < 1e-9


@pytest.mark.parametrize("center", ["joint", "same", "cross"])
def test_center_term_against_a_literal_loop(center):
    generator = torch.Generator().manual_seed(2)
    f = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    pids = torch.randint(2, 12, (40,), generator=generator) * 7
    modality = torch.randint(2, (40,), generator=generator)
    values = []
    for b in range(40):
        chosen = [
            f[k]
            for k in range(40)
            if pids[k] == pids[b] and (center == "joint" or (modality[k] == modality[b]) == (center == "same"))
        ]
        if chosen:
            distance = float((f[b] - sum(chosen) / len(chosen)).norm())
            values.append(math.log1p(math.exp(distance)))
    loss = modality_aware_center(f, pids, modality, CMTROptions(center=center))
    assert loss.item() == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_center_term_of_lone_images_and_lone_modalities():
    f = F.clone().requires_grad_()
    alone = modality_aware_center(f, torch.arange(4), MODALITY, CMTROptions())
    alone.backward()
    assert alone.item() == pytest.approx(LN2, abs=1e-5)
    assert torch.equal(f.grad, torch.zeros(4, 2))
    visible = torch.zeros_like(MODALITY)
    value, gradient = mac(modality=visible)
    assert value.isfinite()
    assert torch.equal(gradient[1], torch.zeros(2))
    assert mac(modality=visible, center="cross")[0].item() == 0


@pytest.mark.parametrize(("distance", "dtype"), [(100.0, torch.float32), (12.0, torch.float16)])
def test_center_term_does_not_overflow(distance, dtype):
    f = torch.tensor([[-distance], [distance]], dtype=dtype)
    value = modality_aware_center(f, torch.zeros(2).long(), torch.tensor([0, 1]), CMTROptions())
    assert value.item() == pytest.approx(distance, abs=1e-4)


def test_identity_after_removal():
    w, f, phi = torch.tensor([[1.0, 0], [0, 1], [1, 1]]), torch.tensor([[2.0, 1]]), torch.tensor([[1.0, 0]])
    model = hybrid(phi="identity", mae_terms="maid", mae_weight=1.0, vit={**HYBRID, "hybrid": {"dim": 2, "heads": 1}})
    with torch.no_grad():
        model.classifier.weight.copy_(w)
        model.embedding.copy_(phi.expand(2, 2))
    model.forward = lambda images, modality: (f, f)
    batch = make_batch([0], [1])
    terms = model.losses(batch)
    assert terms["id"].item() == pytest.approx(1.407606, abs=1e-5)
    assert terms["maid"].item() == pytest.approx(1.551445, abs=1e-5)
    assert torch.equal(model.classifier(f) - model.classifier(f - phi), torch.tensor([[1.0, 0, 1]]))


def test_identity_after_removal_does_not_see_the_offset_of_a_modality():
    model = hybrid(phi="identity", mae_terms="maid")
    f, offset = torch.randn(6, 32), torch.randn(2, 32)
    torch.nn.init.normal_(model.classifier.weight)

    def maid(f):
        model.forward = lambda images, modality: (f, f)
        return model.losses(BATCH)["maid"].item()

    before, moved = maid(f), f + offset[BATCH.modality]
    assert maid(moved) != pytest.approx(before, rel=0.1)
    with torch.no_grad():
        model.embedding += offset
    assert maid(moved) == pytest.approx(before, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"separate_classifier": True, "phi": "mlp"}])
def test_losses_on_the_feature_leave_autocast(options):
    model = hybrid(**options)
    v, f = torch.randn(2, 6, 32)
    model.forward = lambda images, modality: (v, f)
    expected = model.losses(BATCH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.losses(BATCH)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_removal_leaves_the_autocast_of_its_own_device(monkeypatch):
    model, left = hybrid().to("meta"), []
    monkeypatch.setattr(torch, "autocast", lambda *device, **flags: left.append((device, flags)) or nullcontext())
    assert model.removal().shape == (2, 32)
    assert left == [(("meta",), {"enabled": False})]


def test_full_precision_takes_its_device_from_a_tensor():
    double = full_precision(lambda x: 2 * x)
    assert double(x=torch.ones(2, dtype=torch.bfloat16)).dtype == torch.float32
    with pytest.raises(TypeError, match="got no tensor"):
        double(1.0)


def test_soft_margin_triplet():
    points, pids = torch.tensor([[0.0], [2], [1], [1.5]]), torch.tensor([0, 0, 1, 1])
    gaps = (1.0, 1.5, -0.5, 0.0)
    expected = sum(math.log1p(math.exp(gap)) for gap in gaps) / 4
    model = hybrid(triplet="soft_margin", mae_weight=0)
    assert model.triplet(points, pids).item() == pytest.approx(expected, abs=1e-6)


def presets():
    """The recipes of the page's two alternatives."""
    page = (Path(__file__).parent.parent / "docs/methods/cmtr.md").read_text(encoding="utf-8").replace("\\\n", " ")
    for line in page.splitlines():
        if line.startswith("vireid train cmtr --data sysu_mm01") and "--set" in line:
            words = shlex.split(line)
            changes = [value for flag, value in pairwise(words) if flag == "--set"]
            yield load_recipe(packaged_recipe("cmtr", "sysu_mm01"), changes)


def test_the_alternatives_of_the_page():
    transreid, pmt = presets()
    groups = build_optimizers(hybrid(), transreid.optimizers)["main"].param_groups
    rates = {(g["name"], g["lr"], g["momentum"], g["nesterov"]) for g in groups}
    plain, twice = {(name, 0.008, 0.9, False) for name in NAMES}, {(name, 0.016, 0.9, False) for name in NAMES[:2]}
    assert rates == plain | twice
    model = hybrid()
    biases = [p for name, p in model.named_parameters() if name.endswith("bias") and p.requires_grad]
    assert sum(len(g["params"]) for g in groups if g["lr"] == 0.016) == len(biases)
    assert {g["weight_decay"] for g in groups if g["name"] == "tokens"} == {0}
    factors = [lr_factor(transreid.schedule, epoch, transreid.epochs) for epoch in (0, 5, 119)]
    assert factors == pytest.approx([0.01, 1, 0.002], abs=2e-4)
    assert transreid.options.triplet == "soft_margin"
    view = pmt.augment.infrared
    assert (view.jitter_or_blur.p, view.erasing.p, pmt.augment.visible.gray_epochs) == (1, 0.5, 3)


@pytest.mark.parametrize(("epoch", "gray"), [(2, True), (3, False)])
def test_training_tells_the_augmentation_its_epoch(epoch, gray):
    module = TrainingModule(hybrid(), list(presets())[1], Precision("32"), "0")
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(total_batch_idx=0))
    module._trainer = SimpleNamespace(current_epoch=epoch, global_rank=0, fit_loop=loop)
    module.recipe = module.recipe.model_copy(update={"augment": Augment(visible=module.recipe.augment.visible)})
    images = module.on_after_batch_transfer(raw(BATCH), 0).images[BATCH.modality == 0]
    planes = images * torch.tensor(module.method.std).view(3, 1, 1) + torch.tensor(module.method.mean).view(3, 1, 1)
    assert torch.allclose(planes[:, 0], planes[:, 1], atol=1e-5) == gray


def test_weighted_triplet_counts_the_anchor_itself():
    points, pids = torch.tensor([[0.0], [1], [3], [4]]), torch.tensor([0, 0, 1, 1])
    p, n, valid = weighted_distances(points, pids, "softmax")
    assert p.tolist() == pytest.approx([0.731059] * 4, abs=1e-5)
    assert n.tolist() == pytest.approx([3.268941, 2.268941, 2.268941, 3.268941], abs=1e-5)
    assert valid.all()
    assert WeightedRegularizedTriplet("softmax")(points, pids).item() == pytest.approx(0.1353, abs=1e-4)
    far = weighted_distances(40 * points, pids, "softmax")[1]
    assert far.tolist() == pytest.approx([120, 80, 80, 120], abs=1e-3)


@pytest.mark.parametrize(
    ("stride", "grid"), [(16, (16, 8)), (14, (18, 9)), (12, (21, 10)), (10, (25, 12)), (8, (31, 15))]
)
def test_grid_of_overlapping_patches(stride, grid):
    vit = build_vit(BackboneOptions(**TINY_VIT), ViTOptions(stride=stride))
    assert vit.grid == grid
    assert vit.pos_embed.shape == (1, 1 + grid[0] * grid[1], 192)


def test_published_size():
    model = build("cmtr", num_classes=395, backbone={"name": "vit_base_patch16_224", "weights": "none"})

    def count(*prefixes):
        return sum(p.numel() for name, p in model.named_parameters() if name.startswith(prefixes))

    assert count("network.") == 85_809_408
    assert count("network.blocks.") == 85_054_464
    assert count("network.embed.") == 590_592
    assert count("network.pos_embed") == 162_048
    assert [count(p) for p in ("embedding", "phi.", "neck.", "classifier.")] == [1_536, 1_181_184, 1_536, 303_360]
    assert (model.mean, model.std) == ((0.5,) * 3, (0.5,) * 3)
    with torch.no_grad():
        features = model.eval().features(torch.rand(1, 3, 256, 128), torch.tensor([1]))
    assert features["global"].shape == features["pooled"].shape == (1, 768)


def test_position_resize():
    table = torch.randn(1, 1 + 6, 3)
    assert resize_positions(table, (3, 2), (3, 2)) is table
    rows = torch.arange(14.0)[:, None].expand(14, 14).reshape(1, 196, 1)
    for kind in ("bilinear", "bicubic"):
        resized = resize_positions(torch.cat([table[:, :1, :1], rows], 1), (14, 14), (21, 10), kind)
        assert torch.equal(resized[:, 0], table[:, 0, :1])
        grid = resized[0, 1:, 0].reshape(21, 10)
        assert (grid.diff(dim=0) > 0).all()
        assert grid.diff(dim=1).abs().max() < 1e-4
        square = resize_positions(torch.cat([table[:, :1, :1], rows[:, :16]], 1), (8, 2), (4, 4), kind)
        assert not torch.equal(square[:, 1:], rows[:, :16])  # as many positions, another grid


@pytest.mark.parametrize("where", ["all", "patches"])
def test_folding_the_embedding_gives_plain_transformers(where):
    model = hybrid(modality_embedding=where, me_scale=2.0, test_removal=True).eval()
    other = build("cmtr", num_classes=3, backbone=TINY_VIT, vit={"image_size": (64, 32)}, modality_embedding=where)
    for m in (model, other.eval()):
        torch.nn.init.normal_(m.embedding)
        torch.nn.init.normal_(m.neck.running_mean)
        with torch.no_grad():
            expected = [m.features(BATCH.images, torch.full_like(BATCH.pid, kind))["global"] for kind in Modality]
            folded = [torch.nn.functional.normalize(net(BATCH.images), dim=1) for net in m.folded().values()]
        for a, b in zip(folded, expected, strict=True):
            assert torch.allclose(a, b, atol=1e-5)
        assert not torch.allclose(expected[0], expected[1], atol=1e-3)
    nets = model.folded()
    assert nets[Modality.VISIBLE][0].blocks is nets[Modality.INFRARED][0].blocks is model.network.blocks


def test_removal_is_turned_off_at_test_time(tmp_path):
    options = {"vit": {"image_size": (64, 32)}, "test_removal": True}
    method = build("cmtr", num_classes=3, backbone=TINY_VIT, **options).eval()
    torch.nn.init.normal_(method.phi[0].bias)
    card = {"method": "cmtr", "options": options, "backbone": TINY_VIT, "num_classes": 3, "image_size": (64, 32)}
    card |= {"mean": method.mean, "std": method.std, "training_data": "none"}
    save_bundle(tmp_path / "m.safetensors", method, BundleCard.model_validate(card))
    plain, _ = load_bundle(tmp_path / "m.safetensors", {"test_removal": False})
    with torch.no_grad():
        f = torch.nn.functional.normalize(method(BATCH.images, BATCH.modality)[1], dim=1)
        assert torch.equal(plain.features(BATCH.images, BATCH.modality)["global"], f)
        assert not torch.allclose(method.features(BATCH.images, BATCH.modality)["global"], f, atol=1e-3)


def test_the_flag_means_the_embedding(plain):
    images, modality = BATCH.images, BATCH.modality
    with torch.no_grad():
        torch.nn.init.normal_(plain.embedding)
        before = plain(images, modality)[0]
        plain.embedding.copy_(plain.embedding.flip(0))
        assert torch.allclose(plain(images, 1 - modality)[0], before, atol=1e-6)
        assert not torch.allclose(plain(images, modality)[0], before, atol=1e-3)
        plain.embedding[1] = plain.embedding[0]
        assert torch.equal(plain(images, modality)[0], plain(images, 1 - modality)[0])


def test_other_sizes_interpolate_positions(plain):
    small, large = (plain.network(torch.rand(1, 3, *size)) for size in ((64, 32), (96, 48)))
    assert small.shape == large.shape == (1, 192)


def test_attention_is_that_of_the_last_block(plain, monkeypatch):
    images, modality, seen = torch.rand(2, 3, 96, 48), torch.tensor([0, 1]), []
    last = plain.network.blocks[-1].attn
    monkeypatch.setattr(last, "fused_attn", False)
    hook = last.attn_drop.register_forward_hook(lambda module, arguments, weights: seen.append(weights))
    with torch.no_grad():
        plain(images, modality)
        hook.remove()
        maps = plain.attention(images, modality)
    assert maps.shape == (2, 7, 3)
    assert torch.allclose(maps.flatten(1), seen[0].mean(1)[:, 0, 1:], atol=1e-6)


def test_hybrid_starts_as_the_pooled_stem():
    network = hybrid().network.eval()
    with torch.no_grad():
        v = network(BATCH.images)
        x = network.embed(network.stem(BATCH.images)).mean((2, 3)) + network.cls_token[0] + network.pos_embed[:, 0]
    assert torch.allclose(v, network.norm(x), atol=1e-5)
    weight = network.embed[0].weight.flatten(1)
    assert torch.allclose(weight @ weight.T, torch.eye(32), atol=1e-5)
    early = hybrid(vit={**HYBRID, "hybrid": {"stage": "layer2", "dim": 32, "heads": 2}}).network
    assert (early.grid, network.grid) == ((8, 4), (4, 2))


def test_terms_and_gradient_routes():
    model = hybrid(mae_warmup=2)

    def gradients(*names):
        model.zero_grad(set_to_none=True)
        terms = model.losses(BATCH)
        assert list(terms) == ["id", "triplet", "mac", "maid"]
        sum(terms.values()).backward()
        named = dict(model.named_parameters())
        return [bool(named[name].grad.abs().max() > 0) for name in names]

    phi = ("phi.0.weight", "phi.1.bias")
    model.on_epoch_start(0)
    assert gradients("embedding", *phi) == [True, False, False]
    model.on_epoch_start(2)
    assert gradients("embedding", "network.stem.0.0.weight", *phi) == [True] * 4
    assert set(model.statistics()) == {"neck_weight", "removal_gap"}
    called = []
    for phi_of_a_modality in model.phi:
        phi_of_a_modality.register_forward_hook(lambda *_: called.append(True))
    model.eval().features(BATCH.images, BATCH.modality)
    assert not called
    assert {g.name for g in model.parameter_groups()} == {"backbone", "tokens", "head"}
    grouped = [p for g in model.parameter_groups() for p in g.params]
    assert len({id(p) for p in grouped}) == len(grouped) == len(list(model.parameters()))
    lone = model.train().losses(BATCH.take(BATCH.modality == 1))
    assert all(term.isfinite() for term in lone.values())


@pytest.mark.parametrize(
    "options",
    [
        {"modality_embedding": "none", "mae_weight": 0},
        {"phi": "mlp", "center": "cross", "mae_reduction": "sum"},
        {"phi": "shared", "separate_classifier": True, "mae_terms": "maid"},
        {"wrt_feature": "bn", "id_reduction": "per_modality_sum", "label_smoothing": 0.1, "mae_terms": "mac"},
        {"vit": {**HYBRID, "checkpointing": True, "dropout": 0.1, "drop_path": 0.1, "interpolation": "bicubic"}},
    ],
)
def test_options_train_under_bfloat16(options):
    model = hybrid(**options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = model.losses(BATCH)
    assert all(term.dtype == torch.float32 for term in terms.values())
    sum(terms.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad and p.grad is not None)
    wanted = {"both": {"mac", "maid"}, "mac": {"mac"}, "maid": {"maid"}}[model.options.mae_terms]
    assert set(terms) == {"id", "triplet"} | (wanted if model.options.mae_weight else set())


def test_per_modality_identity_is_the_sum_of_means():
    each = hybrid(mae_weight=0).train()
    joint = each.losses(BATCH)["id"].item()
    both = hybrid(mae_weight=0, id_reduction="per_modality_sum").train().losses(BATCH)["id"].item()
    assert both == pytest.approx(2 * joint, rel=1e-5)


@pytest.mark.parametrize(
    ("backbone", "options", "sentence"),
    [
        (TINY_VIT | {"weights": "imagenet"}, {}, "ImageNet weights of vit_tiny_patch16_224 cannot be had"),
        ({"name": "vit_medium_patch16_gap_240", "weights": "none"}, {}, "choose a timm ViT with one class token"),
        (TINY_VIT, {"vit": {"image_size": (64, 8)}}, "below a patch"),
        ({"weights": "none"}, {"vit": {"hybrid": {"heads": 3}}}, "heads=3 does not divide dim=320"),
        ({"weights": "none"}, {"modality_embedding": "none"}, "leaves nothing to remove"),
        ({"weights": "none"}, {"separate_classifier": True, "mae_terms": "mac"}, "separate_classifier is MAID's"),
        (
            {"weights": "none"},
            {"test_removal": True, "mae_weight": 0},
            "mae_weight=0 leaves phi=linear untrained: set test_removal=false, or phi=identity",
        ),
        (
            {"weights": "none"},
            {"test_removal": True, "mae_terms": "mac", "center": "same", "phi": "mlp"},
            "mae_terms=mac with center=same leaves phi=mlp untrained",
        ),
    ],
)
def test_errors(backbone, options, sentence, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=sentence):
        build("cmtr", num_classes=2, backbone=backbone, **options)


def test_removal_of_an_embedding_without_weights_needs_no_loss():
    assert hybrid(test_removal=True, mae_weight=0, phi="identity").removal().shape == (2, 32)


def test_weights_from_a_file(tmp_path):
    import timm

    path = tmp_path / "vit.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), path)
    state = torch.load(path)
    vit = build_vit(BackboneOptions(name="vit_tiny_patch16_224", weights=str(path)), ViTOptions(stride=16))
    assert torch.equal(vit.blocks[3].mlp.fc1.weight, state["blocks.3.mlp.fc1.weight"])
    expected = resize_positions(state["pos_embed"], (14, 14), (16, 8))
    assert torch.equal(vit.pos_embed, expected)
    torch.save({**state, "pos_embed": torch.zeros(1, 5, 192)}, path)
    with pytest.raises(InputError, match=r"does not fit: size mismatch for pos_embed"):
        build_vit(BackboneOptions(name="vit_tiny_patch16_224", weights=str(path)), ViTOptions())


def test_recipes_ship():
    assert set(packaged_recipes("cmtr")) == {"sysu_mm01", "regdb", "llcm", "synthetic"}
    for data in packaged_recipes("cmtr"):
        recipe = load_recipe(packaged_recipe("cmtr", data))
        assert recipe.options.vit.image_size == recipe.data.image_size


def test_attention_is_drawn(method_run, manifest, tmp_path):
    out, _ = method_run("cmtr")
    pictures, figure = [manifest / f"infrared_9_{k}.jpg" for k in range(3)], tmp_path / "attention.png"
    command("plots", "attention", out / "last.safetensors", *pictures, "--out", figure)
    assert Image.open(figure).height > Image.open(figure).width > 100


def test_attention_is_drawn_of_what_embed_reads(monkeypatch, tmp_path):
    """Tinted night pictures turn grey, in batches, in the embedder's precision."""

    class Watched(torch.nn.Module):
        mean, std = (0.5, 0.25, 0.0), (1.0, 0.5, 2.0)

        def attention(self, images, modality):
            seen.append((images, modality.tolist(), torch.is_autocast_enabled("cpu")))
            return torch.zeros(len(images), 2, 1, dtype=torch.bfloat16)

    seen = []
    embedder = Embedder(Watched(), (8, 4), torch.device("cpu"), precision="bf16")
    monkeypatch.setattr(Embedder, "load", lambda bundle: embedder)
    monkeypatch.setattr("vireid.attention.BATCH_SIZE", 2)
    for k in range(3):
        Image.new("RGB", (4, 8), (60 * k + 80, 40, 0)).save(tmp_path / f"{k}.png")
    assert draw_attention(tmp_path / "b", [tmp_path], "infrared", tmp_path / "a.jpg") == 3
    (first, kinds, low), (second, *_) = seen
    assert (len(first), len(second), kinds, low) == (2, 1, [1, 1], True)
    grey = (0.299 * 80 + 0.587 * 40) / 255
    expected = [(grey - m) / s for m, s in zip(Watched.mean, Watched.std, strict=True)]
    assert first[0].mean((1, 2)).tolist() == pytest.approx(expected, abs=0.01)


def test_a_method_without_attention_is_named(run, tmp_path):
    with pytest.raises(InputError, match=r"AGW has no attention maps; these methods have: .*cmtr"):
        draw_attention(run / "last.safetensors", [tmp_path], "infrared", tmp_path / "a.png")
