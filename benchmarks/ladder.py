"""Ablation ladders on synthetic data: train every rung with every seed, and write one JSON a run.

    vireid synth --preset synthetic-v1 --out data/synthetic-v1
    python benchmarks/ladder.py agw --root data/synthetic-v1 --rung baseline --rung "AGW (all" --seed 0 --seed 1
    python benchmarks/compare.py write                              # docs/results.md from benchmarks/results/*.json

A ladder is a YAML file in benchmarks/ladders: a recipe; the ladder and rung of a refiner's encoder, which is trained
if its run is not there; which rung is the whole method; and for each rung the `--set` overrides that make it. A rung
`{of: RUNG, …}` is the training of another rung, tested otherwise: the rest are fields of `EvaluateRequest`, or
`unrefined: true` for a refiner's encoder. A rung `{of: RUNG, ladder: LADDER}` is another ladder's, since both recipes
make the same training, to the bit. A run that has its JSON in --results is skipped, one that was interrupted is
resumed, one that another process is at is left to it: the script can be started again at any time, and several times
side by side.
"""

from __future__ import annotations

import datetime
import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
import yaml

from vireid import training
from vireid.environment import cpu_model, git_commit
from vireid.evaluation.command import EvaluateRequest, open_model
from vireid.files import write_text
from vireid.recipe import load_recipe, packaged_recipe

HERE = Path(__file__).parent
PROTOCOLS = ("cross-ir2vis", "cross-vis2ir", "intra-vis")


RESULTS = HERE / "results"
Results = Annotated[Path, typer.Option(help="folder of the JSON files, one per run; the default is what is published")]


def main(
    ladder: str,
    root: Annotated[Path, typer.Option(help="folder made by vireid synth")],
    spectrum: Annotated[str, typer.Option(help="nir or lwir")] = "nir",
    rung: Annotated[list[str] | None, typer.Option(help="a rung, or the start of several names")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="default: 0, 1, 2")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="for every rung, with --results of their own, such as epochs=4")
    ] = None,
    work: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs/ladders"),
    results: Results = RESULTS,
    keep: Annotated[bool, typer.Option(help="keep the runs and their bundles")] = False,
) -> None:
    """Train and evaluate the rungs of one ladder."""
    for number in seed or [0, 1, 2]:
        for origin in asked(ladder, rung or [""]):
            Run(*origin, spectrum, number).finish(root, override or [], work, results, keep)


def asked(ladder: str, starts: list[str]) -> list[tuple[str, str]]:
    """Return the trainings of the rungs that are named; a start that is a whole name means that rung alone."""
    rungs = definition(ladder)["rungs"]
    named = ([start] if start in rungs else [name for name in rungs if name.startswith(start)] for start in starts)
    return list(dict.fromkeys(trained(ladder, name) for names in named for name in names))


def definition(ladder: str) -> dict[str, Any]:
    """Read a ladder."""
    return yaml.safe_load((HERE / "ladders" / f"{ladder}.yaml").read_text())


