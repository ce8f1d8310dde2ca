"""`vireid export`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

console = Console()


def register(app: typer.Typer) -> None:
    """Add the command to an app."""
    app.command()(export)


def export(
    bundle: Annotated[Path, typer.Argument(help="bundle")],
    style: Annotated[Literal["onnx"], typer.Option("--format", help="onnx")] = "onnx",
    out: Annotated[Path, typer.Option("--out", help="folder, or NAME.onnx")] = Path(),
    precision: Annotated[Literal["fp32", "fp16"], typer.Option(help="of weights and products")] = "fp32",
) -> None:
    """Write NAME.visible.onnx and NAME.infrared.onnx, each compared with PyTorch before it is kept.

    Example: `vireid export runs/demo/best.safetensors --format onnx --out models`
    """
    from vireid.export import export_onnx

    for graph in export_onnx(bundle, out, precision):
        text = f"{graph.file}: max error {graph.error:.1e}, 1 - cosine {graph.angle:.1e} against PyTorch"
        console.print(text, soft_wrap=True, highlight=False)
