"""Hi-CMD: the card's numbers, gradient routes, the two phases, warm-ups, runs and the swap grid."""

import math
import shutil

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from command_runs import RUNS, command
from vireid.cli import app
from vireid.errors import InputError
from vireid.losses import cosine_triplet, decision_loss, gradient_penalty
from vireid.methods import build
from vireid.methods.hicmd import kl_loss
from vireid.methods.hicmd_rows import choose_rows, hfl_rows
from vireid.nn.discriminator import MultiScaleDiscriminator
from vireid.nn.disentangled import fuse, mix, split_attribute
from vireid.nn.generator import Decoder, MapNorm, PrototypeEncoder, adaptive_instance_norm
from vireid.recipe import load_recipe, packaged_recipe
from vireid.records import Batch
from vireid.training import resume
from vireid.training.optim import build_optimizers, lr_factor, set_learning_rates

SIZE = (64, 40)
BACKBONE = RUNS["hicmd"]["backbone"]
TINY = {"width": 2, "embedding_dim": 32, "metric_dim": 16}
STILL = {**TINY, "dropout": 0.0, "erasing": 0.0}
PHASES = ("discriminator", "generator")


def make_hicmd(**options):
    torch.manual_seed(0)
    return build("hicmd", num_classes=6, backbone=BACKBONE, **{**STILL, **options})


def make_batch(identities=6, size=SIZE):
    """Return a batch of two pairs; every other identity has one image, by turns visible and infrared."""
    pid, modality = torch.arange(identities).repeat(2), torch.arange(2).repeat_interleave(identities)
    zeros = torch.zeros_like(pid)
    images = torch.randn(len(pid), 3, *size, generator=torch.Generator().manual_seed(1))
    batch = Batch(images, modality, pid, zeros, zeros)
    return batch.take(torch.nonzero((pid < 2) | (pid % 2 == modality))[:, 0])


def gradients(module):
    return sum(p.grad.abs().sum().item() for p in module.parameters() if p.grad is not None)


def test_attribute_layout():
    style, pose, light = split_attribute(torch.arange(2048))
    assert [len(part) for part in (style, pose, light)] == [1024, 512, 512]
    assert sorted(torch.cat([style, pose, light]).tolist()) == list(range(2048))
    assert [part.sum().item() for part in (style, pose, light)] == [916_992, 556_800, 622_336]
    assert pose[[0, 127, 128]].tolist() == [256, 383, 768]
    assert light[[0, 127, 128]].tolist() == [384, 511, 896]


def test_swap_table():
    a, b = torch.arange(16), torch.arange(100, 116)
    assert [set(part.tolist()) for part in split_attribute(a)] == [
        {0, 1, 4, 5, 8, 9, 12, 13},
        {2, 6, 10, 14},
        {3, 7, 11, 15},
    ]
    swapped_a, swapped_b = mix(b, a, a), mix(a, b, b)
    assert swapped_a.tolist() == [100, 101, 2, 3, 104, 105, 6, 7, 108, 109, 10, 11, 112, 113, 14, 15]
    assert mix(b, b, a).tolist() == [100, 101, 102, 3, 104, 105, 106, 7, 108, 109, 110, 11, 112, 113, 114, 15]
    assert torch.equal(mix(swapped_b, swapped_a, swapped_a), a)
    same_style = mix(a, b, b)
    assert torch.equal(mix(same_style, a, a), a)


def count(*modules):
    return sum(p.numel() for module in modules for p in module.parameters())


def test_published_sizes():
    with torch.device("meta"):
        hicmd = build("hicmd", num_classes=206, backbone={"name": "resnet50", "weights": "none", "last_stride": 2})
        images = torch.zeros(2, 3, 256, 128)
        generator = hicmd.generator
        prototype, code = generator.prototype_encoders[0](images), generator.attribute_encoders[0](images)
        maps = hicmd.discriminators[0](images)
        body = hicmd.prototype_network[:-1](prototype)
    assert (prototype.shape[1:], code.shape[1:]) == ((256, 64, 32), (2048,))
    assert body.shape[1:] == (1024, 16, 8)
    assert [m.shape[1:] for m in maps] == [(1, 64, 32), (1, 32, 16), (1, 16, 8)]
    assert count(generator.prototype_encoders[0]) == 1_520_448
    assert count(generator.attribute_encoders[0]) == 23_508_032
    assert count(generator.decoder) == 12_123_011
    assert count(*(mlp for block in generator.decoder.blocks for mlp in (block.weight, block.bias))) == 6_303_744
    assert count(hicmd.discriminators[0]) == 1_025_571
    assert count(hicmd.prototype_network) == 8_317_952
    assert count(hicmd.neck, hicmd.metric, hicmd.classifier) == 6_720_718
    assert count(generator) == 62_179_971


