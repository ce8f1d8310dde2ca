"""Layers: worked numbers, shapes, gradient routes."""

import pytest
import torch
from torch import nn

from vireid.errors import InputError
from vireid.nn import BackboneOptions, GeneralizedMeanPool, NonLocalBlock, TwoStream, build_backbone
from vireid.nn.non_local import aggregate

RANDOM = BackboneOptions(weights="none")


@pytest.mark.parametrize(("p", "expected"), [(1.0, 2.5), (3.0, 2.924018), (10.0, 3.5017)])
def test_gem_values(p, expected):
    x = torch.tensor([1.0, 2, 3, 4]).view(1, 1, 2, 2)
    assert float(GeneralizedMeanPool(p)(x)) == pytest.approx(expected, abs=1e-4)


def test_gem_gradients():
    x = torch.tensor([1.0, 2, 3, 4]).view(1, 1, 2, 2).requires_grad_()
    pool = GeneralizedMeanPool(3.0, "scalar")
    pool(x).backward()
    assert float(pool.p.grad) == pytest.approx(0.162134, abs=1e-5)
    assert x.grad.flatten().tolist() == pytest.approx([0.0292, 0.1170, 0.2632, 0.4678], abs=1e-4)


@pytest.mark.parametrize(("learn", "value"), [("fixed", 1e-4), ("scalar", 1e-6), ("channel", 1e-6)])
def test_gem_of_zeros(learn, value):
    zeros, pool = torch.zeros(1, 2, 2, 2, requires_grad=True), GeneralizedMeanPool(3.0, learn, 2)
    pooled = pool(zeros)
    assert pooled.tolist() == [pytest.approx([value, value])]
    pooled.sum().backward()
    assert torch.equal(zeros.grad, torch.zeros_like(zeros))
    assert all(p.grad.isfinite().all() for p in pool.parameters())


@pytest.mark.parametrize(("p", "expected", "moved"), [(3.0, 1e-4, 0), (2.5, 0.25**0.4, 1)])
def test_gem_of_negative_entries_is_finite(p, expected, moved):
    x = torch.tensor([-2.0, 1, -3, -0.5]).view(1, 1, 2, 2).requires_grad_()
    pooled = GeneralizedMeanPool(p)(x)
    assert pooled.item() == pytest.approx(expected)
    pooled.sum().backward()
    assert x.grad.isfinite().all()
    assert x.grad.count_nonzero() == moved


@pytest.mark.parametrize("training", [True, False])
def test_fresh_non_local_block_is_the_identity(training):
    block = NonLocalBlock(8).train(training)
    x = torch.randn(2, 8, 4, 3)
    out = block(x)
    assert torch.equal(out, x)
    out.square().sum().backward()
    touched = {name for name, p in block.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert touched == {"norm.weight", "norm.bias"}


def test_non_local_scalar_case_and_product_orders():
    x = torch.tensor([[[1.0, 2, 3]]])
    assert aggregate(x, x, x).flatten().tolist() == pytest.approx([4.6667, 9.3333, 14], abs=1e-4)
    theta, phi, g = torch.randn(3, 2, 5, 7, dtype=torch.float64)
    affinity = theta.transpose(1, 2) @ phi / 7
    expected = (affinity @ g.transpose(1, 2)).transpose(1, 2)
    assert torch.allclose(aggregate(theta, phi, g), expected)
    wide = torch.cat([theta, theta], 1), torch.cat([phi, phi], 1), torch.cat([g, g], 1)
    assert torch.allclose(aggregate(*wide)[:, :5], 2 * expected)


@pytest.mark.parametrize(("shape", "g", "expected"), [((1, 1, 100), 40.0, 64000), ((1, 200, 2), 0.01, 800)])
def test_non_local_means_stay_within_half_precision(shape, g, expected):
    x = torch.full(shape, 40.0 if g > 1 else 20.0).half()
    assert aggregate(x, x, torch.full(shape, g).half()).float().flatten().tolist() == pytest.approx(
        [expected] * x.numel(), rel=1e-2
    )


@pytest.mark.parametrize(
    ("name", "dim"), [("resnet18", 512), ("resnet10t", 512), ("resnetblur18", 512), ("tf_efficientnet_lite0", 1280)]
)
def test_backbone_keeps_stride_16(name, dim):
    backbone = build_backbone(BackboneOptions(name=name, weights="none"))
    assert backbone.dim == dim
    assert backbone.eval()(torch.rand(1, 3, 64, 32)).shape == (1, dim, 4, 2)


def test_two_stream_routes_rows_by_modality():
    network = TwoStream(build_backbone(RANDOM)).eval()
    for parameter in network.specific[1].parameters():
        nn.init.normal_(parameter)
    images, modality = torch.rand(5, 3, 32, 32), torch.tensor([1, 0, 1, 1, 0])
    mixed = network(images, modality)
    for row in range(5):
        assert torch.allclose(mixed[row], network(images[row : row + 1], modality[row : row + 1])[0], atol=1e-5)
    assert not torch.allclose(mixed, network(images, 1 - modality), atol=1e-3)


def test_one_modality_leaves_the_other_stem_alone():
    network = TwoStream(build_backbone(RANDOM)).train()
    before = {name: value.clone() for name, value in network.specific[1].state_dict().items()}
    network(torch.rand(4, 3, 32, 32), torch.zeros(4, dtype=torch.int64)).sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in network.specific[1].state_dict().items())
    assert all(p.grad is None for p in network.specific[1].parameters())
    assert all(p.grad is not None for p in network.specific[0].parameters())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "no_such_net", "weights": "none"}, "timm knows no such model"),
        ({"name": "vgg11", "weights": "none"}, "choose a timm ResNet, or an EfficientNet"),
        ({"name": "tf_efficientnetv2_b0", "weights": "none"}, "an EfficientNet of seven stages"),
        ({"weights": "/nowhere/weights.pth"}, "no such file"),
    ],
)
def test_backbone_errors_name_the_remedy(options, sentence):
    with pytest.raises(InputError, match=sentence):
        build_backbone(BackboneOptions(**options))


def test_backbone_weights_from_a_file(tmp_path):
    import timm

    model = timm.create_model("resnet18", num_classes=395)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    backbone = build_backbone(BackboneOptions(name="resnet18", weights=str(tmp_path / "weights.pth")))
    assert torch.equal(backbone.stages["stem"][0].weight, model.conv1.weight)
    with pytest.raises(InputError, match="does not fit"):
        build_backbone(BackboneOptions(name="resnet34", weights=str(tmp_path / "weights.pth")))
    torch.save({"evil": print}, tmp_path / "pickle.pth")
    with pytest.raises(InputError, match="not a plain state dict"):
        build_backbone(BackboneOptions(name="resnet18", weights=str(tmp_path / "pickle.pth")))
