"""Kill -9 a training at random, resume it, again and again; then compare its weights with an uninterrupted run's.

python benchmarks/kill_loop.py --kills 10          # every second kill hits the writing of a checkpoint
"""

import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
import yaml
from rich.console import Console
from safetensors.torch import load_file

from measure import print_header
from vireid.bundle import read_card
from vireid.cli import main as command_line
from vireid.synth import write_dataset
from vireid.training.checkpoint import latest_checkpoint, trained_epochs

RECIPE = {
    "backbone": {"weights": "none"},
    "data": {"name": "manifest", "image_size": [64, 32]},
    "sampling": {"identities": 4, "visible": 2, "infrared": 2, "steps": 3},
    "optimizers": {"main": {"kind": "adamw", "lr": 1e-3}},
    "validation": {"every": 1},
    "precision": "32",
}


def start(arguments, log):
    """Fork a child that runs `vireid train`, and return its process id; imports are done, so it starts at once."""
    child = os.fork()
    if child:
        return child
    for stream in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.argv = ["vireid", "train", *map(str, arguments)]
    try:
        command_line()
    except SystemExit as ended:
        os._exit(int(ended.code or 0))
    os._exit(0)


def finish(arguments, log):
    """Train to the end and return the seconds."""
    started = time.perf_counter()
    _, status = os.waitpid(start(arguments, log), 0)
    if status:
        sys.exit(f"a training failed:\n{log.read_text()}")
    return time.perf_counter() - started


def kill(child, run, epochs, moment):
    """Kill a child after it has made `epochs`, in `moment` seconds or, for None, while it writes a checkpoint.

    It is stopped first, so that a file that is being written is still there when it dies.
    """
    since, goal = time.perf_counter(), trained_epochs(latest_checkpoint(run)) + epochs
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        torn = [path for path in run.glob("checkpoints/.*.tmp") if f".{child}." in path.name]
        if trained_epochs(latest_checkpoint(run)) < goal:
            since = time.perf_counter()
        elif torn if moment is None else time.perf_counter() - since > moment:
            os.kill(child, signal.SIGSTOP)
            if not os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1]):
                return None
            writing = any(path.exists() for path in torn)
            hit = writing or moment is not None
            os.kill(child, signal.SIGKILL if hit else signal.SIGCONT)
            if hit:
                os.waitpid(child, 0)
                return "writing a checkpoint" if writing else "between writes"
        time.sleep(0.0005)
    return None


def check(run):
    """Read all that a killed run has left under its proper name: a torn file would not open."""
    newest = latest_checkpoint(run)
    if newest is not None:
        torch.load(newest, weights_only=True, map_location="cpu")
    for bundle in run.glob("[a-z]*.safetensors"):
        read_card(bundle)
    return trained_epochs(newest)


def loop(folder, root, kills, seed):
    """Train once in peace and once with kills; print where each hit, and return whether the bundles are equal."""
    recipe, log, rng = folder / "recipe.yaml", folder / "log.txt", random.Random(seed)
    epochs = 2 * kills + 2
    recipe.write_text(yaml.safe_dump({**RECIPE, "epochs": epochs}))
    fresh = ["agw", "--data", "manifest", "--root", root, "--recipe", recipe, "--out"]
    seconds = finish([*fresh, folder / "whole"], log)
    run = folder / "killed"
    for number in range(1, kills + 1):
        arguments = ["--resume", run] if (run / "recipe.yaml").exists() else [*fresh, run]
        moment = None if number % 2 == 0 else rng.uniform(0, 2 * seconds / epochs)
        where = kill(start(arguments, log), run, rng.randint(0, 1), moment)
        if where is None:
            print(f"kill {number}: came too late, the run was over")
            break
        print(f"kill {number}: {where}, {check(run)} epochs safe", flush=True)
    finish(["--resume", run], log)
    whole, killed = (load_file(path / "last.safetensors") for path in (folder / "whole", run))
    same_bytes = (folder / "whole/last.safetensors").read_bytes() == (run / "last.safetensors").read_bytes()
    left = [path.name for path in run.rglob(".*.tmp")]
    equal = whole.keys() == killed.keys() and all(torch.equal(whole[name], killed[name]) for name in whole)
    print(f"weights equal: {equal}, bundles equal byte by byte: {same_bytes}, torn files left: {left or 'none'}")
    return equal and same_bytes and not left


def main(
    kills: Annotated[int, typer.Option(help="how often")] = 10,
    seed: Annotated[int, typer.Option(help="of the moments")] = 0,
    root: Annotated[Path | None, typer.Option(help="manifest to train on; default: eight synthetic people")] = None,
) -> None:
    """Print every kill, and whether the two runs end alike; exit code 1 if not."""
    print_header()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["VIREID_CACHE"] = str(folder / "cache")
        torch.set_num_threads(1)
        if root is None:
            root = folder / "data"
            write_dataset(root, preset="demo", ids=12, workers=1, console=Console(quiet=True))
        sys.exit(0 if loop(folder, root, kills, seed) else 1)


if __name__ == "__main__":
    typer.run(main)
