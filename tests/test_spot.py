"""SPOT: the card's numbers, literal attention, gradient routes, key-points from file to heat-map, one tiny training."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from batches import make_batch, make_keypoints, raw
from command_runs import NARROW
from vireid.data import open_dataset
from vireid.data.augment import Augment, flip_keypoints
from vireid.data.datamodule import ImageBatches, image_source
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.losses import batch_hard_triplet
from vireid.methods import build
from vireid.methods.spot import PartTransformer, SPOTOptions, StructureAttention, node_attention
from vireid.nn.heatmaps import fill_poses, has_pose, render_heatmaps, standing_template
from vireid.nn.parts import mask_cosines, part_masks, pool_parts, sine_positions
from vireid.plots import attention_figure
from vireid.recipe import load_recipe, packaged_recipe, packaged_recipes
from vireid.records import FLIPPED_KEYPOINTS, Batch

RANDOM = {"weights": "none"}
SIZE = (64, 32)


def posed_batch(pid=(0, 0, 1, 1) * 2, **columns):
    return make_batch(pid, keypoints=make_keypoints(len(pid)), **columns)


def tiny(**options):
    torch.manual_seed(0)
    return build("spot", num_classes=2, backbone=RANDOM, **{**NARROW, **options})


@pytest.fixture(scope="module")
def model():
    return tiny()


def test_shapes_and_parameter_count_of_the_defaults():
    spot = build("spot", num_classes=395, backbone={"name": "resnet50", "weights": "none"})
    assert sum(p.numel() for p in spot.parameters()) == 79_746_950
    spot.eval()
    with torch.no_grad():
        maps = spot.encode(torch.rand(1, 3, 288, 144), torch.tensor([1]))
        attention = spot.asr.attention(maps.appearance, maps.structure)
        f = spot.branches(maps)
    assert maps.appearance.shape == (1, 2048, 18, 9)
    assert maps.heatmaps.shape == (1, 18, 72, 36)
    assert maps.structure.shape == (1, 256, 18, 9)
    assert maps.masks.shape == (1, 6, 18, 9)
    assert ((maps.masks > 0) & (maps.masks < 1)).all()
    assert attention.shape == (1, 162, 162)
    assert torch.allclose(attention.sum(2), torch.ones(1, 162), atol=1e-5)
    assert attention.max() < 0.0075  # starts nearly uniform: 1 / 162 = 0.006
    assert {name: value.shape for name, value in f.items()} == dict.fromkeys(spot.necks, (1, 2048))
    with torch.no_grad():
        larger = spot.encode(torch.rand(1, 3, 384, 192), torch.tensor([0]))
    assert larger.heatmaps.shape == (1, 18, 96, 48)
    assert larger.appearance.shape[2:] == larger.structure.shape[2:] == (24, 12)


# Attention


def test_attention_of_two_nodes():
    keys, queries = torch.tensor([[[1.0, 0], [0, 2]]]), torch.tensor([[[1.0, 1], [0, 1]]])
    expected = [[0.731059, 0.268941], [0.5, 0.5]]
    assert torch.allclose(node_attention(keys, queries)[0], torch.tensor(expected), atol=1e-6)
    scaled = node_attention(keys, queries, 2**-0.5)[0, 0]
    assert torch.allclose(scaled, torch.tensor([0.669762, 0.330238]), atol=1e-6)


def literal_branch(module, appearance, structure, options):
    """F_IS as printed, node by node, then its mean."""
    if options.asr_input == "structure":
        both = torch.cat([appearance, structure], dim=1)
        weight = torch.cat([module.appearance.weight, module.structure.weight], dim=1)
    else:
        both, weight = appearance, module.appearance.weight
    x = module.phi(torch.nn.functional.conv2d(both, weight))
    out = torch.zeros_like(appearance)
    n, _, h, w = appearance.shape
    places = [(r, c) for r in range(h) for c in range(w)]
    scale = options.attention_dim**-0.5 if options.attn_scale == "sqrt" else 1.0
    for i in range(n):
        k = [module.key(x[i, :, r, c]) for r, c in places]
        q = [module.query(x[i, :, r, c]) for r, c in places]
        v = [module.value(appearance[i, :, r, c]) for r, c in places]
        for j, (r, c) in enumerate(places):
            logits = torch.stack([scale * (k[j] @ q[t]) for t in range(h * w)])
            m = logits.exp() / logits.exp().sum()
            out[i, :, r, c] = sum(m[t] * v[t] for t in range(h * w))
    on_identity = options.bn_on == "identity"
    full = out + module.norm(appearance) if on_identity else appearance + module.norm(out)
    return full.mean((2, 3))


@pytest.mark.parametrize(
    "changes",
    [{}, {"attn_scale": "sqrt"}, {"bn_on": "attended"}, {"asr_input": "appearance"}, {"phi_last_relu": False}],
    ids=lambda changes: next(iter(changes), "default"),
)
def test_pooled_attention_equals_the_printed_map(changes):
    options = SPOTOptions(structure_dim=3, attention_dim=4, **changes)
    torch.manual_seed(0)
    module = StructureAttention(5, options).double()
    for linear in (module.key, module.query):
        torch.nn.init.normal_(linear.weight)
    torch.nn.init.uniform_(module.norm.weight)
    appearance = torch.rand(2, 5, 3, 2, dtype=torch.float64, requires_grad=True)
    structure = torch.rand(2, 3, 3, 2, dtype=torch.float64)
    weights = torch.rand(2, 5, dtype=torch.float64)
    leaves = [appearance, *module.parameters()]
    found, expected = module(appearance, structure), literal_branch(module, appearance, structure, options)
    assert torch.allclose(found, expected, atol=1e-12)
    gradients = [torch.autograd.grad((f * weights).sum(), leaves) for f in (found, expected)]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_attention_without_values_and_without_logits():
    torch.manual_seed(0)
    module = StructureAttention(6, SPOTOptions(structure_dim=3, attention_dim=4))
    appearance, structure = torch.rand(2, 6, 4, 2), torch.rand(2, 3, 4, 2)
    torch.nn.init.zeros_(module.key.weight)
    assert torch.allclose(module.attention(appearance, structure), torch.full((2, 8, 8), 1 / 8))
    mean = module.value(appearance.mean((2, 3))) + module.norm(appearance).mean((2, 3))
    assert torch.allclose(module(appearance, structure), mean, atol=1e-5)
    torch.nn.init.zeros_(module.value.weight)
    assert torch.equal(module(appearance, structure), module.norm(appearance).mean((2, 3)))
    attended = StructureAttention(6, SPOTOptions(structure_dim=3, attention_dim=4, bn_on="attended"))
    assert torch.allclose(attended(appearance, structure), appearance.mean((2, 3)))  # its BN starts at 0


# Parts


def test_part_pooling():
    appearance = torch.tensor([[[[1.0, 2], [3, 4]], [[0, 1], [0, 1]]]])
    masks = torch.tensor([[[[1.0, 0], [0, 0]], [[0.5, 0.5], [0.5, 0.5]], [[0.2, 0.8], [0, 1]]]])
    expected = {
        "masked": [[1.0, 0], [2.5, 0.5], [2.9, 0.9]],
        "area": [[0.25, 0], [1.25, 0.25], [1.45, 0.45]],
    }
    for norm, parts in expected.items():
        assert torch.allclose(pool_parts(appearance, masks, norm)[0], torch.tensor(parts), atol=1e-5)


def test_constant_structure_gives_every_part_the_mean(model):
    maps = torch.rand(2, 1280, 4, 2)
    masks = part_masks(model.theta(torch.ones(2, 16, 4, 2) * 0.3), "sigmoid")
    parts = pool_parts(maps, masks)
    assert torch.allclose(parts, maps.mean((2, 3))[:, None].expand(-1, 3, -1), atol=1e-5)


def test_masks_that_share_the_nodes():
    logits = torch.randn(2, 3, 4, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    soft, hard = (part_masks(logits, kind) for kind in ("softmax", "hard"))
    assert torch.allclose(soft.sum(1), torch.ones(2, 4, 2))
    assert torch.allclose(hard, torch.nn.functional.one_hot(logits.argmax(1), 3).permute(0, 3, 1, 2).float(), atol=1e-6)
    weights = torch.rand(2, 3, 4, 2)
    of_soft, of_hard = (torch.autograd.grad((m * weights).sum(), logits)[0] for m in (soft, hard))
    assert torch.allclose(of_soft, of_hard)
    cosines = mask_cosines(hard.detach())
    assert cosines.shape == (2, 6)
    assert torch.allclose(cosines, torch.zeros(2, 6), atol=1e-6)


def test_hard_part_without_a_node_is_zero_and_keeps_its_gradient_small():
    logits = torch.tensor([2.0, 1, -5]).view(1, 3, 1, 1).expand(1, 3, 4, 2).clone().requires_grad_()
    parts = pool_parts(torch.rand(1, 5, 4, 2), part_masks(logits, "hard"))
    assert torch.equal(parts[0, 1:], torch.zeros(2, 5))
    (gradient,) = torch.autograd.grad(parts.sum(), logits)
    assert 0 < gradient.abs().max() < 10


def test_sine_positions():
    expected = [[0, 1, 0, 1], [0.841471, 0.540302, 0.00999983, 0.99995], [0.909297, -0.416147, 0.01999867, 0.9998]]
    assert torch.allclose(sine_positions(3, 4), torch.tensor(expected), atol=1e-6)
    assert torch.allclose(sine_positions(9, 2048).norm(dim=1), torch.full((9,), 32.0))


@pytest.mark.parametrize(("position", "same"), [("none", True), ("sine", False), ("learned", False)])
def test_only_positions_tell_parts_apart(position, same):
    torch.manual_seed(0)
    transformer = PartTransformer(8, SPOTOptions(parts=4, tpi_heads=2, tpi_ffn=8, position=position)).eval()
    parts, order = torch.randn(2, 4, 8), [2, 0, 3, 1]
    assert torch.allclose(transformer(parts), transformer(parts[:, order]), atol=1e-5) == same
    each, moved = (transformer.encoder(p + transformer.position) for p in (parts, parts[:, order]))
    assert torch.allclose(each[:, order], moved, atol=1e-5) == same


def test_part_gate_starts_as_the_mean():
    torch.manual_seed(0)
    options = {"parts": 4, "tpi_heads": 2, "tpi_ffn": 8, "part_layer_norm": True}
    mean, gate = (PartTransformer(8, SPOTOptions(**options, part_pool=pool)).eval() for pool in ("mean", "gate"))
    gate.load_state_dict(mean.state_dict(), strict=False)
    parts = torch.randn(2, 4, 8)
    assert torch.allclose(mean(parts), gate(parts), atol=1e-6)
    with torch.no_grad():
        gate.gate[1] = 100.0
    assert torch.allclose(gate(parts), gate.encoder(gate.norm(parts) + gate.position)[:, 1], atol=1e-5)


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match=r"options.tpi_heads=3 does not divide the transformer's width 16"):
        tiny(tpi_heads=3)


# Heat-maps


def test_grid_and_heights_of_a_joint():
    points = torch.zeros(2, 18, 3)
    points[0, 4], points[1, 0] = torch.tensor([57.5, 101.5, 0.8]), torch.tensor([59.5, 103.5, 1.0])
    maps = render_heatmaps(points, (288, 144), (72, 36))
    assert maps.shape == (2, 18, 72, 36)
    found = [maps[0, 4, 25, 14], maps[0, 4, 25, 16], maps[0, 4, 27, 14]]
    assert torch.stack(found).tolist() == pytest.approx([0.8, 0.485225, 0.485225], abs=1e-6)
    assert maps[1, 0, 25:27, 14:16].flatten().tolist() == pytest.approx([0.939413] * 4, abs=1e-6)
    assert maps[0].count_nonzero() == maps[0, 4].count_nonzero()


@pytest.mark.parametrize(("x", "u"), [(0.0, -0.375), (71.5, 17.5), (143.0, 35.375)])
def test_grid_map(x, u):
    points = torch.tensor([[[x, 0.0, 1.0]]])
    row = render_heatmaps(points, (288, 144), (72, 36))[0, 0, 0]
    offsets = torch.arange(36) - u
    assert torch.allclose(row / row.max(), torch.exp(-offsets.square() / 8) / torch.exp(-offsets.square() / 8).max())


@pytest.mark.parametrize(("score", "height"), [(0.09, 0.0), (0.1, 0.1), (1.7, 1.0)])
def test_scores_are_cut_and_clipped(score, height):
    points = torch.tensor([[[1.5, 1.5, score]]])
    assert render_heatmaps(points, (16, 16), (4, 4)).max().item() == pytest.approx(height)


def test_flipping_joints_is_flipping_maps():
    points = make_keypoints(4, (288, 144))
    maps, flipped = (render_heatmaps(p, (288, 144), (72, 36)) for p in (points, flip_keypoints(points, 144)))
    assert torch.allclose(flipped, maps.flip(3)[:, FLIPPED_KEYPOINTS], atol=1e-6)
    assert [FLIPPED_KEYPOINTS[joint] for joint in FLIPPED_KEYPOINTS] == list(range(18))
    template = standing_template((288, 144))[None]
    assert torch.allclose(flip_keypoints(template, 144), template, atol=1e-4)
    assert template[0, 1].tolist() == pytest.approx([71.5, 54.22, 0.5])


def test_images_without_a_pose_get_the_template():
    points = make_keypoints(3)
    points[1] = torch.nan
    points[2, 2:14, 2] = 0.19
    assert has_pose(points).tolist() == [True, False, False]
    filled = fill_poses(points, torch.zeros(3, 3, *SIZE))
    assert torch.equal(filled[0], points[0])
    assert torch.equal(filled[1:], standing_template(SIZE).expand(2, -1, -1))
    assert torch.equal(fill_poses(None, torch.zeros(2, 3, *SIZE)), standing_template(SIZE).expand(2, -1, -1))


# The whole


def reached(module, terms, prefixes):
    """The prefixes under which the sum of terms has a gradient that is not zero."""
    module.zero_grad(set_to_none=True)
    torch.stack(terms).sum().backward()
    named = {n: p.grad for n, p in module.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    return {prefix for prefix in prefixes if any(name.startswith(prefix) for name in named)}


ATTENTION = {"asr.appearance", "asr.structure", "asr.phi", "asr.key", "asr.query", "asr.value"}
OWN_HEADS = {f"{kind}.{b}" for kind in ("necks", "classifiers") for b in ("base", "structure", "parts", "fusion")}
EVERYTHING = {"network.", "relation", "theta", "tpi", "gamma"} | ATTENTION | OWN_HEADS


@pytest.mark.parametrize(
    ("branch", "routes"),
    [
        ("base", {"network."}),
        ("structure", {"network.", "relation"} | ATTENTION),
        ("parts", {"network.", "relation", "theta", "tpi"}),
        ("fusion", {"network.", "relation", "theta", "tpi", "gamma"} | ATTENTION),
    ],
)
def test_gradient_routes(model, branch, routes):
    terms = model.losses(posed_batch())
    own = [terms[f"id_{branch}"], terms[f"triplet_{branch}"]]
    assert reached(model, own, EVERYTHING) == routes | {f"necks.{branch}", f"classifiers.{branch}"}


def test_total_loss_is_the_weighted_sum(model):
    batch = posed_batch()
    model.train()
    torch.manual_seed(1)
    f = model.branches(model.encode(batch.images, batch.modality, batch.keypoints))
    torch.manual_seed(1)
    terms = model.losses(batch)
    for name, weight in {"base": 1.0, "structure": 0.5, "parts": 0.5, "fusion": 1.0}.items():
        assert terms[f"triplet_{name}"].item() == pytest.approx(weight * batch_hard_triplet(f[name], batch.pid).item())
        logits = model.classifiers[name](model.necks[name](f[name]))
        expected = weight * torch.nn.functional.cross_entropy(logits, batch.pid).item()
        assert terms[f"id_{name}"].item() == pytest.approx(expected, rel=1e-5)
    assert len(terms) == 8
    logged, positions = model.statistics(), SIZE[0] * SIZE[1] // 256
    assert 0 < logged["mask_cosine"] <= 1.001
    assert 1 / positions <= logged["attention_peak"] < 1.1 / positions  # near-uniform at the start


@pytest.mark.parametrize(
    ("options", "terms", "dim"),
    [
        ({"structure_weight": 0, "part_weight": 0}, {"base", "fusion"}, 1),
        ({"asr": False, "tpi": False}, {"base"}, 1),
        ({"asr": False}, {"base", "parts"}, 1),
        ({"tpi": False}, {"base", "structure"}, 1),
        ({"fusion": False}, {"base", "structure", "parts"}, 2),
        ({"feature": "concat", "triplet": "wrt"}, {"base", "structure", "parts", "fusion"}, 3),
        ({"feature": "raw", "asr_input": "appearance"}, {"base", "structure", "parts", "fusion"}, 1),
        ({"parts": 1, "position": "learned", "tpi_layers": 2}, {"base", "structure", "parts", "fusion"}, 1),
    ],
    ids=str,
)
def test_ladder_forms(options, terms, dim):
    spot = tiny(**options)
    assert set(spot.losses(posed_batch())) == {f"{kind}_{name}" for kind in ("id", "triplet") for name in terms}
    spot.eval()
    with torch.no_grad():
        found = spot.features(torch.rand(2, 3, *SIZE), torch.tensor([0, 1]))["global"]
    assert found.shape == (2, dim * 1280) == (2, spot.embedding_dim)
    assert torch.allclose(found.norm(dim=1), torch.ones(2), atol=1e-5)
    grouped = [p for group in spot.parameter_groups() for p in group.params]
    assert len({id(p) for p in grouped}) == len(grouped) == len(list(spot.parameters()))


def test_diversity_penalty_is_the_mean_squared_cosine():
    spot, batch = tiny(diversity_weight=2.0), posed_batch()
    masks = spot.encode(batch.images, batch.modality, batch.keypoints).masks.flatten(2)
    cosine = torch.nn.functional.cosine_similarity
    pairs = [cosine(m[i], m[j], dim=0) for m in masks for i in range(3) for j in range(3) if i != j]
    expected = 2 * torch.stack(pairs).square().mean().item()
    assert spot.losses(batch)["diversity"].item() == pytest.approx(expected, rel=1e-4)


def no_scores(points):
    points[..., 2] = 0
    return points


def few_joints(points):
    """One arm alone, just enough for a pose: 15 of the 18 heat-maps are empty."""
    points[:, :, 2], points[:, 2:5, 2] = 0, 1
    assert has_pose(points).all()
    return points


def outside(points):
    points[..., :2] += 1000
    return points


@pytest.mark.parametrize("change", [no_scores, few_joints, outside])
@pytest.mark.parametrize("modality", [0, 1])
def test_degenerate_batches_are_finite_in_half_precision(model, change, modality):
    batch = posed_batch(pid=(0, 0, 1, 1), modality=(modality,) * 4)
    batch.keypoints = change(batch.keypoints)
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = torch.stack(list(model.losses(batch).values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


# Where poses come from


def test_template_moves_with_the_image_and_poses_can_be_dropped():
    batch = raw(posed_batch())
    generator = torch.Generator().manual_seed(0)
    batch.keypoints[1] = torch.nan
    prepared = tiny().prepare(batch, generator).keypoints
    assert torch.equal(prepared[0], batch.keypoints[0])
    assert torch.equal(prepared[1], standing_template(SIZE))
    always = tiny(pose="template").prepare(batch, generator)
    assert torch.equal(always.keypoints, standing_template(SIZE).expand(8, -1, -1))
    moved = Augment(pad=5)(always, (0.0,) * 3, (1.0,) * 3, generator).keypoints
    shift = moved - always.keypoints
    assert len(shift[:, 0, :2].unique(dim=0)) > 4
    assert torch.allclose(shift, shift[:, :1].expand_as(shift), atol=1e-4)
    many = Batch(*(column.repeat_interleave(250, 0) for column in vars(batch).values()))
    dropped = tiny(pose_dropout=0.25).prepare(many, generator).keypoints
    share = (dropped == standing_template(SIZE)).all((1, 2))[:250].float().mean().item()
    assert share == pytest.approx(0.25, abs=0.08)


def test_keypoints_matter_only_where_they_are_used(model):
    images, modality = torch.rand(2, 3, *SIZE), torch.tensor([0, 1])
    for spot, differs in ((model, True), (tiny(pose="template"), False), (tiny(pose="learned"), False)):
        spot.eval()
        with torch.no_grad():
            found = [spot.features(images, modality, keypoints=p)["global"] for p in (None, make_keypoints(2))]
        assert torch.equal(*found) != differs
        assert ("keypoints" in spot.side_inputs) == differs


def test_without_a_branch_that_reads_structure_there_is_none():
    for options in ({"asr": False}, {"asr_input": "appearance"}):
        spot = tiny(tpi=False, **options)
        assert (spot.relation, spot.side_inputs) == (None, ())
        assert all(term.isfinite() for term in spot.losses(posed_batch()).values())


def test_learned_poses_are_trained():
    spot = tiny(pose="learned")
    batch = make_batch()
    assert spot.prepare(batch, torch.Generator()) is batch
    assert reached(spot, list(spot.losses(batch).values()), {"joints"}) == {"joints"}
    maps = spot.encode(batch.images, batch.modality)
    assert maps.heatmaps.shape == (8, 18, 16, 8)
    assert ((maps.heatmaps > 0) & (maps.heatmaps < 1)).all()


def test_any_data_set_takes_keypoints_beside_it_or_by_name(posed, tmp_path):
    root = shutil.copytree(posed, tmp_path / "posed")
    (root / "keypoints.npz").rename(root / "other.npz")
    assert open_dataset("manifest", root).keypoints is None
    records = open_dataset("manifest", root, keypoints="other.npz")
    assert np.isnan(records.keypoints).all((1, 2)).sum() == 32
    with pytest.raises(InputError, match=r"there is no keypoint file .*gone\.npz: make one with vireid pose"):
        open_dataset("manifest", root, keypoints="gone.npz")


def test_keypoints_are_scaled_with_their_image(posed):
    records = open_dataset("manifest", posed).where(split="val")
    batch = ImageBatches(records, image_source(records, (128, 96), cache=False), records.pid).__getitems__([2])
    expected = (records.keypoints[2, :, :2] + 0.5) * (96 / 32, 128 / 64) - 0.5
    np.testing.assert_allclose(batch.keypoints[0, :, :2], expected, rtol=1e-5)


def test_embedding_warns_how_many_images_have_no_pose(posed, model, recwarn):
    records = open_dataset("manifest", posed)
    embedder = Embedder(model.eval(), SIZE)
    embedder.extract(records.where(split="val"), cache=False)
    Embedder(tiny(pose="template").eval(), SIZE).extract(records, cache=False)
    assert not recwarn.list
    with pytest.warns(UserWarning, match=r"32 of 64 images have no keypoints and get a standing template"):
        embedder.extract(records.where(split="train"), cache=False)
    with pytest.warns(UserWarning, match="1 of 1 images"):
        embedder.embed([records.absolute(0)])


def test_mirrored_images_are_embedded_with_mirrored_keypoints(posed, model):
    records = open_dataset("manifest", posed).where(split="val")
    batch = ImageBatches(records, image_source(records, SIZE, cache=False), records.pid).__getitems__([0, 1])
    embedder = Embedder(model.eval(), SIZE)
    both = embedder.features(batch, flip=True)["global"]
    mirrored = replace(batch, images=batch.images.flip(3), keypoints=flip_keypoints(batch.keypoints, SIZE[1]))
    one, other = (embedder.features(b)["global"] for b in (batch, mirrored))
    assert torch.allclose(both, torch.nn.functional.normalize(one + other), atol=1e-5)


def test_attention_figure_has_a_column_for_every_map():
    maps = {"attention": np.random.default_rng(0).random((3, 4, 2)), "part 1": np.zeros((3, 4, 2))}
    figure = attention_figure(np.zeros((3, 64, 32, 3), np.uint8), maps)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image", "attention", "part 1"] + [""] * 6
    assert [len(axes.images) for axes in figure.axes[:3]] == [1, 2, 2]
    assert np.array_equal(figure.axes[4].images[1].get_array(), maps["attention"][1])


# Recipes and the command line


def test_recipes():
    assert set(packaged_recipes("spot")) >= {"sysu_mm01", "regdb", "llcm", "synthetic"}
    for data in ("sysu_mm01", "regdb", "llcm", "synthetic"):
        recipe = load_recipe(packaged_recipe("spot", data))
        agw = load_recipe(packaged_recipe("agw", data))
        assert recipe.data == agw.data
        assert recipe.sampling == agw.sampling
        assert recipe.epochs == agw.epochs


def test_run_from_the_command_line(method_run):
    out, said = method_run("spot")
    assert "32 of 64 images have no keypoints" in said
    columns = (out / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"id_fusion", "triplet_parts", "statistics/mask_cosine"} <= set(columns)