def test_each_chunk_steers_its_own_block():
    decoder = Decoder(8, 64)
    outputs = []
    for block in decoder.blocks:
        block.weight.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    for chunk in range(4):
        outputs.clear()
        code = torch.zeros(1, 64)
        code[:, 16 * chunk : 16 * chunk + 16] = 1
        decoder(torch.randn(1, 8, 6, 6), code)
        assert [bool(output.any()) for output in outputs] == [index == chunk for index in range(4)]


def test_norms():
    x = torch.tensor([1.0, 3.0]).view(1, 1, 1, 2)
    assert adaptive_instance_norm(x, torch.tensor([[2.0]]), torch.tensor([[5.0]])).flatten().tolist() == pytest.approx(
        [3.0, 7.0], abs=1e-4
    )
    norm = MapNorm(1)
    nn.init.ones_(norm.weight)
    y = norm(torch.arange(1.0, 5.0).view(1, 1, 2, 2)).flatten()
    assert y.tolist() == pytest.approx([-1.16189, -0.38730, 0.38730, 1.16189], abs=1e-5)


def test_only_the_encoders_batch_norm_mixes_samples():
    x = torch.randn(3, 3, *SIZE)
    encoder, decoder, discriminator = PrototypeEncoder(2), Decoder(16, 64), MultiScaleDiscriminator(2)
    p, code = encoder(x), torch.randn(3, 64)
    assert torch.allclose(torch.cat([encoder(row[None]) for row in x]), p, atol=1e-5)
    assert decoder(p, code).shape == x.shape
    one_by_one = torch.cat([decoder(p[i : i + 1], code[i : i + 1]) for i in range(3)])
    assert torch.allclose(one_by_one, decoder(p, code), atol=1e-4)
    assert torch.allclose(discriminator(x[1:2])[2], discriminator(x)[2][1:2], atol=1e-6)


@pytest.mark.parametrize("size", [(36, 64), (66, 40)])
def test_sizes_that_do_not_fit(size):
    with pytest.raises(InputError, match=f"images of {size[0]} x {size[1]} do not fit .* set data.image_size"):
        PrototypeEncoder(2)(torch.zeros(1, 3, *size))


def test_adversarial_values():
    fake = [torch.tensor([0.2, 0.4]), torch.tensor([0.0]), torch.tensor([0.5])]
    real = [torch.tensor([0.9, 0.7]), torch.tensor([1.0]), torch.tensor([0.5])]
    assert (decision_loss(fake, 0) + decision_loss(real, 1)).item() == pytest.approx(0.65)
    assert decision_loss(fake, 1).item() == pytest.approx(1.75)
    assert decision_loss([torch.zeros(3)], 1, "bce").item() == pytest.approx(math.log(2))
    images = torch.randn(2, 1, 2, 2, requires_grad=True)
    assert 0.01 * gradient_penalty([3 * images], images).item() == pytest.approx(0.36)


@pytest.mark.parametrize(
    ("decision", "options", "discriminator", "generator"),
    [
        (0.0, {}, 240, 240),
        (0.5, {}, 120, 60),
        (0.0, {"modality_only": False}, 120, 120),
        (0.0, {"adversarial": "bce"}, 480 * math.log(2), 240 * math.log(2)),
        (0.0, {"weights": {"adversarial": 1.0}}, 12, 12),
    ],
)
def test_adversarial_start(decision, options, discriminator, generator):
    hicmd = make_hicmd(**options)
    for d in hicmd.discriminators:
        for patches in d.scales:
            nn.init.zeros_(patches[-1].weight)
            nn.init.constant_(patches[-1].bias, decision)
    batch = make_batch()
    first, second = (hicmd.losses(batch, phase) for phase in PHASES)
    assert set(first) == {"fake", "real", "penalty"}
    assert sum(first.values()).item() == pytest.approx(discriminator, rel=1e-5)
    assert second["adversarial"].item() == pytest.approx(generator, rel=1e-5)


