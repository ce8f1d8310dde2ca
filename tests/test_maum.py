"""MAUM: the worked numbers of its metric, its memories, its two variants, and runs from the command line."""

import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.func import grad, vmap

import vireid
from batches import make_batch
from vireid.bundle import BundleCard, load_bundle, save_bundle
from vireid.errors import InputError
from vireid.losses import MemoryOptions, ProxyMemory, ProxyQueue, UnidirectionalLoss, identity_loss
from vireid.methods import build
from vireid.training import resume

RANDOM = {"name": "resnet18", "weights": "none"}
X = torch.tensor([[1.0, 0]], dtype=torch.float64)
POSITIVE = torch.tensor([[0.8, 0.6], [0.6, 0.8]], dtype=torch.float64)
NEGATIVE = torch.tensor([[0.0, 1], [-0.6, 0.8]], dtype=torch.float64)
SNAPSHOTS = torch.stack([POSITIVE, NEGATIVE], dim=1)
OWN = torch.tensor([0])


def literal(features, labels, snapshots, alpha, delta):
    """The printed double sum, in loops."""
    total = 0.0
    for x, y in zip(F.normalize(features, dim=1), labels.tolist(), strict=True):
        inner = 1.0
        for positive in snapshots:
            for negative in snapshots:
                for c in range(snapshots.shape[1]):
                    if c != y:
                        inner = inner + torch.exp(alpha * (negative[c] @ x - positive[y] @ x + delta))
        total = total + torch.log(inner)
    return total / len(features)


def of_people(visible, infrared):
    return make_batch([*visible, *infrared], [0] * len(visible) + [1] * len(infrared))


def random_case(snapshots=3, classes=5, dim=7, rows=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, dim, dtype=torch.float64, generator=generator)
    labels = torch.randint(classes, (rows,), generator=generator)
    memory = torch.randn(snapshots, classes, dim, dtype=torch.float64, generator=generator)
    return features, labels, F.normalize(memory, dim=2)


@pytest.mark.parametrize(
    ("alpha", "delta", "expected"), [(10, 0.1, 0.0076395353), (10, 0.9, 3.1722178242), (32, 0.1, 1.12722e-7)]
)
def test_metric_values(alpha, delta, expected):
    value = float(UnidirectionalLoss(alpha, delta)(X, OWN, SNAPSHOTS))
    assert value == pytest.approx(expected, rel=1e-5)
    if alpha == 10:
        assert value == pytest.approx(float(literal(X, OWN, SNAPSHOTS, alpha, delta)), rel=1e-12)


@pytest.mark.parametrize(("snapshots", "expected"), [(1, 9.48), (32, 16.59)])
def test_value_at_the_start(snapshots, expected):
    generator = torch.Generator().manual_seed(0)
    features, memory = (torch.randn(*size, 2048, generator=generator) for size in ((64,), (snapshots, 395)))
    value = UnidirectionalLoss(32, 0.1)(features, torch.arange(64), F.normalize(memory, dim=2))
    assert value == pytest.approx(expected, rel=0.02)


def test_gradients_pull_the_farthest_positive_hardest():
    loss = UnidirectionalLoss(10, 0.9)
    positive = torch.tensor([0.8, 0.6], dtype=torch.float64, requires_grad=True)
    negative = torch.tensor([0.0, -0.6], dtype=torch.float64, requires_grad=True)
    z = loss._negative(negative).logsumexp(0) + loss._positive(positive).logsumexp(0)
    F.softplus(z).backward()
    assert float(z.detach()) == pytest.approx(3.1294036962)
    assert float(z.sigmoid().detach()) == pytest.approx(0.9580894555)
    assert positive.grad.tolist() == pytest.approx([-1.142071, -8.438824], abs=1e-6)
    assert float(positive.grad[1] / positive.grad[0]) == pytest.approx(math.e**2)
    assert negative.grad.tolist() == pytest.approx([9.557205, 0.023690], abs=1e-6)
    assert float(negative.grad.sum()) == pytest.approx(9.580895, abs=1e-6)


