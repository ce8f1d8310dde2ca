"""Training on two processes: the same as on one, with memories that agree, evaluation that is exact, one voice."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from ranks_script import freeze_norm
from vireid.data.sampler import Sampling
from vireid.embedder import BATCH_SIZE
from vireid.errors import InputError
from vireid.losses import all_rows, gathering, over_ranks
from vireid.methods import build
from vireid.recipe import Recipe, load_recipe
from vireid.training import train
from vireid.training.callbacks import share_rows
from vireid.training.ranks import Launch, Ranks, plan_launch, synchronise_norms

SGD = {"kind": "sgd", "lr": 0.02}
QUIET = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
SCRIPT = Path(__file__).with_name("ranks_script.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def recipes(tiny_recipe):
    """Tiny recipes without random numbers in a step, in float32."""
    common = {
        **tiny_recipe,
        "backbone": {"name": "resnet10t", "weights": "none", "last_stride": 2},
        "augment": {"pad": 0, "flip": 0.0},
        "optimizers": {"main": SGD},
        "precision": "32",
    }
    memory = {"stage1_epochs": 0, "snapshots_visible": 2, "snapshots_infrared": 2, "enqueue": "batch"}
    gan = {phase: {**SGD, "lr": 1e-4, "phase": phase} for phase in ("discriminator", "generator")}
    return {
        "agw": {**common, "options": {"triplet": "batch_hard"}},
        "maum": {**common, "method": "maum", "options": {"memory": memory}},
        "msclnet": {
            **common,
            "method": "msclnet",
            "options": {"stripes": 2, "instance_eps": 0.1, "fusion": {"width": 8, "rank": 4, "clip": 0.3}},
        },
        "hicmd": {
            **common,
            "method": "hicmd",
            "data": {**tiny_recipe["data"], "image_size": [64, 40]},
            "options": {"width": 2, "embedding_dim": 32, "metric_dim": 16, "dropout": 0, "erasing": 0},
            "optimizers": {**gan, "head": {**SGD, "phase": "generator"}},
        },
        "nformer": {
            **common,
            "method": "nformer",
            "options": {
                "project": True,
                "dim": 16,
                "layers": 1,
                "landmarks": 16,
                "dropout": 0,
                "graph_centering": True,
            },
            "projection": {"epochs": 1},
            "sequences": {"pool_views": "eval", "length": 16, "by_modality": True, "steps": 2},
            "optimizers": {"main": SGD, "centers": SGD},
        },
    }


@pytest.fixture(scope="module")
def folder(recipes, tmp_path_factory):
    """What two ranks made of the recipes, under torchrun."""
    folder = tmp_path_factory.mktemp("ranks")
    recipes["nformer"]["encoder"] = str(folder / "agw")
    (folder / "recipes.yaml").write_text(yaml.safe_dump(recipes))
    subprocess.run([*TORCHRUN, str(SCRIPT), str(folder)], env={**os.environ, **QUIET}, check=True)
    return folder


def curves(run):
    with (run / "logs" / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return [{name: value for name, value in row.items() if not name.startswith("statistics/")} for row in rows]


@pytest.mark.parametrize("name", ["agw", "msclnet", "hicmd", "nformer"])
def test_two_ranks_train_what_one_process_trains(recipes, folder, tmp_path, monkeypatch, name):
    """BatchNorm stands still in both, see `freeze_norm`, and gathered losses see the global batch: all is equal."""
    with monkeypatch.context() as patch:
        patch.setattr(nn.modules.batchnorm._BatchNorm, "forward", None)
        freeze_norm()
        train(load_recipe(recipes[name]), tmp_path / "run")
    one, two = curves(tmp_path / "run"), curves(folder / name)
    assert [row.keys() for row in one] == [row.keys() for row in two]
    for alone, together in zip(one, two, strict=True):
        assert together == pytest.approx(alone, rel=1e-3, abs=1e-6)
    expected, found = load_file(tmp_path / "run" / "last.safetensors"), load_file(folder / name / "last.safetensors")
    assert all(torch.allclose(found[key], expected[key], atol=1e-4) for key in expected)


@pytest.mark.parametrize("name", ["agw", "maum", "msclnet", "hicmd", "nformer"])
def test_gradients_are_means_and_ranks_stay_equal(folder, name):
    first, second = (torch.load(folder / f"{name}-{rank}.pt") for rank in (0, 1))
    from_mean, from_own = np.array(first["errors"]).T
    assert from_mean.max() < 1e-3
    assert (from_own > 0.1).mean() > 0.2
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
    assert {p.name for p in (folder / name).iterdir()} >= {"recipe.yaml", "last.safetensors", "best.safetensors"}
    assert [p.name for p in sorted((folder / name / "checkpoints").iterdir())] == ["epoch-0000.ckpt", "epoch-0001.ckpt"]


def test_memories_take_the_identities_of_all_ranks(folder):
    first, second = (torch.load(folder / f"maum-{rank}.pt")["queues"] for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert int(first[2]) > 8


def vireid(*arguments, **environment):
    command = [sys.executable, str(SCRIPT), "train", *map(str, arguments), "--devices", "2"]
    return subprocess.run(
        command, env={**os.environ, **QUIET, **environment}, capture_output=True, text=True, check=False
    )


def test_one_rank_s_nan_ends_all_with_one_sentence_and_a_resumed_run_is_the_uninterrupted_one(
    recipes, folder, manifest, tmp_path
):
    run, recipe = tmp_path / "run", tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(recipes["agw"]))
    arguments = ["agw", "--data", "manifest", "--root", manifest, "--recipe", recipe, "--out", run]
    broken = vireid(*arguments, RANK_OF_NAN="1")
    assert broken.returncode == 2, broken.stderr
    assert broken.stderr.count("error: loss term id became nan in epoch 1, batch 0: lower") == 1
    assert "(rank 1)" in broken.stderr
    assert "Traceback" not in broken.stderr
    resumed = vireid("--resume", run)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.count("training agw on manifest") == resumed.stdout.count("bundle: ") == 1
    expected, found = (load_file(where / "last.safetensors") for where in (folder / "agw", run))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("gpus", "cores", "devices", "nodes", "environment", "found"),
    [
        (0, 2, 2, 1, {}, Launch(2, 1)),
        (0, 2, 4, 1, {}, "--devices 4: this machine has no GPU and 2 CPU cores, so use 1 to 2"),
        (1, 8, 4, 1, {}, "--devices 4: this machine has 1 GPUs"),
        (0, 2, 0, 1, {}, "--devices 0"),
        (0, 2, 1, 0, {}, "--num-nodes 0: use 1 or more"),
        (0, 2, 1, 2, {}, "--num-nodes 2 needs a launcher on every machine: run torchrun --nnodes 2"),
        (0, 2, 1, 1, {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}, Launch(2, 3)),
        (0, 2, 2, 3, {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}, Launch(2, 3)),
        (0, 2, 3, 1, {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}, "torchrun started 3 x 2 processes, against"),
    ],
)
def test_a_launch_is_checked_before_anything_is_made(gpus, cores, devices, nodes, environment, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", lambda index: None)
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    for name, value in (environment and {**environment, "TORCHELASTIC_RUN_ID": "1"}).items():
        monkeypatch.setenv(name, value)
    if isinstance(found, Launch):
        assert plan_launch(devices, nodes) == found
    else:
        with pytest.raises(InputError, match=found):
            plan_launch(devices, nodes)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("sampling.identities=3", "sampling.identities=3 cannot be divided over 2 devices"),
        ("sampling.identities=2 sampling.visible=1 sampling.infrared=0", "a batch has one image on a device"),
        ("sampling.kind=single augment.visible_twin={}", "augment.visible_twin doubles the visible images, of which"),
    ],
)
def test_what_ranks_cannot_share_is_refused_before_a_run_is_made(setting, sentence, tiny_recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    with pytest.raises(InputError, match=sentence):
        train(load_recipe(tiny_recipe, setting.split()), tmp_path / "run", devices=2)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("count", "size"), [(0, 2), (5, 2), (3 * BATCH_SIZE + 1, 2), (5 * BATCH_SIZE, 3)])
def test_shares_are_whole_batches_of_every_row_once(count, size):
    shares = share_rows(count, size)
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(count))
    starts = [share[i] for share in shares for i in range(0, len(share), BATCH_SIZE)]
    assert sorted(starts) == list(range(0, count, BATCH_SIZE))


def test_rows_of_a_process_alone_are_its_own():
    rows = torch.ones(3, 2)
    assert all_rows(rows) is rows
    with gathering(True):
        assert over_ranks(lambda x, scale: x * scale)(rows, 2).sum() == 12
    assert Ranks().gather("own") == ["own"]


def test_synchronised_norms_keep_what_the_network_computes():
    """The conversion of timm keeps the activations inside its norms, which that of PyTorch loses."""
    method = build("agw", num_classes=2, backbone={"weights": "none"}).eval()
    images, modality = torch.rand(2, 3, 64, 32), torch.tensor([0, 1])
    before = method.features(images, modality)["global"]
    converted = synchronise_norms(method, Recipe(), modality.numpy()).eval()
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    assert torch.allclose(converted.features(images, modality)["global"], before)
    pooled = Recipe(method="nformer", encoder=Path("encoder"), sampling=Sampling(kind="single"))
    refiner = synchronise_norms(build("nformer", num_classes=2, input_dim=1280), pooled, modality.numpy())
    assert isinstance(refiner.neck, nn.SyncBatchNorm)
    # the projection is trained on CPUs, then frozen
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in refiner.projection.modules())
    single = Recipe(sampling=Sampling(kind="single"))
    synchronise_norms(method, single, np.zeros(3, np.int64))
    with pytest.raises(InputError, match=r"leave a GPU without images of one modality.*sync_norm=false"):
        synchronise_norms(method, single, np.array([0, 1]))