def test_kl():
    code = torch.full((2, 2, 16), 9.0)
    for part in split_attribute(torch.arange(16))[1:]:
        code[0, 0, part] = torch.tensor([1.0, -2.0]).repeat(2)
        code[0, 1, part] = torch.tensor([0.0, 3.0]).repeat(2)
        code[1][:, part] = 0
    assert kl_loss(code).item() == pytest.approx(3.5)


def triplet_oracle(features, pids, anchors, margin=0.5, regularizer=1.0):
    unit = features / features.norm(dim=1, keepdim=True)
    hinges, lows, highs = [], [], []
    for i in anchors:
        similarities = [(unit[i] * unit[j]).sum() for j in range(len(unit))]
        high = min((s for s, pid in zip(similarities, pids, strict=True) if pid == pids[i]), key=torch.Tensor.item)
        low = max((s for s, pid in zip(similarities, pids, strict=True) if pid != pids[i]), key=torch.Tensor.item)
        hinges.append((low + margin - high).clamp(min=0))
        lows.append((1 + low) ** 2)
        highs.append((1 - high) ** 2)
    mean = lambda values: torch.stack(values).mean()  # noqa: E731
    return mean(hinges) + regularizer * (mean(lows) + mean(highs))


def test_cosine_triplet():
    pids = torch.tensor([0, 0, 1, 1])
    pool = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]])
    anchors = torch.tensor([True, False, True, False])
    assert cosine_triplet(pool, pids, anchors).item() == pytest.approx(3.35)
    assert cosine_triplet(pool, pids, anchors, regularizer=0.0).item() == pytest.approx(0.65)
    assert cosine_triplet(torch.eye(4), pids, torch.ones(4, dtype=torch.bool)).item() == pytest.approx(2.5)
    assert cosine_triplet(pool, torch.zeros(4), anchors).item() == 0
    features = torch.randn(12, 5, dtype=torch.float64, requires_grad=True)
    pids = torch.arange(12) % 4
    losses = [
        cosine_triplet(features, pids, torch.arange(12) < 5),
        triplet_oracle(features, pids, range(5)),
    ]
    fast, slow = (torch.autograd.grad(loss, features)[0] for loss in losses)
    assert losses[0].item() == pytest.approx(losses[1].item())
    assert torch.allclose(fast, slow)


@pytest.mark.parametrize(
    ("alpha", "expected"),
    [
        (0.5, [0.3, 0.4, 0.0, 0.192308, 0.461538]),
        (0.7, [0.42, 0.56, 0.0, 0.115385, 0.276923]),
        (1.3, [0.6, 0.8, 0.0, 0.0, 0.0]),
    ],
)
def test_fusion(alpha, expected):
    weight = torch.tensor(alpha, requires_grad=True)
    f0 = fuse(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 5.0, 12.0]]), weight)
    assert f0[0].tolist() == pytest.approx(expected, abs=1e-6)
    if alpha == 0.5:
        assert f0.norm().item() == pytest.approx(0.707107)
    f0.sum().backward()
    assert (weight.grad == 0) == (alpha > 1)
    assert fuse(torch.zeros(1, 2), torch.zeros(1, 3), weight).isfinite().all()


def test_hfl_rows():
    pid, negatives = torch.tensor([[5, 6], [7, 8]]), torch.tensor([1, 2, 3, 4])
    rows = hfl_rows(pid, negatives)
    assert rows.pid.tolist() == [5, 6, 7, 8, 7, 8, 5, 6, 1, 2, 3, 4, 5, 6, 7, 8, 7, 8, 5, 6]
    assert rows.prototype.tolist() == [*range(12), 0, 1, 4, 5, 2, 3, 6, 7]
    assert rows.style.tolist() == [*range(12), 4, 5, 0, 1, 6, 7, 2, 3]
    groups = [0, 0, 1, 1, 0, 0, 1, 1, *[-1] * 4, *[0] * 4, *[1] * 4]
    assert rows.anchor.tolist() == groups
    assert hfl_rows(pid, negatives, mixed=False).pid.tolist() == rows.pid[:12].tolist()
    real = hfl_rows(pid, negatives, generated=False, mixed=False)
    assert real.prototype.tolist() == list(range(8))
    assert real.pid.tolist() == [5, 6, 7, 8, 1, 2, 3, 4]