def test_one_positive_is_am_softmax():
    similarity = torch.tensor([0.7, 0.2, 0.5, -0.1], dtype=torch.float64)
    proxies = torch.stack([similarity, (1 - similarity.square()).sqrt()], dim=1)[None]
    value = float(UnidirectionalLoss(16, 0.25)(X, OWN, proxies))
    logits = torch.tensor([[16 * (0.7 - 0.25), 3.2, 8, -1.6]], dtype=torch.float64)
    assert value == pytest.approx(1.1768093867)
    assert value == pytest.approx(float(F.cross_entropy(logits, OWN)))


@pytest.mark.parametrize(("copies", "shift"), [(2, 1.3862944), (10, 4.6051702), (32, 6.9314718), (100, 9.2103404)])
def test_copies_are_a_margin_unless_counts_are_normalised(copies, shift):
    features, labels, memory = random_case(snapshots=1, rows=1)

    def z(snapshots, **options):
        return float(torch.expm1(UnidirectionalLoss(4, 0.1, **options)(features, labels, snapshots)).log())

    copied = memory.expand(copies, -1, -1)
    assert z(copied) - z(memory) == pytest.approx(shift, abs=1e-6)
    assert z(copied, count_normalized=True) == pytest.approx(z(memory, count_normalized=True), abs=1e-6)
    wider = UnidirectionalLoss(4, 0.1 + 2 * math.log(copies) / 4)
    assert float(wider(features, labels, memory)) == pytest.approx(
        float(UnidirectionalLoss(4, 0.1)(features, labels, copied))
    )


@settings(max_examples=20)
@given(st.integers(1, 4), st.integers(2, 6), st.integers(1, 5), st.integers(0, 9), st.booleans())
def test_both_layouts_equal_brute_force(snapshots, classes, rows, seed, circle):
    features, labels, memory = random_case(snapshots, classes, 7, rows, seed)
    x = features.requires_grad_()
    loss = UnidirectionalLoss(32, 0.1, circle=circle, count_normalized=circle)
    value = loss(x, labels, memory)
    flat = loss.queued(x, labels, memory.flatten(0, 1), torch.arange(classes).repeat(snapshots))
    assert float(value.detach()) == pytest.approx(float(flat.detach()), rel=1e-9)
    found, same = (torch.autograd.grad(v, x, retain_graph=True)[0] for v in (value, flat))
    assert torch.allclose(found, same, rtol=1e-9)
    if not circle:
        expected = literal(x, labels, memory, 32, 0.1)
        assert float(value.detach()) == pytest.approx(float(expected.detach()), rel=1e-9)
        assert torch.allclose(found, torch.autograd.grad(expected, x)[0], rtol=1e-7, atol=1e-9)


def test_circle_weights_are_those_of_circle_loss():
    """One positive 0.7, one negative 0.2, m = 0.25: gamma = 16 times the self-paced weights, by hand."""
    similarity = torch.tensor([0.7, 0.2], dtype=torch.float64)
    proxies = torch.stack([similarity, (1 - similarity.square()).sqrt()], dim=1)[None]
    z = 16 * (0.45 * (0.2 - 0.25)) - 16 * (0.55 * (0.7 - 0.75))
    assert float(UnidirectionalLoss(16, 0.25, circle=True)(X, OWN, proxies)) == pytest.approx(math.log1p(math.exp(z)))


def test_gradient_is_tangent_to_the_sphere():
    f = torch.tensor([[3.0, 4, 0]], dtype=torch.float64, requires_grad=True)
    loss = UnidirectionalLoss(10, 0.1)(f, OWN, torch.eye(3, dtype=torch.float64)[None])
    loss.backward()
    assert loss.item() == pytest.approx(3.0489068535)
    assert f.grad[0].tolist() == pytest.approx([-2.1334933, 1.6001200, 0.0006389], abs=1e-6)
    assert abs(float((f.grad * f).sum().detach())) < 1e-12


