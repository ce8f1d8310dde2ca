"""Runs made by the command line, for the methods' tests."""

import torch
import yaml
from typer.testing import CliRunner

import vireid
from vireid.cli import app
from vireid.methods import build
from vireid.recipe import load_recipe, packaged_recipe
from vireid.training.checkpoint import latest_checkpoint

VIEWS = load_recipe(packaged_recipe("caj", "synthetic")).augment.model_dump(mode="json")
HYBRID = {"image_size": (64, 32), "drop_path": 0.0, "hybrid": {"dim": 32, "depth": 2, "heads": 2}}
NARROW = {"structure_dim": 16, "attention_dim": 8, "tpi_dim": 16, "tpi_heads": 2, "tpi_ffn": 16, "parts": 3}
TWO_STRIPES = {"stripes": 2, "fusion": {"width": 8, "rank": 4}}
ADAM = {"kind": "adam", "lr": 1e-3, "phase": "generator"}
RUNS = {
    "caj": {"options": {"consistency_weight": 1.0}, "augment": {**VIEWS, "pad": 3}},
    "cmlspge": {"options": {"stripes": 2, "stripe_dim": 16}},
    "cmtr": {"options": {"vit": HYBRID}},
    "hicmd": {
        "backbone": {"name": "resnet10t", "weights": "none", "last_stride": 2},
        "data": {"image_size": [64, 40]},
        "options": {"width": 2, "embedding_dim": 32, "metric_dim": 16, "warm_generation": 1, "warm_id": 1},
        "augment": {"pad": 0},
        "sampling": {"identities": 4, "visible": 1, "infrared": 1, "steps": 2},
        "optimizers": {"discriminator": {**ADAM, "phase": "discriminator"}, "generator": ADAM, "head": ADAM},
        "schedule": {"kind": "halving", "halve_every": 1},
    },
    "maum": {"options": {"memory": {"stage1_epochs": 0, "snapshots_visible": 3, "snapshots_infrared": 3}}},
    "msclnet": {"backbone": {"name": "resnet18", "weights": "none"}, "options": TWO_STRIPES},
    "spot": {"options": NARROW},
}
"""What the tiny run of a method has in place of the values that all share."""


def command(*words):
    """Run a command that must succeed, and return what it prints."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def train_by_command(folder, recipe):
    """Train by a recipe on a manifest; return the run folder and what was printed."""
    file, run = folder / "recipe.yaml", folder / "run"
    file.write_text(yaml.safe_dump(recipe))
    data = ["--data", "manifest", "--root", recipe["data"]["root"]]
    return run, command("train", recipe["method"], *data, "--recipe", file, "--out", run)


def checkpoint_and_bundle(run, num_classes=8):
    """Return a run's method twice, from its last checkpoint and from its bundle, in eval mode."""
    recipe = load_recipe(run / "recipe.yaml")
    backbone, options = {**recipe.backbone.model_dump(), "weights": "none"}, recipe.options.model_dump()
    trained = build(recipe.method, num_classes=num_classes, backbone=backbone, **options).eval()
    state = torch.load(latest_checkpoint(run), map_location="cpu", weights_only=True)["state_dict"]
    trained.load_state_dict({name.removeprefix("method."): value for name, value in state.items()})
    return trained, vireid.load(run / "last.safetensors").method