def test_pairs_and_negatives_of_a_batch():
    pid = torch.tensor([9, 4, 4, 7, 9, 7, 3, 2, 2, 4, 6, 8])
    modality = torch.tensor([1, 0, 0, 1, 0, 0, 1, 1, 0, 1, 1, 0])
    rows, negatives = choose_rows(pid, modality)
    assert rows.tolist() == [[4, 1, 5, 8], [0, 9, 3, 7]]
    assert negatives.tolist() == [11, 6, 10]
    with pytest.raises(InputError, match="0 of 7 identities of the batch have both modalities"):
        choose_rows(pid, torch.zeros_like(pid))
    assert torch.equal(choose_rows(pid, modality, size=2)[1], negatives)
    lone_twice = torch.cat([pid, pid[-1:]]), torch.cat([modality, modality[-1:]])
    with pytest.raises(InputError, match="4 of 7 identities of the batch have both modalities"):
        choose_rows(*lone_twice, size=2)


def test_start_values_and_saved_decodes():
    hicmd, batch = make_hicmd(), make_batch()
    calls = []
    hicmd.generator.decoder.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    terms = [hicmd.losses(batch, phase) for phase in PHASES][1]
    assert calls == [12, 4]
    assert set(terms) == {"cross", "same", "cycle", "code", "kl", "adversarial", "id", "triplet"}
    assert terms["id"].item() == pytest.approx(math.log(6), abs=0.02)
    alone = hicmd.losses(batch, "generator")
    assert calls == [12, 4, 12, 4]
    assert {name: value.item() for name, value in alone.items()} == pytest.approx(
        {name: value.item() for name, value in terms.items()}, rel=1e-4
    )


NOTHING = dict.fromkeys(["cross", "same", "cycle", "code", "kl", "adversarial", "id", "triplet"], 0)
REAL_ONLY = {"generated_rows": False, "mixed_rows": False}


@pytest.mark.parametrize(
    ("options", "terms", "decoded", "encoded"),
    [
        ({}, set(NOTHING), [12, 4], [2, 8]),
        ({"weights": NOTHING}, set(), [], []),
        ({"weights": NOTHING | {"id": 1}}, {"id"}, [4], [2, 6]),
        ({"weights": NOTHING | {"triplet": 1}, **REAL_ONLY}, {"triplet"}, [], [4]),
        ({"weights": NOTHING | {"kl": 1}}, {"kl"}, [], [2]),
        ({"weights": NOTHING | {"same": 1}}, {"same"}, [4], [2]),
        ({"weights": NOTHING | {"cross": 1}, **REAL_ONLY}, {"cross"}, [4], [2]),
        ({"weights": NOTHING | {"code": 1, "id": 1}, **REAL_ONLY}, {"code", "id"}, [4], [2, 6]),
        ({"weights": {"id": 0, "triplet": 0}}, set(NOTHING) - {"id", "triplet"}, [12, 4], [2, 2]),
        ({"warm_id": 1}, {"id", "triplet"}, [4], [2, 6]),
        ({"warm_id": 1, **REAL_ONLY}, {"id", "triplet"}, [], [4]),
        ({"warm_generation": 1}, set(NOTHING) - {"id", "triplet"}, [12, 4], [2, 2]),
    ],
)
def test_only_what_a_loss_uses_is_decoded_and_encoded(options, terms, decoded, encoded):
    """Rows of each call of the decoder, and of the visible prototype encoder: 2 pairs, 2 visible negatives."""
    hicmd, seen = make_hicmd(**options), ([], [])
    for module, rows in zip((hicmd.generator.decoder, hicmd.generator.prototype_encoders[0]), seen, strict=True):
        module.register_forward_hook(lambda module, inputs, output, rows=rows: rows.append(len(output)))
    found = [hicmd.losses(BATCH, phase) for phase in PHASES]
    assert (set(found[1]), *seen) == (terms, decoded, encoded)
    assert bool(found[0]) == ("adversarial" in terms)


