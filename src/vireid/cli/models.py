"""The commands that train, evaluate and apply models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from vireid.cli.options import JsonFile, Root, console, figure_option, write_figure
from vireid.errors import InputError
from vireid.progress import progress_bar

Overrides = Annotated[list[str] | None, typer.Option("--set", help="key=value, such as backbone.weights=none")]


def methods() -> None:
    """List the methods and the recipes that ship.

    Example: `vireid methods`
    """
    from vireid.methods import METHODS
    from vireid.recipe import load_recipe, packaged_recipe, packaged_recipes, recipe_names

    table = Table("method or recipe", "what it is", "recipes")
    for name, method in sorted(METHODS.items()):
        table.add_row(name, (method.__doc__ or "").splitlines()[0], ", ".join(packaged_recipes(name)))
    for name in sorted(set(recipe_names()) - set(METHODS)):
        data = packaged_recipes(name)
        table.add_row(name, f"A recipe of {load_recipe(packaged_recipe(name, data[0])).method}.", ", ".join(data))
    console.print(table)


def doctor(root: Annotated[list[Path] | None, typer.Option("--root", help="data folders to look at")] = None) -> None:
    """Show versions, devices, precision, weights found and data roots.

    Example: `vireid doctor --root /data/SYSU-MM01`
    """
    from vireid.doctor import examine

    table = Table("check", "finding", "")
    healthy = True
    for finding in examine(root or []):
        table.add_row(finding.name, escape(finding.value), "[green]ok[/green]" if finding.ok else "[red]mend[/red]")
        healthy = healthy and finding.ok
    console.print(table)
    raise typer.Exit(0 if healthy else 1)


def train(
    context: typer.Context,
    method: Annotated[str | None, typer.Argument(help="method or shipped recipe, see `vireid methods`")] = None,
    data: Annotated[str | None, typer.Option("--data", help="data set; default: the recipe's, or synthetic")] = None,
    root: Root = None,
    recipe: Annotated[Path | None, typer.Option(help="YAML file; default: the shipped recipe")] = None,
    override: Overrides = None,
    out: Annotated[Path | None, typer.Option("--out", help="run folder; default: runs/DATA-METHOD-SEED")] = None,
    resume: Annotated[Path | None, typer.Option(help="run folder to go on with")] = None,
    devices: Annotated[int, typer.Option(help="GPUs, or CPU processes, of a machine")] = 1,
    num_nodes: Annotated[int, typer.Option(help="machines, each started by torchrun or SLURM")] = 1,
) -> None:
    """Train a method, or go on with a run.

    Examples: `vireid train agw --data sysu_mm01 --root /data/SYSU-MM01`,
    `vireid train agw --root data/demo --set options.wrt=exact --set epochs=20`, `vireid train --resume runs/demo`,
    `vireid train agw --data sysu_mm01 --root /data/SYSU-MM01 --devices 4`
    """
    from vireid import training
    from vireid.recipe import load_recipe, packaged_recipe

    console.quiet = not training.is_rank_zero()
    if resume is not None:
        _refuse_with_resume(context)
        bundle = training.resume(resume, console=console, devices=devices, num_nodes=num_nodes)
    else:
        if method is None:
            raise InputError("name a method or a shipped recipe, such as vireid train agw, or pass --resume RUN")
        for entry in override or ():
            if entry.partition("=")[0].strip() == "method":
                raise InputError(f"--set {entry}: name the method in the command, vireid train METHOD")
        resolved = load_recipe(recipe or packaged_recipe(method, data or "synthetic"), override, data=data, root=root)
        if recipe is not None and resolved.method != method:
            raise InputError(f"recipe {recipe} is for method {resolved.method}, not {method}: name that one")
        run = out or Path("runs") / f"{resolved.data.name}-{method}-{resolved.seed}"
        bundle = training.train(resolved, run, console=console, devices=devices, num_nodes=num_nodes)
    console.print(f"bundle: {escape(str(bundle))}\nnext: vireid report {escape(str(bundle.parent))}", soft_wrap=True)


def _refuse_with_resume(context: typer.Context) -> None:
    flags = {name: f"--{name}" for name in ("data", "root", "recipe", "out")}
    sources = {flag: context.get_parameter_source(name) for name, flag in {**flags, "override": "--set"}.items()}
    sources["the method"] = context.get_parameter_source("method")
    if given := [flag for flag, source in sources.items() if source is not None and source.name == "COMMANDLINE"]:
        raise InputError(f"--resume goes on with a run as it is: leave out {', '.join(given)}, or start a new run")


def evaluate(
    models: Annotated[list[Path] | None, typer.Argument(help="run folders or bundles; several are trials")] = None,
    data: Annotated[str | None, typer.Option("--data", help="data set; default: the run's")] = None,
    root: Root = None,
    protocol: Annotated[list[str] | None, typer.Option(help="preset; default: the data set's own")] = None,
    query: Annotated[str | None, typer.Option(help="modality that asks, for your own data")] = None,
    gallery: Annotated[str | None, typer.Option(help="modality that is searched, for your own data")] = None,
    features: Annotated[Path | None, typer.Option(help="score this .parquet, .npz or .mat instead of a model")] = None,
    feature: Annotated[str, typer.Option(help="which vector of the method")] = "global",
    flip: Annotated[bool, typer.Option(help="average each image with its mirror image")] = False,
    rerank: Annotated[str | None, typer.Option(help="k-reciprocal or k-reciprocal-queries")] = None,
    refine: Annotated[Path | None, typer.Option(help="run or bundle of a refiner, trained on this encoder")] = None,
    refine_set: Annotated[list[str] | None, typer.Option(help="how to refine, such as mode=local")] = None,
    roc: Annotated[bool, typer.Option("--roc", help="also true positive rates at given false positive rates")] = False,
    distractors: Annotated[
        str | None, typer.Option(help="fill the gallery: a folder of crops, or synthetic:N for rendered data")
    ] = None,
    figure: Annotated[Path | None, figure_option("draw the distractor curve into this .png or .svg")] = None,
    options: Annotated[list[str] | None, typer.Option("--option", help="loader option, such as trial=3")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="the method's option at test time, such as test_distance=global")
    ] = None,
    select: Annotated[str, typer.Option(help="which bundle of a run: last or best")] = "last",
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"] | None, typer.Option(help="of the network; default: the training's")
    ] = None,
    json_file: JsonFile = None,
    style: Annotated[
        Literal["console", "latex", "markdown"], typer.Option("--format", help="of the table")
    ] = "console",
) -> None:
    """Evaluate by a published protocol.

    Examples: `vireid evaluate runs/sysu --protocol sysu-all --protocol sysu-indoor --json sysu.json`,
    `vireid evaluate runs/regdb-* --format latex` (ten splits, ten models),
    `vireid evaluate best.safetensors --data manifest --root crops --query infrared --gallery visible --roc`,
    `vireid evaluate --features features.npz --protocol cross`,
    `vireid evaluate runs/agw --refine runs/nformer --refine-set mode=local`,
    `vireid evaluate runs/sysu --protocol sysu-all --distractors crops/ --figure curve.png`
    """
    from vireid.evaluation.command import EvaluateRequest, refuse, run_evaluation
    from vireid.evaluation.tables import render, roc_table, write_json

    request = EvaluateRequest(
        models=tuple(models or ()),
        features=features,
        data=data,
        root=root,
        protocols=tuple(protocol or ()),
        query=query,
        gallery=gallery,
        feature=feature,
        flip=flip,
        rerank=rerank,
        refine=refine,
        refine_set=tuple(refine_set or ()),
        roc=roc,
        options=tuple(options or ()),
        method_options=tuple(override or ()),
        select=select,
        precision=precision,
    )
    if distractors is not None:
        refuse("--distractors", {"--format": style != "console"})
        _evaluate_with_strangers(request, distractors, figure, json_file)
        return
    if figure is not None:
        raise InputError("--figure draws the curve of --distractors: name some, or leave it out")
    with progress_bar("embedding", console) as progress:
        results = run_evaluation(request, progress)
    console.print(render(results, style), soft_wrap=style != "console")
    for result in results:
        if result.roc is not None:
            console.print(roc_table(result.protocol.name, result.roc))
    if json_file is not None:
        write_json(json_file, results)


def _evaluate_with_strangers(request: Any, source: str, figure: Path | None, json_file: Path | None) -> None:
    from vireid.evaluation.strangers import evaluate_with_strangers
    from vireid.evaluation.tables import curve_table, write_curves
    from vireid.plots import gallery_size_figure

    with progress_bar("embedding", console) as progress:
        curves = evaluate_with_strangers(request, source, progress)
    for name, curve in curves.items():
        console.print(curve_table(name, curve.points, curve.stamp))
    if json_file is not None:
        write_curves(json_file, {name: curve.as_dict() for name, curve in curves.items()})
    if figure is not None:
        write_figure(gallery_size_figure({name: curve.points for name, curve in curves.items()}), figure)


def embed(
    bundle: Annotated[Path, typer.Argument(help="bundle, or an .onnx file of `vireid export`")],
    images: Annotated[list[Path], typer.Argument(help="image files or folders")],
    out: Annotated[Path, typer.Option("--out", help="Parquet file: path, modality and embedding")],
    modality: Annotated[str, typer.Option(help="visible or infrared")] = "infrared",
    batch_size: Annotated[int, typer.Option(min=1, help="images per forward pass")] = 32,
    precision: Annotated[Literal["auto", "float32", "bfloat16"], typer.Option(help="of a bundle's network")] = "auto",
    engine: Annotated[Literal["local", "ray"], typer.Option(help="this machine, or a Ray cluster")] = "local",
    workers: Annotated[int | None, typer.Option(min=1, help="default: one per core, or with Ray one per GPU")] = None,
) -> None:
    """Embed images into L2-normalised vectors; a killed run goes on where it was when it is started again.

    Unreadable files are skipped and listed in OUT.skipped.csv.

    Example: `vireid embed best.safetensors night/ --modality infrared --out night.parquet`
    """
    from functools import partial

    from vireid.embed import embed_files
    from vireid.embed_parts import Job, on_threads
    from vireid.embed_ray import on_ray
    from vireid.records import Modality

    job = Job(bundle, Modality.parse(modality), batch_size, precision)
    run = partial(on_ray, workers=workers) if engine == "ray" else partial(on_threads, threads=workers)
    with progress_bar("embedding", console) as progress:
        done, bad = embed_files(job, images, out, run, progress)
    for reason in bad[:5]:
        console.print(f"[yellow]skipped:[/yellow] {escape(reason)}")
    listed = f", listed in {out}.skipped.csv" if bad else ""
    console.print(escape(f"{done} embeddings in {out}, {len(bad)} files skipped{listed}"), soft_wrap=True)


def report(
    run: Annotated[Path, typer.Argument(help="run folder")],
    out: Annotated[Path | None, typer.Option("--out", help="HTML file; default: RUN/report.html")] = None,
) -> None:
    """Write one self-contained HTML page: metrics, curves, ranked strips, embeddings, losses.

    Example: `vireid report runs/demo`
    """
    from vireid.report import write_report

    target = out or run / "report.html"
    with progress_bar("embedding", console) as progress:
        write_report(run, target, progress)
    console.print(f"report: {escape(str(target))}", soft_wrap=True)


def demo(
    out: Annotated[Path, typer.Option("--out", help="folder for data, run and report")] = Path("demo"),
    fast: Annotated[bool, typer.Option(help="two tiny epochs, to see that everything runs")] = False,
) -> None:
    """Make synthetic people, train AGW on them, evaluate both directions and write a report, in minutes on a CPU.

    Example: `vireid demo`
    """
    from vireid.demo import run_demo

    run_demo(out, fast=fast, console=console)
