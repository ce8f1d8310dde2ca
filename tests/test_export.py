"""ONNX graphs: equal to PyTorch for every method, described, refused when they differ, usable without PyTorch."""

import json
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from vireid import export
from vireid.bundle import BundleCard, save_bundle
from vireid.cli import app
from vireid.data import open_dataset
from vireid.embedder import Embedder
from vireid.errors import InputError
from vireid.methods import METHODS, Refiner, build
from vireid.nn import BackboneOptions
from vireid.onnx_embedder import OnnxEmbedder
from vireid.precision import Precision
from vireid.records import Modality

SIZE = (80, 40)
HYBRID = {"stage": "layer2", "dim": 32, "depth": 1, "heads": 2}
OPTIONS = {
    "cmlspge": {"stripes": 5, "enhance": "bn_per_modality"},
    "cmtr": {"vit": {"hybrid": HYBRID}, "test_removal": True},
    "hicmd": {"width": 8, "embedding_dim": 64},
    "spot": {"structure_dim": 16, "attention_dim": 16, "tpi_dim": 32, "tpi_ffn": 32},
}
IMAGE_METHODS = sorted(name for name, kind in METHODS.items() if not issubclass(kind, Refiner))


def tiny(name, seed=0):
    """A method with every weight moved, so that its two modalities have paths of their own."""
    torch.manual_seed(seed)
    method = build(name, num_classes=3, backbone={"weights": "none"}, **OPTIONS.get(name, {})).eval()
    with torch.no_grad():
        for tensor in method.parameters():
            tensor.add_(0.02 * torch.randn_like(tensor))
    card = BundleCard(
        method=name,
        options=OPTIONS.get(name, {}),
        backbone=BackboneOptions(weights="none"),
        num_classes=3,
        image_size=SIZE,
        mean=method.mean,
        std=method.std,
        training_data="none",
    )
    embedder = Embedder(method, SIZE, torch.device("cpu"), card)
    embedder.precision = Precision("32")
    return embedder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    embedder = tiny("agw")
    path = tmp_path_factory.mktemp("bundle") / "agw.v1.safetensors"
    save_bundle(path, embedder.method, embedder.card)
    return path


@pytest.fixture(scope="module")
def pair(bundle):
    result = CliRunner().invoke(app, ["export", str(bundle), "--format", "onnx", "--out", str(bundle.parent)])
    assert result.exit_code == 0, result.output
    assert result.output.count("max error") == 2
    return bundle.parent / "agw.v1.onnx"


@pytest.mark.parametrize("name", IMAGE_METHODS)
def test_every_method_exports_the_path_of_one_modality(name, tmp_path):
    embedder = tiny(name)
    written = export.write_graph(embedder, Modality.INFRARED, tmp_path / "m.onnx", tmp_path / "m.onnx")
    assert written.error <= export.MAX_ERROR
    graph = OnnxEmbedder(written.file)
    assert graph.embedding_dim == embedder.embedding_dim
    other, _ = export.compare(lambda images, _, size: graph.embed(images, "infrared", size), embedder, Modality.VISIBLE)
    assert other > export.MAX_ERROR


def test_a_refiner_says_why_it_is_not_exported(tmp_path):
    method = build("nformer", num_classes=3, input_dim=16)
    card = BundleCard(
        method="nformer",
        options={"input_dim": 16},
        num_classes=3,
        image_size=SIZE,
        mean=(),
        std=(),
        training_data="none",
    )
    save_bundle(tmp_path / "refiner.safetensors", method, card)
    with pytest.raises(InputError, match="refines features and sees no images"):
        export.export_onnx(tmp_path / "refiner.safetensors", tmp_path)


def test_pair_embeds_as_the_bundle_does(pair, bundle):
    graphs, reference = OnnxEmbedder(pair), Embedder.load(bundle, torch.device("cpu"))
    images = [np.full((90, 40, 3), k, np.uint8) for k in (3, 99, 250)]
    images[1] = Image.fromarray(images[1])
    for modality in Modality:
        vectors = graphs.embed(images, modality, batch_size=2)
        assert vectors.dtype == np.float32
        assert vectors == pytest.approx(reference.embed(images, modality), abs=1e-5)
    assert graphs.embed([]).shape == (0, reference.embedding_dim)


def test_metadata_says_how_to_use_the_graph(pair):
    model = onnx.load(pair.with_suffix(".visible.onnx"))
    onnx.checker.check_model(model, full_check=True)
    properties = {p.key: p.value for p in model.metadata_props}
    assert (properties["modality"], properties["precision"], properties["method"]) == ("visible", "fp32", "agw")
    assert json.loads(properties["image_size"]) == list(SIZE)
    assert BundleCard.model_validate_json(properties["vireid"]).mean == tuple(json.loads(properties["mean"]))
    assert "uint8 RGB (N, 80, 40, 3)" in properties["preprocessing"]
    assert properties["license"]
    assert "does not identify" in properties["limits"]
    dims = [value.type.tensor_type.shape.dim[0].dim_param for value in (*model.graph.input, *model.graph.output)]
    assert dims == ["batch", "batch"]


