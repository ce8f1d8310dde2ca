"""CM-LSP-GE: the card's numbers, the network's shapes and gradient routes, the joint distance, one tiny training."""

import json

import pytest
import torch
from typer.testing import CliRunner

from batches import make_batch
from command_runs import command
from vireid.cli import app
from vireid.errors import InputError
from vireid.losses import hetero_center_triplet, mined_triplet, path_distances
from vireid.methods import build
from vireid.methods.cmlspge import CMLSPGEOptions, GlobalEnhancement, part_triplet
from vireid.nn import CBAM, AveragePool, NonLocalBlock, StripeHead
from vireid.recipe import load_recipe, packaged_recipe, packaged_recipes

LITE = {"weights": "none"}
UNIT = torch.eye(8)
V1, T1, V2, T2 = (UNIT[rows] for rows in ([0, 1, 2, 3], [1, 2, 3, 4], [4, 5, 6, 7], [5, 6, 7, 0]))
FOUR = torch.stack([V1, T1, V2, T2])
PIDS, MODALITY = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])


def tiny(**options):
    torch.manual_seed(0)
    return build("cmlspge", num_classes=2, backbone=LITE, **{"stripes": 4, "stripe_dim": 16, **options})


@pytest.fixture(scope="module")
def model():
    return tiny()


def gradients(module, terms, *prefixes):
    """Whether any parameter under each prefix gets a gradient from the sum of terms."""
    module.zero_grad(set_to_none=True)
    torch.stack(list(terms.values())).sum().backward()
    named = dict(module.named_parameters())
    return [any(p.grad is not None for name, p in named.items() if name.startswith(prefix)) for prefix in prefixes]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.0),
        ({"margin_local": 1.0}, 0.5),
        ({"margin_local": 1.0, "mine_by": "global"}, 0.5),
        ({"margin_local": 1.0, "cross_only": True}, 0.5),
        ({"pa_mode": "slice"}, 1.2),
        ({"pa_mode": "slice", "cross_only": True}, 1.2),
        ({"pa_mode": "both", "margin_local": 1.0}, 4.5),
        ({"margin_local": 4.0, "d_reduce": "sum"}, 0.0),
        ({"margin_local": 5.0, "d_reduce": "sum"}, 1.0),
    ],
)
def test_local_triplet(options, expected):
    g = torch.tensor([[0.0, 0], [0, 9], [5, 9], [5, 0]])
    value = part_triplet(FOUR, g, PIDS, MODALITY, CMLSPGEOptions(**options))
    assert value.item() == pytest.approx(expected, abs=1e-5)


def test_local_triplet_sums_as_printed():
    each = part_triplet(FOUR[:, 1:], FOUR[:, 0], PIDS, MODALITY, CMLSPGEOptions(pa_mode="slice"))
    assert 4 * each.item() == pytest.approx(3.6, abs=1e-5)
    rows = [[0.75, 1, 1.75, 1.5], [1, 0.75, 1.5, 1.75], [1.75, 1.5, 0.75, 1], [1.5, 1.75, 1, 0.75]]
    assert torch.allclose(path_distances(FOUR, FOUR), torch.tensor(rows), atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"mine_by": "global"}, {"cross_only": True}, {"pa_mode": "slice"}])
def test_local_triplet_against_a_literal_loop(options):
    generator = torch.Generator().manual_seed(3)
    f, g = torch.rand(7, 3, 5, generator=generator), torch.rand(7, 4, generator=generator)
    pids, modality = torch.tensor([0, 0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 0, 1, 0, 0])
    o = CMLSPGEOptions(stripes=3, margin_local=1.0, **options)
    tables = [path_distances(f, f)] if o.pa_mode == "lsp" else [torch.cdist(s, s) for s in f.unbind(1)]
    mine = torch.cdist(g, g) if o.mine_by == "global" else None
    expected = 0.0
    for table in tables:
        by = table if mine is None else mine
        hinges = []
        for a in range(7):
            others = [b for b in range(7) if (modality[a] != modality[b] if o.cross_only else a != b)]
            positives = [b for b in others if pids[a] == pids[b]]
            negatives = [b for b in others if pids[a] != pids[b]]
            if positives and negatives:
                p, n = max(positives, key=lambda b: by[a, b]), min(negatives, key=lambda b: by[a, b])
                hinges.append(max(0.0, 1.0 + float(table[a, p]) - float(table[a, n])))
        expected += sum(hinges) / len(hinges)
    assert part_triplet(f, g, pids, modality, o).item() == pytest.approx(expected, abs=1e-5)


