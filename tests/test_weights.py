"""The model that ships: found by its name, small, honest about itself, and a start for any two-stream method."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import vireid
from vireid.bundle import read_card
from vireid.errors import InputError
from vireid.gallery import Gallery
from vireid.methods import build
from vireid.nn import BackboneOptions, build_backbone
from vireid.records import Modality
from vireid.weights import SHIPPED, find

NAME = find(Path(SHIPPED))


@pytest.fixture(scope="module")
def tensors():
    return load_file(NAME)


def test_it_is_small_half_precise_and_says_what_it_is(tensors):
    assert NAME.stat().st_size < 10e6
    assert {t.dtype for t in tensors.values() if t.is_floating_point()} == {torch.float16}
    card = read_card(NAME)
    assert "rendered people only" in card.limits
    assert "synthetic" in card.training_data.lower()
    assert card.license.startswith("Apache-2.0")


def test_its_name_is_enough_to_embed_and_to_make_a_gallery(tmp_path):
    embedder = vireid.load(SHIPPED)
    images = np.random.default_rng(0).integers(0, 255, (2, 128, 64, 3), dtype=np.uint8)
    vectors = embedder.embed(list(images), modality="visible")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    gallery = Gallery.create(tmp_path / "g", bundle=SHIPPED, purpose="test")
    assert gallery.settings.dim == embedder.embedding_dim


def test_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find(Path(SHIPPED)) == NAME
    (tmp_path / SHIPPED).mkdir()
    assert find(Path(SHIPPED)) == NAME
    (tmp_path / SHIPPED).rmdir()
    shutil.copy(NAME, tmp_path / SHIPPED)
    assert find(Path(SHIPPED)) == Path(SHIPPED)
    assert find(Path("other")) == Path("other")


@pytest.mark.parametrize("method", ["agw", "cmlspge"])
def test_a_method_starts_from_its_trunk_with_a_stem_for_each_modality(method, tensors):
    network = build(method, num_classes=3, backbone=BackboneOptions(weights=SHIPPED)).network
    for modality in Modality:
        stem = network.specific[modality][0].state_dict()
        prefix = f"network.specific.{int(modality)}.0."
        assert all(torch.equal(value, tensors[prefix + name].to(value.dtype)) for name, value in stem.items())
    last = network.shared[-1].state_dict()
    assert all(torch.equal(value, tensors[f"network.shared.3.{name}"].to(value.dtype)) for name, value in last.items())


def test_trunks_of_their_own_start_with_their_modality_s_stem(tensors):
    hicmd = build("hicmd", num_classes=3, backbone=BackboneOptions(weights=SHIPPED, last_stride=2), width=2)
    for modality, (trunk, _) in zip(Modality, hicmd.generator.attribute_encoders, strict=True):
        for stage, prefix in (("stem", f"specific.{int(modality)}.0"), ("layer4", "shared.3")):
            state = trunk.stages[stage].state_dict()
            assert all(torch.equal(v, tensors[f"network.{prefix}.{name}"].to(v.dtype)) for name, v in state.items())
    stems = [encoder[0].stages["stem"] for encoder in hicmd.generator.attribute_encoders]
    assert not set(stems[0].parameters()) & set(stems[1].parameters())
    apart = {"share": "none", "specific_until": "none"}
    trunks = build("msclnet", num_classes=3, backbone=BackboneOptions(weights=SHIPPED), **apart).network.specific
    for modality, trunk in zip(Modality, trunks, strict=True):
        stem = next(trunk.parameters())
        assert torch.equal(stem, tensors[f"network.specific.{int(modality)}.0.0.weight"].to(stem.dtype))


def test_it_is_of_one_backbone():
    with pytest.raises(InputError, match=r"drop backbone\.name=resnet18"):
        build_backbone(BackboneOptions(name="resnet18", weights=SHIPPED))
