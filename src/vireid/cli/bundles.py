"""`vireid import` and `vireid export`: bundles from other code bases' checkpoints, and ONNX graphs of bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from vireid.cli.options import console

import_app = typer.Typer(help="Turn checkpoints of other code bases into bundles.", no_args_is_help=True)


def export(
    bundle: Annotated[Path, typer.Argument(help="bundle")],
    style: Annotated[Literal["onnx"], typer.Option("--format", help="onnx")] = "onnx",
    out: Annotated[Path, typer.Option("--out", help="folder, or NAME.onnx")] = Path(),
    precision: Annotated[Literal["fp32", "fp16", "int8"], typer.Option(help="of weights and products")] = "fp32",
    calibrate: Annotated[Path | None, typer.Option(help="folder of a data set, whose images int8 is fitted to")] = None,
    data: Annotated[str, typer.Option(help="data set of --calibrate: see `vireid data list`")] = "manifest",
) -> None:
    """Write NAME.visible.onnx and NAME.infrared.onnx, each compared with PyTorch before it is kept.

    Example: `vireid export runs/demo/best.safetensors --format onnx --out models`
    """
    from vireid.data import open_dataset
    from vireid.export import export_onnx

    images = None if calibrate is None else open_dataset(data, calibrate)
    for graph in export_onnx(bundle, out, precision, images):
        text = f"{graph.file}: max error {graph.error:.1e}, 1 - cosine {graph.angle:.1e} against PyTorch"
        console.print(escape(text), soft_wrap=True, highlight=False)


@import_app.command("agw-official")
def agw_official(
    file: Annotated[Path, typer.Argument(help="checkpoint of AGW's official cross-modality code")],
    out: Annotated[Path, typer.Option("--out", help="bundle to write")],
) -> None:
    """Import an official cross-modality AGW (ResNet-50, SYSU-MM01 or RegDB).

    Example: `vireid import agw-official sysu_agw_p4_n8_lr_0.1_seed_0_best.t --out agw-sysu.safetensors`
    """
    from vireid.weights_import import import_agw

    card = import_agw(file, out)
    console.print(
        escape(f"bundle: {out}, {card.num_classes} identities, {card.training_data}"), soft_wrap=True, highlight=False
    )
