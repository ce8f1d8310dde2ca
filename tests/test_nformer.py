"""NFormer: the card's numbers, the sparse form against a dense oracle, refinement at test, one tiny training."""

import json
import math
import re
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from typer.testing import CliRunner

import vireid
from vireid.bundle import read_card
from vireid.cli import app
from vireid.data.sequences import Sequences, epoch_sequences, steps_per_epoch
from vireid.errors import InputError
from vireid.evaluation import rank_features
from vireid.evaluation.insertion import insert_queries
from vireid.evaluation.refine import Refinement, RefineOptions, rerank_top
from vireid.evaluation.tables import describe_stamp
from vireid.losses import CenterLoss, batch_hard_triplet, blockwise_batch_hard_triplet
from vireid.methods import build
from vireid.methods.nformer import AttentionOptions, NeighborTransformer, NFormerOptions, identity_losses
from vireid.nn.neighbor_graph import (
    ModalityMean,
    draw_landmarks,
    gather_neighbors,
    landmark_factors,
    mutual,
    neighbor_lists,
    reciprocal_weights,
)
from vireid.recipe import ProjectionTraining, load_recipe, packaged_recipe, packaged_recipes
from vireid.records import Batch
from vireid.training import open_records
from vireid.training.checkpoint import latest_checkpoint
from vireid.training.optim import lr_factor
from vireid.training.projection import train_projection

PER_MODALITY = {"neighbor_mode": "per_modality", "same_neighbors": 4, "cross_neighbors": 3}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


def transformer(dim=12, layers=2, heads=2, landmarks=3, neighbors=7, spread=0.3, **options):
    """A small float64 transformer with weights wide enough for attention to matter, biases included."""
    torch.manual_seed(0)
    options = AttentionOptions(**{"dropout": 0.0, **options})
    module = NeighborTransformer(dim, layers, heads, landmarks, neighbors, options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.0, spread)
    if module.center is not None:
        torch.nn.init.normal_(module.center.mean)
    return module.eval()


def dense_lists(similarity, k, modality, options):
    """T(i) as an (N, N) 0/1 matrix, row by row."""
    n = len(similarity)
    listed = torch.zeros(n, n, dtype=torch.bool)

    def best(i, candidates, count):
        return sorted(candidates, key=lambda j: (-similarity[i, j].item(), j))[:count]

    for i in range(n):
        if options.neighbor_mode == "joint":
            own, others = best(i, range(n), k), []
        else:
            own = best(i, [j for j in range(n) if modality[j] == modality[i]], options.same_neighbors)
            others = best(i, [j for j in range(n) if modality[j] != modality[i]], options.cross_neighbors)
        own = own if i in own else [*own[:-1], i]
        listed[i, own + others] = True
    return listed