def test_metric_degenerates_to_zero_and_never_overflows():
    features, labels, memory = random_case()
    cases = [(features, labels, memory[:0]), (features[:0], labels[:0], memory), (features, labels * 0, memory[:, :1])]
    for f, y, m in cases:
        f = f.clone().requires_grad_()
        rows, classes = m.flatten(0, 1), torch.arange(m.shape[1]).repeat(len(m))
        for value in (UnidirectionalLoss()(f, y, m), UnidirectionalLoss().queued(f, y, rows, classes)):
            value.backward()
            assert value.item() == 0
            assert not f.grad.any()
    poles = torch.tensor([[-1.0, 0], [1, 0]])[None]
    assert torch.isfinite(UnidirectionalLoss(64, 0.1)(X.float(), OWN, poles))
    half = UnidirectionalLoss()(features.bfloat16(), labels, memory.half())
    assert half.dtype == torch.float32
    assert torch.isfinite(half)


def test_queued_rows_without_a_positive_are_left_out():
    features, labels, memory = random_case(classes=3)
    loss, rows = UnidirectionalLoss(4), memory[0]
    alone = loss.queued(features[labels == 1], labels[labels == 1], rows[:2], torch.tensor([1, 0]))
    features = features.requires_grad_()
    both = loss.queued(features, labels.where(labels == 1, 2), rows[:2], torch.tensor([1, 0]))
    both.backward()
    assert both.item() == pytest.approx(alone.item())
    assert torch.isfinite(features.grad).all()
    assert not features.grad[labels != 1].any()


def test_queue_is_first_in_first_out_and_holds_copies():
    queue, weight = ProxyQueue(3, 2, 4), torch.zeros(2, 4)
    for pushes in range(1, 6):
        weight.fill_(pushes)
        queue.push(weight, torch.arange(2))
        assert len(queue) == 2 * min(pushes, 3)
        assert sorted(queue.snapshots()[:, 0, 0].tolist()) == list(range(max(1, pushes - 2), pushes + 1))
    weight.fill_(9)
    assert sorted(queue.snapshots()[:, 1, 3].tolist()) == [3, 4, 5]
    copy = ProxyQueue(3, 2, 4)
    copy.load_state_dict(queue.state_dict())
    assert torch.equal(copy.snapshots(), queue.snapshots())


def test_queue_length_in_vectors():
    options = MemoryOptions(vectors_visible=1000, snapshots_infrared=5)
    assert [options.snapshots(m, 395) for m in vireid.Modality] == [2, 5]
    assert MemoryOptions(vectors_visible=10).snapshots(vireid.Modality.VISIBLE, 395) == 1


def test_diversity_compares_each_class_oldest_and_newest():
    queue, axes = ProxyQueue(2, 2, 3), torch.eye(3)
    assert float(queue.diversity()) == 0
    queue.push(axes[:2], torch.arange(2))
    assert float(queue.diversity()) == 0
    queue.push(axes[[1]], torch.tensor([0]))
    assert float(queue.diversity()) == pytest.approx(0.5)
    queue.push(axes[[2, 2]], torch.tensor([0, 1]))  # row 0 falls out: class 0 holds e2, e3, class 1 holds e2, e3
    assert float(queue.diversity()) == pytest.approx(1)


def memory_term(**options):
    torch.manual_seed(0)
    return ProxyMemory(3, 4, MemoryOptions(**{"stage1_epochs": 1, "snapshots_visible": 2, **options}))


def test_losses_are_one_way():
    term, batch = memory_term(), of_people((0, 1), (1, 2))
    f = torch.randn(4, 4, requires_grad=True)
    assert float(term(f, batch)["visible_to_infrared"]) == 0
    term.on_epoch_start(1)
    term(f, batch)["visible_to_infrared"].backward()
    assert f.grad[:2].abs().min() > 0
    assert not f.grad[2:].any()
    assert all(p.weight.grad is None for p in term.proxies)
    f.grad = None
    term(f, batch)["id_visible"].backward()
    assert not f.grad[2:].any()
    assert term.proxies[0].weight.grad.any()
    assert term.proxies[1].weight.grad is None


