"""Assemble the page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from vireid import __version__, plots
from vireid.data.images import Progress
from vireid.evaluation.tables import COLUMNS
from vireid.files import require_file_place, write_text
from vireid.recipe import save_recipe
from vireid.report import sections
from vireid.report.results import Checkpoint, Run, read_run


def write_report(run: Path, target: Path, progress: Progress | None = None) -> None:
    """Write a run's report: one HTML file that needs nothing else.

    Args:
        run: folder of a finished training run.
        target: the HTML file to write.
        progress: called with (images embedded, images in all).

    Raises:
        InputError: when the folder holds no finished run, or its data set is not where the recipe says, or for
            a target that is no place for a file.
    """
    require_file_place(target)
    write_text(target, render_page(read_run(run, progress)))


def render_page(run: Run) -> str:
    """Return the page of an evaluated run."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files("vireid.report").joinpath("page.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(_header(run) | _results(run) | _pictures(run) | _details(run))


def _header(run: Run) -> dict[str, Any]:
    recipe, last = run.recipe, run.checkpoints[0]
    trained = datetime.fromtimestamp((run.folder / "last.safetensors").stat().st_mtime, UTC)
    facts = {
        "method": recipe.method.upper(),
        "backbone": recipe.backbone.name,
        "input": "{} × {} pixels".format(*recipe.data.image_size),
        "epochs": last.card.epochs,
        "seed": recipe.seed,
        "trained": f"{trained:%Y-%m-%d}",
        "commit": last.card.commit or "unknown",
    }
    return {
        "title": f"{recipe.method.upper()} on {run.data_title}",
        "synthetic": run.synthetic,
        "summary": _summary(last),
        "training_data": last.card.training_data,
        "facts": facts,
    }


def _summary(last: Checkpoint) -> str:
    result = last.results[0]
    trial, mean = result.summary.trials[0], result.summary.mean()
    query, gallery = sections.direction(result.protocol).split(" → ")
    return (
        f"For {100 * mean['rank1']:.1f} % of {trial.num_valid_queries:,} {query} images, the most similar of "
        f"{trial.num_gallery:,} {gallery} images shows the same person."
    )


def _results(run: Run) -> dict[str, Any]:
    rows = sections.metric_rows(run)
    names = [result.protocol.name for result in sections.main_results(run.checkpoints[0]).values()]
    best = [checkpoint.card for checkpoint in run.checkpoints if checkpoint.name == "best"]
    return {
        "columns": COLUMNS,
        "rows": rows,
        "tiles": [row for row in rows if row["checkpoint"] == "last" and row["protocol"] in names],
        "best": best[0] if best else None,
    }


def _pictures(run: Run) -> dict[str, Any]:
    last, feature = run.checkpoints[0], run.recipe.validation.feature
    training = plots.to_svg(plots.training_figure(run.losses, run.scores))
    svgs = {
        "cmc": sections.cmc_svg(run),
        "distances": sections.distance_svg(last, last.results[0], feature),
        "embedding": sections.embedding_svg(last, feature),
        "training": training,
    }
    ranked = {
        words: sections.ranked_queries(last, result, feature) for words, result in sections.main_results(last).items()
    }
    return {
        "figures": {name: sections.data_uri(svg, "image/svg+xml") for name, svg in svgs.items()},
        "ranked": ranked,
    }


def _details(run: Run) -> dict[str, Any]:
    return {
        "card": run.checkpoints[0].card,
        "recipe": save_recipe(run.recipe),
        "environment": json.dumps(run.environment, indent=2, ensure_ascii=False),
        "written": f"{datetime.now(UTC):%Y-%m-%d}",
        "version": __version__,
    }
