"""Runs made by the command line, for the methods' tests."""

import torch
import yaml
from typer.testing import CliRunner

import vireid
from vireid.cli import app
from vireid.methods import build
from vireid.recipe import load_recipe
from vireid.training.checkpoint import latest_checkpoint


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
