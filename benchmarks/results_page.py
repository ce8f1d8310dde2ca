"""docs/results.md, its figure, the READMEs' and the shipped model's tables, of benchmarks/results and nothing else."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console

from ladder import HERE, PROTOCOLS, RESULTS, definition, refined
from vireid.files import write_text

ROOT = HERE.parent
COST = RESULTS / "cost.json"
LADDERS = tuple(sorted(path.stem for path in (HERE / "ladders").glob("*.yaml")))
SPECTRA = ("nir", "lwir")
METRICS = {"rank1": "rank-1", "mAP": "mAP", "mINP": "mINP"}
HEADER = ("seeds", "IR→VIS rank-1", "mAP", "mINP", "VIS→IR rank-1", "mAP", "mINP", "VIS→VIS rank-1")
PAPER = "paper: SYSU-MM01 all-search, RegDB visible to thermal, rank-1 / mAP"
COSTS = {"train_ms": "training step, ms an image", "embed_ms": "embedding, ms an image"}
MARKS = re.compile(r"(<!-- results -->\n).*?(<!-- /results -->)", re.DOTALL)
READMES = {"README.md": ("method", "seeds"), "README.zh-CN.md": ("方法", "种子数")}
SHIPPED = ", started from vireid-lite0"
LEADER = {"arrowstyle": "-", "lw": 0.4, "color": "grey"}
Entries = list[dict[str, Any]]


class Line(NamedTuple):
    """A line of the comparison: a ladder's rung."""

    ladder: str
    rung: str

    @property
    def title(self) -> str:
        """Its name in a table."""
        return TITLES.get(self, definition(self.ladder)["title"])

    @property
    def whole(self) -> bool:
        """Whether it is the ladder's whole method."""
        return bool(self.rung == definition(self.ladder)["whole"])


ISOLATED = "NFormer, isolated queries (not transductive)"
TITLES = {
    Line("agw", "baseline (two-stream, ID + batch-hard triplet)"): "two-stream baseline",
    Line("agw", "AGW, started from vireid-lite0"): "AGW, started from vireid-lite0",
    Line("vireid_best", "+ MAUM's memories, started from vireid-lite0"): "vireid_best, started from vireid-lite0",
    Line("nformer", ISOLATED): "NFormer over MAUM, each query by itself",
    Line("vireid_best_refined", ISOLATED): "vireid_best refined, each query by itself",
}


def contenders(ladders: list[str] | tuple[str, ...]) -> list[Line]:
    """Return the lines of the comparison that belong to some ladders."""
    wholes = (Line(name, definition(name)["whole"]) for name in ladders)
    return [*wholes, *(line for line in TITLES if line.ladder in ladders)]


def write() -> None:
    """Write docs/results.md, its figure, and the tables of both READMEs and of the shipped model's page."""
    entries = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.*.*.*.json"))]
    costs = json.loads(COST.read_text()) if COST.exists() else {}
    page = [INTRODUCTION, *(side_by_side(spectrum, entries, costs) for spectrum in SPECTRA), notes(costs)]
    page += [section(ladder, entries) for ladder in LADDERS]
    write_text(ROOT / "docs" / "results.md", "\n".join(part for part in page if part))
    figure(ranked("nir", entries), costs).savefig(ROOT / "docs" / "images" / "results.png", dpi=120)
    tables = {name: readme_table(entries, headings) for name, headings in READMES.items()}
    for name, table in {**tables, "docs/shipped-model.md": starts(entries)}.items():
        text = (ROOT / name).read_text(encoding="utf-8")
        write_text(ROOT / name, MARKS.sub(lambda found, table=table: f"{found[1]}{table}\n{found[2]}", text))
    Console().print(f"{len(entries)} results in docs/results.md, docs/images/results.png and the tables elsewhere")


INTRODUCTION = """# Results on synthetic data

Everything on this page is measured on **synthetic** people (`vireid synth`), not on people. It shows what a part does
on this data, at this size of training; it is no prediction for SYSU-MM01 or RegDB. Each figure is the mean ± sample
standard deviation over seeds, in percent, of the last checkpoint on test identities never seen in training: no flip
unless the recipe says so, no re-ranking or refinement unless the line says so, no checkpoint selected on the test set.
Parts and options of the synthetic recipes (`vireid_best`, MSCLNet's epsilon, NFormer's start, who trains the
classifiers) were chosen in view of these same figures, which flatter the recipes to that extent. Written by
`python benchmarks/compare.py write` from the files in `benchmarks/results`, which `compare.py run` and `ladder.py`
make. A line of one seed has no spread: differences of a few points between such lines mean nothing. An equal seed gives
equal figures on one machine only: trainings repeated on another moved by up to 2.7 points of rank-1 and 2.5 of mAP.
The renderer's last bits differ between kinds of processors, too: `a525ff91` and `d4a790c8` after "pixels" are two of
them, and `15a4c44d` is version 1 of the renderer, whose visible and near-infrared images are the same.
The encoders of NFormer's seeds 1 and 2 are such repetitions, so that its "encoder alone" is not MAUM's line.
VIS→VIS is empty for refined or re-ranked lines measured where each of these pictures, query and gallery image at once,
had its own copy for its nearest neighbour.
A `+` after a commit: with changes not yet committed. A rung that is the same training as another ladder's, to the bit,
is trained once and stands in both.

**How the classifiers are trained matters more than most parts.** With 2,000 identities and 16 of them in a batch, a row
of an identity classifier has a gradient of its own once in 125 steps; Adam makes full steps of the noise in between.
The synthetic recipes, Hi-CMD's and NFormer's apart, train classifiers and SPOT's keys and queries by SGD, as the papers
do, and everything else by AdamW. Rungs "by AdamW" show the other way.

![Accuracy of each method, and accuracy against the cost of training and of an embedding](images/results.png)
"""


