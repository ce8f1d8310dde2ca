"""MSCLNet: the card's numbers, shapes and gradient routes, independence of test features, one tiny training."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from batches import make_batch
from command_runs import TWO_STRIPES
from vireid.errors import InputError
from vireid.losses import (
    cascaded_aggregation,
    diversity,
    global_guidance,
    local_guidance,
    modality_identity,
    softmax_divergence,
)
from vireid.losses.cascade import keyed_aggregation
from vireid.methods import build
from vireid.methods.msclnet import FusionOptions, SynergyFusion, cross_modal_pairs
from vireid.nn import AveragePool, MogrifierLSTMCell, mogrify, pool_stripes
from vireid.recipe import load_recipe, packaged_recipe, packaged_recipes
from vireid.records import Batch
from vireid.training.optim import lr_factor

RESNET18 = {"name": "resnet18", "weights": "none"}
NAMES = ("div", "id_hat", "local_guidance", "global_guidance", "sub", "intra", "inter")
TOY = torch.tensor([[0.0, 0], [2, 0], [1, 3], [5, 5], [5, 7], [7, 6]])
TOY_PIDS, TOY_SUB = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 2, 2, 3])


def only(*names):
    return dict.fromkeys(set(NAMES) - set(names), 0)


def tiny(**options):
    torch.manual_seed(0)
    return build("msclnet", num_classes=3, backbone=RESNET18, **{**TWO_STRIPES, **options})


BATCH = make_batch([0, 1, 0, 0, 1, 1, 0, 2], [0, 1, 1, 0, 0, 1, 1, 0], camid=[1, 3, 6, 2, 1, 3, 3, 4])


def loss_of(terms):
    return torch.stack(list(terms.values())).sum()


def gradient_sizes(module, terms, *prefixes):
    """Largest absolute gradient under each prefix, 0 where there is none."""
    module.zero_grad(set_to_none=True)
    loss_of(terms).backward()
    named = list(module.named_parameters())
    assert all(p.grad.isfinite().all() for _, p in named if p.grad is not None)
    sizes = [[p.grad.abs().max().item() for n, p in named if n.startswith(x) and p.grad is not None] for x in prefixes]
    return [max(own, default=0.0) for own in sizes]


def at_angle(cos):
    return torch.tensor([[[1.0, 0]]]), torch.tensor([[[cos, math.sqrt(1 - cos * cos)]]])


@pytest.mark.parametrize(
    ("cos", "printed", "corrected"),
    [
        (-1, 1, 4),
        (0, 1.414214, 2.414214),
        (0.25, 1.474745, 1.974745),
        (0.5, 1.5, 1.5),
        (0.75, 1.457107, 0.957107),
        (1, 1, 0),
    ],
)
def test_local_guidance_of_one_part(cos, printed, corrected):
    assert local_guidance(*at_angle(cos)).item() == pytest.approx(corrected, abs=2e-6)
    assert local_guidance(*at_angle(cos), "printed").item() == pytest.approx(printed, abs=2e-6)


@pytest.mark.parametrize(("cos", "slope"), [(0.25, 0.183503), (0.75, -0.414214)])
def test_slope_of_the_printed_local_guidance(cos, slope):
    angle = torch.tensor(math.acos(cos), requires_grad=True)
    part = torch.stack([angle.cos(), angle.sin()])[None, None]
    local_guidance(torch.tensor([[[1.0, 0]]]), part, "printed").backward()
    assert angle.grad.item() / -math.sin(math.acos(cos)) == pytest.approx(slope, abs=1e-5)


def test_local_guidance_sums_parts_and_averages_pairs():
    v, s = torch.tensor([[[1.0, 0], [0, 1]]]), torch.tensor([[[1.0, 1], [0, 1]]])
    for form, value in (("printed", 2.472474), ("corrected", 1.058260)):
        assert local_guidance(v, s, form).item() == pytest.approx(value, abs=2e-6)
        assert local_guidance(v.repeat(3, 1, 1), s.repeat(3, 1, 1), form).item() == pytest.approx(value, abs=2e-6)
    parts = torch.randn(4, 6, 9, requires_grad=True)
    same = local_guidance(parts.detach(), parts)
    same.backward()
    assert 0 <= same.item() <= 1e-5
    assert parts.grad.isfinite().all()


def literal_cascade(z, pids, subclasses, inter):
    """The three losses as printed, image by image."""
    z, n = z.double(), len(z)
    center = {int(p): z[pids == p].mean(0) for p in pids}
    sub = {int(s): z[subclasses == s].mean(0) for s in subclasses}
    own = [{int(s) for s in subclasses[pids == p]} for p in pids]
    l_sub = sum((z[i] - sub[int(subclasses[i])]).square().sum() for i in range(n)) / n
    l_intra = sum((sub[s] - center[int(pids[i])]).square().sum() for i in range(n) for s in own[i]) / n
    if inter == "printed":
        pairs = [(center[int(pids[i])], center[int(pids[j])]) for i in range(n) for j in range(n) if i != j]
        count = math.comb(n, 2)
    else:
        pairs = list(itertools.combinations(center.values(), 2))
        count = len(pairs)
    return l_sub, l_intra, -sum((a - b).square().sum() for a, b in pairs) / max(1, count)


@pytest.mark.parametrize(("inter", "far"), [("identities", -46.777778), ("printed", -56.133333)])
def test_cascade_toy(inter, far):
    value = cascaded_aggregation(TOY, TOY_PIDS, TOY_SUB, normalized=False, inter=inter)
    assert [v.item() for v in value] == pytest.approx([0.666667, 3.611111, far], abs=1e-4)


def test_cascade_of_single_images():
    z, pids = torch.tensor([[0.0, 0], [1, 0], [0, 2]]), torch.arange(3)
    for inter, far in (("identities", -3.333333), ("printed", -6.666667)):
        value = cascaded_aggregation(z, pids, pids, normalized=False, inter=inter)
        assert [v.item() for v in value] == pytest.approx([0, 0, far], abs=1e-5)


@pytest.mark.parametrize("inter", ["identities", "printed"])
@pytest.mark.parametrize("normalized", [True, False])
@settings(max_examples=15)
@given(
    labels=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12), seed=st.integers(0, 99)
)
def test_cascade_equals_the_literal_sums(labels, seed, normalized, inter):
    pids, cams = torch.tensor(labels).T
    z = torch.randn(len(labels), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    z.requires_grad_()
    subclasses = 10 * pids + cams
    fast = torch.stack(cascaded_aggregation(z, pids, subclasses, normalized, inter))
    slow = literal_cascade(F.normalize(z, dim=1) if normalized else z, pids, subclasses, inter)
    slow = torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in slow])
    assert torch.allclose(fast, slow, atol=1e-9)
    weights = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    gradients = [torch.autograd.grad(total @ weights, z, allow_unused=True)[0] for total in (fast, slow)]
    assert torch.allclose(*gradients, atol=1e-9)


def test_scatter_identity():
    centers = torch.stack([TOY[p == TOY_PIDS].mean(0) for p in TOY_PIDS])
    subs = torch.stack([TOY[s == TOY_SUB].mean(0) for s in TOY_SUB])
    within = 6 * cascaded_aggregation(TOY, TOY_PIDS, TOY_SUB, normalized=False).sub
    between = (subs - centers).square().sum()
    assert (within + between).item() == pytest.approx((TOY - centers).square().sum().item()) == 12.666667


def test_cascade_is_unbounded_unless_normalised():
    for scale, value in ((1, -42.5), (2, -170), (10, -4250)):
        raw = cascaded_aggregation(scale * TOY, TOY_PIDS, TOY_SUB, normalized=False)
        assert sum(raw).item() == pytest.approx(value, rel=1e-5)
        bounded = cascaded_aggregation(scale * TOY, TOY_PIDS, TOY_SUB)
        assert torch.allclose(torch.stack(bounded), torch.stack(cascaded_aggregation(TOY, TOY_PIDS, TOY_SUB)))
    opposite = cascaded_aggregation(torch.tensor([[3.0, 0], [-5, 0]]), torch.arange(2), torch.arange(2))
    assert opposite.inter.item() == pytest.approx(-4)


def test_degenerate_cascades():
    toy = TOY.clone().requires_grad_()
    one_sub = cascaded_aggregation(toy, TOY_PIDS, TOY_PIDS)
    sum(one_sub).backward()
    assert one_sub.intra.item() == 0
    assert toy.grad.isfinite().all()
    same = torch.ones(6, 4, requires_grad=True)
    value = cascaded_aggregation(same, TOY_PIDS, TOY_SUB)
    sum(value).backward()
    assert [v.item() for v in value] == pytest.approx([0, 0, 0], abs=1e-6)
    assert same.grad.isfinite().all()


def test_equal_keys_are_a_sub_class_and_negative_ones_are_left_out():
    keys = torch.stack([TOY_PIDS, 7 - TOY_SUB], dim=1)
    filled = F.pad(TOY, (0, 0, 0, 2), value=5.0), F.pad(keys, (0, 0, 0, 2), value=-1)
    expected = torch.stack(cascaded_aggregation(TOY, TOY_PIDS, TOY_SUB))
    for rows in ((TOY, keys), filled):
        assert torch.allclose(torch.stack(keyed_aggregation(*rows)), expected)


@pytest.mark.parametrize(
    ("x", "y", "form", "value", "capped"),
    [
        ([1.0, 0], [0.0, 1], "kl", 0.462117, 0.462117),
        ([1.0, 0], [0.0, 1], "js", 0.110944, 0.110944),
        ([5.0, 0, 0], [0.0, 5, 0], "kl", 4.900275, 2),
        ([3.0, 1], [3.0, 1], "kl", 0, 0),
        ([3.0, 1], [3.0, 1], "js", 0, 0),
    ],
)
def test_diversity(x, y, form, value, capped):
    x, y = torch.tensor([x], requires_grad=True), torch.tensor([y])
    divergence = softmax_divergence(x, y, form)
    assert divergence.item() == pytest.approx(value, abs=1e-5)
    assert diversity(divergence, None).item() == pytest.approx(-value, abs=1e-5)
    loss = diversity(divergence)
    loss.backward()
    assert loss.item() == pytest.approx(-capped, abs=1e-5)
    assert (x.grad.abs().max() > 1e-3) == (0 < value < 2)


def test_identity_of_each_modality():
    logits, pids = torch.tensor([[2.0, 0], [0, 0]]), torch.tensor([0, 0])
    assert modality_identity(logits, pids, torch.tensor([0, 1])).item() == pytest.approx(0.820075, abs=1e-6)
    unequal = modality_identity(logits[[1, 0, 0]], pids[[0, 0, 0]], torch.tensor([1, 0, 0]))
    assert unequal.item() == pytest.approx(0.820075, abs=1e-6)
    assert modality_identity(logits[1:], pids[1:], torch.tensor([1])).item() == pytest.approx(math.log(2))


def test_global_guidance():
    f_s = torch.tensor([[1.0, 0], [3, 0], [0, 1], [0, 3]])
    f_r = torch.tensor([[1.0, 1], [1, 1], [0, 0], [0, 2]])
    pids = torch.tensor([0, 0, 1, 1])
    assert global_guidance(f_s, pids, f_r, pids, normalized=False).item() == pytest.approx(1.5)
    other = torch.tensor([1, 2, 0, 0, 1])
    more = torch.cat([f_r[3:], f_r.new_ones(1, 2), f_r[:3]])
    assert global_guidance(f_s, pids, more, other, normalized=False).item() == pytest.approx(1.5)
    normalised = ((1 - math.sqrt(0.5)) ** 2 + 0.5) / 2
    assert global_guidance(9 * f_s, pids, f_r, pids).item() == pytest.approx(normalised)


def test_mogrifier_rounds():
    x, h = torch.tensor([[1.0, 2]]), torch.tensor([[0.5, -0.5]])
    gates = [lambda v: v, lambda v: v.flip(1), lambda v: -v]
    expected = [
        ([1.244919, 1.510163], [0.5, -0.5]),
        ([1.244919, 1.510163], [0.819085, -0.776419]),
        ([0.761785, 2.068645], [0.819085, -0.776419]),
    ]
    for rounds, (want_x, want_h) in enumerate(expected, start=1):
        got_x, got_h = mogrify(x, h, gates[:rounds])
        assert got_x[0].tolist() == pytest.approx(want_x, abs=1e-5)
        assert got_h[0].tolist() == pytest.approx(want_h, abs=1e-5)
    same = mogrify(x, h, [torch.zeros_like] * 6)
    assert all(torch.equal(a, b) for a, b in zip(same, (x, h), strict=True))


@pytest.mark.parametrize(
    ("rounds", "rank", "expected"),
    [(2, None, (0.403441, 0.873591)), (2, 1, (0.403441, 0.873591)), (0, None, (0.368932, 0.786208))],
)
def test_mogrifier_lstm_step(rounds, rank, expected):
    cell = MogrifierLSTMCell(1, 1, rounds, rank)
    with torch.no_grad():
        cell.cell.weight_ih.copy_(torch.tensor([[1.0], [0], [1], [0.5]]))
        cell.cell.weight_hh.copy_(torch.tensor([[0.0], [1], [1], [-0.5]]))
        assert (cell.cell.bias_ih + cell.cell.bias_hh)[1].item() == 1
        cell.cell.bias_ih.zero_()
        cell.cell.bias_hh.zero_()
        for gate, value in zip(cell.gates, (1.0, 0.5), strict=False):
            for factor, weight in zip(gate if rank else [gate], (value, 1.0), strict=False):
                factor.weight.fill_(weight)
        h, c = cell(torch.tensor([[1.0]]), (torch.tensor([[0.5]]), torch.tensor([[0.2]])))
    assert (h.item(), c.item()) == pytest.approx(expected, abs=1e-5)


def test_mogrifier_without_rounds_is_an_lstm_cell():
    torch.manual_seed(0)
    cell, x, h, c = MogrifierLSTMCell(3, 4, rounds=0), torch.randn(5, 3), torch.randn(5, 4), torch.randn(5, 4)
    assert all(torch.equal(a, b) for a, b in zip(cell(x, (h, c)), cell.cell(x, (h, c)), strict=True))
    uneven = MogrifierLSTMCell(3, 4, rounds=4, rank=2)(x, (h, c))
    assert [v.shape for v in uneven] == [(5, 4), (5, 4)]


def literal_fusion(fusion, wiring, visible, infrared):
    """One pair and one part at a time."""
    rows = []
    for pair in zip(visible, infrared, strict=True):
        h_v = h_r = c = torch.zeros(1, 8)
        parts = []
        for b_v, b_r in zip(*pair, strict=True):
            x_v, x_r = fusion.project[0](b_v[None]), fusion.project[1](b_r[None])
            if wiring == "pair":
                h, c = fusion.cells[0](x_v, (x_r, c))
                parts.append(fusion.out(h))
                continue
            before = (h_v, h_r) if wiring == "dual" else (h_r, h_v)
            h_v, c_v = fusion.cells[0](x_v, (before[0], c))
            h_r, c_r = fusion.cells[1](x_r, (before[1], c))
            c = 0.5 * (c_v + c_r)
            parts.append(fusion.out(torch.cat([h_v, h_r], dim=1)))
        rows.append(torch.cat(parts))
    return torch.stack(rows)


@pytest.mark.parametrize("wiring", ["dual", "cross", "pair"])
def test_fusion_wirings(wiring):
    torch.manual_seed(0)
    fusion = SynergyFusion(5, FusionOptions(wiring=wiring, width=8, rank=None))
    visible, infrared = torch.randn(2, 3, 4, 5)
    fused = fusion(visible, infrared)
    assert fused.shape == (3, 4, 5)
    assert torch.allclose(fused, literal_fusion(fusion, wiring, visible, infrared), atol=1e-6)
    assert not torch.allclose(fused, fusion(infrared, visible), atol=1e-4)


def test_instance_norm_facts():
    model = tiny(instance_norm="separate", stripes=6)
    maps = torch.rand(3, 512, 12, 5, generator=torch.Generator().manual_seed(0))
    modality = torch.tensor([0, 1, 0])
    for m, norm in enumerate(model.norms):
        nn.init.constant_(norm.weight, 2.0 + m)
        nn.init.constant_(norm.bias, 0.5 + m)
    _, parts = model.hat(maps, modality)
    assert torch.allclose(parts.mean(1), (0.5 + modality.float())[:, None].expand(-1, 512), atol=1e-5)
    assert torch.allclose(parts, pool_stripes(maps_hat(maps, modality), 6, AveragePool()), atol=1e-4)
    faint = 1e-3 * maps
    assert torch.allclose(tiny().hat(faint, modality)[0], tiny(instance_eps=1e-1).hat(1e-1 * maps, modality)[0])
    one_deep = torch.tensor([1.0, 1, 1, -3]).view(1, 1, 2, 2).expand(1, 512, 2, 2)
    pooled, parts = tiny().hat(one_deep, torch.tensor([0]))
    assert pooled[0].tolist() == pytest.approx([0.524566] * 512, abs=1e-5)  # -1.732 is clamped before it is pooled
    assert parts[0, :, 0].tolist() == pytest.approx([0.577349, -0.577349], abs=1e-5)


def maps_hat(maps, modality):
    """Eq. 1 with a scale of 2 + m and a shift of 0.5 + m."""
    centred = maps - maps.mean((2, 3), keepdim=True)
    unit = centred / (centred.square().mean((2, 3), keepdim=True) + 1e-5).sqrt()
    m = modality.view(-1, 1, 1, 1)
    return unit * (2 + m) + 0.5 + m


def test_pairs_by_hand():
    pids, modality = torch.tensor([5, 9, 5, 5, 9, 7, 5]), torch.tensor([0, 1, 1, 0, 0, 0, 0])
    visible, infrared = cross_modal_pairs(pids, modality)
    assert visible.tolist() == [0, 3, 6, 4]
    assert infrared.tolist() == [2, 2, 2, 1]


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), max_size=12))
def test_pairs_join_identities_across_modalities(rows):
    pids, modality = torch.tensor(rows, dtype=torch.int64).view(-1, 2).T
    visible, infrared = cross_modal_pairs(pids, modality)
    assert torch.equal(pids[visible], pids[infrared])
    assert (modality[visible] == 0).all()
    assert (modality[infrared] == 1).all()
    for pid in pids.unique():
        own = [((pids == pid) & (modality == m)).sum().item() for m in (0, 1)]
        used = visible[pids[visible] == pid], infrared[pids[infrared] == pid]
        assert len(used[0]) == (max(own) if min(own) else 0)
        assert all(len(side.unique()) == (count if min(own) else 0) for side, count in zip(used, own, strict=True))


def test_published_size_and_shapes(monkeypatch):
    backbone = {"name": "resnet50", "weights": "none"}
    method = build("msclnet", num_classes=395, backbone=backbone, share="none", non_local=False)

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(method.network) == 47_016_064 == 2 * 23_508_032
    assert count(method.fusion) == 9_060_352
    assert count(method.fusion.cells[0].gates[0]) == 66_048
    assert count(method.fusion.cells[0].cell) == 2_101_248
    assert count(method.fusion.project[0]) == 1_049_088
    assert count(method.fusion.out) == 2_099_200
    assert count(MogrifierLSTMCell(2048, 2048, 5, None)) == 33_570_816 + 20_981_760
    method.eval()
    with torch.no_grad():
        assert method.network(torch.rand(1, 3, 288, 144), torch.tensor([1])).shape == (1, 2048, 18, 9)
        features = method.features(torch.rand(2, 3, 96, 32), torch.tensor([0, 1]))["global"]
        assert features.shape == (2, 2048)
        assert torch.allclose(features.norm(dim=1), torch.ones(2), atol=1e-5)
        pid, modality = torch.arange(8).repeat_interleave(4).repeat(2), torch.arange(2).repeat_interleave(32)
        _, parts = method.hat(torch.rand(64, 2048, 6, 2), modality)
        visible, infrared = cross_modal_pairs(pid, modality)
        fused = method.fusion(parts[visible], parts[infrared])
    assert parts[visible].shape == fused.shape == (32, 6, 2048)
    seen = []
    monkeypatch.setattr(
        "vireid.losses.cascade.cascaded_aggregation",
        lambda z, *rest: seen.append((z, *rest)) or cascaded_aggregation(z, *rest),
    )
    batch = Batch(torch.empty(64), modality, pid, modality, modality)
    method._cascade(torch.rand(64, 2048), fused.mean(1), (visible, infrared), batch)
    assert seen[0][0].shape == (96, 2048)


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({}, [(0, 0, 1, 1), (0, 0, 2, 2), (0, 1, 3, 3), (0, 2, 1, 3), (0, 2, 2, 3)]),
        ({"ca_key": "visible"}, [(0, 0, 1, 1), (0, 0, 2, 2), (0, 1, 3, 3), (0, 0, 1, 1), (0, 0, 2, 2)]),
        ({"ca_on": "synergy"}, [(0, 2, 1, 3), (0, 2, 2, 3)]),
        ({"ca_on": "real"}, [(0, 0, 1, 1), (0, 0, 2, 2), (0, 1, 3, 3)]),
    ],
)
def test_what_is_aggregated_by_which_key(changes, keys, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "vireid.losses.cascade.cascaded_aggregation",
        lambda *a: seen.append(a) or cascaded_aggregation(*a),
    )
    tiny(weights=only("sub"), **changes).losses(make_batch([0, 0, 0], [0, 0, 1], camid=[1, 2, 3]))
    _, pids, subclass, normalized, inter = seen[0]
    names = sorted(set(keys))
    assert [names.index(key) for key in keys] == subclass.tolist()
    assert pids.tolist() == [key[0] for key in keys]
    assert (normalized, inter) == (True, "identities")


@pytest.mark.parametrize(
    ("active", "trunk", "norms", "hats", "fusion"),
    [
        (("local_guidance", "global_guidance"), False, False, False, True),
        (("div", "id_hat"), True, True, True, False),
        (("sub", "intra", "inter"), True, True, False, True),
    ],
)
def test_gradient_routes(active, trunk, norms, hats, fusion):
    model = tiny(base=False, weights=only(*active))
    terms = model.losses(BATCH)
    assert set(terms) == set(active)
    sizes = gradient_sizes(model, terms, "network.", "norms.", "hat_heads.", "fusion.", "head.")
    assert [size > 0 for size in sizes] == [trunk, norms, hats, fusion, False]


def test_gradients_reach_both_streams_and_fusion_has_a_limit():
    model = tiny(fusion={"width": 8, "rank": 4, "clip": 3.0}, share="none")
    terms = model.losses(BATCH)
    assert list(terms) == ["id", "triplet", *NAMES]
    sizes = gradient_sizes(model, terms, "network.specific.0", "network.specific.1", "norms.0", "norms.1")
    assert min(sizes) > 0
    groups = model.parameter_groups()
    assert {group.name: group.clip for group in groups} == {"backbone": None, "fusion": 3.0, "head": None}
    assert {id(p) for p in groups[1].params} == {id(p) for p in model.fusion.parameters()}
    assert sum(len(group.params) for group in groups) == len(list(model.parameters()))
    statistics = model.statistics()
    assert 0 < statistics["divergence"].item() < 2
    assert statistics["capped"].item() == 0


def test_weights_scale_their_terms():
    plain, weighted = tiny(), tiny(weights={"div": 1.0, "inter": 0, "local_guidance": 1.6})
    before, after = plain.losses(BATCH), weighted.losses(BATCH)
    assert "inter" not in after
    for name, factor in (("div", 2), ("local_guidance", 2), ("sub", 1), ("id", 1)):
        assert after[name].item() == pytest.approx(factor * before[name].item(), rel=1e-5)


def test_analytic_start_values():
    """Equal logits: L_id = ln C, L_t = 2 ln C; unit vectors bound the rest."""
    model = tiny()
    for module in (model.head.classifier, model.hat_heads[0][1]):
        nn.init.zeros_(module.weight)
    terms = {name: value.item() for name, value in model.losses(BATCH).items()}
    assert terms["id"] == pytest.approx(math.log(3))
    assert terms["id_hat"] == pytest.approx(1.25 * 2 * math.log(3))
    assert -0.5 * 2 <= terms["div"] <= 0
    assert 0 <= terms["local_guidance"] <= 0.8 * 2 * 4
    assert 0 <= terms["global_guidance"] <= 1.5 * 4
    assert -4 <= terms["inter"] <= 0


def test_modalities_alone_and_uneven_rows():
    model = tiny()
    for modality in (0, 1):
        terms = model.losses(make_batch([0, 0, 1, 1], [modality] * 4))
        assert terms["div"].item() == terms["local_guidance"].item() == terms["global_guidance"].item() == 0
        assert gradient_sizes(model, terms, f"network.specific.{modality}")[0] > 0


def test_row_order_does_not_matter():
    model, batch = tiny().eval(), make_batch([0, 0, 1, 1], [0, 1, 0, 1])
    with torch.no_grad():
        before, after = model.losses(batch), model.losses(batch.take(torch.tensor([3, 0, 2, 1])))
    assert all(before[name].item() == pytest.approx(after[name].item(), abs=1e-5) for name in before)


@pytest.mark.parametrize(
    "options",
    [
        {"instance_norm": "shared", "hat_classifier": "separate", "div_on": "logits", "div_form": "js"},
        {"guidance": "printed", "inter": "printed", "ca_normalize": False, "div_cap": None, "center_normalize": False},
        {"share": "none", "specific_until": "none", "fusion": {"wiring": "pair", "width": 8, "clip": None}},
    ],
)
def test_options_train_in_bfloat16(options):
    model = tiny(**options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = model.losses(BATCH)
    assert all(value.isfinite() and value.dtype == torch.float32 for value in terms.values())
    assert min(gradient_sizes(model, terms, "network.", "norms.", "hat_heads.", "fusion.")) > 0


def test_test_features_need_none_of_the_three_parts():
    model = tiny(share="none").eval()
    images, modality = torch.rand(3, 3, 64, 32), torch.tensor([1, 0, 1])
    with torch.no_grad():
        before = model.features(images, modality)["global"]
        for name, parameter in model.named_parameters():
            if name.startswith(model.training_only()):
                parameter.normal_()
        assert torch.equal(model.features(images, modality)["global"], before)
    assert {"fusion.", "norms.", "hat_heads.", "head.classifier."} == set(model.training_only())
    groups = {group.name: group.params for group in model.parameter_groups()}
    assert sum(len(params) for params in groups.values()) == len(list(model.parameters()))
    assert len(groups["backbone"]) == len(list(model.network.parameters()))


@pytest.mark.parametrize("specific_until", ["none", "stem", "layer1"])
def test_full_trunks_start_equal_and_share_nothing(specific_until):
    shared, full = (tiny(specific_until=specific_until, share=share) for share in ("agw", "none"))
    trunk = sum(p.numel() for p in shared.network.shared.parameters())
    stems = sum(p.numel() for p in shared.network.specific.parameters())
    assert sum(p.numel() for p in full.network.parameters()) == stems + 2 * trunk
    with torch.no_grad():
        x, modality = torch.rand(2, 3, 64, 32), torch.tensor([0, 1])
        assert torch.allclose(*(m.eval().network(x, modality) for m in (shared, full)), atol=1e-5)


def test_bad_options():
    with pytest.raises(InputError, match=r"weights.l_div: unknown option"):
        tiny(weights={"l_div": 0})
    with pytest.raises(InputError, match="3 stripes do not divide the 4 rows"):
        tiny(stripes=3).losses(BATCH)


def test_published_schedule():
    recipe = load_recipe(packaged_recipe("msclnet", "sysu_mm01"))
    cold = recipe.schedule.model_copy(update={"warmup_epochs": 0})
    lr = recipe.optimizers["main"].lr
    epochs, rates = [1, 20, 21, 50, 51, 100, 101, 200], [0.1, 0.1, 0.05, 0.05, 0.01, 0.01, 0.001, 0.001]
    assert [lr * lr_factor(cold, e - 1, 200) for e in epochs] == pytest.approx(rates)
    assert [lr * lr_factor(recipe.schedule, e - 1, 200) for e in (1, 10)] == pytest.approx([0.01, 0.1])


def test_packaged_recipes_fit_their_images():
    assert set(packaged_recipes("msclnet")) >= {"sysu_mm01", "regdb", "llcm", "synthetic"}
    for data in packaged_recipes("msclnet"):
        recipe = load_recipe(packaged_recipe("msclnet", data))
        assert recipe.data.image_size[0] // 16 % recipe.options.stripes == 0
