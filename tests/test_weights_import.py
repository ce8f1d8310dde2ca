"""Checkpoints of other code bases: names, features, and files that are not what they should be."""

import pickle
import sys

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from vireid.bundle import load_bundle
from vireid.cli import main
from vireid.errors import InputError
from vireid.methods import build
from vireid.nn import BackboneOptions, build_backbone
from vireid.nn.non_local import NonLocalBlock
from vireid.weights_import import import_agw

SIZE = (3, 96, 48)


@pytest.fixture(scope="module")
def agw():
    torch.manual_seed(0)
    method = build("agw", num_classes=5, backbone={"name": "resnet50", "weights": "none"})
    for module in method.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.2, 0.6)
            nn.init.uniform_(module.running_var, 0.9, 1.1)
            nn.init.normal_(module.running_mean, 0, 0.1)
    return method.eval()


def prefixed(prefix, module):
    return {f"{prefix}.{name}": value for name, value in module.state_dict().items()}


def official(method):
    """Name a method's tensors as the official module does, its three complete ResNets included."""
    state, shared = {}, method.network.shared
    for name, (stem,) in zip(
        ("visible_module.visible", "thermal_module.thermal"), method.network.specific, strict=True
    ):
        state |= prefixed(f"{name}.conv1", stem[0]) | prefixed(f"{name}.bn1", stem[1])
        state |= {f"{name}.layer1.0.conv1.weight": torch.zeros(1)}
    state |= {"base_resnet.base.conv1.weight": torch.zeros(1)}
    for number, stage in enumerate(shared, start=1):
        blocks = [block for block in stage if not isinstance(block, NonLocalBlock)]
        attention = [block for block in stage if isinstance(block, NonLocalBlock)]
        for index, block in enumerate(blocks):
            state |= prefixed(f"base_resnet.base.layer{number}.{index}", block)
        for index, block in enumerate(attention):
            parts = {"theta": block.theta, "phi": block.phi, "g.0": block.g, "W.0": block.out, "W.1": block.norm}
            for part, module in parts.items():
                state |= prefixed(f"NL_{number}.{index}.{part}", module)
    return state | prefixed("bottleneck", method.head.neck) | prefixed("classifier", method.head.classifier)


@pytest.fixture(scope="module")
def state(agw):
    return official(agw)


def test_an_official_checkpoint_becomes_a_bundle_with_the_same_features(agw, state, tmp_path, monkeypatch, capsys):
    file, out = tmp_path / "sysu.t", tmp_path / "agw.safetensors"
    state = {f"module.{name}": value for name, value in state.items() if "num_batches_tracked" not in name}
    torch.save({"net": state, "acc": np.array([0.475, 0.8]), "mAP": np.float64(0.47), "epoch": 60}, file)
    monkeypatch.setattr(sys, "argv", ["vireid", "import", "agw-official", str(file), "--out", str(out)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    assert "5 identities" in capsys.readouterr().out
    imported, card = load_bundle(out)
    images, modality = torch.rand(3, *SIZE), torch.tensor([0, 1, 1])
    expected, found = agw.features(images, modality), imported.features(images, modality)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert card.image_size == (288, 144)
    assert card.mean == (0.485, 0.456, 0.406)
    assert "official AGW checkpoint sysu.t, SHA-256" in card.training_data


class Hostile:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda state: state | {"mask.weight": torch.zeros(1)}, "it has 1 unknown tensors, such as mask.weight"),
        (lambda state: {n: v for n, v in state.items() if n != "classifier.weight"}, "it has no classifier.weight"),
        (
            lambda state: {n: v for n, v in state.items() if not n.startswith("NL_2.1.phi")},
            r"\(2 tensors\): network.shared.1.5.phi.weight is missing",
        ),
        (lambda state: state | {"bottleneck.weight": torch.ones(3)}, "head.neck.weight does not fit"),
        (lambda state: {"net": [1, 2]}, "holds no state dict"),
        (lambda state: {"net": state, "run": Hostile()}, "is damaged or holds more than weights"),
    ],
)
def test_files_that_do_not_fit_are_named(spoil, sentence, state, tmp_path, capsys):
    torch.save(spoil(dict(state)), tmp_path / "a.t")
    with pytest.raises(InputError, match=sentence):
        import_agw(tmp_path / "a.t", tmp_path / "a.safetensors")
    assert not (tmp_path / "a.safetensors").exists()
    assert capsys.readouterr().out == ""


def test_torn_hostile_and_missing_files_are_one_sentence(tmp_path):
    torch.save({"a": torch.zeros(1000)}, tmp_path / "whole.t")
    (tmp_path / "torn.t").write_bytes((tmp_path / "whole.t").read_bytes()[:1000])
    (tmp_path / "pickle.t").write_bytes(pickle.dumps(Hostile()))
    for name in ("torn.t", "pickle.t"):
        with pytest.raises(InputError, match=f"{name} is damaged or holds more than weights"):
            import_agw(tmp_path / name, tmp_path / "out")
    with pytest.raises(InputError, match="no such file"):
        import_agw(tmp_path / "none.t", tmp_path / "out")


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_a_torchvision_file_is_a_backbone(suffix, tmp_path):
    from safetensors.torch import save_file

    network = torchvision.models.resnet18().eval()
    path = tmp_path / f"resnet18.{suffix}"
    (torch.save if suffix == "pth" else save_file)(network.state_dict(), path)
    trunk = build_backbone(BackboneOptions(name="resnet18", weights=str(path), last_stride=2)).eval()
    images = torch.rand(2, *SIZE)
    expected = nn.Sequential(*list(network.children())[:-2])(images)
    assert torch.allclose(trunk(images), expected, atol=1e-5)
