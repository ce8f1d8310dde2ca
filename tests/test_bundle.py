"""Bundles and the public API."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import vireid
from vireid.bundle import METADATA_KEY, load_bundle, read_card, save_bundle
from vireid.errors import InputError
from vireid.weights import find


@pytest.fixture(scope="module")
def model(run):
    return vireid.load(run / "last.safetensors")


def test_embed_takes_paths_pictures_and_arrays(model, manifest):
    path = manifest / "visible_0_0.jpg"
    picture = Image.open(path)
    vectors = model.embed([path, str(path), picture, np.asarray(picture)], modality="visible", batch_size=3)
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, model.method.embedding_dim)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert np.allclose(vectors, vectors[0], atol=1e-5)
    assert not np.allclose(model.embed([path], modality="infrared"), vectors[0], atol=1e-4)
    assert model.embed([]).shape == (0, model.method.embedding_dim)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ("/nowhere.jpg", "/nowhere.jpg is missing"),
        (np.zeros((4, 4), np.uint8), r"an image of type ndarray \(4, 4\)"),
        (np.full((4, 4, 3), np.nan), "give a path, a PIL image or an"),
    ],
)
def test_embed_errors(model, image, sentence):
    with pytest.raises(InputError, match=sentence):
        model.embed([image])


def test_flip_averages_unit_features(model, manifest):
    from vireid.data import open_dataset

    records = open_dataset("manifest", manifest).where(split="test")
    plain, flipped = model.extract(records), model.extract(records, flip=True)
    assert torch.allclose(flipped["global"].norm(dim=1), torch.ones(len(records)), atol=1e-5)
    assert not torch.allclose(plain["global"], flipped["global"], atol=1e-4)


def test_card_says_all_that_is_needed(run):
    card = read_card(run / "best.safetensors")
    assert (card.method, card.num_classes, card.image_size) == ("agw", 8, (64, 32))
    assert card.selection == "best mAP on val"
    assert 0 <= card.metrics["mAP"] <= 1
    assert "8 identities" in card.training_data
    assert "does not identify" in card.limits


def test_bundles_leave_training_parts_out_and_are_small_in_half(run, model, tmp_path):
    names = load_file(run / "last.safetensors").keys()
    assert not any(name.startswith(("head.classifier", "center")) for name in names)
    save_bundle(tmp_path / "half.safetensors", model.method, model.card, torch.float16)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.6 * (run / "last.safetensors").stat().st_size
    image = [np.full((64, 32, 3), 99, np.uint8)]
    half = vireid.load(tmp_path / "half.safetensors").embed(image)
    assert float(half[0] @ model.embed(image)[0]) > 0.99


def test_evaluation_of_the_same_bundle_is_reproducible(run, manifest, tmp_path):
    from vireid.evaluation.command import EvaluateRequest, run_evaluation

    request = EvaluateRequest(models=(run,), query="visible", gallery="infrared")
    first, second = run_evaluation(request)[0].as_dict(), run_evaluation(request)[0].as_dict()
    assert first == second
    assert first["protocol"] == "cross-vis2ir"
    assert first["num_queries"] == [8]
    assert {"hide", "cmc_unit", "feature", "flip", "rerank", "checkpoint", "label_map", "commit"} <= set(first)


@pytest.mark.parametrize(
    ("card", "tensor", "sentence"),
    [
        ({"num_classes": 10**20}, None, "num_classes: Input should be less than"),
        ({"image_size": [0, 0]}, None, "image_size.0: Input should be greater than 0"),
        ({"std": [0.0, 1.0, 1.0]}, None, "std.0: Input should be greater than 0"),
        ({"mean": [0.1]}, None, "mean"),
        ({}, lambda t: t * float("nan"), "not finite in tensor"),
        ({}, lambda t: t.to(torch.int8), "does not fit method agw: tensor"),
    ],
)
def test_a_bundle_with_a_wrong_card_or_wrong_numbers_is_refused(run, tmp_path, card, tensor, sentence):
    bundle = tmp_path / "bundle.safetensors"
    rewrite(run / "last.safetensors", bundle, card, tensor)
    with pytest.raises(InputError, match=sentence):
        vireid.load(bundle)


def test_a_network_that_no_memory_holds_is_refused(tmp_path):
    bundle = tmp_path / "bundle.safetensors"
    rewrite(find(Path("vireid-lite0")), bundle, {"options": {"stripe_dim": 10**12}}, None)
    with pytest.raises(InputError, match="asks for a network that cannot be built"):
        vireid.load(bundle)


def test_pixels_are_normalised_as_the_card_says(run, model, tmp_path):
    bundle = tmp_path / "bundle.safetensors"
    rewrite(run / "last.safetensors", bundle, {"mean": [0.1, 0.2, 0.3]}, None)
    picture = Image.new("RGB", (32, 64), (200, 90, 30))
    assert not np.allclose(vireid.load(bundle).embed([picture], "visible"), model.embed([picture], "visible"))


def test_a_folder_in_place_of_a_bundle_is_named(run):
    with pytest.raises(InputError, match=r"is a folder: name the bundle in it, such as .*last\.safetensors"):
        load_bundle(run)


def rewrite(source, target, card, tensor):
    """Copy a bundle with other entries in its card, or with its first floating tensor changed."""
    with safe_open(source, framework="pt") as file:
        changed = json.loads(file.metadata()[METADATA_KEY])
    options = changed["options"] | card.get("options", {})
    weights = load_file(source)
    if tensor is not None:
        name = next(name for name, own in sorted(weights.items()) if own.is_floating_point())
        weights[name] = tensor(weights[name])
    save_file(weights, target, metadata={METADATA_KEY: json.dumps(changed | card | {"options": options})})