def test_rows_are_split_by_modality_in_any_order_and_may_lack_one():
    term, batch = memory_term(stage1_epochs=0), of_people((0, 1, 2), (1,))
    term.on_epoch_start(0)
    f, order = torch.randn(4, 4, requires_grad=True), torch.tensor([3, 1, 0, 2])
    plain, shuffled = term(f, batch), term(f[order], batch.take(order))
    assert all(torch.allclose(plain[name], shuffled[name]) for name in plain)
    alone = term(f[:3], batch.take(torch.arange(3)))
    torch.stack(list(alone.values())).sum().backward()
    assert (float(alone["id_infrared"]), float(alone["infrared_to_visible"])) == (0, 0)
    assert torch.equal(alone["visible_to_infrared"], plain["visible_to_infrared"])
    assert not term.proxies[1].weight.grad.any()


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, [0, 3, 6, 6, 6]), ({"push_every": 2}, [0, 3, 3, 6, 6]), ({"enqueue": "batch"}, [0, 3, 5, 6, 6])],
)
def test_pushes_start_with_stage_two_and_follow_the_step(options, expected):
    term, seen = memory_term(**options), []
    for epoch in (0, 1, 1, 1, 1):
        term.on_epoch_start(epoch)
        terms = term(torch.randn(4, 4), of_people((0, 1), (1, 0)))
        seen.append(len(term.queues[0]))
        assert all(torch.isfinite(value) for value in terms.values())
        with torch.no_grad():
            term.proxies[0].weight.normal_()
        term.after_step()
    assert seen == expected
    newest = F.normalize(term.proxies[0].weight, dim=1)[:2]
    assert all((term.queues[0].rows - row).abs().sum(1).min() < 1e-6 for row in newest)
    assert float(term.statistics()["diversity_visible"]) > 0
    assert float(term.statistics()["diversity_infrared"]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("enqueue", ["all", "batch"])
def test_a_weight_of_zero_keeps_no_memory(enqueue):
    term = memory_term(weight=0.0, stage1_epochs=0, enqueue=enqueue)
    term.on_epoch_start(0)
    assert set(term(torch.randn(4, 4), of_people((0, 1), (1, 2)))) == {"id_visible", "id_infrared"}
    term.after_step()
    assert not any(map(len, term.queues))


def test_proxy_options():
    f, batch = torch.randn(4, 4, requires_grad=True), of_people((0, 1), (1, 2))
    term = memory_term(detach_ms=True, cosine_ce=True, ce_scale=8.0, storage="float16", stage1_epochs=0)
    term.on_epoch_start(0)
    assert term.queues[0].rows.dtype == torch.float16
    terms = term(f, batch)
    cosines = F.normalize(f[:2], dim=1) @ F.normalize(term.proxies[0].weight, dim=1).T
    assert torch.allclose(terms["id_visible"], F.cross_entropy(8 * cosines, batch.pid[:2]))
    assert torch.autograd.grad(terms["id_visible"], f, allow_unused=True)[0] is None


def test_toy_behaviour_pulls_the_modalities_together():
    """3 identities, free vectors; the modalities' cosine after 1500 steps of plain descent, for five seeds at once."""
    labels, metric = torch.arange(3), UnidirectionalLoss(16.0, 0.1)

    def baseline(table):
        visible, infrared, shared, _, _ = table
        return identity_loss(visible, labels, shared, 8.0) + identity_loss(infrared, labels, shared, 8.0)

    def proxies(table):
        visible, infrared, _, own_visible, own_infrared = table
        own = identity_loss(visible, labels, own_visible, 8.0) + identity_loss(infrared, labels, own_infrared, 8.0)
        return baseline(table) + own

    def maum(table, memory):
        across = metric(table[0], labels, memory[1][None]) + metric(table[1], labels, memory[0][None])
        return proxies(table) + across

    def cosine(stage1, stage2):
        tables = [torch.stack(t) for t in zip(*map(toy_start, range(5)), strict=True)]
        first, second = vmap(grad(stage1)), vmap(grad(stage2))
        for step in range(1500):
            memory = [F.normalize(t, dim=-1) for t in tables[3:]]
            slopes = first(tables) if step < 500 else second(tables, memory)
            tables = [t - 0.05 * slope for t, slope in zip(tables, slopes, strict=True)]
        return F.cosine_similarity(*tables[:2], dim=-1).mean(1)

    shared = cosine(baseline, lambda table, _: baseline(table))
    pulled = cosine(proxies, maum)
    assert shared.tolist() == pytest.approx([0.35, 0.08, 0.37, 0.31, 0.04], abs=0.01)
    assert pulled.tolist() == pytest.approx([0.69, 0.74, 0.75, 0.69, 0.57], abs=0.01)


def toy_start(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(3, 8, generator=generator) for _ in range(5)]


def test_parameter_count_and_variants():
    small = {"snapshots_visible": 1, "snapshots_infrared": 1}
    resnet50 = {"name": "resnet50", "weights": "none"}
    maum = build("maum", num_classes=395, backbone=resnet50, memory=small)
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in maum.named_children()}
    assert counts["network"] == 23_508_032 + 9_536
    assert counts["head"] == 4_096
    assert counts["classifiers"] + counts["terms"] == 2_426_880
    part = build("maum", num_classes=395, backbone=resnet50, variant="part", memory=small)
    counts = {name: sum(p.numel() for p in module.parameters()) for name, module in part.named_children()}
    assert counts["head"] == 3_150_336
    assert counts["classifiers"] + counts["terms"] == 1_820_160
    assert part.embedding_dim == 1536


