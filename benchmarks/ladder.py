"""Ablation ladders on synthetic data: train every rung with every seed, write one JSON a run, and the table from those.

    vireid synth --preset synthetic-v1 --out data/synthetic-v1
    python benchmarks/ladder.py run agw --root data/synthetic-v1 --rung baseline --rung "AGW (all" --seed 0 --seed 1
    python benchmarks/ladder.py write                               # docs/results.md from benchmarks/results/*.json

A ladder is a YAML file in benchmarks/ladders: a recipe, which rung is the whole method, and for each rung the `--set`
overrides that make it; a rung `{of: RUNG, …}` is the training of another rung, tested otherwise: the rest are fields of
`EvaluateRequest`, or `unrefined: true` for a refiner's encoder. A run that has its JSON is skipped, one that was
interrupted is resumed, so the script can be started again at any time.
"""

from __future__ import annotations

import datetime
import json
import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml
from rich.console import Console

from vireid import training
from vireid.environment import cpu_model, git_commit
from vireid.evaluation.command import EvaluateRequest, open_model
from vireid.recipe import load_recipe, packaged_recipe

app = typer.Typer()
HERE = Path(__file__).parent
PROTOCOLS = ("cross-ir2vis", "cross-vis2ir", "intra-vis")
METRICS = ("rank1", "mAP", "mINP")
LADDERS = sorted(path.stem for path in (HERE / "ladders").glob("*.yaml"))
HEADER = """| rung | seeds | IR→VIS rank-1 | mAP | mINP | VIS→IR rank-1 | mAP | mINP | VIS→VIS rank-1 | minutes |
|---|---|---|---|---|---|---|---|---|---|"""


def result_file(ladder: str, rung: str, spectrum: str, seed: int) -> Path:
    """Where a run's JSON lies."""
    slug = "".join(c if c.isalnum() else "-" for c in rung).strip("-").lower()
    return HERE / "results" / f"{ladder}.{slug}.{spectrum}.{seed}.json"


@app.command()
def run(
    ladder: str,
    root: Annotated[Path, typer.Option(help="folder made by vireid synth")],
    spectrum: Annotated[str, typer.Option(help="nir or lwir")] = "nir",
    rung: Annotated[list[str] | None, typer.Option(help="start of a rung's name, tests of it included")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="default: 0, 1, 2")] = None,
    encoder: Annotated[Path | None, typer.Option(help="run or bundle that a refiner is trained on")] = None,
    override: Annotated[list[str] | None, typer.Option("--set", help="for every rung, such as epochs=4")] = None,
    work: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs/ladders"),
    keep: Annotated[bool, typer.Option(help="keep the runs and their bundles")] = False,
) -> None:
    """Train and evaluate the rungs of one ladder."""
    definition = yaml.safe_load((HERE / "ladders" / f"{ladder}.yaml").read_text())
    for number in seed or [0, 1, 2]:
        for name, changes in trainings(definition).items():
            tests = test_rungs(definition, name)
            done = all(result_file(ladder, key, spectrum, number).exists() for key in tests)
            if done or (rung and not any(key.startswith(tuple(rung)) for key in tests)):
                continue
            folder = work / result_file(ladder, name, spectrum, number).stem
            started = time.monotonic()
            if not (folder / "recipe.yaml").exists():
                fixed = [f"data.root={root}", f"data.options.spectrum={spectrum}", f"seed={number}"]
                refined = [] if encoder is None else [f"encoder={encoder}"]
                changed = [*fixed, *refined, "validation.every=0", *changes, *(override or [])]
                training.train(load_recipe(packaged_recipe(definition["recipe"], "synthetic"), changed), folder)
            else:
                training.resume(folder)
            seconds = time.monotonic() - started
            entry = {"ladder": ladder, "spectrum": spectrum, "seed": number, "seconds": round(seconds)}
            for key, more in tests.items():
                target = result_file(ladder, key, spectrum, number)
                target.parent.mkdir(exist_ok=True)
                target.write_text(json.dumps({**entry, "rung": key, **score(folder, more)}, indent=1) + "\n")
            if not keep:
                shutil.rmtree(folder)


def trainings(definition: dict[str, Any]) -> dict[str, list[str]]:
    """Return the overrides of the rungs that are trained."""
    return {name: rung for name, rung in definition["rungs"].items() if isinstance(rung, list)}


def test_rungs(definition: dict[str, Any], trained: str) -> dict[str, dict[str, Any]]:
    """Return the rungs that one training gives, itself first, each with what is different at test time."""
    tested = {name: dict(rung) for name, rung in definition["rungs"].items() if isinstance(rung, dict)}
    return {trained: {}, **{name: rung for name, rung in tested.items() if rung.pop("of") == trained}}