def side_by_side(spectrum: str, entries: Entries, costs: dict[str, Any]) -> str:
    """The whole of every method, best mAP from infrared to visible first, beside its paper's figures and its cost."""
    found = ranked(spectrum, entries)
    if not found:
        return ""
    lines = [f"\n## Side by side, {spectrum.upper()}\n", *head("method", *HEADER, PAPER, *COSTS.values())]
    for line, runs in found.items():
        reported = ", ".join(str(figures) for figures in definition(line.ladder).get("paper", {}).values())
        spent = [str(costs.get(line.ladder, {}).get(key, "")) for key in COSTS]
        lines.append(cells(line.title, *scores(runs), *([reported, *spent] if line.whole else ["", "", ""])))
    return "\n".join([*lines, ""])


def notes(costs: dict[str, Any]) -> str:
    """What the tables side by side leave out."""
    made = {"cpu": "", "threads": "", "commit": "", **costs}
    return f"""The papers' figures are the papers' own, on real data, with ResNet-50 or ViT-B/16; those with † are as
later papers quote them, not confirmed. NFormer's paper has no visible-infrared data, CM-LSP-GE's tables could not be
read. `vireid train METHOD --data sysu_mm01 --root DIR`, and then
`vireid evaluate runs/sysu_mm01-METHOD-0 --protocol sysu-all --protocol sysu-indoor`, is meant to reproduce a method on
the real data; none has been run there yet. CAJ's row wants `--flip` in the evaluation, MAUM's `--set
options.variant=part` in training, SPOT `vireid pose` before it, NFormer `--set encoder=RUN`, and RegDB ten trainings,
one per split ([protocols](protocols.md#regdb-ten-splits-are-ten-models)). Hi-CMD's run is `runs/sysu_mm01-hicmd-777`,
by its recipe's seed, and its paper's figures are of `--protocol sysu-all-official`.

Costs are those of `python benchmarks/compare.py cost`: forward, losses and backward of a resident batch,
EfficientNet-Lite0 at 128 × 64, float32; NFormer's embedding is its encoder's and the refinement of all test images at
once, its training comes after its encoder's and has no figure. Threads: {made["threads"]}, {made["cpu"]}, commit
{made["commit"]}.
"""


def section(ladder: str, entries: Entries) -> str:
    """One ladder's tables, a table a spectrum."""
    own = definition(ladder)
    lines = [f"\n## {own['title']}, part by part\n"]
    for spectrum in SPECTRA:
        seen = [e for e in entries if e["spectrum"] == spectrum]
        runs = {rung: found for rung in own["rungs"] if (found := of(seen, Line(ladder, rung)))}
        shown = [e for found in runs.values() for e in found]
        if any(e["ladder"] == ladder for e in shown):
            lines += [f"{spectrum.upper()}, {provenance(shown)}.\n", *head("rung", *HEADER)]
            lines += [*(cells(rung, *scores(found)) for rung, found in runs.items()), ""]
    return "\n".join(lines) if lines[1:] else ""


def provenance(entries: Entries) -> str:
    """What some runs were trained on and for how long, when, where and of which commits."""
    told = {key: sorted({e[key] for e in entries}) for key in ("epochs", "date", "cpu", "commit")}
    pixels = ", ".join(sorted({e["data"]["content"][:8] for e in entries}))
    preset = f"{entries[0]['data'].get('preset', '')} (pixels {pixels})"
    days = " to ".join(dict.fromkeys((told["date"][0], told["date"][-1])))
    epochs = " or ".join(str(count) for count in told["epochs"])
    return f"{preset}, {epochs} epochs, {days}, {', '.join(told['cpu'])}; commits {', '.join(told['commit'])}"


def readme_table(entries: Entries, headings: tuple[str, str]) -> str:
    """Near and thermal infrared in one short table."""
    columns = [(spectrum, metric) for spectrum in SPECTRA for metric in ("rank1", "mAP")]
    found = {spectrum: ranked(spectrum, entries) for spectrum in SPECTRA}
    lines = head(*headings, *(f"{spectrum.upper()}→VIS {METRICS[metric]}" for spectrum, metric in columns))
    for line, runs in found["nir"].items():
        other = {"nir": runs, "lwir": found["lwir"].get(line, [])}
        lines.append(cells(line.title, str(len(runs)), *(spread(values(other[s], m)) for s, m in columns)))
    return "\n".join(lines)