def test_half_is_half_as_large_and_as_close_in_cosine(pair, bundle, tmp_path):
    _, infrared = export.export_onnx(bundle, tmp_path / "half.onnx", "fp16")
    assert infrared.file == tmp_path / "half.infrared.onnx"
    assert infrared.angle <= export.MAX_ANGLE["fp16"]
    assert infrared.file.stat().st_size < 0.6 * pair.with_suffix(".infrared.onnx").stat().st_size


def test_int8_is_a_third_as_large_and_judged_by_other_images_than_it_is_calibrated_by(bundle, manifest, tmp_path):
    arguments = ["export", str(bundle), "--out", str(tmp_path / "small.onnx"), "--precision", "int8"]
    result = CliRunner().invoke(app, arguments)
    assert "calibrated by images" in str(result.exception)
    result = CliRunner().invoke(app, [*arguments, "--calibrate", str(manifest)])
    assert result.exit_code == 0, result.output
    assert result.output.count("max error") == 2
    graph = onnx.load(tmp_path / "small.infrared.onnx")
    assert {p.key: p.value for p in graph.metadata_props}["precision"] == "int8"
    images = [manifest / f"infrared_{k}_0.jpg" for k in range(12)]
    found = OnnxEmbedder(tmp_path / "small.onnx").embed(images)
    angles = 1 - (found * Embedder.load(bundle, torch.device("cpu")).embed(images)).sum(1)
    assert 1e-6 < angles.max() < export.MAX_ANGLE["int8"]
    assert (tmp_path / "small.infrared.onnx").stat().st_size < 0.4 * bundle.stat().st_size


def test_int8_that_turns_the_vectors_is_not_written(bundle, manifest, tmp_path, monkeypatch):
    monkeypatch.setitem(export.MAX_ANGLE, "int8", -1.0)
    monkeypatch.setattr(export, "quantize", lambda path, images: None)
    with pytest.raises(InputError, match=r"as int8 it differs from PyTorch by .* in cosine; export it as fp32$"):
        export.export_onnx(bundle, tmp_path, "int8", open_dataset("manifest", manifest))
    assert not list(tmp_path.iterdir())


def test_a_pair_is_written_as_a_whole(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "compare", lambda embed, embedder, modality, judged: (float(modality), 0.0))
    with pytest.raises(InputError, match=r"infrared\.onnx was not written"):
        export.export_onnx(bundle, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_differs_is_not_written(bundle, tmp_path, monkeypatch):
    trace = export._trace

    def other_weights(embedder, *arguments):
        trace(tiny("agw", seed=1), *arguments)

    monkeypatch.setattr(export, "_trace", other_weights)
    old = tmp_path / "agw.v1.visible.onnx"
    old.write_text("old")
    with pytest.raises(InputError, match=r"1\.visible\.onnx was not written: as fp32 it differs .* in an entry"):
        export.export_onnx(bundle, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [old.name]
    assert old.read_text() == "old"


def test_bad_models_are_named(pair, tmp_path):
    model = onnx.load(pair.with_suffix(".visible.onnx"))
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    (tmp_path / "torn.onnx").write_bytes(b"\x08no")
    for name, sentence in {
        "none.onnx": r"none\.visible\.onnx: no such file",
        "torn.onnx": "cannot be opened as an ONNX model",
        "foreign.onnx": "without vireid metadata",
    }.items():
        with pytest.raises(InputError, match=sentence):
            OnnxEmbedder(tmp_path / name)
    visible = OnnxEmbedder(pair.with_suffix(".visible.onnx"))
    for images, options, sentence in (
        ([], {"modality": "infrared"}, "embeds visible images, not infrared"),
        ("a.jpg", {"modality": "visible"}, "put a single one into a list"),
        (["a.jpg"], {"modality": "visible", "batch_size": -1}, "batch_size=-1: use 1 or more"),
    ):
        with pytest.raises(InputError, match=sentence):
            visible.embed(images, **options)
    model = onnx.load(pair.with_suffix(".infrared.onnx"))
    next(p for p in model.metadata_props if p.key == "vireid").value = '{"image_size": [1, 1]}'
    onnx.save(model, tmp_path / "mixed.infrared.onnx")
    shutil.copy(pair.with_suffix(".visible.onnx"), tmp_path / "mixed.visible.onnx")
    with pytest.raises(InputError, match="are of different bundles"):
        OnnxEmbedder(tmp_path / "mixed.onnx")


def test_embed_command_runs_an_onnx_model_without_torch(pair, manifest, tmp_path):
    out = tmp_path / "night.parquet"
    arguments = ["embed", str(pair), str(manifest / "infrared_0_0.jpg"), "--out", str(out)]
    script = (
        f"import sys; from vireid.cli import app; app({arguments!r}, standalone_mode=False); "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    vector = pd.read_parquet(out)["embedding"][0]
    assert vector == pytest.approx(OnnxEmbedder(pair).embed([manifest / "infrared_0_0.jpg"])[0], abs=1e-6)
