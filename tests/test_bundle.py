"""Bundles and the public API."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import vireid
from vireid.bundle import read_card, save_bundle
from vireid.errors import InputError


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