def literal_losses(hicmd, x_a, x_b, n_a, n_b, pids):
    """Sections 3 and 4 of the paper's code, image by image: nothing stacked, nothing shared."""
    p_of = [lambda x, m=m: hicmd.generator.prototype_encoders[m](x) for m in (0, 1)]
    a_of = [lambda x, m=m: hicmd.generator.attribute_encoders[m](x) for m in (0, 1)]
    draw, l1 = hicmd.generator.decoder, lambda x, y: (x - y).abs().mean()
    style, pose, light = (part.tolist() for part in split_attribute(torch.arange(512)))
    pick = lambda s, p, i: torch.stack([(s if k in style else p if k in pose else i)[:, k] for k in range(512)], 1)  # noqa: E731
    (p_a, p_b), (a_a, a_b) = ([encode(x) for encode, x in zip(of, (x_a, x_b), strict=True)] for of in (p_of, a_of))
    swap_a, swap_b = pick(a_b, a_a, a_a), pick(a_a, a_b, a_b)
    cross_a, cross_b = draw(p_b, swap_a), draw(p_a, swap_b)
    only_a, only_b = draw(p_b, pick(a_b, a_b, a_a)), draw(p_a, pick(a_a, a_a, a_b))
    again_a, again_b = a_of[0](cross_a), a_of[1](cross_b)
    excluded, judges = pose + light, [hicmd.discriminators[m] for m in (0, 1, 0, 1)]
    fooled = zip(judges, (cross_a, cross_b, only_a, only_b), strict=True)
    terms = {
        "cross": 50 * (l1(cross_a, x_a) + l1(cross_b, x_b)),
        "same": 50 * (l1(draw(p_a, swap_a), x_a) + l1(draw(p_b, swap_b), x_b)),
        "cycle": 50 * (l1(draw(p_of[1](cross_b), swap_a), x_a) + l1(draw(p_of[0](cross_a), swap_b), x_b)),
        "code": 10
        * (
            l1(a_a[:, excluded], again_a[:, excluded])
            + l1(a_b[:, excluded], again_b[:, excluded])
            + l1(a_b[:, style], again_a[:, style])
            + l1(a_a[:, style], again_b[:, style])
        ),
        "kl": (a_a[:, excluded] ** 2).mean() + (a_b[:, excluded] ** 2).mean(),
        "adversarial": 20 * sum(((scale - 1) ** 2).mean() for judge, image in fooled for scale in judge(image)),
    }
    P = [lambda x, m=m: hicmd.prototype_network(p_of[m](x)) for m in (0, 1)]
    S = [lambda x, m=m: a_of[m](x)[:, style] for m in (0, 1)]
    unit = lambda v: v / v.norm(dim=1, keepdim=True)  # noqa: E731
    z_a, z_b, made_a, made_b = x_a, x_b, cross_a.detach(), cross_b.detach()
    sets = [(0, z_a, z_a), (1, z_b, z_b), (0, made_a, made_a), (1, made_b, made_b), (0, n_a, n_a), (1, n_b, n_b)]
    sets += [(0, z_a, made_a), (0, made_a, z_a), (1, z_b, made_b), (1, made_b, z_b)]
    f0 = torch.cat([torch.cat([hicmd.alpha * unit(P[m](x)), (1 - hicmd.alpha) * unit(S[m](y))], 1) for m, x, y in sets])
    f1 = hicmd.neck(f0)
    labels = [*pids[:2] * 4, *pids[2:], *pids[:2] * 4]
    chances = hicmd.classifier(f1).softmax(1)
    terms["id"] = -torch.stack([chances[row, label].log() for row, label in enumerate(labels)]).mean()
    f2, anchors = hicmd.metric(f1), ([0, 1, 4, 5, 12, 13, 14, 15], [2, 3, 6, 7, 16, 17, 18, 19])
    terms["triplet"] = sum(triplet_oracle(f2, labels, group) for group in anchors)
    return terms