def score(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Evaluate a run's last bundle on the test identities, in both directions and within the visible modality."""
    recipe = load_recipe(folder / "recipe.yaml")
    asked = {"flip": recipe.validation.flip, **changes}
    model = recipe.encoder if asked.pop("unrefined", False) else folder
    options = tuple(f"{key}={value}" for key, value in recipe.data.options.items())
    data = {"data": recipe.data.name, "root": recipe.data.root, "options": options}
    request = EvaluateRequest(protocols=PROTOCOLS, **data, **asked)
    _, table, protocols = open_model(request, model, None)
    metrics = {p.name: table.evaluate(p, rerank=request.rerank).summary.mean() for p in protocols}
    return {
        "metrics": metrics,
        "data": json.loads((table.records.root / "synthetic.json").read_text()),
        "epochs": recipe.epochs,
        "commit": git_commit(),
        "cpu": cpu_model(),
        "date": str(datetime.date.today()),
    }


@app.command()
def write(out: Path = HERE.parent / "docs" / "results.md") -> None:
    """Write the tables of every ladder that has results."""
    entries = [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))]
    parts = [INTRODUCTION, *(side_by_side(spectrum, entries) for spectrum in ("nir", "lwir"))]
    for ladder in sorted({e["ladder"] for e in entries}):
        parts.append(section(ladder, [e for e in entries if e["ladder"] == ladder]))
    out.write_text("\n".join(parts))
    Console().print(f"{len(entries)} runs in {out}")


INTRODUCTION = """# Results on synthetic data

Everything on this page is measured on **synthetic** people (`vireid synth`), not on people. It shows what a part does
on this data, at this size of training; it is no prediction for SYSU-MM01 or RegDB. Each figure is the mean ± sample
standard deviation over seeds, in percent, of the last checkpoint on test identities never seen in training: no flip
unless the recipe says so, no re-ranking, no selection on the test set. Written by `python benchmarks/ladder.py write`
from the files in `benchmarks/results`, which `python benchmarks/ladder.py run LADDER --root DIR` makes.

**How the classifiers are trained matters more than most parts.** With 2,000 identities and 16 of them in a batch, a row
of an identity classifier has a gradient of its own once in 125 steps; Adam makes full steps of the noise in between.
The synthetic recipes train classifiers by SGD, as the papers do, and everything else by AdamW. Rungs "by AdamW" show
the other way.

Minutes are wall time, many of them one thread on a machine busy with other work: no measure of a method's cost.
"""


def side_by_side(spectrum: str, entries: list[dict[str, Any]]) -> str:
    """The whole of every method, best mAP from infrared to visible first."""
    ladders = {name: yaml.safe_load((HERE / "ladders" / f"{name}.yaml").read_text()) for name in LADDERS}
    runs = {
        definition["title"]: [
            e for e in entries if (e["ladder"], e["rung"], e["spectrum"]) == (name, definition["whole"], spectrum)
        ]
        for name, definition in ladders.items()
    }
    trained = {title: own for title, own in runs.items() if own}
    order = sorted(trained, key=lambda t: -np.mean([e["metrics"]["cross-ir2vis"]["mAP"] for e in trained[t]]))
    head = f"\n## Side by side, {spectrum.upper()}\n\n{HEADER.replace('rung', 'method', 1)}"
    return "\n".join([head, *(row(title, trained[title]) for title in order), ""]) if trained else ""


def row(name: str, runs: list[dict[str, Any]]) -> str:
    """One line of a table."""
    cells = [spread(runs, protocol, metric) for protocol in PROTOCOLS[:2] for metric in METRICS]
    minutes = np.mean([e["seconds"] for e in runs]) / 60
    return f"| {name} | {len(runs)} | {' | '.join([*cells, spread(runs, 'intra-vis', 'rank1')])} | {minutes:.1f} |"


def section(ladder: str, entries: list[dict[str, Any]]) -> str:
    """One ladder's tables, a table a spectrum."""
    definition = yaml.safe_load((HERE / "ladders" / f"{ladder}.yaml").read_text())
    lines = [f"\n## {definition['title']}\n"]
    for spectrum in sorted({e["spectrum"] for e in entries}, reverse=True):
        own = [e for e in entries if e["spectrum"] == spectrum]
        stamp = sorted({(e["commit"], e["date"], e["cpu"], e["epochs"]) for e in own})
        lines += [
            f"{spectrum.upper()}, {own[0]['data'].get('preset', '')}; "
            + "; ".join(f"commit {c}, {d}, {cpu}, {n} epochs" for c, d, cpu, n in stamp)
            + "\n",
            HEADER,
        ]
        runs = {rung: [e for e in own if e["rung"] == rung] for rung in definition["rungs"]}
        lines += [row(rung, found) for rung, found in runs.items() if found]
        lines.append("")
    return "\n".join(lines)


def spread(runs: list[dict[str, Any]], protocol: str, metric: str) -> str:
    """Mean ± sd in percent."""
    values = 100 * np.array([e["metrics"][protocol][metric] for e in runs])
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" if len(values) > 1 else f"{values[0]:.1f}"


if __name__ == "__main__":
    app()