def dense(module, x, landmarks, modality):
    """The published form: N x N similarities, masks and softmax in every head and layer."""
    options, heads, dim = module.options, module.blocks[0].heads, x.shape[1]
    unit = x.detach().clone()
    if options.graph_centering:
        unit -= module.center.mean[modality]
    unit = unit / unit.norm(dim=1, keepdim=True)
    listed = dense_lists(unit @ unit.T, module.neighbors, modality, options)
    root = math.sqrt(dim if options.scale == "full" else dim // heads)
    for block, chosen in zip(module.blocks, landmarks, strict=True):
        parts = []
        for head in range(heads):
            q, k, v = (block.qkv(x)[:, s * dim :][:, head * dim // heads :][:, : dim // heads] for s in range(3))
            product = q @ k.T
            affinity = product[:, chosen] @ product[chosen, :] / root
            if options.mask_source == "affinity":
                listed = dense_lists(affinity.detach(), module.neighbors, modality, options)
            masked = (options.rns_sign * affinity).masked_fill(~(listed & listed.T), -1e9)
            parts.append(masked.softmax(1) @ v)
        n = F.layer_norm(x + block.out(torch.cat(parts, 1)), (dim,), block.norm1.weight, block.norm1.bias)
        hidden = F.gelu(block.mlp[0](n), approximate="tanh")
        x = F.layer_norm(n + block.mlp[2](hidden), (dim,), block.norm2.weight, block.norm2.bias)
    return x


def test_landmark_factors():
    q = torch.tensor([[1.0, 0], [0, 1], [1, 1], [2, -1]])
    k = torch.tensor([[1.0, 1], [0, 2], [-1, 0], [1, 0]])
    left, right = landmark_factors(q, k, torch.tensor([0, 2]))
    assert left.tolist() == [[1, -1], [1, 0], [2, -1], [1, -2]]
    assert right.tolist() == [[1, 2], [0, 2], [-1, -1], [1, 1]]
    expected = [[-1.0, -2, 0, 0], [1, 0, -1, 1], [0, -2, -1, 1], [-3, -4, 1, -1]]
    assert (left @ right.T).tolist() == expected
    assert torch.equal((q @ k.T)[:, [0, 2]] @ (q @ k.T)[[0, 2]], torch.tensor(expected))


@pytest.mark.parametrize(
    ("k", "lists", "kept"),
    [
        (2, [{0, 1}, {1, 0}, {2, 3}, {3, 2}, {4, 3}], [{0, 1}, {0, 1}, {2, 3}, {2, 3}, {4}]),
        (
            3,
            [{0, 1, 2}, {1, 0, 2}, {2, 3, 1}, {3, 2, 4}, {4, 3, 2}],
            [{0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3, 4}, {3, 4}],
        ),
    ],
)
def test_graph(k, lists, kept):
    x = F.normalize(torch.tensor([[1, 0], [0.9, 0.1], [0.6, 0.8], [0, 1], [-1, 0.2]]), dim=1)
    index = neighbor_lists(x, x, k)
    assert [set(row) for row in index.tolist()] == lists
    assert [set(row[keep].tolist()) for row, keep in zip(index, mutual(index), strict=True)] == kept


@pytest.mark.parametrize(("sign", "first"), [(1, [4.39787, 3.42047]), (-1, [6.60213, 7.57953])])
def test_softmax_sign(sign, first):
    index = torch.tensor([[0, 1], [1, 0], [2, 1], [3, 2]])
    q, k = torch.tensor([[1.0], [2], [0], [-1]]), torch.tensor([[1.0], [0.5], [-1], [2]])
    weights = reciprocal_weights(q, k, index, mutual(index), sign)
    out = gather_neighbors(weights, index, torch.tensor([[1.0], [10], [100], [1000]])).flatten()
    assert out.tolist() == pytest.approx([*first, 100, 1000], rel=1e-5)
    if sign == 1:
        assert weights[0].tolist() == pytest.approx([0.62246, 0.37754], abs=1e-5)


@pytest.mark.parametrize(
    ("n", "neighbors", "options"),
    [
        (1, 7, {}),
        (5, 7, {}),
        (96, 7, {}),
        (96, 7, {"rns_sign": -1, "scale": "full"}),
        (40, 7, {"mask_source": "affinity"}),
        (40, 7, PER_MODALITY),
        (40, 7, {**PER_MODALITY, "graph_centering": True}),
        (40, 7, {**PER_MODALITY, "mask_source": "affinity", "rns_sign": -1}),
        (5, 7, PER_MODALITY),
        (30, 30, {}),
    ],
)
def test_sparse_equals_dense(n, neighbors, options):
    module = transformer(neighbors=neighbors, **options)
    modality, weight = torch.arange(n) % 3 // 2, randn(n, 12, seed=1)
    landmarks = module.draw(modality[None], seeded())[0]
    inputs = [randn(n, 12).requires_grad_() for _ in range(2)]
    results = [module(inputs[0], landmarks, modality), dense(module, inputs[1], landmarks, modality)]
    gradients = []
    for result, x in zip(results, inputs, strict=True):
        gradients.append(torch.autograd.grad((result * weight).sum(), [x, *module.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)
    for sparse, full in zip(*gradients, strict=True):
        torch.testing.assert_close(sparse, full, rtol=1e-9, atol=1e-10)


def test_full_attention_keeps_all():
    graph = transformer(neighbors=50).graph(randn(1, 30, 12), torch.zeros(1, 30))
    assert graph.index.shape == (1, 1, 30, 30)
    assert graph.keep.all()


@pytest.mark.parametrize("blocks", [{"rows": 1, "columns": 1}, {"rows": 7, "columns": 5}, {"rows": 64, "columns": 31}])
@pytest.mark.parametrize("k", [1, 6, 200])
def test_lists_do_not_depend_on_blocks(blocks, k):
    x = torch.randint(-2, 3, (53, 3), generator=seeded()).double()  # many exact ties
    expected = (x @ x.T).argsort(dim=1, descending=True, stable=True)[:, :k]
    lost = ~(expected == torch.arange(53)[:, None]).any(1)
    expected[lost, -1] = torch.arange(53)[lost]
    assert torch.equal(neighbor_lists(x, x, k, **blocks).sort(1).values, expected.sort(1).values)


def test_symmetry_subset_and_self():
    x = F.normalize(randn(60, 8), dim=1)

    def pairs(index):
        table = torch.zeros(len(index), len(index), dtype=torch.bool)
        return table.scatter_(1, index, mutual(index))

    every = pairs(neighbor_lists(x, x, 6))
    some = torch.arange(0, 60, 3)
    assert torch.equal(every, every.T)
    assert every.diagonal().all()
    within = pairs(neighbor_lists(x[some], x[some], 6))
    assert (every[some][:, some] <= within).all()
    assert (every[some][:, some] < within).any()
    same = torch.ones(50, 4)
    assert pairs(neighbor_lists(same, same, 8)).diagonal().all()


def test_invariances():
    module, x = transformer(), randn(40, 12)
    landmarks = module.draw(torch.zeros(1, 40), seeded())[0]
    plain = module(x, landmarks)
    order = torch.randperm(40, generator=seeded(3))
    place = order.argsort()
    torch.testing.assert_close(module(x[order], place[landmarks]), plain[order])
    block = module.blocks[0]
    left, right = landmark_factors(*block.project(x[None])[:2], landmarks[0])
    assert torch.linalg.matrix_rank(left[0, 0] @ right[0, 0].T) == 3
    torch.nn.init.zeros_(block.qkv.bias)
    once, twice = (landmark_factors(*block.project(s * x[None])[:2], landmarks[0]) for s in (1, 2))
    torch.testing.assert_close(twice[0] @ twice[1].mT, 16 * once[0] @ once[1].mT)


def test_negated_queries_change_nothing():
    module, x = transformer(), randn(40, 12)
    plain = module(x)
    with torch.no_grad():
        for block in module.blocks:
            block.qkv.weight[:12] *= -1
            block.qkv.bias[:12] *= -1
    torch.testing.assert_close(module(x), plain)


def test_landmarks_that_are_no_neighbours_get_gradient():
    module = transformer(layers=1, neighbors=1)
    x = randn(20, 12).requires_grad_()
    (gradient,) = torch.autograd.grad(module(x, torch.tensor([[3, 4, 5]]))[0].sum(), x)
    assert gradient.abs().sum(1).nonzero().flatten().tolist() == [0]  # alone in its list, softmax of one
    module = transformer(layers=1, neighbors=2)
    index, keep = module.graph(x[None], torch.zeros(1, 20)).flat(1)
    row = int((keep.sum(1) == 2).nonzero()[0])
    strangers = [i for i in range(20) if i not in index[row].tolist()][:3]
    (gradient,) = torch.autograd.grad(module(x, torch.tensor([strangers]))[row].sum(), x)
    assert (gradient[strangers].abs().sum(1) > 0).all()


def test_modes_and_empty_block():
    module, x = transformer(), randn(2, 30, 12)
    torch.testing.assert_close(module.train()(x), module.eval()(x))
    torch.testing.assert_close(module(x)[1], module(x[1]))
    for name, parameter in module.named_parameters():
        torch.nn.init.ones_(parameter) if "norm" in name and "weight" in name else torch.nn.init.zeros_(parameter)
    module.blocks = module.blocks[:1]
    torch.testing.assert_close(module(x), F.layer_norm(F.layer_norm(x, (12,)), (12,)))


def test_initial_weights():
    blocks = transformer_blocks(init="reference")
    assert torch.equal(blocks[0].qkv.weight, blocks[1].qkv.weight)
    assert not torch.equal(*(block.qkv.weight for block in transformer_blocks(init="independent")))
    plain, mean = (transformer_blocks(init=init)[0] for init in ("independent", "mean"))
    torch.testing.assert_close(mean.qkv.weight - plain.qkv.weight, torch.cat([torch.zeros(16, 8), torch.eye(8)]))
    torch.testing.assert_close(mean.out.weight - plain.out.weight, torch.eye(8))


def transformer_blocks(**options):
    torch.manual_seed(0)
    return NeighborTransformer(8, 2, 2, 3, 4, AttentionOptions(**options)).blocks


def test_losses():
    features, pids = torch.tensor([[0.0], [1], [3], [7]]), torch.tensor([0, 0, 1, 1])
    assert blockwise_batch_hard_triplet(features, pids, 0.3).item() == pytest.approx(0.575)
    center = CenterLoss(2, 1, 0.0005)
    center.centers.data = torch.tensor([[0.5], [4]])
    assert center(features, pids).item() == pytest.approx(0.0005 * 2.625)
    logits = 2 * F.one_hot(pids, 3).float()
    terms = identity_losses(features, logits, pids, NFormerOptions(), center)
    assert {k: v.item() for k, v in terms.items()} == pytest.approx(
        {"id": 0.372878, "triplet": 0.575, "center": 0.0005 * 2.625}, rel=1e-5
    )
    gelu = transformer_blocks()[0].mlp[1]
    assert gelu(torch.tensor([1.0, -0.5])).tolist() == pytest.approx([0.8412, -0.1543], abs=1e-4)


def test_blockwise_triplet_is_the_dense_one():
    pids = torch.randint(0, 9, (70,), generator=seeded())
    pids[0] = 77  # alone: its own positive
    inputs = [randn(70, 5).requires_grad_() for _ in range(2)]
    values = [blockwise_batch_hard_triplet(inputs[0], pids, rows=16), batch_hard_triplet(inputs[1], pids)]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(v, x)[0] for v, x in zip(values, inputs, strict=True)))
    alone = blockwise_batch_hard_triplet(inputs[0], torch.zeros(70))
    assert alone.item() == 0


def test_shapes_and_parameters():
    method = build("nformer", num_classes=11)
    x, logits = method(randn(2, 300, 256, dtype=torch.float32), torch.zeros(2, 300), seeded())
    assert (x.shape, logits.shape) == ((2, 300, 256), (2, 300, 11))
    assert sum(p.numel() for p in method.transformer.blocks[0].parameters()) == 789_760
    assert sum(p.numel() for p in method.transformer.parameters()) == 3_159_040
    assert sum(p.numel() for p in NeighborTransformer(512, 1).parameters()) == 3_152_384
    assert not method.neck.bias.requires_grad
    assert method.projection is None
    with pytest.raises(InputError, match="heads"):
        NeighborTransformer(9, 1, 2)
    with pytest.raises(InputError, match="graph_centering centres cosines"):
        build("nformer", num_classes=2, graph_centering=True, mask_source="affinity")


def test_schedules():
    options = ProjectionTraining()
    rates = [options.lr * lr_factor(options.schedule, epoch - 1, options.epochs) for epoch in (1, 9, 10, 40, 70)]
    assert rates == pytest.approx([3.815e-5, 3.1535e-4, 3.5e-4, 3.5e-5, 3.5e-6])
    for data in ("sysu_mm01", "regdb", "llcm", "market1501"):
        recipe = load_recipe(packaged_recipe("nformer", data))
        assert recipe.optimizers["main"].lr * lr_factor(recipe.schedule, 15, 20) == pytest.approx(1e-5)
        assert recipe.optimizers["main"].weight_decay == 0
        assert recipe.projection == options
    assert set(packaged_recipes("nformer")) == {"sysu_mm01", "regdb", "llcm", "synthetic", "market1501"}


def test_the_projection_s_rate_is_halved_by_steps():
    halving = {"epochs": 2, "lr": 1e-3, "schedule": {"kind": "halving", "halve_every": 2}}
    sampling = {"identities": 2, "visible": 1, "infrared": 1, "steps": 2}
    recipe = load_recipe({"method": "nformer", "projection": halving, "sampling": sampling})
    features, rates = randn(16, 12, dtype=torch.float32), []
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    try:
        train_projection(refiner(project=True, dim=8), features, np.arange(16) // 4, np.arange(16) % 2, recipe)
    finally:
        hook.remove()
    assert rates[::2] == [1e-3, 1e-3, 5e-4, 5e-4]  # the other steps are of the centres


def test_determinism_and_autocast():
    module, x = transformer(), randn(40, 12)
    outputs = [module(x, generator=seeded(s)) for s in (1, 1, 2)]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.allclose(outputs[0], outputs[2])
    assert torch.equal(module(x), module(x, generator=seeded(0)))
    method = build("nformer", num_classes=4, input_dim=16, input_norm="reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = 20 * randn(2, 30, 16, dtype=torch.float32)
        terms = method.losses(batch(features, torch.arange(60).view(2, 30) % 4))
    assert all(value.isfinite() for value in terms.values())


@pytest.mark.parametrize("sampling", ["uniform", "stratified"])
def test_landmark_sampling(sampling):
    modality = torch.stack([torch.arange(20) % 2, (torch.arange(20) < 18).long()])
    drawn = draw_landmarks(5, modality, seeded(), sampling, layers=4)
    assert drawn.shape == (2, 4, 5)
    assert all(len(set(row)) == 5 for row in drawn.flatten(0, 1).tolist())
    if sampling == "uniform":
        assert torch.equal(drawn[0], drawn[1])
    else:
        assert modality[0][drawn[0]].sum(1).tolist() == [2, 3, 2, 3]
        assert modality[1][drawn[1]].sum(1).tolist() == [3, 3, 3, 3]
    assert draw_landmarks(5, modality[:, :3], seeded(), sampling).shape == (2, 1, 3)


@pytest.mark.parametrize("options", [{}, {**PER_MODALITY, "graph_centering": True}, {"neighbors": 50}])
def test_isolated_queries_of_one_layer_are_the_full_run(options):
    module = transformer(layers=1, **options)
    query, gallery = randn(6, 12, seed=5), randn(25, 12, seed=6)
    kinds = torch.arange(6) % 2, torch.arange(25) % 3 % 2
    ((out, refined),) = insert_queries(module, query, gallery, *kinds, [seeded(9)])
    landmarks = module.draw(kinds[1][None], seeded(9))[0]
    torch.testing.assert_close(refined, module(gallery, landmarks, kinds[1]))
    for i in range(6):
        full = module(torch.cat([query[i : i + 1], gallery]), landmarks + 1, torch.cat([kinds[0][i : i + 1], kinds[1]]))
        torch.testing.assert_close(out[i], full[0])


def refiner(**options):
    torch.manual_seed(0)
    joint = {} if "neighbor_mode" in options else {"neighbors": 6}
    settings = {"input_dim": 12, "layers": 2, "dropout": 0.0, "init": "mean", **joint, **options}
    return build("nformer", num_classes=4, **settings).eval()


@pytest.mark.parametrize("options", [{}, {**PER_MODALITY, "landmark_sampling": "stratified"}])
def test_local_over_the_whole_gallery_is_the_full_run(options):
    method = refiner(**options)
    query, gallery = randn(3, 12, dtype=torch.float32), randn(20, 12, seed=1, dtype=torch.float32)
    kinds = torch.ones(3, dtype=torch.int64), torch.arange(20) % 2
    scores = rerank_top(method, query, gallery.expand(3, -1, -1), kinds[0], kinds[1].expand(3, -1))
    for i in range(3):
        tokens = method.tokens(torch.cat([query[i : i + 1], gallery]))
        landmarks = method.transformer.draw(kinds[1][None], seeded(0))[0] + 1
        out = method.output(method.transformer(tokens, landmarks, torch.cat([kinds[0][i : i + 1], kinds[1]])))
        torch.testing.assert_close(scores[i], out[1:] @ out[0])
    options = RefineOptions(mode="local", top=8)
    base = 1 - F.normalize(query, dim=1) @ F.normalize(gallery, dim=1).T
    anew = Refinement(method, options).rerank(base.__getitem__, query, gallery, *kinds)(slice(0, 3))
    order, before = anew.argsort(dim=1), base.argsort(dim=1)
    assert torch.equal(order[:, 8:], before[:, 8:])
    assert torch.equal(order[:, :8].sort(1).values, before[:, :8].sort(1).values)
    best = rerank_top(method, query, gallery[before[:, :8]], kinds[0], kinds[1][before[:, :8]])
    assert torch.equal(order[:, :8], before[:, :8].gather(1, best.argsort(1, descending=True)))
    plain = RefineOptions(blend=0)
    cosines = rerank_top(method, query, gallery[before[:, :8]], kinds[0], kinds[1][before[:, :8]], plain)
    torch.testing.assert_close(cosines, 1 - base.gather(1, before[:, :8]))
    kept = Refinement(method, RefineOptions(mode="local", top=8, blend=0)).rerank(
        base.__getitem__, query, gallery, *kinds
    )
    assert torch.equal(kept(slice(1, 3)).argsort(dim=1), before[1:])


def test_joint_refinement_averages_draws():
    method = refiner()
    query, gallery = randn(3, 12, dtype=torch.float32), randn(20, 12, seed=1, dtype=torch.float32)
    kinds = torch.ones(3, dtype=torch.int64), torch.zeros(20, dtype=torch.int64)
    tokens, modality = method.tokens(torch.cat([query, gallery])), torch.cat(kinds)
    draws = [method.refine(tokens, modality, seeded(seed)) for seed in (4, 5)]
    expected = F.normalize((draws[0] + draws[1]) / 2, dim=1)
    sides = Refinement(method, RefineOptions(draws=2, seed=4)).refine(query, gallery, *kinds)
    torch.testing.assert_close(torch.cat(sides), expected)


def test_isolated_needs_one_graph():
    x, kinds = torch.eye(12), torch.zeros(12, dtype=torch.int64)
    with pytest.raises(InputError, match="mode=joint"):
        Refinement(refiner(mask_source="affinity"), RefineOptions(mode="isolated")).refine(x, x, kinds, kinds)


def test_modality_mean_is_that_of_all_rows_seen():
    module, parts = ModalityMean(3).double(), [randn(2, 4, 3, seed=s) for s in (1, 2)]
    modality = torch.tensor([[0, 0, 1, 0], [0, 1, 1, 0]])
    assert torch.equal(module.eval()(parts[0], modality), parts[0])
    module.train()(parts[0], modality)
    result = module(parts[1], modality)
    rows, kinds = torch.cat(parts).flatten(0, 1), modality.repeat(2, 1).flatten()
    mean = torch.stack([rows[kinds == m].mean(0) for m in (0, 1)])
    torch.testing.assert_close(result, parts[1] - mean[modality])
    torch.testing.assert_close(module.eval()(parts[0], modality), parts[0] - mean[modality])


def is_window(row, groups, tokens, centre):
    """Whether a sequence lies among the first 2 n of each group as seen from a centre."""
    parts = [np.intersect1d(row, group) for group in groups]
    nearest = [group[(tokens[group] @ tokens[centre]).argsort(descending=True)] for group in groups]
    return all(np.isin(part, order[: 2 * len(part)]).all() for part, order in zip(parts, nearest, strict=True))


@pytest.mark.parametrize("by_modality", [False, True])
def test_sequences(by_modality):
    tokens, modality = F.normalize(randn(200, 6), dim=1), np.arange(200) % 4 // 3
    options = Sequences(length=60, by_modality=by_modality)
    batches = epoch_sequences(tokens, modality, options, seed=1, epoch=2)
    assert [b.shape for b in batches] == [(2, 60)] * 3
    assert steps_per_epoch(12_936, Sequences()) == 216
    rows = np.concatenate(batches)
    assert all(len(set(row)) == 60 for row in rows)
    if by_modality:
        assert (modality[rows].sum(1) == 30).all()
    groups = [np.flatnonzero(modality == m) for m in (0, 1)] if by_modality else [np.arange(200)]
    for row in rows[:2]:
        assert any(is_window(row, groups, tokens, centre) for centre in range(200))
    again, other = (epoch_sequences(tokens, modality, options, seed=1, epoch=e) for e in (2, 3))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not np.array_equal(batches[0], other[0])
    ranks = [epoch_sequences(tokens, modality, options, seed=1, epoch=2, rank=r, world_size=2) for r in (0, 1)]
    assert all(np.array_equal(np.concatenate(pair), whole) for *pair, whole in zip(*ranks, batches, strict=True))
    with pytest.raises(InputError, match=r"sequences.per_batch=2 cannot be divided over 3 devices: use a multiple"):
        epoch_sequences(tokens, modality, options, seed=1, epoch=2, world_size=3)
    small = epoch_sequences(tokens[:9], modality[:9], options, seed=0, epoch=0)
    assert small[0].shape == (2, 4)


def batch(features, pid, modality=None):
    zeros = torch.zeros_like(pid)
    return Batch(features, zeros if modality is None else modality, pid, zeros, zeros)


def people(ids, generator, offset):
    """Unit features of `ids` people, three images a modality, modalities apart: (N, 32), modality, pid."""
    centre, parts = torch.randn(ids, 1, 32, generator=generator), []
    for shift in offset:
        own = centre + 0.8 * torch.randn(ids, 1, 32, generator=generator) + shift
        parts.append(own + 1.1 * torch.randn(ids, 3, 32, generator=generator))
    pid = torch.arange(ids).repeat_interleave(3).repeat(2)
    return F.normalize(torch.cat(parts).flatten(0, 1), dim=1), torch.arange(2).repeat_interleave(3 * ids), pid


def score(features, modality, pid, method=None):
    """(mAP, mINP) of infrared queries in the visible gallery."""
    query, gallery = modality == 1, modality == 0
    sides = features[query], features[gallery]
    if method is not None:
        sides = Refinement(method.eval()).refine(*sides, modality[query], modality[gallery])
    labels = pid[query].numpy(), pid[gallery].numpy(), np.zeros(len(sides[0])), np.ones(len(sides[1]))
    result = rank_features(*sides, *labels)
    return np.array([result.mean_ap, result.mean_inp])


@pytest.mark.parametrize(("init", "untrained", "gain"), [("independent", 0.0, 0.02), ("mean", 0.1, 0.15)])
def test_training_raises_map_and_minp_of_unseen_people(init, untrained, gain):
    generator = seeded()
    offset = 0.8 * torch.randn(2, 32, generator=generator)
    (features, modality, pid), unseen = people(300, generator, offset), people(80, generator, offset)
    torch.manual_seed(0)
    options = {**PER_MODALITY, "graph_centering": True, "init": init, "input_dim": 32, "layers": 2}
    method = build("nformer", num_classes=300, **options)
    plain = score(*unseen)
    assert score(*unseen, method)[0] > plain[0] + untrained - 0.03
    head, centers = (group.params for group in method.parameter_groups())
    optimizers = torch.optim.Adam([p for p in head if p.requires_grad], lr=3e-4), torch.optim.SGD(centers, lr=0.5)
    method.train()
    sequences = Sequences(length=400, by_modality=True, steps=25)
    for step, rows in enumerate(epoch_sequences(features, modality.numpy(), sequences, seed=0, epoch=0)):
        torch.manual_seed(step)
        tokens, kinds, pids = (column[torch.from_numpy(rows)] for column in (features, modality, pid))
        for optimizer in optimizers:
            optimizer.zero_grad()
        sum(method.losses(batch(tokens, pids, kinds)).values()).backward()
        for optimizer in optimizers:
            optimizer.step()
    assert (score(*unseen, method) > plain + gain).all()
    assert method.neck.bias.grad is None


@pytest.fixture(scope="module")
def trained(run, manifest, tmp_path_factory):
    """A refiner of the tiny run's features, trained through the command line, with its recipe file."""
    folder = tmp_path_factory.mktemp("nformer")
    recipe = {
        "method": "nformer",
        "epochs": 2,
        "options": {**PER_MODALITY, "project": True, "dim": 16, "layers": 2},
        "data": {"name": "manifest"},
        "projection": {"epochs": 2},
        "sequences": {"pool_views": "train", "length": 20, "by_modality": True, "steps": 2},
        "sampling": {"identities": 4, "visible": 2, "infrared": 2, "steps": 3},
        "optimizers": {"main": {"kind": "adam", "lr": 1e-3}, "centers": {"kind": "sgd", "lr": 0.5, "momentum": 0}},
        "validation": {"every": 1},
        "precision": "32",
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = [
        "train",
        "nformer",
        "--data",
        "manifest",
        "--root",
        str(manifest),
        "--recipe",
        str(folder / "recipe.yaml"),
    ]
    result = CliRunner().invoke(app, [*arguments, "--set", f"encoder={run}", "--out", str(folder / "run")])
    assert result.exit_code == 0, result.output
    assert "encoder alone" in result.output
    return folder / "run"


def evaluate(*arguments, target):
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments), "--json", str(target)])
    assert result.exit_code == 0, result.output or result.exception
    return json.loads(target.read_text())


def test_end_to_end(run, trained, tmp_path):
    card = read_card(trained / "last.safetensors")
    assert card.options["input_dim"] == 1280
    assert (card.encoder, card.epochs) == (vireid.bundle.bundle_digest(run / "last.safetensors"), 2)
    plain = evaluate(run, target=tmp_path / "plain.json")
    assert (plain["refine"], plain["transductive"]) == (None, False)
    joint = evaluate(run, "--refine", trained, target=tmp_path / "joint.json")
    assert joint["refine"] == {"bundle": "last.safetensors", "mode": "joint", "draws": 1, "seed": 0}
    assert joint["transductive"]
    assert joint["refiner_sha256"] == vireid.bundle.bundle_digest(trained / "last.safetensors")
    chosen = evaluate(trained, "--select", "best", target=tmp_path / "best.json")
    assert chosen["refiner_checkpoint"] == read_card(trained / "best.safetensors").selection != "last"
    assert describe_stamp(chosen, "1 trial").endswith(f"checkpoint last, the refiner's {chosen['refiner_checkpoint']}")
    assert joint["results"] == evaluate(trained, target=tmp_path / "run.json")["results"]
    for mode, extra in (("isolated", {}), ("local", {"top": 3, "blend": 1.0})):
        settings = [f"--refine-set={key}={value}" for key, value in {"mode": mode, **extra}.items()]
        result = evaluate(run, "--refine", trained, *settings, target=tmp_path / "mode.json")
        assert not result["transductive"]
        assert result["refine"].items() >= {"mode": mode, **extra}.items()
    reranked = evaluate(trained, "--rerank", "k-reciprocal", target=tmp_path / "rerank.json")
    assert reranked["transductive"]
    report = CliRunner().invoke(app, ["report", str(trained), "--out", str(tmp_path / "report.html")])
    assert report.exit_code == 0, report.exception
    shown = (tmp_path / "report.html").read_text()
    assert f"{100 * joint['results'][0]['mAP']:.1f}" in shown


def test_resumed_run_is_the_uninterrupted_one(trained, tmp_path):
    from vireid.training import resume

    half = tmp_path / "half"
    half.mkdir()
    for name in ("recipe.yaml", "features.safetensors"):
        (half / name).write_bytes((trained / name).read_bytes())
    (half / "checkpoints").mkdir()
    first = min(trained.glob("checkpoints/*.ckpt"))
    (half / "checkpoints" / first.name).write_bytes(first.read_bytes())
    resume(half)
    assert latest_checkpoint(half).name == latest_checkpoint(trained).name
    whole, resumed = (load_file(folder / "last.safetensors") for folder in (trained, half))
    assert whole.keys() == resumed.keys()
    assert not any(name.startswith(("classifier", "center")) for name in whole)
    for name, tensor in whole.items():
        torch.testing.assert_close(tensor, resumed[name], msg=name)


def test_pools(trained, run):
    from vireid.training.refine import FeatureSequences

    recipe = load_recipe(trained / "recipe.yaml")
    assert recipe.encoder == run / "last.safetensors"
    data = FeatureSequences(recipe, open_records(recipe), trained)
    data.setup()
    clean, views = data.images(), [data.views(epoch) for epoch in (1, 1, 2)]
    records = data.records
    expected = vireid.load(run / "last.safetensors").extract(records)["global"]
    torch.testing.assert_close(clean.features, expected)
    assert np.array_equal(clean.modality, records.modality)
    assert np.array_equal(clean.pid, records.pid)  # the label map keeps 0 to 7
    assert [len(pool.pid) for pool in views] == [3 * 4 * 4] * 3
    assert torch.equal(views[0].features, views[1].features)
    assert not torch.equal(views[0].pid, views[2].pid)
    torch.testing.assert_close(views[0].features.norm(dim=1), torch.ones(48))
    changed = FeatureSequences(recipe.model_copy(update={"encoder": run / "best.safetensors"}), data.records, trained)
    with pytest.raises(InputError, match="has changed"):
        changed.setup()
    renumbered = replace(data.records, camid=data.records.camid[::-1])
    with pytest.raises(InputError, match=r"has other training images than .*: restore it or start a new run"):
        FeatureSequences(recipe, renumbered, trained).setup()


def test_an_encoder_may_lie_at_home(run, trained, monkeypatch):
    from vireid.training.refine import resolve_encoder

    monkeypatch.setenv("HOME", str(run.parent))
    recipe = load_recipe(trained / "recipe.yaml").model_copy(update={"encoder": Path("~", run.name)})
    assert resolve_encoder(recipe).encoder == run / "last.safetensors"


def test_mistakes(run, trained, tiny_recipe, tmp_path):
    from vireid.evaluation.command import EvaluateRequest, run_evaluation
    from vireid.training import train

    bundle = trained / "last.safetensors"
    other = tmp_path / "other.safetensors"
    other.write_bytes((run / "best.safetensors").read_bytes())
    root = tiny_recipe["data"]["root"]
    mistakes = {
        "another encoder": EvaluateRequest((other,), data="manifest", root=root, refine=trained),
        "no refiner": EvaluateRequest((run,), refine=run),
        "its encoder's bundle": EvaluateRequest((bundle,), data="manifest", root=root),
        "drop --refine": EvaluateRequest((trained,), refine=trained),
        "write key=value": EvaluateRequest((run,), refine=trained, refine_set=("local",)),
        "mode": EvaluateRequest((run,), refine=trained, refine_set=("mode=global",)),
        "trained on global": EvaluateRequest((run,), refine=trained, feature="pooled"),
        "drop --rerank": EvaluateRequest((run,), refine=trained, refine_set=("mode=local",), roc=True),
        "which one made them": EvaluateRequest(features=other, refine=trained),
    }
    for message, request in mistakes.items():
        with pytest.raises(InputError, match=message):
            run_evaluation(request)
    recipe = {**tiny_recipe, "method": "nformer", "optimizers": {}}
    for message, changes in (("pass --set encoder", {}), ("its encoder's bundle", {"encoder": str(trained)})):
        with pytest.raises(InputError, match=message):
            train(load_recipe({**recipe, **changes}), tmp_path / "never")
    with pytest.raises(InputError, match="refines no features"):
        train(load_recipe({**tiny_recipe, "encoder": str(run)}), tmp_path / "never")


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        sizes = [value.numel() for value in tree_leaves(out) if isinstance(value, torch.Tensor)]
        self.elements = max([self.elements, *sizes])
        return out


@pytest.mark.parametrize("options", [{}, PER_MODALITY])
def test_nothing_n_by_n_is_held(options):
    n = 3000
    method = refiner(input_dim=32, landmarks=4, **options)
    x, kinds, pids = randn(n, 32, dtype=torch.float32), torch.arange(n) % 2, torch.arange(n) % 4
    with Largest() as watch:
        sum(method.train().losses(batch(x[None], pids[None], kinds[None])).values()).backward()
        for mode in ("joint", "isolated"):
            Refinement(method.eval(), RefineOptions(mode=mode)).refine(x[:500], x[500:], kinds[:500], kinds[500:])
    assert 512 * n / 2 <= watch.elements < n * n / 2


def peak_memory():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_twenty_thousand_images_are_refined_within_a_gigabyte():
    """One table of float32 similarities among them has 1.6 GB."""
    method, kinds = build("nformer", num_classes=4, input_dim=256).eval(), torch.arange(20_000) % 2
    x = randn(20_000, 256, dtype=torch.float32)
    with suppress(OSError):  # the peak is counted anew, where that is allowed
        Path("/proc/self/clear_refs").write_text("5")
    before = peak_memory()
    Refinement(method).refine(x[:4000], x[4000:], kinds[:4000], kinds[4000:])
    assert peak_memory() - before < 1e9


def test_local_holds_few_sequences_at_a_time():
    method, kinds = refiner(input_dim=64), (torch.ones(320, dtype=torch.int64), torch.zeros(60, dtype=torch.int64))
    query, gallery = randn(320, 64, dtype=torch.float32), randn(60, 64, seed=1, dtype=torch.float32)
    distances = -(query @ gallery.T).double().numpy()
    refinement = Refinement(method, RefineOptions(mode="local", top=50))
    with Largest() as watch:
        table = refinement.rerank(distances.__getitem__, query, gallery, *kinds)(slice(0, 320))
    assert (table.dtype, table.shape) == (torch.float64, (320, 60))
    assert watch.elements < 320 * 50 * 64 / 2


def test_isolated_draws_share_the_lists_of_the_gallery(monkeypatch):
    module, listed = transformer(**PER_MODALITY), []
    monkeypatch.setattr(module, "lists", lambda *sides: listed.append(1) or NeighborTransformer.lists(module, *sides))
    sides = randn(6, 12, seed=5), randn(25, 12, seed=6), torch.arange(6) % 2, torch.arange(25) % 3 % 2
    both = insert_queries(module, *sides, [seeded(8), seeded(9)])
    assert len(listed) == 1
    (alone,) = insert_queries(module, *sides, [seeded(9)])
    assert all(map(torch.equal, both[1], alone))
    assert not torch.equal(both[0][0], alone[0])