def test_losses_equal_the_literal_ones():
    hicmd, batch = make_hicmd().eval(), make_batch()
    images = batch.images
    rows = (images[:2], images[4:6], images[2:4], images[6:])
    slow = literal_losses(hicmd, *rows, pids=[0, 1, 2, 4, 3, 5])
    fast = hicmd.losses(batch)
    assert {name: fast[name].item() for name in fast} == pytest.approx(
        {name: slow[name].item() for name in fast}, rel=1e-4
    )
    parameters = [p for group in hicmd.parameter_groups() if group.name != "discriminator" for p in group.params]
    ours, theirs = (
        torch.cat([g.flatten() for g in torch.autograd.grad(sum(terms.values()), parameters)]) for terms in (fast, slow)
    )
    assert torch.allclose(ours, theirs, atol=1e-4 * theirs.abs().max())


def test_equal_pairs_make_equal_images():
    batch = make_batch()
    batch.images[4:6] = batch.images[:2]
    both, one, own = (make_hicmd(**o).losses(batch) for o in ({}, {"modality_only": False}, {"same_style": "own"}))
    assert both["same"].item() == pytest.approx(both["cross"].item(), rel=1e-4)
    assert own["same"].item() == pytest.approx(both["same"].item(), rel=1e-4)
    assert both["adversarial"].item() == pytest.approx(2 * one["adversarial"].item(), rel=1e-4)


def test_options_change_what_they_name():
    batch = make_batch()
    default = {name: loss.item() for name, loss in make_hicmd().losses(batch).items()}
    for option, changed in [({"same_style": "own"}, "same"), ({"cycle_codes": "all"}, "cycle")]:
        terms = make_hicmd(**option).losses(batch)
        different = {name for name, loss in terms.items() if abs(loss.item() - default[name]) > 1e-4 * default[name]}
        assert different == {changed}
    weights = {"weights": {"same": 0, "cycle": 0, "kl": 0, "adversarial": 0, "triplet": 2.0}}
    terms = make_hicmd(**weights).losses(batch)
    assert set(terms) == {"cross", "code", "id", "triplet"}
    assert terms["triplet"].item() == pytest.approx(2 * default["triplet"], rel=1e-3)
    assert make_hicmd(**weights).losses(batch, "discriminator") == {}
    identity = make_hicmd(weights=dict.fromkeys(["cross", "same", "cycle", "code", "kl", "adversarial"], 0))
    assert set(identity.losses(batch)) == {"id", "triplet"}
    rows = []
    for option in ({}, {"mixed_rows": False}, {"generated_rows": False, "mixed_rows": False}):
        hicmd = make_hicmd(**option)
        hicmd.classifier.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
        hicmd.losses(batch)
    assert rows == [20, 12, 8]
    with pytest.raises(InputError, match="mixed_rows=true needs generated_rows=true"):
        make_hicmd(generated_rows=False)