@pytest.mark.parametrize("options", [{}, {"neck": "none", "pool": "gem"}, {"variant": "part", "triplet_weight": 1.0}])
def test_variants_learn_and_search_without_their_proxies(options):
    maum = build("maum", num_classes=2, backbone=RANDOM, memory={"stage1_epochs": 0}, **options)
    maum.on_epoch_start(0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = maum.losses(make_batch(size=(96, 32)))
    assert {"id", "id_visible", "id_infrared", "visible_to_infrared", "infrared_to_visible"} <= set(terms)
    total = torch.stack(list(terms.values())).sum()
    total.backward()
    maum.after_step()
    assert torch.isfinite(total)
    assert all(torch.isfinite(p.grad).all() for p in maum.parameters() if p.grad is not None)
    assert set(maum.statistics()) == {"diversity_visible", "diversity_infrared"}
    maum.eval()
    images, modality = torch.rand(3, 3, 96, 32), torch.tensor([0, 1, 1])
    with torch.no_grad():
        maum.network.specific[1][0][0].weight.add_(0.1)
        before = maum.features(images, modality)["global"]
        swapped = maum.features(images, 1 - modality)["global"]
        del maum.classifiers, maum.terms
        after = maum.features(images, modality)["global"]
    assert before.shape == (3, 6 * 256 if options.get("variant") == "part" else 512)
    assert torch.allclose(before.norm(dim=1), torch.ones(3), atol=1e-5)
    assert torch.equal(before, after)
    assert not torch.allclose(before, swapped, atol=1e-4)


def test_a_bundle_is_opened_without_its_memories(tmp_path, monkeypatch):
    backbone = {"name": "resnet18", "weights": "none"}
    method = build("maum", num_classes=2, backbone=backbone)
    assert set(method.terms) == {"memory0"}
    facts = {"image_size": (64, 32), "mean": method.mean, "std": method.std, "training_data": "none"}
    save_bundle(
        tmp_path / "b.safetensors", method, BundleCard(method="maum", backbone=backbone, num_classes=2, **facts)
    )
    monkeypatch.setattr("vireid.methods.maum.ProxyMemory", None)
    assert not load_bundle(tmp_path / "b.safetensors")[0].terms


def test_stripes_must_divide_the_map():
    maum = build("maum", num_classes=2, backbone=RANDOM, variant="part")
    with pytest.raises(InputError, match=r"6 stripes do not divide the 4 rows .* set options\.stripes"):
        maum.losses(make_batch())


def test_run_from_the_command_line(method_run):
    out, _ = method_run("maum")
    columns = (out / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"id", "id_visible", "visible_to_infrared"} <= set(columns)
    names = load_file(out / "last.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"network", "head"}


def test_memories_survive_a_resume(method_run, tmp_path):
    out, _ = method_run("maum")
    folder = shutil.copytree(out, tmp_path / "run")
    (folder / "checkpoints" / "epoch-0001.ckpt").unlink()
    (folder / "last.safetensors").unlink()
    resume(folder)
    states = [torch.load(f / "checkpoints" / "epoch-0001.ckpt", weights_only=True) for f in (out, folder)]
    first, again = (state["state_dict"] for state in states)
    assert first["method.terms.memory0.queues.0.pushed"] == 8 * (1 + 4)
    assert all(torch.equal(first[name], again[name]) for name in first)
