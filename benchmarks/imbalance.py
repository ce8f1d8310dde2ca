"""Modality imbalance: what AGW and MAUM keep when most training images of one modality are dropped.

    vireid synth --preset synthetic-v1 --out data/synthetic-v1
    python benchmarks/imbalance.py --root data/synthetic-v1 --drop 0.5 --drop 0.75 --drop 0.9 --seed 0 --seed 1

Trains every contender with every share and seed and prints Markdown tables, means over both search directions and
± the standard deviation over seeds. A run that has its `evaluation.json` is not repeated, one that was interrupted is
resumed. Every identity keeps at least one image: with four infrared images each, 0.75 is the most that can be dropped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from measure import print_header
from vireid import training
from vireid.evaluation.command import EvaluateRequest, run_evaluation
from vireid.evaluation.tables import write_json
from vireid.recipe import load_recipe, packaged_recipe

METRICS = ("rank1", "mAP", "mINP")


def contenders(modality: str) -> dict[str, tuple[str, list[str]]]:
    """Return each contender's method and overrides; MAUM's longer queue is that of the dropped modality."""
    queue = f"options.memory.snapshots_{modality}"
    return {
        "AGW": ("agw", []),
        "MAUM": ("maum", []),
        "MAUM, twice the queue": ("maum", [f"{queue}=64"]),
    }


def trained(folder: Path, method: str, data: str, overrides: list[str]) -> dict[str, float]:
    """Train or resume a run, evaluate its last bundle, and return the metrics as fractions of 1."""
    result = folder / "evaluation.json"
    if not result.exists():
        if (folder / "recipe.yaml").exists():
            training.resume(folder)
        else:
            training.train(load_recipe(packaged_recipe(method, data), overrides), folder)
        write_json(result, run_evaluation(EvaluateRequest(models=(folder,))))
    rows = json.loads(result.read_text())["results"]
    return {name: float(np.mean([row[name] for row in rows])) for name in METRICS}


def main(
    root: Annotated[Path, typer.Option(help="folder of the data set")],
    data: Annotated[str, typer.Option(help="data set with AGW and MAUM recipes")] = "synthetic",
    modality: Annotated[str, typer.Option(help="modality that loses images: visible or infrared")] = "infrared",
    drop: Annotated[list[float] | None, typer.Option(help="dropped shares; default: 0.5, 0.75, 0.9")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="default: 0")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="for every run, such as epochs=4")] = None,
    out: Annotated[Path, typer.Option(help="run folders")] = Path("runs/imbalance"),
) -> None:
    """Train what is missing and print the tables."""
    tables = []
    for share in [0.0, *(drop or [0.5, 0.75, 0.9])]:
        tables.append(f"\n{share:.0%} of {modality} images dropped, {data}, seeds {seed or [0]}\n")
        tables.append("| method | rank-1 | mAP | mINP |\n|---|---|---|---|")
        for name, (method, options) in contenders(modality).items():
            slug = "".join(c if c.isalnum() else "-" for c in name.lower())
            runs = []
            for number in seed or [0]:
                folder = out / f"{data}.{slug}.{modality}.{share}.{number}"
                fixed = [f"data.root={json.dumps(str(root))}", f"data.keep_{modality}={1 - share:g}", f"seed={number}"]
                runs.append(trained(folder, method, data, [*fixed, "validation.every=0", *options, *(override or [])]))
            tables.append(f"| {name} | {' | '.join(spread([run[m] for run in runs]) for m in METRICS)} |")
    print_header()
    print("\n".join(tables))


def spread(values: list[float]) -> str:
    """Return mean ± sample standard deviation in percent."""
    deviation = f" ± {100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{deviation}"


if __name__ == "__main__":
    typer.run(main)