@pytest.mark.parametrize(
    ("option", "updates"), [({}, 5), ({"merge_attribute_calls": True}, 2), ({"freeze_attribute_norm": True}, 0)]
)
def test_batch_norm_of_the_attribute_encoders(option, updates):
    hicmd = make_hicmd(**option).train()
    for phase in PHASES:
        hicmd.losses(BATCH, phase)
    norm = next(m for m in hicmd.generator.attribute_encoders[0].modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.num_batches_tracked == updates


BATCH = make_batch()


def test_gradient_routes():
    hicmd = make_hicmd()
    generator, head = hicmd.generator, [hicmd.neck, hicmd.metric, hicmd.classifier]
    first, terms = (hicmd.losses(BATCH, phase) for phase in PHASES)
    torch.stack([terms["id"], terms["triplet"]]).sum().backward(retain_graph=True)
    assert all(gradients(m) > 0 for m in (*generator.prototype_encoders, *generator.attribute_encoders))
    assert all(gradients(m) > 0 for m in (hicmd.prototype_network, *head))
    assert hicmd.alpha.grad.abs() > 0
    assert gradients(generator.decoder) == gradients(hicmd.discriminators) == 0
    last = [list(e.parameters())[-1].grad for e in generator.attribute_encoders]
    for gradient in last:
        style, pose, light = split_attribute(gradient)
        assert style.abs().sum() > 0
        assert not pose.any()
        assert not light.any()
    hicmd.zero_grad()
    sum(terms[name] for name in ("cross", "same", "cycle", "code", "adversarial")).backward(retain_graph=True)
    assert gradients(generator.decoder) > 0
    assert sum(gradients(m) for m in (hicmd.prototype_network, hicmd.discriminators, *head)) == 0
    assert hicmd.alpha.grad is None
    hicmd.zero_grad()
    terms["kl"].backward()
    style, *excluded = split_attribute(list(generator.attribute_encoders[1].parameters())[-1].grad)
    assert not style.any()
    assert all(part.abs().sum() > 0 for part in excluded)
    hicmd.zero_grad()
    sum(first.values()).backward()
    assert all(gradients(m) > 0 for m in hicmd.discriminators)
    assert gradients(hicmd) == pytest.approx(gradients(hicmd.discriminators))


def test_warm_ups_and_alpha():
    hicmd = make_hicmd(warm_generation=1, warm_id=1)
    seen = []
    for _ in range(3):
        seen.append([set(hicmd.losses(BATCH, phase)) for phase in PHASES])
        with torch.no_grad():
            hicmd.alpha.fill_(1.5)
        hicmd.after_step()
    discriminator = {"fake", "real", "penalty"}
    generation, identity = {"cross", "same", "cycle", "code", "kl", "adversarial"}, {"id", "triplet"}
    assert seen == [[discriminator, generation], [set(), identity], [discriminator, generation | identity]]
    assert hicmd.statistics() == {"alpha": torch.tensor(1.0)}
    groups = [p for group in hicmd.parameter_groups() for p in group.params]
    assert {id(p) for p in groups} == {id(p) for p in hicmd.parameters()}
    assert len(groups) == len({id(p) for p in groups})


def test_half_precision_stays_finite():
    hicmd = make_hicmd(**TINY, dropout=0.5, erasing=0.5)
    optimizers = {g.name: torch.optim.SGD(g.params, 1e-4) for g in hicmd.parameter_groups()}
    for _ in range(2):
        for phase in PHASES:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = sum(hicmd.losses(BATCH, phase).values())
            assert loss.dtype == torch.float32
            hicmd.zero_grad()
            loss.backward()
            assert all(p.grad.isfinite().all() for p in hicmd.parameters() if p.grad is not None)
            for name, optimizer in optimizers.items():
                if (name == "discriminator") == (phase == "discriminator"):
                    optimizer.step()


@pytest.mark.parametrize("data", ["regdb", "sysu_mm01", "llcm", "synthetic"])
def test_learning_rates_of_the_recipes(data):
    recipe = load_recipe(packaged_recipe("hicmd", data))
    hicmd = make_hicmd()
    optimizers = build_optimizers(hicmd, recipe.optimizers)
    assert {name: o.phase for name, o in recipe.optimizers.items()} == {
        "discriminator": "discriminator",
        "generator": "generator",
        "head": "generator",
    }
    if data != "regdb":
        return
    elsewhere = {name: o.model_copy(update={"phase": "generator"}) for name, o in recipe.optimizers.items()}
    with pytest.raises(InputError, match="no optimiser minimises the losses of phase discriminator: set"):
        build_optimizers(hicmd, elsewhere)
    for step, rate in [(0, 1e-3), (25_000, 5e-4), (50_000, 2.5e-4), (75_000, 1.25e-4)]:
        set_learning_rates(optimizers, recipe.optimizers, lr_factor(recipe.schedule, 0, recipe.epochs, step))
        rates = {g["name"]: g["lr"] for o in optimizers.values() for g in o.param_groups}
        shares = {"head": 1, "classifier": 1, "prototype_network": 1, "alpha": 0.01}
        shares |= dict.fromkeys(("attribute_encoders", "generator", "discriminator"), 0.1)
        assert rates == pytest.approx({name: rate * share for name, share in shares.items()})


def test_features_need_identity_codes_alone():
    hicmd = make_hicmd().eval()
    images, modality = torch.randn(5, 3, *SIZE), torch.tensor([1, 0, 1, 1, 0])
    with torch.no_grad():
        for norm in (m for m in hicmd.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)):
            norm.running_mean.add_(0.01)
        together = hicmd.features(images, modality)
        single = torch.cat([hicmd.features(images[i : i + 1], modality[i : i + 1])["global"] for i in range(5)])
        for encoder in hicmd.generator.attribute_encoders:
            for part in split_attribute(torch.arange(512))[1:]:
                list(encoder.parameters())[-1][part] += 1
        del hicmd.generator.decoder, hicmd.discriminators, hicmd.classifier
        again = hicmd.features(images, modality)
        other = hicmd.features(images, 1 - modality)["global"]
    assert set(together) == {"global", "prototype", "style", "fused", "metric"}
    assert together["global"].shape == (5, 32)
    for name, value in together.items():
        assert torch.allclose(value.norm(dim=1), torch.ones(5), atol=1e-5)
        assert torch.equal(value, again[name])
    assert torch.allclose(single, together["global"], atol=1e-5)
    assert torch.allclose(other, again["global"], atol=1e-5)  # the encoders are equal at the start


