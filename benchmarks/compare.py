"""The nine methods and their baselines side by side, on synthetic data, by one protocol.

    vireid synth --preset synthetic-v1 --out data/synthetic-v1
    python benchmarks/compare.py run --root data/synthetic-v1       # every method, spectrum and seed
    python benchmarks/compare.py cost --root data/synthetic-v1      # time of a training step and of an embedding
    python benchmarks/compare.py write                              # docs/results.md, its figure, the tables elsewhere

`run` trains the whole method of every ladder that has no file in --results yet, which is what is published by default;
it can be started again at any time, and several times side by side. `write` takes its numbers from the files in
benchmarks/results and from nothing else.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track
from torch import Tensor

import results_page
from ladder import RESULTS, Results, Run, definition, trained
from results_page import COST, LADDERS, SPECTRA, contenders
from vireid import training
from vireid.allocator import kept_memory
from vireid.data.datamodule import ImageBatches, image_source
from vireid.data.sampler import epoch_batches
from vireid.environment import cpu_model, git_commit
from vireid.evaluation.refine import Refinement, RefineOptions
from vireid.files import write_text
from vireid.methods import Method, build
from vireid.methods.nformer import NFormer
from vireid.recipe import Recipe, load_recipe, packaged_recipe
from vireid.records import Batch, LabelMap, Modality

app = typer.Typer()
app.command("write")(results_page.write)
Root = Annotated[Path, typer.Option(help="folder made by vireid synth")]


@app.command()
def run(
    root: Root,
    spectrum: Annotated[list[str] | None, typer.Option(help="default: nir and lwir")] = None,
    method: Annotated[list[str] | None, typer.Option(help="ladders; default: all of them")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="default: 0, 1, 2")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="for every run, such as epochs=4")] = None,
    work: Annotated[Path, typer.Option(help="folder of the runs, which are kept")] = Path("runs/ladders"),
    results: Results = RESULTS,
) -> None:
    """Train and evaluate what has no result yet."""
    for number in seed or [0, 1, 2]:
        for light in spectrum or SPECTRA:
            for ladder, rung in contenders(method or LADDERS):
                one = Run(*trained(ladder, rung), light, number)
                one.finish(root, override or [], work, results, keep=True)


@app.command()
def cost(root: Root, rounds: int = 8) -> None:
    """Measure each method's training step and embedding on one resident batch, in milliseconds an image.

    A refiner's embedding is its encoder's, and the refinement of all images of the test identities at once. What is
    kept is the median of some rounds over all methods, so that what else the machine does meets all alike.
    """
    recipes = {
        name: load_recipe(packaged_recipe(definition(name)["recipe"], "synthetic"), root=root) for name in LADDERS
    }
    encoders = {name: definition(name).get("encoder", [name])[0] for name in LADDERS}
    made = {name: prepared(recipes[name]) for name in LADDERS if encoders[name] == name}
    calls = {name: partial(measured, *pair) for name, pair in made.items()}
    for name in LADDERS:
        if name not in made:
            calls[name] = partial(refined, *prepared_refiner(recipes[name], made[encoders[name]][0].embedding_dim))
    with kept_memory(torch.device("cpu")):
        times = [{name: call() for name, call in calls.items()} for _ in track(range(rounds + 1))]
    typical = {  # the first round warms up
        name: {key: float(np.median([one[name][key] for one in times[1:]])) for key in times[0][name]} for name in calls
    }
    costs: dict[str, Any] = {"cpu": cpu_model(), "commit": git_commit(), "threads": torch.get_num_threads()}
    for name, own in typical.items():
        if name not in made:
            own["embed_ms"] += typical[encoders[name]]["embed_ms"]
        costs[name] = {key: round(value, 2) for key, value in own.items()}
        Console().print(name, costs[name])
    write_text(COST, json.dumps(costs, indent=1) + "\n")


def prepared(recipe: Recipe) -> tuple[Method, Batch]:
    """Build a recipe's method past its warm-ups, and an augmented batch, as the training has them on a CPU."""
    records = training.open_records(recipe).where(split="train")
    labels = LabelMap.of(records.pid).labels(records.pid)
    rows = epoch_batches(labels, records.modality, recipe.sampling, seed=0, epoch=0)[0]
    images = ImageBatches(records, image_source(records, recipe.data.image_size, True), labels)
    terms = {name: term.model_dump() for name, term in recipe.terms.items()}
    options = {"backbone": recipe.backbone, "terms": terms, **recipe.options.model_dump()}
    method = build(recipe.method, num_classes=int(labels.max()) + 1, **options).to(memory_format=torch.channels_last)
    method.on_epoch_start(recipe.epochs)
    generator = torch.Generator().manual_seed(0)
    batch = method.prepare(images.__getitems__(rows.tolist()), generator)
    batch = recipe.augment(batch, method.mean, method.std, generator)
    return method, replace(batch, images=batch.images.contiguous(memory_format=torch.channels_last))


def prepared_refiner(recipe: Recipe, dim: int) -> tuple[Refinement, Tensor, Tensor]:
    """Build a refiner of `dim` wide features, and random ones (N, dim) with the modalities (N,) of the test images."""
    modality = torch.from_numpy(training.open_records(recipe).where(split="test").modality)
    refiner = build(recipe.method, num_classes=2, **{**recipe.options.model_dump(), "input_dim": dim}).eval()
    assert isinstance(refiner, NFormer)
    generator = torch.Generator().manual_seed(0)
    return Refinement(refiner, RefineOptions()), torch.randn(len(modality), dim, generator=generator), modality


def refined(refinement: Refinement, features: Tensor, modality: Tensor) -> dict[str, float]:
    """Return milliseconds an image of refining all features at once, the infrared ones as queries."""
    asks = modality == Modality.INFRARED
    started = time.perf_counter()
    refinement.refine(features[asks], features[~asks], modality[asks], modality[~asks])
    return {"embed_ms": 1000 * (time.perf_counter() - started) / len(features)}


def measured(method: Method, batch: Batch) -> dict[str, float]:
    """Return milliseconds an image of one training step and of one embedding."""
    method.train()
    started = time.perf_counter()
    for phase in method.phases:
        if terms := method.losses(batch, phase):
            torch.stack(list(terms.values())).sum().backward()
    method.after_step()
    trained_at = time.perf_counter()
    side = {name: field for name in method.side_inputs if (field := getattr(batch, name)) is not None}
    method.eval()
    with torch.inference_mode():
        method.features(batch.images, batch.modality, **side)
    ended = time.perf_counter()
    return {
        "train_ms": 1000 * (trained_at - started) / int((batch.view == 0).sum()),  # a twin is no image more
        "embed_ms": 1000 * (ended - trained_at) / len(batch),
    }


if __name__ == "__main__":
    app()