def test_hetero_center_triplet():
    features = torch.tensor([[0.0], [1], [3], [5]], requires_grad=True)
    assert hetero_center_triplet(features, PIDS, MODALITY, 0.3).item() == pytest.approx(0.075)
    assert hetero_center_triplet(features, PIDS, MODALITY, 0.3, "sum").item() == pytest.approx(0.3)
    spread = torch.tensor([[-1.0], [5], [1], [1], [4], [2]])  # the same centres from unequal counts in another order
    pids, modality = torch.tensor([0, 1, 0, 0, 1, 1]), torch.tensor([0, 1, 0, 1, 0, 0])
    assert hetero_center_triplet(spread, pids, modality, 0.3).item() == pytest.approx(0.075)
    alone = hetero_center_triplet(features, PIDS, torch.zeros(4, dtype=torch.int64))
    alone.backward()
    assert alone.item() == 0
    assert torch.equal(features.grad, torch.zeros(4, 1))


def test_an_anchor_without_positive_or_negative_is_skipped():
    distances = torch.tensor([[1.0, 2], [3, 4]], requires_grad=True)
    positive, negative = torch.tensor([[1, 0], [1, 0]]).bool(), torch.tensor([[0, 1], [0, 0]]).bool()
    value = mined_triplet(distances, positive, negative, 2.0)
    value.backward()
    assert value.item() == 1
    assert distances.grad.tolist() == [[1, -1], [0, 0]]


def test_enhancement_statistics():
    enhance = GlobalEnhancement(2, "bn")
    norm = enhance.norms[0]
    torch.nn.init.ones_(norm.weight)
    e = enhance(torch.tensor([[0.0, 2], [2, 4], [4, 0], [6, 2]]), MODALITY)
    expected = [[-1.34164, 0], [-0.447213, 1.41421], [0.447213, -1.41421], [1.34164, 0]]
    assert torch.allclose(e, torch.tensor(expected), atol=1e-5)
    assert norm.running_mean.tolist() == pytest.approx([0.3, 0.2])
    assert norm.running_var.tolist() == pytest.approx([1.566667, 1.166667])
    assert not norm.bias.requires_grad


@pytest.mark.parametrize("form", ["none", "bn_residual", "bn_fc", "bn_per_modality"])
def test_enhancement_forms(form):
    torch.manual_seed(0)
    g, modality = torch.randn(6, 3), torch.tensor([0, 1, 0, 1, 1, 0])
    enhance = GlobalEnhancement(3, form)

    def norm(x, index=0):
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt() * enhance.norms[index].weight

    if form == "bn_per_modality":
        expected = torch.empty(6, 3)
        for m in (0, 1):
            expected[modality == m] = norm(g[modality == m], m)
    else:
        expected = {
            "none": lambda: g,
            "bn_residual": lambda: g + norm(g),
            "bn_fc": lambda: norm(enhance.linear(g)).relu(),
        }[form]()
    assert torch.allclose(enhance(g, modality), expected, atol=1e-5)


def test_published_size_and_shapes():
    method = build("cmlspge", num_classes=395, backbone={"name": "resnet50", "weights": "none"})

    def count(prefix):
        return sum(p.numel() for name, p in method.named_parameters() if name.startswith(prefix))

    blocks = [m for m in method.modules() if isinstance(m, NonLocalBlock)]
    attention = sum(p.numel() for block in blocks for p in block.parameters())
    assert attention == 28_687
    assert count("network.") - attention == 23_733_376
    assert count("stripes.") == 3_150_336
    assert count("classifiers.stripes.") == 609_090
    assert count("enhance.") == 4_096
    assert count("classifiers.") == 609_090 + 1_617_920
    assert count("") == 29_143_505
    assert count("") - sum(count(prefix) for prefix in method.training_only()) == 26_916_495
    method.eval()
    with torch.no_grad():
        assert method.network(torch.rand(1, 3, 288, 144), torch.tensor([1])).shape == (1, 2048, 18, 9)
        features = method.features(torch.rand(1, 3, 96, 32), torch.tensor([0]))
    assert features["stripes"].shape == (1, 6, 256)
    assert features["global"].shape == (1, method.embedding_dim) == (1, 2048)


