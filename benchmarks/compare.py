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
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import track

import results_page
from ladder import RESULTS, Results, Run, definition, trained
from results_page import COST, LADDERS, SPECTRA, contenders
from vireid import training
from vireid.allocator import kept_memory
from vireid.data.datamodule import ImageBatches, image_source
from vireid.data.sampler import epoch_batches
from vireid.environment import cpu_model, git_commit
from vireid.files import write_text
from vireid.methods import Method, build, method_class
from vireid.methods.refiner import Refiner
from vireid.recipe import Recipe, load_recipe, packaged_recipe
from vireid.records import Batch, LabelMap

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

    What is kept is the median of some rounds over all methods, so that what else the machine does meets all alike.
    """
    recipes = {
        name: load_recipe(packaged_recipe(definition(name)["recipe"], "synthetic"), root=root) for name in LADDERS
    }
    embedding = {
        name: recipe for name, recipe in recipes.items() if not issubclass(method_class(recipe.method), Refiner)
    }
    made = {name: prepared(recipe) for name, recipe in embedding.items()}
    costs: dict[str, Any] = {"cpu": cpu_model(), "commit": git_commit(), "threads": torch.get_num_threads()}
    with kept_memory(torch.device("cpu")):
        times = [{name: measured(*pair) for name, pair in made.items()} for _ in track(range(rounds + 1))]
    for name, (method, _) in made.items():
        found = np.median([list(one[name].values()) for one in times[1:]], axis=0)  # the first round warms up
        costs[name] = {**dict(zip(times[0][name], found.round(2).tolist(), strict=True)), "dim": method.embedding_dim}
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
        "train_ms": 1000 * (trained_at - started) / len(batch),
        "embed_ms": 1000 * (ended - trained_at) / len(batch),
    }


if __name__ == "__main__":
    app()