@pytest.fixture(scope="module")
def hicmd_run(method_run):
    return method_run("hicmd")[0]


def test_run_from_the_command_line(hicmd_run):
    columns = (hicmd_run / "logs" / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"fake", "penalty", "cross", "kl", "id", "loss_generator", "statistics/alpha"} <= set(columns)
    command("evaluate", hicmd_run, "--feature", "style")
    names = load_file(hicmd_run / "last.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"generator", "prototype_network", "alpha", "neck", "metric"}
    assert any("decoder" in name for name in names)


def test_a_resume_restores_all_optimizers(hicmd_run, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(hicmd_run, folder)
    (folder / "checkpoints" / "epoch-0001.ckpt").unlink()
    resume(folder)
    states = [torch.load(f / "checkpoints" / "epoch-0001.ckpt", weights_only=True) for f in (hicmd_run, folder)]
    first, again = (state["state_dict"] for state in states)
    assert first["method.iteration"] == 4
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert len(states[0]["optimizer_states"]) == 3
    for before, after in zip(*(state["optimizer_states"] for state in states), strict=True):
        assert before["state"].keys() == after["state"].keys() != set()
        assert all(torch.equal(s["exp_avg"], after["state"][k]["exp_avg"]) for k, s in before["state"].items())
        assert {group["lr"] for group in before["param_groups"]} == {
            1e-3 / 8
        }  # three batches were done before the last


def test_swap_grid(hicmd_run, run, manifest, tmp_path):
    bundle, out = str(hicmd_run / "last.safetensors"), tmp_path / "swap.png"
    result = CliRunner().invoke(
        app,
        ["plots", "swap", bundle, "--data", "manifest", "--root", str(manifest), "--people", "2", "--out", str(out)],
    )
    assert result.exit_code == 0, result.output
    width, height = Image.open(out).size
    assert height > width > 300
    files = [str(manifest / "visible_0_0.jpg"), "--infrared", str(manifest / "infrared_1_0.jpg")]
    assert CliRunner().invoke(app, ["plots", "swap", bundle, *files, "--out", str(tmp_path / "two.svg")]).exit_code == 0
    tinted, grey = tmp_path / "tinted.png", tmp_path / "grey.png"
    Image.open(manifest / "visible_0_0.jpg").resize(SIZE[::-1]).save(tinted)
    Image.open(tinted).convert("L").save(grey)
    for picture in (tinted, grey):
        command("plots", "swap", bundle, "--infrared", picture, "--out", picture.with_suffix(".out.png"))
    assert tinted.with_suffix(".out.png").read_bytes() == grey.with_suffix(".out.png").read_bytes()
    for arguments, sentence in [
        ([bundle], "no pictures to exchange"),
        ([str(run / "last.safetensors"), *files], "holds method agw, which draws no people"),
        ([bundle, "--data", "manifest", "--root", str(manifest), "--people", "99"], "4 people .* ask for fewer people"),
    ]:
        with pytest.raises(InputError, match=sentence):
            CliRunner().invoke(app, ["plots", "swap", *arguments], catch_exceptions=False)
