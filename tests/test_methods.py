"""Every method of images, trained by the command line: its bundle is scored and sees as its last checkpoint does."""

import json

import pytest
import torch
from safetensors.torch import load_file

from batches import make_batch, make_keypoints
from command_runs import checkpoint_and_bundle, command
from vireid.methods import METHODS, Refiner
from vireid.recipe import load_recipe


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if not issubclass(kind, Refiner)])
def test_a_bundle_sees_as_its_checkpoint_does(name, run, method_run, tmp_path):
    out, scores = run if name == "agw" else method_run(name)[0], tmp_path / "scores.json"
    command("evaluate", out, "--json", scores)
    assert 0 < json.loads(scores.read_text())["mAP"] <= 1
    trained, loaded = checkpoint_and_bundle(out)
    size = load_recipe(out / "recipe.yaml").data.image_size
    batch = make_batch(size=size, keypoints=make_keypoints(8, size))
    side = {column: getattr(batch, column) for column in loaded.side_inputs}
    with torch.no_grad():
        expected, found = (m.features(batch.images, batch.modality, **side) for m in (trained, loaded))
    assert expected.keys() == found.keys()
    assert all(torch.allclose(found[key], value, atol=1e-5) for key, value in expected.items())
    stored = load_file(out / "last.safetensors")
    assert not [key for key in stored if key.startswith(loaded.training_only())]
