"""`vireid import`: parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from vireid.cli_options import console

import_app = typer.Typer(help="Turn checkpoints of other code bases into bundles.", no_args_is_help=True)


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
