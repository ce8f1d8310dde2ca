"""The commands that make, check and prepare data sets: `vireid synth`, `vireid pose` and `vireid data`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from vireid.cli.options import DataOption, console
from vireid.progress import progress_bar

data_app = typer.Typer(help="Look at data sets.", no_args_is_help=True)


def synth(
    out: Annotated[Path, typer.Option("--out", help="folder to write")],
    preset: Annotated[str, typer.Option(help="demo, synthetic-v1, synthetic-wide or synthetic-hard")] = "demo",
    layout: Annotated[str, typer.Option(help="manifest, sysu_mm01, regdb or llcm")] = "manifest",
    ids: Annotated[int | None, typer.Option(help="number of identities; default: the preset's")] = None,
    seed: Annotated[int | None, typer.Option(help="default: the preset's")] = None,
    workers: Annotated[int | None, typer.Option(help="processes; default: all cores")] = None,
) -> None:
    """Render a synthetic data set: pedestrians seen by colour, near-infrared and thermal cameras.

    Example: `vireid synth --out data/demo --preset demo`
    """
    from vireid.synth import write_dataset

    write_dataset(out, layout=layout, preset=preset, ids=ids, seed=seed, workers=workers, console=console)
    console.print(f"wrote {escape(str(out))}", soft_wrap=True)


@data_app.command("list")
def data_list() -> None:
    """List the data sets, how to get each and its terms.

    Example: `vireid data list`
    """
    from vireid.data import DATA_SETS

    titles = ("name", "data set", "how to get it", "terms", "protocols")
    table = Table(*(Column(title, overflow="fold") for title in titles))
    for name, info in DATA_SETS.items():
        table.add_row(name, info.title, info.access, info.terms, ", ".join(info.protocols))
    console.print(table)


@data_app.command("check")
def data_check(
    name: Annotated[str, typer.Argument(help="data set")],
    root: Annotated[Path, typer.Option("--root", help="its folder")],
    decode: Annotated[bool, typer.Option(help="also decode every image")] = False,
    strict: Annotated[bool, typer.Option(help="compare with the published counts")] = True,
) -> None:
    """Verify a data set's tree against its published counts; exit code 1 when something differs.

    Example: `vireid data check sysu_mm01 --root /data/SYSU-MM01 --decode`
    """
    from vireid.data.check import inspect

    with progress_bar("decoding", console) as progress:
        result = inspect(name, root, strict=strict, decode=decode, progress=progress)
    table = Table(*map(str, result.summary.columns))
    for row in result.summary.itertuples(index=False):
        table.add_row(*map(str, row))
    console.print(table)
    for finding in result.findings:
        console.print(f"[red]differs:[/red] {escape(str(finding))}")
    for note in result.notes:
        console.print(f"[yellow]note:[/yellow] {note}", soft_wrap=True)
    if result.findings:
        raise typer.Exit(1)
    console.print(f"[green]{name} at {escape(str(root))} is {result.verdict}[/green]", soft_wrap=True)


def pose(
    root: Annotated[Path, typer.Argument(help="manifest, or folder of a data set")],
    data: DataOption = "manifest",
    rtmlib: Annotated[Path | None, typer.Option(help="RTMPose as an ONNX file; needs rtmlib")] = None,
    keypointrcnn: Annotated[Path | None, typer.Option(help="weights of torchvision's Keypoint R-CNN")] = None,
    openpose: Annotated[Path | None, typer.Option(help="folder of OpenPose's JSON files")] = None,
    coco: Annotated[Path | None, typer.Option(help="JSON file of COCO's format, 17 keypoints per person")] = None,
    stretch: Annotated[bool, typer.Option("--stretch", help="raise the contrast of dim images first")] = False,
    out: Annotated[Path | None, typer.Option("--out", help="file; default: keypoints.npz beside the images")] = None,
) -> None:
    """Find the body joints of every image, for methods that use them (SPOT); an interrupted run goes on.

    Examples: `vireid pose crops/manifest.csv --rtmlib rtmpose-m.onnx`,
    `vireid pose /data/SYSU-MM01 --data sysu_mm01 --openpose json/`
    """
    from vireid.pose import PoseRequest, find_poses

    with progress_bar("finding joints", console) as progress:
        result = find_poses(PoseRequest(root, data, rtmlib, keypointrcnn, openpose, coco, stretch, out), progress)
    for reason in result.bad:
        console.print(f"[yellow]skipped:[/yellow] {escape(reason)}")
    shares = ", ".join(f"{share:.0%} of {modality}" for modality, share in result.shares.items())
    kept = f", {result.kept} kept from before" if result.kept else ""
    console.print(f"{escape(str(result.file))}: a pose in {shares} images{kept}, {len(result.bad)} skipped")
    if result.uneven:
        console.print("[yellow]uneven:[/yellow] where poses fail in one modality only, structure gives it away")
