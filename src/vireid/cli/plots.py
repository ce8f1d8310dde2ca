"""`vireid plots`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from vireid.cli.options import DataOption, Root, console, figure_option

plots_app = typer.Typer(help="Draw what a model does.", no_args_is_help=True)


@plots_app.command("swap")
def plots_swap(
    bundle: Annotated[Path, typer.Argument(help="bundle of method hicmd")],
    visible: Annotated[list[Path] | None, typer.Argument(help="visible images")] = None,
    infrared: Annotated[list[Path] | None, typer.Option(help="infrared image; may be repeated")] = None,
    data: DataOption = "synthetic",
    root: Root = None,
    people: Annotated[int, typer.Option(min=1, help="people drawn from the data set at --root")] = 4,
    seed: Annotated[int, typer.Option(help="of the draw")] = 0,
    out: Annotated[Path, figure_option(".png or .svg", "--out")] = Path("swap.png"),
) -> None:
    """Draw people with the pose and illumination of other pictures, by exchanging Hi-CMD's codes.

    Examples: `vireid plots swap runs/hicmd/last.safetensors --root data/synthetic-v1`,
    `vireid plots swap hicmd.safetensors day1.jpg day2.jpg --infrared night1.jpg --out swap.png`
    """
    from vireid.data import open_dataset
    from vireid.records import Modality
    from vireid.swap import choose_pairs, draw_swap

    pictures = [(path, Modality.VISIBLE) for path in visible or []]
    pictures += [(path, Modality.INFRARED) for path in infrared or []]
    if root is not None:
        pictures += choose_pairs(open_dataset(data, root), people, seed)
    draw_swap(bundle, pictures, out)
    console.print(f"grid: {escape(str(out))}", soft_wrap=True)


@plots_app.command("attention")
def plots_attention(
    bundle: Annotated[Path, typer.Argument(help="bundle of a method with attention maps, such as cmtr")],
    images: Annotated[list[Path], typer.Argument(help="image files or folders")],
    out: Annotated[Path, typer.Option("--out", help="PNG file")],
    modality: Annotated[str, typer.Option(help="visible or infrared")] = "infrared",
) -> None:
    """Draw where a method looks in images of one modality.

    Example: `vireid plots attention last.safetensors night/ --modality infrared --out attention.png`
    """
    from vireid.attention import draw_attention

    console.print(f"{draw_attention(bundle, images, modality, out)} images in {escape(str(out))}", soft_wrap=True)