def test_stripes_have_their_own_weights_and_rows():
    torch.manual_seed(0)
    head = StripeHead(5, 3, 2, AveragePool()).eval()
    x = torch.rand(4, 5, 6, 2)
    for i, rows in enumerate((x[:, :, :3], x[:, :, 3:])):
        y = rows.mean((2, 3)) @ head.linear.weight[i].T + head.linear.bias[i]
        scale, shift = (p.view(2, 3)[i] for p in (head.norm.weight, head.norm.bias))
        assert torch.allclose(head(x)[:, i], (y / (1 + head.norm.eps) ** 0.5 * scale + shift).relu(), atol=1e-6)
    with pytest.raises(InputError, match=r"5 stripes do not divide the 6 rows .* one of 2, 3, 6,"):
        StripeHead(5, 3, 5, AveragePool())(x)
    assert StripeHead(5, 3, 2, AveragePool()).double()(x.double()).dtype == torch.float64


def test_terms_and_gradient_routes(model):
    batch = make_batch([0, 1, 0, 0, 1, 1, 0], [0, 1, 1, 0, 0, 1, 1])
    terms = model.losses(batch)
    names = ["id_global", "id_enhanced", "triplet_global", "triplet_enhanced", "id_visible", "id_infrared", "part"]
    assert list(terms) == names
    assert all(term.isfinite() for term in terms.values())
    routes = ["classifiers.global", "classifiers.enhanced", "classifiers.stripes", "network.specific.0", "enhance"]
    assert gradients(model, terms, *routes) == [True] * 5
    assert gradients(model, {"part": model.losses(batch)["part"]}, *routes) == [False, False, False, True, False]
    weights = model.stripes.linear.weight.grad
    assert (weights.flatten(1).abs().amax(1) > 0).all()


@pytest.mark.parametrize(
    ("weights", "classifier"),
    [
        ({"id_enhanced": 0}, "classifiers.enhanced"),
        ({"id_global": 0}, "classifiers.global"),
        ({"id_visible": 0, "id_infrared": 0}, "classifiers.stripes"),
    ],
)
def test_a_weight_of_zero_leaves_its_classifier_alone(weights, classifier):
    method = tiny(weights=weights, attention="none")
    terms = method.losses(make_batch([0, 0, 1, 1], [0, 1, 0, 1]))
    assert not set(weights) & set(terms)
    assert gradients(method, terms, classifier) == [False]


def test_local_identity_is_a_sum_over_stripes_of_each_modality():
    method = tiny(first_stripe=2, weights={"id_visible": 2.0})
    batch = make_batch([0, 1, 0, 1, 0], [0, 1, 1, 0, 0])
    terms, (_, _, stripes) = method.losses(batch), method(batch.images, batch.modality)
    logits = method.classifiers["stripes"](stripes)
    for weight, name, rows in ((2, "id_visible", [0, 3, 4]), (1, "id_infrared", [1, 2])):
        each = [torch.nn.functional.cross_entropy(logits[rows, s], batch.pid[rows]) for s in (1, 2, 3)]
        assert terms[name].item() == pytest.approx(weight * sum(each).item(), rel=1e-5)


def test_infrared_alone_leaves_the_visible_stream_alone(model):
    terms = model.losses(make_batch([0, 0, 1, 1], [1, 1, 1, 1]))
    assert terms["id_visible"].item() == 0
    assert gradients(model, terms, "network.specific.0", "network.specific.1") == [False, True]


