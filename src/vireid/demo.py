"""What `vireid demo` does: the whole house in minutes, on a CPU."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from vireid import training
from vireid.evaluation.command import EvaluateRequest, run_evaluation
from vireid.evaluation.tables import render, write_json
from vireid.recipe import load_recipe, packaged_recipe
from vireid.report import write_report
from vireid.synth import write_dataset

FAST = ["epochs=2", "sampling.steps=2", "validation.every=0"]


def run_demo(out: Path, *, fast: bool = False, console: Console | None = None) -> Path:
    """Render people, train AGW, evaluate both directions, write the report.

    Args:
        out: folder; an interrupted demo goes on where it stopped.
        fast: two tiny epochs on few identities.
        console: where progress goes.

    Returns:
        The report.
    """
    console = console or Console()
    started = time.monotonic()
    data, run = out / "data", out / "run"
    console.rule("1/4  synthetic people, seen by colour and near-infrared cameras")
    write_dataset(data, preset="demo", ids=24 if fast else None, console=console)
    console.rule("2/4  training AGW on EfficientNet-Lite0")
    if (run / "recipe.yaml").exists():
        training.resume(run, console=console)
    else:
        recipe = load_recipe(packaged_recipe("agw", "demo"), FAST if fast else None, root=data)
        training.train(recipe, run, console=console)
    console.rule("3/4  evaluation on people never seen in training")
    results = run_evaluation(EvaluateRequest(models=(run,)))
    write_json(run / "evaluation.json", results)
    console.print(render(results, "console"))
    console.rule("4/4  report")
    report = run / "report.html"
    write_report(run, report)
    console.print(
        f"synthetic data, not a claim about real people; {time.monotonic() - started:.0f} s\n"
        f"open      {escape(str(report))}\n"
        f"search    vireid embed {escape(str(run))}/last.safetensors YOUR_NIGHT_CROPS --modality infrared "
        "--out night.parquet\n"
        f"train     vireid train agw --data sysu_mm01 --root /data/SYSU-MM01\n"
        f"your own  vireid train agw --data manifest --root YOUR_FOLDER   (a manifest.csv beside the images)",
        soft_wrap=True,
        highlight=False,
    )
    return report