def starts(entries: Entries) -> str:
    """Each method from ImageNet weights and from the shipped model's, near infrared, equal seeds, best mAP first."""
    near = [e for e in entries if e["spectrum"] == "nir"]
    lines = (Line(ladder, rung) for ladder in LADDERS for rung in definition(ladder)["rungs"] if rung.endswith(SHIPPED))
    found = {line: of(near, line) for line in lines}
    table = head("method", "start", *HEADER)
    for line in best_first(found):
        own, seeds = definition(line.ladder), {e["seed"] for e in found[line]}
        rung = line.rung.removesuffix(SHIPPED)
        plain = of(near, Line(line.ladder, rung if rung in own["rungs"] else own["whole"]))
        title = own["title"].replace(SHIPPED, "")
        link = f"[{title}](methods/{own['recipe']}.md)"
        table.append(cells(link, "ImageNet", *scores([e for e in plain if e["seed"] in seeds])))
        table.append(cells("", "**vireid-lite0**", *scores(found[line])))
    return "\n".join(table)


def ranked(spectrum: str, entries: Entries) -> dict[Line, Entries]:
    """Return the runs of each line of the comparison that has any, best mAP from infrared to visible first."""
    own = [e for e in entries if e["spectrum"] == spectrum]
    return best_first({line: of(own, line) for line in contenders(LADDERS)})


def of(entries: Entries, line: Line) -> Entries:
    """Return a line's runs, which may be another ladder's."""
    own = definition(line.ladder)["rungs"][line.rung]
    measured = (own["ladder"], own["of"]) if "ladder" in own else line
    return [e for e in entries if (e["ladder"], e["rung"]) == measured]


def best_first(found: dict[Line, Entries]) -> dict[Line, Entries]:
    """Return the lines that have runs, best mAP from infrared to visible first."""
    order = sorted((line for line in found if found[line]), key=lambda line: -float(values(found[line], "mAP").mean()))
    return {line: found[line] for line in order}


def scores(runs: Entries) -> list[str]:
    """Return the cells under `HEADER`."""
    both = [spread(values(runs, metric, protocol)) for protocol in PROTOCOLS[:2] for metric in METRICS]
    within = "" if any(map(doubled, runs)) else spread(values(runs, "rank1", "intra-vis"))
    return [str(len(runs)), *both, within]


def doubled(entry: dict[str, Any]) -> bool:
    """Whether a picture of the search within the visible modality met its own copy, as query and as gallery image."""
    return not entry.get("unique_rows") and refined(definition(entry["ladder"]), entry["rung"])


def values(runs: Entries, metric: str, protocol: str = "cross-ir2vis") -> NDArray[np.float64]:
    """Return a metric of each run, in percent."""
    return 100 * np.array([e["metrics"][protocol][metric] for e in runs])


def spread(numbers: NDArray[np.float64]) -> str:
    """Mean ± sd, nothing for nothing."""
    if len(numbers) < 2:
        return "".join(f"{number:.1f}" for number in numbers)
    return f"{numbers.mean():.1f} ± {numbers.std(ddof=1):.1f}"


def head(*names: str) -> list[str]:
    """The first two lines of a Markdown table."""
    return [cells(*names), "|---" * len(names) + "|"]


def cells(*texts: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(texts)} |"


def figure(found: dict[Line, Entries], costs: dict[str, Any]) -> Figure:
    """Draw every line's metrics with error bars, and mAP against both costs."""
    drawn = Figure(figsize=(15, 4.6), layout="constrained")
    bars, *clouds = drawn.subplots(1, 3, width_ratios=(1.4, 1, 1))
    places = np.arange(len(found))
    for offset, (metric, name) in enumerate(METRICS.items()):
        numbers = [values(runs, metric) for runs in found.values()]
        errors = [own.std(ddof=1) if len(own) > 1 else 0 for own in numbers]
        bars.barh(places + 0.27 * (offset - 1), [own.mean() for own in numbers], 0.25, xerr=errors, label=name)
    bars.set_yticks(places, [line.title for line in found], fontsize=8)
    bars.invert_yaxis()
    bars.set_xlabel("near infrared → visible, %, synthetic people")
    bars.legend(fontsize=8, loc="lower right")
    for axis, (key, name) in zip(clouds, COSTS.items(), strict=True):
        lowest = np.inf
        for line, runs in found.items():  # best first: a label goes below the one before; a start changes no cost
            if line.whole and SHIPPED not in line.title and key in costs.get(line.ladder, {}):
                place = costs[line.ladder][key], values(runs, "mAP").mean()
                lowest = min(place[1], lowest - 3)
                axis.plot(*place, "o", color="C0")
                text = "   " + line.title.removesuffix(", transductive")
                axis.annotate(text, place, (place[0], lowest), fontsize=7, va="center", arrowprops=LEADER)
        axis.set_xlim(0, 1.9 * axis.dataLim.x1)
        axis.set_xlabel(name)
        axis.set_ylabel("mAP, %")
        axis.grid(alpha=0.3)
    return drawn