@pytest.mark.parametrize(
    "options",
    [
        {"attention": "cbam", "pool": "average", "enhance": "none"},
        {"stripe_head": "aligned", "cell": "aligned", "attention": "none", "gem_p": 10, "specific_until": "stem"},
    ],
)
def test_options_train_in_bfloat16(options):
    torch.manual_seed(0)
    method = build("cmlspge", num_classes=2, backbone=LITE, stripes=2, stripe_dim=8, **options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = method.losses(make_batch([0, 0, 1, 1], [0, 1, 0, 1]))
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad.isfinite().all() for p in method.parameters() if p.grad is not None)
    assert sum(isinstance(m, CBAM) for m in method.modules()) == (5 if options["attention"] == "cbam" else 0)
    assert ("id_enhanced" in terms) == ("enhance" not in options)


def stripe_features(rows):
    return {"global": torch.eye(4)[: len(rows)], "stripes": torch.stack(rows)}


def test_distances():
    method = tiny(attention="none")
    query, gallery = stripe_features([V1]), stripe_features([V1, UNIT[[0, 0, 0, 0]], V2])

    def distance(**changes):
        method.options = CMLSPGEOptions(**changes)
        return method.distance(query, gallery)[0].tolist()

    assert distance(test_distance="global") == pytest.approx([0, 2, 2])
    assert distance(test_distance="lsp") == pytest.approx([0.75, 0.75, 1.75])
    assert distance(test_distance="lsp", debias=True) == pytest.approx([0, 0.375, 1.0])
    assert distance() == pytest.approx([0.75, 2.75, 3.75])
    assert distance(lsp_weight=2) == pytest.approx([1.5, 3.5, 5.5])
    assert distance(test_distance="slices") == pytest.approx([0, 0.75, 1])
    assert distance(lsp_topk=9) == pytest.approx([0.75, 2.75, 3.75])
    assert distance(lsp_topk=1) == pytest.approx([0.75, 2 + 2 + 7, 2 + 2 + 7])
    assert method.distance({"global": torch.eye(2)}, {"global": torch.eye(2)}).tolist() == [[0, 2], [2, 0]]


@pytest.mark.parametrize("options", [{}, {"debias": True}, {"test_distance": "lsp"}, {"d_reduce": "sum"}])
def test_topk_ranks_its_k_by_the_path_and_the_rest_by_the_global_distance(options):
    generator = torch.Generator().manual_seed(0)
    method = tiny(attention="none")

    def side(n):
        g = torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1)
        return {"global": g, "stripes": torch.rand(n, 4, 16, generator=generator)}

    query, gallery = side(5), side(20)
    first = (2 - 2 * query["global"] @ gallery["global"].T).argsort(1)
    method.options = CMLSPGEOptions(**options)
    full = method.distance(query, gallery)
    method.options = CMLSPGEOptions(**options, lsp_topk=6)
    order = method.distance(query, gallery).argsort(1)
    assert torch.equal(order[:, :6], first[:, :6].gather(1, full.gather(1, first[:, :6]).argsort(1)))
    assert torch.equal(order[:, 6:], first[:, 6:])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"first_stripe": 7}, "first_stripe=7 is beyond stripes=6"), ({"weights": {"pa": 0}}, "weights.pa: unknown")],
)
def test_bad_options(options, sentence):
    with pytest.raises(InputError, match=sentence):
        build("cmlspge", num_classes=2, backbone=LITE, **options)


def test_packaged_recipes_parse():
    assert set(packaged_recipes("cmlspge")) >= {"sysu_mm01", "regdb", "llcm", "synthetic"}
    for data in packaged_recipes("cmlspge"):
        recipe = load_recipe(packaged_recipe("cmlspge", data))
        assert recipe.data.image_size[0] // 16 % recipe.options.stripes == 0


def test_distances_from_the_command_line(method_run, tmp_path):
    (out, _), scores = method_run("cmlspge"), tmp_path / "scores.json"
    command("evaluate", out, "--json", scores)
    joint = json.loads(scores.read_text())
    changed = ["evaluate", str(out), "--json", str(scores), "--set"]
    command(*changed, "test_distance=global")
    other = json.loads(scores.read_text())
    assert other["mAP"] != joint["mAP"]
    assert [(s["options"], s["distance"]) for s in (joint, other)] == [
        ({}, "method"),
        ({"test_distance": "global"}, "method"),
    ]
    misfit = CliRunner().invoke(app, [*changed, "stripe_dim=8"])
    assert isinstance(misfit.exception, InputError)
    assert "with stripe_dim changed" in str(misfit.exception)