class Run(NamedTuple):
    """One training, and the results that it gives."""

    ladder: str
    rung: str
    spectrum: str
    seed: int

    def finish(self, root: Path, overrides: list[str], work: Path, results: Path, keep: bool) -> None:
        """Train, evaluate and write what is not there yet, unless another process is at it or at its encoder."""
        if overrides and results.resolve() == RESULTS.resolve():
            raise typer.BadParameter("--set makes other trainings than the rungs': name another --results and --work")
        tests = test_rungs(definition(self.ladder), self.rung)
        files = {key: results / f"{self._replace(rung=key).name}.json" for key in tests}
        with claimed(work / f"{self.name}.lock") as free:
            if not free or all(file.exists() for file in files.values()):
                return
            encoder = self.encoder()
            if encoder is not None:
                with claimed(work / f"{encoder.name}.lock") as free:
                    if not free:
                        return
                    overrides = [f"encoder={encoder.train(root, [], work)}", *overrides]
            folder = self.train(root, overrides, work)
            entry = {"ladder": self.ladder, "spectrum": self.spectrum, "seed": self.seed}
            for key, more in tests.items():
                write_text(files[key], json.dumps({**entry, "rung": key, **score(folder, more)}, indent=1) + "\n")
            if not keep:
                shutil.rmtree(folder)

    def train(self, root: Path, overrides: list[str], work: Path) -> Path:
        """Train, or resume what was interrupted; return the run's folder."""
        folder, ladder = work / self.name, definition(self.ladder)
        fixed = [f"data.options.spectrum={self.spectrum}", f"seed={self.seed}", "validation.every=0"]
        changed = [*fixed, *trainings(ladder)[self.rung], *overrides]
        recipe = load_recipe(packaged_recipe(ladder["recipe"], "synthetic"), changed, root=root.resolve())
        begun = folder / "recipe.yaml"
        if not begun.exists():
            training.train(recipe, folder)
        elif load_recipe(begun) == recipe:
            training.resume(folder)
        else:
            raise typer.BadParameter(
                f"{folder} holds another training than this rung's: remove it, or name another --work"
            )
        return folder

    def encoder(self) -> Run | None:
        """Return the run that a refiner's features are of, a rung of another ladder."""
        origin = definition(self.ladder).get("encoder")
        return None if origin is None else Run(*trained(*origin), self.spectrum, self.seed)

    @property
    def name(self) -> str:
        """What its folder and its JSON are called."""
        slug = "".join(c if c.isalnum() else "-" for c in self.rung).strip("-").lower()
        return f"{self.ladder}.{slug}.{self.spectrum}.{self.seed}"


@contextmanager
def claimed(file: Path) -> Iterator[bool]:
    """Hold a lock while the block runs, without waiting; yield whether it was free. It goes when the process goes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def trainings(ladder: dict[str, Any]) -> dict[str, list[str]]:
    """Return the overrides of the rungs that are trained."""
    return {name: rung for name, rung in ladder["rungs"].items() if isinstance(rung, list)}


def trained(ladder: str, rung: str) -> tuple[str, str]:
    """Return the ladder and the rung whose training gives this one's result."""
    own = definition(ladder)["rungs"][rung]
    return (ladder, rung) if isinstance(own, list) else trained(own.get("ladder", ladder), own["of"])


def test_rungs(ladder: dict[str, Any], training: str) -> dict[str, dict[str, Any]]:
    """Return the rungs of a ladder that one training gives, itself first, with what is different at test time."""
    tested = {name: dict(rung) for name, rung in ladder["rungs"].items() if isinstance(rung, dict)}
    own = {name: rung for name, rung in tested.items() if "ladder" not in rung and rung.pop("of") == training}
    return {training: {}, **own}


def refined(ladder: dict[str, Any], rung: str) -> bool:
    """Whether a rung's features are refined, or its lists re-ranked."""
    tested = ladder["rungs"][rung] if isinstance(ladder["rungs"][rung], dict) else {}
    return "rerank" in tested or ("encoder" in ladder and not tested.get("unrefined"))


def score(folder: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """Evaluate a run's last bundle on the test identities, in both directions and within the visible modality."""
    recipe = load_recipe(folder / "recipe.yaml")
    asked = {"flip": recipe.validation.flip, **changes}
    model = recipe.encoder if asked.pop("unrefined", False) else folder
    options = tuple(f"{key}={value}" for key, value in recipe.data.options.items())
    data = {"data": recipe.data.name, "root": recipe.data.root, "options": options}
    request = EvaluateRequest(protocols=PROTOCOLS, **data, **asked)
    _, table, protocols = open_model(request, model, None)
    metrics = {
        p.name: table.evaluate(p, feature=request.feature, rerank=request.rerank).summary.mean() for p in protocols
    }
    return {
        "metrics": metrics,
        "unique_rows": not {"mode=isolated", "mode=local"} & set(request.refine_set),  # no query meets its own copy
        "data": json.loads((table.records.root / "synthetic.json").read_text()),
        "epochs": recipe.epochs,
        "commit": git_commit(),
        "cpu": cpu_model(),
        "date": str(datetime.date.today()),
    }


if __name__ == "__main__":
    typer.run(main)
